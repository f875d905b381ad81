//! How much work an evaluation may be, at most.
//!
//! A value weighs one for itself, each of its parts and each 16 bytes of its texts ([`crate::value::weight`]); a list never has
//! more elements than it weighs. A node of the tree costs one, what its parts cost, and the weight of the values that it handles.
//! A macro costs its body as many times as the weight of what it goes through. No function makes something heavier than its
//! arguments together and a constant, so that weights can be followed through the tree without evaluating it. All numbers are upper bounds, and
//! stay at the largest number there is instead of wrapping.

use std::collections::BTreeMap;

use cel::IdedExpr;
use cel::common::ast::{ComprehensionExpr, Expr, LiteralValue};
use serde_json::Value;

use crate::tree::parts;
use crate::value;

/// What the text of a number weighs at most: the largest has 309 digits.
const NUMBER_TEXT_WEIGHT: u64 = 20;

/// Weights by depth: of a value, of the heaviest of its parts, of the heaviest of their parts, and so on. What is deeper than the last
/// weighs no more than the last.
#[derive(Clone, Debug)]
pub(crate) struct Weight(Vec<u64>);

impl Weight {
    /// Of a number or a truth value.
    fn least() -> Self {
        Self(vec![1])
    }

    /// Of a value.
    pub(crate) fn of(value: &Value) -> Self {
        let mut weights = Vec::new();
        gather(value, 0, &mut weights);
        Self(weights)
    }

    fn whole(&self) -> u64 {
        self.0.first().copied().unwrap_or(1)
    }

    fn at(&self, depth: usize) -> u64 {
        self.0.get(depth).or_else(|| self.0.last()).copied().unwrap_or(1)
    }

    /// Of the heaviest part.
    fn part(&self) -> Self {
        if self.0.len() > 1 { Self(self.0.iter().skip(1).copied().collect()) } else { self.clone() }
    }

    /// Of what is made of two values, whole and their parts among its own.
    fn with(&self, other: &Self) -> Self {
        let deep = self.0.len().max(other.0.len());
        let mut weights: Vec<u64> = (0..deep).map(|depth| self.at(depth).max(other.at(depth))).collect();
        if let Some(whole) = weights.first_mut() {
            *whole = self.whole().saturating_add(other.whole());
        }
        Self(weights)
    }
}

/// How deep weights are told apart.
const LEVELS_MAX: usize = 8;

