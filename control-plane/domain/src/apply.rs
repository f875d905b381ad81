//! How facts change the state: one function, live and in replay. A pair of state and fact that is not listed is an error,
//! never ignored; so a state can only be reached in ways that are written here.
//!
//! An error may leave the one state half changed that it was applied to. Live that state is thrown away, and in replay the
//! error is the end.

mod access;
mod agent;
mod archive;
mod authority;
mod automation;
mod channel;
mod colour;
mod deployment;
mod gate;
mod hold;
mod hook;
mod inventory;
mod probe;
mod promotion;
mod signature;
mod silence;
mod target;
mod task;
mod way_back;
mod workflow;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use stella_protocol::id::TenantId;
use stella_protocol::time::Timestamp;

use crate::event::{Event, Fact, IllegalTransition, StreamId};
use crate::state::{State, SystemState};
use crate::tenant::{AnsweredRequest, TenantState, Timer};

pub(crate) use agent::uses;

type Applied = Result<(), IllegalTransition>;

impl State {
    /// Changes the state as the event says.
    ///
    /// # Errors
    /// If the fact cannot follow from this state. The state is not to be used any more then.
    pub fn apply(&mut self, stream: StreamId, event: &Event) -> Applied {
        match stream {
            StreamId::System => self.system.apply(event),
            StreamId::Tenant(id) => match (&event.fact, self.tenants.get_mut(&id)) {
                (Fact::TenantOpened { id: opened, name }, None) if *opened == id => {
                    self.tenants.insert(id, Arc::new(TenantState::new(id, name.clone(), event.at)));
                    Ok(())
                }
                (fact, None) => Err(missing(TenantId::KIND, id, fact)),
                (_, Some(tenant)) => Arc::make_mut(tenant).apply(event),
            },
        }
    }
}

impl SystemState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    fn apply(&mut self, event: &Event) -> Applied {
        match &event.fact {
            Fact::TenantCreated { id, name } => {
                vacant(!self.tenants.contains_key(name), "tenant", name, &event.fact)?;
                self.tenants.insert(name.clone(), *id);
                Ok(())
            }
            Fact::ApiTokenCreated { .. }
            | Fact::ApiTokenRevoked { .. }
            | Fact::AccountCreated { .. }
            | Fact::AccountRolesSet { .. }
            | Fact::AccountRemoved { .. } => self.apply_access(event.at, &event.fact),
            Fact::AuthorityChanged { .. } => self.apply_authority(event.at, &event.fact),
            // How much is logged is not a part of the state: a restart logs as it is configured.
            Fact::LogLevelSet { .. } => Ok(()),
            Fact::RequestAnswered { .. } => answered(&mut self.requests, &mut self.timers, &event.fact),
            Fact::RequestForgotten { .. } => forgotten(&mut self.requests, &mut self.timers, &event.fact),
            fact => Err(illegal("the stream", "the system's", fact)),
        }
    }
}

