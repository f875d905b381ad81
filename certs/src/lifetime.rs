//! When a certificate is due for renewal.

use std::time::{Duration, SystemTime};

/// The moment when two thirds of a certificate's life are over. A third is left to retry in, so that an outage of the
/// control plane has to be long before it costs an agent its identity.
#[must_use]
pub fn renew_at(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or(Duration::ZERO);
    // The division comes first: it cannot overflow, and `not_before + life` is representable by construction.
    not_before + life / 3 * 2
}

/// Whether the certificate is to be renewed now; stays true after it has expired.
#[must_use]
pub fn renewal_due(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    now >= renew_at(not_before, not_after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_due_from_two_thirds_of_life_on() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let end = start + Duration::from_secs(300);
        assert_eq!(renew_at(start, end), start + Duration::from_secs(200));
        assert!(!renewal_due(start, end, start));
        assert!(!renewal_due(start, end, start + Duration::from_secs(199)));
        assert!(renewal_due(start, end, start + Duration::from_secs(200)));
        assert!(renewal_due(start, end, end + Duration::from_secs(1)));
    }

    #[test]
    fn a_certificate_that_ends_before_it_begins_is_due_at_once() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert!(renewal_due(start, SystemTime::UNIX_EPOCH, start));
    }
}
