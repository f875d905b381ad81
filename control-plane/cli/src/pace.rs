//! How targets follow one another: from flags to a strategy, and from a strategy to words.

use stella_api_types::amount::Amount;
use stella_api_types::deployment::{CanaryStep, Order, OrderBy, Rolling, Strategy};

use crate::args::Pace;

/// The strategy that the flags ask for.
pub(crate) fn strategy(pace: Pace) -> Strategy {
    let order = match (pace.order_by, pace.by_domain, pace.spread) {
        (Some(label), _, _) => Some(Order { by: OrderBy::Label, label }),
        (_, Some(label), _) => Some(Order { by: OrderBy::Domain, label }),
        (_, _, Some(label)) => Some(Order { by: OrderBy::Spread, label }),
        (None, None, None) => None,
    };
    if pace.all_at_once {
        return Strategy::AllAtOnce {};
    }
    if !pace.canary.is_empty() {
        return Strategy::Canary { steps: pace.canary, batch: pace.batch, order };
    }
    Strategy::Rolling(Rolling {
        batch: pace.batch.unwrap_or(Amount::Count(1)),
        max_unavailable: pace.max_unavailable,
        minimum_healthy: pace.minimum_healthy,
        pause_seconds: pace.pause,
        order,
    })
}

/// How targets follow one another, for a person.
pub(crate) fn described(strategy: &Strategy, targets: usize) -> String {
    match strategy {
        Strategy::AllAtOnce {} => "all at once".to_owned(),
        Strategy::Rolling(rolling) => {
            let limits = [
                rolling.max_unavailable.as_ref().map(|max| format!("at most {max} down")),
                rolling.minimum_healthy.as_ref().map(|min| format!("at least {min} healthy")),
                rolling.pause_seconds.map(|pause| format!("{pause} s of pause after each batch")),
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
    }
}

fn step(step: &CanaryStep, targets: usize) -> String {
    let percent = usize::try_from(step.percent).unwrap_or(usize::MAX);
    let count = targets.saturating_mul(percent).div_ceil(100);
    let hold = step.soak_seconds.map_or_else(|| "resumed".to_owned(), |soak| format!("{soak} s have passed"));
    format!("{}% ({count}) until {hold}", step.percent)
}

fn ordered(order: &Order) -> String {
    match order.by {
        OrderBy::Label => format!("in the order of {}", order.label),
        OrderBy::Domain => format!("one {} after the other", order.label),
        OrderBy::Spread => format!("spread over {}", order.label),
    }
}
