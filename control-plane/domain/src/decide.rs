//! What follows from a command: events, an answer and the next state, or a rejection that changed nothing.
//!
//! Each command is a transaction on a copy of its tenant, which shares all that it does not change. A fact is applied as soon
//! as it is emitted, by the same function as in replay; what is decided later in the command sees it. A rejection anywhere
//! throws the copy away.

mod agent;
mod archive;
mod artifact;
mod authority;
mod automation;
mod brake;
mod channel;
mod colour;
mod deploy_step;
mod deployment;
mod drain;
mod ending;
mod enrolment;
mod environment;
mod fields;
mod freeze;
mod gate;
mod gate_step;
mod group;
mod guide;
mod hold;
mod hook;
mod job;
mod outgoing;
mod path;
mod probe;
mod promotion;
mod proof;
mod provenance;
mod put_off;
mod release;
mod report;
mod retry;
mod rollback;
mod rollout;
mod run;
mod run_outputs;
mod run_plan;
mod settle;
mod signature;
mod silence;
mod strategy;
mod sub_run;
mod system;
mod target;
mod tick;
mod transaction;
mod verification;
mod void;
mod way_back;
mod workflow;

use std::sync::Arc;

use imbl::OrdMap;
use stella_protocol::id::{TargetId, TenantId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;

use crate::access;
use crate::command::{Actor, Command, Idempotency, NewDeployment, Outcome, Request, TenantCommand};
use crate::event::{Event, Fact, StreamId};
use crate::plan::TargetWork;
use crate::rejection::Rejection;
use crate::state::State;
use crate::tenant::{AnsweredRequest, REQUEST_MEMORY_MS, TenantState, Timer};
pub use channel::newest;
pub use gate::{Preview, preview};
pub use promotion::{Planned, planned, planned_again, prove, work_on};
pub use proof::{Provable, judge, provable};
pub(crate) use release::are_sound;
pub use rollback::plan_rollback;
pub use run_plan::{PlannedRun, PlannedStep, plan_run};
pub(crate) use strategy::is_well_formed;
use transaction::Transaction;

/// How long an idempotency key may be, in bytes, with what the API puts before it. The API has a smaller limit of its own for what
/// its callers choose.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;

/// What follows from a command.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What happened, in this order, to be appended together or not at all. May be empty.
    pub events: Vec<(StreamId, Event)>,
    /// The answer.
    pub outcome: Outcome,
    /// The state after the events.
    pub state: State,
    /// What became of due timers that could not be fired, each a defect. They are still due.
    pub stuck: Vec<Stuck>,
    /// Whether due timers are held back until agents had their time to come back. They are still due: look again soon.
    pub held_back: bool,
}

/// A due timer that could not be fired.
#[derive(Clone, Debug)]
pub struct Stuck {
    /// Whose it is.
    pub stream: StreamId,
    /// Which.
    pub timer: Timer,
    /// Why not.
    pub why: Rejection,
}

/// Decides what follows from `request` at `now`, which must not be before the last event.
///
/// # Errors
/// If it cannot be carried out; then nothing has changed.
pub fn decide(state: &State, request: &Request, now: Timestamp) -> Result<Decision, Rejection> {
    let stream = match &request.command {
        Command::Tick(_) | Command::System(_) => StreamId::System,
        Command::Tenant(id, _) => StreamId::Tenant(*id),
    };
    access::check(state, request, now)?;
    if let Some(idempotency) = &request.idempotency
        && let Some(outcome) = answered_before(state, stream, idempotency)?
    {
        return Ok(Decision { outcome, ..Decision::new(state) });
    }
    let mut decision = match &request.command {
        Command::Tick(listening) => tick::decide(state, request, *listening, now),
        Command::System(command) => system::decide(state, request, command, now)?,
        Command::Tenant(id, command) => in_tenant(state, request, *id, command, now)?,
    };
    if let Some(Idempotency { key, digest }) = &request.idempotency {
        let outcome = decision.outcome.clone();
        let forgotten_at = now.plus_ms(REQUEST_MEMORY_MS);
        let fact = Fact::RequestAnswered { key: key.clone(), digest: *digest, outcome, forgotten_at };
        decision.emit(stream, request, now, fact)?;
    }
    Ok(decision)
}

/// What a deployment would do if `actor` asked for it, with all the checks that it would go through; nothing follows from asking.
///
/// # Errors
/// If it would be refused, for the same reason.
pub fn plan(
    state: &State,
    actor: Actor,
    tenant: TenantId,
    new: &NewDeployment,
    now: Timestamp,
) -> Result<Planned, Rejection> {
    let (tenant, actor) = may_deploy(state, actor, tenant, new, now)?;
    let planned = planned(tenant, new, now)?;
    can_be_approved(state, tenant, (&actor, new))?;
    Ok(planned)
}

