//! Waiting until something is so, with an end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// How long anything in the tests may take: more than it does on a busy machine, less than a test runner's patience.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until the probe succeeds, for [`PATIENCE`] at most.
///
/// # Errors
/// What the probe said last, when the time is over.
pub async fn until<T>(what: &str, probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    until_within(PATIENCE, what, probe).await
}

/// Looks until the probe succeeds, for a given time at most.
///
/// # Errors
/// What the probe said last, when the time is over.
pub async fn until_within<T>(
    patience: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let left = patience.saturating_sub(start.elapsed()).max(INTERVAL);
        let outcome = match tokio::time::timeout(left, probe()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow::anyhow!("the probe itself did not answer")),
        };
        match outcome {
            Ok(value) => return Ok(value),
            Err(last) if start.elapsed() >= patience => {
                return Err(last).with_context(|| format!("waited {} s until {what}", patience.as_secs()));
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_is_asked_again_and_its_last_word_is_kept() {
        let mut asked = 0;
        let outcome = until("it is the third time", async || {
            asked += 1;
            anyhow::ensure!(asked == 3, "only {asked}");
            Ok(asked)
        });
        assert_eq!(outcome.await.unwrap(), 3);
        let never = until_within(Duration::from_millis(1), "it is so", async || {
            anyhow::bail!("it is not");
            #[expect(unreachable_code, reason = "it gives the closure its type")]
            Ok(())
        });
        assert_eq!(format!("{:#}", never.await.unwrap_err()), "waited 0 s until it is so: it is not");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_given_up() {
        let hangs = until_within(Duration::from_millis(1), "it answers", async || {
            std::future::pending::<()>().await;
            Ok(())
        });
        assert!(format!("{:#}", hangs.await.unwrap_err()).ends_with("did not answer"));
    }
}
