//! The doctors and the bundles on a host with systemd, from the packages: units, profiles, and a service of another user.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::host::Host;
use stella_tests::packaged::{STELLA, install};
use stella_tests::wait;

/// What a doctor says, after its exit code was checked against that.
fn doctor(host: &Host, program: &str) -> Result<Value> {
    let said = host.run(&format!("if {program} doctor --output json; then echo 0; else echo $?; fi"))?;
    let (json, code) = said.trim_end().rsplit_once('\n').with_context(|| said.clone())?;
    let fails = json.contains("\"verdict\": \"fail\"");
    ensure!(code == if fails { "1" } else { "0" }, "exit code {code}: {json}");
    // What it sends people to is there.
    for rest in json.split("/usr/share/doc/").skip(1) {
        let end =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && !"/._-".contains(c)).unwrap_or(rest.len());
        host.run(&format!("test -e /usr/share/doc/{}", rest[..end].trim_end_matches('.')))?;
    }
    Ok(serde_json::from_str(json)?)
}

fn expect(said: &Value, check: &str, verdict: &str, text: &str) -> Result<()> {
    let found = said.as_array().into_iter().flatten().find(|it| it["check"] == check);
    let found = found.with_context(|| format!("nothing about {check}: {said:#}"))?;
    ensure!(found["verdict"] == verdict && found.to_string().contains(text), "{found:#}");
    Ok(())
}

