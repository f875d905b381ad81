//! What would a deployment do?

use std::path::PathBuf;

use clap::Args;

/// Needs no control plane: the rules that decide are in this program too.
///
/// A scenario says how many hosts there are, what a release does on one and how long that takes, what goes for the environment,
/// and what goes wrong. See the book's page about simulation for all that it may hold.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Simulate {
    /// The scenario: a YAML or JSON file.
    pub(crate) scenario: PathBuf,
    /// The random seed. The same scenario and seed give exactly the same events.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How many seeds to try, from that one on; with more than one, how the results are spread is told.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(stella_simulate::RUNS_MAX)))]
    pub(crate) runs: u32,
    /// Write the events, from the request on, as lines of JSON.
    #[arg(long, value_name = "FILE", conflicts_with = "runs")]
    pub(crate) events: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  stella simulate scenario.yaml
  stella simulate scenario.yaml --seed 42 --events events.jsonl
  stella simulate scenario.yaml --runs 1000 --output json

A scenario:
  fleet:
    - {hosts: 200, name: web, spread: {rack: [a, b, c, d]}}
  environment: {budget: 10%, silence: {percent: 30, within: 1m}}
  steps:
    - {name: install, takes: 20s..60s, fails: 0.5%}
    - {name: check, takes: 5s..10s}
  deploy:
    strategy: {type: rolling, batch: 10%}
    tolerate_failures: 2%
  faults:
    - {what: silent, at: 5m, for: 2m, hosts: 40%}

Exit codes: 0 it succeeds, with every seed; 1 it does not; 2 the scenario cannot be read, or would be refused.";
