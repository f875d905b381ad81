//! The guide from staging to production, as an admin and two people follow it: block by block, by their shells.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use stella_tests::cluster::{Cluster, ENVIRONMENT};
use stella_tests::guide::{Terminal, blocks};

/// Two agents, and nothing that they serve.
async fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::start(0).await?;
    for name in ["web-1", "web-2"] {
        let mut agent = cluster.enrolled(name, &[]).await?;
        agent.start()?;
        cluster.agents.push(agent);
        cluster.wait_online(name).await?;
    }
    Ok(cluster)
}

/// The id in what is said of a promotion that waits.
fn id_of(said: &str) -> Result<&str> {
    let line = said.lines().find_map(|line| line.strip_prefix("promotion "));
    line.and_then(|line| line.split(' ').next()).with_context(|| format!("no promotion in {said}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_from_staging_to_production_is_true() -> Result<()> {
    let cluster = cluster().await?;
    let folder = cluster.folder().join("reader");
    fs::create_dir_all(&folder)?;
    let guide = "guides/staging-to-production";
    let [steps] = &blocks(guide, "json")?[..] else { anyhow::bail!("the guide has other steps") };
    fs::write(folder.join("steps.json"), steps)?;
    let blocks = blocks(guide, "sh")?;
    // The same command is refused first, and taken later.
    let [places, rules, make, early, staging, production, decide, watch, freeze, unfreeze, back, block] =
        &blocks[..]
    else {
        anyhow::bail!("the guide has other blocks: {blocks:#?}")
    };
    ensure!(early == production, "{early} is not {production}");
    let admin = Terminal::open(&cluster, &folder, None);
    admin.ok(places)?;
    let said = admin.ok(rules)?;
    ensure!(said.contains(ENVIRONMENT) && said.contains("change-ticket"), "{said}");
    let ada = |version| Terminal::open(&cluster, &folder, Some("ada-token")).with("VERSION", version);
    let ben = |promotion| Terminal::open(&cluster, &folder, Some("ben-token")).with("PROMOTION", promotion);

    ada("1.0.0").ok(make)?;
    let (code, said) = ada("1.0.0").run(production)?;
    ensure!(code == Some(3) && said.contains(ENVIRONMENT), "{code:?}: {said}");
    ada("1.0.0").ok(staging)?;
    let said = ada("1.0.0").ok(production)?;
    let first = id_of(&said)?;
    let said = ben(first).ok(decide)?;
    ensure!(said.contains("web-2") && said.contains("has started"), "{said}");
    let said = ada("1.0.0").with("PROMOTION", first).ok(watch)?;
    ensure!(said.contains("now has 1.0.0"), "{said}");

    admin.ok(freeze)?;
    ada("1.1.0").ok(make)?;
    ada("1.1.0").ok(staging)?;
    let said = ada("1.1.0").ok(production)?;
    let second = id_of(&said)?;
    let said = ben(second).ok(decide)?;
    ensure!(said.contains("starts when the freeze ends"), "{said}");
    ensure!(cluster.agents[1].read("web/current/VERSION") == "1.0.0\n", "the freeze did not hold");
    admin.ok(unfreeze)?;
    let ada = ada("1.1.0").with("PROMOTION", second);
    let said = ada.ok(watch)?;
    ensure!(said.contains("now has 1.1.0"), "{said}");
    ada.ok(back)?;
    ensure!(cluster.agents[1].read("web/current/VERSION") == "1.0.0\n", "it did not go back");
    admin.with("VERSION", "1.1.0").ok(block)?;
    let (code, said) = ada.run(staging)?;
    ensure!(code == Some(3) && said.contains("it loses orders"), "{code:?}: {said}");
    cluster.passed()
}
