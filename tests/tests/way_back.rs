//! The proof that a deployment could go back, with real hosts: what was lost or changed there by hand is found before anything is
//! changed, and a host that is away holds nobody up for ever.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use stella_api_types::deployment::{DeploymentDetail, OnFailure};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::people::Shell;
use stella_tests::recipe::{archive, artifact, release, rolling, shell};
use stella_tests::wait;

/// Hosts that have `app:1.0.0`, in an environment that requires the proof; 2.0.0 and 3.0.0 are there to deploy.
async fn start(agents: usize) -> Result<Cluster> {
    let cluster = Cluster::start(agents).await?;
    for version in ["1.0.0", "2.0.0", "3.0.0"] {
        let archive = archive(&[("bin/web", "#!/bin/sh\n"), ("version", version)])?;
        let digest = cluster.api.upload(TENANT, &archive).await?;
        let steps = vec![artifact("web"), shell("note", "echo ${version} >> versions")];
        cluster.release(&release(version, &[("web", &digest)], steps)).await?;
    }
    let said = Shell::of(&cluster, "ruler", "admin").await?.ok(&[
        "env",
        "way-back-proof",
        ENVIRONMENT,
        "required",
    ])?;
    ensure!(said.contains("begin when all hosts have proven"), "{said}");
    let first = cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    ensure!(first.deployment.status == "succeeded", "{first:?}");
    ensure!(first.deployment.way_back.is_none(), "nothing was there to go back to: {first:?}");
    Ok(cluster)
}

/// What the command line says when it has to fail.
fn refused(shell: &Shell<'_>, arguments: &[&str]) -> Result<String> {
    let (code, said) = shell.run(arguments)?;
    ensure!(code.is_some_and(|code| code != 0), "{arguments:?} went well: {said}");
    Ok(said)
}

async fn deploy(cluster: &Cluster, version: &str) -> Result<String> {
    let wanted = rolling(ENVIRONMENT, version, OnFailure::Stop);
    Ok(cluster.api.deploy(TENANT, &wanted, None).await?.deployment.id)
}

/// Waits until a deployment is held for the proof; why.
async fn held(cluster: &Cluster, id: &str) -> Result<String> {
    wait::until("it is held", async || {
        let found = cluster.api.deployment(TENANT, id).await?.deployment;
        ensure!(found.paused_for.as_deref() == Some("way_back"), "{found:?}");
        Ok(found.paused.context("a pause has a reason")?.reason)
    })
    .await
}

fn states(detail: &DeploymentDetail) -> Vec<&str> {
    let proofs = detail.targets.iter().map(|target| target.way_back.as_ref());
    proofs.map(|proof| proof.map_or("-", |it| it.state.as_str())).collect()
}

