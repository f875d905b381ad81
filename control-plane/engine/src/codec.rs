//! Between the domain's events and the journal's bytes: JSON, so that an export can be read without us.

use stella_domain::event::{Event, StreamId};
use stella_journal::Stream;

pub(crate) const fn to_journal(stream: StreamId) -> Stream {
    match stream {
        StreamId::System => Stream::System,
        StreamId::Tenant(tenant) => Stream::Tenant(tenant),
    }
}

pub(crate) const fn from_journal(stream: Stream) -> StreamId {
    match stream {
        Stream::System => StreamId::System,
        Stream::Tenant(tenant) => StreamId::Tenant(tenant),
    }
}

pub(crate) fn encode(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).expect("events have string keys and no failing serializer")
}

pub(crate) fn decode(payload: &[u8]) -> Result<Event, serde_json::Error> {
    serde_json::from_slice(payload)
}
