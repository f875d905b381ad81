//! What the tests of the agent share: a host in a temporary folder, dispatches, and waits on conditions.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod artifacts;
pub(crate) mod disk;
pub(crate) mod hung;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stella_agent::cancel::{CancelHandle, CancelSignal, pair};
use stella_agent::executor::{
    ArtifactSource, BoxFuture, Executor, Fetched, RunContext, SourceError, Systemctl, UnitManager,
};
use stella_agent::host::HostRoot;
use stella_agent::output::OutputSink;
use stella_agent::supervisor::{Spec, Supervisor};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Attempt, AttemptKey, DeploymentId, Generation, SessionEpoch, TargetId, TaskId};
use stella_protocol::message::{Dispatch, OutputChunk, OutputSource, TaskOutcome, TracedDispatch};
use stella_protocol::spec::{CommandSpec, TaskSpec};
use stella_protocol::trace::TraceParent;
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;

/// More than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The agent's real binary as supervisor.
pub(crate) fn supervisor() -> Supervisor {
    Supervisor::at(PathBuf::from(env!("CARGO_BIN_EXE_stella-agent")))
}

/// A source without anything: a task that asks it has done something wrong.
#[derive(Debug)]
pub(crate) struct NoSource;

impl ArtifactSource for NoSource {
    fn fetch(&self, _: Digest, _: u64) -> BoxFuture<'_, Result<Fetched, SourceError>> {
        Box::pin(async { Err(SourceError::NotFound) })
    }
}

/// A host root and a state folder.
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) root: HostRoot,
    pub(crate) artifacts: Arc<dyn ArtifactSource>,
    pub(crate) units: Arc<dyn UnitManager>,
    pub(crate) supervisor: Supervisor,
}

/// What a test holds of a task that runs.
pub(crate) struct Task {
    pub(crate) key: AttemptKey,
    pub(crate) attempt_dir: PathBuf,
    pub(crate) cancel: CancelHandle,
    pub(crate) output: mpsc::Receiver<OutputChunk>,
    pub(crate) run: tokio::task::JoinHandle<TaskOutcome>,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_folder(folder: TempDir) -> Self {
        let root = HostRoot::open(&folder.path().join("root")).unwrap();
        std::fs::create_dir(folder.path().join("attempts")).unwrap();
        let supervisor = supervisor();
        Self {
            folder,
            root,
            artifacts: Arc::new(NoSource),
            units: Arc::new(Systemctl::default()),
            supervisor,
        }
    }

    pub(crate) fn attempt_dir(&self, key: AttemptKey) -> PathBuf {
        self.folder.path().join("attempts").join(key.to_string())
    }

    pub(crate) fn start(&self, spec: TaskSpec) -> Task {
        self.start_dispatch(dispatch(spec))
    }

    pub(crate) fn start_dispatch(&self, dispatch: Dispatch) -> Task {
        self.start_traced(dispatch.into())
    }

    pub(crate) fn start_traced(&self, traced: TracedDispatch) -> Task {
        let (cancel, signal) = pair();
        let (sink, output) = OutputSink::new(4096);
        let (trace, dispatch) = (traced.trace(), traced.dispatch);
        let key = dispatch.key();
        let attempt_dir = self.attempt_dir(key);
        let context = RunContext {
            dispatch,
            trace,
            host: self.root.clone(),
            attempt_dir: attempt_dir.clone(),
            artifacts: Arc::clone(&self.artifacts),
            units: Arc::clone(&self.units),
            output: sink,
            cancel: signal,
        };
        let executor = Executor::new(self.supervisor.clone());
        let run = tokio::spawn(async move { executor.run(context).await });
        Task { key, attempt_dir, cancel, output, run }
    }

    /// Runs a task to its end; its outcome and its output.
    pub(crate) async fn run(&self, spec: TaskSpec) -> (TaskOutcome, Output) {
        let mut task = self.start(spec);
        let mut output = Output::default();
        while let Some(chunk) = tokio::time::timeout(PATIENCE, task.output.recv()).await.unwrap() {
            output.add(&chunk);
        }
        (task.run.await.unwrap(), output)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) agent: String,
}

impl Output {
    pub(crate) fn add(&mut self, chunk: &OutputChunk) {
        let text = match chunk.source {
            OutputSource::Stdout => &mut self.stdout,
            OutputSource::Stderr => &mut self.stderr,
            OutputSource::Agent => &mut self.agent,
        };
        text.push_str(&String::from_utf8_lossy(&chunk.bytes));
    }
}

pub(crate) fn new_key() -> AttemptKey {
    AttemptKey { task: TaskId(Uuid::now_v7()), attempt: Attempt(1) }
}

pub(crate) fn dispatch(spec: TaskSpec) -> Dispatch {
    let key = new_key();
    Dispatch {
        task: key.task,
        attempt: key.attempt,
        session: SessionEpoch(1),
        deployment: DeploymentId(Uuid::now_v7()),
        target: TargetId(Uuid::now_v7()),
        target_name: "web-1".to_owned(),
        slot: None,
        generation: Generation(1),
        release_version: "1.2.3".to_owned(),
        spec,
        trace: TraceParent { trace_id: 0xabc, span_id: 0xdef, sampled: true },
    }
}

pub(crate) fn shell(script: &str) -> CommandSpec {
    CommandSpec {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        environment: BTreeMap::new(),
        working_directory: None,
        user: None,
        timeout_ms: 60_000,
    }
}

pub(crate) fn supervised_shell(key: AttemptKey, script: &str) -> Spec {
    Spec {
        key,
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        working_directory: "/".into(),
        user: None,
        timeout: PATIENCE,
        grace: Duration::from_millis(200),
        is_probe: false,
    }
}

pub(crate) fn no_cancel() -> CancelSignal {
    pair().1
}

/// The process id of an attempt's supervisor, from its record.
pub(crate) fn supervisor_pid(attempt_dir: &std::path::Path) -> i32 {
    let record = std::fs::read_to_string(attempt_dir.join("record")).unwrap();
    let first: serde_json::Value = serde_json::from_str(record.lines().next().unwrap()).unwrap();
    i32::try_from(first["Given"]["supervisor"]["pid"].as_i64().unwrap()).unwrap()
}

/// Waits until `condition` holds. It is about files and processes of others, which tell nobody: it is asked again until then.
pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a file has a whole line with a number.
pub(crate) async fn wait_for_pid(path: &std::path::Path) -> i32 {
    let mut pid = None;
    wait_for(&format!("a process id in {}", path.display()), || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        pid = text.strip_suffix('\n').and_then(|text| text.parse().ok());
        pid.is_some()
    })
    .await;
    pid.unwrap()
}

/// Whether a process runs; zombies do not.
pub(crate) fn is_alive(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !matches!(stat.rsplit(") ").next().and_then(|rest| rest.chars().next()), Some('Z' | 'X'))
}

pub(crate) fn failure(outcome: &TaskOutcome) -> &str {
    let TaskOutcome::Failed { reason, .. } = outcome else { panic!("expected a failure, got {outcome:?}") };
    reason
}
