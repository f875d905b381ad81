//! Archives of releases that are old and needed by nothing leave the disk, and so does what an upload left that nobody has recorded.
//!
//! The core decides which ones a tenant gives up, and the journal keeps that; files go only after it, and only if no tenant has them.
//! A crash in between leaves a file that nobody knows, and the next look finds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use metrics::{counter, describe_counter, describe_gauge, gauge};
use stella_domain::artifact::{BATCH_MAX, Needs, Rule};
use stella_domain::command::{Actor, Command, Request, TenantCommand};
use stella_engine::Handle;
use stella_protocol::digest::Digest;
use stella_protocol::id::TenantId;
use stella_protocol::trace::TraceContext;
use stella_store::{Archive, ArtifactStore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often it is looked for: archives are kept for days.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// How old a file is that no tenant knows before it goes: far older than any upload that is still to be recorded.
const UNKNOWN_AGE: Duration = Duration::from_secs(86_400);

/// Looks at intervals, until the shutdown. Without a rule nothing that a tenant knows goes.
pub(super) async fn run(
    engine: &Handle,
    store: &Arc<ArtifactStore>,
    rule: Option<Rule>,
    shutdown: &CancellationToken,
) {
    describe_counter!("stella_artifacts_removed_total", "Archives that were removed");
    describe_gauge!("stella_artifacts_stored_bytes", "How large the archives on the disk are");
    loop {
        // A look ends before the shutdown does: what it does is safe to break off only between two steps.
        if let Err(error) = look(engine, store, rule, SystemTime::now()).await {
            tracing::warn!(error = format!("{error:#}"), "old archives were not removed");
        }
        if shutdown.run_until_cancelled(sleep(INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// What was removed before an error is. A journal that takes nothing, because its disk is full, keeps archives from being given up; what
/// no tenant knows goes all the same, and that is the room which it lacks.
async fn look(
    engine: &Handle,
    store: &ArtifactStore,
    rule: Option<Rule>,
    now: SystemTime,
) -> anyhow::Result<()> {
    let archives = store.list().await?;
    let given_up = match rule {
        Some(rule) => give_up_old(engine, rule, &archives, now).await,
        None => Ok(()),
    };
    let mut left: u64 = archives.iter().map(|it| it.size_bytes).sum();
    left -= clear(engine, store, &archives, now).await?;
    // Figures of a disk are far below 2^52: no precision is lost that anybody could see.
    #[expect(clippy::cast_precision_loss, reason = "see above")]
    gauge!("stella_artifacts_stored_bytes").set(left as f64);
    given_up
}

/// Has each tenant give up what is older than the rule says and what it does not need.
async fn give_up_old(
    engine: &Handle,
    rule: Rule,
    archives: &[Archive],
    now: SystemTime,
) -> anyhow::Result<()> {
    let tenants: Vec<TenantId> = engine.state().tenants.keys().copied().collect();
    let old: BTreeMap<Digest, u64> = older(archives, Duration::from_millis(rule.after_ms), now).collect();
    for tenant in tenants {
        give_up(engine, tenant, rule, &old).await?;
    }
    Ok(())
}

/// What was last stored longer ago than this: one that was uploaded again is as new as that.
fn older(archives: &[Archive], age: Duration, now: SystemTime) -> impl Iterator<Item = (Digest, u64)> {
    let is_old = move |it: &&Archive| now.duration_since(it.stored_at).is_ok_and(|since| since >= age);
    archives.iter().filter(is_old).map(|it| (it.digest, it.size_bytes))
}

/// Has the core give up, of these, what a tenant does not need.
async fn give_up(
    engine: &Handle,
    tenant: TenantId,
    rule: Rule,
    old: &BTreeMap<Digest, u64>,
) -> anyhow::Result<()> {
    let (state, now) = (engine.state(), engine.now());
    let Some(found) = state.tenants.get(&tenant) else { return Ok(()) };
    let needs = Needs::of(found, rule, now);
    let goes = |digest: &Digest| old.contains_key(digest) && !needs.archive(*digest);
    let digests: Vec<Digest> = found.artifacts.keys().copied().filter(goes).collect();
    for digests in digests.chunks(BATCH_MAX) {
        let bytes: u64 = digests.iter().filter_map(|digest| old.get(digest)).sum();
        let command = TenantCommand::RemoveArtifacts { digests: digests.to_vec(), rule };
        let (actor, trace) = (Actor::System, TraceContext::default());
        let command = Command::Tenant(tenant, command);
        let given_up = engine.submit(Request { actor, trace, idempotency: None, command }).await;
        given_up.context("what may go cannot be recorded")?;
        tracing::info!(tenantId = %tenant, archives = digests.len(), bytes, "old archives that nothing needs were given up");
    }
    Ok(())
}

/// Removes what no tenant knows. Returns how many bytes that was.
async fn clear(
    engine: &Handle,
    store: &ArtifactStore,
    archives: &[Archive],
    now: SystemTime,
) -> anyhow::Result<u64> {
    let state = engine.state();
    if state.tenants.values().all(|tenant| tenant.artifacts.is_empty() && tenant.releases.is_empty()) {
        // A journal that was moved away or lost is no reason to throw away what it knew of.
        return Ok(0);
    }
    let (mut count, mut bytes) = (0_u64, 0);
    for (digest, size_bytes) in older(archives, UNKNOWN_AGE, now) {
        if state.knows_artifact(digest) {
            continue;
        }
        let engine = engine.clone();
        if store.remove(digest, move || engine.state().knows_artifact(digest)).await? {
            count += 1;
            bytes += size_bytes;
        }
    }
    if count > 0 {
        counter!("stella_artifacts_removed_total").increment(count);
        tracing::info!(archives = count, bytes, "archives that no tenant has any more were removed");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sha2::{Digest as _, Sha256};
    use stella_domain::command::SystemCommand;
    use stella_engine::{Config, Engine};
    use stella_journal::{JournalConfig, SledJournal};
    use stella_store::Room;
    use uuid::Uuid;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    async fn submit(engine: &Engine, command: Command) {
        let (actor, trace) = (Actor::System, TraceContext::default());
        engine.handle().submit(Request { actor, trace, idempotency: None, command }).await.unwrap();
    }

    async fn upload(store: &ArtifactStore, content: &[u8]) -> Digest {
        let digest = Digest(Sha256::digest(content).into());
        let mut upload = store.upload(digest, 100).await.unwrap();
        upload.write(content).await.unwrap();
        drop(upload.finish().await.unwrap());
        digest
    }

    #[tokio::test]
    async fn what_nobody_needs_and_what_nobody_knows_leaves_the_disk_in_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let settings = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
        let journal = SledJournal::open(&Path::new(folder.path()).join("journal"), settings).unwrap();
        let engine = Engine::start(Arc::new(journal), Config::default()).unwrap();
        let room = Room::new(folder.path(), 0);
        let store = ArtifactStore::open(folder.path().join("artifacts"), room).unwrap();
        let (known, unknown) = (upload(&store, b"known").await, upload(&store, b"unknown").await);
        let rule = Some(Rule { after_ms: 30 * 86_400_000, newest_min: 0 });
        let handle = engine.handle();
        let is_there = async |digest| store.contains(digest).await.unwrap();

        // A journal that knows of no archive at all may be the wrong one.
        look(&handle, &store, rule, SystemTime::now() + 100 * DAY).await.unwrap();
        assert!(is_there(unknown).await);

        let tenant = TenantId(Uuid::from_u128(1));
        let create = SystemCommand::CreateTenant { id: tenant, name: "acme".parse().unwrap() };
        submit(&engine, Command::System(create)).await;
        let stored = TenantCommand::StoreArtifact { digest: known, size_bytes: 5, tenant_bytes_max: None };
        submit(&engine, Command::Tenant(tenant, stored)).await;

        look(&handle, &store, rule, SystemTime::now() + DAY / 2).await.unwrap();
        assert!(is_there(unknown).await, "it may be recorded yet");
        look(&handle, &store, rule, SystemTime::now() + 2 * DAY).await.unwrap();
        assert_eq!((is_there(unknown).await, is_there(known).await), (false, true));
        look(&handle, &store, None, SystemTime::now() + 100 * DAY).await.unwrap();
        assert!(is_there(known).await, "without a rule nothing goes that somebody has");

        // It comes back, and is as new as that.
        let other = upload(&store, b"other").await;
        let stored = TenantCommand::StoreArtifact { digest: other, size_bytes: 5, tenant_bytes_max: None };
        submit(&engine, Command::Tenant(tenant, stored)).await;
        look(&handle, &store, rule, SystemTime::now() + 100 * DAY).await.unwrap();
        let state = handle.state();
        assert!(state.tenants[&tenant].artifacts.is_empty(), "the journal says so first");
        assert_eq!(
            (is_there(known).await, is_there(other).await),
            (true, true),
            "nothing is known any more: see above"
        );
        submit(
            &engine,
            Command::Tenant(
                tenant,
                TenantCommand::StoreArtifact { digest: other, size_bytes: 5, tenant_bytes_max: None },
            ),
        )
        .await;
        look(&handle, &store, None, SystemTime::now() + 100 * DAY).await.unwrap();
        assert_eq!((is_there(known).await, is_there(other).await), (false, true));
        engine.stop();
    }

    #[tokio::test]
    async fn what_nobody_knows_goes_also_while_the_disk_is_too_full_for_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let start = |reserve_bytes| {
            let settings = JournalConfig { cache_bytes: 8 << 20, reserve_bytes };
            let journal = SledJournal::open(&Path::new(folder.path()).join("journal"), settings).unwrap();
            Engine::start(Arc::new(journal), Config::default()).unwrap()
        };
        let room = Room::new(folder.path(), 0);
        let store = ArtifactStore::open(folder.path().join("artifacts"), room).unwrap();
        let (known, unknown) = (upload(&store, b"known").await, upload(&store, b"unknown").await);
        let engine = start(0);
        let tenant = TenantId(Uuid::from_u128(1));
        let create = SystemCommand::CreateTenant { id: tenant, name: "acme".parse().unwrap() };
        submit(&engine, Command::System(create)).await;
        let stored = TenantCommand::StoreArtifact { digest: known, size_bytes: 5, tenant_bytes_max: None };
        submit(&engine, Command::Tenant(tenant, stored)).await;
        engine.stop();

        let engine = start(u64::MAX);
        let rule = Some(Rule { after_ms: 30 * 86_400_000, newest_min: 0 });
        let refused = look(&engine.handle(), &store, rule, SystemTime::now() + 100 * DAY).await.unwrap_err();
        assert!(format!("{refused:#}").contains("cannot be recorded"), "{refused:#}");
        let is_there = async |digest| store.contains(digest).await.unwrap();
        assert_eq!((is_there(unknown).await, is_there(known).await), (false, true));
        engine.stop();
    }
}
