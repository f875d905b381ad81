//! How the targets of a deployment follow one another.

use clap::{Args, ValueEnum};
use stella_api_types::amount::Amount;
use stella_api_types::deployment::CanaryStep;

/// Flags that make a strategy. Without any, a deployment has that of its environment, or takes one target at a time.
#[derive(Args, Debug)]
#[group(id = "pace", multiple = true)]
#[command(next_help_heading = "Strategy")]
pub(crate) struct Pace {
    /// How many targets to work on at the same time: a count, or a share such as 25%; all of a canary step if not given. With
    /// blue-green, how many to switch at the same time; all if not given.
    #[arg(long, value_name = "AMOUNT", conflicts_with = "all_at_once")]
    pub(crate) batch: Option<Amount>,
    /// Work on all targets at the same time.
    #[arg(long, conflicts_with = "strategy")]
    pub(crate) all_at_once: bool,
    /// How targets follow one another; rolling if only others of these flags are given, and neither --all-at-once nor --canary.
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "canary")]
    pub(crate) strategy: Option<StrategyName>,
    /// Blue-green: let what was prepared on all targets warm up for so long, check it once more, then switch.
    #[arg(long, value_name = "TIME", value_parser = crate::when::seconds)]
    pub(crate) warm_up: Option<u64>,
    /// Blue-green: switch when somebody resumes the deployment, and not before.
    #[arg(long, conflicts_with = "warm_up")]
    pub(crate) confirm: bool,
    /// Blue-green: how long to keep the old colour; until the next deployment if not given.
    #[arg(long, value_name = "TIME", value_parser = crate::when::seconds)]
    pub(crate) keep: Option<u64>,
    /// Blue-green between two groups of targets instead of two places on each: the label that is `blue` or `green` on theirs. The
    /// group without traffic gets the release; then --switch leads the traffic there.
    #[arg(long, value_name = "LABEL", requires = "switch")]
    pub(crate) groups: Option<String>,
    /// Groups: the label of the targets that lead the traffic, on which the steps of the phase `switch` are run (can be given more
    /// than once: all of them).
    #[arg(long, value_name = "KEY=VALUE", requires = "groups", value_parser = super::pair)]
    pub(crate) switch: Vec<(String, String)>,
    /// Groups: the one that has the traffic as long as no deployment has switched it.
    #[arg(long, value_enum, value_name = "COLOUR", requires = "groups")]
    pub(crate) live: Option<ColourName>,
    /// A canary step: this percentage of the targets first, then hold for this time, or without a time until somebody resumes it (can be
    /// given more than once).
    #[arg(long, value_name = "PERCENT[:TIME]", conflicts_with = "all_at_once", value_parser = canary_step)]
    pub(crate) canary: Vec<CanaryStep>,
    /// Pause for so long after each batch; a batch begins when the one before has ended as a whole.
    #[arg(long, value_name = "TIME", value_parser = crate::when::seconds, conflicts_with_all = ["all_at_once", "canary"])]
    pub(crate) pause: Option<u64>,
    /// Let at most so many targets be worked on or have failed at the same time.
    #[arg(long, value_name = "AMOUNT", conflicts_with_all = ["all_at_once", "canary", "minimum_healthy"])]
    pub(crate) max_unavailable: Option<Amount>,
    /// Let at least so many targets be neither worked on nor have failed.
    #[arg(long, value_name = "AMOUNT", conflicts_with_all = ["all_at_once", "canary"])]
    pub(crate) minimum_healthy: Option<Amount>,
    /// Take targets in the order of this label, numbers before texts; by name if not given.
    #[arg(long, value_name = "LABEL", conflicts_with_all = ["all_at_once", "by_domain", "spread"])]
    pub(crate) order_by: Option<String>,
    /// Work on one failure domain after the other: never on two values of this label at the same time.
    #[arg(long, value_name = "LABEL", conflicts_with_all = ["all_at_once", "spread"])]
    pub(crate) by_domain: Option<String>,
    /// Spread over failure domains: take the first target of each value of this label, then the second of each, and so on.
    #[arg(long, value_name = "LABEL", conflicts_with = "all_at_once")]
    pub(crate) spread: Option<String>,
}

impl Pace {
    /// Whether any of the flags was given.
    pub(crate) fn is_given(&self) -> bool {
        let Self { batch, all_at_once, strategy, warm_up, confirm, keep, canary, pause, .. } = self;
        let Self { max_unavailable, minimum_healthy, order_by, by_domain, spread, groups, .. } = self;
        *all_at_once
            || *confirm
            || groups.is_some()
            || !canary.is_empty()
            || strategy.is_some()
            || [batch, max_unavailable, minimum_healthy].into_iter().any(Option::is_some)
            || [warm_up, keep, pause].into_iter().any(Option::is_some)
            || [order_by, by_domain, spread].into_iter().any(Option::is_some)
    }
}

/// How targets follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyName {
    /// A number of targets at a time.
    Rolling,
    /// All targets at the same time.
    AllAtOnce,
    /// Prepare the colour that is not live on all targets, then switch them to it.
    BlueGreen,
}

/// One of two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColourName {
    /// The targets with the value `blue`.
    Blue,
    /// The targets with the value `green`.
    Green,
}

/// Reads `PERCENT[:TIME]`.
fn canary_step(text: &str) -> Result<CanaryStep, String> {
    let (percent, soak) = text.split_once(':').map_or((text, None), |(percent, soak)| (percent, Some(soak)));
    let number = |text: &str| format!("{text:?} is no number; expected PERCENT[:TIME], such as 10:10m");
    Ok(CanaryStep {
        percent: percent.parse().map_err(|_| number(percent))?,
        soak_seconds: soak.map(crate::when::seconds).transpose()?,
    })
}
