//! The shipped files, and which of their values belong to an installation.

use stella_api_types::paths;

use super::Render;

const RULES: &str = include_str!("../../../../packaging/observability/rules.yml");
const BY_NAME: &str = include_str!("../../../../packaging/observability/prometheus.yml");
const BY_INVENTORY: &str = include_str!("../../../../packaging/observability/prometheus-http.yml");
const IN_KUBERNETES: &str = include_str!("../../../../packaging/observability/prometheus-kubernetes.yml");
/// One more job for each of them, where agents are found through the control plane.
const AGENTS: &str = include_str!("../../../../packaging/observability/prometheus-agents.yml");

/// What is in the folders that Prometheus looks for more to scrape in: it wants them to be there.
const MORE_TARGETS: &str = include_str!("../../../../packaging/observability/targets/README");
const MORE_AGENTS: &str = include_str!("../../../../packaging/observability/agents/README");

const ALERTMANAGER: &str = include_str!("../../../../packaging/observability/alertmanager.yml");

const VECTOR: &str = include_str!("../../../../packaging/observability/logs/vector.toml");
const FLUENT_BIT: &str = include_str!("../../../../packaging/observability/logs/fluent-bit.yaml");

/// Jaeger, for who has no store of traces: no address of an installation is in them.
const JAEGER: [(&str, &str); 3] = [
    (
        "jaeger-kubernetes.yaml",
        include_str!("../../../../packaging/observability/traces/jaeger-kubernetes.yaml"),
    ),
    ("jaeger-host.yaml", include_str!("../../../../packaging/observability/traces/jaeger-host.yaml")),
    ("jaeger.service", include_str!("../../../../packaging/observability/traces/jaeger.service")),
];

const PROVIDER: &str =
    include_str!("../../../../packaging/observability/grafana/provisioning/dashboards/stella.yml");
const SOURCES: &str =
    include_str!("../../../../packaging/observability/grafana/provisioning/datasources/stella.yml");
/// The dashboards: they have no addresses in them.
const DASHBOARDS: [(&str, &str); 4] = [
    ("deployment", include_str!("../../../../packaging/observability/grafana/dashboards/deployment.json")),
    (
        "agent-health",
        include_str!("../../../../packaging/observability/grafana/dashboards/agent-health.json"),
    ),
    ("approval", include_str!("../../../../packaging/observability/grafana/dashboards/approval.json")),
    (
        "control-plane",
        include_str!("../../../../packaging/observability/grafana/dashboards/control-plane.json"),
    ),
];

/// The values in the files that belong to an installation. Each is there: a test looks.
mod shipped {
    pub(super) const TARGETS: &str = r#"["stella-orchestrator:9090"]"#;
    pub(super) const SERVER_NAME: &str = "server_name: stella-orchestrator";
    pub(super) const CA: &str = "      ca_file: ca.crt\n";
    pub(super) const ALERTMANAGERS: &str = r#"["localhost:9093"]"#;
    pub(super) const AGENTS_JOB: &str = "\n  # Agents that serve their own figures ";
    pub(super) const JOBS: &str = "\nscrape_configs:\n";
    pub(super) const AGENTS_URL: &str = "https://stella-orchestrator:8443/api/v1/sd/agents";
    pub(super) const AGENTS_TOKEN: &str = "credentials_file: agents-token";
    pub(super) const AGENTS_CA: &str = "ca_file: agents-ca.crt";
    pub(super) const AGENTS_CERT: &str = "cert_file: scraper.crt";
    pub(super) const AGENTS_KEY: &str = "key_file: scraper.key";
    pub(super) const INVENTORY: &str = "https://inventory.example.com/prometheus/stella";
    pub(super) const INVENTORY_TOKEN: &str = "        # Without the type, Prometheus 2.42 sends the bare token here.\n        authorization:\n          type: Bearer\n          credentials_file: inventory-token\n";
    pub(super) const JOB: &str = "  - job_name: stella-orchestrator\n";
    pub(super) const JOB_OF_RULES: &str = r#"job="stella-orchestrator""#;
    pub(super) const RUNBOOKS: &str = r#"runbook_url: "runbooks/"#;
    pub(super) const PAGE_LINK: &str = "        links:\n          - href: '{{ .CommonAnnotations.runbook_url }}'\n            text: Runbook\n";
    pub(super) const CHAT_LINK: &str = "        title_link: '{{ .CommonAnnotations.runbook_url }}'\n";
    pub(super) const PAGERDUTY_KEY_FILE: &str = "routing_key_file: /etc/prometheus/pagerduty-routing-key";
    pub(super) const SLACK_URL_FILE: &str = "api_url_file: /etc/prometheus/slack-webhook-url";
    pub(super) const SLACK_CHANNEL: &str = r##"channel: "#stella-alerts""##;
    pub(super) const PROMETHEUS: &str = "http://localhost:9090";
    pub(super) const LOKI: &str = "http://localhost:3100";
    pub(super) const LOKI_OF_FLUENT_BIT: &str = "      host: localhost\n      port: 3100\n";
    pub(super) const ELASTICSEARCH: &str = "http://localhost:9200";
    pub(super) const ELASTICSEARCH_OF_FLUENT_BIT: &str = "      host: localhost\n      port: 9200\n";
    pub(super) const TEMPO: &str = "http://localhost:3200";
    pub(super) const TEMPO_SOURCE: &str = "    type: tempo\n";
    pub(super) const TEMPO_VARIABLE: &str = r#""query": "tempo""#;
    pub(super) const WATCHDOG: &str = "  - name: stella-watchdog\n";
}

