//! The RPMs, looked at and installed by rpm itself: the files of the Debian packages, with dependencies, scripts and configuration as
//! that world has them. Needs `packaging/build dev`, and rpm.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_tests::daemon;
use tempfile::TempDir;

const PROGRAMS: [&str; 3] = ["stella", "stella-agent", "stella-orchestrator"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a folder with this ending, in order.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder)
        .with_context(|| format!("{} is not there; run `packaging/build dev` first", folder.display()))?;
    let all = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut found: Vec<_> =
        all.into_iter().filter(|path| path.extension().is_some_and(|it| it == ending)).collect();
    found.sort();
    Ok(found)
}

fn packages() -> Result<Vec<PathBuf>> {
    let found = files(&repository().join("target/packages"), "rpm")?;
    ensure!(found.len() == PROGRAMS.len(), "{found:?}");
    Ok(found)
}

fn package(program: &str) -> Result<PathBuf> {
    let is_it = |path: &PathBuf| path.to_string_lossy().contains(&format!("/{program}-0"));
    packages()?.into_iter().find(is_it).with_context(|| format!("no package of {program}"))
}

fn rpm(arguments: &[&str]) -> Result<String> {
    daemon::run(Path::new("rpm"), arguments)
}

fn ask(program: &str, question: &[&str]) -> Result<String> {
    let package = package(program)?.display().to_string();
    rpm(&[&["-qp"], question, &[&package]].concat())
}

#[test]
fn they_have_the_program_its_manual_and_what_it_is_built_of() -> Result<()> {
    for program in PROGRAMS {
        let listed = ask(program, &["--list"])?;
        let listed: Vec<&str> = listed.lines().collect();
        for wanted in [
            format!("/usr/bin/{program}"),
            format!("/usr/share/man/man1/{program}.1.gz"),
            format!("/usr/share/doc/{program}/{program}.cdx.json"),
            format!("/usr/share/licenses/{program}/LICENSE"),
        ] {
            ensure!(listed.contains(&wanted.as_str()), "{wanted} is not in {listed:?}");
        }
        ensure!(!listed.iter().any(|it| it.contains("lintian") || it.contains("Debian")), "{listed:?}");
        ensure!(ask(program, &["--requires"])?.contains("libc.so.6"), "its library is not asked for");
    }
    ensure!(ask("stella", &["--list"])?.contains("/usr/share/zsh/site-functions/_stella"));
    Ok(())
}

