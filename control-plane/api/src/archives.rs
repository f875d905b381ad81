//! Archives are looked into before they are taken: what no host would unpack is refused to who sends it, and not to who deploys it.

use std::fs::File;
use std::time::{Duration, Instant};

use stella_archive::Failed;
use stella_protocol::id::TenantId;
use tokio_util::sync::CancellationToken;

use crate::error::{ApiError, ErrorCode};
use crate::turns::Turns;

/// How many archives are looked into at once. Each takes a thread, and a processor for as long as it decompresses.
const AT_ONCE_MAX: usize = 2;
/// How many of them one tenant may have.
const OF_TENANT_MAX: usize = 1;
/// How long one may wait for those before it.
const TURN_MAX: Duration = Duration::from_secs(120);
/// How long one may be looked into: the largest is read in less than a minute.
const LOOK_MAX: Duration = Duration::from_secs(600);
/// When to come back if that was too long.
const COME_BACK_S: u64 = 60;

/// Nobody waits for an archive any more, or it has taken too long.
#[derive(Debug)]
struct GivenUp;

/// Who looks into archives.
#[derive(Debug)]
pub(crate) struct Archives {
    turns: Turns<TenantId>,
}

impl Default for Archives {
    fn default() -> Self {
        Self { turns: Turns::new(AT_ONCE_MAX, OF_TENANT_MAX) }
    }
}

impl Archives {
    /// Refuses an archive that no host would unpack, by its entry and with what to do about it.
    pub(crate) async fn check(&self, tenant: TenantId, archive: File, bytes: u64) -> Result<(), ApiError> {
        let Some(turn) = self.turns.take(tenant, TURN_MAX).await else {
            let detail = "too many archives are being looked into; send it again later";
            return Err(ApiError::retry_after(ErrorCode::Overloaded, COME_BACK_S, detail));
        };
        // Whoever sent it may hang up; the work ends then, and the turn with it.
        let waits = CancellationToken::new();
        let _hung_up = waits.clone().drop_guard();
        let until = Instant::now() + LOOK_MAX;
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
            Err(Failed::Sink(GivenUp)) => {
                let detail = format!("the archive could not be looked into within {} s", LOOK_MAX.as_secs());
                Err(ApiError::new(ErrorCode::Timeout, detail))
            }
        }
    }
}
