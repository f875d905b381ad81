//! Asks what gates want to know from outside of the control plane: a Prometheus, or an HTTP endpoint.
//!
//! What to ask is in the state ([`stella_domain::gate::Record::asked`], and [`stella_domain::run::AskedGate`] of a workflow's step) and what was answered goes there as a command, so that nothing
//! here has to survive a restart: an open question is asked again by the next process, at least once in all. The core gives up
//! on an answer by itself; here every question has a shorter time-out. Where to ask comes from the control plane's configuration
//! alone: a gate names a source and never a URL, so that who may set a gate cannot make the control plane call anything.

mod ask;
mod http;
mod prometheus;
pub mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stella_domain::command::{Actor, Answer, Command, Request, TenantCommand};
use stella_domain::event::Fact;
use stella_domain::gate::{Check, Outcome};
use stella_domain::name::{Identifier, Name};
use stella_domain::run::Work;
use stella_domain::state::State;
use stella_domain::tenant::TenantState;
use stella_engine::{Handle, SubmitError};
use stella_protocol::id::{PromotionId, RunId, TenantId};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

pub use ask::{Error, Source, Tenants};
use turns::Turns;

/// How many questions are asked at once. Others wait for their turn, within the time that the core gives them.
const QUESTIONS_MAX: usize = 128;
/// How many of them are of one tenant, however many of its gates somebody waits for: four tenants whose sources do not answer leave
/// no fifth without a verdict for longer than one answer takes.
const QUESTIONS_OF_TENANT_MAX: usize = 32;
/// How often the state is searched for questions, whatever was heard of it.
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);

/// Whom to ask, by the names that gates use.
#[derive(Debug, Default)]
pub struct Sources {
    /// Prometheus servers, or what has the same HTTP API.
    pub prometheus: BTreeMap<Name, Source>,
    /// HTTP endpoints.
    pub http: BTreeMap<Name, Source>,
}

/// One question, as the state has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Question {
    tenant: TenantId,
    of: Asker,
    /// The how manieth of the same gate.
    number: u32,
}

/// Who waits for the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Asker {
    /// A gate of an environment, for a promotion.
    Promotion(PromotionId, Name),
    /// A step of a run.
    Step(RunId, Identifier),
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Promotion(promotion, gate) => write!(f, "{promotion}/{gate}"),
            Self::Step(run, step) => write!(f, "{run}/{step}"),
        }
    }
}

/// Asks and answers until `until` is cancelled.
pub async fn run(engine: Handle, sources: Sources, until: CancellationToken) {
    let sources = Arc::new(sources);
    let mut commits = engine.subscribe();
    let mut interval = tokio::time::interval(SEARCH_INTERVAL);
    let mut turns = Turns::<Question, Answered>::new(QUESTIONS_MAX, QUESTIONS_OF_TENANT_MAX);
    loop {
        let search = tokio::select! {
            () = until.cancelled() => return,
            _ = interval.tick() => true,
            commit = commits.recv() => match commit {
                Ok(commit) => commit.events.iter().any(|it| asks(&it.event.fact)),
                Err(RecvError::Lagged(_)) => true,
                Err(RecvError::Closed) => return,
            },
            ended = turns.ended() => match ended {
                // Its place is somebody else's now.
                (_, Ok(Answered::Taken)) => true,
                // Not at once: it is asked again after the interval, or when the core has given up on it.
                (_, Ok(Answered::NotTaken)) => false,
                (question, Err(error)) => {
                    tracing::error!(question = %question.of, %error, "a question about a gate broke off; this is a defect");
                    false
                }
            }
        };
        if search {
            let open = open_questions(&engine.state());
            for turn in turns.next(open.into_iter().map(|question| (question.tenant, question))) {
                let (engine, sources, question) = (engine.clone(), Arc::clone(&sources), turn.1.clone());
                turns.start(turn, async move { settle(&engine, &sources, &question).await });
            }
        }
    }
}

/// Whether something may be asked after this.
fn asks(fact: &Fact) -> bool {
    matches!(fact, Fact::GateAsked { .. } | Fact::StepStarted { work: Work::Gate { asked: Some(_), .. }, .. })
}

