//! The way of a release with real hosts: which channels it is in, what comes to the next environment by itself, and who may let it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_environment, create_target, target};
use stella_tests::people::{Shell, promotion};
use stella_tests::recipe::{release, shell};
use stella_tests::wait;

/// A release that writes its version on the host.
fn named(version: &str) -> stella_api_types::release::CreateRelease {
    release(version, &[], vec![shell("run", "echo ${version} > version.txt")])
}

/// A cluster with an agent in production as well.
async fn with_production() -> Result<Cluster> {
    let mut cluster = Cluster::start(1).await?;
    add_environment(&mut cluster, "production", "web-9").await?;
    Ok(cluster)
}

/// One more environment, with an agent and its target.
async fn add_environment(cluster: &mut Cluster, name: &str, host: &str) -> Result<()> {
    create_environment(&cluster.api, TENANT, name).await?;
    let mut agent = cluster.enrolled(host, &[]).await?;
    create_target(&cluster.api, TENANT, &target(name, host, host)).await?;
    agent.start()?;
    cluster.agents.push(agent);
    cluster.wait_online(host).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_soaked_comes_by_itself_through_a_crash_and_not_by_the_word_of_who_chose_it() -> Result<()> {
    let mut cluster = with_production().await?;
    let (boss, qa) =
        (Shell::of(&cluster, "boss", "admin").await?, Shell::of(&cluster, "qa", "approver").await?);
    cluster.release(&named("1.0.0")).await?;
    boss.ok(&["env", "path", "production", "--after", ENVIRONMENT, "--soak", "5s", "--auto"])?;
    boss.ok(&["env", "approvals", "production", "--needed", "1"])?;
    boss.ok(&["deploy", "app:1.0.0", ENVIRONMENT, "--wait"])?;
    let (code, said) = boss.run(&["deploy", "app:1.0.0", "production"])?;
    ensure!(code == Some(3) && said.contains("has to prove itself in staging"), "{said}");
    // The time is in the journal.
    let tokens = (boss.token(), qa.token());
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let (boss, qa) = (Shell::again(&cluster, tokens.0), Shell::again(&cluster, tokens.1));
    let asked = wait::until("it is asked for", async || {
        let said = boss.ok(&["promotion", "list", "--env", "production", "-o", "json"])?;
        let listed: Value = serde_json::from_str(&said)?;
        Ok(listed[0]["id"].as_str().context("nothing is asked for")?.to_owned())
    })
    .await?;
    ensure!(cluster.agents[1].read("version.txt").is_empty(), "it came before it was approved");
    let found = promotion(&cluster.api, &asked).await?;
    ensure!(found.status == "pending" && found.chosen_by.len() == 1, "{found:?}");
    let said = qa.ok(&["promotion", "show", &asked])?;
    ensure!(said.contains("asked for by stella") && said.contains("chosen by boss"), "{said}");
    let (code, said) = boss.run(&["promotion", "approve", &asked])?;
    ensure!(code == Some(3) && said.contains("nobody approves what they have chosen"), "{said}");
    qa.ok(&["promotion", "approve", &asked, "--reason", "it has soaked"])?;
    let ended = cluster.wait_final(&asked).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    ensure!(cluster.agents[1].read("version.txt") == "1.0.0\n", "{ended:?}");

    // What was taken back in the environment before comes no further.
    cluster.release(&named("2.0.0")).await?;
    boss.ok(&["env", "path", "production", "--after", ENVIRONMENT, "--soak", "1h", "--auto"])?;
    boss.ok(&["deploy", "app:2.0.0", ENVIRONMENT, "--wait"])?;
    let listed: Value = serde_json::from_str(&boss.ok(&["deployment", "list", "-o", "json"])?)?;
    let all = listed.as_array().context("a list")?;
    let second = all.iter().find(|it| it["release"]["version"] == "2.0.0");
    let second = second.and_then(|it| it["id"].as_str()).with_context(|| listed.to_string())?;
    boss.ok(&["rollback", second, "--wait"])?;
    let said = wait::until("why it does not come", async || {
        let said = boss.ok(&["events", "--type", "release_disproven"])?;
        ensure!(said.contains("release_disproven"), "{said}");
        Ok(said)
    })
    .await?;
    let listed = boss.ok(&["promotion", "list", "--env", "production"])?;
    ensure!(!listed.contains("2.0.0"), "{said}\n{listed}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hotfix_has_a_way_of_its_own_and_two_regions_have_to_be_through_both() -> Result<()> {
    let mut cluster = with_production().await?;
    add_environment(&mut cluster, "hotfix", "web-5").await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    for version in ["1.0.0", "1.0.1"] {
        cluster.release(&named(version)).await?;
    }
    let staging = format!("{ENVIRONMENT}:24h");
    let both = ["env", "path", "production", "--after", &staging, "--after", "hotfix"];
    let (code, said) = boss.run(&both)?;
    ensure!(code == Some(2) && said.contains("--any") && said.contains("--all"), "{said}");
    let said = boss.ok(&[&both[..], &["--any"]].concat())?;
    ensure!(said.contains(&format!("{ENVIRONMENT} (+1 d) or hotfix")), "{said}");
    let said = boss.ok(&["env", "show", "production"])?;
    ensure!(said.contains(&format!("what has succeeded in {ENVIRONMENT} (+1 d) or hotfix")), "{said}");
    let (code, said) = boss.run(&["env", "path", "hotfix", "--after", "production"])?;
    ensure!(code == Some(3) && said.contains("hotfix would come before itself"), "{said}");

    boss.ok(&["deploy", "app:1.0.0", ENVIRONMENT, "--wait"])?;
    let (code, said) = boss.run(&["deploy", "app:1.0.0", "production"])?;
    ensure!(code == Some(3) && said.contains("by one of these ways"), "{said}");
    boss.ok(&["deploy", "app:1.0.1", "hotfix", "--wait"])?;
    let said = boss.ok(&["deploy", "app:1.0.1", "production", "--plan"])?;
    ensure!(said.contains("has succeeded in hotfix"), "{said}");
    boss.ok(&["deploy", "app:1.0.1", "production", "--wait"])?;
    ensure!(cluster.agents[1].read("version.txt") == "1.0.1\n");

    let all = ["env", "path", "production", "--after", ENVIRONMENT, "--after", "hotfix", "--all", "--auto"];
    let said = boss.ok(&all)?;
    ensure!(said.contains(&format!("{ENVIRONMENT} and hotfix, by themselves")), "{said}");
    cluster.release(&named("1.1.0")).await?;
    boss.ok(&["deploy", "app:1.1.0", "hotfix", "--wait"])?;
    let (code, said) = boss.run(&["deploy", "app:1.1.0", "production"])?;
    let lacks = format!("must succeed on all targets of {ENVIRONMENT}");
    ensure!(code == Some(3) && said.contains(&lacks), "{said}");
    boss.ok(&["deploy", "app:1.1.0", ENVIRONMENT, "--wait"])?;
    wait::until("it has come by itself", async || {
        let there = cluster.agents[1].read("version.txt");
        ensure!(there == "1.1.0\n", "{there}");
        Ok(())
    })
    .await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_takes_what_its_channels_have_and_goes_back_to_what_was_there() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    boss.ok(&["channel", "set", "app", "stable"])?;
    boss.ok(&["channel", "set", "app", "beta", "--pre-release", "beta"])?;
    for version in ["1.0.0", "1.2.0-beta.1", "1.1.0"] {
        cluster.release(&named(version)).await?;
    }
    let said = boss.ok(&["release", "list", "--channel", "beta"])?;
    ensure!(said.contains("1.2.0-beta.1") && !said.contains("1.1.0"), "{said}");
    let on_the_host = || cluster.agents[0].read("version.txt");

    boss.ok(&["env", "channels", ENVIRONMENT, "--take", "beta"])?;
    let (code, said) = boss.run(&["deploy", "app:1.1.0", ENVIRONMENT])?;
    ensure!(code == Some(3) && said.contains("takes releases from beta only"), "{said}");
    boss.ok(&["deploy", "app:1.2.0-beta.1", ENVIRONMENT, "--wait"])?;
    ensure!(on_the_host() == "1.2.0-beta.1\n", "{}", on_the_host());

    // Of a channel the newest comes, whenever it was registered; what has come before stays.
    let said = boss.ok(&["env", "channels", ENVIRONMENT, "--take", "stable"])?;
    ensure!(said.contains("takes releases from stable only"), "{said}");
    boss.ok(&["deploy", "app", ENVIRONMENT, "--channel", "stable", "--wait"])?;
    ensure!(on_the_host() == "1.1.0\n", "{}", on_the_host());
    let (code, said) = boss.run(&["deploy", "app:1.2.0-beta.1", ENVIRONMENT])?;
    ensure!(code == Some(3) && said.contains("takes releases from stable only"), "{said}");

    // A rule that is set later is for later releases, and a way back needs no channel.
    boss.ok(&["channel", "set", "app", "stable", "--versions", ">=2"])?;
    boss.ok(&["env", "channels", ENVIRONMENT, "--any"])?;
    boss.ok(&["deploy", "app:1.2.0-beta.1", ENVIRONMENT, "--wait"])?;
    boss.ok(&["env", "channels", ENVIRONMENT, "--take", "stable"])?;
    cluster.release(&release("2.0.0", &[], vec![shell("run", "echo 2.0.0 > version.txt; exit 1")])).await?;
    let (code, said) = boss.run(&["deploy", "app", ENVIRONMENT, "--channel", "stable", "--wait"])?;
    ensure!(code == Some(1) && said.contains("2.0.0"), "{said}");
    wait::until("the beta is back", async || {
        ensure!(on_the_host() == "1.2.0-beta.1\n", "{}", on_the_host());
        Ok(())
    })
    .await?;
    cluster.passed()
}
