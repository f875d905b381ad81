//! Versions side by side: an agent that knows the first frames only, while the control plane and its neighbours use all of them, and
//! agents and control plane are replaced in the middle of a deployment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use stella_api_types::deployment::{DeploymentDetail, OnFailure};
use stella_api_types::paths;
use stella_protocol::message::{Accepted, Dispatch, Finished, Heartbeat, Resources, Running, TaskOutcome};
use stella_protocol::session::agent::AgentEvent;
use stella_tests::cluster::{Cluster, ENVIRONMENT, TENANT};
use stella_tests::recipe::{release, rolling, shell};
use stella_tests::sim::{self, Identity, Memory, Session};
use stella_tests::wait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// Welcome, dispatch, cancel, acknowledge, renewed and drain: what the first agents could read. Newer frames come after these.
const FIRST_FRAMES: u64 = 6;
const TRACE: &str = "00-0123456789abcdef0123456789abcdef-00000000000000aa-01";

/// What an old agent saw of the control plane.
#[derive(Debug, Default)]
struct Seen {
    /// The frames by their ordinal, as bits.
    frames: AtomicU64,
    /// What it ran.
    tasks: AtomicU64,
    sessions: AtomicU64,
}

/// An agent as they were: it says that it can run tasks, and nothing of what came later. Its host is this process.
struct Old {
    seen: Arc<Seen>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Memory>,
}

impl Old {
    fn start(identity: &Identity, server: SocketAddr, memory: Memory) -> Result<Self> {
        let (seen, (stop, stopped)) = (Arc::<Seen>::default(), watch::channel(false));
        let host = Host {
            endpoint: sim::endpoint()?,
            server,
            client: identity.client()?,
            memory,
            seen: Arc::clone(&seen),
        };
        let task = tokio::spawn(host.run(stopped));
        Ok(Self { seen, stop, task })
    }

