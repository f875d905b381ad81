//! What has ended long ago leaves memory for the archive, and old output and archives of releases the disk.

mod archives;

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, describe_counter};
use stella_domain::archive::{Ended, Rule, due};
use stella_engine::Handle;
use stella_protocol::id::TenantId;
use stella_store::{ArtifactStore, OutputStore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::Retention;

/// How often old output is looked for: it is kept for days.
const OUTPUT_INTERVAL: Duration = Duration::from_secs(3_600);
/// The pause between two batches of one tenant: a first archive of years leaves the writer to others.
const BATCH_PAUSE: Duration = Duration::from_millis(50);

/// Looks at intervals, until the shutdown.
pub(crate) async fn run(
    engine: Handle,
    (artifacts, output): (Arc<ArtifactStore>, Arc<OutputStore>),
    config: Retention,
    shutdown: CancellationToken,
) {
    describe_counter!("stella_archive_failures_total", "How often ended things could not leave memory");
    // A counter that begins at 1 has not increased.
    counter!("stella_archive_failures_total").increment(0);
    let memory = forget(&engine, &config, &shutdown);
    let archives = archives::run(&engine, &artifacts, config.artifact_rule(), &shutdown);
    tokio::join!(memory, clear(&output, &config, &shutdown), archives);
}

async fn forget(engine: &Handle, config: &Retention, shutdown: &CancellationToken) {
    let Some(rule) = config.rule() else { return };
    let interval = Duration::from_secs(config.memory_interval_s);
    while shutdown.run_until_cancelled(sleep(interval)).await.is_some() {
        let tenants: Vec<TenantId> = engine.state().tenants.keys().copied().collect();
        for tenant in tenants {
            // A batch ends before the shutdown does: it is bounded, and safe to break off only between two.
            forget_of(engine, tenant, rule, shutdown).await;
        }
    }
}

/// Batch after batch, until nothing is left to do.
async fn forget_of(engine: &Handle, tenant: TenantId, rule: Rule, shutdown: &CancellationToken) {
    let mut before = Ended::default();
    while !shutdown.is_cancelled() {
        let (state, now) = (engine.state(), engine.now());
        let looked = tokio::task::spawn_blocking(move || {
            state.tenants.get(&tenant).map(|tenant| due(tenant, rule, now)).unwrap_or_default()
        });
        let Ok(ended) = looked.await else { return };
        // What is needed since it was looked at stays; it must not be tried again and again.
        if ended.count() == 0 || ended == before {
            return;
        }
        match engine.archive_ended(tenant, ended.clone()).await {
            Ok(()) => tracing::debug!(
                tenantId = %tenant,
                deployments = ended.deployments.len(),
                promotions = ended.promotions.len(),
                runs = ended.runs.len(),
                "what has ended left memory"
            ),
            Err(error) => {
                counter!("stella_archive_failures_total").increment(1);
                return tracing::warn!(
                    tenantId = %tenant,
                    error = &error as &dyn std::error::Error,
                    "what has ended stays in memory for now"
                );
            }
        }
        before = ended;
        sleep(BATCH_PAUSE).await;
    }
}

async fn clear(output: &Arc<OutputStore>, config: &Retention, shutdown: &CancellationToken) {
    let Some(age) = config.output_age() else { return };
    loop {
        match output.remove_older(age).await {
            Ok(0) => {}
            Ok(tasks) => tracing::info!(tasks, "old output of tasks was removed"),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "old output of tasks cannot be removed"
            ),
        }
        if shutdown.run_until_cancelled(sleep(OUTPUT_INTERVAL)).await.is_none() {
            return;
        }
    }
}
