//! The operations overview against a running system: metrics, log lines and events, spans, alerts, panels, health. Nothing may be missing,
//! and nothing may differ but what is on the list.

mod additional;
mod configuration;
mod differences;
mod log_fields;
mod overview;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};
use stella_api_types::deployment::OnFailure;
use stella_api_types::environment::Environment;
use stella_api_types::gate::{Check, SetGate};
use stella_api_types::paths;
use stella_api_types::tenant::Tenant;
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Workflow};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::collector::Collector;
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::Bundle;
use stella_tests::people::{ask, decide_twice, person};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;

/// What differs, in words.
type Differences = BTreeSet<String>;

/// A system in which everything has happened that the overview has a name for, as far as the product has it.
async fn populated(collector: &Collector) -> Result<Cluster> {
    let settings = Settings { traces_endpoint: Some(collector.endpoint()), ..Settings::default() };
    let mut cluster = Cluster::with_settings(2, &settings).await?;
    for (version, script) in [("1.0.0", "true"), ("2.0.0", "false")] {
        cluster.release(&release(version, &[], vec![shell("run", script)])).await?;
        let deployment = cluster.deploy(&rolling(ENVIRONMENT, version, OnFailure::Rollback)).await?;
        cluster.wait_final(&deployment.deployment.id).await?;
    }
    let approver = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    decide_twice(&cluster, &approver, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    // A gate that nothing comes through, because nobody has scanned anything.
    let limits = [("critical".to_owned(), 0)].into();
    let check = Check::Security {
        limits,
        allowed: Vec::new(),
        scanners: Vec::new(),
        max_age_seconds: None,
        reporters: Vec::new(),
    };
    let gate = SetGate { name: "scan".to_owned(), check, ttl_seconds: None, verifies: false };
    let path = paths::fill(paths::ENVIRONMENT_GATES, &[TENANT, ENVIRONMENT]);
    cluster.api.post::<_, Environment>(&path, &gate, None).await?;
    let waits = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    ensure!(waits.gates[0].status == "failed", "{waits:?}");
    let source = "name: ship\nsteps: [{id: soak, wait: 1s}]\n".to_owned();
    let applied = ApplyWorkflow { source };
    cluster.api.post::<_, Workflow>(&paths::fill(paths::WORKFLOWS, &[TENANT]), &applied, None).await?;
    let run = StartRun { workflow: "ship".to_owned(), version: None, inputs: BTreeMap::new() };
    let run: Run = cluster.api.post(&paths::fill(paths::RUNS, &[TENANT]), &run, None).await?;
    wait::until("the run has ended", async || {
        let run: Run = cluster.api.get(&paths::fill(paths::RUN, &[TENANT, &run.id])).await?;
        ensure!(run.is_final, "{run:?}");
        Ok(())
    })
    .await?;
    cluster.agents[1].stop()?;
    cluster.agents[1].start()?;
    let name = cluster.agents[1].name().to_owned();
    wait::until("its absence is in the log", async || {
        let log = cluster.control_plane.daemon().log();
        ensure!(log.contains("agent.disconnected"), "{log}");
        Ok(())
    })
    .await?;
    cluster.wait_online(&name).await?;
    Ok(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_differs_but_what_is_on_the_list() -> Result<()> {
    let collector = Collector::start().await?;
    let mut cluster = populated(&collector).await?;
    let mut found = Differences::new();
    let scraped = cluster.control_plane.metrics().await?;
    in_metrics(&scraped, &mut found)?;
    beyond_the_overview(&scraped)?;
    let log = cluster.control_plane.daemon().log();
    in_log(&log, &mut found)?;
    in_log_of_agent(&cluster.agents[0].log(), &log)?;
    in_spans(&collector, &mut found).await?;
    in_request(&cluster, &collector).await?;
    in_alerts(&cluster, &mut found).await?;
    in_panels(&mut found)?;
    in_health(&cluster, &mut found).await?;

    let known: Differences = differences::ON_PURPOSE.iter().map(|(what, _)| (*what).to_owned()).collect();
    let (new, gone): (Vec<_>, Vec<_>) =
        (found.difference(&known).collect(), known.difference(&found).collect());
    ensure!(new.is_empty() && gone.is_empty(), "not on the list: {new:#?}; on it, but not so: {gone:#?}");
    ensure!(differences::ON_PURPOSE.iter().all(|(_, why)| !why.is_empty()), "a difference without a reason");
    cluster.passed()
}

// === metrics ===

/// The names of the labels of each series, by the name of its metric. `le` is how histograms are written, and no label of theirs.
fn series(text: &str) -> BTreeMap<&str, BTreeSet<Vec<&str>>> {
    let mut all = BTreeMap::<_, BTreeSet<_>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, labels) =
            line.split_once('{').unwrap_or_else(|| (line.split(' ').next().unwrap_or(""), ""));
        let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
        // No value in a test has a quote with a comma after it.
        let names = labels.split("\",").filter_map(|label| label.split_once("=\"")).map(|(name, _)| name);
        let names = names.filter(|name| *name != "le").collect::<BTreeSet<_>>();
        all.entry(name).or_default().insert(names.into_iter().collect());
    }
    all
}

fn in_metrics(text: &str, found: &mut Differences) -> Result<()> {
    let series = series(text);
    for (name, kind, description, labels) in overview::METRICS {
        let there = if kind == "histogram" { format!("{name}_bucket") } else { name.to_owned() };
        let Some(labelled) = series.get(there.as_str()) else {
            found.insert(format!("metric {name}"));
            continue;
        };
        if !text.lines().any(|line| line == format!("# TYPE {name} {kind}")) {
            found.insert(format!("type of {name}"));
        }
        // Ours may say more.
        let says = |help: &str| {
            help.strip_prefix(description).is_some_and(|more| more.is_empty() || more.starts_with(", "))
        };
        if !text.lines().filter_map(|line| line.strip_prefix(&format!("# HELP {name} "))).any(says) {
            found.insert(format!("description of {name}"));
        }
        if kind == "histogram" {
            for part in ["_sum", "_count"] {
                ensure!(series.contains_key(format!("{name}{part}").as_str()), "{name} has no {part}");
            }
        }
        let wanted: BTreeSet<_> = labels.iter().copied().collect();
        for labels in labelled {
            let labels: BTreeSet<_> = labels.iter().copied().collect();
            let list = |set: Vec<&&str>| set.into_iter().copied().collect::<Vec<_>>().join(", ");
            let (less, more) =
                (list(wanted.difference(&labels).collect()), list(labels.difference(&wanted).collect()));
            if !less.is_empty() {
                found.insert(format!("fewer labels of {name}: {less}"));
            }
            if !more.is_empty() {
                found.insert(format!("more labels of {name}: {more}"));
            }
        }
    }
    Ok(())
}

/// All others are on the list of those, with their types and labels, described on the page and in the book.
fn beyond_the_overview(text: &str) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let pages = ["operations.md", "observability.md", "events.md", "notifications.md"]
        .map(|page| fs::read_to_string(docs.join(page)));
    let book = pages.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    let (series, mut problems) = (series(text), Vec::new());
    let families: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| !overview::METRICS.iter().any(|(known, ..)| known == name))
        .collect();
    for (name, kind) in &families {
        let listed = additional::METRICS.iter().find(|(listed, ..)| listed == name);
        let Some((_, wanted, labels, _)) = listed else {
            problems.push(format!("{name} ({kind}) is not on the list"));
            continue;
        };
        let there = if *kind == "histogram" { format!("{name}_bucket") } else { (*name).to_owned() };
        let wanted_labels: BTreeSet<_> = labels.iter().copied().collect();
        let differs = |it: &Vec<&str>| it.iter().copied().collect::<BTreeSet<_>>() != wanted_labels;
        let other = series.get(there.as_str()).into_iter().flatten().find(|it| differs(it));
        if kind != wanted || other.is_some() {
            problems.push(format!("{name} is a {kind} with {other:?}"));
        }
        if !text.lines().any(|line| line.starts_with(&format!("# HELP {name} "))) {
            problems.push(format!("{name} is not described"));
        }
    }
    for (name, _, _, there) in additional::METRICS {
        if there == additional::There::Always && !families.contains_key(name) {
            problems.push(format!("{name} is not there"));
        }
        // Those of processes are Prometheus' own.
        if !name.starts_with("process_") && !book.contains(&format!("`{name}`")) {
            problems.push(format!("{name} is not in the book"));
        }
    }
    ensure!(problems.is_empty(), "{problems:#?}");
    Ok(())
}

