//! The writer loop on a real sled journal; faults come from a wrapper that refuses or fails appends, since a full or
//! broken disk cannot be had on demand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stella_domain::agent::Connectivity;
use stella_domain::command::{
    Actor, Command, Idempotency, NewEnrolmentToken, NewFindings, NewRelease, Outcome, Request, SystemCommand,
    TenantCommand,
};
use stella_domain::event::{Fact, StreamId};
use stella_domain::findings::{
    FINDING_COMPONENT_BYTES_MAX, FINDING_ID_BYTES_MAX, FINDINGS_MAX, Finding, Severity,
};
use stella_domain::listening::Listening;
use stella_domain::rejection::Rejection;
use stella_domain::release::{Component, Phase, Step, StepAction};
use stella_engine::{Checkpoint, Clock, Committed, Condition, Config, Engine, Handle, SubmitError};
use stella_journal::{
    Append, AppendError, Archive, Entry, Head, Journal, JournalConfig, ReadError, SledJournal, Snapshot,
    SnapshotError, Stream, Until, import,
};
use stella_protocol::digest::Digest;
use stella_protocol::id::{
    AgentId, EnrolmentTokenId, EnvironmentId, Epoch, Incarnation, Position, ReleaseId, SessionEpoch, TenantId,
};
use stella_protocol::message::{Hello, JournalMark, Profile, Resources};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use uuid::Uuid;

fn open(directory: &Path) -> Arc<SledJournal> {
    Arc::new(SledJournal::open(directory, JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 }).unwrap())
}

fn start(journal: Arc<dyn Journal>) -> Engine {
    Engine::start(journal, Config::default()).unwrap()
}

fn system(command: SystemCommand) -> Request {
    Request {
        actor: Actor::System,
        trace: TraceContext::default(),
        idempotency: None,
        command: Command::System(command),
    }
}

fn tenant(id: u128, name: &str) -> Request {
    system(SystemCommand::CreateTenant { id: TenantId(Uuid::from_u128(id)), name: name.parse().unwrap() })
}

fn environment(tenant: u128, id: u128, name: &str) -> Request {
    let command = TenantCommand::CreateEnvironment {
        id: EnvironmentId(Uuid::from_u128(id)),
        name: name.parse().unwrap(),
        order: None,
        way_back_proof: stella_domain::way_back::ProofRule::Off,
    };
    Request { command: Command::Tenant(TenantId(Uuid::from_u128(tenant)), command), ..system_tick() }
}

fn system_tick() -> Request {
    Request {
        actor: Actor::System,
        trace: TraceContext::default(),
        idempotency: None,
        command: Command::Tick(Listening::Always),
    }
}

fn names(handle: &Handle) -> Vec<String> {
    handle.state().system.tenants.keys().map(ToString::to_string).collect()
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let before = {
        let engine = start(open(folder.path()));
        let handle = engine.handle();
        assert_eq!(
            handle.submit(tenant(1, "acme")).await.unwrap(),
            Outcome::Tenant(TenantId(Uuid::from_u128(1)))
        );
        for n in 0..50 {
            handle.submit(environment(1, 100 + n, &format!("env-{n}"))).await.unwrap();
        }
        let state = handle.state();
        engine.stop();
        state
    };
    let engine = start(open(folder.path()));
    assert_eq!(*engine.handle().state(), *before);
    let stream = StreamId::Tenant(TenantId(Uuid::from_u128(1)));
    let events = engine.handle().read(stream, Position(0), 1_000).await.unwrap();
    assert_eq!(events.len() as u64, engine.handle().head(stream).0);
    assert!(matches!(events[0].event.fact, Fact::TenantOpened { .. }));
}

