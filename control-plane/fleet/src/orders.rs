//! What the durable state wants an agent to be told, and what of it a session has told already.
//!
//! Only the state is asked, never an event: what is sent is therefore durable, and asking again does no harm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use stella_domain::agent::{Agent, Connectivity};
use stella_domain::deployment::Progress;
use stella_domain::spans;
use stella_domain::state::State;
use stella_domain::task::{CANCEL_GRACE_MS, Task, TaskState};
use stella_domain::tenant::TenantState;
use stella_engine::Handle;
use stella_protocol::close::CloseCode;
use stella_protocol::id::{AgentId, AttemptKey, QuestionId, SessionEpoch, TenantId};
use stella_protocol::message::{AttemptProbe, Cancel, Dispatch, Inspect, TracedDispatch, capability};
use stella_protocol::session::SendError;
use stella_protocol::session::control::ControlSession;
use stella_protocol::spec::TaskSpec;
use stella_protocol::time::Timestamp;
use tokio::time::Instant;

use crate::registry::Link;

/// Keys that are not open any more are forgotten when there are this many more of them than open ones.
const FORGET_SLACK: usize = 32;

/// For when an attempt was queued, if the clock was set since: a time that has not come. Agents without [`capability::CERTAIN`] take it for
/// now; the core believes nothing that they say of it.
const SINCE_UNKNOWN: Timestamp = Timestamp(u64::MAX);

/// What one session has told its agent.
#[derive(Debug)]
pub(crate) struct Told {
    /// Whether the agent understands what travels with a trace.
    takes_trace: bool,
    /// Whether it tells how far the end of what it is to end gets.
    takes_ends: bool,
    dispatched: BTreeSet<AttemptKey>,
    cancelled: BTreeSet<AttemptKey>,
    /// What the agent was asked about its host, and has not answered.
    asked: BTreeSet<QuestionId>,
    /// To which of them an answer has come.
    answered: BTreeSet<QuestionId>,
    /// Whether the agent can be asked that.
    takes_questions: bool,
    /// Whether it can be asked what is left of an attempt.
    takes_probes: bool,
    /// From when on it is.
    probes_from: Instant,
    figures: Figures,
}

/// Whether the agent is to be asked where its own figures are: once in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figures {
    /// It has none for others.
    None,
    Unasked,
    Asked,
    Answered,
}

impl Told {
    /// Whether it can be asked what its host holds.
    pub(crate) const fn understands_questions(&self) -> bool {
        self.takes_questions
    }

    /// Whether an answer is one to an open question. It is answered with that: there is one answer to each.
    pub(crate) fn is_answered(&mut self, question: QuestionId) -> bool {
        self.asked.contains(&question) && self.answered.insert(question)
    }

    /// Asks where the agent's own figures are, if that is still to be done. The transport may not keep up: then the next call does.
    pub(crate) fn ask_where_figures(&mut self, session: &mut ControlSession) {
        if self.figures == Figures::Unasked && session.where_figures().is_ok() {
            self.figures = Figures::Asked;
        }
    }

    /// Whether the answer to that was waited for. There is one.
    pub(crate) const fn figures_are_answered(&mut self) -> bool {
        let was_waited_for = matches!(self.figures, Figures::Asked);
        if was_waited_for {
            self.figures = Figures::Answered;
        }
        was_waited_for
    }
}

impl Told {
    /// Nothing yet, to an agent of these capabilities that is asked nothing about attempts for so long.
    pub(crate) fn new(capabilities: u64, probes_after: Duration) -> Self {
        let takes_trace = capabilities & capability::TRACE != 0;
        let has_figures = capabilities & capability::FIGURES != 0;
        Self {
            takes_trace,
            takes_ends: capabilities & capability::ENDING != 0,
            dispatched: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            asked: BTreeSet::new(),
            answered: BTreeSet::new(),
            takes_questions: capabilities & capability::HOLDINGS != 0,
            takes_probes: capabilities & capability::PROBES != 0,
            probes_from: Instant::now() + probes_after,
            figures: if has_figures { Figures::Unasked } else { Figures::None },
        }
    }
}

/// The agent, if it may connect.
pub(crate) fn admit(state: &State, tenant: TenantId, agent: AgentId) -> Result<&Arc<Agent>, CloseCode> {
    let known = state.tenants.get(&tenant).and_then(|tenant| tenant.agents.get(&agent));
    let known = known.ok_or(CloseCode::UnknownAgent)?;
    if known.revoked.is_some() { Err(CloseCode::Revoked) } else { Ok(known) }
}