// === traces ===

async fn in_spans(collector: &Collector, found: &mut Differences) -> Result<()> {
    let is_known =
        |name: &str| differences::ON_PURPOSE.iter().any(|(what, _)| *what == format!("span {name}"));
    wait::until("the spans that there are have come", async || {
        let missing =
            overview::SPANS.iter().find(|(name, _)| !is_known(name) && collector.named(name).is_empty());
        ensure!(missing.is_none(), "{missing:?}");
        Ok(())
    })
    .await?;
    for (name, attributes) in overview::SPANS {
        let spans = collector.named(name);
        if spans.is_empty() {
            found.insert(format!("span {name}"));
        }
        for attribute in attributes {
            if spans.iter().any(|span| !span.attributes.contains_key(*attribute)) {
                found.insert(format!("span {name}: {attribute}"));
            }
        }
    }
    Ok(())
}

/// The span of a request, with the attributes and values of the overview's `TracingMiddleware`.
async fn in_request(cluster: &Cluster, collector: &Collector) -> Result<()> {
    let path = paths::fill(paths::TENANT, &[TENANT]);
    let tenant: Tenant = cluster.api.get(&path).await?;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = cluster.api.request(reqwest::Method::GET, &path);
    let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let answer = cluster.api.answer(request.header("user-agent", "conformance/1.0")).await?;
    ensure!(answer.status == reqwest::StatusCode::OK, "{answer:?}");
    let span = wait::until("the request's span has come", async || {
        let all = collector.named("http.request");
        all.into_iter().find(|span| span.trace == trace).context("not yet")
    })
    .await?;
    ensure!(span.parent == "b7ad6b7169203331", "{span:?}");
    for (name, value) in [
        ("http.method", "GET"),
        ("http.url", path.as_str()),
        ("http.user_agent", "conformance/1.0"),
        ("http.status_code", "200"),
        ("tenant.id", tenant.id.as_str()),
    ] {
        ensure!(
            span.attributes.get(name).map(String::as_str) == Some(value),
            "{name} is not {value}: {span:?}"
        );
    }
    Ok(())
}

