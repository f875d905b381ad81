//! `check` and `systemd` tasks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Host, PATIENCE, failure, shell, wait_for};
use stella_agent::cancel::CancelRequest;
use stella_agent::executor::{
    ActiveState, BoxFuture, Request, TakenBack, UnitError, UnitManager, UnitStanding,
};
use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::{CheckSpec, CommandSpec, Probe, SystemdSpec, TaskSpec, UnitAction};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn check(probe: Probe, timeout_ms: u64) -> CheckSpec {
    CheckSpec { probe, interval_ms: 10, successes: 1, timeout_ms }
}

/// A service that answers with these statuses, the last one for ever. Its address.
async fn service(statuses: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut answered = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let status = statuses[answered.min(statuses.len() - 1)];
            answered += 1;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

fn http(address: &str) -> Probe {
    Probe::Http { url: format!("http://{address}/health"), status: 200 }
}

#[tokio::test]
async fn a_service_is_healthy_after_enough_good_answers_in_a_row() {
    let host = Host::new();
    let address =
        service(&["500 Internal Server Error", "200 OK", "503 Service Unavailable", "200 OK", "200 OK"])
            .await;
    let spec = CheckSpec { successes: 2, ..check(http(&address), 30_000) };
    let (outcome, output) = host.run(TaskSpec::Check(spec)).await;
    assert_eq!(outcome, TaskOutcome::Succeeded);
    assert!(output.agent.contains("healthy after 5 tries"), "{}", output.agent);
}

#[tokio::test]
async fn a_service_that_is_not_healthy_in_time_has_its_last_answer_in_the_reason() {
    let host = Host::new();
    let address = service(&["500 Internal Server Error"]).await;
    let (outcome, _) = host.run(TaskSpec::Check(check(http(&address), 500))).await;
    let reason = failure(&outcome);
    assert!(reason.starts_with("not healthy after "), "{reason}");
    assert!(reason.ends_with("the last answer was 500 Internal Server Error, not 200 OK"), "{reason}");
}

#[tokio::test]
async fn a_service_that_never_answers_does_not_hold_up_the_check() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (outcome, _) = host.run(TaskSpec::Check(check(http(&address), 300))).await;
    assert!(failure(&outcome).contains("no answer in time"), "{outcome:?}");
}

#[tokio::test]
async fn tcp_is_healthy_once_somebody_listens() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let probe = Probe::Tcp { address: address.clone() };
    assert_eq!(host.run(TaskSpec::Check(check(probe.clone(), 30_000))).await.0, TaskOutcome::Succeeded);
    drop(listener);
    let (outcome, _) = host.run(TaskSpec::Check(check(probe, 300))).await;
    assert!(failure(&outcome).contains("refused"), "{outcome:?}");
}

#[tokio::test]
async fn a_command_is_asked_until_it_exits_with_0() {
    let host = Host::new();
    let script = "echo x >> tries; [ $(wc -l < tries) -ge 3 ]";
    let (outcome, output) = host.run(TaskSpec::Check(check(Probe::Command(shell(script)), 30_000))).await;
    assert_eq!(outcome, TaskOutcome::Succeeded, "{output:?}");
    assert!(output.agent.contains("healthy after 3 tries"), "{}", output.agent);

    let (outcome, _) = host.run(TaskSpec::Check(check(Probe::Command(shell("exit 3")), 500))).await;
    assert!(failure(&outcome).contains("exited with code 3"), "{outcome:?}");

    let hangs = CommandSpec { timeout_ms: 60_000, ..shell("exec sleep 60") };
    let (outcome, _) = host.run(TaskSpec::Check(check(Probe::Command(hangs), 500))).await;
    assert!(failure(&outcome).starts_with("not healthy after"), "{outcome:?}");
}

#[tokio::test]
async fn a_check_can_be_cancelled() {
    let host = Host::new();
    let mut task = host.start(TaskSpec::Check(check(Probe::Command(shell("exit 1")), 600_000)));
    // The first words are about a try.
    assert!(task.output.recv().await.is_some());
    task.cancel.request(CancelRequest { grace: Duration::ZERO, reason: "a test".to_owned() });
    assert_eq!(tokio::time::timeout(PATIENCE, task.run).await.unwrap().unwrap(), TaskOutcome::Cancelled);
}

#[tokio::test]
async fn only_http_urls_are_asked() {
    let host = Host::new();
    for url in ["https://localhost/", "file:///etc/passwd", "health", "http://"] {
        let probe = Probe::Http { url: url.to_owned(), status: 200 };
        let (outcome, _) = host.run(TaskSpec::Check(check(probe, 5_000))).await;
        assert!(failure(&outcome).contains("is not an http:// URL"), "{outcome:?}");
    }
}

