//! What a host holds: asked over a real connection, about releases that were really unpacked.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test waits for one thing, and another one ends it")]

mod control_plane;
#[path = "common/hung.rs"]
mod hung;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use control_plane::{Agent, ControlPlane, Home, Peer, dispatch, read_frame, soon};
use hung::Hung;
use sha2::{Digest as _, Sha256};
use stella_protocol::close::CloseCode;
use stella_protocol::digest::Digest;
use stella_protocol::frame;
use stella_protocol::id::QuestionId;
use stella_protocol::limits::QUESTIONS_MAX;
use stella_protocol::message::{
    ArtifactRequest, ArtifactResponse, Holding, Inspect, Inspected, TaskOutcome, Wanted, capability,
};
use stella_protocol::session::control::ControlEvent;
use stella_protocol::spec::{ArtifactSpec, TaskSpec};
use tar::{Builder, EntryType, Header};
use uuid::Uuid;

/// Bytes in the larger one of a release's files.
const LARGE: usize = 300_000;

/// A release with everything that there can be in one.
fn archive() -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    let mut add = |kind, path: &[u8], target: &str, mode, data: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(data.len() as u64);
        let path = Path::new(OsStr::from_bytes(path));
        if target.is_empty() {
            archive.append_data(&mut header, path, data).unwrap();
        } else {
            archive.append_link(&mut header, path, target).unwrap();
        }
    };
    add(EntryType::Regular, b"bin/web", "", 0o755, &vec![7; LARGE]);
    add(EntryType::Regular, b"doc/a \xff%20 file", "", 0o644, b"hello");
    add(EntryType::Regular, b"empty", "", 0o644, b"");
    add(EntryType::Directory, b"log/", "", 0o755, b"");
    add(EntryType::Symlink, b"run", "bin/web", 0o777, b"");
    add(EntryType::Link, b"bin/same", "bin/web", 0o755, b"");
    archive.into_inner().unwrap()
}

struct Site {
    control_plane: ControlPlane,
    home: Home,
    agent: Agent,
    peer: Peer,
    asked: u128,
}

impl Site {
    async fn start() -> Self {
        let control_plane = ControlPlane::start();
        let home = Home::enrolled(&control_plane);
        let agent = Agent::start(&home);
        let (peer, hello) = control_plane.welcome().await;
        assert_eq!(hello.capabilities & capability::HOLDINGS, capability::HOLDINGS);
        Self { control_plane, home, agent, peer, asked: 0 }
    }

    async fn deploy(&mut self, task: u128, version: &str, keep_releases: u8) -> Wanted {
        let archive = [archive(), version.as_bytes().to_vec()].concat();
        let digest = Digest(Sha256::digest(&archive).into());
        let mut work = dispatch(task, "");
        work.spec = TaskSpec::Artifact(ArtifactSpec {
            component: "web".to_owned(),
            version: version.to_owned(),
            digest,
            size_bytes: archive.len() as u64,
            keep_releases,
            timeout_ms: 30_000,
        });
        self.peer.dispatch(work).await;
        let (mut send, mut receive) = soon("a request", self.peer.connection.accept_bi()).await.unwrap();
        let _request: ArtifactRequest = read_frame(&mut receive).await.unwrap();
        let found = ArtifactResponse::Found { size_bytes: archive.len() as u64 };
        send.write_all(&frame::encode(&found).unwrap()).await.unwrap();
        send.write_all(&archive).await.unwrap();
        send.finish().unwrap();
        assert_eq!(self.peer.finished().await.outcome, TaskOutcome::Succeeded);
        Wanted { component: "web".to_owned(), version: version.to_owned(), digest }
    }

    async fn ask(&mut self, slot: Option<&str>, wanted: Vec<Wanted>) -> QuestionId {
        self.asked += 1;
        let question = QuestionId(Uuid::from_u128(self.asked));
        let slot = slot.map(str::to_owned);
        self.ask_within(Inspect { question, slot, wanted, timeout_ms: 30_000 }).await;
        question
    }

    async fn ask_within(&mut self, inspect: Inspect) {
        self.peer.session.inspect(Box::new(inspect)).unwrap();
        self.peer.transmit().await;
    }

    async fn answer(&mut self) -> Inspected {
        match self.peer.report().await {
            ControlEvent::Inspected(inspected) => inspected,
            other => panic!("{other:?} is no answer"),
        }
    }

    async fn holds(&mut self, wanted: &Wanted) -> Holding {
        let question = self.ask(None, vec![wanted.clone()]).await;
        let Inspected { question: answered, mut holdings } = self.answer().await;
        assert_eq!((answered, holdings.len()), (question, 1));
        holdings.remove(0)
    }

    fn releases(&self) -> PathBuf {
        self.home.root().join("web/releases")
    }

