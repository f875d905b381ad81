//! Hosts become agents by one line, by user data, and by the hundreds.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use serde_json::Value;
use stella_api_types::agent::{Agent, CreateEnrolmentToken};
use stella_api_types::deployment::{CreateDeployment, OnFailure};
use stella_api_types::paths;
use stella_certs::EnrolmentToken;
use stella_tests::agent::Agent as RealAgent;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_target, create_token, target, token};
use stella_tests::people::Shell;
use stella_tests::{binaries, recipe, sim};

/// A host on which the programs that need one only write down how they were called, and the agent is the real one.
struct Host {
    folder: PathBuf,
}

impl Host {
    fn new(folder: &Path) -> Result<Self> {
        let host = Self { folder: folder.to_owned() };
        fs::create_dir_all(folder.join("bin"))?;
        let calls = host.folder.join("calls");
        for program in ["apt-get", "dnf", "systemctl", "install"] {
            host.program(program, &format!("echo {program} \"$@\" >> {}", calls.display()))?;
        }
        host.program("id", "echo 0")?;
        let real = binaries::path("stella-agent")?;
        let state = host.folder.join("state");
        host.program(
            "stella-agent",
            &format!("exec {} \"$@\" --state-dir {}", real.display(), state.display()),
        )?;
        Ok(host)
    }

    fn program(&self, name: &str, script: &str) -> Result<()> {
        let path = self.folder.join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }

    /// Runs a line as its root would.
    fn run(&self, line: &str) -> Result<String> {
        let path = format!("{}:/usr/bin:/bin", self.folder.join("bin").display());
        let ran =
            Command::new("sh").args(["-c", line]).env("PATH", path).current_dir(&self.folder).output()?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        ensure!(ran.status.success(), "{said}");
        Ok(said)
    }

    fn calls(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("calls"))?)
    }
}

async fn agents(cluster: &Cluster) -> Result<Vec<Agent>> {
    Ok(cluster.api.list(&paths::fill(paths::AGENTS, &[TENANT]), &[]).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_installs_enrols_and_starts_whatever_its_words_are() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let operator = Shell::of(&cluster, "olga", "operator").await?;
    let host = Host::new(&cluster.folder().join("host"))?;
    let package = "/srv/it's here/$(touch planted)/stella-agent_1.deb";
    let wanted = ["agent", "enrol-command", "--name", "web-1", "--label", "role=it's $(touch planted)"];
    let line = operator.ok(&[&wanted[..], &["--profile", "full", "--package", package]].concat())?;
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    let said = host.run(&line)?;
    ensure!(said.contains("enrolled as agent"), "{said}");
    assert_eq!(
        host.calls()?.lines().collect::<Vec<_>>(),
        [
            &format!(
                "apt-get install -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold {package}"
            ),
            "install -D -m 0644 -t /etc/systemd/system/stella-agent.service.d /usr/share/stella-agent/profiles/full.conf",
            "systemctl daemon-reload",
            "systemctl enable --now stella-agent",
        ]
    );
    ensure!(!host.folder.join("planted").exists(), "a word was taken for a command");
    let enrolled = agents(&cluster).await?;
    assert_eq!(enrolled.len(), 1, "{enrolled:?}");
    assert_eq!(enrolled[0].labels["role"], "it's $(touch planted)");
    assert_eq!(enrolled[0].profile.as_deref(), Some("full"));
    // Whoever is not sure whether it worked says it again.
    let said = host.run(&line)?;
    ensure!(said.contains("already enrolled"), "{said}");
    // A line for less takes nothing away from what is there, and says so; one for more gives nothing.
    let before = host.calls()?;
    let less = operator.ok(&["agent", "enrol-command"])?;
    let said = format!("{:#}", host.run(&less).err().context("it went on")?);
    ensure!(said.contains("enrolled as full already, and confined was asked for"), "{said}");
    ensure!(host.calls()? == before, "something was done all the same");
    assert_eq!(agents(&cluster).await?.len(), 1);

    // Of nobody but root, and of no package that could be another one, there is not even a token.
    host.program("id", "echo 1000")?;
    ensure!(host.run(&line).is_err(), "it went on without root");
    let (code, said) = operator.run(&["agent", "enrol-command", "--package", "http://x.example/a.deb"])?;
    ensure!(code == Some(2) && said.contains("--sha256"), "{code:?} {said}");
    let tokens: Vec<Value> = cluster.api.list(&paths::fill(paths::ENROLMENT_TOKENS, &[TENANT]), &[]).await?;
    assert_eq!(tokens.len(), 2, "{tokens:?}");
    cluster.passed()
}

/// The tests run as root and unconfined, and so do their agents.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_enrolled_as_confined_runs_no_task_with_full_rights() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let operator = Shell::of(&cluster, "olga", "operator").await?;
    let mut host = RealAgent::new(cluster.folder(), "web-1", &cluster.control_plane.agents_address())?;
    let confined = operator.ok(&["agent", "token", "--name", "web-1", "--quiet"])?;
    // A host that wants to be something else leaves nothing behind at the control plane, and the token's only use is still there.
    let said =
        format!("{:#}", host.enrol_with(confined.trim(), &["--profile", "full"]).err().context("let in")?);
    ensure!(
        said.contains(
            "refuses: the enrolment was refused: the token is for confined, and full was asked for"
        ) || said.contains("the token is for confined, and full was asked for"),
        "{said}"
    );
    ensure!(agents(&cluster).await?.is_empty(), "an agent is there that no host is");
    let said = host.enrol(confined.trim())?;
    ensure!(said.ends_with(", confined\n"), "{said}");
    host.start()?;
    cluster.wait_online("web-1").await?;
    create_target(&cluster.api, TENANT, &target(ENVIRONMENT, "web-1", "web-1")).await?;
    cluster.release(&recipe::release("1.0.0", &[], vec![recipe::shell("mark", "touch ran")])).await?;
    let all = recipe::rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let failed = cluster.deploy(&all).await?;
    assert_eq!(failed.deployment.status, "failed");
    let why = failed.targets[0].reason.clone().unwrap_or_default();
    ensure!(why.contains("was enrolled as confined") && why.contains("--profile full"), "{why}");
    ensure!(!host.host_root().join("ran").exists(), "it ran");
    let shown = operator.ok(&["agent", "show", "web-1"])?;
    ensure!(shown.contains("for the profile confined") && shown.contains("refuses every task"), "{shown}");
    let listed = operator.ok(&["agent", "list"])?;
    ensure!(listed.contains("confined, runs full!"), "{listed}");
    let mut status = Command::new(binaries::path("stella-agent")?);
    status.args(["status", "--output", "json", "--state-dir"]).arg(host.state_dir());
    let status: Value = serde_json::from_slice(&status.output()?.stdout)?;
    assert_eq!(status["profile"], "confined");
    ensure!(host.log().contains("no task runs here"), "{}", host.log());

    // Somebody tampers with what is kept: it counts as the least, also after a restart.
    host.stop()?;
    fs::write(host.state_dir().join("profile.json"), "{}")?;
    host.start()?;
    cluster.wait_online("web-1").await?;
    assert_eq!(cluster.deploy(&all).await?.deployment.status, "failed");
    host.stop()?;
    // It is lost, as by a restore of the identity alone.
    fs::remove_file(host.state_dir().join("profile.json"))?;
    host.start()?;
    cluster.wait_online("web-1").await?;
    assert_eq!(cluster.deploy(&all).await?.deployment.status, "failed");
    ensure!(host.log().contains("profile.json is not there"), "{}", host.log());
    host.stop()?;

    // A token for more makes it another agent, which may.
    let full = operator.ok(&["agent", "token", "--name", "web-2", "--profile", "full", "--quiet"])?;
    host.enrol_with(full.trim(), &["--force", "--profile", "full"])?;
    host.start()?;
    cluster.wait_online("web-2").await?;
    create_target(&cluster.api, TENANT, &target(ENVIRONMENT, "web-2", "web-2")).await?;
    let to_the_second = CreateDeployment { targets: Some(vec!["web-2".to_owned()]), ..all };
    assert_eq!(cluster.deploy(&to_the_second).await?.deployment.status, "succeeded");
    ensure!(host.host_root().join("ran").exists(), "it did not run");
    cluster.agents.push(host);
    cluster.passed()
}

