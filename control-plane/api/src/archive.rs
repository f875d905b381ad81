//! What has left memory, for those who look at it.
//!
//! A thing of the archive is put into a copy of its tenant's state, which shares all else with it: so whatever shows things
//! shows those of the archive too. What is in memory is looked for first, and the archive after it: nothing leaves memory
//! before it is in the archive, so what is missing in both is nowhere.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use stella_api_types::Page;
use stella_domain::promotion::Promotion;
use stella_domain::run::Run;
use stella_domain::task::Task;
use stella_domain::tenant::TenantState;
use stella_engine::{ReadError, Walk};
use stella_protocol::id::{DeploymentId, PromotionId, RunId, TaskId};
use utoipa::ToSchema;

use crate::App;
use crate::body::{Json, Paging, cursor};
use crate::error::{ApiError, ErrorCode};

/// How many things of the archive are read at a time, for [`page`].
pub(crate) const READ_MAX: usize = 500;
/// How many things of the archive one request for a page looks at. A page with a filter that hardly anything passes may come
/// with few items or none, and go on behind its cursor.
const LOOKED_AT_MAX: usize = 20_000;

/// The tenant, with a deployment that is only in the archive, and what took that back.
pub(crate) async fn with_deployment(
    app: &App,
    tenant: &Arc<TenantState>,
    text: &str,
) -> Result<Arc<TenantState>, ApiError> {
    let Some(id) = missing::<DeploymentId, _>(tenant, &tenant.deployments, text) else {
        return Ok(Arc::clone(tenant));
    };
    let archive = app.engine.archive();
    let Some(deployment) = archive.deployment(tenant.id, id).await? else { return Ok(Arc::clone(tenant)) };
    let mut copy = TenantState::clone(tenant);
    for rollback in archive.rollbacks_of(tenant.id, id).await? {
        copy.deployments.entry(rollback.id).or_insert(rollback);
    }
    copy.deployments.insert(id, deployment);
    Ok(Arc::new(copy))
}

/// The tenant, with a task that is only in the archive.
pub(crate) async fn with_task(
    app: &App,
    tenant: &Arc<TenantState>,
    text: &str,
) -> Result<Arc<TenantState>, ApiError> {
    let Some(id) = missing::<TaskId, Task>(tenant, &tenant.tasks, text) else {
        return Ok(Arc::clone(tenant));
    };
    let Some(task) = app.engine.archive().task(tenant.id, id).await? else { return Ok(Arc::clone(tenant)) };
    let mut copy = TenantState::clone(tenant);
    copy.tasks.insert(id, task);
    Ok(Arc::new(copy))
}

/// The tenant, with a promotion that is only in the archive, and what gates said about it.
pub(crate) async fn with_promotion(
    app: &App,
    tenant: &Arc<TenantState>,
    text: &str,
) -> Result<Arc<TenantState>, ApiError> {
    let Some(id) = missing::<PromotionId, Promotion>(tenant, &tenant.promotions, text) else {
        return Ok(Arc::clone(tenant));
    };
    let found = app.engine.archive().promotion(tenant.id, id).await?;
    let Some(archived) = found else { return Ok(Arc::clone(tenant)) };
    let mut copy = TenantState::clone(tenant);
    copy.promotions.insert(id, Arc::clone(&archived.promotion));
    if let Some(gates) = &archived.gates {
        copy.gates.insert(id, Arc::clone(gates));
    }
    Ok(Arc::new(copy))
}

/// The tenant, with a run that is only in the archive.
pub(crate) async fn with_run(
    app: &App,
    tenant: &Arc<TenantState>,
    text: &str,
) -> Result<Arc<TenantState>, ApiError> {
    let Some(id) = missing::<RunId, Run>(tenant, &tenant.runs, text) else { return Ok(Arc::clone(tenant)) };
    let Some(run) = app.engine.archive().run(tenant.id, id).await? else { return Ok(Arc::clone(tenant)) };
    let mut copy = TenantState::clone(tenant);
    copy.runs.insert(id, run);
    Ok(Arc::new(copy))
}

/// The id, if it is one, nothing in memory has it, and there is an archive to look into.
fn missing<I: Ord + FromStr, T>(
    tenant: &TenantState,
    things: &imbl::OrdMap<I, Arc<T>>,
    text: &str,
) -> Option<I> {
    let id = text.parse::<I>().ok()?;
    (!tenant.archived.is_empty() && !things.contains_key(&id)).then_some(id)
}

