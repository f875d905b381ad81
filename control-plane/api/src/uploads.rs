//! Uploads under way: how many, how much, and whether they go on. Nothing of them is in the journal before they have ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stella_protocol::id::TenantId;

use crate::error::{ApiError, ErrorCode};
use crate::turns::{Turn, Turns};

/// How many go on at once: each has a file and a connection.
const ALL_MAX: usize = 128;
/// How many of them one tenant may have.
const OF_TENANT_MAX: usize = 16;
/// How long one may wait for those before it.
const TURN_MAX: Duration = Duration::from_secs(60);
/// When to come back if that was too long.
const COME_BACK_S: u64 = 30;
/// After so much time in which we have waited for an upload ...
const WINDOW: Duration = Duration::from_secs(60);
/// ... it has to have brought so many bytes: the slowest line that anybody uses brings ten times as many.
const WINDOW_BYTES_MIN: u64 = 64 * 1024;

/// All that go on.
#[derive(Debug)]
pub(crate) struct Uploads {
    turns: Turns<TenantId>,
    bytes: Mutex<HashMap<TenantId, u64>>,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { turns: Turns::new(ALL_MAX, OF_TENANT_MAX), bytes: Mutex::default() }
    }
}

impl Uploads {
    /// One more, when it is its turn.
    pub(crate) async fn begin(self: &Arc<Self>, tenant: TenantId) -> Result<UnderWay, ApiError> {
        let Some(turn) = self.turns.take(tenant, TURN_MAX).await else {
            let detail = format!(
                "{OF_TENANT_MAX} uploads of this tenant, or {ALL_MAX} in all, have been under way for long; send it again later"
            );
            return Err(ApiError::retry_after(ErrorCode::Overloaded, COME_BACK_S, detail));
        };
        Ok(UnderWay { uploads: Arc::clone(self), tenant, bytes: 0, _turn: turn })
    }
}

/// One that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    uploads: Arc<Uploads>,
    tenant: TenantId,
    bytes: u64,
    _turn: Turn,
}

impl UnderWay {
    /// How many bytes all uploads of the tenant have brought so far.
    pub(crate) fn of_tenant(&self) -> u64 {
        self.uploads.bytes.lock().get(&self.tenant).copied().unwrap_or(0)
    }

    /// So many bytes have come.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        *self.uploads.bytes.lock().entry(self.tenant).or_default() += bytes;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut all = self.uploads.bytes.lock();
        let left = all.get(&self.tenant).map_or(0, |bytes| bytes.saturating_sub(self.bytes));
        if left == 0 {
            all.remove(&self.tenant);
        } else {
            all.insert(self.tenant, left);
        }
    }
}

/// Whether an upload brings enough to be waited for. Time that the disk takes does not count.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    waited: Duration,
    bytes: u64,
}

impl Flow {
    /// So many bytes have come after so long.
    pub(crate) fn came(&mut self, bytes: u64, waited: Duration) -> Result<(), ApiError> {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < WINDOW {
            return Ok(());
        }
        if self.bytes < WINDOW_BYTES_MIN {
            let detail = format!(
                "the upload brought less than {WINDOW_BYTES_MIN} bytes in {} s and was given up",
                WINDOW.as_secs()
            );
            return Err(ApiError::new(ErrorCode::Timeout, detail));
        }
        *self = Self::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[tokio::test]
    async fn what_is_under_way_counts_for_its_tenant_until_it_is_over() {
        let uploads = Arc::new(Uploads::default());
        let [one, two] = [1, 2].map(|id| TenantId(Uuid::from_u128(id)));
        let mut first = uploads.begin(one).await.unwrap();
        let mut second = uploads.begin(one).await.unwrap();
        let other = uploads.begin(two).await.unwrap();
        first.add(10);
        second.add(5);
        assert_eq!((first.of_tenant(), second.of_tenant(), other.of_tenant()), (15, 15, 0));
        drop(first);
        assert_eq!(second.of_tenant(), 5);
        drop(second);
        assert!(uploads.bytes.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_never_has_all_uploads() {
        let uploads = Arc::new(Uploads::default());
        let [one, two] = [1, 2].map(|id| TenantId(Uuid::from_u128(id)));
        let mut held = Vec::new();
        for _ in 0..OF_TENANT_MAX {
            held.push(uploads.begin(one).await.unwrap());
        }
        let refused = uploads.begin(one).await.unwrap_err();
        assert!(refused.detail().contains("send it again later"), "{refused:?}");
        held.push(uploads.begin(two).await.unwrap());
        held.remove(0);
        uploads.begin(one).await.unwrap();
    }

    #[test]
    fn a_trickle_is_given_up_and_a_slow_line_is_not() {
        let (mut trickle, mut slow, mut quick) = (Flow::default(), Flow::default(), Flow::default());
        let almost = Duration::from_secs(29);
        assert!((0..3).any(|_| trickle.came(1, almost).is_err()), "one byte each time");
        assert!((0..1_000).all(|_| slow.came(40_000, almost).is_ok()));
        assert!(quick.came(1 << 30, Duration::ZERO).is_ok());
        assert!((0..3).all(|_| quick.came(1, almost).is_ok()), "what came before counts once");
        assert!((0..3).any(|_| quick.came(1, almost).is_err()));
    }
}
