//! Durable events as CloudEvents 1.0 (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>), in the structured mode of JSON.

use serde::Serialize;
use serde_json::{Map, Value};
use stella_api_types::paths;
use stella_api_types::time::rfc3339;
use stella_domain::command::Actor;
use stella_domain::deployment::Cause;
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::gate::Outcome;
use stella_domain::name::Identifier;
use stella_domain::tenant::TenantState;
use stella_engine::CommittedEvent;
use stella_protocol::id::{Position, PromotionId, RunId};
use stella_readers::place::id_of;

/// The media type of an event.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

/// An event on its way. Attributes are those of the specification and of its extensions `sequence` and distributed tracing
/// (`traceparent`, `tracestate`); the others are ours. Baggage does not come here: it is for whoever is asked to do something.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CloudEvent {
    /// The version of the specification.
    pub specversion: &'static str,
    /// The same whenever this event is sent: see [`stella_readers::place::id_of`].
    pub id: String,
    /// The stream: where consumers order by `sequence`.
    pub source: String,
    /// `stella.` and the event's name in the journal.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was decided.
    pub time: String,
    /// What `data` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<&'static str>,
    /// The position in its stream, with leading zeros, so that texts sort as numbers do.
    pub sequence: String,
    /// The operations overview's name, for the events that have one there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eventname: Option<&'static str>,
    /// The tenant's name; absent for what belongs to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Who caused it: `system`, `api_token` or `agent`.
    pub actor: &'static str,
    /// The id of the token or of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actorid: Option<String>,
    /// The name of the token's account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The trace that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What tracing systems say about the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// What the request is called that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlationid: Option<String>,
    /// Where the API has it, if it is too large for the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataref: Option<String>,
    /// The fields of this type of event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Map<String, Value>>,
}

impl CloudEvent {
    /// A durable event of this tenant, which may be of a later state. `source` is what the installation is called.
    #[must_use]
    pub fn new(source: &str, committed: &CommittedEvent, tenant: Option<&TenantState>) -> Self {
        let event = &committed.event;
        let (actor, actorid, account) = match &event.actor {
            Actor::System => ("system", None, None),
            Actor::ApiToken { id, account } => ("api_token", Some(id.to_string()), account.as_ref()),
            Actor::Agent { id } => ("agent", Some(id.to_string()), None),
            Actor::Hook { id, account, .. } => ("hook", Some(id.to_string()), Some(account)),
        };
        Self {
            specversion: "1.0",
            id: id_of(committed),
            source: format!("{source}{}", path(committed.stream)),
            kind: format!("stella.{}", event.fact.name()),
            time: rfc3339(event.at),
            datacontenttype: Some("application/json"),
            sequence: format!("{:020}", committed.position.0),
            eventname: overview_name(event, tenant),
            tenant: tenant.map(|it| it.name.to_string()),
            actor,
            actorid,
            account: account.map(|account| account.name.to_string()),
            traceparent: event.trace.is_valid().then(|| event.trace.parent().to_string()),
            tracestate: event.trace.is_valid().then(|| event.trace.state.with_own(event.trace.span_id)),
            correlationid: event.trace.correlation.as_str().map(str::to_owned),
            dataref: None,
            data: Some(committed.public_fields()),
        }
    }

    /// The same event without its data: where to read it instead.
    #[must_use]
    pub fn without_data(&self, stream: StreamId, position: Position) -> Self {
        let path = match stream {
            StreamId::System => paths::SYSTEM_EVENTS.to_owned(),
            StreamId::Tenant(tenant) => paths::fill(paths::EVENTS, &[&tenant.to_string()]),
        };
        let dataref = Some(format!("{path}?after={position}&limit=1"));
        Self { datacontenttype: None, data: None, dataref, ..self.clone() }
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and JSON values have string keys and no failing serializer")
    }
}

fn path(stream: StreamId) -> String {
    match stream {
        StreamId::System => "/system".to_owned(),
        StreamId::Tenant(tenant) => format!("/tenants/{tenant}"),
    }
}