fn is_well(said: &Value) -> Result<()> {
    ensure!(!said.to_string().contains(r#""verdict":"fail""#), "{said:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn units_profiles_and_a_service_of_another_user_are_seen_as_they_are() -> Result<()> {
    let host = Host::boot("doctor").await?;
    install(&host)?;
    expect(&doctor(&host, "stella-orchestrator")?, "service", "warn", "systemctl enable --now")?;
    let said = doctor(&host, "stella-agent")?;
    expect(&said, "identity", "fail", "stella agent token")?;
    expect(&said, "profile", "ok", "confined: tasks may change /srv/stella")?;

    host.run("systemctl enable --now stella-orchestrator")?;
    host.run(&format!(
        "{STELLA} tenant create acme && umask 077 && {STELLA} agent token --quiet > /root/token"
    ))?;
    host.run(
        "stella-agent enrol --server localhost:7443 --token @/root/token && systemctl start stella-agent",
    )?;
    let said = doctor(&host, "stella-orchestrator")?;
    is_well(&said)?;
    expect(&said, "service", "ok", "is active")?;
    expect(&said, "files", "ok", "may read all")?;
    expect(&said, "control plane", "ok", "runs as process")?;
    let said = doctor(&host, "stella-agent")?;
    is_well(&said)?;
    expect(&said, "service", "warn", "systemctl enable stella-agent")?;
    expect(&said, "host root", "ok", "can be written to by the service")?;
    expect(&said, "enrolled for", "ok", "confined, and so it runs")?;
    expect(&said, "connection", "ok", "takes its certificate")?;

    of_the_service(&host).await?;
    of_the_profile(&host)?;
    bundles(&host)?;
    // Nothing that root has run here is in the way of the service's user.
    host.run("systemctl restart stella-orchestrator stella-agent")?;
    is_well(&doctor(&host, "stella-orchestrator")?)
}

/// What keeps the control plane from starting, or will.
async fn of_the_service(host: &Host) -> Result<()> {
    host.run("touch /var/lib/stella-orchestrator/left-by-root")?;
    expect(&doctor(host, "stella-orchestrator")?, "state folder", "fail", "chown -R")?;
    host.run("rm /var/lib/stella-orchestrator/left-by-root")?;
    host.run(
        "mkdir -p /etc/stella/orchestrator.conf.d && install -m 600 /var/lib/stella-orchestrator/pki/root.crt /etc/stella/scrapers.crt
         printf '[metrics]\\nclient_ca = \"/etc/stella/scrapers.crt\"\\n' > /etc/stella/orchestrator.conf.d/metrics.toml",
    )?;
    expect(
        &doctor(host, "stella-orchestrator")?,
        "files",
        "fail",
        "chgrp stella-orchestrator /etc/stella/scrapers.crt",
    )?;
    // A file for everybody in a folder for nobody else.
    host.run("install -D -m 644 /etc/stella/scrapers.crt /etc/scrapers/live/scrapers.crt && chmod 700 /etc/scrapers")?;
    let set = |path: &str| {
        host.run(&format!(
            "printf '[metrics]\\nclient_ca = \"{path}\"\\n' > /etc/stella/orchestrator.conf.d/metrics.toml"
        ))
    };
    set("/etc/scrapers/live/scrapers.crt")?;
    expect(&doctor(host, "stella-orchestrator")?, "files", "fail", "the folder /etc/scrapers is closed")?;
    let refused = host.run("systemctl restart stella-orchestrator 2>&1 || true; journalctl --sync; journalctl -u stella-orchestrator -o cat -n 20")?;
    ensure!(refused.contains("Permission denied"), "the doctor is wrong: {refused}");
    // A file that several services read has a group for it.
    host.run(
        "groupadd ssl-cert && chgrp ssl-cert /etc/stella/scrapers.crt && chmod 640 /etc/stella/scrapers.crt",
    )?;
    set("/etc/stella/scrapers.crt")?;
    expect(
        &doctor(host, "stella-orchestrator")?,
        "files",
        "fail",
        "usermod -aG ssl-cert stella-orchestrator",
    )?;
    host.run("usermod -aG ssl-cert stella-orchestrator && systemctl restart stella-orchestrator")?;
    expect(&doctor(host, "stella-orchestrator")?, "files", "ok", "may read all")?;
    host.run("echo nonsense > /etc/stella/orchestrator.conf.d/metrics.toml; systemctl restart --no-block stella-orchestrator")?;
    wait::until("the doctor sees that the service does not start", async || {
        let said = doctor(host, "stella-orchestrator")?;
        expect(&said, "configuration", "fail", "metrics.toml")?;
        expect(&said, "service", "fail", "journalctl -u stella-orchestrator.service")
    })
    .await?;
    host.run("rm -r /etc/stella/orchestrator.conf.d; systemctl reset-failed stella-orchestrator; systemctl restart stella-orchestrator")?;
    is_well(&doctor(host, "stella-orchestrator")?)
}

/// What tasks may change, and whether that is what the agent is told to change.
fn of_the_profile(host: &Host) -> Result<()> {
    host.run(
        "mkdir -p /etc/stella/agent.conf.d /opt/releases
         echo 'host_root = \"/opt/releases\"' > /etc/stella/agent.conf.d/root.toml",
    )?;
    let said = doctor(host, "stella-agent")?;
    expect(&said, "profile", "fail", "ReadWritePaths=/opt/releases")?;
    expect(&said, "host root", "fail", "cannot be written to by the service")?;
    host.run(
        "install -D -m 0644 -t /etc/systemd/system/stella-agent.service.d /usr/share/stella-agent/profiles/full.conf
         systemctl daemon-reload && systemctl restart stella-agent",
    )?;
    // It was enrolled as confined, and says no to everything until the rights are gone or a token is for them.
    let said = doctor(host, "stella-agent")?;
    expect(&said, "profile", "ok", "full: tasks may do everything")?;
    expect(&said, "enrolled for", "fail", "rm /etc/systemd/system/stella-agent.service.d/full.conf")?;
    host.run(&format!(
        "umask 077 && {STELLA} agent token --profile full --quiet > /root/token && systemctl stop stella-agent
         stella-agent enrol --force --profile full --server localhost:7443 --token @/root/token && systemctl start stella-agent"
    ))?;
    host.run(
        "cd /etc/systemd/system/stella-agent.service.d && mv full.conf /root && systemctl daemon-reload && systemctl restart stella-agent",
    )?;
    expect(&doctor(host, "stella-agent")?, "enrolled for", "warn", "profiles/full.conf")?;
    host.run("mv /root/full.conf /etc/systemd/system/stella-agent.service.d && systemctl daemon-reload && systemctl restart stella-agent")?;
    let said = doctor(host, "stella-agent")?;
    is_well(&said)?;
    expect(&said, "enrolled for", "ok", "full, and so it runs")?;
    expect(&said, "host root", "ok", "/opt/releases can be written to by the service")
}

/// They have what systemd knows.
fn bundles(host: &Host) -> Result<()> {
    for program in ["stella-orchestrator", "stella-agent"] {
        host.run(&format!(
            "{program} support-bundle --output /root/{program}.tar.gz && cd /root && tar -xzf {program}.tar.gz"
        ))?;
        let read = |name: &str| host.run(&format!("cat /root/{program}-support/{name}"));
        ensure!(read("journal.txt")?.contains("Started"), "no log of {program}");
        ensure!(read("unit.txt")?.contains("ProtectSystem=strict"), "no unit of {program}");
        ensure!(read("unit-status.txt")?.contains("active (running)"), "no state of {program}");
        let mode = host.run(&format!("stat -c %a /root/{program}.tar.gz"))?;
        ensure!(mode.trim() == "600", "{mode}");
    }
    let token = host.run("cat /var/lib/stella-orchestrator/admin-token")?;
    host.run(&format!("! grep -r {} /root/*-support", token.trim().trim_start_matches("stella_"))).map(drop)
}
