//! `stella-agent doctor`: why this agent does not work, each with what to do about it.
//!
//! It changes nothing and is safe beside the running agent: the journal is opened only as a copy, and only if nobody has it
//! open; the connection says no hello, so the agent's session stays as it is.

mod groups;
mod reach;

use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use stella_certs::validity_of_certificate;
use stella_doctor::host::{self, Lifetime, Private, quoted};
use stella_doctor::unit::Unit;
use stella_doctor::{CERTIFICATES_BYTES_MAX, Findings, open_configured, read_all};
use stella_durable::Store;

use crate::config::{self, Config, Loaded};
use crate::enrol::{JOURNAL_DIR, PENDING_FILE};
use crate::executor::reason_of;
use crate::identity::{self, Identity};
use crate::journal::{self, Journal};
use crate::metrics;
use crate::policy::Kind;
use crate::profile::{self, Rights};

/// The unit that the packages install.
pub(crate) const UNIT: &str = "stella-agent.service";
/// Where the package puts the book.
const BOOK: &str = "/usr/share/doc/stella-agent/book";
/// A larger journal is not copied: the agent itself says whether it opens.
const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A root that ends within this time is told.
const ROOT_ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);
const ENROL: &str =
    "stella-agent enrol --server HOST:PORT --token @FILE, with a token of `stella agent token`";

/// Looks at everything that an agent needs.
pub(crate) async fn examine(loaded: &Result<Loaded, config::Error>) -> Findings {
    let mut findings = Findings::default();
    let unit = Unit::ask(UNIT);
    match loaded {
        Ok(loaded) => {
            findings.ok("configuration", "is understood");
            look(&loaded.config, unit.as_ref(), &mut findings).await;
        }
        Err(error) => {
            findings.fail(
                "configuration",
                reason_of(error),
                format!("mend it, then: stella-agent config check; the reference is {BOOK}/configuration.md"),
            );
            service(None, unit.as_ref(), &mut findings);
        }
    }
    findings
}

async fn look(config: &Config, unit: Option<&Unit>, findings: &mut Findings) {
    policy(config, findings);
    service(Some(config), unit, findings);
    let secrets = [identity::FILE, PENDING_FILE].map(|name| config.state_dir.join(name));
    let files = Private { check: "state folder", folder: &config.state_dir, secrets: secrets.into() };
    // Where there is none there is no identity either, which is what to tell.
    if config.state_dir.exists() {
        host::private(&files, findings);
    }
    if let Some(unit) = unit.filter(|unit| unit.is_loaded()) {
        groups::look(config, unit, findings);
    }
    let identity = who(config, findings);
    if let Some(identity) = &identity {
        enrolled_for(config, identity, unit, findings);
    }
    host::clock(findings);
    host_root(config, unit, findings);
    if config.state_dir.exists() {
        host::free_space("space for state", &config.state_dir, (config.reserve_bytes, "writes"), findings);
    }
    journal_opens(config, findings);
    if let Some(tls) = config.metrics.as_ref().and_then(|metrics| metrics.tls.as_ref()) {
        metrics_files(tls, findings);
    }
    if let Some(identity) = identity {
        let server = config.server.as_ref().unwrap_or(&identity.server);
        reach::control_plane(server, &identity, findings).await;
    }
    reach::collector(&config.traces, findings).await;
}

