//! The services on a host with systemd: what brings them back, and what they do when they are told to read their configuration again.

use anyhow::{Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{STELLA, install, online};
use stella_tests::wait;

/// A host that is an agent of its own control plane.
async fn host(name: &str) -> Result<Host> {
    let host = Host::boot(name).await?;
    install(&host)?;
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme && {STELLA} env create staging"))?;
    host.run(&format!("{STELLA} agent token --name web-1 --quiet > /root/token"))?;
    host.run("stella-agent enrol --server localhost:7443 --token @/root/token")?;
    host.run("mkdir -p /etc/stella/agent.conf.d /etc/stella/orchestrator.conf.d")?;
    host.run("systemctl enable --now stella-agent")?;
    online(&host).await?;
    Ok(host)
}

/// A wrong key that somebody mends, a disk that has space again, a mount that comes late: nobody should have to go to each host.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_start_is_tried_until_the_cause_is_gone() -> Result<()> {
    let host = host("comes-back").await?;
    for (unit, program) in [("stella-orchestrator", "orchestrator"), ("stella-agent", "agent")] {
        host.run(&format!(
            "mkdir -p /etc/systemd/system/{unit}.service.d
             printf '[Service]\\nRestartSec=100ms\\n' > /etc/systemd/system/{unit}.service.d/soon.conf
             systemctl daemon-reload
             echo 'nonsense = 1' > /etc/stella/{program}.conf.d/wrong.toml
             systemctl kill --kill-who=main --signal=KILL {unit}"
        ))?;
        wait::until(&format!("{unit} has failed for the 25th time"), async || {
            let state =
                host.run(&format!("systemctl show -P NRestarts {unit}; systemctl is-active {unit} || true"))?;
            ensure!(!state.contains("failed"), "systemd has given up: {state}");
            let failed: u32 = state.lines().next().unwrap_or_default().parse()?;
            ensure!(failed >= 25, "{state}");
            Ok(())
        })
        .await?;
        host.run(&format!("rm /etc/stella/{program}.conf.d/wrong.toml"))?;
        wait::until(&format!("{unit} is back by itself"), async || {
            let state = host.run(&format!("systemctl is-active {unit} || true"))?;
            ensure!(state == "active\n", "{state}");
            Ok(())
        })
        .await?;
    }
    online(&host).await
}

/// The process of a service.
fn pid(host: &Host, unit: &str) -> Result<String> {
    host.run(&format!("systemctl show -P MainPID {unit}; systemctl is-active {unit}"))
}

/// Who runs `systemctl reload` from a tool looks at its exit code and at nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_a_broken_configuration_fails_and_changes_nothing() -> Result<()> {
    let host = host("reload").await?;
    for (unit, program) in [("stella-orchestrator", "orchestrator"), ("stella-agent", "agent")] {
        let before = pid(&host, unit)?;
        host.run(&format!("systemctl reload {unit}"))?;
        host.run(&format!("printf '[log]\\nlvl = \"debug\"\\n' > /etc/stella/{program}.conf.d/wrong.toml"))?;
        ensure!(
            host.run(&format!("systemctl reload {unit}")).is_err(),
            "{unit}: a broken file is taken for good"
        );
        let log = host.run(&format!("journalctl --sync; journalctl -u {unit} -o cat"))?;
        ensure!(log.contains("there is no key log.lvl; did you mean log.level?"), "{unit}: {log}");
        assert_eq!(pid(&host, unit)?, before, "{unit}");
        host.run(&format!("rm /etc/stella/{program}.conf.d/wrong.toml && systemctl reload {unit}"))?;
        assert_eq!(pid(&host, unit)?, before, "{unit}");
    }
    online(&host).await
}
