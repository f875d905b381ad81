//! Bundles for support have what helps, say what they do not have, and hold no secret in any form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use stella_api_types::deployment::OnFailure;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_target, create_token, target, token};
use stella_tests::control_plane::Settings;
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::{binaries, ports};

/// The members of a bundle by their names.
fn members(bundle: &Path) -> Result<BTreeMap<String, String>> {
    let mode = fs::metadata(bundle)?.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "others may read it: {mode:o}");
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(bundle)?));
    let mut members = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        ensure!(entry.header().mode()? == 0o600, "a member is for others too");
        let name =
            entry.path()?.file_name().context("a member without a name")?.to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        members.insert(name, text);
    }
    Ok(members)
}

fn percent(text: &str, is_upper: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ if is_upper => write!(encoded, "%{byte:02X}").unwrap_or_default(),
            _ => write!(encoded, "%{byte:02x}").unwrap_or_default(),
        }
    }
    encoded
}

/// A secret in the forms that it may be written in.
fn forms(secret: &str) -> Vec<String> {
    let quoted = Value::from(secret).to_string();
    vec![
        secret.to_owned(),
        quoted[1..quoted.len() - 1].to_owned(),
        STANDARD.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
        percent(secret, true),
        percent(secret, false),
        hex::encode(secret),
    ]
}

/// A log in which somebody has written all secrets in all forms.
fn log_of(secrets: &[&str]) -> String {
    let mut log = String::from("the first line\n");
    for secret in secrets {
        for form in forms(secret) {
            // Writing to a string does not fail.
            writeln!(log, "it was {form}, they say").ok();
            writeln!(log, "{}", serde_json::json!({"message": format!("got {form}"), "level": "info"})).ok();
        }
        writeln!(log, "Proxy: {}", STANDARD.encode(format!("stella:{secret}"))).ok();
        writeln!(log, "https://hooks.example.com/?key={}&x=1", percent(secret, true)).ok();
    }
    log + "the last line\n"
}

/// Checks that no member has any form of a secret, and that the manifest tells the truth.
fn is_clean(members: &BTreeMap<String, String>, secrets: &[&str]) -> Result<()> {
    for (name, text) in members {
        for secret in secrets {
            for form in forms(secret) {
                ensure!(!text.contains(&form), "{name} has a secret, {} bytes as {form:.4}…", form.len());
            }
        }
    }
    let manifest: Value = serde_json::from_str(&members["manifest.json"])?;
    let listed = manifest["members"].as_array().context("no members")?;
    ensure!(listed.len() + 1 == members.len(), "{manifest:#}");
    for member in listed {
        let text = &members[member["name"].as_str().context("no name")?];
        ensure!(member["sha256"] == hex::encode(Sha256::digest(text)).as_str(), "{member}");
    }
    for it in manifest["left_out"].as_array().context("nothing is left out")? {
        ensure!(it["why"].as_str().is_some_and(|why| !why.is_empty()), "{it}");
    }
    Ok(())
}

const SMTP_PASSWORD: &str = "m41l \"p4ss/w0rd+ü";
const SIGNING_SECRET: &str = "s1gn1ng-s3cr3t";
const ROUTING_KEY: &str = "0123456789abcdef0123456789abcdef";
const HOOK_PATH: &str = "T0AB12CD/B0EF34GH/x1Y2z3A4b5C6d7E8f9G0";
const COLLECTOR_PASSWORD: &str = "c0llect0r-p4ss";
const NATS_SEED: &str = "SUAOAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const GATE_KEY: &str = "g4te k3y=1";
const GATE_ADDRESS_KEY: &str = "g4t34ddr3ssk3y0123";
const METRICS_PATH: &str = "m3tr1cs-p4th-0123456789";
const COLLECTOR_KEY: &str = "c0ll3ct0r-4ddr3ss-k3y";
const CALLS_KEY: &str = "c4lls-4ddr3ss-k3y-0123";
const VARIABLE: &str = "v4r14bl3 of th3 d4t4b4s3";
const ENVIRONMENT_SECRET: &str = "s3t by th3 unit";