fn policy(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "policy";
    let allowed: Vec<_> =
        Kind::ALL.iter().filter(|kind| config.policy.allows(**kind)).map(|kind| kind.name()).collect();
    if allowed.is_empty() {
        let remedy = "set policy.allow in /etc/stella/agent.toml, or leave it out to allow all kinds";
        return findings.warn(CHECK, "no kind of task may run here: every deployment fails", remedy);
    }
    let kinds = if allowed.len() == Kind::ALL.len() {
        "tasks of all kinds may run".to_owned()
    } else {
        format!("only these kinds of tasks may run: {}", allowed.join(", "))
    };
    let acts_on_units = config.policy.allows(Kind::Systemd);
    let Some(units) = config.policy.units().filter(|_| acts_on_units) else {
        // Who leaves out commands wants a host that is held back.
        if acts_on_units && !config.policy.allows(Kind::Command) {
            let detail =
                format!("{kinds}; systemd tasks may act on every unit, and start poweroff.target too");
            return findings.warn(CHECK, detail, "name the units in policy.units, in /etc/stella/agent.toml");
        }
        return findings.ok(CHECK, kinds);
    };
    let named: Vec<_> = units.iter().map(ToString::to_string).collect();
    let detail = match &named[..] {
        [] => format!("{kinds}; systemd tasks may act on no unit"),
        named => format!("{kinds}; systemd tasks may act on these units only: {}", named.join(", ")),
    };
    if config.policy.allows(Kind::Command) {
        let remedy = "take command out of policy.allow, if this control plane is not to be trusted with it";
        findings.warn(CHECK, format!("{detail}, and a command of root's may act on any"), remedy);
    } else if named.is_empty() {
        findings.warn(CHECK, detail, "name them in policy.units, in /etc/stella/agent.toml");
    } else {
        findings.ok(CHECK, detail);
    }
}

fn service(config: Option<&Config>, unit: Option<&Unit>, findings: &mut Findings) {
    const CHECK: &str = "profile";
    let Some(unit) = unit else {
        return findings
            .unknown("service", "systemd does not run this host: what starts the agent is not known");
    };
    unit.tell(findings);
    if !unit.is_loaded() {
        return;
    }
    let changed: Vec<_> = unit.drop_ins().iter().map(|path| path.display().to_string()).collect();
    let by = if changed.is_empty() { String::new() } else { format!(", by {}", changed.join(", ")) };
    let Some(folders) = unit.confined_to() else {
        return findings.ok(CHECK, format!("full: tasks may do everything that root may{by}"));
    };
    let named: Vec<_> = folders.iter().map(|path| path.display().to_string()).collect();
    let detail = format!("confined: tasks may change {}{by}", named.join(", "));
    match config {
        Some(config) if !folders.iter().any(|folder| config.host_root.starts_with(folder)) => {
            let root = config.host_root.display();
            findings.fail(
                CHECK,
                format!("{detail}; host_root is {root}, so every task that writes fails"),
                format!("set host_root to a folder below one of them, or give the unit ReadWritePaths={root}: systemctl edit {UNIT}"),
            );
        }
        Some(_) | None => findings.ok(CHECK, detail),
    }
}

/// Whether the agent runs with the rights that it was enrolled for.
fn enrolled_for(config: &Config, identity: &Identity, unit: Option<&Unit>, findings: &mut Findings) {
    const CHECK: &str = "enrolled for";
    let enrolled = match profile::enrolled_for(&config.state_dir, identity) {
        Ok(Some(enrolled)) => enrolled,
        Ok(None) => {
            return findings
                .ok(CHECK, "its token named no profile: what tasks may do is for this host to say");
        }
        Err(error) => {
            return findings.fail(CHECK, reason_of(&error), "run this as root: sudo stella-agent doctor");
        }
    };
    if profile::is_lost(&config.state_dir, identity) {
        return findings.fail(CHECK, profile::LOST, profile::RESTORE);
    }
    let name = enrolled.name();
    let of_service = unit.filter(|unit| unit.is_active()).and_then(Unit::main_pid);
    // One that somebody has started by hand.
    let Some(pid) = of_service.or_else(|| holder(&config.state_dir.join(JOURNAL_DIR))) else {
        return findings.ok(CHECK, format!("{name}; the agent does not run now"));
    };
    let rights = Rights::of(pid);
    if let Some(reason) = rights.objection(Some(enrolled)) {
        findings.fail(CHECK, reason, profile::TAKE_AWAY);
    } else if rights.profile() < enrolled {
        let detail = format!("{name}, and the agent runs confined: tasks that need more fail");
        findings.warn(CHECK, detail, profile::GIVE);
    } else {
        findings.ok(CHECK, format!("{name}, and so it runs"));
    }
}

