//! The command line as a shell sees it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stella_api_types::target::CreateTarget;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT, create_environment, create_target, target};
use stella_tests::{binaries, recipe, wait};
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_ends_it_quietly() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(cluster.control_plane.stella_flags()).args(["tenant", "list"]);
    let ended = stella.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output()?;
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr)?.as_str()), (Some(141), ""));

    // A full disk is another matter.
    let full = fs::OpenOptions::new().write(true).open("/dev/full")?;
    let mut stella = Command::new(binaries::path("stella")?);
    stella.args(cluster.control_plane.stella_flags()).args(["tenant", "list"]);
    let ended = stella.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).output()?;
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8(ended.stderr)?.contains("the output cannot be written"));
    Ok(())
}

/// All addresses of the host lead to the control plane, and its certificate does not have this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_certificate_does_not_have_is_not_blamed_on_its_authority() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let mut flags = cluster.control_plane.stella_flags();
    flags[1] = flags[1].replace("127.0.0.1", "0.0.0.0");
    let mut stella = Command::new(binaries::path("stella")?);
    let ended = stella.args(flags).args(["tenant", "list"]).stdin(Stdio::null()).output()?;
    let said = String::from_utf8(ended.stderr)?;
    ensure!(ended.status.code() == Some(4) && said.contains("api.names"), "{said}");
    ensure!(said.contains("localhost") && !said.contains("root.crt"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_an_account_that_may_deploy_to_one_environment() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let file = tempfile::NamedTempFile::new()?;
    let flags = cluster.control_plane.stella_flags();
    let at = flags.iter().position(|flag| flag == "--token-file").context("no token file")?;
    let run = |flags: &[String], arguments: &[&str]| -> Result<(Option<i32>, String, String)> {
        let mut stella = Command::new(binaries::path("stella")?);
        stella.args(flags).args(arguments);
        let ended = stella.stdin(Stdio::null()).output()?;
        Ok((ended.status.code(), String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?))
    };
    let mut flags_of_ci = flags.clone();
    flags_of_ci[at + 1] = file.path().display().to_string();
    let stella = |arguments: &[&str]| run(&flags, arguments);
    let as_ci = |arguments: &[&str]| run(&flags_of_ci, arguments);
    let role = format!("deployer@{TENANT}/{ENVIRONMENT}");
    for said in ["service ci may: ", "it was there already"] {
        let (code, out, _) = stella(&["account", "create", "ci", "--service", "--role", &role])?;
        assert_eq!(code, Some(0));
        assert!(out.contains(said) && out.contains(&role), "{out}");
    }
    let (code, token, _) = stella(&["token", "create", "build server", "--account", "ci", "--quiet"])?;
    assert_eq!(code, Some(0));
    fs::write(file.path(), token)?;
    let (_, me, _) = as_ci(&["whoami"])?;
    assert_eq!(me, format!("service ci may: {role}\n"));
    let (code, _, error) = as_ci(&["env", "create", "qa", "-t", TENANT])?;
    assert_eq!(code, Some(3));
    assert!(error.contains("account ci needs the role admin") && error.contains("forbidden"), "{error}");
    let (code, out, _) = stella(&["account", "roles", "ci", "--nothing"])?;
    assert_eq!((code, out.as_str()), (Some(0), "service ci may: nothing\n"));
    let (code, _, error) = stella(&["account", "roles", "ci"])?;
    assert_eq!(code, Some(2), "{error}");
    let (code, out, _) = stella(&["account", "remove", "ci"])?;
    assert_eq!(code, Some(0), "{out}");
    let (code, _, error) = as_ci(&["whoami"])?;
    assert_eq!(code, Some(3), "{error}");
    let (_, events, _) = stella(&["events", "--system"])?;
    assert!(events.contains("account_removed") && events.contains("api_token_revoked"), "{events}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_is_changed_while_it_runs_and_back_and_who_did_it_is_recorded() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let flags = cluster.control_plane.stella_flags();
    let stella = |arguments: &[&str]| -> Result<(Option<i32>, String, String)> {
        let mut stella = Command::new(binaries::path("stella")?);
        let ended = stella.args(&flags).args(arguments).stdin(Stdio::null()).output()?;
        Ok((ended.status.code(), String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?))
    };
    let is_detailed = |log: &str| log.contains(r#""level":"debug""#);
    let (_, shown, _) = stella(&["log-level"])?;
    assert_eq!(shown, "info, as configured\n");
    assert!(!is_detailed(&cluster.control_plane.daemon().log()));
    let (code, shown, error) = stella(&["log-level", "debug"])?;
    assert_eq!(
        (code, shown.as_str()),
        (Some(0), "debug until the next start; configured is info\n"),
        "{error}"
    );
    // Each request makes connections, which libraries tell of at this level.
    wait::until("details are logged", async || {
        stella(&["tenant", "list"])?;
        let log = cluster.control_plane.daemon().log();
        anyhow::ensure!(is_detailed(&log), "{log}");
        Ok(())
    })
    .await?;
    let (code, _, error) = stella(&["log-level", "debgu"])?;
    assert_eq!(code, Some(3));
    assert!(error.contains("debgu") && error.contains("is not understood"), "{error}");
    stella(&["log-level", "info"])?;
    // A line that comes after the change, and those before it.
    stella(&["tenant", "create", "marker"])?;
    let (_, events, _) = stella(&["events", "--system"])?;
    assert_eq!(events.matches("log_level_set").count(), 2, "{events}");
    stella(&["log-level", "debug"])?;
    cluster.control_plane.stop()?;
    cluster.control_plane.resume().await?;
    let (_, shown, _) = stella(&["log-level"])?;
    assert_eq!(shown, "info, as configured\n", "a restart logs as it is configured");
    cluster.passed()
}

/// The command line with the administrator's flags, in the tenant of the stories.
fn stella_in(cluster: &Cluster) -> Result<tokio::process::Command> {
    let mut stella = tokio::process::Command::new(binaries::path("stella")?);
    stella.args(cluster.control_plane.stella_flags()).args(["-t", TENANT]).stdin(Stdio::null());
    stella.kill_on_drop(true);
    Ok(stella)
}

/// The command line on a terminal of 24 lines: how it ended, and all that it has drawn.
async fn on_terminal(cluster: &Cluster, term: &str, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let flags = cluster.control_plane.stella_flags();
    let words = [binaries::path("stella")?.display().to_string(), "-t".to_owned(), TENANT.to_owned()];
    let words = words.into_iter().chain(flags).chain(arguments.iter().map(ToString::to_string));
    let line = words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let line = format!("stty rows 24 cols 80 && exec {line}");
    let mut terminal = tokio::process::Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]).env("TERM", term).stdin(Stdio::null()).kill_on_drop(true);
    let ended = terminal.output().await.context("script(1), which makes a terminal, cannot be run")?;
    Ok((ended.status.code(), String::from_utf8(ended.stdout)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn more_targets_than_a_terminal_has_lines_are_told_one_by_one_and_the_end_comes_last() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let last = "zz-a-name-of-more-than-20-letters";
    // One that has the whole host leaves no room for others.
    assert_eq!(cluster.stella(&["target", "remove", "web-1"])?.0, Some(0));
    for name in (1..30).map(|number| format!("web-{number}")).chain([last.to_owned()]) {
        let target = CreateTarget { slot: Some(name.clone()), ..target(ENVIRONMENT, &name, "web-1") };
        create_target(&cluster.api, TENANT, &target).await?;
    }
    let script = format!("test \"$STELLA_TARGET\" != {last}");
    cluster.release(&recipe::release("1.0.0", &[], vec![recipe::shell("try", &script)])).await?;
    // The last one begins when all others have ended.
    let pace = ["--batch", "29", "--pause", "1s", "--on-failure", "stop"];
    let deploy = [&["deploy", "app:1.0.0", ENVIRONMENT, "--wait"], &pace[..]].concat();
    let (code, shown) = on_terminal(&cluster, "xterm", &deploy).await?;
    assert_eq!(code, Some(1), "{shown}");
    let count = shown.matches("now has 1.0.0").count();
    ensure!(count == 29, "{count} targets have a line: {shown}");
    let failed =
        shown.find(&format!("✗ {last} failed")).with_context(|| format!("{last} is not told: {shown}"))?;
    let verdict = shown.rfind("✗ failed: ").with_context(|| format!("no end: {shown}"))?;
    let target = shown.rfind("now has 1.0.0").context("no target")?;
    ensure!(verdict > failed && verdict > target, "the end scrolls away: {shown}");
    // What is drawn anew counts all of them, and is gone at the end.
    let drawn = shown.rfind("of 30").with_context(|| format!("nothing counts the targets: {shown}"))?;
    ensure!(drawn < verdict, "{shown}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_of_the_deployment_that_was_asked_for() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let is_let_go = "while ! test -e let-go; do sleep 0.1; done";
    for (version, script) in [("1.0.0", "true"), ("1.1.0", is_let_go), ("2.0.0", "echo no luck; exit 3")] {
        cluster.release(&recipe::release(version, &[], vec![recipe::shell("try", script)])).await?;
    }
    let (code, said) = cluster.stella(&["deploy", "app:1.0.0", ENVIRONMENT, "--wait"])?;
    assert_eq!(code, Some(0), "{said}");

    // A program gets what it has asked for, and not what was done about it.
    let failing = ["-o", "json", "deploy", "app:2.0.0", ENVIRONMENT, "--wait"];
    let ended = stella_in(&cluster)?.args(failing).output().await?;
    assert_eq!(ended.status.code(), Some(1));
    let printed: serde_json::Value = serde_json::from_slice(&ended.stdout)?;
    assert_eq!((&printed["status"], &printed["release"]["version"]), (&"failed".into(), &"2.0.0".into()));
    let rollback = printed["rollbacks"][0].as_str().context("no rollback")?;
    assert_eq!(cluster.wait_final(rollback).await?.deployment.status, "succeeded");

    // A terminal on which nothing can be drawn gets lines.
    for term in ["dumb", "xterm"] {
        let (code, shown) =
            on_terminal(&cluster, term, &["deploy", "app:2.0.0", ENVIRONMENT, "--wait"]).await?;
        assert_eq!(code, Some(1), "{shown}");
        for part in ["✗ failed: ", "exit code 3", "rollback ", "✓ succeeded", "| no luck"] {
            ensure!(shown.contains(part), "TERM={term}: {part:?} is not in {shown:?}");
        }
        assert_eq!(shown.contains("\u{1b}["), term == "xterm", "TERM={term}: {shown:?}");
    }

    // Whoever ends the watching is told how it goes on.
    let mut watching = stella_in(&cluster)?;
    watching.args(["deploy", "app:1.1.0", ENVIRONMENT, "--wait"]);
    let mut watching = watching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // The first line comes when the watching has begun.
    let mut lines = BufReader::new(watching.stdout.take().context("no output")?).lines();
    let first = lines.next_line().await?.context("nothing was said")?;
    let id = first.split([' ', ':']).nth(1).context("no id")?.to_owned();
    kill(Pid::from_raw(i32::try_from(watching.id().context("it has ended")?)?), Signal::SIGINT)?;
    let ended = watching.wait_with_output().await?;
    let told = String::from_utf8(ended.stderr)?;
    assert_eq!(ended.status.code(), Some(130), "{told}");
    ensure!(told.contains(&format!("stella deployment watch {id}")), "{told}");
    ensure!(told.contains(&format!("stella deployment cancel {id} --reason")), "{told}");
    fs::write(cluster.agents[0].host_root().join("let-go"), "")?;
    assert_eq!(cluster.wait_final(&id).await?.deployment.status, "succeeded");

    // Taking it back is looked at first.
    let (code, plan) = cluster.stella(&["rollback", &id, "--plan"])?;
    assert_eq!(code, Some(0), "{plan}");
    let row = plan.lines().find(|line| line.contains("(online)")).context("no line of the target")?;
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["web-1", "web-1", "(online)", "1.1.0", "1.0.0"]);
    ensure!(cluster.api.deployment(TENANT, &id).await?.rollbacks.is_empty(), "it was taken back");
    let (code, said) = cluster.stella(&["rollback", &id, "--wait"])?;
    ensure!(code == Some(0) && said.contains("now has 1.0.0"), "{said}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_followed_goes_on_over_restarts_of_the_control_plane() -> Result<()> {
    let mut cluster = Cluster::start(0).await?;
    let folder = tempfile::tempdir()?;
    let (feed, said) = (folder.path().join("feed"), folder.path().join("said"));
    let mut following = stella_in(&cluster)?;
    following.args(["events", "--follow", "--after", "0", "--type", "environment_created"]);
    let mut following =
        following.stdout(fs::File::create(&feed)?).stderr(fs::File::create(&said)?).spawn()?;
    let mut created = vec![ENVIRONMENT.to_owned()];
    for (round, environment) in ["before", "after-an-end", "after-a-crash"].into_iter().enumerate() {
        match round {
            1 => cluster.control_plane.stop()?,
            2 => cluster.control_plane.kill()?,
            _ => {}
        }
        if round > 0 {
            cluster.control_plane.resume().await?;
        }
        create_environment(&cluster.api, TENANT, environment).await?;
        created.push(environment.to_owned());
        wait::until("everything is in the feed, once", async || {
            let feed = fs::read_to_string(&feed)?;
            let are_all = feed.lines().count() == created.len()
                && feed.lines().zip(&created).all(|(line, name)| line.contains(&format!("={name}")));
            ensure!(are_all, "{feed}");
            Ok(())
        })
        .await?;
    }
    ensure!(following.try_wait()?.is_none(), "it ended: {}", fs::read_to_string(&said)?);
    following.kill().await?;
    let said = fs::read_to_string(&said)?;
    ensure!(said.contains("trying to go on from position") && !said.contains("docs.rs"), "{said}");
    cluster.passed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_otherwise_is_told_with_the_way_to_change_it() -> Result<()> {
    let cluster = Cluster::start(0).await?;
    let asked = |arguments: &[&str]| cluster.stella(arguments);
    assert_eq!(asked(&["env", "create", "qa", "--order", "7"])?.0, Some(0));
    assert_eq!(asked(&["env", "create", "qa", "--order", "7"])?.0, Some(0), "it is the same");
    let (code, said) = asked(&["env", "create", "qa", "--order", "3"])?;
    assert_eq!(code, Some(3), "{said}");
    let change = said.split_once("with: stella ").and_then(|(_, rest)| rest.split_once(" ("));
    let change = change.context("no way to change it")?.0;
    assert_eq!(change, "env update qa --order 3", "{said}");
    assert_eq!(asked(&change.split(' ').collect::<Vec<_>>())?.0, Some(0));
    assert_eq!(asked(&["env", "create", "qa", "--order", "3"])?.0, Some(0), "it is so now");

    let alice = ["account", "create", "alice", "--role"];
    assert_eq!(asked(&[&alice[..], &["deployer@acme"]].concat())?.0, Some(0));
    let (code, said) = asked(&[&alice[..], &["viewer@acme"]].concat())?;
    assert_eq!(code, Some(3), "{said}");
    ensure!(said.contains("stella account roles alice --role viewer@acme"), "{said}");
    let (_, shown) = asked(&["account", "show", "alice"])?;
    ensure!(shown.contains("deployer@acme") && !shown.contains("viewer"), "{shown}");

    let freeze = ["env", "freeze", "qa", "always", "--from", "2026-01-01", "--to", "2026-01-02"];
    let (code, said) = asked(&[&freeze[..], &["--repeat", "daily", "--reason", "n"]].concat())?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(asked(&["env", "lock", "qa", "--reason", "n"])?.0, Some(0));
    let (_, said) = asked(&["env", "unlock", "qa"])?;
    ensure!(said.contains("is not locked any more, and frozen until") && said.contains("(always)"), "{said}");
    assert_eq!(asked(&["env", "unfreeze", "qa", "always"])?.0, Some(0));
    let (_, said) = asked(&["env", "unlock", "qa"])?;
    ensure!(said.contains("environment qa is open"), "{said}");

    // A file of the token with more in it is not asked with, and not shown.
    let file = cluster.folder().join("token");
    fs::write(&file, "stella_secret\n\nxx")?;
    let mut flags = cluster.control_plane.stella_flags();
    let at = flags.iter().position(|flag| flag == "--token-file").context("no token file")?;
    flags[at + 1] = file.display().to_string();
    let ended = Command::new(binaries::path("stella")?).args(flags).arg("status").output()?;
    let said = String::from_utf8(ended.stderr)?;
    assert_eq!(ended.status.code(), Some(2), "{said}");
    ensure!(said.contains("has several lines") && !said.contains("secret"), "{said}");
    cluster.passed()
}

/// The names of the commands in what `--help` prints.
fn commands_of(arguments: &[&str]) -> Result<Vec<String>> {
    let help = Command::new(binaries::path("stella")?).args(arguments).arg("--help").output()?;
    let text = String::from_utf8(help.stdout)?;
    let Some((_, rest)) = text.split_once("\nCommands:\n") else { return Ok(Vec::new()) };
    let lines = rest.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ").filter(|it| !it.starts_with(' ')));
    let names = names.filter_map(|it| it.split_whitespace().next()).filter(|it| *it != "help");
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn the_page_of_the_command_line_has_every_command() -> Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md"))?;
    let all = commands_of(&[])?;
    ensure!(all.len() > 20, "{all:?}");
    for command in all {
        let begin = format!("`stella {command}");
        let rows: Vec<_> = page.lines().filter(|line| line.contains(&begin)).collect();
        ensure!(!rows.is_empty(), "stella {command} is not on the page");
        for below in commands_of(&[&command])? {
            let is_in =
                |row: &&str| row.split(|c: char| !c.is_alphanumeric() && c != '-').any(|it| it == below);
            ensure!(rows.iter().any(is_in), "stella {command} {below} is not on the page");
        }
    }
    Ok(())
}

/// What somebody copies from the page is taken; a block without a name is a part of a template.
#[test]
fn every_template_of_the_page_on_workflows_is_well_formed() -> Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/workflows.md"))?;
    let folder = tempfile::tempdir()?;
    let blocks: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|it| it.split("```").next()).collect();
    ensure!(blocks.len() >= 3, "{blocks:?}");
    for block in blocks {
        let head = if block.starts_with("steps:") {
            "name: part\ninputs: {version: {type: text, max_length: 64}}\n"
        } else {
            ""
        };
        let file = folder.path().join("template.yaml");
        fs::write(&file, format!("{head}{block}"))?;
        let stella =
            Command::new(binaries::path("stella")?).args(["workflow", "check"]).arg(&file).output()?;
        let said = String::from_utf8([stella.stdout, stella.stderr].concat())?;
        ensure!(stella.status.success() && said.contains("is well-formed"), "{said}\n{block}");
    }
    Ok(())
}
