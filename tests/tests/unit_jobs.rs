//! What becomes of a unit when the task that asked for it is stopped, on a host with systemd.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{STELLA, install, serving};
use stella_tests::wait;

/// `slow` stops, and `proxy` reloads, once the test lets it.
const UNITS: &str = "
    printf '[Service]\\nExecStart=/bin/sleep infinity\\nExecStop=/bin/sh -c \"until test -e /run/stop; do sleep 0.1; done\"\\n' \
        > /etc/systemd/system/slow.service
    printf '[Service]\\nExecStart=/bin/sleep infinity\\nExecReload=/bin/sh -c \"until test -e /run/reload; do sleep 0.1; done\"\\n' \
        > /etc/systemd/system/proxy.service
    systemctl daemon-reload && systemctl start slow proxy";

/// Deploys a release whose one step is the action on the unit, and gives the deployment.
fn deploy(host: &Host, name: &str, environment: &str, unit: &str, action: &str) -> Result<String> {
    let steps = format!(
        r#"[{{"name": "act", "timeout_ms": 600000, "action": {{"type": "systemd", "unit": "{unit}", "action": "{action}"}}}}]"#
    );
    fs::write(host.root().join("root/steps.json"), steps)?;
    let made = host.run(&format!(
        "{STELLA} release create {name} 1.0.0 --steps /root/steps.json > /dev/null
         {STELLA} deploy {name}:1.0.0 {environment} --output json"
    ))?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    Ok(made["id"].as_str().context("an id")?.to_owned())
}

async fn ends(host: &Host, deployment: &str, status: &str) -> Result<()> {
    wait::until(&format!("{deployment} is {status}"), async || {
        let shown = host.run(&format!("{STELLA} deployment show {deployment} --output json"))?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        ensure!(shown["status"] == status, "{shown:#}");
        Ok(())
    })
    .await
}

/// What the agent said to the only task of a deployment.
async fn told(host: &Host, deployment: &str, words: &str) -> Result<()> {
    wait::until("the agent says what became of the job", async || {
        let tasks = host.run(&format!("{STELLA} task list {deployment} --output json"))?;
        let tasks: serde_json::Value = serde_json::from_str(&tasks)?;
        let task = tasks[0]["id"].as_str().context("a task")?;
        let said = host.run(&format!("{STELLA} task logs {task} 2>&1"))?;
        ensure!(said.contains(words), "{said}");
        Ok(())
    })
    .await
}

fn cancel(host: &Host, deployment: &str) -> Result<()> {
    host.run(&format!("{STELLA} deployment cancel {deployment} --reason test")).map(drop)
}

/// The state that systemd gives a unit.
async fn is(host: &Host, unit: &str, state: &str) -> Result<()> {
    wait::until(&format!("{unit} is {state}"), async || {
        let now = host.run(&format!("systemctl show -P ActiveState {unit}"))?;
        ensure!(now.trim() == state, "{now}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_stopped_leaves_no_unit_down_and_cancels_only_its_own_job() -> Result<()> {
    let host = Host::boot("unit-jobs").await?;
    install(&host)?;
    serving(&host).await?;
    host.run(UNITS)?;
    // Two targets share the host.
    host.run(&format!(
        "{STELLA} target remove web-1 && {STELLA} env create other
         {STELLA} target create web-1 --env staging --agent web-1 --slot one
         {STELLA} target create web-2 --env other --agent web-1 --slot two"
    ))?;

    // A restart whose stop takes long is cancelled while the unit stops.
    let restart = deploy(&host, "slow", "staging", "slow.service", "restart")?;
    is(&host, "slow", "deactivating").await?;
    cancel(&host, &restart)?;
    ends(&host, &restart, "cancelled").await?;
    host.run("touch /run/stop")?;
    is(&host, "slow", "active").await?;
    told(&host, &restart, "the job of slow.service goes on: it has begun").await?;

    // Two targets of one host reload the same unit: systemd has one job for both.
    let first = deploy(&host, "proxy-a", "staging", "proxy.service", "reload_or_restart")?;
    is(&host, "proxy", "reloading").await?;
    let second = deploy(&host, "proxy-b", "other", "proxy.service", "reload_or_restart")?;
    wait::until("both wait for it", async || {
        let waiting = host.run("pgrep -fc 'reload-or-restar[t] -- proxy.service' || true")?;
        ensure!(waiting.trim().parse::<u32>()? >= 2, "{waiting}");
        Ok(())
    })
    .await?;
    cancel(&host, &first)?;
    ends(&host, &first, "cancelled").await?;
    told(&host, &first, "the job of proxy.service goes on: it was asked for by others too").await?;
    host.run("touch /run/reload")?;
    ends(&host, &second, "succeeded").await?;
    Ok(())
}
