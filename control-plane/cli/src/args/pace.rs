//! How the targets of a deployment follow one another.

use clap::Args;
use stella_api_types::amount::Amount;
use stella_api_types::deployment::CanaryStep;

/// Flags of `stella deploy` that make its strategy.
#[derive(Args, Debug)]
#[command(next_help_heading = "Strategy")]
pub(crate) struct Pace {
    /// How many targets to work on at the same time: a count, or a share such as 25%; 1 if not given, or all of a canary step.
    #[arg(long, value_name = "AMOUNT", conflicts_with = "all_at_once")]
    pub(crate) batch: Option<Amount>,
    /// Work on all targets at the same time.
    #[arg(long)]
    pub(crate) all_at_once: bool,
    /// So many percent of the targets first, then hold for so long, or without a time until somebody resumes it (can be given
    /// more than once).
    #[arg(long, value_name = "PERCENT[:SECONDS]", conflicts_with = "all_at_once", value_parser = canary_step)]
    pub(crate) canary: Vec<CanaryStep>,
    /// Pause for so long after each batch; a batch begins when the one before has ended as a whole.
    #[arg(long, value_name = "SECONDS", conflicts_with_all = ["all_at_once", "canary"])]
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
    /// Go on as long as no more than so many targets have failed; none may if not given.
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) tolerate: Option<Amount>,
}

/// Reads `PERCENT[:SECONDS]`.
fn canary_step(text: &str) -> Result<CanaryStep, String> {
    let (percent, soak) = text.split_once(':').map_or((text, None), |(percent, soak)| (percent, Some(soak)));
    let number = |text: &str| format!("{text:?} is no number; expected PERCENT[:SECONDS], such as 10:600");
    Ok(CanaryStep {
        percent: percent.parse().map_err(|_| number(percent))?,
        soak_seconds: soak.map(|soak| soak.parse().map_err(|_| number(soak))).transpose()?,
    })
}