/// What became of an answer.
enum Answered {
    /// It is in the journal.
    Taken,
    /// It is not, or there was nothing to ask.
    NotTaken,
}

/// What is asked and not answered.
fn open_questions(state: &State) -> Vec<Question> {
    let live = |tenant: &Arc<TenantState>| {
        let started = tenant.active_deployments.iter().map(|id| PromotionId(id.0));
        tenant.open_promotions.iter().copied().chain(started).collect::<Vec<_>>()
    };
    let steps = state.tenants.values().flat_map(|tenant| {
        tenant.gate_steps.iter().filter_map(|(run, step)| {
            let number = tenant.runs.get(run)?.steps.get(step)?.attempts;
            Some(Question { tenant: tenant.id, of: Asker::Step(*run, step.clone()), number })
        })
    });
    let tenants = state.tenants.values();
    let records = tenants.flat_map(|tenant| {
        let records = live(tenant).into_iter().filter_map(|id| Some((id, tenant.gates.get(&id)?)));
        records.flat_map(move |(promotion, records)| {
            records.iter().filter_map(move |(gate, record)| {
                let number = record.asked?.number;
                let of = Asker::Promotion(promotion, gate.clone());
                Some(Question { tenant: tenant.id, of, number })
            })
        })
    });
    records.chain(steps).collect()
}

/// Asks one question and brings the answer home.
async fn settle(engine: &Handle, sources: &Sources, question: &Question) -> Answered {
    let state = engine.state();
    let Some(about) = ask::About::find(&state, question) else { return Answered::NotTaken };
    let answered = match &about.check {
        Check::Metric { source, query, comparison, threshold } => match sources.prometheus.get(source) {
            Some(known) => match known.may_be_asked(&about, || format!("gates.prometheus.{source}")) {
                Ok(known) => prometheus::ask(known, query, *comparison, (*threshold).into()).await,
                Err(error) => Err(error),
            },
            None => Err(Error::NotConfigured { key: format!("gates.prometheus.{source}") }),
        },
        Check::Http { endpoint } => match sources.http.get(endpoint) {
            Some(known) => match known.may_be_asked(&about, || format!("gates.http.{endpoint}")) {
                Ok(known) => http::ask(known, &about, question).await,
                Err(error) => Err(error),
            },
            None => Err(Error::NotConfigured { key: format!("gates.http.{endpoint}") }),
        },
        // Nobody asks anything outside for these.
        Check::Security(_) | Check::Expression { .. } | Check::Manual | Check::Signature(_) => {
            return Answered::NotTaken;
        }
    };
    let mut said = answered.unwrap_or_else(|error| {
        tracing::warn!(question = %question.of, %error, "a gate could not be asked");
        ask::Said { outcome: Outcome::Unavailable, reason: error.to_string(), inputs: None }
    });
    // It becomes a fact, and whoever was asked may repeat what it was asked with.
    said.reason = stella_telemetry::redact_text(&said.reason);
    let request = Request {
        actor: Actor::System,
        trace: about.trace,
        idempotency: None,
        command: Command::Tenant(question.tenant, answer(question, said)),
    };
    match engine.submit(request).await {
        Ok(_) => return Answered::Taken,
        // It is asked again when the core has given up on it.
        Err(error @ SubmitError::Rejected(_)) => {
            tracing::error!(question = %question.of, %error, "an answer about a gate was refused");
        }
        Err(error) => tracing::warn!(question = %question.of, %error, "an answer about a gate was not taken"),
    }
    Answered::NotTaken
}

/// What is told to the core.
fn answer(question: &Question, said: ask::Said) -> TenantCommand {
    let ask::Said { outcome, reason, inputs } = said;
    let number = question.number;
    match question.of.clone() {
        Asker::Promotion(promotion, gate) => {
            TenantCommand::AnswerGate(Box::new(Answer { promotion, gate, number, outcome, reason, inputs }))
        }
        Asker::Step(run, step) => {
            TenantCommand::AnswerStepGate { run, step, attempt: number, outcome, reason, inputs }
        }
    }
}
