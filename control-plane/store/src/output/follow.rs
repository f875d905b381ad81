//! Who waits for output of which attempt.

use std::collections::HashMap;

use parking_lot::Mutex;
use stella_protocol::id::AttemptKey;
use tokio::sync::watch;

use crate::error::StoreError;

/// How many attempts can be followed at the same time: far more than there are people.
const FOLLOWED_MAX: usize = 4096;

/// Counters that change when output comes. An attempt without a follower has none.
#[derive(Debug, Default)]
pub(super) struct Followers {
    followed: Mutex<HashMap<AttemptKey, watch::Sender<u64>>>,
}

impl Followers {
    pub(super) fn follow(&self, key: AttemptKey) -> Result<watch::Receiver<u64>, StoreError> {
        let mut followed = self.followed.lock();
        if let Some(sender) = followed.get(&key) {
            return Ok(sender.subscribe());
        }
        if followed.len() >= FOLLOWED_MAX {
            followed.retain(|_, sender| sender.receiver_count() > 0);
        }
        if followed.len() >= FOLLOWED_MAX {
            return Err(StoreError::TooManyFollowed { max: FOLLOWED_MAX });
        }
        let (sender, receiver) = watch::channel(0);
        followed.insert(key, sender);
        Ok(receiver)
    }

    pub(super) fn notify(&self, key: AttemptKey) {
        let mut followed = self.followed.lock();
        let Some(sender) = followed.get(&key) else { return };
        if sender.receiver_count() == 0 {
            followed.remove(&key);
        } else {
            sender.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }
}
