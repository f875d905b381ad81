//! The configuration of Prometheus and Alertmanager, checked by their own tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_tests::binaries;

/// The job that finds agents through the control plane.
const FOUND: &str = "prometheus-agents.yml";
/// The ways to find control planes, one file each.
const WAYS: [&str; 3] = ["prometheus.yml", "prometheus-http.yml", "prometheus-kubernetes.yml"];

fn bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/observability")
}

fn read(name: &str) -> Result<String> {
    fs::read_to_string(bundle().join(name)).with_context(|| name.to_owned())
}

/// Runs a tool in a folder; what it printed, without what it says of its flags.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(folder).output()?;
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {arguments:?}: {said}{complained}");
    Ok(said.into_owned())
}

/// Wherever agents are scraped, their figures get names of their own there.
#[test]
fn agents_are_scraped_under_names_of_their_own() -> Result<()> {
    let first = read(WAYS[0])?;
    let relabelling = first.split("    metric_relabel_configs:\n").nth(1).context("nothing is relabelled")?;
    for name in WAYS {
        let text = read(name)?;
        let (_, job) = text.split_once("\n  - job_name: stella-agents\n").context(name)?;
        ensure!(job.ends_with(&format!("    metric_relabel_configs:\n{relabelling}")), "{name}: {job}");
        ensure!(text.matches("metric_relabel_configs").count() == 1, "only the agents' job: {name}");
    }
    let found = read(FOUND)?;
    ensure!(found.ends_with(&format!("    metric_relabel_configs:\n{relabelling}")), "{found}");
    Ok(())
}

/// The text without the blocks of this key: its line, and what is indented further below it.
fn without_blocks(text: &str, key: &str) -> String {
    let mut kept = String::new();
    let mut block: Option<usize> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if block.is_some_and(|of| indent > of) {
            continue;
        }
        block = (line.trim_start().strip_prefix(key) == Some(":")).then_some(indent);
        if block.is_none() {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// What all ways have in common: everything but comments and discovery, up to the end of the control planes' job.
fn common(text: &str) -> Vec<&str> {
    let of_the_job = text.split("\n  - job_name: stella-agents").next().unwrap_or(text);
    let end = ["    static_configs:\n      - targets: [\"stella", "    http_sd", "      # Pods are dialled"]
        .iter()
        .filter_map(|anchor| of_the_job.find(anchor))
        .min()
        .unwrap_or(of_the_job.len());
    of_the_job[..end].lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn prometheus_takes_each_way_to_find_control_planes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("targets"))?;
    fs::write(folder.path().join("targets/more.yml"), "- targets: [\"other:9090\"]\n")?;
    fs::create_dir(folder.path().join("agents"))?;
    fs::write(folder.path().join("agents/some.yml"), "- targets: [\"web-1:9091\"]\n")?;
    fs::write(folder.path().join("rules.yml"), read("rules.yml")?)?;
    // What an installation brings; only that they are there is checked.
    for name in ["ca.crt", "inventory-token", "agents-token", "agents-ca.crt", "scraper.crt", "scraper.key"] {
        fs::write(folder.path().join(name), "")?;
    }
    let first = read(WAYS[0])?;
    for name in WAYS {
        let text = read(name)?;
        ensure!(common(&text) == common(&first), "{name} differs from {} in more than discovery", WAYS[0]);
        // Debian's Prometheus is built without the discovery of Kubernetes; the rest of that file is checked.
        fs::write(folder.path().join(name), without_blocks(&text, "kubernetes_sd_configs"))?;
        let said = run(folder.path(), "promtool", &["check", "config", name])?;
        ensure!(said.contains("SUCCESS: 1 rule files found") && !said.contains("WARNING"), "{name}: {said}");
    }
    fs::write(folder.path().join(FOUND), read(FOUND)?)?;
    run(folder.path(), "promtool", &["check", "config", FOUND])?;
    Ok(())
}

#[test]
fn a_file_that_prometheus_needs_and_that_is_not_there_is_found() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join(WAYS[0]), read(WAYS[0])?)?;
    let refused = run(folder.path(), "promtool", &["check", "config", WAYS[0]]);
    let said = refused.err().context("rules that are not there were accepted")?.to_string();
    ensure!(said.contains("rules.yml"), "{said}");
    Ok(())
}

#[test]
fn alertmanager_routes_by_severity() -> Result<()> {
    run(&bundle(), "amtool", &["check-config", "alertmanager.yml"])?;
    for (labels, receiver) in [
        (["alertname=AgentOffline", "severity=critical"], "stella-critical"),
        (["alertname=RollbackRateHigh", "severity=warning"], "stella-warning"),
        (["alertname=ApprovalWaitLong", "severity=info"], "stella-warning"),
        (["alertname=Watchdog", "severity=none"], "stella-watchdog"),
        (["alertname=Unknown", "severity=unheard"], "stella-warning"),
    ] {
        let route = ["config", "routes", "test", "--config.file=alertmanager.yml", labels[0], labels[1]];
        let said = run(&bundle(), "amtool", &route)?;
        ensure!(said.trim() == receiver, "{labels:?} go to {said:?}");
    }
    Ok(())
}

#[test]
fn no_secret_is_in_the_bundle() -> Result<()> {
    let text = read("alertmanager.yml")?;
    for key in ["routing_key:", "service_key:", "api_url:", "${"] {
        ensure!(!text.contains(key), "{key} is in alertmanager.yml");
    }
    ensure!(text.contains("routing_key_file: /") && text.contains("api_url_file: /"), "{text}");
    Ok(())
}

#[test]
fn a_rendered_bundle_is_accepted_as_it_is() -> Result<()> {
    let (home, ca) = (tempfile::tempdir()?, tempfile::NamedTempFile::new()?);
    let stella = binaries::path("stella")?.display().to_string();
    let ca = ca.path().display().to_string();
    let folder = home.path().join("bundle");
    let common =
        ["observability", "render", "bundle", "--ca", &ca, "--watchdog-url", "https://switch.example.com/1"];
    for flags in [
        ["--target", "[::1]:9090", "--runbooks", "https://wiki.example.com/runbooks"].as_slice(),
        &["--inventory", "https://inventory.example.com/stella", "--inventory-token-file", "ca.crt"],
        &[
            "--agents-token-file",
            "ca.crt",
            "--agents-ca",
            "ca.crt",
            "--agents-cert",
            "ca.crt",
            "--agents-key",
            "ca.crt",
        ],
        &["--agents", "--agents-ca", "ca.crt", "--agents-cert", "ca.crt", "--agents-key", "ca.crt"],
        &["--url", "https://stella.example.com", "--slack-channel", "#it's \"ours\""],
    ] {
        run(home.path(), &stella, &[&common, flags, &["--force"]].concat())?;
        run(&folder, "promtool", &["check", "config", "prometheus.yml"])?;
        run(&folder, "amtool", &["check-config", "alertmanager.yml"])?;
        ensure!(folder.join("targets").is_dir() && folder.join("agents").is_dir(), "Prometheus wants them");
    }
    let text = fs::read_to_string(folder.join("prometheus.yml"))?;
    ensure!(text.contains("[\"stella.example.com:9090\"]"), "{text}");
    let again = run(home.path(), &stella, &[&common, ["--target", "elsewhere:1"].as_slice()].concat());
    ensure!(again.is_err_and(|error| error.to_string().contains("--force")), "files were overwritten");
    Ok(())
}
