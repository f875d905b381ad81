//! Secrets in every place that a line of a log can come from, in a running system: none is in what the programs write about their work.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use async_nats::ConnectOptions;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, Uri};
use reqwest::Method;
use serde_json::Value;
use stella_api_types::deployment::OnFailure;
use stella_api_types::environment::Environment;
use stella_api_types::gate::{Check, SetGate};
use stella_api_types::paths::{self, fill};
use stella_api_types::release::{Step, StepAction};
use stella_api_types::workflow::{ApplyWorkflow, Run, StartRun, Workflow};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_token, token};
use stella_tests::collector::Collector;
use stella_tests::control_plane::Settings;
use stella_tests::nats::{NatsServer, Stored, stored};
use stella_tests::people::ask;
use stella_tests::recipe::{program, release, rolling, shell};
use stella_tests::rotel::Rotel;
use stella_tests::{binaries, ports, wait};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Every planted secret begins so.
const MARK: &str = "zq7Kzq7K-planted-";
/// What is a part of a release is in the journal, and in the events about it.
const IN_RELEASE: &str = "zq7Kzq7K-planted-in-release";
/// So is what is a part of a workflow: what it calls, and what it tells people.
const IN_WORKFLOW: &str = "zq7Kzq7K-planted-in-workflow";
/// What a caller sends along is in the journal, for those that it leads to; and `tracestate` in spans, and in events on the bus.
const IN_BAGGAGE: &str = "zq7Kzq7K-planted-in-baggage";
const IN_STATE: &str = "zq7Kzq7K-planted-in-state";

fn planted(place: &str) -> String {
    format!("{MARK}{place}")
}

/// Fails with where a secret is.
fn clean(place: &str, text: &str) -> Result<()> {
    if let Some(at) = text.find(MARK) {
        let from = text.floor_char_boundary(at.saturating_sub(300));
        let to = text.ceil_char_boundary((at + 100).min(text.len()));
        anyhow::bail!("{place} has a secret: {}", &text[from..to]);
    }
    Ok(())
}

// === configurations that are refused ===

/// What a program says of a configuration, which has to be refused.
fn refusal(program: &str, config: &Path, arguments: &[&str], variable: (&str, &str)) -> Result<String> {
    let mut command = Command::new(binaries::path(program)?);
    command.args(arguments).arg("--config").arg(config).env(variable.0, variable.1);
    let ended = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8([ended.stdout, ended.stderr].concat())?;
    ensure!(!ended.status.success(), "{program} {arguments:?} takes it: {said}");
    Ok(said)
}

#[test]
fn what_is_said_of_a_wrong_configuration_repeats_no_secret_of_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let headers = folder.path().join("headers");
    fs::write(&headers, format!("Authorization Bearer {}\n", planted("line")))?;
    let secret = planted("configuration");
    let state = folder.path().join("state");
    let of_both = [
        format!("[traces]\nendpoint = \"https://me:{secret}@collector\"\n"),
        format!("[traces]\nendpoint = \"collector/?token={secret}\"\n"),
        format!("[traces]\nendpoint = \"http://127.0.0.1:1\"\nheaders_file = {headers:?}\n"),
        format!("[log]\nlevel = \"password={secret}\"\n"),
        format!("[log]\npassword = \"{secret}\"\n"),
        format!("[log]\nlevel = \"info\"\npassword = \"{secret}\n"),
        format!("[log]\nlevel = \"info\"\ntoken = {secret}\n"),
    ];
    let of_control_plane = [
        format!("[event_bus]\nservers = [\"nats://me:{secret}@127.0.0.1\"]\n"),
        format!("[event_bus]\nservers = [\"127.0.0.1/?token={secret}\"]\n"),
        format!("[gates.http.change]\nurl = \"ftp://change/?token={secret}\"\n"),
        format!("[gates.http.change]\nurl = \"https://me:{secret}@change\"\n"),
        format!("[workflows]\nhttp_allowed = [\"ftp://change/?token={secret}\"]\n"),
        format!("[[notifications.receivers]]\nname = \"a\"\ntype = \"webhook\"\nurl = \"hooks/{secret}\"\n"),
    ];
    for (program, flag, more) in [
        ("stella-orchestrator", "", of_control_plane.as_slice()),
        ("stella-agent", "STELLA_AGENT_SERVER", [].as_slice()),
    ] {
        let config = folder.path().join(format!("{program}.toml"));
        for text in of_both.iter().chain(more) {
            fs::write(&config, format!("state_dir = {state:?}\n{text}"))?;
            for arguments in [["config", "check"].as_slice(), ["run"].as_slice()] {
                let said = refusal(program, &config, arguments, ("LANG", "C"))?;
                clean(&format!("{program} {arguments:?} about {text}"), &said)?;
            }
        }
        if !flag.is_empty() {
            fs::write(&config, format!("state_dir = {state:?}\n"))?;
            let said = refusal(program, &config, &["run"], (flag, &format!("password={secret}")))?;
            clean(&format!("{program} about its environment"), &said)?;
        }
    }
    Ok(())
}

