//! How targets follow one another: from flags to a strategy, and from a strategy to words.

use std::collections::BTreeMap;

use stella_api_types::amount::Amount;
use stella_api_types::deployment::{
    BlueGreen, CanaryStep, Colour, Groups, Order, OrderBy, Rolling, Strategy,
};
use stella_api_types::release::Phase;

use crate::args::{ColourName, Pace, StrategyName};
use crate::client::Error;
use crate::when;

/// The strategy that the flags ask for.
pub(crate) fn strategy(pace: Pace) -> Result<Strategy, Error> {
    let is_blue_green = pace.strategy == Some(StrategyName::BlueGreen);
    let foreign = if is_blue_green { of_others(&pace) } else { of_blue_green(&pace) };
    if let Some(flag) = foreign {
        let strategy = if is_blue_green { "has no meaning with" } else { "is only for" };
        return Err(Error::Usage(format!("{flag} {strategy} --strategy blue-green; leave one of them out")));
    }
    if is_blue_green {
        let groups = groups(pace.groups, pace.switch, pace.live)?;
        return Ok(Strategy::BlueGreen(BlueGreen {
            warm_up_seconds: pace.warm_up,
            confirm: pace.confirm,
            batch: pace.batch,
            keep_seconds: pace.keep,
            groups,
        }));
    }
    let order = match (pace.order_by, pace.by_domain, pace.spread) {
        (Some(label), _, _) => Some(Order { by: OrderBy::Label, label }),
        (_, Some(label), _) => Some(Order { by: OrderBy::Domain, label }),
        (_, _, Some(label)) => Some(Order { by: OrderBy::Spread, label }),
        (None, None, None) => None,
    };
    if pace.all_at_once || pace.strategy == Some(StrategyName::AllAtOnce) {
        return Ok(Strategy::AllAtOnce {});
    }
    if !pace.canary.is_empty() {
        return Ok(Strategy::Canary { steps: pace.canary, batch: pace.batch, order });
    }
    Ok(Strategy::Rolling(Rolling {
        batch: pace.batch.unwrap_or(Amount::Count(1)),
        max_unavailable: pace.max_unavailable,
        minimum_healthy: pace.minimum_healthy,
        pause_seconds: pace.pause,
        order,
    }))
}

/// The two groups that the flags name.
fn groups(
    label: Option<String>,
    switch: Vec<(String, String)>,
    live: Option<ColourName>,
) -> Result<Option<Groups>, Error> {
    let Some(label) = label else { return Ok(None) };
    let live = live.map(|live| match live {
        ColourName::Blue => Colour::Blue,
        ColourName::Green => Colour::Green,
    });
    Ok(Some(Groups { label, switch: each_once("--switch", switch)?, live }))
}

/// Labels by name. A target has one value of each, so that two cannot be wanted.
pub(crate) fn each_once(
    flag: &str,
    labels: Vec<(String, String)>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut wanted = BTreeMap::new();
    for (label, value) in labels {
        if wanted.insert(label.clone(), value).is_some() {
            let problem = format!(
                "{flag} {label}=… is given twice, and a target has one value of it; deploy once for each"
            );
            return Err(Error::Usage(problem));
        }
    }
    Ok(wanted)
}

/// A flag that only blue-green deployments know, if one was given.
fn of_blue_green(pace: &Pace) -> Option<&'static str> {
    let given = [
        (pace.warm_up.is_some(), "--warm-up"),
        (pace.confirm, "--confirm"),
        (pace.keep.is_some(), "--keep"),
        (pace.groups.is_some(), "--groups"),
    ];
    given.into_iter().find(|(is_given, _)| *is_given).map(|(_, flag)| flag)
}

/// A flag that blue-green deployments do not know, if one was given.
fn of_others(pace: &Pace) -> Option<&'static str> {
    let given = [
        (pace.pause.is_some(), "--pause"),
        (pace.max_unavailable.is_some(), "--max-unavailable"),
        (pace.minimum_healthy.is_some(), "--minimum-healthy"),
        (pace.order_by.is_some(), "--order-by"),
        (pace.by_domain.is_some(), "--by-domain"),
        (pace.spread.is_some(), "--spread"),
    ];
    given.into_iter().find(|(is_given, _)| *is_given).map(|(_, flag)| flag)
}

