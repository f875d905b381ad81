//! What comes to a place may: approvals, gates, paths, proofs and signatures.

use super::*;

pub(super) fn approvals(tenant: &TenantState) {
    let open: BTreeSet<_> = tenant.promotions.values().filter(|it| it.is_open()).map(|it| it.id).collect();
    assert_eq!(tenant.open_promotions.iter().copied().collect::<BTreeSet<_>>(), open, "INV-5: promotions");
    for promotion in tenant.promotions.values() {
        let started = matches!(promotion.status, PromotionStatus::Started { .. });
        let deployment = tenant.deployments.get(&promotion.wanted.id);
        assert_eq!(deployment.is_some(), started, "INV-10: {}", promotion.id);
        let asked = promotion.requested_by.account().map(|account| account.id);
        let by: BTreeSet<_> = promotion.approvals.iter().map(|approval| approval.by.id).collect();
        assert_eq!(by.len(), promotion.approvals.len(), "INV-10: somebody approved twice");
        assert!(asked.is_none_or(|asked| !by.contains(&asked)), "INV-10: who asked approved");
        let mut choosers = promotion.chosen_by.iter().filter_map(Actor::account);
        assert!(!choosers.any(|chooser| by.contains(&chooser.id)), "INV-10: who has chosen approved");
        if let (Some(deployment), Some(rule)) = (deployment, &promotion.rule) {
            assert!(can_be_told_apart(rule, &by), "INV-10: {}", deployment.id);
            assert!(by.iter().all(|it| rule.lets_decide(*it)), "INV-10: a stranger");
            assert_eq!(deployment.created_by.as_ref(), Some(&promotion.requested_by), "INV-10");
        }
    }
}

/// Whether each group of a rule has its own approvers: by Hall's theorem, whether any choice of groups has as many as it needs.
fn can_be_told_apart(rule: &ApprovalRule, by: &BTreeSet<AccountId>) -> bool {
    let groups: Vec<(u32, &[AccountId])> = rule.groups().collect();
    (0..1_u32 << groups.len()).all(|choice| {
        let chosen = groups.iter().enumerate().filter(|(at, _)| choice >> at & 1 == 1).map(|(_, it)| it);
        let chosen: Vec<_> = chosen.collect();
        let needed: u32 = chosen.iter().map(|(needed, _)| needed).sum();
        let fits = |it: &&AccountId| chosen.iter().any(|(_, from)| from.is_empty() || from.contains(it));
        by.iter().filter(fits).count() >= usize::try_from(needed).unwrap()
    })
}

/// INV-25, at the moment when a deployment begins, or starts a target: its release has been through what the environment wants. What else
/// the same command has done may have taken a proof away, or brought it.
fn goes_by_its_path(old: &TenantState, new: &TenantState, id: DeploymentId, at: Timestamp) {
    let deployment = &new.deployments[&id];
    let reached = deployment.cause != Cause::Requested
        || [old, new].iter().any(|tenant| came_by_its_path(tenant, deployment, at));
    assert!(reached, "INV-25: {id} comes to where its release may not come");
}

/// INV-25, of all that a command has begun, started and tried again, and then of all that goes on.
pub(super) fn all_go_by_their_paths(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    for (_, event) in events {
        if let Fact::DeploymentCreated { id, .. }
        | Fact::TargetStarted { deployment: id, .. }
        | Fact::TargetRetried { deployment: id, .. } = &event.fact
        {
            goes_by_its_path(old, new, *id, event.at);
        }
    }
    goes_on_by_its_path(new, events);
}

/// INV-25, after each command: what runs and has targets left could still come by its path.
fn goes_on_by_its_path(new: &TenantState, events: &[(StreamId, Event)]) {
    let Some((_, last)) = events.last() else { return };
    let running = new.active_deployments.iter().map(|id| &new.deployments[id]);
    let wants = |it: &Deployment| {
        let goes_on = it.left() > 0 || it.is_beside();
        it.cause == Cause::Requested && it.status == Status::Running && goes_on
    };
    for deployment in running.filter(|it| wants(it)) {
        let may = came_by_its_path(new, deployment, last.at);
        assert!(may, "INV-25: {} goes on where its release may not come", deployment.id);
    }
}

