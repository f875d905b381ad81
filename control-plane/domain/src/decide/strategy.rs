//! Whether a strategy makes sense, and in which order it takes its targets.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{fields, group};
use crate::amount::Amount;
use crate::rejection::Rejection;
use crate::strategy::{
    BlueGreen, CANARY_SOAK_MS_RANGE, CANARY_STEPS_MAX, CanaryStep, KEEP_MS_RANGE, Order, OrderBy,
    PAUSE_MS_RANGE, Rolling, Strategy, WARM_UP_MS_RANGE,
};
use crate::target::Target;

/// Whether the values are such as they can be, whatever the targets are.
pub(crate) fn is_well_formed(strategy: &Strategy) -> Result<(), Rejection> {
    match strategy {
        Strategy::AllAtOnce => {}
        Strategy::Rolling(rolling) => {
            amount("strategy.batch", rolling.batch)?;
            if let Some(limit) = rolling.max_unavailable {
                amount("strategy.max_unavailable", limit)?;
            }
            if let Some(healthy) = rolling.minimum_healthy {
                amount("strategy.minimum_healthy", healthy)?;
            }
            if rolling.max_unavailable.is_some() && rolling.minimum_healthy.is_some() {
                let problem = "says the same as max_unavailable in another way; give one of them";
                return Err(Rejection::invalid("strategy.minimum_healthy", problem));
            }
            if let Some(pause_ms) = rolling.pause_ms {
                fields::range("strategy.pause_ms", pause_ms, PAUSE_MS_RANGE, " (a second to a week)")?;
            }
        }
        Strategy::Canary { steps, batch, .. } => {
            if let Some(batch) = batch {
                amount("strategy.batch", *batch)?;
            }
            canary(steps)?;
        }
        Strategy::BlueGreen(how) => blue_green(how)?,
    }
    strategy.order().map_or(Ok(()), |order| fields::label_name("strategy.order.label", &order.label))
}

fn blue_green(how: &BlueGreen) -> Result<(), Rejection> {
    if let Some(batch) = how.batch {
        amount("strategy.batch", batch)?;
    }
    if let Some(warm_up_ms) = how.warm_up_ms {
        fields::range("strategy.warm_up_ms", warm_up_ms, WARM_UP_MS_RANGE, " (a second to a week)")?;
        if how.confirm {
            let problem = "waits until somebody resumes it; leave the time of the warm-up out, or this";
            return Err(Rejection::invalid("strategy.confirm", problem));
        }
    }
    if let Some(keep_ms) = how.keep_ms {
        fields::range("strategy.keep_ms", keep_ms, KEEP_MS_RANGE, " (a second to a week)")?;
    }
    how.groups.as_ref().map_or(Ok(()), |groups| group::is_well_formed(how, groups))
}

fn amount(field: &str, amount: Amount) -> Result<(), Rejection> {
    match amount {
        Amount::Count(0) => {
            Err(Rejection::invalid(field, "is 0; at least one target at a time must be worked on"))
        }
        Amount::Count(_) => Ok(()),
        Amount::Percent(percent) => fields::range(field, percent.into(), (1, 100), "%"),
    }
}

fn canary(steps: &[CanaryStep]) -> Result<(), Rejection> {
    if steps.is_empty() || steps.len() > CANARY_STEPS_MAX {
        let problem = format!("there are {}; a canary has 1 to {CANARY_STEPS_MAX}", steps.len());
        return Err(Rejection::invalid("strategy.steps", problem));
    }
    let mut before = 0;
    for (at, CanaryStep { percent, soak_ms }) in steps.iter().enumerate() {
        let field = |name: &str| format!("strategy.steps[{at}].{name}");
        fields::range(
            field("percent"),
            u64::from(*percent),
            (1, 99),
            "; all others come after the last step",
        )?;
        if *percent <= before {
            let problem = format!("is {percent}; it must be more than the {before} of the step before");
            return Err(Rejection::invalid(field("percent"), problem));
        }
        if let Some(soak_ms) = soak_ms {
            fields::range(field("soak_ms"), *soak_ms, CANARY_SOAK_MS_RANGE, " (a second to a week)")?;
        }
        before = *percent;
    }
    Ok(())
}

/// Whether a strategy can meet its own limits with so many targets. One that cannot would stand still for ever, or never do what
/// it says.
pub(super) fn can_be_met(
    strategy: &Strategy,
    tolerate_failures: Option<Amount>,
    targets: usize,
    at_risk_max: Option<u32>,
) -> Result<(), Rejection> {
    let total = u32::try_from(targets).unwrap_or(u32::MAX);
    let tolerated = tolerate_failures.map_or(0, |amount| amount.at_most(total));
    if let Some(Amount::Percent(percent)) = tolerate_failures {
        fields::range("tolerate_failures", percent.into(), (1, 99), "%")?;
    }
    if tolerated >= total {
        let problem = format!(
            "is {tolerated} of {total} targets: it would succeed although all have failed; make it less than {total}"
        );
        return Err(Rejection::invalid("tolerate_failures", problem));
    }
    fits_budget(strategy, tolerated, total, at_risk_max)?;
    let Strategy::Rolling(rolling) = strategy else { return Ok(()) };
    down(rolling, tolerated, total)
}