/// What the operations overview calls an event that it names. A rollback is a deployment too: it has the name that says more; and of
/// several approvals the one that lets the promotion through is the one that grants it.
#[expect(clippy::wildcard_enum_match_arm, reason = "the overview names a few of all events")]
fn overview_name(event: &Event, tenant: Option<&TenantState>) -> Option<&'static str> {
    let is_let_through = |id: &PromotionId| -> bool {
        let promotion = tenant.and_then(|tenant| tenant.promotions.get(id));
        promotion.is_some_and(|promotion| promotion.is_let_through_by(event))
    };
    let is_step_let_through = |run: &RunId, step: &Identifier| -> bool {
        let run = tenant.and_then(|tenant| tenant.runs.get(run));
        run.and_then(|run| run.steps.get(step)).is_some_and(|step| step.is_let_through_by(event))
    };
    Some(match &event.fact {
        Fact::DeploymentCreated { cause: Cause::Rollback { .. }, .. } => "rollback.initiated",
        Fact::DeploymentCreated { .. } => "deployment.started",
        Fact::DeploymentSucceeded { .. } => "deployment.completed",
        Fact::DeploymentFailed { .. } => "deployment.failed",
        Fact::ApprovalGranted { id, .. } if is_let_through(id) => "approval.granted",
        Fact::StepApproved { run, step, .. } if is_step_let_through(run, step) => "approval.granted",
        Fact::PromotionRejected { .. } | Fact::StepRejected { .. } => "approval.denied",
        Fact::AgentConnected { .. } => "agent.connected",
        Fact::AgentDisconnected { .. } => "agent.disconnected",
        Fact::GateEvaluated { kind, outcome, .. } | Fact::StepGateEvaluated { kind, outcome, .. }
            if kind == "security" && *outcome != Outcome::Passed =>
        {
            "security.gate.failed"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stella_protocol::id::{AgentId, ApiTokenId, TenantId};
    use stella_protocol::time::Timestamp;
    use stella_protocol::trace::{Baggage, TraceContext, TraceState};
    use uuid::Uuid;

    use super::*;

    fn committed(stream: StreamId, position: u64, at: u64, fact: Fact) -> CommittedEvent {
        let state = TraceState::try_from("congo=t61rcWkgMzE".to_owned()).unwrap();
        let baggage = Baggage::try_from("order=1234".to_owned()).unwrap();
        let trace = TraceContext {
            trace_id: 0x2a,
            span_id: 1,
            sampled: true,
            state,
            baggage,
            ..TraceContext::default()
        };
        let actor = Actor::ApiToken { id: ApiTokenId(Uuid::nil()), account: None };
        let event = Arc::new(Event { at: Timestamp(at), actor, trace, fact });
        CommittedEvent { stream, position: Position(position), event }
    }

    fn offline(position: u64, at: u64) -> CommittedEvent {
        let stream = StreamId::Tenant(TenantId(Uuid::nil()));
        committed(stream, position, at, Fact::AgentOffline { agent: AgentId(Uuid::from_u128(3)) })
    }

    #[test]
    fn an_event_has_what_the_specification_asks_for() {
        let tenant = TenantId(Uuid::nil());
        let opened = Fact::TenantOpened { id: tenant, name: "acme".parse().unwrap() };
        let mut state = stella_domain::state::State::default();
        state
            .apply(StreamId::Tenant(tenant), &committed(StreamId::Tenant(tenant), 0, 1, opened).event)
            .unwrap();
        let tenant = state.tenants.get(&tenant).map(AsRef::as_ref);
        let sent = CloudEvent::new("/stella", &offline(7, 1_769_851_800_042), tenant);
        let json: Value = serde_json::from_slice(&sent.to_bytes()).unwrap();
        assert_eq!(json["specversion"], "1.0");
        assert_eq!(json["type"], "stella.agent_offline");
        assert_eq!(json["source"], "/stella/tenants/00000000-0000-0000-0000-000000000000");
        assert_eq!(json["time"], "2026-01-31T09:30:00.042Z");
        assert_eq!(json["sequence"], "00000000000000000007");
        assert_eq!(json["traceparent"], "00-0000000000000000000000000000002a-0000000000000001-01");
        assert_eq!(json["tracestate"], "stella=0000000000000001,congo=t61rcWkgMzE");
        assert!(!json.to_string().contains("1234"), "baggage is not for everybody who reads the bus: {json}");
        assert_eq!(json["data"], serde_json::json!({"agent": "00000000-0000-0000-0000-000000000003"}));
        assert_eq!((&json["tenant"], &json["actor"]), (&"acme".into(), &"api_token".into()));
        // The specification allows lower-case letters and digits in the names of attributes.
        let names = json.as_object().unwrap().keys();
        assert!(names.into_iter().all(|it| it.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())));
    }

    #[test]
    fn what_is_too_large_says_where_it_is() {
        let committed = offline(7, 1);
        let sent = CloudEvent::new("/stella", &committed, None);
        let short = sent.without_data(committed.stream, committed.position);
        let json: Value = serde_json::from_slice(&short.to_bytes()).unwrap();
        assert_eq!(json["id"], sent.id);
        assert!(json.get("data").is_none() && json.get("datacontenttype").is_none(), "{json}");
        assert!(json["dataref"].as_str().unwrap().ends_with("/events?after=7&limit=1"), "{json}");
    }
}