    /// Says goodbye, and answers with what it remembers.
    async fn leave(self) -> Result<Memory> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

struct Host {
    endpoint: quinn::Endpoint,
    server: SocketAddr,
    client: quinn::ClientConfig,
    memory: Memory,
    seen: Arc<Seen>,
}

impl Host {
    async fn run(mut self, mut stop: watch::Receiver<bool>) -> Memory {
        while !*stop.borrow() {
            let opened = Session::open(&self.endpoint, self.server, self.client.clone(), &self.memory).await;
            match opened {
                Ok(session) => self.live(session, &mut stop).await,
                // The control plane is being replaced.
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
        self.memory
    }

    async fn live(&mut self, mut session: Session, stop: &mut watch::Receiver<bool>) {
        self.seen.sessions.fetch_add(1, Ordering::Relaxed);
        self.memory.control_plane = Some(session.welcome.control_plane);
        while session.flush().await.is_ok() {
            let deadline = session.deadline().map_or_else(Instant::now, Instant::from_std);
            tokio::select! {
                () = session.read() => {}
                () = sleep_until(deadline) => {
                    let now = session.now();
                    if session.logic.poll_heartbeat_due(now) {
                        let beat = Heartbeat { position: self.memory.journal.position, resources: Resources::default() };
                        session.logic.heartbeat(beat, now).ok();
                    }
                }
                _ = stop.changed() => {
                    session.logic.goodbye().ok();
                    session.flush().await.ok();
                    return;
                }
            }
            while let Some(event) = session.event() {
                match event {
                    AgentEvent::Dispatch(dispatch) => self.do_it(&mut session, &dispatch.dispatch),
                    AgentEvent::Closed(_) => return,
                    AgentEvent::Welcomed(_)
                    | AgentEvent::Acknowledged(_)
                    | AgentEvent::Cancel(_)
                    | AgentEvent::End(_)
                    | AgentEvent::Renewed(_)
                    | AgentEvent::Trust(_)
                    | AgentEvent::Inspect(_)
                    | AgentEvent::Probe(_)
                    | AgentEvent::WhereFigures
                    | AgentEvent::Drain => {}
                }
            }
            self.seen.frames.fetch_or(session.frames(), Ordering::Relaxed);
        }
    }

    /// A whole life of a task, at once. What cannot be said ends the session, which the next read tells.
    fn do_it(&mut self, session: &mut Session, dispatch: &Dispatch) {
        let (key, at) = (dispatch.key(), sim::now());
        let position = self.memory.record();
        session.logic.accepted(Accepted { key, position }).ok();
        session.logic.running(Running { key, started_at: at }).ok();
        let position = self.memory.record();
        let outcome = TaskOutcome::Succeeded;
        let finished = Finished { key, position, started_at: Some(at), finished_at: at, outcome };
        session.logic.finished(finished).ok();
        self.seen.tasks.fetch_add(1, Ordering::Relaxed);
    }
}

/// A deployment by somebody whose trace carries more than old agents can be told.
async fn deploy(cluster: &Cluster, version: &str) -> Result<DeploymentDetail> {
    let path = paths::fill(paths::DEPLOYMENTS, &[TENANT]);
    let asked = cluster.api.request(reqwest::Method::POST, &path);
    let asked = asked.json(&rolling(ENVIRONMENT, version, OnFailure::Stop));
    let asked =
        asked.header("traceparent", TRACE).header("tracestate", "congo=t61").header("baggage", "order=1");
    let answer = cluster.api.answer(asked).await?;
    ensure!(answer.status.is_success(), "{answer:?}");
    Ok(serde_json::from_slice(&answer.body)?)
}

/// Who is behind in the rotation of the root.
fn behind(cluster: &Cluster) -> Result<Vec<String>> {
    let status = cluster.control_plane.tool(&["ca", "status", "--output", "json"])?;
    let status: Value = serde_json::from_str(&status)?;
    let agents = status["behind_agents"].as_array().with_context(|| status.to_string())?;
    Ok(agents.iter().map(|it| it["agent"].as_str().unwrap_or_default().to_owned()).collect())
}

async fn until_behind(cluster: &Cluster, wanted: &[&str]) -> Result<()> {
    wait::until(&format!("{wanted:?} are behind"), async || {
        let found = behind(cluster)?;
        ensure!(found == wanted, "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_agent_takes_part_while_both_sides_are_replaced_in_the_middle_of_a_deployment() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let hold =
        "echo ${version} >> versions; echo \"$BAGGAGE\" >> baggage; until [ -e go ]; do sleep 0.05; done";
    for version in ["1.0.0", "2.0.0", "3.0.0"] {
        cluster.release(&release(version, &[], vec![shell("hold", hold)])).await?;
    }
    let server = SocketAddr::from(([127, 0, 0, 1], cluster.control_plane.agents_port()));
    let identity = Identity::read(&cluster.agents[1].identity_file())?;
    cluster.agents[1].stop()?;
    let old = Old::start(&identity, server, Memory::default())?;
    cluster.wait_online("web-2").await?;

    // The root is being rotated too: the agent of today is told, the old one cannot be.
    cluster.control_plane.tool(&["ca", "rotate", "start"])?;
    until_behind(&cluster, &["web-2"]).await?;

    // One after the other, the new agent first. The control plane is replaced while that one is at work.
    let first = deploy(&cluster, "1.0.0").await?.deployment.id;
    cluster.wait_lines(0, "versions", 1).await?;
    cluster.control_plane.kill()?;
    cluster.control_plane.resume().await?;
    cluster.api = cluster.control_plane.api()?;
    cluster.wait_online("web-2").await?;
    std::fs::write(cluster.agents[0].host_root().join("go"), "")?;
    let ended = cluster.wait_final(&first).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    assert_eq!(cluster.agents[0].read("baggage"), "order=1\n", "the new agent is told all of it");
    assert_eq!(old.seen.tasks.load(Ordering::Relaxed), 1);
    ensure!(old.seen.sessions.load(Ordering::Relaxed) >= 2, "it was there only once: {:?}", old.seen);

    // Upgraded in the middle of a deployment, before its turn: it catches up with what it could not be told, and runs what is next.
    std::fs::remove_file(cluster.agents[0].host_root().join("go"))?;
    let second = deploy(&cluster, "2.0.0").await?.deployment.id;
    cluster.wait_lines(0, "versions", 2).await?;
    let seen = Arc::clone(&old.seen);
    let memory = old.leave().await?;
    cluster.agents[1].start()?;
    cluster.wait_online("web-2").await?;
    until_behind(&cluster, &[]).await?;
    std::fs::write(cluster.agents[1].host_root().join("go"), "")?;
    std::fs::write(cluster.agents[0].host_root().join("go"), "")?;
    let ended = cluster.wait_final(&second).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    assert_eq!(
        (cluster.agents[1].read("versions").as_str(), cluster.agents[1].read("baggage").as_str()),
        ("2.0.0\n", "order=1\n")
    );

    // And back.
    cluster.agents[1].stop()?;
    let old = Old::start(&identity, server, memory)?;
    cluster.wait_online("web-2").await?;
    let third = deploy(&cluster, "3.0.0").await?.deployment.id;
    let ended = cluster.wait_final(&third).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    assert_eq!(old.seen.tasks.load(Ordering::Relaxed), 1);
    let frames = seen.frames.load(Ordering::Relaxed) | old.seen.frames.load(Ordering::Relaxed);
    ensure!(
        frames != 0 && frames >> FIRST_FRAMES == 0,
        "it was sent frames that it cannot read: {frames:#b}"
    );
    old.leave().await?;
    cluster.agents[1].start()?;
    cluster.wait_online("web-2").await?;
    cluster.passed()
}
