//! One host after the other, and what happens to hosts meanwhile.

use std::fs;

use anyhow::{Result, ensure};
use stella_tests::packaged::install_only;
use stella_tests::wait;

use crate::hosts::{Fleet, Load, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_serves_while_it_is_deployed_to_cut_off_rebooted_upgraded_and_taken_down() -> Result<()> {
    let mut fleet = Fleet::with_web_service().await?;

    // One host at a time, and nobody notices.
    let load = Load::begin(&fleet)?;
    fleet.deployed("1.1.0")?;
    // A version that is not well is taken back, and nobody notices.
    fleet.release("1.2.0", true)?;
    let broken = fleet.begin("1.2.0")?;
    fleet.ends(&broken, "failed").await?;
    wait::until_within(PATIENCE, "both serve the version before", async || fleet.both_serve("1.1.0")).await?;
    load.end()?;

    // The cable is pulled in the middle of a task. Nothing is failed, and it goes on when the host is heard again.
    fleet.release("1.3.0", false)?;
    let held = fs::read_to_string(fleet.web[1].root().join("srv/stella/held"))?.lines().count();
    fs::write(fleet.web[1].root().join("srv/stella/hold"), "")?;
    let deployment = fleet.begin("1.3.0")?;
    fleet.held(2, held + 1).await?;
    fleet.cables[1].pull()?;
    fleet.connectivity(2, "suspect").await?;
    fs::remove_file(fleet.web[1].root().join("srv/stella/hold"))?;
    fleet.cables[1].plug()?;
    fleet.succeeds(&deployment).await?;
    fleet.both_serve("1.3.0")?;
    fleet.held(2, held + 1).await?;

    // The agent is killed in the middle of a task, and its packages are replaced: the task's own end counts.
    fleet.release("1.4.0", false)?;
    let held = fs::read_to_string(fleet.web[0].root().join("srv/stella/held"))?.lines().count();
    fs::write(fleet.web[0].root().join("srv/stella/hold"), "")?;
    let deployment = fleet.begin("1.4.0")?;
    fleet.held(1, held + 1).await?;
    install_only(&fleet.web[0], &["stella-agent"])?;
    install_only(&fleet.control_plane, &["stella", "stella-orchestrator"])?;
    fleet.connectivity(1, "online").await?;
    fs::remove_file(fleet.web[0].root().join("srv/stella/hold"))?;
    fleet.succeeds(&deployment).await?;
    fleet.both_serve("1.4.0")?;

    // A host loses its power; unit and agent are there again, and so is the control plane after its own.
    fleet.web[0].cut_power().await?;
    fleet.control_plane.cut_power().await?;
    for number in [1, 2] {
        fleet.connectivity(number, "online").await?;
    }
    wait::until_within(PATIENCE, "both serve again", async || fleet.both_serve("1.4.0")).await?;
    fleet.deployed("1.5.0")?;

    // Who is revoked is cut off, and who is purged leaves nothing.
    fleet.stella("agent revoke web-2 --reason 'taken down'")?;
    wait::until("the revoked agent has ended for good", async || {
        let said = fleet.web[1].run("journalctl -u stella-agent -n 50")?;
        ensure!(said.contains("revoked"), "{said}");
        Ok(())
    })
    .await?;
    fleet.web[0].run("dpkg --purge stella-agent")?;
    let left = fleet.web[0].run(
        "find / -xdev -name '*stella*' -not -path '/proc/*' -not -path '/root/*' -not -path '/srv/stella*' -not -path '/var/cache/*'",
    )?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    fleet.both_serve("1.5.0")
}
