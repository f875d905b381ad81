//! What whoever asks calls a request: by it lines and events of all that followed are found.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest one, in bytes.
const BYTES_MAX: usize = 128;

/// The id that a caller gave a request or that it was given: visible ASCII, at most 128 bytes. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Correlation(Option<Arc<str>>);

/// It is empty, too long, or has other characters than those of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a correlation id is visible ASCII of 1 to {BYTES_MAX} bytes")]
pub struct NoCorrelation;

impl Correlation {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The id, if there is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl fmt::Debug for Correlation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Correlation({:?})", self.as_str().unwrap_or_default())
    }
}

impl TryFrom<String> for Correlation {
    type Error = NoCorrelation;

    fn try_from(text: String) -> Result<Self, NoCorrelation> {
        let is_visible = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if text.is_empty() || text.len() > BYTES_MAX || !is_visible {
            return Err(NoCorrelation);
        }
        Ok(Self(Some(text.into())))
    }
}

impl From<Correlation> for String {
    fn from(correlation: Correlation) -> Self {
        correlation.as_str().unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceContext;

    #[test]
    fn it_is_short_and_visible() {
        for wrong in [String::new(), "x".repeat(129), "a\nb".to_owned(), "ä".to_owned()] {
            assert_eq!(Correlation::try_from(wrong), Err(NoCorrelation));
        }
        let longest = "x".repeat(128);
        assert_eq!(Correlation::try_from(longest.clone()).unwrap().as_str(), Some(longest.as_str()));
    }

    #[test]
    fn a_trace_without_one_is_written_as_before_and_read_as_before() {
        let before = r#"{"trace_id":42,"span_id":1,"sampled":true}"#;
        let trace: TraceContext = serde_json::from_str(before).unwrap();
        assert!(trace.correlation.is_empty());
        assert_eq!(serde_json::to_string(&trace).unwrap(), before);
        let correlation = Correlation::try_from("corr-7".to_owned()).unwrap();
        let with = TraceContext { correlation, ..trace };
        let text = serde_json::to_string(&with).unwrap();
        assert_eq!(text, r#"{"trace_id":42,"span_id":1,"sampled":true,"correlation":"corr-7"}"#);
        assert_eq!(serde_json::from_str::<TraceContext>(&text).unwrap(), with);
        assert!(serde_json::from_str::<TraceContext>(&text.replace("corr-7", "a\\nb")).is_err());
    }
}
