//! The packages, on a host of its own with a real systemd: installed, configured, enrolled, deployed to, killed, without power,
//! upgraded and purged. Control plane and agent share the host; networks between hosts are the other tests' matter.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{STELLA, install, online, packages};
use stella_tests::wait;

/// A release that is brought there, and writes down that it ran.
const STEPS: &str = r#"[
  {"name": "install", "timeout_ms": 60000, "action": {"type": "artifact", "component": "web", "keep_releases": 3}},
  {"name": "run", "timeout_ms": 60000,
   "action": {"type": "command", "argv": ["sh", "-c", "cp web/current/version web/running"]}}
]"#;

#[test]
fn lintian_finds_nothing() -> Result<()> {
    for package in packages()? {
        let lintian = Command::new("lintian")
            .args(["--allow-root", "--fail-on", "error,warning"])
            .arg(&package)
            .output()?;
        let said = String::from_utf8_lossy(&lintian.stdout);
        ensure!(lintian.status.success(), "{}: {said}", package.display());
    }
    Ok(())
}

/// The exposure that `systemd-analyze security` finds, from 0 (confined) to 10.
fn exposure(host: &Host, unit: &str) -> Result<f64> {
    let said = host.run(&format!("systemd-analyze security --no-pager {unit} | tail -n 1"))?;
    let words = said.split("exposure level for").nth(1).context("a verdict")?;
    let number = words.split_whitespace().nth(1).with_context(|| format!("no number in {said:?}"))?;
    Ok(number.parse()?)
}