fn came_by_its_path(tenant: &TenantState, deployment: &Deployment, at: Timestamp) -> bool {
    let Some(path) = &tenant.environments[&deployment.environment].requires else { return true };
    let promotion = tenant.promotions.get(&PromotionId(deployment.id.0));
    if promotion.is_some_and(|it| it.wanted.override_path.is_some()) {
        return true;
    }
    let is_met = |it: &Requirement| {
        let proven = tenant.environments[&it.after].proven.get(&deployment.release);
        proven.is_some_and(|proven| proven.plus_ms(it.soak_ms) <= at)
    };
    let mut wants = path.requirements();
    if path.needs == Needs::Any { wants.any(is_met) } else { wants.all(is_met) }
}

/// INV-24: what wants it has baked, and nothing is against it now.
pub(super) fn is_verified(tenant: &TenantState, id: DeploymentId, at: Timestamp) {
    let deployment = &tenant.deployments[&id];
    if deployment.verification.is_none() {
        return;
    }
    assert!(deployment.baked, "INV-24: {id} has not baked");
    let records = tenant.gates.get(&PromotionId(id.0));
    for (name, standing) in &tenant.environments[&deployment.environment].gates {
        let record = records.and_then(|it| it.get(name));
        let passes = record.is_some_and(|it| it.lets_through(standing.policy, at));
        assert!(passes, "INV-24: {name} does not let {id} succeed");
    }
}

/// INV-12, at the moment when a target was started: a gate that was closed later in the same command has halted the rest.
pub(super) fn is_let_through(tenant: &TenantState, deployment: &Deployment, at: Timestamp) {
    if !deployment.cause.is_asked_for() {
        return;
    }
    let records = tenant.gates.get(&PromotionId(deployment.id.0));
    for (name, standing) in &tenant.environments[&deployment.environment].gates {
        // It is looked at only once something has come: then it is among those that `is_of_its_wave` finds.
        if standing.gate.verifies {
            continue;
        }
        let record =
            records.and_then(|it| it.get(name)).unwrap_or_else(|| panic!("INV-12: {name} was never asked"));
        assert!(
            record.lets_through(standing.policy, at) || !matches!(deployment.status, Status::Running),
            "INV-12: {name} holds {} up",
            deployment.id
        );
    }
}

/// INV-10, at the moment when a deployment begins: whoever approved it may approve there.
pub(super) fn approved_by_those_who_may(before: &State, new: &TenantState, events: &[(StreamId, Event)]) {
    for (_, event) in events {
        let Fact::DeploymentCreated { id, environment, cause, .. } = &event.fact else { continue };
        if !cause.is_asked_for() {
            continue;
        }
        let promotion = new.promotions.get(&PromotionId(id.0));
        for approval in promotion.iter().flat_map(|it| &it.approvals) {
            let account =
                before.system.accounts.get(&approval.by.id).expect("INV-10: by an account that is gone");
            let may = account.has(Role::Approver, Scope::Environment(new.id, *environment));
            assert!(may, "INV-10: {} started by {} without the role", id, account.name);
        }
    }
}

/// INV-10, at the moment when a deployment begins: whoever has asked for it may ask for it there, and for all that it overrides.
pub(super) fn asked_for_by_those_who_may(before: &State, new: &TenantState, events: &[(StreamId, Event)]) {
    for (_, event) in events {
        let Fact::DeploymentCreated { id, environment, cause, .. } = &event.fact else { continue };
        let promotion = new.promotions.get(&PromotionId(id.0)).filter(|_| cause.is_asked_for());
        let Some(promotion) = promotion else { continue };
        let Some(by) = promotion.requested_by.account() else { continue };
        let wanted = &promotion.wanted;
        let overrides = [&wanted.override_freeze, &wanted.override_path, &wanted.waive_way_back];
        let role = if overrides.iter().any(|it| it.is_some()) { Role::Operator } else { Role::Deployer };
        let account =
            before.system.accounts.get(&by.id).expect("INV-10: asked for by an account that is gone");
        let may = account.has(role, Scope::Environment(new.id, *environment));
        assert!(may, "INV-10: {id} has begun for {}, without the role", account.name);
    }
}

