//! Whose turn it is: work for tenants, some of it at once.
//!
//! Only so much is under way, and only so much of one tenant; who has the least under way comes first, and among equals one after the
//! other. So a tenant whose work takes long, or of whom there is much, makes itself wait and nobody else.
//!
//! What there is to do is in the state and not in a queue: whoever has to do it brings all of it each time ([`Turns::next`]). What is
//! not among it any more is given up.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;

use stella_protocol::id::TenantId;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

/// Work under way, each piece with a key that never comes again for another one.
#[derive(Debug)]
pub struct Turns<K, T> {
    at_once: usize,
    of_tenant: usize,
    under_way: HashMap<Id, UnderWay<K>>,
    keys: HashSet<K>,
    tasks: JoinSet<T>,
    /// Whose turn came last.
    last: Option<TenantId>,
}

#[derive(Debug)]
struct UnderWay<K> {
    tenant: TenantId,
    key: K,
    handle: AbortHandle,
}

impl<K: Clone + Eq + Hash, T: Send + 'static> Turns<K, T> {
    /// Nothing is under way, and so much may be at once: in all, and of one tenant.
    #[must_use]
    pub fn new(at_once: usize, of_tenant: usize) -> Self {
        let (under_way, keys, tasks) = (HashMap::new(), HashSet::new(), JoinSet::new());
        Self { at_once, of_tenant, under_way, keys, tasks, last: None }
    }

    /// What of all that is wanted has its turn now, a tenant's in the order in which it is here; [`Self::start`] each of it before the
    /// next call. What is under way and not wanted any more is given up.
    pub fn next(&mut self, wanted: impl IntoIterator<Item = (TenantId, K)>) -> Vec<(TenantId, K)> {
        let mut waiting: BTreeMap<TenantId, VecDeque<K>> = BTreeMap::new();
        let mut still = HashSet::new();
        for (tenant, key) in wanted {
            if self.keys.contains(&key) {
                still.insert(key);
            } else {
                waiting.entry(tenant).or_default().push_back(key);
            }
        }
        self.give_up_all_but(&still);
        let mut busy: HashMap<TenantId, usize> = HashMap::new();
        for it in self.under_way.values() {
            *busy.entry(it.tenant).or_default() += 1;
        }
        let mut turns = Vec::new();
        while self.under_way.len() + turns.len() < self.at_once {
            let has = |tenant: &TenantId| busy.get(tenant).copied().unwrap_or_default();
            let last = self.last;
            // After the last one, all others come before it again.
            let order = |tenant: &TenantId| (has(tenant), last.is_some_and(|last| *tenant <= last), *tenant);
            let next =
                waiting.keys().filter(|it| has(it) < self.of_tenant).min_by_key(|it| order(it)).copied();
            let Some(tenant) = next else { break };
            let Some(of_tenant) = waiting.get_mut(&tenant) else { break };
            if let Some(key) = of_tenant.pop_front() {
                turns.push((tenant, key));
                *busy.entry(tenant).or_default() += 1;
                self.last = Some(tenant);
            }
            if of_tenant.is_empty() {
                waiting.remove(&tenant);
            }
        }
        turns
    }

    /// Gives up what is under way but for these.
    fn give_up_all_but(&mut self, still: &HashSet<K>) {
        let keys = &mut self.keys;
        self.under_way.retain(|_, it| {
            let goes_on = still.contains(&it.key);
            if !goes_on {
                it.handle.abort();
                keys.remove(&it.key);
            }
            goes_on
        });
    }

    /// Begins what has its turn.
    pub fn start(&mut self, (tenant, key): (TenantId, K), work: impl Future<Output = T> + Send + 'static) {
        let handle = self.tasks.spawn(work);
        self.keys.insert(key.clone());
        self.under_way.insert(handle.id(), UnderWay { tenant, key, handle });
    }

    /// Waits for the next that is over, with what came of it: an error if it broke off by a defect. For ever if nothing is under way.
    /// Safe to drop and to call again.
    pub async fn ended(&mut self) -> (K, Result<T, JoinError>) {
        loop {
            let (id, result) = match self.tasks.join_next_with_id().await {
                None => std::future::pending().await,
                Some(Ok((id, result))) => (id, Ok(result)),
                Some(Err(error)) => (error.id(), Err(error)),
            };
            // What was given up is nobody's any more.
            if let Some(it) = self.under_way.remove(&id) {
                self.keys.remove(&it.key);
                return (it.key, result);
            }
        }
    }
}