#[tokio::test]
async fn who_follows_a_stream_hears_of_its_commits_alone() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(open(folder.path()));
    let handle = engine.handle();
    for (id, name) in [(1, "acme"), (2, "globex")] {
        handle.submit(tenant(id, name)).await.unwrap();
    }
    let stream = |id| StreamId::Tenant(TenantId(Uuid::from_u128(id)));
    let is_about = |commit: &Committed, id| commit.events.iter().any(|event| event.stream == stream(id));
    let (mut acme, mut all) = (handle.follow(stream(1)), handle.subscribe());
    drop(handle.follow(stream(2)));
    for (tenant, id) in [(2, 100), (2, 101), (1, 102), (2, 103)] {
        handle.submit(environment(tenant, id, &format!("env-{id}"))).await.unwrap();
    }
    let mut heard = 0;
    while let Ok(commit) = all.try_recv() {
        heard += 1;
        assert_eq!(is_about(&commit, 1), heard == 3);
    }
    assert_eq!(heard, 4);
    assert!(is_about(&acme.try_recv().unwrap(), 1));
    assert!(acme.try_recv().is_err(), "the others are no concern of this one");
    // A stream that nobody has followed for a while is followed again.
    let mut again = handle.follow(stream(2));
    handle.submit(environment(2, 104, "env-104")).await.unwrap();
    assert!(is_about(&again.try_recv().unwrap(), 2));
}

/// What a tenant with one agent needs.
fn one_agent(id: AgentId) -> [TenantCommand; 3] {
    let token = EnrolmentTokenId(Uuid::from_u128(3));
    let mark = JournalMark { incarnation: Incarnation(Uuid::from_u128(4)), position: Position(0) };
    let paper = NewEnrolmentToken {
        id: token,
        secret_hash: Digest([0; 32]),
        agent_name: None,
        labels: BTreeMap::new(),
        profile: Profile::Confined,
        uses_max: 1,
        expires_at: Timestamp(u64::MAX),
    };
    let hello = Hello {
        agent_version: String::new(),
        capabilities: 0,
        journal: mark,
        control_plane: None,
        open: vec![],
        resources: Resources::default(),
    };
    [
        TenantCommand::CreateEnrolmentToken(Box::new(paper)),
        TenantCommand::Enrol {
            token,
            key_fingerprint: Digest([1; 32]),
            agent: id,
            hostname: "web-1".to_owned(),
            takes_profile: true,
            wanted: None,
        },
        TenantCommand::ConnectAgent { agent: id, hello: Box::new(hello), journal_rolled_back: false },
    ]
}

#[tokio::test]
async fn nobody_is_given_up_before_agents_could_come_for_as_long_as_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(1_000_000));
    let at = |awaits_agents| {
        let now = Arc::clone(&now);
        let clock = Clock::new(move || Timestamp(now.load(Ordering::SeqCst)));
        Engine::start(open(folder.path()), Config { clock, awaits_agents, ..Config::default() }).unwrap()
    };
    let (acme, agent) = (TenantId(Uuid::from_u128(1)), AgentId(Uuid::from_u128(2)));
    let of_acme = |command| Request { command: Command::Tenant(acme, command), ..system_tick() };
    let is_offline = |handle: &Handle| {
        let state = handle.state();
        matches!(state.tenants[&acme].agents[&agent].connectivity, Connectivity::Offline { .. })
    };
    let engine = at(false);
    engine.handle().submit(tenant(1, "acme")).await.unwrap();
    for command in one_agent(agent) {
        engine.handle().submit(of_acme(command)).await.unwrap();
    }
    let session = SessionEpoch(1);
    let gone = TenantCommand::DisconnectAgent { agent, session, reason: "lost".to_owned() };
    engine.handle().submit(of_acme(gone)).await.unwrap();
    engine.stop();

    now.fetch_add(3_600_000, Ordering::SeqCst);
    let engine = at(true);
    let handle = engine.handle();
    handle.submit(system_tick()).await.unwrap();
    assert!(!is_offline(&handle), "nobody could come yet");
    handle.agents_can_come(Duration::from_secs(60));
    now.fetch_add(59_000, Ordering::SeqCst);
    handle.submit(system_tick()).await.unwrap();
    assert!(!is_offline(&handle), "it may come still");
    // The time began when the writer heard of it.
    now.fetch_add(60_000, Ordering::SeqCst);
    handle.submit(system_tick()).await.unwrap();
    assert!(is_offline(&handle));
}

