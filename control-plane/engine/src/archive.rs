//! What has left memory: written here before a fact forgets it, and read back through bounded caches.
//!
//! Nothing here decides anything, and all of it follows from the journal: a replay writes what is missing. So a journal that
//! was exported and imported, or restored from a backup, has its archive again once it was replayed.

mod caches;
mod record;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use stella_domain::archive::Ended;
use stella_domain::deployment::Deployment;
use stella_domain::event::{Event, Fact, StreamId};
use stella_domain::run::Run;
use stella_domain::state::State;
use stella_domain::task::Task;
use stella_domain::tenant::TenantState;
use stella_journal::{AppendError, ArchiveRecord, Journal, Shelf};
use stella_protocol::id::{DeploymentId, PromotionId, RunId, TaskId, TenantId};
use uuid::Uuid;

use crate::blocking;
use crate::handle::ReadError;
use caches::Caches;
pub use record::ArchivedPromotion;
use record::{Kind, decode};

/// How much is gathered before it is written, in bytes.
const GROUP_BYTES: usize = 1 << 20;

/// Which way a list is walked, and from where on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk<I> {
    /// The id that what is wanted comes behind; from the start if `None`.
    pub after: Option<I>,
    /// From the last id to the first.
    pub is_back: bool,
}

impl<I> Walk<I> {
    fn map<J>(self, to: impl FnOnce(I) -> J) -> Walk<J> {
        Walk { after: self.after.map(to), is_back: self.is_back }
    }
}

/// Reads what has left memory. A cheap clone.
#[derive(Clone, Debug)]
pub struct Archive {
    journal: Arc<dyn Journal>,
    caches: Arc<Caches>,
}

impl Archive {
    pub(crate) fn new(journal: Arc<dyn Journal>) -> Self {
        Self { journal, caches: Arc::new(Caches::new()) }
    }

    /// A deployment with every target's part.
    ///
    /// # Errors
    /// If the archive is damaged there, or the engine is stopping.
    pub async fn deployment(
        &self,
        tenant: TenantId,
        id: DeploymentId,
    ) -> Result<Option<Arc<Deployment>>, ReadError> {
        self.get(tenant, id.0, |caches| &caches.deployments).await
    }

    /// Deployments in the order of their ids or against it, without their targets' parts.
    ///
    /// # Errors
    /// As [`Self::deployment`].
    pub async fn deployments(
        &self,
        tenant: TenantId,
        walk: Walk<DeploymentId>,
        limit: usize,
    ) -> Result<Vec<Arc<Deployment>>, ReadError> {
        self.list(Kind::DeploymentHead.of(tenant), walk.map(|id| id.0), limit).await
    }

    /// The deployments that took this one back, without their targets' parts, oldest first.
    ///
    /// # Errors
    /// As [`Self::deployment`].
    pub async fn rollbacks_of(
        &self,
        tenant: TenantId,
        of: DeploymentId,
    ) -> Result<Vec<Arc<Deployment>>, ReadError> {
        let walk = Walk { after: None, is_back: false };
        self.list(Kind::RollbackOf.within(tenant, of.0), walk, record::ROLLBACKS_MAX).await
    }

    /// A task.
    ///
    /// # Errors
    /// As [`Self::deployment`].
    pub async fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<Arc<Task>>, ReadError> {
        self.get(tenant, id.0, |caches| &caches.tasks).await
    }

    /// The tasks of a deployment in the order of their ids.
    ///
    /// # Errors
    /// As [`Self::deployment`].
    pub async fn tasks_of(
        &self,
        tenant: TenantId,
        deployment: DeploymentId,
        after: Option<TaskId>,
        limit: usize,
    ) -> Result<Vec<Arc<Task>>, ReadError> {
        let shelf = Kind::TaskOf.within(tenant, deployment.0);
        let journal = Arc::clone(&self.journal);
        blocking::read(move || {
            let ids =
                journal.archive().list(shelf, after.map(|id| id.0), limit).map_err(ReadError::Journal)?;
            let one = |id: Uuid| read(journal.as_ref(), Kind::Task.of(tenant), id);
            ids.into_iter().filter_map(|(id, _)| one(id).transpose()).collect()
        })
        .await
    }

    /// A promotion, and what the gates said about it.
    ///
    /// # Errors
    /// As [`Self::deployment`].
    pub async fn promotion(
        &self,
        tenant: TenantId,
        id: PromotionId,
    ) -> Result<Option<Arc<ArchivedPromotion>>, ReadError> {
        self.get(tenant, id.0, |caches| &caches.promotions).await
    }

    /// Promotions in the order of their ids or against it.
    ///
    /// # Errors
    /// As [`Self::deployment`].
    pub async fn promotions(
        &self,
        tenant: TenantId,
        walk: Walk<PromotionId>,
        limit: usize,
    ) -> Result<Vec<Arc<ArchivedPromotion>>, ReadError> {
        self.list(Kind::Promotion.of(tenant), walk.map(|id| id.0), limit).await
    }

    /// A run of a workflow.
    ///
    /// # Errors
    /// As [`Self::deployment`].
    pub async fn run(&self, tenant: TenantId, id: RunId) -> Result<Option<Arc<Run>>, ReadError> {
        self.get(tenant, id.0, |caches| &caches.runs).await
    }

    /// Runs in the order of their ids or against it.
    ///
    /// # Errors
    /// As [`Self::deployment`].
    pub async fn runs(
        &self,
        tenant: TenantId,
        walk: Walk<RunId>,
        limit: usize,
    ) -> Result<Vec<Arc<Run>>, ReadError> {
        self.list(Kind::Run.of(tenant), walk.map(|id| id.0), limit).await
    }

