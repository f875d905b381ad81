//! Releases to deploy, and archives to put into them.

use std::collections::BTreeMap;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};
use stella_api_types::deployment::{CreateDeployment, OnFailure, Strategy};
use stella_api_types::release::{ComponentInput, CreateRelease, Phase, Step, StepAction, UnitAction};

/// How long a step may take unless its test is about that.
const STEP_TIMEOUT_MS: u64 = 60_000;

/// The pause between two tries of a check.
const CHECK_INTERVAL_MS: u64 = 50;

/// How the API writes the digest of these bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A `.tar.gz` of these files.
///
/// # Errors
/// If a path cannot be in an archive.
pub fn archive(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(content.len())?);
        header.set_mode(0o755);
        builder.append_data(&mut header, path, content.as_bytes())?;
    }
    Ok(builder.into_inner()?.finish()?)
}

/// A `.tar.gz` with one file whose path is taken as it is, which no honest writer does.
///
/// # Errors
/// If the path is too long for a header.
pub fn hostile_archive(path: &str) -> Result<Vec<u8>> {
    let content = b"gotcha";
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(content.len())?);
    header.set_mode(0o644);
    let field = &mut header.as_old_mut().name;
    anyhow::ensure!(path.len() < field.len(), "the path is too long");
    field[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    builder.append(&header, content.as_slice())?;
    Ok(builder.into_inner()?.finish()?)
}

/// A `.tar.gz` with a link, whose target is taken as it is, and a file that would be written through it. `hard` is another name of a file,
/// and not a symbolic link.
///
/// # Errors
/// If the target is too long for a header.
pub fn linking_archive(target: &str, hard: bool) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(if hard { tar::EntryType::Link } else { tar::EntryType::Symlink });
    header.set_size(0);
    header.set_mode(0o777);
    header.set_path("logs")?;
    let field = &mut header.as_old_mut().linkname;
    anyhow::ensure!(target.len() < field.len(), "the target is too long");
    field[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    builder.append(&header, std::io::empty())?;
    let content = b"gotcha";
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(content.len())?);
    header.set_mode(0o644);
    builder.append_data(&mut header, "logs/written", content.as_slice())?;
    Ok(builder.into_inner()?.finish()?)
}

/// A step that brings a component to the host.
#[must_use]
pub fn artifact(component: &str) -> Step {
    step("install", StepAction::Artifact { component: component.to_owned(), keep_releases: 3 })
}

/// A step that runs a script of the shell.
#[must_use]
pub fn shell(name: &str, script: &str) -> Step {
    program(name, &["/bin/sh", "-c", script])
}

/// A step that runs a program.
#[must_use]
pub fn program(name: &str, argv: &[&str]) -> Step {
    let argv = argv.iter().map(ToString::to_string).collect();
    step(
        name,
        StepAction::Command { argv, environment: BTreeMap::new(), working_directory: None, user: None },
    )
}

/// A step that restarts a unit of systemd.
#[must_use]
pub fn restart(name: &str, unit: &str) -> Step {
    let unit = unit.to_owned();
    step(name, StepAction::Systemd { unit, action: UnitAction::Restart })
}

/// A step that asks an HTTP server.
#[must_use]
pub fn check_http(name: &str, url: &str) -> Step {
    let url = url.to_owned();
    step(name, StepAction::CheckHttp { url, status: 200, interval_ms: CHECK_INTERVAL_MS, successes: 1 })
}

/// A step that connects to a port.
#[must_use]
pub fn check_tcp(name: &str, address: &str) -> Step {
    let address = address.to_owned();
    step(name, StepAction::CheckTcp { address, interval_ms: CHECK_INTERVAL_MS, successes: 1 })
}

/// A step that runs a script until it succeeds.
#[must_use]
pub fn check_shell(name: &str, script: &str) -> Step {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    step(name, StepAction::CheckCommand { argv, interval_ms: CHECK_INTERVAL_MS, successes: 1 })
}

/// The step with another time-out.
#[must_use]
pub const fn within(mut step: Step, timeout_ms: u64) -> Step {
    step.timeout_ms = timeout_ms;
    step
}

fn step(name: &str, action: StepAction) -> Step {
    Step { name: name.to_owned(), timeout_ms: STEP_TIMEOUT_MS, phase: Phase::Prepare, action }
}

/// A release of the application `app`. Components are names with the digests of their archives.
#[must_use]
pub fn release(version: &str, components: &[(&str, &str)], steps: Vec<Step>) -> CreateRelease {
    let input = |(name, digest): &(&str, &str)| ComponentInput {
        name: (*name).to_owned(),
        digest: (*digest).to_owned(),
    };
    CreateRelease {
        application: "app".to_owned(),
        version: version.to_owned(),
        components: components.iter().map(input).collect(),
        steps,
        labels: BTreeMap::new(),
        provenance: None,
        signatures: Vec::new(),
    }
}

/// A deployment of `app:<version>`, one target at a time.
#[must_use]
pub fn rolling(environment: &str, version: &str, on_failure: OnFailure) -> CreateDeployment {
    CreateDeployment {
        environment: environment.to_owned(),
        release: format!("app:{version}"),
        channel: None,
        strategy: None,
        tolerate_failures: None,
        on_failure,
        targets: None,
        labels: BTreeMap::new(),
        timeout_seconds: None,
        override_freeze: None,
        override_path: None,
        waive_way_back: None,
        replace_application: false,
    }
}

/// A deployment of `app:<version>` to all targets at the same time.
#[must_use]
pub fn all_at_once(environment: &str, version: &str) -> CreateDeployment {
    CreateDeployment {
        strategy: Some(Strategy::AllAtOnce {}),
        ..rolling(environment, version, OnFailure::Stop)
    }
}
