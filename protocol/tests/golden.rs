//! The bytes of every message, pinned: a change here is a change of the wire, and needs a new variant or a new version.
//!
//! `UPDATE_GOLDEN=1 cargo test -p stella-protocol --test golden` writes the files anew; review the difference.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::path::{Path, PathBuf};

use common::{dump, hello, key, mark, resources, undump, uuid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use stella_protocol::digest::Digest;
use stella_protocol::frame::{self, HEADER_BYTES};
use stella_protocol::id::{
    AgentId, Attempt, DeploymentId, EnrolmentTokenId, Generation, Position, QuestionId, SessionEpoch,
    TargetId, TaskId, TenantId,
};
use stella_protocol::message::{
    Accepted, ArtifactRequest, ArtifactResponse, AttemptProbe, AttemptProbed, Cancel, Dispatch, Effect,
    Ending, EndingStage, EnrolRequest, EnrolRequestFor, EnrolResponse, FiguresAt, Finished, Heartbeat, Hello,
    Holding, Inspect, Inspected, OpenAttempt, OutputChunk, OutputHeader, OutputSource, Phase, Profile,
    RenewRequest, Renewed, Running, TaskOutcome, ToAgent, ToControlPlane, TracedDispatch, Trust, Trusts,
    Wanted, Welcome,
};
use stella_protocol::spec::{ArtifactSpec, CheckSpec, CommandSpec, Probe, SystemdSpec, TaskSpec, UnitAction};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::{Baggage, TraceParent, TraceState};
use stella_protocol::validate::Validate;

/// Compares messages with their files and finds files without a message.
struct Golden {
    directory: PathBuf,
    update: bool,
    seen: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Golden {
    fn open() -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
        Self { directory, update, seen: BTreeSet::new(), wrong: Vec::new() }
    }

    fn check<T>(&mut self, name: &str, message: &T)
    where
        T: Serialize + DeserializeOwned + Validate + PartialEq + Debug,
    {
        let file = format!("{name}.hex");
        let path = self.directory.join(&file);
        let encoded = frame::encode(message).unwrap();
        if self.update {
            std::fs::write(&path, dump(&encoded)).unwrap();
        }
        assert!(self.seen.insert(file), "{name} is listed twice");
        let Ok(text) = std::fs::read_to_string(&path) else {
            self.wrong.push(format!("{name}: the golden file is missing"));
            return;
        };
        let golden = undump(&text);
        if text != dump(&encoded) {
            self.wrong
                .push(format!("{name}: the bytes changed\n--- golden\n{text}--- now\n{}", dump(&encoded)));
        }
        match frame::decode::<T>(&golden[HEADER_BYTES..]) {
            Ok(decoded) if decoded == *message => {}
            other => self.wrong.push(format!("{name}: the golden bytes decode to {other:?}")),
        }
    }

    fn finish(self) {
        let files = std::fs::read_dir(&self.directory).unwrap();
        let files: BTreeSet<String> =
            files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        let orphans: Vec<_> = files.difference(&self.seen).collect();
        assert!(orphans.is_empty(), "golden files without a message: {orphans:?}");
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

#[test]
fn every_message_has_the_bytes_of_its_golden_file() {
    let mut golden = Golden::open();
    for (name, frame) in to_control_plane() {
        golden.check(&format!("to_control_plane.{name}"), &frame);
    }
    for (name, frame) in to_agent() {
        golden.check(&format!("to_agent.{name}"), &frame);
    }
    enrolment(&mut golden);
    output_and_artifacts(&mut golden);
    golden.finish();
}

#[test]
fn no_variant_is_without_golden_bytes() {
    let count = |names: BTreeSet<&str>| names.len();
    assert_eq!(
        count(to_control_plane().iter().map(|(_, frame)| frame.name()).collect()),
        variants::<ToControlPlane>()
    );
    assert_eq!(count(to_agent().iter().map(|(_, frame)| frame.name()).collect()), variants::<ToAgent>());
    assert_eq!(distinct(outcomes().map(|(_, _, outcome)| outcome)), variants::<TaskOutcome>());
    assert_eq!(distinct(specs().map(|(_, _, spec)| spec)), variants::<TaskSpec>());
    assert_eq!(distinct(holdings()), variants::<Holding>());
    let probes = specs()
        .filter_map(|(_, _, spec)| if let TaskSpec::Check(spec) = spec { Some(spec.probe) } else { None });
    assert_eq!(distinct(probes), variants::<Probe>());
    let actions = specs()
        .filter_map(|(_, _, spec)| if let TaskSpec::Systemd(spec) = spec { Some(spec.action) } else { None });
    assert_eq!(distinct(actions), variants::<UnitAction>());
    assert_eq!((variants::<EnrolResponse>(), variants::<ArtifactResponse>()), (3, 2));
    assert_eq!(variants::<Profile>(), 2);
    assert_eq!((variants::<OutputSource>(), variants::<Phase>()), (3, 3));
}

/// How many variants an enum has on the wire: the first number that is refused as a variant.
fn variants<T: DeserializeOwned>() -> usize {
    let known = |number: &u8| {
        let decoded = bincode::serde::decode_from_slice::<T, _>(&[*number], bincode::config::standard());
        decoded.map_or_else(|error| !error.to_string().contains("variant index"), |_| true)
    };
    (0..=u8::MAX).take_while(known).count()
}

fn distinct<T>(values: impl Iterator<Item = T>) -> usize {
    values.map(|value| std::mem::discriminant(&value)).collect::<HashSet<_>>().len()
}

fn to_control_plane() -> Vec<(String, ToControlPlane)> {
    let phases = [Phase::Accepted, Phase::Running, Phase::Finished];
    let open = phases.into_iter().zip(1..).map(|(phase, n)| OpenAttempt { key: key(n, n.into()), phase });
    let reconnecting = Hello { control_plane: Some(mark(0xc1, 300)), open: open.collect(), ..hello() };
    let finished = |(name, started_at, outcome)| {
        let finished = Finished {
            key: key(1, 2),
            position: Position(41),
            started_at,
            finished_at: Timestamp(1_700_000_002_000),
            outcome,
        };
        (format!("finished.{name}"), ToControlPlane::Finished(finished))
    };
    let heartbeat = Heartbeat { position: Position(70_000), resources: resources() };
    let named = |name: &str, frame| (name.to_owned(), frame);
    let mut frames = vec![
        named("hello.first", ToControlPlane::Hello(hello())),
        named("hello.reconnecting", ToControlPlane::Hello(reconnecting)),
        named("heartbeat", ToControlPlane::Heartbeat(heartbeat)),
        named("accepted", ToControlPlane::Accepted(Accepted { key: key(1, 2), position: Position(40) })),
        named(
            "running",
            ToControlPlane::Running(Running { key: key(1, 2), started_at: Timestamp(1_700_000_001_000) }),
        ),
        named("renew", ToControlPlane::Renew(RenewRequest { csr_der: vec![0x30, 0x82] })),
        named("goodbye", ToControlPlane::Goodbye),
        named(
            "trusts",
            ToControlPlane::Trusts(Trusts { roots: vec![Digest([1; 32])], certificate: Digest([2; 32]) }),
        ),
    ];
    let holdings: Vec<Holding> = holdings().collect();
    frames.push(named(
        "inspected",
        ToControlPlane::Inspected(Inspected { question: QuestionId(uuid(0x9e)), holdings }),
    ));
    for (name, host) in [("seen", None), ("told", Some("web-1.example.com"))] {
        let figures = FiguresAt { host: host.map(str::to_owned), port: 9091 };
        frames.push(named(&format!("figures_at.{name}"), ToControlPlane::FiguresAt(figures)));
    }
    for (name, stage) in [
        ("delivered", EndingStage::Delivered),
        ("terminated", EndingStage::Terminated),
        ("killed", EndingStage::Killed),
    ] {
        let ending = Ending { key: key(1, 2), stage };
        frames.push(named(&format!("ending.{name}"), ToControlPlane::Ending(ending)));
    }
    let what = "what the host shows".to_owned();
    for (name, effect) in [
        ("there", Effect::There { what: what.clone() }),
        ("absent", Effect::Absent { what: what.clone() }),
        ("unclear", Effect::Unclear { reason: what }),
    ] {
        let probed = AttemptProbed { question: QuestionId(uuid(0x9f)), effect };
        frames.push(named(&format!("probed.{name}"), ToControlPlane::Probed(probed)));
    }
    frames.extend(outcomes().map(finished));
    frames
}

fn holdings() -> impl Iterator<Item = Holding> {
    [
        Holding::Present { files: 3, bytes: 70_000 },
        Holding::Absent,
        Holding::Damaged { reason: "bin/web is missing".into() },
        Holding::Unverified { reason: "no list of its files".into() },
    ]
    .into_iter()
}

fn outcomes() -> impl Iterator<Item = (&'static str, Option<Timestamp>, TaskOutcome)> {
    let started = Some(Timestamp(1_700_000_001_000));
    let failed = |exit_code| TaskOutcome::Failed { reason: "it said no".into(), exit_code };
    [
        ("succeeded", started, TaskOutcome::Succeeded),
        ("failed", started, failed(None)),
        ("failed_with_exit_code", started, failed(Some(-1))),
        ("timed_out", started, TaskOutcome::TimedOut),
        ("cancelled", started, TaskOutcome::Cancelled),
        ("interrupted", started, TaskOutcome::Interrupted),
        ("unknown", started, TaskOutcome::Unknown { reason: "the journal is new".into() }),
        ("refused", None, TaskOutcome::Refused { reason: "stale generation".into() }),
    ]
    .into_iter()
}

fn to_agent() -> Vec<(String, ToAgent)> {
    let welcome = Welcome {
        session: SessionEpoch(3),
        control_plane: mark(0xc1, 301),
        heartbeat_interval_ms: 5000,
        settled: vec![key(1, 1)],
        now: Timestamp(1_700_000_000_000),
    };
    let renewed = Renewed { chain_der: vec![vec![0x30, 1], vec![0x30, 2]], roots_der: vec![vec![0x30, 3]] };
    let named = |name: &str, frame| (name.to_owned(), frame);
    let mut frames = vec![
        named("welcome", ToAgent::Welcome(welcome)),
        named("cancel", ToAgent::Cancel(Cancel { key: key(1, 2), grace_ms: 10_000 })),
        named("end", ToAgent::End(Cancel { key: key(1, 2), grace_ms: 10_000 })),
        named("acknowledge", ToAgent::Acknowledge(vec![key(1, 2), key(2, 1)])),
        named("renewed", ToAgent::Renewed(renewed)),
        named("drain", ToAgent::Drain),
        named("trust", ToAgent::Trust(Trust { roots_der: vec![vec![0x30, 3], vec![0x30, 4]], renew: true })),
        named("inspect", ToAgent::Inspect(Box::new(inspect()))),
        named("where_figures", ToAgent::WhereFigures),
        named("probe", ToAgent::Probe(Box::new(probe()))),
    ];
    let traced = TracedDispatch {
        dispatch: dispatch(None, TaskSpec::Systemd(systemd(UnitAction::Restart))),
        state: TraceState::try_from("congo=t61rcWkgMzE".to_owned()).unwrap(),
        baggage: Baggage::try_from("order=1234,team=web;priority=high".to_owned()).unwrap(),
    };
    frames.push(named("traced_dispatch", ToAgent::TracedDispatch(Box::new(traced))));
    frames.extend(specs().map(|(name, slot, spec)| {
        (format!("dispatch.{name}"), ToAgent::Dispatch(Box::new(dispatch(slot, spec))))
    }));
    frames
}

fn inspect() -> Inspect {
    let wanted = Wanted { component: "web-blue".into(), version: "1.2.3".into(), digest: Digest([0xab; 32]) };
    Inspect {
        question: QuestionId(uuid(0x9e)),
        slot: Some("slot-a".into()),
        wanted: vec![wanted],
        timeout_ms: 55_000,
    }
}

fn probe() -> AttemptProbe {
    AttemptProbe {
        question: QuestionId(uuid(0x9f)),
        key: key(1, 2),
        slot: Some("slot-a".into()),
        spec: TaskSpec::Systemd(systemd(UnitAction::Restart)),
        since: Timestamp(1_700_000_000_000),
        timeout_ms: 55_000,
    }
}

fn dispatch(slot: Option<&str>, spec: TaskSpec) -> Dispatch {
    Dispatch {
        task: TaskId(uuid(1)),
        attempt: Attempt(2),
        session: SessionEpoch(3),
        deployment: DeploymentId(uuid(0xd1)),
        target: TargetId(uuid(0xe1)),
        target_name: "web-1".into(),
        slot: slot.map(Into::into),
        generation: Generation(4),
        release_version: "1.2.3".into(),
        spec,
        trace: TraceParent {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            sampled: true,
        },
    }
}

fn specs() -> impl Iterator<Item = (&'static str, Option<&'static str>, TaskSpec)> {
    let artifact = TaskSpec::Artifact(ArtifactSpec {
        component: "web".into(),
        version: "1.2.3".into(),
        digest: Digest([0xab; 32]),
        size_bytes: 1_234_567,
        keep_releases: 3,
        timeout_ms: 60_000,
    });
    let full = CommandSpec {
        argv: vec!["bin/migrate".into(), "--now".into()],
        environment: [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())].into(),
        working_directory: Some("web/current".into()),
        user: Some("web".into()),
        timeout_ms: 30_000,
    };
    let bare = CommandSpec {
        argv: vec!["/bin/true".into()],
        environment: [].into(),
        working_directory: None,
        user: None,
        timeout_ms: 1000,
    };
    let check =
        |probe| TaskSpec::Check(CheckSpec { probe, interval_ms: 500, successes: 2, timeout_ms: 20_000 });
    let systemd = |action| TaskSpec::Systemd(systemd(action));
    [
        ("artifact", Some("slot-a"), artifact),
        ("command.full", Some("slot-a"), TaskSpec::Command(full)),
        ("command.bare", None, TaskSpec::Command(bare.clone())),
        ("check.http", None, check(Probe::Http { url: "http://127.0.0.1:8080/health".into(), status: 200 })),
        ("check.tcp", None, check(Probe::Tcp { address: "127.0.0.1:8080".into() })),
        ("check.command", None, check(Probe::Command(bare))),
        ("systemd.start", None, systemd(UnitAction::Start)),
        ("systemd.stop", None, systemd(UnitAction::Stop)),
        ("systemd.restart", None, systemd(UnitAction::Restart)),
        ("systemd.reload_or_restart", None, systemd(UnitAction::ReloadOrRestart)),
    ]
    .into_iter()
}

fn systemd(action: UnitAction) -> SystemdSpec {
    SystemdSpec { unit: "web.service".into(), action, timeout_ms: 90_000 }
}

fn enrolment(golden: &mut Golden) {
    let request = EnrolRequest {
        token: EnrolmentTokenId(uuid(0x71)),
        secret: [0x5e; 32],
        csr_der: vec![0x30, 0x82],
        hostname: "host-1".into(),
        agent_version: "0.1.0".into(),
    };
    golden.check("enrol.request", &request);
    for (name, profile) in
        [("any", None), ("confined", Some(Profile::Confined)), ("full", Some(Profile::Full))]
    {
        let asking = EnrolRequestFor { profile, request: request.clone() };
        golden.check(&format!("enrol.request_for.{name}"), &asking);
    }
    let granted = EnrolResponse::Granted {
        tenant: TenantId(uuid(0x7e)),
        agent: AgentId(uuid(0xa9)),
        chain_der: vec![vec![0x30, 1], vec![0x30, 2]],
        roots_der: vec![vec![0x30, 3]],
    };
    golden.check("enrol.granted", &granted);
    for profile in [Profile::Confined, Profile::Full] {
        let granted = EnrolResponse::GrantedFor {
            profile,
            tenant: TenantId(uuid(0x7e)),
            agent: AgentId(uuid(0xa9)),
            chain_der: vec![vec![0x30, 1]],
            roots_der: vec![vec![0x30, 3]],
        };
        golden.check(&format!("enrol.granted_for.{}", profile.name()), &granted);
    }
    golden.check("enrol.refused", &EnrolResponse::Refused { reason: "the token has expired".into() });
}

fn output_and_artifacts(golden: &mut Golden) {
    golden.check("output.header", &OutputHeader { key: key(1, 2), offset: 65_536 });
    let sources =
        [("stdout", OutputSource::Stdout), ("stderr", OutputSource::Stderr), ("agent", OutputSource::Agent)];
    for (name, source) in sources {
        let chunk = OutputChunk { source, at: Timestamp(1_700_000_001_500), bytes: b"ready\n\xff".to_vec() };
        golden.check(&format!("output.chunk.{name}"), &chunk);
    }
    golden.check("artifact.request", &ArtifactRequest { digest: Digest([0xab; 32]), offset: 4096 });
    golden.check("artifact.found", &ArtifactResponse::Found { size_bytes: 1_234_567 });
    golden.check("artifact.not_found", &ArtifactResponse::NotFound);
}