/// An older program on the journal of a newer one says where it is lost, and the newer one goes on there afterwards.
#[tokio::test]
async fn what_a_newer_version_has_written_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(open(folder.path()));
    engine.handle().submit(tenant(1, "acme")).await.unwrap();
    engine.stop();
    let heads = {
        let journal = open(folder.path());
        let epoch = journal.begin_epoch().unwrap();
        let known = journal.read(Stream::System, Position(0), 1_000).unwrap();
        let mut known = known.into_iter().map(|it| String::from_utf8(it.payload).unwrap());
        let known = known.find(|it| it.contains("tenant_created")).unwrap();
        let events = vec![known.replace("tenant_created", "moon_landed").into_bytes()];
        let expected = journal.heads()[&Stream::System].next;
        journal
            .append(epoch, journal.last_time(), &[Append { stream: Stream::System, expected, events }])
            .unwrap();
        journal.heads()
    };
    let refused = Engine::start(open(folder.path()), Config::default()).map(drop).unwrap_err();
    let mut said = refused.to_string();
    let mut source = std::error::Error::source(&refused);
    while let Some(cause) = source {
        said = format!("{said}: {cause}");
        source = cause.source();
    }
    let position = heads[&Stream::System].next.0 - 1;
    assert!(
        said.contains(&format!("event {position} ")) && said.contains("is not understood by this version"),
        "{said}"
    );
    assert!(said.contains("moon_landed"), "{said}");
    assert_eq!(open(folder.path()).heads(), heads);
}

#[tokio::test]
async fn a_snapshot_and_the_events_after_it_lead_to_the_same_state() {
    let folder = tempfile::tempdir().unwrap();
    let config = || Config { snapshot_every_events: 10, ..Config::default() };
    let before = {
        let engine = Engine::start(open(folder.path()), config()).unwrap();
        engine.handle().submit(tenant(1, "acme")).await.unwrap();
        for n in 0..64 {
            engine.handle().submit(environment(1, 100 + n, &format!("env-{n}"))).await.unwrap();
        }
        let state = engine.handle().state();
        engine.stop();
        state
    };
    let journal = open(folder.path());
    assert!(journal.load_snapshot().unwrap().is_some(), "no snapshot was taken");
    let engine = Engine::start(journal, config()).unwrap();
    assert_eq!(*engine.handle().state(), *before);
}

/// The tenant's time of creation tells whether a state is from the snapshot or from the events.
#[tokio::test]
async fn a_snapshot_of_a_version_that_counted_less_is_left_aside() {
    let folder = tempfile::tempdir().unwrap();
    let config = || Config { snapshot_every_events: 10, ..Config::default() };
    let engine = Engine::start(open(folder.path()), config()).unwrap();
    engine.handle().submit(tenant(1, "acme")).await.unwrap();
    for n in 0..16 {
        engine.handle().submit(environment(1, 100 + n, &format!("env-{n}"))).await.unwrap();
    }
    let before = engine.handle().state();
    engine.stop();
    for (counts_less, counts) in
        [(false, None), (true, Some(None)), (true, Some(Some(0))), (true, Some(Some(1)))]
    {
        let journal = open(folder.path());
        let mut snapshot = journal.load_snapshot().unwrap().unwrap();
        let mut state: serde_json::Value = serde_json::from_slice(&snapshot.payload).unwrap();
        state["tenants"][Uuid::from_u128(1).to_string()]["created_at"] = 7.into();
        match counts {
            None => {}
            Some(None) => drop(state.as_object_mut().unwrap().remove("projections").unwrap()),
            Some(Some(counts)) => state["projections"] = counts.into(),
        }
        snapshot.payload = serde_json::to_vec(&state).unwrap();
        journal.save_snapshot(&snapshot).unwrap();
        let engine = Engine::start(journal, config()).unwrap();
        assert_eq!(*engine.handle().state() == *before, counts_less);
        engine.stop();
    }
}

