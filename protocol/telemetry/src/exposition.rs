//! How figures are written for who scrapes them: Prometheus' text format, which everybody reads, or OpenMetrics, which has exemplars.
//!
//! The exporter of `metrics` writes the former only. OpenMetrics is made of it, line by line, by the rules of
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>, version 1.0.

use crate::exemplars::{Exemplar, Exemplars};
use crate::families::Families;

/// What units of OpenMetrics the names of figures end with here.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// A format of figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus' text format, version 0.0.4.
    #[default]
    Text,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Exposition {
    /// What somebody gets who accepts this: the values of all headers `Accept`. OpenMetrics has to be asked for by its name, and not
    /// be wanted less than the text format.
    pub fn accepted<'h>(values: impl IntoIterator<Item = &'h [u8]>) -> Self {
        let (mut open_metrics, mut text) = (0.0, (0, 0.0));
        let values = values.into_iter().filter_map(|value| str::from_utf8(value).ok());
        for range in values.flat_map(|value| value.split(',')) {
            let Some(Range { media_type, is_other_version, weight }) = Range::parse(range) else { continue };
            match media_type.as_str() {
                "application/openmetrics-text" if !is_other_version => {
                    open_metrics = weight.max(open_metrics)
                }
                // The most precise of them counts.
                "text/plain" if text.0 < 3 => text = (3, weight),
                "text/plain" => text.1 = weight.max(text.1),
                "text/*" if text.0 < 2 => text = (2, weight),
                "*/*" if text.0 < 1 => text = (1, weight),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= text.1 { Self::OpenMetrics } else { Self::Text }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// From what the exporter wrote. Each family is in there once.
    #[must_use]
    pub fn of(self, text: String, exemplars: &Exemplars) -> String {
        match self {
            Self::Text => text,
            Self::OpenMetrics => {
                let mut page = String::new();
                open_metrics(&text, exemplars, &mut page);
                page.push_str(END);
                page
            }
        }
    }

    /// A page of what the exporter wrote and of families that are in this format already. No family is in both.
    #[must_use]
    pub fn page(self, exported: &str, families: Families, exemplars: &Exemplars) -> String {
        // The families are the large part: they are not copied.
        let mut page = families.into_text();
        match self {
            Self::Text => page.push_str(exported),
            Self::OpenMetrics => {
                open_metrics(exported, exemplars, &mut page);
                page.push_str(END);
            }
        }
        page
    }

    /// Writes what comes before the series of a family.
    ///
    /// In OpenMetrics a family of counters is called without the `_total` of its series. Counters without that are none for OpenMetrics, and
    /// keep their name.
    pub(crate) fn head(self, page: &mut String, name: &str, kind: &str, help: Option<&str>) {
        let mut line = |parts: [&str; 4]| {
            page.extend(parts);
            page.push('\n');
        };
        if self == Self::Text {
            if let Some(help) = help {
                line(["# HELP ", name, " ", help]);
            }
            return line(["# TYPE ", name, " ", kind]);
        }
        let (family, kind) = match (name.strip_suffix("_total"), kind) {
            (Some(family), "counter") => (family, kind),
            (None, "counter") => (name, "unknown"),
            _ => (name, kind),
        };
        line(["# TYPE ", family, " ", kind]);
        let is_unit = |unit: &&&str| family.strip_suffix(**unit).is_some_and(|rest| rest.ends_with('_'));
        if let Some(unit) = UNITS.iter().find(is_unit) {
            line(["# UNIT ", family, " ", unit]);
        }
        if let Some(help) = help {
            // Unlike in the text format quotes are escaped there.
            line(["# HELP ", family, " ", &help.replace('"', "\\\"")]);
        }
    }

    /// The bound of a bucket, as the value of its label.
    pub(crate) fn bound(self, bound: f64) -> String {
        match self {
            _ if bound.is_infinite() => "+Inf".to_owned(),
            Self::Text => bound.to_string(),
            // One text for one number: whole bounds are written as floats.
            Self::OpenMetrics => format!("{bound:?}"),
        }
    }
}

/// How a page of OpenMetrics ends.
const END: &str = "# EOF\n";

/// A part of `Accept`.
struct Range {
    media_type: String,
    /// Whether it has a version of OpenMetrics that is not written here.
    is_other_version: bool,
    weight: f32,
}

impl Range {
    fn parse(range: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next()?.to_ascii_lowercase();
        let mut parsed = Self { media_type, is_other_version: false, weight: 1.0 };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => parsed.weight = value.parse().ok().filter(|it| (0.0..=1.0).contains(it))?,
                "version" => parsed.is_other_version = value != "1.0.0",
                _ => {}
            }
        }
        Some(parsed)
    }
}

