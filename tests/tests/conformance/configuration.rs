//! What the overview has as files of other programs, against the bundle: no system has to run for that.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_tests::binaries;

use super::differences::ON_PURPOSE;

/// Jaeger's file, whole.
const JAEGER: &str = "apiVersion: jaegertracing.io/v1
kind: Jaeger
metadata:
  name: stella-jaeger
spec:
  strategy: production
  collector:
    maxReplicas: 5
  storage:
    type: elasticsearch
    options:
      es:
        server-urls: https://elasticsearch:9200
    secretName: jaeger-es-secret
  ingress:
    enabled: true
";

/// The jobs of Prometheus: the file, the job, and what of it is the overview's.
const JOBS: [(&str, &str, &[&str]); 2] = [
    (
        "prometheus.yml",
        "stella-orchestrator",
        &[
            "scheme: https",
            "metrics_path: /metrics",
            "ca_file: ca.crt",
            r#"targets: ["stella-orchestrator:9090"]"#,
        ],
    ),
    (
        "prometheus-kubernetes.yml",
        "stella-agents",
        &[
            "kubernetes_sd_configs:",
            "role: pod",
            r#"label: "app.kubernetes.io/name=stella-agent""#,
            "source_labels: [__meta_kubernetes_pod_label_agent_id]",
            "target_label: agent_id",
        ],
    ),
];

/// Alertmanager's receivers, each with what the overview says of it.
const RECEIVERS: [(&str, &[&str]); 2] = [
    ("stella-critical", &["pagerduty_configs:", "severity: critical"]),
    ("stella-warning", &["slack_configs:", "channel: \"#stella-alerts\"", "send_resolved: true"]),
];

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn bundle(name: &str) -> Result<String> {
    fs::read_to_string(repository().join("packaging/observability").join(name))
        .with_context(|| name.to_owned())
}

/// The item of a list of YAML that begins with this line, up to the next one of its depth.
fn item<'t>(text: &'t str, first: &str) -> Result<&'t str> {
    let (_, rest) = text.split_once(first).with_context(|| format!("no {first:?}"))?;
    let indent = first.len() - first.trim_start().len();
    let next = format!("\n{:indent$}- ", "");
    Ok(rest.split(&next).next().unwrap_or(rest))
}

#[test]
fn jaegers_file_is_the_overviews() -> Result<()> {
    let shipped = bundle("traces/jaeger-kubernetes.yaml")?;
    let without_comments: String =
        shipped.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect();
    assert_eq!(without_comments, JAEGER);
    Ok(())
}

#[test]
fn prometheus_has_the_overviews_jobs() -> Result<()> {
    for (file, job, parts) in JOBS {
        let text = bundle(file)?;
        let of_job = item(&text, &format!("  - job_name: {job}\n"))?;
        for part in parts {
            ensure!(of_job.contains(part), "{file}: {job} has no {part}: {of_job}");
        }
    }
    Ok(())
}

#[test]
fn alertmanager_routes_as_the_overview_does() -> Result<()> {
    let text = bundle("alertmanager.yml")?;
    for (receiver, parts) in RECEIVERS {
        let of_receiver = item(&text, &format!("  - name: {receiver}\n"))?;
        for part in parts {
            ensure!(of_receiver.contains(part), "{receiver} has no {part}: {of_receiver}");
        }
    }
    ensure!(text.contains("route:\n  receiver: stella-warning\n"), "what is not critical: {text}");
    let critical = "    - matchers: ['severity = \"critical\"']\n      receiver: stella-critical\n";
    ensure!(text.contains(critical), "what is critical: {text}");
    Ok(())
}

/// `rotation`, `redact`, and the path, which is that of the packages' example.
#[test]
fn logs_are_rotated_and_redacted_as_the_overview_says() -> Result<()> {
    assert_eq!((stella_telemetry::FILE_SIZE_MAX_MB, stella_telemetry::FILES_MAX), (100, 10));
    assert_eq!(
        stella_telemetry::SECRET_KEYS,
        ["password", "token", "secret", "credentials", "authorization"]
    );
    let page = fs::read_to_string(repository().join("docs/observability.md"))?;
    ensure!(page.contains("`/var/log/stella/orchestrator.log`"), "the path is not on the page");
    Ok(())
}

/// `rateLimitConfig`, as the control plane has it when nobody says anything. Its caches are tested where they are made.
#[test]
fn rate_limits_are_the_overviews() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("orchestrator.toml");
    fs::write(&config, format!("state_dir = {:?}\n", folder.path().join("state")))?;
    let mut tool = Command::new(binaries::path("stella-orchestrator")?);
    let shown = tool.args(["config", "show", "--effective", "--config"]).arg(&config).output()?;
    let text = String::from_utf8(shown.stdout)?;
    for line in [
        "api.requests_per_minute = 1000 ",
        "api.burst = 100 ",
        "api.hook_requests_per_minute = 100 ",
        "api.tenant_requests_per_minute = 500 ",
    ] {
        ensure!(text.lines().any(|it| it.starts_with(line)), "no {line}: {text}");
    }
    Ok(())
}

/// `LOG_LEVEL || 'info'`.
#[test]
fn the_level_of_the_log_is_taken_from_the_environment() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("orchestrator.toml");
    fs::write(&config, format!("state_dir = {:?}\n", folder.path().join("state")))?;
    let level = |set: Option<&str>| -> Result<String> {
        let mut tool = Command::new(binaries::path("stella-orchestrator")?);
        tool.args(["config", "show", "--effective", "--config"]).arg(&config).env_remove("LOG_LEVEL");
        if let Some(level) = set {
            tool.env("LOG_LEVEL", level);
        }
        let shown = tool.output()?;
        let text = String::from_utf8(shown.stdout)?;
        ensure!(shown.status.success(), "{text}{}", String::from_utf8_lossy(&shown.stderr));
        let line =
            text.lines().find(|line| line.starts_with("log.level = ")).with_context(|| text.clone())?;
        Ok(line.to_owned())
    };
    for (set, wanted) in [(None, "info"), (Some("debug"), "debug"), (Some("warn"), "warn")] {
        let shown = level(set)?;
        ensure!(shown.contains(&format!("\"{wanted}\"")), "LOG_LEVEL={set:?}: {shown}");
    }
    ensure!(level(Some("debug"))?.contains("LOG_LEVEL"), "it is said where it comes from");
    Ok(())
}

/// Whoever reads the page finds there what the test lets pass.
#[test]
fn each_difference_is_on_the_page() -> Result<()> {
    let page = fs::read_to_string(repository().join("docs/spec-differences.md"))?;
    for (what, why) in ON_PURPOSE {
        // Values that every system has of its own are no differences to tell.
        if why == "its own" {
            continue;
        }
        let words = what.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names = words.filter(|word| {
            !["more", "labels", "of", "alert", "query", "log", "health", "checks", "status", "latency"]
                .contains(word)
        });
        for name in names.filter(|name| !name.is_empty()) {
            ensure!(page.contains(name), "{what}: the page has nothing about {name}");
        }
    }
    Ok(())
}
