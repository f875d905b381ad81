//! Deployments, with every strategy, and what becomes of their targets.

use super::*;

fn proof_facts(world: &World) -> Vec<(String, Fact)> {
    let id = deployment(2);
    let number = world.deployment(id).way_back.asked;
    let asked = |number, targets: &[u128]| Fact::WayBackAsked {
        deployment: id,
        number,
        targets: targets.iter().map(|n| target(*n)).collect(),
        until: Timestamp(9_000_000),
    };
    let answered = |answer| Fact::WayBackAnswered { deployment: id, target: target(1), answer };
    let reason = || "x".to_owned();
    [
        ("way_back_asked", asked(number + 1, &[1, 2])),
        ("way_back_asked, nobody", asked(number + 1, &[])),
        ("way_back_asked, the same again", asked(number, &[1])),
        ("way_back_answered, proven", answered(ProofAnswer::Proven { files: 1, bytes: 2 })),
        ("way_back_answered, refuted", answered(ProofAnswer::Refuted { reason: reason() })),
        ("way_back_unanswered", Fact::WayBackUnanswered { deployment: id }),
        ("way_back_waived", Fact::WayBackWaived { deployment: id, reason: reason() }),
    ]
    .map(|(name, fact)| (name.to_owned(), fact))
    .into()
}

fn deployment_facts(world: &World) -> Vec<(String, Fact)> {
    let (id, reason) = (deployment(2), "x".to_owned());
    let part = &world.deployment(id).targets[&target(1)].progress;
    let task = part.task().unwrap_or(TaskId(uuid::Uuid::nil()));
    let pause = |until, canary_step, cause| Fact::DeploymentPaused {
        id,
        reason: reason.clone(),
        until,
        canary_step,
        cause,
    };
    let paused = |until, canary_step| pause(until, canary_step, PauseCause::Person);
    let mut facts: Vec<(String, Fact)> = vec![
        paused(None, None),
        Fact::DeploymentResumed { id },
        Fact::DeploymentHalted {
            id,
            reason: reason.clone(),
            on_failure: None,
            cause: RollbackReason::DeploymentFailed,
        },
        Fact::DeploymentCancelRequested { id, reason: reason.clone() },
        Fact::DeploymentOverdue { id, reason: reason.clone() },
        Fact::DeploymentPutOff { id, until: Some(Timestamp(9_000_000)) },
        Fact::DeploymentSucceeded { id, proves: None },
        Fact::DeploymentFailed { id, reason: reason.clone(), keeps_proof: false },
        Fact::DeploymentCancelled { id, reason: reason.clone() },
        Fact::DeploymentArchived { id },
    ]
    .into_iter()
    .map(|fact| (fact.name().to_owned(), fact))
    .collect();
    facts.push(("deployment_put_off, no more".to_owned(), Fact::DeploymentPutOff { id, until: None }));
    facts.push(("deployment_paused, canary step 1".to_owned(), paused(Some(Timestamp(9_000_000)), Some(1))));
    facts.push(("deployment_paused, canary step 2".to_owned(), paused(None, Some(2))));
    facts.push((
        "deployment_paused, batch".to_owned(),
        pause(Some(Timestamp(9_000_000)), None, PauseCause::Batch),
    ));
    facts.push((
        "deployment_paused, verification".to_owned(),
        pause(Some(Timestamp(9_000_000)), None, PauseCause::Verification),
    ));
    facts.push(("deployment_paused, warm-up".to_owned(), pause(None, None, PauseCause::WarmUp)));
    for stage in [Stage::Check, Stage::Switch] {
        let name = format!("deployment_stage_began, {}", stage.name());
        facts.push((name, Fact::DeploymentStageBegan { id, stage }));
    }
    facts.push(("deployment_paused, way back".to_owned(), pause(None, None, PauseCause::WayBack)));
    facts.extend(proof_facts(world));
    facts.push(("deployment_keep_ended".to_owned(), Fact::DeploymentKeepEnded { id }));
    facts.push(("deployment_created, again".to_owned(), created(id, 1)));
    facts.push(("deployment_created, another on web-1".to_owned(), created(deployment(9), 1)));
    facts.extend(target_facts(id, task));
    facts
}

