//! `stella-agent doctor` and `stella-orchestrator doctor` find each fault with its remedy, and change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_api_types::agent::RevokeAgent;
use stella_api_types::paths;
use stella_tests::agent::Agent;
use stella_tests::cluster::{Cluster, TENANT, create_tenant};
use stella_tests::control_plane::{ControlPlane, Settings};
use stella_tests::{binaries, wait};

/// What it says, and how it exits.
fn said(ran: &Output) -> Result<(Option<i32>, Value)> {
    let said = serde_json::from_slice(&ran.stdout)
        .with_context(|| format!("{}", String::from_utf8_lossy(&ran.stderr)))?;
    Ok((ran.status.code(), said))
}

fn of_agent(agent: &Agent, more: &[&str]) -> Result<(Option<i32>, Value)> {
    said(&agent.tool(&[&["doctor", "--output", "json"], more].concat())?)
}

fn of_control_plane(control_plane: &ControlPlane) -> Result<(Option<i32>, Value)> {
    through(None, control_plane)
}

/// With a proxy for HTTP in the environment, or with none.
fn through(proxy: Option<&str>, control_plane: &ControlPlane) -> Result<(Option<i32>, Value)> {
    let mut tool = Command::new(binaries::path("stella-orchestrator")?);
    tool.args(["doctor", "--output", "json", "--config"]).arg(control_plane.config_file());
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        tool.env_remove(name);
    }
    tool.envs(proxy.map(|proxy| ("HTTPS_PROXY", proxy)));
    said(&tool.stdin(Stdio::null()).output()?)
}

/// With a host root that nobody can write to, root neither.
fn on_a_read_only_disk(agent: &Agent) -> Result<(Option<i32>, Value)> {
    let root = agent.host_root().display().to_string();
    let script = "mount --bind \"$2\" \"$2\" && mount -o remount,ro,bind \"$2\" && \
        exec \"$1\" doctor --output json --host-root \"$2\" --state-dir \"$3\" --config \"$4\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec", script, "sh"]).arg(binaries::path("stella-agent")?);
    said(&unshare.arg(root).arg(agent.state_dir()).arg(agent.config_file()).output()?)
}

/// With a folder for copies that has no room for one.
fn with_a_small_tmp(agent: &Agent, kibibytes: u32) -> Result<(Option<i32>, Value)> {
    let script = "mount -t tmpfs -o size=\"$4\"k tmpfs \"$5\" && \
        TMPDIR=\"$5\" exec \"$1\" doctor --output json --state-dir \"$2\" --config \"$3\"";
    let folder = tempfile::tempdir()?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec", script, "sh"]).arg(binaries::path("stella-agent")?);
    unshare.arg(agent.state_dir()).arg(agent.config_file());
    said(&unshare.arg(kibibytes.to_string()).arg(folder.path()).output()?)
}

/// Checks the verdict on one thing, and that detail or remedy have this text.
fn expect(said: &Value, check: &str, verdict: &str, text: &str) -> Result<()> {
    let mut all = said.as_array().into_iter().flatten().filter(|it| it["check"] == check);
    let is_it = |it: &Value| {
        let told = format!(
            "{} {}",
            it["detail"].as_str().unwrap_or_default(),
            it["remedy"].as_str().unwrap_or_default()
        );
        it["verdict"] == verdict && told.contains(text)
    };
    ensure!(all.any(is_it), "{check} is not {verdict} with {text:?} in {said:#}");
    Ok(())
}

