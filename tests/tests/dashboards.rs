//! The dashboards: whole in structure, linked, and each expression answered by Prometheus about a system in which things happen.
//! No Grafana can be had on a test machine, so none is asked to draw them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_api_types::deployment::OnFailure;
use stella_tests::api::Api;
use stella_tests::cluster::{Cluster, ENVIRONMENT};
use stella_tests::collector::Collector;
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::{Bundle, Prometheus};
use stella_tests::people::{decide_twice, person};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;

/// The dashboards, by file.
const DASHBOARDS: [&str; 4] = ["deployment", "agent-health", "approval", "control-plane"];

/// Grafana's width, in columns.
const COLUMNS: u64 = 24;

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/observability/grafana")
}

fn dashboard(name: &str) -> Result<Value> {
    let text = fs::read_to_string(grafana().join(format!("dashboards/{name}.json")))?;
    serde_json::from_str(&text).with_context(|| name.to_owned())
}

fn list<'v>(value: &'v Value, key: &str) -> Result<&'v [Value]> {
    value[key].as_array().map(Vec::as_slice).with_context(|| format!("{key} is not a list in {value}"))
}

fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str> {
    value[key].as_str().filter(|text| !text.is_empty()).with_context(|| format!("no {key} in {value}"))
}

/// The expressions of a panel, with the variables of Grafana filled in as it does for "All".
fn expressions(panel: &Value, variables: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for target in list(panel, "targets")? {
        let mut expression =
            text(target, "expr")?.replace("$__rate_interval", "1m").replace("$__range", "1h");
        for variable in variables {
            expression = expression.replace(&format!("${variable}"), ".*");
        }
        ensure!(!expression.contains('$'), "an unknown variable is in {expression}");
        found.push(expression);
    }
    Ok(found)
}

fn variables(dashboard: &Value) -> Result<BTreeSet<String>> {
    list(&dashboard["templating"], "list")?.iter().map(|it| Ok(text(it, "name")?.to_owned())).collect()
}

/// What takes long can be looked into from each dashboard, and the dots lead to traces.
#[test]
fn dots_lead_to_traces() -> Result<()> {
    let sources = fs::read_to_string(grafana().join("provisioning/datasources/stella.yml"))?;
    let destination =
        "exemplarTraceIdDestinations:\n        - name: trace_id\n          datasourceUid: stella-traces\n";
    ensure!(sources.contains(destination), "{sources}");
    for name in DASHBOARDS {
        let dashboard = dashboard(name)?;
        let targets = list(&dashboard, "panels")?.iter().filter_map(|panel| panel["targets"].as_array());
        ensure!(targets.flatten().any(|target| target["exemplar"] == true), "{name} has none");
    }
    Ok(())
}

/// It is tried with the alerts, on series that a running system has not: of an agent on which everything fails.
#[test]
fn the_panel_of_success_by_agent_is_what_promtool_tries() -> Result<()> {
    let dashboard = dashboard("agent-health")?;
    let panels = list(&dashboard, "panels")?;
    let panel =
        panels.iter().find(|it| it["title"] == "Task success rate by agent").context("no such panel")?;
    let filled = text(&panel["targets"][0], "expr")?
        .replace("$tenant", ".*")
        .replace("$agent", ".*")
        .replace("$environment", ".*")
        .replace("$__range", "1h");
    let tried = fs::read_to_string(grafana().join("../rules_test.yml"))?;
    ensure!(tried.contains(&filled), "{filled}");
    Ok(())
}

/// What Grafana's own types do not keep of a dashboard, a line each.
fn unknown_to_grafana(file: &Path) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/round_trip.py");
    let mut python = Command::new("python3");
    let ended =
        python.arg(script).arg(file).env("PYTHONPATH", "/var/cache/stella-tests/grafana-sdk").output()?;
    let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(complaint.is_empty(), "{complaint}; .ci/tools installs the SDK");
    Ok(String::from_utf8(ended.stdout)?)
}

#[test]
fn dashboards_are_as_grafanas_own_types_have_them() -> Result<()> {
    for name in DASHBOARDS {
        let lost = unknown_to_grafana(&grafana().join(format!("dashboards/{name}.json")))?;
        ensure!(lost.is_empty(), "{lost}");
    }
    // What is misspelt is found.
    let mut wrong = dashboard(DASHBOARDS[0])?;
    wrong["panels"][0]["fieldConfig"]["defaults"]["unti"] = "s".into();
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), wrong.to_string())?;
    let lost = unknown_to_grafana(file.path())?;
    ensure!(lost.lines().count() == 1 && lost.contains("defaults.unti"), "{lost}");
    Ok(())
}

