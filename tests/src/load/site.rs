//! A control plane under load, and what it costs.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use stella_certs::EnrolmentToken;
use tempfile::TempDir;

use crate::api::Api;
use crate::cluster::{create_environment, create_target, create_tenant, create_token, target, token};
use crate::control_plane::{ControlPlane, Settings};
use crate::process;

/// How many targets are created at the same time: they share barriers.
const REQUESTS_AT_ONCE: usize = 32;

/// The tenant of all measurements.
pub const TENANT: &str = "load";

/// A control plane in a temporary folder, with the product's defaults except for rate limits, the disk reserve and, where it says so, heartbeats.
#[derive(Debug)]
pub struct Site {
    /// The process.
    pub control_plane: ControlPlane,
    /// A client of its API.
    pub api: Api,
    folder: TempDir,
}

impl Site {
    /// Starts one, in a new folder inside of `folder`, whose agents heartbeat this often.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start(folder: &Path, heartbeat_interval_ms: u64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stella-load-").tempdir_in(folder)?;
        let settings = Settings {
            heartbeat_interval_ms,
            // None is taken, so that a restart replays what there is.
            snapshot_every_events: u64::from(u32::MAX),
            log_level: "warn".to_owned(),
            ..Settings::default()
        };
        let control_plane = ControlPlane::start(&folder.path().join("control-plane"), &settings).await?;
        let api = control_plane.api()?;
        create_tenant(&api, TENANT).await?;
        Ok(Self { control_plane, api, folder })
    }

    /// Where everything is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where agents connect to.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.control_plane.agents_port()))
    }

    /// A token for this many hosts.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn token(&self, uses: u32) -> Result<EnrolmentToken> {
        let created = create_token(&self.api, TENANT, &token(None, uses)).await?;
        Ok(created.token.context("the token is not in the answer")?.parse()?)
    }

    /// An environment with a target, in a slot of the environment's name, on each of these agents.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn environment(&self, name: &str, agents: &[String]) -> Result<()> {
        create_environment(&self.api, TENANT, name).await?;
        let targets = agents.iter().enumerate().map(|(number, agent)| {
            let mut body = target(name, &format!("{name}-{number:05}"), agent);
            body.slot = Some(name.to_owned());
            async move { create_target(&self.api, TENANT, &body).await.map(drop) }
        });
        stream::iter(targets).buffer_unordered(REQUESTS_AT_ONCE).try_collect().await
    }

    /// What the control plane holds in memory, in bytes.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resident_bytes(&self) -> Result<u64> {
        process::resident_bytes(self.control_plane.pid()?)
    }
}

/// Watches how much of a processor a process uses.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    pid: u32,
    since: Instant,
    used: Duration,
}

impl Stopwatch {
    /// From now on.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn start(pid: u32) -> Result<Self> {
        Ok(Self { pid, since: Instant::now(), used: process::processor_time(pid)? })
    }

    /// Processors in use on average since the start.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn processors(&self) -> Result<f64> {
        let used = process::processor_time(self.pid)?.saturating_sub(self.used);
        Ok(used.as_secs_f64() / self.since.elapsed().as_secs_f64())
    }
}
