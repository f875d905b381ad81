//! Families of series that are written as they are kept, in the format that was asked for. The recorder of `metrics` has to be told of
//! each thing when it happens, and forgets all of it with the process.
//!
//! A large fleet has hundreds of thousands of these series, so a line is put together from parts that are written once: the labels of a
//! series, and the bounds of a family.

use std::fmt::{Display, Write as _};

use crate::exemplars::{Exemplars, Histogram, Snapshot};
use crate::exposition::Exposition;

/// Families that are being written, one after the other.
#[derive(Debug)]
pub struct Families {
    format: Exposition,
    exemplars: Snapshot,
    text: String,
    name: &'static str,
    /// What is said before the first series of the family: a family without one is left out.
    head: Option<String>,
    /// The bounds of a family of histograms, and how each is written as a label: the last is `+Inf`.
    bounds: Vec<(f64, String)>,
    /// The labels of the series that is being written.
    labels: String,
}

impl Families {
    /// None yet, to be written in this format. The exemplars are those of now, and only OpenMetrics has them.
    #[must_use]
    pub fn new(format: Exposition, exemplars: &Exemplars) -> Self {
        let exemplars = match format {
            Exposition::Text => Snapshot::default(),
            Exposition::OpenMetrics => exemplars.snapshot(),
        };
        let (text, labels) = (String::new(), String::new());
        Self { format, exemplars, text, name: "", head: None, bounds: Vec::new(), labels }
    }

    /// The series that follow are counters of this family. Each family is begun once.
    pub fn counters(&mut self, name: &'static str, help: &str) {
        self.begin(name, "counter", help);
    }

    /// The series that follow are histograms of this family. Each family is begun once.
    pub fn histograms(&mut self, family: &Histogram, help: &str) {
        self.begin(family.name, "histogram", help);
        let bounds = family.bounds.iter().copied().chain([f64::INFINITY]);
        self.bounds = bounds.map(|bound| (bound, self.format.bound(bound))).collect();
    }

    /// A counter of the family.
    pub fn counter(&mut self, labels: &[(&'static str, &str)], count: u64) {
        self.label(labels);
        self.line("", count);
    }

    /// A histogram of the family: how many were not above each of its bounds, how many there were, and how many seconds all of them
    /// took.
    pub fn histogram(
        &mut self,
        labels: &[(&'static str, &str)],
        up_to: impl IntoIterator<Item = u64>,
        count: u64,
        sum: f64,
    ) {
        self.label(labels);
        self.say_head();
        let Self { exemplars, text, name, bounds, labels, .. } = self;
        let comma = if labels.is_empty() { "" } else { "," };
        let examples = exemplars.of(name, labels);
        for ((bound, written), up_to) in bounds.iter().zip(up_to.into_iter().chain([count])) {
            // Writing to a text does not fail.
            let _ = write!(text, "{name}_bucket{{{labels}{comma}le=\"{written}\"}} {up_to}");
            if let Some((_, example)) = examples.iter().find(|(of, _)| of == bound) {
                example.write(text);
            }
            text.push('\n');
        }
        self.line("_sum", sum);
        self.line("_count", count);
    }

    /// All of them.
    #[must_use]
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    fn begin(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let mut head = String::new();
        self.format.head(&mut head, name, kind, Some(help));
        self.head = Some(head);
    }

    fn label(&mut self, labels: &[(&'static str, &str)]) {
        self.labels.clear();
        for (key, value) in labels {
            if !self.labels.is_empty() {
                self.labels.push(',');
            }
            self.labels.push_str(&label(key, value));
        }
    }

    fn say_head(&mut self) {
        if let Some(head) = self.head.take() {
            self.text.push_str(&head);
        }
    }

    fn line(&mut self, suffix: &str, value: impl Display) {
        self.say_head();
        let Self { text, name, labels, .. } = self;
        // As above.
        let _ = match labels.is_empty() {
            true => writeln!(text, "{name}{suffix} {value}"),
            false => writeln!(text, "{name}{suffix}{{{labels}}} {value}"),
        };
    }
}

/// One label, as it is in a series.
pub(crate) fn label(key: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{key}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exemplars::Exemplar;

    const TOOK: Histogram = Histogram { name: "took_seconds", bounds: &[0.01, 1.0] };

    fn written(format: Exposition, exemplars: &Exemplars) -> String {
        let mut families = Families::new(format, exemplars);
        families.counters("ends_total", "What \"has\" ended");
        families.counter(&[("of", "a \"b\"\\\n")], 3);
        families.counters("nothing_total", "Nothing");
        families.histograms(&TOOK, "How long");
        families.histogram(&[("env", "dev")], [1, 2], 3, 7.25);
        families.histogram(&[], [0, 0], 0, 0.0);
        families.into_text()
    }

    #[test]
    fn a_family_is_as_the_text_format_has_it_and_is_left_out_without_a_series() {
        assert_eq!(
            written(Exposition::Text, &Exemplars::default()),
            concat!(
                "# HELP ends_total What \"has\" ended\n# TYPE ends_total counter\n",
                "ends_total{of=\"a \\\"b\\\"\\\\\\n\"} 3\n",
                "# HELP took_seconds How long\n# TYPE took_seconds histogram\n",
                "took_seconds_bucket{env=\"dev\",le=\"0.01\"} 1\n",
                "took_seconds_bucket{env=\"dev\",le=\"1\"} 2\n",
                "took_seconds_bucket{env=\"dev\",le=\"+Inf\"} 3\n",
                "took_seconds_sum{env=\"dev\"} 7.25\n",
                "took_seconds_count{env=\"dev\"} 3\n",
                "took_seconds_bucket{le=\"0.01\"} 0\n",
                "took_seconds_bucket{le=\"1\"} 0\n",
                "took_seconds_bucket{le=\"+Inf\"} 0\n",
                "took_seconds_sum 0\n",
                "took_seconds_count 0\n",
            )
        );
    }

    #[test]
    fn what_is_written_in_open_metrics_is_what_the_text_is_turned_into() {
        let exemplars = Exemplars::default();
        let example = Exemplar { trace_id: 0xabc, span_id: 0x12, value: 0.5, at_ms: 1_700_000_000_042 };
        exemplars.record(&TOOK, &[("env", "dev".to_owned())], example);
        exemplars.record(&TOOK, &[("env", "dev".to_owned())], Exemplar { value: 9.0, ..example });
        let text = written(Exposition::Text, &exemplars);
        let direct = written(Exposition::OpenMetrics, &exemplars) + "# EOF\n";
        assert_eq!(direct, Exposition::OpenMetrics.of(text, &exemplars));
        assert_eq!(direct.matches(" # {trace_id=").count(), 2, "{direct}");
    }
}
