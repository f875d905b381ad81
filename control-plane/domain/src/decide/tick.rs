//! Time has passed: what is due happens.

use std::sync::Arc;

use stella_protocol::id::DeploymentId;
use stella_protocol::time::Timestamp;

use super::transaction::{Transaction, WORK_MAX};
use super::{
    Decision, Stuck, colour, ending, follow, gate, hold, probe, promotion, proof, put_off, rollout, run,
};
use crate::command::Request;
use crate::deployment::Status;
use crate::event::{Fact, StreamId};
use crate::listening::Listening;
use crate::rejection::Rejection;
use crate::size::{self, DECISION_BYTES_MAX};
use crate::state::State;
use crate::tenant::{TenantState, Timer};

/// How many timers one tick fires: a batch of events that is bounded, after a long absence too. The rest is due at once.
pub(super) const TIMERS_MAX: usize = 1_000;
/// After how many events a tick fires no more timers: one of them may end something for thousands of targets.
const EVENTS_MAX: usize = 20_000;

/// A timer that cannot be fired is left as it is, told in [`Decision::stuck`], and holds nobody else up: neither what comes of it
/// nor how large that is, nor how long it takes to find out.
pub(super) fn decide(state: &State, request: &Request, listening: Listening, now: Timestamp) -> Decision {
    let mut decision = Decision::new(state);
    let mut left = TIMERS_MAX;
    for (_, timer) in state.system.timers.iter().take_while(|(at, _)| *at <= now).take(left) {
        if let Some(fact) = fact_of_system(timer)
            && let Err(why) = decision.emit(StreamId::System, request, now, fact)
        {
            decision.stuck.push(Stuck { stream: StreamId::System, timer: timer.clone(), why });
        }
        left -= 1;
    }
    let used: usize = decision.events.iter().map(|(_, event)| size::of(event)).sum();
    let mut room = Room { bytes: DECISION_BYTES_MAX.saturating_sub(used), work: WORK_MAX };
    // Another one is the first each time, so that one with much to do keeps nobody waiting for ever.
    let first = usize::try_from(now.0).unwrap_or(usize::MAX) % state.tenants.len().max(1);
    for (id, tenant) in state.tenants.iter().skip(first).chain(state.tenants.iter().take(first)) {
        if left == 0 || decision.events.len() >= EVENTS_MAX || room.work == 0 {
            break;
        }
        let due = due_in(tenant, listening, now, &mut decision.held_back);
        let due: Vec<_> = due.take(left).cloned().collect();
        if due.is_empty() {
            continue;
        }
        left -= due.len();
        let mut tx = Transaction::new(state, tenant, request, now);
        if fire_all(&mut tx, &due).and_then(|()| room.take(&tx)).is_ok() {
            decision.merge(tx);
            continue;
        }
        for alone in &due {
            let tenant = Arc::clone(&decision.state.tenants[id]);
            let mut tx = Transaction::new(state, &tenant, request, now);
            match fire_all(&mut tx, std::slice::from_ref(alone)).and_then(|()| room.take(&tx)) {
                Ok(()) => decision.merge(tx),
                // What was decided before has taken its room: it is due still, and comes first in the next tick.
                Err(Rejection::TooLarge { .. }) if room.bytes < DECISION_BYTES_MAX / 2 => return decision,
                Err(why) => {
                    let (stream, timer) = (StreamId::Tenant(*id), alone.1.clone());
                    decision.stuck.push(Stuck { stream, timer, why });
                }
            }
            if room.work == 0 {
                return decision;
            }
        }
    }
    decision
}

/// The due timers of a tenant that are not held back.
fn due_in<'t>(
    tenant: &'t TenantState,
    listening: Listening,
    now: Timestamp,
    held_back: &'t mut bool,
) -> impl Iterator<Item = &'t (Timestamp, Timer)> {
    tenant.timers.iter().take_while(move |(at, _)| *at <= now).filter(move |(_, timer)| {
        let waits = listening.holds_back(tenant, timer, now);
        *held_back |= waits;
        !waits
    })
}

