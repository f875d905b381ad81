//! Incoming webhooks with a real control plane: what a sender can start, and everything that it cannot.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use stella_api_types::account::{Account, CreateAccount, GiveRole};
use stella_api_types::hook::{CreateHook, HookSecretMade, HookTaken, HookWorkflow};
use stella_api_types::paths;
use stella_api_types::workflow::{ApplyWorkflow, Run, Workflow};
use stella_tests::api::{Answer, Api};
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_tenant};
use stella_tests::control_plane::Settings;
use stella_tests::people::{Shell, need_approvals};
use stella_tests::recipe::{release, shell};
use stella_tests::wait;

const SHIP: &str =
    "name: ship\ninputs:\n  version: {type: text, max_length: 16}\nsteps:\n  - id: soak\n    wait: 1h\n";

async fn service(api: &Api, name: &str, role: &str, tenant: &str) -> Result<()> {
    let role = GiveRole { role: role.to_owned(), tenant: Some(tenant.to_owned()), environment: None };
    let body = CreateAccount { name: name.to_owned(), kind: "service".to_owned(), roles: vec![role] };
    api.post::<_, Account>(paths::ACCOUNTS, &body, None).await?;
    Ok(())
}

async fn apply(api: &Api, tenant: &str) -> Result<()> {
    let body = ApplyWorkflow { source: SHIP.to_owned() };
    api.post::<_, Workflow>(&paths::fill(paths::WORKFLOWS, &[tenant]), &body, None).await?;
    Ok(())
}

fn hmac(secret: &str, text: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length will do");
    mac.update(text);
    hex::encode(mac.finalize().into_bytes())
}

/// A message as GitHub sends it.
async fn github(api: &Api, path: &str, secret: &str, delivery: &str, body: &Value) -> Result<Answer> {
    let body = body.to_string();
    let request = api
        .with_token("nobody")
        .request(Method::POST, path)
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", "release")
        .header("X-GitHub-Delivery", delivery)
        .header("X-Hub-Signature-256", format!("sha256={}", hmac(secret, body.as_bytes())));
    Ok(api.answer(request.body(body)).await?)
}

fn taken(answer: &Answer, status: u16) -> Result<HookTaken> {
    ensure!(answer.status.as_u16() == status, "not {status}: {answer:?}");
    Ok(serde_json::from_slice(&answer.body)?)
}

/// The detail of a refusal with this status, in the form of all of them.
fn refused(answer: &Answer, status: u16) -> Result<String> {
    ensure!(answer.status.as_u16() == status, "not {status}: {answer:?}");
    Ok(answer.problem()?.detail)
}

fn published(version: &str) -> Value {
    json!({ "action": "published", "release": { "tag_name": version } })
}

/// The hook that a command of the command line has made.
fn made(shell: &Shell<'_>, arguments: &[&str]) -> Result<(String, String)> {
    let said = shell.ok(&[arguments, &["--output", "json"]].concat())?;
    let made: HookSecretMade = serde_json::from_str(&said)?;
    Ok((made.details.path, made.secret.context("the secret is not in the answer")?))
}

/// One answer for all of them, which does not say which hooks there are.
async fn strangers(api: &Api, path: &str, secret: &str) -> Result<()> {
    let nowhere = paths::fill(paths::HOOK_DELIVERY, &["0198c0de-0000-7000-8000-000000000004"]);
    let wrong = github(api, path, "stella_hook_guessed", "d-2", &published("1.4.2")).await?;
    let unknown = github(api, &nowhere, secret, "d-2", &published("1.4.2")).await?;
    let unreadable = github(api, "/api/v1/hooks/shipped", secret, "d-2", &published("1.4.2")).await?;
    ensure!(
        refused(&wrong, 401)? == refused(&unknown, 401)?
            && refused(&wrong, 401)? == refused(&unreadable, 401)?
    );
    let raw = |headers: &[(&str, &str)], body: String| {
        let request = api.with_token("nobody").request(Method::POST, path);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(body)
    };
    let body = published("1.4.2").to_string();
    let signed = format!("sha256={}", hmac(secret, body.as_bytes()));
    for (headers, body, status, says) in [
        (vec![], body.clone(), 401, "sign the body"),
        (vec![("X-Hub-Signature-256", "sha256=beef")], body.clone(), 401, "secret is another one"),
        (vec![("X-Hub-Signature-256", "sha1=beef")], body.clone(), 401, "is not sha256="),
        (
            vec![("X-Hub-Signature-256", signed.as_str())],
            body.replace("1.4.2", "6.6.6"),
            401,
            "secret is another one",
        ),
        (vec![("X-Hub-Signature-256", signed.as_str())], body.clone(), 415, "application/json"),
        (vec![("X-Hub-Signature-256", signed.as_str())], "x".repeat((1 << 20) + 1), 413, "at most"),
    ] {
        let answer = api.answer(raw(&headers, body)).await?;
        let said = refused(&answer, status)?;
        ensure!(said.contains(says), "{headers:?}: {said}");
    }
    let broken = "{";
    let signed = format!("sha256={}", hmac(secret, broken.as_bytes()));
    let headers = [("X-Hub-Signature-256", signed.as_str()), ("Content-Type", "application/json")];
    refused(&api.answer(raw(&headers, broken.to_owned())).await?, 400)?;
    Ok(())
}

