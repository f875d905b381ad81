//! Tasks in control groups of their own, on a host with systemd, from the packages and under the confined unit.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{
    STELLA, install, long_task_runs, nothing_of_tasks_is_left, online, start_long_task,
};
use stella_tests::wait;

const GROUP: &str = "/sys/fs/cgroup/system.slice/stella-agent.service";

/// A process with a session, a parent and an environment of its own, beside the command itself.
const STEPS: &str = r#"[
  {"name": "hide", "timeout_ms": 600000, "action": {"type": "command", "argv": ["sh", "-c",
    "(setsid sh -c 'exec env -i /usr/bin/setsid /bin/sleep 4242' >/dev/null 2>&1 &); exec sleep 4243"]}}
]"#;

/// The finding about groups: its verdict and its words.
fn finding(host: &Host) -> Result<(String, String)> {
    let said = host.run("stella-agent doctor --output json || true")?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let found = said.as_array().into_iter().flatten().find(|it| it["check"] == "task groups");
    let found = found.with_context(|| format!("nothing about groups: {said:#}"))?;
    Ok((found["verdict"].as_str().unwrap_or_default().to_owned(), found["detail"].to_string()))
}

/// Starts the deployment, and waits until what hides is in a group of its own; the group.
async fn hidden(host: &Host) -> Result<String> {
    host.run(&format!("{STELLA} deploy web:1.0.0 staging"))?;
    wait::until("the process that hides is in a group of its task", async || {
        let found = host.run(&format!(
            "pid=$(pgrep -xf '/bin/sleep 4242') && grep -lx $pid {GROUP}/task-*/cgroup.procs && pgrep -xf 'sleep 4243' > /dev/null"
        ))?;
        Ok(found.trim().trim_end_matches("/cgroup.procs").to_owned())
    })
    .await
}

async fn ended(host: &Host, status: &str) -> Result<()> {
    wait::until(&format!("the deployment is {status}"), async || {
        let last = host.run(&format!("{STELLA} deployment list --output json"))?;
        let last: serde_json::Value = serde_json::from_str(&last)?;
        let states: Vec<_> =
            last.as_array().into_iter().flatten().filter_map(|it| it["status"].as_str()).collect();
        ensure!(states.iter().all(|it| ["failed", "cancelled"].contains(it)), "{states:?}");
        ensure!(states.contains(&status), "{states:?}");
        Ok(())
    })
    .await
}

