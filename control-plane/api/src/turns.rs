//! Turns at what costs a processor or much memory: few at once, and never all of them for one tenant, or one hook.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    all: Arc<Semaphore>,
    of_one_max: usize,
    each: Mutex<HashMap<K, Weak<Semaphore>>>,
}

/// One that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl<K: Copy + Eq + Hash> Turns<K> {
    /// So many at once, of which one has at most a part.
    pub(crate) fn new(all_max: usize, of_one_max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all_max)), of_one_max, each: Mutex::default() }
    }

    /// The next one; `None` if it does not come in time.
    pub(crate) async fn take(&self, whose: K, patience: Duration) -> Option<Turn> {
        timeout(patience, self.wait(whose)).await.ok()?.ok()
    }

    /// The next one, however long it takes to come. Nobody closes the turns, so that it never fails.
    pub(crate) async fn wait(&self, whose: K) -> Result<Turn, AcquireError> {
        // In this order: who waits for its own others keeps nobody else waiting.
        let own = self.of(whose).acquire_owned().await?;
        let all = Arc::clone(&self.all).acquire_owned().await?;
        Ok(Turn { _own: own, _all: all })
    }

    fn of(&self, whose: K) -> Arc<Semaphore> {
        let mut each = self.each.lock();
        if let Some(turns) = each.get(&whose).and_then(Weak::upgrade) {
            return turns;
        }
        each.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(self.of_one_max));
        each.insert(whose, Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const SOON: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn nobody_has_every_turn_and_turns_come_back() {
        let turns = Turns::new(2, 1);
        let [one, two, three] = ["acme", "globex", "initech"];
        let first = turns.take(one, NOW).await.unwrap();
        assert!(turns.take(one, NOW).await.is_none(), "it is its only one");
        let second = turns.take(two, NOW).await.unwrap();
        assert!(turns.take(three, NOW).await.is_none(), "there is no third");
        let (next, ()) = tokio::join!(turns.take(three, SOON), async { drop(first) });
        drop((second, next.unwrap()));
        assert!(turns.take(one, NOW).await.is_some());
        assert_eq!(turns.each.lock().len(), 1, "who has none is forgotten");
    }
}
