//! Configuration: one TOML file, a folder of more files beside it, environment variables above those. Parsed and checked before
//! anything starts.

mod api;
mod destinations;
mod event_bus;
mod keys;
mod notifications;
mod retention;
mod traces;
mod workflows;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use stella_certs::{Authority, CertificateDer, certificates_from_pem};
use stella_settings::{Layers, Shown};

use crate::calls::Destinations;
use crate::gates::Gates;

pub(crate) use api::Api;
pub(crate) use destinations::Destination;
pub(crate) use event_bus::EventBus;
pub(crate) use keys::KEYS;
pub(crate) use notifications::Notifications;
pub(crate) use retention::Retention;
pub(crate) use traces::Traces;
pub(crate) use workflows::Workflows;

/// The file that is read when none is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/stella/orchestrator.toml";
/// Environment variables start with this; `STELLA_ORCHESTRATOR__API__LISTEN` is `api.listen`.
const ENVIRONMENT_PREFIX: &str = "STELLA_ORCHESTRATOR__";
/// The least memory for the database's cache, in bytes: its storage engine gives up on nearly none, as it does on files that are damaged.
const CACHE_BYTES_MIN: u64 = 64 << 10;
/// The level of the log, for those who know the name from elsewhere.
const LEVEL_VARIABLE: &str = "LOG_LEVEL";

/// Everything that can be chosen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where journal, certificates, artifacts and task output are kept.
    pub(crate) state_dir: PathBuf,
    /// The HTTP API.
    pub(crate) api: Api,
    /// The Prometheus endpoint.
    pub(crate) metrics: Metrics,
    /// What agents connect to.
    pub(crate) agents: Agents,
    /// The journal.
    pub(crate) journal: Journal,
    /// How long what has ended is kept where.
    pub(crate) retention: Retention,
    /// Logging.
    pub(crate) log: Log,
    /// Where traces go.
    pub(crate) traces: Traces,
    /// Where events are published.
    pub(crate) event_bus: EventBus,
    /// Who is told when something is wrong.
    pub(crate) notifications: Notifications,
    /// Whom gates may ask.
    pub(crate) gates: Gates,
    /// What workflows may do outside.
    pub(crate) workflows: Workflows,
}

/// The Prometheus endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Metrics {
    /// Where to listen (HTTPS, `/metrics` only).
    pub(crate) listen: SocketAddr,
    /// Scrapers have to show a certificate under one of these authorities (PEM). Without it everybody may scrape.
    pub(crate) client_ca: Option<PathBuf>,
}

/// What agents connect to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Agents {
    /// Where to listen (UDP, QUIC).
    pub(crate) listen: SocketAddr,
    /// What agents are told to dial (`host:port`); shown with every enrolment token.
    pub(crate) advertise: Option<String>,
    /// How long an agent's certificate is valid, in seconds. It is renewed at two thirds of it.
    pub(crate) certificate_lifetime_s: u64,
    /// How often agents send a heartbeat, in milliseconds.
    pub(crate) heartbeat_interval_ms: u64,
}

/// The journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Journal {
    /// Memory for the database's cache, in bytes.
    pub(crate) cache_bytes: u64,
    /// Writes are refused when the disk has less than this left, in bytes.
    pub(crate) reserve_bytes: u64,
    /// A snapshot is taken after this many events.
    pub(crate) snapshot_every_events: u64,
}

/// Logging.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// A level or a filter. The environment variable `LOG_LEVEL` stands above it.
    pub(crate) level: String,
    /// `auto`, `json` or `human`.
    pub(crate) format: stella_telemetry::Format,
    /// A file for JSON lines, rotated at 100 MB, ten files in all.
    pub(crate) file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/stella-orchestrator".into(),
            api: Api::default(),
            metrics: Metrics::default(),
            agents: Agents::default(),
            journal: Journal::default(),
            retention: Retention::default(),
            log: Log::default(),
            traces: Traces::default(),
            event_bus: EventBus::default(),
            notifications: Notifications::default(),
            gates: Gates::default(),
            workflows: Workflows::default(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 9090)), client_ca: None }
    }
}

