//! What a measurement says, for people and for programs.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Which subcommand measured it.
    pub phase: &'static str,
    /// What was measured, with its circumstances.
    pub what: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// The raw limit of the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<Raw>,
    /// What it should be, and whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

/// A raw limit.
#[derive(Clone, Debug, Serialize)]
pub struct Raw {
    /// What was measured.
    pub what: String,
    /// The number, in the figure's unit.
    pub value: f64,
    /// The figure divided by it.
    pub ratio: f64,
}

/// What a figure should be.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// In words.
    pub what: String,
    /// Whether this figure is.
    pub met: bool,
}

/// A goal for a figure itself, or for its ratio to the raw limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The figure is this or less.
    Ceiling(f64),
    /// The figure is this or more.
    Floor(f64),
    /// The ratio is this or less.
    RatioCeiling(f64),
    /// The ratio is this or more.
    RatioFloor(f64),
}

impl Bound {
    /// A ratio that is not known meets no goal.
    fn judge(self, figure: &Figure) -> Goal {
        let ratio = figure.raw.as_ref().map_or(f64::NAN, |raw| raw.ratio);
        let (what, met) = match self {
            Self::Ceiling(most) => (format!("<= {most} {}", figure.unit), figure.value <= most),
            Self::Floor(least) => (format!(">= {least} {}", figure.unit), figure.value >= least),
            Self::RatioCeiling(most) => (format!("ratio <= {most}"), ratio <= most),
            Self::RatioFloor(least) => (format!("ratio >= {least}"), ratio >= least),
        };
        Goal { what, met }
    }
}

impl Figure {
    /// A number that stands for itself.
    pub fn new(phase: &'static str, what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { phase, what: what.into(), value, unit, raw: None, goal: None }
    }

    /// The same with a raw limit beside it.
    #[must_use]
    pub fn beside(mut self, what: impl Into<String>, value: f64) -> Self {
        let ratio = if value == 0.0 { f64::NAN } else { self.value / value };
        self.raw = Some(Raw { what: what.into(), value, ratio });
        self
    }

    /// The same with what it should be. A raw limit comes first.
    #[must_use]
    pub fn goal(mut self, bound: Bound) -> Self {
        self.goal = Some(bound.judge(&self));
        self
    }

    /// What was measured, and by which subcommand.
    fn name(&self) -> String {
        format!("{}: {}", self.phase, self.what)
    }
}

const COLUMNS: [&str; 6] = ["WHAT", "VALUE", "RAW LIMIT", "RATIO", "GOAL", ""];

/// The figures as a table, and under it how many of the goals are met and which are not.
#[must_use]
pub fn table(figures: &[Figure]) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(figures.iter().map(row));
    let mut widths = [0; COLUMNS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        // Writing to a string does not fail.
        writeln!(out, "{}", line.trim_end()).ok();
    }
    out + &summary(figures)
}

fn row(figure: &Figure) -> [String; COLUMNS.len()] {
    let raw = figure.raw.as_ref();
    let goal = figure.goal.as_ref();
    [
        figure.name(),
        format!("{} {}", number(figure.value), figure.unit),
        raw.map(|raw| format!("{} {} ({})", number(raw.value), figure.unit, raw.what)).unwrap_or_default(),
        raw.map(|raw| format!("{:.2}", raw.ratio)).unwrap_or_default(),
        goal.map(|goal| goal.what.clone()).unwrap_or_default(),
        goal.map_or("", |goal| if goal.met { "pass" } else { "FAIL" }).to_owned(),
    ]
}

fn summary(figures: &[Figure]) -> String {
    let goals: Vec<_> = figures.iter().filter_map(|figure| Some((figure, figure.goal.as_ref()?))).collect();
    let met = goals.iter().filter(|(_, goal)| goal.met).count();
    let mut out = String::new();
    if !goals.is_empty() {
        // As above.
        writeln!(out, "\n{met} of {} goals are met", goals.len()).ok();
    }
    for (figure, goal) in goals.iter().filter(|(_, goal)| !goal.met) {
        writeln!(out, "not met: {} (goal: {})", figure.name(), goal.what).ok();
    }
    out
}

/// As many digits as a person needs.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Latencies, in microseconds up to a minute.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    /// One more.
    pub fn record(&mut self, latency: std::time::Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// A percentile, in milliseconds.
    #[must_use]
    pub fn milliseconds(&self, percentile: f64) -> f64 {
        as_f64(self.0.value_at_percentile(percentile)) / 1_000.0
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

/// Figures are far below 2^52: nothing is lost.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "figures are far below 2^52")]
pub const fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_table_shows_the_ratio_and_a_json_line_has_it() {
        let figure = Figure::new("tasks", "life cycles", 5_000.0, "a second").beside("fdatasync", 1_000.0);
        let text =
            table(&[figure.clone().goal(Bound::Floor(5_000.0)), Figure::new("idle", "memory", 1.5, "MiB")]);
        assert!(
            text.contains(
                "tasks: life cycles  5000 a second  1000 a second (fdatasync)  5.00   >= 5000 a second  pass"
            ),
            "{text}"
        );
        assert!(text.contains("1.50 MiB"), "{text}");
        assert!(text.contains("1 of 1 goals are met"), "{text}");
        assert_eq!(serde_json::to_value(figure).unwrap()["raw"]["ratio"], 5.0);
    }

    #[test]
    fn a_goal_is_met_or_named() {
        let figure = Figure::new("idle", "memory", 54.0, "KiB").beside("bare", 40.0);
        let met = |bound| figure.clone().goal(bound).goal.unwrap().met;
        assert!(met(Bound::Ceiling(54.0)) && !met(Bound::Ceiling(48.0)));
        assert!(met(Bound::Floor(54.0)) && !met(Bound::Floor(55.0)));
        assert!(met(Bound::RatioCeiling(1.5)) && !met(Bound::RatioCeiling(1.2)));
        assert!(met(Bound::RatioFloor(1.2)) && !met(Bound::RatioFloor(1.5)));
        let text = table(&[figure.goal(Bound::Ceiling(48.0))]);
        assert!(text.contains("<= 48 KiB  FAIL"), "{text}");
        assert!(text.contains("0 of 1 goals are met\nnot met: idle: memory (goal: <= 48 KiB)"), "{text}");
        let alone = Figure::new("idle", "memory", 1.0, "KiB");
        assert!(!alone.goal(Bound::RatioCeiling(1.5)).goal.unwrap().met, "there is no ratio");
    }

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut latencies = Latencies::default();
        for milliseconds in 1..=100 {
            latencies.record(Duration::from_millis(milliseconds));
        }
        assert!((latencies.milliseconds(50.0) - 50.0).abs() < 0.5);
        assert_eq!(latencies.count(), 100);
    }
}
