//! What is left of an attempt, and of its effect: asked over a real connection.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing, and another one ends it")]

mod control_plane;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use control_plane::{Agent, ControlPlane, Home, Peer, dispatch, key, read_frame, soon, until_file_is};
use sha2::{Digest as _, Sha256};
use stella_agent::policy::{Kind, Policy};
use stella_protocol::digest::Digest;
use stella_protocol::frame;
use stella_protocol::id::QuestionId;
use stella_protocol::message::{
    ArtifactRequest, ArtifactResponse, AttemptProbe, AttemptProbed, Effect, TaskOutcome, capability,
};
use stella_protocol::session::control::ControlEvent;
use stella_protocol::spec::{ArtifactSpec, CheckSpec, Probe, SystemdSpec, TaskSpec, UnitAction};
use stella_protocol::time::Timestamp;
use tar::{Builder, Header};
use tokio::net::TcpListener;
use uuid::Uuid;

fn archive(version: &str) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(version.len() as u64);
    archive.append_data(&mut header, "version", version.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

fn artifact(version: &str) -> TaskSpec {
    let archive = archive(version);
    TaskSpec::Artifact(ArtifactSpec {
        component: "web".to_owned(),
        version: version.to_owned(),
        digest: Digest(Sha256::digest(&archive).into()),
        size_bytes: archive.len() as u64,
        keep_releases: 3,
        timeout_ms: 30_000,
    })
}

fn tcp(address: &str) -> TaskSpec {
    let probe = Probe::Tcp { address: address.to_owned() };
    TaskSpec::Check(CheckSpec { probe, interval_ms: 10, successes: 2, timeout_ms: 500 })
}

fn command() -> TaskSpec {
    dispatch(1, "exit 0").spec
}

struct Site {
    home: Home,
    agent: Agent,
    control_plane: ControlPlane,
    peer: Peer,
    asked: u128,
}

impl Site {
    async fn start() -> Self {
        Self::with_policy(Policy::default()).await
    }

    async fn with_policy(policy: Policy) -> Self {
        let control_plane = ControlPlane::start();
        let home = Home::enrolled(&control_plane);
        let agent = Agent::with_policy(&home, policy);
        let (peer, hello) = control_plane.welcome().await;
        assert_eq!(hello.capabilities & capability::PROBES, capability::PROBES);
        Self { home, agent, control_plane, peer, asked: 0 }
    }

    async fn bring(&mut self, task: u128, version: &str) {
        let work = stella_protocol::message::Dispatch { spec: artifact(version), ..dispatch(task, "") };
        self.peer.dispatch(work).await;
        let (mut send, mut receive) = soon("a request", self.peer.connection.accept_bi()).await.unwrap();
        let _request: ArtifactRequest = read_frame(&mut receive).await.unwrap();
        let archive = archive(version);
        let found = ArtifactResponse::Found { size_bytes: archive.len() as u64 };
        send.write_all(&frame::encode(&found).unwrap()).await.unwrap();
        send.write_all(&archive).await.unwrap();
        send.finish().unwrap();
        assert_eq!(self.peer.finished().await.outcome, TaskOutcome::Succeeded);
    }

    /// Asks about an attempt; the next that the agent says of it.
    async fn ask(&mut self, task: u128, spec: TaskSpec, timeout_ms: u64) -> ControlEvent {
        self.asked += 1;
        let question = QuestionId(Uuid::from_u128(self.asked));
        let probe =
            AttemptProbe { question, key: key(task), slot: None, spec, since: Timestamp(0), timeout_ms };
        self.peer.session.probe(Box::new(probe)).unwrap();
        self.peer.transmit().await;
        self.peer.report().await
    }

    async fn shows(&mut self, task: u128, spec: TaskSpec) -> Effect {
        self.shows_within(task, spec, 30_000).await
    }

    async fn shows_within(&mut self, task: u128, spec: TaskSpec, timeout_ms: u64) -> Effect {
        match self.ask(task, spec, timeout_ms).await {
            ControlEvent::Probed(AttemptProbed { question, effect }) => {
                assert_eq!(question, QuestionId(Uuid::from_u128(self.asked)));
                effect
            }
            other => panic!("{other:?} is no answer"),
        }
    }
}

#[track_caller]
fn there(effect: Effect) -> String {
    let Effect::There { what } = effect else { panic!("{effect:?}") };
    what
}

#[track_caller]
fn absent(effect: Effect) -> String {
    let Effect::Absent { what } = effect else { panic!("{effect:?}") };
    what
}

#[track_caller]
fn unclear(effect: Effect) -> String {
    let Effect::Unclear { reason } = effect else { panic!("{effect:?}") };
    reason
}

/// A process that was started for an attempt and that nobody knows.
struct Stray(Child);

impl Stray {
    fn of(task: u128) -> Self {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").env("STELLA_ATTEMPT_KEY", key(task).to_string()).stdin(Stdio::null());
        Self(sleep.spawn().unwrap())
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn an_artifact_is_there_if_it_is_current_and_whole() {
    let mut site = Site::start().await;
    let nothing = absent(site.shows(11, artifact("1.0.0")).await);
    assert_eq!(nothing, "there is no web on the host");
    site.bring(1, "1.0.0").await;
    assert!(there(site.shows(11, artifact("1.0.0")).await).starts_with("1.0.0-"));
    site.bring(2, "2.0.0").await;
    let other = absent(site.shows(11, artifact("1.0.0")).await);
    assert!(other.starts_with("the current release of web is 2.0.0-"), "{other}");
    assert!(there(site.shows(11, artifact("2.0.0")).await).contains("is current: 1 files, 5 bytes"));

    let web = site.home.root().join("web");
    fs::write(web.join("current/version"), "3.0.0").unwrap();
    let damaged = unclear(site.shows(11, artifact("2.0.0")).await);
    assert!(damaged.contains("is current, and damaged: version is not what was unpacked"), "{damaged}");
    fs::remove_file(web.join("current")).unwrap();
    assert_eq!(absent(site.shows(11, artifact("2.0.0")).await), "web has no current release");
    fs::create_dir(web.join("current")).unwrap();
    assert!(unclear(site.shows(11, artifact("2.0.0")).await).contains("is no link to a release"));
    fs::remove_dir(web.join("current")).unwrap();
    symlink("releases/1.0.0-0", web.join("current")).unwrap();
    assert!(absent(site.shows(11, artifact("2.0.0")).await).contains("is 1.0.0-0, not 2.0.0-"));
    site.agent.stop().await;
}

#[tokio::test]
async fn nothing_counts_as_long_as_something_is_at_work_there() {
    let mut site = Site::start().await;
    site.bring(1, "1.0.0").await;
    let lock = File::options().write(true).open(site.home.root().join("web/.lock")).unwrap();
    lock.lock().unwrap();
    let busy = site.shows_within(11, artifact("1.0.0"), 200).await;
    assert_eq!(unclear(busy), "web is being worked on");
    drop(lock);
    let stray = Stray::of(11);
    let left = unclear(site.shows(11, artifact("1.0.0")).await);
    assert!(left.contains(&format!("processes of it are still there: [{}]", stray.0.id())), "{left}");
    drop(stray);
    there(site.shows(11, artifact("1.0.0")).await);
    site.agent.stop().await;
}

#[tokio::test]
async fn a_check_is_asked_again() {
    let mut site = Site::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let healthy = there(site.shows(11, tcp(&address)).await);
    assert_eq!(healthy, "it was asked again, and is healthy: the connection was accepted");
    drop(listener);
    let ill = absent(site.shows(11, tcp(&address)).await);
    assert!(ill.starts_with("it was asked again, and is not healthy: the last try to connect"), "{ill}");
    // It may still come to be healthy within its own time.
    let TaskSpec::Check(spec) = tcp(&address) else { unreachable!("it is a check") };
    let patient = TaskSpec::Check(CheckSpec { timeout_ms: 600_000, ..spec });
    let not_yet = unclear(site.shows_within(11, patient, 300).await);
    assert!(
        not_yet.starts_with("it was asked again for 0 s of the 600 s that it may take: the last"),
        "{not_yet}"
    );

    let TaskSpec::Command(spec) = command() else { unreachable!("it is a command") };
    let probe = Probe::Command(spec);
    let by_command = CheckSpec { probe, interval_ms: 10, successes: 1, timeout_ms: 500 };
    let again = unclear(site.shows(11, TaskSpec::Check(by_command)).await);
    assert!(again.starts_with("nobody can confirm that nothing of the check's command is left"), "{again}");
    site.agent.stop().await;
}

#[tokio::test]
async fn of_a_command_only_the_journal_tells() {
    let mut site = Site::start().await;
    let unknown = unclear(site.shows(11, command()).await);
    assert_eq!(unknown, "a command leaves no sign that could be looked for");

    // Whose result was acknowledged, and forgotten by the control plane since: it is said again, and that is the answer.
    site.peer.dispatch(dispatch(1, "exit 3")).await;
    let ended = site.peer.finished().await;
    site.peer.acknowledge(ended.key).await;
    let again = site.ask(1, command(), 30_000).await;
    assert_eq!(again, ControlEvent::Finished(ended));
    site.agent.stop().await;
}

#[tokio::test]
async fn what_runs_is_waited_for_as_long_as_the_question_may_take() {
    let mut site = Site::start().await;
    let gate = site.home.root().join("gate");
    site.peer.dispatch(dispatch(1, "echo run > runs; until [ -e gate ]; do sleep 0.01; done")).await;
    until_file_is(&site.home.root().join("runs"), "run\n").await;
    let ControlEvent::Accepted(_) = site.peer.report().await else { panic!("it was not accepted") };
    let ControlEvent::Running(_) = site.peer.report().await else { panic!("it does not run") };
    let at_work = site.shows_within(1, command(), 100).await;
    assert!(unclear(at_work).contains("still at work on it"));
    fs::write(gate, "").unwrap();
    let ended = site.peer.finished().await;
    assert_eq!(ended.outcome, TaskOutcome::Succeeded);
    site.agent.stop().await;
}

#[tokio::test]
async fn what_an_agent_cannot_tell_of_its_own_command_stays_so() {
    let mut site = Site::start().await;
    let script = "echo $PPID > supervisor; sleep 600";
    site.peer.dispatch(dispatch(1, script)).await;
    let file = site.home.root().join("supervisor");
    control_plane::until_file(&file, |text| text.ends_with('\n')).await;
    let supervisor = fs::read_to_string(&file).unwrap();
    assert!(Command::new("kill").args(["-KILL", supervisor.trim()]).status().unwrap().success());
    let TaskOutcome::Unknown { reason } = site.peer.finished().await.outcome else {
        // On a host with control groups of its own the end can be confirmed.
        return site.agent.stop().await;
    };
    assert_eq!(unclear(site.shows(1, command()).await), reason);
    site.agent.stop().await;
}

#[tokio::test]
async fn the_hosts_policy_holds_for_questions_too() {
    let mut site = Site::with_policy(Policy::allowing(&[Kind::Artifact])).await;
    let forbidden = unclear(site.shows(11, tcp("127.0.0.1:1")).await);
    assert!(forbidden.contains("policy does not allow check tasks"), "{forbidden}");
    let unit = SystemdSpec { unit: "web.service".to_owned(), action: UnitAction::Start, timeout_ms: 1_000 };
    let forbidden = unclear(site.shows(11, TaskSpec::Systemd(unit)).await);
    assert!(forbidden.contains("policy does not allow systemd tasks"), "{forbidden}");
    absent(site.shows(11, artifact("1.0.0")).await);
    site.agent.stop().await;
    drop(site.control_plane);
}
