//! Scenarios, and what comes of them.

use stella_simulate::{Outcome, Summary, read, simulate};

/// What comes of a scenario with this seed, and its event log.
#[track_caller]
fn logged(scenario: &str, seed: u64) -> (Outcome, String) {
    let scenario = read(scenario).unwrap_or_else(|faults| panic!("{faults:?}"));
    let mut log = String::new();
    let outcome = simulate(&scenario, seed, &mut |line| {
        log.push_str(line);
        log.push('\n');
    });
    (outcome.unwrap_or_else(|error| panic!("{error}")), log)
}

#[track_caller]
fn outcome(scenario: &str) -> Outcome {
    logged(scenario, 1).0
}

/// Twenty hosts in four racks, two steps of exactly 10 s and 5 s.
const FLEET: &str = "
fleet:
  - {hosts: 20, name: web, spread: {rack: [a, b, c, d]}}
steps:
  - {name: install, takes: 10s}
  - {name: check, takes: 5s}
";

#[test]
fn durations_are_what_the_steps_and_batches_make() {
    // Each step is sent (10 ms) and its end is known at once.
    let one_ms = 2 * 10 + 15_000;
    let all = outcome(&format!("{FLEET}deploy: {{strategy: {{type: all_at_once}}}}"));
    assert_eq!((all.status.as_str(), all.duration_ms), ("succeeded", one_ms));
    assert_eq!((all.targets.have_it, all.at_risk.most), (20, 20));
    let rolling = outcome(&format!("{FLEET}deploy: {{strategy: {{type: rolling, batch: 5}}}}"));
    assert_eq!((rolling.duration_ms, rolling.at_risk.most), (4 * one_ms, 5));
    let by_rack = "{type: rolling, batch: 20, order: {by: domain, label: rack}}";
    let by_rack = outcome(&format!("{FLEET}deploy: {{strategy: {by_rack}}}"));
    assert_eq!((by_rack.duration_ms, by_rack.at_risk.most), (4 * one_ms, 5));
    let pauses =
        outcome(&format!("{FLEET}deploy: {{strategy: {{type: rolling, batch: 10, pause_ms: 60000}}}}"));
    assert_eq!((pauses.duration_ms, pauses.held_up_ms), (2 * one_ms + 60_000, 60_000));
}

#[test]
fn the_same_seed_gives_the_same_log_to_the_byte() {
    let scenario = "
fleet:
  - {hosts: 60, name: web, spread: {rack: [a, b, c]}}
  - {hosts: 5, name: edge}
environment: {budget: 20%, silence: {percent: 30, within: 1m}, approvals: 2, gates: [{name: errors}]}
steps:
  - {name: install, takes: 10s..40s, fails: 2%}
  - {name: check, takes: 1s..10s}
deploy: {strategy: {type: rolling, batch: 20%}, tolerate_failures: 10%}
people: {approve: 1m..20m}
faults:
  - {what: silent, at: 22m, for: 2m, hosts: 50%}
  - {what: crash, at: 23m, hosts: 3, where: {rack: a}}
  - {what: control_plane_down, at: 24m, for: 20s}
  - {what: gate_closed, gate: errors, at: 0s, for: 10s}
";
    let (first, log) = logged(scenario, 7);
    assert!(log.lines().count() > 500, "{}", log.lines().count());
    for line in log.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(event["fact"]["type"].is_string(), "{line}");
    }
    let (second, again) = logged(scenario, 7);
    assert_eq!((first, log.as_str()), (second, again.as_str()));
    let (_, other) = logged(scenario, 8);
    assert_ne!(log, other);
}

