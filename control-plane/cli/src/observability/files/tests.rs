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
        for value in
            [shipped::JOB, shipped::AGENTS_JOB, shipped::AGENTS_CA, shipped::AGENTS_CERT, shipped::AGENTS_KEY]
        {
            assert!(file.contains(value), "{value} is not in {file}");
        }
    }
    for (file, values) in [
        (BY_NAME, [shipped::TARGETS, shipped::CA, shipped::ALERTMANAGERS].as_slice()),
        (BY_INVENTORY, &[shipped::INVENTORY, shipped::INVENTORY_TOKEN, shipped::CA, shipped::ALERTMANAGERS]),
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
        assert!(!text.contains("job_name: stella-agents") && !text.contains("cert_file"), "{text}");
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
    assert!(text.contains("      host: \"loki.example.com\"\n      port: 443\n      tls: on\n"), "{text}");
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
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/observability/grafana/dashboards");
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
    let both =
        Line::try_parse_from(["stella", "render", "folder", "--tempo", "http://t", "--jaeger", "http://j"]);
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
        text.ends_with("webhook_configs:\n      - url: \"https://switch/1\"\n        send_resolved: false\n"),
        "{text}"
    );
}