/// What a tick may still come to.
struct Room {
    /// Of events, in bytes.
    bytes: usize,
    /// Of expressions, in steps of their evaluation.
    work: u64,
}

impl Room {
    /// Takes what a tenant's part needs; nothing if there is not as much.
    fn take(&mut self, tx: &Transaction<'_>) -> Result<(), Rejection> {
        self.work = self.work.saturating_sub(tx.work());
        let bytes = size::of_events(tx.events())?;
        let too_large = Rejection::TooLarge { bytes, bytes_max: self.bytes };
        self.bytes = self.bytes.checked_sub(bytes).ok_or(too_large)?;
        Ok(())
    }
}

fn fact_of_system(timer: &Timer) -> Option<Fact> {
    match timer {
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
        | Timer::ProbeOverdue(_)
        | Timer::KeepEnds(_)
        | Timer::EnrolmentTokenEnded(_)
        | Timer::DeploymentPutOff(_) => None,
    }
}

/// Fires timers in their order, and then what follows from all of them.
fn fire_all(tx: &mut Transaction<'_>, due: &[(Timestamp, Timer)]) -> Result<(), Rejection> {
    for timer in due {
        // What fired before it may have made it void.
        if tx.tenant.timers.contains(timer) {
            fire(tx, &timer.1)?;
        }
        if tx.emitted() >= EVENTS_MAX || tx.work() >= WORK_MAX {
            break;
        }
    }
    follow(tx)
}