#[tokio::test]
async fn a_rejection_changes_nothing_and_a_repeated_request_is_answered_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(open(folder.path()));
    let handle = engine.handle();
    handle.submit(tenant(1, "acme")).await.unwrap();
    let head = handle.head(StreamId::System);
    let refused = handle.submit(tenant(2, "acme")).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Rejected(Rejection::Exists { .. })), "{refused}");
    assert_eq!(handle.head(StreamId::System), head);

    let keyed = |id, name, digest| Request {
        idempotency: Some(Idempotency { key: "k".into(), digest: Digest([digest; 32]) }),
        ..tenant(id, name)
    };
    let first = handle.submit(keyed(3, "globex", 1)).await.unwrap();
    assert_eq!(handle.submit(keyed(4, "globex", 1)).await.unwrap(), first);
    let reused = handle.submit(keyed(5, "initech", 2)).await.unwrap_err();
    assert!(matches!(reused, SubmitError::Rejected(Rejection::KeyReused)), "{reused}");
    assert_eq!(names(&handle), ["acme", "globex"]);
}

#[tokio::test]
async fn subscribers_see_batches_in_order_and_only_after_they_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    let journal = open(folder.path());
    let engine = start(Arc::clone(&journal) as Arc<dyn Journal>);
    let mut commits = engine.handle().subscribe();
    let submit = |n: u128| {
        let handle = engine.handle();
        async move { handle.submit(tenant(n, &format!("tenant-{n}"))).await.unwrap() }
    };
    tokio::join!(submit(1), submit(2), submit(3));
    let mut next = Position(0);
    while next < Position(3) {
        let commit = commits.recv().await.unwrap();
        for event in commit.events.iter().filter(|event| event.stream == StreamId::System) {
            assert_eq!(event.position, next);
            assert!(journal.heads()[&Stream::System].next > next, "seen before it was durable");
            next = next.next();
        }
    }
}

#[tokio::test]
async fn journal_time_never_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(5_000));
    let reading = Arc::clone(&clock);
    let config =
        Config { clock: Clock::new(move || Timestamp(reading.load(Ordering::Relaxed))), ..Config::default() };
    let engine = Engine::start(open(folder.path()), config).unwrap();
    engine.handle().submit(tenant(1, "before")).await.unwrap();
    clock.store(1_000, Ordering::Relaxed);
    engine.handle().submit(tenant(2, "after")).await.unwrap();
    let events = engine.handle().read(StreamId::System, Position(0), 10).await.unwrap();
    let times: Vec<_> = events.iter().map(|it| it.event.at).collect();
    assert_eq!(times, vec![Timestamp(5_000); events.len()], "{events:?}");
    assert!(events.len() >= 2, "{events:?}");
}

/// What the wrapper does with appends.
const PASS: u8 = 0;
const REFUSE: u8 = 1;
const FAIL: u8 = 2;
const PANIC: u8 = 3;
const HANG: u8 = 4;
/// As [`HANG`], and then as is said by then.
const STALL: u8 = 5;

/// A real journal whose appends can be refused, failed or made to hang.
#[derive(Debug)]
struct Faulty {
    inner: Arc<SledJournal>,
    mode: AtomicU8,
    /// How often something was to be appended.
    appends: AtomicU64,
    /// Which thread was the last to append.
    thread: Mutex<String>,
}

