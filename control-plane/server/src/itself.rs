//! What is wrong with the control plane itself, for whoever is told of it: a journal that takes nothing has no events that could say so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;
use stella_engine::Handle;
use stella_notify::incident::{Found, Kind};
use stella_notify::notifier::Look;
use stella_parts::Parts;

use crate::config::Config;
use crate::pki::Pki;

/// How long before its end a certificate should have been renewed: as the alert on it has it.
const CERTIFICATE_LEFT: Duration = Duration::from_hours(14 * 24);

/// What can be looked at.
struct Itself {
    engine: Handle,
    state_dir: PathBuf,
    reserve_bytes: u64,
    parts: Parts,
    pki: Pki,
}

/// Looks at all of it.
pub(crate) fn look(engine: Handle, config: &Config, parts: Parts, pki: Pki) -> Look {
    let (state_dir, reserve_bytes) = (config.state_dir.clone(), config.journal.reserve_bytes);
    let itself = Itself { engine, state_dir, reserve_bytes, parts, pki };
    Look(Arc::new(move || itself.found()))
}

impl Itself {
    fn found(&self) -> Vec<Found> {
        let failed = self.parts.failed().into_iter().map(|part| Found {
            kind: Kind::PartFailed,
            subject: part.to_owned(),
            summary: format!(
                "the part {part:?} has failed: restart the control plane, and report what its log says"
            ),
        });
        self.refused()
            .into_iter()
            .chain(failed)
            .chain(expiring(&self.pki.ends(), SystemTime::now()))
            .collect()
    }

    /// Below the reserve writes are refused, whether anybody has tried already or not; and the last one may have been for another reason.
    fn refused(&self) -> Option<Found> {
        let free = statvfs(&self.state_dir).ok();
        let free = free.map(|it| it.blocks_available().saturating_mul(it.fragment_size()));
        let is_short = free.is_some_and(|free| free < self.reserve_bytes);
        (is_short || self.engine.health().no_space).then(|| Found {
            kind: Kind::WritesRefused,
            subject: "journal".to_owned(),
            summary: format!(
                "the control plane refuses writes: the disk of {} is too full. Nothing is deployed meanwhile, and nobody is told of agents that go offline",
                self.state_dir.display()
            ),
        })
    }
}

fn expiring(ends: &[(&'static str, SystemTime)], now: SystemTime) -> Vec<Found> {
    let soon = now + CERTIFICATE_LEFT;
    let due = ends.iter().filter(|(_, ends)| *ends < soon);
    due.map(|(name, ends)| {
        let days = ends.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        Found {
            kind: Kind::CertificateExpiring,
            subject: (*name).to_owned(),
            summary: format!("the control plane's {name} certificate ends in {days} days"),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_that_should_have_been_renewed() {
        let now = SystemTime::now();
        let days = |days: u64| now + Duration::from_hours(24 * days);
        let ends = [("server", days(13)), ("issuing", days(15)), ("root", now - Duration::from_secs(1))];
        let found = expiring(&ends, now);
        let told: Vec<_> = found.iter().map(|it| (it.subject.as_str(), it.summary.as_str())).collect();
        assert_eq!(
            told,
            [
                ("server", "the control plane's server certificate ends in 13 days"),
                ("root", "the control plane's root certificate ends in 0 days")
            ]
        );
    }
}
