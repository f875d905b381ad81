//! The Debian packages over versions, on a host with systemd: up, back, removed and installed again, with what people have changed and
//! what the agent is. Older programs are other tests' matter; this is about what dpkg does.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{
    STELLA, install, long_task_runs, nothing_of_tasks_is_left, online, package, start_long_task,
};
use stella_tests::wait;

/// Programs with a service, and the file of their configuration.
const SERVICES: [(&str, &str); 2] =
    [("stella-orchestrator", "orchestrator.toml"), ("stella-agent", "agent.toml")];
/// What the next version has in its configuration file, and in its unit.
const NEW_LINE: &str = "# This line came with the next version.";
const NEW_VARIABLE: &str = "STELLA_TEST_OF_UPGRADES=2";
/// What unattended upgrades say about configuration that people have changed.
const DPKG: &str = "DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold -i";

fn here(program: &str, arguments: &[&str]) -> Result<String> {
    let ran = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    ensure!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(String::from_utf8(ran.stdout)?)
}

fn append(path: &Path, line: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(fs::write(path, format!("{text}{line}\n"))?)
}

/// Puts the next version of a program's package on the host: another number, another configuration file, another unit.
fn next_version(host: &Host, program: &str, config: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let unpacked = folder.path().join("package");
    let (from, to) = (package(program)?, folder.path().join("next.deb"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    here("dpkg-deb", &["-R", &text(&from), &text(&unpacked)])?;
    append(&unpacked.join("etc/stella").join(config), NEW_LINE)?;
    let unit = unpacked.join(format!("usr/lib/systemd/system/{program}.service"));
    let changed = fs::read_to_string(&unit)?;
    fs::write(
        &unit,
        changed.replacen("[Service]\n", &format!("[Service]\nEnvironment={NEW_VARIABLE}\n"), 1),
    )?;
    let control = unpacked.join("DEBIAN/control");
    let fields = fs::read_to_string(&control)?;
    let version = fields.lines().find_map(|line| line.strip_prefix("Version: ")).context("no version")?;
    fs::write(
        &control,
        fields.replacen(&format!("Version: {version}\n"), &format!("Version: {version}.1\n"), 1),
    )?;
    // What only this test installs is not worth minutes of compression.
    here("dpkg-deb", &["-Zgzip", "-z1", "-b", &text(&unpacked), &text(&to)])?;
    host.put(&to, &format!("/root/next-{program}.deb"))
}

fn version(host: &Host, program: &str) -> Result<String> {
    host.run(&format!("dpkg-query -W -f '${{Version}} ${{db:Status-Abbrev}}' {program}"))
}

/// Waits until the service runs as another process, with or without what the next version's unit gives it.
async fn runs_as(host: &Host, program: &str, before: &str, is_next: bool) -> Result<()> {
    wait::until(&format!("{program} was started again"), async || {
        let pid = host.run(&format!("systemctl show -P MainPID {program}"))?;
        ensure!(pid != before && pid.trim() != "0", "{program} runs as {pid}, as before");
        let environment = host.run(&format!("tr '\\0' '\\n' < /proc/{}/environ", pid.trim()))?;
        ensure!(environment.lines().any(|it| it == NEW_VARIABLE) == is_next, "{program}: {environment}");
        let state = host.run(&format!("systemctl is-active {program} || true"))?;
        ensure!(state == "active\n", "{program} is {state}");
        Ok(())
    })
    .await
}

/// A release that runs a command, under this version.
fn deploy(host: &Host, version: &str) -> Result<()> {
    host.run(&format!("{STELLA} release create web {version} --steps /root/steps.json"))?;
    host.run(&format!("{STELLA} deploy web:{version} staging --wait")).map(drop)
}

fn identity(host: &Host) -> Result<String> {
    host.run("stella-agent status --output json | grep agent_id")
}

/// A host with both programs, enrolled, with the agent's configuration changed by hand and the control plane's not.
async fn installed() -> Result<Host> {
    let host = Host::boot("upgrade").await?;
    install(&host)?;
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme && {STELLA} env create staging"))?;
    host.run(&format!("{STELLA} agent token --name web-1 --quiet > /root/token"))?;
    host.run("stella-agent enrol --server localhost:7443 --token @/root/token")?;
    host.run("systemctl enable --now stella-agent")?;
    online(&host).await?;
    host.run(&format!("{STELLA} target create web-1 --env staging --agent web-1"))?;
    let steps = r#"[{"name": "run", "timeout_ms": 60000, "action": {"type": "command", "argv": ["true"]}}]"#;
    fs::write(host.root().join("root/steps.json"), steps)?;
    deploy(&host, "1.0.0")?;
    append(&host.root().join("etc/stella/agent.toml"), "# by hand")?;
    Ok(host)
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_go_up_and_back_and_a_removed_package_comes_back_as_the_same_agent() -> Result<()> {
    let host = installed().await?;
    let (agent, old) = (identity(&host)?, version(&host, "stella-agent")?);
    for (program, config) in SERVICES {
        next_version(&host, program, config)?;
    }

    // Up: what nobody has changed is new, what somebody has changed stays, with the new one beside it.
    let pids = SERVICES.map(|(program, _)| host.run(&format!("systemctl show -P MainPID {program}")));
    host.run(&format!("{DPKG} /root/next-*.deb"))?;
    assert_eq!(version(&host, "stella-agent")?, old.replacen(' ', ".1 ", 1));
    for ((program, _), pid) in SERVICES.iter().zip(pids) {
        runs_as(&host, program, &pid?, true).await?;
    }
    host.run(&format!("grep -qx '{NEW_LINE}' /etc/stella/orchestrator.toml"))?;
    host.run("grep -qx '# by hand' /etc/stella/agent.toml")?;
    host.run(&format!("! grep -qx '{NEW_LINE}' /etc/stella/agent.toml && grep -qx '{NEW_LINE}' /etc/stella/agent.toml.dpkg-dist"))?;
    online(&host).await?;
    assert_eq!(identity(&host)?, agent);
    deploy(&host, "1.1.0")?;

    // Back.
    let pids = SERVICES.map(|(program, _)| host.run(&format!("systemctl show -P MainPID {program}")));
    host.run(&format!("{DPKG} /root/stella-agent_*.deb /root/stella-orchestrator_*.deb"))?;
    assert_eq!(version(&host, "stella-agent")?, old);
    for ((program, _), pid) in SERVICES.iter().zip(pids) {
        runs_as(&host, program, &pid?, false).await?;
    }
    host.run(&format!("! grep -qx '{NEW_LINE}' /etc/stella/orchestrator.toml"))?;
    host.run("grep -qx '# by hand' /etc/stella/agent.toml")?;
    online(&host).await?;
    assert_eq!(identity(&host)?, agent);
    deploy(&host, "1.2.0")?;
    removed_and_back(&host, &agent).await
}

/// Removal stops and disables, and keeps what the packages' owner cannot get again.
async fn removed_and_back(host: &Host, agent: &str) -> Result<()> {
    host.run("dpkg --remove stella-agent stella-orchestrator")?;
    for (program, config) in SERVICES {
        let state = host.run(&format!(
            "systemctl is-active {program} || true; systemctl is-enabled {program} 2>&1 || true"
        ))?;
        ensure!(state.starts_with("inactive\n") && !state.contains("enabled\n"), "{program}: {state}");
        host.run(&format!(
            "test ! -e /usr/bin/{program} && test -e /etc/stella/{config} && test -d /var/lib/{program}"
        ))?;
    }
    ensure!(host.run("pgrep stella-").is_err(), "something still runs");
    host.run("test -e /var/lib/stella-agent/identity.json && test -d /var/lib/stella-orchestrator/journal")?;

    host.run(&format!("{DPKG} /root/stella-agent_*.deb /root/stella-orchestrator_*.deb"))?;
    ensure!(host.run("pgrep stella-").is_err(), "what was disabled was started");
    host.run("grep -qx '# by hand' /etc/stella/agent.toml")?;
    host.run("systemctl enable --now stella-orchestrator && systemctl enable --now stella-agent")?;
    online(host).await?;
    assert_eq!(identity(host)?, agent);
    let agents = host.run(&format!("{STELLA} agent list --output json"))?;
    assert_eq!(agents.matches("\"hostname\"").count(), 1, "{agents}");
    let listed = host.run(&format!("{STELLA} deployment list"))?;
    ensure!(listed.contains("1.0.0") && listed.contains("1.2.0"), "the journal was lost: {listed}");
    deploy(host, "1.3.0")?;

    // What is under way outlives the package, for one that is installed again to report it, and no purge.
    start_long_task(host).await?;
    host.run("dpkg --remove stella-agent")?;
    ensure!(long_task_runs(host)?, "a removal ends tasks");
    host.run("dpkg --purge stella-agent")?;
    host.run("test ! -e /var/lib/stella-agent")?;
    nothing_of_tasks_is_left(host)
}
