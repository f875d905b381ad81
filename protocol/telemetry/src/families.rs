//! Families of series in Prometheus' text format, for figures that are kept as they are shown. The recorder of `metrics` has to be told of
//! each thing when it happens, and forgets all of it with the process.

use std::fmt::{Display, Write as _};

/// What the series of a family are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What only grows.
    Counter,
    /// What is counted by size.
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// Families that are being written, one after the other.
#[derive(Debug, Default)]
pub struct Families {
    text: String,
    name: &'static str,
    /// What is said before the first series of the family: a family without one is not there.
    head: Option<String>,
}

impl Families {
    /// The series that follow are of this family. Each family is begun once.
    pub fn begin(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.name = name;
        self.head = Some(format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()));
    }

    /// A counter of the family.
    pub fn counter(&mut self, labels: &[(&'static str, &str)], count: u64) {
        self.line("", &labels_of(labels), count);
    }

    /// A histogram of the family: its bounds in seconds, each with how many were not above it, how many there were, and how many
    /// seconds all of them took.
    pub fn histogram(
        &mut self,
        labels: &[(&'static str, &str)],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let labels = labels_of(labels);
        let comma = if labels.is_empty() { "" } else { "," };
        for (bound, up_to) in buckets {
            self.line("_bucket", &format!("{labels}{comma}le=\"{bound}\""), up_to);
        }
        self.line("_bucket", &format!("{labels}{comma}le=\"+Inf\""), count);
        self.line("_sum", &labels, sum);
        self.line("_count", &labels, count);
    }

    /// All of them.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn line(&mut self, suffix: &str, labels: &str, value: impl Display) {
        if let Some(head) = self.head.take() {
            self.text.push_str(&head);
        }
        let name = self.name;
        // Writing to a text does not fail.
        let _ = match labels.is_empty() {
            true => writeln!(self.text, "{name}{suffix} {value}"),
            false => writeln!(self.text, "{name}{suffix}{{{labels}}} {value}"),
        };
    }
}

/// Labels as they are between the brackets of a series.
fn labels_of(labels: &[(&'static str, &str)]) -> String {
    let mut text = String::new();
    for (key, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&label(key, value));
    }
    text
}

/// One label, as it is in a series.
pub(crate) fn label(key: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{key}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_as_the_text_format_has_it_and_is_not_there_without_a_series() {
        let mut families = Families::default();
        families.begin("ends_total", Kind::Counter, "What has ended");
        families.counter(&[("of", "a \"b\"\\\n")], 3);
        families.begin("nothing_total", Kind::Counter, "Nothing");
        families.begin("took_seconds", Kind::Histogram, "How long");
        families.histogram(&[("env", "dev")], [(0.01, 1), (1.0, 2)], 3, 7.25);
        families.histogram(&[], [(1.0, 0)], 0, 0.0);
        assert_eq!(
            families.into_text(),
            concat!(
                "# HELP ends_total What has ended\n# TYPE ends_total counter\n",
                "ends_total{of=\"a \\\"b\\\"\\\\\\n\"} 3\n",
                "# HELP took_seconds How long\n# TYPE took_seconds histogram\n",
                "took_seconds_bucket{env=\"dev\",le=\"0.01\"} 1\n",
                "took_seconds_bucket{env=\"dev\",le=\"1\"} 2\n",
                "took_seconds_bucket{env=\"dev\",le=\"+Inf\"} 3\n",
                "took_seconds_sum{env=\"dev\"} 7.25\n",
                "took_seconds_count{env=\"dev\"} 3\n",
                "took_seconds_bucket{le=\"1\"} 0\n",
                "took_seconds_bucket{le=\"+Inf\"} 0\n",
                "took_seconds_sum 0\n",
                "took_seconds_count 0\n",
            )
        );
    }
}