/// What it does on a host, another test shows with cloud-init itself.
#[tokio::test(flavor = "multi_thread")]
async fn user_data_leaves_the_token_where_the_service_takes_it() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let operator = Shell::of(&cluster, "olga", "operator").await?;
    for profile in ["confined", "full"] {
        let data = operator.ok(&["agent", "enrol-command", "--profile", profile, "--as", "cloud-init"])?;
        let data = data.strip_prefix("#cloud-config\n").context("cloud-init would not know it")?;
        let data: Value = serde_json::from_str(data)?;
        let files = data["write_files"].as_array().context("no files")?;
        let of = |path: &str| files.iter().find(|file| file["path"] == path);
        let token = of("/etc/stella/enrolment").context("no token")?;
        assert_eq!(token["permissions"], "0600");
        let token = token["content"].as_str().context("no text")?;
        ensure!(token.parse::<EnrolmentToken>().is_ok(), "what is there is no token");
        ensure!(!data["runcmd"].to_string().contains(token), "arguments are for all to read");
        let is_full = of("/etc/systemd/system/stella-agent-enrol.service.d/full.conf").is_some();
        assert_eq!(is_full, profile == "full");
        let server = of("/etc/stella/agent.conf.d/server.toml").context("no server")?;
        assert_eq!(server["content"], format!("server = \"{}\"\n", cluster.control_plane.agents_address()));
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_hosts_enrol_with_one_token_and_no_more() -> Result<()> {
    const HOSTS: u32 = 500;
    let cluster = Cluster::start(0).await?;
    let body = CreateEnrolmentToken { uses: HOSTS, ..token(None, HOSTS) };
    let invitation: EnrolmentToken =
        create_token(&cluster.api, TENANT, &body).await?.token.context("no token")?.parse()?;
    let server = SocketAddr::from(([127, 0, 0, 1], cluster.control_plane.agents_port()));
    let endpoint = sim::endpoint()?;
    // As many at a time as a provisioning tool has forks.
    let enrolled: Vec<_> = stream::iter(0..HOSTS)
        .map(|_| sim::enrol(&endpoint, server, &invitation))
        .buffer_unordered(10)
        .collect()
        .await;
    let mut ids = Vec::new();
    for identity in enrolled {
        ids.push(identity?.agent);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 500);
    let mut names: Vec<String> = agents(&cluster).await?.into_iter().map(|agent| agent.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 500, "names that are told apart");
    let more = stella_certs::csr::generate()?;
    let answer = sim::ask_to_enrol(&endpoint, server, &invitation, &more.key_der).await?;
    let reason = answer.into_granted().err().context("one more was let in")?;
    ensure!(reason.contains("used"), "{reason}");
    cluster.passed()
}