impl Metrics {
    /// The authorities of scrapers, if they have to show a certificate.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no certificate.
    pub(crate) fn client_roots(&self) -> anyhow::Result<Option<Vec<CertificateDer<'static>>>> {
        let Some(path) = &self.client_ca else { return Ok(None) };
        let wrong = || format!("metrics.client_ca {}", path.display());
        let pem = std::fs::read(path).with_context(wrong)?;
        certificates_from_pem(&pem).with_context(wrong).map(Some)
    }
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            advertise: None,
            certificate_lifetime_s: 14 * 86_400,
            heartbeat_interval_ms: stella_protocol::limits::HEARTBEAT_INTERVAL_MS,
        }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, reserve_bytes: 256 << 20, snapshot_every_events: 200_000 }
    }
}

impl Journal {
    /// How much of the disk uploads and output leave free, in bytes: what may wait must not be what keeps the journal, and with it
    /// every deployment, from going on.
    pub(crate) const fn files_reserve_bytes(&self) -> u64 {
        self.reserve_bytes.saturating_mul(4)
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: stella_telemetry::Format::Auto, file: None }
    }
}

/// A configuration with where each value came from.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// The file that was named.
    pub(crate) file: Option<PathBuf>,
    layers: Layers,
}

impl Loaded {
    /// Reads files and environment and checks what they say.
    ///
    /// # Errors
    /// Names the key that is unknown or whose value makes no sense, and where it was found.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let mut layers = Layers::new(KEYS);
        layers.add_files(file.unwrap_or_else(|| Path::new(DEFAULT_FILE)), file.is_some())?;
        // A variable that is no text is nobody's key.
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        layers.add_environment(ENVIRONMENT_PREFIX, variables)?;
        if let Ok(level) = std::env::var(LEVEL_VARIABLE) {
            layers.set("log.level", level.into(), &format!("environment {LEVEL_VARIABLE}"))?;
        }
        let config: Config = layers.read()?;
        config.check()?;
        // Whoever is called may repeat in an answer where it was called.
        let addresses = config.secret_addresses();
        stella_telemetry::hide(Path::new("addresses"), addresses.iter().map(|it| it.as_str()))
            .context("addresses")?;
        Ok(Self { config, file: file.map(Path::to_owned), layers })
    }

    /// Which files were read, for people.
    pub(crate) fn files_told(&self) -> String {
        self.layers.files_told()
    }

    /// All keys with their values, secrets masked.
    ///
    /// # Errors
    /// If a value cannot be written as JSON, which none is known for.
    pub(crate) fn effective(&self) -> anyhow::Result<Vec<Shown>> {
        let mut shown = self.layers.effective(&serde_json::to_value(&self.config)?);
        for it in shown.iter_mut().filter(|it| it.key == notifications::RECEIVERS) {
            notifications::mask(&mut it.value);
        }
        Ok(shown)
    }

    /// All keys with their values as they are: to compare them, and not to show them.
    ///
    /// # Errors
    /// If a value cannot be written as JSON, which none is known for.
    pub(crate) fn in_effect(&self) -> anyhow::Result<Vec<Shown>> {
        Ok(self.layers.in_effect(&serde_json::to_value(&self.config)?))
    }
}