fn without_failure((code, said): &(Option<i32>, Value)) -> Result<()> {
    ensure!(*code == Some(0), "exit code {code:?}: {said:#}");
    ensure!(!said.to_string().contains(r#""fail""#), "{said:#}");
    Ok(())
}

/// Size, time of change, owner and mode.
type About = (u64, i64, i64, u32, u32);

/// Everything below a folder.
fn picture(folder: &Path) -> Result<BTreeMap<PathBuf, About>> {
    let mut seen = BTreeMap::new();
    for item in fs::read_dir(folder)? {
        let path = item?.path();
        let about = fs::symlink_metadata(&path)?;
        if about.is_dir() {
            seen.extend(picture(&path)?);
        }
        seen.insert(path, (about.len(), about.mtime(), about.mtime_nsec(), about.uid(), about.mode()));
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_faults_are_found_and_its_session_is_left_alone() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let agent = &cluster.agents[0];
    let connects = async || -> Result<usize> {
        let events = cluster.api.events(TENANT).await?;
        Ok(events.iter().filter(|event| event.kind == "agent_connected").count())
    };
    let before = connects().await?;
    let found = of_agent(agent, &[])?;
    without_failure(&found)?;
    expect(&found.1, "journal", "ok", "open in the agent that runs")?;
    expect(&found.1, "connection", "ok", "takes its certificate")?;
    for check in [
        "configuration",
        "policy",
        "state folder",
        "identity",
        "certificate",
        "trusted root",
        "host root",
        "space for state",
        "name",
    ] {
        expect(&found.1, check, "ok", "")?;
    }
    assert_eq!(connects().await?, before, "the doctor began a session of its own");
    cluster.wait_online("web-1").await?;

    what_the_host_has_wrong(agent)?;
    what_the_control_plane_thinks(&cluster).await?;
    the_journal_of_a_stopped_agent(&mut cluster).await?;
    cluster.passed()
}

fn what_the_host_has_wrong(agent: &Agent) -> Result<()> {
    fs::set_permissions(agent.identity_file(), fs::Permissions::from_mode(0o644))?;
    expect(&of_agent(agent, &[])?.1, "state folder", "fail", "chmod 600")?;
    fs::set_permissions(agent.identity_file(), fs::Permissions::from_mode(0o600))?;
    let file = agent.config_file().display().to_string();
    let (code, said) = of_agent(agent, &["--host-root", &file])?;
    assert_eq!(code, Some(1));
    expect(&said, "host root", "fail", "is no folder")?;
    expect(&on_a_read_only_disk(agent)?.1, "host root", "fail", "cannot be written to")?;
    expect(&of_agent(agent, &["--host-root", "/nonexistent/root"])?.1, "host root", "warn", "install -d")?;
    expect(&of_agent(agent, &["--server", "no.such.host.invalid:1"])?.1, "name", "fail", "getent ahosts")?;
    // Nobody is at this port; UDP tells nothing.
    let (_, said) = of_agent(agent, &["--server", "127.0.0.1:9"])?;
    expect(&said, "connection", "fail", "UDP port 9")?;
    fs::write(agent.config_file(), "drain_second = 1\n")?;
    let (code, said) = of_agent(agent, &[])?;
    assert_eq!(code, Some(1));
    expect(&said, "configuration", "fail", "did you mean drain_seconds?")?;
    fs::write(agent.config_file(), "[policy]\nallow = []\n")?;
    expect(&of_agent(agent, &[])?.1, "policy", "warn", "policy.allow")?;
    for (policy, verdict, text) in [
        ("units = [\"web.service\"]", "warn", "take command out of policy.allow"),
        (
            "allow = [\"systemd\"]\nunits = [\"web.service\", \"web@*.service\"]",
            "ok",
            "web.service, web@*.service",
        ),
        ("allow = [\"systemd\"]\nunits = []", "warn", "policy.units"),
    ] {
        fs::write(agent.config_file(), format!("[policy]\n{policy}\n"))?;
        expect(&of_agent(agent, &[])?.1, "policy", verdict, text)?;
    }
    Ok(fs::write(agent.config_file(), "")?)
}

async fn what_the_control_plane_thinks(cluster: &Cluster) -> Result<()> {
    let agent = &cluster.agents[0];
    let other = ControlPlane::start(&cluster.folder().join("other"), &Settings::default()).await?;
    let (_, said) = of_agent(agent, &["--server", &other.agents_address()])?;
    expect(&said, "connection", "fail", "stella-agent enrol --force")?;
    let revoked = cluster.enrolled("revoked", &[]).await?;
    let body = RevokeAgent { reason: "sold".to_owned() };
    let path = paths::fill(paths::AGENT_REVOKE, &[TENANT, "revoked"]);
    cluster.api.post::<_, Value>(&path, &body, None).await?;
    // A control plane that has no time to say so for a moment looks like one that lets the agent in.
    wait::until("the revoked agent is told", async || {
        let (code, said) = of_agent(&revoked, &[])?;
        ensure!(code == Some(1), "{said:?}");
        expect(&said, "connection", "fail", "refuses this agent")
    })
    .await?;
    let fresh = Agent::new(cluster.folder(), "fresh", &cluster.control_plane.agents_address())?;
    expect(&of_agent(&fresh, &[])?.1, "identity", "fail", "stella agent token")
}

/// It is looked into, and not changed.
async fn the_journal_of_a_stopped_agent(cluster: &mut Cluster) -> Result<()> {
    let agent = &mut cluster.agents[0];
    agent.stop()?;
    let seen = picture(&agent.state_dir())?;
    let found = of_agent(agent, &[])?;
    without_failure(&found)?;
    expect(&found.1, "journal", "ok", "0 open attempts")?;
    assert_eq!(picture(&agent.state_dir())?, seen, "the doctor has changed something");
    let database = agent.state_dir().join("journal/conf");
    let whole = fs::read(&database)?;
    fs::write(&database, vec![0x5a; whole.len()])?;
    expect(&of_agent(agent, &[])?.1, "journal", "fail", "-damaged-$(date +%s)")?;
    fs::write(&database, whole)?;
    // Where a copy finds no room, nothing is known of the journal; it is not to be moved away.
    for kibibytes in [4, 64, 512] {
        let said = with_a_small_tmp(agent, kibibytes)?.1;
        let told = said.to_string();
        ensure!(!told.contains("; mv ") && !told.contains("run this as root"), "{kibibytes} KiB: {said:#}");
        expect(&said, "journal", "warn", "TMPDIR=")?;
    }
    agent.start()?;
    cluster.wait_online("web-1").await
}

const OUTSIDE: &str = r#"
[event_bus]
servers = ["nats://127.0.0.1:NOBODY"]
[gates.http.change]
url = "https://127.0.0.1:CLEAR/change"
[gates.prometheus.main]
url = "http://127.0.0.1:CLEAR/prometheus"
[[notifications.receivers]]
name = "mail"
type = "email"
host = "127.0.0.1"
port = NOBODY
security = "tls"
from = "stella@example.com"
to = ["me@example.com"]
[[notifications.routes]]
receivers = ["mail"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_control_planes_faults_are_found_and_nothing_is_changed() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let state_dir = cluster.control_plane.state_dir().to_owned();
    let found = of_control_plane(&cluster.control_plane)?;
    without_failure(&found)?;
    expect(&found.1, "journal", "ok", "open in the control plane that runs")?;
    expect(&found.1, "port of agents", "ok", "is the control plane's")?;
    for check in ["port of the API", "port of metrics"] {
        expect(&found.1, check, "ok", "answers, and is the control plane's")?;
    }
    for check in [
        "configuration",
        "state folder",
        "files",
        "space",
        "root certificate",
        "issuing certificate",
        "server certificate",
        "control plane",
    ] {
        expect(&found.1, check, "ok", "")?;
    }

    let key = state_dir.join("pki/issuing.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640))?;
    let (code, said) = of_control_plane(&cluster.control_plane)?;
    assert_eq!(code, Some(1));
    expect(&said, "state folder", "fail", "chmod 600")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    if nix::unistd::geteuid().is_root() {
        // What a tool of root leaves in the way of the service's user.
        let left = state_dir.join("last-seen-left");
        fs::write(&left, "")?;
        std::os::unix::fs::chown(&left, Some(12_345), None)?;
        expect(&of_control_plane(&cluster.control_plane)?.1, "state folder", "fail", "chown -R")?;
        fs::remove_file(&left)?;
    }
    cluster.control_plane.tool(&["ca", "rotate", "start"])?;
    expect(&of_control_plane(&cluster.control_plane)?.1, "rotation of the root", "warn", "ca rotate switch")?;
    cluster.control_plane.tool(&["ca", "rotate", "cancel"])?;

    create_tenant(&cluster.api, "globex").await?;
    whom_it_names_outside(&cluster.control_plane)?;
    cluster.control_plane.stop()?;
    a_stopped_control_plane(&cluster.control_plane)?;
    cluster.control_plane.resume().await?;
    cluster.passed()
}

/// One that is not there, and one that speaks no TLS.
fn whom_it_names_outside(control_plane: &ControlPlane) -> Result<()> {
    let clear = TcpListener::bind("127.0.0.1:0")?;
    let port = clear.local_addr()?.port();
    let speaking = std::thread::spawn(move || -> std::io::Result<()> {
        for _ in 0..4 {
            let (mut stream, _) = clear.accept()?;
            std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
        }
        Ok(())
    });
    let nobody = stella_tests::ports::free()?;
    let tables = OUTSIDE.replace("NOBODY", &nobody.to_string()).replace("CLEAR", &port.to_string());
    control_plane.configure(&Settings { tables, ..Settings::default() })?;
    let (code, said) = of_control_plane(control_plane)?;
    assert_eq!(code, Some(1));
    expect(&said, "event bus", "fail", "nc -vz 127.0.0.1")?;
    expect(&said, "receiver mail", "fail", "openssl s_client")?;
    expect(&said, "gate source change", "fail", "handshake")?;
    expect(&said, "gate source main", "ok", "can be connected to")?;
    expect(&said, "tenants of gate source main", "warn", "gates.prometheus.main.tenants")?;
    expect(&said, "tenants of gate source main", "warn", "systemctl reload stella-orchestrator")?;
    let (_, said) = through(Some("http://127.0.0.1:9"), control_plane)?;
    expect(&said, "space for output", "ok", "the reserve is 4 MiB")?;
    expect(&said, "event bus", "fail", "nc -vz 127.0.0.1")?;
    expect(&said, "receiver mail", "fail", "openssl s_client")?;
    expect(&said, "gate source change", "warn", "a proxy is set")?;
    speaking.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;
    control_plane.configure(&Settings { tables: "[apy]\n".to_owned(), ..Settings::default() })?;
    fs::write(control_plane.config_file(), "[api]\nlisen = \"127.0.0.1:1\"\n")?;
    expect(&of_control_plane(control_plane)?.1, "configuration", "fail", "did you mean api.listen?")?;
    control_plane.configure(&Settings::default())
}

/// The journal is verified as a copy, and ports are free or taken.
fn a_stopped_control_plane(control_plane: &ControlPlane) -> Result<()> {
    let state_dir = control_plane.state_dir();
    let seen = picture(state_dir)?;
    let found = of_control_plane(control_plane)?;
    without_failure(&found)?;
    expect(&found.1, "journal", "ok", "is whole")?;
    expect(&found.1, "port of the API", "ok", "is free")?;
    assert_eq!(picture(state_dir)?, seen, "the doctor has changed something");
    let taken = TcpListener::bind(control_plane.metrics_address())?;
    expect(&of_control_plane(control_plane)?.1, "port of metrics", "fail", "ss -ltnp")?;
    drop(taken);
    let database = state_dir.join("journal/db");
    let whole = fs::read(&database)?;
    fs::write(&database, vec![0x5a; whole.len()])?;
    expect(&of_control_plane(control_plane)?.1, "journal", "fail", "journal verify")?;
    fs::write(&database, whole)?;
    let (journal, away) = (state_dir.join("journal"), state_dir.join("away"));
    fs::rename(&journal, &away)?;
    expect(&of_control_plane(control_plane)?.1, "journal", "fail", "findmnt --target")?;
    Ok(fs::rename(&away, &journal)?)
}