// === a system that runs ===

/// Whoever is called there refuses it, and repeats everything.
async fn echo() -> Result<(String, JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let answer = |uri: Uri, headers: HeaderMap, body: Bytes| async move {
        (StatusCode::BAD_REQUEST, format!("{uri} {headers:?} {}", String::from_utf8_lossy(&body)))
    };
    let task = tokio::spawn(async move {
        // The tests say what is missing if it ends.
        axum::serve(listener, Router::new().fallback(answer)).await.ok();
    });
    Ok((base, task))
}

fn file(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, format!("{text}\n"))?;
    Ok(path)
}

/// Everything outside with a secret in its address and another one in what it is sent.
fn settings(folder: &Path, echo: &str, rotel: &Rotel, nats: &NatsServer) -> Result<Settings> {
    let headers = |of: &str| {
        let text = format!("Authorization: Bearer {}\nX-Key: {}", planted(of), planted(&format!("{of}-key")));
        file(folder, of, &text)
    };
    let (gate, traces) = (headers("gate-header")?, headers("traces-header")?);
    let routing = file(folder, "routing", &planted("routing-key"))?;
    let signing = file(folder, "signing", &planted("signing-secret"))?;
    let chat = file(folder, "chat", &format!("{echo}/services/{}", planted("chat-address")))?;
    let tables = format!(
        "[traces]\nendpoint = \"{}?token={}\"\nheaders_file = {traces:?}\n\
         [event_bus]\nservers = [\"nats://127.0.0.1:{}\"]\nbegin = \"beginning\"\n\
         [gates.http.change]\nurl = \"{echo}/ask/{}?token={}\"\nheaders_file = {gate:?}\n\
         [workflows]\nhttp_allowed = [\"{echo}/call/\"]\n\
         [notifications]\n\
         [[notifications.receivers]]\nname = \"pager\"\ntype = \"pagerduty\"\nurl = \"{echo}/v2/enqueue\"\nrouting_key_file = {routing:?}\n\
         [[notifications.receivers]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{echo}/hooks/{}\"\nsecret_file = {signing:?}\nworkflow_tenants = [\"{TENANT}\"]\n\
         [[notifications.receivers]]\nname = \"chat\"\ntype = \"slack\"\nurl_file = {chat:?}\n\
         [[notifications.routes]]\nreceivers = [\"pager\", \"hook\", \"chat\"]\nwait_s = 0\n",
        rotel.endpoint(),
        planted("traces-address"),
        nats.port(),
        planted("gate-path"),
        planted("gate-query"),
        planted("hook-address"),
    );
    Ok(Settings { tables, log_level: "trace".to_owned(), ..Settings::default() })
}