// === the log ===

/// `2026-01-09T10:30:00.123Z`.
fn is_timestamp(text: &str) -> bool {
    let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
    text.chars().map(shape).eq("0000-00-00T00:00:00.000Z".chars())
}

fn in_log(log: &str, found: &mut Differences) -> Result<()> {
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Map<String, Value>>(line).with_context(|| line.to_owned()))
        .collect::<Result<Vec<_>>>()?;
    let sample: Map<String, Value> = serde_json::from_str(overview::LOG_LINE)?;
    for line in &lines {
        ensure!(line["timestamp"].as_str().is_some_and(is_timestamp), "{line:?}");
        ensure!(overview::LOG_LEVELS.iter().any(|level| line["level"] == *level), "{line:?}");
        for field in ["message", "service", "version"] {
            ensure!(line.get(field).is_some_and(Value::is_string), "no {field} in {line:?}");
        }
        let other = line.keys().find(|field| !sample.contains_key(*field));
        ensure!(other.is_none(), "{other:?} at the top of {line:?}");
    }
    let of = |event: &str| lines.iter().find(|line| is_event(line, event));
    for (event, level) in overview::LOG_EVENTS {
        match of(event) {
            None => drop(found.insert(format!("log event {event}"))),
            Some(line) if line["level"] != level => drop(found.insert(format!("level of log event {event}"))),
            Some(_) => {}
        }
    }
    let line = of(overview::LOG_LINE_EVENT).context("the event of the sample")?;
    for (field, value) in &sample {
        let ours = line.get(field);
        if ours.is_none_or(|ours| !is_like(value, ours)) {
            found.insert(format!("log {field}"));
        }
    }
    // What the sample abbreviates.
    let is_hex = |field: &str, digits: usize| {
        let text = line.get(field).and_then(Value::as_str);
        text.is_some_and(|text| text.len() == digits && text.chars().all(|c| c.is_ascii_hexdigit()))
    };
    ensure!(is_hex("traceId", 32) && is_hex("spanId", 16), "{line:?}");
    // The request that caused it: the id that its caller has leads to it, and its trace to the event.
    let is_cause = |it: &&Map<String, Value>| {
        it["message"] == "request answered" && it.get("traceId") == line.get("traceId")
    };
    let request = lines.iter().find(is_cause).with_context(|| format!("no request of {line:?}"))?;
    for field in ["spanId", "tenantId", "correlationId"] {
        ensure!(request.get(field) == line.get(field), "{field}: {request:?} and {line:?}");
    }
    // So does what followed from it much later.
    let ended = lines.iter().find(|it| {
        is_event(it, "deployment.completed")
            && it["context"]["deploymentJobId"] == line["context"]["deploymentJobId"]
    });
    let ended = ended.with_context(|| format!("no end of {line:?}"))?;
    for field in ["traceId", "tenantId", "correlationId"] {
        ensure!(ended.get(field) == line.get(field), "{field}: {ended:?} and {line:?}");
    }
    for (field, value) in [("service", "deploy-orchestrator"), ("message", "Deployment started")] {
        if line[field] != value {
            found.insert(format!("log {field}"));
        }
    }
    Ok(())
}

