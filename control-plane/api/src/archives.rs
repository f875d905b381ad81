//! Archives are looked into before they are taken: what no host would unpack is refused to who sends it, and not to who deploys it.

use std::fs::File;
use std::time::{Duration, Instant};

use stella_archive::Failed;
use stella_protocol::id::TenantId;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::turns::Turns;

/// How many archives are looked into at once. Each takes a thread, and a processor for as long as it decompresses.
const AT_ONCE_MAX: usize = 2;
/// How many of them one tenant may have.
const OF_TENANT_MAX: usize = 1;
/// How long one may be looked into: the largest is read in less than a minute.
const LOOK_MAX: Duration = Duration::from_secs(600);

/// Nobody waits for an archive any more, or it has taken too long.
#[derive(Debug)]
struct GivenUp;

/// Who looks into archives.
#[derive(Debug)]
pub(crate) struct Archives {
    turns: Turns<TenantId>,
    look_max: Duration,
}

impl Default for Archives {
    fn default() -> Self {
        Self { turns: Turns::new(AT_ONCE_MAX, OF_TENANT_MAX), look_max: LOOK_MAX }
    }
}

impl Archives {
    /// Refuses an archive that no host would unpack, by its entry and with what to do about it.
    pub(crate) async fn check(&self, tenant: TenantId, archive: File, bytes: u64) -> Result<(), ApiError> {
        // It has been sent whole, so it waits for as long as its sender does. There are no more than uploads may be under way.
        let turn = self.turns.wait(tenant).await.map_err(|error| ApiError::internal(&error))?;
        // Whoever sent it may hang up; the work ends then, and the turn with it.
        let waits = CancellationToken::new();
        let _hung_up = waits.clone().drop_guard();
        let until = Instant::now() + self.look_max;
        let work = move || {
            let may_go_on = move || {
                let is_over = waits.is_cancelled() || Instant::now() >= until;
                if is_over { Err(GivenUp) } else { Ok(()) }
            };
            (stella_archive::check_while(archive, bytes, may_go_on), turn).0
        };
        let looked = tokio::task::spawn_blocking(work).await;
        match looked.map_err(|error| ApiError::internal(&error))? {
            Ok(_) => Ok(()),
            Err(Failed::Archive(error)) => {
                Err(ApiError::invalid("body", format!("{error}: {}", error.remedy())))
            }
            // The next time it would take as long.
            Err(Failed::Sink(GivenUp)) => {
                let detail = format!(
                    "the archive could not be looked into within {} s, and was not stored: make it smaller, or several of it; if it is \
                     small, whoever runs the control plane should see what keeps its disk or processors so busy",
                    self.look_max.as_secs()
                );
                Err(ApiError::invalid("body", detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use uuid::Uuid;

    use super::*;

    const TENANT: TenantId = TenantId(Uuid::from_u128(1));

    /// One with an empty file, and its size in bytes.
    fn archive() -> (File, u64) {
        let mut header = tar::Header::new_gnu();
        header.set_path("file").unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, [].as_slice()).unwrap();
        let content = archive.into_inner().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        file.rewind().unwrap();
        (file, content.len() as u64)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_whole_waits_for_those_before_it_as_long_as_they_take() {
        let archives = Archives::default();
        let before = archives.turns.wait(TENANT).await.unwrap();
        let (file, bytes) = archive();
        let others = async {
            tokio::time::sleep(16 * LOOK_MAX).await;
            drop(before);
        };
        let (looked, ()) = tokio::join!(archives.check(TENANT, file, bytes), others);
        looked.unwrap();
    }

    #[tokio::test]
    async fn an_archive_that_takes_too_long_is_not_worth_sending_again() {
        let archives = Archives { look_max: Duration::ZERO, ..Archives::default() };
        let (file, bytes) = archive();
        let refused = archives.check(TENANT, file, bytes).await.unwrap_err();
        let told = refused.problem(None, None, None);
        assert!(!told.retryable && told.no_side_effects, "{told:?}");
        assert!(told.detail.contains("was not stored: make it smaller"), "{told:?}");
    }
}
