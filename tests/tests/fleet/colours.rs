//! Two colours on each host, and what else is exchanged while it works: the authority, and the programs themselves.

use std::fs;

use anyhow::{Result, ensure};
use stella_tests::wait;

use crate::hosts::{BLUE_GREEN, Fleet, Load, PATIENCE, block};

/// Hosts and steps of the guide, and its first release.
async fn with_colours() -> Result<Fleet> {
    let fleet = Fleet::boot("colours").await?;
    for host in &fleet.web {
        let etc = host.root().join("etc");
        fs::write(etc.join("systemd/system/web@.service"), block(BLUE_GREEN, "below `/srv/stella`")?)?;
        fs::write(
            etc.join("nginx/sites-available/default"),
            block(BLUE_GREEN, "where that agent may write")?,
        )?;
        host.run(block(BLUE_GREEN, "Once on each host")?)?;
    }
    fleet.stella("env create production")?;
    for name in ["web-1", "web-2"] {
        let ports = "--var port_blue=8001 --var port_green=8002";
        fleet.stella(&format!("target create {name} --env production --agent {name} {ports}"))?;
    }
    fleet.stella("env strategy production --strategy blue-green --warm-up 1s")?;
    let steps = block(BLUE_GREEN, "their steps are")?;
    fs::write(fleet.control_plane.root().join("root/steps.json"), steps)?;
    fleet.deployed("2.0.0")?;
    Ok(fleet)
}

impl Fleet {
    /// The process of a unit is killed, and another one does its work.
    async fn comes_back_when_killed(&self, host: &stella_tests::host::Host, unit: &str) -> Result<()> {
        let process = || host.run(&format!("systemctl show -P MainPID {unit}"));
        let before = process()?;
        host.run(&format!("systemctl kill -s KILL {unit}"))?;
        wait::until_within(PATIENCE, &format!("{unit} is there again"), async || {
            let active = host.run(&format!("systemctl is-active {unit} || true"))?;
            ensure!(active.trim() == "active" && process()? != before, "it is {active}");
            Ok(())
        })
        .await
    }

    /// The root is replaced while the second host cannot be reached.
    async fn replace_the_root(&self) -> Result<()> {
        let authority = |what: &str| self.control_plane.run(&format!("stella-orchestrator ca {what}"));
        self.cables[1].pull()?;
        self.connectivity(2, "suspect").await?;
        authority("rotate start")?;
        authority("rotate switch")?;
        let refused = authority("rotate finish").err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(refused.contains("web-2"), "who would be cut off is not named: {refused}");
        self.cables[1].plug()?;
        wait::until_within(PATIENCE, "nobody would be cut off", async || {
            authority("rotate finish").map(drop)
        })
        .await?;
        for number in [1, 2] {
            self.connectivity(number, "online").await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_the_authority_and_processes_change_under_load() -> Result<()> {
    let mut fleet = with_colours().await?;
    let load = Load::begin(&fleet)?;
    fleet.release("2.1.0", false)?;
    let second = fleet.begin("2.1.0")?;
    fleet.succeeds(&second).await?;
    fleet.both_serve("2.1.0")?;
    // Never seen: it is not well in its own colour.
    fleet.release("2.2.0", true)?;
    let broken = fleet.begin("2.2.0")?;
    fleet.ends(&broken, "failed").await?;
    fleet.both_serve("2.1.0")?;
    load.end()?;

    fleet.replace_the_root().await?;
    let load = Load::begin(&fleet)?;
    fleet.deployed("2.3.0")?;
    for (host, unit) in [(&fleet.web[0], "stella-agent"), (&fleet.control_plane, "stella-orchestrator")] {
        fleet.comes_back_when_killed(host, unit).await?;
    }
    for number in [1, 2] {
        fleet.connectivity(number, "online").await?;
    }
    // Back by a switch alone: the colour before is still there.
    let last = fleet.stella("deployment list --output json")?;
    let last: serde_json::Value = serde_json::from_str(&last)?;
    let newest = last.as_array().into_iter().flatten().find(|it| it["release"]["version"] == "2.3.0");
    let newest = newest.and_then(|it| it["id"].as_str()).unwrap_or_default().to_owned();
    fleet.stella(&format!("rollback {newest} --wait"))?;
    fleet.both_serve("2.1.0")?;
    load.end()?;

    // What is live is so after a restart of its host too.
    fleet.web[0].cut_power().await?;
    wait::until_within(PATIENCE, "both serve again", async || fleet.both_serve("2.1.0")).await
}
