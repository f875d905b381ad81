//! Configuration in layers, and what is taken over while a program runs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_token, token};
use stella_tests::control_plane::Settings;
use stella_tests::monitoring::{Event, Pager};
use stella_tests::people::Shell;
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::{binaries, daemon, wait};

/// Runs a program with a variable; what it printed, and whether it succeeded.
fn run(program: &str, arguments: &[&str], variable: (&str, &str)) -> Result<(bool, String)> {
    let mut command = Command::new(binaries::path(program)?);
    let output = command.args(arguments).env(variable.0, variable.1).output()?;
    Ok((output.status.success(), String::from_utf8([output.stdout, output.stderr].concat())?))
}

fn of<'a>(shown: &'a serde_json::Value, key: &str) -> Result<&'a serde_json::Value> {
    let all = shown.as_array().context("a list")?;
    all.iter().find(|it| it["key"] == key).with_context(|| format!("{key} in {shown}"))
}

#[test]
fn both_programs_read_layers_and_name_what_was_meant() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (program, file, key, variable) in [
        ("stella-orchestrator", "orchestrator", "log.level", ("STELLA_ORCHESTRATOR__LOG__FORMAT", "json")),
        ("stella-agent", "agent", "log.level", ("STELLA_AGENT_LOG_FORMAT", "json")),
    ] {
        let main = folder.path().join(format!("{file}.toml"));
        let more = folder.path().join(format!("{file}.conf.d"));
        fs::create_dir(&more)?;
        fs::write(&main, "[log]\nlevel = \"debug\"\n")?;
        fs::write(more.join("10-site.toml"), "[log]\nlevel = \"warn\"\n")?;
        let config = main.display().to_string();
        let show = ["config", "show", "--effective", "--output", "json", "--config", &config];
        let (good, text) = run(program, &show, variable)?;
        ensure!(good, "{text}");
        let shown: serde_json::Value = serde_json::from_str(&text)?;
        assert_eq!(of(&shown, key)?["value"], "warn");
        ensure!(of(&shown, key)?["origin"].to_string().contains("10-site.toml"), "{shown}");
        assert_eq!(of(&shown, "log.format")?["origin"], format!("environment {}", variable.0));
        assert_eq!(of(&shown, "log.file")?["origin"], "default");

        let check = ["config", "check", "--config", &config];
        let read = format!("{config}, {}", more.join("10-site.toml").display());
        let good = format!("the configuration is good: read from {read}\n");
        assert_eq!(run(program, &check, variable)?, (true, good));
        let site = more.join("20-mistake.toml");
        fs::write(&site, "[log]\nlvl = \"info\"\n")?;
        let (good, text) = run(program, &check, variable)?;
        let wanted = format!("{}: there is no key log.lvl; did you mean log.level?", site.display());
        ensure!(!good && text.contains(&wanted), "{text}");
    }
    let (_, text) = run("stella-agent", &["config", "show", "--concurrency=3"], ("LANG", "C"))?;
    ensure!(text.contains("concurrency = 3  # flag --concurrency"), "{text}");
    Ok(())
}

/// What a program said that did not start: on standard output, and on standard error, which is systemd's journal if that is said so.
fn refuses_to_run(program: &str, config: &Path, is_journal: bool) -> Result<(String, String)> {
    let (out, err) = (config.with_extension("out"), config.with_extension("err"));
    let standard_error = fs::File::create(&err)?;
    let found = standard_error.metadata()?;
    let mut command = Command::new(binaries::path(program)?);
    command.arg("run").arg("--config").arg(config).env_remove("JOURNAL_STREAM");
    if is_journal {
        command.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino()));
    }
    let status = command.stdout(fs::File::create(&out)?).stderr(standard_error).status()?;
    ensure!(!status.success(), "{program} has run to its end");
    Ok((fs::read_to_string(&out)?, fs::read_to_string(&err)?))
}

