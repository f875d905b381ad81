//! Every bound of every message: the largest passes, one more is refused by name.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::world::{command, dispatch, finished};
use common::{hello, key, mark, resources, uuid};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Attempt, EnrolmentTokenId, QuestionId, SessionEpoch};
use stella_protocol::limits::{
    ACKNOWLEDGEMENTS_MAX, ARGUMENTS_MAX, CERTIFICATES_MAX, CHAIN_BYTES_MAX, COMMAND_BYTES_MAX, CSR_BYTES_MAX,
    HEARTBEAT_INTERVAL_MS_RANGE, HOLDINGS_MAX, INSPECT_TIME_MS_MAX, NAME_BYTES_MAX, OPEN_ATTEMPTS_MAX,
    PATH_BYTES_MAX, REASON_BYTES_MAX, TASK_TIME_MS_MAX, VERSION_BYTES_MAX,
};
use stella_protocol::message::{
    AttemptProbe, AttemptProbed, Cancel, Dispatch, Effect, EnrolRequest, EnrolResponse, FiguresAt, Finished,
    Granted, Hello, Holding, Inspect, Inspected, OpenAttempt, Phase, Profile, RenewRequest, Renewed,
    Resources, TaskOutcome, ToAgent, ToControlPlane, Trust, Trusts, Wanted, Welcome,
};
use stella_protocol::spec::{ArtifactSpec, CheckSpec, CommandSpec, Probe, SystemdSpec, TaskSpec, UnitAction};
use stella_protocol::time::Timestamp;
use stella_protocol::validate::Validate;

/// `make` with the bound passes, with one more it names the field.
fn at_most<T: Validate>(field: &str, max: usize, make: impl Fn(usize) -> T) {
    assert_eq!(make(max).validate(), Ok(()), "{field} of {max}");
    assert_eq!(make(max + 1).validate().expect_err(field).field(), field);
}