/// The files of an installation whose API has this address: names in its folder, and contents.
pub(super) fn of(render: &Render, api: &str) -> Vec<(String, String)> {
    let mut files = vec![
        ("prometheus.yml".to_owned(), prometheus(render) + &agents(render, api)),
        ("targets/README".to_owned(), MORE_TARGETS.to_owned()),
        ("agents/README".to_owned(), MORE_AGENTS.to_owned()),
        ("rules.yml".to_owned(), rules(render)),
        ("alertmanager.yml".to_owned(), alertmanager(render)),
        ("logs/vector.toml".to_owned(), vector(render)),
        ("logs/fluent-bit.yaml".to_owned(), fluent_bit(render)),
        ("grafana/provisioning/dashboards/stella.yml".to_owned(), PROVIDER.to_owned()),
        ("grafana/provisioning/datasources/stella.yml".to_owned(), sources(render)),
    ];
    let dashboard =
        |(name, text): &(&str, &str)| (format!("grafana/dashboards/{name}.json"), dashboard(render, text));
    files.extend(DASHBOARDS.iter().map(dashboard));
    files.extend(JAEGER.iter().map(|(name, text)| (format!("traces/{name}"), (*text).to_owned())));
    files
}

fn sources(render: &Render) -> String {
    let text = SOURCES
        .replace(shipped::PROMETHEUS, &quoted(&render.prometheus))
        .replace(shipped::LOKI, &quoted(&render.loki));
    match &render.jaeger {
        Some(jaeger) => {
            text.replace(shipped::TEMPO_SOURCE, "    type: jaeger\n").replace(shipped::TEMPO, &quoted(jaeger))
        }
        None => text.replace(shipped::TEMPO, &quoted(&render.tempo)),
    }
}