/// Whether a session may go on; if not, how it has to end.
pub(crate) fn check(
    state: &State,
    tenant: TenantId,
    agent: AgentId,
    session: SessionEpoch,
) -> Result<(), CloseCode> {
    let agent = admit(state, tenant, agent)?;
    if agent.session != session {
        return Err(CloseCode::Superseded);
    }
    // The state has ended this session. The agent is better off with a new one than with one that is not heard.
    if matches!(agent.connectivity, Connectivity::Online { .. }) { Ok(()) } else { Err(CloseCode::Internal) }
}

/// Whether a session has to look at the state: it must end, or there may be something to tell.
pub(crate) fn has_any(state: &State, link: &Link) -> bool {
    check(state, link.tenant, link.agent, link.session).is_err()
        || open_tasks(state, link.tenant, link.agent).next().is_some()
        || questions(state, link.tenant, link.agent).next().is_some()
        || probes(state, link.tenant, link.agent, Timestamp(0)).next().is_some()
}

/// Queues what was not told yet. Stops when the transport does not keep up; the next call goes on.
pub(crate) fn tell(
    told: &mut Told,
    state: &State,
    (tenant, agent): (TenantId, AgentId),
    session: &mut ControlSession,
    clock: &Handle,
) -> Result<(), SendError> {
    let (Some(epoch), Some(owned)) = (session.session(), state.tenants.get(&tenant)) else { return Ok(()) };
    let mut open = 0;
    for task in open_tasks(state, tenant, agent) {
        open += 1;
        let key = task.key();
        let is_here = match task.state {
            TaskState::Dispatched { session, .. } => session == epoch,
            TaskState::Accepted { .. } | TaskState::Running { .. } | TaskState::Unknown { .. } => true,
            TaskState::Queued
            | TaskState::Succeeded(_)
            | TaskState::Failed(_)
            | TaskState::TimedOut(_)
            | TaskState::Cancelled(_)
            | TaskState::Interrupted(_) => false,
        };
        if !is_here {
            continue;
        }
        if matches!(task.state, TaskState::Dispatched { .. }) && !told.dispatched.contains(&key) {
            send_dispatch(told.takes_trace, owned, task, epoch, session)?;
            told.dispatched.insert(key);
        }
        if (task.cancel_requested || is_left_behind(owned, task)) && !told.cancelled.contains(&key) {
            let cancel = Cancel { key, grace_ms: CANCEL_GRACE_MS };
            if told.takes_ends {
                session.end_attempt(cancel)?
            } else {
                session.cancel(cancel)?
            }
            told.cancelled.insert(key);
        }
    }
    if told.dispatched.len() + told.cancelled.len() > 2 * open + FORGET_SLACK {
        let is_open = |key: &AttemptKey| open_tasks(state, tenant, agent).any(|task| task.key() == *key);
        told.dispatched.retain(is_open);
        told.cancelled.retain(is_open);
    }
    ask(told, state, (tenant, agent), session, clock)
}

/// Asks what was not asked yet. What nobody waits for any more is forgotten.
fn ask(
    told: &mut Told,
    state: &State,
    (tenant, agent): (TenantId, AgentId),
    session: &mut ControlSession,
    clock: &Handle,
) -> Result<(), SendError> {
    let mut open = BTreeSet::new();
    // Who does not understand a question is waited for until its window is over.
    let holdings = questions(state, tenant, agent).filter(|_| told.takes_questions);
    for inspect in holdings.collect::<Vec<_>>() {
        let question = inspect.question;
        open.insert(question);
        if !told.asked.contains(&question) {
            is_asked(session.inspect(Box::new(inspect)), (tenant, agent))?;
            told.asked.insert(question);
        }
    }
    let may_probe = told.takes_probes && told.probes_from <= Instant::now();
    let attempts = probes(state, tenant, agent, clock.now()).filter(|_| may_probe);
    for mut probe in attempts.collect::<Vec<_>>() {
        let question = probe.question;
        open.insert(question);
        if !told.asked.contains(&question) {
            if clock.clock_was_set_since(probe.since) {
                probe.since = SINCE_UNKNOWN;
            }
            is_asked(session.probe(Box::new(probe)), (tenant, agent))?;
            told.asked.insert(question);
        }
    }
    told.asked.retain(|question| open.contains(question));
    told.answered.retain(|question| open.contains(question));
    Ok(())
}