#[test]
fn a_broken_step_stops_the_rollout_and_is_taken_back() {
    let broken = outcome(&format!(
        "{FLEET}deploy: {{strategy: {{type: rolling, batch: 2}}}}\nfaults: [{{what: breaks, step: check, at: 1m}}]"
    ));
    assert_eq!(broken.status, "failed");
    assert!(broken.reason.as_ref().unwrap().starts_with("step check on web-"), "{broken:?}");
    assert_eq!(broken.rollback.as_deref(), Some("succeeded"));
    assert_eq!(broken.targets.have_it, 0);
    // Eight had it within the minute, two were worked on, and it went no further.
    assert_eq!((broken.targets.started, broken.targets.succeeded), (10, 8));
    let stays = outcome(&format!(
        "{FLEET}deploy: {{on_failure: stop}}\nfaults: [{{what: breaks, step: install, hosts: 1}}]"
    ));
    assert_eq!((stays.status.as_str(), stays.rollback), ("failed", None));
}

#[test]
fn silence_pauses_and_fails_nothing() {
    let silent = format!(
        "{FLEET}environment: {{silence: {{percent: 30, within: 1m}}}}
deploy: {{strategy: {{type: rolling, batch: 4}}}}
faults: [{{what: silent, at: 20s, for: 90s, hosts: 60%}}]"
    );
    let silent = outcome(&silent);
    assert_eq!((silent.status.as_str(), silent.targets.failed), ("succeeded", 0));
    let pause = silent.stop_totals.iter().find(|it| it.cause == "silence").expect("a pause");
    assert!((60_000..110_000).contains(&pause.total_ms), "{pause:?}");
}

#[test]
fn what_a_crash_interrupts_is_known_afterwards() {
    let crash = outcome(&format!(
        "{FLEET}deploy: {{strategy: {{type: rolling, batch: 4}}, tolerate_failures: 4}}
faults: [{{what: crash, at: 5s, for: 1m}}]"
    ));
    assert_eq!((crash.status.as_str(), crash.targets.failed), ("succeeded", 4), "{crash:?}");
    assert!(crash.duration_ms > 65_000);
}

#[test]
fn a_control_plane_that_was_away_goes_on_where_it_was() {
    let without = outcome(&format!("{FLEET}deploy: {{strategy: {{type: rolling, batch: 5}}}}"));
    let down = outcome(&format!(
        "{FLEET}deploy: {{strategy: {{type: rolling, batch: 5}}}}
faults: [{{what: control_plane_down, at: 12s, for: 1m}}]"
    ));
    assert_eq!((down.status.as_str(), down.targets.failed), ("succeeded", 0));
    let later = down.duration_ms - without.duration_ms;
    assert!((45_000..80_000).contains(&later), "{later}");
}

#[test]
fn a_deadline_that_passes_while_the_control_plane_is_away_waits_for_what_the_hosts_have_done() {
    let scenario = |lasts: &str| {
        format!(
            "{FLEET}deploy: {{strategy: {{type: all_at_once}}, timeout: 1m}}
faults: [{{what: control_plane_down, at: 13s, for: {lasts}}}]"
        )
    };
    // The last step was on its way to its end everywhere, and is done when it is back.
    let down = outcome(&scenario("10m"));
    assert_eq!((down.status.as_str(), down.targets.have_it), ("succeeded", 20), "{down:?}");
    assert_eq!(logged(&scenario("10m"), 7), logged(&scenario("10m"), 7));
}

#[test]
fn people_and_gates_hold_it_up_and_let_it_go() {
    let approved = outcome(&format!(
        "{FLEET}environment: {{approvals: 2}}
deploy: {{strategy: {{type: all_at_once}}}}
people: {{approve: 30m}}"
    ));
    assert_eq!((approved.status.as_str(), approved.held_up_ms), ("succeeded", 1_800_000));
    let nobody = outcome(&format!("{FLEET}environment: {{approvals: 1}}"));
    assert_eq!(nobody.status, "expired");
    let gate = outcome(&format!(
        "{FLEET}environment: {{gates: [{{name: errors, ttl: 5s}}]}}
deploy: {{strategy: {{type: rolling, batch: 5}}}}
faults: [{{what: gate_closed, gate: errors, at: 20s}}]"
    ));
    assert_eq!(gate.status, "failed");
    assert!(gate.reason.as_ref().unwrap().contains("errors"), "{gate:?}");
    assert_eq!((gate.rollback.as_deref(), gate.targets.have_it), (Some("succeeded"), 0));
    let manual = "{type: canary, steps: [{percent: 10}]}";
    let stuck = outcome(&format!("{FLEET}deploy: {{strategy: {manual}}}"));
    assert_eq!((stuck.status.as_str(), stuck.targets.have_it), ("waiting", 2));
    let resumed = outcome(&format!("{FLEET}deploy: {{strategy: {manual}}}\npeople: {{resume: 10m}}"));
    assert_eq!((resumed.status.as_str(), resumed.held_up_ms), ("succeeded", 600_000));
    let asked = outcome(&format!(
        "{FLEET}deploy: {{on_failure: ask, strategy: {{type: all_at_once}}}}
people: {{decide: 5m}}
faults: [{{what: breaks, step: check, hosts: 3, for: 2m}}]"
    ));
    assert_eq!((asked.status.as_str(), asked.targets.have_it), ("succeeded", 20), "{asked:?}");
    let cancelled = outcome(&format!("{FLEET}faults: [{{what: cancel, at: 1m}}]"));
    assert_eq!((cancelled.status.as_str(), cancelled.duration_ms), ("cancelled", 61_010));
}

