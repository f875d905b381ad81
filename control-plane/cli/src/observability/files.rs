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
mod tests {
    use clap::Parser;

    use super::super::Observability;
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Observability,
    }

    fn render(flags: &[&str]) -> Render {
        let line = ["stella", "render", "folder"].iter().chain(flags);
        match Line::parse_from(line).command {
            Observability::Render(render) => *render,
            Observability::Agents => panic!("these are flags of render"),
        }
    }

    #[test]
    fn every_value_that_is_replaced_is_shipped() {
        for file in [BY_NAME, BY_INVENTORY, IN_KUBERNETES] {
            for value in [
                shipped::JOB,
                shipped::AGENTS_JOB,
                shipped::AGENTS_CA,
                shipped::AGENTS_CERT,
                shipped::AGENTS_KEY,
            ] {
                assert!(file.contains(value), "{value} is not in {file}");
            }
        }
        for (file, values) in [
            (BY_NAME, [shipped::TARGETS, shipped::CA, shipped::ALERTMANAGERS].as_slice()),
            (
                BY_INVENTORY,
                &[shipped::INVENTORY, shipped::INVENTORY_TOKEN, shipped::CA, shipped::ALERTMANAGERS],
            ),
            (IN_KUBERNETES, &[shipped::SERVER_NAME, shipped::CA, shipped::ALERTMANAGERS]),
            (
                AGENTS,
                &[
                    shipped::JOBS,
                    shipped::AGENTS_URL,
                    shipped::AGENTS_TOKEN,
                    shipped::AGENTS_CA,
                    shipped::AGENTS_CERT,
                    shipped::AGENTS_KEY,
                ],
            ),
            (RULES, &[shipped::RUNBOOKS, shipped::JOB_OF_RULES]),
            (SOURCES, &[shipped::PROMETHEUS, shipped::LOKI, shipped::TEMPO, shipped::TEMPO_SOURCE]),
            (VECTOR, &[shipped::LOKI, shipped::ELASTICSEARCH]),
            (FLUENT_BIT, &[shipped::LOKI_OF_FLUENT_BIT, shipped::ELASTICSEARCH_OF_FLUENT_BIT]),
            (
                ALERTMANAGER,
                &[
                    shipped::PAGERDUTY_KEY_FILE,
                    shipped::SLACK_URL_FILE,
                    shipped::SLACK_CHANNEL,
                    shipped::WATCHDOG,
                    shipped::PAGE_LINK,
                    shipped::CHAT_LINK,
                ],
            ),
        ] {
            for value in values {
                assert!(file.contains(value), "{value} is not in {file}");
            }
        }
    }

    #[test]
    fn each_value_gets_to_its_place() {
        let by_name = render(&["--target", "a:1", "--target", "b:2", "--alertmanager", "c:3"]);
        let text = prometheus(&by_name);
        assert!(
            text.contains(r#"- targets: ["a:1", "b:2"]"#) && text.contains(r#"- targets: ["c:3"]"#),
            "{text}"
        );

        let inventory = render(&["--inventory", "https://i/x", "--inventory-token-file", "t"]);
        let text = prometheus(&inventory);
        assert!(text.contains("url: \"https://i/x\"") && text.contains("credentials_file: \"t\""), "{text}");
        assert!(!prometheus(&render(&["--inventory", "https://i/x"])).contains("authorization:"));

        let mut in_kubernetes = render(&["--kubernetes"]);
        in_kubernetes.targets.push("stella.example.com:9090".to_owned());
        assert!(prometheus(&in_kubernetes).contains("server_name: \"stella.example.com\""));

        let text = prometheus(&render(&["--client-cert", "/c", "--client-key", "/k"]));
        let tls = "      ca_file: ca.crt\n      cert_file: \"/c\"\n      key_file: \"/k\"\n";
        assert!(text.contains(tls), "{text}");

        assert_eq!(agents(&by_name, "https://stella.example.com:8443"), "");
        let found = render(&[
            "--agents-token-file",
            "/t",
            "--agents-ca",
            "/a",
            "--agents-cert",
            "/c",
            "--agents-key",
            "/k",
        ]);
        let text = agents(&found, "https://stella.example.com:8443/");
        for part in [
            "- url: \"https://stella.example.com:8443/api/v1/sd/agents\"",
            "credentials_file: \"/t\"",
            "ca_file: \"/a\"",
            "cert_file: \"/c\"",
            "key_file: \"/k\"",
            "          ca_file: ca.crt\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }

        let of_theirs = render(&["--job", "monitoring/stella"]);
        assert!(prometheus(&of_theirs).contains("  - job_name: \"monitoring/stella\"\n"));
        let text = rules(&of_theirs);
        assert!(text.contains("absent(up{job=\"monitoring/stella\"})"), "{text}");
        assert!(!text.contains("job=\"stella-orchestrator\""), "{text}");

        let linked = render(&["--runbooks", "https://wiki/runbooks/"]);
        let text = rules(&linked);
        assert!(text.contains("runbook_url: \"https://wiki/runbooks/AgentOffline.html\""), "{text}");
        assert!(alertmanager(&linked).contains("runbook_url"));
        // What leads nowhere is not sent to anybody.
        let text = alertmanager(&render(&[]));
        assert!(!text.contains("runbook_url") && text.contains("details:"), "{text}");
    }

    /// Files that nobody has are asked for only where somebody wants agents to be scraped.
    #[test]
    fn agents_are_scraped_where_that_is_wanted() {
        for way in [["--target", "a:1"].as_slice(), &["--inventory", "https://i/x"], &["--kubernetes"]] {
            let text = prometheus(&render(way));
            assert!(!text.contains("job_name: stella-agents") && !text.contains("scraper"), "{text}");
            assert!(text.trim_end().lines().last().is_some_and(|last| !last.contains('#')), "{text}");
            let flags = ["--agents", "--agents-ca", "/a", "--agents-cert", "/c", "--agents-key", "/k"];
            let text = prometheus(&render(&[way, &flags].concat()));
            let (_, job) = text.split_once("  - job_name: stella-agents\n    scheme: https\n").unwrap();
            for part in ["ca_file: \"/a\"", "cert_file: \"/c\"", "key_file: \"/k\""] {
                assert!(job.contains(part), "{part} is not in {job}");
            }
        }
    }

    #[test]
    fn what_ships_logs_gets_both_addresses() {
        let render =
            render(&["--loki", "https://loki.example.com", "--elasticsearch", "http://es.example.com:9201"]);
        let text = vector(&render);
        assert!(text.contains("endpoint = \"https://loki.example.com\""), "{text}");
        assert!(text.contains("endpoints = [\"http://es.example.com:9201\"]"), "{text}");
        let text = fluent_bit(&render);
        assert!(
            text.contains("      host: \"loki.example.com\"\n      port: 443\n      tls: on\n"),
            "{text}"
        );
        assert!(text.contains("      host: \"es.example.com\"\n      port: 9201\n      logstash"), "{text}");
        // What is refused is kept: without these, it is thrown away after the second try.
        for kept in ["retry_limit: no_limits", "storage.total_limit_size: "] {
            assert_eq!(text.matches(kept).count(), 2, "{kept} for both outputs: {text}");
        }
    }

    #[test]
    fn grafana_gets_its_sources_and_all_dashboards() {
        let render = render(&["--loki", "https://logs.example.com/", "--tempo", "http://tempo:3200"]);
        let text = sources(&render);
        for url in ["http://localhost:9090", "https://logs.example.com", "http://tempo:3200"] {
            assert!(text.contains(&format!("url: \"{url}\"\n")), "{url} is not in {text}");
        }
        let shipped =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/observability/grafana/dashboards");
        let files = of(&render, "https://stella.example.com");
        for file in std::fs::read_dir(shipped).unwrap() {
            let name = format!("grafana/dashboards/{}", file.unwrap().file_name().display());
            assert!(files.iter().any(|(rendered, _)| *rendered == name), "{name} is not rendered");
        }
    }

    /// The queries of the links of a dashboard to traces, as Grafana reads them.
    fn questions(dashboard: &str) -> Vec<serde_json::Value> {
        let links = dashboard.lines().filter_map(|line| line.trim().strip_prefix(r#""url": ""#));
        let links = links.filter(|link| link.contains("${traces}"));
        let panes = links.map(|link| {
            let link = link.trim_end_matches([',', '"']);
            let url = reqwest::Url::parse("https://grafana").unwrap().join(link).unwrap();
            let panes = url.query_pairs().find(|(key, _)| key == "panes").unwrap().1.into_owned();
            serde_json::from_str::<serde_json::Value>(&panes).unwrap()
        });
        panes.map(|panes| panes["stella"]["queries"][0].clone()).collect()
    }

    #[test]
    fn links_ask_jaeger_in_its_own_language() {
        let with_jaeger = render(&["--jaeger", "http://jaeger:16686/"]);
        let text = sources(&with_jaeger);
        assert!(
            text.contains("    type: jaeger\n    access: proxy\n    url: \"http://jaeger:16686\"\n"),
            "{text}"
        );
        for (name, shipped) in DASHBOARDS {
            let text = dashboard(&with_jaeger, shipped);
            assert!(!text.contains("tempo") && !text.contains("traceql"), "{name}: {text}");
            assert!(text.contains(r#""query": "jaeger""#), "{name} has no choice of sources");
            let (there, asked) = (questions(shipped), questions(&text));
            assert!(!there.is_empty() && there.len() == asked.len(), "{name}: {asked:?}");
            for question in asked {
                assert!(question["queryType"] == "search" && question["operation"].is_string(), "{question}");
            }
            assert_eq!(dashboard(&render(&[]), shipped), shipped, "Tempo is what is shipped");
        }
        let deployment = dashboard(&with_jaeger, DASHBOARDS[0].1);
        let row = serde_json::json!({
            "refId": "A",
            "queryType": "search",
            "service": "stella-orchestrator",
            "operation": "deployment.execute",
            "tags": "deployment_id=${__value.raw}",
        });
        assert!(questions(&deployment).contains(&row), "{deployment}");
        let both = Line::try_parse_from([
            "stella", "render", "folder", "--tempo", "http://t", "--jaeger", "http://j",
        ]);
        assert!(both.is_err(), "a data source has one type");
    }

    #[test]
    fn alertmanager_gets_files_channel_and_switch() {
        let text = alertmanager(&render(&[
            "--pagerduty-key-file",
            "/p",
            "--slack-url-file",
            "/s",
            "--slack-channel",
            "#x \"y\"",
            "--watchdog-url",
            "https://switch/1",
        ]));
        for part in ["routing_key_file: \"/p\"", "api_url_file: \"/s\"", r##"channel: "#x \"y\"""##] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(
            text.ends_with(
                "webhook_configs:\n      - url: \"https://switch/1\"\n        send_resolved: false\n"
            ),
            "{text}"
        );
    }
}
