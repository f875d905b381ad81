//! How much is logged, and changing that while the process runs.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::Error;

/// The longest filter, in characters.
const FILTER_CHARS_MAX: usize = 512;

/// Reads a level (`info`) or a filter (`info,stella_fleet=debug`).
///
/// # Errors
/// If it is neither. A lone word that is no level is refused: the library would take it for the name of a module, and log nothing else.
pub(crate) fn parse(text: &str) -> Result<EnvFilter, Error> {
    let wrong = || Error::Level { level: text.chars().take(FILTER_CHARS_MAX).collect() };
    // Nothing at all would be read as `error`.
    let is_directive =
        |part: &str| !part.is_empty() && (part.contains('=') || part.parse::<LevelFilter>().is_ok());
    let is_good = text.chars().count() <= FILTER_CHARS_MAX
        && !text.contains(char::is_control)
        && text.split(',').map(str::trim).all(is_directive);
    if is_good { EnvFilter::try_new(text).map_err(|_| wrong()) } else { Err(wrong()) }
}

/// The level of the process: a cheap clone of the way to it.
#[derive(Clone)]
pub struct LogLevel {
    shared: Arc<Shared>,
}

struct Shared {
    configured: String,
    current: Mutex<String>,
    apply: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLevel").field("current", &self.current()).finish_non_exhaustive()
    }
}

impl LogLevel {
    pub(crate) fn new(level: &str, apply: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) -> Self {
        let (configured, current) = (level.to_owned(), Mutex::new(level.to_owned()));
        Self { shared: Arc::new(Shared { configured, current, apply: Box::new(apply) }) }
    }

    /// A level that nothing is logged by, for tests of what changes it.
    #[must_use]
    pub fn detached(level: &str) -> Self {
        Self::new(level, |_| true)
    }

    /// What it was at the start, and will be at the next one.
    #[must_use]
    pub fn configured(&self) -> &str {
        &self.shared.configured
    }

    /// What it is now.
    #[must_use]
    pub fn current(&self) -> String {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a text is a level or a filter.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(text: &str) -> Result<(), Error> {
        parse(text).map(drop)
    }

    /// Changes it at once, until the process ends.
    ///
    /// # Errors
    /// If the text is no level and no filter; nothing is changed then.
    pub fn set(&self, text: &str) -> Result<(), Error> {
        let filter = parse(text)?;
        // One at a time, so that what is said to be the level is.
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        if (self.shared.apply)(filter) {
            text.clone_into(&mut current);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_taken_and_typing_errors_are_not() {
        let level = LogLevel::detached("info");
        for good in ["debug", "INFO", "off", "info,stella_fleet=debug", "warn,stella_api=trace"] {
            level.set(good).unwrap();
            assert_eq!((level.current().as_str(), level.configured()), (good, "info"));
        }
        let before = level.current();
        for wrong in ["debgu", "", "info,", "info,stella_fleet", "stella_fleet=loud", "info\n"] {
            level.set(wrong).unwrap_err();
            assert_eq!(level.current(), before, "{wrong:?}");
        }
    }
}
