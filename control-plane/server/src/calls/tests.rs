//! Calls on a real journal, to a hook that answers when it is told to.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;
use stella_domain::command::{NewRun, SystemCommand};
use stella_domain::listening::Listening;
use stella_domain::run::{Run, StepState};
use stella_engine::{Config, Engine};
use stella_journal::{JournalConfig, SledJournal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;

/// How long something may take before it is said to be missing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What has come, and what is answered: nothing as long as it is 0.
struct Hook {
    url: String,
    calls: watch::Sender<Vec<Seen>>,
    answer: watch::Sender<u16>,
    server: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Seen {
    path: String,
    key: String,
    head: String,
    /// Whether the caller hung up before it was answered.
    gone: Arc<Mutex<bool>>,
}

impl Hook {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (calls, answer) = (watch::Sender::new(Vec::new()), watch::Sender::new(0));
        let (seen, told) = (calls.clone(), answer.clone());
        let server = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, seen.clone(), told.subscribe()));
            }
        });
        Self { url, calls, answer, server }
    }

    async fn wait(&self, what: &str, is_it: impl FnMut(&Vec<Seen>) -> bool) -> Vec<Seen> {
        let mut calls = self.calls.subscribe();
        let found = tokio::time::timeout(PATIENCE, calls.wait_for(is_it)).await;
        match found {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("{what}: {:?}", self.calls.borrow()),
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(mut stream: TcpStream, calls: watch::Sender<Vec<Seen>>, mut answer: watch::Receiver<u16>) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).await.unwrap_or_default() == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).unwrap().to_owned();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let gone = Arc::new(Mutex::new(false));
    calls.send_modify(|all| all.push(Seen { path, key, head: head.clone(), gone: Arc::clone(&gone) }));
    tokio::select! {
        status = async { *answer.wait_for(|it| *it != 0).await.unwrap() } => {
            // It repeats what it was sent.
            let length = head.len();
            let answer = format!("HTTP/1.1 {status} So\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{head}");
            stream.write_all(answer.as_bytes()).await.ok();
        }
        _ = stream.read(&mut byte) => {
            *gone.lock() = true;
            calls.send_modify(|_| ());
        }
    }
}

struct World {
    engine: Engine,
    hook: Hook,
    folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        stella_certs::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let config = JournalConfig { cache_bytes: 8 << 20, reserve_bytes: 0 };
        let journal = SledJournal::open(&Path::new(folder.path()).join("journal"), config).unwrap();
        let engine = Engine::start(Arc::new(journal), Config::default()).unwrap();
        Self { engine, hook: Hook::start().await, folder }
    }

    fn caller(&self) -> Caller {
        let everybody = json!({ "url": self.hook.url, "tenants": ["*"] });
        self.caller_that_may(json!({ "http_allowed": [everybody] }))
    }

    fn caller_that_may(&self, workflows: Value) -> Caller {
        let workflows = serde_json::from_value(workflows).unwrap();
        let config = crate::config::Config { workflows, ..Default::default() };
        // Nobody changes it.
        let (_, config) = tokio::sync::watch::channel(Arc::new(config));
        Caller::new(self.engine.handle(), config).unwrap()
    }

    async fn submit(&self, command: Command) {
        let (actor, trace) = (Actor::System, TraceContext::default());
        let submission = Submission { actor, trace, idempotency: None, command };
        self.engine.handle().submit(submission).await.unwrap();
    }

    /// A tenant with a workflow of one call.
    async fn tenant(&self, tenant: TenantId, retry: &Value) {
        let name = name(tenant);
        let call = json!({ "url": format!("{}{name}", self.hook.url) });
        self.tenant_that_calls(tenant, &call, retry).await;
    }

    async fn tenant_that_calls(&self, tenant: TenantId, call: &Value, retry: &Value) {
        let create = SystemCommand::CreateTenant { id: tenant, name: name(tenant).parse().unwrap() };
        self.submit(Command::System(create)).await;
        let template = json!({ "name": "tell", "steps": [
            { "id": "call", "timeout": "5m", "http": call, "retry": retry },
        ]});
        let template = TenantCommand::ApplyWorkflow(serde_json::from_value(template).unwrap());
        self.submit(Command::Tenant(tenant, template)).await;
    }

    async fn run(&self, tenant: TenantId, id: RunId) {
        let workflow = "tell".parse().unwrap();
        let new = NewRun { id, workflow, version: None, inputs: BTreeMap::new() };
        self.submit(Command::Tenant(tenant, TenantCommand::StartRun(Box::new(new)))).await;
    }

    /// Waits until the one step of a run is so.
    async fn step(&self, tenant: TenantId, run: RunId, is_it: impl Fn(&StepState) -> bool) -> Run {
        let handle = self.engine.handle();
        let mut commits = handle.subscribe();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let found = handle.state().tenants[&tenant].runs[&run].as_ref().clone();
                if found.steps.values().all(|step| is_it(&step.state)) {
                    return found;
                }
                commits.recv().await.ok();
            }
        });
        found.await.unwrap_or_else(|_| panic!("{:?}", handle.state().tenants[&tenant].runs[&run]))
    }
}

