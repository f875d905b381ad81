//! The files beside the journal, which leave it room.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use stella_store::{ArtifactStore, OutputStore, Room};

use crate::boot::private_dir;
use crate::config::Config;

/// Opens both.
///
/// # Errors
/// If a folder cannot be created or looked at.
pub(crate) fn open(config: &Config) -> anyhow::Result<(Arc<ArtifactStore>, Arc<OutputStore>)> {
    let (artifacts, output) = (config.state_dir.join("artifacts"), config.state_dir.join("output"));
    private_dir(&artifacts)?;
    private_dir(&output)?;
    let room = |folder: &Path| Room::new(folder, config.journal.files_reserve_bytes());
    let of_artifacts = room(&artifacts);
    // Either may be a link to another disk.
    let of_output = if artifacts.metadata()?.dev() == output.metadata()?.dev() {
        Arc::clone(&of_artifacts)
    } else {
        room(&output)
    };
    Ok((Arc::new(ArtifactStore::open(artifacts, of_artifacts)?), OutputStore::open(output, of_output)?))
}
