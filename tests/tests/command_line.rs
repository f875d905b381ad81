//! The command line as a shell sees it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use stella_tests::binaries;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::wait;

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