/// What a deployment by this actor would run on one of its targets, had it been asked for at `now`, and what would take it back.
///
/// # Errors
/// If it would be refused, for the same reason, or does not go there.
pub fn plan_work(
    state: &State,
    actor: Actor,
    (tenant, target): (TenantId, TargetId),
    new: &NewDeployment,
    now: Timestamp,
) -> Result<TargetWork, Rejection> {
    let (tenant, actor) = may_deploy(state, actor, tenant, new, now)?;
    let work = promotion::planned_work(tenant, new, target, now)?;
    can_be_approved(state, tenant, (&actor, new))?;
    Ok(work)
}

/// The tenant of a deployment that somebody may ask for, and who asks.
fn may_deploy<'s>(
    state: &'s State,
    actor: Actor,
    tenant: TenantId,
    new: &NewDeployment,
    now: Timestamp,
) -> Result<(&'s TenantState, Actor), Rejection> {
    let command = Command::Tenant(tenant, TenantCommand::Deploy(Box::new(new.clone())));
    let request = Request { actor, trace: TraceContext::default(), idempotency: None, command };
    access::check(state, &request, now)?;
    let found = state.tenants.get(&tenant).map(AsRef::as_ref);
    let found = found.ok_or_else(|| Rejection::not_found(TenantId::KIND, tenant))?;
    Ok((found, request.actor))
}

/// Whether enough of those who may approve a deployment are left when whoever asks for it does not count.
fn can_be_approved(
    state: &State,
    tenant: &TenantState,
    (actor, new): (&Actor, &NewDeployment),
) -> Result<(), Rejection> {
    match tenant.environments.get(&new.environment) {
        Some(environment) => promotion::can_be_approved((state, tenant.id), environment, actor, &[]),
        None => Ok(()),
    }
}

impl Decision {
    fn new(state: &State) -> Self {
        Self {
            events: Vec::new(),
            outcome: Outcome::Done,
            state: state.clone(),
            stuck: Vec::new(),
            held_back: false,
        }
    }

    fn emit(
        &mut self,
        stream: StreamId,
        request: &Request,
        now: Timestamp,
        fact: Fact,
    ) -> Result<(), Rejection> {
        let event = Event::new(now, &request.actor, &request.trace, fact);
        self.state.apply(stream, &event).map_err(Rejection::Defect)?;
        self.events.push((stream, event));
        Ok(())
    }

    /// Takes over what a transaction did.
    fn merge(&mut self, transaction: Transaction<'_>) {
        let (tenant, events) = transaction.into_parts();
        if events.is_empty() {
            return;
        }
        let stream = StreamId::Tenant(tenant.id);
        self.events.extend(events.into_iter().map(|event| (stream, event)));
        self.state.tenants.insert(tenant.id, Arc::new(tenant));
    }
}

fn answered_before(
    state: &State,
    stream: StreamId,
    request: &Idempotency,
) -> Result<Option<Outcome>, Rejection> {
    if request.key.is_empty() || request.key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let problem = format!("must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes; any random text will do");
        return Err(Rejection::invalid("idempotency_key", problem));
    }
    let requests: &OrdMap<String, AnsweredRequest> = match stream {
        StreamId::System => &state.system.requests,
        StreamId::Tenant(id) => match state.tenants.get(&id) {
            Some(tenant) => &tenant.requests,
            None => return Ok(None),
        },
    };
    match requests.get(&request.key) {
        None => Ok(None),
        Some(answered) if answered.digest == request.digest => Ok(Some(answered.outcome.clone())),
        Some(_) => Err(Rejection::KeyReused),
    }
}

fn in_tenant(
    state: &State,
    request: &Request,
    id: TenantId,
    command: &TenantCommand,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let tenant = state.tenants.get(&id).ok_or_else(|| Rejection::not_found(TenantId::KIND, id))?;
    let mut decision = Decision::new(state);
    let mut tx = Transaction::new(state, tenant, request, now);
    decision.outcome = carry_out(&mut tx, command)?;
    follow(&mut tx)?;
    decision.merge(tx);
    Ok(decision)
}

