//! Durable facts for the feed.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::{Map, Value};
use stella_api_types::event as dto;
use stella_domain::command::Actor;
use stella_domain::event::StreamId;
use stella_domain::state::State;
use stella_domain::tenant::TenantState;
use stella_engine::CommittedEvent;
use stella_protocol::id::{AgentId, DeploymentId, EnvironmentId, PromotionId, ReleaseId, TargetId, TaskId};

use super::time;

/// A durable fact, without the hashes of secrets: who has one can try secrets against it at leisure.
pub(crate) fn event(state: &State, committed: &CommittedEvent) -> dto::Event {
    let event = &committed.event;
    let (kind, data) = (event.fact.name(), committed.public_fields());
    let tenant = match committed.stream {
        StreamId::Tenant(id) => state.tenants.get(&id),
        StreamId::System => None,
    };
    let trace_id = event.trace.trace_id;
    dto::Event {
        position: committed.position.0,
        kind: kind.to_owned(),
        at: time(event.at),
        actor: actor(&event.actor),
        trace_id: (trace_id != 0).then(|| format!("{trace_id:032x}")),
        correlation_id: event.trace.correlation.as_str().map(str::to_owned),
        about: tenant.map(|tenant| About::of(tenant, kind, &data)).unwrap_or_default(),
        data,
    }
}

/// What ids of an event stand for now; what is gone, or has left memory, is left out.
struct About<'s> {
    tenant: &'s TenantState,
    known: BTreeMap<String, String>,
}

impl<'s> About<'s> {
    fn of(tenant: &'s TenantState, kind: &str, data: &Map<String, Value>) -> BTreeMap<String, String> {
        let mut about = Self { tenant, known: BTreeMap::new() };
        about.look(data);
        if let Some(wanted) = data.get("wanted").and_then(Value::as_object) {
            about.look(wanted);
        }
        let subject = kind.split('_').next().unwrap_or_default();
        match subject {
            "deployment" => about.deployment(id(data, "id")),
            "promotion" | "approval" => {
                about.deployment(id::<PromotionId>(data, "id").map(|id| DeploymentId(id.0)));
            }
            "environment" => about.environment(id(data, "id")),
            "release" => about.release(id(data, "id")),
            "target" => about.target(id(data, "id")),
            _ => {}
        }
        about.known
    }

    fn look(&mut self, data: &Map<String, Value>) {
        self.environment(id(data, "environment"));
        self.release(id(data, "release"));
        self.agent(id(data, "agent"));
        self.target(id(data, "target"));
        self.deployment(id(data, "deployment"));
        self.deployment(id::<PromotionId>(data, "promotion").map(|id| DeploymentId(id.0)));
        let attempt = data.get("key").and_then(Value::as_object).and_then(|key| id(key, "task"));
        self.task(attempt.or_else(|| id(data, "task")));
    }

    fn note(&mut self, what: &str, name: String) {
        self.known.entry(what.to_owned()).or_insert(name);
    }

    fn environment(&mut self, id: Option<EnvironmentId>) {
        if let Some(name) = id.and_then(|id| self.tenant.environment_name(id)) {
            self.note("environment", name.to_string());
        }
    }

    fn release(&mut self, id: Option<ReleaseId>) {
        if let Some(it) = id.and_then(|id| self.tenant.releases.get(&id)) {
            self.note("release", format!("{}:{}", it.application, it.version));
        }
    }

    fn agent(&mut self, id: Option<AgentId>) {
        if let Some(it) = id.and_then(|id| self.tenant.agents.get(&id)) {
            self.note("agent", it.name.to_string());
        }
    }

    fn target(&mut self, id: Option<TargetId>) {
        if let Some(it) = id.and_then(|id| self.tenant.targets.get(&id)) {
            self.note("target", it.name.to_string());
        }
    }

    /// A deployment, or the promotion that it would follow from.
    fn deployment(&mut self, id: Option<DeploymentId>) {
        let Some(id) = id else { return };
        if let Some(it) = self.tenant.deployments.get(&id) {
            self.release(Some(it.release));
            self.environment(Some(it.environment));
        } else if let Some(it) = self.tenant.promotions.get(&PromotionId(id.0)) {
            self.release(Some(it.wanted.release));
            self.environment(Some(it.wanted.environment));
        }
    }

    fn task(&mut self, id: Option<TaskId>) {
        let Some(it) = id.and_then(|id| self.tenant.tasks.get(&id)) else { return };
        self.note("step", it.step.to_string());
        self.note("deployment", it.deployment.to_string());
        self.target(Some(it.target));
        self.deployment(Some(it.deployment));
    }
}

fn id<I: FromStr>(data: &Map<String, Value>, field: &str) -> Option<I> {
    data.get(field)?.as_str()?.parse().ok()
}

/// Who.
pub(super) fn actor(actor: &Actor) -> dto::Actor {
    let (kind, id, account) = match actor {
        Actor::System => ("system", None, None),
        Actor::ApiToken { id, account } => ("api_token", Some(id.to_string()), account.as_ref()),
        Actor::Agent { id } => ("agent", Some(id.to_string()), None),
        Actor::Hook { id, account, .. } => ("hook", Some(id.to_string()), Some(account)),
    };
    dto::Actor { kind: kind.to_owned(), id, account: account.map(|account| account.name.to_string()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use stella_domain::event::{Event, Fact, StreamId};
    use stella_protocol::digest::Digest;
    use stella_protocol::id::{EnrolmentTokenId, Position};
    use stella_protocol::time::Timestamp;
    use stella_protocol::trace::TraceContext;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_fact_keeps_its_fields_and_hides_the_hash_of_a_secret() {
        let fact = Fact::EnrolmentTokenCreated {
            id: EnrolmentTokenId(Uuid::nil()),
            secret_hash: Digest([0xab; 32]),
            agent_name: None,
            labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
            uses_max: 3,
            expires_at: Timestamp(9),
            profile: None,
        };
        let trace = TraceContext { trace_id: 0x2a, span_id: 1, sampled: true, ..TraceContext::default() };
        let inner = Event { at: Timestamp(0), actor: Actor::System, trace, fact };
        let committed =
            CommittedEvent { stream: StreamId::System, position: Position(4), event: Arc::new(inner) };
        let shown = event(&State::default(), &committed);
        assert_eq!((shown.position, shown.kind.as_str()), (4, "enrolment_token_created"));
        assert_eq!(shown.trace_id.as_deref(), Some("0000000000000000000000000000002a"));
        assert_eq!(shown.data.get("uses_max"), Some(&Value::from(3)));
        assert_eq!(shown.data.get("labels"), Some(&serde_json::json!({"rack": "7"})));
        assert!(!shown.data.contains_key("type"));
        assert!(!serde_json::to_string(&shown).unwrap().contains("abab"), "{shown:?}");
    }
}
