//! The control plane as a process, with a state folder that outlives it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::paths;
use stella_api_types::system::Health;

use crate::api::Api;
use crate::daemon::{self, Daemon};
use crate::{binaries, openmetrics, ports, wait};

/// How long an orderly stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What a control plane is started with. Everything else is the product's default.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Below this much free space writes are refused, in bytes.
    pub reserve_bytes: u64,
    /// How often agents send a heartbeat, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Requests a minute, for a token and for a tenant.
    pub requests_per_minute: u32,
    /// A snapshot is taken after this many events.
    pub snapshot_every_events: u64,
    /// How long agents' certificates live, in seconds.
    pub certificate_lifetime_s: Option<u64>,
    /// Whose certificates a scraper has to show.
    pub metrics_client_ca: Option<PathBuf>,
    /// A level or a filter.
    pub log_level: String,
    /// Where traces go, if they do.
    pub traces_endpoint: Option<String>,
    /// More of the configuration, as it is in the file: whole tables that the ones above do not have.
    pub tables: String,
}

impl Default for Settings {
    /// Small reserve, so that a full machine does not fail tests that are not about it; rate limits out of the way.
    fn default() -> Self {
        Self {
            reserve_bytes: 1 << 20,
            heartbeat_interval_ms: 1_000,
            requests_per_minute: 1_000_000,
            snapshot_every_events: 200_000,
            certificate_lifetime_s: None,
            metrics_client_ca: None,
            log_level: "info".to_owned(),
            traces_endpoint: None,
            tables: String::new(),
        }
    }
}

/// A control plane. It is killed when this is dropped.
#[derive(Debug)]
pub struct ControlPlane {
    daemon: Daemon,
    folder: PathBuf,
    state_dir: PathBuf,
    api_port: u16,
    metrics_port: u16,
    agents_port: u16,
}

