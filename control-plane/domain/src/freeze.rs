//! Freezes: times in which nothing new comes to an environment, once or again and again.
//!
//! They are given as the clocks of a time zone show them, so that a freeze until Monday at eight ends at eight in summer and in
//! winter. The rules of time zones come with the program; they are looked at when something is decided, never in replay.

use std::sync::LazyLock;

use jiff::ToSpan as _;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use stella_protocol::time::Timestamp;

use crate::name::Name;

/// How many freezes an environment may have: each is looked at when something wants to come there.
pub const FREEZES_MAX: usize = 32;

/// A time in which nothing new comes to an environment. Rollbacks do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Its name, unique in the environment.
    pub name: Name,
    /// Why, for a person.
    pub reason: String,
    /// When it begins, for the first time.
    pub from: DateTime,
    /// When it ends, for the first time.
    pub to: DateTime,
    /// Where: a name of the IANA database, such as `Europe/Berlin`.
    pub time_zone: String,
    /// Whether it comes again.
    #[serde(default)]
    pub repeats: Repeats,
}

/// Whether a freeze comes again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeats {
    /// It does not.
    #[default]
    Never,
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
    /// Every year.
    Yearly,
}

impl Repeats {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Never, Self::Daily, Self::Weekly, Self::Yearly];

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Yearly => "yearly",
        }
    }
}

/// Why a freeze makes no sense, and in which field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// The time zone is not known.
    #[error("there is no time zone {0:?}; take a name of the IANA database, such as Europe/Berlin")]
    TimeZone(String),
    /// It ends before it begins, or is longer than what it repeats after.
    #[error("must come after the beginning, and at most {at_most_days} days later")]
    Length {
        /// How long it may be.
        at_most_days: i32,
    },
}

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

impl Freeze {
    /// That it has an end after its beginning, in a time zone that is known, and does not meet itself.
    ///
    /// # Errors
    /// If not.
    pub fn check(&self) -> Result<(), Nonsense> {
        self.zone()?;
        let at_most_days = match self.repeats {
            Repeats::Never | Repeats::Yearly => 365,
            Repeats::Daily => 1,
            Repeats::Weekly => 7,
        };
        let latest = self.from.saturating_add(at_most_days.days());
        if self.from < self.to && self.to <= latest { Ok(()) } else { Err(Nonsense::Length { at_most_days }) }
    }

    /// Until when it lasts, if it does at `now`.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        let zone = self.zone().ok()?;
        let now = jiff::Timestamp::from_millisecond(i64::try_from(now.0).ok()?).ok()?;
        let today = zone.to_datetime(now);
        let passed = match self.repeats {
            Repeats::Never => 0,
            Repeats::Daily => days_since(self.from, today),
            Repeats::Weekly => days_since(self.from, today).div_euclid(7),
            Repeats::Yearly => i64::from(today.year()) - i64::from(self.from.year()),
        };
        // It may have begun today or this week, or the one before.
        let times = [passed, passed - 1].into_iter().filter(|times| *times >= 0);
        let ends = times.filter_map(|times| {
            let at = |first: DateTime| zone.to_timestamp(self.moved(first, times)?).ok();
            let (from, to) = (at(self.from)?, at(self.to)?);
            (from <= now && now < to).then_some(to)
        });
        ends.max().and_then(|end| u64::try_from(end.as_millisecond()).ok()).map(Timestamp)
    }

    /// When it was over for good, if it is at `now`: one that comes again never is.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.zone().ok()?.to_timestamp(self.to).ok()?;
        let is_over = self.repeats == Repeats::Never && i128::from(end.as_millisecond()) <= i128::from(now.0);
        is_over.then(|| Timestamp(u64::try_from(end.as_millisecond()).unwrap_or(0)))
    }

    fn moved(&self, first: DateTime, times: i64) -> Option<DateTime> {
        let span = match self.repeats {
            Repeats::Never => return Some(first),
            Repeats::Daily => times.days(),
            Repeats::Weekly => times.weeks(),
            Repeats::Yearly => times.years(),
        };
        first.checked_add(span).ok()
    }

    /// A time as the clocks there show it.
    #[must_use]
    pub fn shown(&self, at: Timestamp) -> String {
        let at = i64::try_from(at.0).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        let (Some(at), Ok(zone)) = (at, self.zone()) else { return String::new() };
        at.to_zoned(zone).strftime("%Y-%m-%d %H:%M %Z").to_string()
    }

    fn zone(&self) -> Result<TimeZone, Nonsense> {
        ZONES.get(&self.time_zone).map_err(|_| Nonsense::TimeZone(self.time_zone.chars().take(64).collect()))
    }
}

