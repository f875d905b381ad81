//! `stella observability`: the shipped configuration of Prometheus, Alertmanager and Grafana with an installation's addresses, and what
//! Prometheus finds.
//!
//! The files are texts with example values that work as they are; rendering replaces those values. Why not templates: what is
//! shipped is what the tools check and people read.

use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;
use stella_api_types::discovery::TargetGroup;
use stella_api_types::paths;

use crate::args::Output;
use crate::client::{Error, read};
use crate::print;
use crate::settings::Settings;

mod files;

/// Where the control plane serves metrics by default.
const METRICS_PORT: u16 = 9090;

const EXAMPLES: &str = "Examples:
  stella observability render ./stella --target stella.example.com:9090
  stella observability render ./stella --ca root.crt --slack-channel '#releases' --runbooks https://wiki.example.com/stella/runbooks
  stella observability render ./stella --inventory https://inventory.example.com/stella --inventory-token-file inventory-token
  stella observability render ./stella --jaeger http://jaeger.example.com:16686
  stella observability render ./stella --agents --agents-ca agents-ca.crt
  stella observability render ./stella --agents-token-file agents-token

Then, on the host of Prometheus:
  cp -r ./stella/*.yml ./stella/ca.crt ./stella/targets ./stella/agents /etc/prometheus/ && promtool check config /etc/prometheus/prometheus.yml
and on the host of Grafana:
  mkdir -p /var/lib/grafana/dashboards && cp -r ./stella/grafana/dashboards /var/lib/grafana/dashboards/stella
  cp -r ./stella/grafana/provisioning/. /etc/grafana/provisioning/";

const AGENTS_EXAMPLES: &str = "Examples:
  stella observability agents
  stella observability agents --output json    # as Prometheus gets it

An agent is listed if `metrics.listen` in its agent.toml is not loopback, or `metrics.advertise` is given.";

/// What to do with the configuration for monitoring.
#[derive(Debug, Subcommand)]
pub(crate) enum Observability {
    /// Write the configuration for Prometheus, Alertmanager and Grafana, with your addresses, into a folder.
    #[command(after_help = EXAMPLES)]
    Render(Box<Render>),
    /// List the agents that Prometheus finds through the control plane: those that serve their own figures to other hosts.
    #[command(after_help = AGENTS_EXAMPLES)]
    Agents,
}

/// The addresses and names of an installation.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("agents_scraped").args(["agents", "agents_token_file"]).multiple(true))]
pub(crate) struct Render {
    /// The folder; it is made if it is not there.
    folder: PathBuf,
    /// A control plane's metrics, as HOST:PORT (can be given more than once); port 9090 of the host of --url if not given.
    #[arg(long = "target", value_name = "HOST:PORT", value_parser = address)]
    targets: Vec<String>,
    /// Find control planes through an inventory that speaks Prometheus' HTTP discovery.
    #[arg(long, value_name = "URL", value_parser = web_address, conflicts_with_all = ["targets", "kubernetes"])]
    inventory: Option<String>,
    /// The file with the inventory's token, as Prometheus finds it.
    #[arg(long, value_name = "FILE", requires = "inventory", value_parser = text)]
    inventory_token_file: Option<String>,
    /// Find control planes in Kubernetes.
    #[arg(long, conflicts_with = "targets")]
    kubernetes: bool,
    /// What Prometheus calls the job that scrapes the control planes, for rules and configuration: the name of your own job, or of the
    /// service that a ServiceMonitor selects.
    #[arg(long, value_name = "NAME", value_parser = job_name, default_value = "stella-orchestrator")]
    job: String,
    /// The certificate that the control planes ask of scrapers (`metrics.client_ca`), as Prometheus finds it.
    #[arg(long, value_name = "FILE", requires = "client_key", value_parser = text)]
    client_cert: Option<String>,
    /// Its key, as Prometheus finds it.
    #[arg(long, value_name = "FILE", requires = "client_cert", value_parser = text)]
    client_key: Option<String>,
    /// Scrape agents that serve their own figures: those named in the files agents/*.yml, in Kubernetes those that are found.
    #[arg(long)]
    agents: bool,
    /// Find agents that serve their own figures through the control plane: the file with a token of the API of the role viewer, as
    /// Prometheus finds it.
    #[arg(long, value_name = "FILE", value_parser = text)]
    agents_token_file: Option<String>,
    /// Under whose authority the certificates of these agents' listeners are, as Prometheus finds it.
    #[arg(long, value_name = "FILE", requires = "agents_scraped", value_parser = text, default_value = "agents-ca.crt")]
    agents_ca: String,
    /// The certificate that these agents ask of scrapers, as Prometheus finds it.
    #[arg(long, value_name = "FILE", requires = "agents_scraped", value_parser = text, default_value = "scraper.crt")]
    agents_cert: String,
    /// Its key, as Prometheus finds it.
    #[arg(long, value_name = "FILE", requires = "agents_scraped", value_parser = text, default_value = "scraper.key")]
    agents_key: String,
    /// Alertmanager, as HOST:PORT (can be given more than once).
    #[arg(long = "alertmanager", value_name = "HOST:PORT", value_parser = address, default_value = "localhost:9093")]
    alertmanagers: Vec<String>,
    /// The file with PagerDuty's integration key, as Alertmanager finds it.
    #[arg(long, value_name = "FILE", value_parser = text, default_value = "/etc/prometheus/pagerduty-routing-key")]
    pagerduty_key_file: String,
    /// The file with the address of Slack's incoming webhook, as Alertmanager finds it.
    #[arg(long, value_name = "FILE", value_parser = text, default_value = "/etc/prometheus/slack-webhook-url")]
    slack_url_file: String,
    /// The channel for what is not critical.
    #[arg(long, value_parser = text, default_value = "#stella-alerts")]
    slack_channel: String,
    /// What is called every minute while alerting works, and raises the alarm when it is not.
    #[arg(long, value_name = "URL", value_parser = web_address)]
    watchdog_url: Option<String>,
    /// Where the folder `runbooks` of the built book is served, for the links in alerts; without it pages and messages have none.
    #[arg(long, value_name = "URL", value_parser = web_address)]
    runbooks: Option<String>,
    /// Prometheus, as Grafana reaches it.
    #[arg(long, value_name = "URL", value_parser = web_address, default_value = "http://localhost:9090")]
    prometheus: String,
    /// Loki, as Grafana and what ships logs reach it.
    #[arg(long, value_name = "URL", value_parser = web_address, default_value = "http://localhost:3100")]
    loki: String,
    /// Elasticsearch, as what ships logs reaches it.
    #[arg(long, value_name = "URL", value_parser = web_address, default_value = "http://localhost:9200")]
    elasticsearch: String,
    /// Tempo, as Grafana reaches it.
    #[arg(long, value_name = "URL", value_parser = web_address, default_value = "http://localhost:3200")]
    tempo: String,
    /// Jaeger instead of Tempo, as Grafana reaches it, for example http://localhost:16686.
    #[arg(long, value_name = "URL", value_parser = web_address, conflicts_with = "tempo")]
    jaeger: Option<String>,
    /// Replace files that are there and differ.
    #[arg(long)]
    force: bool,
}

/// A file that was written, or is there already with the same content.
#[derive(Debug, Serialize)]
struct Written {
    path: PathBuf,
    changed: bool,
}

/// Carries the command out.
pub(crate) async fn run(settings: &Settings, output: Output, command: Observability) -> Result<(), Error> {
    match command {
        Observability::Render(to_render) => render(settings, output, *to_render),
        Observability::Agents => {
            let found: Vec<TargetGroup> = settings.client()?.get(paths::SD_AGENTS).await?;
            print::list(output, &found, &["ADDRESS", "TENANT", "AGENT", "ENVIRONMENTS"], row)
        }
    }
}

fn row(group: &TargetGroup) -> Vec<String> {
    let label = |name: &str| group.labels.get(&format!("__meta_stella_{name}")).cloned().unwrap_or_default();
    let environments = label("environments").trim_matches(',').to_owned();
    vec![group.targets.join(" "), label("tenant"), label("agent"), environments]
}

fn render(settings: &Settings, output: Output, mut render: Render) -> Result<(), Error> {
    if render.targets.is_empty() {
        render.targets.push(metrics_address(settings.url())?);
    }
    let mut files = files::of(&render, settings.url());
    if let Some(ca) = settings.ca() {
        files.push(("ca.crt".into(), read(ca)?));
    }
    let written = write(&render.folder, &files, render.force)?;
    let row = |it: &Written| {
        vec![it.path.display().to_string(), if it.changed { "written" } else { "unchanged" }.to_owned()]
    };
    print::list(output, &written, &["FILE", ""], row)?;
    if settings.ca().is_none() {
        print::warning(
            "no --ca is given: put pki/root.crt of the control plane beside prometheus.yml, as ca.crt",
        );
    }
    if render.runbooks.is_none() {
        print::warning(
            "no --runbooks is given: alerts name their runbook, and link to none; serve the built book, and say where",
        );
    }
    Ok(())
}

/// The metrics of the control plane whose API has this address.
fn metrics_address(url: &str) -> Result<String, Error> {
    let parsed = reqwest::Url::parse(url).map_err(|error| Error::Usage(format!("--url {url}: {error}")))?;
    let host = parsed.host_str().ok_or_else(|| Error::Usage(format!("--url {url} has no host")))?;
    Ok(format!("{host}:{METRICS_PORT}"))
}

/// Writes all files, or none when one is in the way.
fn write(folder: &Path, files: &[(String, String)], force: bool) -> Result<Vec<Written>, Error> {
    let mut written = Vec::with_capacity(files.len());
    for (name, content) in files {
        let path = folder.join(name);
        debug_assert!(Path::new(name).components().all(|part| matches!(part, Component::Normal(_))));
        let there = fs::read_to_string(&path).ok();
        let changed = there.as_ref() != Some(content);
        if path.exists() && changed && !force {
            let why = "is there and differs; give --force to replace it, or another folder";
            return Err(Error::Usage(format!("{} {why}", path.display())));
        }
        written.push(Written { path, changed });
    }
    for (Written { path, changed }, (_, content)) in written.iter().zip(files) {
        if *changed {
            put(path, content).map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
        }
    }
    Ok(written)
}

fn put(path: &Path, content: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)
}

/// Reads HOST:PORT; an IPv6 address is in brackets.
fn address(text: &str) -> Result<String, String> {
    let wrong = || "expected HOST:PORT".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let is_plain = host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    let is_ipv6 = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    if host.is_empty() || !(is_plain || is_ipv6) {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

/// Reads the address of something on the web, without a slash at its end.
fn web_address(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("expected http:// or https://".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Reads what may stand on one line.
fn text(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("expected one line of text".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads the name of a job, which stands in expressions as it is.
fn job_name(name: &str) -> Result<String, String> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c)) {
        return Err("expected letters, digits and . _ - / :".to_owned());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports() {
        for good in ["stella.example.com:9090", "10.0.0.1:1", "[::1]:9090"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in ["stella", ":9090", "stella:0", "stella:70000", "a b:1", "::1:9090", "x\"]:1", "{{x}}:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!(web_address("https://wiki/stella/").as_deref(), Ok("https://wiki/stella"));
        assert!(web_address("file:///etc/passwd").is_err());
        assert!(text("two\nlines").is_err());
        assert_eq!(
            job_name("monitoring/stella-orchestrator").as_deref(),
            Ok("monitoring/stella-orchestrator")
        );
        for bad in ["", "a b", "a\"b", "a\\", "a}"] {
            assert!(job_name(bad).is_err(), "{bad}");
        }
        assert_eq!(metrics_address("https://stella.example.com:8443").unwrap(), "stella.example.com:9090");
    }

    #[test]
    fn what_is_there_is_replaced_only_when_that_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let files = |content: &str| {
            vec![("a/b.yml".to_owned(), content.to_owned()), ("c.yml".to_owned(), "c".to_owned())]
        };
        assert!(write(folder.path(), &files("1"), false).unwrap().iter().all(|it| it.changed));
        assert!(write(folder.path(), &files("1"), false).unwrap().iter().all(|it| !it.changed));
        let refused = write(folder.path(), &files("2"), false).unwrap_err().to_string();
        assert!(refused.contains("b.yml") && refused.contains("--force"), "{refused}");
        assert_eq!(fs::read_to_string(folder.path().join("a/b.yml")).unwrap(), "1");
        let replaced = write(folder.path(), &files("2"), true).unwrap();
        assert_eq!(replaced.iter().map(|it| it.changed).collect::<Vec<_>>(), [true, false]);
    }
}