/// The tables of a control plane that has a secret in every place for one.
fn tables(folder: &Path) -> Result<String> {
    let login = STANDARD.encode(format!("stella:{COLLECTOR_PASSWORD}"));
    for (name, content) in [
        ("smtp", SMTP_PASSWORD.to_owned()),
        ("signing", SIGNING_SECRET.to_owned()),
        ("routing", ROUTING_KEY.to_owned()),
        ("slack", format!("https://hooks.slack.invalid/services/{HOOK_PATH}")),
        ("collector", format!("Authorization: Basic {login}\n")),
        ("nats", format!("-----BEGIN USER NKEY SEED-----\n{NATS_SEED}\n------END USER NKEY SEED------\n")),
        ("gate", format!("X-Api-Key: {GATE_KEY}\n")),
    ] {
        fs::write(folder.join(name), content)?;
    }
    let file = |name: &str| folder.join(name).display().to_string();
    let nobody = ports::free()?;
    Ok(format!(
        r#"
[traces]
endpoint = "http://127.0.0.1:{nobody}/v1/traces?api_key={COLLECTOR_KEY}"
headers_file = "{}"
[event_bus]
credentials_file = "{}"
[gates.http.change]
url = "http://127.0.0.1:{nobody}/?api_key={GATE_ADDRESS_KEY}"
headers_file = "{}"
[gates.prometheus.main]
url = "http://127.0.0.1:{nobody}/{METRICS_PATH}/"
[workflows]
http_allowed = ["https://calls.example.com/{CALLS_KEY}/"]
[[notifications.receivers]]
name = "mail"
type = "email"
host = "127.0.0.1"
port = {nobody}
security = "starttls"
username = "stella"
password_file = "{}"
from = "stella@example.com"
to = ["me@example.com"]
[[notifications.receivers]]
name = "chat"
type = "slack"
url_file = "{}"
[[notifications.receivers]]
name = "pager"
type = "pagerduty"
url = "http://127.0.0.1:{nobody}/"
routing_key_file = "{}"
[[notifications.receivers]]
name = "hook"
type = "webhook"
url = "http://127.0.0.1:{nobody}/hooks/{HOOK_PATH}"
secret_file = "{}"
[[notifications.routes]]
receivers = ["mail", "chat", "pager", "hook"]
kinds = ["rollback"]
"#,
        file("collector"),
        file("nats"),
        file("gate"),
        file("smtp"),
        file("slack"),
        file("routing"),
        file("signing"),
    ))
}

/// A deployment that has secrets in variables and in what its task prints.
async fn with_secrets(settings: &Settings) -> Result<Cluster> {
    let mut cluster = Cluster::with_settings(0, settings).await?;
    let mut agent = cluster.enrolled("web-1", &[]).await?;
    agent.start()?;
    cluster.agents.push(agent);
    cluster.wait_online("web-1").await?;
    let mut host = target(ENVIRONMENT, "web-1", "web-1");
    host.variables = BTreeMap::from([("db_password".to_owned(), VARIABLE.to_owned())]);
    create_target(&cluster.api, TENANT, &host).await?;
    cluster
        .release(&release("1.0.0", &[], vec![shell("print", "echo '${db_password:none}'; exit 1")]))
        .await?;
    cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    Ok(cluster)
}