/// A file of the release that is current on a host.
fn file(cluster: &Cluster, agent: usize, path: &str) -> PathBuf {
    cluster.agents[agent].host_root().join("web/current").join(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_was_damaged_by_hand_holds_the_next_one_until_somebody_waives_it() -> Result<()> {
    let cluster = start(2).await?;
    let boss = Shell::of(&cluster, "boss", "operator").await?;
    let dev = Shell::of(&cluster, "dev", "deployer").await?;
    let second = cluster.wait_final(&deploy(&cluster, "2.0.0").await?).await?;
    ensure!(second.deployment.status == "succeeded", "{second:?}");
    assert_eq!(states(&second), ["proven", "proven"]);
    let proof = second.targets[0].way_back.as_ref().context("a proof")?;
    assert_eq!((proof.files, proof.bytes), (Some(2), Some(10 + 5)));

    std::fs::write(file(&cluster, 1, "version"), "2.0.1")?;
    let plan = dev.ok(&["deploy", "app:3.0.0", ENVIRONMENT, "--plan"])?;
    ensure!(plan.contains("proven"), "{plan}");
    ensure!(plan.contains("its way back is refuted: web 2.0.0: version is not what was unpacked"), "{plan}");

    let third = deploy(&cluster, "3.0.0").await?;
    assert_eq!(
        held(&cluster, &third).await?,
        "it is not proven that it could go back on web-2 (web 2.0.0: version is not what was unpacked)"
    );
    let shown = boss.ok(&["deployment", "show", &third])?;
    ensure!(shown.contains("refuted") && shown.contains("way back: web 2.0.0"), "{shown}");
    for agent in &cluster.agents {
        assert_eq!(agent.read("versions"), "1.0.0\n2.0.0\n", "nothing was changed");
    }
    let said = refused(&dev, &["deployment", "resume", &third])?;
    ensure!(said.contains("ask again (prove)"), "{said}");
    let said = refused(&dev, &["deployment", "waive", &third, "--reason", "in a hurry"])?;
    ensure!(said.contains("needs the role operator"), "{said}");
    let again = dev.ok(&["deployment", "prove", &third])?;
    ensure!(again.contains("2 targets are asked"), "{again}");
    held(&cluster, &third).await?;

    let waived = wait::until("it is waived", async || {
        boss.ok(&["deployment", "waive", &third, "--reason", "2.0.0 is broken anyway"])
    });
    ensure!(waived.await?.contains("goes on"), "it does not");
    let ended = cluster.wait_final(&third).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    let kept = ended.deployment.way_back.clone().and_then(|it| it.waived).context("for ever")?;
    assert_eq!(kept.reason, "2.0.0 is broken anyway");
    assert_eq!(states(&ended), ["proven", "refuted"]);

    // Gone back to, it is as it was: what is damaged is brought again before it is switched to.
    let back = cluster.wait_final(&deploy(&cluster, "2.0.0").await?).await?;
    ensure!(back.deployment.status == "succeeded", "{back:?}");
    assert_eq!(std::fs::read_to_string(file(&cluster, 1, "version"))?, "2.0.0");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_is_missed_and_what_is_put_back_is_found() -> Result<()> {
    let cluster = start(2).await?;
    let boss = Shell::of(&cluster, "boss", "deployer").await?;
    let lost = file(&cluster, 0, "bin/web");
    std::fs::rename(&lost, cluster.folder().join("web"))?;
    let second = deploy(&cluster, "2.0.0").await?;
    let why = held(&cluster, &second).await?;
    ensure!(why.contains("web-1 (web 1.0.0: bin/web is missing)"), "{why}");
    std::fs::rename(cluster.folder().join("web"), &lost)?;
    boss.ok(&["deployment", "prove", &second])?;
    let ended = cluster.wait_final(&second).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    assert_eq!(states(&ended), ["proven", "proven"]);
    assert_eq!(ended.deployment.way_back.context("it was asked")?.asked, 2);
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_is_asked_when_it_is_back() -> Result<()> {
    let mut cluster = start(2).await?;
    cluster.agents[1].stop()?;
    cluster.wait_connectivity("web-2", "offline").await?;
    let second = deploy(&cluster, "2.0.0").await?;
    let why = held(&cluster, &second).await?;
    ensure!(why.ends_with("web-2 (its agent web-2 is offline)"), "{why}");
    cluster.agents[1].start()?;
    let ended = cluster.wait_final(&second).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    assert_eq!(states(&ended), ["proven", "proven"]);
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_goes_on_after_kill_9_of_the_control_plane() -> Result<()> {
    let mut cluster = start(2).await?;
    // It has just left, and may be back at once: its answer is waited for.
    cluster.agents[1].stop()?;
    let second = deploy(&cluster, "2.0.0").await?;
    wait::until("one has answered", async || {
        let detail = cluster.api.deployment(TENANT, &second).await?;
        ensure!(states(&detail) == ["proven", "asked"], "{detail:?}");
        Ok(())
    })
    .await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    let detail = cluster.api.deployment(TENANT, &second).await?;
    assert_eq!(states(&detail), ["proven", "asked"], "what was said is kept, and what was asked");
    assert_eq!(cluster.agents[0].read("versions"), "1.0.0\n");
    cluster.agents[1].start()?;
    let ended = cluster.wait_final(&second).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    assert_eq!(ended.deployment.way_back.context("it was asked")?.asked, 1, "once");
    for agent in &cluster.agents {
        assert_eq!(agent.read("versions"), "1.0.0\n2.0.0\n");
    }
    cluster.passed()
}