/// Whether a line tells of this event: its message is the same in words.
fn is_event(line: &Map<String, Value>, event: &str) -> bool {
    line.get("context").is_some_and(|context| context["event"] == event)
}

/// Lines of an agent have the same fields, and those about a task the trace of its deployment.
fn in_log_of_agent(log: &str, of_control_plane: &str) -> Result<()> {
    let parse =
        |line: &str| serde_json::from_str::<Map<String, Value>>(line).with_context(|| line.to_owned());
    let lines = log.lines().map(parse).collect::<Result<Vec<_>>>()?;
    let events = of_control_plane.lines().map(parse).collect::<Result<Vec<_>>>()?;
    let started = events.iter().find(|line| is_event(line, overview::LOG_LINE_EVENT));
    let started = started.context("the event of the sample")?;
    for message in ["accepted", "what the command used", "ended"] {
        let is_it = |line: &&Map<String, Value>| line["message"] == message;
        // How much a command has used is not known everywhere.
        let Some(line) = lines.iter().find(is_it) else {
            ensure!(message == "what the command used", "no {message} in {lines:?}");
            continue;
        };
        for field in ["traceId", "tenantId"] {
            ensure!(line.get(field) == started.get(field), "{field} of {line:?}, not of {started:?}");
        }
        ensure!(line.get("spanId").is_some_and(Value::is_string), "{line:?}");
    }
    let after = lines.iter().position(|line| line["message"] == "the agent starts").context("its start")?;
    let without = lines[after..].iter().find(|line| line.get("tenantId") != started.get("tenantId"));
    ensure!(without.is_none(), "of no tenant: {without:?}");
    Ok(())
}