#[test]
fn a_gate_is_asked_while_a_canary_soaks_and_while_all_bake() {
    let canary = "strategy: {type: canary, steps: [{percent: 10, soak_ms: 600000}]}";
    let soaks = outcome(&format!(
        "{FLEET}environment: {{gates: [{{name: errors, ttl: 1m, verifies: true}}]}}
deploy: {{{canary}}}
faults: [{{what: gate_closed, gate: errors, at: 5m}}]"
    ));
    assert_eq!((soaks.status.as_str(), soaks.targets.started), ("failed", 2), "{soaks:?}");
    assert_eq!((soaks.rollback.as_deref(), soaks.targets.have_it), (Some("succeeded"), 0));
    let bakes = |more: &str| {
        outcome(&format!(
            "{FLEET}environment: {{bake: 10m, gates: [{{name: errors, ttl: 1m, verifies: true}}]}}
deploy: {{strategy: {{type: all_at_once}}}}
{more}"
        ))
    };
    let good = bakes("");
    assert_eq!((good.status.as_str(), good.held_up_ms), ("succeeded", 600_000), "{good:?}");
    assert_eq!(good.stop_totals[0].cause, "verification");
    let bad = bakes("faults: [{what: gate_closed, gate: errors, at: 5m}]");
    assert_eq!((bad.status.as_str(), bad.rollback.as_deref()), ("failed", Some("succeeded")));
    // Nobody resumes it: asking its gate again is nothing that would end that.
    let (stuck, log) = logged(
        &format!(
            "{FLEET}environment: {{gates: [{{name: errors}}]}}
deploy: {{strategy: {{type: canary, steps: [{{percent: 10}}]}}}}"
        ),
        1,
    );
    assert_eq!((stuck.status.as_str(), stuck.targets.have_it), ("waiting", 2), "{stuck:?}");
    assert!(log.lines().count() < 200, "{} events", log.lines().count());
}

#[test]
fn hosts_that_are_away_hold_up_what_needs_them() {
    let away = format!(
        "{}  - {{hosts: 1, name: edge, away: true}}\n{}",
        "\nfleet:\n  - {hosts: 3}\n", "steps: [{name: a, takes: 1s}]\n"
    );
    let away = outcome(&format!("{away}deploy: {{strategy: {{type: all_at_once}}, timeout: 10m}}"));
    // Ten minutes for it; its rollback has nothing to do on the host that was never reached, and takes the others back at once.
    assert_eq!((away.status.as_str(), away.duration_ms), ("failed", 601_010), "{away:?}");
    assert!(away.reason.unwrap().contains("did not finish within 10 min"));
}

