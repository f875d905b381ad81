//! `stella-orchestrator doctor`: why this control plane does not work, each with what to do about it.
//!
//! It changes nothing and is safe beside the running control plane, which it asks by the socket in the state folder. The journal
//! is verified only as a copy, and only if nobody has it open; ports are tried only then. As root it looks at what is the
//! service user's with that user in mind.

mod dial;
mod files;
mod listeners;
mod outside;

use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use stella_api_types::time::rfc3339;
use stella_certs::{CertificateDer, certificates_from_pem, validity_of_certificate};
use stella_doctor::host::{self, Lifetime, Private, quoted};
use stella_doctor::unit::Unit;
use stella_doctor::{CERTIFICATES_BYTES_MAX, Findings, open_regular, read_all};
use stella_durable::Store;

use crate::backup;
use crate::config::{Config, Loaded};
use crate::config_tool::Output;
use crate::look::{self, Look};
use crate::written_by;

/// The unit that the packages install.
pub(crate) const UNIT: &str = "stella-orchestrator.service";
/// Where the packages put the book.
pub(crate) const BOOK: &str = "/usr/share/doc/stella-orchestrator/book";
/// A larger journal is not copied to be verified.
const JOURNAL_BYTES_MAX: u64 = 512 << 20;
/// Certificates of the authority are replaced by a person, with time for agents that are away.
const AUTHORITY_ENDS_SOON: Duration = Duration::from_secs(90 * 86_400);

/// Backups are taken once a day; a day without one may have its reason.
const BACKUP_AGE_MAX: Duration = Duration::from_secs(2 * 86_400);

/// What whoever may not look is to do; the cure for what is damaged would do harm.
const AS_ROOT: &str = "run this as root, or as the service's own user, with sudo -u";

/// How to tell.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How to show it.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What was found, and what the running control plane said.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) findings: Findings,
    pub(crate) look: Option<Look>,
    /// Whether a process has the journal open.
    pub(crate) held: bool,
    /// The control plane's certificate, as its API shows it.
    pub(crate) server_certificate: Option<CertificateDer<'static>>,
}

/// Looks and tells; whether nothing fails.
pub(crate) fn run(args: &DoctorArgs, file: Option<&Path>) -> anyhow::Result<bool> {
    let Examined { findings, .. } = examine(&Loaded::load(file));
    let mut out = io::stdout().lock();
    match args.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?,
        Output::Text => write!(out, "{}", findings.text())?,
    }
    Ok(findings.is_well())
}

/// Looks at everything that a control plane needs.
pub(crate) fn examine(loaded: &anyhow::Result<Loaded>) -> Examined {
    let mut findings = Findings::default();
    let unit = Unit::ask(UNIT);
    let mut examined =
        Examined { findings: Findings::default(), look: None, held: false, server_certificate: None };
    match loaded {
        Ok(loaded) => {
            findings.ok("configuration", "is understood, with the files that it names");
            service(unit.as_ref(), &mut findings);
            look_at(loaded, unit.as_ref(), &mut examined, &mut findings);
        }
        Err(error) => {
            let remedy = format!(
                "mend it, then: stella-orchestrator config check; the reference is {BOOK}/configuration.md"
            );
            findings.fail("configuration", format!("{error:#}"), remedy);
            service(unit.as_ref(), &mut findings);
        }
    }
    examined.findings = findings;
    examined
}

fn service(unit: Option<&Unit>, findings: &mut Findings) {
    match unit {
        Some(unit) => unit.tell(findings),
        None => findings
            .unknown("service", "systemd does not run this host: what starts the control plane is not known"),
    }
}

fn look_at(loaded: &Loaded, unit: Option<&Unit>, examined: &mut Examined, findings: &mut Findings) {
    let config = &loaded.config;
    let state_dir = &config.state_dir;
    if !state_dir.exists() {
        let detail =
            format!("{} is not there: the control plane has never been started here", state_dir.display());
        findings.warn("state folder", detail, format!("systemctl enable --now {UNIT}"));
        host::clock(findings);
        listeners::free(config, findings);
        return outside::reachable(config, findings);
    }
    let files = Private { check: "state folder", folder: state_dir, secrets: config.own_secrets() };
    host::private(&files, findings);
    files::readable_by_the_service(loaded, unit, findings);
    let (reserve, for_files) = (config.journal.reserve_bytes, config.journal.files_reserve_bytes());
    host::free_space("space", state_dir, (reserve, "writes"), findings);
    for (check, folder) in [("space for archives", "artifacts"), ("space for output", "output")] {
        // Each may be a link to another disk.
        let folder = state_dir.join(folder);
        if folder.exists() {
            host::free_space(check, &folder, (for_files, "archives and output"), findings);
        }
    }
    last_backup(state_dir, findings);
    host::clock(findings);
    authority(config, findings);
    examined.held = journal(config, findings);
    if examined.held {
        examined.look = running(state_dir, findings);
        if let Some(look) = &examined.look {
            examined.server_certificate = listeners::ours(config, look, findings);
            rotation(look, findings);
            outside::whose(config, look, findings);
        }
    } else {
        listeners::free(config, findings);
    }
    outside::reachable(config, findings);
}

