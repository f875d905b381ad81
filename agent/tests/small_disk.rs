//! A host whose disk is too small for what is to be brought to it, and archives of more names than data. Needs root, to mount a disk
//! of 64 MiB in memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing and passes over the others")]

mod common;

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::artifacts::{Fixture, Memory, archive, gzip, raw_entry, web};
use common::disk::Disk;
use common::{Host, PATIENCE, dispatch, failure, shell, supervisor, wait_for};
use stella_agent::executor::{Executor, Systemctl};
use stella_agent::host::HostRoot;
use stella_agent::journal::Journal;
use stella_agent::observers::Observers;
use stella_agent::policy::Policy;
use stella_agent::report::{REPORTS_MAX, Report};
use stella_agent::runner::{Config, Order, Runner, RunnerHandle};
use stella_archive::{DEPTH_MAX, ENTRIES_MAX};
use stella_protocol::id::{Incarnation, Position};
use stella_protocol::message::{JournalMark, TaskOutcome};
use stella_protocol::spec::TaskSpec;
use tar::{EntryType, Header};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const MIB: usize = 1024 * 1024;
const RESERVE_BYTES: u64 = 8 * 1024 * 1024;

fn fixture(disk: &Disk) -> Fixture {
    let mut host = Host::in_folder(tempfile::tempdir_in(disk.path()).unwrap());
    host.root = host.root.keeping_free(RESERVE_BYTES);
    Fixture::on(host)
}

/// An archive with so many files of a mebibyte; `fill` makes them compressible or not.
fn large(mebibytes: usize, mut fill: impl FnMut(&mut [u8])) -> Vec<u8> {
    let mut data = vec![0; MIB];
    archive(|archive| {
        for number in 0..mebibytes {
            fill(&mut data);
            raw_entry(archive, EntryType::Regular, &number.to_string(), "", &data);
        }
    })
}

#[tokio::test]
async fn an_artifact_that_does_not_fit_is_not_begun() {
    let disk = Disk::mount();
    let fixture = fixture(&disk);
    fixture.deploy("1").await;
    fixture.source.offsets.lock().unwrap().clear();
    let outcome = fixture.run(&fixture.spec("2", large(80, |_| {}))).await;
    assert!(failure(&outcome).contains("there is no room for it on the host's disk"), "{outcome:?}");
    assert!(fixture.source.offsets.lock().unwrap().is_empty(), "it was fetched all the same");
    assert!(fixture.names_in(".incoming").is_empty() && disk.free_bytes() > RESERVE_BYTES);
}

#[tokio::test]
async fn a_download_ends_before_it_takes_what_has_to_stay_free() {
    let disk = Disk::mount();
    let fixture = fixture(&disk);
    fixture.deploy("1").await;
    // It fits when it begins; then somebody else takes two thirds of what is left.
    *fixture.source.ballast.lock().unwrap() = Some((disk.path().join("ballast"), 40 * MIB));
    let outcome = fixture.run(&fixture.spec("2", large(30, |_| {}))).await;
    assert!(failure(&outcome).contains("have to stay free"), "{outcome:?}");
    assert!(fixture.names_in(".incoming").is_empty(), "what was fetched is in the way of others");
    assert!(disk.free_bytes() > 20 * MIB as u64);
    fs::remove_file(disk.path().join("ballast")).unwrap();
    fixture.deploy("3").await;
}

#[tokio::test]
async fn an_archive_whose_content_does_not_fit_leaves_nothing() {
    let disk = Disk::mount();
    let fixture = fixture(&disk);
    fixture.deploy("1").await;
    let before = disk.free_bytes();
    let outcome = fixture.run(&fixture.spec("2", gzip(&large(60, |_| {})))).await;
    assert!(failure(&outcome).contains("there is no room for it on the host's disk"), "{outcome:?}");
    assert!(fixture.names_in(".incoming").is_empty());
    // Folders take a little.
    assert!(disk.free_bytes() + 65_536 > before, "{} of {before}", disk.free_bytes());
    assert_eq!(fixture.current_version(), "1");
}

/// The path of an empty file below so many folders of its own.
fn deep(number: usize, folders: usize) -> String {
    format!("{number:05}/{}f", "a/".repeat(folders - 1))
}

/// With long names, as `tar` writes them.
fn files(paths: impl Iterator<Item = String>) -> Vec<u8> {
    gzip(&archive(|archive| {
        for path in paths {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            archive.append_data(&mut header, path, &b""[..]).unwrap();
        }
    }))
}

/// Brings an archive that has to be refused; why it is.
async fn refused(fixture: &Fixture, bomb: Vec<u8>) -> String {
    let outcome = fixture.run(&fixture.spec("2", bomb)).await;
    let left = fixture.names_in(".incoming");
    assert!(left.iter().all(|name| name.ends_with(".part")), "{left:?} was left: {outcome:?}");
    failure(&outcome).to_owned()
}

#[tokio::test]
async fn folders_that_only_paths_name_are_counted() {
    let disk = Disk::mount();
    let fixture = fixture(&disk);
    fixture.deploy("good").await;
    let folders = DEPTH_MAX - 1;
    let bomb = files((0..ENTRIES_MAX / folders).map(|number| deep(number, folders)));
    let reason = refused(&fixture, bomb).await;
    assert!(reason.contains("more than 100000 entries and folders"), "{reason}");

    let bomb = files([deep(1, DEPTH_MAX)].into_iter());
    let reason = refused(&fixture, bomb).await;
    assert!(reason.contains("is more than 64 folders deep"), "{reason}");

    // Paths that few names fill.
    let name =
        |number: usize| format!("{}/{}/{}/{number:05}", "a".repeat(250), "b".repeat(250), "c".repeat(250));
    let bomb = files((0..30_000).map(name));
    let reason = refused(&fixture, bomb).await;
    assert!(reason.contains("more than 16777216 bytes together"), "{reason}");

    // What is just within all of that is a release.
    let spec = fixture.spec("good", files([deep(1, folders)].into_iter()));
    assert_eq!(fixture.run(&spec).await, TaskOutcome::Succeeded);
    assert!(fixture.component().join("current").join(deep(1, folders)).exists());
}

