//! Nobody has a token any more that administers the installation, and somebody has the control plane's host.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, StatusCode};
use stella_api_types::account::{Account, CreateAccount, GiveRole, WhoAmI};
use stella_api_types::event::Event;
use stella_api_types::paths;
use stella_api_types::time::parse_rfc3339;
use stella_api_types::token::{ApiToken, ApiTokenCreated, CreateApiToken};
use stella_tests::cluster::Cluster;
use stella_tests::{binaries, people, wait};

const DAY_MS: u64 = 86_400_000;

/// What a tool printed to standard output alone, if it succeeded.
fn printed(output: &Output) -> Result<String> {
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", output.status);
    Ok(String::from_utf8(output.stdout.clone())?.trim().to_owned())
}

/// Why a tool did not succeed; it printed nothing that could be taken for a token.
fn refused(output: &Output) -> Result<String> {
    ensure!(!output.status.success(), "it was not refused");
    ensure!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn tokens(cluster: &Cluster) -> Result<Vec<ApiToken>> {
    Ok(cluster.api.list(paths::API_TOKENS, &[]).await?)
}

/// An account that administers the installation, with a token; the first token is revoked, as the book says.
async fn hand_over(cluster: &mut Cluster) -> Result<()> {
    let admin = GiveRole { role: "admin".to_owned(), tenant: None, environment: None };
    let body = CreateAccount { name: "ada".to_owned(), kind: "user".to_owned(), roles: vec![admin] };
    cluster.api.post::<_, Account>(paths::ACCOUNTS, &body, None).await?;
    let (name, account) = ("laptop".to_owned(), Some("ada".to_owned()));
    let body = CreateApiToken { name, account, expires_in_seconds: None };
    let created: ApiTokenCreated = cluster.api.post(paths::API_TOKENS, &body, None).await?;
    let first = tokens(cluster).await?.into_iter().find(|it| it.name == "first start");
    let first = first.context("there is no first token")?;
    let adas = cluster.api.with_token(&created.token.context("the token is not in the answer")?);
    let revoke = adas.request(Method::DELETE, &paths::fill(paths::API_TOKEN, &[&first.id]));
    ensure!(adas.answer(revoke).await?.status == StatusCode::NO_CONTENT, "the first token was not revoked");
    cluster.api = adas;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_host_gets_in_again_and_everybody_can_see_it() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    hand_over(&mut cluster).await?;
    people::person(&cluster.api, "bob", "viewer").await?;
    let before = tokens(&cluster).await?;

    // Ada's token is lost from here on: it is only used to look at what has become of it.
    let of_none = printed(&cluster.control_plane.tool_output(&["admin-token"])?)?;
    let (file, again) =
        (cluster.folder().join("token"), cluster.folder().join("token").display().to_string());
    let written = printed(&cluster.control_plane.tool_output(&[
        "admin-token",
        "--account",
        "ada",
        "--hours",
        "1",
        "--file",
        &again,
    ])?)?;
    let of_ada = fs::read_to_string(&file)?.trim().to_owned();
    ensure!(!written.contains(&of_ada), "it is in the file and nowhere else: {written}");
    assert_eq!(fs::metadata(&file)?.mode() & 0o777, 0o600);
    for (token, account) in [(&of_none, None), (&of_ada, Some("ada"))] {
        let api = cluster.api.with_token(token);
        let me: WhoAmI = api.get(paths::WHOAMI).await?;
        assert_eq!(me.account.map(|account| account.name).as_deref(), account);
        api.list::<Account>(paths::ACCOUNTS, &[]).await?;
    }

    // What is refused leaves neither a token nor a file.
    let other = cluster.folder().join("other");
    let other = other.display().to_string();
    for (arguments, why) in [
        (&["--account", "bob", "--file", &other][..], "these do: ada"),
        (&["--account", "nobody"], "these do: ada"),
        (&["--file", &again], "cannot be written"),
        (&["--hours", "721"], "721"),
    ] {
        let arguments = [&["admin-token"][..], arguments].concat();
        let told = refused(&cluster.control_plane.tool_output(&arguments)?)?;
        ensure!(told.contains(why), "{told}");
    }
    ensure!(
        !fs::exists(&other)? && fs::read_to_string(&file)?.trim() == of_ada,
        "a file was left, or changed"
    );
    check_what_is_seen(&cluster, &before, &[of_none, of_ada]).await?;

    cluster.control_plane.stop()?;
    let told = refused(&cluster.control_plane.tool_output(&["admin-token", "--file", &other])?)?;
    ensure!(told.contains("no control plane runs on") && !fs::exists(&other)?, "{told}");
    cluster.control_plane.resume().await?;
    cluster.passed()
}

/// Two tokens more than before, each with who has asked and with an end; and what lets in is nowhere.
async fn check_what_is_seen(cluster: &Cluster, before: &[ApiToken], secrets: &[String]) -> Result<()> {
    let now = tokens(cluster).await?;
    ensure!(before.iter().all(|old| now.iter().any(|it| it.id == old.id)), "a token has gone: {now:?}");
    let new: Vec<_> = now.iter().filter(|it| before.iter().all(|old| old.id != it.id)).collect();
    assert_eq!(new.len(), 2, "{new:?}");
    let events: Vec<Event> = cluster.api.list(paths::SYSTEM_EVENTS, &[]).await?;
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("I am nobody")?.name;
    for (token, lasts_ms) in new.iter().zip([DAY_MS, DAY_MS / 24]) {
        let who = format!("made on the host by {user}");
        ensure!(token.name.starts_with(&who), "{token:?}");
        let ends = parse_rfc3339(token.expires_at.as_deref().context("it does not end")?)?;
        let lasts = ends.0.abs_diff(parse_rfc3339(&token.created_at)?.0 + lasts_ms);
        ensure!(lasts < 60_000, "{token:?}");
        let of_it = |it: &&Event| it.kind == "api_token_created" && it.data["id"] == token.id.as_str();
        let event = events.iter().find(of_it).context("no event tells of it")?;
        ensure!(event.data["name"] == token.name.as_str() && event.actor.kind == "system", "{event:?}");
    }
    let log = fs::read_to_string(cluster.control_plane.config_file().with_file_name("orchestrator.log"))?;
    assert_eq!(log.matches("a credential of an administrator was made on this host").count(), 2);
    for secret in secrets {
        ensure!(!log.contains(secret.as_str()), "the log lets in");
        let state_dir = cluster.control_plane.state_dir();
        let found = Command::new("grep").args(["-rlF", "--", secret]).arg(state_dir).output()?;
        ensure!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    }
    Ok(())
}

/// Even where the folder's rights do not keep others out.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_host_gets_no_token() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    if !nix::unistd::geteuid().is_root() {
        return cluster.passed();
    }
    let state_dir = cluster.control_plane.state_dir();
    for path in state_dir.ancestors().take_while(|it| it.starts_with(cluster.folder())) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let socket = state_dir.join("control.sock");
    // Where that user can run it.
    let program = cluster.folder().join("stella-orchestrator");
    fs::copy(binaries::path("stella-orchestrator")?, &program)?;
    let ask = || {
        let mut tool = Command::new(&program);
        tool.env("STELLA_ORCHESTRATOR__STATE_DIR", state_dir).env_remove("STELLA_CONFIG");
        tool.current_dir("/").uid(54_321).gid(54_321).arg("admin-token");
        tool.output().context("stella-orchestrator cannot be run")
    };
    refused(&ask()?)?;
    assert_eq!(fs::metadata(&socket)?.mode() & 0o777, 0o600);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666))?;
    refused(&ask()?)?;
    let log = cluster.control_plane.config_file().with_file_name("orchestrator.log");
    wait::until("the control plane says why", async || {
        let log = fs::read_to_string(&log)?;
        ensure!(log.contains("user 54321 is neither root nor the control plane's own"), "{log}");
        Ok(())
    })
    .await?;
    assert_eq!(tokens(&cluster).await?.len(), 1, "a token was made");
    cluster.passed()
}