impl Config {
    fn check(&self) -> anyhow::Result<()> {
        let positive = [
            ("api.requests_per_minute", u64::from(self.api.requests_per_minute)),
            ("api.burst", u64::from(self.api.burst)),
            ("api.tenant_requests_per_minute", u64::from(self.api.tenant_requests_per_minute)),
            ("api.hook_requests_per_minute", u64::from(self.api.hook_requests_per_minute)),
            ("api.artifact_bytes_max", self.api.artifact_bytes_max),
            ("journal.snapshot_every_events", self.journal.snapshot_every_events),
        ];
        for (key, value) in positive {
            anyhow::ensure!(value > 0, "{key} must be at least 1");
        }
        anyhow::ensure!(
            self.journal.cache_bytes >= CACHE_BYTES_MIN,
            "journal.cache_bytes must be at least {CACHE_BYTES_MIN}, not {}",
            self.journal.cache_bytes
        );
        stella_telemetry::LogLevel::check(&self.log.level)?;
        self.metrics.client_roots()?;
        Authority::check_names(&self.api.names).context("api.names")?;
        self.api.given()?;
        self.api.proxies()?;
        if let Some(advertise) = &self.agents.advertise {
            anyhow::ensure!(
                stella_settings::is_host_and_port(advertise),
                "agents.advertise: {advertise:?} is not host:port, such as stella.example.com:7443"
            );
        }
        self.retention.check()?;
        self.traces.check()?;
        self.event_bus.check()?;
        Destinations::parse(&self.workflows)?;
        self.notifications.check()?;
        self.gates.sources()?;
        anyhow::ensure!(
            (60..=90 * 86_400).contains(&self.agents.certificate_lifetime_s),
            "agents.certificate_lifetime_s must be between 60 and {}, not {}",
            90 * 86_400,
            self.agents.certificate_lifetime_s
        );
        anyhow::ensure!(
            (100..=60_000).contains(&self.agents.heartbeat_interval_ms),
            "agents.heartbeat_interval_ms must be between 100 and 60000, not {}",
            self.agents.heartbeat_interval_ms
        );
        Ok(())
    }

    pub(crate) fn journal_dir(&self) -> PathBuf {
        self.state_dir.join("journal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<Config> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orchestrator.toml");
        std::fs::write(&path, text).unwrap();
        Loaded::load(Some(&path)).map(|loaded| loaded.config)
    }

    #[test]
    fn a_file_overrides_defaults_and_leaves_the_rest() {
        let config = load("[api]\nlisten = \"127.0.0.1:1\"\n").unwrap();
        assert_eq!(config.api.listen.to_string(), "127.0.0.1:1");
        assert_eq!(config.api.requests_per_minute, 1_000);
    }