/// A runner on a small disk, its journal and its host root on it.
struct Running {
    handle: RunnerHandle,
    reports: mpsc::Receiver<Report>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), stella_agent::runner::Error>>,
    _link: watch::Sender<Option<stella_agent::session::Link>>,
}

impl Running {
    async fn start(disk: &Disk, source: Arc<Memory>) -> Self {
        let attempts_dir = disk.path().join("attempts");
        fs::create_dir_all(&attempts_dir).unwrap();
        let (journal, left_open) = Journal::open(&disk.path().join("journal"), RESERVE_BYTES).unwrap();
        let (link, link_receiver) = watch::channel(None);
        let config = Config {
            concurrency: NonZeroUsize::new(4).unwrap(),
            attempts_dir,
            drain: Duration::from_secs(1),
            host: HostRoot::open(&disk.path().join("root")).unwrap().keeping_free(RESERVE_BYTES),
            policy: Policy::default(),
            executor: Executor::new(supervisor()),
            artifacts: source,
            units: Arc::new(Systemctl::default()),
            link: link_receiver,
            observers: Observers::default(),
        };
        let (runner, handle) = Runner::new(journal, left_open, config).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(runner.run(stop.clone()));
        let (session, reports) = mpsc::channel(REPORTS_MAX);
        let control_plane =
            JournalMark { incarnation: Incarnation(Uuid::from_u128(5)), position: Position(10) };
        handle.order(Order::Attach { control_plane, settled: Vec::new(), session }).await.unwrap();
        Self { handle, reports, stop, task, _link: link }
    }

    async fn run(&mut self, spec: TaskSpec) -> TaskOutcome {
        let dispatch = dispatch(spec);
        let key = dispatch.key();
        self.handle.order(Order::Dispatch(Box::new(dispatch.into()))).await.unwrap();
        loop {
            let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await.unwrap().unwrap();
            match report {
                Report::Finished(finished) if finished.key == key => {
                    self.handle.order(Order::Acknowledge(vec![key])).await.unwrap();
                    return finished.outcome;
                }
                _ => {}
            }
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_host_whose_disk_is_full_goes_back_to_what_it_has_and_frees_what_is_left_behind() {
    let disk = Disk::mount();
    let source = Arc::new(Memory::default());
    let spec = |version: &str, bytes: Vec<u8>| stella_protocol::spec::ArtifactSpec {
        component: "web".to_owned(),
        version: version.to_owned(),
        size_bytes: bytes.len() as u64,
        digest: source.put(bytes),
        keep_releases: 3,
        timeout_ms: 60_000,
    };
    let mut agent = Running::start(&disk, Arc::clone(&source)).await;
    let old = spec("1", web("1"));
    assert_eq!(agent.run(TaskSpec::Artifact(old.clone())).await, TaskOutcome::Succeeded);
    assert_eq!(agent.run(TaskSpec::Artifact(spec("2", web("2")))).await, TaskOutcome::Succeeded);
    agent.stop().await;

    // As an agent that was killed while it unpacked leaves it, and one that was killed while it fetched, today and long ago.
    let incoming = disk.path().join("root/web/.incoming");
    fs::create_dir_all(incoming.join("killed.unpack/deep/er")).unwrap();
    fs::write(incoming.join("killed.unpack/deep/er/file"), vec![1; 20 * MIB]).unwrap();
    fs::write(incoming.join("today.part"), vec![1; 3 * MIB]).unwrap();
    let long_ago = File::create(incoming.join("long-ago.part")).unwrap();
    long_ago.set_modified(SystemTime::now() - Duration::from_hours(48)).unwrap();
    disk.leave(5 * MIB);
    let mut agent = Running::start(&disk, Arc::clone(&source)).await;
    wait_for("what was left behind to be gone", || !incoming.join("killed.unpack").exists()).await;
    wait_for("an old download to be gone", || !incoming.join("long-ago.part").exists()).await;
    agent.stop().await;

    // With less than the reserve: a command has to wait, a new release does not fit, and the way back is open.
    fs::write(incoming.join("today.part"), vec![1; 3 * MIB]).unwrap();
    disk.leave(5 * MIB);
    agent = Running::start(&disk, Arc::clone(&source)).await;
    wait_for("downloads to be given up", || !incoming.join("today.part").exists()).await;
    disk.leave(5 * MIB);
    // The figure of the free space may be a second old.
    let refused = loop {
        match agent.run(TaskSpec::Command(shell("true"))).await {
            TaskOutcome::Succeeded => tokio::time::sleep(Duration::from_millis(50)).await,
            other => break other,
        }
    };
    let TaskOutcome::Refused { reason } = refused else { panic!("{refused:?}") };
    assert!(reason.contains("no room for the agent's journal"), "{reason}");
    let outcome = agent.run(TaskSpec::Artifact(spec("3", web("3")))).await;
    assert!(failure(&outcome).contains("have to stay free"), "{outcome:?}");
    assert_eq!(agent.run(TaskSpec::Artifact(old)).await, TaskOutcome::Succeeded);
    let version = fs::read_to_string(disk.path().join("root/web/current/version.txt")).unwrap();
    assert_eq!(version, "1");
    agent.stop().await;
}