#[test]
fn hosts_that_could_not_go_back_hold_up_what_they_have_to_prove_it_for() {
    let proof = |policy: &str, more: &str| {
        outcome(&format!(
            "{FLEET}environment: {{{policy}}}\ndeploy: {{strategy: {{type: all_at_once}}}}\n{more}"
        ))
    };
    let without = proof("", "");
    let reported = proof("way_back_proof: reported, proof_fails: 100%", "");
    assert_eq!((reported.status.as_str(), reported.duration_ms), ("succeeded", without.duration_ms));
    let required = proof("way_back_proof: required, proof_takes: 20s", "");
    assert_eq!(
        (required.status.as_str(), required.held_up_ms),
        ("succeeded", 0),
        "a good answer is no pause"
    );
    assert_eq!(required.duration_ms, without.duration_ms + 20_000 + 10);
    let slow = "way_back_proof: required, proof_takes: 5m";
    let stuck = proof(slow, "");
    assert_eq!((stuck.status.as_str(), stuck.targets.started), ("waiting", 0), "{stuck:?}");
    let waived = proof(slow, "people: {resume: 10m}");
    assert_eq!((waived.status.as_str(), waived.held_up_ms), ("succeeded", 600_000), "{waived:?}");
    let lost = proof("way_back_proof: required, proof_fails: 20%", "");
    assert_eq!((lost.status.as_str(), lost.targets.started), ("waiting", 0));
    let pause = lost.stop_totals.iter().find(|it| it.cause == "way_back");
    assert!(pause.is_some(), "{:?}", lost.stop_totals);
    let back = proof("way_back_proof: required", "faults: [{what: silent, at: 0s, for: 3m, hosts: 2}]");
    assert_eq!(
        (back.status.as_str(), back.targets.have_it),
        ("succeeded", 20),
        "asked again when they are back"
    );
}

/// Ten hosts, and a canary of one of them that soaks for ten minutes.
const CANARY: &str = "
fleet: [{hosts: 10, name: web}]
steps: [{name: install, takes: 10s}]
";

#[test]
fn a_canary_soaks_on_the_next_host_if_the_first_is_out_of_rotation_or_left_out() {
    let canary = "strategy: {type: canary, steps: [{percent: 10, soak_ms: 600000}]}";
    let drained = outcome(&format!("{CANARY}deploy: {{{canary}}}\nfaults: [{{what: drain, hosts: 9}}]\n"));
    // One host is left: it is the canary, and there is nobody to hold back.
    assert_eq!((drained.status.as_str(), drained.targets.have_it, drained.held_up_ms), ("succeeded", 1, 0));
    let first = outcome(&format!(
        "{}deploy: {{{canary}}}\nfaults: [{{what: drain, where: {{first: \"yes\"}}}}]\n",
        CANARY.replace("[{hosts: 10", "[{hosts: 1, name: a, labels: {first: \"yes\"}}, {hosts: 9")
    ));
    assert_eq!((first.status.as_str(), first.targets.have_it, first.targets.skipped), ("succeeded", 9, 1));
    assert_eq!(first.stops[0].reason, "canary step 1: 1 of 10 targets have the release");
    assert_eq!((first.held_up_ms, first.at_risk.most), (600_000, 8), "the others when it is proven");

    // Its first host fails, and somebody leaves it out: another one soaks in its place.
    let failed = outcome(&format!(
        "{}deploy: {{{canary}, on_failure: ask}}\npeople: {{decide: 1m, decision: skip}}\nfaults: [{{what: breaks, step: install, where: {{first: \"yes\"}}}}]\n",
        CANARY.replace("[{hosts: 10", "[{hosts: 1, name: a, labels: {first: \"yes\"}}, {hosts: 9")
    ));
    assert_eq!((failed.status.as_str(), failed.targets.have_it, failed.at_risk.most), ("succeeded", 9, 8));
    let soaks = failed.stops.iter().find(|stop| stop.cause == "canary_step").unwrap();
    assert_eq!(soaks.reason, "canary step 1: 1 of 10 targets have the release");

    // Those that wait can be left out, and are taken to have no part in it.
    let skipped =
        outcome(&format!("{CANARY}deploy: {{{canary}}}\nfaults: [{{what: skip, at: 1m, hosts: 4}}]\n"));
    assert_eq!(skipped.status, "succeeded");
    assert!((3..=4).contains(&skipped.targets.skipped), "{skipped:?}");
}

