//! Whatever a scenario holds: the simulation comes to an end, the core never refuses what honest agents and people say, and what the
//! environment's policy promises is kept.

use proptest::prelude::*;
use stella_simulate::{Outcome, read, simulate};

/// How a deployment goes.
fn strategies() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{type: all_at_once}".to_owned()),
        (1_u32..6).prop_map(|batch| format!("{{type: rolling, batch: {batch}}}")),
        (1_u32..=100).prop_map(|batch| format!("{{type: rolling, batch: {batch}%, pause_ms: 20000}}")),
        Just("{type: rolling, batch: 3, order: {by: domain, label: rack}}".to_owned()),
        (1_u32..50, 50_u32..99).prop_map(|(one, two)| format!(
            "{{type: canary, steps: [{{percent: {one}, soak_ms: 30000}}, {{percent: {two}}}]}}"
        )),
    ]
}

/// What goes wrong.
fn faults() -> impl Strategy<Value = String> {
    let when = (0_u32..300, 1_u32..120);
    prop_oneof![
        (when.clone(), 1_u32..=100).prop_map(|((at, lasts), share)| format!(
            "{{what: silent, at: {at}s, for: {lasts}s, hosts: {share}%}}"
        )),
        (when.clone(), 1_u32..4).prop_map(|((at, lasts), hosts)| format!(
            "{{what: crash, at: {at}s, for: {lasts}s, hosts: {hosts}}}"
        )),
        (when.clone(), 1_u32..4).prop_map(|((at, lasts), hosts)| format!(
            "{{what: breaks, step: two, at: {at}s, for: {lasts}s, hosts: {hosts}}}"
        )),
        when.clone()
            .prop_map(|(at, lasts)| format!("{{what: control_plane_down, at: {at}s, for: {lasts}s}}")),
        when.clone()
            .prop_map(|(at, lasts)| format!("{{what: gate_closed, gate: errors, at: {at}s, for: {lasts}s}}")),
        when.prop_map(|(at, lasts)| format!("{{what: pause, at: {at}s, for: {lasts}s}}")),
        (0_u32..600).prop_map(|at| format!("{{what: cancel, at: {at}s}}")),
        (1_u32..120, 1_u32..4)
            .prop_map(|(lasts, hosts)| format!("{{what: drain, for: {lasts}s, hosts: {hosts}}}")),
        (0_u32..300, 1_u32..4).prop_map(|(at, hosts)| format!("{{what: drain, at: {at}s, hosts: {hosts}}}")),
        (0_u32..300, 1_u32..4).prop_map(|(at, hosts)| format!("{{what: skip, at: {at}s, hosts: {hosts}}}")),
    ]
}

prop_compose! {
    fn scenarios()(
        hosts in 1_u32..12,
        budget in 1_u32..=100,
        gates in any::<bool>(),
        proof in prop_oneof![Just("off"), Just("reported"), Just("required")],
        lost in prop_oneof![2 => Just(0_u32), 1 => 1_u32..30],
        strategy in strategies(),
        on_failure in prop_oneof![Just("rollback"), Just("stop"), Just("ask")],
        tolerated in 0_u32..50,
        decision in prop_oneof![Just("retry"), Just("skip"), Just("roll_back")],
        faults in prop::collection::vec(faults(), 0..5),
    ) -> (u32, u32, String) {
        let mut text = format!(
            "fleet: [{{hosts: {hosts}, spread: {{rack: [a, b, c]}}}}]
environment: {{budget: {budget}%, silence: {{percent: 40, within: 30s}}, way_back_proof: {proof}, proof_takes: 1s..150s, proof_fails: {lost}%{}}}
steps: [{{name: one, takes: 1s..20s}}, {{name: two, takes: 1s..20s, fails: 5%, timeout: 18s}}]
deploy: {{strategy: {strategy}, on_failure: {on_failure}, tolerate_failures: {tolerated}%, timeout: 20m}}
people: {{resume: 10s..1m, decide: 10s..1m, decision: {decision}}}
faults:
",
            if gates { ", gates: [{name: errors, ttl: 10s}]" } else { "" }
        );
        for fault in faults.iter().filter(|fault| gates || !fault.contains("gate_closed")) {
            text.push_str(&format!("  - {fault}\n"));
        }
        if text.ends_with("faults:\n") {
            text.push_str("  []\n");
        }
        (hosts, budget, text)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_ends_keeps_the_budget_and_is_the_same_again((hosts, budget, text) in scenarios(), seed in any::<u64>()) {
        let scenario = match read(&text) {
            Ok(scenario) => scenario,
            // Some deployments could never be made: the core says so, and where.
            Err(faults) => {
                prop_assert!(faults.iter().all(|fault| fault.field.starts_with("deploy.")), "{}\n{:?}", text, faults);
                return Ok(());
            }
        };
        let run = || -> Result<Outcome, TestCaseError> {
            simulate(&scenario, seed, &mut |_| {})
                .map_err(|error| TestCaseError::fail(format!("{text}\nseed {seed}: {error}")))
        };
        let outcome = run()?;
        let most = (hosts * budget / 100).max(1);
        prop_assert!(outcome.at_risk.most <= most.max(1) + outcome.targets.failed, "{}\n{:?}", text, outcome);
        let ends = ["succeeded", "failed", "cancelled", "invalidated", "expired", "waiting"];
        prop_assert!(ends.contains(&outcome.status.as_str()), "{}\n{:?}", text, outcome);
        if outcome.status == "succeeded" {
            let with_it = outcome.targets.have_it;
            prop_assert_eq!(with_it + outcome.targets.failed + outcome.targets.skipped, hosts);
        }
        prop_assert_eq!(outcome, run()?);
    }
}