    fn release(&self, wanted: &Wanted) -> PathBuf {
        self.releases().join(format!("{}-{}", wanted.version, wanted.digest.short()))
    }
}

fn damage(holding: Holding) -> String {
    let Holding::Damaged { reason } = holding else { panic!("{holding:?} is no damage") };
    reason
}

fn doubt(holding: Holding) -> String {
    let Holding::Unverified { reason } = holding else { panic!("{holding:?} is no doubt") };
    reason
}

#[tokio::test]
async fn what_was_unpacked_is_vouched_for_byte_by_byte() {
    let mut site = Site::start().await;
    let one = site.deploy(1, "1.0.0", 3).await;
    let two = site.deploy(2, "2.0.0", 3).await;
    let whole = Holding::Present { files: 4, bytes: 2 * LARGE as u64 + 5 };
    for wanted in [&one, &two] {
        assert_eq!(site.holds(wanted).await, whole, "the current one and the one before");
    }
    // What a program leaves beside itself is no damage.
    fs::write(site.release(&one).join("log/web.log"), "started").unwrap();
    fs::set_permissions(site.release(&one).join("empty"), PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(site.holds(&one).await, whole);

    let strange = Wanted { digest: Digest([9; 32]), ..one.clone() };
    assert_eq!(site.holds(&strange).await, Holding::Absent);
    let elsewhere = Wanted { component: "db".to_owned(), ..one.clone() };
    assert_eq!(site.holds(&elsewhere).await, Holding::Absent);
    assert!(!site.home.root().join("db").exists(), "a question makes no folders");
    let question = site.ask(Some("green"), vec![one.clone(), two]).await;
    let absent = vec![Holding::Absent, Holding::Absent];
    assert_eq!(site.answer().await, Inspected { question, holdings: absent });
    let leaving = Wanted { component: "../etc".to_owned(), ..one };
    assert!(doubt(site.holds(&leaving).await).contains("plain name"));
    site.agent.stop().await;
}

#[tokio::test]
async fn what_was_changed_or_lost_is_found_and_named() {
    let mut site = Site::start().await;
    let one = site.deploy(1, "1.0.0", 3).await;
    let dir = site.release(&one);
    let web = dir.join("bin/web");
    let changes: [(&str, &dyn Fn()); 6] = [
        ("bin/same is not what was unpacked, bin/web is not what was unpacked", &|| {
            let mut bytes = fs::read(&web).unwrap();
            bytes[LARGE / 2] ^= 1;
            let times = fs::metadata(&web).unwrap().modified().unwrap();
            fs::write(&web, bytes).unwrap();
            fs::File::options().write(true).open(&web).unwrap().set_modified(times).unwrap();
        }),
        ("bin/same cannot be executed any more", &|| {
            fs::write(&web, vec![7; LARGE]).unwrap();
            fs::set_permissions(&web, PermissionsExt::from_mode(0o644)).unwrap();
        }),
        ("run is not what was unpacked", &|| {
            fs::set_permissions(&web, PermissionsExt::from_mode(0o755)).unwrap();
            fs::remove_file(dir.join("run")).unwrap();
            symlink("bin/same", dir.join("run")).unwrap();
        }),
        ("log is missing", &|| {
            fs::remove_file(dir.join("run")).unwrap();
            symlink("bin/web", dir.join("run")).unwrap();
            fs::remove_dir(dir.join("log")).unwrap();
        }),
        ("empty is not what was unpacked", &|| {
            fs::create_dir(dir.join("log")).unwrap();
            fs::remove_file(dir.join("empty")).unwrap();
            nix::unistd::mkfifo(&dir.join("empty"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("its folder is missing", &|| fs::rename(&dir, dir.with_file_name("away")).unwrap()),
    ];
    for (expected, change) in changes {
        change();
        let reason = damage(site.holds(&one).await);
        assert!(reason.starts_with(expected), "{reason} is not {expected}");
    }
    // Put back as it was, it is whole again: what counts is what is there.
    fs::rename(dir.with_file_name("away"), &dir).unwrap();
    fs::remove_file(dir.join("empty")).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    assert!(matches!(site.holds(&one).await, Holding::Present { files: 4, .. }));
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    assert!(damage(site.holds(&one).await).ends_with("and 3 more"));
    site.agent.stop().await;
}

#[tokio::test]
async fn where_the_agent_cannot_tell_it_says_why() {
    let mut site = Site::start().await;
    let one = site.deploy(1, "1.0.0", 3).await;
    let list = site.releases().join(format!(".{}-{}.files", one.version, one.digest.short()));
    let text = fs::read_to_string(&list).unwrap();
    assert!(text.starts_with(&format!("stella-files 1 {}\n", one.digest)), "{text}");
    assert!(text.contains(" doc/a%20%FF%2520%20file\n"), "{text}");

    fs::write(&list, text.replace("bin/same", "bin/sane")).unwrap();
    assert_eq!(doubt(site.holds(&one).await), "the list of its files is damaged");
    fs::write(&list, &text[..text.len() / 2]).unwrap();
    assert!(doubt(site.holds(&one).await).starts_with("the list of its files cannot be read"));
    fs::write(&list, text.lines().next().unwrap().to_owned() + "\n").unwrap();
    assert_eq!(doubt(site.holds(&one).await), "the list of its files has no end");
    fs::write(&list, text.replace(&one.digest.to_string(), &Digest([1; 32]).to_string())).unwrap();
    assert_eq!(doubt(site.holds(&one).await), "the list of its files is not one of this release");
    fs::write(&list, vec![b'x'; 100_000]).unwrap();
    assert!(doubt(site.holds(&one).await).contains("too long"));
    // As an older agent has left it: complete by its marker, and nobody has noted what it was.
    fs::remove_file(&list).unwrap();
    assert!(doubt(site.holds(&one).await).contains("kept no list"));

    fs::write(&list, text).unwrap();
    site.asked += 1;
    let question = QuestionId(Uuid::from_u128(site.asked));
    let many = Inspect { question, slot: None, wanted: vec![one.clone(); 64], timeout_ms: 1 };
    site.peer.session.inspect(Box::new(many)).unwrap();
    site.peer.transmit().await;
    let holdings = site.answer().await.holdings;
    assert_eq!(holdings.len(), 64);
    assert!(doubt(holdings.last().unwrap().clone()).contains("time was up"));
    site.agent.stop().await;
}

#[tokio::test]
async fn a_release_that_goes_takes_its_list_along() {
    let mut site = Site::start().await;
    let one = site.deploy(1, "1.0.0", 3).await;
    let orphan = site.releases().join(".0.9.0-0123456789ab.files");
    fs::write(&orphan, "left by an agent that knows nothing of lists").unwrap();
    site.deploy(2, "2.0.0", 3).await;
    site.deploy(3, "3.0.0", 1).await;
    assert_eq!(site.holds(&one).await, Holding::Absent);
    let names: Vec<String> = fs::read_dir(site.releases())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!orphan.exists());
    assert_eq!(names.len(), 6, "two releases, each with its list and its marker: {names:?}");
    site.agent.stop().await;
}

#[tokio::test]
async fn tasks_go_on_beside_questions_and_too_many_are_turned_away() {
    let mut site = Site::start().await;
    let one = site.deploy(1, "1.0.0", 3).await;
    let started = SystemTime::now();
    let questions = QUESTIONS_MAX + 40;
    for _ in 0..questions {
        site.ask(None, vec![one.clone(); 8]).await;
    }
    site.peer.dispatch(dispatch(2, "true")).await;
    let (mut present, mut refused, mut finished) = (0, 0, 0);
    while present + refused < questions || finished == 0 {
        match site.peer.report().await {
            ControlEvent::Inspected(inspected) => match &inspected.holdings[0] {
                Holding::Present { .. } => present += 1,
                Holding::Unverified { reason } if reason.contains("too many") => refused += 1,
                other => panic!("{other:?}"),
            },
            ControlEvent::Finished(it) => {
                assert_eq!(it.outcome, TaskOutcome::Succeeded);
                finished += 1;
            }
            ControlEvent::Accepted(_) | ControlEvent::Running(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(present >= QUESTIONS_MAX, "{present} answered, {refused} refused in {:?}", started.elapsed());
    site.agent.stop().await;
}

#[tokio::test]
async fn a_look_that_hangs_is_joined_by_no_other_not_even_in_the_next_session() {
    let mut site = Site::start().await;
    let web = site.home.root().join("web");
    fs::create_dir(&web).unwrap();
    let hung = Hung::over(&web);
    let wanted = Wanted { component: "web".to_owned(), version: "1.0.0".to_owned(), digest: Digest([9; 32]) };
    site.ask(None, vec![wanted.clone()]).await;
    // It is at it by the second heartbeat after the question.
    for _ in 0..2 {
        assert!(matches!(site.peer.next().await, ControlEvent::Heartbeat(_)));
    }
    site.peer.connection.close(CloseCode::Normal.code().into(), b"");

    (site.peer, _) = site.control_plane.welcome().await;
    let question = QuestionId(Uuid::from_u128(77));
    site.ask_within(Inspect { question, slot: None, wanted: vec![wanted], timeout_ms: 300 }).await;
    let Inspected { question: answered, mut holdings } = site.answer().await;
    assert_eq!(answered, question);
    assert!(doubt(holdings.remove(0)).contains("busy with an earlier question"));
    drop(hung);
    site.agent.stop().await;
}
