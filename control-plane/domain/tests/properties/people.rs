//! What people decide while everything goes on, and the answers that gates wait for.

use super::*;

impl Walk {
    pub(super) fn rule(&mut self, needed: u32) {
        let groups = |on_expiry| {
            let also = vec![Quorum { needed: 1, from: vec![common::account(2), common::account(3)] }];
            Some(ApprovalRule { also, on_expiry, ..common::rule(1, &[2]) })
        };
        let rule = match needed {
            0 => None,
            1 | 2 => Some(common::rule(needed, &[])),
            3 => groups(OnExpiry::Expire),
            4 => groups(OnExpiry::Reject),
            _ => groups(OnExpiry::AskAgain { times: 1 }),
        };
        self.tenant(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    }

    pub(super) fn path(&mut self, how: u8) {
        let both = |needs, auto| {
            let others = vec![Requirement { after: BEFORE[1], soak_ms: 0 }];
            PromotionPath { others, needs, ..PromotionPath::after(BEFORE[0], 30_000, auto) }
        };
        let requires = match how {
            0 => None,
            1 => Some(PromotionPath::after(BEFORE[0], 30_000, false)),
            2 => Some(PromotionPath::after(BEFORE[1], 0, true)),
            3 => Some(both(Needs::Any, false)),
            4 => Some(both(Needs::Any, true)),
            5 => Some(both(Needs::All, false)),
            _ => Some(both(Needs::All, true)),
        };
        self.tenant(TenantCommand::SetEnvironmentPath { environment: STAGING, requires });
    }

    pub(super) fn approve(&mut self, which: usize, who: u128) {
        if let Some((promotion, plan)) = self.some_promotion(which) {
            let reason = String::new();
            self.send(&World::by(
                who,
                TenantCommand::ApprovePromotion { promotion, plan, reason, signature: None },
            ));
        }
    }

    pub(super) fn gate(&mut self, kind: u8, on: bool) {
        let (name, gate) = match kind {
            0 => ("scan", common::security("scan", &[])),
            1 => ("ask", common::gate("ask", common::http())),
            4 => ("bake", Gate { verifies: true, ..common::gate("bake", common::http()) }),
            2 => ("signed", common::gate("signed", Check::Signature(common::signed(1, &[])))),
            _ => ("manual", common::gate("manual", Check::Manual)),
        };
        let environment = STAGING;
        self.tenant(if on {
            TenantCommand::SetGate { environment, gate: Box::new(gate) }
        } else {
            TenantCommand::RemoveGate { environment, gate: common::name(name) }
        });
    }

    pub(super) fn answer(&mut self, which: usize, how: u8) {
        let questions: Vec<_> = self
            .world
            .tenant()
            .gates
            .iter()
            .flat_map(|(promotion, records)| {
                records.iter().map(move |(gate, record)| (*promotion, gate, record))
            })
            .filter_map(|(promotion, gate, record)| Some((promotion, gate.clone(), record.asked?.number)))
            .collect();
        let Some(which) = which.checked_rem(questions.len()) else { return };
        let (promotion, gate, number) = questions[which].clone();
        let outcome = match how {
            0 => Outcome::Failed,
            1 => Outcome::Unavailable,
            _ => Outcome::Passed,
        };
        let reason = "walk".to_owned();
        self.tenant(TenantCommand::AnswerGate(Box::new(Answer {
            promotion,
            gate,
            number,
            outcome,
            reason,
            inputs: None,
        })));
    }

    pub(super) fn scan(&mut self, release: u128, bad: bool) {
        let found: &[&str] = if bad { &["CVE-1"] } else { &[] };
        let new = common::findings(release, found);
        self.tenant(TenantCommand::RecordFindings(Box::new(new)));
    }

    pub(super) fn word(&mut self, which: usize, who: u128, word: u8) {
        let Some((promotion, _)) = self.some_promotion(which) else { return };
        let (gate, reason) = (name("manual"), "walk".to_owned());
        self.send(&World::by(
            who,
            match word {
                0 => TenantCommand::OverrideGate { promotion, gate: name("scan"), reason },
                1 => TenantCommand::DecideGate { promotion, gate, passed: false, reason },
                _ => TenantCommand::DecideGate { promotion, gate, passed: true, reason },
            },
        ));
    }

    pub(super) fn start_run(&mut self, kind: u128) {
        self.ids += 1;
        let id = RunId(Uuid::from_u128(0x6000 + self.ids));
        let workflow = name(&format!("walk-{kind}"));
        let new = NewRun { id, workflow, version: None, inputs: BTreeMap::new() };
        self.send(&World::by(1, TenantCommand::StartRun(Box::new(new))));
    }

    /// Says something to a step that waits for it, or to the run.
    pub(super) fn lead_run(&mut self, which: usize, how: u8) {
        let runs: Vec<_> = self.world.tenant().active_runs.iter().copied().collect();
        let Some(run) = which.checked_rem(runs.len()).map(|which| runs[which]) else { return };
        let found = &self.world.tenant().runs[&run];
        let open: Vec<_> = found.steps.iter().filter(|(_, step)| step.state.is_under_way()).collect();
        let Some((step, state)) = which.checked_rem(open.len()).map(|which| open[which]) else { return };
        let (step, attempt) = (step.clone(), state.attempts);
        let reason = "walk".to_owned();
        let command = match (how, &state.state) {
            (0, _) => TenantCommand::CancelRun { run, reason },
            (1, _) => TenantCommand::RetryStep { run, step },
            (_, StepState::Held { .. } | StepState::BackingOff { .. }) => {
                TenantCommand::RetryStep { run, step }
            }
            (_, StepState::Running { work: Work::Input, .. }) => {
                TenantCommand::AnswerStep { run, step, answers: BTreeMap::new() }
            }
            (_, state) if state.question().is_some() => {
                let outcome = match how {
                    2..=3 => Outcome::Failed,
                    4 => Outcome::Unavailable,
                    _ => Outcome::Passed,
                };
                TenantCommand::AnswerStepGate { run, step, attempt, outcome, reason, inputs: None }
            }
            (_, StepState::Running { work: Work::Approval { .. } | Work::Gate { .. }, .. }) => {
                let who = 1 + u128::from(how) % PEOPLE;
                self.send(&World::by(who, TenantCommand::DecideStep { run, step, approve: how > 3, reason }));
                return;
            }
            (_, state) => {
                let outcome = match (how, state.outgoing()) {
                    (2..=5, _) => CallOutcome::Failed { reason },
                    (_, Some(Outgoing::Notice(_))) => CallOutcome::Told,
                    _ => CallOutcome::Answered { status: 200, body: None },
                };
                TenantCommand::AnswerCall { run, step, attempt, outcome }
            }
        };
        self.tenant(command);
    }

    pub(super) fn settle(&mut self, which: usize, succeeded: bool) {
        let tasks = self.world.tenant().tasks.values();
        let unknown: Vec<_> = tasks.filter(|task| common::is_unknown(task)).map(|task| task.id).collect();
        if let Some(task) = which.checked_rem(unknown.len()).map(|which| unknown[which]) {
            let command = TenantCommand::SettleTask { task, succeeded, reason: "walk".to_owned() };
            // A person says it, so that no tick can be taken for one.
            self.send(&World::by(1, command));
        }
    }

    pub(super) fn end(&mut self, which: usize, rejected: bool) {
        let Some((promotion, _)) = self.some_promotion(which) else { return };
        let reason = "walk".to_owned();
        let command = if rejected {
            TenantCommand::RejectPromotion { promotion, objection: Objection::TooRisky, reason }
        } else {
            TenantCommand::WithdrawPromotion { promotion, reason }
        };
        self.send(&World::by(2, command));
    }

    pub(super) fn pause(&mut self, which: usize, on: bool) {
        let Some(deployment) = self.some_deployment(which) else { return };
        let reason = "walk".to_owned();
        self.tenant(if on {
            TenantCommand::PauseDeployment { deployment, reason }
        } else {
            TenantCommand::ResumeDeployment { deployment }
        });
    }

    /// Mostly one that runs.
    pub(super) fn guide(&mut self, which: usize, command: impl Fn(DeploymentId) -> TenantCommand) {
        let active: Vec<_> = self.world.tenant().active_deployments.iter().copied().collect();
        if let Some(which) = which.checked_rem(active.len()) {
            self.tenant(command(active[which]));
        }
    }

    pub(super) fn silence(&mut self, on: bool) {
        let rule = on.then_some(SilenceRule { percent: 33, within_ms: 60_000 });
        self.tenant(TenantCommand::SetEnvironmentSilence { environment: STAGING, rule });
    }

    pub(super) fn verification(&mut self, on: bool) {
        let verification = on.then_some(Verification { bake_ms: 60_000 });
        self.tenant(TenantCommand::SetEnvironmentVerification { environment: STAGING, verification });
    }

    pub(super) fn freeze(&mut self, on: bool) {
        let (environment, name) = (STAGING, name("walk"));
        self.tenant(if on {
            let freeze = Box::new(common::freeze("walk", "1970-01-01T00:00", "1970-01-02T00:00"));
            TenantCommand::FreezeEnvironment { environment, freeze }
        } else {
            TenantCommand::UnfreezeEnvironment { environment, freeze: name }
        });
    }

    pub(super) fn proof(&mut self, what: u8) {
        let rule = match what {
            0 => ProofRule::Off,
            1 => ProofRule::Reported,
            _ => ProofRule::Required,
        };
        self.tenant(TenantCommand::SetEnvironmentWayBackProof { environment: STAGING, rule });
    }

    pub(super) fn lock(&mut self, on: bool) {
        let reason = "walk".to_owned();
        self.tenant(if on {
            TenantCommand::LockEnvironment { environment: STAGING, reason }
        } else {
            TenantCommand::UnlockEnvironment { environment: STAGING }
        });
    }

    pub(super) fn judge(&mut self, n: u128, what: u8) {
        // What was blocked stays so: it excuses for ever who did not go back to it.
        if matches!(self.world.tenant().releases[&release(n)].standing, Standing::Blocked(_)) {
            return;
        }
        let verdict = match what {
            0 => Verdict::Block,
            1 => Verdict::Deprecate,
            _ => Verdict::Clear,
        };
        self.tenant(TenantCommand::JudgeRelease { release: release(n), verdict, reason: "walk".to_owned() });
    }

    pub(super) fn rollback(&mut self, which: usize) {
        if let Some(of) = self.some_deployment(which) {
            self.ids += 1;
            // Every other time only the first of the targets that were touched.
            let parts = &self.world.deployment(of).targets;
            let first = parts.values().find(|part| part.is_touched()).map(|part| vec![part.target]);
            let targets = first.filter(|_| self.ids.is_multiple_of(2));
            self.tenant(TenantCommand::Rollback { id: deployment(self.ids), of, targets });
        }
    }

    pub(super) fn retire(&mut self, which: usize) {
        if let Some(of) = self.some_deployment(which) {
            self.ids += 1;
            self.tenant(TenantCommand::RetireColours { id: deployment(self.ids), of });
        }
    }

    pub(super) fn retry(&mut self, which: usize) {
        if let Some(of) = self.some_deployment(which) {
            self.ids += 1;
            let id = deployment(self.ids);
            self.tenant(TenantCommand::RetryDeployment { id, of, targets: None });
        }
    }
}
