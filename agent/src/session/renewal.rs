//! Renewal of the certificate on the live session, from two thirds of its life on.
//!
//! A new key for every certificate. The session goes on as it is; the next one shows the new certificate.

use std::time::{Duration, SystemTime};

use stella_certs::{PrivateKey, csr, renewal_due};
use stella_protocol::message::{RenewRequest, Renewed};
use tokio::time::Instant;

use crate::identity::{self, Identity};

/// The shortest and the longest pause between two requests; in between, a sixteenth of the certificate's life.
const PAUSE_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Where a renewal is.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// The key of the request that is under way.
    key: Option<PrivateKey>,
    /// Before it, nothing is asked.
    not_before: Option<Instant>,
    /// Whether the control plane wants a new certificate in place of one that is good for longer.
    is_wanted: bool,
}

impl Renewal {
    /// The control plane wants it now.
    pub(super) const fn want(&mut self) {
        self.is_wanted = true;
        // The answer to a request that is under way would not fit to the key of another.
        if self.key.is_none() {
            self.not_before = None;
        }
    }

    /// A request, if one is due now.
    pub(super) fn due(&mut self, identity: &Identity) -> Option<RenewRequest> {
        let (not_before, not_after) = identity.validity();
        let is_pausing = self.not_before.is_some_and(|until| Instant::now() < until);
        let is_due = self.is_wanted || renewal_due(not_before, not_after, SystemTime::now());
        if is_pausing || !is_due {
            return None;
        }
        let life = not_after.duration_since(not_before).unwrap_or_default();
        self.not_before = Some(Instant::now() + (life / 16).clamp(PAUSE_RANGE.0, PAUSE_RANGE.1));
        match csr::generate() {
            Ok(made) => {
                self.key = Some(made.key_der);
                Some(RenewRequest { csr_der: made.csr_der })
            }
            Err(error) => {
                tracing::error!(%error, "no new certificate can be asked for");
                None
            }
        }
    }

    /// The identity with the certificate that came; `None` if it was not asked for. One that is not valid now, by this host's clock, does
    /// not replace one that is: it was made by a control plane with a wrong clock, which would lock this agent out once it is set right.
    pub(super) fn receive(
        &mut self,
        identity: &Identity,
        renewed: &Renewed,
    ) -> Option<Result<Identity, identity::Error>> {
        let key = self.key.take()?;
        let renewed = identity.renewed(&renewed.chain_der, &renewed.roots_der, key);
        let now = SystemTime::now();
        let renewed = renewed.and_then(|renewed| match is_valid(identity, now) && !is_valid(&renewed, now) {
            true => Err(identity::Error::Certificate(
                "it has ended, or has not begun, by this host's clock; is that of the control plane right?"
                    .to_owned(),
            )),
            false => Ok(renewed),
        });
        // One that is refused is asked for again, after a pause.
        self.is_wanted &= renewed.is_err();
        Some(renewed)
    }
}

fn is_valid(identity: &Identity, now: SystemTime) -> bool {
    let (not_before, not_after) = identity.validity();
    (not_before..not_after).contains(&now)
}