/// A dashboard, whose links to traces are questions to what keeps them.
fn dashboard(render: &Render, text: &str) -> String {
    if render.jaeger.is_none() {
        return text.to_owned();
    }
    let text = text.replace(shipped::TEMPO_VARIABLE, r#""query": "jaeger""#);
    LINKED.iter().fold(text, |text, link| text.replace(&link.of_tempo(), &link.of_jaeger()))
}

/// What a link of a dashboard looks for among the traces: as it stands in an address, in which braces and colons may.
struct Traced {
    /// The span, by the service that it is of.
    service: &'static str,
    span: &'static str,
    /// An attribute and its value instead of the span's name.
    attribute: Option<(&'static str, &'static str)>,
}

const LINKED: [Traced; 5] = [
    Traced { service: "stella-orchestrator", span: "http.request", attribute: None },
    Traced { service: "stella-orchestrator", span: "deployment.execute", attribute: None },
    Traced { service: "stella-orchestrator", span: "approval.wait", attribute: None },
    Traced { service: "stella-agent", span: "agent.execute", attribute: None },
    Traced {
        service: "stella-orchestrator",
        span: "deployment.execute",
        attribute: Some(("deployment_id", "${__value.raw}")),
    },
];

impl Traced {
    fn of_tempo(&self) -> String {
        let (key, value) = match self.attribute {
            Some((name, value)) => (format!("span.{name}"), value),
            None => ("name".to_owned(), self.span),
        };
        format!("%22queryType%22:%22traceql%22,%22query%22:%22{{%20{key}%20%3D%20%5C%22{value}%5C%22%20}}%22")
    }

    fn of_jaeger(&self) -> String {
        let tags = self.attribute.map(|(name, value)| format!(",%22tags%22:%22{name}%3D{value}%22"));
        format!(
            "%22queryType%22:%22search%22,%22service%22:%22{}%22,%22operation%22:%22{}%22{}",
            self.service,
            self.span,
            tags.unwrap_or_default()
        )
    }
}

fn prometheus(render: &Render) -> String {
    let text = match (&render.inventory, render.kubernetes) {
        (Some(inventory), _) => {
            let token = render.inventory_token_file.as_ref().map_or_else(String::new, |file| {
                shipped::INVENTORY_TOKEN.replace("inventory-token", &quoted(file))
            });
            BY_INVENTORY
                .replace(shipped::INVENTORY, &quoted(inventory))
                .replace(shipped::INVENTORY_TOKEN, &token)
        }
        (None, true) => IN_KUBERNETES.replace(shipped::SERVER_NAME, &server_name(render)),
        (None, false) => BY_NAME.replace(shipped::TARGETS, &list(&render.targets)),
    };
    let mut tls = shipped::CA.to_owned();
    for (key, file) in [("cert_file", &render.client_cert), ("key_file", &render.client_key)] {
        if let Some(file) = file {
            tls.push_str(&format!("      {key}: {}\n", quoted(file)));
        }
    }
    let text = text
        .replace(shipped::JOB, &format!("  - job_name: {}\n", quoted(&render.job)))
        .replace(shipped::CA, &tls)
        .replace(shipped::ALERTMANAGERS, &list(&render.alertmanagers));
    match text.split_once(shipped::AGENTS_JOB) {
        Some((before, job)) if render.agents => {
            format!("{before}{}{}", shipped::AGENTS_JOB, with_agents_tls(render, job))
        }
        Some((before, _)) => before.to_owned(),
        None => text,
    }
}

/// A job that scrapes agents, with the files of an installation.
fn with_agents_tls(render: &Render, job: &str) -> String {
    job.replace(shipped::AGENTS_CA, &format!("ca_file: {}", quoted(&render.agents_ca)))
        .replace(shipped::AGENTS_CERT, &format!("cert_file: {}", quoted(&render.agents_cert)))
        .replace(shipped::AGENTS_KEY, &format!("key_file: {}", quoted(&render.agents_key)))
}

/// The job that finds agents through the control plane; nothing if they are not to be found.
fn agents(render: &Render, api: &str) -> String {
    let Some(token) = &render.agents_token_file else { return String::new() };
    let (_, job) = AGENTS.split_once(shipped::JOBS).unwrap_or_default();
    let job = job
        .replace(shipped::AGENTS_URL, &quoted(&format!("{}{}", api.trim_end_matches('/'), paths::SD_AGENTS)))
        .replace(shipped::AGENTS_TOKEN, &format!("credentials_file: {}", quoted(token)));
    format!("\n{}", with_agents_tls(render, &job))
}

/// What the certificate of the control planes is for: the host of the first.
fn server_name(render: &Render) -> String {
    let host = render.targets.first().and_then(|target| target.rsplit_once(':')).map(|(host, _)| host);
    host.map_or_else(|| shipped::SERVER_NAME.to_owned(), |host| format!("server_name: {}", quoted(host)))
}

fn rules(render: &Render) -> String {
    let rules = RULES.replace(shipped::JOB_OF_RULES, &format!("job={}", quoted(&render.job)));
    match &render.runbooks {
        Some(base) => rules.replace(shipped::RUNBOOKS, &format!("runbook_url: \"{base}/")),
        None => rules,
    }
}

fn vector(render: &Render) -> String {
    VECTOR.replace(shipped::LOKI, &render.loki).replace(shipped::ELASTICSEARCH, &render.elasticsearch)
}

fn fluent_bit(render: &Render) -> String {
    FLUENT_BIT
        .replace(shipped::LOKI_OF_FLUENT_BIT, &output_of_fluent_bit(&render.loki))
        .replace(shipped::ELASTICSEARCH_OF_FLUENT_BIT, &output_of_fluent_bit(&render.elasticsearch))
}

/// An address as Fluent Bit takes it: in parts.
fn output_of_fluent_bit(address: &str) -> String {
    let url = reqwest::Url::parse(address).expect("addresses are judged when flags are read");
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let tls = if url.scheme() == "https" { "      tls: on\n" } else { "" };
    format!("      host: {}\n      port: {port}\n{tls}", quoted(host))
}

fn alertmanager(render: &Render) -> String {
    let watchdog = render.watchdog_url.as_ref().map_or_else(String::new, |url| {
        format!("    webhook_configs:\n      - url: {}\n        send_resolved: false\n", quoted(url))
    });
    // Without pages, a link would lead nowhere.
    let mut text = ALERTMANAGER.to_owned();
    if render.runbooks.is_none() {
        text = text.replace(shipped::PAGE_LINK, "").replace(shipped::CHAT_LINK, "");
    }
    text.replace(
        shipped::PAGERDUTY_KEY_FILE,
        &format!("routing_key_file: {}", quoted(&render.pagerduty_key_file)),
    )
    .replace(shipped::SLACK_URL_FILE, &format!("api_url_file: {}", quoted(&render.slack_url_file)))
    .replace(shipped::SLACK_CHANNEL, &format!("channel: {}", quoted(&render.slack_channel)))
    .replace(shipped::WATCHDOG, &format!("{}{watchdog}", shipped::WATCHDOG))
}

/// As YAML and JSON both write a text.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
mod tests;