fn what_is_there_helps(found: &BTreeMap<String, String>, events: RangeInclusive<usize>) -> Result<()> {
    let look: Value = serde_json::from_str(&found["control-plane.json"])?;
    let tenant = &look["tenants"][0];
    assert_eq!(
        (&tenant["agents"]["online"], &tenant["deployments"]["failed"]),
        (&1.into(), &1.into()),
        "{look:#}"
    );
    let told = look["journal"]["heads"][format!("tenant {TENANT}")]["events"].as_u64();
    let told = usize::try_from(told.context("no events")?)?;
    ensure!(events.contains(&told), "{told}, not {events:?}");
    ensure!(
        found["metrics.txt"].contains("stella_agents_connected{tenant=\"acme\"} 1"),
        "{}",
        found["metrics.txt"]
    );
    ensure!(found["log.txt"].starts_with("the first line\n") && found["log.txt"].contains("the last line"));
    ensure!(found["log.txt"].matches("[REDACTED]").count() > 50);
    let findings: Value = serde_json::from_str(&found["doctor.json"])?;
    ensure!(
        findings.as_array().is_some_and(|all| all.iter().any(|it| it["check"] == "receiver mail")),
        "{findings:#}"
    );
    ensure!(found["configuration.json"].contains("password_file"), "{}", found["configuration.json"]);
    ensure!(
        found["certificates.json"].contains("pki/root.crt")
            && found["certificates.json"].contains("not_after")
    );
    ensure!(found["host.json"].contains("\"kernel\"") && found["state-folder.json"].contains("journal"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_planes_bundle_has_what_helps_and_no_secret() -> Result<()> {
    let secrets = tempfile::tempdir()?;
    let settings = Settings { tables: tables(secrets.path())?, ..Settings::default() };
    let mut cluster = with_secrets(&settings).await?;
    let unused = create_token(&cluster.api, TENANT, &token(None, 3)).await?.token.context("no token")?;

    let state_dir = cluster.control_plane.state_dir().to_owned();
    let admin_token = fs::read_to_string(state_dir.join("admin-token"))?.trim().to_owned();
    let key = fs::read_to_string(state_dir.join("pki/issuing.key"))?;
    let key_line = key.lines().nth(1).context("the key has no lines")?.to_owned();
    let known = [
        SMTP_PASSWORD,
        SIGNING_SECRET,
        ROUTING_KEY,
        HOOK_PATH,
        COLLECTOR_PASSWORD,
        NATS_SEED,
        GATE_KEY,
        GATE_ADDRESS_KEY,
        METRICS_PATH,
        COLLECTOR_KEY,
        CALLS_KEY,
        &admin_token,
        &key_line,
        ENVIRONMENT_SECRET,
    ];
    let log = cluster.folder().join("planted.log");
    fs::write(
        &log,
        log_of(&known) + &format!("token {unused}\n{key}\ndb_password={}\n", VARIABLE.replace(' ', "_")),
    )?;

    let config = cluster.control_plane.config_file();
    let bundle = |to: &Path| -> Result<String> {
        let mut tool = Command::new(binaries::path("stella-orchestrator")?);
        tool.args(["support-bundle", "--config"]).arg(&config);
        tool.arg("--output").arg(to).env("STELLA_ORCHESTRATOR__LOG__FILE", &log);
        let ended = tool.env("OUR_API_PASSWORD", ENVIRONMENT_SECRET).stdin(Stdio::null()).output()?;
        ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout)?)
    };
    let path = cluster.folder().join("bundle.tar.gz");
    let before = cluster.api.events(TENANT).await?.len();
    let told = bundle(&path)?;
    ensure!(told.contains("metrics.txt") && told.contains("look through it before you send it"), "{told}");
    ensure!(bundle(&path).is_err_and(|error| error.to_string().contains("cannot be written")), "overwritten");
    let found = members(&path)?;
    let in_a_word = VARIABLE.replace(' ', "_");
    let all = [known.as_slice(), &[VARIABLE, &in_a_word, &unused]].concat();
    is_clean(&found, &all)?;

    let after = cluster.api.events(TENANT).await?.len();
    what_is_there_helps(&found, before..=after)?;

    // A control plane that is stopped, and a configuration that nobody understands, are no reasons for none.
    cluster.control_plane.stop()?;
    let path = cluster.folder().join("stopped.tar.gz");
    bundle(&path)?;
    is_clean(&members(&path)?, &all)?;
    ensure!(members(&path)?["manifest.json"].contains("no control plane runs on the state folder"));
    fs::write(&config, "nonsense")?;
    let path = cluster.folder().join("nonsense.tar.gz");
    bundle(&path)?;
    ensure!(members(&path)?["manifest.json"].contains("is not understood"));
    cluster.control_plane.configure(&settings)?;
    cluster.control_plane.resume().await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_bundle_has_what_helps_and_no_secret() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let log = cluster.folder().join("planted.log");
    let agent = &cluster.agents[0];
    let identity: Value = serde_json::from_slice(&fs::read(agent.identity_file())?)?;
    let key = identity["key_pkcs8_der"].as_str().context("no key")?.to_owned();
    let key_base64 = STANDARD.encode(hex::decode(&key)?);
    fs::write(
        &log,
        format!("the first line\n{key}\nkey {key_base64} of {}\npassword={VARIABLE}\n", key.to_uppercase()),
    )?;
    let listen = format!("127.0.0.1:{}", ports::free()?);
    fs::write(agent.config_file(), format!("[log]\nfile = {log:?}\n[metrics]\nlisten = \"{listen}\"\n"))?;
    let bundle = |name: &str| -> Result<BTreeMap<String, String>> {
        let path = cluster.folder().join(name);
        let ran = agent.tool(&["support-bundle", "--output", &path.display().to_string()])?;
        ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        members(&path)
    };
    let found = bundle("running.tar.gz")?;
    is_clean(&found, &[&key, &key_base64, &key.to_uppercase()])?;
    ensure!(!found["log.txt"].contains("v4r14bl3"), "{}", found["log.txt"]);
    ensure!(found["log.txt"].contains("the first line"));
    ensure!(found["journal.json"].contains("\"held\": true"), "{}", found["journal.json"]);
    ensure!(found["identity.json"].contains(identity["agent"].as_str().context("no agent")?));
    ensure!(found["manifest.json"].contains("the agent does not answer"), "{}", found["manifest.json"]);

    // It listens from its next start on.
    let agent = &mut cluster.agents[0];
    agent.stop()?;
    agent.start()?;
    cluster.wait_online("web-1").await?;
    let agent = &cluster.agents[0];
    let path = cluster.folder().join("again.tar.gz");
    ensure!(agent.tool(&["support-bundle", "--output", &path.display().to_string()])?.status.success());
    let found = members(&path)?;
    ensure!(found["metrics.txt"].contains("stella_agent_"), "{found:?}");
    cluster.agents[0].stop()?;
    let path = cluster.folder().join("stopped.tar.gz");
    ensure!(
        cluster.agents[0]
            .tool(&["support-bundle", "--output", &path.display().to_string()])?
            .status
            .success()
    );
    let found = members(&path)?;
    is_clean(&found, &[&key, &key_base64])?;
    ensure!(found["journal.json"].contains("\"open_attempts\": 0"), "{}", found["journal.json"]);
    cluster.agents[0].start()?;
    cluster.wait_online("web-1").await?;
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_of_a_command_line_has_what_it_may_see_and_no_token() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("hold", "sleep 600")])).await?;
    let held = cluster.api.deploy(TENANT, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop), None).await?;
    let token = fs::read_to_string(cluster.control_plane.state_dir().join("admin-token"))?.trim().to_owned();
    let path = cluster.folder().join("stella.tar.gz");
    let bundle = |more: &[&str]| -> Result<std::process::Output> {
        let mut stella = Command::new(binaries::path("stella")?);
        stella.args(cluster.control_plane.stella_flags()).args(more).args(["support-bundle"]).arg(&path);
        Ok(stella.env("HOME", cluster.folder()).env("STELLA_TOKEN", &token).stdin(Stdio::null()).output()?)
    };
    let ended = bundle(&["-t", TENANT])?;
    ensure!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let found = members(&path)?;
    is_clean(&found, &[&token])?;
    ensure!(found["agents.json"].contains("web-1") && found["agents.json"].contains("online"), "{found:?}");
    ensure!(
        found["deployments.json"].contains(&held.deployment.id)
            && found["settings.json"].contains("admin-token")
    );
    ensure!(
        found["control-plane.json"].contains("agents_online") && found["doctor.txt"].contains("connection")
    );
    assert_eq!(bundle(&[])?.status.code(), Some(2), "it was overwritten");
    fs::remove_file(&path)?;
    ensure!(bundle(&[])?.status.success());
    ensure!(members(&path)?["manifest.json"].contains("no tenant is chosen"));
    cluster.passed()
}
