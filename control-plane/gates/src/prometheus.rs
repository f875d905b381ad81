//! Questions to a Prometheus, or to what has the same HTTP API.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use stella_domain::gate::{Comparison, Outcome};
use stella_protocol::digest::Digest;

use crate::ask::{Error, Said, Source, send};

/// How many samples a reason names before it only counts them.
const NAMED_MAX: usize = 3;

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<Series>),
    Scalar((f64, String)),
}

#[derive(Deserialize)]
struct Series {
    #[serde(default)]
    metric: std::collections::BTreeMap<String, String>,
    value: (f64, String),
}

/// Asks for the query's value now, and compares each sample of it.
pub(crate) async fn ask(
    source: &Source,
    query: &str,
    comparison: Comparison,
    threshold: f64,
) -> Result<Said, Error> {
    let url = source.below("/api/v1/query");
    let body = send(&url, source.post(url.clone()).form(&[("query", query)])).await?;
    let wrong = |problem: String| Error::Answer { url: url.clone(), problem };
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|error| wrong(format!("it is no instant vector or scalar ({error})")))?;
    let samples = match answer.data {
        Data::Scalar((_, value)) => vec![(String::new(), value)],
        Data::Vector(series) => series.into_iter().map(|it| (labels(&it.metric), it.value.1)).collect(),
    };
    let mut numbers = Vec::with_capacity(samples.len());
    for (name, text) in samples {
        let number: f64 = text.parse().map_err(|_| wrong(format!("{text:?} is no number")))?;
        // Nothing divided by nothing says nothing.
        if !number.is_nan() {
            numbers.push((name, number));
        }
    }
    let inputs = Some(Digest(Sha256::new_with_prefix(query).chain_update(&body).finalize().into()));
    let (outcome, reason) = judged(&numbers, comparison, threshold);
    Ok(Said { outcome, reason, inputs })
}

fn judged(numbers: &[(String, f64)], comparison: Comparison, threshold: f64) -> (Outcome, String) {
    let wanted = format!("{} {threshold}", comparison.name().replace('_', " "));
    let wrong: Vec<_> = numbers.iter().filter(|(_, number)| !comparison.holds(*number, threshold)).collect();
    if numbers.is_empty() {
        return (Outcome::Unavailable, "the query has no sample".to_owned());
    }
    let listed = |samples: &[&(String, f64)]| {
        let mut named: Vec<String> =
            samples.iter().take(NAMED_MAX).map(|(name, number)| format!("{number}{name}")).collect();
        if samples.len() > NAMED_MAX {
            named.push(format!("{} more", samples.len() - NAMED_MAX));
        }
        named.join(", ")
    };
    if wrong.is_empty() {
        let all: Vec<_> = numbers.iter().collect();
        return (Outcome::Passed, format!("{wanted}: {}", listed(&all)));
    }
    (Outcome::Failed, format!("not {wanted}: {}", listed(&wrong)))
}

fn labels(metric: &std::collections::BTreeMap<String, String>) -> String {
    if metric.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = metric.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!(" {{{}}}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(json: &str) -> Result<Answer, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn every_sample_must_compare_and_there_must_be_one() {
        let sample = |name: &str, number| (name.to_owned(), number);
        let judge = |numbers: &[(String, f64)]| judged(numbers, Comparison::AtMost, 0.5);
        assert_eq!(judge(&[]), (Outcome::Unavailable, "the query has no sample".to_owned()));
        let good = [sample("", 0.5)];
        assert_eq!(judge(&good), (Outcome::Passed, "at most 0.5: 0.5".to_owned()));
        let bad = [sample(" {job=\"a\"}", 0.1), sample(" {job=\"b\"}", 0.7)];
        assert_eq!(judge(&bad), (Outcome::Failed, "not at most 0.5: 0.7 {job=\"b\"}".to_owned()));
        let many: Vec<_> = (1..=5).map(|n| sample("", f64::from(n))).collect();
        assert_eq!(judge(&many).1, "not at most 0.5: 1, 2, 3, 2 more");
    }

    #[test]
    fn vectors_and_scalars_are_read_and_nothing_else() {
        let vector = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1.5,"NaN"]}]}}"#;
        assert!(matches!(data(vector).unwrap().data, Data::Vector(series) if series[0].value.1 == "NaN"));
        let scalar = r#"{"data":{"resultType":"scalar","result":[1,"2"]}}"#;
        assert!(matches!(data(scalar).unwrap().data, Data::Scalar((_, value)) if value == "2"));
        assert!(data(r#"{"data":{"resultType":"matrix","result":[]}}"#).is_err());
        assert!(data(r#"{"status":"error","error":"parse error"}"#).is_err());
    }
}
