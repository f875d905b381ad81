//! What the expressions of a step can use, and how much work they may be together.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;
use stella_expression::{COST_MAX, Error, Expression};

/// How much work the expressions of one step may be, in steps of their evaluation: about 75 ms. One that starts as many runs as there
/// may be, each with a kibibyte of expressions, needs a third of it.
pub const STEP_WORK_MAX: u64 = 5 * COST_MAX;
/// How much work the outputs of one run may be, in the same unit: about 4 ms. As many runs as there may be can end at the same time.
const OUTPUTS_WORK_MAX: u64 = COST_MAX / 4;
/// What it costs to compile one byte of an expression, in the same unit.
const COMPILE_WORK: u64 = 8;

/// Counts the work of the expressions of one decision, in steps of their evaluation. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter(Rc<Cell<u64>>);

impl Meter {
    /// The work so far.
    pub(crate) fn work(&self) -> u64 {
        self.0.get()
    }

    fn add(&self, work: u64) {
        self.0.set(self.0.get().saturating_add(work));
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Variables {
    values: BTreeMap<String, Value>,
    meter: Meter,
    /// What of the work that they may be is left.
    left: Cell<u64>,
}

impl Variables {
    pub(crate) const fn new(values: BTreeMap<String, Value>, meter: Meter) -> Self {
        Self { values, meter, left: Cell::new(STEP_WORK_MAX) }
    }

    /// For the outputs of a run.
    pub(crate) const fn of_outputs(values: BTreeMap<String, Value>, meter: Meter) -> Self {
        Self { values, meter, left: Cell::new(OUTPUTS_WORK_MAX) }
    }

    /// Gives one of them a value.
    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    /// The value of an expression that is compiled.
    pub(crate) fn evaluate(&self, expression: &Expression) -> Result<Value, String> {
        let left = self.left.get();
        let (value, work) = expression.evaluate_within(&self.values, left).map_err(|error| {
            if left < COST_MAX && matches!(error, Error::TooCostly { .. }) {
                too_much()
            } else {
                format!("an expression in it {error}")
            }
        })?;
        self.take(work)?;
        Ok(value)
    }

    /// Whether a condition holds.
    pub(crate) fn holds(&self, source: &str) -> Result<bool, String> {
        self.compiles(source.len())?;
        let expression = Expression::compile(source).map_err(|error| error.to_string())?;
        self.take(expression.work(&self.values))?;
        expression.holds(&self.values).map_err(|error| error.to_string())
    }

    /// Expressions of so many bytes are about to be compiled.
    pub(crate) fn compiles(&self, bytes: usize) -> Result<(), String> {
        self.take(u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(COMPILE_WORK))
    }

    fn take(&self, work: u64) -> Result<(), String> {
        self.meter.add(work.min(STEP_WORK_MAX));
        let left = self.left.get().checked_sub(work).ok_or_else(too_much)?;
        self.left.set(left);
        Ok(())
    }
}

fn too_much() -> String {
    "its step has more to compute than one step may; use fewer or simpler expressions, or several steps"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nearly as costly as one expression may be.
    const HEAVY: &str = "[1,1,1,1,1,1,1,1,1,1].all(a,[1,1,1,1,1,1,1,1,1,1].all(b,[1,1,1,1,1,1,1,1,1,1].all(c,[1,1,1,1,1,1,1,1,1,1].all(d,true))))";

    #[test]
    fn expressions_of_one_step_are_bounded_together_and_counted() {
        let meter = Meter::default();
        let variables = Variables::new(BTreeMap::new(), meter.clone());
        let heavy = Expression::compile(HEAVY).unwrap();
        assert_eq!(variables.evaluate(&heavy), Ok(Value::Bool(true)));
        let first = meter.work();
        assert!(first > COST_MAX / 2 && first <= COST_MAX, "{first}");
        let refused = (0..9).find_map(|_| variables.evaluate(&heavy).err());
        assert_eq!(refused, Some(too_much()));
        assert!(variables.compiles(usize::MAX).is_err());
        assert!(meter.work() <= 2 * STEP_WORK_MAX, "{}", meter.work());
        // Another step begins anew, and counts for the same decision.
        assert_eq!(Variables::new(BTreeMap::new(), meter).holds("1 < 2"), Ok(true));
    }
}
