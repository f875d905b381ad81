//! Events on a real NATS server: all of them, once, in their order, whoever is killed in between; and nothing else waits for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use async_nats::ConnectOptions;
use async_nats::jetstream::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use stella_api_types::deployment::OnFailure;
use stella_api_types::event::Event;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::control_plane::Settings;
use stella_tests::nats::{NatsServer, Stored, stored};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;

/// Settings of a control plane that publishes everything from the beginning on.
fn publishing(scheme: &str, server: &NatsServer, more: &str) -> Settings {
    let tables = format!(
        "[event_bus]\nservers = [\"{scheme}://127.0.0.1:{}\"]\nbegin = \"beginning\"\n{more}",
        server.port()
    );
    Settings { tables, ..Settings::default() }
}

/// Waits until the bus has all that the tenant's feed has, and checks that it is the same, once, in the same order.
async fn same_as_feed(cluster: &Cluster, bus: &Context) -> Result<Vec<Stored>> {
    wait::until("the bus has every event", async || {
        let feed = cluster.api.events(TENANT).await?;
        let all = stored(bus).await?;
        let of_tenant: Vec<_> = all.iter().filter(|it| it.event["tenant"] == TENANT).collect();
        ensure!(of_tenant.len() >= feed.len(), "{} of {}", of_tenant.len(), feed.len());
        for (sent, event) in of_tenant.iter().zip(&feed) {
            is_same(sent, event).with_context(|| format!("{sent:?} and {event:?}"))?;
        }
        let ids: BTreeMap<_, _> = all.iter().map(|it| (&it.message_id, it)).collect();
        ensure!(ids.len() == all.len(), "some are there twice");
        Ok(all)
    })
    .await
}

fn is_same(sent: &Stored, event: &Event) -> Result<()> {
    let on_bus = &sent.event;
    ensure!(on_bus["id"] == sent.message_id.as_str() && on_bus["specversion"] == "1.0", "envelope");
    ensure!(on_bus["sequence"] == format!("{:020}", event.position), "sequence");
    ensure!(on_bus["type"] == format!("stella.{}", event.kind) && on_bus["time"] == event.at, "type, time");
    ensure!(sent.subject == format!("stella.events.tenant.{TENANT}.{}", event.kind), "subject");
    ensure!(on_bus["data"] == Value::Object(event.data.clone()) || on_bus["dataref"].is_string(), "data");
    Ok(())
}