    #[test]
    fn bad_files_are_refused_with_the_key() {
        for (text, key) in [
            ("[api]\nlisen = \"127.0.0.1:1\"\n", "there is no key api.lisen; did you mean api.listen?"),
            ("[log]\nlevel = \"loud=yes\"\n", "log level"),
            ("[agents]\nheartbeat_interval_ms = 1\n", "agents.heartbeat_interval_ms"),
            ("[api]\nburst = 0\n", "api.burst"),
            ("[journal]\ncache_bytes = 0\n", "journal.cache_bytes must be at least 65536, not 0"),
            ("[journal]\ncache_bytes = 65535\n", "journal.cache_bytes"),
            ("[workflows]\nhttp_allowed = [\"ftp://x/\"]\n", "workflows.http_allowed"),
            ("[workflows.http.tickets]\nurl = \"https://me:pw@h/\"\n", "workflows.http.tickets.url"),
            ("[metrics]\nclient_ca = \"/nonexistent/ca.crt\"\n", "metrics.client_ca"),
            ("[api]\ncertificate = \"/dev/null\"\n", "api.certificate and api.key go together"),
            ("[api]\nnames = [\"https://x:8443\"]\n", "api.names"),
            ("[agents]\nadvertise = \"stella\"\n", "agents.advertise: \"stella\" is not host:port"),
            ("[agents]\nadvertise = \"https://x:1\"\n", "agents.advertise"),
            ("[api]\nkey = \"/dev/null\"\n", "api.certificate and api.key go together"),
            ("[api]\ncertificate = \"/dev/null\"\nkey = \"/dev/null\"\n", "api.certificate /dev/null"),
            (
                "[api]\ntrusted_proxies = [\"proxy.example.com\"]\n",
                "api.trusted_proxies: \"proxy.example.com\"",
            ),
            ("[api]\nclient_address_header = \"x-real-ip\"\n", "client_address_header"),
            ("[metrics]\nclient_ca = \"/dev/null\"\n", "metrics.client_ca"),
            ("[traces]\nendpoint = \"collector\"\n", "traces.endpoint"),
            ("[traces]\nheaders_file = \"/nonexistent/headers\"\n", "traces.headers_file"),
            ("[retention]\nmemory_interval_s = 0\n", "retention.memory_interval_s"),
            ("[retention]\noutput_days = 99999\n", "retention.output_days"),
            ("[traces]\nsample_ratio = 1.5\n", "traces.sample_ratio"),
            ("[event_bus]\nservers = [\"127.0.0.1\"]\n", "event_bus: \"127.0.0.1\" is no address"),
            ("[event_bus]\nservers = [\"tls://h\"]\nclient_key = \"k\"\n", "event_bus.client_certificate"),
            ("[event_bus]\nsource = \"\"\n", "event_bus.source"),
            (
                "[[notifications.receivers]]\nname = \"a\"\ntype = \"slack\"\nurl = \"https://h\"\n",
                "url is no key",
            ),
            (
                "[[notifications.receivers]]\nname = \"a\"\ntype = \"webhook\"\nurl = \"https://h\"\n",
                "never told",
            ),
            (
                "[[notifications.receivers]]\nname = \"a\"\ntype = \"webhook\"\nurl = \"https://h\"\nworkflow_tenants = [\"A B\"]\n",
                "workflow_tenants of notifications.receivers \"a\": \"A B\"",
            ),
            ("[[notifications.receivers]]\nname = \"a\"\ntype = \"pagerduty\"\n", "routing_key_file"),
            ("[[notifications.routes]]\nreceivers = [\"b\"]\n", "leads to \"b\""),
            ("[[notifications.routes]]\nreceivers = [\"b\"]\nkinds = [\"weather\"]\n", "weather"),
            ("[gates.prometheus.main]\nurl = \"prometheus:9090\"\n", "gates.prometheus.main.url"),
            ("[gates.http.change]\nurl = \"https://me:pw@change\"\n", "gates.http.change.url"),
            ("[gates.http.Change]\nurl = \"https://change\"\n", "gates.http.Change"),
            ("[gates.http.change]\nurl = \"https://change\"\nca = \"/dev/null\"\n", "gates.http.change.ca"),
        ] {
            let error = format!("{:#}", load(text).unwrap_err());
            assert!(error.contains(key), "{error}");
        }
        assert!(Loaded::load(Some(Path::new("/nonexistent/orchestrator.toml"))).is_err());
    }

    #[test]
    fn workflows_tell_only_whom_their_tenant_may_and_hear_of_nobody_else() {
        let receiver = |name: &str, tenants: &str| {
            format!(
                "[[notifications.receivers]]\nname = \"{name}\"\ntype = \"webhook\"\nurl = \"https://h\"\nworkflow_tenants = [{tenants}]\n"
            )
        };
        let text = receiver("all", "\"*\"")
            + &receiver("ours", "\"acme\"")
            + &receiver("closed", "")
            + "[[notifications.routes]]\nreceivers = [\"closed\"]\n";
        let told = load(&text).unwrap().notifications;
        for (tenant, receiver) in [("acme", "all"), ("acme", "ours"), ("other", "all")] {
            told.may_notify(tenant, receiver).unwrap();
        }
        for (tenant, receiver) in [("other", "ours"), ("acme", "closed"), ("acme", "nobody"), ("*", "ours")] {
            let refused = told.may_notify(tenant, receiver).unwrap_err();
            assert!(
                refused.contains("workflow_tenants of a receiver of that name in notifications.receivers"),
                "{refused}"
            );
            assert!(tenant == "acme" || !refused.contains("may tell all, ours"), "{refused}");
        }
        assert_eq!(told.for_workflows().unwrap().keys().collect::<Vec<_>>(), ["all", "ours"]);
        assert!(
            Config::default().notifications.may_notify("acme", "all").unwrap_err().contains("there is none")
        );
    }