fn open_metrics(text: &str, exemplars: &Exemplars, written: &mut String) {
    written.reserve(text.len() + text.len() / 8);
    let mut page = Page { written, help: None };
    let mut series = Series { exemplars, start: "", found: Vec::new() };
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            page.help = help.split_once(' ');
        } else if let Some(family) = line.strip_prefix("# TYPE ") {
            if let Some((name, kind)) = family.split_once(' ') {
                page.family(name, kind);
            }
        } else if let Some((start, bound, rest)) = bucket(line) {
            page.bucket(start, bound, rest, series.example(start, bound));
        } else if !line.is_empty() {
            page.line(line);
        }
    }
}

/// The start of a bucket's line, up to the bound, the bound, and what comes after it. The bound is the last label.
fn bucket(line: &str) -> Option<(&str, &str, &str)> {
    let (name, _) = line.split_once('{')?;
    if !name.ends_with("_bucket") {
        return None;
    }
    let at = line.rfind("le=\"")? + "le=\"".len();
    let end = at + line[at..].find('"')?;
    Some((&line[..at], &line[at..end], &line[end..]))
}

/// The exemplars of the series whose buckets are being written.
struct Series<'t> {
    exemplars: &'t Exemplars,
    start: &'t str,
    found: Vec<(f64, Exemplar)>,
}

impl<'t> Series<'t> {
    fn example(&mut self, start: &'t str, bound: &str) -> Option<Exemplar> {
        if self.start != start {
            self.start = start;
            self.found = self.exemplars.of(start);
        }
        if self.found.is_empty() {
            return None;
        }
        // `+Inf` is read as what it is.
        let bound: f64 = bound.parse().ok()?;
        self.found.iter().find(|(it, _)| *it == bound).map(|(_, exemplar)| *exemplar)
    }
}