/// INV-10, at the moment when a deployment begins: its promotion was asked for by the rule that the environment has then.
pub(super) fn approved_by_the_rule(old: &TenantState, new: &TenantState, events: &[(StreamId, Event)]) {
    let mut rules: BTreeMap<EnvironmentId, Option<ApprovalRule>> =
        old.environments.iter().map(|(id, it)| (*id, it.approvals.clone())).collect();
    for (_, event) in events {
        if let Fact::EnvironmentApprovalsSet { id, rule } = &event.fact {
            rules.insert(*id, rule.clone());
        } else if let Fact::DeploymentCreated { id, environment, cause, .. } = &event.fact
            && cause.is_asked_for()
        {
            let promotion =
                new.promotions.get(&PromotionId(id.0)).expect("INV-10: begun without a promotion");
            let wanted = rules.get(environment).cloned().flatten();
            assert_eq!(promotion.rule, wanted, "INV-10: {id} has begun by another rule");
            assert!(
                matches!(promotion.status, PromotionStatus::Started { .. }),
                "INV-10: {id} was not started"
            );
        }
    }
}

/// INV-10 and INV-12 of steps: whoever started a run, or has chosen in it or in one that it is a part of or has parts in, neither approves a
/// step of it nor decides on a gate of it. Nor does whoever wrote what is run there.
pub(super) fn nobody_lets_their_own_run_through(new: &TenantState, events: &[(StreamId, Event)]) {
    for (_, event) in events {
        let run = if let Fact::StepApproved { run, .. } = &event.fact {
            run
        } else if let Fact::StepGateEvaluated { run, kind, outcome: Outcome::Passed, .. } = &event.fact
            && kind == "manual"
        {
            run
        } else {
            continue;
        };
        let Some(run) = new.runs.get(run) else { continue };
        let account = |actor: &Actor| actor.account().map(|account| account.id);
        let by = account(&event.actor).expect("INV-10: a step was let through by nobody");
        assert_ne!(account(&run.started_by), Some(by), "INV-10: whoever started {} let it go on", run.id);
        let whole = outermost(new, run);
        for part in new.runs.values().filter(|it| outermost(new, it).id == whole.id) {
            let mut answers = part.steps.values().filter_map(|step| step.answered_by.as_ref());
            let has_chosen = answers.any(|it| account(it) == Some(by));
            assert!(!has_chosen, "INV-10: who has chosen in {} let {} go on", part.id, run.id);
        }
        let mut versions = vec![(&whole.workflow, whole.version)];
        while let Some((workflow, number)) = versions.pop() {
            let version = &new.workflows[workflow].versions[&number];
            let wrote = account(&version.applied_by) == Some(by);
            assert!(!wrote, "INV-10: who wrote {workflow} let {} go on", run.id);
            let inner = version.template.steps.iter().filter_map(|step| step.workflow.as_ref());
            versions.extend(inner.map(|it| (&it.name, it.version)));
        }
    }
}

/// The run that a run is a part of, and is part of none.
fn outermost<'t>(tenant: &'t TenantState, run: &'t Run) -> &'t Run {
    let whole = run.parent.as_ref().and_then(|(whole, _)| tenant.runs.get(whole));
    whole.map_or(run, |whole| outermost(tenant, whole))
}

/// INV-21, at the moment when the first target was started.
pub(super) fn has_proof(old: &TenantState, new: &TenantState, id: DeploymentId) {
    let deployment = &new.deployments[&id];
    let before = old.deployments.get(&id);
    let had_begun = before.is_some_and(|it| it.targets.values().any(|part| part.before.is_some()));
    let required = new.environments[&deployment.environment].way_back_proof == ProofRule::Required;
    let waived = deployment.way_back.waived.is_some()
        || new.promotions.get(&PromotionId(id.0)).is_some_and(|it| it.wanted.waive_way_back.is_some());
    if had_begun || !required || waived || deployment.cause != Cause::Requested {
        return;
    }
    for part in deployment.targets.values() {
        let needs = part.previous.is_some_and(|it| it != part.release || part.colour().is_some());
        let alone = matches!(part.progress, Progress::Skipped { hold: Some(_) });
        let proven = matches!(part.way_back, Some(Proof::Known { answer: ProofAnswer::Proven { .. }, .. }));
        assert!(!needs || alone || proven, "INV-21: {} began, and {} is not proven", id, part.target);
    }
}

