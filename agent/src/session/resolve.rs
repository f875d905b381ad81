//! Where a name leads. The system's resolver may take minutes, and cannot be told to stop.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// How long is waited for the resolver. It goes on by itself, and the next try finds what it came to.
pub(super) const RESOLVE_DURATION_MAX: Duration = Duration::from_secs(20);

/// How many addresses of a name are tried.
pub(super) const ADDRESSES_MAX: u32 = 16;

/// What a look-up came to.
type Found = io::Result<Vec<SocketAddr>>;

/// Looks one name up, again and again. A look-up that hangs holds one thread, however often it is tried.
#[derive(Debug)]
pub(super) struct Resolver {
    patience: Duration,
    running: Option<JoinHandle<Found>>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { patience: RESOLVE_DURATION_MAX, running: None }
    }
}

impl Resolver {
    /// Where `host:port` leads.
    ///
    /// # Errors
    /// What the system says, or that it says nothing.
    pub(super) async fn look_up(&mut self, server: &str) -> Found {
        let server = server.to_owned();
        self.run(move || Ok(server.to_socket_addrs()?.take(ADDRESSES_MAX as usize).collect())).await
    }

    async fn run(&mut self, look: impl FnOnce() -> Found + Send + 'static) -> Found {
        let running = self.running.get_or_insert_with(|| spawn_blocking(look));
        match timeout(self.patience, running).await {
            Ok(ended) => {
                self.running = None;
                ended.map_err(io::Error::other).flatten()
            }
            Err(_) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the resolver of this host does not answer"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_resolver_that_hangs_is_asked_once_and_what_it_says_in_the_end_counts() {
        let mut resolver = Resolver { patience: Duration::from_millis(20), running: None };
        let asked = Arc::new(AtomicU32::new(0));
        let (answer, waits) = mpsc::channel::<SocketAddr>();
        let mut waits = Some(waits);
        for _ in 0..5 {
            let (asked, waits) = (Arc::clone(&asked), waits.take());
            let error = resolver.run(move || {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(waits.and_then(|it| it.recv().ok()).into_iter().collect())
            });
            assert_eq!(error.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let address = SocketAddr::from(([127, 0, 0, 1], 7443));
        answer.send(address).unwrap();
        resolver.patience = Duration::from_secs(60);
        assert_eq!(resolver.run(|| unreachable!()).await.unwrap(), [address]);
        // And the one after it is another one.
        assert!(resolver.run(|| Ok(Vec::new())).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_name_that_is_none_is_said() {
        assert!(Resolver::default().look_up("nothing.invalid:1").await.is_err());
        assert_eq!(Resolver::default().look_up("127.0.0.1:7443").await.unwrap().len(), 1);
    }
}