    /// How many things each cache holds, by its name.
    #[must_use]
    pub fn cached(&self) -> [(&'static str, u64); 4] {
        self.caches.entries()
    }

    /// Writes what is about to be forgotten, durably when it returns.
    pub(crate) fn keep(&self, tenant: &TenantState, ended: &Ended) -> Result<(), AppendError> {
        let mut group = Group::new(self.journal.as_ref());
        for id in &ended.deployments {
            group.add(record::of_deployment(tenant, *id))?;
        }
        for id in &ended.promotions {
            group.add(record::of_promotion(tenant, *id))?;
        }
        for id in &ended.runs {
            group.add(record::of_run(tenant, *id))?;
        }
        group.write()
    }

    async fn get<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        tenant: TenantId,
        id: Uuid,
        cache: impl Fn(&Caches) -> &caches::Cache<T> + Send + 'static,
    ) -> Result<Option<Arc<T>>, ReadError> {
        if let Some(found) = cache(&self.caches).get(tenant, id) {
            return Ok(Some(found));
        }
        let (journal, caches) = (Arc::clone(&self.journal), Arc::clone(&self.caches));
        blocking::read(move || {
            let cache = cache(&caches);
            let bytes = journal.archive().load(cache.kind.of(tenant), id).map_err(ReadError::Journal)?;
            let Some(bytes) = bytes else { return Ok(None) };
            let thing = Arc::new(decode(&bytes).map_err(|source| ReadError::Archived { id, source })?);
            cache.put(tenant, id, Arc::clone(&thing), bytes.len());
            Ok(Some(thing))
        })
        .await
    }

    async fn list<T: DeserializeOwned + Send + Sync + 'static>(
        &self,
        shelf: Shelf,
        Walk { after, is_back }: Walk<Uuid>,
        limit: usize,
    ) -> Result<Vec<Arc<T>>, ReadError> {
        let journal = Arc::clone(&self.journal);
        blocking::read(move || {
            let archive = journal.archive();
            let found = match is_back {
                true => archive.list_back(shelf, after, limit),
                false => archive.list(shelf, after, limit),
            };
            let found = found.map_err(ReadError::Journal)?;
            found
                .into_iter()
                .map(|(id, bytes)| {
                    decode(&bytes).map(Arc::new).map_err(|source| ReadError::Archived { id, source })
                })
                .collect()
        })
        .await
    }
}

fn read<T: DeserializeOwned>(
    journal: &dyn Journal,
    shelf: Shelf,
    id: Uuid,
) -> Result<Option<Arc<T>>, ReadError> {
    let bytes = journal.archive().load(shelf, id).map_err(ReadError::Journal)?;
    bytes
        .map(|bytes| decode(&bytes).map(Arc::new).map_err(|source| ReadError::Archived { id, source }))
        .transpose()
}

/// Records that are written together.
pub(crate) struct Group<'j> {
    journal: &'j dyn Journal,
    records: Vec<ArchiveRecord>,
    bytes: usize,
}

impl<'j> Group<'j> {
    pub(crate) const fn new(journal: &'j dyn Journal) -> Self {
        Self { journal, records: Vec::new(), bytes: 0 }
    }

    /// In replay: what the event is about to forget, unless it was written before the event was.
    pub(crate) fn before(
        &mut self,
        state: &State,
        stream: StreamId,
        event: &Event,
    ) -> Result<(), ReplayError> {
        let StreamId::Tenant(id) = stream else { return Ok(()) };
        let Some((kind, thing)) = forgotten(&event.fact) else { return Ok(()) };
        let is_there = self.journal.archive().load(kind.of(id), thing).map_err(ReplayError::Read)?.is_some();
        let Some(tenant) = state.tenants.get(&id).filter(|_| !is_there) else { return Ok(()) };
        let records = match kind {
            Kind::Promotion => record::of_promotion(tenant, PromotionId(thing)).into_iter().collect(),
            Kind::Run => record::of_run(tenant, RunId(thing)).into_iter().collect(),
            Kind::DeploymentHead | Kind::Deployment | Kind::RollbackOf | Kind::Task | Kind::TaskOf => {
                record::of_deployment(tenant, DeploymentId(thing))
            }
        };
        self.add(records).map_err(ReplayError::Write)
    }

    fn add(&mut self, records: impl IntoIterator<Item = ArchiveRecord>) -> Result<(), AppendError> {
        for record in records {
            self.bytes += record.value.len();
            self.records.push(record);
            if self.bytes >= GROUP_BYTES {
                self.write()?;
            }
        }
        Ok(())
    }

    pub(crate) fn write(&mut self) -> Result<(), AppendError> {
        self.bytes = 0;
        self.journal.archive().store(&std::mem::take(&mut self.records))
    }
}

/// Why a replay did not make the archive whole.
pub(crate) enum ReplayError {
    Read(stella_journal::ReadError),
    Write(AppendError),
}

/// What a fact forgets, by the last record that is written of it.
#[expect(clippy::wildcard_enum_match_arm, reason = "most facts forget nothing")]
const fn forgotten(fact: &Fact) -> Option<(Kind, Uuid)> {
    match fact {
        Fact::DeploymentArchived { id } => Some((Kind::DeploymentHead, id.0)),
        Fact::PromotionArchived { id } => Some((Kind::Promotion, id.0)),
        Fact::RunArchived { id } => Some((Kind::Run, id.0)),
        _ => None,
    }
}
