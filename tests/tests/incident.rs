//! What somebody reads after a deployment has failed, and what a pipeline that is run again does.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::cluster::{Cluster, ENVIRONMENT};
use stella_tests::recipe;

/// A release whose only step prints and fails.
const STEPS: &str = r#"[
    {"name": "greet", "action": {"type": "command", "argv": ["/bin/sh", "-c", "echo hello from ${target}"]}},
    {"name": "boom", "action": {"type": "command", "argv": ["/bin/sh", "-c", "for n in 1 2 3; do echo line $n; done; echo the disk is gone >&2; exit 3"]}}
]"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_tells_what_was_printed_and_where_the_rest_is() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let host = cluster.agents[0].name().to_owned();
    cluster.wait_online(&host).await?;
    let file = |name: &str| cluster.folder().join(name).display().to_string();
    fs::write(file("steps.json"), STEPS)?;
    fs::write(file("app.tar.gz"), recipe::archive(&[("version", "1")])?)?;
    fs::write(file("other.tar.gz"), recipe::archive(&[("version", "2")])?)?;
    fs::write(file("no.tar.gz"), "name: ship\n")?;
    let stella = |arguments: &[&str], wanted: i32| -> Result<String> {
        let (code, said) = cluster.stella(arguments)?;
        ensure!(code == Some(wanted), "{arguments:?} ended with {code:?}: {said}");
        Ok(said)
    };

    // A pipeline that is run again makes the same release, and no other of the same version.
    let (app, steps) = (format!("app={}", file("app.tar.gz")), file("steps.json"));
    let create = ["release", "create", "noisy", "1.0.0", "--component", &app, "--steps", &steps];
    stella(&create, 0)?;
    ensure!(stella(&create, 0)?.contains("it was there already, and is the same"));
    let other = format!("app={}", file("other.tar.gz"));
    let said = stella(&["release", "create", "noisy", "1.0.0", "--component", &other, "--steps", &steps], 3)?;
    ensure!(said.contains("noisy:1.0.0 is there already with other content (component app)"), "{said}");
    let no = format!("app={}", file("no.tar.gz"));
    let said = stella(&["release", "create", "noisy", "2.0.0", "--component", &no], 2)?;
    ensure!(said.contains("is no archive: hosts unpack .tar and .tar.gz"), "{said}");

    let said = stella(&["deploy", "noisy:1.0.0", ENVIRONMENT, "--wait"], 1)?;
    let (_, end) =
        said.split_once("step boom (failed, exit code 3): its last lines").context(said.clone())?;
    ensure!(end.contains("| line 3") && end.contains("| the disk is gone"), "{end}");
    ensure!(!end.contains("hello from"), "only what failed: {end}");

    let listed: Vec<Value> = serde_json::from_str(&stella(&["deployment", "list", "-o", "json"], 0)?)?;
    let id = listed.first().and_then(|it| it["id"].as_str()).context("a deployment")?.to_owned();
    ensure!(end.contains(&format!("stella deployment logs {id}")), "{end}");
    let said = stella(&["deployment", "logs", &id], 0)?;
    let greeted = said.find(&format!("hello from {host}")).context(said.clone())?;
    ensure!(
        said.find("line 1").is_some_and(|at| at > greeted),
        "in the order in which they were run: {said}"
    );
    let said = stella(&["deployment", "logs", &id, "--step", "greet", "-o", "json"], 0)?;
    let line: Value = serde_json::from_str(said.lines().next().context("a line")?)?;
    ensure!(line["target"] == host.as_str() && line["step"] == "greet", "{line}");
    let said = stella(&["task", "list", &id], 0)?;
    let order: Vec<&str> = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(order == ["greet", "boom"], "{said}");
    let said = stella(&["deployment", "show", &id[..13]], 0)?;
    ensure!(said.contains("started ") && said.contains("stella task logs "), "{said}");

    let said = stella(&["events", "--type", "task_finished", "--limit", "1"], 0)?;
    ensure!(said.contains("release=noisy:1.0.0") && said.contains("step=boom"), "{said}");
    ensure!(said.lines().count() == 2, "a head and one event: {said}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_person_is_found_and_a_target_is_changed_in_place() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let host = cluster.agents[0].name().to_owned();
    cluster.wait_online(&host).await?;
    let stella = |arguments: &[&str], wanted: i32| -> Result<String> {
        let (code, said) = cluster.stella(arguments)?;
        ensure!(code == Some(wanted), "{arguments:?} ended with {code:?}: {said}");
        Ok(said)
    };
    cluster.release(&recipe::release("1.0.0", &[], vec![recipe::shell("nothing", "true")])).await?;
    stella(&["gate", "set", "manual", ENVIRONMENT, "ticket"], 0)?;
    let said = stella(&["gate", "set", "http", ENVIRONMENT, "change", "--endpoint", "changes"], 3)?;
    ensure!(said.contains("gates.http.changes is not configured on the control plane; none is"), "{said}");
    let asked: Value =
        serde_json::from_str(&stella(&["deploy", "app:1.0.0", ENVIRONMENT, "-o", "json"], 0)?)?;
    ensure!(asked["outcome"] == "waits", "{asked}");
    let id = asked["id"].as_str().context("an id")?;
    let said = stella(&["promotion", "list", "--status", "waiting"], 0)?;
    ensure!(said.contains(id) && said.contains("gate ticket"), "{said}");
    ensure!(stella(&["status"], 0)?.contains("promotions that wait 1 (stella promotion list"));
    let said = stella(&["deployment", "show", id], 3)?;
    ensure!(said.contains("a promotion that waits for gate ticket"), "{said}");
    ensure!(stella(&["env", "show", ENVIRONMENT], 0)?.contains("ticket (manual)"));

    let said = stella(&["target", "update", &host, "--var", "port=81", "--label", "rack=7"], 0)?;
    ensure!(said.contains("port=81") && said.contains("rack=7"), "{said}");
    let create = ["target", "create", &host, "--env", ENVIRONMENT, "--agent", &host, "--var", "port=1"];
    let said = stella(&create, 3)?;
    ensure!(said.contains("variable port \"81\" and not \"1\""), "{said}");
    ensure!(stella(&["target", "list", "--label", "rack=7"], 0)?.contains(&host));
    ensure!(!stella(&["target", "list", "--label", "rack=8"], 0)?.contains(&host));
    let said = stella(&["deploy", "app", ENVIRONMENT], 3)?;
    ensure!(said.contains("write app:VERSION") && said.contains("1.0.0"), "{said}");
    ensure!(stella(&["deploy", "app:1.0.0", "nowhere"], 3)?.contains(&format!("there is {ENVIRONMENT}")));
    cluster.passed()
}