#[test]
fn dashboards_are_whole_and_linked() -> Result<()> {
    let files = fs::read_dir(grafana().join("dashboards"))?.collect::<Result<Vec<_>, _>>()?;
    ensure!(files.len() == DASHBOARDS.len(), "{files:?}");
    let mut uids = BTreeSet::new();
    for name in DASHBOARDS {
        let dashboard = dashboard(name)?;
        ensure!(uids.insert(text(&dashboard, "uid")?.to_owned()), "the uid of {name} is another's");
        text(&dashboard, "title")?;
        ensure!(dashboard["schemaVersion"].is_u64() && dashboard["id"].is_null(), "{name}");
        check_variables(name, &dashboard)?;
        check_links(name, &dashboard)?;
        check_panels(name, &dashboard)?;
    }
    Ok(())
}

fn check_variables(name: &str, dashboard: &Value) -> Result<()> {
    let variables = variables(dashboard)?;
    let scope = match name {
        "agent-health" => ["tenant", "environment", "agent"].as_slice(),
        "control-plane" => &["instance"],
        _ => &["tenant", "environment"],
    };
    for wanted in ["datasource", "logs", "traces"].iter().chain(scope) {
        ensure!(variables.contains(*wanted), "{name} has no variable {wanted}");
    }
    let sources = fs::read_to_string(grafana().join("provisioning/datasources/stella.yml"))?;
    for variable in list(&dashboard["templating"], "list")? {
        if variable["type"] == "datasource" {
            let (uid, kind) = (text(&variable["current"], "value")?, text(variable, "query")?);
            let source = format!("    uid: {uid}\n    type: {kind}\n");
            ensure!(sources.contains(&source), "{name}: no source {uid} of type {kind} is provisioned");
        } else {
            ensure!(text(&variable["query"], "query")?.starts_with("label_values("), "{variable}");
        }
    }
    Ok(())
}

/// To the other dashboards, to logs and to traces.
fn check_links(name: &str, dashboard: &Value) -> Result<()> {
    ensure!(list(dashboard, "tags")?.iter().any(|tag| tag == "stella"), "{name} is not found by the others");
    let links = list(dashboard, "links")?;
    let to_others = links.iter().any(|it| it["type"] == "dashboards" && it["tags"][0] == "stella");
    ensure!(to_others, "{name} has no link to the other dashboards");
    for source in ["Logs", "Traces"] {
        let link =
            links.iter().find(|it| it["title"] == source).with_context(|| format!("{name}: {source}"))?;
        let url = reqwest::Url::parse("https://grafana")?.join(text(link, "url")?)?;
        ensure!(url.path() == "/explore", "{url}");
        let panes = url.query_pairs().find(|(key, _)| key == "panes").context("panes")?.1.into_owned();
        // Grafana fills variables in first; they are values of JSON, whatever they are.
        let panes: Value = serde_json::from_str(&panes).with_context(|| panes.clone())?;
        ensure!(panes["stella"]["queries"][0].is_object(), "{panes}");
        let variable = format!("${{{}}}", source.to_lowercase());
        ensure!(panes["stella"]["datasource"] == variable, "{panes}");
    }
    Ok(())
}

fn check_panels(name: &str, dashboard: &Value) -> Result<()> {
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeMap::new());
    for panel in list(dashboard, "panels")? {
        let title = text(panel, "title")?;
        for key in ["description", "type"] {
            text(panel, key).with_context(|| title.to_owned())?;
        }
        ensure!(panel["id"].as_u64().is_some_and(|id| ids.insert(id)), "{name}: the id of {title}");
        ensure!(panel["datasource"]["uid"] == "${datasource}", "{name}: the source of {title}");
        ensure!(panel["fieldConfig"]["defaults"].is_object() && panel["options"].is_object(), "{title}");
        let at = |key: &str| panel["gridPos"][key].as_u64().with_context(|| format!("{title}: {key}"));
        let (x, y, w, h) = (at("x")?, at("y")?, at("w")?, at("h")?);
        ensure!(w > 0 && h > 0 && x + w <= COLUMNS, "{name}: {title} is outside");
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            let other = taken.insert(place, title);
            ensure!(other.is_none(), "{name}: {title} lies on {other:?}");
        }
        let mut references = BTreeSet::new();
        for target in list(panel, "targets")? {
            ensure!(references.insert(text(target, "refId")?), "{title}: two queries of one name");
            ensure!(target["datasource"]["uid"] == "${datasource}", "{name}: the source of {title}");
            ensure!(target["instant"] == true || target["range"] == true, "{title}: {target}");
            // Only these draw them.
            let has_dots = panel["type"] == "timeseries" || panel["type"] == "heatmap";
            ensure!(target["exemplar"].is_null() || has_dots && target["range"] == true, "{title}: {target}");
        }
    }
    Ok(())
}