/// The process that has a file of a folder open, if there is one that this process may look at.
fn holder(folder: &Path) -> Option<u32> {
    let folder = fs::canonicalize(folder).ok()?;
    let processes =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
    processes.into_iter().find(|pid: &u32| {
        let opened = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        opened.into_iter().any(|it| fs::read_link(it.path()).is_ok_and(|file| file.starts_with(&folder)))
    })
}

fn who(config: &Config, findings: &mut Findings) -> Option<Identity> {
    const CHECK: &str = "identity";
    let identity = match Identity::load(&config.state_dir) {
        Ok(identity) => identity,
        Err(error) => {
            let remedy = match &error {
                identity::Error::Missing { .. } => ENROL.to_owned(),
                identity::Error::Io { .. } => "run this as root: sudo stella-agent doctor".to_owned(),
                identity::Error::Damaged { .. } | identity::Error::Certificate(_) => {
                    format!("{ENROL}, and --force")
                }
            };
            findings.fail(CHECK, reason_of(&error), remedy);
            return None;
        }
    };
    findings.ok(CHECK, format!("agent {} of tenant {}", identity.agent, identity.tenant));
    let (now, (not_before, not_after)) = (SystemTime::now(), identity.validity());
    let renewal = stella_certs::renew_at(not_before, not_after);
    let remedy = if now >= not_after {
        "nothing renews one that has ended: stella-agent enrol --force --server HOST:PORT --token @FILE"
    } else {
        "a connected agent renews it by itself: see the check connection, then systemctl restart stella-agent"
    };
    // Between its renewal and this, renewing was tried and did not succeed.
    let soon = not_after.duration_since(renewal).unwrap_or_default() / 2;
    let leaf = Lifetime { check: "certificate", validity: (not_before, not_after), soon, remedy };
    host::lifetime(&leaf, now, findings);
    let roots = identity.roots.iter().filter_map(|root| validity_of_certificate(root).ok());
    if let Some(validity) = roots.max_by_key(|(_, end)| *end) {
        let remedy = "rotate the root on the control plane's host: stella-orchestrator ca rotate start";
        let root = Lifetime { check: "trusted root", validity, soon: ROOT_ENDS_SOON, remedy };
        host::lifetime(&root, now, findings);
    }
    Some(identity)
}

fn host_root(config: &Config, unit: Option<&Unit>, findings: &mut Findings) {
    const CHECK: &str = "host root";
    let root = &config.host_root;
    if !root.exists() {
        let detail = format!("{} is not there; the agent makes it when it starts", root.display());
        return findings.warn(CHECK, detail, format!("install -d {}", quoted(root)));
    }
    let seen_by = unit.filter(|unit| unit.is_active()).and_then(Unit::main_pid);
    let remedy = "mount it read-write, or change host_root or the unit's ReadWritePaths=";
    host::writable(CHECK, root, seen_by, remedy, findings);
    // What the agent brings leaves the reserve alone; what commands write is theirs.
    host::free_space("space for tasks", root, (config.reserve_bytes, "archives"), findings);
}

/// What is known of a journal on the disk.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The agent has never run.
    Missing,
    /// The running agent has it.
    Held,
    /// A copy of it was opened.
    Opened(Box<Journal>, tempfile::TempDir),
}

/// Why nothing is known of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unseen {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// There is no room for a copy, which says nothing of the journal.
    #[error("no copy of it can be looked into, below {}", env::temp_dir().display())]
    Copy(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is damaged.
    #[error(transparent)]
    Damaged(journal::Error),
}

