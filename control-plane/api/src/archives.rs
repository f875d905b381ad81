//! Archives are looked into before they are taken: what no host would unpack is refused to who sends it, and not to who deploys it.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::error::{ApiError, ErrorCode};

/// How many archives are looked into at once. Each takes a thread, and a processor for as long as it decompresses.
const AT_ONCE_MAX: usize = 2;
/// How long one may wait for those before it.
const TURN_MAX: Duration = Duration::from_secs(120);
/// When to come back if that was too long.
const COME_BACK_S: u64 = 60;

/// Who looks into archives.
#[derive(Debug)]
pub(crate) struct Archives {
    turns: Arc<Semaphore>,
}

impl Default for Archives {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE_MAX)) }
    }
}

impl Archives {
    /// Refuses an archive that no host would unpack, by its entry and with what to do about it.
    pub(crate) async fn check(&self, archive: File, bytes: u64) -> Result<(), ApiError> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        let Ok(Ok(turn)) = tokio::time::timeout(TURN_MAX, turn).await else {
            let detail = "too many archives are being looked into; send it again later";
            return Err(ApiError::retry_after(ErrorCode::Overloaded, COME_BACK_S, detail));
        };
        // The turn ends with the work, also if nobody waits for it any more.
        let work = move || (stella_archive::check(archive, bytes), turn).0;
        let looked = tokio::task::spawn_blocking(work).await;
        match looked.map_err(|error| ApiError::internal(&error))? {
            Ok(_) => Ok(()),
            Err(error) => Err(ApiError::invalid("body", format!("{error}: {}", error.remedy()))),
        }
    }
}