/// What to do about an error: what mends it, or, where it is only that this user may not look, to be another one.
fn unless_denied(error: &anyhow::Error, remedy: impl Into<String>) -> String {
    let is_denied = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::PermissionDenied)
    };
    if error.chain().any(is_denied) { AS_ROOT.to_owned() } else { remedy.into() }
}

/// As the alert `BackupTooOld` has it.
fn last_backup(state_dir: &Path, findings: &mut Findings) {
    const CHECK: &str = "backup";
    let remedy = format!(
        "systemctl enable --now stella-backup.timer; systemctl start stella-backup; {BOOK}/disaster-recovery.md"
    );
    match backup::last(state_dir) {
        Ok(Some(last)) => {
            let taken = UNIX_EPOCH + Duration::from_millis(last.taken_at.0);
            // One that was taken in the future was taken before the clock was set back.
            let age = SystemTime::now().duration_since(taken).unwrap_or_default();
            let detail = format!("the latest is of {}, {} MiB", rfc3339(last.taken_at), last.bytes >> 20);
            if age > BACKUP_AGE_MAX {
                findings.warn(CHECK, format!("{detail}: what was decided since then is in none"), remedy);
            } else {
                findings.ok(CHECK, detail);
            }
        }
        Ok(None) => {
            findings.warn(CHECK, "none was ever written to a file here: all is lost with this disk", remedy)
        }
        Err(error) => {
            let detail = format!("when one was taken cannot be read: {error}");
            findings.warn(CHECK, detail, unless_denied(&error.into(), remedy));
        }
    }
}

fn authority(config: &Config, findings: &mut Findings) {
    // What cannot be told is told of each file.
    if matches!(written_by::has_authority(&config.state_dir), Ok(false)) {
        return no_authority(config, findings);
    }
    let pki = config.state_dir.join("pki");
    match RotationOf::read(&pki) {
        RotationOf::None => {
            certificate(
                &pki,
                "root certificate",
                "root.crt",
                "stella-orchestrator ca rotate start",
                findings,
            );
            certificate(&pki, ISSUING, "issuing.crt", "stella-orchestrator ca rotate-issuing", findings);
        }
        // The issuing certificate goes with the root.
        RotationOf::Distributing => {
            let remedy = "stella-orchestrator ca rotate switch";
            certificate(&pki, "root certificate", "root.crt", remedy, findings);
            certificate(&pki, ISSUING, "issuing.crt", remedy, findings);
        }
        RotationOf::Switched => {
            const REMEDY: &str = "stella-orchestrator ca rotate finish; then: stella-orchestrator ca";
            let root = format!("{REMEDY} rotate start");
            certificate(&pki, "root certificate", "next/root.crt", &root, findings);
            certificate(&pki, ISSUING, "next/issuing.crt", &format!("{REMEDY} rotate-issuing"), findings);
            for (check, name) in
                [("old root certificate", "root.crt"), ("old issuing certificate", "issuing.crt")]
            {
                old_certificate(&pki, check, name, findings);
            }
        }
    }
}

const ISSUING: &str = "issuing certificate";

/// How far a rotation of the root is, by its file. What is not understood keeps the control plane from starting, which says so.
enum RotationOf {
    None,
    Distributing,
    Switched,
}

impl RotationOf {
    fn read(pki: &Path) -> Self {
        let text =
            open_regular(&pki.join("rotation")).and_then(|file| read_all(file, CERTIFICATES_BYTES_MAX));
        match text.as_deref().map(<[u8]>::trim_ascii) {
            Ok(b"distributing") => Self::Distributing,
            Ok(b"switched") => Self::Switched,
            Ok(_) | Err(_) => Self::None,
        }
    }
}

fn validity(path: &Path) -> anyhow::Result<(SystemTime, SystemTime)> {
    let pem = open_regular(path).and_then(|file| read_all(file, CERTIFICATES_BYTES_MAX));
    let certificates = certificates_from_pem(&pem.context("it cannot be read")?)?;
    Ok(validity_of_certificate(certificates.first().context("it is empty")?)?)
}

