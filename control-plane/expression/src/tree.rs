//! What an expression is made of: which names it uses, and how deep it is.

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, LiteralValue, SelectExpr};

use crate::error::{Error, Place};

/// The functions that expressions may call, beside operators and macros. Each takes time in proportion to its arguments and makes
/// nothing larger than them, which is what the bound of an evaluation rests on.
pub const FUNCTIONS: [&str; 9] =
    ["size", "contains", "startsWith", "endsWith", "string", "int", "uint", "double", "bool"];

/// What the parser makes of operators and macros.
const OPERATORS: [&str; 18] = [
    "_?_:_", "_&&_", "_||_", "!_", "_-_", "_+_", "_*_", "_/_", "_%_", "_==_", "_!=_", "_>=_", "_<=_", "_>_",
    "_<_", "-_", "_[_]", "@in",
];
const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";

/// A variable that an expression uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// What is selected from it, as far as that is written: `["labels", "tier"]` for `it.labels["tier"]`.
    pub fields: Vec<String>,
    /// Where it is.
    pub at: Place,
}

/// The parts of an expression.
pub(crate) fn parts(tree: &IdedExpr) -> Vec<&IdedExpr> {
    match &tree.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(it) => {
            vec![&it.iter_range, &it.accu_init, &it.loop_cond, &it.loop_step, &it.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(entry).collect(),
        Expr::Struct(it) => it.entries.iter().flat_map(entry).collect(),
        Expr::Select(select) => vec![&select.operand],
    }
}

fn entry(entry: &IdedEntryExpr) -> Vec<&IdedExpr> {
    match &entry.expr {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// How deep a tree is. Recursive: for the parser's stack only.
pub(crate) fn depth(tree: &IdedExpr) -> usize {
    1 + parts(tree).into_iter().map(depth).max().unwrap_or(0)
}

/// The names in a tree.
pub(crate) struct Names<'t> {
    place: &'t dyn Fn(u64) -> Place,
    /// Names that a macro gives to what it goes through, innermost last.
    bound: Vec<&'t str>,
    found: Vec<Reference>,
}

impl<'t> Names<'t> {
    /// The variables that a tree uses, if it uses only what is there otherwise.
    pub(crate) fn of(tree: &'t IdedExpr, place: &'t dyn Fn(u64) -> Place) -> Result<Vec<Reference>, Error> {
        let mut names = Self { place, bound: Vec::new(), found: Vec::new() };
        names.walk(tree)?;
        names.found.sort_by_key(|reference| reference.at);
        Ok(names.found)
    }

    fn walk(&mut self, tree: &'t IdedExpr) -> Result<(), Error> {
        match &tree.expr {
            Expr::Ident(name) => {
                self.found(name, Vec::new(), tree.id);
                return Ok(());
            }
            Expr::Select(_) => {
                if let Some((name, fields, id)) = selected(tree) {
                    self.found(name, fields, id);
                    return Ok(());
                }
            }
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                if !OPERATORS.contains(&name) && name != NOT_STRICTLY_FALSE && !FUNCTIONS.contains(&name) {
                    return Err(Error::UnknownFunction { at: (self.place)(tree.id), name: name.to_owned() });
                }
                if let Some((name, fields, id)) = selected(tree) {
                    self.found(name, fields, id);
                    return Ok(());
                }
            }
            Expr::Comprehension(it) => {
                self.walk(&it.iter_range)?;
                self.walk(&it.accu_init)?;
                let outside = self.bound.len();
                self.bound.extend([it.iter_var.as_str(), it.accu_var.as_str()]);
                self.bound.extend(it.iter_var2.as_deref());
                for part in [&it.loop_cond, &it.loop_step, &it.result] {
                    self.walk(part)?;
                }
                self.bound.truncate(outside);
                return Ok(());
            }
            Expr::Struct(_) => {
                return Err(Error::Unsupported { at: (self.place)(tree.id), what: "a message" });
            }
            Expr::Literal(LiteralValue::Bytes(_)) => {
                return Err(Error::Unsupported { at: (self.place)(tree.id), what: "a literal of bytes" });
            }
            Expr::Unspecified | Expr::List(_) | Expr::Literal(_) | Expr::Map(_) => (),
        }
        parts(tree).into_iter().try_for_each(|part| self.walk(part))
    }

    fn found(&mut self, name: &str, fields: Vec<String>, id: u64) {
        if !self.bound.contains(&name) {
            let name = name.trim_start_matches('.').to_owned();
            self.found.push(Reference { name, fields, at: (self.place)(id) });
        }
    }
}

/// The variable and the fields of `a.b["c"].d`, and the id of the variable's node.
fn selected(tree: &IdedExpr) -> Option<(&str, Vec<String>, u64)> {
    match &tree.expr {
        Expr::Ident(name) => Some((name, Vec::new(), tree.id)),
        Expr::Select(SelectExpr { operand, field, .. }) => {
            let (name, mut fields, id) = selected(operand)?;
            fields.push(field.clone());
            Some((name, fields, id))
        }
        Expr::Call(call) if call.func_name == "_[_]" => {
            let [operand, index] = call.args.as_slice() else { return None };
            let Expr::Literal(LiteralValue::String(key)) = &index.expr else { return None };
            let (name, mut fields, id) = selected(operand)?;
            fields.push(key.inner().to_owned());
            Some((name, fields, id))
        }
        Expr::Unspecified
        | Expr::Call(_)
        | Expr::Comprehension(_)
        | Expr::List(_)
        | Expr::Literal(_)
        | Expr::Map(_)
        | Expr::Struct(_) => None,
    }
}
