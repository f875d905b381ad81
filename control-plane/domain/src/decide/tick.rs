//! Time has passed: what is due happens.

use stella_protocol::id::DeploymentId;
use stella_protocol::time::Timestamp;

use super::transaction::Transaction;
use super::{Decision, colour, follow, gate, hold, proof, rollout, run};
use crate::command::Request;
use crate::deployment::Status;
use crate::event::{Fact, StreamId};
use crate::rejection::Rejection;
use crate::state::State;
use crate::task::CANCEL_WINDOW_MS;
use crate::tenant::Timer;

/// How many timers one tick fires: a batch of events that is bounded, after a long absence too. The rest is due at once.
pub(super) const TIMERS_MAX: usize = 1_000;

pub(super) fn decide(state: &State, request: &Request, now: Timestamp) -> Result<Decision, Rejection> {
    let mut decision = Decision::new(state);
    let mut left = TIMERS_MAX;
    for (_, timer) in state.system.timers.iter().take_while(|(at, _)| *at <= now).take(left) {
        let fact = match timer {
            Timer::RequestForgotten(key) => Some(Fact::RequestForgotten { key: key.clone() }),
            Timer::ApiTokenEnded(id) => Some(Fact::ApiTokenRevoked { id: *id }),
            Timer::ReconnectWindow(_)
            | Timer::DeploymentDeadline(_)
            | Timer::TaskOverdue(_)
            | Timer::DeploymentResumes(_)
            | Timer::StepDue(..)
            | Timer::PromotionHeld(_)
            | Timer::PromotionExpires(_)
            | Timer::GateOverdue(..)
            | Timer::GateAgain(..)
            | Timer::AutoPromotion(..)
            | Timer::WayBackOverdue(_)
            | Timer::KeepEnds(_) => None,
        };
        if let Some(fact) = fact {
            decision.emit(StreamId::System, request, now, fact)?;
        }
        left -= 1;
    }
    for tenant in state.tenants.values() {
        if left == 0 {
            break;
        }
        if tenant.timers.get_min().is_none_or(|(at, _)| *at > now) {
            continue;
        }
        let mut tx = Transaction::new(state, tenant, request, now);
        for due in tenant.timers.iter().take_while(|(at, _)| *at <= now).take(left) {
            // What fired before it may have made it void.
            if tx.tenant.timers.contains(due) {
                fire(&mut tx, &due.1)?;
            }
            left -= 1;
        }
        follow(&mut tx)?;
        decision.merge(tx);
    }
    Ok(decision)
}

/// Each kind ends in a fact that removes the timer.
fn fire(tx: &mut Transaction<'_>, timer: &Timer) -> Result<(), Rejection> {
    match timer {
        Timer::ReconnectWindow(agent) => {
            tx.emit(Fact::AgentOffline { agent: *agent })?;
            proof::agent_is_gone(tx, *agent)
        }
        Timer::RequestForgotten(key) => tx.emit(Fact::RequestForgotten { key: key.clone() }),
        Timer::TaskOverdue(task) => {
            let reason =
                format!("its end was not confirmed within {} s of asking for it", CANCEL_WINDOW_MS / 1_000);
            rollout::became_unknown(tx, *task, &reason)
        }
        Timer::DeploymentDeadline(deployment) => deadline(tx, *deployment),
        Timer::DeploymentResumes(deployment) => hold::go_on(tx, *deployment),
        Timer::PromotionHeld(promotion) => tx.emit(Fact::PromotionHeld { id: *promotion, until: None }),
        Timer::PromotionExpires(promotion) => tx.emit(Fact::PromotionExpired { id: *promotion }),
        Timer::GateOverdue(promotion, name) => gate::overdue(tx, *promotion, name),
        Timer::GateAgain(promotion, name) => gate::again(tx, *promotion, name),
        Timer::AutoPromotion(environment, release) => {
            tx.emit(Fact::AutoPromotionDue { environment: *environment, release: *release })
        }
        Timer::WayBackOverdue(deployment) => proof::overdue(tx, *deployment),
        Timer::KeepEnds(deployment) => colour::keep_ended(tx, *deployment),
        Timer::StepDue(id, step) => run::due(tx, *id, step),
        // No tenant has one, and `apply` would refuse it.
        Timer::ApiTokenEnded(id) => tx.emit(Fact::ApiTokenRevoked { id: *id }),
    }
}

/// The time is up. The deployment halts and what is open is ended as in a cancellation; but it is a failure, with what the
/// deployment's policy says about failures: targets that are blocked by a task of unknown end are left out of a rollback.
fn deadline(tx: &mut Transaction<'_>, id: DeploymentId) -> Result<(), Rejection> {
    let deployment = tx.deployment(id)?;
    let late = format!("it did not finish within {}", duration(deployment.timeout_ms()));
    let reason = match &deployment.status {
        Status::Halting { reason } => format!("{reason}; {late}"),
        Status::Running
        | Status::Cancelling { .. }
        | Status::Succeeded
        | Status::Failed { .. }
        | Status::Cancelled { .. } => late,
    };
    tx.emit(Fact::DeploymentOverdue { id, reason })?;
    rollout::end_what_is_open(tx, id)
}

/// A duration for a person, in the largest unit that loses nothing.
fn duration(milliseconds: u64) -> String {
    for (unit_ms, unit) in [(3_600_000, "h"), (60_000, "min"), (1_000, "s")] {
        if milliseconds >= unit_ms && milliseconds.is_multiple_of(unit_ms) {
            return format!("{} {unit}", milliseconds / unit_ms);
        }
    }
    format!("{milliseconds} ms")
}
