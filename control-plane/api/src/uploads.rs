//! Uploads under way: how many, how much, and whether they go on. Nothing of them is in the journal before they have ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use imbl::OrdMap;
use parking_lot::Mutex;
use stella_protocol::digest::Digest;
use stella_protocol::id::TenantId;

use crate::error::{ApiError, ErrorCode};
use crate::turns::{Turn, Turns};

/// How many go on at once: each has a file and a connection.
const ALL_MAX: usize = 128;
/// How many of them one tenant may have.
const OF_TENANT_MAX: usize = 16;
/// How long one may wait for those before it.
const TURN_MAX: Duration = Duration::from_secs(60);
/// When to come back if that was too long, or if those under way leave no room.
pub(crate) const COME_BACK_S: u64 = 30;
/// After so much time in which we have waited for an upload ...
const WINDOW: Duration = Duration::from_secs(60);
/// ... it has to have brought so many bytes: the slowest line that anybody uses brings ten times as many.
const WINDOW_BYTES_MIN: u64 = 64 * 1024;

/// All that go on.
#[derive(Debug)]
pub(crate) struct Uploads {
    turns: Turns<TenantId>,
    begun: AtomicU64,
    /// By their numbers.
    each: Mutex<HashMap<u64, Brought>>,
}

/// What one has brought so far.
#[derive(Debug)]
struct Brought {
    tenant: TenantId,
    digest: Digest,
    bytes: u64,
}

impl Default for Uploads {
    fn default() -> Self {
        Self { turns: Turns::new(ALL_MAX, OF_TENANT_MAX), begun: AtomicU64::new(0), each: Mutex::default() }
    }
}

impl Uploads {
    /// One more, when it is its turn.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        tenant: TenantId,
        digest: Digest,
    ) -> Result<UnderWay, ApiError> {
        let Some(turn) = self.turns.take(tenant, TURN_MAX).await else {
            let detail = format!(
                "{OF_TENANT_MAX} uploads of this tenant, or {ALL_MAX} in all, have been under way for long; send it again later"
            );
            return Err(ApiError::retry_after(ErrorCode::Overloaded, COME_BACK_S, detail));
        };
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.each.lock().insert(number, Brought { tenant, digest, bytes: 0 });
        Ok(UnderWay { uploads: Arc::clone(self), tenant, number, bytes: 0, _turn: turn })
    }
}

/// One that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    uploads: Arc<Uploads>,
    tenant: TenantId,
    number: u64,
    bytes: u64,
    _turn: Turn,
}

impl UnderWay {
    /// How many bytes it has brought so far.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes all uploads of the tenant have brought so far, if this one brings `more`. An archive counts once however often it
    /// is being uploaded, and not at all if the tenant has it already.
    pub(crate) fn of_tenant(&self, has: &OrdMap<Digest, u64>, more: u64) -> u64 {
        let mut largest = HashMap::<Digest, u64>::new();
        for (number, it) in &*self.uploads.each.lock() {
            if it.tenant == self.tenant && !has.contains_key(&it.digest) {
                let bytes = if *number == self.number { it.bytes.saturating_add(more) } else { it.bytes };
                let known = largest.entry(it.digest).or_default();
                *known = bytes.max(*known);
            }
        }
        largest.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }

    /// So many bytes have come.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if let Some(it) = self.uploads.each.lock().get_mut(&self.number) {
            it.bytes = self.bytes;
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.uploads.each.lock().remove(&self.number);
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

    const A: Digest = Digest([1; 32]);
    const B: Digest = Digest([2; 32]);

    #[tokio::test]
    async fn what_is_under_way_counts_for_its_tenant_until_it_is_over() {
        let (uploads, none) = (Arc::new(Uploads::default()), OrdMap::new());
        let [one, two] = [1, 2].map(|id| TenantId(Uuid::from_u128(id)));
        let mut first = uploads.begin(one, A).await.unwrap();
        let mut second = uploads.begin(one, B).await.unwrap();
        let other = uploads.begin(two, A).await.unwrap();
        first.add(10);
        second.add(5);
        let all = [&first, &second, &other].map(|it| it.of_tenant(&none, 0));
        assert_eq!((all, second.bytes()), ([15, 15, 0], 5));
        assert_eq!(second.of_tenant(&OrdMap::unit(A, 10), 1), 6, "what is known already counts elsewhere");
        drop(first);
        assert_eq!(second.of_tenant(&none, 0), 5);
        drop((second, other));
        assert!(uploads.each.lock().is_empty());
    }

    #[tokio::test]
    async fn an_archive_that_is_uploaded_twice_counts_once() {
        let (uploads, none) = (Arc::new(Uploads::default()), OrdMap::new());
        let tenant = TenantId(Uuid::from_u128(1));
        let mut dead = uploads.begin(tenant, A).await.unwrap();
        let mut again = uploads.begin(tenant, A).await.unwrap();
        dead.add(10);
        again.add(4);
        assert_eq!((again.of_tenant(&none, 1), again.of_tenant(&none, 7)), (10, 11));
        drop(dead);
        assert_eq!(again.of_tenant(&none, 0), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_never_has_all_uploads() {
        let uploads = Arc::new(Uploads::default());
        let [one, two] = [1, 2].map(|id| TenantId(Uuid::from_u128(id)));
        let mut held = Vec::new();
        for _ in 0..OF_TENANT_MAX {
            held.push(uploads.begin(one, A).await.unwrap());
        }
        let refused = uploads.begin(one, A).await.unwrap_err();
        assert!(refused.detail().contains("send it again later"), "{refused:?}");
        held.push(uploads.begin(two, A).await.unwrap());
        held.remove(0);
        uploads.begin(one, A).await.unwrap();
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
