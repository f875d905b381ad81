//! What is wrong with the control plane itself, for whoever is told of it: a journal that takes nothing has no events that could say so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use stella_engine::Handle;
use stella_notify::incident::{Found, Kind};
use stella_notify::notifier::Look;
use stella_parts::Parts;

use crate::config::Config;
use crate::pki::{End, Pki};

/// What can be looked at.
struct Itself {
    engine: Handle,
    state_dir: PathBuf,
    parts: Parts,
    pki: Pki,
}

/// Looks at all of it.
pub(crate) fn look(engine: Handle, config: &Config, parts: Parts, pki: Pki) -> Look {
    let itself = Itself { engine, state_dir: config.state_dir.clone(), parts, pki };
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

    /// Below the reserve writes are refused, whether anybody has tried already or not.
    fn refused(&self) -> Option<Found> {
        self.engine.health().no_space.then(|| Found {
            kind: Kind::WritesRefused,
            subject: "journal".to_owned(),
            summary: format!(
                "the control plane refuses writes: the disk of {} is too full. Nothing is deployed meanwhile, and nobody is told of agents that go offline",
                self.state_dir.display()
            ),
        })
    }
}

fn expiring(ends: &[(&'static str, End)], now: SystemTime) -> Vec<Found> {
    let due = ends.iter().filter(|(_, end)| end.due < now);
    due.map(|(name, end)| {
        let left = end.at.duration_since(now).unwrap_or_default().as_secs();
        let left = if left < 2 * 86_400 {
            format!("{} hours", left / 3_600)
        } else {
            format!("{} days", left / 86_400)
        };
        Found {
            kind: Kind::CertificateExpiring,
            subject: (*name).to_owned(),
            summary: format!("the control plane's {} certificate ends in {left}", name.replace('_', " ")),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_certificate_is_told_of_that_should_have_been_renewed() {
        let now = SystemTime::now();
        let days = |days: u64| now + Duration::from_hours(24 * days);
        let ends = [
            ("server", End::of_ours(days(13))),
            ("issuing", End::of_ours(days(15))),
            ("root", End::of_ours(now - Duration::from_secs(1))),
            ("old_issuing", End::of_ours(days(1))),
        ];
        let found = expiring(&ends, now);
        let told: Vec<_> = found.iter().map(|it| (it.subject.as_str(), it.summary.as_str())).collect();
        assert_eq!(
            told,
            [
                ("server", "the control plane's server certificate ends in 13 days"),
                ("root", "the control plane's root certificate ends in 0 hours"),
                ("old_issuing", "the control plane's old issuing certificate ends in 24 hours")
            ]
        );
    }

    #[test]
    fn one_that_is_issued_for_a_few_days_is_told_of_in_the_last_quarter_of_them() {
        let (begins, day) = (SystemTime::now(), Duration::from_hours(24));
        let ends = begins + day * 6;
        let told = |at: SystemTime| -> Vec<String> {
            let api = ("api", End::of_given((begins, ends)));
            expiring(&[api], at).into_iter().map(|it| it.summary).collect()
        };
        assert_eq!(told(begins), [""; 0], "it was made today");
        assert_eq!(told(begins + day * 4), [""; 0], "it is renewed about now");
        assert_eq!(told(begins + day * 5), ["the control plane's api certificate ends in 24 hours"]);
        let year = ("api", End::of_given((begins, begins + day * 365)));
        assert_eq!(expiring(&[year], begins + day * 350), []);
        assert_eq!(expiring(&[year], begins + day * 352).len(), 1, "two weeks are enough of a long one");
    }
}