/// Requests that are refused, one way or another, with secrets wherever a caller can put some.
async fn strange_requests(cluster: &Cluster) -> Result<()> {
    let api = &cluster.api;
    let under = |path: &str, place: &str| format!("{path}{}", planted(place));
    let tenant = fill(paths::TENANT, &[TENANT]);
    let header = |name: &str, place: &str| {
        api.request(Method::POST, paths::TENANTS).header(name, format!("token={}", planted(place)))
    };
    let body = |text: String| {
        api.request(Method::POST, paths::TENANTS).header("content-type", "application/json").body(text)
    };
    let delivery = |name: &str, place: &str| {
        let hook = fill(paths::HOOK_DELIVERY, &["0198c0de-0000-7000-8000-000000000004"]);
        let request = api.request(Method::POST, &hook).header("content-type", "application/json");
        let body = format!("{{\"secret\": \"{}\"}}", planted("hook-body"));
        request.header(name, format!("sha256={}", planted(place))).body(body)
    };
    let secret = planted("body");
    let stranger = api.with_token(&planted("bearer"));
    let requests = [
        api.request(Method::GET, &under(&format!("{tenant}/releases/password="), "path")),
        api.request(Method::GET, &under(&format!("{tenant}/token="), "unknown-path")),
        api.request(
            Method::GET,
            &under(&format!("{}?access_token=", fill(paths::EVENTS, &[TENANT])), "query"),
        ),
        header("x-correlation-id", "correlation"),
        header("user-agent", "user-agent"),
        header("traceparent", "traceparent"),
        header("idempotency-key", "idempotency"),
        header("tracestate", "state-alone"),
        header("baggage", "baggage-alone"),
        header("cookie", "cookie"),
        header("x-api-key", "key"),
        delivery("x-hub-signature-256", "signature"),
        delivery("x-gitea-signature", "other-signature"),
        stranger.request(Method::POST, paths::TENANTS),
        body(format!("{{\"name\": \"x\", \"password\": \"{secret}\"}}")),
        body(format!("{{\"name\": {{\"secret\": \"{secret}\"}}}}")),
        body(format!("{{\"password={secret}\": 1}}")),
        body(format!("{{\"password\": \"{secret}\"")),
        body(format!("\"password={secret}\"")),
    ];
    for request in requests {
        let answer = api.answer(request).await?;
        ensure!(answer.status.is_client_error(), "{answer:?}");
    }
    Ok(())
}

/// Hosts that come with tokens that are nobody's, and one that comes with a token that is used up: it is in the answer.
async fn strange_hosts(cluster: &Cluster) -> Result<String> {
    let created = create_token(&cluster.api, TENANT, &token(Some("late"), 1)).await?;
    let real = created.token.context("the token is not in the answer")?;
    let late =
        stella_tests::agent::Agent::new(cluster.folder(), "late", &cluster.control_plane.agents_address())?;
    late.enrol(&real)?;
    for token in [real.clone(), format!("token={}", planted("enrolment"))] {
        let said = late.tool(&["enrol", "--force", "--token", &token])?;
        ensure!(!said.status.success(), "{said:?}");
        let said = String::from_utf8([said.stdout, said.stderr].concat())?;
        clean("stella-agent enrol", &said)?;
        ensure!(!said.contains(&real), "{said}");
    }
    Ok(real)
}

/// Steps that fail, each with a secret in what there is to say about it.
fn failing() -> Vec<Step> {
    let speaks = "echo password=$DB_PASSWORD; echo $DB_PASSWORD; echo token=$DB_PASSWORD >&2; exit 3";
    let environment = || BTreeMap::from([("DB_PASSWORD".to_owned(), planted("in-release"))]);
    let command = |name: &str, argv: &[&str], folder: Option<String>| {
        let mut step = program(name, argv);
        if let StepAction::Command { environment: given, working_directory, .. } = &mut step.action {
            (*given, *working_directory) = (environment(), folder);
        }
        step
    };
    let check = StepAction::CheckHttp {
        url: format!("http://127.0.0.1:1/?token={IN_RELEASE}"),
        status: 200,
        interval_ms: 50,
        successes: 1,
    };
    vec![
        command("speaks", &["/bin/sh", "-c", speaks], None),
        command("folder", &["/bin/true"], Some(format!("nowhere/{IN_RELEASE}"))),
        command("program", &[&format!("/nowhere/{IN_RELEASE}")], None),
        Step { action: check, timeout_ms: 1_000, ..shell("asks", "") },
    ]
}

const LEAK: &str = "
name: leak
steps:
  - id: tell
    notify: {receiver: hook, message: 'token=SECRET'}
  - id: call
    http:
      url: ECHO/call/SECRET?token=SECRET
      headers: {X-Api-Key: SECRET}
      body: {password: SECRET}
      keep_body: true
";

/// A run whose calls are refused, by somebody who repeats what they were.
async fn leak(cluster: &Cluster, echo: &str) -> Result<()> {
    let source = LEAK.replace("ECHO", echo).replace("SECRET", IN_WORKFLOW);
    let path = fill(paths::WORKFLOWS, &[TENANT]);
    cluster.api.post::<_, Workflow>(&path, &ApplyWorkflow { source }, None).await?;
    let start = StartRun { workflow: "leak".to_owned(), version: None, inputs: BTreeMap::new() };
    let run: Run = cluster.api.post(&fill(paths::RUNS, &[TENANT]), &start, None).await?;
    wait::until("the run has ended", async || {
        let run: Run = cluster.api.get(&fill(paths::RUN, &[TENANT, &run.id])).await?;
        ensure!(run.is_final, "{run:?}");
        ensure!(run.status == "failed", "{run:?}");
        Ok(())
    })
    .await
}