const fn tenant(n: u128) -> TenantId {
    TenantId(Uuid::from_u128(n))
}

fn name(tenant: TenantId) -> String {
    format!("tenant-{}", tenant.0.as_u128())
}

const fn run(n: u128) -> RunId {
    RunId(Uuid::from_u128(n))
}

#[tokio::test]
async fn calls_of_a_tenant_that_take_long_keep_no_other_tenant_waiting() {
    let world = World::start().await;
    for n in 1..=2 {
        world.tenant(tenant(n), &json!(null)).await;
    }
    let runs = CALLS_MAX as u128 + 8;
    for n in 1..=runs {
        world.run(tenant(1), run(n)).await;
    }
    let until = CancellationToken::new();
    let calling = tokio::spawn(world.caller().run(until.clone()));
    let first = world.hook.wait("as many as may be", |all| all.len() == CALLS_OF_TENANT_MAX).await;
    assert!(first.iter().all(|it| it.path == "/tenant-1"), "{first:?}");
    world.run(tenant(2), run(1_000)).await;
    let second = |all: &Vec<Seen>| all.iter().any(|it| it.path == "/tenant-2");
    let seen = world.hook.wait("the other tenant's call", second).await;
    assert_eq!(seen.len(), CALLS_OF_TENANT_MAX + 1, "nobody has answered yet: {seen:?}");
    world.hook.answer.send_replace(200);
    world.hook.wait("all of them", |all| all.len() as u128 == runs + 1).await;
    world.step(tenant(2), run(1_000), StepState::is_final).await;
    until.cancel();
    calling.await.unwrap();
    world.engine.stop();
}

/// The first of two tenants may call by a name, and has headers there that are in no template; the other may not, and is answered nothing.
#[tokio::test]
async fn a_destination_with_a_name_has_headers_that_nobody_sees() {
    const SECRET: &str = "k1-5678901234567";
    let world = World::start().await;
    let by_name = json!({ "to": "tickets", "path": "issue/${run.workflow}", "keep_body": true });
    let by_address = json!({ "url": format!("{}rest/issue", world.hook.url), "keep_body": true });
    let own = json!({ "to": "tickets", "headers": { "X-Key": "mine" } });
    world.tenant_that_calls(tenant(1), &by_name, &json!(null)).await;
    world.tenant_that_calls(tenant(2), &by_name, &json!(null)).await;
    world.tenant_that_calls(tenant(3), &by_address, &json!(null)).await;
    world.tenant_that_calls(tenant(4), &own, &json!(null)).await;
    for n in 1..=4 {
        world.run(tenant(n), run(n)).await;
    }
    let headers_file = world.folder.path().join("headers");
    std::fs::write(&headers_file, format!("Authorization: Bearer {SECRET}\nX-Key: {SECRET}\n")).unwrap();
    let url = format!("{}rest/", world.hook.url);
    let tenants = [name(tenant(1)), name(tenant(4))];
    let caller = world.caller_that_may(json!({
        "http_allowed": [{ "url": url, "tenants": tenants }],
        "http": { "tickets": { "url": url, "headers_file": headers_file, "tenants": tenants } },
    }));
    world.hook.answer.send_replace(200);
    let until = CancellationToken::new();
    let calling = tokio::spawn(caller.run(until.clone()));
    let mut told = Vec::new();
    for n in 1..=4 {
        let ended = world.step(tenant(n), run(n), StepState::is_final).await;
        told.push(serde_json::to_string(&ended).unwrap());
    }
    let seen = world.hook.calls.borrow().clone();
    assert_eq!(seen.iter().map(|it| it.path.as_str()).collect::<Vec<_>>(), ["/rest/issue/tell"], "{seen:?}");
    assert!(seen[0].head.contains(&format!("authorization: Bearer {SECRET}")), "{seen:?}");
    for (told, wanted) in told.iter().zip([
        "authorization: ***",
        "workflows of tenant tenant-2 have no destination tickets",
        "workflows of tenant tenant-3 may not call 127.0.0.1 there",
        "the header X-Key is not the template's to set",
    ]) {
        assert!(told.contains(wanted) && !told.contains(SECRET), "{wanted}: {told}");
    }
    until.cancel();
    calling.await.unwrap();
    world.engine.stop();
}

