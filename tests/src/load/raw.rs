//! The limits of this machine: QUIC, the disk and processes without the product.
//!
//! The bare QUIC server runs in a process of its own (a hidden subcommand of the load tool), so that its memory and its
//! processor time can be told from those of its clients, as they can for the control plane.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, IdleTimeout, RecvStream, SendStream, ServerConfig, TransportConfig, VarInt,
};
use stella_certs::tls::{ServerIdentity, quic_server};
use stella_certs::{Authority, csr};
use stella_protocol::frame;
use stella_protocol::id::{AgentId, TenantId};
use stella_protocol::message::{Heartbeat, Resources, ToControlPlane};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::load::figure::{Latencies, as_f64};
use crate::process;
use crate::sim::{self, Identity};

/// The hidden subcommand.
pub const SERVER_COMMAND: &str = "raw-server";

/// As the control plane has them.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;
const SEND_WINDOW_BYTES: u64 = 512 * 1024;
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);
const REQUEST_STREAMS_MAX: u32 = 8;
const OUTPUT_STREAMS_MAX: u32 = 32;

/// How long the certificates of a measurement are valid.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// What one record of a journal has, about.
const APPEND_BYTES: usize = 512;

/// What the answer to a request in a round trip has.
const PING_BYTES: usize = 256;

/// A file to append to: the raw cost of "it is on disk" in this folder. It is removed when this is dropped.
#[derive(Debug)]
pub struct Disk {
    file: File,
    path: PathBuf,
}

impl Disk {
    /// A new file.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("raw-append");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(Self { file, path })
    }

    /// Appends a record and makes it durable.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn append(&mut self, latencies: &mut Latencies) -> Result<()> {
        let before = Instant::now();
        self.file.write_all(&[0x5a; APPEND_BYTES])?;
        self.file.sync_data()?;
        latencies.record(before.elapsed());
        Ok(())
    }

    /// Appends one after the other, for a while; how many a second.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn appends_a_second(&mut self, duration: Duration) -> Result<f64> {
        let mut latencies = Latencies::default();
        let start = Instant::now();
        while start.elapsed() < duration {
            self.append(&mut latencies)?;
        }
        Ok(as_f64(latencies.count()) / start.elapsed().as_secs_f64())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its folder may be gone already.
        std::fs::remove_file(&self.path).ok();
    }
}

/// Starts `/bin/true` and waits for it, on every processor, for a while; how many a second.
///
/// # Errors
/// If it cannot be started.
pub fn spawns(duration: Duration) -> Result<f64> {
    let threads = std::thread::available_parallelism()?.get();
    let start = Instant::now();
    let spawned = std::thread::scope(|scope| {
        let spawner = || -> Result<u32> {
            let mut spawned = 0;
            while start.elapsed() < duration {
                Command::new("/bin/true").status()?;
                spawned += 1;
            }
            Ok(spawned)
        };
        let spawners: Vec<_> = (0..threads).map(|_| scope.spawn(spawner)).collect();
        let counts = spawners.into_iter().map(|spawner| spawner.join().expect("a spawner does not panic"));
        counts.sum::<Result<u32>>()
    })?;
    Ok(f64::from(spawned) / start.elapsed().as_secs_f64())
}

/// A bare QUIC server in a process of its own, and its certificates.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    authority: Authority,
}

impl Server {
    /// Starts one. `program` is the load tool.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(program: &Path, folder: &Path) -> Result<Self> {
        let pki = folder.join("raw-pki");
        let authority = Authority::open_or_create(&pki, SystemTime::now())?;
        let mut child = Command::new(program)
            .arg(SERVER_COMMAND)
            .arg(&pki)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the bare QUIC server")?;
        let stdout = child.stdout.take().context("its standard output is not piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().with_context(|| format!("the bare QUIC server says {line:?}"))?;
        Ok(Self { child, address, authority })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A certificate that it accepts.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn identity(&self) -> Result<Identity> {
        let request = csr::generate()?;
        let (tenant, agent) = (TenantId(Uuid::new_v4()), AgentId(Uuid::new_v4()));
        let now = SystemTime::now();
        let issued = self.authority.issue_agent(&request.csr_der, tenant, agent, now, LIFETIME)?;
        let roots = self.authority.roots_der();
        Ok(Identity { tenant, agent, chain: issued.chain_der, roots, key: request.key_der })
    }

    /// A connection with a certificate of its own and its one stream, which the server echoes if `is_echoed`.
    ///
    /// # Errors
    /// If it does not come to be.
    pub async fn connect(&self, endpoint: &Endpoint, is_echoed: bool) -> Result<Client> {
        self.connect_as(&self.identity()?, endpoint, is_echoed).await
    }

    /// The same with a certificate that is there already.
    ///
    /// # Errors
    /// If it does not come to be.
    pub async fn connect_as(
        &self,
        identity: &Identity,
        endpoint: &Endpoint,
        is_echoed: bool,
    ) -> Result<Client> {
        let connection = sim::dial(endpoint, self.address, identity.client()?).await?;
        let (mut send, receive) = connection.open_bi().await?;
        send.write_all(&[u8::from(is_echoed)]).await?;
        Ok(Client { connection, send, receive })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        process::kill_now(self.child.id());
        // It was killed: it ends.
        drop(self.child.wait());
    }
}

/// A connection to the bare server.
#[derive(Debug)]
pub struct Client {
    /// The connection.
    pub connection: Connection,
    send: SendStream,
    receive: RecvStream,
}

impl Client {
    /// There and back.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn round_trip(&mut self, latencies: &mut Latencies) -> Result<()> {
        let mut answer = [0; PING_BYTES];
        let before = Instant::now();
        self.send.write_all(&[0x5a; PING_BYTES]).await?;
        self.receive.read_exact(&mut answer).await?;
        latencies.record(before.elapsed());
        Ok(())
    }

    /// Sends what an agent sends as a sign of life.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn heartbeat(&mut self) -> Result<()> {
        let beat = Heartbeat { position: stella_protocol::id::Position(0), resources: Resources::default() };
        Ok(self.send.write_all(&frame::encode(&ToControlPlane::Heartbeat(beat))?).await?)
    }
}

/// The hidden subcommand: serves until its standard input ends.
///
/// # Errors
/// If it cannot listen.
pub async fn serve(pki: &Path) -> Result<()> {
    let authority = Authority::open_or_create(pki, SystemTime::now())?;
    let certificate = authority.issue_server(&[], SystemTime::now(), LIFETIME)?;
    let tls = quic_server(&ServerIdentity::new(&certificate)?, &authority.roots_der())?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()?));
    let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into())?;
    writeln!(std::io::stdout(), "{}", endpoint.local_addr()?)?;
    std::io::stdout().flush()?;
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        connections.spawn(async move {
            // A connection that is lost is no failure of the server.
            if let Ok(connection) = incoming.await {
                attend(connection).await.ok();
            }
        });
        while connections.try_join_next().is_some() {}
    }
    Ok(())
}

async fn attend(connection: Connection) -> Result<()> {
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut is_echoed = [0; 1];
    receive.read_exact(&mut is_echoed).await?;
    while let Some(chunk) = receive.read_chunk(64 * 1024, true).await? {
        if is_echoed[0] == 1 {
            send.write_chunk(chunk.bytes).await?;
        }
    }
    Ok(())
}

fn transport() -> Result<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(OUTPUT_STREAMS_MAX))
        .max_concurrent_bidi_streams(VarInt::from_u32(REQUEST_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIME_MAX)?))
        .datagram_receive_buffer_size(None);
    Ok(config)
}
