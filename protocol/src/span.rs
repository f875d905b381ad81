//! The ids of the spans that both ends name. They follow from what the spans are about, so that nobody has to remember or send them.

use sha2::{Digest as _, Sha256};

use crate::id::AttemptKey;

/// Of an attempt's way to its agent.
#[must_use]
pub fn dispatch(key: AttemptKey) -> u64 {
    derived(&[b"task.dispatch", key.task.0.as_bytes(), &key.attempt.0.to_be_bytes()])
}

/// Of an attempt's execution.
#[must_use]
pub fn execution(key: AttemptKey) -> u64 {
    derived(&[b"agent.execute", key.task.0.as_bytes(), &key.attempt.0.to_be_bytes()])
}

/// The id of what these parts say. Every kind of span has parts of fixed length but for the last, so that two lists of parts never hash
/// the same bytes.
#[must_use]
pub fn derived(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut bytes = [0; 8];
    for (byte, hashed) in bytes.iter_mut().zip(hash.finalize()) {
        *byte = hashed;
    }
    // Zero means that there is no span.
    u64::from_be_bytes(bytes).max(1)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::id::{Attempt, TaskId};

    /// Both ends of different versions have to agree for ever.
    #[test]
    fn ids_are_what_they_always_were() {
        let key = AttemptKey { task: TaskId(Uuid::from_u128(0x2a)), attempt: Attempt(3) };
        assert_eq!((dispatch(key), execution(key)), (0x1230_2ab3_a1e4_7cbf, 0x7b47_55b4_7077_edae));
    }
}