/// Looks at the journal of a state folder without touching it.
pub(crate) fn journal_of(state_dir: &Path) -> Result<Seen, Unseen> {
    let path = state_dir.join(JOURNAL_DIR);
    let is_held = match Store::is_held(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Seen::Missing),
        held => held?,
    };
    if is_held {
        return Ok(Seen::Held);
    }
    let copy = tempfile::tempdir().map_err(|error| Unseen::Copy(error.into()))?;
    let copied = Store::copy_closed(&path, copy.path(), JOURNAL_BYTES_MAX);
    // An agent that started meanwhile has changed it under the copy.
    if Store::is_held(&path)? {
        return Ok(Seen::Held);
    }
    copied.map_err(|error| {
        let is_of_the_journal =
            matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::FileTooLarge);
        if is_of_the_journal { Unseen::Io(error) } else { Unseen::Copy(error.into()) }
    })?;
    match Journal::open(copy.path(), 0) {
        Ok((journal, _)) => Ok(Seen::Opened(Box::new(journal), copy)),
        Err(error @ journal::Error::Damaged { .. }) => Err(Unseen::Damaged(error)),
        // The copy's disk is full, or this process has no files left.
        Err(error @ (journal::Error::Begun { .. } | journal::Error::Store(_))) => {
            Err(Unseen::Copy(error.into()))
        }
    }
}

fn journal_opens(config: &Config, findings: &mut Findings) {
    const CHECK: &str = "journal";
    match journal_of(&config.state_dir) {
        Ok(Seen::Missing) => findings.ok(CHECK, "there is none yet: the agent has not run here"),
        Ok(Seen::Held) => findings.ok(CHECK, "is open in the agent that runs"),
        Ok(Seen::Opened(journal, _copy)) => {
            let (position, open) = (journal.mark().position, journal.open_attempts().len());
            findings.ok(CHECK, format!("opens, at position {}, with {open} open attempts", position.0));
        }
        Err(Unseen::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
            let detail = format!("has more than {} MiB and was not looked into", JOURNAL_BYTES_MAX >> 20);
            findings.warn(CHECK, detail, format!("systemctl start {UNIT}; journalctl -u {UNIT} -n 20"));
        }
        Err(Unseen::Io(error)) => {
            findings.fail(
                CHECK,
                format!("cannot be read: {error}"),
                "run this as root: sudo stella-agent doctor",
            );
        }
        Err(error @ Unseen::Copy(_)) => {
            let remedy = format!(
                "df -h {0}; df -i {0}; free space there, or: TMPDIR=/another/folder stella-agent doctor",
                quoted(&env::temp_dir())
            );
            findings.warn(CHECK, reason_of(&error), remedy);
        }
        Err(Unseen::Damaged(error)) => {
            let path = config.state_dir.join(JOURNAL_DIR);
            // Never into one that was put aside before.
            let aside = format!(
                "systemctl stop {UNIT}; mv -T {0} {0}-damaged-$(date +%s); systemctl start {UNIT}",
                quoted(&path)
            );
            findings.fail(CHECK, reason_of(&error), aside);
        }
    }
}

fn metrics_files(tls: &metrics::Tls, findings: &mut Findings) {
    const CHECK: &str = "metrics certificate";
    let mut all = [&tls.certificate, &tls.key].into_iter().chain(&tls.client_ca);
    if !all.all(|path| host::readable(CHECK, path, findings)) {
        return;
    }
    let pem = open_configured(&tls.certificate).and_then(|file| read_all(file, CERTIFICATES_BYTES_MAX));
    let leaf = pem.ok().and_then(|pem| {
        let chain = stella_certs::certificates_from_pem(&pem).ok()?;
        validity_of_certificate(chain.first()?).ok()
    });
    match leaf {
        Some(validity) => {
            let remedy = "replace the file; the next scrape takes the new one";
            let soon = Duration::from_secs(7 * 86_400);
            host::lifetime(&Lifetime { check: CHECK, validity, soon, remedy }, SystemTime::now(), findings);
        }
        None => {
            let detail = format!("{} holds no certificate in PEM", tls.certificate.display());
            findings.fail(CHECK, detail, "put the listener's certificate there, with its intermediates");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_was_started_by_hand_is_found_by_its_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JOURNAL_DIR);
        assert_eq!(holder(&path), None);
        let held = Journal::open(&path, 0).unwrap();
        assert_eq!(holder(&path), Some(std::process::id()));
        drop(held);
        assert_eq!(holder(&path), None);
    }
}
