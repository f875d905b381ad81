//! A real collector of traces, between the control plane and the tests: it takes OTLP as it comes from the wire, batches it, and sends it on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpStream;

use crate::collector::Collector;
use crate::daemon::Daemon;
use crate::{ports, wait};

const PROGRAM: &str = "rotel-agent";

/// A collector. It is killed when this is dropped.
#[derive(Debug)]
pub struct Rotel {
    daemon: Daemon,
    port: u16,
    grpc_port: u16,
}

impl Rotel {
    /// Starts it. What it gets it sends on to `collector`.
    ///
    /// # Errors
    /// If it is not installed, or does not listen in time.
    pub async fn start(folder: &Path, collector: &Collector) -> Result<Self> {
        let program = program().with_context(|| format!("{PROGRAM} is not there; run `make tools` first"))?;
        let (port, grpc_port) = (ports::free()?, ports::free()?);
        let file = |name: &str| folder.join(name).display().to_string();
        let arguments = [
            "start",
            "--otlp-grpc-endpoint",
            &format!("127.0.0.1:{grpc_port}"),
            "--otlp-http-endpoint",
            &format!("127.0.0.1:{port}"),
            "--exporter",
            "otlp",
            "--otlp-exporter-protocol",
            "http",
            "--otlp-exporter-endpoint",
            &collector.base(),
            "--batch-timeout",
            "100ms",
            "--pid-file",
            &file("rotel.pid"),
        ];
        let arguments = arguments.map(str::to_owned).to_vec();
        let mut daemon = Daemon::new(PROGRAM, program, arguments, folder.join("rotel.log"));
        daemon.start()?;
        let mut started = Self { daemon, port, grpc_port };
        started.wait_ready().await?;
        Ok(started)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        wait::until("the collector listens", async || {
            self.daemon.check().with_context(|| self.daemon.log())?;
            TcpStream::connect(("127.0.0.1", self.port)).await?;
            TcpStream::connect(("127.0.0.1", self.grpc_port)).await?;
            Ok(())
        })
        .await
    }

    /// Ends it without a chance to say so.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Starts it again, on the same ports.
    ///
    /// # Errors
    /// If it does not listen in time.
    pub async fn resume(&mut self) -> Result<()> {
        self.daemon.start()?;
        self.wait_ready().await
    }

    /// Where the control plane sends spans over gRPC.
    #[must_use]
    pub fn grpc_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc_port)
    }

    /// Where the control plane sends spans over HTTP.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/v1/traces", self.port)
    }

    /// Checks that it runs.
    ///
    /// # Errors
    /// If it has ended.
    pub fn check(&mut self) -> Result<()> {
        let log = self.daemon.log();
        ensure!(!log.to_lowercase().contains("panicked"), "{log}");
        self.daemon.check()
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let folders = std::env::split_paths(&path).chain(home.map(|home| home.join("bin")));
    folders.map(|folder| folder.join(PROGRAM)).find(|program| program.is_file())
}