/// Each kind ends in a fact that removes the timer.
fn fire(tx: &mut Transaction<'_>, timer: &Timer) -> Result<(), Rejection> {
    match timer {
        Timer::ReconnectWindow(agent) => {
            tx.emit(Fact::AgentOffline { agent: *agent })?;
            ending::agent_is_gone(tx, *agent)?;
            proof::agent_is_gone(tx, *agent)
        }
        Timer::RequestForgotten(key) => tx.emit(Fact::RequestForgotten { key: key.clone() }),
        Timer::TaskOverdue(task) => ending::overdue(tx, *task),
        Timer::DeploymentDeadline(deployment) => deadline(tx, *deployment),
        Timer::DeploymentResumes(deployment) => hold::go_on(tx, *deployment),
        Timer::PromotionHeld(promotion) => tx.emit(Fact::PromotionHeld { id: *promotion, until: None }),
        Timer::PromotionExpires(promotion) => promotion::time_is_up(tx, *promotion),
        Timer::GateOverdue(promotion, name) => gate::overdue(tx, *promotion, name),
        Timer::GateAgain(promotion, name) => gate::again(tx, *promotion, name),
        Timer::AutoPromotion(environment, release) => {
            tx.emit(Fact::AutoPromotionDue { environment: *environment, release: *release, again: None })
        }
        Timer::WayBackOverdue(deployment) => proof::overdue(tx, *deployment),
        Timer::ProbeOverdue(task) => probe::overdue(tx, *task),
        Timer::KeepEnds(deployment) => colour::keep_ended(tx, *deployment),
        Timer::StepDue(id, step) => run::due(tx, *id, step),
        Timer::DeploymentPutOff(deployment) => put_off::take_up(tx, *deployment),
        Timer::EnrolmentTokenEnded(id) => tx.emit(Fact::EnrolmentTokenForgotten { id: *id }),
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

#[cfg(test)]
mod tests {
    use stella_protocol::digest::Digest;
    use stella_protocol::id::{ApiTokenId, EnvironmentId, TenantId};
    use stella_protocol::trace::TraceContext;
    use uuid::Uuid;

    use super::*;
    use crate::command::{Actor, Command, Idempotency, Outcome, SystemCommand, TenantCommand};
    use crate::tenant::{AnsweredRequest, REQUEST_MEMORY_MS};
    use crate::way_back::ProofRule;

    fn tenant(id: u128) -> TenantId {
        TenantId(Uuid::from_u128(id))
    }

    fn request(command: Command, key: Option<&str>) -> Request {
        let idempotency = key.map(|key| Idempotency { key: key.to_owned(), digest: Digest([0; 32]) });
        Request { actor: Actor::System, trace: TraceContext::default(), idempotency, command }
    }

    #[test]
    fn a_timer_that_cannot_be_fired_holds_nobody_else_up() {
        let mut state = State::default();
        let tell = |state: &mut State, request: Request| {
            *state = super::super::decide(state, &request, Timestamp::default()).unwrap().state;
        };
        for (id, name) in [(1, "first"), (2, "second")] {
            let command = SystemCommand::CreateTenant { id: tenant(id), name: name.parse().unwrap() };
            tell(&mut state, request(Command::System(command), None));
        }
        // Each of these has a timer: the request is forgotten after a day.
        for (id, number, key) in [(1, 11, "a"), (1, 12, "b"), (2, 13, "c")] {
            let command = TenantCommand::CreateEnvironment {
                id: EnvironmentId(Uuid::from_u128(number)),
                name: key.parse().unwrap(),
                order: None,
                way_back_proof: ProofRule::Off,
            };
            tell(&mut state, request(Command::Tenant(tenant(id), command), Some(key)));
        }
        // A timer of the system's in a tenant: `apply` refuses what it stands for.
        let stray = (Timestamp::default(), Timer::ApiTokenEnded(ApiTokenId(Uuid::nil())));
        let mut odd = (*state.tenants[&tenant(1)]).clone();
        odd.timers.insert(stray.clone());
        state.tenants.insert(tenant(1), Arc::new(odd));

        let later = Timestamp(REQUEST_MEMORY_MS + 1);
        let decision =
            super::super::decide(&state, &request(Command::Tick(Listening::Always), None), later).unwrap();

        assert_eq!(decision.stuck.len(), 1, "{:?}", decision.stuck);
        assert_eq!(decision.events.len(), 3, "{:?}", decision.events);
        let left = |id| decision.state.tenants[&tenant(id)].timers.iter().cloned().collect::<Vec<_>>();
        assert_eq!(left(1), [stray]);
        assert_eq!(left(2), []);
    }

    #[test]
    fn what_is_too_large_to_be_written_holds_nobody_else_up() {
        let mut state = State::default();
        for (id, name) in [(1, "first"), (2, "second")] {
            let command = SystemCommand::CreateTenant { id: tenant(id), name: name.parse().unwrap() };
            let request = request(Command::System(command), None);
            state = super::super::decide(&state, &request, Timestamp::default()).unwrap().state;
        }
        // What has to be said of these is as long as their keys.
        let with_keys = |state: &mut State, id: u128, keys: &[usize]| {
            let mut odd = (*state.tenants[&tenant(id)]).clone();
            for (n, bytes) in keys.iter().enumerate() {
                let key = format!("{n}{}", "x".repeat(*bytes));
                let (digest, forgotten_at) = (Digest([0; 32]), Timestamp::default());
                let answered = AnsweredRequest { digest, outcome: Outcome::Done, forgotten_at };
                odd.requests.insert(key.clone(), answered);
                odd.timers.insert((forgotten_at, Timer::RequestForgotten(key)));
            }
            state.tenants.insert(tenant(id), Arc::new(odd));
        };
        with_keys(&mut state, 1, &[5 << 20, 10]);
        with_keys(&mut state, 2, &[3 << 20; 20]);
        let tick = |state: &State| {
            super::super::decide(state, &request(Command::Tick(Listening::Always), None), Timestamp(2))
                .unwrap()
        };
        let first = tick(&state);
        let [Stuck { stream, why: Rejection::TooLarge { .. }, .. }] = &first.stuck[..] else {
            panic!("{:?}", first.stuck.len())
        };
        assert_eq!(*stream, StreamId::Tenant(tenant(1)));
        // All that fits is written, and the rest comes with the next tick.
        let bytes: usize = first.events.iter().map(|(_, event)| size::of(event)).sum();
        assert!((DECISION_BYTES_MAX / 2..=DECISION_BYTES_MAX).contains(&bytes), "{bytes}");
        let second = tick(&first.state);
        assert_eq!(first.events.len() + second.events.len(), 21);
        assert!(second.state.tenants[&tenant(2)].timers.is_empty());
    }
}