fn target_facts(id: DeploymentId, task: TaskId) -> Vec<(String, Fact)> {
    let (mut facts, reason) = (Vec::new(), "x".to_owned());
    for n in [1, 2] {
        let started = Fact::TargetStarted { deployment: id, target: target(n), generation: Generation(2) };
        let mut more = vec![
            started,
            Fact::TargetSkipped { deployment: id, target: target(n), reason: None, never_came: false },
            Fact::TargetSucceeded { deployment: id, target: target(n) },
            Fact::TargetAbandoned { deployment: id, target: target(n) },
            Fact::TargetReady { deployment: id, target: target(n) },
            Fact::TargetWentOn { deployment: id, target: target(n) },
        ];
        more.push(Fact::TargetRetried {
            deployment: id,
            target: target(n),
            generation: Generation(u64::MAX),
        });
        if n == 1 {
            more.push(Fact::TargetFailed { deployment: id, target: target(n), task, reason: reason.clone() });
        }
        facts.extend(more.into_iter().map(|fact| (format!("{}, web-{n}", fact.name()), fact)));
        let skipped = Fact::TargetSkipped {
            deployment: id,
            target: target(n),
            reason: Some(reason.clone()),
            never_came: false,
        };
        facts.push((format!("target_skipped, web-{n}, by somebody"), skipped));
    }
    facts
}

/// A deployment of two targets, one at a time: `web-1` is worked on and `web-2` waits.
pub(super) fn deployments(table: &mut String) {
    let fresh = || {
        let mut world = World::with_release_1(2);
        world.events.clear();
        world
    };
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: &dyn Fn(&mut World)| {
        let mut world = fresh();
        let mut state = world.state.clone();
        world.deploy(2, 2, Some(1));
        steps(&mut world);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    let cancel = |world: &mut World| {
        world.ok(TenantCommand::CancelDeployment { deployment: deployment(2), reason: String::new() });
    };
    reached("running, a task is open", "", &|_| ());
    reached("running, paused", "", &|world| {
        world.ok(TenantCommand::PauseDeployment { deployment: deployment(2), reason: String::new() });
    });
    reached("running, a task is unknown", "", &|world| {
        world.finish(1, TaskOutcome::Unknown { reason: String::new() });
    });
    reached("running, the last task has failed", "target_failed", &|world| {
        world.finish(1, failed("x"));
    });
    reached("running, the last task has succeeded", "target_succeeded", &|world| world.complete(1));
    reached("running, all have succeeded", "deployment_succeeded", &|world| {
        world.complete(1);
        world.complete(2);
    });
    reached("halting, web-2 not skipped yet", "target_skipped", &|world| {
        world.finish(1, failed("x"));
    });
    reached("halting, all have ended", "deployment_failed", &|world| {
        world.finish(1, failed("x"));
    });
    reached("halting, overdue", "task_became_unknown", &|world| world.wait_ms(3_660_000));
    reached("cancelling, a task is open", "", &|world| cancel(world));
    reached("cancelling, the last task is unknown", "target_abandoned", &|world| {
        cancel(world);
        world.wait_ms(60_000);
    });
    reached("cancelling, all have ended", "deployment_cancelled", &|world| {
        cancel(world);
        world.finish(1, TaskOutcome::Cancelled);
    });
    reached("cancelled", "", &|world| {
        cancel(world);
        world.finish(1, TaskOutcome::Cancelled);
    });
    reached("cancelled, web-1 is blocked", "", &|world| {
        cancel(world);
        world.wait_ms(60_000);
    });
    reached("failed", "", &|world| {
        world.finish(1, failed("x"));
    });
    reached("succeeded", "", &|world| {
        world.complete(1);
        world.complete(2);
    });
    deployment_rows(table, situations);
}

/// Two targets that have the release, which bakes in there for a minute before the deployment has succeeded.
pub(super) fn bakes(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: &dyn Fn(&mut World)| {
        let mut world = World::with_release_1(2);
        let verification = Some(Verification { bake_ms: 60_000 });
        world.ok(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
        world.set_gate(Gate { verifies: true, ttl_ms: 7_200_000, ..common::gate("errors", common::http()) });
        let mut state = world.state.clone();
        world.events.clear();
        world.deploy(2, 2, Some(2));
        world.complete(1);
        steps(&mut world);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    let all = |world: &mut World| world.complete(2);
    let over = |world: &mut World| {
        world.complete(2);
        world.answer(2, "errors", Outcome::Passed);
        world.wait_ms(60_000);
    };
    reached("to be verified, web-2 is worked on", "", &|_| ());
    reached("to be verified, all are through", "deployment_paused", &all);
    reached("it bakes", "", &all);
    reached("it has baked, and its gate is asked", "", &over);
    reached("it has baked, and its gate lets through", "deployment_succeeded", &|world| {
        over(world);
        world.answer(2, "errors", Outcome::Passed);
    });
    deployment_rows(table, situations);
}

/// Two targets that are prepared, warm up, are checked once more and switched; the old colour is kept for a minute.
pub(super) fn blue_greens(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: [usize; 2], warm_up_ms| {
        let mut world = World::with_release_1(2);
        world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
        world.ok(TenantCommand::CreateRelease(Box::new(new_coloured(4))));
        let mut state = world.state.clone();
        world.events.clear();
        let strategy = blue_green(warm_up_ms, Some(60_000));
        world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 4, None) })));
        for (n, count) in (1..).zip(steps) {
            for _ in 0..count {
                world.finish(n, TaskOutcome::Succeeded);
            }
        }
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    reached("blue-green, web-1 has its last task that prepares", "target_ready", [2, 0], None);
    reached("blue-green, web-1 is prepared", "", [2, 1], None);
    reached("blue-green, both are prepared", "deployment_stage_began", [2, 2], None);
    reached("blue-green, both are prepared and have to warm up", "deployment_paused", [2, 2], Some(60_000));
    reached("blue-green, it warms up", "", [2, 2], Some(60_000));
    reached("blue-green, its switch begins", "target_went_on", [2, 2], None);
    deployment_rows(table, situations);
    let mut world = World::with_release_1(2);
    world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
    world.ok(TenantCommand::CreateRelease(Box::new(new_coloured(4))));
    let strategy = blue_green(None, Some(60_000));
    world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 4, None) })));
    (1..=2).for_each(|n| world.complete(n));
    (1..=2).for_each(|n| world.complete(n));
    let state = world.state.clone();
    deployment_rows(table, vec![("blue-green, succeeded, and the old colour is kept", world, state)]);
}

