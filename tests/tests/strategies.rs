//! Strategies on real hosts: what the command line asks for is what the hosts see, in the order in which they see it.

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::DeploymentDetail;
use stella_api_types::event::Event;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::recipe::{release, shell};
use stella_tests::wait;

/// Replaces the targets of a cluster by ones with labels.
fn label(cluster: &Cluster, racks: &[&str]) -> Result<()> {
    for (agent, rack) in cluster.agents.iter().zip(racks) {
        let name = agent.name();
        let (code, said) = cluster.stella(&["target", "remove", name])?;
        ensure!(code == Some(0), "{said}");
        let label = format!("rack={rack}");
        let create = ["target", "create", name, "--env", ENVIRONMENT, "--agent", name, "--label", &label];
        let (code, said) = cluster.stella(&create)?;
        ensure!(code == Some(0), "{said}");
    }
    Ok(())
}

/// The names of the targets that were started, in this order.
fn started(events: &[Event], detail: &DeploymentDetail) -> Vec<String> {
    let ids =
        events.iter().filter(|it| it.kind == "target_started").filter_map(|it| it.data["target"].as_str());
    let name = |id: &str| {
        let part = detail.targets.iter().find(|part| part.target.id == id);
        part.map_or_else(|| id.to_owned(), |part| part.target.name.clone())
    };
    ids.map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn racks_follow_one_another_with_a_pause_and_a_failure_that_is_tolerated() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let names: Vec<String> = cluster.agents.iter().map(|agent| agent.name().to_owned()).collect();
    label(&cluster, &["10", "9", "9"])?;
    // The second host does not like the release.
    std::fs::create_dir_all(cluster.agents[1].host_root())?;
    std::fs::write(cluster.agents[1].host_root().join("broken"), "")?;
    cluster
        .release(&release("1.0.0", &[], vec![shell("run", "echo ran >> ran.txt; test ! -e broken")]))
        .await?;
    let deploy =
        ["deploy", "app:1.0.0", ENVIRONMENT, "--batch", "100%", "--by-domain", "rack", "--pause", "4"];
    let (code, said) = cluster.stella(&[deploy.as_slice(), &["--tolerate", "50%", "--plan"]].concat())?;
    ensure!(
        code == Some(0)
            && said.contains("100% at a time, 4 s of pause after each batch, one rack after the other"),
        "{said}"
    );
    ensure!(said.contains("on failure of more than 50% of them it is rolled back"), "{said}");
    ensure!(said.contains("1 (9)") && said.contains("2 (10)"), "{said}");
    // Who does not say how gets what the environment has.
    let set = ["env", "strategy", ENVIRONMENT, "--batch", "100%", "--by-domain", "rack"];
    let (code, said) = cluster.stella(&set)?;
    ensure!(code == Some(0) && said.contains("100% at a time, one rack after the other"), "{said}");
    let (code, said) = cluster.stella(&["deploy", "app:1.0.0", ENVIRONMENT, "--plan"])?;
    ensure!(code == Some(0) && said.contains("100% at a time, one rack after the other"), "{said}");
    let (code, said) = cluster.stella(&["deploy", "app:1.0.0", ENVIRONMENT, "--batch", "2", "--plan"])?;
    ensure!(code == Some(0) && said.contains("2 at a time,") && !said.contains("rack"), "{said}");
    let labelled = ["deploy", "app:1.0.0", ENVIRONMENT, "--label", "rack=10", "--plan"];
    let (code, said) = cluster.stella(&labelled)?;
    ensure!(code == Some(0) && said.contains(": 1 target,") && said.contains(&names[0]), "{said}");
    let twice = ["deploy", "app:1.0.0", ENVIRONMENT, "--label", "rack=10", "--label", "rack=9"];
    let (code, said) = cluster.stella(&twice)?;
    ensure!(code == Some(2) && said.contains("--label rack=… is given twice"), "{said}");
    let (code, said) = cluster.stella(&["env", "strategy", ENVIRONMENT])?;
    ensure!(code == Some(2) && said.contains("--any"), "{said}");
    let (code, said) = cluster.stella(&["env", "strategy", ENVIRONMENT, "--any"])?;
    ensure!(code == Some(0) && said.contains("one target at a time unless they say how"), "{said}");
    let (code, said) = cluster.stella(&[deploy.as_slice(), &["--minimum-healthy", "3"]].concat())?;
    ensure!(code == Some(3) && said.contains("strategy.minimum_healthy: is 3: of 3 targets none"), "{said}");

    let (code, said) = cluster.stella(&[deploy.as_slice(), &["--tolerate", "50%", "--wait"]].concat())?;
    ensure!(code == Some(0), "{said}");
    ensure!(said.contains("! paused: a batch is complete: 1 of 3 targets have the release"), "{said}");
    ensure!(said.contains("succeeded, but for 1 target that failed"), "{said}");
    let id = said.lines().next().and_then(|line| line.split([' ', ':']).nth(1)).context("no id")?;
    let detail = cluster.api.deployment(TENANT, id).await?;
    let events = cluster.api.events(TENANT).await?;
    ensure!(started(&events, &detail) == [&*names[1], &*names[2], &*names[0]], "{events:?}");
    for agent in 0..3 {
        cluster.wait_lines(agent, "ran.txt", 1).await?;
    }
    cluster.passed()
}