impl ControlPlane {
    /// Starts a control plane that keeps everything in `folder`, and waits until it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start(folder: &Path, settings: &Settings) -> Result<Self> {
        let mut started = Self::prepare(folder, settings)?;
        started.resume().await?;
        Ok(started)
    }

    /// Writes the configuration and starts nothing.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn prepare(folder: &Path, settings: &Settings) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let config = folder.join("orchestrator.toml");
        let daemon = Daemon::new(
            "control plane",
            binaries::path("stella-orchestrator")?,
            vec!["run".to_owned(), "--config".to_owned(), config.display().to_string()],
            folder.join("orchestrator.log"),
        );
        let prepared = Self {
            daemon,
            folder: folder.to_owned(),
            state_dir: folder.join("state"),
            api_port: ports::free()?,
            metrics_port: ports::free()?,
            agents_port: ports::free()?,
        };
        prepared.configure(settings)?;
        Ok(prepared)
    }

    /// Another host for the same ports: it has nothing yet, and is not started.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn elsewhere(&self, folder: &Path, settings: &Settings) -> Result<Self> {
        let mut other = Self::prepare(folder, settings)?;
        other.api_port = self.api_port;
        other.metrics_port = self.metrics_port;
        other.agents_port = self.agents_port;
        other.configure(settings)?;
        Ok(other)
    }

    /// The configuration's file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("orchestrator.toml")
    }

    /// Runs another command of `stella-orchestrator` with this configuration; what it printed.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub fn tool(&self, arguments: &[&str]) -> Result<String> {
        let config = self.config_file().display().to_string();
        let arguments = [arguments, &["--config", &config]].concat();
        daemon::run(&binaries::path("stella-orchestrator")?, &arguments)
    }

    /// As [`Self::tool`]; how it ended, also if it failed.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn tool_output(&self, arguments: &[&str]) -> Result<Output> {
        let mut tool = Command::new(binaries::path("stella-orchestrator")?);
        tool.args(arguments).arg("--config").arg(self.config_file());
        tool.stdin(Stdio::null()).output().context("stella-orchestrator cannot be run")
    }

    /// Writes the configuration for the next start. The ports stay.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        let mut text = String::new();
        let rate = settings.requests_per_minute;
        writeln!(text, "state_dir = {:?}", self.state_dir)?;
        writeln!(text, "[api]\nlisten = \"127.0.0.1:{}\"", self.api_port)?;
        writeln!(text, "requests_per_minute = {rate}\nburst = {rate}\ntenant_requests_per_minute = {rate}")?;
        writeln!(text, "[metrics]\nlisten = \"127.0.0.1:{}\"", self.metrics_port)?;
        if let Some(ca) = &settings.metrics_client_ca {
            writeln!(text, "client_ca = {ca:?}")?;
        }
        writeln!(
            text,
            "[agents]\nlisten = \"127.0.0.1:{0}\"\nadvertise = \"127.0.0.1:{0}\"",
            self.agents_port
        )?;
        writeln!(text, "heartbeat_interval_ms = {}", settings.heartbeat_interval_ms)?;
        if let Some(lifetime) = settings.certificate_lifetime_s {
            writeln!(text, "certificate_lifetime_s = {lifetime}")?;
        }
        writeln!(text, "[journal]\nreserve_bytes = {}", settings.reserve_bytes)?;
        writeln!(text, "snapshot_every_events = {}", settings.snapshot_every_events)?;
        writeln!(text, "[log]\nlevel = {:?}\nformat = \"json\"", settings.log_level)?;
        if let Some(endpoint) = &settings.traces_endpoint {
            writeln!(text, "[traces]\nendpoint = {endpoint:?}")?;
        }
        text.push_str(&settings.tables);
        let path = self.folder.join("orchestrator.toml");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts it again, on the state that is there, and waits until it is ready.
    ///
    /// # Errors
    /// If it ends by itself or does not become ready in time.
    pub async fn resume(&mut self) -> Result<()> {
        self.resume_within(wait::PATIENCE).await
    }

    /// As [`Self::resume`], with a patience of the caller's: a long journal takes its time.
    ///
    /// # Errors
    /// If it ends by itself or does not become ready in time.
    pub async fn resume_within(&mut self, patience: Duration) -> Result<()> {
        self.daemon.start()?;
        let mut api = None;
        wait::until_within(patience, "the control plane is ready", async || {
            if let Err(ended) = self.daemon.check() {
                // Waiting longer would not help, but the reason is in the log.
                return Err(ended.context(self.daemon.log()));
            }
            // The CA is made at the first start, so it is read here.
            let api = match &mut api {
                Some(api) => api,
                empty @ None => empty.insert(self.api()?),
            };
            let request = api.request(reqwest::Method::GET, paths::HEALTH_READY);
            let answer = api.answer(request).await?;
            anyhow::ensure!(answer.status.is_success(), "it says {}", answer.status);
            Ok(())
        })
        .await
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Asks it to end and checks that it does so in order.
    ///
    /// # Errors
    /// If it does not, or not in time.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.daemon.terminate(STOP_PATIENCE)?;
        anyhow::ensure!(status.success(), "the control plane ended with {status}");
        Ok(())
    }

    /// A client of its API, with the token of the first start.
    ///
    /// # Errors
    /// Before the first start has made CA and token.
    pub fn api(&self) -> Result<Api> {
        let read = |path: &str| {
            let path = self.state_dir.join(path);
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let token = String::from_utf8(read("admin-token")?)?;
        Api::new(self.api_port, &read("pki/root.crt")?, &token)
    }

    /// What Prometheus would scrape now.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        let ca = fs::read(self.state_dir.join("pki/root.crt"))?;
        let scraper = Api::new(self.metrics_port, &ca, "none is needed")?;
        let answer = scraper.answer(scraper.request(reqwest::Method::GET, paths::METRICS)).await?;
        String::from_utf8(answer.body.to_vec()).context("metrics are text")
    }

    /// The same in OpenMetrics, as a Prometheus of today asks for it.
    ///
    /// # Errors
    /// If it does not answer, or with something else.
    pub async fn open_metrics(&self) -> Result<String> {
        let ca = fs::read(self.state_dir.join("pki/root.crt"))?;
        let scraper = Api::new(self.metrics_port, &ca, "none is needed")?;
        let request = scraper.request(reqwest::Method::GET, paths::METRICS);
        let answer = scraper.answer(request.header("accept", openmetrics::PROMETHEUS_ACCEPTS)).await?;
        ensure!(answer.media_type == openmetrics::CONTENT_TYPE, "{}", answer.media_type);
        String::from_utf8(answer.body.to_vec()).context("metrics are text")
    }

    /// Where Prometheus scrapes it.
    #[must_use]
    pub fn metrics_address(&self) -> String {
        format!("127.0.0.1:{}", self.metrics_port)
    }

    /// How the command line `stella` reaches it.
    #[must_use]
    pub fn stella_flags(&self) -> Vec<String> {
        let file = |name: &str| self.state_dir.join(name).display().to_string();
        let url = format!("https://127.0.0.1:{}", self.api_port);
        ["--url", &url, "--token-file", &file("admin-token"), "--ca", &file("pki/root.crt")]
            .map(str::to_owned)
            .into()
    }

    /// What `/health` says, whatever its status is.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn health(&self) -> Result<Health> {
        let api = self.api()?;
        let answer = api.answer(api.request(reqwest::Method::GET, paths::HEALTH)).await?;
        serde_json::from_slice(&answer.body).with_context(|| format!("{answer:?}"))
    }

    /// Where agents connect to.
    #[must_use]
    pub fn agents_address(&self) -> String {
        format!("127.0.0.1:{}", self.agents_port)
    }

    /// The UDP port of the agents.
    #[must_use]
    pub const fn agents_port(&self) -> u16 {
        self.agents_port
    }

    /// Where its API is.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("https://localhost:{}", self.api_port)
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Moves the state to another folder; before the first start.
    pub fn set_state_dir(&mut self, state_dir: PathBuf) {
        self.state_dir = state_dir;
    }

    /// The process.
    pub const fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Its process id.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.daemon.pid()
    }

    /// Shows its log.
    pub fn show_log(&self) {
        self.daemon.show_log();
    }
}