#[test]
fn services_are_known_to_systemd_and_started_by_nobody() -> Result<()> {
    for program in ["stella-agent", "stella-orchestrator"] {
        ensure!(ask(program, &["--list"])?.contains(&format!("/usr/lib/systemd/system/{program}.service")));
        ensure!(ask(program, &["--requires"])?.lines().any(|it| it == "systemd"));
        let scripts = ask(program, &["--scripts"])?;
        for wanted in ["daemon-reload", "try-restart", "now=--now", "disable $now"] {
            ensure!(scripts.contains(wanted), "{wanted}: {scripts}");
        }
        for unwanted in [" enable ", " start ", " restart "] {
            ensure!(!scripts.contains(&format!("systemctl{unwanted}")), "{unwanted}: {scripts}");
        }
        let flags = ask(program, &["--queryformat", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]"])?;
        let configuration: Vec<&str> = flags.lines().filter(|line| line.starts_with("/etc/")).collect();
        ensure!(!configuration.is_empty() && configuration.iter().all(|it| it.ends_with(" cn")), "{flags}");
    }
    ensure!(
        ask("stella-orchestrator", &["--scripts"])?.contains("systemd-sysusers stella-orchestrator.conf")
    );
    for unit in ["stella-backup.service", "stella-backup.timer"] {
        ensure!(
            ask("stella-orchestrator", &["--list"])?.contains(&format!("/usr/lib/systemd/system/{unit}"))
        );
    }
    ensure!(ask("stella-orchestrator", &["--scripts"])?.contains("disable $now stella-backup.timer"));
    ensure!(ask("stella-agent", &["--scripts"])?.contains("systemd-tmpfiles --create stella-agent.conf"));
    Ok(())
}

#[test]
fn an_upgrade_keeps_the_configuration_and_a_removal_leaves_only_it() -> Result<()> {
    let root = TempDir::new()?;
    let at = root.path().display().to_string();
    let package = package("stella-agent")?.display().to_string();
    let flags = ["--root", &at, "--nodeps", "--noscripts"];
    rpm(&[&flags[..], &["-i", &package]].concat())?;
    let version = daemon::run(&root.path().join("usr/bin/stella-agent"), &["--version"])?;
    ensure!(version.starts_with("stella-agent "), "{version}");

    let configuration = root.path().join("etc/stella/agent.toml");
    let by_hand = format!("{}# by hand\n", fs::read_to_string(&configuration)?);
    fs::write(&configuration, &by_hand)?;
    rpm(&[&flags[..], &["-U", "--replacepkgs", &package]].concat())?;
    assert_eq!(fs::read_to_string(&configuration)?, by_hand);
    rpm(&[&flags[..], &["-V", "--nodigest", "stella-agent"]].concat())
        .err()
        .context("a change is not seen")?;

    rpm(&[&flags[..], &["-e", "stella-agent"]].concat())?;
    assert_eq!(fs::read_to_string(configuration.with_extension("toml.rpmsave"))?, by_hand);
    let left = Command::new("find")
        .arg(root.path().join("usr"))
        .args(["-type", "f", "-name", "*stella*"])
        .output()?;
    ensure!(left.stdout.is_empty(), "left behind: {}", String::from_utf8_lossy(&left.stdout));
    Ok(())
}

#[test]
fn two_builds_have_the_same_bytes() -> Result<()> {
    let sums = || -> Result<String> {
        let folder = TempDir::new()?;
        for deb in files(&repository().join("target/packages"), "deb")? {
            fs::copy(&deb, folder.path().join(deb.file_name().context("a name")?))?;
        }
        let at = folder.path().display().to_string();
        daemon::run(&repository().join("packaging/rpm/build"), &[&at])?;
        daemon::run(&repository().join("packaging/archive"), &[&at])?;
        Ok(fs::read_to_string(folder.path().join("SHA256SUMS"))?)
    };
    let first = sums()?;
    ensure!(first.matches(".rpm\n").count() == 3 && first.contains(".tar.gz"), "{first}");
    assert_eq!(first, sums()?);
    Ok(())
}

#[test]
fn what_it_is_built_of_is_named_with_checksums_and_without_the_moment() -> Result<()> {
    for program in PROGRAMS {
        let path = repository().join(format!("target/packages/sbom/{program}.cdx.json"));
        let bom: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
        ensure!(
            bom.get("serialNumber").is_none() && bom["metadata"].get("timestamp").is_none(),
            "it differs each time"
        );
        let components = bom["components"].as_array().context("no components")?;
        let rustls = components.iter().find(|it| it["name"] == "rustls").context("rustls is missing")?;
        ensure!(rustls["hashes"][0]["content"].as_str().is_some_and(|sum| sum.len() == 64), "{rustls}");
        ensure!(!components.iter().any(|it| it["name"] == "proptest"), "what only tests use is listed");
        let references: Vec<&Value> = components.iter().map(|it| &it["bom-ref"]).collect();
        let depended = bom["dependencies"].as_array().context("no dependencies")?;
        let known = |it: &Value| references.contains(&it) || *it == bom["metadata"]["component"]["bom-ref"];
        for one in depended {
            let all = one["dependsOn"].as_array().context("no list")?;
            ensure!(known(&one["ref"]) && all.iter().all(known), "{one} leads nowhere");
        }
    }
    Ok(())
}