/// Whether the environment's budget would ever let it go on. Batches get smaller with the budget; what waits for one another, or
/// stays behind, cannot.
fn fits_budget(
    strategy: &Strategy,
    tolerated: u32,
    total: u32,
    at_risk_max: Option<u32>,
) -> Result<(), Rejection> {
    let Some(max) = at_risk_max else { return Ok(()) };
    let left = match tolerated {
        0 => String::new(),
        tolerated => format!(", beside {tolerated} that may have failed"),
    };
    if let Strategy::Canary { steps, .. } = strategy {
        let mut before = 0;
        for (at, step) in steps.iter().enumerate() {
            let until = Amount::Percent(step.percent).at_least(total);
            if until - before + tolerated > max {
                let problem = format!(
                    "puts {} targets at risk until it is behind{left}; the environment lets at most {max} be at once",
                    until - before
                );
                return Err(Rejection::invalid(format!("strategy.steps[{at}].percent"), problem));
            }
            before = until;
        }
    }
    if let (Strategy::Rolling(Rolling { pause_ms: Some(_), batch, .. }), size) =
        (strategy, strategy.active_max(total).min(total))
        && size + tolerated > max
    {
        let problem = format!(
            "is {batch}: {size} targets are at risk until the pause is over{left}; the environment lets at most {max} be at once"
        );
        return Err(Rejection::invalid("strategy.batch", problem));
    }
    if tolerated >= max {
        let problem = format!(
            "is {tolerated} targets: they stay at risk, and the environment lets at most {max} be at once; tolerate fewer"
        );
        return Err(Rejection::invalid("tolerate_failures", problem));
    }
    Ok(())
}

fn down(rolling: &Rolling, tolerated: u32, total: u32) -> Result<(), Rejection> {
    let (field, said) = match (rolling.max_unavailable, rolling.minimum_healthy) {
        (Some(limit), _) => ("strategy.max_unavailable", limit),
        (None, Some(healthy)) => ("strategy.minimum_healthy", healthy),
        (None, None) => return Ok(()),
    };
    let limit = rolling.unavailable_max(total);
    if limit == 0 {
        let problem =
            format!("is {said}: of {total} targets none could be worked on; let at least one be down");
        return Err(Rejection::invalid(field, problem));
    }
    let batch = rolling.batch.at_least(total);
    if batch > limit {
        let problem = format!(
            "is {batch} of {total} targets, but at most {limit} may be down; make it {limit} or less"
        );
        return Err(Rejection::invalid("strategy.batch", problem));
    }
    if tolerated >= limit {
        let problem = format!(
            "is {said}: at most {limit} of {total} targets may be down, and with {tolerated} failures that are tolerated \
             no further one could be worked on; let more be down, or tolerate fewer failures"
        );
        return Err(Rejection::invalid(field, problem));
    }
    Ok(())
}

/// The targets in the order in which the strategy takes them. They come in the order of their names.
pub(super) fn arranged(
    strategy: &Strategy,
    mut targets: Vec<Arc<Target>>,
) -> Result<Vec<Arc<Target>>, Rejection> {
    let Some(Order { by, label }) = strategy.order() else { return Ok(targets) };
    if let Some(without) = targets.iter().find(|target| !target.labels.contains_key(label)) {
        let field = format!("targets[{}].labels.{label}", without.name);
        let problem =
            "is missing, and strategy.order.label needs it; give the target the label, or leave it out";
        return Err(Rejection::invalid(field, problem));
    }
    let value = |target: &Target| rank(target.labels.get(label).map_or("", String::as_str));
    targets.sort_by_cached_key(|target| value(target));
    if *by != OrderBy::Spread {
        return Ok(targets);
    }
    // The first of each domain, then the second of each, and so on.
    let mut seen: BTreeMap<_, u32> = BTreeMap::new();
    let mut rounds = Vec::with_capacity(targets.len());
    for target in targets {
        let round = seen.entry(value(&target)).or_default();
        rounds.push((*round, target));
        *round += 1;
    }
    rounds.sort_by_key(|(round, _)| *round);
    Ok(rounds.into_iter().map(|(_, target)| target).collect())
}

/// Numbers come before texts, and in the order of their size.
fn rank(value: &str) -> (bool, u64, String) {
    match value.parse() {
        Ok(number) => (false, number, String::new()),
        Err(_) => (true, 0, value.to_owned()),
    }
}