impl Journal for Faulty {
    fn incarnation(&self) -> Incarnation {
        self.inner.incarnation()
    }
    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }
    fn begin_epoch(&self) -> Result<Epoch, AppendError> {
        self.inner.begin_epoch()
    }
    fn heads(&self) -> BTreeMap<Stream, Head> {
        self.inner.heads()
    }
    fn last_time(&self) -> Timestamp {
        self.inner.last_time()
    }
    fn append(&self, epoch: Epoch, at: Timestamp, appends: &[Append]) -> Result<Vec<Head>, AppendError> {
        self.appends.fetch_add(1, Ordering::SeqCst);
        *self.thread.lock().unwrap() = std::thread::current().name().unwrap().to_owned();
        match self.mode.load(Ordering::SeqCst) {
            PANIC => panic!("the storage engine gives up"),
            REFUSE => Err(AppendError::NoSpace { available_bytes: 1, reserve_bytes: 2 }),
            // Any error that is not a refusal: the epoch of a deposed leader will do.
            FAIL => Err(AppendError::StaleEpoch { given: epoch, current: epoch.next() }),
            HANG => {
                while self.mode.load(Ordering::SeqCst) == HANG {
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.inner.append(epoch, at, appends)
            }
            STALL => {
                while self.mode.load(Ordering::SeqCst) == STALL {
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.append(epoch, at, appends)
            }
            _ => self.inner.append(epoch, at, appends),
        }
    }
    fn read(&self, stream: Stream, from: Position, limit: usize) -> Result<Vec<Entry>, ReadError> {
        self.inner.read(stream, from, limit)
    }
    fn hash_at(&self, stream: Stream, position: Position) -> Result<Option<Digest>, ReadError> {
        self.inner.hash_at(stream, position)
    }
    fn save_snapshot(&self, snapshot: &Snapshot) -> Result<(), SnapshotError> {
        self.inner.save_snapshot(snapshot)
    }
    fn load_snapshot(&self) -> Result<Option<Snapshot>, ReadError> {
        self.inner.load_snapshot()
    }
    fn archive(&self) -> &dyn Archive {
        self.inner.archive()
    }
}

fn faulty(folder: &Path) -> Arc<Faulty> {
    let (mode, appends, thread) = (AtomicU8::new(PASS), AtomicU64::new(0), Mutex::default());
    Arc::new(Faulty { inner: open(folder), mode, appends, thread })
}

#[tokio::test]
async fn without_space_writes_are_refused_reads_go_on_and_nothing_half_happens() {
    let folder = tempfile::tempdir().unwrap();
    let journal = faulty(folder.path());
    let engine = start(Arc::clone(&journal) as Arc<dyn Journal>);
    let handle = engine.handle();
    handle.submit(tenant(1, "acme")).await.unwrap();
    journal.mode.store(REFUSE, Ordering::SeqCst);
    let refused = handle.submit(tenant(2, "globex")).await.unwrap_err();
    assert!(matches!(refused, SubmitError::NoSpace { .. }), "{refused}");
    assert!(handle.health().no_space && handle.health().writable);
    assert_eq!(names(&handle), ["acme"]);
    journal.mode.store(PASS, Ordering::SeqCst);
    // The refused name is free: the writer went back to what is durable.
    handle.submit(tenant(3, "globex")).await.unwrap();
    assert!(!handle.health().no_space);
    assert_eq!(names(&handle), ["acme", "globex"]);
    engine.stop();
    drop((handle, journal));
    assert_eq!(names(&start(open(folder.path())).handle()), ["acme", "globex"]);
}

#[tokio::test]
async fn a_write_that_hangs_is_seen_while_it_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let journal = faulty(folder.path());
    let engine = start(Arc::clone(&journal) as Arc<dyn Journal>);
    let handle = engine.handle();
    let opening = handle.health();
    assert!(opening.last_flush > Duration::ZERO && opening.flushing.is_none(), "{opening:?}");
    handle.submit(tenant(1, "acme")).await.unwrap();
    journal.mode.store(HANG, Ordering::SeqCst);
    let submitting = handle.clone();
    let submitted = tokio::spawn(async move { submitting.submit(tenant(2, "globex")).await });
    let waited = Duration::from_millis(50);
    while handle.health().flushing.is_none_or(|it| it < waited) {
        tokio::task::yield_now().await;
    }
    let during = handle.health();
    assert!(during.writable && during.last_flush > Duration::ZERO, "{during:?}");
    journal.mode.store(PASS, Ordering::SeqCst);
    submitted.await.unwrap().unwrap();
    let after = handle.health();
    assert!(after.flushing.is_none() && after.last_flush >= waited, "{after:?}");
    engine.stop();
}

type Answer = Result<Outcome, SubmitError>;

/// Has two commands wait while one is on its way to the disk, which is as it is said from then on.
async fn one_and_two(engine: &Engine, journal: &Faulty, mode: u8) -> (Answer, [Answer; 2]) {
    let submit = |request| {
        let handle = engine.handle();
        tokio::spawn(async move { handle.submit(request).await })
    };
    engine.handle().submit(tenant(1, "acme")).await.unwrap();
    assert_eq!(*journal.thread.lock().unwrap(), "writer", "nothing else is on its way");
    journal.mode.store(HANG, Ordering::SeqCst);
    let before = journal.appends.load(Ordering::SeqCst);
    let one = submit(tenant(2, "globex"));
    while journal.appends.load(Ordering::SeqCst) == before {
        tokio::task::yield_now().await;
    }
    let two = [submit(tenant(3, "initech")), submit(tenant(4, "umbrella"))];
    while engine.handle().commands_waiting() < 2 {
        tokio::task::yield_now().await;
    }
    journal.mode.store(mode, Ordering::SeqCst);
    let one = one.await.unwrap();
    let [first, second] = two;
    (one, [first.await.unwrap(), second.await.unwrap()])
}