/// How targets follow one another, for a person; with counts, if it is known how many targets there are.
pub(crate) fn described(strategy: &Strategy, targets: Option<usize>) -> String {
    match strategy {
        Strategy::AllAtOnce {} => "all at once".to_owned(),
        Strategy::Rolling(rolling) => {
            let limits = [
                rolling.max_unavailable.as_ref().map(|max| format!("at most {max} down")),
                rolling.minimum_healthy.as_ref().map(|min| format!("at least {min} healthy")),
                rolling
                    .pause_seconds
                    .map(|pause| format!("{} of pause after each batch", when::length(pause))),
                rolling.order.as_ref().map(ordered),
            ];
            let limits: String = limits.into_iter().flatten().map(|limit| format!(", {limit}")).collect();
            format!("{} at a time{limits}", rolling.batch)
        }
        Strategy::Canary { steps, batch, order } => {
            let steps: Vec<String> = steps.iter().map(|it| step(it, targets)).collect();
            let batch = batch.as_ref().map(|batch| format!(", {batch} at a time")).unwrap_or_default();
            let order = order.as_ref().map(|order| format!(", {}", ordered(order))).unwrap_or_default();
            format!("canary: {}, then the others{batch}{order}", steps.join(", "))
        }
        Strategy::BlueGreen(how) => {
            let hold = match how.warm_up_seconds {
                Some(seconds) => format!(", {} of warm-up and another check", when::length(seconds)),
                None if how.confirm => ", resumed by somebody and checked once more".to_owned(),
                None => String::new(),
            };
            let batch = how.batch.as_ref().map_or_else(|| "all".to_owned(), ToString::to_string);
            let kept = how.keep_seconds.map_or_else(
                || "until the next deployment".to_owned(),
                |seconds| format!("for {}", when::length(seconds)),
            );
            if let Some(groups) = &how.groups {
                let switch: Vec<String> =
                    groups.switch.iter().map(|(label, value)| format!("{label}={value}")).collect();
                return format!(
                    "blue-green between the groups of {}: the one without traffic prepared{hold}, then {batch} of {} switched at a time, the old group kept {kept}",
                    groups.label,
                    switch.join(",")
                );
            }
            format!(
                "blue-green: all prepared{hold}, then {batch} switched at a time, the old colour kept {kept}"
            )
        }
    }
}

fn step(step: &CanaryStep, targets: Option<usize>) -> String {
    let percent = usize::try_from(step.percent).unwrap_or(usize::MAX);
    let count = targets.map(|targets| format!(" ({})", targets.saturating_mul(percent).div_ceil(100)));
    let hold = step
        .soak_seconds
        .map_or_else(|| "resumed".to_owned(), |soak| format!("{} have passed", when::length(soak)));
    format!("{}%{} until {hold}", step.percent, count.unwrap_or_default())
}

/// The label that targets are ordered by, if it is not by their names.
pub(crate) fn label(strategy: &Strategy) -> Option<&str> {
    let order = match strategy {
        Strategy::Rolling(rolling) => rolling.order.as_ref(),
        Strategy::Canary { order, .. } => order.as_ref(),
        Strategy::AllAtOnce {} | Strategy::BlueGreen(_) => None,
    };
    order.map(|order| order.label.as_str())
}

fn ordered(order: &Order) -> String {
    match order.by {
        OrderBy::Label => format!("in the order of {}", order.label),
        OrderBy::Domain => format!("one {} after the other", order.label),
        OrderBy::Spread => format!("spread over {}", order.label),
    }
}

/// The steps of a release for a person; those of another phase come after a bar.
pub(crate) fn steps(names: &[String], phases: &[Phase]) -> String {
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        let phase = phases.get(at);
        let same = at > 0 && phase == phases.get(at - 1);
        let label = match phase {
            Some(phase) if !same => match phase {
                Phase::Prepare => "prepare: ",
                Phase::Switch => "switch: ",
                Phase::Retire => "retire, when it is not live any more: ",
            },
            Some(_) | None => "",
        };
        let between = match (at, same) {
            (0, _) => "",
            (_, true) => " -> ",
            (_, false) => " | ",
        };
        text.extend([between, label, name]);
    }
    text
}
