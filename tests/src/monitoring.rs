//! Prometheus and Alertmanager, from Debian's packages, on a rendered bundle; and somebody to be paged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::StatusCode;
use serde_json::Value;

use crate::cluster::{Cluster, TENANT};
use crate::control_plane::{ControlPlane, Settings};
use crate::daemon::{self, Daemon};
use crate::{binaries, ports, wait};

pub use pager::{Event, Pager};

mod pager;

/// A folder as `stella observability render` leaves it, and where its programs listen.
#[derive(Debug)]
pub struct Bundle {
    folder: PathBuf,
    prometheus_port: u16,
    alertmanager_port: u16,
}

impl Bundle {
    /// Renders the bundle for a control plane. Secrets are files in the same folder.
    ///
    /// # Errors
    /// What `stella` says.
    pub fn render(folder: &Path, control_plane: &ControlPlane) -> Result<Self> {
        Self::render_with(folder, control_plane, &[])
    }

    /// As [`Self::render`], with more flags.
    ///
    /// # Errors
    /// What `stella` says.
    pub fn render_with(folder: &Path, control_plane: &ControlPlane, flags: &[&str]) -> Result<Self> {
        let (prometheus_port, alertmanager_port) = (ports::free()?, ports::free()?);
        let ca = control_plane.state_dir().join("pki/root.crt").display().to_string();
        let (target, alertmanager) =
            (control_plane.metrics_address(), format!("127.0.0.1:{alertmanager_port}"));
        let file = |name: &str| folder.join(name).display().to_string();
        let (bundle, key, webhook) = (file(""), file("pagerduty-key"), file("slack-url"));
        let arguments =
            ["observability", "render", &bundle, "--ca", &ca, "--target", &target, "--alertmanager"];
        let secrets = [&alertmanager, "--pagerduty-key-file", &key, "--slack-url-file", &webhook];
        daemon::run(&binaries::path("stella")?, &[arguments.as_slice(), &secrets, flags].concat())?;
        fs::write(&key, "0123456789abcdef0123456789abcdef")?;
        Ok(Self { folder: folder.to_owned(), prometheus_port, alertmanager_port })
    }

    /// A bundle whose Prometheus gates may ask by the name `main`. It is not started yet; the control plane was started again, to know it.
    ///
    /// # Errors
    /// If it cannot be rendered, or the control plane and its agents do not come back.
    pub async fn for_gates(cluster: &mut Cluster) -> Result<Self> {
        let bundle = Self::render(&cluster.folder().join("bundle"), &cluster.control_plane)?;
        bundle.hurry()?;
        let tables = format!("[gates.prometheus.main]\nurl = {:?}\n", bundle.prometheus_url());
        cluster.control_plane.configure(&Settings { tables, ..Settings::default() })?;
        cluster.control_plane.kill()?;
        cluster.control_plane.resume().await?;
        for agent in &cluster.agents {
            cluster.wait_online(agent.name()).await?;
        }
        Ok(bundle)
    }

