//! `command` tasks: a program under a supervisor of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use stella_protocol::message::TaskOutcome;
use stella_protocol::spec::{CommandSpec, TaskSpec};

use super::{Limits, RunContext, failed};
use crate::host;
use crate::supervisor::{GRACE_DEFAULT, Spec, Supervisor};

/// Where programs are looked for unless the task says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) async fn run(supervisor: &Supervisor, context: &RunContext, spec: &CommandSpec) -> TaskOutcome {
    let timeout = Duration::from_millis(spec.timeout_ms);
    run_in(supervisor, context, spec, &context.attempt_dir, timeout).await
}

/// Runs a command in a folder of its own, for at most `timeout`.
pub(super) async fn run_in(
    supervisor: &Supervisor,
    context: &RunContext,
    spec: &CommandSpec,
    attempt_dir: &Path,
    timeout: Duration,
) -> TaskOutcome {
    let limits = Limits::lasting(context, timeout);
    let slot = context.dispatch.slot.as_deref();
    match limits.bound(context.host.prepare_slot(slot)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return failed(&error),
        Err(stopped) => {
            context.output.say("the host root did not answer; nothing was started").await;
            return stopped.into();
        }
    }
    match supervised_spec(context, spec, limits.left()) {
        Ok(spec) => supervisor.run(attempt_dir, spec, &context.output, &context.cancel).await,
        Err(error) => failed(&error),
    }
}

fn supervised_spec(context: &RunContext, spec: &CommandSpec, timeout: Duration) -> Result<Spec, host::Error> {
    let RunContext { host, dispatch, .. } = context;
    let slot = dispatch.slot.as_deref();
    Ok(Spec {
        key: dispatch.key(),
        argv: spec.argv.clone(),
        environment: environment(context, spec)?,
        working_directory: host.working_directory(slot, spec.working_directory.as_deref())?,
        user: spec.user.clone(),
        timeout,
        grace: GRACE_DEFAULT,
        is_probe: matches!(dispatch.spec, TaskSpec::Check(_)),
    })
}

/// A clean environment: nothing of the agent's own but `HOME`, then what the task wants.
fn environment(context: &RunContext, spec: &CommandSpec) -> Result<BTreeMap<String, String>, host::Error> {
    let RunContext { host, dispatch, .. } = context;
    let slot_path = host.slot_path(dispatch.slot.as_deref())?;
    let mut environment: BTreeMap<String, String> = [
        ("PATH", PATH.to_owned()),
        ("STELLA_TASK", dispatch.task.to_string()),
        ("STELLA_ATTEMPT", dispatch.attempt.to_string()),
        ("STELLA_TARGET", dispatch.target_name.clone()),
        ("STELLA_RELEASE", dispatch.release_version.clone()),
        ("STELLA_DEPLOYMENT", dispatch.deployment.to_string()),
        ("STELLA_HOST_ROOT", slot_path.to_string_lossy().into_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    // `TRACEPARENT`, `TRACESTATE` and `BAGGAGE`, where OpenTelemetry looks for them.
    environment.extend(context.trace.headers().map(|(name, value)| (name.to_ascii_uppercase(), value)));
    // The supervisor knows the home of another user.
    if spec.user.is_none() {
        let home = std::env::var("HOME").unwrap_or_else(|_| "/".to_owned());
        environment.insert("HOME".to_owned(), home);
    }
    environment.extend(spec.environment.clone());
    Ok(environment)
}
