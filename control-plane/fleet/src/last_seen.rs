//! When agents were last heard, and when their certificates end, in files beside the journal: a restart makes no silence look shorter or
//! longer than it is, and no host that is away is forgotten before its certificate ends.
//!
//! They are written without a barrier, and what cannot be read is forgotten: ages then count from the last event about an agent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stella_protocol::id::AgentId;
use stella_protocol::time::Timestamp;
use tokio::time::sleep;

use crate::Shared;
use crate::life::Life;

/// How much of the file is read: more than a fleet of the largest size needs.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Something of each agent.
pub(crate) type Of<T> = BTreeMap<AgentId, T>;

/// The file of certificates that is beside this one.
pub(crate) fn of_certificates(last_seen: &Path) -> PathBuf {
    last_seen.with_file_name("last-certificates")
}

/// What was written last; nothing if there is no file, or none that can be read.
pub(crate) fn load<T: DeserializeOwned>(file: &Path) -> Of<T> {
    match read(file) {
        Ok(all) => all,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Of::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "what is kept of agents cannot be read and is forgotten");
            Of::new()
        }
    }
}

fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Of<T>> {
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
        let (times, lives, path) = (times(&shared), lives(&shared), file.clone());
        let write_both = move || {
            let (seen, ends) = (write(&path, &times), write(&of_certificates(&path), &lives));
            seen.and(ends)
        };
        let written = tokio::task::spawn_blocking(write_both).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => fails = false,
            // Once for each time that it begins to fail.
            Err(error) if !fails => {
                fails = true;
                tracing::warn!(file = %file.display(), %error, "when agents were last heard, and when their certificates end, cannot be written");
            }
            Err(_) => {}
        }
        if !goes_on {
            return;
        }
    }
}

fn times(shared: &Shared) -> Of<Timestamp> {
    known(shared, |agent| shared.registry.last_seen(agent))
}

fn lives(shared: &Shared) -> Of<Life> {
    known(shared, |agent| shared.registry.life(agent))
}

/// What is known of all agents that may come back.
fn known<T>(shared: &Shared, of: impl Fn(AgentId) -> Option<T>) -> Of<T> {
    let state = shared.engine.state();
    let agents = state.tenants.values().flat_map(|tenant| tenant.agents.values());
    let expected = agents.filter(|agent| agent.revoked.is_none());
    expected.filter_map(|agent| Some((agent.id, of(agent.id)?))).collect()
}

fn write<T: Serialize>(file: &Path, all: &Of<T>) -> io::Result<()> {
    let unfinished = file.with_extension("new");
    std::fs::write(&unfinished, serde_json::to_vec(all)?)?;
    std::fs::rename(&unfinished, file)
}
