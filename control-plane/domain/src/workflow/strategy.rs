//! Strategies as files say them: with lengths of time like those in the rest of the file, and with nothing in them that no strategy knows.
//! What is misspelt would be left out otherwise, and a canary would hold for ever instead of for ten minutes.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::Span;
use crate::amount::Amount;
use crate::deployment::Strategy;
use crate::strategy::{BlueGreen, CanaryStep, Groups, Order, OrderBy, Rolling};

/// Reads a strategy of a file, or of a template in the journal. A length of time is `soak: 10m`, or has its unit in its name: `soak_seconds`
/// as in the API, `soak_ms` as it is kept.
///
/// # Errors
/// If it is none, or has a field that its type has not, wherever in it.
pub fn strategy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Strategy, D::Error> {
    Written::deserialize(deserializer)?.strategy().map_err(D::Error::custom)
}

pub(super) fn maybe_strategy<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Strategy>, D::Error> {
    strategy(deserializer).map(Some)
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    AllAtOnce,
    Rolling,
    Canary,
    BlueGreen,
}

/// The fields of all types at once: so that what is wrong has a place, which a type that depends on a field has not.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    kind: Kind,
    batch: Option<Amount>,
    max_unavailable: Option<Amount>,
    minimum_healthy: Option<Amount>,
    pause: Option<Span>,
    pause_seconds: Option<u64>,
    pause_ms: Option<u64>,
    order: Option<WrittenOrder>,
    steps: Option<Vec<WrittenStep>>,
    warm_up: Option<Span>,
    warm_up_seconds: Option<u64>,
    warm_up_ms: Option<u64>,
    confirm: Option<bool>,
    keep: Option<Span>,
    keep_seconds: Option<u64>,
    keep_ms: Option<u64>,
    groups: Option<Groups>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    percent: u32,
    soak: Option<Span>,
    soak_seconds: Option<u64>,
    soak_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOrder {
    by: OrderBy,
    label: String,
}

impl Written {
    fn strategy(self) -> Result<Strategy, String> {
        let pause_ms = length("pause", self.pause, self.pause_seconds, self.pause_ms)?;
        let warm_up_ms = length("warm_up", self.warm_up, self.warm_up_seconds, self.warm_up_ms)?;
        let keep_ms = length("keep", self.keep, self.keep_seconds, self.keep_ms)?;
        let there = [
            ("batch", self.batch.is_some()),
            ("max_unavailable", self.max_unavailable.is_some()),
            ("minimum_healthy", self.minimum_healthy.is_some()),
            ("pause", pause_ms.is_some()),
            ("order", self.order.is_some()),
            ("steps", self.steps.is_some()),
            ("warm_up", warm_up_ms.is_some()),
            ("confirm", self.confirm.is_some()),
            ("keep", keep_ms.is_some()),
            ("groups", self.groups.is_some()),
        ];
        let known = self.kind.fields();
        if let Some((field, _)) = there.into_iter().find(|(field, there)| *there && !known.contains(field)) {
            return Err(format!("a strategy of this type has no {field}"));
        }
        let order = self.order.map(|WrittenOrder { by, label }| Order { by, label });
        Ok(match self.kind {
            Kind::AllAtOnce => Strategy::AllAtOnce,
            Kind::Rolling => {
                let batch = self.batch.ok_or("missing field `batch`: how many targets at a time?")?;
                let Self { max_unavailable, minimum_healthy, .. } = self;
                Strategy::Rolling(Rolling { batch, max_unavailable, minimum_healthy, pause_ms, order })
            }
            Kind::Canary => {
                let steps = self.steps.ok_or("missing field `steps`: where is it to hold?")?;
                let steps = steps.into_iter().map(WrittenStep::step).collect::<Result<_, _>>()?;
                Strategy::Canary { steps, batch: self.batch, order }
            }
            Kind::BlueGreen => {
                let Self { batch, groups, .. } = self;
                let confirm = self.confirm.unwrap_or_default();
                Strategy::BlueGreen(BlueGreen { warm_up_ms, confirm, batch, keep_ms, groups })
            }
        })
    }
}

impl Kind {
    /// The fields of a type, lengths of time without their units.
    const fn fields(self) -> &'static [&'static str] {
        match self {
            Self::AllAtOnce => &[],
            Self::Rolling => &["batch", "max_unavailable", "minimum_healthy", "pause", "order"],
            Self::Canary => &["steps", "batch", "order"],
            Self::BlueGreen => &["warm_up", "confirm", "batch", "keep", "groups"],
        }
    }
}

impl WrittenStep {
    fn step(self) -> Result<CanaryStep, String> {
        let soak_ms = length("soak", self.soak, self.soak_seconds, self.soak_ms)?;
        Ok(CanaryStep { percent: self.percent, soak_ms })
    }
}