struct Page<'t> {
    written: &'t mut String,
    /// What was said of the family that comes next.
    help: Option<(&'t str, &'t str)>,
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.written.push_str(line);
        self.written.push('\n');
    }

    fn family(&mut self, name: &str, kind: &str) {
        let help = self.help.take().filter(|(of, _)| *of == name).map(|(_, help)| help);
        Exposition::OpenMetrics.head(self.written, name, kind, help);
    }

    fn bucket(&mut self, start: &str, bound: &str, rest: &str, exemplar: Option<Exemplar>) {
        self.written.push_str(start);
        self.written.push_str(bound);
        // One text for one number: whole bounds are written as floats.
        if bound.bytes().all(|it| it.is_ascii_digit()) {
            self.written.push_str(".0");
        }
        self.written.push_str(rest);
        if let Some(exemplar) = exemplar {
            exemplar.write(self.written);
        }
        self.written.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exemplars::Histogram;

    fn accepted(header: &str) -> Exposition {
        Exposition::accepted([header.as_bytes()])
    }

    #[test]
    fn open_metrics_is_for_who_asks_for_it_by_name_and_does_not_want_it_less() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let newer = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for header in [
            prometheus,
            newer,
            "application/openmetrics-text",
            "APPLICATION/OpenMetrics-Text ; Version=\"1.0.0\"",
            "text/plain;q=0.5, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0.2, text/plain;q=0.1, */*;q=0.9",
        ] {
            assert_eq!(accepted(header), Exposition::OpenMetrics, "{header}");
        }
        for header in [
            "",
            "*/*",
            "application/*",
            "text/html, */*;q=0.8",
            "text/plain, application/openmetrics-text;q=0.9",
            "text/*, application/openmetrics-text;q=0.9",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=2",
            "application/openmetrics-text;q=nan",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=2.0.0",
        ] {
            assert_eq!(accepted(header), Exposition::Text, "{header}");
        }
        let split = ["text/plain;q=0.5".as_bytes(), b"\xff", b"application/openmetrics-text"];
        assert_eq!(Exposition::accepted(split), Exposition::OpenMetrics);
        assert_eq!(Exposition::accepted([]), Exposition::Text);
    }

    const TOOK: Histogram = Histogram { name: "took_seconds", bounds: &[0.5, 60.0] };

    #[test]
    fn families_are_called_as_open_metrics_wants_it_and_buckets_have_their_exemplars() {
        let exemplars = Exemplars::default();
        let example = Exemplar { trace_id: 0xabc, span_id: 0x12, value: 7.25, at_ms: 1_700_000_000_042 };
        exemplars.record(&TOOK, &[("path", "/a/{b}".into())], example);
        let beyond = Exemplar { span_id: 0, value: 61.0, ..example };
        exemplars.record(&TOOK, &[("path", "/a/{b}".into())], beyond);
        let text = "\
# HELP done_total What is \"done\"
# TYPE done_total counter
done_total{a=\"x\"} 3

# TYPE sent_bytes counter
sent_bytes 5

# HELP other Of something else
# TYPE targets_total gauge
targets_total 2

# HELP took_seconds How long
# TYPE took_seconds histogram
took_seconds_bucket{path=\"/a/{b}\",le=\"0.5\"} 0
took_seconds_bucket{path=\"/a/{b}\",le=\"60\"} 1
took_seconds_bucket{path=\"/a/{b}\",le=\"+Inf\"} 2
took_seconds_sum{path=\"/a/{b}\"} 68.25
took_seconds_count{path=\"/a/{b}\"} 2
took_seconds_bucket{path=\"/c\",le=\"60\"} 1

";
        assert_eq!(Exposition::Text.of(text.to_owned(), &exemplars), text);
        let trace = "00000000000000000000000000000abc";
        let wanted = format!(
            "\
# TYPE done counter
# HELP done What is \\\"done\\\"
done_total{{a=\"x\"}} 3
# TYPE sent_bytes unknown
# UNIT sent_bytes bytes
sent_bytes 5
# TYPE targets_total gauge
targets_total 2
# TYPE took_seconds histogram
# UNIT took_seconds seconds
# HELP took_seconds How long
took_seconds_bucket{{path=\"/a/{{b}}\",le=\"0.5\"}} 0
took_seconds_bucket{{path=\"/a/{{b}}\",le=\"60.0\"}} 1 # {{trace_id=\"{trace}\",span_id=\"0000000000000012\"}} 7.25 1700000000.042
took_seconds_bucket{{path=\"/a/{{b}}\",le=\"+Inf\"}} 2 # {{trace_id=\"{trace}\"}} 61 1700000000.042
took_seconds_sum{{path=\"/a/{{b}}\"}} 68.25
took_seconds_count{{path=\"/a/{{b}}\"}} 2
took_seconds_bucket{{path=\"/c\",le=\"60.0\"}} 1
# EOF
"
        );
        assert_eq!(Exposition::OpenMetrics.of(text.to_owned(), &exemplars), wanted);
        assert_eq!(Exposition::OpenMetrics.of(String::new(), &exemplars), "# EOF\n");
    }

    proptest! {
        /// Whatever names people give to things, as many series come out as went in, and an exemplar finds its own.
        #[test]
        fn no_label_breaks_a_line(value in ".{0,40}", accept in ".{0,60}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let start = format!("took_seconds_bucket{{path=\"{escaped}\",le=\"");
            let exemplars = Exemplars::default();
            let example = Exemplar { trace_id: 1, span_id: 2, value: 1.0, at_ms: 3 };
            exemplars.record(&TOOK, &[("path", value)], example);
            let text = format!("# TYPE took_seconds histogram\n{start}60\"}} 1\n{start}+Inf\"}} 1\n");
            // Other ends of lines than `\n` are in labels as they are.
            let page = Exposition::OpenMetrics.of(text, &exemplars);
            prop_assert_eq!(page.matches(" # {trace_id=").count(), 1, "{}", page);
            let expected = format!("{start}60.0\"}} 1 # {{trace_id=");
            prop_assert!(page.contains(&expected), "{}", page);
            let _ = Exposition::accepted([accept.as_bytes()]);
        }
    }
}