/// What to say of a thing that the core does not know (any more): that it can only be looked at, if it is in the archive.
pub(crate) async fn only_readable(
    app: &App,
    tenant: &Arc<TenantState>,
    kind: &str,
    id: &str,
) -> Result<Option<ApiError>, ApiError> {
    let is_there = match kind {
        DeploymentId::KIND => {
            with_deployment(app, tenant, id).await?.deployments.len() > tenant.deployments.len()
        }
        PromotionId::KIND => {
            with_promotion(app, tenant, id).await?.promotions.len() > tenant.promotions.len()
        }
        TaskId::KIND => with_task(app, tenant, id).await?.tasks.len() > tenant.tasks.len(),
        RunId::KIND => with_run(app, tenant, id).await?.runs.len() > tenant.runs.len(),
        _ => false,
    };
    let problem = format!(
        "{kind} {id} has ended long ago and is in the archive: it can be looked at, and nothing can be done with it any more"
    );
    Ok(is_there.then(|| ApiError::new(ErrorCode::Conflict, problem)))
}

/// Cuts a page out of an ordered list that is partly in memory and partly in the archive.
///
/// `memory` has what is wanted and in memory, in the order of the ids; `read` reads things of the archive on a walk, of which
/// `is_wanted` takes some.
pub(crate) async fn page<K, T, D, R, F>(
    paging: &Paging,
    memory: impl DoubleEndedIterator<Item = (K, Arc<T>)>,
    read: Option<R>,
    is_wanted: impl Fn(&T) -> bool,
    view: impl Fn(&T) -> D,
) -> Result<Json<Page<D>>, ApiError>
where
    K: Ord + Copy + std::fmt::Display + FromStr,
    D: ToSchema,
    R: Fn(Walk<K>) -> F,
    F: Future<Output = Result<Vec<(K, Arc<T>)>, ReadError>>,
{
    let (limit, after, is_back) = (paging.limit()?, paging.after::<K>()?, paging.is_back());
    let place = |key| Place { key, is_back };
    let start = after.map(place);
    let ahead = |(key, _): &(K, Arc<T>)| start.is_none_or(|start| place(*key) > start);
    let mut found: BTreeMap<Place<K>, Arc<T>> = BTreeMap::new();
    let mut gather = |items: &mut dyn Iterator<Item = (K, Arc<T>)>| {
        found.extend(items.filter(ahead).take(limit + 1).map(|(key, thing)| (place(key), thing)));
    };
    let mut memory = memory;
    match is_back {
        true => gather(&mut memory.rev()),
        false => gather(&mut memory),
    }
    // Up to where the archive was looked at, if there is more of it.
    let mut end = None;
    if let Some(read) = read {
        let (mut last, mut looked_at) = (after, 0);
        loop {
            let things = read(Walk { after: last, is_back }).await?;
            looked_at += things.len();
            let is_over = things.len() < READ_MAX;
            last = things.last().map(|(key, _)| *key).or(last);
            for (key, thing) in things.into_iter().filter(|(_, thing)| is_wanted(thing)) {
                found.entry(place(key)).or_insert(thing);
            }
            let Some(last) = last.filter(|_| !is_over).map(place) else { break };
            if found.range(..=last).count() > limit {
                break;
            }
            if looked_at >= LOOKED_AT_MAX {
                end = Some(last);
                break;
            }
        }
    }
    let mut rest = found.into_iter().take_while(|(key, _)| end.is_none_or(|end| *key <= end)).peekable();
    let mut page = Page { items: Vec::new(), next_cursor: end.map(|end| cursor(&end.key)) };
    while let Some((place, thing)) = rest.next() {
        page.items.push(view(&thing));
        if page.items.len() == limit {
            if rest.peek().is_some() {
                page.next_cursor = Some(cursor(&place.key));
            }
            break;
        }
    }
    Ok(Json(page))
}

/// A key on a walk: what is met first is the least.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place<K> {
    key: K,
    is_back: bool,
}

impl<K: Ord> Ord for Place<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.key.cmp(&other.key);
        if self.is_back { order.reverse() } else { order }
    }
}

impl<K: Ord> PartialOrd for Place<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