/// One that is needed.
fn certificate(pki: &Path, check: &'static str, name: &str, remedy: &str, findings: &mut Findings) {
    let path = pki.join(name);
    match validity(&path) {
        Ok(validity) => {
            let now = SystemTime::now();
            let of_the_clock = format!("timedatectl, if the clock may be ahead; else: {remedy}");
            let remedy = if validity.1 <= now { &of_the_clock } else { remedy };
            let wanted = Lifetime { check, validity, soon: AUTHORITY_ENDS_SOON, remedy };
            host::lifetime(&wanted, now, findings);
        }
        Err(error) => {
            let detail = format!("{}: {error:#}", path.display());
            let remedy = format!(
                "stella-orchestrator restore BACKUP, into an empty state folder; {BOOK}/disaster-recovery.md"
            );
            findings.fail(check, detail, unless_denied(&error, remedy));
        }
    }
}

/// One that issues nothing any more: agents that still have certificates of it cannot come back without it.
fn old_certificate(pki: &Path, check: &'static str, name: &str, findings: &mut Findings) {
    const REMEDY: &str = "stella-orchestrator ca status names the agents that are behind; then: stella-orchestrator ca rotate finish";
    let now = SystemTime::now();
    match validity(&pki.join(name)) {
        Ok((_, end)) if end <= now => findings.warn(
            check,
            "has ended: agents that are not of the new root yet have to enrol again",
            REMEDY,
        ),
        Ok(validity) => {
            let wanted = Lifetime { check, validity, soon: AUTHORITY_ENDS_SOON, remedy: REMEDY };
            host::lifetime(&wanted, now, findings);
        }
        Err(error) => {
            findings.warn(check, format!("{name} cannot be read: {error:#}"), unless_denied(&error, REMEDY));
        }
    }
}

/// The root's certificate is not there.
fn no_authority(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "root certificate";
    let pki = config.state_dir.join("pki");
    if Store::exists(&config.journal_dir()) {
        let remedy = format!(
            "findmnt --target {}; mount what is missing, or put pki/ back from a backup; {BOOK}/disaster-recovery.md, The authority is lost",
            quoted(&pki)
        );
        let detail = format!(
            "{} is not there, and there is a journal: is a file system not mounted?",
            pki.join("root.crt").display()
        );
        return findings.fail(CHECK, detail, remedy);
    }
    findings.ok(CHECK, "there is none yet: the first start makes it");
}

/// Whether somebody has it open.
fn journal(config: &Config, findings: &mut Findings) -> bool {
    const CHECK: &str = "journal";
    let dir = config.journal_dir();
    if let Err(error) = backup::refuse_unfinished(&config.state_dir) {
        let remedy = unless_denied(&error, "empty the state folder and restore once more");
        findings.fail(CHECK, format!("{error:#}"), remedy);
        return false;
    }
    if let Err(error) = written_by::refuse_newer(&config.state_dir) {
        let remedy = unless_denied(&error, format!("{BOOK}/upgrading.md, Going back"));
        findings.fail(CHECK, format!("{error:#}"), remedy);
        return false;
    }
    if let Err(error) = written_by::refuse_lost_journal(&config.state_dir, &dir) {
        let remedy =
            format!("findmnt --target {}; mount what is missing; {BOOK}/disaster-recovery.md", quoted(&dir));
        findings.fail(CHECK, format!("{error:#}"), unless_denied(&error, remedy));
        return false;
    }
    match Store::is_held(&dir) {
        Ok(true) => {
            findings.ok(CHECK, "is open in the control plane that runs");
            return true;
        }
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            findings.ok(CHECK, "there is none yet: the first start makes it");
            return false;
        }
        Err(error) => {
            findings.fail(CHECK, format!("{} cannot be read: {error}", dir.display()), AS_ROOT);
            return false;
        }
    }
    let verified = verify_copy(&dir);
    if Store::is_held(&dir).unwrap_or(false) {
        findings.ok(CHECK, "is open in a control plane that has just started");
        return true;
    }
    match verified {
        Ok(report) if report.is_whole() => {
            let events: u64 = report.streams.iter().map(|stream| stream.events).sum();
            findings.ok(CHECK, format!("is whole: {events} events of {} streams", report.streams.len()));
        }
        Ok(report) => {
            let first = report.problems.first().map(stella_journal::Damage::summary).unwrap_or_default();
            let remedy = format!("stella-orchestrator journal verify; then {BOOK}/disaster-recovery.md");
            findings.fail(CHECK, format!("is damaged: {first}"), remedy);
        }
        Err(Unverified::TooLarge) => {
            let detail = format!("has more than {} MiB and was not verified", JOURNAL_BYTES_MAX >> 20);
            findings.warn(
                CHECK,
                detail,
                "stella-orchestrator journal verify, while the control plane is stopped",
            );
        }
        Err(Unverified::Other(error)) => {
            let remedy = unless_denied(&error, "stella-orchestrator journal verify");
            findings.fail(CHECK, format!("{error:#}"), remedy);
        }
    }
    false
}

