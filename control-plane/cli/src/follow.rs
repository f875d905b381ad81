//! Looking at something again and again until it is over.

use std::time::Duration;

use crate::client::Error;

/// The pause between two looks at what programs do. Well below what the rate limits allow.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);

/// How many looks in a row may fail before following is given up. With the pauses between them that is some two minutes: the control
/// plane may restart in the middle, or have too much to do.
const FAILURES_MAX: u32 = 32;

/// The longest pause after a look that has failed.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// What a look came to.
#[derive(Debug)]
pub(crate) enum Look<T> {
    /// How it is now.
    Found(T),
    /// Nobody can say for now, and why; told once until there is something again.
    Lost(String),
}

/// Looks until `see` has what it waits for, with a pause of `interval` between two looks. What passes (nobody there, too much to do) is
/// waited for, since what is followed goes on without this program.
///
/// # Errors
/// The control plane's refusal, or what has not passed after [`FAILURES_MAX`] looks; what `see` fails with.
pub(crate) async fn until<T, R>(
    interval: Duration,
    look: impl AsyncFn() -> Result<T, Error>,
    see: impl FnMut(Look<T>) -> Result<Option<R>, Error>,
) -> Result<R, Error> {
    until_paced(|_| interval, look, see).await
}

/// As [`until`], with a pause that depends on what was found last: what is large costs the control plane more at each look.
///
/// # Errors
/// As [`until`].
pub(crate) async fn until_paced<T, R>(
    pace: impl Fn(&T) -> Duration,
    look: impl AsyncFn() -> Result<T, Error>,
    mut see: impl FnMut(Look<T>) -> Result<Option<R>, Error>,
) -> Result<R, Error> {
    let mut failures = 0;
    let mut interval = INTERVAL;
    loop {
        let seen = match look().await {
            Ok(found) => {
                failures = 0;
                interval = pace(&found);
                see(Look::Found(found))?
            }
            Err(error) if error.passes() && failures < FAILURES_MAX => {
                failures += 1;
                if failures == 1 { see(Look::Lost(error.to_string()))? } else { None }
            }
            Err(error) => return Err(error),
        };
        if let Some(result) = seen {
            return Ok(result);
        }
        let doubled = interval.saturating_mul(1_u32 << failures.min(16));
        tokio::time::sleep(doubled.min(PAUSE_MAX.max(interval))).await;
    }
}

/// Watches something until that is over, or until somebody presses Ctrl-C: they are told how what they watched goes on, since nothing but
/// the watching ends with this program.
///
/// # Errors
/// What the watching fails with, or [`Error::Interrupted`].
pub(crate) async fn unless_interrupted<T>(
    watching: impl Future<Output = Result<T, Error>>,
    goes_on: impl FnOnce() -> String,
) -> Result<T, Error> {
    tokio::select! {
        ended = watching => ended,
        Ok(()) = tokio::signal::ctrl_c() => {
            Err(Error::Interrupted(format!("this ends the watching alone; {}", goes_on())))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use stella_api_types::problem::Problem;

    use super::*;

    fn refused(status: u16, retryable: bool) -> Error {
        let problem = serde_json::json!({
            "type": "about:blank", "title": "no", "status": status, "detail": "no", "code": "no",
            "retryable": retryable, "noSideEffects": true,
        });
        Error::Refused(Box::new(serde_json::from_value::<Problem>(problem).unwrap()))
    }

    fn unreachable() -> Error {
        Error::Unreachable { url: "https://here".to_owned(), problem: "nobody is there".to_owned() }
    }

    /// Follows what says this, one answer a look, and then that it is over; what was said about troubles.
    async fn follow(answers: Vec<Error>) -> (Result<u32, Error>, Vec<String>) {
        let answers = Cell::new(answers.into_iter());
        let look = async || {
            let mut rest = answers.take();
            let answer = rest.next();
            answers.set(rest);
            answer.map_or(Ok(7), Err)
        };
        let mut troubles = Vec::new();
        let result = until(Duration::from_millis(1), look, |look| {
            Ok(match look {
                Look::Found(number) => Some(number),
                Look::Lost(why) => {
                    troubles.push(why);
                    None
                }
            })
        });
        (result.await, troubles)
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_waited_for_and_told_once() {
        let answers = vec![refused(429, true), unreachable(), refused(503, true)];
        let (result, troubles) = follow(answers).await;
        assert_eq!((result.ok(), troubles), (Some(7), vec![refused(429, true).to_string()]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_it_and_so_does_what_does_not_pass() {
        let (result, troubles) = follow(vec![refused(404, false)]).await;
        assert!(matches!(result, Err(Error::Refused(problem)) if problem.status == 404));
        assert!(troubles.is_empty());
        let (result, troubles) = follow((0..=FAILURES_MAX).map(|_| unreachable()).collect()).await;
        assert!(matches!(result, Err(Error::Unreachable { .. })));
        assert_eq!(troubles.len(), 1);
    }
}