/// The id of the host's agent, as it knows it itself.
fn identity(host: &Host) -> Result<String> {
    host.run("stella-agent status --output json | grep agent_id")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_golden_image_enrols_at_its_first_boot_and_never_twice() -> Result<()> {
    let mut host = Host::boot("image").await?;
    install(&host)?;
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme"))?;
    // What an image is made with: a token that is good for many hosts, and both services enabled. Nothing is started.
    host.run(&format!("umask 077 && {STELLA} agent token --uses 100 --quiet > /etc/stella/enrolment"))?;
    host.run(
        "mkdir -p /etc/stella/agent.conf.d && echo 'server = \"localhost:7443\"' > /etc/stella/agent.conf.d/server.toml
         systemctl enable stella-agent stella-agent-enrol && systemd-analyze verify --man=no stella-agent-enrol.service",
    )?;
    host.cut_power().await?;
    online(&host).await?;
    let first = identity(&host)?;
    let status = host.run("stella-agent status")?;
    ensure!(status.contains("profile      confined"), "{status}");
    host.run("test ! -e /etc/stella/enrolment")?;
    ensure!(host.run("systemctl is-active stella-agent")? == "active\n");

    // A token on what is enrolled already, as power that was lost before the first one was deleted leaves it: it goes, and that is all.
    host.run(&format!("umask 077 && {STELLA} agent token --quiet > /etc/stella/enrolment"))?;
    host.cut_power().await?;
    online(&host).await?;
    assert_eq!(identity(&host)?, first);
    host.run("test ! -e /etc/stella/enrolment")?;
    let agents = host.run(&format!("{STELLA} agent list --output json"))?;
    assert_eq!(agents.matches("\"hostname\"").count(), 1, "{agents}");
    Ok(())
}

async fn restarted(host: &Host, unit: &str, before: &str) -> Result<()> {
    wait::until(&format!("systemd has brought {unit} back"), async || {
        let now = host.run(&format!("systemctl show -P MainPID {unit}; systemctl is-active {unit}"))?;
        ensure!(now != before && now.ends_with("\nactive\n"), "{unit}: {now:?}");
        Ok(())
    })
    .await
}

/// The service feeds systemd's watchdog, and one that is stuck is replaced.
async fn watched(host: &Host, unit: &str) -> Result<()> {
    let drop_in = format!("/etc/systemd/system/{unit}.service.d");
    host.run(&format!(
        "mkdir -p {drop_in} && printf '[Service]\\nWatchdogSec=3s\\n' > {drop_in}/watchdog.conf
         systemctl daemon-reload && systemctl restart {unit}"
    ))?;
    let show = format!("systemctl show -P MainPID {unit}; systemctl is-active {unit}");
    let before = host.run(&show)?;
    wait::until(&format!("{unit} has lived for three times its watchdog's patience"), async || {
        let now = host.run(&show)?;
        ensure!(now == before, "it was {before:?} and is {now:?}");
        let since_boot = |property: &str| -> Result<u64> {
            Ok(host.run(&format!("systemctl show -P {property} {unit}"))?.trim().parse()?)
        };
        let active = since_boot("ActiveEnterTimestampMonotonic")?;
        let fed = since_boot("WatchdogTimestampMonotonic")?;
        ensure!(fed > active + 9_000_000, "fed at {fed} us, active since {active} us");
        Ok(())
    })
    .await?;
    host.run(&format!("systemctl kill --kill-who=main --signal=STOP {unit}"))?;
    restarted(host, unit, &before).await?;
    let result = host.run(&format!("journalctl -u {unit} | grep -c 'Watchdog timeout'"))?;
    ensure!(result.trim() == "1", "{result:?} watchdog time-outs");
    Ok(())
}

fn deployed(host: &Host, version: &str) -> Result<()> {
    host.run(&format!(
        "mkdir -p /root/{version} && echo {version} > /root/{version}/version && tar -C /root/{version} -czf /root/{version}.tar.gz version"
    ))?;
    host.run(&format!(
        "{STELLA} release create web {version} --component web=/root/{version}.tar.gz --steps /root/steps.json"
    ))?;
    host.run(&format!("{STELLA} deploy web:{version} staging --wait"))?;
    let running = host.run("cat /srv/stella/web/running")?;
    ensure!(running.trim() == version, "{running:?} runs, not {version}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_install_serve_survive_upgrade_and_leave_nothing() -> Result<()> {
    let mut host = Host::boot("packages").await?;
    install(&host)?;
    // Nothing is started that nobody has configured, and the units are sound and confined.
    for unit in ["stella-orchestrator", "stella-agent"] {
        let state = host.run(&format!("systemctl is-active {unit} || true"))?;
        ensure!(state.trim() == "inactive", "{unit} is {state}");
        host.run(&format!("systemd-analyze verify --man=no {unit}.service"))?;
    }
    let (control_plane, agent) = (exposure(&host, "stella-orchestrator")?, exposure(&host, "stella-agent")?);
    ensure!(control_plane < 2.0 && agent < 3.0, "exposed: control plane {control_plane}, agent {agent}");
    // An agent that is not enrolled is left alone, not failed.
    host.run("systemctl start stella-agent")?;
    let state = host.run("systemctl is-active stella-agent || true")?;
    ensure!(state.trim() == "inactive", "an agent without an identity is {state}");

    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme && {STELLA} env create staging"))?;
    host.run(&format!("umask 077 && {STELLA} agent token --name web-1 --quiet > /root/token"))?;
    host.run("stella-agent enrol --server localhost:7443 --token @/root/token")?;
    host.run("systemctl enable --now stella-agent")?;
    online(&host).await?;
    host.run(&format!("{STELLA} target create web-1 --env staging --agent web-1"))?;
    fs::write(host.root().join("root/steps.json"), STEPS)?;
    deployed(&host, "1.0.0")?;

    // The confined agent's tasks change nothing outside of their folder.
    let written =
        host.run("nsenter -t $(systemctl show -P MainPID stella-agent) -m touch /usr/planted 2>&1 || true")?;
    ensure!(written.contains("Read-only file system"), "{written:?}");

    for unit in ["stella-orchestrator", "stella-agent"] {
        let before = host.run(&format!("systemctl show -P MainPID {unit}; systemctl is-active {unit}"))?;
        host.run(&format!("systemctl kill --kill-who=main --signal=KILL {unit}"))?;
        restarted(&host, unit, &before).await?;
    }
    online(&host).await?;
    deployed(&host, "1.1.0")?;

    host.cut_power().await?;
    online(&host).await?;
    let state = host.run("systemctl is-active stella-orchestrator stella-agent")?;
    ensure!(state == "active\nactive\n", "{state:?}");
    deployed(&host, "1.2.0")?;

    // An upgrade keeps what was configured, and starts what ran.
    host.run("echo '# by hand' >> /etc/stella/agent.toml")?;
    let before = host.run("systemctl show -P MainPID stella-agent; systemctl is-active stella-agent")?;
    host.run("DEBIAN_FRONTEND=noninteractive dpkg -i /root/*.deb")?;
    restarted(&host, "stella-agent", &before).await?;
    host.run("grep -q '# by hand' /etc/stella/agent.toml")?;
    online(&host).await?;
    deployed(&host, "1.3.0")?;

    watched(&host, "stella-orchestrator").await?;
    watched(&host, "stella-agent").await?;
    online(&host).await?;

    // Full rights are asked for by name.
    host.run(
        "install -D -m 0644 -t /etc/systemd/system/stella-agent.service.d \
             /usr/share/doc/stella-agent/profiles/full.conf
         systemctl daemon-reload && systemctl restart stella-agent && systemd-analyze verify --man=no stella-agent.service
         nsenter -t $(systemctl show -P MainPID stella-agent) -m touch /usr/planted && rm /usr/planted",
    )?;
    // And not on a host that was enrolled as confined: whoever made its token has promised that.
    let shown = host.run(&format!("{STELLA} agent show web-1"))?;
    ensure!(shown.contains("runs        full") && shown.contains("refuses every task"), "{shown}");
    let refused = host.run(&format!("{STELLA} deploy web:1.2.0 staging --wait 2>&1 || true"))?;
    ensure!(refused.contains("was enrolled as confined"), "{refused}");
    host.run("grep -q 1.3.0 /srv/stella/web/running")?;

    host.run("dpkg --purge stella-agent stella-orchestrator stella")?;
    let left = host.run("find / -xdev -name '*stella*' -not -path '/proc/*' -not -path '/root/*' -not -path '/srv/stella*' -not -path '/var/cache/*'")?;
    ensure!(left.is_empty(), "left behind:\n{left}");
    let user = host.run("getent passwd stella-orchestrator || true")?;
    ensure!(user.is_empty(), "{user}");
    // What was deployed may serve users at this moment.
    host.run("grep -q 1.3.0 /srv/stella/web/running")?;
    Ok(())
}