impl TenantState {
    /// [`State::apply`], inside one tenant.
    #[expect(clippy::too_many_lines, reason = "a table: each fact goes to its function")]
    pub(crate) fn apply(&mut self, event: &Event) -> Applied {
        let at = event.at;
        match &event.fact {
            fact @ (Fact::TenantCreated { .. }
            | Fact::ApiTokenCreated { .. }
            | Fact::ApiTokenRevoked { .. }
            | Fact::AccountCreated { .. }
            | Fact::AccountRolesSet { .. }
            | Fact::AccountRemoved { .. }
            | Fact::LogLevelSet { .. }
            | Fact::AuthorityChanged { .. }) => Err(illegal("the stream", "a tenant's", fact)),
            fact @ Fact::TenantOpened { .. } => Err(exists(TenantId::KIND, self.id, fact)),
            fact @ Fact::RequestAnswered { .. } => answered(&mut self.requests, &mut self.timers, fact),
            fact @ Fact::RequestForgotten { .. } => forgotten(&mut self.requests, &mut self.timers, fact),
            fact @ (Fact::EnvironmentCreated { .. }
            | Fact::EnvironmentUpdated { .. }
            | Fact::EnvironmentRemoved { .. }
            | Fact::TargetCreated { .. }
            | Fact::TargetRemoved { .. }
            | Fact::TargetUpdated { .. }
            | Fact::ArtifactStored { .. }
            | Fact::ArtifactRemoved { .. }
            | Fact::ReleaseCreated { .. }) => self.apply_inventory(at, fact),
            fact @ (Fact::AutoPromotionDue { .. }
            | Fact::AutoPromotionEnded { .. }
            | Fact::ReleaseDisproven { .. }) => self.apply_automation(at, fact),
            Fact::ChannelSet { .. } | Fact::ChannelRemoved { .. } | Fact::EnvironmentChannelsSet { .. } => {
                self.apply_channel(event)
            }
            fact @ (Fact::EnrolmentTokenCreated { .. }
            | Fact::AgentEnrolled { .. }
            | Fact::AgentConnected { .. }
            | Fact::AgentDisconnected { .. }
            | Fact::AgentOffline { .. }
            | Fact::AgentRevoked { .. }
            | Fact::AgentUndrained { .. }
            | Fact::AgentTrustChanged { .. }
            | Fact::AgentFiguresMoved { .. }
            | Fact::EnrolmentTokenRevoked { .. }
            | Fact::EnrolmentTokenForgotten { .. }
            | Fact::ReportIgnored { .. }) => self.apply_agent(at, fact),
            Fact::AgentDraining { .. } => self.apply_draining(event),
            Fact::DeploymentCreated { .. }
            | Fact::DeploymentHalted { .. }
            | Fact::DeploymentCancelRequested { .. }
            | Fact::DeploymentOverdue { .. }
            | Fact::DeploymentPutOff { .. }
            | Fact::DeploymentSucceeded { .. }
            | Fact::DeploymentFailed { .. }
            | Fact::DeploymentCancelled { .. } => self.apply_deployment(event),
            Fact::EnvironmentLocked { .. }
            | Fact::EnvironmentUnlocked { .. }
            | Fact::EnvironmentPathSet { .. }
            | Fact::EnvironmentFreezeSet { .. }
            | Fact::EnvironmentFreezeRemoved { .. }
            | Fact::EnvironmentBudgetSet { .. }
            | Fact::EnvironmentVerificationSet { .. }
            | Fact::EnvironmentSilenceSet { .. }
            | Fact::EnvironmentWentSilent { .. }
            | Fact::EnvironmentHeardAgain { .. }
            | Fact::EnvironmentWayBackSet { .. }
            | Fact::EnvironmentWayBackProofSet { .. }
            | Fact::EnvironmentStrategySet { .. }
            | Fact::ReleaseDeprecated { .. }
            | Fact::ReleaseBlocked { .. }
            | Fact::ReleaseCleared { .. }
            | Fact::DeploymentPaused { .. }
            | Fact::DeploymentResumed { .. } => self.apply_hold(event),
            Fact::EnvironmentApprovalsSet { .. }
            | Fact::PromotionRequested { .. }
            | Fact::ApprovalGranted { .. }
            | Fact::ApprovalLapsed { .. }
            | Fact::PromotionRejected { .. }
            | Fact::PromotionWithdrawn { .. }
            | Fact::PromotionExpired { .. }
            | Fact::PromotionAskedAgain { .. }
            | Fact::PromotionInvalidated { .. }
            | Fact::PromotionHeld { .. } => self.apply_promotion(event),
            Fact::EnvironmentGateSet { .. }
            | Fact::EnvironmentGateRemoved { .. }
            | Fact::GateAsked { .. }
            | Fact::GateEvaluated { .. }
            | Fact::GateOverridden { .. }
            | Fact::FindingsRecorded { .. } => self.apply_gate(event),
            Fact::ReleaseKeyAdded { .. }
            | Fact::ReleaseKeyRevoked { .. }
            | Fact::ReleaseSigned { .. }
            | Fact::ReleaseSigningSet { .. } => self.apply_signature(event),
            Fact::WorkflowApplied { .. }
            | Fact::WorkflowRemoved { .. }
            | Fact::RunStarted { .. }
            | Fact::StepStarted { .. }
            | Fact::StepApproved { .. }
            | Fact::StepRejected { .. }
            | Fact::StepApprovalLapsed { .. }
            | Fact::StepGateEvaluated { .. }
            | Fact::StepBackedOff { .. }
            | Fact::StepHeld { .. }
            | Fact::StepOverdue { .. }
            | Fact::StepEnded { .. }
            | Fact::RunTurned { .. }
            | Fact::RunEnded { .. } => self.apply_workflow(event),
            Fact::TargetStarted { .. }
            | Fact::TargetSucceeded { .. }
            | Fact::TargetFailed { .. }
            | Fact::TargetSkipped { .. }
            | Fact::TargetRetried { .. }
            | Fact::TargetAbandoned { .. } => self.apply_target(event),
            Fact::WayBackAsked { .. }
            | Fact::WayBackAnswered { .. }
            | Fact::WayBackUnanswered { .. }
            | Fact::WayBackWaived { .. } => self.apply_way_back(event),
            Fact::HookCreated { .. } | Fact::HookRotated { .. } | Fact::HookRemoved { .. } => {
                self.apply_hook(event)
            }
            fact @ (Fact::DeploymentArchived { .. }
            | Fact::PromotionArchived { .. }
            | Fact::RunArchived { .. }) => self.apply_archive(fact),
            Fact::TargetReady { .. }
            | Fact::TargetWentOn { .. }
            | Fact::DeploymentStageBegan { .. }
            | Fact::DeploymentKeepEnded { .. } => self.apply_colour(event),
            Fact::TaskQueued { .. } => self.apply_task_queued(event),
            fact @ (Fact::TaskDispatched { .. }
            | Fact::TaskAccepted { .. }
            | Fact::TaskStarted { .. }
            | Fact::TaskFinished { .. }
            | Fact::TaskHandedBack { .. }
            | Fact::TaskBecameUnknown { .. }
            | Fact::TaskEnding { .. }
            | Fact::TaskCancelRequested { .. }) => self.apply_task(at, fact),
            fact @ (Fact::TaskProbeAsked { .. } | Fact::TaskProbed { .. }) => self.apply_probe(at, fact),
        }
    }
}