/// What follows from what has happened, for deployments, promotions and runs, until nothing does.
fn follow(tx: &mut Transaction<'_>) -> Result<(), Rejection> {
    let mut seen = 0;
    loop {
        let before = tx.emitted();
        path::reconsider(tx)?;
        brake::reconsider(tx)?;
        automation::go_on(tx)?;
        run::turn_away(tx, seen)?;
        promotion::reconsider(tx)?;
        run::go_on(tx, &mut seen)?;
        if tx.emitted() == before {
            return Ok(());
        }
    }
}

#[expect(clippy::too_many_lines, reason = "a table: each command goes to its function")]
fn carry_out(tx: &mut Transaction<'_>, command: &TenantCommand) -> Result<Outcome, Rejection> {
    match command {
        TenantCommand::CreateEnvironment { id, name, order, way_back_proof } => {
            environment::create(tx, *id, name, *order, *way_back_proof)
        }
        TenantCommand::UpdateEnvironment { id, name, order } => {
            environment::update(tx, *id, name.as_ref(), *order)
        }
        TenantCommand::RemoveEnvironment { id } => environment::remove(tx, *id),
        TenantCommand::CreateTarget(new) => target::create(tx, new),
        TenantCommand::UpdateTarget(change) => target::update(tx, change),
        TenantCommand::RemoveTarget { id } => target::remove(tx, *id),
        TenantCommand::CreateEnrolmentToken(new) => enrolment::create_token(tx, new),
        TenantCommand::Enrol { token, key_fingerprint, agent, hostname, takes_profile, wanted } => {
            let host = enrolment::Host { hostname, takes_profile: *takes_profile, wanted: *wanted };
            enrolment::enrol(tx, *token, *key_fingerprint, *agent, &host)
        }
        TenantCommand::RevokeAgent { agent, reason } => agent::revoke(tx, *agent, reason),
        TenantCommand::DrainAgent { agent, reason } => drain::drain(tx, *agent, reason),
        TenantCommand::UndrainAgent { agent } => drain::undrain(tx, *agent),
        TenantCommand::ConnectAgent { agent, hello, journal_rolled_back } => {
            agent::connect(tx, *agent, hello, *journal_rolled_back)
        }
        TenantCommand::DisconnectAgent { agent, session, reason } => {
            agent::disconnect(tx, *agent, *session, reason)
        }
        TenantCommand::Report { agent, session, report } => report::report(tx, *agent, *session, report),
        TenantCommand::RecordAgentTrust { agent, session, trust } => {
            authority::agent_trusts(tx, *agent, *session, trust)
        }
        TenantCommand::RevokeEnrolmentToken { id, reason } => enrolment::revoke_token(tx, *id, reason),
        TenantCommand::RecordAgentFigures { agent, session, at } => {
            agent::figures_at(tx, *agent, *session, at)
        }
        TenantCommand::StoreArtifact { digest, size_bytes, tenant_bytes_max } => {
            artifact::store(tx, *digest, *size_bytes, *tenant_bytes_max)
        }
        TenantCommand::RemoveArtifacts { digests, rule } => artifact::remove(tx, digests, *rule),
        TenantCommand::CreateRelease(new) => release::create(tx, new),
        TenantCommand::AddReleaseKey { name, public_key } => signature::add_key(tx, name, *public_key),
        TenantCommand::RevokeReleaseKey { key, reason } => signature::revoke_key(tx, *key, reason),
        TenantCommand::SignRelease { release, key, signature: signed } => {
            signature::sign(tx, *release, *key, signed)
        }
        TenantCommand::SetChannel { application, name, rule } => channel::set(tx, application, name, rule),
        TenantCommand::RemoveChannel { application, name } => channel::remove(tx, application, name),
        TenantCommand::SetEnvironmentChannels { environment, channels } => {
            channel::set_taken(tx, *environment, channels)
        }
        TenantCommand::SetReleaseSigning { rule } => signature::demand(tx, rule.as_ref()),
        TenantCommand::Deploy(new) => promotion::request(tx, new),
        TenantCommand::Rollback { id, of, targets } => rollback::by_hand(tx, *id, *of, targets.as_deref()),
        TenantCommand::CancelDeployment { deployment, reason } => deployment::cancel(tx, *deployment, reason),
        TenantCommand::SettleTask { task, succeeded, reason } => {
            settle::settle(tx, *task, *succeeded, reason)
        }
        TenantCommand::LockEnvironment { environment, reason } => hold::lock(tx, *environment, reason),
        TenantCommand::UnlockEnvironment { environment } => hold::unlock(tx, *environment),
        TenantCommand::SetEnvironmentPath { environment, requires } => {
            path::set(tx, *environment, requires.as_ref())
        }
        TenantCommand::JudgeRelease { release, verdict, reason } => {
            hold::judge(tx, *release, *verdict, reason)
        }
        TenantCommand::SetEnvironmentApprovals { environment, rule } => {
            promotion::set_rule(tx, *environment, rule.as_ref())
        }
        TenantCommand::FreezeEnvironment { environment, freeze: new } => freeze::set(tx, *environment, new),
        TenantCommand::UnfreezeEnvironment { environment, freeze: name } => {
            freeze::remove(tx, *environment, name)
        }
        TenantCommand::ApprovePromotion { promotion, plan, reason, signature } => {
            promotion::approve(tx, *promotion, *plan, reason, *signature)
        }
        TenantCommand::RejectPromotion { promotion, objection, reason } => {
            promotion::reject(tx, *promotion, *objection, reason)
        }
        TenantCommand::ApplyWorkflow(_)
        | TenantCommand::RemoveWorkflow { .. }
        | TenantCommand::StartRun(_)
        | TenantCommand::CancelRun { .. }
        | TenantCommand::RetryStep { .. }
        | TenantCommand::AnswerStep { .. }
        | TenantCommand::DecideStep { .. }
        | TenantCommand::AnswerCall { .. }
        | TenantCommand::AnswerStepGate { .. } => workflow::carry_out(tx, command),
        TenantCommand::CreateHook(new) => hook::create(tx, new),
        TenantCommand::RotateHook { hook: id, salt, overlap_ms } => hook::rotate(tx, *id, *salt, *overlap_ms),
        TenantCommand::RemoveHook { hook: id } => hook::remove(tx, *id),
        TenantCommand::WithdrawPromotion { promotion, reason } => promotion::withdraw(tx, *promotion, reason),
        TenantCommand::SetGate { environment, gate: wanted } => gate::set(tx, *environment, wanted),
        TenantCommand::RemoveGate { environment, gate: name } => gate::remove(tx, *environment, name),
        TenantCommand::AnswerGate(answer) => gate::answer(tx, answer),
        TenantCommand::DecideGate { promotion, gate: name, passed, reason } => {
            gate::decide(tx, *promotion, name, *passed, reason)
        }
        TenantCommand::OverrideGate { promotion, gate: name, reason } => {
            gate::override_it(tx, *promotion, name, reason)
        }
        TenantCommand::RecordFindings(new) => gate::record_findings(tx, new),
        TenantCommand::RetireColours { id, of } => colour::retire(tx, *id, *of),
        TenantCommand::RetryDeployment { id, of, targets } => retry::retry(tx, *id, *of, targets.as_deref()),
        TenantCommand::SetEnvironmentBudget { environment, budget } => {
            brake::set_budget(tx, *environment, *budget)
        }
        TenantCommand::SetEnvironmentWayBack { environment, required } => {
            way_back::set(tx, *environment, *required)
        }
        TenantCommand::SetEnvironmentStrategy { environment, strategy } => {
            environment::set_strategy(tx, *environment, strategy.as_ref())
        }
        TenantCommand::SetEnvironmentWayBackProof { environment, rule } => {
            proof::set_rule(tx, *environment, *rule)
        }
        TenantCommand::ProveWayBack { deployment } => proof::ask_again(tx, *deployment),
        TenantCommand::WaiveWayBack { deployment, reason } => proof::waive(tx, *deployment, reason),
        TenantCommand::AnswerInspection { agent, session, question, holdings } => {
            proof::answer(tx, *agent, *session, *question, holdings)
        }
        TenantCommand::AnswerProbe { agent, session, question, effect } => {
            probe::answer(tx, *agent, *session, *question, effect)
        }
        TenantCommand::SetEnvironmentVerification { environment, verification: wanted } => {
            verification::set(tx, *environment, *wanted)
        }
        TenantCommand::SetEnvironmentSilence { environment, rule } => silence::set(tx, *environment, *rule),
        TenantCommand::RetryTarget { deployment, target } => guide::retry(tx, *deployment, *target),
        TenantCommand::SkipTarget { deployment, target, reason } => {
            guide::skip(tx, *deployment, *target, reason)
        }
        TenantCommand::FailDeployment { deployment, roll_back, reason } => {
            guide::give_up(tx, *deployment, *roll_back, reason)
        }
        TenantCommand::PauseDeployment { deployment, reason } => hold::pause(tx, *deployment, reason),
        TenantCommand::ResumeDeployment { deployment } => hold::resume(tx, *deployment),
        TenantCommand::Archive(ended) => archive::forget(tx, ended),
    }
}