/// Asks for a deployment, with all that a caller can send along.
async fn deploy(cluster: &Cluster, version: &str) -> Result<String> {
    let path = fill(paths::DEPLOYMENTS, &[TENANT]);
    let request = cluster.api.request(Method::POST, &path);
    let request = request
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("tracestate", format!("token={IN_STATE}"))
        .header("baggage", format!("token={IN_BAGGAGE}"))
        .header("cookie", format!("token={}", planted("cookie-of-deployment")))
        .json(&rolling(ENVIRONMENT, version, OnFailure::Stop));
    let answer = cluster.api.answer(request).await?;
    ensure!(answer.status.is_success(), "{answer:?}");
    let made: Value = serde_json::from_slice(&answer.body)?;
    Ok(made["id"].as_str().context("no id")?.to_owned())
}

/// Everything that goes wrong, until all of it is known everywhere; the token of the host that came late.
async fn go_wrong(cluster: &Cluster, echo: &str) -> Result<String> {
    strange_requests(cluster).await?;
    let used_up = strange_hosts(cluster).await?;
    for (number, step) in failing().into_iter().enumerate() {
        let version = format!("{}.0.0", number + 1);
        cluster.release(&release(&version, &[], vec![step])).await?;
        let ended = cluster.wait_final(&deploy(cluster, &version).await?).await?;
        ensure!(ended.deployment.status == "failed", "{ended:?}");
    }
    leak(cluster, echo).await?;
    let check = Check::Http { endpoint: "change".to_owned() };
    let gate = SetGate { name: "change".to_owned(), check, ttl_seconds: None, verifies: false };
    let path = fill(paths::ENVIRONMENT_GATES, &[TENANT, ENVIRONMENT]);
    cluster.api.post::<_, Environment>(&path, &gate, None).await?;
    ask(&cluster.api, &rolling(ENVIRONMENT, "1.0.0", OnFailure::Stop)).await?;
    Ok(used_up)
}

/// Kinds of events that have what a release or a workflow is made of.
const CONTENT: [&str; 5] =
    ["release_created", "deployment_created", "task_queued", "workflow_applied", "step_started"];

/// Without what belongs there.
fn without(text: &str, parts: &[&str]) -> String {
    parts.iter().fold(text.to_owned(), |text, part| text.replace(part, ""))
}

/// Lines of the journal: what is a part of a release is in those about releases and in what is made of them.
fn in_journal(cluster: &Cluster, used_up: &str) -> Result<()> {
    let exported = cluster.folder().join("journal.jsonl");
    cluster.control_plane.tool(&["journal", "export", &exported.display().to_string()])?;
    let text = fs::read_to_string(exported)?;
    ensure!(text.contains("deployment_failed"), "it is no journal: {text}");
    ensure!(!text.contains(used_up), "a token is in the journal");
    for line in text.lines() {
        let is_content = CONTENT.iter().any(|kind| line.contains(&format!("\"{kind}\"")));
        let content: &[&str] = if is_content { &[IN_RELEASE, IN_WORKFLOW] } else { &[] };
        clean("the journal", &without(&without(line, content), &[IN_STATE, IN_BAGGAGE]))?;
    }
    Ok(())
}

/// What may be scraped, and where to: of the control plane in both formats, and of the agent.
async fn pages(cluster: &Cluster, port: u16) -> Result<String> {
    let text = cluster.control_plane.metrics().await?;
    let open = cluster.control_plane.open_metrics().await?;
    let found = cluster.api.answer(cluster.api.request(Method::GET, paths::SD_AGENTS)).await?;
    let of_agent = wait::until("the agent is scraped", async || {
        let page = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await?.error_for_status()?;
        Ok(page.text().await?)
    })
    .await?;
    for (page, has) in [(&text, "# TYPE"), (&open, "# EOF"), (&of_agent, "stella_agent_tasks_total")] {
        ensure!(page.contains(has), "{page}");
    }
    Ok([text, open, of_agent, String::from_utf8(found.body.to_vec())?].concat())
}

