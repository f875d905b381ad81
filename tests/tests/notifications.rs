//! Who is told when something is wrong, by a control plane that has nobody else to do it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_api_types::deployment::OnFailure;
use stella_api_types::paths;
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Workflow};
use stella_notify::receiver::signature;
use stella_tests::binaries;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::control_plane::Settings;
use stella_tests::mail::{Mail, MailServer};
use stella_tests::monitoring::{Event, Pager};
use stella_tests::people::{Shell, approve, ask, need_approvals, person};
use stella_tests::ports;
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::wait;

/// An agent is only offline after the reconnect window.
const OFFLINE_PATIENCE: Duration = Duration::from_secs(150);
const ROUTING_KEY: &str = "0123456789abcdef0123456789abcdef";
const SIGNING_SECRET: &str = "s1gn1ng-s3cr3t";
const MAIL_PASSWORD: &str = "m41l-p4ssw0rd";

/// Writes a secret to a file of its own.
fn secret(folder: &Path, name: &str, value: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, format!("{value}\n"))?;
    Ok(path)
}

/// The configuration of a webhook and a pager that listen there.
fn receivers(folder: &Path, pager: &str, hook: &str) -> Result<String> {
    let (key, signing) = (secret(folder, "key", ROUTING_KEY)?, secret(folder, "signing", SIGNING_SECRET)?);
    Ok(format!(
        "[notifications]\nsource = \"stella.example.com\"\n\
         [[notifications.receivers]]\nname = \"pager\"\ntype = \"pagerduty\"\nurl = \"{pager}\"\nrouting_key_file = {key:?}\n\
         [[notifications.receivers]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{hook}\"\nsecret_file = {signing:?}\n"
    ))
}

fn route(receivers: &str, kinds: &str, wait_s: u64) -> String {
    format!("[[notifications.routes]]\nreceivers = [{receivers}]\nkinds = [{kinds}]\nwait_s = {wait_s}\n")
}

async fn cluster(agents: usize, tables: String) -> Result<Cluster> {
    Cluster::with_settings(agents, &Settings { tables, ..Settings::default() }).await
}

/// What a webhook was told, after the signature of each was checked.
fn told(pager: &Pager) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for event in pager.events() {
        let Event::Hooked { head, body } = event else { continue };
        let header = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
        };
        let signed = header("stella-signature").context("no signature")?;
        let at = header("stella-timestamp").context("no timestamp")?;
        ensure!(signed == signature(SIGNING_SECRET, &at, &body), "{signed} does not fit {body}");
        let json: Value = serde_json::from_str(&body)?;
        ensure!(header("stella-notification-id").as_deref() == json["id"].as_str(), "{head} {body}");
        all.push(json);
    }
    Ok(all)
}