/// A length of time in milliseconds, however it is said.
fn length(
    name: &str,
    span: Option<Span>,
    seconds: Option<u64>,
    ms: Option<u64>,
) -> Result<Option<u64>, String> {
    match (span, seconds, ms) {
        (None, None, None) => Ok(None),
        (Some(Span(ms)), None, None) | (None, None, Some(ms)) => Ok(Some(ms)),
        (None, Some(seconds), None) => Ok(Some(seconds.saturating_mul(1_000))),
        _ => Err(format!("{name} is there in several units; give one of them")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[derive(Debug, Deserialize)]
    struct File {
        #[serde(deserialize_with = "strategy")]
        strategy: Strategy,
    }

    fn read(strategy: Value) -> Result<Strategy, String> {
        let file: Result<File, _> = serde_json::from_value(json!({ "strategy": strategy }));
        file.map(|it| it.strategy).map_err(|error| error.to_string())
    }

    #[test]
    fn a_strategy_is_read_as_it_is_kept() {
        let switch = json!({ "role": "lb" });
        for kept in [
            json!({ "type": "all_at_once" }),
            json!({ "type": "rolling", "batch": 1 }),
            json!({ "type": "rolling", "batch": "25%", "max_unavailable": 2, "pause_ms": 60_000, "order": { "by": "domain", "label": "rack" } }),
            json!({ "type": "rolling", "batch": 2, "minimum_healthy": "50%" }),
            json!({ "type": "canary", "steps": [{ "percent": 10, "soak_ms": 1_500 }, { "percent": 50 }], "batch": 2, "order": { "by": "spread", "label": "rack" } }),
            json!({ "type": "blue_green" }),
            json!({ "type": "blue_green", "warm_up_ms": 1_000, "batch": 1, "keep_ms": 2_000 }),
            json!({ "type": "blue_green", "confirm": true, "groups": { "label": "colour", "switch": switch, "live": "blue" } }),
        ] {
            let strategy: Strategy = serde_json::from_value(kept.clone()).unwrap();
            assert_eq!(read(kept.clone()), Ok(strategy), "{kept}");
        }
    }

    #[test]
    fn lengths_of_time_are_said_in_any_unit() {
        for (field, others) in [
            ("pause", json!({ "type": "rolling", "batch": 1 })),
            ("warm_up", json!({ "type": "blue_green" })),
            ("keep", json!({ "type": "blue_green" })),
        ] {
            let with = |more: &[(&str, Value)]| {
                let mut strategy = others.clone();
                more.iter().for_each(|(unit, value)| strategy[format!("{field}{unit}")] = value.clone());
                read(strategy)
            };
            let kept = with(&[("_ms", json!(600_000))]).unwrap();
            assert_eq!(with(&[("", json!("10m"))]).as_ref(), Ok(&kept));
            assert_eq!(with(&[("_seconds", json!(600))]).as_ref(), Ok(&kept));
            let twice = with(&[("", json!("10m")), ("_seconds", json!(600))]).unwrap_err();
            assert!(twice.contains(&format!("{field} is there in several units")), "{twice}");
        }
        let step = |step: Value| read(json!({ "type": "canary", "steps": [step] }));
        let kept = step(json!({ "percent": 10, "soak_ms": 600_000 })).unwrap();
        for said in [json!({ "percent": 10, "soak": "10m" }), json!({ "percent": 10, "soak_seconds": 600 })] {
            assert_eq!(step(said).as_ref(), Ok(&kept));
        }
    }

    #[test]
    fn what_no_strategy_knows_is_refused_wherever_it_is() {
        for (wrong, said) in [
            (json!({ "type": "rolling", "bacth": 1 }), "unknown field `bacth`"),
            (json!({ "type": "rolling" }), "missing field `batch`"),
            (json!({ "type": "canary" }), "missing field `steps`"),
            (json!({ "type": "all_at_once", "batch": 1 }), "a strategy of this type has no batch"),
            (json!({ "type": "rolling", "batch": 1, "keep": "1h" }), "a strategy of this type has no keep"),
            (json!({ "type": "blue_green", "steps": [] }), "a strategy of this type has no steps"),
            (json!({ "type": "canary", "steps": [{ "percent": 1, "soka": "1m" }] }), "unknown field `soka`"),
            (json!({ "type": "canary", "steps": [{ "percent": 1, "soak": 60 }] }), "invalid type"),
            (
                json!({ "type": "rolling", "batch": 1, "order": { "by": "label", "label": "a", "x": 1 } }),
                "unknown field `x`",
            ),
            (
                json!({ "type": "blue_green", "groups": { "label": "a", "switch": {}, "x": 1 } }),
                "unknown field `x`",
            ),
            (json!({ "type": "red" }), "unknown variant `red`"),
        ] {
            let problem = read(wrong.clone()).unwrap_err();
            assert!(problem.contains(said), "{wrong}: {problem}");
        }
    }
}