#[tokio::test]
async fn a_single_command_is_flushed_by_who_decides_and_several_beside() {
    let folder = tempfile::tempdir().unwrap();
    let journal = faulty(folder.path());
    let engine = start(Arc::clone(&journal) as Arc<dyn Journal>);
    let (one, two) = one_and_two(&engine, &journal, PASS).await;
    assert!(one.is_ok() && two.iter().all(Result::is_ok), "{one:?} {two:?}");
    assert_eq!(*journal.thread.lock().unwrap(), "journal-flusher");
    // The thread that flushes may still be about to say that nothing is on its way any more.
    let mut number = 100;
    while *journal.thread.lock().unwrap() != "writer" {
        engine.handle().submit(environment(1, number, &format!("env-{number}"))).await.unwrap();
        number += 1;
    }
    engine.stop();

    for mode in [FAIL, PANIC] {
        let folder = tempfile::tempdir().unwrap();
        let journal = faulty(folder.path());
        let engine = start(Arc::clone(&journal) as Arc<dyn Journal>);
        let (one, two) = one_and_two(&engine, &journal, mode).await;
        assert!(one.is_ok(), "it was on the disk before that failed: {one:?}");
        assert!(two.iter().all(|it| matches!(it, Err(SubmitError::Stopping))), "{two:?}");
        assert_failed(&engine).await;
        assert_eq!(*journal.thread.lock().unwrap(), "journal-flusher");
        assert_eq!(names(&engine.handle()), ["acme", "globex"]);
    }
}

#[tokio::test]
async fn a_failed_write_stops_the_engine_and_is_never_answered_as_done() {
    let folder = tempfile::tempdir().unwrap();
    let journal = faulty(folder.path());
    let engine = start(Arc::clone(&journal) as Arc<dyn Journal>);
    let handle = engine.handle();
    handle.submit(tenant(1, "acme")).await.unwrap();
    journal.mode.store(FAIL, Ordering::SeqCst);
    let lost = handle.submit(tenant(2, "globex")).await.unwrap_err();
    assert!(matches!(lost, SubmitError::Stopping), "{lost}");
    let mut condition = engine.condition();
    condition.wait_for(|condition| matches!(condition, Condition::Failed(_))).await.unwrap();
    assert!(!handle.health().writable);
    assert!(matches!(handle.submit(tenant(3, "later")).await, Err(SubmitError::Stopping)));
    assert_eq!(names(&handle), ["acme"]);
}

fn release(id: u128, steps: Vec<Step>) -> Request {
    let new = NewRelease {
        id: ReleaseId(Uuid::from_u128(id)),
        application: "web".parse().unwrap(),
        version: format!("1.0.{id}").parse().unwrap(),
        components: vec![Component { name: "web".parse().unwrap(), digest: Digest([1; 32]), size_bytes: 1 }],
        steps,
        labels: BTreeMap::new(),
        provenance: None,
        signatures: Vec::new(),
        bounds: stella_domain::release::ReleaseBounds::default(),
    };
    let command = TenantCommand::CreateRelease(Box::new(new));
    Request { command: Command::Tenant(TenantId(Uuid::from_u128(1)), command), ..system_tick() }
}

/// A step that is within the limits of a step, and as long as that.
fn long_step(number: usize) -> Step {
    Step {
        name: format!("step-{number}").parse().unwrap(),
        action: StepAction::Command {
            argv: vec!["echo".to_owned(), "x".repeat(100_000)],
            environment: BTreeMap::new(),
            working_directory: None,
            user: None,
        },
        timeout_ms: 1_000,
        phase: Phase::default(),
    }
}