type Requests = OrdMap<String, AnsweredRequest>;
type Timers = OrdSet<(Timestamp, Timer)>;

fn answered(requests: &mut Requests, timers: &mut Timers, fact: &Fact) -> Applied {
    let Fact::RequestAnswered { key, digest, outcome, forgotten_at } = fact else {
        return Err(misplaced(fact));
    };
    vacant(!requests.contains_key(key), "request", key, fact)?;
    let request = AnsweredRequest { digest: *digest, outcome: outcome.clone(), forgotten_at: *forgotten_at };
    requests.insert(key.clone(), request);
    timers.insert((*forgotten_at, Timer::RequestForgotten(key.clone())));
    Ok(())
}

fn forgotten(requests: &mut Requests, timers: &mut Timers, fact: &Fact) -> Applied {
    let Fact::RequestForgotten { key } = fact else { return Err(misplaced(fact)) };
    let request = requests.remove(key).ok_or_else(|| missing("request", key, fact))?;
    timers.remove(&(request.forgotten_at, Timer::RequestForgotten(key.clone())));
    Ok(())
}

/// That a fact cannot follow.
fn illegal(subject: impl ToString, state: impl ToString, fact: &Fact) -> IllegalTransition {
    IllegalTransition { subject: subject.to_string(), state: state.to_string(), fact: fact.name() }
}

/// That what the fact is about is not there.
fn missing(kind: &str, id: impl ToString, fact: &Fact) -> IllegalTransition {
    illegal(format!("{kind} {}", id.to_string()), "missing", fact)
}

/// That what the fact creates is there already.
fn exists(kind: &str, id: impl ToString, fact: &Fact) -> IllegalTransition {
    illegal(format!("{kind} {}", id.to_string()), "there already", fact)
}

/// That a fact came to a function that is not for it; the functions' callers sort them.
fn misplaced(fact: &Fact) -> IllegalTransition {
    illegal("this kind of fact", "handled elsewhere", fact)
}

fn vacant(is_vacant: bool, kind: &str, id: impl ToString, fact: &Fact) -> Applied {
    if is_vacant { Ok(()) } else { Err(exists(kind, id, fact)) }
}

fn ensure(holds: bool, subject: impl ToString, state: impl ToString, fact: &Fact) -> Applied {
    if holds { Ok(()) } else { Err(illegal(subject, state, fact)) }
}