/// What searches for errors, and what pages, goes by the level and the priority.
#[test]
fn why_nothing_starts_is_an_error_in_the_log_and_in_the_journal() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let (config, file) = (folder.path().join("orchestrator.toml"), folder.path().join("stella.log"));
    let text = format!(
        "state_dir = {:?}\n[api]\nlisten = \"{}\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n[agents]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\nfile = {file:?}\n[journal]\nreserve_bytes = 1048576\n",
        folder.path().join("state"),
        taken.local_addr()?
    );
    fs::write(&config, &text)?;
    for is_journal in [false, true] {
        let (out, err) = refuses_to_run("stella-orchestrator", &config, is_journal)?;
        for log in [out, fs::read_to_string(&file)?] {
            let last = log.lines().last().context("nothing was logged")?;
            let last: serde_json::Value = serde_json::from_str(last)?;
            ensure!(last["level"] == "error" && last["message"] == "stopped", "{last}");
            ensure!(last["context"]["error"].to_string().contains("in use"), "{last}");
        }
        let begin = if is_journal { "<3>stella-orchestrator: " } else { "stella-orchestrator: " };
        ensure!(err.starts_with(begin) && err.contains("in use"), "{err}");
    }
    // Where there is no log yet, every line of what is said is an error.
    fs::write(&config, "[log\nlvl = 1\n")?;
    for program in ["stella-orchestrator", "stella-agent"] {
        let (out, err) = refuses_to_run(program, &config, true)?;
        ensure!(out.is_empty() && err.starts_with(&format!("<3>{program}: ")), "{out}{err}");
        ensure!(err.lines().all(|line| line.starts_with("<3>")), "{err}");
        let (_, err) = refuses_to_run(program, &config, false)?;
        ensure!(err.starts_with(&format!("{program}: ")) && !err.contains("<3>"), "{err}");
    }
    Ok(())
}

/// Every key of the control plane's page, each with a value that is not its default.
const EVERYTHING: &str = r#"
state_dir = "FOLDER/state"
[api]
listen = "127.0.0.1:18443"
names = ["localhost"]
certificate = "FOLDER/site.crt"
key = "FOLDER/site.key"
trusted_proxies = ["10.0.0.7", "fd00:1::/64"]
client_address_header = "forwarded"
artifact_bytes_max = 1000000
tenant_artifact_bytes_max = 1000000
tenant_releases_max = 1000
tenant_release_bytes_max = 1000000
requests_per_minute = 2000
burst = 200
tenant_requests_per_minute = 2000
hook_requests_per_minute = 200
[metrics]
listen = "127.0.0.1:19090"
client_ca = "FOLDER/site.crt"
[agents]
listen = "127.0.0.1:17443"
advertise = "stella.example.com:7443"
certificate_lifetime_s = 86400
heartbeat_interval_ms = 1000
[journal]
cache_bytes = 1000000
reserve_bytes = 1000000
snapshot_every_events = 1000
[retention]
memory_days = 1
memory_max = 10
memory_seconds_min = 60
memory_interval_s = 10
output_days = 10
artifact_days = 100
artifact_releases_min = 3
[traces]
endpoint = "https://otel.example.com"
protocol = "grpc"
compression = "gzip"
ca = "FOLDER/site.crt"
headers_file = "FOLDER/headers"
sample_ratio = 0.5
[event_bus]
servers = ["tls://nats.example.com:4222"]
stream = "RELEASES"
create_stream = false
stream_max_age_s = 3600
subject_prefix = "releases"
source = "https://stella.example.com"
begin = "beginning"
credentials_file = "FOLDER/nats.creds"
ca = "FOLDER/site.crt"
client_certificate = "FOLDER/site.crt"
client_key = "FOLDER/site.key"
[gates.prometheus.main]
url = "https://prometheus.example.com"
ca = "FOLDER/site.crt"
headers_file = "FOLDER/headers"
tenants = ["acme"]
[gates.http.changes]
url = "https://changes.example.com/state"
ca = "FOLDER/site.crt"
headers_file = "FOLDER/headers"
tenants = ["*"]
[workflows]
http_allowed = ["https://hooks.example.com/", { url = "https://acme.example.com/", tenants = ["acme"] }]
[workflows.http.tickets]
url = "https://tickets.example.com/rest/"
ca = "FOLDER/site.crt"
headers_file = "FOLDER/headers"
tenants = ["acme"]
[workflows.http.roots-of-the-system]
url = "https://tickets.example.com/rest/"
[notifications]
source = "releases"
[[notifications.receivers]]
name = "hook"
type = "webhook"
url = "https://pager.example.com/"
secret_file = "FOLDER/secret"
ca = "FOLDER/site.crt"
workflow_tenants = ["acme"]
[[notifications.receivers]]
name = "chat"
type = "slack"
url_file = "FOLDER/address"
channel = "releases"
[[notifications.receivers]]
name = "pager"
type = "pagerduty"
routing_key_file = "FOLDER/secret"
[[notifications.receivers]]
name = "mail"
type = "email"
host = "mail.example.com"
port = 465
security = "tls"
username = "stella"
password_file = "FOLDER/secret"
ca = "FOLDER/site.crt"
from = "stella@example.com"
to = ["ops@example.com"]
[[notifications.routes]]
receivers = ["hook", "chat", "pager", "mail"]
tenants = ["acme"]
environments = ["production"]
kinds = ["deployment_failed"]
severity_min = "warning"
wait_s = 1
repeat_s = 60
resolved = false
[log]
level = "warn"
format = "json"
file = "FOLDER/log"
"#;