async fn with_a_release(handle: &Handle) {
    handle.submit(tenant(1, "acme")).await.unwrap();
    let stored =
        TenantCommand::StoreArtifact { digest: Digest([1; 32]), size_bytes: 1, tenant_bytes_max: None };
    let stored = Request { command: Command::Tenant(TenantId(Uuid::from_u128(1)), stored), ..system_tick() };
    handle.submit(stored).await.unwrap();
    handle.submit(release(7, Vec::new())).await.unwrap();
}

/// A report with as many and as long findings as there may be.
fn findings(release: u128) -> Request {
    let finding = |n: usize| Finding {
        severity: Severity::High,
        id: format!("{n:0FINDING_ID_BYTES_MAX$}"),
        component: "x".repeat(FINDING_COMPONENT_BYTES_MAX),
    };
    let new = NewFindings {
        release: ReleaseId(Uuid::from_u128(release)),
        scanner: "trivy".parse().unwrap(),
        digest: Digest([2; 32]),
        findings: (0..FINDINGS_MAX).map(finding).collect(),
        bounds: stella_domain::release::ReleaseBounds::default(),
    };
    let command = TenantCommand::RecordFindings(Box::new(new));
    Request { command: Command::Tenant(TenantId(Uuid::from_u128(1)), command), ..system_tick() }
}

#[tokio::test]
async fn an_event_that_the_journal_does_not_take_is_refused_and_nobody_else_suffers() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(open(folder.path()));
    let handle = engine.handle();
    with_a_release(&handle).await;
    // Each step is within its limits, and there may be so many.
    let refused = handle.submit(release(8, (0..60).map(long_step).collect())).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Rejected(Rejection::TooLarge { .. })), "{refused}");
    handle.submit(tenant(2, "globex")).await.unwrap();
    assert!(handle.health().writable);
    assert_eq!(handle.state().tenants[&TenantId(Uuid::from_u128(1))].releases.len(), 1);
}

#[tokio::test]
async fn commands_that_are_large_together_share_no_append() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(open(folder.path()));
    let handle = engine.handle();
    with_a_release(&handle).await;
    // Two megabytes each: twice of what one append takes. All are in the queue before the first is decided.
    let answers = futures::future::join_all((0..64).map(|_| handle.submit(findings(7)))).await;
    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|answer| answer.is_err()));
    assert!(handle.health().writable);
}

#[tokio::test]
async fn a_checkpoint_under_load_leads_to_the_same_state_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(open(&folder.path().join("journal")));
    let handle = engine.handle();
    handle.submit(tenant(1, "acme")).await.unwrap();
    let (writer, mut points) = (handle.clone(), Vec::new());
    let load = tokio::spawn(async move {
        for n in 0..200 {
            writer.submit(environment(1, 100 + n, &format!("env-{n}"))).await.unwrap();
        }
    });
    while !load.is_finished() {
        points.push(handle.checkpoint().await.unwrap());
        tokio::task::yield_now().await;
    }
    load.await.unwrap();
    points.push(handle.checkpoint().await.unwrap());
    let (half, last) = (&points[points.len() / 2], &points[points.len() - 1]);
    for (name, point) in [("half", half), ("last", last)] {
        let mut events = Vec::new();
        point.export(&mut events).unwrap();
        let to = folder.path().join(name);
        import(&mut &events[..], &to, Until::End).unwrap();
        let restored = Checkpoint::of_journal(open(&to)).unwrap();
        assert_eq!(restored.state_hash().unwrap(), point.state_hash().unwrap(), "{name}");
        assert_eq!(restored.last_time(), point.last_time());
        assert_ne!(restored.incarnation(), point.incarnation());
    }
    assert_ne!(half.state_hash().unwrap(), last.state_hash().unwrap());
    assert_eq!(last.heads().values().map(|head| head.next.0).sum::<u64>(), 202);
    engine.stop();
    assert!(matches!(handle.checkpoint().await, Err(SubmitError::Stopping)));
}