fn times(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

/// Deploys a new version, which has to succeed.
async fn deploy(cluster: &Cluster, version: &str) -> Result<()> {
    cluster.release(&release(version, &[], vec![shell("run", "true")])).await?;
    let ended = cluster.deploy(&rolling(ENVIRONMENT, version, OnFailure::Stop)).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_has_each_event_once_whoever_is_killed_and_nothing_waits_for_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = NatsServer::prepare(folder.path(), "")?;
    // Nobody is there at the start.
    let mut cluster = Cluster::with_settings(2, &publishing("nats", &server, "")).await?;
    deploy(&cluster, "1.0.0").await?;
    server.start()?;
    let bus = server.client(ConnectOptions::new).await?;
    let first = same_as_feed(&cluster, &bus).await?;
    // What belongs to no tenant comes in an order of its own.
    wait::until("the bus has what belongs to no tenant", async || {
        let all = stored(&bus).await?;
        let system = all.iter().find(|it| it.subject == "stella.events.system.tenant_created");
        ensure!(system.context("not yet")?.event["tenant"].is_null(), "{system:?}");
        Ok(())
    })
    .await?;
    let named = |name: &str| first.iter().filter(|it| it.event["eventname"] == name).count();
    ensure!((named("deployment.started"), named("deployment.completed")) == (1, 1), "{first:?}");
    ensure!(!format!("{first:?}").contains("secret_hash"), "hashes of secrets stay at home");

    // The bus is killed in the middle of a deployment: it goes on, and the events wait.
    cluster
        .release(&release("2.0.0", &[], vec![shell("run", "until test -e go; do sleep 0.05; done")]))
        .await?;
    let started = cluster.api.deploy(TENANT, &rolling(ENVIRONMENT, "2.0.0", OnFailure::Stop), None).await?;
    cluster.wait_task(&started.deployment.id, cluster.agents[0].name(), "run", "running").await?;
    server.kill()?;
    for agent in &cluster.agents {
        fs::write(agent.host_root().join("go"), "")?;
    }
    ensure!(cluster.wait_final(&started.deployment.id).await?.deployment.status == "succeeded");
    wait::until("the lag is seen", async || {
        let scraped = cluster.control_plane.metrics().await?;
        ensure!(scraped.contains("\nstella_event_bus_up 0\n"), "{scraped}");
        ensure!(!scraped.contains("\nstella_event_bus_lag_events 0\n"), "{scraped}");
        Ok(())
    })
    .await?;

    // So is the control plane, while the bus is away, and again when it has just come back.
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    server.start()?;
    deploy(&cluster, "3.0.0").await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    deploy(&cluster, "4.0.0").await?;
    let bus = server.client(ConnectOptions::new).await?;
    same_as_feed(&cluster, &bus).await?;
    wait::until("nothing waits", async || {
        let scraped = cluster.control_plane.metrics().await?;
        ensure!(scraped.contains("\nstella_event_bus_lag_events 0\n"), "{scraped}");
        ensure!(scraped.contains("\nstella_event_bus_lag_seconds 0\n"), "{scraped}");
        ensure!(scraped.contains("\nstella_event_bus_up 1\n"), "{scraped}");
        Ok(())
    })
    .await?;

    is_told_once(&mut cluster, &mut server).await?;
    cluster.passed()
}

/// A long absence is two lines, not two lines a try.
async fn is_told_once(cluster: &mut Cluster, server: &mut NatsServer) -> Result<()> {
    let before = cluster.control_plane.daemon().log();
    server.kill()?;
    for version in ["5.0.0", "6.0.0"] {
        deploy(cluster, version).await?;
    }
    // What is on its way as the bus goes may be acknowledged when it is back: then nothing would have failed.
    wait::until("it is said that it is away", async || {
        let log = cluster.control_plane.daemon().log();
        ensure!(times(&log[before.len()..], "events are not published") > 0, "{log}");
        Ok(())
    })
    .await?;
    server.start()?;
    let bus = server.client(ConnectOptions::new).await?;
    same_as_feed(cluster, &bus).await?;
    let log = cluster.control_plane.daemon().log();
    let new = &log[before.len()..];
    ensure!(times(new, "events are not published") == 1, "{new}");
    wait::until("it is said that it is back", async || {
        let log = cluster.control_plane.daemon().log();
        ensure!(times(&log[before.len()..], "takes events again") == 1, "{log}");
        Ok(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_for_the_bus_says_where_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut server = NatsServer::prepare(folder.path(), "max_payload: 4096")?;
    server.start()?;
    let cluster = Cluster::with_settings(1, &publishing("nats", &server, "")).await?;
    let script = format!("true # {}", "x".repeat(8_000));
    cluster.release(&release("1.0.0", &[], vec![shell("run", &script)])).await?;
    let bus = server.client(ConnectOptions::new).await?;
    let all = same_as_feed(&cluster, &bus).await?;
    let large = all.iter().find(|it| it.event["type"] == "stella.release_created").context("no release")?;
    ensure!(large.event.get("data").is_none(), "{large:?}");
    let path = large.event["dataref"].as_str().context("no dataref")?;
    let found: stella_api_types::Page<Event> = cluster.api.get(path).await?;
    let [event] = found.items.as_slice() else { anyhow::bail!("{found:?}") };
    ensure!(
        event.kind == "release_created" && event.data["steps"].to_string().contains(&script),
        "{event:?}"
    );
    cluster.passed()
}

/// A token as NATS has them, signed by its issuer.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> Result<String> {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "jti": name, "iat": 1, "iss": issuer.public_key(), "sub": subject.public_key(), "name": name, "nats": nats,
    });
    let signed = format!("{}.{}", part(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

/// A server that wants TLS with client certificates and a user of an account, and that user's credentials.
fn guarded(folder: &Path) -> Result<(NatsServer, String)> {
    let (operator, account, system, user) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account(), KeyPair::new_user());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_operator = jwt(
        &operator,
        &operator,
        "op",
        &json!({"type": "operator", "version": 2, "system_account": system.public_key()}),
    )?;
    let claims = json!({"type": "account", "version": 2, "limits": limits});
    let system_claims = json!({"type": "account", "version": 2, "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1}});
    let (of_account, of_system) =
        (jwt(&operator, &account, "stella", &claims)?, jwt(&operator, &system, "system", &system_claims)?);
    let claims =
        json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}});
    let of_user = jwt(&account, &user, "orchestrator", &claims)?;
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed()?
    );
    let ca = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::new(vec![])?;
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = parameters.self_signed(&ca)?;
    let issuer = rcgen::Issuer::new(parameters, ca);
    fs::write(folder.join("ca.pem"), root.pem())?;
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate()?;
        let mut leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        leaf.distinguished_name.push(rcgen::DnType::CommonName, name);
        fs::write(folder.join(format!("{name}.pem")), leaf.signed_by(&key, &issuer)?.pem())?;
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem())?;
    }
    let file = |name: &str| folder.join(name).display().to_string();
    let tls = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let more = format!(
        "{tls}\noperator: {of_operator:?}\nsystem_account: {}\nresolver: MEMORY\n\
         resolver_preload: {{ {}: {of_account:?}, {}: {of_system:?} }}",
        system.public_key(),
        account.public_key(),
        system.public_key()
    );
    Ok((NatsServer::prepare(folder, &more)?, creds))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_credentials_are_used_and_the_secrets_are_in_no_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut server, creds) = guarded(folder.path())?;
    server.start()?;
    let file = |name: &str| folder.path().join(name);
    // Somebody else's credentials first.
    let (_, strangers) = guarded(&{
        let other = folder.path().join("other");
        fs::create_dir_all(&other)?;
        other
    })?;
    fs::write(file("user.creds"), &strangers)?;
    let more = format!(
        "ca = {:?}\ncredentials_file = {:?}\nclient_certificate = {:?}\nclient_key = {:?}\n",
        file("ca.pem"),
        file("user.creds"),
        file("client.pem"),
        file("client.key")
    );
    let settings = Settings { log_level: "trace".to_owned(), ..publishing("tls", &server, &more) };
    let mut cluster = Cluster::with_settings(1, &settings).await?;
    wait::until("it is said why nothing is published", async || {
        let log = cluster.control_plane.daemon().log();
        ensure!(times(&log, "events are not published") == 1, "{log}");
        ensure!(log.to_lowercase().contains("authorization violation"), "{log}");
        Ok(())
    })
    .await
    .inspect_err(|_| server.show_log())?;
    fs::write(file("user.creds"), &creds)?;
    cluster.control_plane.stop()?;
    cluster.control_plane.resume().await?;

    let options = || {
        let options = ConnectOptions::with_credentials(&creds).expect("they are credentials");
        options
            .add_root_certificates(file("ca.pem"))
            .add_client_certificate(file("client.pem"), file("client.key"))
            .require_tls(true)
    };
    let bus = server.client(options).await.inspect_err(|_| server.show_log())?;
    same_as_feed(&cluster, &bus).await.inspect_err(|_| server.show_log())?;
    let log = cluster.control_plane.daemon().log();
    for line in [&creds, &strangers]
        .into_iter()
        .flat_map(|it| it.lines())
        .filter(|line| !line.is_empty() && !line.starts_with("---"))
    {
        ensure!(!log.contains(line), "a secret is in the log: {log}");
    }
    cluster.passed()
}
