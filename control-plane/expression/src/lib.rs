//! Expressions in the Common Expression Language (CEL), bounded so that the core may evaluate what anybody has written.
//!
//! [`Expression::compile`] refuses what is too long, too nested or calls what is not known, and says where. What it accepts can be
//! asked for the names it uses ([`Expression::references`]), so that a wrong one is found when the expression is written and not
//! when it is needed. [`Expression::evaluate`] computes how much work an evaluation may be at most, on the values at hand, and
//! refuses before it begins. There is no clock, no input and no output. Who decides compiles on its own thread, so that nothing of
//! the machine is in the answer ([`this_thread_is_roomy`]); for all others a thread lends its stack.
//!
//! What is there: CEL's operators, literals and macros (`has`, `all`, `exists`, `exists_one`, `map`, `filter`) and the functions of
//! [`FUNCTIONS`]. Not there: regular expressions, which can be large to compile, times, and messages of protocol buffers. In
//! which order a macro goes through the keys of a map is not defined.
//!
//! Reading order: this file, [`Error`], then `compile`, `tree`, `cost` and `value`.

mod compile;
mod cost;
mod error;
mod tree;
mod value;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::{Context, Env, IdedExpr};
use serde_json::Value;

pub use compile::{STACK_BYTES, this_thread_is_roomy};
pub use error::Error;
pub use tree::{FUNCTIONS, Reference};

/// How long an expression may be, in bytes. The longest that people write by hand are a tenth of it.
pub const SOURCE_BYTES_MAX: usize = 4_096;
/// How deep brackets may be nested, those in texts included. The parser needs stack for each.
pub const NESTING_MAX: usize = 24;
/// How deep the tree of an expression may be: evaluation needs stack for each level. `a + b + c` has three.
pub const DEPTH_MAX: usize = 64;
/// How much work an evaluation may be, in nodes visited and values handled (see `cost`). At the bound it takes some 15 ms.
pub const COST_MAX: u64 = 200_000;

/// An expression that compiles and uses only what is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Expression {
    tree: IdedExpr,
    references: Vec<Reference>,
}

impl Expression {
    /// Compiles an expression. Whether the variables that it uses exist is for the caller to say: see [`Self::references`].
    ///
    /// # Errors
    /// If it is not valid, with the place where.
    pub fn compile(source: &str) -> Result<Self, Error> {
        compile::compile(source)
    }

    /// The variables that it uses, with what is selected from them, in the order of the text.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The value of the expression. Variables that it does not use cost nothing.
    ///
    /// # Errors
    /// If it could be too much work on these values, if a part of it has no value (a missing key, a division by zero), or if
    /// the value has no JSON.
    pub fn evaluate(&self, variables: &BTreeMap<String, Value>) -> Result<Value, Error> {
        self.evaluate_within(variables, COST_MAX).map(|(value, _)| value)
    }

    /// How much work the evaluation is, at most, in the unit of [`COST_MAX`].
    #[must_use]
    pub fn work(&self, variables: &BTreeMap<String, Value>) -> u64 {
        let weights = variables.iter().filter(|(name, _)| self.uses(name));
        let weights = weights.map(|(name, value)| (name.as_str(), cost::Weight::of(value))).collect();
        cost::at_most(&self.tree, &weights)
    }

    fn uses(&self, name: &str) -> bool {
        self.references.iter().any(|reference| reference.name == name)
    }

    /// The value of the expression, and how much work that was at most, if it is no more than `work_max`.
    ///
    /// # Errors
    /// As [`Self::evaluate`].
    pub fn evaluate_within(
        &self,
        variables: &BTreeMap<String, Value>,
        work_max: u64,
    ) -> Result<(Value, u64), Error> {
        let (cost, max) = (self.work(variables), work_max.min(COST_MAX));
        if cost > max {
            return Err(Error::TooCostly { cost, max });
        }
        // The language's crate is not ours: what it would panic on is an expression without a value, and no reason to end.
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::clone(&LANGUAGE));
            for (name, value) in variables.iter().filter(|(name, _)| self.uses(name)) {
                context.add_variable_from_value(name.as_str(), value::from_json(value));
            }
            cel::Value::resolve(&self.tree, &context)
        }));
        match evaluated {
            Ok(Ok(value)) => Ok((value::to_json(&value)?, cost)),
            Ok(Err(error)) => Err(Error::no_value(&error)),
            Err(_) => Err(Error::Defect),
        }
    }

    /// Whether the expression is true.
    ///
    /// # Errors
    /// As [`Self::evaluate`], and if its value is neither true nor false.
    pub fn holds(&self, variables: &BTreeMap<String, Value>) -> Result<bool, Error> {
        let value = self.evaluate(variables)?;
        value.as_bool().ok_or_else(|| Error::NotBoolean { found: value::kind(&value) })
    }
}

static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));