    /// Looked at by everybody who helps, pasted into tickets.
    #[test]
    fn what_lets_in_by_an_address_is_not_shown_and_still_compared() {
        let text = |key: &str| {
            format!(
                "[traces]\nendpoint = \"https://otel.example/v1/traces?api_key={key}\"\n\
                 [workflows]\nhttp_allowed = [\"https://hooks.example/deploys/{key}/\"]\n\
                 [gates.http.change]\nurl = \"https://change.example/state?token={key}&for=stella#{key}\"\n\
                 [[notifications.receivers]]\nname = \"a\"\ntype = \"webhook\"\nurl = \"https://chat.example/T0/{key}\"\n\
                 [[notifications.routes]]\nreceivers = [\"a\"]\n"
            )
        };
        let loaded = |key: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("orchestrator.toml");
            std::fs::write(&path, text(key)).unwrap();
            Loaded::load(Some(&path)).unwrap()
        };
        let key = "k1-5678901234567";
        let shown = serde_json::to_string(&loaded(key).effective().unwrap()).unwrap();
        assert!(!shown.contains(key), "{shown}");
        for is_shown in [
            "https://otel.example/v1/traces?api_key=***",
            "https://hooks.example/deploys/***/",
            "https://change.example/state?token=***&for=***#***",
            "https://chat.example/***",
        ] {
            assert!(shown.contains(&format!("\"{is_shown}\"")), "{is_shown}: {shown}");
        }
        // In a query and with a receiver also what is short.
        let shown = serde_json::to_string(&loaded("k1").effective().unwrap()).unwrap();
        assert_eq!(shown.matches("k1").count(), 1, "a word in a path: {shown}");
        // A reload sees another secret for what it is.
        let (one, other) = (loaded(key).in_effect().unwrap(), loaded("k2").in_effect().unwrap());
        let changed = one.iter().zip(&other).filter(|(a, b)| a.value != b.value);
        assert_eq!(
            changed.map(|(it, _)| it.key.as_str()).collect::<Vec<_>>(),
            ["traces.endpoint", "gates.http.change.url", "workflows.http_allowed", "notifications.receivers"]
        );
    }

    #[test]
    fn every_key_of_the_configuration_is_in_the_table_with_its_default() {
        let defaults = serde_json::to_value(Config::default()).unwrap();
        let leaves = stella_settings::leaves(&defaults);
        let closed = KEYS.iter().filter(|key| !key.name.ends_with(".*"));
        let mut named: Vec<&str> = closed.map(|key| key.name).collect();
        let mut known: Vec<&str> = leaves.iter().map(|(name, _)| name.as_str()).collect();
        for (name, value) in &leaves {
            let key = KEYS
                .iter()
                .find(|key| key.name == name)
                .unwrap_or_else(|| panic!("{name} is not in the table"));
            let told = key.default.trim_matches('`');
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let shown = if value.is_null() { "none".to_owned() } else { shown };
            assert_eq!(told, shown, "{name}");
        }
        named.sort_unstable();
        known.sort_unstable();
        assert_eq!(named, known, "a key of the table that the configuration does not have");
    }

    #[test]
    fn the_reference_page_has_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let wanted = stella_settings::with_reference(&page, "stella-orchestrator", KEYS).unwrap();
        if std::env::var_os("STELLA_UPDATE_DOCS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        assert!(page == wanted, "run the test again with STELLA_UPDATE_DOCS=1 and look at what has changed");
    }
}
