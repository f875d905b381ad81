//! When agents were last heard, in a file beside the journal: a restart makes no silence look shorter or longer than it is.
//!
//! It is written without a barrier, and what cannot be read is forgotten: ages then count from the last event about an agent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stella_protocol::id::AgentId;
use stella_protocol::time::Timestamp;
use tokio::time::sleep;

use crate::Shared;

/// How much of the file is read: more than a fleet of the largest size needs.
const FILE_BYTES_MAX: u64 = 64 << 20;

pub(crate) type Times = BTreeMap<AgentId, Timestamp>;

/// What was written last; nothing if there is no file, or none that can be read. No time is after `now`: ages are not negative.
pub(crate) fn load(file: &Path, now: Timestamp) -> Times {
    match read(file) {
        Ok(times) => times.into_iter().map(|(agent, at)| (agent, at.min(now))).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Times::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "when agents were last heard cannot be read and is forgotten");
            Times::new()
        }
    }
}

fn read(file: &Path) -> io::Result<Times> {
    let mut bytes = Vec::new();
    File::open(file)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Writes at intervals, and once more at the shutdown.
pub(crate) async fn run(shared: Arc<Shared>, file: PathBuf) {
    let mut fails = false;
    loop {
        let interval = sleep(shared.config.last_seen_interval);
        let goes_on = shared.shutdown.run_until_cancelled(interval).await.is_some();
        let (times, path) = (known(&shared), file.clone());
        let written = tokio::task::spawn_blocking(move || write(&path, &times)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => fails = false,
            // Once for each time that it begins to fail.
            Err(error) if !fails => {
                fails = true;
                tracing::warn!(file = %file.display(), %error, "when agents were last heard cannot be written");
            }
            Err(_) => {}
        }
        if !goes_on {
            return;
        }
    }
}

/// Of all agents that may come back.
fn known(shared: &Shared) -> Times {
    let state = shared.engine.state();
    let agents = state.tenants.values().flat_map(|tenant| tenant.agents.values());
    let expected = agents.filter(|agent| agent.revoked.is_none());
    expected.filter_map(|agent| Some((agent.id, shared.registry.last_seen(agent.id)?))).collect()
}

fn write(file: &Path, times: &Times) -> io::Result<()> {
    let unfinished = file.with_extension("new");
    std::fs::write(&unfinished, serde_json::to_vec(times)?)?;
    std::fs::rename(&unfinished, file)
}