/// All of it is told to all: then nothing is on its way that could have a secret. What the bus has.
async fn all_told(nats: &NatsServer, collector: &Collector) -> Result<Vec<Stored>> {
    let failures = failing().len();
    let bus = nats.client(ConnectOptions::new).await?;
    wait::until("the bus and the collector have it all", async || {
        let told = stored(&bus).await?;
        let failed = told.iter().filter(|it| it.event["eventname"] == "deployment.failed").count();
        let gates = told.iter().filter(|it| it.subject.ends_with(".gate_evaluated")).count();
        let spans = collector.named("deployment.execute").len();
        ensure!((failed, gates > 0, spans) == (failures, true, failures), "{failed} {gates} {spans}");
        Ok(told)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_what_the_programs_write_about_their_work() -> Result<()> {
    let (folder, collector) = (tempfile::tempdir()?, Collector::start().await?);
    let rotel = Rotel::start(folder.path(), &collector).await?;
    let mut nats = NatsServer::prepare(&folder.path().join("nats"), "")?;
    nats.start()?;
    let (base, echo) = echo().await?;
    let settings = settings(folder.path(), &base, &rotel, &nats)?;
    let mut cluster = Cluster::with_settings(1, &settings).await?;
    let (of_control_plane, of_agent) =
        (cluster.folder().join("logs/orchestrator.log"), cluster.folder().join("logs/agent.log"));
    fs::create_dir(cluster.folder().join("logs"))?;
    let site = cluster.control_plane.config_file().with_extension("conf.d");
    fs::create_dir_all(&site)?;
    fs::write(site.join("log.toml"), format!("[log]\nfile = {of_control_plane:?}\n"))?;
    cluster.control_plane.stop()?;
    cluster.control_plane.resume().await?;
    let (port, parts) = (ports::free()?, cluster.agents[0].config_file().with_extension("conf.d"));
    fs::create_dir_all(&parts)?;
    fs::write(parts.join("metrics.toml"), format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"))?;
    cluster.agents[0].configure("log", &format!("level = \"trace\"\nfile = {of_agent:?}"))?;
    cluster.wait_online(cluster.agents[0].name()).await?;

    let used_up = go_wrong(&cluster, &base).await?;
    let told = all_told(&nats, &collector).await?;
    let log = wait::until("each receiver has refused what it was sent", async || {
        let log = cluster.control_plane.daemon().log();
        let refused = log.matches("notifications are not delivered").count();
        ensure!(refused >= 3 && log.contains("deployment.failed"), "{refused} of them: {log}");
        Ok(log)
    })
    .await?;
    let pages = pages(&cluster, port).await?;
    for agent in &mut cluster.agents {
        agent.stop()?;
    }
    cluster.control_plane.stop()?;

    let log = log + &cluster.control_plane.daemon().log();
    let agent = cluster.agents[0].log();
    let spans = without(&format!("{:#?}", collector.spans()), &[IN_STATE]);
    let files = [fs::read_to_string(of_control_plane)?, fs::read_to_string(of_agent)?];
    for (place, text) in [
        ("the control plane's log", &log),
        ("the agent's log", &agent),
        ("the control plane's file", &files[0]),
        ("the agent's file", &files[1]),
        ("a span", &spans),
        ("a page", &pages),
    ] {
        clean(place, text)?;
        ensure!(!text.is_empty() && !text.contains(&used_up), "{place} has a token");
    }
    for it in &told {
        let event = it.event.to_string();
        let is_content = CONTENT.iter().any(|kind| it.subject.ends_with(kind));
        let content: &[&str] = if is_content { &[IN_RELEASE, IN_WORKFLOW] } else { &[] };
        clean("an event", &without(&without(&event, content), &[IN_STATE]))?;
    }
    in_journal(&cluster, &used_up)?;

    // It was there, and what is left says where.
    for masked in [r#""correlationId":"token=[REDACTED]""#, "deployment.failed", "folder"] {
        ensure!(log.contains(masked) && files[0].contains(masked), "{masked}: {log}");
    }
    ensure!(spans.contains("\"http.user_agent\": \"token=[REDACTED]\""), "{spans}");
    ensure!(spans.contains("/releases/password=[REDACTED]"), "{spans}");
    echo.abort();
    Ok(())
}