/// Each command reads all of it, without what only a running control plane has set up.
#[test]
fn a_configuration_with_every_key_is_read_by_every_command() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    write("site.crt", &certificate.pem())?;
    write("site.key", &key.serialize_pem())?;
    write("headers", "Authorization: Bearer 0123456789abcdef\n")?;
    write("secret", "0123456789abcdef0123456789abcdef\n")?;
    write("address", "https://chat.example.com/T0/0123456789abcdef\n")?;
    let seed = nkeys::KeyPair::new_user().seed()?;
    let part = |name: &str, text: &str| format!("-----BEGIN {name}-----\n{text}\n------END {name}------\n");
    write("nats.creds", &(part("NATS USER JWT", "a.b.c") + &part("USER NKEY SEED", &seed)))?;
    let config = folder.path().join("orchestrator.toml");
    fs::write(&config, EVERYTHING.replace("FOLDER", &folder.path().display().to_string()))?;
    let config = config.display().to_string();
    let orchestrator = |arguments: &[&str]| {
        run("stella-orchestrator", &[arguments, &["--config", &config]].concat(), ("LANG", "C"))
    };

    let (good, said) = orchestrator(&["config", "check"])?;
    ensure!(good, "{said}");
    let (good, said) = orchestrator(&["config", "show", "--output", "json"])?;
    ensure!(good, "{said}");
    let shown: Vec<serde_json::Value> = serde_json::from_str(&said)?;
    let (_, page) = orchestrator(&["config", "reference"])?;
    let documented: Vec<&str> =
        page.lines().filter_map(|it| it.strip_prefix("| `")?.split('`').next()).collect();
    ensure!(documented.len() > 50, "{documented:?}");
    for key in documented {
        let is_it = |it: &serde_json::Value| {
            let name = it["key"].as_str().unwrap_or_default();
            key.strip_suffix('*').map_or(name == key, |section| name.starts_with(section))
        };
        ensure!(shown.iter().any(is_it), "nothing sets {key}: {shown:#?}");
    }

    // Nothing is there to be shown, saved or told; that is what they say, and not that they cannot begin.
    for arguments in [
        &["reload"][..],
        &["ca", "status"],
        &["journal", "verify"],
        &["backup", "backup.out"],
        &["restore", "nothing.there"],
        &["doctor"],
    ] {
        let (_, said) = orchestrator(arguments)?;
        ensure!(!said.is_empty() && !said.contains("panicked"), "{arguments:?}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_with_a_named_destination_starts_and_its_commands_work() -> Result<()> {
    let tables = "[workflows.http.tickets]\nurl = \"https://tickets.example.com/rest/\"\n".to_owned();
    let mut cluster = Cluster::with_settings(0, &Settings { tables, ..Settings::default() }).await?;
    let backup = cluster.folder().join("stella.backup").display().to_string();
    assert_eq!(cluster.control_plane.tool(&["reload"])?, "nothing has changed\n");
    for arguments in [&["config", "show"][..], &["ca", "status"], &["backup", &backup]] {
        cluster.control_plane.tool(arguments)?;
    }
    cluster.control_plane.stop()?;
    cluster.control_plane.tool(&["journal", "verify"])?;
    cluster.control_plane.resume().await?;
    cluster.passed()
}

fn add(config: &Path, text: &str) -> Result<()> {
    let folder = config.with_extension("conf.d");
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join("reload.toml"), text)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_over_what_it_can_and_says_what_needs_a_restart() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let config = cluster.control_plane.config_file();
    assert_eq!(cluster.control_plane.tool(&["reload"])?, "nothing has changed\n");
    let change = "[api]\nrequests_per_minute = 1\nburst = 1\nnames = [\"stella.example.com\"]\n\
                  [journal]\ncache_bytes = 1000000\n[log]\nlevel = \"debug\"\n";
    add(&config, change)?;
    let said = cluster.control_plane.tool(&["reload"])?;
    for line in [
        "api.burst: taken over",
        "api.names: taken over",
        "api.requests_per_minute: taken over",
        "journal.cache_bytes: needs a restart",
        "log.level: taken over",
    ] {
        ensure!(said.lines().any(|it| it == line), "no {line:?} in {said}");
    }
    assert_eq!(said.lines().count(), 5, "{said}");
    // The new limit: one request, and no other.
    let ask = async || cluster.api.answer(cluster.api.request(reqwest::Method::GET, paths::TENANTS)).await;
    assert_eq!(ask().await?.status, 200);
    assert_eq!(ask().await?.status, 429);

    // What is not good changes nothing, and the command fails.
    add(&config, "[api]\nrequests_per_minute = 0\nburst = 1000\n")?;
    let refused = format!("{:#}", cluster.control_plane.tool(&["reload"]).err().context("it was taken")?);
    ensure!(refused.contains("api.requests_per_minute must be at least 1"), "{refused}");
    assert_eq!(ask().await?.status, 429);

    // The signal does the same.
    add(&config, "[log]\nlevel = \"info\"\n")?;
    kill(Pid::from_raw(i32::try_from(cluster.control_plane.pid()?)?), Signal::SIGHUP)?;
    wait::until("the limits are back", async || {
        ensure!(ask().await?.status == 200, "not yet");
        Ok(())
    })
    .await?;
    // What needs a restart is said again until there was one.
    add(&config, "[journal]\ncache_bytes = 1000000\n")?;
    assert_eq!(cluster.control_plane.tool(&["reload"])?, "journal.cache_bytes: needs a restart\n");
    add(&config, "[agents]\nadvertise = \"stella.example.com:7443\"\n")?;
    assert_eq!(cluster.control_plane.tool(&["reload"])?, "agents.advertise: taken over\n");
    let created = create_token(&cluster.api, TENANT, &token(None, 1)).await?;
    assert_eq!(created.agent_address, "stella.example.com:7443");

    let agent = &mut cluster.agents[0];
    add(&agent.config_file(), "concurrency = 2\n[log]\nlevel = \"debug\"\n")?;
    kill(Pid::from_raw(i32::try_from(agent.daemon().pid()?)?), Signal::SIGHUP)?;
    wait::until("the agent has read it again", async || {
        let log = cluster.agents[0].log();
        for (key, taken_over) in [("log.level", true), ("concurrency", false)] {
            let said = format!("\"key\":\"{key}\",\"taken_over\":{taken_over}");
            ensure!(log.contains(&said), "no {said} in {log}");
        }
        Ok(())
    })
    .await?;
    cluster.passed()
}