fn gather(value: &Value, depth: usize, weights: &mut Vec<u64>) {
    let weight = value::weight(value);
    match weights.get_mut(depth) {
        Some(heaviest) => *heaviest = weight.max(*heaviest),
        None => weights.push(weight),
    }
    if depth + 1 == LEVELS_MAX {
        return;
    }
    match value {
        Value::Array(elements) => elements.iter().for_each(|part| gather(part, depth + 1, weights)),
        Value::Object(fields) => {
            for (key, part) in fields {
                gather(part, depth + 1, weights);
                let key = value::text_weight(key);
                if let Some(heaviest) = weights.get_mut(depth + 1) {
                    *heaviest = key.max(*heaviest);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

type Weights<'a> = BTreeMap<&'a str, Weight>;

/// The work of evaluating a tree, and the weight of its value.
#[derive(Clone, Debug)]
struct Bound {
    cost: u64,
    weight: Weight,
}

/// How much work the evaluation of `tree` may be if the variables weigh this much.
pub(crate) fn at_most(tree: &IdedExpr, weights: &Weights<'_>) -> u64 {
    bound(tree, weights).cost
}

fn bound(tree: &IdedExpr, weights: &Weights<'_>) -> Bound {
    let leaf = |weight: Weight| Bound { cost: 1, weight };
    match &tree.expr {
        Expr::Unspecified => leaf(Weight::least()),
        // A variable is borrowed, not copied.
        Expr::Ident(name) => {
            let weight = weights.get(name.trim_start_matches('.')).cloned();
            leaf(weight.unwrap_or_else(Weight::least))
        }
        Expr::Literal(literal) => leaf(Weight(vec![literal_weight(literal)])),
        // Reaching a part does not depend on the weight.
        Expr::Select(select) => {
            let operand = bound(&select.operand, weights);
            Bound { cost: operand.cost.saturating_add(1), weight: operand.weight.part() }
        }
        Expr::Comprehension(it) => comprehension(it, weights),
        Expr::Call(call) if call.func_name == "_[_]" => {
            let mut bounds = call.args.iter().map(|part| bound(part, weights));
            let operand = bounds.next().unwrap_or_else(|| leaf(Weight::least()));
            let cost = bounds.fold(operand.cost.saturating_add(1), |cost, it| cost.saturating_add(it.cost));
            Bound { cost, weight: operand.weight.part() }
        }
        Expr::Call(call) => {
            let own = if call.func_name == "string" { NUMBER_TEXT_WEIGHT } else { 1 };
            let all = together(parts(tree), Weight(vec![own]), weights);
            if is_heavy(tree) { all } else { Bound { cost: all.cost, weight: Weight::least() } }
        }
        Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => {
            let mut all = together(parts(tree), Weight::least(), weights);
            // They are parts of it, so that theirs are a level deeper.
            let heaviest = all.weight.whole();
            all.weight.0.insert(0, heaviest);
            all
        }
    }
}

/// Whether the value of a call can be made of its arguments. All others yield a number or a truth value.
fn is_heavy(tree: &IdedExpr) -> bool {
    match &tree.expr {
        Expr::Call(call) => ["_+_", "_?_:_", "string"].contains(&call.func_name.as_str()),
        Expr::Unspecified
        | Expr::Comprehension(_)
        | Expr::Ident(_)
        | Expr::List(_)
        | Expr::Literal(_)
        | Expr::Map(_)
        | Expr::Select(_)
        | Expr::Struct(_) => true,
    }
}

/// What several parts cost, and what is made of them: `own` and all of theirs.
fn together(parts: Vec<&IdedExpr>, own: Weight, weights: &Weights<'_>) -> Bound {
    let start = Bound { cost: 0, weight: own };
    let all = parts.into_iter().map(|part| bound(part, weights)).fold(start, |all, part| Bound {
        cost: all.cost.saturating_add(part.cost),
        weight: all.weight.with(&part.weight),
    });
    Bound { cost: all.cost.saturating_add(all.weight.whole()), weight: all.weight }
}

/// A macro's body may add to what it has gathered, once a round; so what one round adds to nothing is what each adds at most.
/// What is gathered is added to in place, which costs what is added.
fn comprehension(it: &ComprehensionExpr, weights: &Weights<'_>) -> Bound {
    let range = bound(&it.iter_range, weights);
    let init = bound(&it.accu_init, weights);
    let rounds = range.weight.whole();
    let mut inside = weights.clone();
    inside.insert(&it.iter_var, range.weight.part());
    if let Some(second) = &it.iter_var2 {
        inside.insert(second, range.weight.part());
    }
    inside.insert(&it.accu_var, Weight(vec![0]));
    // Each part is looked at once, or macros in one another would double the work with each level.
    let step = bound(&it.loop_step, &inside);
    let mut gathered = init.weight.with(&step.weight);
    let grows = if is_heavy(&it.loop_step) { rounds } else { 1 };
    let whole = init.weight.whole().saturating_add(grows.saturating_mul(step.weight.whole()));
    if let Some(first) = gathered.0.first_mut() {
        *first = whole;
    }
    inside.insert(&it.accu_var, gathered);
    let go_on = bound(&it.loop_cond, &inside);
    let result = bound(&it.result, &inside);
    let round = step.cost.saturating_add(go_on.cost).saturating_add(1);
    let around = range.cost.saturating_add(init.cost).saturating_add(result.cost);
    Bound { cost: rounds.saturating_mul(round).saturating_add(around), weight: result.weight }
}

fn literal_weight(literal: &LiteralValue) -> u64 {
    match literal {
        LiteralValue::String(text) => value::text_weight(text.inner()),
        LiteralValue::Boolean(_)
        | LiteralValue::Bytes(_)
        | LiteralValue::Double(_)
        | LiteralValue::Int(_)
        | LiteralValue::Null
        | LiteralValue::UInt(_) => 1,
    }
}
