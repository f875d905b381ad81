//! OpenMetrics, read by the letter of its specification: stricter than Prometheus, which takes much of what is not valid.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};

/// What Prometheus 2.42 sends as `Accept`.
pub const PROMETHEUS_ACCEPTS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
/// What an answer in OpenMetrics says that it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What there may be after the name of a family, by its type.
const SUFFIXES: [(&str, &[&str]); 5] = [
    ("counter", &["_total", "_created"]),
    ("gauge", &[""]),
    ("unknown", &[""]),
    ("histogram", &["_bucket", "_sum", "_count", "_created"]),
    ("summary", &["", "_sum", "_count", "_created"]),
];

/// A page that is valid.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The type of each family.
    pub families: BTreeMap<String, String>,
    /// Every series, with its value.
    pub samples: BTreeMap<String, f64>,
    /// The labels of each exemplar, by the series of its bucket.
    pub exemplars: BTreeMap<String, String>,
}

#[derive(Default)]
struct Family<'t> {
    name: &'t str,
    suffixes: &'static [&'static str],
    said: BTreeSet<&'t str>,
    has_samples: bool,
    /// The series of buckets that the last line was of, its bound and its count.
    bucket: Option<(&'t str, f64, f64)>,
}

/// Reads a page.
///
/// # Errors
/// If it is not valid.
pub fn read(text: &str) -> Result<Page> {
    let body = text.strip_suffix("# EOF\n").context("the page does not end with # EOF")?;
    let (mut page, mut family) = (Page::default(), Family::default());
    for line in body.split_terminator('\n') {
        let read = match line.strip_prefix("# ") {
            Some(said) => metadata(said, &mut page, &mut family),
            None => sample(line, &mut page, &mut family),
        };
        read.with_context(|| line.to_owned())?;
    }
    for name in page.families.keys() {
        let clashes = |other: &String| {
            SUFFIXES[0].1.iter().chain(SUFFIXES[3].1).any(|suffix| *other == format!("{name}{suffix}"))
        };
        let is_plain = page.families[name] == "gauge" || page.families[name] == "unknown";
        ensure!(is_plain || !page.families.keys().any(clashes), "{name} and another clash");
    }
    Ok(page)
}

fn metadata<'t>(said: &'t str, page: &mut Page, family: &mut Family<'t>) -> Result<()> {
    let mut parts = said.splitn(3, ' ');
    let (what, name) = (parts.next().context("what")?, parts.next().context("a name")?);
    let rest = parts.next().context("what is said")?;
    if family.name != name {
        ensure!(!page.families.contains_key(name), "a family in two places");
        page.families.insert(name.to_owned(), "unknown".to_owned());
        *family = Family { name, suffixes: &[""], ..Family::default() };
    }
    ensure!(!family.has_samples, "metadata after samples");
    ensure!(family.said.insert(what), "said twice");
    match what {
        "TYPE" => {
            let (_, suffixes) = SUFFIXES.iter().find(|(kind, _)| *kind == rest).context("no type")?;
            ensure!(rest != "counter" || !name.ends_with("_total"), "a family with a suffix");
            page.families.insert(name.to_owned(), rest.to_owned());
            family.suffixes = suffixes;
        }
        "UNIT" => ensure!(name.ends_with(&format!("_{rest}")), "a unit that is not in the name"),
        "HELP" => {
            let plain = rest.replace("\\\\", "").replace("\\\"", "").replace("\\n", "");
            ensure!(!plain.contains('"') && !plain.contains('\\'), "not escaped");
        }
        other => anyhow::bail!("{other} is nothing"),
    }
    Ok(())
}

fn sample<'t>(line: &'t str, page: &mut Page, family: &mut Family<'t>) -> Result<()> {
    let (sample, exemplar) = match line.split_once(" # ") {
        Some((sample, exemplar)) => (sample, Some(exemplar)),
        None => (line, None),
    };
    let (series, value) = sample.rsplit_once(' ').context("a value")?;
    let value: f64 = value.parse()?;
    let name = series.split('{').next().unwrap_or_default();
    let suffix = name.strip_prefix(family.name).context("not of its family")?;
    ensure!(family.suffixes.contains(&suffix), "{suffix:?} is no suffix of it");
    family.has_samples = true;
    if suffix == "_bucket" {
        bucket(series, value, exemplar, page, family)?;
    } else {
        ensure!(exemplar.is_none(), "an exemplar where there may be none");
    }
    ensure!(page.samples.insert(series.to_owned(), value).is_none(), "a series twice");
    Ok(())
}

fn bucket<'t>(
    series: &'t str,
    count: f64,
    exemplar: Option<&str>,
    page: &mut Page,
    family: &mut Family<'t>,
) -> Result<()> {
    let (start, bound) = series.rsplit_once("le=\"").context("no bound")?;
    let bound = bound.strip_suffix("\"}").context("the bound is not last")?;
    ensure!(bound == "+Inf" || bound.contains('.') || bound.contains('e'), "a bound that is no float");
    let bound: f64 = bound.parse()?;
    let before = family.bucket.replace((start, bound, count)).filter(|(of, ..)| *of == start);
    let (least, fewest) = before.map_or((f64::NEG_INFINITY, 0.0), |(_, bound, count)| (bound, count));
    ensure!(bound > least && count >= fewest, "buckets are not in order");
    let Some(exemplar) = exemplar else { return Ok(()) };
    let (labels, rest) = exemplar.split_once("} ").context("labels")?;
    let labels = labels.strip_prefix('{').context("labels")?;
    ensure!(labels.len() <= 128, "longer than 128 characters");
    let (value, at) = rest.split_once(' ').context("a time")?;
    let (value, at): (f64, f64) = (value.parse()?, at.parse()?);
    ensure!(value > least && value <= bound && at > 1.0e9, "an exemplar of another bucket");
    page.exemplars.insert(series.to_owned(), labels.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_valid_is_found() {
        let example = "# TYPE a_seconds histogram\na_seconds_bucket{le=\"1.0\"} 1 # {trace_id=\"x\"} 0.5 1700000000.1\na_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n";
        assert_eq!(read(example).unwrap().exemplars["a_seconds_bucket{le=\"1.0\"}"], "trace_id=\"x\"");
        for (from, to) in [
            ("# EOF\n", ""),
            ("1.0\"", "1\""),
            ("0.5 17", "1.5 17"),
            ("le=\"+Inf\"} 1", "le=\"+Inf\"} 0"),
            ("\n# EOF", "\n\n# EOF"),
            ("histogram", "gauge"),
            ("# EOF", "# TYPE b counter\n# TYPE b_total counter\n# EOF"),
            ("# EOF", "# TYPE b counter\nb 1\n# EOF"),
            ("# EOF", "# TYPE b gauge\n# TYPE a_seconds histogram\n# EOF"),
            ("# EOF", "# HELP b \"x\"\n# EOF"),
        ] {
            assert!(read(&example.replace(from, to)).is_err(), "{from} {to}");
        }
    }
}
