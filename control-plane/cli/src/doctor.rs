//! `stella doctor`: why it does not work from here, each with what to do about it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use stella_api_types::account::WhoAmI;
use stella_api_types::paths;
use stella_api_types::system::{Health, System};
use stella_api_types::tenant::Tenant;
use stella_api_types::time::parse_rfc3339;
use stella_doctor::Findings;
use stella_doctor::host::quoted;

use crate::args::{Global, Output};
use crate::client::{Client, Error};
use crate::print;
use crate::settings::Settings;

/// A certificate that ends within this time is told.
const ENDS_SOON: Duration = Duration::from_secs(30 * 86_400);
/// Clocks that differ by more than this are told: what happened when is hard to tell then.
const SKEW_TOLD: Duration = Duration::from_secs(5);
/// By more than this, certificates and tokens that are good may not be taken.
const SKEW_MAX: Duration = Duration::from_secs(60);
const GROUP_AND_OTHERS: u32 = 0o077;

/// Looks at everything that a command needs; whether nothing fails.
pub(crate) async fn doctor(global: &Global) -> Result<bool, Error> {
    let findings = examine(global).await;
    match global.output {
        Output::Json => print::json(&findings)?,
        Output::Text => print::line(findings.text().trim_end()),
    }
    Ok(findings.is_well())
}

/// Looks at everything that a command needs.
pub(crate) async fn examine(global: &Global) -> Findings {
    let mut findings = Findings::default();
    match Settings::load(global) {
        Ok(settings) => {
            findings.ok("configuration", format!("the control plane is {}", settings.url()));
            look(&settings, &mut findings).await;
        }
        Err(error) => findings.fail("configuration", error.to_string(), "mend the file, or take it away"),
    }
    findings
}

async fn look(settings: &Settings, findings: &mut Findings) {
    if let Some(file) = settings.token_file() {
        private(file, findings);
    }
    let pinned = settings.ca().map(|file| pinned(file, findings)).unwrap_or_default();
    let client = match settings.client() {
        Ok(client) => client,
        Err(error) => {
            return findings.fail(
                "token",
                error.to_string(),
                "have one made by somebody who may (`stella token create`), or use the first one",
            );
        }
    };
    let Some(health) = reach(&client, findings).await else { return };
    match health.status.as_str() {
        "healthy" => findings.ok("control plane", format!("version {} is healthy", health.version)),
        other => findings.warn(
            "control plane",
            format!("is {other}"),
            "see `stella-orchestrator` in its host's log",
        ),
    }
    let own = env!("CARGO_PKG_VERSION");
    if health.version == own {
        findings.ok("version", format!("both are {own}"));
    } else {
        let detail = format!("this is {own}, the control plane {}", health.version);
        findings.warn("version", detail, "install the same version on both sides, the control plane first");
    }
    rights(&client, settings, findings).await;
    if let Some(pinned) = pinned
        && let Ok(system) = client.get::<System>(paths::SYSTEM).await
    {
        let file = settings.ca().map(PathBuf::as_path).unwrap_or_else(|| Path::new(""));
        if system.roots_pem.is_empty() || system.roots_pem == pinned {
            findings.ok("trust", "the file has what the control plane wants to be trusted");
        } else if let Ok(false) = settings.would_trust(file, &system.roots_pem).await {
            findings.ok(
                "trust",
                "the certificate is not of the control plane's own authority, and the file is for it",
            );
        } else {
            let detail = "the control plane's root certificates are others than those in the file";
            findings.warn("trust", detail, "run `stella ca update` before the old root is trusted no more");
        }
    }
}

/// A token that others can read is theirs too.
fn private(file: &Path, findings: &mut Findings) {
    match fs::metadata(file).map(|it| it.permissions().mode() & GROUP_AND_OTHERS) {
        Ok(0) => findings.ok("token file", format!("{} is yours alone", file.display())),
        Ok(_) => {
            let remedy = format!("chmod 600 {}; if they may have read it, make another token", quoted(file));
            findings.warn("token file", format!("others may read {}", file.display()), remedy);
        }
        Err(error) => {
            let detail = format!("{} cannot be read: {error}", file.display());
            findings.fail("token file", detail, "give --token-file FILE, or set STELLA_TOKEN_FILE");
        }
    }
}

/// The certificates that are trusted, if the file is good.
fn pinned(file: &Path, findings: &mut Findings) -> Option<String> {
    let remedy = "copy pki/roots.crt from the control plane's state folder there";
    let certificates = fs::read(file).map_err(|error| error.to_string()).and_then(|pem| {
        Ok((stella_certs::certificates_from_pem(&pem).map_err(|error| error.to_string())?, pem))
    });
    let (certificates, pem) = match certificates {
        Ok(found) => found,
        Err(problem) => {
            findings.fail("certificates", format!("{}: {problem}", file.display()), remedy);
            return None;
        }
    };
    let ends =
        certificates.iter().filter_map(|it| Some(stella_certs::validity_of_certificate(it).ok()?.1)).max();
    match ends.map(|ends| ends.duration_since(SystemTime::now())) {
        Some(Ok(left)) if left > ENDS_SOON => {
            let detail = format!(
                "{} in {}, good for {} days",
                certificates.len(),
                file.display(),
                left.as_secs() / 86_400
            );
            findings.ok("certificates", detail);
        }
        Some(Ok(left)) => {
            let detail = format!("the last of {} ends in {} days", file.display(), left.as_secs() / 86_400);
            findings.warn("certificates", detail, "rotate the root, then run `stella ca update`");
        }
        Some(Err(_)) | None => {
            findings.fail("certificates", format!("all of {} have ended", file.display()), remedy);
        }
    }
    String::from_utf8(pem).ok()
}