/// One good deployment, one that fails and is rolled back, one that is approved, and one that is rejected.
async fn deploy_twice(cluster: &Cluster, approver: &Api, round: u32) -> Result<()> {
    for (version, script) in [(format!("{round}.0.0"), "true"), (format!("{round}.0.1"), "false")] {
        cluster.release(&release(&version, &[], vec![shell("run", script)])).await?;
        let deployment = cluster.deploy(&rolling(ENVIRONMENT, &version, OnFailure::Rollback)).await?;
        cluster.wait_final(&deployment.deployment.id).await?;
    }
    decide_twice(cluster, approver, &rolling(ENVIRONMENT, &format!("{round}.0.0"), OnFailure::Stop)).await
}

/// Whether there is a number in an answer: a division by zero is none.
fn has_number(series: &[Value]) -> bool {
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<f64>().ok());
    series.iter().filter_map(|it| number(&it["value"][1])).any(f64::is_finite)
}

async fn ask_every_panel(prometheus: &Prometheus) -> Result<()> {
    for name in DASHBOARDS {
        let dashboard = dashboard(name)?;
        let variables = variables(&dashboard)?;
        for panel in list(&dashboard, "panels")? {
            let title = text(panel, "title")?;
            for expression in expressions(panel, &variables)? {
                let series = prometheus.query(&expression).await.with_context(|| title.to_owned())?;
                ensure!(has_number(&series), "{name}, {title}: {expression} gives {series:?}");
            }
            for (target, expression) in list(panel, "targets")?.iter().zip(expressions(panel, &variables)?) {
                if target["exemplar"] == true {
                    let dots = prometheus.exemplars(&expression).await?;
                    ensure!(!dots.is_empty(), "{name}, {title}: nothing leads to a trace");
                }
            }
        }
        if name == "agent-health" {
            ask_in_environments(prometheus, &dashboard).await?;
        }
        for variable in list(&dashboard["templating"], "list")?.iter().filter(|it| it["type"] == "query") {
            let definition = text(&variable["query"], "query")?.replace("$tenant", ".*");
            let definition = definition.replace("$environment", ".*");
            let inner = definition.strip_prefix("label_values(").and_then(|it| it.strip_suffix(')'));
            let (series, label) = inner.and_then(|it| it.rsplit_once(", ")).context("label_values")?;
            let found = prometheus.query(&format!("count by ({label}) ({series})")).await?;
            ensure!(found.iter().any(|it| !it["metric"][label].is_null()), "{definition} gives {found:?}");
        }
    }
    Ok(())
}

/// Whoever looks at one environment sees its agents, and those of no other.
async fn ask_in_environments(prometheus: &Prometheus, dashboard: &Value) -> Result<()> {
    for panel in list(dashboard, "panels")? {
        let title = text(panel, "title")?;
        for target in list(panel, "targets")? {
            let filled = text(target, "expr")?.replace("$__rate_interval", "1m").replace("$__range", "1h");
            let filled = filled.replace("$tenant", ".*").replace("$agent", ".*");
            let of = async |environment: &str| {
                let series = prometheus.query(&filled.replace("$environment", environment)).await?;
                let values = series.iter().filter_map(|it| it["value"][1].as_str()?.parse::<f64>().ok());
                anyhow::Ok(values.filter(|value| *value > 0.0).count())
            };
            ensure!(of("nowhere").await? == 0, "{title} has others: {filled}");
            let has_some = title == "Task success rate by agent" || of(ENVIRONMENT).await? > 0;
            ensure!(has_some || title == "Tasks running", "{title} has nothing: {filled}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_has_data_for_every_panel() -> Result<()> {
    let collector = Collector::start().await?;
    let settings = Settings { traces_endpoint: Some(collector.endpoint()), ..Settings::default() };
    let cluster = Cluster::with_settings(2, &settings).await?;
    let bundle = Bundle::render(&cluster.folder().join("bundle"), &cluster.control_plane)?;
    bundle.hurry()?;
    let approver = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    deploy_twice(&cluster, &approver, 1).await?;
    let prometheus = bundle.prometheus().await?;
    // What happens between two scrapes is an increase; what was before the first is not.
    wait::until("what happened before is scraped", async || {
        let ends = prometheus.query("sum(stella_deployment_duration_seconds_count)").await?;
        ensure!(has_number(&ends), "{ends:?}");
        Ok(())
    })
    .await?;
    deploy_twice(&cluster, &approver, 2).await?;
    let asked = wait::until("every panel has data", async || ask_every_panel(&prometheus).await).await;
    if asked.is_err() {
        prometheus.show_log();
    }
    asked?;
    cluster.passed()
}
