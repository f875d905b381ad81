//! How many connections there may be, and for how long one may say nothing. Requests have limits of their own; a client that only
//! connects makes none.

use std::future::{Ready, ready};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
use tower_http::add_extension::AddExtension;

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
/// How long it may take after the TLS handshake until the version of HTTP is clear. From there on the HTTP library has a time-out for the
/// head of a request, with HTTP/1.
const BEGINNING_MAX: Duration = Duration::from_secs(15);
/// How long a connection may be there after the TLS handshake without a request that was let in: longer than the head of one takes, and
/// the body of a message to a hook. Without it strangers could hold all places, with one request each and what keeps HTTP/2 alive.
const STRANGER_MAX: Duration = Duration::from_secs(60);
/// What a connection of HTTP/2 begins with. Whatever else one begins with is HTTP/1.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
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
            Ok((Connection { stream, stranger: None, _place: Some(place) }, service))
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

/// Whether a request of a connection was let in. Each of its requests has it as an extension.
#[derive(Clone, Debug, Default)]
pub(crate) struct LetIn(Arc<AtomicBool>);

impl LetIn {
    /// From now on the connection may be there for as long as its client likes.
    pub(crate) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ends connections on which nobody asks for anything that they may have after what `inner` does to accept them. The HTTP library waits
/// for ever for the bytes by which it tells the versions of HTTP apart, and for the first request of HTTP/2.
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
    type Service = AddExtension<A::Service, LetIn>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let accepted = self.inner.accept(stream, service);
        Box::pin(async {
            let (stream, service) = accepted.await?;
            let let_in = LetIn::default();
            Ok((Connection::prompt(stream, let_in.clone()), AddExtension::new(service, let_in)))
        })
    }
}

/// A connection that holds a place, or whose first requests must not take long: the one beneath TLS, and the one above it.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    /// `None` once a request was let in, or if that may take as long as it likes.
    stranger: Option<Stranger>,
    _place: Option<Place>,
}

/// Somebody of whom no request was let in yet.
#[derive(Debug)]
struct Stranger {
    let_in: LetIn,
    /// Until when something has to have happened.
    until: Pin<Box<Sleep>>,
    /// How many bytes have come, as long as they may become HTTP/2's preface.
    begun: Option<usize>,
}

impl Stranger {
    /// What has come; nothing is the end of it.
    fn heard(&mut self, bytes: &[u8]) {
        let Some(begun) = self.begun else { return };
        let missing = &HTTP2_PREFACE[begun..];
        if bytes.len() < missing.len() && !bytes.is_empty() && missing.starts_with(bytes) {
            self.begun = Some(begun + bytes.len());
            return;
        }
        self.begun = None;
        let until = self.until.deadline() + (STRANGER_MAX - BEGINNING_MAX);
        self.until.as_mut().reset(until);
    }
}

impl<S> Connection<S> {
    fn prompt(stream: S, let_in: LetIn) -> Self {
        let stranger = Stranger { let_in, until: Box::pin(sleep(BEGINNING_MAX)), begun: Some(0) };
        Self { stream, stranger: Some(stranger), _place: None }
    }

    /// An error once its time is over. Whoever is polled may not get any further otherwise: one that reads nothing is never read from.
    fn in_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.stranger.as_ref().is_some_and(|it| it.let_in.is()) {
            self.stranger = None;
        }
        let Some(stranger) = &mut self.stranger else { return Ok(()) };
        if stranger.until.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        let why = match stranger.begun {
            Some(_) => "the client says nothing",
            None => "no request of the client was let in",
        };
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let (Poll::Ready(Ok(())), Some(stranger)) = (&read, &mut self.stranger) {
            stranger.heard(&buffer.filled()[before..]);
        }
        if let Err(error) = self.in_time(context) {
            // With an error comes no byte.
            buffer.set_filled(before);
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    fn pair() -> (DuplexStream, Connection<DuplexStream>, LetIn) {
        let (client, server) = duplex(64);
        let let_in = LetIn::default();
        (client, Connection::prompt(server, let_in.clone()), let_in)
    }

    /// Seconds until it is cut off, reading all that comes.
    async fn cut_off(mut server: impl AsyncRead + Unpin) -> u64 {
        let began = Instant::now();
        let ended = server.read_to_end(&mut Vec::new()).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_get_to_its_first_request_is_cut_off() {
        for (said, until) in [
            (&b""[..], BEGINNING_MAX),
            (b"P", BEGINNING_MAX),
            (&HTTP2_PREFACE[..23], BEGINNING_MAX),
            (HTTP2_PREFACE, STRANGER_MAX),
            (b"GET", STRANGER_MAX),
            (b"PRI * HTTP/1.1", STRANGER_MAX),
        ] {
            let (mut client, server, _) = pair();
            client.write_all(said).await.unwrap();
            assert_eq!(cut_off(server).await, until.as_secs(), "{}", said.escape_ascii());
        }
        // What has come when the time is over comes with no error: whoever reads to the end asserts that.
        let (mut client, server, _) = pair();
        client.write_u8(b'P').await.unwrap();
        tokio::time::advance(BEGINNING_MAX).await;
        assert_eq!(cut_off(server).await, 0);
        // Byte by byte it takes no longer.
        let (mut client, server, _) = pair();
        let slowly = async {
            for byte in HTTP2_PREFACE {
                client.write_u8(*byte).await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
        };
        let ended = tokio::select! {
            ended = cut_off(server) => ended,
            () = slowly => panic!("it has said all of it"),
        };
        assert_eq!(ended, BEGINNING_MAX.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_let_in_may_be_quiet_and_one_that_takes_no_answer_is_cut_off() {
        let (mut client, mut server, let_in) = pair();
        client.write_u8(1).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), 1);
        let_in.now();
        let later = tokio::spawn(async move { server.read_u8().await });
        sleep(STRANGER_MAX * 10).await;
        client.write_u8(2).await.unwrap();
        assert_eq!(later.await.unwrap().unwrap(), 2);

        let (mut client, mut server, _) = pair();
        client.write_all(b"GET").await.unwrap();
        server.read_u8().await.unwrap();
        let began = Instant::now();
        assert_eq!(server.write_all(&[0; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), STRANGER_MAX.as_secs());
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