    /// Where Prometheus listens.
    #[must_use]
    pub fn prometheus_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.prometheus_port)
    }

    /// Changes a file's text. What is replaced has to be there.
    ///
    /// # Errors
    /// If it is not.
    pub fn replace(&self, file: &str, changes: &[(&str, &str)]) -> Result<()> {
        let path = self.folder.join(file);
        let mut text = fs::read_to_string(&path)?;
        for (from, to) in changes {
            ensure!(text.contains(from), "{from:?} is not in {file}");
            text = text.replace(from, to);
        }
        Ok(fs::write(path, text)?)
    }

    /// Has Prometheus scrape agents too, by the job that the bundle has for them with `--agents`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add_agents(&self, addresses: &[String], labels: &Value) -> Result<()> {
        let folder = self.folder.join("agents");
        fs::create_dir_all(&folder)?;
        let list = serde_json::json!([{ "targets": addresses, "labels": labels }]);
        // JSON is YAML.
        Ok(fs::write(folder.join("agents.yml"), list.to_string())?)
    }

    /// Makes everything quick: scrapes, evaluations and waits of seconds. Conditions stay as they are.
    ///
    /// # Errors
    /// If a value to be shortened is not in the files.
    pub fn hurry(&self) -> Result<()> {
        self.replace("prometheus.yml", &[("_interval: 15s", "_interval: 1s")])?;
        self.replace(
            "alertmanager.yml",
            &[("group_wait: 30s", "group_wait: 1s"), ("interval: 5m", "interval: 1s")],
        )?;
        let rules = self.folder.join("rules.yml");
        let text = fs::read_to_string(&rules)?;
        let hurried = text.lines().map(|line| {
            let indent = line.len() - line.trim_start().len();
            if line.trim_start().starts_with("for: ") {
                format!("{:indent$}for: 1s\n", "")
            } else if line.trim_start().starts_with("interval: ") {
                format!("{:indent$}interval: 1s\n", "")
            } else {
                format!("{line}\n")
            }
        });
        Ok(fs::write(rules, hurried.collect::<String>())?)
    }

    /// Sends what Alertmanager says to a pager instead of PagerDuty and Slack.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn page(&self, pager: &Pager) -> Result<()> {
        fs::write(self.folder.join("slack-url"), pager.slack_url())?;
        let global = format!("global:\n  pagerduty_url: {}\n\nroute:\n", pager.pagerduty_url());
        self.replace("alertmanager.yml", &[("route:\n", &global)])
    }

    /// Starts Prometheus and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn prometheus(&self) -> Result<Prometheus> {
        let folder = self.folder.display();
        let arguments = vec![
            format!("--config.file={folder}/prometheus.yml"),
            format!("--storage.tsdb.path={folder}/prometheus"),
            format!("--web.listen-address=127.0.0.1:{}", self.prometheus_port),
            "--enable-feature=exemplar-storage".to_owned(),
        ];
        let daemon = self.start("prometheus", "/usr/bin/prometheus", arguments)?;
        let prometheus = Prometheus { daemon, http: Http::new(self.prometheus_port)? };
        prometheus.http.wait_ready().await.with_context(|| prometheus.daemon.log())?;
        Ok(prometheus)
    }

    /// Starts Alertmanager and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn alertmanager(&self) -> Result<Alertmanager> {
        let folder = self.folder.display();
        let arguments = vec![
            format!("--config.file={folder}/alertmanager.yml"),
            format!("--storage.path={folder}/alertmanager"),
            format!("--web.listen-address=127.0.0.1:{}", self.alertmanager_port),
            "--cluster.listen-address=".to_owned(),
        ];
        let daemon = self.start("alertmanager", "/usr/bin/prometheus-alertmanager", arguments)?;
        let alertmanager = Alertmanager { daemon, http: Http::new(self.alertmanager_port)? };
        alertmanager.http.wait_ready().await.with_context(|| alertmanager.daemon.log())?;
        Ok(alertmanager)
    }

    fn start(&self, name: &str, program: &str, arguments: Vec<String>) -> Result<Daemon> {
        ensure!(Path::new(program).is_file(), "{program} is not there; run `make tools` first");
        let mut daemon =
            Daemon::new(name, program.into(), arguments, self.folder.join(format!("{name}.log")));
        daemon.start()?;
        Ok(daemon)
    }
}

/// A running Prometheus. It is killed when this is dropped.
#[derive(Debug)]
pub struct Prometheus {
    daemon: Daemon,
    http: Http,
}