fn days_since(first: DateTime, today: DateTime) -> i64 {
    let days = first.date().until(today.date()).map(|span| i64::from(span.get_days()));
    days.unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn at(text: &str) -> Timestamp {
        let at: jiff::Timestamp = text.parse().unwrap();
        Timestamp(u64::try_from(at.as_millisecond()).unwrap())
    }

    fn freeze(from: &str, to: &str, repeats: Repeats) -> Freeze {
        Freeze {
            name: Name::from_str("weekend").unwrap(),
            reason: "nobody is there".to_owned(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            time_zone: "Europe/Berlin".to_owned(),
            repeats,
        }
    }

    #[test]
    fn a_freeze_begins_and_ends_by_the_clocks_of_its_place() {
        let once = freeze("2026-12-18T18:00", "2026-12-21T08:00", Repeats::Never);
        once.check().unwrap();
        let end = Some(at("2026-12-21T07:00:00Z"));
        for (now, until) in [
            ("2026-12-18T16:59:59.999Z", None),
            ("2026-12-18T17:00:00Z", end),
            ("2026-12-21T06:59:59.999Z", end),
            ("2026-12-21T07:00:00Z", None),
            ("2027-12-19T00:00:00Z", None),
        ] {
            assert_eq!(once.until(at(now)), until, "{now}");
        }
        assert_eq!(once.shown(at("2026-12-21T07:00:00Z")), "2026-12-21 08:00 CET");
        assert_eq!(once.ended(at("2026-12-21T06:59:59.999Z")), None);
        assert_eq!(once.ended(at("2026-12-21T07:00:00Z")), end);
        let again = Freeze { repeats: Repeats::Yearly, ..once };
        assert_eq!(again.ended(at("2030-01-01T00:00:00Z")), None);
        let before_1970 = freeze("1969-12-18T18:00", "1969-12-21T08:00", Repeats::Never);
        assert_eq!(before_1970.ended(Timestamp(0)), Some(Timestamp(0)));
    }

    #[test]
    fn it_comes_again_also_over_the_change_of_clocks() {
        let weekly = freeze("2026-10-16T18:00", "2026-10-19T08:00", Repeats::Weekly);
        for (now, until) in [
            ("2026-10-09T20:00:00Z", None),
            ("2026-10-17T00:00:00Z", Some("2026-10-19T06:00:00Z")),
            // Winter begins on the 25th.
            ("2026-10-24T00:00:00Z", Some("2026-10-26T07:00:00Z")),
            ("2026-10-26T06:59:59Z", Some("2026-10-26T07:00:00Z")),
            ("2026-10-26T07:00:00Z", None),
            ("2030-03-31T12:00:00Z", Some("2030-04-01T06:00:00Z")),
        ] {
            assert_eq!(weekly.until(at(now)), until.map(at), "{now}");
        }
        let night = freeze("2026-01-01T22:00", "2026-01-02T06:00", Repeats::Daily);
        for (now, until) in [
            ("2026-07-01T03:00:00Z", Some("2026-07-01T04:00:00Z")),
            ("2026-07-01T12:00:00Z", None),
            ("2026-07-01T20:00:00Z", Some("2026-07-02T04:00:00Z")),
        ] {
            assert_eq!(night.until(at(now)), until.map(at), "{now}");
        }
        let holidays = freeze("2026-12-20T00:00", "2027-01-05T00:00", Repeats::Yearly);
        for (now, until) in [
            ("2026-01-01T12:00:00Z", None),
            ("2027-01-04T12:00:00Z", Some("2027-01-04T23:00:00Z")),
            ("2029-12-24T12:00:00Z", Some("2030-01-04T23:00:00Z")),
            ("2030-01-04T22:00:00Z", Some("2030-01-04T23:00:00Z")),
            ("2030-06-01T00:00:00Z", None),
        ] {
            assert_eq!(holidays.until(at(now)), until.map(at), "{now}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let wrong = |from, to, repeats| freeze(from, to, repeats).check().unwrap_err();
        let length = |at_most_days| Nonsense::Length { at_most_days };
        assert_eq!(wrong("2026-12-18T18:00", "2026-12-18T18:00", Repeats::Never), length(365));
        assert_eq!(wrong("2026-12-18T18:00", "2027-12-19T18:00", Repeats::Never), length(365));
        assert_eq!(wrong("2026-12-18T18:00", "2026-12-25T18:01", Repeats::Weekly), length(7));
        assert_eq!(wrong("2026-12-18T18:00", "2026-12-19T18:01", Repeats::Daily), length(1));
        let nowhere = Freeze {
            time_zone: "Mars/Olympus".to_owned(),
            ..freeze("2026-01-01T00:00", "2026-01-02T00:00", Repeats::Never)
        };
        assert!(matches!(nowhere.check(), Err(Nonsense::TimeZone(_))));
        assert_eq!(nowhere.until(Timestamp(0)), None);
        let never_over = freeze("2026-01-05T00:00", "2026-01-12T00:00", Repeats::Weekly);
        never_over.check().unwrap();
        assert!(never_over.until(at("2026-02-04T12:00:00Z")).is_some());
        let far = freeze("2026-01-01T00:00", "2026-01-02T00:00", Repeats::Yearly);
        assert_eq!(far.until(Timestamp(u64::MAX)), None, "a clock that is wrong breaks nothing");
    }
}