#[test]
fn slow_hosts_are_slow_whatever_the_strategy() {
    let steps = "fleet: [{hosts: 30}]\nsteps: [{name: a, takes: 1s..100s}]\n";
    let slowest = |strategy: &str| outcome(&format!("{steps}deploy: {{strategy: {strategy}}}")).duration_ms;
    let all = slowest("{type: all_at_once}");
    assert_eq!(all, slowest("{type: rolling, batch: 30}"));
    let one_by_one = logged(&format!("{steps}deploy: {{timeout: 1d}}"), 1).0.duration_ms;
    assert!(one_by_one > all);
}

#[test]
fn many_seeds_make_a_summary() {
    let scenario = read(&FLEET.replace("takes: 5s", "takes: 5s..20s, fails: 3%")).unwrap();
    let outcomes: Vec<Outcome> =
        (10..60).map(|seed| simulate(&scenario, seed, &mut |_| {}).unwrap()).collect();
    let summary = Summary::of(&outcomes).unwrap();
    assert_eq!((summary.runs, summary.first_seed), (50, 10));
    assert_eq!(summary.statuses.values().sum::<u32>(), 50);
    assert_eq!(
        summary.reasons.first().map(|(reason, _)| reason.as_str()),
        Some("step check failed: it fails in the simulation")
    );
    let durations = summary.duration_ms;
    assert!(
        durations.least <= durations.p50 && durations.p50 <= durations.p90 && durations.p90 <= durations.most
    );
    let worst = outcomes.iter().find(|it| it.seed == durations.most_seed).unwrap();
    assert_eq!(worst.duration_ms, durations.most);
    assert_eq!(Summary::of(&[]), None);
}

#[test]
fn what_is_wrong_has_a_place() {
    for (text, expected) in [
        ("fleet: []\nsteps: []\n", "line 1, column 8: fleet: has 0 hosts"),
        ("fleet: [{hosts: 1}]\nsteps: []\n", "line 2, column 8: steps: has none"),
        (
            "fleet: [{hosts: 20000}]\nsteps: [{name: a, takes: 1s}]\n",
            "line 1, column 8: fleet: has 20000 hosts",
        ),
        (
            "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 9s..1s}]\n",
            "line 2, column 26: steps[0].takes: begins with",
        ),
        (
            "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 1s, fails: 101%}]\n",
            "line 2, column 37: steps[0].fails: is no chance",
        ),
        (
            "fleet: [{hosts: 1, racks: 2}]\nsteps: [{name: a, takes: 1s}]\n",
            "line 1, column 20: fleet[0].racks: unknown field",
        ),
        (
            "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 1s}]\nfaults: [{what: breaks, step: b}]\n",
            "line 3, column 31: faults[0].step: there is no step b",
        ),
        (
            "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 1s}]\nfaults: [{what: crash, at: 1m, where: {rack: a}}]\n",
            "line 3, column 39: faults[0].where: no host has these labels",
        ),
        (
            "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 1s}]\ndeploy: {strategy: {type: rolling, batch: 101%}}\n",
            "line 3, column 43: deploy.strategy.batch: ",
        ),
        (
            "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 1s}, {name: a, takes: 1s}]\n",
            "line 2, column 38: steps[1].name: ",
        ),
        (
            "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 1s}]\nenvironment: {silence: {percent: 0, within: 1m}}\n",
            "line 3, column 24: environment.silence: ",
        ),
        ("- a\n", "line 1, column 1: must be a map with fleet, steps and deploy"),
        (
            "fleet: [{hosts: 1}]\nsteps: [{name: a, takes: 1s}]\nstarts: now\n",
            "line 3, column 9: starts: is no point in time",
        ),
    ] {
        let found: Vec<String> =
            read(text).err().unwrap_or_default().iter().map(ToString::to_string).collect();
        assert!(found.first().is_some_and(|it| it.starts_with(expected)), "{text}: {found:?}");
    }
}