impl Prometheus {
    /// Waits until it counts so many connected agents of a test's tenant.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn counts_agents(&self, agents: u32) -> Result<()> {
        wait::until(&format!("{agents} agents are counted"), async || {
            let wanted = format!("stella_agents_connected{{tenant=\"{TENANT}\"}} == {agents}");
            let series = self.query(&wanted).await?;
            ensure!(!series.is_empty(), "{series:?}");
            Ok(())
        })
        .await
    }

    /// What an expression gives now: the series of an instant vector, or of a range one.
    ///
    /// # Errors
    /// If Prometheus does not take it.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let answer = self.http.get("/api/v1/query", &[("query", expression)]).await?;
        match answer["data"]["result"].as_array() {
            Some(series) if answer["data"]["resultType"] != "scalar" => Ok(series.clone()),
            _ => bail!("{expression}: {answer}"),
        }
    }

    /// The exemplars that it has of the series that an expression asks for: those of each series, with its labels.
    ///
    /// # Errors
    /// If Prometheus does not take it.
    pub async fn exemplars(&self, expression: &str) -> Result<Vec<Value>> {
        let answer = self.http.get("/api/v1/query_exemplars", &[("query", expression)]).await?;
        answer["data"].as_array().cloned().with_context(|| format!("{expression}: {answer}"))
    }

    /// What the pages that it scraped say of a family.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn metadata(&self, family: &str) -> Result<Vec<Value>> {
        let answer = self.http.get("/api/v1/targets/metadata", &[("metric", family)]).await?;
        answer["data"].as_array().cloned().with_context(|| answer.to_string())
    }

    /// What it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// The alerts of one of its files, by name: each with its group, query, `for` in seconds (`duration`), labels, annotations and state.
    ///
    /// # Errors
    /// If it does not answer, or has no such file.
    pub async fn alerts_of(&self, file: &str) -> Result<BTreeMap<String, Value>> {
        let answer = self.http.get("/api/v1/rules", &[("type", "alert")]).await?;
        let groups = answer["data"]["groups"].as_array().context("there are no groups")?;
        let is_in_file = |group: &&Value| {
            group["file"]
                .as_str()
                .and_then(|path| Path::new(path).file_name())
                .is_some_and(|name| name == file)
        };
        let mut alerts = BTreeMap::new();
        for group in groups.iter().filter(is_in_file) {
            for rule in group["rules"].as_array().context("a group without rules")? {
                let mut rule = rule.clone();
                rule["group"] = group["name"].clone();
                alerts.insert(rule["name"].as_str().context("a rule without a name")?.to_owned(), rule);
            }
        }
        ensure!(!alerts.is_empty(), "{file} has no alerts: {answer}");
        Ok(alerts)
    }

    /// What its scrapes come to: the address, and why it failed, for each target.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn targets(&self) -> Result<Vec<Value>> {
        let answer = self.http.get("/api/v1/targets", &[("state", "active")]).await?;
        Ok(answer["data"]["activeTargets"].as_array().context("there are no targets")?.clone())
    }

    /// Shows its log.
    pub fn show_log(&self) {
        self.daemon.show_log();
    }
}

/// A running Alertmanager. It is killed when this is dropped.
#[derive(Debug)]
pub struct Alertmanager {
    daemon: Daemon,
    http: Http,
}

impl Alertmanager {
    /// Tells it of alerts, each a set of labels, as Prometheus does.
    ///
    /// # Errors
    /// If it does not take them.
    pub async fn fire(&self, labels: &[Value]) -> Result<()> {
        let alerts: Vec<_> = labels.iter().map(|labels| serde_json::json!({ "labels": labels })).collect();
        let answer = self.http.client.post(self.http.url("/api/v2/alerts")).json(&alerts).send().await?;
        ensure!(answer.status().is_success(), "{}: {}", answer.status(), answer.text().await?);
        Ok(())
    }

    /// The alerts that it has, with their status.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn alerts(&self) -> Result<Vec<Value>> {
        let answer = self.http.get("/api/v2/alerts", &[]).await?;
        Ok(answer.as_array().context("not a list")?.clone())
    }

    /// Shows its log.
    pub fn show_log(&self) {
        self.daemon.show_log();
    }
}

/// Plain HTTP on the loopback address.
#[derive(Debug)]
struct Http {
    client: reqwest::Client,
    port: u16,
}

impl Http {
    fn new(port: u16) -> Result<Self> {
        stella_certs::install_provider();
        Ok(Self { client: reqwest::Client::builder().timeout(wait::PATIENCE).build()?, port })
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        let answer = self.client.get(self.url(path)).query(query).send().await?;
        let (status, body) = (answer.status(), answer.text().await?);
        ensure!(status == StatusCode::OK, "{path} {query:?}: {status} {body}");
        serde_json::from_str(&body).with_context(|| body)
    }

    async fn wait_ready(&self) -> Result<()> {
        wait::until("it is ready", async || {
            let answer = self.client.get(self.url("/-/ready")).send().await?;
            ensure!(answer.status().is_success(), "it says {}", answer.status());
            Ok(())
        })
        .await
    }
}
