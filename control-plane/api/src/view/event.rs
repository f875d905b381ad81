//! Durable facts for the feed.

use stella_api_types::event as dto;
use stella_domain::command::Actor;
use stella_engine::CommittedEvent;

use super::time;

/// A durable fact, without the hashes of secrets: who has one can try secrets against it at leisure.
pub(crate) fn event(committed: &CommittedEvent) -> dto::Event {
    let event = &committed.event;
    let trace_id = event.trace.trace_id;
    dto::Event {
        position: committed.position.0,
        kind: event.fact.name().to_owned(),
        at: time(event.at),
        actor: actor(&event.actor),
        trace_id: (trace_id != 0).then(|| format!("{trace_id:032x}")),
        data: committed.public_fields(),
    }
}

/// Who.
pub(super) fn actor(actor: &Actor) -> dto::Actor {
    let (kind, id, account) = match actor {
        Actor::System => ("system", None, None),
        Actor::ApiToken { id, account } => ("api_token", Some(id.to_string()), account.as_ref()),
        Actor::Agent { id } => ("agent", Some(id.to_string()), None),
    };
    dto::Actor { kind: kind.to_owned(), id, account: account.map(|account| account.name.to_string()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::Value;
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
        let shown = event(&committed);
        assert_eq!((shown.position, shown.kind.as_str()), (4, "enrolment_token_created"));
        assert_eq!(shown.trace_id.as_deref(), Some("0000000000000000000000000000002a"));
        assert_eq!(shown.data.get("uses_max"), Some(&Value::from(3)));
        assert_eq!(shown.data.get("labels"), Some(&serde_json::json!({"rack": "7"})));
        assert!(!shown.data.contains_key("type"));
        assert!(!serde_json::to_string(&shown).unwrap().contains("abab"), "{shown:?}");
    }
}
