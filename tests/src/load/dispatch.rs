//! Dispatch latency: from the request that creates a deployment to its task accepted, durably, by a real agent.
//!
//! The clock starts when the client sends the request, so the way to the API is in it. It stops twice: at the journal time of
//! `task_accepted` in the control plane, and when the event is seen on the feed, which is one durable append later. The raw
//! limit is one QUIC round trip and two durable appends, one on either side.
//!
//! The journal's time is cut to whole milliseconds, so each sample of it is up to a millisecond too early; half of one is
//! added. Requests are sent at any moment within a millisecond, so what is left of the error has no sign, and hundreds of
//! samples take it out of the median.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BytesMut};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::Method;
use stella_api_types::event::Event;
use stella_api_types::paths;
use stella_api_types::time::parse_rfc3339;

use crate::agent::Agent;
use crate::cluster::{create_release, create_token, token};
use crate::load::figure::{Bound, Figure, Latencies};
use crate::load::fleet::Fleet;
use crate::load::raw;
use crate::load::site::{Site, TENANT};
use crate::{process, recipe, sim, wait};

const PHASE: &str = "dispatch";

const ENVIRONMENT: &str = "dispatch";
const AGENT: &str = "dispatched-to";

/// How many round trips and appends are measured raw after each dispatch.
const RAW_SAMPLES_EACH: u32 = 3;

/// What the journal's time is cut to.
const JOURNAL_TIME_CUT: Duration = Duration::from_millis(1);

/// The largest event, in bytes; a longer line is not ours.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Measures this many dispatches, one after the other, beside fleets of these sizes that do nothing but heartbeat.
///
/// # Errors
/// If one of them does not succeed.
pub async fn measure(
    site: &Site,
    fleet: &mut Fleet,
    samples: u32,
    sizes: &[usize],
    program: &Path,
) -> Result<Vec<Figure>> {
    let mut agent = Agent::new(site.folder(), AGENT, &site.control_plane.agents_address())?;
    let invitation = create_token(&site.api, TENANT, &token(Some(AGENT), 1)).await?;
    agent.enrol(&invitation.token.context("the token is not in the answer")?)?;
    agent.start()?;
    wait::until("the agent is online", async || {
        anyhow::ensure!(site.api.agent(TENANT, AGENT).await?.connectivity == "online");
        Ok(())
    })
    .await?;
    site.environment(ENVIRONMENT, &[AGENT.to_owned()]).await?;
    create_release(
        &site.api,
        TENANT,
        &recipe::release("1.0.0-dispatch", &[], vec![recipe::shell("work", "true")]),
    )
    .await?;

    let server = raw::Server::start(program, site.folder())?;
    let mut raw = Raw {
        client: server.connect(&sim::endpoint()?, true).await?,
        disk: raw::Disk::open(site.folder())?,
        round_trips: Latencies::default(),
        appends: Latencies::default(),
    };
    let mut feed = Feed::open(site).await?;
    let mut figures = Vec::new();
    for &size in sizes {
        fleet.grow_to(site, size).await?;
        figures.extend(beside(site, fleet.len(), samples, &mut feed, &mut raw).await?);
    }
    let idle_bytes = process::resident_bytes(agent.pid()?)?;
    let mebibytes = crate::load::figure::as_f64(idle_bytes) / 1024.0 / 1024.0;
    figures.push(Figure::new(PHASE, "memory of the real agent", mebibytes, "MiB").goal(Bound::Ceiling(15.0)));
    Ok(figures)
}

