//! The archive's records: JSON as in a snapshot, compressed. The first byte says how; what is in it is append-only, like events.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use imbl::OrdMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stella_domain::deployment::{Cause, Deployment};
use stella_domain::gate::Record;
use stella_domain::name::Name;
use stella_domain::promotion::Promotion;
use stella_domain::tenant::TenantState;
use stella_journal::{ArchiveRecord, Shelf};
use stella_protocol::id::{DeploymentId, PromotionId, RunId, TenantId};
use uuid::Uuid;

/// The first byte of a record: JSON, deflated.
const DEFLATED_JSON: u8 = 1;
/// How large a record can be, in bytes of JSON: a deployment to a hundred thousand targets is smaller.
const JSON_BYTES_MAX: u64 = 1 << 30;
/// How many rollbacks of one deployment are looked for: each has to have failed for there to be another.
pub(super) const ROLLBACKS_MAX: usize = 1_000;

/// What a record is. The numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A deployment without its targets' parts: what lists show. The last that is written of a deployment.
    DeploymentHead = 1,
    /// All of a deployment.
    Deployment = 2,
    /// As the first, within what it took back.
    RollbackOf = 3,
    /// A task.
    Task = 4,
    /// Nothing but the id of a task, within its deployment.
    TaskOf = 5,
    /// A promotion, with what gates said.
    Promotion = 6,
    /// A run of a workflow.
    Run = 7,
}

impl Kind {
    pub(crate) const fn of(self, tenant: TenantId) -> Shelf {
        self.within(tenant, Uuid::nil())
    }

    pub(crate) const fn within(self, tenant: TenantId, within: Uuid) -> Shelf {
        Shelf { tenant, kind: self as u8, within }
    }
}

/// A promotion, and what the gates said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivedPromotion {
    /// The promotion.
    pub promotion: Arc<Promotion>,
    /// The gates' records, by their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates: Option<Arc<BTreeMap<Name, Record>>>,
}

/// All that leaves with a deployment; nothing if it is gone.
pub(super) fn of_deployment(tenant: &TenantState, id: DeploymentId) -> Vec<ArchiveRecord> {
    let Some(deployment) = tenant.deployments.get(&id) else { return Vec::new() };
    let mut records = Vec::new();
    for task in tenant.tasks_of(deployment) {
        records.push(record(Kind::Task.of(tenant.id), task.id.0, task.as_ref()));
        let shelf = Kind::TaskOf.within(tenant.id, id.0);
        records.push(ArchiveRecord { shelf, id: task.id.0, value: Vec::new() });
    }
    records.extend(of_promotion(tenant, PromotionId(id.0)));
    records.push(record(Kind::Deployment.of(tenant.id), id.0, deployment.as_ref()));
    let head = Deployment { targets: OrdMap::new(), order: Arc::new([]), ..Deployment::clone(deployment) };
    if let Cause::Rollback { of, .. } = &deployment.cause {
        records.push(record(Kind::RollbackOf.within(tenant.id, of.0), id.0, &head));
    }
    records.push(record(Kind::DeploymentHead.of(tenant.id), id.0, &head));
    records
}

/// A promotion; nothing if there is none.
pub(super) fn of_promotion(tenant: &TenantState, id: PromotionId) -> Option<ArchiveRecord> {
    let promotion = Arc::clone(tenant.promotions.get(&id)?);
    let archived = ArchivedPromotion { promotion, gates: tenant.gates.get(&id).cloned() };
    Some(record(Kind::Promotion.of(tenant.id), id.0, &archived))
}

/// A run; nothing if it is gone.
pub(super) fn of_run(tenant: &TenantState, id: RunId) -> Option<ArchiveRecord> {
    let run = tenant.runs.get(&id)?;
    Some(record(Kind::Run.of(tenant.id), id.0, run.as_ref()))
}

fn record(shelf: Shelf, id: Uuid, thing: &impl Serialize) -> ArchiveRecord {
    let mut encoder = DeflateEncoder::new(vec![DEFLATED_JSON], Compression::fast());
    let json =
        serde_json::to_vec(thing).expect("what is in a snapshot has string keys and no failing serializer");
    let written = encoder.write_all(&json).and_then(|()| encoder.finish());
    ArchiveRecord { shelf, id, value: written.expect("memory takes all that is written") }
}

/// Reads a record.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let [DEFLATED_JSON, deflated @ ..] = bytes else {
        return Err(io::Error::other("it is of a form that this version does not know"));
    };
    let mut json = Vec::new();
    DeflateDecoder::new(deflated).take(JSON_BYTES_MAX).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
