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
    /// Begins later, by this host's clock.
    waiting: Option<Identity>,
}

/// What came of a request.
#[derive(Debug)]
pub(super) enum Received {
    /// The identity to go on with.
    Take(Identity),
    /// One that has not begun, by this host's clock: [`Renewal::ripe`] gives it when it is time.
    Later,
}

impl Renewal {
    /// The control plane wants it now.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
        self.forget_waiting();
        // The answer to a request that is under way would not fit to the key of another.
        if self.key.is_none() {
            self.not_before = None;
        }
    }

    /// Whom to trust has changed since it came.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting = None;
    }

    /// The identity that has waited, once it is valid by this host's clock, or the one before is near its end.
    pub(super) fn ripe(&mut self, identity: &Identity) -> Option<Identity> {
        let now = SystemTime::now();
        self.waiting.take_if(|waiting| waiting.validity().0 <= now || is_late(identity, now))
    }

    /// A request, if one is due now.
    pub(super) fn due(&mut self, identity: &Identity) -> Option<RenewRequest> {
        let (not_before, not_after) = identity.validity();
        let is_pausing = self.not_before.is_some_and(|until| Instant::now() < until);
        let is_due = self.is_wanted || renewal_due(not_before, not_after, SystemTime::now());
        if is_pausing || !is_due || self.waiting.is_some() {
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
    /// not replace one that is: one of the two clocks is wrong. If that is the control plane's, the certificate would lock this agent out
    /// once it is set right. If it is this host's, the control plane takes the certificate, and the old one ends: so one that has yet to
    /// begin waits, but not for ever.
    pub(super) fn receive(
        &mut self,
        identity: &Identity,
        renewed: &Renewed,
    ) -> Option<Result<Received, identity::Error>> {
        let key = self.key.take()?;
        let renewed = identity.renewed(&renewed.chain_der, &renewed.roots_der, key);
        let now = SystemTime::now();
        let received = renewed.and_then(|renewed| {
            let (begins, ends) = renewed.validity();
            let is_needed = !is_valid(identity, now);
            if !is_needed && ends <= now {
                return Err(identity::Error::Certificate(
                    "it has ended by this host's clock; is that of the control plane right?".to_owned(),
                ));
            }
            if is_needed || begins <= now || is_late(identity, now) {
                return Ok(Received::Take(renewed));
            }
            self.waiting = Some(renewed);
            Ok(Received::Later)
        });
        // One that is refused is asked for again, after a pause.
        self.is_wanted &= received.is_err();
        Some(received)
    }
}

/// Whether a certificate is in the last sixth of its life: renewing began as long ago.
fn is_late(identity: &Identity, now: SystemTime) -> bool {
    let (not_before, not_after) = identity.validity();
    let life = not_after.duration_since(not_before).unwrap_or_default();
    now >= not_after - life / 6
}

fn is_valid(identity: &Identity, now: SystemTime) -> bool {
    let (not_before, not_after) = identity.validity();
    (not_before..not_after).contains(&now)
}
