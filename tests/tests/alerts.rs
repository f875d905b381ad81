//! The alerts: tried by Prometheus' own tool, written about, and on metrics that a running system has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::agent::RevokeAgent;
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_domain::strategy::Strategy;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::people::{decide_twice, person};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::{binaries, wait};

const PROGRAMS: [&str; 3] = ["stella", "stella-agent", "stella-orchestrator"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rules() -> Result<String> {
    Ok(fs::read_to_string(repository().join("packaging/observability/rules.yml"))?)
}

/// The values of a key, wherever it is in the rules.
fn values<'r>(rules: &'r str, key: &'r str) -> impl Iterator<Item = &'r str> {
    rules
        .lines()
        .filter_map(move |line| line.trim().trim_start_matches("- ").strip_prefix(key))
        .map(str::trim)
}

#[test]
fn each_alert_fires_when_it_must_and_only_then() -> Result<()> {
    for arguments in [["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]] {
        let mut promtool = Command::new("promtool");
        let said =
            promtool.args(arguments).current_dir(repository().join("packaging/observability")).output()?;
        let text = [said.stdout, said.stderr].concat();
        ensure!(said.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&text));
    }
    let (rules, tests) =
        (rules()?, fs::read_to_string(repository().join("packaging/observability/rules_test.yml"))?);
    let tested: BTreeSet<_> = values(&tests, "alertname:").collect();
    let alerts: BTreeSet<_> = values(&rules, "alert:").collect();
    ensure!(tested == alerts, "alerts {alerts:?}, tested {tested:?}");
    Ok(())
}

/// What the operations overview has instead, where it cannot work: each is seen not to.
const OVERVIEWS: [&str; 6] = [
    // Too short a window, and a label that its table does not have: both are shown.
    "sum(rate(stella_deployments_total{status=\"failed\"}[5m])) / sum(rate(stella_deployments_total[5m])) > 0.1",
    "histogram_quantile(0.95, sum(rate(stella_deployment_duration_seconds_bucket[5m])) by (le, tenant)) > 600",
    "sum(rate(stella_rollbacks_total[1h])) > 3",
    "count(stella_agents_connected{status=\"online\"}) by (tenant) < 2",
    "count(stella_agents_connected) by (tenant) < 2",
    "histogram_quantile(0.90, stella_approval_duration_seconds_bucket) > 86400",
];

#[test]
fn what_the_overview_has_instead_is_shown_not_to_work() -> Result<()> {
    let tests = fs::read_to_string(repository().join("packaging/observability/rules_test.yml"))?;
    let shown: BTreeSet<_> = values(&tests, "expr:").map(|expr| expr.trim_matches('\'')).collect();
    for expr in OVERVIEWS {
        ensure!(shown.contains(expr), "{expr} is not among {shown:?}");
    }
    let without_status = tests.split("- interval:").filter(|block| {
        block.contains(OVERVIEWS[0])
            && !block.contains("strategy=\"rolling\", status=")
            && block.contains("strategy=\"rolling\"}")
    });
    ensure!(without_status.count() == 1, "the metric is never as the overview's table has it");
    Ok(())
}

/// What is not scraped mutes all alerts of Stella, and no others: an Alertmanager has those of the whole site.
#[test]
fn a_control_plane_that_is_not_scraped_mutes_stellas_alerts_and_no_others() -> Result<()> {
    let rules = rules()?;
    let text = fs::read_to_string(repository().join("packaging/observability/alertmanager.yml"))?;
    let after = text.split_once("'alertname = \"ControlPlaneNotScraped\"'").context("no such rule")?.1;
    let muted = after.split("'alertname =~ \"").nth(1).and_then(|rest| rest.split('"').next());
    let muted: BTreeSet<_> = muted.context("nothing is muted")?.split('|').collect();
    let mut wanted: BTreeSet<_> = values(&rules, "alert:").collect();
    ensure!(wanted.remove("ControlPlaneNotScraped") && wanted.remove("Watchdog"), "{wanted:?}");
    ensure!(muted == wanted, "muted {muted:?}, alerts {wanted:?}");
    Ok(())
}

/// The commands of Stella in a page: the words that each begins with, and its flags.
fn commands_in(page: &str) -> Vec<(Vec<&str>, Vec<&str>)> {
    let spans = page.split('`').skip(1).step_by(2);
    let commands = spans.flat_map(|span| span.split(['|', ';', '&', '<', '>', '\n', '#'])).map(str::trim);
    commands
        .map(|command| command.trim_start_matches("sudo "))
        .filter(|command| PROGRAMS.iter().any(|program| command.split(' ').next() == Some(program)))
        .map(|command| {
            let words = command.split_whitespace();
            let flags = words.clone().map(|word| word.trim_start_matches(['[', '(']));
            let flags = flags.filter(|word| word.starts_with("--"));
            (words.take_while(|word| is_word_of_a_command(word)).collect(), flags.collect())
        })
        .collect()
}

fn is_word_of_a_command(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
}

/// Whoever is paged can type what the page says, and whoever is new what the first pages say.
#[test]
fn the_commands_of_runbooks_and_first_pages_are_there() -> Result<()> {
    let docs = repository().join("docs");
    let read_first = [
        "stop-a-release",
        "troubleshooting",
        "upgrading",
        "quick-start",
        "install",
        "operations",
        "concepts",
        "workflows",
        "cli",
        "life-of-a-deployment",
    ];
    let mut pages: Vec<_> = read_first.iter().map(|name| docs.join(format!("{name}.md"))).collect();
    for page in fs::read_dir(docs.join("runbooks"))? {
        pages.push(page?.path());
    }
    let mut helps = BTreeMap::new();
    for page in pages {
        let (text, name) = (fs::read_to_string(&page)?, page.display().to_string());
        for (words, flags) in commands_in(&text) {
            let [program, arguments @ ..] = &words[..] else { continue };
            let key = words.join(" ");
            if !helps.contains_key(&key) {
                let help = Command::new(binaries::path(program)?).args(arguments).arg("--help").output()?;
                ensure!(help.status.success(), "{name}: there is no {key}");
                helps.insert(key.clone(), String::from_utf8(help.stdout)?);
            }
            for flag in flags {
                let flag =
                    flag.split('=').next().unwrap_or(flag).trim_end_matches([',', '.', ')', ']', '…', '\\']);
                let is_there = helps[&key].split_whitespace().any(|it| it.trim_end_matches(',') == flag);
                ensure!(is_there, "{name}: {key} has no {flag}");
            }
        }
    }
    ensure!(helps.len() > 25, "only {:?}", helps.keys());
    Ok(())
}

#[test]
fn each_alert_has_a_runbook_in_the_book() -> Result<()> {
    let (rules, docs) = (rules()?, repository().join("docs"));
    let summary = fs::read_to_string(docs.join("SUMMARY.md"))?;
    let alerts: Vec<_> = values(&rules, "alert:").collect();
    let linked: Vec<_> = values(&rules, "runbook_url:").map(|url| url.trim_matches('"')).collect();
    ensure!(!alerts.is_empty() && alerts.len() == linked.len(), "{alerts:?}, {linked:?}");
    for (alert, page) in alerts.iter().zip(linked) {
        ensure!(page == format!("runbooks/{alert}.html"), "{alert}: {page}");
        let page = format!("runbooks/{alert}.md");
        ensure!(summary.contains(&page), "{page} is not in the table of contents");
        let text = fs::read_to_string(docs.join(&page)).with_context(|| page.clone())?;
        ensure!(
            ["**It fires when.**", "**What it means.**", "**What to do.**"]
                .iter()
                .all(|part| text.contains(part))
                && text.starts_with(&format!("# {alert}\n")),
            "{page}"
        );
    }
    Ok(())
}

/// What is there only once something is configured or under way, and the test that sees it there.
const ONLY_WITH: [(&str, &str); 5] = [
    ("stella_event_bus_lag_seconds", "event_bus.rs"),
    ("stella_trace_spans_total", "traces.rs"),
    ("stella_authority_agents_behind", "rotation.rs"),
    ("stella_event_bus_up", "event_bus.rs"),
    ("stella_notifications_late", "notifications.rs"),
];

#[test]
fn what_is_there_only_sometimes_is_seen_by_another_test() -> Result<()> {
    for (metric, file) in ONLY_WITH {
        let text = fs::read_to_string(repository().join("tests/tests").join(file))?;
        ensure!(text.contains(metric), "{file} does not look at {metric}");
    }
    Ok(())
}

/// The names of the product's metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("stella_")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_system_has_what_the_alerts_ask_for_and_a_revoked_agent_alerts_no_more() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    // Counters are there before anything has ended, or the first failure is no increase.
    let fresh = cluster.control_plane.metrics().await?;
    for strategy in Strategy::NAMES {
        for status in ["succeeded", "failed", "cancelled"] {
            let labels = format!("env=\"{ENVIRONMENT}\",strategy=\"{strategy}\",status=\"{status}\"}} 0");
            ensure!(fresh.contains(&labels), "no {labels} in {fresh}");
        }
    }
    // So it is with the failures of the API.
    let failures = format!("method=\"POST\",path=\"{}\",status=\"500\"}} 0", paths::TENANTS);
    ensure!(fresh.contains(&failures), "no {failures} in {fresh}");
    for (version, script) in [("1.0.0", "true"), ("2.0.0", "false")] {
        cluster.release(&release(version, &[], vec![shell("run", script)])).await?;
        let deployment = cluster.deploy(&rolling(ENVIRONMENT, version, OnFailure::Rollback)).await?;
        cluster.wait_final(&deployment.deployment.id).await?;
    }
    let approver = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    decide_twice(&cluster, &approver, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let rules = rules()?;
    wait::until("the rollback has been counted", async || {
        let scraped = cluster.control_plane.metrics().await?;
        let there = metrics_in(&scraped);
        let is_missing = |name: &&str| !there.contains(name) && !ONLY_WITH.iter().any(|(it, _)| it == name);
        let missing: Vec<_> = metrics_in(&rules).into_iter().filter(is_missing).collect();
        ensure!(missing.is_empty(), "no series of {missing:?} in {scraped}");
        Ok(())
    })
    .await?;

    let sold = cluster.agents[0].name();
    let series = format!("stella_agent_heartbeat_age_seconds{{agent=\"{sold}\"");
    let before = cluster.control_plane.metrics().await?;
    ensure!(before.contains(&series), "{before}");
    let body = RevokeAgent { reason: "the host was sold".to_owned() };
    let path = paths::fill(paths::AGENT_REVOKE, &[TENANT, sold]);
    cluster.api.post::<_, stella_api_types::agent::Agent>(&path, &body, None).await?;
    let after = cluster.control_plane.metrics().await?;
    ensure!(!after.contains(&series) && after.contains("stella_agent_heartbeat_age_seconds{"), "{after}");
    let its_own = format!("agent=\"{sold}\"");
    ensure!(before.contains(&format!("stella_agent_tasks_total{{tenant=\"{TENANT}\",{its_own}")), "{before}");
    ensure!(!after.contains(&its_own) && after.contains("stella_agent_tasks_total{"), "{after}");
    cluster.passed()
}

/// The value of a series, by the whole of its name and labels.
fn value(scraped: &str, series: &str) -> Result<f64> {
    let line = scraped.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.with_context(|| format!("no {series} in {scraped}"))?.parse().context("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn open_tasks_certificates_and_the_disk_are_what_they_are() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let open = |state: &str| format!("stella_tasks_open{{tenant=\"{TENANT}\",state=\"{state}\"}}");
    let idle = cluster.control_plane.metrics().await?;
    ensure!(value(&idle, &open("running"))? == 0.0 && value(&idle, &open("unknown"))? == 0.0, "{idle}");

    cluster
        .release(&release("1.0.0", &[], vec![shell("run", "until test -e go; do sleep 0.05; done")]))
        .await?;
    let running = cluster.api.deploy(TENANT, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop), None).await?;
    cluster.wait_task(&running.deployment.id, cluster.agents[0].name(), "run", "running").await?;
    let busy = cluster.control_plane.metrics().await?;
    ensure!(value(&busy, &open("running"))? == 1.0, "{busy}");
    let active = format!("stella_deployments_active{{tenant=\"{TENANT}\",env=\"{ENVIRONMENT}\"}}");
    ensure!(value(&busy, &active)? == 1.0, "{busy}");
    let waits = format!("stella_task_unaccepted_age_seconds{{tenant=\"{TENANT}\"}}");
    ensure!(value(&busy, &waits)? == 0.0, "a task that runs does not wait: {busy}");
    // What has begun has its series, so that its end is an increase.
    for end in stella_domain::task::TaskState::ENDS {
        let agent = cluster.agents[0].name();
        let series = format!(
            "stella_agent_tasks_total{{tenant=\"{TENANT}\",agent=\"{agent}\",type=\"command\",status=\"{end}\"}}"
        );
        ensure!(value(&busy, &series)? == 0.0, "{busy}");
    }
    for begun in ["stella_deployment_duration_seconds_count{", "stella_agent_task_duration_seconds_count{"] {
        let line = busy.lines().find(|line| line.starts_with(begun)).with_context(|| busy.clone())?;
        ensure!(line.ends_with(" 0"), "{line}");
    }
    fs::write(cluster.agents[0].host_root().join("go"), "")?;
    cluster.wait_final(&running.deployment.id).await?;
    let done = cluster.control_plane.metrics().await?;
    ensure!(value(&done, &open("running"))? == 0.0 && value(&done, &active)? == 0.0, "{done}");

    let ends = |name: &str| {
        value(&done, &format!("stella_certificate_expiry_timestamp_seconds{{certificate=\"{name}\"}}"))
    };
    ensure!(ends("server")? < ends("issuing")? && ends("issuing")? <= ends("root")?, "{done}");
    ensure!(value(&done, "stella_journal_writes_refused")? == 0.0, "{done}");
    ensure!(value(&done, "stella_journal_size_bytes")? > 0.0, "{done}");
    let events = value(&done, "stella_journal_events{streams=\"tenants\"}")?;
    ensure!(events > 0.0 && events <= cluster.api.events(TENANT).await?.len() as f64, "{done}");
    wait::until("no command waits", async || {
        let now = cluster.control_plane.metrics().await?;
        ensure!(value(&now, "stella_journal_commands_waiting")? == 0.0, "{now}");
        Ok(())
    })
    .await?;
    ensure!(value(&done, "stella_journal_replayed_events")? == 0.0, "{done}");
    let of_agent = format!("{{agent=\"{}\",tenant=\"{TENANT}\"}}", cluster.agents[0].name());
    let packets = |what: &str| value(&done, &format!("stella_agent_packets_{what}_total{of_agent}"));
    ensure!(packets("sent")? > packets("lost")?, "{done}");
    ensure!(value(&done, "stella_state_disk_available_bytes")? > 0.0, "{done}");
    ensure!(value(&done, "stella_log_lines_dropped_total{output=\"stdout\"}")? == 0.0, "{done}");
    cluster.passed()
}