/// A step that calls, and nothing else.
fn calls(url: &str) -> String {
    format!("name: tell\nsteps:\n  - id: out\n    http: {{url: \"{url}\", body: {{from: the-workflow}}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_brings_receivers_gates_and_where_workflows_may_call() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let (config, hook) = (cluster.control_plane.config_file(), Pager::start().await?);
    let gate = ["gate", "set", "http", ENVIRONMENT, "change", "--endpoint", "changes"];
    let template = cluster.folder().join("tell.yaml");
    fs::write(&template, calls(&hook.hook_url()))?;
    let apply = ["workflow", "apply", &template.display().to_string()];
    let fails = async |version: &str| {
        cluster.release(&release(version, &[], vec![shell("run", "false")])).await?;
        let failed = cluster.deploy(&rolling(ENVIRONMENT, version, OnFailure::Stop)).await?;
        assert_eq!(failed.deployment.status, "failed");
        Ok::<_, anyhow::Error>(())
    };
    let (code, said) = boss.run(&gate)?;
    ensure!(code != Some(0) && said.contains("gates.http.changes is not configured"), "{said}");
    ensure!(boss.ok(&apply)?.contains("warning: step out"), "it may be called already");
    let (code, said) = boss.run(&["workflow", "run", "tell", "--wait"])?;
    ensure!(code == Some(1) && hook.events().is_empty(), "{said}");
    fails("1.0.0").await?;

    let url = hook.hook_url();
    let more = format!(
        "[workflows]\nhttp_allowed = [\"{url}\"]\n[gates.http.changes]\nurl = \"{url}\"\n[retention]\noutput_days = 7\n\
         [[notifications.receivers]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{url}\"\n\
         [[notifications.routes]]\nreceivers = [\"hook\"]\nkinds = [\"deployment_failed\"]\nwait_s = 0\n"
    );
    add(&config, &more)?;
    let said = cluster.control_plane.tool(&["reload"])?;
    for key in [
        "gates.http.changes.url",
        "notifications.receivers",
        "notifications.routes",
        "retention.output_days",
        "workflows.http_allowed",
    ] {
        ensure!(said.contains(&format!("{key}: taken over\n")), "{key}: {said}");
    }
    ensure!(!said.contains("restart"), "{said}");
    assert_eq!(cluster.control_plane.tool(&["reload"])?, "nothing has changed\n");
    boss.ok(&gate)?;
    ensure!(!boss.ok(&apply)?.contains("warning"), "it may not be called");
    boss.ok(&["workflow", "run", "tell", "--wait"])?;
    let heard = |word: &str| {
        let is_it = |it: &&Event| matches!(it, Event::Hooked { body, .. } if body.contains(word));
        hook.events().iter().filter(is_it).count()
    };
    assert_eq!(heard("the-workflow"), 1, "the call: {:?}", hook.events());
    boss.ok(&["gate", "remove", ENVIRONMENT, "change"])?;
    fails("2.0.0").await?;
    wait::until("the new receiver is told, also of what has lasted since before it was there", async || {
        ensure!(heard("1.0.0") > 0 && heard("2.0.0") > 0, "{:?}", hook.events());
        Ok(())
    })
    .await?;

    // What cannot be used changes nothing.
    add(&config, &more.replace("receivers = [\"hook\"]", "receivers = [\"nobody\"]"))?;
    let refused = format!("{:#}", cluster.control_plane.tool(&["reload"]).err().context("it was taken")?);
    ensure!(refused.contains("leads to \"nobody\""), "{refused}");
    boss.ok(&["workflow", "run", "tell", "--wait"])?;
    // And all of it goes again.
    add(&config, "")?;
    let said = cluster.control_plane.tool(&["reload"])?;
    ensure!(said.contains("gates.http.changes.url: taken over\n") && !said.contains("restart"), "{said}");
    let (code, said) = boss.run(&gate)?;
    ensure!(code != Some(0) && said.contains("gates.http.changes is not configured"), "{said}");
    let (code, said) = boss.run(&["workflow", "run", "tell", "--wait"])?;
    ensure!(code == Some(1), "{said}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_an_agent_holds_for_the_tasks_that_come_and_keeps_its_session() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let host = cluster.agents[0].name().to_owned();
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let again = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    assert_eq!(cluster.deploy(&again).await?.deployment.status, "succeeded");
    let reloaded = async |cluster: &mut Cluster, text: &str, times: usize| {
        let agent = &mut cluster.agents[0];
        add(&agent.config_file(), text)?;
        kill(Pid::from_raw(i32::try_from(agent.daemon().pid()?)?), Signal::SIGHUP)?;
        wait::until("the agent has read it again", async || {
            let log = cluster.agents[0].log();
            let said = "\"key\":\"policy.allow\",\"taken_over\":true";
            ensure!(log.matches(said).count() == times, "not {times} times {said} in {log}");
            Ok(())
        })
        .await
    };
    reloaded(&mut cluster, "drain_seconds = 1\n[policy]\nallow = [\"artifact\"]\n", 1).await?;
    let refused = cluster.deploy(&again).await?;
    assert_eq!(refused.deployment.status, "failed");
    let why = refused.targets[0].reason.clone().unwrap_or_default();
    ensure!(why.contains("the host's policy does not allow command tasks"), "{why}");
    reloaded(&mut cluster, "", 2).await?;
    assert_eq!(cluster.deploy(&again).await?.deployment.status, "succeeded");
    let log = cluster.agents[0].log();
    assert_eq!(log.matches("welcomed by the control plane").count(), 1, "{host}: {log}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_without_a_control_plane_says_so() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    cluster.control_plane.stop()?;
    let refused = format!("{:#}", cluster.control_plane.tool(&["reload"]).err().context("it was taken")?);
    ensure!(refused.contains("no control plane runs on"), "{refused}");
    let program = binaries::path("stella-orchestrator")?;
    ensure!(daemon::run(&program, &["config", "check", "--config", "/nonexistent.toml"]).is_err(), "no file");
    cluster.control_plane.resume().await?;
    cluster.passed()
}