enum Unverified {
    TooLarge,
    Other(anyhow::Error),
}

fn verify_copy(dir: &Path) -> Result<stella_journal::Report, Unverified> {
    let other = |error: anyhow::Error| Unverified::Other(error);
    let copy = tempfile::tempdir().context("no temporary folder can be made").map_err(other)?;
    match Store::copy_closed(dir, copy.path(), JOURNAL_BYTES_MAX) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(Unverified::TooLarge),
        Err(error) => return Err(other(anyhow::Error::new(error).context("it cannot be copied"))),
    }
    stella_journal::verify(copy.path()).map_err(|error| other(error.into()))
}

/// What the control plane says of itself.
fn running(state_dir: &Path, findings: &mut Findings) -> Option<Look> {
    const CHECK: &str = "control plane";
    let look = match look::ask(state_dir) {
        Ok(Some(look)) => look,
        Ok(None) => {
            let detail =
                "has the journal open and does not listen at its socket: it is just starting, or stops";
            findings.warn(CHECK, detail, format!("journalctl -u {UNIT} -n 50 --no-pager"));
            return None;
        }
        Err(error) => {
            let remedy = format!("run this as root; else: systemctl restart {UNIT}");
            findings.fail(CHECK, format!("{error:#}"), remedy);
            return None;
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    if look.version == own {
        let (process, waiting) = (look.process, look.journal.commands_waiting);
        findings.ok(CHECK, format!("version {own} runs as process {process}; {waiting} commands wait"));
    } else {
        let detail = format!("version {} runs, and {own} is installed", look.version);
        findings.warn(CHECK, detail, format!("systemctl restart {UNIT}"));
    }
    Some(look)
}

fn rotation(look: &Look, findings: &mut Findings) {
    const CHECK: &str = "rotation of the root";
    let (phase, behind) = (look.authority.phase.as_deref(), look.authority.behind);
    match (phase, behind) {
        (None, 0) => {}
        (None, behind) => findings.warn(
            CHECK,
            format!("{behind} agents do not trust the root and cannot connect: the last rotation left them behind, or the authority is another one"),
            format!(
                "stella agent revoke each of them (stella-orchestrator ca status names them); those that are to stay: a new token, stella-agent enrol --force on the host, stella target update; {BOOK}/troubleshooting.md, An agent does not connect"
            ),
        ),
        (Some(phase), behind) => {
            let next = if phase == "distributing" { "switch" } else { "finish" };
            let detail = format!("is under way ({phase}), {behind} agents are behind");
            findings.warn(
                CHECK,
                detail,
                format!("stella-orchestrator ca status; then: stella-orchestrator ca rotate {next}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use nix::unistd::{Gid, Uid, geteuid};

    use super::*;
    use crate::owner::become_service;

    #[test]
    fn whoever_may_not_look_is_told_to_be_root_and_not_to_restore_a_backup() {
        if !geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state_dir: folder.path().join("state"), ..Config::default() };
        fs::create_dir_all(config.journal_dir()).unwrap();
        fs::create_dir(config.state_dir.join("pki")).unwrap();
        fs::write(config.state_dir.join("pki/root.crt"), "").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&config.state_dir, fs::Permissions::from_mode(0o700)).unwrap();
        let look = || {
            let mut findings = Findings::default();
            last_backup(&config.state_dir, &mut findings);
            authority(&config, &mut findings);
            journal(&config, &mut findings);
            findings.text()
        };
        let told = {
            let _as_nobody = become_service(Uid::from_raw(65_534), Gid::from_raw(65_534), &[]).unwrap();
            look()
        };
        assert_eq!(told.matches(AS_ROOT).count(), 4, "{told}");
        assert!(!told.contains("restore BACKUP") && !told.contains("systemctl"), "{told}");
        assert!(look().contains("restore BACKUP"), "root is told of what is not there");
    }

    #[test]
    fn an_authority_that_is_away_is_missed_only_where_there_is_a_journal() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state_dir: folder.path().to_owned(), ..Config::default() };
        let look = || {
            let mut findings = Findings::default();
            authority(&config, &mut findings);
            (findings.is_well(), findings.text())
        };
        let (is_well, told) = look();
        assert!(is_well && told.contains("the first start makes it"), "{told}");
        fs::create_dir(config.journal_dir()).unwrap();
        fs::write(config.journal_dir().join("db"), "").unwrap();
        let (is_well, told) = look();
        assert!(
            !is_well && told.contains("is a file system not mounted?") && told.contains("findmnt"),
            "{told}"
        );
    }
}
