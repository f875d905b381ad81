//! The lines of an export: one JSON object a line, the header first and the trailer last.
//!
//! ```text
//! {"header":{"format":1,"incarnation":"…","epoch":3,"version":"0.1.0"}}
//! {"event":{"stream":"system","position":0,"at":1700000000000,"epoch":1,"payload":{…}}}
//! {"trailer":{"events":1,"sha256":"sha256:…","streams":[{"stream":"system","events":1,"hash":"sha256:…"}],"missing":[]}}
//! ```
//!
//! A payload that is JSON on one line is written as it is, byte for byte; any other as `payload_hex`. The trailer's
//! `sha256` is over all the bytes before its line: an export that was cut off or edited is not imported.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use stella_protocol::digest::Digest;
use stella_protocol::id::{Epoch, Incarnation, Position};
use stella_protocol::time::Timestamp;

use crate::export::MissingEvents;
use crate::port::{EVENT_BYTES_MAX, Stream};

/// The version of the lines.
pub(crate) const FORMAT: u32 = 1;
/// The longest line, in bytes: a largest event in hexadecimal digits, and its frame. A trailer with the streams of a
/// hundred thousand tenants is not longer.
pub(crate) const LINE_BYTES_MAX: usize = 4 * EVENT_BYTES_MAX;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Header(Header),
    Event(Event),
    Trailer(Trailer),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) format: u32,
    /// `None` if the journal's own name was damaged.
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) epoch: Epoch,
    /// The newest version of the software that has written to the journal; `None` in a backup, which names it itself, and in exports of
    /// before it was thought of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub(crate) stream: Stream,
    pub(crate) position: Position,
    pub(crate) at: Timestamp,
    pub(crate) epoch: Epoch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trailer {
    pub(crate) events: u64,
    pub(crate) sha256: Digest,
    pub(crate) streams: Vec<StreamEnd>,
    pub(crate) missing: Vec<MissingEvents>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamEnd {
    pub(crate) stream: Stream,
    /// How many events of it are in the export.
    pub(crate) events: u64,
    /// The stream's hash after them in the exported journal, to compare with backups of that one.
    pub(crate) hash: Digest,
}

impl Event {
    pub(crate) fn new(
        stream: Stream,
        position: Position,
        at: Timestamp,
        epoch: Epoch,
        payload: &[u8],
    ) -> Self {
        let json = raw_json(payload);
        let payload_hex = json.is_none().then(|| hex::encode(payload));
        Self { stream, position, at, epoch, payload: json, payload_hex }
    }

    /// The payload's bytes, if there is exactly one form of it.
    pub(crate) fn into_payload(self) -> Option<Vec<u8>> {
        match (self.payload, self.payload_hex) {
            (Some(json), None) => Some(json.get().as_bytes().to_vec()),
            (None, Some(digits)) => hex::decode(digits).ok(),
            (None, None) | (Some(_), Some(_)) => None,
        }
    }
}

/// The payload as JSON, if that keeps its bytes: a line has no line breaks, parsing strips white space at the ends,
/// and `null` would read as "no payload".
fn raw_json(payload: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(payload).ok()?;
    let is_plain = !text.contains(['\n', '\r']) && text != "null";
    let json: Box<RawValue> = if is_plain { serde_json::from_str(text).ok()? } else { return None };
    (json.get().len() == text.len()).then_some(json)
}
