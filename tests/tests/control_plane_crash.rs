//! The control plane is killed in the middle of things. What it answered holds, and nothing runs twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use stella_api_types::deployment::{CreateDeployment, Deployment, OnFailure};
use stella_api_types::environment::{CreateEnvironment, Environment};
use stella_api_types::paths;
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Workflow};
use stella_tests::ambush::Ambush;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_environment, create_target, target};
use stella_tests::control_plane::Settings;
use stella_tests::people::{decide_twice, person};
use stella_tests::recipe::{self, rolling, shell};
use stella_tests::wait;

/// Says that it runs, and waits for its gate. One line for each time that it is started.
const GATED: &str = "echo run >> runs; until [ -e gate ]; do sleep 0.05; done; echo done >> ends";

fn open_gate(cluster: &Cluster, agent: usize) -> Result<()> {
    Ok(std::fs::write(cluster.agents[agent].host_root().join("gate"), "")?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_deployment_goes_on_after_kill_9_and_each_target_runs_once() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    cluster
        .release(&recipe::release(
            "1.0.0",
            &[],
            vec![shell("gated", GATED), shell("after", "echo x >> after")],
        ))
        .await?;
    let order = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let started = cluster.api.deploy(TENANT, &order, Some("key-of-the-deployment")).await?;
    let id = started.deployment.id;

    // At once after the answer: what was answered is there again, under the same key too.
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    let repeated = cluster.api.deploy(TENANT, &order, Some("key-of-the-deployment")).await?;
    assert_eq!(repeated.deployment.id, id);

    // While the first target runs; its result comes when nobody is there to hear it.
    cluster.wait_lines(0, "runs", 1).await?;
    cluster.control_plane.kill()?;
    open_gate(&cluster, 0)?;
    cluster.wait_lines(0, "ends", 1).await?;
    cluster.control_plane.resume().await?;

    // While the second one runs, and goes on running when the control plane is back.
    cluster.wait_lines(1, "runs", 1).await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    for agent in &cluster.agents {
        cluster.wait_online(agent.name()).await?;
    }
    assert_eq!(cluster.agents[1].read("ends"), "");
    open_gate(&cluster, 1)?;
    open_gate(&cluster, 2)?;

    let ended = cluster.wait_final(&id).await?;
    assert_eq!(ended.deployment.status, "succeeded", "{ended:?}");
    for agent in &cluster.agents {
        for file in ["runs", "ends", "after"] {
            assert_eq!(agent.read(file).lines().count(), 1, "{file} on {}", agent.name());
        }
    }
    let tasks = cluster.api.tasks(TENANT, &id).await?;
    assert_eq!(tasks.len(), 6);
    assert!(tasks.iter().all(|task| task.state == "succeeded" && task.attempt == 1), "{tasks:?}");
    let repeated = cluster.api.deploy(TENANT, &order, Some("key-of-the-deployment")).await?;
    assert_eq!(repeated.deployment.id, id);
    let all: Vec<Deployment> = cluster.api.list(&paths::fill(paths::DEPLOYMENTS, &[TENANT]), &[]).await?;
    assert_eq!(all.len(), 1);
    cluster.passed()
}

/// The series of what is counted in the state, in one order.
fn counted(scraped: &str) -> Vec<String> {
    let families = [
        "stella_deployment_duration_seconds",
        "stella_approval_duration_seconds",
        "stella_workflow_step_duration_seconds",
        "stella_task_dispatch_duration_seconds",
        "stella_agent_task_duration_seconds",
        "stella_agent_tasks_total",
        "stella_deployments_total",
    ];
    let lines = scraped.lines().filter(|line| families.iter().any(|family| line.starts_with(family)));
    // The recorder of the process has no order.
    let mut lines: Vec<_> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Runs a workflow of one step to its end.
async fn run_one_step(cluster: &Cluster) -> Result<()> {
    let source = "name: pause\nsteps:\n  - id: pause\n    wait: 1s\n".to_owned();
    let path = paths::fill(paths::WORKFLOWS, &[TENANT]);
    let _applied: Workflow = cluster.api.post(&path, &ApplyWorkflow { source }, None).await?;
    let body = StartRun { workflow: "pause".to_owned(), version: None, inputs: BTreeMap::new() };
    let run: Run = cluster.api.post(&paths::fill(paths::RUNS, &[TENANT]), &body, None).await?;
    wait::until("the run has ended", async || {
        let run: Run = cluster.api.get(&paths::fill(paths::RUN, &[TENANT, &run.id])).await?;
        ensure!(run.status == "succeeded", "{run:?}");
        Ok(())
    })
    .await
}

/// Of all series of a name, the sum.
fn sum(lines: &[String], name: &str) -> f64 {
    let of_name = lines.iter().filter(|line| line.starts_with(&format!("{name}{{")));
    of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_is_the_same_after_kill_9_from_events_alone_and_from_a_snapshot() -> Result<()> {
    for snapshot_every_events in [200_000, 20] {
        let settings = Settings { snapshot_every_events, ..Settings::default() };
        let mut cluster = Cluster::with_settings(2, &settings).await?;
        cluster.release(&recipe::release("1.0.0", &[], vec![shell("run", "true")])).await?;
        let approver = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
        decide_twice(&cluster, &approver, &order(ENVIRONMENT)).await?;
        run_one_step(&cluster).await?;
        let is_there = |scraped: &str| scraped.contains("\nstella_journal_snapshot_bytes ");
        let scraped = wait::until("the snapshot is taken", async || {
            let scraped = cluster.control_plane.metrics().await?;
            ensure!(snapshot_every_events > 1_000 || is_there(&scraped), "{scraped}");
            Ok(scraped)
        })
        .await?;
        let before = counted(&scraped);
        let counts = [
            ("stella_deployment_duration_seconds_count", 1.0),
            ("stella_approval_duration_seconds_count", 1.0),
            ("stella_workflow_step_duration_seconds_count", 1.0),
            ("stella_task_dispatch_duration_seconds_count", 2.0),
            ("stella_agent_task_duration_seconds_count", 2.0),
            ("stella_agent_tasks_total", 2.0),
        ];
        for (name, count) in counts {
            assert_eq!(sum(&before, name), count, "{name} in {before:#?}");
        }
        cluster.control_plane.kill()?;
        cluster.control_plane.resume().await?;
        let scraped = cluster.control_plane.metrics().await?;
        assert_eq!(counted(&scraped), before);

        cluster.api = cluster.control_plane.api()?;
        let again = cluster.deploy(&order(ENVIRONMENT)).await?.deployment;
        cluster.wait_final(&again.id).await?;
        let after = counted(&cluster.control_plane.metrics().await?);
        let is_again = |name: &str| !name.contains("approval") && !name.contains("workflow");
        for (name, count) in
            counts.map(|(name, count)| (name, if is_again(name) { 2.0 * count } else { count }))
        {
            assert_eq!(sum(&after, name), count, "{name} in {after:#?}");
        }
        cluster.passed()?;
    }
    Ok(())
}

/// A deployment to the one target of an environment.
fn order(environment: &str) -> CreateDeployment {
    rolling(environment, "1.0.0", OnFailure::Stop)
}

/// A POST is repeated with its key while the control plane is killed at random moments: before it is read, between the
/// flush and the answer, after the answer. Exactly one deployment is there for each key, and it runs once.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_is_repeated_across_crashes_takes_effect_once() -> Result<()> {
    const ROUNDS: usize = 12;
    let seed = std::env::var("STELLA_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(0).await?;
    let mut agent = cluster.enrolled("web-1", &[]).await?;
    agent.start()?;
    cluster.agents.push(agent);
    let runs = cluster.folder().join("runs");
    let count = format!("echo ${{environment}} >> {}", runs.display());
    cluster.release(&recipe::release("1.0.0", &[], vec![shell("count", &count)])).await?;
    // A target for each round, so that no round has to wait until the agent is back.
    let environments: Vec<String> = (0..ROUNDS).map(|round| format!("round-{round}")).collect();
    for environment in &environments {
        create_environment(&cluster.api, TENANT, environment).await?;
        let mut target = target(environment, environment, "web-1");
        target.slot = Some(environment.clone());
        create_target(&cluster.api, TENANT, &target).await?;
    }

    let mut deployments = BTreeSet::new();
    let mut unanswered = 0;
    for (round, environment) in environments.iter().enumerate() {
        // The POST takes some milliseconds; the crash falls before (surely in the first round), into or after it.
        let latest = 12_000 * u64::try_from(round)? / u64::try_from(ROUNDS)?;
        let delay = Duration::from_micros(random.random_range(0..=latest));
        let first = crash_under(&mut cluster, environment, delay).await?;
        unanswered += usize::from(first.is_none());
        let again = wait::until("the repeated POST is answered", async || {
            Ok(cluster.api.deploy(TENANT, &order(environment), Some(environment)).await?.deployment.id)
        })
        .await?;
        if let Some(first) = first {
            ensure!(
                first == again,
                "seed {seed}: {environment} was answered with {first} and then with {again}"
            );
        }
        ensure!(deployments.insert(again), "seed {seed}: {environment} got the deployment of another key");
    }
    for deployment in &deployments {
        let ended = cluster.wait_final(deployment).await?;
        ensure!(ended.deployment.status == "succeeded", "seed {seed}: {ended:?}");
    }
    let all: Vec<Deployment> = cluster.api.list(&paths::fill(paths::DEPLOYMENTS, &[TENANT]), &[]).await?;
    ensure!(all.len() == ROUNDS, "seed {seed}: {} deployments for {ROUNDS} keys", all.len());
    let mut ran: Vec<String> = std::fs::read_to_string(&runs)?.lines().map(str::to_owned).collect();
    let mut wanted = environments.clone();
    ran.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(ran, wanted, "seed {seed}: each ran once");
    ensure!(unanswered > 0, "seed {seed}: no crash fell before an answer");

    let other = rolling("round-0", "1.0.0", OnFailure::Rollback);
    let refused =
        cluster.api.deploy(TENANT, &other, Some("round-0")).await.err().context("another body was taken")?;
    assert_eq!(refused.into_problem()?.status, 422);
    cluster.passed()
}

/// Waits for a call on a file of the journal.
async fn lay(cluster: &Cluster, call: &str, what: &str, file: &str) -> Result<Ambush> {
    let file = cluster.control_plane.state_dir().join("journal").join(file);
    Ambush::lay(cluster.control_plane.pid()?, call, what, &file, &cluster.folder().join("ambush")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_and_was_never_answered_is_answered_when_it_is_sent_again() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let path = paths::fill(paths::ENVIRONMENTS, &[TENANT]);
    let body = |name: &str| CreateEnvironment { name: name.to_owned(), order: None, way_back_proof: None };
    // The note of what was acknowledged is written after the barrier, and before the answer.
    let ambush = lay(&cluster, "pwrite64", "signal=SIGKILL", "acknowledged").await?;
    let unanswered = cluster.api.post::<_, Environment>(&path, &body("qa"), Some("key")).await;
    ensure!(unanswered.is_err(), "it was answered before its events were durable: {unanswered:?}");
    cluster.control_plane.kill()?;
    drop(ambush);

    cluster.control_plane.resume().await?;
    let all: Vec<Environment> = cluster.api.list(&path, &[]).await?;
    let durable = all.iter().find(|environment| environment.name == "qa");
    let durable = durable.context("the process was killed before the barrier, and not after it")?;
    let again: Environment = cluster.api.post(&path, &body("qa"), Some("key")).await?;
    assert_eq!(again.id, durable.id, "the same request got another answer");
    let other = cluster.api.post::<_, Environment>(&path, &body("other"), Some("key")).await;
    assert_eq!(other.err().context("another body was taken")?.into_problem()?.status, 422);
    cluster.passed()
}

/// The disk reports an error for a flush, and would report success for the next: the process stops, and what was answered is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_fails_stops_the_process_and_loses_nothing_that_was_answered() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let path = paths::fill(paths::ENVIRONMENTS, &[TENANT]);
    let body = |name: &str| CreateEnvironment { name: name.to_owned(), order: None, way_back_proof: None };
    cluster.api.post::<_, Environment>(&path, &body("before"), Some("before")).await?;
    let ambush = lay(&cluster, "fdatasync", "error=EIO:when=1", "db").await?;
    let unanswered = cluster.api.post::<_, Environment>(&path, &body("qa"), Some("key")).await;
    ensure!(unanswered.is_err(), "it was answered, and its flush has failed: {unanswered:?}");
    let status = cluster.control_plane.daemon().wait(Duration::from_secs(60))?;
    ensure!(!status.success(), "it ended as if nothing had happened: {status}");
    drop(ambush);
    let log = cluster.control_plane.daemon().log();
    ensure!(log.contains("fdatasync") && log.contains("the journal failed"), "{log}");

    cluster.control_plane.resume().await?;
    let again: Environment = cluster.api.post(&path, &body("qa"), Some("key")).await?;
    let all: Vec<Environment> = cluster.api.list(&path, &[]).await?;
    let count = |name: &str| all.iter().filter(|environment| environment.name == name).count();
    ensure!(count("before") == 1 && count("qa") == 1, "{all:?}");
    ensure!(all.iter().any(|environment| environment.id == again.id), "{again:?} in {all:?}");
    cluster.passed()
}

/// A disk that hangs is neither slow nor broken: whoever asks is told while it lasts, and everything goes on when it is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_hangs_is_seen_from_outside() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let ambush = lay(&cluster, "fdatasync", "delay_enter=600000000", "db").await?;
    let api = cluster.api.clone();
    let path = paths::fill(paths::ENVIRONMENTS, &[TENANT]);
    let (to, name) = (path.clone(), "qa".to_owned());
    let body = CreateEnvironment { name, order: None, way_back_proof: None };
    let asked = body.clone();
    let hangs = tokio::spawn(async move { api.post::<_, Environment>(&to, &asked, Some("key")).await });
    let get = async |path: &str| cluster.api.answer(cluster.api.request(reqwest::Method::GET, path)).await;
    wait::until("it is not healthy", async || {
        let answer = get(paths::HEALTH).await?;
        let health: serde_json::Value = serde_json::from_slice(&answer.body)?;
        let database = &health["checks"]["database"];
        ensure!(answer.status == 503 && health["status"] == "unhealthy", "{health}");
        ensure!(database["detail"].as_str().is_some_and(|it| it.contains("has waited for")), "{health}");
        ensure!(database["latency"].as_u64().is_some_and(|ms| ms > 5_000), "{health}");
        Ok(())
    })
    .await?;
    ensure!(get(paths::HEALTH_READY).await?.status == 503 && get(paths::HEALTH_LIVE).await?.status == 200);
    let scraped = cluster.control_plane.metrics().await?;
    let waiting = scraped.lines().find_map(|line| line.strip_prefix("stella_journal_flush_waiting_seconds "));
    ensure!(waiting.is_some_and(|it| it.parse::<f64>().is_ok_and(|seconds| seconds > 5.0)), "{waiting:?}");

    // Without its tracer the call goes on.
    drop(ambush);
    // Its answer may have come too late; it is asked for again.
    drop(hangs.await?);
    cluster.api.post::<_, Environment>(&path, &body, Some("key")).await?;
    ensure!(get(paths::HEALTH).await?.status == 200 && get(paths::HEALTH_READY).await?.status == 200);
    cluster.passed()
}

/// Sends the POST, kills the control plane after the delay and starts it again; the answer, if it came before.
async fn crash_under(cluster: &mut Cluster, environment: &str, delay: Duration) -> Result<Option<String>> {
    let (api, environment) = (cluster.api.clone(), environment.to_owned());
    let request =
        tokio::spawn(async move { api.deploy(TENANT, &order(&environment), Some(&environment)).await });
    tokio::time::sleep(delay).await;
    cluster.control_plane.kill()?;
    let answered = request.await?.ok().map(|detail| detail.deployment.id);
    cluster.control_plane.resume().await?;
    Ok(answered)
}
