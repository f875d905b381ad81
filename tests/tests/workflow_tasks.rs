//! Steps of a workflow that run something on hosts without a release: with real processes, which are killed in between.

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::Deployment;
use stella_api_types::paths;
use stella_api_types::promotion::{ApprovePromotion, Promotion};
use stella_api_types::release::Release;
use stella_api_types::target::{CreateTarget, Target};
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Step, Workflow};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_environment, create_target, target};
use stella_tests::people::person;
use stella_tests::wait;

/// Applies a workflow and runs it.
async fn run(cluster: &Cluster, workflow: &str, source: &str) -> Result<Run> {
    let path = paths::fill(paths::WORKFLOWS, &[TENANT]);
    let applied: Workflow =
        cluster.api.post(&path, &ApplyWorkflow { source: source.to_owned() }, None).await?;
    ensure!(applied.name == workflow, "{applied:?}");
    let body = StartRun { workflow: workflow.to_owned(), version: None, inputs: [].into() };
    Ok(cluster.api.post(&paths::fill(paths::RUNS, &[TENANT]), &body, None).await?)
}

fn job(step: &Step) -> Result<String> {
    step.deployment.clone().context("a job")
}

/// A host with a role in production, under way.
async fn host(cluster: &mut Cluster, name: &str, role: &str) -> Result<()> {
    let mut agent = cluster.enrolled(name, &[]).await?;
    let labels = [("role".to_owned(), role.to_owned())].into();
    let variables = [("cache".to_owned(), format!("{name}.cache"))].into();
    let new = CreateTarget { labels, variables, ..target("production", name, name) };
    create_target(&cluster.api, TENANT, &new).await?;
    agent.start()?;
    cluster.agents.push(agent);
    cluster.wait_online(name).await
}

/// The first template on the page about workflows below this heading.
fn example(heading: &str) -> Result<&'static str> {
    let page = include_str!("../../docs/workflows.md");
    let (_, rest) = page.split_once(heading).context("the heading")?;
    let (_, rest) = rest.split_once("```yaml\n").context("a template")?;
    Ok(rest.split_once("```").context("its end")?.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_book_s_example_runs_on_the_hosts_that_it_is_meant_for() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    create_environment(&cluster.api, TENANT, "production").await?;
    for (name, role) in [("db-1", "db"), ("web-1", "web"), ("web-2", "web")] {
        host(&mut cluster, name, role).await?;
    }
    let file = cluster.folder().join("upkeep.yaml");
    std::fs::write(&file, example("## Tasks on targets")?)?;
    let path = file.display().to_string();
    let (code, said) = cluster.stella(&["workflow", "check", &path])?;
    ensure!(code == Some(0), "{said}");
    let (code, said) = cluster.stella(&["workflow", "apply", &path])?;
    ensure!(code == Some(0), "{said}");
    let (code, said) = cluster.stella(&["workflow", "graph", "upkeep"])?;
    ensure!(code == Some(0) && said.contains("○ schema (task)\n   ○ warm (task) ← schema\n"), "{said}");
    let (code, said) = cluster.stella(&["workflow", "run", "upkeep", "--input", "to=v42", "--plan"])?;
    ensure!(code == Some(0) && said.contains("job upkeep:schema in production: 1 target"), "{said}");
    ensure!(said.contains("runs migrate: [\"/bin/sh\"") && said.contains("\"v42\"]"), "{said}");
    ensure!(!cluster.agents[0].host_root().join("schema.txt").exists(), "it was only looked at");
    let (code, said) = cluster.stella(&["workflow", "run", "upkeep", "--input", "to=v42", "--wait"])?;
    ensure!(code == Some(0) && said.contains("has succeeded"), "{said}");
    ensure!(cluster.agents[0].read("schema.txt") == "v42\n", "{:?}", cluster.agents[0].read("schema.txt"));
    for (agent, name) in [(1, "web-1"), (2, "web-2")] {
        let warm = cluster.agents[agent].read(&format!("{name}.cache"));
        ensure!(warm == "warm\n", "what the target fills in: {warm:?}");
        ensure!(!cluster.agents[agent].host_root().join("schema.txt").exists(), "not meant for {name}");
    }

    // What was printed can be read, and what it was is told.
    let jobs: Vec<Deployment> = cluster
        .api
        .list(&paths::fill(paths::DEPLOYMENTS, &[TENANT]), &[("environment", "production")])
        .await?;
    let schema = jobs.iter().find(|it| it.job.as_ref().is_some_and(|job| job.step == "schema"));
    let schema = schema.context("the job of the step")?;
    let (_, said) = cluster.stella(&["task", "list", &schema.id])?;
    ensure!(said.contains("db-1") && said.contains("migrate") && said.contains("succeeded"), "{said}");
    let tasks = cluster.api.tasks(TENANT, &schema.id).await?;
    let migrate = tasks.iter().find(|task| task.step == "migrate").context("its first step")?;
    let (code, said) = cluster.stella(&["task", "logs", &migrate.id])?;
    ensure!(code == Some(0) && said == "migrating db-1 to v42\n", "{said}");
    let (_, said) = cluster.stella(&["deployment", "list"])?;
    ensure!(said.contains("upkeep:schema") && said.contains("succeeded (job)"), "{said}");
    // But it is no release, and has brought none.
    let releases: Vec<Release> = cluster.api.list(&paths::fill(paths::RELEASES, &[TENANT]), &[]).await?;
    ensure!(releases.is_empty(), "{releases:?}");
    let (code, said) = cluster.stella(&["release", "show", &schema.release.id])?;
    ensure!(code == Some(3) && said.contains("there is no release"), "{said}");
    let targets: Vec<Target> = cluster.api.list(&paths::fill(paths::TARGETS, &[TENANT]), &[]).await?;
    ensure!(targets.len() == 3 && targets.iter().all(|it| it.current.is_none()), "{targets:?}");
    let scraped = cluster.control_plane.metrics().await?;
    let mut counted = scraped.lines().filter(|line| line.starts_with("stella_deployments_total{"));
    let deployed = counted.find(|line| !line.ends_with(" 0"));
    ensure!(deployed.is_none(), "a job is no deployment: {deployed:?}");
    cluster.passed()
}