/// INV-17, at the moment when a target was started or switched.
pub(super) fn is_signed(tenant: &TenantState, deployment: &Deployment) {
    let Some(rule) = tenant.signing.as_ref().filter(|_| deployment.cause.is_asked_for()) else { return };
    let release = tenant.releases.get(&deployment.release).expect("INV-17: nobody signs what only a job has");
    let statement = stella_domain::signature::statement(release);
    let signatures = tenant.signatures.get(&deployment.release);
    let counts = |(id, it): &(&Digest, &ReleaseSignature)| {
        let key = &tenant.release_keys[*id];
        let named = rule.keys.is_empty() || rule.keys.contains(id);
        assert!(
            key.public_key.has_signed(&statement, &it.signature),
            "INV-17: a signature of something else"
        );
        named && key.revoked.is_none()
    };
    let counted = signatures.into_iter().flat_map(|all| all.iter()).filter(counts).count();
    assert!(
        counted >= usize::try_from(rule.needed).unwrap(),
        "INV-17: {} was started unsigned",
        deployment.id
    );
}

pub(super) fn gates(tenant: &TenantState) {
    for (promotion, records) in &tenant.gates {
        let promotion = &tenant.promotions[promotion];
        let runs =
            tenant.deployments.get(&promotion.wanted.id).is_some_and(|it| it.status == Status::Running);
        for record in records.values() {
            let is_live = promotion.is_open() || runs;
            assert!(
                is_live || (record.asked.is_none() && record.again_at.is_none()),
                "INV-12: asked for nothing"
            );
            let person = |actor: &Actor| actor.account().map(|account| account.id);
            let is_manual =
                record.verdict.as_ref().is_some_and(|it| it.inputs.is_none() && it.asked_at == it.at);
            if let Some(by) = record.verdict.as_ref().and_then(|it| person(&it.by)).filter(|_| is_manual) {
                assert_ne!(Some(by), person(&promotion.requested_by), "INV-12: who asked decided");
            }
        }
    }
}

pub(super) fn waits_for_gate(tenant: &TenantState, deployment: &Deployment) -> bool {
    let records = tenant.gates.get(&PromotionId(deployment.id.0));
    tenant.environments[&deployment.environment].gates.iter().any(|(name, standing)| {
        let record = records.and_then(|it| it.get(name));
        let is_manual = matches!(standing.gate.check, Check::Manual);
        is_manual || record.is_some_and(|it| it.asked.is_some() || it.again_at.is_some())
    })
}

pub(super) fn way_back(tenant: &TenantState) {
    for failed in tenant.deployments.values() {
        let expected = matches!(failed.status, Status::Failed { .. })
            && failed.on_failure == OnFailure::Rollback
            && failed.cause == Cause::Requested;
        if !expected {
            continue;
        }
        let cause = Cause::Rollback { of: failed.id, reason: failed.halted_for };
        assert_ne!(failed.halted_for, RollbackReason::Manual, "INV-7: halted for what nobody halts for");
        let rollback = tenant.deployments.values().find(|other| other.cause == cause);
        for part in failed.targets.values() {
            let there = rollback.and_then(|rollback| rollback.targets.get(&part.target));
            match (there, part.previous) {
                (Some(there), previous) => {
                    assert!(part.is_touched(), "INV-7: a target that was not touched");
                    // What led nowhere before is led where others go back to.
                    let led_along = previous.is_none()
                        && failed.strategy.groups().is_some()
                        && failed.targets.values().any(|other| other.previous == Some(there.release));
                    assert!(led_along || Some(there.release) == previous, "INV-7");
                }
                (None, Some(previous)) if part.is_touched() && previous != part.release => {
                    let excused = tenant.agents[&part.agent].revoked.is_some()
                        || matches!(part.progress, Progress::Abandoned { .. })
                        || tenant.targets.get(&part.target).is_none_or(|it| it.last != Some(failed.id))
                        || tenant.targets[&part.target].active.is_some()
                        || matches!(tenant.releases[&previous].standing, Standing::Blocked(_));
                    assert!(excused, "INV-7: {} was left", part.target);
                }
                _ => {}
            }
        }
    }
}
