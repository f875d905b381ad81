//! Strategies, from the texts of requests.

use stella_api_types::amount::Amount as AmountDto;
use stella_api_types::deployment::{
    CanaryStep as CanaryStepDto, Colour as ColourDto, Groups as GroupsDto, Order as OrderDto,
    OrderBy as OrderByDto, Strategy as StrategyDto,
};
use stella_domain::amount::Amount;
use stella_domain::colour::Colour;
use stella_domain::strategy::{
    BlueGreen, CANARY_SOAK_MS_RANGE, CanaryStep, Groups, KEEP_MS_RANGE, Order, OrderBy, PAUSE_MS_RANGE,
    Rolling, Strategy, WARM_UP_MS_RANGE,
};

use super::in_range;
use crate::error::ApiError;

/// How targets follow one another.
pub(crate) fn strategy(dto: &StrategyDto) -> Result<Strategy, ApiError> {
    Ok(match dto {
        StrategyDto::AllAtOnce {} => Strategy::AllAtOnce,
        StrategyDto::Rolling(rolling) => Strategy::Rolling(Rolling {
            batch: amount("strategy.batch", &rolling.batch)?,
            max_unavailable: maybe_amount("strategy.max_unavailable", rolling.max_unavailable.as_ref())?,
            minimum_healthy: maybe_amount("strategy.minimum_healthy", rolling.minimum_healthy.as_ref())?,
            pause_ms: rolling
                .pause_seconds
                .map(|seconds| up_to_a_week("strategy.pause_seconds".to_owned(), seconds, PAUSE_MS_RANGE))
                .transpose()?,
            order: rolling.order.as_ref().map(order),
        }),
        StrategyDto::Canary { steps, batch, order: by } => {
            let steps = steps.iter().enumerate().map(|(at, step)| canary_step(at, step));
            Strategy::Canary {
                steps: steps.collect::<Result<_, _>>()?,
                batch: maybe_amount("strategy.batch", batch.as_ref())?,
                order: by.as_ref().map(order),
            }
        }
        StrategyDto::BlueGreen(how) => {
            let milliseconds = |name: &str, seconds: Option<u64>, range| {
                let field = format!("strategy.{name}");
                seconds.map(|seconds| up_to_a_week(field, seconds, range)).transpose()
            };
            Strategy::BlueGreen(BlueGreen {
                warm_up_ms: milliseconds("warm_up_seconds", how.warm_up_seconds, WARM_UP_MS_RANGE)?,
                confirm: how.confirm,
                batch: maybe_amount("strategy.batch", how.batch.as_ref())?,
                keep_ms: milliseconds("keep_seconds", how.keep_seconds, KEEP_MS_RANGE)?,
                groups: how.groups.as_ref().map(groups),
            })
        }
    })
}

/// So many of some things.
fn amount(field: &str, dto: &AmountDto) -> Result<Amount, ApiError> {
    let said = match dto {
        AmountDto::Count(count) => return Ok(Amount::Count(*count)),
        AmountDto::Share(share) => share,
    };
    match said.parse() {
        Ok(share @ Amount::Percent(_)) => Ok(share),
        Ok(Amount::Count(count)) => {
            let problem =
                format!("is the text {said:?}; write {count} for a count, or \"{count}%\" for a share");
            Err(ApiError::invalid(field, problem))
        }
        Err(error) => Err(ApiError::invalid(field, format!("is {said:?}; {error}"))),
    }
}

/// So many of some things, or nothing about it.
pub(crate) fn maybe_amount(field: &str, dto: Option<&AmountDto>) -> Result<Option<Amount>, ApiError> {
    dto.map(|dto| amount(field, dto)).transpose()
}

fn groups(dto: &GroupsDto) -> Groups {
    let live = dto.live.map(|live| match live {
        ColourDto::Blue => Colour::Blue,
        ColourDto::Green => Colour::Green,
    });
    Groups { label: dto.label.clone(), switch: dto.switch.clone(), live }
}

fn order(dto: &OrderDto) -> Order {
    let by = match dto.by {
        OrderByDto::Label => OrderBy::Label,
        OrderByDto::Domain => OrderBy::Domain,
        OrderByDto::Spread => OrderBy::Spread,
    };
    Order { by, label: dto.label.clone() }
}

/// From seconds to milliseconds. The core would tell the bounds in milliseconds.
fn up_to_a_week(field: String, seconds: u64, range: (u64, u64)) -> Result<u64, ApiError> {
    seconds.checked_mul(1_000).filter(|it| in_range(*it, range)).ok_or_else(|| {
        let problem = format!("is {seconds}; it must be between 1 and 604800 (a week)");
        ApiError::invalid(field, problem)
    })
}

fn canary_step(at: usize, dto: &CanaryStepDto) -> Result<CanaryStep, ApiError> {
    let field = format!("strategy.steps[{at}].soak_seconds");
    let soak_ms = dto.soak_seconds.map(|seconds| up_to_a_week(field, seconds, CANARY_SOAK_MS_RANGE));
    Ok(CanaryStep { percent: dto.percent, soak_ms: soak_ms.transpose()? })
}