#[tokio::test]
async fn a_panic_of_either_thread_is_a_failure_of_the_engine_and_no_quiet_end() {
    let folder = tempfile::tempdir().unwrap();
    let journal = faulty(folder.path());
    let engine = start(Arc::clone(&journal) as Arc<dyn Journal>);
    engine.handle().submit(tenant(1, "acme")).await.unwrap();
    journal.mode.store(PANIC, Ordering::SeqCst);
    let lost = engine.handle().submit(tenant(2, "globex")).await.unwrap_err();
    assert!(matches!(lost, SubmitError::Stopping), "{lost}");
    assert_failed(&engine).await;
    drop((engine, journal));

    // The thread that decides panics where it asks for the time.
    let is_broken = Arc::new(AtomicU8::new(0));
    let asked = Arc::clone(&is_broken);
    let clock = Clock::new(move || {
        assert_eq!(asked.load(Ordering::SeqCst), 0, "no clock");
        Clock::system().now()
    });
    let engine = Engine::start(open(folder.path()), Config { clock, ..Config::default() }).unwrap();
    is_broken.store(1, Ordering::SeqCst);
    let lost = engine.handle().submit(tenant(3, "later")).await.unwrap_err();
    assert!(matches!(lost, SubmitError::Stopping), "{lost}");
    assert_failed(&engine).await;
}

#[tokio::test]
async fn a_last_flush_that_fails_is_no_quiet_end() {
    let folder = tempfile::tempdir().unwrap();
    let journal = faulty(folder.path());
    let engine = start(Arc::clone(&journal) as Arc<dyn Journal>);
    let handle = engine.handle();
    journal.mode.store(STALL, Ordering::SeqCst);
    let before = journal.appends.load(Ordering::SeqCst);
    let lost = tokio::spawn(async move { handle.submit(tenant(1, "acme")).await });
    while journal.appends.load(Ordering::SeqCst) == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(*engine.condition().borrow(), Condition::Running, "what was taken is on its way");
    let stopped = tokio::task::spawn_blocking(move || engine.stop());
    journal.mode.store(FAIL, Ordering::SeqCst);
    let condition = stopped.await.unwrap();
    assert!(matches!(condition, Condition::Failed(_)), "{condition:?}");
    assert!(matches!(lost.await.unwrap(), Err(SubmitError::Stopping)));

    let engine = start(open(tempfile::tempdir().unwrap().path()));
    assert_eq!(engine.stop(), Condition::Stopped);
}

async fn assert_failed(engine: &Engine) {
    let mut condition = engine.condition();
    let found = condition.wait_for(|condition| *condition != Condition::Running).await.unwrap().clone();
    assert!(matches!(found, Condition::Failed(_)), "{found:?}");
    assert!(!engine.handle().health().writable);
}

#[tokio::test]
async fn timers_that_a_full_disk_refuses_are_not_tried_without_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let journal = faulty(folder.path());
    let now = Arc::new(AtomicU64::new(1_000_000));
    let told = Arc::clone(&now);
    let clock = Clock::new(move || Timestamp(told.load(Ordering::SeqCst)));
    let engine =
        Engine::start(Arc::clone(&journal) as Arc<dyn Journal>, Config { clock, ..Config::default() })
            .unwrap();
    let handle = engine.handle();
    // Its answer is forgotten after a day: a timer.
    let idempotency = Some(Idempotency { key: "key".to_owned(), digest: Digest([0; 32]) });
    handle.submit(Request { idempotency, ..tenant(1, "acme") }).await.unwrap();
    journal.mode.store(REFUSE, Ordering::SeqCst);
    now.fetch_add(25 * 3_600_000, Ordering::SeqCst);
    let refused = handle.submit(tenant(2, "globex")).await.unwrap_err();
    assert!(matches!(refused, SubmitError::NoSpace { .. }), "{refused}");
    // By now the timer was tried: with the request, or by itself before it.
    let tried = journal.appends.load(Ordering::SeqCst);
    // Work that writes nothing: as often as the writer has looked at it, it could have tried the timer again.
    for _ in 0..50 {
        handle.checkpoint().await.unwrap();
    }
    let again = journal.appends.load(Ordering::SeqCst) - tried;
    assert_eq!(again, 0, "the clock stands still: no second has passed");

    now.fetch_add(2_000, Ordering::SeqCst);
    journal.mode.store(PASS, Ordering::SeqCst);
    handle.submit(tenant(3, "initech")).await.unwrap();
    assert!(handle.state().system.requests.is_empty(), "the timer has fired once there was space");
}