/// Starts a deployment by the command line and does not wait for it.
fn start(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let deploy = ["deploy", "app:1.0.0", ENVIRONMENT, "-o", "json"];
    let (code, said) = cluster.stella(&[deploy.as_slice(), arguments].concat())?;
    ensure!(code == Some(0), "{said}");
    let created: DeploymentDetail = serde_json::from_str(&said).context(said)?;
    Ok(created.deployment.id)
}

/// Waits until a deployment is paused for this.
async fn pauses(cluster: &Cluster, id: &str, cause: &str) -> Result<DeploymentDetail> {
    wait::until(&format!("it pauses for {cause}"), async || {
        let found = cluster.api.deployment(TENANT, id).await?;
        ensure!(found.deployment.paused_for.as_deref() == Some(cause), "{:?}", found.deployment);
        Ok(found)
    })
    .await
}

async fn succeeds(cluster: &Cluster, id: &str) -> Result<DeploymentDetail> {
    let ended = cluster.wait_final(id).await?;
    ensure!(ended.deployment.status == "succeeded", "{:?}", ended.deployment);
    Ok(ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_has_a_failed_host_tried_again_and_leaves_another_alone() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let broken = |agent: usize| cluster.agents[agent].host_root().join("broken");
    for agent in 0..2 {
        std::fs::create_dir_all(cluster.agents[agent].host_root())?;
        std::fs::write(broken(agent), "")?;
    }
    cluster
        .release(&release("1.0.0", &[], vec![shell("run", "echo ran >> ran.txt; test ! -e broken")]))
        .await?;
    let names = [cluster.agents[0].name(), cluster.agents[1].name()];
    let id = start(&cluster, &["--on-failure", "ask"])?;
    pauses(&cluster, &id, "failure").await?;
    let (_, said) = cluster.stella(&["deployment", "show", &id])?;
    ensure!(said.contains("running, paused: 1 target has failed, 0 tolerated"), "{said}");
    let (code, said) = cluster.stella(&["deployment", "resume", &id])?;
    ensure!(code == Some(3) && said.contains("retry or skip the failed targets"), "{said}");
    std::fs::remove_file(broken(0))?;
    let (code, said) = cluster.stella(&["deployment", "retry-target", &id, names[0]])?;
    ensure!(code == Some(0) && said.contains("is tried again"), "{said}");
    // The first host has it now, and the second one fails.
    let asks = wait::until("the second host fails", async || {
        let found = cluster.api.deployment(TENANT, &id).await?;
        let counts = found.deployment.counts;
        ensure!(counts.succeeded == 1 && counts.failed == 1, "{counts:?}");
        Ok(found)
    })
    .await?;
    ensure!(asks.deployment.status == "running", "{:?}", asks.deployment);
    let (code, said) = cluster.stella(&["deployment", "skip", &id, names[1], "--reason", "no power"])?;
    ensure!(code == Some(0) && said.contains("is left alone"), "{said}");
    let ended = succeeds(&cluster, &id).await?;
    let left = &ended.targets[1];
    ensure!((left.progress.as_str(), left.reason.as_deref()) == ("skipped", Some("no power")), "{left:?}");
    cluster.wait_lines(0, "ran.txt", 2).await?;
    cluster.wait_lines(1, "ran.txt", 1).await?;

    let id = start(&cluster, &["--on-failure", "ask", "--all-at-once"])?;
    pauses(&cluster, &id, "failure").await?;
    let give_up = ["deployment", "fail", &id, "--rollback", "--reason", "enough"];
    let (code, said) = cluster.stella(&give_up)?;
    ensure!(code == Some(0) && said.contains("is "), "{said}");
    let ended = cluster.wait_final(&id).await?;
    ensure!(ended.deployment.reason.as_ref().is_some_and(|it| it.starts_with("enough")), "{ended:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_to_other_hosts_wait_for_the_budget_that_they_share() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let wait_for_go = "echo ran >> ran.txt; until test -e go; do sleep 0.05; done";
    cluster.release(&release("1.0.0", &[], vec![shell("run", wait_for_go)])).await?;
    let (code, said) = cluster.stella(&["env", "budget", ENVIRONMENT, "--at-most", "1"])?;
    ensure!(code == Some(0) && said.contains("at most 1 target of"), "{said}");
    let names = [cluster.agents[0].name(), cluster.agents[1].name()];
    let first = start(&cluster, &["--target", names[0]])?;
    cluster.wait_lines(0, "ran.txt", 1).await?;
    let second = start(&cluster, &["--target", names[1]])?;
    pauses(&cluster, &second, "budget").await?;
    let (_, said) = cluster.stella(&["deployment", "show", &second])?;
    ensure!(said.contains("1 targets are at risk, at most 1 may be"), "{said}");
    let (_, said) = cluster.stella(&["env", "list"])?;
    ensure!(said.contains("1/1"), "{said}");
    ensure!(cluster.agents[1].read("ran.txt").is_empty(), "it was not its turn");
    std::fs::write(cluster.agents[0].host_root().join("go"), "")?;
    succeeds(&cluster, &first).await?;
    cluster.wait_lines(1, "ran.txt", 1).await?;
    std::fs::write(cluster.agents[1].host_root().join("go"), "")?;
    succeeds(&cluster, &second).await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_waits_for_many_silent_hosts_and_nothing_fails() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let wait_for_go = "echo ran >> ran.txt; until test -e go; do sleep 0.05; done";
    cluster.release(&release("1.0.0", &[], vec![shell("run", wait_for_go)])).await?;
    for agent in 1..3 {
        std::fs::create_dir_all(cluster.agents[agent].host_root())?;
        std::fs::write(cluster.agents[agent].host_root().join("go"), "")?;
    }
    let rule = ["env", "silence", ENVIRONMENT, "--share", "50", "--within", "600"];
    let (code, said) = cluster.stella(&rule)?;
    ensure!(code == Some(0) && said.contains("pause when more than 50% of its agents"), "{said}");
    let id = start(&cluster, &["--batch", "1"])?;
    cluster.wait_lines(0, "ran.txt", 1).await?;
    for agent in 1..3 {
        cluster.agents[agent].stop()?;
    }
    let paused = pauses(&cluster, &id, "silence").await?;
    ensure!(paused.deployment.counts.failed == 0 && paused.deployment.counts.active == 1, "{paused:?}");
    let (_, said) = cluster.stella(&["env", "list"])?;
    ensure!(said.contains("silent since"), "{said}");
    std::fs::write(cluster.agents[0].host_root().join("go"), "")?;
    wait::until("the host that is heard has it", async || {
        let counts = cluster.api.deployment(TENANT, &id).await?.deployment.counts;
        ensure!(counts.succeeded == 1 && counts.waiting == 2, "{counts:?}");
        Ok(())
    })
    .await?;
    for agent in 1..3 {
        cluster.agents[agent].start()?;
    }
    let ended = succeeds(&cluster, &id).await?;
    ensure!(ended.deployment.counts.succeeded == 3 && ended.rollbacks.is_empty(), "{ended:?}");
    let events = cluster.api.events(TENANT).await?;
    let count = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
    ensure!((count("environment_went_silent"), count("environment_heard_again")) == (1, 1), "{events:?}");
    cluster.passed()
}
