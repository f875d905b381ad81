//! The profile `named-units` on a host with systemd: releases are switched, named services restarted, and nothing else is done, whatever a
//! control plane asks for.

use std::fs;

use anyhow::{Result, ensure};
use stella_tests::host::Host;
use stella_tests::packaged::{STELLA, install, online, serving};

/// Two services of this host, and the instance of a template. They run what is brought.
const UNITS: &str = "
    for unit in web other web@; do
        printf '[Service]\\nUser=nobody\\nExecStart=/bin/sleep infinity\\n' > /etc/systemd/system/$unit.service
    done
    systemctl daemon-reload && systemctl start web other web@blue";

fn release(host: &Host, version: &str, steps: &str) -> Result<()> {
    fs::write(host.root().join("root/steps.json"), steps)?;
    host.run(&format!(
        "cd /root && mkdir -p site && echo {version} > site/version && tar -C site -czf site.tar.gz version
         {STELLA} release create web {version} --component web=/root/site.tar.gz --steps /root/steps.json"
    ))
    .map(drop)
}

fn deploy(host: &Host, version: &str) -> Result<String> {
    host.run(&format!("{STELLA} deploy web:{version} staging --wait 2>&1 || echo REFUSED"))
}

/// Since when a unit has been up.
fn since(host: &Host, unit: &str) -> Result<String> {
    host.run(&format!("systemctl show -P ActiveEnterTimestampMonotonic {unit}"))
}

fn step(name: &str, action: &str) -> String {
    format!(r#"{{"name": "{name}", "timeout_ms": 60000, "action": {{{action}}}}}"#)
}

fn restart(unit: &str) -> String {
    // A step's name is a plain word, and there is one for each unit.
    let name = unit.replace(['.', '@'], "-");
    step(&name, &format!(r#""type": "systemd", "unit": "{unit}", "action": "restart""#))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_named_units_restarts_those_and_runs_nothing_else() -> Result<()> {
    let host = Host::boot("named-units").await?;
    install(&host)?;
    serving(&host).await?;
    host.run(UNITS)?;
    let profile = "install -D -m 0644 -t /etc/systemd/system/stella-agent.service.d /usr/share/stella-agent/profiles/named-units.conf
         systemctl daemon-reload";
    // Half of it is none: without the file, tasks would act on every unit.
    let refused = host.run(&format!("{profile} && ! systemctl restart stella-agent 2>&1"))?;
    ensure!(refused.contains("Assertion failed"), "{refused}");
    host.run(
        "install -D -m 0644 -t /etc/stella/agent.conf.d /usr/share/stella-agent/profiles/named-units.toml
         systemctl restart stella-agent",
    )?;
    online(&host).await?;

    let bring = step("bring", r#""type": "artifact", "component": "web", "keep_releases": 3"#);
    for (version, steps) in [
        ("1.0.0", format!("[{bring}, {}, {}]", restart("web.service"), restart("web@blue.service"))),
        ("2.0.0", format!("[{}]", restart("other.service"))),
        ("3.0.0", format!("[{}]", restart("poweroff.target"))),
        ("4.0.0", format!("[{}]", step("run", r#""type": "command", "argv": ["true"]"#))),
    ] {
        release(&host, version, &steps)?;
    }
    // None is named yet.
    let said = deploy(&host, "1.0.0")?;
    ensure!(said.contains("REFUSED") && said.contains("policy.units"), "{said}");
    host.run(
        "sed -i 's/^units = .*/units = [\"web.service\", \"web@*.service\"]/' /etc/stella/agent.conf.d/named-units.toml
         systemctl reload stella-agent",
    )?;
    // A list that is gone is no permission.
    for gone in [
        "sed -i 's/^units = /# &/' /etc/stella/agent.conf.d/named-units.toml",
        "mv /etc/stella/agent.conf.d/named-units.toml /root",
    ] {
        let refused = host.run(&format!(
            "cp /etc/stella/agent.conf.d/named-units.toml /root/kept.toml && {gone}
             ! systemctl reload stella-agent 2>&1 && journalctl --sync && journalctl -u stella-agent -o cat -n 20
             cp /root/kept.toml /etc/stella/agent.conf.d/named-units.toml && systemctl reload stella-agent"
        ))?;
        ensure!(refused.contains("STELLA_AGENT_POLICY_UNITS_REQUIRED=1"), "{gone}: {refused}");
    }
    let before = ["web", "web@blue", "other"].map(|unit| since(&host, unit));
    let said = deploy(&host, "1.0.0")?;
    ensure!(!said.contains("REFUSED"), "{said}");
    host.run("grep -q 1.0.0 /srv/stella/web/current/version")?;
    let [web, blue, other] = before;
    ensure!(since(&host, "web")? != web? && since(&host, "web@blue")? != blue?, "they were not restarted");

    for (version, reason) in [("2.0.0", "policy.units"), ("3.0.0", "policy.units"), ("4.0.0", "policy.allow")]
    {
        let said = deploy(&host, version)?;
        ensure!(said.contains("REFUSED") && said.contains(reason), "{version}: {said}");
    }
    ensure!(since(&host, "other")? == other?, "a unit was restarted that is not named");
    // A file that allows more changes nothing.
    host.run(
        "printf '[policy]\\nallow = [\"command\"]\\n' > /etc/stella/agent.conf.d/z.toml && systemctl restart stella-agent",
    )?;
    online(&host).await?;
    let said = deploy(&host, "4.0.0")?;
    ensure!(said.contains("REFUSED") && said.contains("policy.allow"), "{said}");
    // And an agent that was taken over by other means executes nothing.
    let agent = "nsenter -t $(systemctl show -P MainPID stella-agent) -m";
    host.run(&format!("{agent} /usr/bin/systemctl --version"))?;
    for program in ["/bin/sh -c true", "/usr/bin/systemd-run true", "/srv/stella/web/current/version"] {
        host.run("chmod +x /srv/stella/web/current/version")?;
        let denied = host.run(&format!("! {agent} {program} 2>&1"))?;
        ensure!(denied.contains("Permission denied"), "{program}: {denied}");
    }
    let found = host.run("rm /etc/stella/agent.conf.d/z.toml && stella-agent doctor || true")?;
    ensure!(found.contains("web.service, web@*.service"), "{found}");
    Ok(())
}
