//! Work that may block, beside the runtime.

use tokio::task::{JoinError, spawn_blocking};

use crate::handle::ReadError;

/// Reads where it may block.
pub(crate) async fn read<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(if is_defect(&error) { ReadError::Defect } else { ReadError::Stopping }))
}

/// Whether work broke off by a defect, and not because the runtime goes away. It is said here, where it is seen.
pub(crate) fn is_defect(error: &JoinError) -> bool {
    if error.is_panic() {
        tracing::error!(error = error as &dyn std::error::Error, "reading broke off; this is a defect");
    }
    error.is_panic()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_defect_and_not_the_end() {
        let read = read::<()>(|| panic!("on purpose")).await;
        assert!(matches!(read, Err(ReadError::Defect)), "{read:?}");
    }
}
