//! What a run hands on when it has succeeded: the outputs that its template declares.

use std::collections::BTreeMap;
use std::sync::Arc;

use stella_expression::Expression;
use stella_protocol::id::RunId;

use super::run::{Outputs, REASON_CHARS_MAX, values};
use super::transaction::Transaction;
use crate::event::Fact;
use crate::rejection::Rejection;
use crate::run::{Run, RunStatus, Turn};
use crate::size;
use crate::workflow::{Meter, OUTPUTS_BYTES_MAX, Template, Variables};

/// Ends a run whose steps are all over. One whose outputs cannot be told has failed: who needs them would go on without.
pub(super) fn end(tx: &mut Transaction<'_>, id: RunId, template: &Template) -> Result<(), Rejection> {
    let run = Arc::clone(tx.run(id)?);
    let told = match run.status {
        RunStatus::Running => told(&run, template, tx.meter()),
        RunStatus::Failing { .. }
        | RunStatus::Compensating { .. }
        | RunStatus::Cancelling { .. }
        | RunStatus::Succeeded
        | RunStatus::Failed { .. }
        | RunStatus::Cancelled { .. } => Ok(BTreeMap::new()),
    };
    let outputs = match told {
        Ok(outputs) => outputs,
        Err(problem) => {
            let reason = problem.chars().take(REASON_CHARS_MAX).collect();
            tx.emit(Fact::RunTurned { id, turn: Turn::Failing { reason } })?;
            BTreeMap::new()
        }
    };
    tx.emit(Fact::RunEnded { id, outputs })
}

fn told(run: &Run, template: &Template, meter: &Meter) -> Result<Outputs, String> {
    let mut outputs = BTreeMap::new();
    if template.outputs.is_empty() {
        return Ok(outputs);
    }
    let variables = Variables::of_outputs(values(run), meter.clone());
    for (name, source) in &template.outputs {
        let value = variables.compiles(source.len()).and_then(|()| {
            let expression = Expression::compile(source).map_err(|error| error.to_string())?;
            variables.evaluate(&expression)
        });
        let value = value.map_err(|problem| format!("output {name}: {problem}"))?;
        outputs.insert(name.to_string(), value);
    }
    let bytes = size::of(&outputs);
    if bytes > OUTPUTS_BYTES_MAX {
        return Err(format!(
            "its outputs have {bytes} bytes as JSON; at most {OUTPUTS_BYTES_MAX} are possible"
        ));
    }
    Ok(outputs)
}
