//! What would a deployment do? The real core, a virtual clock, and hosts that exist only as the times that they take.
//!
//! A [`Scenario`] describes a fleet, what a release does on a host and how long that takes, the policy of an environment, and
//! what goes wrong meanwhile. [`simulate`] lets [`stella_domain`] decide about it, event by event, as the control plane
//! would: only the agents, the network, the people and the time are made up. With the same scenario and the same seed it does
//! the same to the byte ([`Outcome::log_digest`]).
//!
//! Chance is drawn for each host and step by itself, so that two strategies meet the same slow hosts and the same
//! failures.
//!
//! What is not simulated: the load of the control plane and of the network (a thousand targets at once take as long as one),
//! waiting for an artifact's bytes (give the step a longer time), and disks.

mod agents;
mod dice;
mod fault;
mod figures;
mod fleet;
mod host;
mod people;
mod queue;
mod scenario;
mod setup;
mod world;

use stella_domain::workflow::Span;
use stella_workflow_file::{Fault as FileFault, Source};

pub use figures::{AtRisk, Milestone, Outcome, Spread, Stop, StopTotal, Summary, Targets};
pub use scenario::{STAGES_MAX, Scenario};
pub use world::Impossible;

/// How many seeds may be tried in one go.
pub const RUNS_MAX: u32 = 10_000;

/// Reads a scenario: YAML, and so JSON.
///
/// # Errors
/// With everything that is wrong with it, in the order of the file.
pub fn read(text: &str) -> Result<Scenario, Vec<FileFault>> {
    let source = Source::parse_a("scenario", "fleet, steps and deploy", text).map_err(|fault| vec![fault])?;
    let scenario: Scenario = source.value().map_err(|fault| vec![fault])?;
    let mut faults: Vec<FileFault> =
        scenario.check().into_iter().map(|(field, problem)| source.fault(field, problem)).collect();
    if faults.is_empty()
        && let Err(Impossible { field, problem }) = world::World::new(&scenario, 0, &mut |_| {})
    {
        faults.push(source.fault(field, problem));
    }
    faults.sort_by_key(|fault| fault.at);
    if faults.is_empty() { Ok(scenario) } else { Err(faults) }
}

/// Lets a scenario happen once. Each event from the request on is given to `log` as a line of JSON without its line feed.
///
/// # Errors
/// If the core refuses the request: then it would be refused in earnest too.
pub fn simulate(scenario: &Scenario, seed: u64, log: &mut dyn FnMut(&str)) -> Result<Outcome, Impossible> {
    world::World::new(scenario, seed, log)?.run()
}

/// A length of time for people: what is longer than ten seconds to the second.
#[must_use]
pub fn length(milliseconds: u64) -> String {
    let rounded = if milliseconds < 10_000 { milliseconds } else { (milliseconds + 500) / 1_000 * 1_000 };
    Span(rounded).to_string()
}