const ONCE: &str = r#"
name: once
steps:
  - id: work
    hold: 1h
    task:
      environment: staging
      steps:
        - name: work
          command: {argv: [/bin/sh, -ec, 'echo began >> began.txt; until [ -e go ]; do sleep 0.05; done; test "$(cat go)" = well; echo done >> done.txt']}
        - name: look
          check_command: {argv: [/bin/sh, -c, "test -e done.txt"], interval: 100ms}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_done_once_whatever_is_killed_and_again_only_where_it_failed() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let run = run(&cluster, "once", ONCE).await?;
    let first = job(&cluster.wait_step(&run.id, "work", "running").await?)?;
    std::fs::write(cluster.agents[2].host_root().join("go"), "well")?;
    cluster.wait_task(&first, "web-3", "look", "succeeded").await?;
    // What has begun is not begun again by itself, so it has to have begun.
    wait::until("the commands to begin", async || {
        let begun = cluster.agents[..2].iter().filter(|agent| agent.read("began.txt") == "began\n");
        ensure!(begun.count() == 2, "not all have");
        Ok(())
    })
    .await?;
    cluster.control_plane.kill()?;
    cluster.agents[0].kill()?;
    cluster.control_plane.resume().await?;
    cluster.agents[0].start()?;
    cluster.wait_online("web-1").await?;
    cluster.wait_online("web-2").await?;
    std::fs::write(cluster.agents[1].host_root().join("go"), "badly")?;
    let held = cluster.wait_step(&run.id, "work", "held").await?;
    let reason = held.reason.clone().unwrap_or_default();
    ensure!(reason.starts_with("the job failed: step work on web-"), "{reason}");
    ensure!(held.deployment.as_ref() == Some(&first), "its job can be looked at: {held:?}");
    for agent in &cluster.agents[..2] {
        std::fs::write(agent.host_root().join("go"), "well")?;
    }
    let (code, said) = cluster.stella(&["workflow", "retry", &run.id, "work"])?;
    ensure!(code == Some(0), "{said}");
    let done = cluster.wait_step(&run.id, "work", "succeeded").await?;
    ensure!(done.outputs["succeeded"] == 3 && done.outputs["failed"] == 0, "{done:?}");
    ensure!(done.attempts == 2 && job(&done)? != first, "{done:?}");
    for (agent, began) in [(0, 2), (1, 2), (2, 1)] {
        let times = cluster.agents[agent].read("began.txt").lines().count();
        ensure!(times == began, "it began {times} times on host {agent}");
        ensure!(cluster.agents[agent].read("done.txt") == "done\n", "it was done once on each host");
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_what_they_let_run_and_may_end_it() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let qa = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    let (code, said) = cluster.stella(&["env", "approvals", ENVIRONMENT, "--needed", "1"])?;
    ensure!(code == Some(0), "{said}");
    let run = run(&cluster, "once", ONCE).await?;
    let asked = job(&cluster.wait_step(&run.id, "work", "running").await?)?;
    let promotion: Promotion = qa.get(&paths::fill(paths::PROMOTION, &[TENANT, &asked])).await?;
    let wanted = promotion.job.as_ref().context("what is asked for")?;
    ensure!(wanted.of.run == run.id && wanted.steps.len() == 2, "{promotion:?}");
    let (code, said) = cluster.stella(&["promotion", "show", &asked])?;
    ensure!(code == Some(0) && said.contains("a job of step work of run"), "{said}");
    ensure!(said.contains("runs work: [\"/bin/sh\", \"-ec\"") && said.contains("web-1"), "{said}");
    ensure!(!cluster.agents[0].host_root().join("began.txt").exists(), "nobody has approved it");
    let approve =
        ApprovePromotion { plan: promotion.plan.root.clone(), reason: "read it".to_owned(), signature: None };
    let path = paths::fill(paths::PROMOTION_APPROVE, &[TENANT, &asked]);
    qa.post::<_, serde_json::Value>(&path, &approve, None).await?;
    let task = cluster.wait_task(&asked, "web-1", "work", "running").await?;
    let (code, said) = cluster.stella(&["workflow", "cancel", &run.id, "--reason", "wrong day"])?;
    ensure!(code == Some(0), "{said}");
    let ended = cluster.wait_step(&run.id, "work", "cancelled").await?;
    ensure!(ended.deployment.as_ref() == Some(&asked), "{ended:?}");
    let task = cluster.wait_task(&asked, "web-1", &task.step, "cancelled").await?;
    ensure!(task.reason.is_some() && !cluster.agents[0].host_root().join("done.txt").exists(), "{task:?}");
    cluster.passed()
}
