//! A wall clock that does not believe a jump ahead at once.
//!
//! Journal time never goes back. A clock that jumps ahead for a moment, as the one of a virtual machine that was resumed does until
//! its time is set, would fire every deadline of the hours between, and leave timers dead for as long afterwards.

use std::time::Duration;

use stella_protocol::time::Timestamp;

/// How much more than the time that has passed the wall clock may say has passed, in milliseconds.
const TOLERANCE_MS: u64 = 60_000;
/// By how much the wall clock may differ from the time that has passed and still be one that nobody has set, in milliseconds.
const DRIFT_MS: u64 = 1_000;
/// After how long a jump ahead is believed: whatever sets clocks has done so by then.
const BELIEVED_AFTER: Duration = Duration::from_secs(300);

/// Compares what the wall clock says with how much time has passed.
#[derive(Debug)]
pub(crate) struct Steady {
    /// What was told last from the wall clock, and when that was on a clock that never jumps.
    told: Timestamp,
    at: Duration,
    /// Since when the wall clock has been ahead.
    ahead_since: Option<Duration>,
    /// The latest time that was told.
    newest: Timestamp,
    /// The latest time that had been told when the clock was set.
    set_at: Option<Timestamp>,
}

impl Steady {
    /// Believes what the wall clock says at first; `passed` is the clock that never jumps.
    pub(crate) const fn new(wall: Timestamp, passed: Duration) -> Self {
        Self { told: wall, at: passed, ahead_since: None, newest: wall, set_at: None }
    }

    /// Until when times were told that those after are no measure for: the clock was set there.
    pub(crate) const fn set_at(&self) -> Option<Timestamp> {
        self.set_at
    }

    /// The time to go by.
    pub(crate) fn tell(&mut self, wall: Timestamp, passed: Duration) -> Timestamp {
        let told = self.judge(wall, passed);
        self.newest = self.newest.max(told);
        told
    }

    fn judge(&mut self, wall: Timestamp, passed: Duration) -> Timestamp {
        let since = passed.saturating_sub(self.at);
        let expected = self.told.plus_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let ahead = wall.since(expected);
        if wall > expected.plus_ms(TOLERANCE_MS) {
            let Some(ahead_since) = self.ahead_since else {
                self.ahead_since = Some(passed);
                tracing::warn!(
                    ahead_s = ahead.as_secs(),
                    "this machine's clock has jumped ahead; that is believed if it stays so for {} s",
                    BELIEVED_AFTER.as_secs()
                );
                return expected;
            };
            if passed.saturating_sub(ahead_since) < BELIEVED_AFTER {
                return expected;
            }
            tracing::warn!(
                ahead_s = ahead.as_secs(),
                "this machine's clock has stayed ahead and is believed"
            );
        } else if self.ahead_since.is_some() {
            tracing::info!("this machine's clock was set back to what it should be");
        }
        if wall.0.abs_diff(expected.0) > DRIFT_MS {
            self.set_at = Some(self.newest);
        }
        (self.told, self.at, self.ahead_since) = (wall, passed, None);
        wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn at(seconds: u64) -> (Timestamp, Duration) {
        (Timestamp(1_000_000_000 + seconds * 1_000), Duration::from_secs(seconds))
    }

    #[test]
    fn a_clock_that_goes_as_it_should_or_goes_back_is_believed() {
        let (wall, passed) = at(0);
        let mut steady = Steady::new(wall, passed);
        for seconds in [1, 2, 3_600, 90_000] {
            let (wall, passed) = at(seconds);
            assert_eq!(steady.tell(wall, passed), wall);
        }
        let (wall, passed) = (at(89_000).0, at(90_001).1);
        assert_eq!(steady.tell(wall, passed), wall, "whoever needs time that never goes back sees to it");
        let (wall, passed) = (at(89_060).0, at(90_002).1);
        assert_eq!(steady.tell(wall, passed), wall, "a clock may be set by a little");
    }

    #[test]
    fn a_jump_ahead_that_ends_has_never_been() {
        let (wall, passed) = at(0);
        let mut steady = Steady::new(wall, passed);
        for seconds in [10, 100, 250] {
            let (wall, passed) = at(seconds);
            assert_eq!(steady.tell(wall.plus_ms(HOUR_MS), passed), wall);
        }
        let (wall, passed) = at(260);
        assert_eq!(steady.tell(wall, passed), wall);
        // The next one is a jump of its own.
        let (wall, passed) = at(400);
        assert_eq!(steady.tell(wall.plus_ms(HOUR_MS), passed), wall);
    }

    #[test]
    fn who_compares_times_is_told_where_the_clock_was_set() {
        let set = |steps: &[(u64, i64)]| {
            let (wall, passed) = at(0);
            let mut steady = Steady::new(wall, passed);
            for (seconds, off_ms) in steps {
                let (wall, passed) = at(*seconds);
                steady.tell(Timestamp(wall.0.saturating_add_signed(*off_ms)), passed);
            }
            steady.set_at()
        };
        assert_eq!(set(&[(10, 0), (20, 900), (30, 1_000)]), None, "it is brought into line slowly");
        assert_eq!(set(&[(10, 0), (20, 3_600_000), (30, 0)]), None, "it was wrong for a moment");
        let before = Some(at(10).0);
        assert_eq!(set(&[(10, 0), (20, 20_000), (30, 20_000)]), before, "it was set by a little");
        assert_eq!(set(&[(10, 0), (20, -20_000), (30, -20_000)]), before);
        let believed = [(10, 0), (20, 3_600_000), (330, 3_600_000), (340, 3_600_000)];
        assert_eq!(set(&believed), Some(at(20).0), "what was told of the time between, too");
        assert_eq!(set(&[(10, 0), (20, -3_600_000), (3_700, 0)]), before, "the latest counts, not the last");
    }

    #[test]
    fn a_jump_ahead_that_stays_is_believed() {
        let (wall, passed) = at(0);
        let mut steady = Steady::new(wall, passed);
        let (wall, passed) = at(10);
        assert_eq!(steady.tell(wall.plus_ms(HOUR_MS), passed), wall);
        for seconds in [310, 311, 320] {
            let (wall, passed) = at(seconds);
            assert_eq!(steady.tell(wall.plus_ms(HOUR_MS), passed), wall.plus_ms(HOUR_MS));
        }
    }
}