/// Whether the control plane answers, and what its clock says.
async fn reach(client: &Client, findings: &mut Findings) -> Option<Health> {
    let asked = (Instant::now(), SystemTime::now());
    match client.health().await {
        Ok((health, date)) => {
            let took = asked.0.elapsed();
            findings.ok("connection", format!("answers in {} ms, and is who it should be", took.as_millis()));
            if let Some(theirs) = date.as_deref().and_then(moment) {
                skew(asked.1 + took / 2, theirs, findings);
            }
            Some(health)
        }
        Err(error) => {
            let remedy = "is it running, is TCP allowed to its port, and is --ca its own root?";
            findings.fail("connection", error.to_string(), remedy);
            None
        }
    }
}

fn skew(ours: SystemTime, theirs: SystemTime, findings: &mut Findings) {
    let off = ours.duration_since(theirs).unwrap_or_else(|ahead| ahead.duration());
    let detail = format!("the clocks differ by {} s", off.as_secs());
    let remedy = "let both hosts' clocks be set by NTP";
    if off > SKEW_MAX {
        findings.fail("clock", detail, remedy);
    } else if off > SKEW_TOLD {
        findings.warn("clock", detail, remedy);
    } else {
        findings.ok("clock", detail);
    }
}

/// The moment of an HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn moment(date: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let [_, day, month, year, time, "GMT"] = date.split(' ').collect::<Vec<_>>()[..] else { return None };
    let month = MONTHS.iter().position(|it| *it == month)? + 1;
    let timestamp = parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(timestamp.0))
}

async fn rights(client: &Client, settings: &Settings, findings: &mut Findings) {
    let may = match client.get::<WhoAmI>(paths::WHOAMI).await {
        Ok(me) => me.account,
        Err(error) => {
            return findings.fail("token", error.to_string(), "have another one made: `stella token create`");
        }
    };
    match may {
        None => findings.ok("token", "belongs to no account and may do everything"),
        Some(account) if account.roles.is_empty() => {
            let detail = format!("{} {} may do nothing", account.kind, account.name);
            findings.fail(
                "token",
                detail,
                format!("have roles given: `stella account roles {}`", account.name),
            );
        }
        Some(account) => {
            findings.ok(
                "token",
                format!(
                    "of {} {}, with {}",
                    account.kind,
                    account.name,
                    print::count(account.roles.len() as u64, "role")
                ),
            );
        }
    }
    let Ok(tenant) = settings.tenant() else {
        let remedy = "give --tenant NAME, or set STELLA_TENANT, for commands in a tenant";
        return findings.warn("tenant", "none is chosen", remedy);
    };
    match client.get::<Tenant>(&paths::fill(paths::TENANT, &[tenant])).await {
        Ok(found) => findings.ok("tenant", format!("{} is there", found.name)),
        Err(error) => {
            findings.fail("tenant", error.to_string(), "`stella tenant list` shows those that you may see")
        }
    }
}

#[cfg(test)]
mod tests {
    use stella_doctor::Verdict;

    use super::*;

    #[test]
    fn what_the_doctor_says_itself_is_not_taken_for_a_secret() {
        let mut findings = Findings::default();
        let nothing = Settings::bare("https://localhost:1");
        if std::env::var_os("STELLA_TOKEN").is_none() {
            let error = nothing.client().err().map(|error| error.to_string()).unwrap_or_default();
            findings.fail("token", error, "have one made");
            let text = findings.text();
            assert!(text.contains("give --token-file FILE") && !text.contains("REDACTED"), "{text}");
        }
    }

    #[test]
    fn the_date_of_an_answer_is_read() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(moment("Sun, 06 Nov 1994 08:49:37 GMT"), at(784_111_777));
        for wrong in [
            "",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Abc 1994 08:49:37 GMT",
        ] {
            assert_eq!(moment(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn clocks_that_differ_are_told_by_how_much_it_matters() {
        for (seconds, verdict) in
            [(0, Verdict::Ok), (5, Verdict::Ok), (6, Verdict::Warn), (61, Verdict::Fail)]
        {
            for ahead in [true, false] {
                let mut findings = Findings::default();
                let (ours, off) =
                    (SystemTime::UNIX_EPOCH + Duration::from_secs(1_000), Duration::from_secs(seconds));
                skew(ours, if ahead { ours + off } else { ours - off }, &mut findings);
                assert_eq!(findings.checks()[0].verdict, verdict, "{seconds}");
            }
        }
    }
}
