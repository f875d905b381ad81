//! The header `traceparent`. Only version 00 is written; higher versions are read by their first four fields, as the
//! recommendation asks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which trace something belongs to, and which span caused it: what is on the wire and in each task.
///
/// An all-zero trace id means "no trace", as the recommendation defines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TraceParent {
    /// Identifies the trace; zero if there is none.
    pub trace_id: u128,
    /// The span that caused what carries this context.
    pub span_id: u64,
    /// The sampling decision, kept as it came.
    pub sampled: bool,
}

/// Why a `traceparent` header was not understood. A caller that gets one starts a trace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent (expected 00-<32 hex>-<16 hex>-<2 hex>)")]
pub struct ParseTraceParentError;

impl TraceParent {
    /// Whether there is a trace at all.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.trace_id != 0 && self.span_id != 0
    }

    /// The same trace, caused by another span.
    #[must_use]
    pub const fn with_span(self, span_id: u64) -> Self {
        Self { span_id, ..self }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

impl FromStr for TraceParent {
    type Err = ParseTraceParentError;

    fn from_str(text: &str) -> Result<Self, ParseTraceParentError> {
        let field = |range: std::ops::Range<usize>| {
            let digits = text.get(range).ok_or(ParseTraceParentError)?;
            let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if digits.bytes().all(lower_hex) { Ok(digits) } else { Err(ParseTraceParentError) }
        };
        let bytes = text.as_bytes();
        let dashes_in_place = [2, 35, 52].iter().all(|&at| bytes.get(at) == Some(&b'-'));
        let version = field(0..2)?;
        let length_fits = match version {
            "ff" => false,
            "00" => bytes.len() == 55,
            _ => bytes.len() == 55 || bytes.get(55) == Some(&b'-'),
        };
        if !dashes_in_place || !length_fits {
            return Err(ParseTraceParentError);
        }
        let flags = u8::from_str_radix(field(53..55)?, 16).map_err(|_| ParseTraceParentError)?;
        let context = Self {
            trace_id: u128::from_str_radix(field(3..35)?, 16).map_err(|_| ParseTraceParentError)?,
            span_id: u64::from_str_radix(field(36..52)?, 16).map_err(|_| ParseTraceParentError)?,
            sampled: flags & 1 == 1,
        };
        if context.is_valid() { Ok(context) } else { Err(ParseTraceParentError) }
    }
}