/// A group of one target, and one that leads the traffic there; `web-3` is the group without a release.
pub(super) fn grouped(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: [usize; 2]| {
        let mut world = World::new();
        for (n, part) in [(1, "blue"), (2, "lb"), (3, "green")] {
            world.enrol(n);
            world.connect(n, vec![]);
            world.ok(TenantCommand::CreateTarget(Box::new(in_group(n, part))));
        }
        world.ok(TenantCommand::StoreArtifact { digest: digest(2), size_bytes: 10, tenant_bytes_max: None });
        world.ok(TenantCommand::StoreArtifact { digest: digest(4), size_bytes: 10, tenant_bytes_max: None });
        for new in [new_release(2), new_coloured(4)] {
            world.ok(TenantCommand::CreateRelease(Box::new(new)));
        }
        let mut state = world.state.clone();
        world.events.clear();
        let how = BlueGreen { groups: Some(groups(None)), ..BlueGreen::default() };
        let strategy = Strategy::BlueGreen(how);
        world.ok(TenantCommand::Deploy(Box::new(NewDeployment { strategy, ..new_deployment(2, 4, None) })));
        for (n, count) in (1..).zip(steps) {
            for _ in 0..count {
                world.finish(n, TaskOutcome::Succeeded);
            }
        }
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    reached("groups, web-1 has its last task that prepares", "target_ready", [2, 0]);
    reached("groups, web-1 is prepared", "deployment_stage_began", [2, 0]);
    reached("groups, web-2 leads the traffic away", "", [2, 0]);
    reached("groups, web-2 has led the traffic away", "target_succeeded", [2, 2]);
    reached("groups, succeeded", "", [2, 2]);
    deployment_rows(table, situations);
}

/// Two targets that have to prove that they could go back.
pub(super) fn proofs(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, steps: &dyn Fn(&mut World)| {
        let mut world = World::with_release_1(2);
        let rule = ProofRule::Required;
        world.ok(TenantCommand::SetEnvironmentWayBackProof { environment: STAGING, rule });
        let mut state = world.state.clone();
        world.events.clear();
        world.deploy(2, 2, None);
        steps(&mut world);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    let present = Holding::Present { files: 1, bytes: 2 };
    reached("that nobody was asked about", "way_back_asked", &|_| ());
    reached("that waits for its proof", "", &|_| ());
    reached("of which one could not go back", "deployment_paused", &|world| {
        world.prove(1, &present);
        world.prove(2, &Holding::Absent);
    });
    reached("that is paused because one could not go back", "", &|world| {
        world.prove(1, &present);
        world.prove(2, &Holding::Absent);
    });
    reached("that is proven to have a way back", "target_started", &|world| {
        world.prove(1, &present);
        world.prove(2, &present);
    });
    deployment_rows(table, situations);
}

/// Another deployment has come to the targets since.
pub(super) fn overtaken(table: &mut String) {
    let mut world = World::with_release_1(2);
    for n in 2..=3 {
        world.deploy(n, n, None);
        (1..=2).for_each(|target| world.complete(target));
    }
    let state = world.state.clone();
    deployment_rows(table, vec![("succeeded, and another one has come since", world, state)]);
}

/// Two targets, one at a time, with a pause in between and one failure that is tolerated.
pub(super) fn batches(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    let mut reached = |label, until: &str, outcome: &dyn Fn(&mut World)| {
        let mut world = World::with_release_1(2);
        let mut state = world.state.clone();
        world.events.clear();
        let strategy = Strategy::Rolling(Rolling { pause_ms: Some(60_000), ..Rolling::of(1) });
        let tolerate_failures = Some(Amount::Count(1));
        let new = NewDeployment { strategy, tolerate_failures, ..new_deployment(2, 2, None) };
        world.ok(TenantCommand::Deploy(Box::new(new)));
        outcome(&mut world);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    };
    reached("rolling, its first batch is complete", "deployment_paused", &|world| world.complete(1));
    reached("rolling, it pauses after its first batch", "", &|world| world.complete(1));
    reached("rolling, its first batch has failed and that is tolerated", "deployment_paused", &|world| {
        world.finish(1, failed("x"));
    });
    reached(
        "rolling, all have ended, one with a failure that is tolerated",
        "deployment_succeeded",
        &|world| {
            world.finish(1, failed("x"));
            world.wait_ms(60_000);
            world.complete(2);
        },
    );
    deployment_rows(table, situations);
}

/// A canary of two targets with two steps, the first of which is complete or holds.
pub(super) fn canaries(table: &mut String) {
    let mut situations: Vec<(&str, World, State)> = Vec::new();
    for (label, until) in [
        ("canary, its first step is complete", "deployment_paused"),
        ("canary, it holds at its first step", ""),
    ] {
        let mut world = World::with_release_1(2);
        let mut state = world.state.clone();
        world.events.clear();
        let strategy = canary(&[(50, Some(60_000)), (60, None)], None);
        let new = NewDeployment { strategy, ..new_deployment(2, 2, None) };
        world.ok(TenantCommand::Deploy(Box::new(new)));
        world.complete(1);
        apply_until(&mut state, &world, until);
        world.state = state.clone();
        situations.push((label, world, state));
    }
    deployment_rows(table, situations);
}

fn deployment_rows(table: &mut String, situations: Vec<(&str, World, State)>) {
    for (label, world, state) in situations {
        rows(table, &format!("deployment {label}"), &state, &deployment_facts(&world), |state| {
            let Some(deployment) = state.tenants[&TENANT].deployments.get(&deployment(2)) else {
                return "gone".to_owned();
            };
            let part = |n| deployment.targets[&target(n)].progress.name();
            let paused = match (&deployment.paused, deployment.resumes_at) {
                (None, _) => "",
                (Some(_), None) => ", paused",
                (Some(_), Some(_)) => ", paused for a time",
            };
            let stage = deployment.strategy.blue_green().map(|_| format!(" ({})", deployment.stage.name()));
            let stage = stage.unwrap_or_default();
            let proof = match deployment.way_back.open {
                0 => String::new(),
                open => format!(", {open} asked"),
            };
            let proof = if deployment.way_back.waived.is_some() { ", proof waived" } else { &proof };
            let status = deployment.status.name();
            format!("{status}{stage}{paused}{proof}: web-1 {}, web-2 {}", part(1), part(2))
        });
    }
}