#[tokio::test]
async fn a_call_that_breaks_off_fails_its_step_and_is_not_made_again() {
    let world = World::start().await;
    world.tenant(tenant(1), &json!(null)).await;
    world.run(tenant(1), run(1)).await;
    let mut caller = world.caller();
    // As if the call had: it has no defect that a test could ask for.
    let key = (tenant(1), run(1), "call".parse().unwrap(), 1);
    let panicked = tokio::spawn(async { panic!("a defect") }).await.unwrap_err();
    caller.note(key, Err(panicked));
    let until = CancellationToken::new();
    let calling = tokio::spawn(caller.run(until.clone()));
    let ended = world.step(tenant(1), run(1), StepState::is_final).await;
    let reason = format!("{:?}", ended.status);
    assert!(reason.contains(BROKEN), "{reason}");
    assert!(world.hook.calls.borrow().is_empty(), "{:?}", world.hook.calls.borrow());
    until.cancel();
    calling.await.unwrap();
    world.engine.stop();
}

#[tokio::test]
async fn what_is_remembered_of_calls_goes_with_them() {
    let world = World::start().await;
    world.tenant(tenant(1), &json!(null)).await;
    world.run(tenant(1), run(1)).await;
    let mut caller = world.caller();
    let key = (tenant(1), run(1), "call".parse().unwrap(), 1);
    caller.note(key, Ok(Told::Refused));
    caller.begin();
    assert_eq!(caller.refused.len(), 1, "it is not made again as long as it is wanted");
    let cancel = TenantCommand::CancelRun { run: run(1), reason: "x".to_owned() };
    world.submit(Command::Tenant(tenant(1), cancel)).await;
    caller.begin();
    assert!(caller.refused.is_empty() && world.hook.calls.borrow().is_empty());
    world.engine.stop();
}

#[tokio::test]
async fn a_call_whose_run_is_cancelled_is_given_up() {
    let world = World::start().await;
    world.tenant(tenant(1), &json!(null)).await;
    world.run(tenant(1), run(1)).await;
    let until = CancellationToken::new();
    let calling = tokio::spawn(world.caller().run(until.clone()));
    world.hook.wait("the call", |all| all.len() == 1).await;
    let cancel = TenantCommand::CancelRun { run: run(1), reason: "x".to_owned() };
    world.submit(Command::Tenant(tenant(1), cancel)).await;
    world.hook.wait("the caller hangs up", |all| *all[0].gone.lock()).await;
    until.cancel();
    calling.await.unwrap();
    world.engine.stop();
}

#[tokio::test]
async fn each_attempt_has_a_key_of_its_own_and_keeps_it_over_a_restart() {
    let world = World::start().await;
    world.tenant(tenant(1), &json!({ "attempts": 2, "backoff": "1s" })).await;
    world.run(tenant(1), run(1)).await;
    let calling = tokio::spawn(world.caller().run(CancellationToken::new()));
    world.hook.wait("the call", |all| all.len() == 1).await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    world.hook.answer.send_replace(500);
    let until = CancellationToken::new();
    let calling = tokio::spawn(world.caller().run(until.clone()));
    world.step(tenant(1), run(1), |it| matches!(it, StepState::BackingOff { .. })).await;
    world.hook.answer.send_replace(200);
    while world.engine.handle().state().tenants[&tenant(1)].runs[&run(1)].is_open(&"call".parse().unwrap()) {
        world.submit(Command::Tick(Listening::Always)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let keys: Vec<_> = world.hook.calls.borrow().iter().map(|it| it.key.clone()).collect();
    let key = |attempt: u32| format!("{}/call/{attempt}", run(1));
    assert_eq!(keys, [key(1), key(1), key(2)]);
    until.cancel();
    calling.await.unwrap();
    world.engine.stop();
}
