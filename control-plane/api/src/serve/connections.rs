//! How many connections there may be, and for how long one may say nothing. Requests have limits of their own; a client that only
//! connects makes none.

use std::future::{Ready, ready};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use futures::future::BoxFuture;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepIdle};
use parking_lot::Mutex;
use stella_protocol::network::{Bounds, Shares};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::Tuning;

/// Connections of one listener: far more than there are people, scrapers and pipelines, and far below what the unit allows in
/// open files, which agents' downloads and the journal need too.
const CONNECTIONS_MAX: usize = 4_096;
/// From how many connections on they have to be shared.
const BUSY_CONNECTIONS: usize = 2_048;
/// Connections of one listener from one address, or one /64 of IPv6. Generous, because a proxy that nobody has named is one address.
const ADDRESS_CONNECTIONS_MAX: usize = 1_024;
/// How many of them one may have when they have to be shared.
const BUSY_ADDRESS_CONNECTIONS_MAX: usize = 128;
/// How long the first byte of a request may take after the TLS handshake. From there on the HTTP library has time-outs.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(15);
/// After how many quiet seconds the kernel asks whether the other end is still there: one that follows a task without output is
/// quiet for long, and one whose host has lost its power is for ever.
const KEEP_ALIVE_S: u32 = 60;

/// Takes connections as long as there is room for them, without a delay of small packets: each event of a feed would wait up to 40 ms
/// for the client to acknowledge the one before.
#[derive(Clone, Debug)]
pub(super) struct Bounded {
    places: Arc<Places>,
    /// Who knows the proxies.
    tuning: Option<Arc<Tuning>>,
}

impl Bounded {
    /// A proxy that is believed whom it asks for stands for many, and has as many connections as there are.
    pub(super) fn new(tuning: Option<Arc<Tuning>>) -> Self {
        let bounds = Bounds {
            all_max: CONNECTIONS_MAX,
            busy: BUSY_CONNECTIONS,
            busy_host_max: BUSY_ADDRESS_CONNECTIONS_MAX,
            host_max: ADDRESS_CONNECTIONS_MAX,
        };
        Self { tuning, ..Self::of(bounds) }
    }

    fn of(bounds: Bounds) -> Self {
        Self { places: Arc::new(Places { taken: Mutex::new(Shares::new(bounds)) }), tuning: None }
    }
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = Connection<TcpStream>;
    type Service = S;
    type Future = Ready<io::Result<(Self::Stream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        ready(stream.peer_addr().and_then(|peer| {
            let is_proxy = self.tuning.as_ref().is_some_and(|it| it.proxies().has(peer.ip()));
            let place = Places::take(&self.places, peer.ip(), is_proxy)?;
            stream.set_nodelay(true)?;
            setsockopt(&stream, KeepAlive, &true)?;
            setsockopt(&stream, TcpKeepIdle, &KEEP_ALIVE_S)?;
            Ok((Connection { stream, first: None, _place: Some(place) }, service))
        }))
    }
}

#[derive(Debug)]
struct Places {
    taken: Mutex<Shares>,
}

impl Places {
    fn take(places: &Arc<Self>, address: IpAddr, is_proxy: bool) -> io::Result<Place> {
        let mut taken = places.taken.lock();
        let is_taken = if is_proxy { taken.take_for_many() } else { taken.take(address) };
        drop(taken);
        if is_taken {
            let host = (!is_proxy).then_some(address);
            return Ok(Place { places: Arc::clone(places), host });
        }
        metrics::counter!("stella_http_rate_limited_total", "limit" => "connections").increment(1);
        tracing::debug!(%address, "a connection was refused: there are too many");
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many connections"))
    }
}

/// A connection's place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    /// Whose share it is of; a proxy has none.
    host: Option<IpAddr>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        match self.host {
            Some(host) => taken.give_back(host),
            None => taken.give_back_for_many(),
        }
    }
}

/// Ends connections on which nothing is said after what `inner` does to accept them. The HTTP library waits for ever for the bytes
/// by which it tells the versions of HTTP apart.
#[derive(Clone, Debug)]
pub(super) struct Prompt<A> {
    inner: A,
}

impl<A> Prompt<A> {
    pub(super) const fn new(inner: A) -> Self {
        Self { inner }
    }
}

impl<I, S, A> Accept<I, S> for Prompt<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = Connection<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let accepted = self.inner.accept(stream, service);
        Box::pin(async {
            let (stream, service) = accepted.await?;
            Ok((Connection::prompt(stream), service))
        })
    }
}

/// A connection that holds a place, or whose first byte must not take long: the one beneath TLS, and the one above it.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    /// Until when there has to be a byte; `None` once there was, or if it may take as long as it likes.
    first: Option<Pin<Box<Sleep>>>,
    _place: Option<Place>,
}

impl<S> Connection<S> {
    fn prompt(stream: S) -> Self {
        Self { stream, first: Some(Box::pin(sleep(FIRST_BYTE_MAX))), _place: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                self.first = None;
                Poll::Ready(result)
            }
            Poll::Pending => match &mut self.first {
                Some(first) => first
                    .as_mut()
                    .poll(context)
                    .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing"))),
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_cut_off_and_one_that_has_begun_is_not() {
        let (mut client, server) = duplex(64);
        let mut server = Connection::prompt(server);
        let began = Instant::now();
        assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), FIRST_BYTE_MAX.as_secs());

        let mut server = Connection::prompt(server.stream);
        client.write_u8(1).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), 1);
        let later = tokio::spawn(async move { server.read_u8().await });
        sleep(FIRST_BYTE_MAX * 10).await;
        client.write_u8(2).await.unwrap();
        assert_eq!(later.await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_are_refused_until_one_has_gone() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounded = Bounded::of(Bounds { all_max: 8, busy: 8, busy_host_max: 2, host_max: 2 });
        let mut clients = Vec::new();
        let mut connect = async || {
            clients.push(TcpStream::connect(address).await.unwrap());
            let (server, _) = listener.accept().await.unwrap();
            bounded.accept(server, ()).await.map(|(stream, ())| stream)
        };
        let one = connect().await.unwrap();
        let _two = connect().await.unwrap();
        assert_eq!(connect().await.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        drop(one);
        let _three = connect().await.unwrap();
        assert_eq!(bounded.places.taken.lock().all(), 2);
    }

    #[test]
    fn a_network_leaves_room_for_others() {
        let Bounded { places, .. } =
            Bounded::of(Bounds { all_max: 5, busy: 4, busy_host_max: 1, host_max: 3 });
        let from = |address: &str| Places::take(&places, address.parse().unwrap(), false);
        let _held =
            [from("2001:db8::1").unwrap(), from("2001:db8::2").unwrap(), from("2001:db8::ffff").unwrap()];
        assert!(from("2001:db8::3").is_err(), "a host has all of its /64");
        let other = from("192.0.2.1").unwrap();
        assert!(from("192.0.2.1").is_err(), "from here on there is one for each");
        let third = from("192.0.2.2").unwrap();
        assert!(from("192.0.2.3").is_err(), "all together have a bound as well");
        drop((other, third));
        assert_eq!(places.taken.lock().all(), 3);
        let proxy = || Places::take(&places, "2001:db8::1".parse().unwrap(), true);
        let _proxies = [proxy().unwrap(), proxy().unwrap()];
        assert!(proxy().is_err(), "all together have a bound as well");
    }
}
