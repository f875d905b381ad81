//! Strategies on real hosts: what the command line asks for is what the hosts see, in the order in which they see it.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::DeploymentDetail;
use stella_api_types::event::Event;
use stella_tests::binaries;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::recipe::{release, shell};

/// What the command line ended with and said, on both outputs.
fn stella(cluster: &Cluster, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(cluster.control_plane.stella_flags()).args(["-t", TENANT]).args(arguments);
    let ended = stella.stdin(Stdio::null()).output()?;
    Ok((ended.status.code(), String::from_utf8([ended.stdout, ended.stderr].concat())?))
}

/// Replaces the targets of a cluster by ones with labels.
fn label(cluster: &Cluster, racks: &[&str]) -> Result<()> {
    for (agent, rack) in cluster.agents.iter().zip(racks) {
        let name = agent.name();
        let (code, said) = stella(cluster, &["target", "remove", name])?;
        ensure!(code == Some(0), "{said}");
        let label = format!("rack={rack}");
        let create = ["target", "create", name, "--env", ENVIRONMENT, "--agent", name, "--label", &label];
        let (code, said) = stella(cluster, &create)?;
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
        ["deploy", "app:1.0.0", ENVIRONMENT, "--batch", "100%", "--by-domain", "rack", "--pause", "1"];
    let (code, said) = stella(&cluster, &[deploy.as_slice(), &["--tolerate", "50%", "--plan"]].concat())?;
    ensure!(
        code == Some(0)
            && said.contains("100% at a time, 1 s of pause after each batch, one rack after the other"),
        "{said}"
    );
    ensure!(said.contains("on failure of more than 50% of them it is rolled back"), "{said}");
    ensure!(said.contains("1 (9)") && said.contains("2 (10)"), "{said}");
    let (code, said) = stella(&cluster, &[deploy.as_slice(), &["--minimum-healthy", "3"]].concat())?;
    ensure!(code == Some(3) && said.contains("strategy.minimum_healthy: is 3: of 3 targets none"), "{said}");

    let (code, said) = stella(&cluster, &[deploy.as_slice(), &["--tolerate", "50%", "--wait"]].concat())?;
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
