//! Examples of what a histogram counts: of each bucket of a series the newest, with the span that it is about.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::families::label;

/// Of how many series there are exemplars: those that had one last. Of a fleet that is larger, the others go without.
pub const SERIES_MAX: usize = 4_096;

/// A histogram and its buckets.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    /// What it is called.
    pub name: &'static str,
    /// The upper bounds of its buckets but for the last, in ascending order.
    pub bounds: &'static [f64],
}

impl Histogram {
    /// The upper bound of the bucket that a value is counted in first.
    fn bucket(&self, value: f64) -> f64 {
        self.bounds.iter().copied().find(|bound| value <= *bound).unwrap_or(f64::INFINITY)
    }
}

/// Something that was measured, and where more is known about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The trace; its spans are with whoever collects them.
    pub trace_id: u128,
    /// The span that took that long; 0 is none.
    pub span_id: u64,
    /// What was measured, in the histogram's unit.
    pub value: f64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Exemplar {
    /// Writes it behind the value of a bucket, as OpenMetrics has it.
    pub(crate) fn write(&self, line: &mut String) {
        let Self { trace_id, span_id, value, at_ms } = self;
        // Writing to a text does not fail.
        let _ = write!(line, " # {{trace_id=\"{trace_id:032x}\"");
        if *span_id != 0 {
            let _ = write!(line, ",span_id=\"{span_id:016x}\"");
        }
        let (seconds, milliseconds) = (at_ms / 1_000, at_ms % 1_000);
        let _ = write!(line, "}} {value} {seconds}.{milliseconds:03}");
    }
}

/// The exemplars of one moment: reading them holds up nobody who records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot(HashMap<String, Vec<(f64, Exemplar)>>);

impl Snapshot {
    /// Those of a series with these labels, as they are written, by the upper bounds of their buckets.
    pub(crate) fn of(&self, name: &str, labels: &str) -> &[(f64, Exemplar)] {
        if self.0.is_empty() {
            return &[];
        }
        let comma = if labels.is_empty() { "" } else { "," };
        let start = format!("{name}_bucket{{{labels}{comma}le=\"");
        self.0.get(&start).map_or(&[], Vec::as_slice)
    }
}

/// The newest exemplars of this process, at most one for each bucket of [`SERIES_MAX`] series.
#[derive(Debug, Default)]
pub struct Exemplars(Mutex<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    series: HashMap<String, Series>,
    /// Grows with each that is recorded.
    count: u64,
}

#[derive(Debug, Default)]
struct Series {
    /// By the upper bounds of their buckets.
    buckets: Vec<(f64, Exemplar)>,
    /// What was the count when the newest came.
    touched: u64,
}

impl Exemplars {
    /// Takes note of what a histogram counted under these labels, which are in the order in which the histogram has them.
    pub fn record(&self, histogram: &Histogram, labels: &[(&'static str, String)], exemplar: Exemplar) {
        let key = buckets_of(histogram.name, labels);
        let bucket = histogram.bucket(exemplar.value);
        let mut recorded = self.recorded();
        recorded.make_room(&key);
        recorded.count += 1;
        let touched = recorded.count;
        let series = recorded.series.entry(key).or_default();
        series.touched = touched;
        match series.buckets.iter_mut().find(|(bound, _)| *bound == bucket) {
            Some((_, newest)) => *newest = exemplar,
            None => series.buckets.push((bucket, exemplar)),
        }
    }

    /// Those of a series, by the upper bounds of their buckets. `start` is how its lines begin, up to the bound.
    pub(crate) fn of(&self, start: &str) -> Vec<(f64, Exemplar)> {
        self.recorded().series.get(start).map(|it| it.buckets.clone()).unwrap_or_default()
    }

    /// All of them, as they are now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let recorded = self.recorded();
        Snapshot(
            recorded.series.iter().map(|(start, series)| (start.clone(), series.buckets.clone())).collect(),
        )
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        // Nothing is left half done in there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorded {
    /// Forgets the older half of the series if there is no place for this one.
    fn make_room(&mut self, key: &str) {
        if self.series.len() < SERIES_MAX || self.series.contains_key(key) {
            return;
        }
        let mut ages: Vec<u64> = self.series.values().map(|it| it.touched).collect();
        let (_, median, _) = ages.select_nth_unstable(SERIES_MAX / 2);
        let median = *median;
        self.series.retain(|_, it| it.touched >= median);
    }
}

/// How the lines of the buckets of a series begin, up to the value of `le`: as they are in the text format.
fn buckets_of(name: &str, labels: &[(&'static str, String)]) -> String {
    let mut start = format!("{name}_bucket{{");
    for (key, value) in labels {
        start.push_str(&label(key, value));
        start.push(',');
    }
    start.push_str("le=\"");
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: Histogram = Histogram { name: "wait_seconds", bounds: &[1.0, 10.0] };

    fn one(value: f64, trace_id: u128) -> Exemplar {
        Exemplar { trace_id, span_id: 7, value, at_ms: 1_500 }
    }

    #[test]
    fn a_bucket_has_its_newest_and_bounds_belong_to_the_bucket_below() {
        let exemplars = Exemplars::default();
        for (value, trace) in [(0.5, 1), (1.0, 2), (1.5, 3), (99.0, 4)] {
            exemplars.record(&WAITS, &[("env", "dev".into())], one(value, trace));
        }
        let found = exemplars.of("wait_seconds_bucket{env=\"dev\",le=\"");
        assert_eq!(found, [(1.0, one(1.0, 2)), (10.0, one(1.5, 3)), (f64::INFINITY, one(99.0, 4))]);
        assert!(exemplars.of("wait_seconds_bucket{env=\"prod\",le=\"").is_empty());
    }

    #[test]
    fn there_are_never_more_series_than_allowed_and_the_newest_are_kept() {
        let exemplars = Exemplars::default();
        let label = |n: usize| [("agent", format!("a{n}"))];
        for n in 0..3 * SERIES_MAX {
            exemplars.record(&WAITS, &label(n), one(0.5, 1));
            exemplars.record(&WAITS, &label(0), one(0.5, 2));
            assert!(exemplars.recorded().series.len() <= SERIES_MAX);
        }
        for n in [0, 3 * SERIES_MAX - 1] {
            assert!(!exemplars.of(&buckets_of(WAITS.name, &label(n))).is_empty(), "{n}");
        }
        assert!(exemplars.of(&buckets_of(WAITS.name, &label(1))).is_empty());
    }
}