/// The group without traffic is prepared at no risk; only what leads the traffic is, one after the other.
#[test]
fn two_groups_risk_only_what_leads_the_traffic() {
    let scenario = |fault: &str| {
        format!(
            "
fleet:
  - {{hosts: 6, name: web, spread: {{colour: [blue, green]}}}}
  - {{hosts: 2, name: lb, labels: {{role: lb}}}}
steps:
  - {{name: install, takes: 10s}}
  - {{name: lead, takes: 1s, phase: switch}}
deploy: {{strategy: {{type: blue_green, batch: 1, groups: {{label: colour, switch: {{role: lb}}}}}}}}
{fault}"
        )
    };
    let good = outcome(&scenario(""));
    assert_eq!((good.status.as_str(), good.targets.total, good.targets.have_it), ("succeeded", 8, 5));
    assert_eq!((good.at_risk.most, good.duration_ms), (1, 10_000 + 2 * 1_000 + 3 * 10));
    let bad = outcome(&scenario("faults: [{what: breaks, step: lead, hosts: 1, where: {role: lb}}]"));
    assert_eq!((bad.status.as_str(), bad.rollback.as_deref()), ("failed", Some("succeeded")));
    assert_eq!(bad.at_risk.most, 1);
}

const ON_ITS_WAY: &str = "
fleet: [{hosts: 20}]
path: [{name: staging, hosts: 2, soak: 1h}, {name: site-1, hosts: 5}]
steps: [{name: install, takes: 10s}]
deploy: {strategy: {type: rolling, batch: 50%}}
";

#[test]
fn a_release_goes_through_what_comes_before() {
    let outcome = outcome(ON_ITS_WAY);
    assert_eq!(outcome.status, "succeeded");
    // Only those that it is about are counted.
    assert_eq!((outcome.targets.total, outcome.targets.have_it, outcome.at_risk.most), (20, 20, 10));
    let [path] = outcome.stop_totals.as_slice() else { panic!("{:?}", outcome.stop_totals) };
    assert_eq!(path.reason, "it has to succeed in staging for 1h, then in site-1 first");
    let one_ms = 10 + 10_000;
    assert_eq!((path.total_ms, outcome.duration_ms), (2 * one_ms + 3_600_000, 4 * one_ms + 3_600_000));
}

#[test]
fn a_release_that_fails_on_its_way_comes_no_further() {
    let outcome = outcome(&ON_ITS_WAY.replace("takes: 10s", "takes: 10s, fails: 100%"));
    assert_eq!((outcome.status.as_str(), outcome.targets.started, outcome.targets.have_it), ("failed", 0, 0));
    let reason = outcome.reason.unwrap();
    assert!(reason.starts_with("in staging, on the way: step install on staging-"), "{reason}");
}

#[test]
fn it_waits_on_its_way_for_a_freeze_to_end_and_faults_are_counted_from_the_last_request() {
    let more = "environment: {freezes: [{name: night, reason: sleep, from: '2026-01-05T09:30', to: '2026-01-05T12:00', time_zone: UTC}]}
people: {}
faults: [{what: silent, at: 5s, for: 1m, hosts: 20}]
";
    let outcome = outcome(&format!("{ON_ITS_WAY}{more}"));
    assert_eq!(outcome.status, "succeeded");
    // Three hours after the request the freeze is over.
    assert!((10_800_000..10_920_000).contains(&outcome.stops[0].until_ms.unwrap()), "{outcome:?}");
    assert!(outcome.duration_ms > 10_860_000, "{outcome:?}");
}

#[test]
fn what_is_wrong_with_a_path_is_told_before_anything_happens() {
    let wrong = |from: &str, to: &str| {
        let faults = read(&ON_ITS_WAY.replace(from, to)).unwrap_err();
        faults[0].to_string()
    };
    assert!(wrong("hosts: 2,", "hosts: 0,").contains("path[0].hosts"), "{}", wrong("hosts: 2,", "hosts: 0,"));
    assert!(wrong("site-1", "staging").contains("path[1].name"));
    assert!(wrong("1h", "31d").contains("path[0].soak: is longer than 30 days"));
    let impossible = wrong("batch: 50%", "batch: 50%, max_unavailable: 1");
    assert!(impossible.contains("deploy.strategy.batch"), "{impossible}");
}
