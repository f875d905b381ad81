//! Steps of workflows that tell people something, with real receivers: who may be told, and that a crash makes it no other message.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::Value;
use stella_api_types::paths;
use stella_api_types::tenant::CreateTenant;
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Workflow};
use stella_notify::receiver::signature;
use stella_tests::cluster::{Cluster, TENANT};
use stella_tests::control_plane::Settings;
use stella_tests::mail::MailServer;
use stella_tests::monitoring::{Event, Pager};
use stella_tests::wait;
use tokio::sync::watch;

const SECRET: &str = "s1gn1ng-s3cr3t";

/// A receiver that answers when it is told to, and remembers what has come.
struct Hook {
    url: String,
    told: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    answers: watch::Sender<bool>,
    server: tokio::task::JoinHandle<()>,
}

impl Hook {
    async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/told", listener.local_addr()?);
        let (answers, may) = watch::channel(false);
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&told);
        let answer = move |headers: HeaderMap, body: String| async move {
            seen.lock().push((headers, body));
            let mut may = may;
            may.wait_for(|it| *it).await.expect("the sender lives as long as the server");
            StatusCode::OK
        };
        let app = Router::new().route("/told", post(answer));
        let server = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { url, told, answers, server })
    }

    async fn wait(&self, times: usize) -> Result<Vec<(HeaderMap, String)>> {
        wait::until("the hook is told", async || {
            let told = self.told.lock().clone();
            ensure!(told.len() >= times, "{told:?}");
            Ok(told)
        })
        .await
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn apply(cluster: &Cluster, tenant: &str, source: &str) -> Result<Workflow> {
    let path = paths::fill(paths::WORKFLOWS, &[tenant]);
    Ok(cluster.api.post(&path, &ApplyWorkflow { source: source.to_owned() }, None).await?)
}

async fn start(cluster: &Cluster, tenant: &str, inputs: &[(&str, &str)]) -> Result<Run> {
    let inputs = inputs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
    let body =
        StartRun { workflow: "tell".to_owned(), version: None, inputs: inputs.collect::<BTreeMap<_, _>>() };
    Ok(cluster.api.post(&paths::fill(paths::RUNS, &[tenant]), &body, None).await?)
}

async fn wait_end(cluster: &Cluster, tenant: &str, run: &str) -> Result<Run> {
    wait::until("the run has ended", async || {
        let run: Run = cluster.api.get(&paths::fill(paths::RUN, &[tenant, run])).await?;
        ensure!(run.is_final, "{run:?}");
        Ok(run)
    })
    .await
}

/// All kinds of receivers, for the workflows of one tenant.
fn receivers(folder: &std::path::Path, hook: &str, pager: &Pager, mail: &MailServer) -> Result<String> {
    let file = |name: &str, value: &str| {
        let path = folder.join(name);
        std::fs::write(&path, value)?;
        Ok::<_, anyhow::Error>(path)
    };
    let (signing, key) = (file("signing", SECRET)?, file("key", "0123456789abcdef0123456789abcdef")?);
    let (slack, password) = (file("slack", &pager.slack_url())?, file("password", "m41l-p4ssw0rd")?);
    let (events, port, ca) = (pager.pagerduty_url(), mail.port(), folder.join("mail-ca.pem"));
    let receiver = |name: &str, keys: &str| {
        format!("[[notifications.receivers]]\nname = \"{name}\"\nworkflow_tenants = [\"{TENANT}\"]\n{keys}\n")
    };
    Ok([
        receiver("hook", &format!("type = \"webhook\"\nurl = \"{hook}\"\nsecret_file = {signing:?}")),
        receiver("pager", &format!("type = \"pagerduty\"\nurl = \"{events}\"\nrouting_key_file = {key:?}")),
        receiver("chat", &format!("type = \"slack\"\nurl_file = {slack:?}\nchannel = \"#releases\"")),
        receiver(
            "mail",
            &format!(
                "type = \"email\"\nhost = \"127.0.0.1\"\nport = {port}\nusername = \"stella\"\npassword_file = {password:?}\n\
                 ca = {ca:?}\nfrom = \"Stella <stella@example.com>\"\nto = [\"ops@example.com\"]"
            ),
        ),
    ]
    .concat())
}

const TELL: &str = r#"
name: tell
inputs:
  who: {type: text}
steps:
  - id: hook
    notify: {receiver: hook, message: "<!channel> ${inputs.who} is out\nnothing else", severity: warning}
  - id: page
    notify: {receiver: pager, message: "${inputs.who} is out", severity: critical}
  - id: chat
    notify: {receiver: chat, message: "<!channel> ${inputs.who} is out"}
  - id: mail
    notify: {receiver: mail, message: "${inputs.who} is out"}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_receiver_is_told_and_a_crash_makes_it_no_other_message() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (hook, pager) = (Hook::start().await?, Pager::start().await?);
    let (mail, _) = MailServer::with_own_certificate(folder.path()).await?;
    let tables = receivers(folder.path(), &hook.url, &pager, &mail)?;
    let mut cluster = Cluster::with_settings(0, &Settings { tables, ..Settings::default() }).await?;
    let applied = apply(&cluster, TENANT, TELL).await?;
    ensure!(applied.warnings.is_empty(), "{applied:?}");
    let run = start(&cluster, TENANT, &[("who", "web 2.0")]).await?.id;
    hook.wait(1).await?;
    for step in ["page", "chat", "mail"] {
        cluster.wait_step(&run, step, "succeeded").await?;
    }
    // The answer has not come, and never will: whoever waits for it is gone.
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    hook.wait(2).await?;
    hook.answers.send(true)?;
    let ended = wait_end(&cluster, TENANT, &run).await?;
    ensure!(ended.status == "succeeded" && ended.steps.iter().all(|step| step.attempts == 1), "{ended:?}");

    let (told, key) = (hook.told.lock().clone(), format!("{run}/hook/1"));
    for (headers, body) in &told {
        let header = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
        ensure!(header("idempotency-key") == key && header("stella-notification-id") == key, "{headers:?}");
        ensure!(
            header("stella-signature") == signature(SECRET, header("stella-timestamp"), body),
            "{headers:?}"
        );
        ensure!(header("traceparent").len() == 55, "{headers:?}");
        ensure!(*body == told[0].1, "the same bytes each time: {told:?}");
    }
    let body: Value = serde_json::from_str(&told[0].1)?;
    for (field, value) in [
        ("id", key.as_str()),
        ("kind", "workflow"),
        ("severity", "warning"),
        ("tenant", TENANT),
        ("title", &format!("{TENANT}: <!channel> web 2.0 is out")),
        ("message", "<!channel> web 2.0 is out\nnothing else"),
        ("workflow", "tell"),
        ("run", &run),
        ("step", "hook"),
    ] {
        ensure!(body[field] == value, "{field}: {body}");
    }
    let pages = pager.pages(&format!("{TENANT}: web 2.0 is out"));
    ensure!(pages.len() == 1 && pages[0].0 == "trigger", "{pages:?}");
    let page = &pages[0].1;
    ensure!(
        page["payload"]["severity"] == "critical"
            && page["dedup_key"] == format!("stella/{run}/page").as_str(),
        "{page}"
    );
    let chatted = |event: Event| if let Event::Chatted(message) = event { Some(message) } else { None };
    let chatted: Vec<_> = pager.events().into_iter().filter_map(chatted).collect();
    let [message] = chatted.as_slice() else { anyhow::bail!("{chatted:?}") };
    ensure!(
        message["attachments"][0]["text"] == "&lt;!channel&gt; web 2.0 is out",
        "nobody is called: {message}"
    );
    let mails = mail.mails();
    ensure!(mails.len() == 1 && mails[0].text.contains("Subject: [info] "), "{mails:?}");
    let log = cluster.control_plane.daemon().log();
    ensure!(!log.contains(SECRET) && !log.contains(&pager.slack_url()), "a secret is in the log");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_told_whom_a_tenant_may_not_tell() -> Result<()> {
    let pager = Pager::start().await?;
    let url = pager.hook_url();
    let receiver = |name: &str, keys: &str| {
        format!("[[notifications.receivers]]\nname = \"{name}\"\ntype = \"webhook\"\nurl = \"{url}\"\n{keys}")
    };
    let tables = receiver("ours", &format!("workflow_tenants = [\"{TENANT}\"]\n"))
        + &receiver("routed", "")
        + "[[notifications.routes]]\nreceivers = [\"routed\"]\n";
    let cluster = Cluster::with_settings(0, &Settings { tables, ..Settings::default() }).await?;
    let other = CreateTenant { name: "other".to_owned() };
    cluster.api.post::<_, Value>(paths::TENANTS, &other, None).await?;
    let tells = |receiver: &str| {
        format!("name: tell\nsteps:\n  - id: out\n    notify: {{receiver: {receiver}, message: hello}}\n")
    };
    for (tenant, receiver, known) in [
        (TENANT, "routed", "they may tell ours"),
        (TENANT, "nobody", "they may tell ours"),
        ("other", "ours", "there is none that they may"),
    ] {
        let applied = apply(&cluster, tenant, &tells(receiver)).await?;
        let refusal =
            format!("workflows of tenant {tenant} may not tell the receiver {receiver} anything; {known}");
        ensure!(applied.warnings.iter().any(|it| it.contains(&refusal)), "{applied:?}");
        let run = start(&cluster, tenant, &[]).await?;
        let ended = wait_end(&cluster, tenant, &run.id).await?;
        let reason = ended.steps[0].reason.clone().context("it says why")?;
        ensure!(ended.status == "failed" && reason.contains(&refusal), "{ended:?}");
        ensure!(reason.contains("workflow_tenants"), "it names the key: {reason}");
    }
    ensure!(pager.events().is_empty(), "{:?}", pager.events());

    // By the command line, and allowed.
    let file = cluster.folder().join("tell.yaml");
    std::fs::write(&file, tells("ours").replace("message", "massage"))?;
    let path = file.display().to_string();
    let (code, said) = cluster.stella(&["workflow", "check", &path])?;
    ensure!(
        code == Some(1) && said.contains("line 4, column 30: steps[0].notify.massage: unknown field"),
        "{said}"
    );
    std::fs::write(&file, tells("ours"))?;
    let (code, said) = cluster.stella(&["workflow", "apply", &path])?;
    ensure!(code == Some(0) && !said.contains("warning"), "{said}");
    let (code, said) = cluster.stella(&["workflow", "run", "tell", "--wait"])?;
    ensure!(code == Some(0), "{said}");
    let (_, said) = cluster.stella(&["workflow", "graph", "tell"])?;
    ensure!(said.contains("○ out (notify)"), "{said}");
    ensure!(pager.events().len() == 1, "{:?}", pager.events());
    cluster.passed()
}