/// Whether a value has the type of the sample's and, for an object, at least its fields.
fn is_like(sample: &Value, ours: &Value) -> bool {
    match (sample, ours) {
        (Value::Object(sample), Value::Object(ours)) => {
            sample.iter().all(|(key, value)| ours.get(key).is_some_and(|ours| is_like(value, ours)))
        }
        (Value::String(_), Value::String(_)) | (Value::Number(_), Value::Number(_)) => true,
        _ => sample == ours,
    }
}

// === alerts ===

/// Both sets of rules in one Prometheus: it writes equal queries equally.
async fn in_alerts(cluster: &Cluster, found: &mut Differences) -> Result<()> {
    let folder = cluster.folder().join("bundle");
    let bundle = Bundle::render(&folder, &cluster.control_plane)?;
    fs::write(folder.join("overview.yml"), overview::RULES)?;
    bundle.replace("prometheus.yml", &[("  - rules.yml", "  - rules.yml\n  - overview.yml")])?;
    let prometheus = bundle.prometheus().await?;
    let (ours, theirs) =
        (prometheus.alerts_of("rules.yml").await?, prometheus.alerts_of("overview.yml").await?);
    ensure!(theirs.len() == 7, "{theirs:?}");
    for (name, wanted) in &theirs {
        let Some(alert) = ours.get(name) else {
            found.insert(format!("alert {name}"));
            continue;
        };
        for part in ["group", "query", "duration", "labels"] {
            if alert[part] != wanted[part] {
                found.insert(format!("alert {name}: {part}"));
            }
        }
        for part in ["summary", "description"] {
            if alert["annotations"][part] != wanted["annotations"][part] {
                found.insert(format!("alert {name}: {part}"));
            }
        }
    }
    Ok(())
}

// === panels ===

fn in_panels(found: &mut Differences) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/observability/grafana/dashboards");
    for (name, panels) in overview::PANELS {
        let text = fs::read_to_string(folder.join(format!("{name}.json")))?;
        let dashboard: Value = serde_json::from_str(&text).with_context(|| name.to_owned())?;
        let ours = dashboard["panels"].as_array().with_context(|| format!("{name} has no panels"))?;
        let titles: Vec<_> = ours.iter().filter_map(|panel| panel["title"].as_str()).collect();
        for panel in panels {
            let is_it = |title: &&str| title == panel || title.starts_with(&format!("{panel}: "));
            if !titles.iter().any(is_it) {
                found.insert(format!("panel {panel} of {name}"));
            }
        }
    }
    Ok(())
}

// === health ===

async fn in_health(cluster: &Cluster, found: &mut Differences) -> Result<()> {
    let get = async |path: &str| cluster.api.answer(cluster.api.request(reqwest::Method::GET, path)).await;
    let answer = get("/health").await?;
    ensure!(answer.status.is_success(), "{answer:?}");
    compare("", &serde_json::from_str(overview::HEALTH)?, &serde_json::from_slice(&answer.body)?, found);
    for probe in overview::PROBES {
        ensure!(get(probe).await?.status.is_success(), "{probe}");
    }
    Ok(())
}

/// Each value of the sample that is not the same in ours, and each of ours that is not in the sample, by its path.
fn compare(path: &str, sample: &Value, ours: &Value, found: &mut Differences) {
    let (Value::Object(sample), Value::Object(ours)) = (sample, ours) else {
        // What is measured may come to the sample's number by chance.
        let is_measured = path == "uptime" || path.ends_with(".latency");
        if sample != ours || (is_measured && ours.is_number()) {
            found.insert(format!("health {path}"));
        }
        return;
    };
    for key in sample.keys().chain(ours.keys()) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let value = |object: &Map<String, Value>| object.get(key).cloned().unwrap_or_default();
        compare(&path, &value(sample), &value(ours), found);
    }
}