async fn nothing_is_left(host: &Host, group: &str) -> Result<()> {
    let left = host.run("pgrep -af 'sleep 424[23]' || true")?;
    ensure!(left.is_empty(), "still there: {left}");
    wait::until("the group is gone", async || host.run(&format!("test ! -e {group}")).map(drop)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_task_escapes_under_the_confined_unit() -> Result<()> {
    let host = Host::boot("groups").await?;
    install(&host)?;
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!("{STELLA} tenant create acme && {STELLA} env create staging"))?;
    host.run(&format!("umask 077 && {STELLA} agent token --name web-1 --quiet > /root/token"))?;
    host.run("stella-agent enrol --server localhost:7443 --token @/root/token && systemctl enable --now stella-agent")?;
    host.run(&format!("{STELLA} target create web-1 --env staging --agent web-1"))?;
    fs::write(host.root().join("root/steps.json"), STEPS)?;
    host.run(&format!("{STELLA} release create web 1.0.0 --steps /root/steps.json"))?;
    let (verdict, detail) = finding(&host)?;
    ensure!(verdict == "ok" && detail.contains("each task has one, without limits"), "{verdict} {detail}");

    // Only its own group is open to a confined agent.
    let agent = "nsenter -t $(systemctl show -P MainPID stella-agent) -m";
    let refused = host.run(&format!("{agent} mkdir /sys/fs/cgroup/system.slice/planted 2>&1 || true"))?;
    ensure!(refused.contains("Read-only file system"), "{refused}");

    // What the host is enrolled for is not a task's to change, nor to remove.
    for change in ["rm -f", "truncate -s 0", "mv /etc/hostname"] {
        let refused = host.run(&format!("! {agent} {change} /var/lib/stella-agent/profile.json 2>&1"))?;
        ensure!(!refused.is_empty(), "{change} went through");
    }
    ensure!(host.run("stella-agent status --output json")?.contains("confined"), "it is not what it was");

    let group = hidden(&host).await?;
    host.run(&format!("{STELLA} deployment cancel $({STELLA} deployment list --output json | grep -m1 '\"id\"' | cut -d '\"' -f 4) --reason test"))?;
    ended(&host, "cancelled").await?;
    nothing_is_left(&host, &group).await?;

    // The supervisor is killed, and with it goes what knew the tree.
    let group = hidden(&host).await?;
    host.run(&format!("kill -9 $(pgrep -f 'stella-agent supervise|/proc/self/exe supervise' | xargs -n1 | grep -Fx -f {group}/cgroup.procs | head -1)"))?;
    ended(&host, "failed").await?;
    nothing_is_left(&host, &group).await?;

    // The agent is killed, and comes back beside what still runs.
    let group = hidden(&host).await?;
    let before = host.run("systemctl show -P MainPID stella-agent")?;
    host.run("systemctl kill --kill-who=main --signal=KILL stella-agent")?;
    // What is asked of a unit that is still starting, systemd takes as a part of the start; and the control plane may not know yet that
    // the session before has ended.
    wait::until("systemd has brought the agent back, and it was welcomed", async || {
        let now = host.run("systemctl show -P MainPID stella-agent")?;
        let state = host.run("systemctl is-active stella-agent || true")?;
        ensure!(now != before && state.trim() == "active", "{now} {state}");
        Ok(())
    })
    .await?;
    online(&host).await?;
    wait::until("nothing of it is left", async || nothing_is_left(&host, &group).await).await?;
    let used = host.run("journalctl -u stella-agent -o cat | grep -c 'what the command used'")?;
    ensure!(used.trim() != "0", "nothing is said of what commands used");
    limits(&host).await
}

/// Limits hold where the host gives the controllers, and it is said where it does not.
#[expect(clippy::print_stdout, reason = "who reads the result has to know what was not tried")]
async fn limits(host: &Host) -> Result<()> {
    host.run(
        "mkdir -p /etc/stella/agent.conf.d && printf '[tasks]\\nprocesses_max = 20\\n' > /etc/stella/agent.conf.d/limits.toml
         systemctl reload stella-agent",
    )?;
    wait::until("the limit is taken over for the tasks that come", async || {
        let log = host.run("journalctl --sync; journalctl -u stella-agent -o cat")?;
        ensure!(log.contains(r#""key":"tasks.processes_max","taken_over":true"#), "{log}");
        Ok(())
    })
    .await?;
    let (verdict, detail) = finding(host)?;
    if host.run("cat /sys/fs/cgroup/cgroup.controllers")?.split_whitespace().any(|it| it == "pids") {
        ensure!(verdict == "ok" && detail.contains("with the limits of [tasks]"), "{verdict} {detail}");
        let group = hidden(host).await?;
        assert_eq!(host.run(&format!("cat {group}/pids.max"))?.trim(), "21");
        // The agent starts again beside a group that has controllers.
        host.run("systemctl restart stella-agent")?;
        online(host).await?;
        let again = host.run(&format!("cat {group}/pids.max || true"))?;
        ensure!(["21", ""].contains(&again.trim()), "its limit is gone: {again}");
    } else {
        println!("skipped: this machine gives the controller pids to cgroup v1, so the limit cannot hold");
        ensure!(verdict == "warn" && detail.contains("pids"), "{verdict} {detail}");
        let log = host.run("journalctl -u stella-agent -o cat")?;
        ensure!(log.contains("a limit of tasks is not enforced here"), "{log}");
    }
    Ok(())
}

/// Ends with something left behind, as `./start.sh &` or `pg_ctl start` do.
const LEAVE: &str = r#"[{"name": "leave", "timeout_ms": 60000, "action": {"type": "command", "argv": ["sh", "-c",
    "setsid sleep 4244 > /dev/null 2>&1 &"]}}]"#;

/// Retires its own host.
const RETIRE: &str = r#"[{"name": "retire", "timeout_ms": 600000, "action": {"type": "command", "argv": ["sh", "-c",
    "dpkg --purge stella-agent && touch /root/retired"]}}]"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_ends_commands_that_run_and_neither_what_was_left_on_purpose_nor_itself() -> Result<()> {
    let host = Host::boot("purge").await?;
    install(&host)?;
    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!(
        "{STELLA} tenant create acme && {STELLA} env create staging && {STELLA} env create other
         install -D -m 0644 -t /etc/systemd/system/stella-agent.service.d /usr/share/stella-agent/profiles/full.conf
         systemctl daemon-reload && umask 077
         {STELLA} agent token --name web-1 --profile full --quiet > /root/token
         stella-agent enrol --profile full --server localhost:7443 --token @/root/token
         systemctl enable --now stella-agent"
    ))?;
    online(&host).await?;
    for (target, environment) in [("web-1", "staging"), ("web-2", "other")] {
        host.run(&format!(
            "{STELLA} target create {target} --env {environment} --agent web-1 --slot {target}"
        ))?;
    }
    for (version, steps) in [("1.0.0", LEAVE), ("2.0.0", RETIRE)] {
        fs::write(host.root().join("root/steps.json"), steps)?;
        host.run(&format!("{STELLA} release create retire {version} --steps /root/steps.json"))?;
    }
    host.run(&format!("{STELLA} deploy retire:1.0.0 other --wait"))?;
    start_long_task(&host).await?;
    host.run(&format!("{STELLA} deploy retire:2.0.0 other"))?;
    wait::until("the host is retired", async || host.run("test -e /root/retired").map(drop)).await?;
    host.run("pgrep -fx 'sleep 4244' && test ! -e /var/lib/stella-agent && test ! -e /usr/bin/stella-agent")?;
    ensure!(!long_task_runs(&host)?, "a command that ran has nobody to report it");
    wait::until("nothing of Stella's agent is left", async || nothing_of_tasks_is_left(&host)).await
}