/// Units that say these states, one after the other.
#[derive(Debug)]
struct Units {
    states: Mutex<VecDeque<ActiveState>>,
    asked: Mutex<Vec<(String, UnitAction)>>,
    taken_back: Mutex<Vec<String>>,
}

impl Units {
    fn new(states: impl IntoIterator<Item = ActiveState>) -> Arc<Self> {
        let states = Mutex::new(states.into_iter().collect());
        Arc::new(Self { states, asked: Mutex::default(), taken_back: Mutex::default() })
    }
}

impl UnitManager for Units {
    fn act<'a>(&'a self, request: &'a Arc<Request>) -> BoxFuture<'a, Result<(), UnitError>> {
        self.asked.lock().unwrap().push((request.unit.clone(), request.action));
        Box::pin(async { Ok(()) })
    }

    fn active_state<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<ActiveState, UnitError>> {
        let state = self.states.lock().unwrap().pop_front();
        Box::pin(async { Ok(state.unwrap_or_else(|| ActiveState::Other("activating".to_owned()))) })
    }

    fn standing<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<UnitStanding, UnitError>> {
        Box::pin(async { unreachable!("no task asks for that") })
    }

    fn take_back<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<TakenBack, UnitError>> {
        self.taken_back.lock().unwrap().push(request.unit.clone());
        let has_begun = request.action == UnitAction::Restart;
        Box::pin(async move {
            Ok(if has_begun { TakenBack::GoesOn("it has begun") } else { TakenBack::Cancelled })
        })
    }
}

fn unit(unit: &str, action: UnitAction, timeout_ms: u64) -> TaskSpec {
    TaskSpec::Systemd(SystemdSpec { unit: unit.to_owned(), action, timeout_ms })
}

#[tokio::test]
async fn a_unit_is_waited_for() {
    let mut host = Host::new();
    let units = Units::new([ActiveState::Other("activating".to_owned()), ActiveState::Active]);
    host.units = Arc::<Units>::clone(&units);
    let task = unit("web.service", UnitAction::Restart, 30_000);
    assert_eq!(host.run(task).await.0, TaskOutcome::Succeeded);
    assert_eq!(*units.asked.lock().unwrap(), [("web.service".to_owned(), UnitAction::Restart)]);

    host.units = Units::new([ActiveState::Other("activating".to_owned()), ActiveState::Failed]);
    let (outcome, _) = host.run(unit("web.service", UnitAction::Start, 30_000)).await;
    assert!(failure(&outcome).contains("journalctl -u web.service"), "{outcome:?}");

    host.units = Units::new([ActiveState::Other("deactivating".to_owned()), ActiveState::Inactive]);
    assert_eq!(host.run(unit("web.service", UnitAction::Stop, 30_000)).await.0, TaskOutcome::Succeeded);

    assert!(units.taken_back.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_systemd_was_asked_for_is_taken_back_when_the_task_is_stopped() {
    let mut host = Host::new();
    let units = Units::new([]);
    host.units = Arc::<Units>::clone(&units);
    let (outcome, output) = host.run(unit("web.service", UnitAction::Start, 300)).await;
    assert_eq!(outcome, TaskOutcome::TimedOut);
    assert!(output.agent.contains("the job of web.service was cancelled"), "{output:?}");

    let task = host.start(unit("db.service", UnitAction::Restart, 60_000));
    wait_for("the action", || units.asked.lock().unwrap().len() == 2).await;
    task.cancel.request(CancelRequest { grace: Duration::ZERO, reason: "a test".to_owned() });
    assert_eq!(tokio::time::timeout(PATIENCE, task.run).await.unwrap().unwrap(), TaskOutcome::Cancelled);
    assert_eq!(*units.taken_back.lock().unwrap(), ["web.service", "db.service"]);
}

#[tokio::test]
async fn a_unit_name_cannot_be_an_option_or_a_path() {
    let mut host = Host::new();
    let units = Units::new([]);
    host.units = Arc::<Units>::clone(&units);
    for name in ["--now.service", "web", ".service", "../web.service", "a b.service", "web.service;reboot"] {
        let (outcome, _) = host.run(unit(name, UnitAction::Start, 5_000)).await;
        assert!(failure(&outcome).contains("is no unit name"), "{outcome:?}");
    }
    assert!(units.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_host_without_systemd_says_so() {
    if std::path::Path::new("/run/systemd/system").exists() {
        // On a host with systemd, what can be tested without touching it is that an unknown unit is refused.
        let (outcome, _) =
            Host::new().run(unit("stella-no-such-unit.service", UnitAction::Start, 30_000)).await;
        assert!(failure(&outcome).contains("stella-no-such-unit.service"), "{outcome:?}");
        return;
    }
    let (outcome, _) = Host::new().run(unit("web.service", UnitAction::Start, 5_000)).await;
    assert!(failure(&outcome).contains("does not run systemd"), "{outcome:?}");
}