fn statuses(told: &[Value], kind: &str) -> Vec<String> {
    let of_kind = told.iter().filter(|it| it["kind"] == kind);
    of_kind.map(|it| it["status"].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_agent_is_paged_once_over_a_crash_and_resolved() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pager = Pager::start().await?;
    let tables = receivers(folder.path(), &pager.pagerduty_url(), &pager.hook_url())?
        + &route("\"pager\", \"hook\"", "\"agent_offline\"", 1);
    let mut cluster = cluster(2, tables).await?;
    cluster.agents[0].kill()?;
    let page = wait::until_within(OFFLINE_PATIENCE, "somebody is paged", async || {
        let pages = pager.pages("");
        ensure!(pages.len() == 1 && told(&pager)?.len() == 1, "{pages:?}");
        Ok(pages[0].1.clone())
    })
    .await?;
    ensure!(page["payload"]["summary"] == format!("{TENANT}: agent web-1 is offline"), "{page}");
    ensure!(page["payload"]["severity"] == "critical" && page["payload"]["source"] == "stella.example.com");
    wait::until("it is saved that it was told", async || {
        let log = cluster.control_plane.daemon().log();
        ensure!(log.matches("notification.sent").count() == 2, "{log}");
        Ok(())
    })
    .await?;

    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    cluster.wait_online(cluster.agents[1].name()).await?;
    cluster.agents[0].start()?;
    wait::until("the page is resolved", async || {
        let (pages, told) = (pager.pages(""), told(&pager)?);
        ensure!(pager.resolves() == 1 && told.len() == 2, "{pages:?} {told:?}");
        Ok(())
    })
    .await?;
    let events = pager.events();
    let keys: Vec<_> = events
        .iter()
        .filter_map(|it| if let Event::Paged(page) = it { Some(page["dedup_key"].clone()) } else { None })
        .collect();
    ensure!(keys.len() == 2 && keys[0] == keys[1], "one page, one end: {events:?}");
    ensure!(statuses(&told(&pager)?, "agent_offline") == ["firing", "resolved"], "{events:?}");
    let log = cluster.control_plane.daemon().log();
    let state = fs::read_to_string(cluster.control_plane.state_dir().join("notifications.json"))?;
    for secret in [ROUTING_KEY, SIGNING_SECRET] {
        ensure!(!log.contains(secret) && !state.contains(secret), "a secret is in the log, or in the state");
    }
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_told_its_rollback_and_its_end_too_and_a_receiver_that_is_away_delays_only_itself()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    let hook = Pager::start().await?;
    let port = ports::free()?;
    let away = format!("http://127.0.0.1:{port}/v2/enqueue");
    let tables = receivers(folder.path(), &away, &hook.hook_url())?
        + &route("\"hook\"", "\"deployment_failed\", \"rollback\"", 0)
        + &route("\"pager\"", "\"deployment_failed\"", 0);
    let mut cluster = cluster(1, tables).await?;
    for (version, script) in [("1.0.0", "true"), ("2.0.0", "echo no; false"), ("3.0.0", "true")] {
        cluster.release(&release(version, &[], vec![shell("run", script)])).await?;
    }
    cluster.deploy(&rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let failed = cluster.deploy(&rolling(ENVIRONMENT, "2.0.0", OnFailure::Stop)).await?.deployment;
    let first = wait::until("the failure is told", async || {
        let told = told(&hook)?;
        ensure!(statuses(&told, "deployment_failed") == ["firing"], "{told:?}");
        Ok(told[0].clone())
    })
    .await?;
    ensure!(first["tenant"] == TENANT && first["environment"] == ENVIRONMENT, "{first}");
    ensure!(first["incidents"][0]["id"] == failed.id.as_str() && first["severity"] == "critical", "{first}");
    wait::until("it is said once that the pager is away", async || {
        let log = cluster.control_plane.daemon().log();
        ensure!(log.matches("notifications are not delivered").count() == 1, "{log}");
        Ok(())
    })
    .await?;

    let broken = cluster.deploy(&rolling(ENVIRONMENT, "2.0.0", OnFailure::Rollback)).await?.deployment;
    ensure!(broken.status == "failed", "{broken:?}");
    wait::until("the rollback and the end of all failures are told", async || {
        let told = told(&hook)?;
        ensure!(statuses(&told, "rollback").last().is_some_and(|it| it == "resolved"), "{told:?}");
        ensure!(statuses(&told, "deployment_failed").last().is_some_and(|it| it == "resolved"), "{told:?}");
        Ok(())
    })
    .await?;
    let last = cluster.deploy(&rolling(ENVIRONMENT, "2.0.0", OnFailure::Stop)).await?.deployment;
    ensure!(last.status == "failed", "{last:?}");

    // The pager comes back: it hears how things stand, and nothing of what is over.
    let pager = Pager::start_at(port).await?;
    wait::until("the pager is told", async || {
        let pages = pager.pages("");
        ensure!(pages.len() == 1 && pages[0].0 == "trigger", "{pages:?}");
        ensure!(pages[0].1.to_string().contains(&last.id), "{pages:?}");
        Ok(())
    })
    .await?;
    cluster.deploy(&rolling(ENVIRONMENT, "3.0.0", OnFailure::Stop)).await?;
    wait::until("the page is resolved", async || {
        ensure!(pager.resolves() == 1, "{:?}", pager.events());
        Ok(())
    })
    .await?;
    wait::until("figures say the same", async || figures_of_receivers(&cluster).await).await?;
    cluster.passed()
}

async fn figures_of_receivers(cluster: &Cluster) -> Result<()> {
    let scraped = cluster.control_plane.metrics().await?;
    for series in [
        "stella_notifications_total{receiver=\"pager\",result=\"failed\"}",
        "stella_notifications_total{receiver=\"hook\",result=\"delivered\"}",
        "stella_notifications_late{receiver=\"pager\"} 0",
        "stella_notifications_open{receiver=\"hook\"} 0",
    ] {
        ensure!(scraped.contains(series), "no {series} in {scraped}");
    }
    Ok(())
}

fn mail_receiver(folder: &Path, name: &str, port: u16, ca: &Path, to: &str) -> Result<String> {
    let password = secret(folder, "mail-password", MAIL_PASSWORD)?;
    Ok(format!(
        "[[notifications.receivers]]\nname = \"{name}\"\ntype = \"email\"\nhost = \"127.0.0.1\"\nport = {port}\n\
         username = \"stella\"\npassword_file = {password:?}\nca = {ca:?}\nfrom = \"Stella <stella@example.com>\"\nto = [{to}]\n"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_waits_is_mailed_and_chatted_with_its_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let chat = Pager::start().await?;
    let (mail, ca) = MailServer::with_own_certificate(folder.path()).await?;
    let url = secret(folder.path(), "slack-url", &chat.slack_url())?;
    let tables = mail_receiver(
        folder.path(),
        "mail",
        mail.port(),
        &ca,
        "\"qa@example.com\", \"ops@example.com\"",
    )? + &format!(
        "[[notifications.receivers]]\nname = \"chat\"\ntype = \"slack\"\nurl_file = {url:?}\nchannel = \"#releases\"\n"
    ) + &route("\"mail\", \"chat\"", "\"approval_waiting\"", 0);
    let mut cluster = cluster(1, tables).await?;
    let approver = cluster.api.with_token(&person(&cluster.api, "qa", "approver").await?);
    need_approvals(&cluster.api, 1).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    let waits = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    wait::until("the wait is mailed and chatted", async || {
        ensure!(
            mail.mails().len() == 1 && chat.events().len() == 1,
            "{:?} {:?}",
            mail.mails(),
            chat.events()
        );
        Ok(())
    })
    .await?;
    approve(&approver, &waits).await?;
    wait::until("so is its end", async || {
        ensure!(
            mail.mails().len() == 2 && chat.events().len() == 2,
            "{:?} {:?}",
            mail.mails(),
            chat.events()
        );
        Ok(())
    })
    .await?;
    let [first, last] = <[_; 2]>::try_from(mail.mails()).map_err(|all| anyhow::anyhow!("{all:?}"))?;
    ensure!(first.to == ["qa@example.com", "ops@example.com"], "{first:?}");
    ensure!(
        first.text.contains("Subject: [info] ") && last.text.contains("Subject: [over] "),
        "{first:?} {last:?}"
    );
    ensure!(first.text.replace("=\n", "").contains(&waits.id), "{first:?}");
    let references =
        |text: &str| text.lines().find(|line| line.starts_with("References: ")).map(str::to_owned);
    ensure!(
        references(&first.text).is_some() && references(&first.text) == references(&last.text),
        "one conversation"
    );
    let chatted = format!("{:?}", chat.events());
    ensure!(chatted.contains("waits for 1 more approval") && chatted.contains("#releases"), "{chatted}");
    let log = cluster.control_plane.daemon().log();
    ensure!(!log.contains(MAIL_PASSWORD) && !log.contains(&chat.slack_url()), "a secret is in the log");
    cluster.passed()
}

fn try_receiver(config: &Path, name: &str) -> Result<Output> {
    let mut command = Command::new(binaries::path("stella-orchestrator")?);
    Ok(command.args(["notifications", "test", name, "--config"]).arg(config).output()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_message_says_what_the_receiver_answered_and_shows_no_secret() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pager = Pager::start().await?;
    let (mail, ca) = MailServer::with_own_certificate(folder.path()).await?;
    let url = secret(folder.path(), "slack-url", &pager.slack_url())?;
    let some = r#""dev@example.com", "nobody@example.com", "boss@example.com""#;
    let text = receivers(folder.path(), &pager.pagerduty_url(), &pager.hook_url())?
        + &format!(
            "[[notifications.receivers]]\nname = \"no-channel\"\ntype = \"slack\"\nurl_file = {url:?}\n"
        )
        + &mail_receiver(folder.path(), "mail", mail.port(), &ca, "\"ops@example.com\"")?
        + &mail_receiver(folder.path(), "stranger", mail.port(), &ca, "\"nobody@example.com\"")?
        + &mail_receiver(folder.path(), "mixed", mail.port(), &ca, some)?
        + &format!(
            "[[notifications.receivers]]\nname = \"away\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:{}/{SIGNING_SECRET}\"\n",
            ports::free()?
        )
        + &route("\"pager\", \"hook\", \"no-channel\", \"mail\", \"stranger\", \"mixed\", \"away\"", "", 10);
    let config = folder.path().join("orchestrator.toml");
    fs::write(&config, text)?;
    let tried = tokio::task::spawn_blocking(move || -> Result<Vec<(bool, String)>> {
        let names = ["pager", "hook", "no-channel", "mail", "stranger", "mixed", "away", "unknown"];
        let all = names.iter().map(|name| {
            let output = try_receiver(&config, name)?;
            let said = [output.stdout, output.stderr].concat();
            Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
        });
        all.collect()
    })
    .await??;
    let expected = [
        (true, "202 Accepted: {\"dedup_key\":\"stella/test\""),
        (true, "hook took the test message and answered 200 OK"),
        (false, "400 Bad Request"),
        (true, "250: taken as 4711"),
        (false, "550"),
        (true, "250: taken as 4711; not for nobody@example.com: "),
        (false, "cannot be reached"),
        (false, "there are pager, hook"),
    ];
    for ((is_told, says), (succeeded, said)) in expected.iter().zip(&tried) {
        ensure!(is_told == succeeded && said.contains(says), "{says}: {said}");
        for secret in [ROUTING_KEY, SIGNING_SECRET, MAIL_PASSWORD, &pager.slack_url()] {
            ensure!(!said.contains(secret), "a secret is shown: {said}");
        }
    }
    ensure!(pager.resolves() == 1, "a test page does not stay open: {:?}", pager.events());
    let mails = mail.mails();
    let to: Vec<&str> = mails.iter().flat_map(|mail| &mail.to).map(String::as_str).collect();
    ensure!(to == ["ops@example.com", "dev@example.com", "boss@example.com"], "{mails:?}");
    let id = |mail: &Mail| mail.text.lines().find(|line| line.starts_with("Message-ID: ")).map(str::to_owned);
    ensure!(id(&mails[1]).is_some() && id(&mails[1]) == id(&mails[2]), "it is one mail: {mails:?}");
    Ok(())
}

const OPEN_SHOP: &str =
    "name: shop\nsteps:\n  - id: ask\n    approval: {needed: 1, message: \"open the shop?\"}\n    hold: 1h\n";

/// How much waits for people, with an environment and without one.
async fn wait_pending(cluster: &Cluster, here: usize, nowhere: usize) -> Result<()> {
    wait::until("it is counted", async || {
        let scraped = cluster.control_plane.metrics().await?;
        for (environment, pending) in [(ENVIRONMENT, here), ("", nowhere)] {
            let line = format!(
                "stella_approval_pending_count{{tenant=\"{TENANT}\",env=\"{environment}\"}} {pending}\n"
            );
            ensure!(scraped.contains(&line), "no {line} in {scraped}");
        }
        Ok(())
    })
    .await
}

/// Not only promotions wait for approvals: steps of workflows do, and both wait for what somebody says at a gate.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_waited_for_is_told_also_by_steps_and_gates() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let pager = Pager::start().await?;
    let tables = receivers(folder.path(), &pager.pagerduty_url(), &pager.hook_url())?
        + &route("\"pager\", \"hook\"", "\"approval_waiting\"", 0);
    let mut cluster = cluster(1, tables).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let token = boss.token();
    cluster.release(&release("1.0.0", &[], vec![shell("run", "true")])).await?;
    boss.ok(&["gate", "set", "manual", ENVIRONMENT, "board"])?;
    let waits = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let applied = ApplyWorkflow { source: OPEN_SHOP.to_owned() };
    cluster.api.post::<_, Workflow>(&paths::fill(paths::WORKFLOWS, &[TENANT]), &applied, None).await?;
    let start = StartRun { workflow: "shop".to_owned(), version: None, inputs: BTreeMap::new() };
    let run: Run = cluster.api.post(&paths::fill(paths::RUNS, &[TENANT]), &start, None).await?;
    wait_pending(&cluster, 1, 1).await?;
    let heard = async |what: &str, status: &str| {
        wait::until(&format!("{status}: {what}"), async || {
            let told = told(&pager)?;
            let is_it = |it: &&Value| it["status"] == status && it.to_string().contains(what);
            ensure!(told.iter().filter(is_it).count() == 1, "{told:?}");
            Ok(())
        })
        .await
    };
    let of_step = format!("step ask of run {} of shop waits for 1 more approval: open the shop?", run.id);
    let of_gate = format!("promotion {} of app:1.0.0 to {ENVIRONMENT} waits for somebody's word", waits.id);
    heard(&of_step, "firing").await?;
    heard(&of_gate, "firing").await?;

    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    wait_pending(&cluster, 1, 1).await?;
    let boss = Shell::again(&cluster, token);
    boss.ok(&["workflow", "approve", &run.id, "ask", "--reason", "it is nine"])?;
    boss.ok(&["gate", "pass", &waits.id, "board", "--reason", "seen"])?;
    heard(&of_step, "resolved").await?;
    heard(&of_gate, "resolved").await?;
    wait_pending(&cluster, 0, 0).await?;
    ensure!(cluster.wait_final(&waits.id).await?.deployment.status == "succeeded");
    // What waited at a gate that is not there any more waits for nobody.
    boss.ok(&["gate", "set", "manual", ENVIRONMENT, "board"])?;
    let freed = ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    let of_freed = format!("promotion {} of app:1.0.0 to {ENVIRONMENT} waits for somebody's word", freed.id);
    heard(&of_freed, "firing").await?;
    boss.ok(&["gate", "remove", ENVIRONMENT, "board"])?;
    heard(&of_freed, "resolved").await?;
    ensure!(cluster.wait_final(&freed.id).await?.deployment.status == "succeeded");
    // A gate that verifies is waited for when everything has been brought.
    boss.ok(&["gate", "set", "manual", ENVIRONMENT, "sign-off", "--verifies"])?;
    let wanted = rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop);
    let brought = cluster.api.deploy(TENANT, &wanted, None).await?.deployment;
    let of_brought =
        format!("deployment {} of app:1.0.0 to {ENVIRONMENT} holds: somebody has to say", brought.id);
    heard(&of_brought, "firing").await?;
    wait_pending(&cluster, 1, 0).await?;
    boss.ok(&["gate", "pass", &brought.id, "sign-off", "--reason", "works"])?;
    heard(&of_brought, "resolved").await?;
    wait_pending(&cluster, 0, 0).await?;
    // Also where a step has time to be begun anew, somebody has said no now.
    let denied: Run = cluster.api.post(&paths::fill(paths::RUNS, &[TENANT]), &start, None).await?;
    boss.ok(&["workflow", "reject", &denied.id, "ask", "--reason", "it is dark"])?;
    cluster.wait_step(&denied.id, "ask", "held").await?;
    let log = cluster.control_plane.daemon().log();
    for (event, id) in [("approval.granted", &run.id), ("approval.denied", &denied.id)] {
        let told = log.lines().find(|line| line.contains(event) && line.contains(id));
        ensure!(told.is_some_and(|line| line.contains("correlationId")), "{event}: {log}");
    }
    cluster.passed()
}