/// Measures beside a fleet of this size. The goal is for a control plane that has nothing else to do.
async fn beside(
    site: &Site,
    agents: usize,
    samples: u32,
    feed: &mut Feed,
    raw: &mut Raw,
) -> Result<Vec<Figure>> {
    let (mut journalled, mut seen) = (Latencies::default(), Latencies::default());
    raw.begin_anew();
    for _ in 0..samples {
        one(site, feed, &mut journalled, &mut seen).await?;
        // In between, so that both meet the same disk: its pace changes within a minute.
        raw.measure().await?;
    }
    let limit = "one QUIC round trip + two fdatasync appends";
    let figure = |what: &str, latencies: &Latencies, percentile: f64| {
        let limit_ms = raw.round_trips.milliseconds(percentile) + 2.0 * raw.appends.milliseconds(percentile);
        let what = format!("{what}, beside {agents} agents, p{percentile:.0} of {}", latencies.count());
        Figure::new(PHASE, what, latencies.milliseconds(percentile), "ms").beside(limit, limit_ms)
    };
    let median = figure("request -> accepted (journal time)", &journalled, 50.0);
    Ok(vec![
        if agents == 0 { median.goal(Bound::RatioCeiling(3.0)) } else { median },
        figure("request -> accepted (journal time)", &journalled, 99.0),
        figure("request -> accepted, seen on the feed (one more append)", &seen, 50.0),
        figure("request -> accepted, seen on the feed (one more append)", &seen, 99.0),
    ])
}

/// The limits, measured in small pieces.
struct Raw {
    client: raw::Client,
    disk: raw::Disk,
    round_trips: Latencies,
    appends: Latencies,
}

impl Raw {
    fn begin_anew(&mut self) {
        self.round_trips = Latencies::default();
        self.appends = Latencies::default();
    }

    async fn measure(&mut self) -> Result<()> {
        for _ in 0..RAW_SAMPLES_EACH {
            self.client.round_trip(&mut self.round_trips).await?;
            self.disk.append(&mut self.appends)?;
        }
        Ok(())
    }
}

async fn one(site: &Site, feed: &mut Feed, journalled: &mut Latencies, seen: &mut Latencies) -> Result<()> {
    let order = recipe::all_at_once(ENVIRONMENT, "1.0.0-dispatch");
    let (sent, sent_at) = (Instant::now(), SystemTime::now());
    let posted = site.api.deploy(TENANT, &order, None);
    let accepted = async {
        let event = feed.wait_for("task_accepted").await?;
        anyhow::Ok((sent.elapsed(), parse_rfc3339(&event.at)?))
    };
    let (posted, accepted) = tokio::join!(posted, accepted);
    let (elapsed, at) = accepted?;
    let deployment = posted?;
    seen.record(elapsed);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at.0) + JOURNAL_TIME_CUT / 2;
    journalled.record(at.duration_since(sent_at).unwrap_or_default());
    let ended = feed.wait_for("deployment_succeeded").await?;
    let id = ended.data.get("id").and_then(|id| id.as_str());
    anyhow::ensure!(id == Some(deployment.deployment.id.as_str()), "another deployment ended: {ended:?}");
    Ok(())
}

/// The live feed of events.
struct Feed {
    chunks: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    waiting: BytesMut,
}

impl Feed {
    async fn open(site: &Site) -> Result<Self> {
        let past = site.api.events(TENANT).await?;
        let after = past.last().map_or(0, |event| event.position + 1).to_string();
        let request = site.api.request(Method::GET, &paths::fill(paths::EVENTS, &[TENANT]));
        let request = request.query(&[("after", after)]).header("Accept", "text/event-stream");
        let response = request.send().await?.error_for_status()?;
        Ok(Self { chunks: response.bytes_stream().boxed(), waiting: BytesMut::new() })
    }

    /// Skips events until one of this kind comes.
    async fn wait_for(&mut self, kind: &str) -> Result<Event> {
        let found = tokio::time::timeout(wait::PATIENCE, async {
            loop {
                let event = self.next().await?;
                anyhow::ensure!(event.kind != "deployment_failed", "a deployment failed: {event:?}");
                if event.kind == kind {
                    return anyhow::Ok(event);
                }
            }
        });
        found.await.with_context(|| format!("no {kind} on the feed in time"))?
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            while let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
                let line = self.waiting.split_to(end);
                self.waiting.advance(1);
                if let Some(data) = line.strip_prefix(b"data:") {
                    return serde_json::from_slice(data).context("an odd event on the feed");
                }
            }
            if self.waiting.len() > LINE_BYTES_MAX {
                bail!("a line of the feed has no end");
            }
            let chunk = self.chunks.next().await.context("the feed has ended")??;
            self.waiting.extend_from_slice(&chunk);
        }
    }
}