/// Both ends of the range pass, and what is beside them does not.
fn within<T: Validate>(field: &str, (min, max): (u64, u64), make: impl Fn(u64) -> T) {
    assert_eq!(make(min).validate(), Ok(()), "{field} of {min}");
    assert_eq!(make(max).validate(), Ok(()), "{field} of {max}");
    for outside in [min.checked_sub(1), max.checked_add(1)].into_iter().flatten() {
        assert_eq!(make(outside).validate().expect_err(field).field(), field, "{outside}");
    }
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

#[test]
fn the_handshake_is_bounded() {
    let hello_of = |hello| ToControlPlane::Hello(hello);
    at_most("hello.agent_version", VERSION_BYTES_MAX, |n| {
        hello_of(Hello { agent_version: text(n), ..hello() })
    });
    let open = OpenAttempt { key: key(1, 1), phase: Phase::Running };
    at_most("hello.open", OPEN_ATTEMPTS_MAX, |n| hello_of(Hello { open: vec![open; n], ..hello() }));
    for load_1m in [f32::NAN, f32::INFINITY, -1.0] {
        let invalid = Hello { resources: Resources { load_1m, ..resources() }, ..hello() }.validate();
        assert_eq!(invalid.unwrap_err().field(), "resources.load_1m");
    }

    let welcome = |heartbeat_interval_ms, settled| {
        ToAgent::Welcome(Welcome {
            session: SessionEpoch(1),
            control_plane: mark(1, 1),
            heartbeat_interval_ms,
            settled: vec![key(1, 1); settled],
            now: Timestamp(0),
        })
    };
    within("welcome.heartbeat_interval_ms", HEARTBEAT_INTERVAL_MS_RANGE, |n| welcome(n, 0));
    at_most("welcome.settled", OPEN_ATTEMPTS_MAX, |n| welcome(5000, n));
}

#[test]
fn the_control_stream_is_bounded() {
    let dispatch_of = |change: &dyn Fn(&mut Dispatch)| {
        let mut dispatch = dispatch(key(1, 1), SessionEpoch(1));
        change(&mut dispatch);
        ToAgent::Dispatch(Box::new(dispatch))
    };
    assert_eq!(dispatch_of(&|d| d.attempt = Attempt(0)).validate().unwrap_err().field(), "dispatch.attempt");
    at_most("dispatch.target_name", NAME_BYTES_MAX, |n| dispatch_of(&|d| d.target_name = text(n)));
    at_most("dispatch.slot", NAME_BYTES_MAX, |n| dispatch_of(&|d| d.slot = Some(text(n))));
    at_most("dispatch.release_version", VERSION_BYTES_MAX, |n| dispatch_of(&|d| d.release_version = text(n)));
    within("cancel.grace_ms", (0, TASK_TIME_MS_MAX), |grace_ms| {
        ToAgent::Cancel(Cancel { key: key(1, 1), grace_ms })
    });
    within("cancel.grace_ms", (0, TASK_TIME_MS_MAX), |grace_ms| {
        ToAgent::End(Cancel { key: key(1, 1), grace_ms })
    });
    at_most("acknowledge", ACKNOWLEDGEMENTS_MAX, |n| ToAgent::Acknowledge(vec![key(1, 1); n]));

    let outcomes: [fn(String) -> TaskOutcome; 3] = [
        |reason| TaskOutcome::Failed { reason, exit_code: None },
        |reason| TaskOutcome::Unknown { reason },
        |reason| TaskOutcome::Refused { reason },
    ];
    for outcome in outcomes {
        at_most("outcome.reason", REASON_BYTES_MAX, |n| {
            ToControlPlane::Finished(Finished { outcome: outcome(text(n)), ..finished(key(1, 1)) })
        });
    }
}

#[test]
fn questions_about_what_a_host_holds_are_bounded() {
    let inspect = |slot: usize, wanted: usize, component: usize, version: usize, timeout_ms| {
        let (component, version) = (text(component), text(version));
        let one = Wanted { component, version, digest: Digest([0; 32]) };
        ToAgent::Inspect(Box::new(Inspect {
            question: QuestionId(uuid(1)),
            slot: Some(text(slot)),
            wanted: vec![one; wanted],
            timeout_ms,
        }))
    };
    at_most("inspect.slot", NAME_BYTES_MAX, |n| inspect(n, 1, 1, 1, 1));
    assert_eq!(inspect(1, 0, 1, 1, 1).validate().unwrap_err().field(), "inspect.wanted");
    at_most("inspect.wanted", HOLDINGS_MAX, |n| inspect(1, n, NAME_BYTES_MAX, VERSION_BYTES_MAX, 1));
    at_most("wanted.component", NAME_BYTES_MAX, |n| inspect(1, 1, n, 1, 1));
    at_most("wanted.version", VERSION_BYTES_MAX, |n| inspect(1, 1, 1, n, 1));
    within("inspect.timeout_ms", (1, INSPECT_TIME_MS_MAX), |n| inspect(1, 1, 1, 1, n));

    let inspected = |holdings: usize, reason: usize| {
        let damaged = Holding::Damaged { reason: text(reason) };
        ToControlPlane::Inspected(Inspected {
            question: QuestionId(uuid(1)),
            holdings: vec![damaged; holdings],
        })
    };
    at_most("inspected.holdings", HOLDINGS_MAX, |n| inspected(n, REASON_BYTES_MAX));
    at_most("holding.reason", REASON_BYTES_MAX, |n| inspected(1, n));
    let unverified = Holding::Unverified { reason: text(REASON_BYTES_MAX + 1) };
    assert_eq!(unverified.validate().unwrap_err().field(), "holding.reason");
    let full = inspected(HOLDINGS_MAX, REASON_BYTES_MAX);
    assert!(stella_protocol::frame::encode(&full).is_ok(), "the largest answer fits a frame");
    let full = inspect(NAME_BYTES_MAX, HOLDINGS_MAX, NAME_BYTES_MAX, VERSION_BYTES_MAX, 1);
    assert!(stella_protocol::frame::encode(&full).is_ok(), "and so does the largest question");
}

#[test]
fn questions_about_an_attempt_are_bounded() {
    let probe = |attempt: u32, slot: usize, timeout_ms, spec| {
        ToAgent::Probe(Box::new(AttemptProbe {
            question: QuestionId(uuid(1)),
            key: key(1, attempt),
            slot: Some(text(slot)),
            spec,
            since: Timestamp(0),
            timeout_ms,
        }))
    };
    let spec = || dispatch(key(1, 1), SessionEpoch(1)).spec;
    at_most("probe.slot", NAME_BYTES_MAX, |n| probe(1, n, 1, spec()));
    within("probe.timeout_ms", (1, INSPECT_TIME_MS_MAX), |n| probe(1, 1, n, spec()));
    assert_eq!(probe(0, 1, 1, spec()).validate().unwrap_err().field(), "probe.attempt");

    for effect in
        [|what| Effect::There { what }, |what| Effect::Absent { what }, |reason| Effect::Unclear { reason }]
    {
        at_most("effect.reason", REASON_BYTES_MAX, |n| {
            let question = QuestionId(uuid(1));
            ToControlPlane::Probed(AttemptProbed { question, effect: effect(text(n)) })
        });
    }
}

#[test]
fn figures_are_at_a_host_and_a_port() {
    let figures = |host: &str, port| FiguresAt { host: Some(host.to_owned()), port };
    for good in ["web-1", "web_1.example.com", "10.0.0.1", "::1", "2001:db8::9091", "a"] {
        assert_eq!(figures(good, 1).validate(), Ok(()), "{good}");
    }
    for bad in ["", ".", "web-1.", "a..b", "web 1", "web-1:9091", "[::1]", "a/b", "a@b", "é", "a\n", "::g"] {
        assert_eq!(figures(bad, 1).validate().unwrap_err().field(), "figures.host", "{bad}");
    }
    at_most("figures.host", NAME_BYTES_MAX, |n| ToControlPlane::FiguresAt(figures(&text(n), 1)));
    assert_eq!(FiguresAt { host: None, port: 0 }.validate().unwrap_err().field(), "figures.port");
    assert_eq!(FiguresAt { host: None, port: u16::MAX }.validate(), Ok(()));
}

#[test]
fn certificates_and_enrolment_are_bounded() {
    at_most("renew.csr_der", CSR_BYTES_MAX, |n| ToControlPlane::Renew(RenewRequest { csr_der: vec![0; n] }));
    let renewed = |chain_der, roots_der| ToAgent::Renewed(Renewed { chain_der, roots_der });
    at_most("renewed.chain_der", CHAIN_BYTES_MAX, |n| renewed(vec![vec![0; n - 1], vec![0]], vec![]));
    at_most("renewed.chain_der", CERTIFICATES_MAX, |n| renewed(vec![vec![]; n], vec![]));
    let trust = |roots_der| ToAgent::Trust(Trust { roots_der, renew: false });
    at_most("trust.roots_der", CERTIFICATES_MAX, |n| trust(vec![vec![1]; n]));
    at_most("trust.roots_der", CHAIN_BYTES_MAX, |n| trust(vec![vec![0; n]]));
    at_most("trusts.roots", CERTIFICATES_MAX, |n| {
        ToControlPlane::Trusts(Trusts { roots: vec![Digest([0; 32]); n], certificate: Digest([0; 32]) })
    });
    at_most("renewed.roots_der", CHAIN_BYTES_MAX, |n| renewed(vec![], vec![vec![0; n]]));

    let request = |csr: usize, hostname: usize, version: usize| EnrolRequest {
        token: EnrolmentTokenId(uuid(1)),
        secret: [1; 32],
        csr_der: vec![0; csr],
        hostname: text(hostname),
        agent_version: text(version),
    };
    at_most("enrol.csr_der", CSR_BYTES_MAX, |n| request(n, 1, 1));
    at_most("enrol.hostname", NAME_BYTES_MAX, |n| request(1, n, 1));
    at_most("enrol.agent_version", VERSION_BYTES_MAX, |n| request(1, 1, n));
    at_most("refused.reason", REASON_BYTES_MAX, |n| EnrolResponse::Refused { reason: text(n) });
    let granted = |chain: usize, roots: usize| EnrolResponse::Granted {
        tenant: stella_protocol::id::TenantId(uuid(1)),
        agent: stella_protocol::id::AgentId(uuid(2)),
        chain_der: vec![vec![0; chain]],
        roots_der: vec![vec![0; roots]],
    };
    at_most("granted.chain_der", CHAIN_BYTES_MAX, |n| granted(n, 1));
    at_most("granted.roots_der", CHAIN_BYTES_MAX, |n| granted(1, n));
    let bound = |chain: usize, roots: usize| {
        let granted = granted(chain, roots).into_granted().unwrap();
        EnrolResponse::from(Granted { profile: Some(Profile::Full), ..granted })
    };
    at_most("granted.chain_der", CHAIN_BYTES_MAX, |n| bound(n, 1));
    at_most("granted.roots_der", CHAIN_BYTES_MAX, |n| bound(1, n));
}

#[test]
fn commands_are_bounded() {
    let spec = |change: &dyn Fn(&mut CommandSpec)| {
        let mut spec = command();
        change(&mut spec);
        TaskSpec::Command(spec)
    };
    assert_eq!(spec(&|c| c.argv.clear()).validate().unwrap_err().field(), "command.argv");
    at_most("command.argv", ARGUMENTS_MAX, |n| spec(&|c| c.argv = vec![text(1); n]));
    let variables = |n: usize| (0..n).map(|number| (number.to_string(), String::new())).collect();
    at_most("command.environment", ARGUMENTS_MAX, |n| spec(&|c| c.environment = variables(n)));
    at_most("command.argv and command.environment", COMMAND_BYTES_MAX, |n| {
        spec(&|c| {
            c.argv = vec![text(n / 2)];
            c.environment = [(text(1), text(n - n / 2 - 1))].into();
        })
    });
    at_most("command.working_directory", PATH_BYTES_MAX, |n| spec(&|c| c.working_directory = Some(text(n))));
    at_most("command.user", NAME_BYTES_MAX, |n| spec(&|c| c.user = Some(text(n))));
    within("command.timeout_ms", (1, TASK_TIME_MS_MAX), |n| spec(&|c| c.timeout_ms = n));
}

#[test]
fn artifacts_checks_and_units_are_bounded() {
    let artifact = |component: usize, version: usize, keep_releases, timeout_ms| {
        let (component, version, digest) = (text(component), text(version), Digest([0; 32]));
        TaskSpec::Artifact(ArtifactSpec {
            component,
            version,
            digest,
            size_bytes: 1,
            keep_releases,
            timeout_ms,
        })
    };
    at_most("artifact.component", NAME_BYTES_MAX, |n| artifact(n, 1, 1, 1));
    at_most("artifact.version", VERSION_BYTES_MAX, |n| artifact(1, n, 1, 1));
    assert_eq!(artifact(1, 1, 0, 1).validate().unwrap_err().field(), "artifact.keep_releases");
    within("artifact.timeout_ms", (1, TASK_TIME_MS_MAX), |n| artifact(1, 1, 1, n));

    let check = |probe, interval_ms, successes, timeout_ms| {
        TaskSpec::Check(CheckSpec { probe, interval_ms, successes, timeout_ms })
    };
    let tcp = || Probe::Tcp { address: text(1) };
    at_most("check.url", PATH_BYTES_MAX, |n| check(Probe::Http { url: text(n), status: 200 }, 1, 1, 1));
    at_most("check.address", PATH_BYTES_MAX, |n| check(Probe::Tcp { address: text(n) }, 1, 1, 1));
    at_most("command.user", NAME_BYTES_MAX, |n| {
        check(Probe::Command(CommandSpec { user: Some(text(n)), ..command() }), 1, 1, 1)
    });
    within("check.interval_ms", (1, TASK_TIME_MS_MAX), |n| check(tcp(), n, 1, 1));
    assert_eq!(check(tcp(), 1, 0, 1).validate().unwrap_err().field(), "check.successes");
    within("check.timeout_ms", (1, TASK_TIME_MS_MAX), |n| check(tcp(), 1, 1, n));

    let systemd = |unit, timeout_ms| {
        TaskSpec::Systemd(SystemdSpec { unit: text(unit), action: UnitAction::Start, timeout_ms })
    };
    at_most("systemd.unit", NAME_BYTES_MAX, |n| systemd(n, 1));
    within("systemd.timeout_ms", (1, TASK_TIME_MS_MAX), |n| systemd(1, n));
}