/// A question that cannot be put is a defect: it is logged, and is not put again.
fn is_asked(sent: Result<(), SendError>, (tenant, agent): (TenantId, AgentId)) -> Result<(), SendError> {
    match sent {
        Err(SendError::Frame(error)) => {
            tracing::error!(tenantId = %tenant, agentId = %agent, %error, "a question does not fit into a frame");
            Ok(())
        }
        sent => sent,
    }
}

fn probes(
    state: &State,
    tenant: TenantId,
    agent: AgentId,
    now: Timestamp,
) -> impl Iterator<Item = AttemptProbe> {
    state.tenants.get(&tenant).into_iter().flat_map(move |owned| owned.probes(agent, now))
}

fn questions(state: &State, tenant: TenantId, agent: AgentId) -> impl Iterator<Item = Inspect> {
    let owned = state.tenants.get(&tenant);
    let open = owned.and_then(|owned| owned.inspections.get(&agent)).into_iter().flatten();
    open.filter_map(move |(deployment, target)| owned?.inspection(*deployment, *target))
}

fn open_tasks(state: &State, tenant: TenantId, agent: AgentId) -> impl Iterator<Item = &Arc<Task>> {
    let owned = state.tenants.get(&tenant);
    let ids = owned.and_then(|owned| owned.unsettled.get(&agent)).into_iter().flatten();
    let tasks = ids.filter_map(move |id| owned?.tasks.get(id));
    tasks.filter(move |task| task.state.is_open() || owned.is_some_and(|owned| is_left_behind(owned, task)))
}

/// Whether nobody knows what became of a task and its deployment does not wait for it any more: its end was asked for, or is asked
/// for now, while its agent was away. If it still runs there, it has to end; and the agent's answer says how it did.
fn is_left_behind(owned: &TenantState, task: &Task) -> bool {
    let part = owned.deployments.get(&task.deployment).and_then(|it| it.targets.get(&task.target));
    let is_given_up = part.is_none_or(|part| matches!(part.progress, Progress::Abandoned { .. }));
    matches!(task.state, TaskState::Unknown { .. }) && is_given_up
}

/// A dispatch that cannot be made is a defect: it is logged, and the task stays for its deployment's deadline.
fn send_dispatch(
    takes_trace: bool,
    owned: &TenantState,
    task: &Task,
    epoch: SessionEpoch,
    session: &mut ControlSession,
) -> Result<(), SendError> {
    let Some(dispatch) = dispatch(owned, task, epoch) else {
        tracing::error!(tenantId = %owned.id, taskId = %task.id, "a dispatched task has no target or release");
        return Ok(());
    };
    let sent = if takes_trace && dispatch.carries() {
        session.dispatch_traced(Box::new(dispatch))
    } else {
        session.dispatch(Box::new(dispatch.dispatch))
    };
    match sent {
        Ok(()) => {
            metrics::counter!("stella_fleet_dispatches_total").increment(1);
            tracing::debug!(tenantId = %owned.id, agentId = %task.agent, taskId = %task.key().task, attempt = task.key().attempt.0, event = "task.dispatched", "Task dispatched");
            Ok(())
        }
        Err(SendError::Frame(error)) => {
            tracing::error!(tenantId = %owned.id, taskId = %task.id, %error, "a task does not fit into a dispatch");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn dispatch(owned: &TenantState, task: &Task, session: SessionEpoch) -> Option<TracedDispatch> {
    let target = owned.targets.get(&task.target)?;
    let deployment = owned.deployments.get(&task.deployment)?;
    let rollout = deployment.targets.get(&task.target)?;
    let release = owned.recipe(task.release.unwrap_or(rollout.release))?;
    let trace = spans::of_work(deployment, task);
    let mut spec = task.spec.clone();
    if let TaskSpec::Artifact(artifact) = &mut spec {
        artifact.keep_releases = owned.kept_on_host(task, artifact.keep_releases);
    }
    let dispatch = Dispatch {
        task: task.id,
        attempt: task.attempt,
        session,
        deployment: task.deployment,
        target: task.target,
        target_name: target.name.as_str().to_owned(),
        slot: target.slot.as_ref().map(|slot| slot.as_str().to_owned()),
        generation: task.generation,
        release_version: release.version.as_str().to_owned(),
        spec,
        trace: trace.parent(),
    };
    Some(TracedDispatch { dispatch, state: trace.state, baggage: trace.baggage })
}