async fn what_does_not_fit(api: &Api, path: &str, secret: &str) -> Result<()> {
    let ignored = json!({ "action": "created", "release": {} });
    ensure!(taken(&github(api, path, secret, "d-3", &ignored).await?, 200)?.status == "ignored");
    let lacking = json!({ "action": "published", "release": {} });
    let answer = github(api, path, secret, "d-4", &lacking).await?;
    ensure!(answer.problem()?.field.as_deref() == Some("workflow.inputs.version"), "{answer:?}");
    let in_the_place_of_others = github(api, path, secret, "signed/build-42", &published("1.4.2")).await?;
    ensure!(refused(&in_the_place_of_others, 422)?.contains("signed/"), "{in_the_place_of_others:?}");
    let long = github(api, path, secret, "d-5", &published("a version that is too long")).await?;
    ensure!(long.problem()?.field.as_deref() == Some("inputs.version"), "{long:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_message_starts_one_run_over_a_crash_and_nothing_else_does() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    apply(&cluster.api, TENANT).await?;
    service(&cluster.api, "ci", "deployer", TENANT).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let (path, secret) = made(
        &boss,
        &[
            "hook",
            "create",
            "shipped",
            "--account",
            "ci",
            "--workflow",
            "ship",
            "--input",
            "version=body.release.tag_name",
            "--when",
            "event == 'release' && body.action == 'published'",
        ],
    )?;
    let token = boss.token();
    let first = taken(&github(&cluster.api, &path, &secret, "d-1", &published("1.4.0")).await?, 201)?;
    let run = first.run.clone().context("a run")?;
    ensure!(first.status == "started" && !first.repeated, "{first:?}");
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let again = taken(&github(&cluster.api, &path, &secret, "d-1", &published("1.4.0")).await?, 200)?;
    ensure!(again.repeated && again.run == first.run, "the same delivery is the same run: {again:?}");
    let other = github(&cluster.api, &path, &secret, "d-1", &published("1.4.1")).await?;
    ensure!(other.problem()?.code == "idempotency_key_reused", "{other:?}");
    let shown: Run = cluster.api.get(&paths::fill(paths::RUN, &[TENANT, &run])).await?;
    ensure!(shown.inputs["version"] == "1.4.0" && shown.started_by.kind == "hook", "{shown:?}");
    ensure!(shown.started_by.account.as_deref() == Some("ci"), "{shown:?}");

    strangers(&cluster.api, &path, &secret).await?;
    what_does_not_fit(&cluster.api, &path, &secret).await?;

    // The account is what it has its authority from.
    let boss = Shell::again(&cluster, token);
    let admin = |arguments: &[&str]| {
        let (code, said) = cluster.stella(arguments)?;
        ensure!(code == Some(0), "{arguments:?}: {said}");
        Ok(())
    };
    admin(&["account", "roles", "ci", "--role", &format!("viewer@{TENANT}")])?;
    let said = refused(&github(&cluster.api, &path, &secret, "d-6", &published("1.4.3")).await?, 403)?;
    ensure!(said.contains("account ci needs the role deployer"), "{said}");
    admin(&["account", "remove", "ci"])?;
    let said = refused(&github(&cluster.api, &path, &secret, "d-6", &published("1.4.3")).await?, 403)?;
    ensure!(said.contains("account was removed"), "{said}");
    ensure!(boss.ok(&["hook", "list"])?.contains("an account that was removed"));
    boss.ok(&["hook", "remove", "shipped"])?;
    refused(&github(&cluster.api, &path, &secret, "d-6", &published("1.4.3")).await?, 401)?;
    let runs: Vec<Run> = cluster.api.list(&paths::fill(paths::RUNS, &[TENANT]), &[]).await?;
    ensure!(runs.len() == 1, "{runs:?}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_asks_for_a_promotion_that_waits_for_approvals_like_every_other() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    service(&cluster.api, "ci", "deployer", TENANT).await?;
    cluster.release(&release("1.0.0", &[], vec![shell("run", "echo ran >> ran.txt")])).await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let release = "'app:' + body.version";
    let arguments =
        ["hook", "create", "new", "--account", "ci", "--environment", ENVIRONMENT, "--release", release];
    let (path, secret) = made(&boss, &arguments)?;
    let token = boss.token();
    let carol = Shell::of(&cluster, "carol", "admin").await?.token();
    let started =
        taken(&github(&cluster.api, &path, &secret, "d-1", &json!({ "version": "1.0.0" })).await?, 201)?;
    let ended = cluster.wait_final(&started.deployment.context("a deployment")?).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    need_approvals(&cluster.api, 1).await?;
    let waits =
        taken(&github(&cluster.api, &path, &secret, "d-2", &json!({ "version": "1.0.0" })).await?, 202)?;
    let promotion = waits.promotion.context("a promotion")?;
    ensure!(waits.status == "waits");
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    let boss = Shell::again(&cluster, token);
    let shown = boss.ok(&["promotion", "show", &promotion])?;
    ensure!(shown.contains("ci"), "{shown}");
    let approve = ["promotion", "approve", &promotion, "--reason", "looked"];
    let (code, said) = boss.run(&approve)?;
    ensure!(code != Some(0) && said.contains("made the hook behind it"), "{said}");
    Shell::again(&cluster, carol).ok(&approve)?;
    let unknown = github(&cluster.api, &path, &secret, "d-3", &json!({ "version": "6.6.6" })).await?;
    ensure!(refused(&unknown, 404)?.contains("app:6.6.6"), "{unknown:?}");
    ensure!(
        refused(&github(&cluster.api, &path, &secret, "d-4", &json!({})).await?, 422)?.contains("no value")
    );
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_shown_once_kept_nowhere_and_replaced_without_a_gap() -> Result<()> {
    let settings = Settings { log_level: "trace".to_owned(), ..Settings::default() };
    let mut cluster = Cluster::with_settings(0, &settings).await?;
    apply(&cluster.api, TENANT).await?;
    service(&cluster.api, "ci", "deployer", TENANT).await?;
    let hooks = paths::fill(paths::HOOKS, &[TENANT]);
    let workflow = HookWorkflow {
        name: "ship".to_owned(),
        inputs: [("version".to_owned(), "body.v".to_owned())].into(),
    };
    let body = CreateHook {
        name: "shipped".to_owned(),
        account: "ci".to_owned(),
        workflow: Some(workflow),
        deploy: None,
        when: None,
    };
    let made: HookSecretMade = cluster.api.post(&hooks, &body, Some("once")).await?;
    let again: HookSecretMade = cluster.api.post(&hooks, &body, Some("once")).await?;
    ensure!(again.details == made.details && again.secret.is_none() && again.note.is_some(), "shown twice");
    let (path, first) = (made.details.path.clone(), made.secret.context("the secret")?);
    let version = |v: &str| json!({ "v": v });
    taken(&github(&cluster.api, &path, &first, "d-1", &version("1")).await?, 201)?;
    let (code, second) = cluster.stella(&["hook", "rotate", "shipped", "--overlap", "1h", "--quiet"])?;
    ensure!(code == Some(0), "{second}");
    let second = second.trim().to_owned();
    ensure!(second != first && cluster.stella(&["hook", "show", "shipped"])?.1.contains("is good until"));
    taken(&github(&cluster.api, &path, &first, "d-2", &version("2")).await?, 201)?;
    taken(&github(&cluster.api, &path, &second, "d-3", &version("3")).await?, 201)?;
    let (_, third) = cluster.stella(&["hook", "rotate", "shipped", "--quiet"])?;
    let third = third.trim().to_owned();
    for old in [&first, &second] {
        refused(&github(&cluster.api, &path, old, "d-4", &version("4")).await?, 401)?;
    }
    // Also after a restart, which reads the key from its file.
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    taken(&github(&cluster.api, &path, &third, "d-4", &version("4")).await?, 201)?;

    let bundle = cluster.folder().join("bundle.tar.gz");
    cluster.control_plane.tool(&["support-bundle", "--output", &bundle.display().to_string()])?;
    let unpacked = Command::new("tar").arg("-xzOf").arg(&bundle).stdin(Stdio::null()).output()?.stdout;
    let events =
        cluster.api.answer(cluster.api.request(Method::GET, &paths::fill(paths::JOURNAL, &[TENANT]))).await?;
    let log = cluster.control_plane.daemon().log();
    cluster.control_plane.stop()?;
    let export = cluster.folder().join("export.jsonl");
    cluster.control_plane.tool(&["journal", "export", &export.display().to_string()])?;
    let key = fs::read_to_string(cluster.control_plane.state_dir().join("pki/hooks.key"))?;
    let places = [
        ("the bundle", String::from_utf8_lossy(&unpacked).into_owned()),
        ("the journal", String::from_utf8_lossy(&events.body).into_owned()),
        ("the log", log),
        ("the export", fs::read_to_string(&export)?),
    ];
    for (place, text) in &places {
        ensure!(text.contains("hook_created") || *place != "the export", "{place} is no export: {text}");
        for secret in [first.as_str(), &second, &third, key.trim()] {
            ensure!(!text.contains(secret), "a secret is in {place}");
        }
    }
    cluster.control_plane.resume().await?;
    cluster.passed()
}

/// It is not for later, and not for another body.
async fn what_is_signed_with_its_time(api: &Api, path: &str, secret: &str) -> Result<()> {
    let timed = async |at: u64, body: &str, signed: &str| {
        let signature = format!("v1={}", hmac(secret, format!("{at}.{signed}").as_bytes()));
        let request = api.with_token("nobody").request(Method::POST, path);
        let request =
            request.header("Content-Type", "application/json").header("Stella-Timestamp", at.to_string());
        api.answer(request.header("Stella-Signature", signature).body(body.to_owned())).await
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let body = r#"{"version":"2"}"#;
    taken(&timed(now, body, body).await?, 201)?;
    ensure!(taken(&timed(now, body, body).await?, 200)?.repeated, "it came before");
    ensure!(refused(&timed(now - 400, body, body).await?, 401)?.contains("5 minutes"));
    refused(&timed(now, r#"{"version":"6"}"#, body).await?, 401)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_lends_only_what_has_to_do_with_it_and_a_hook_has_a_limit_of_its_own() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = Settings::default();
    let cluster = Cluster::with_settings(0, &settings).await?;
    create_tenant(&cluster.api, "other").await?;
    for tenant in [TENANT, "other"] {
        apply(&cluster.api, tenant).await?;
    }
    service(&cluster.api, "ci", "deployer", TENANT).await?;
    service(&cluster.api, "theirs", "deployer", "other").await?;
    let boss = Shell::of(&cluster, "boss", "admin").await?;
    let create = |name, account| {
        [
            "hook",
            "create",
            name,
            "--account",
            account,
            "--workflow",
            "ship",
            "--input",
            "version=body.version",
        ]
    };
    // Whether somebody else's account is there is nobody's business.
    for account in ["theirs", "nobody"] {
        let (code, said) = boss.run(&create("x", account))?;
        ensure!(code == Some(3) && said.contains("no such account with a role in this tenant"), "{said}");
    }
    let (code, said) = boss.run(&create("x", "boss"))?;
    ensure!(code == Some(3) && said.contains("boss is a person"), "{said}");
    let (path, secret) = made(&boss, &create("mine", "ci"))?;
    let viewer = Shell::of(&cluster, "viewer", "viewer").await?;
    ensure!(viewer.ok(&["hook", "list"])?.contains("runs workflow ship"));
    let (code, said) = viewer.run(&["hook", "rotate", "mine"])?;
    ensure!(code == Some(3) && said.contains("admin"), "{said}");
    let hidden = cluster.api.with_token(&viewer.token());
    let theirs = hidden.answer(hidden.request(Method::GET, &paths::fill(paths::HOOKS, &["other"]))).await?;
    refused(&theirs, 404)?;

    // The script of the page, as it is there.
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/hooks.md"))?;
    let script = page.split("```sh\n").nth(1).and_then(|it| it.split("```").next()).context("a script")?;
    let ca = cluster.control_plane.state_dir().join("pki/root.crt");
    fs::copy(ca, folder.path().join("ca.crt"))?;
    let address = format!("{}{path}", cluster.control_plane.api_url());
    let send = || {
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]).current_dir(folder.path()).stdin(Stdio::null());
        shell.env("SECRET", &secret).env("ADDRESS", &address).output()
    };
    let ended = send()?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    ensure!(ended.status.success() && said.contains("\"status\":\"started\""), "{said} {ended:?}");

    what_is_signed_with_its_time(&cluster.api, &path, &secret).await?;

    // The hook's limit is counted after its signature: who has no secret does not use it up.
    let limited = wait::until("the limit of the hook", async || {
        let wrong = github(&cluster.api, &path, "guessed", "w", &json!({})).await?;
        refused(&wrong, 401)?;
        let answer = github(&cluster.api, &path, &secret, "d", &json!({ "version": "3" })).await?;
        ensure!(answer.status.as_u16() == 429, "{answer:?}");
        Ok(answer)
    })
    .await?;
    ensure!(limited.problem()?.detail.contains("this hook has used up its requests"), "{limited:?}");
    let (other, secret) = made(&boss, &create("another", "ci"))?;
    taken(&github(&cluster.api, &other, &secret, "d", &json!({ "version": "3" })).await?, 201)?;
    cluster.passed()
}
