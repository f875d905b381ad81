//! From a text to an expression. The parser recurses, and recurses again over the tree it made: it works on a stack that is
//! large enough for the longest text that comes this far, and what is deep never leaves that stack. That is the stack of a thread
//! of its own, unless the thread that asks has said that its own is large enough: then nothing but the text decides what comes
//! out, as the core needs it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use cel::IdedExpr;
use cel::common::ast::SourceInfo;
use cel::parser::Parser;

use crate::error::{Error, Place};
use crate::tree::{self, Names};
use crate::{DEPTH_MAX, Expression, NESTING_MAX, SOURCE_BYTES_MAX};

/// The stack that the parser needs, in bytes. Memory that is not touched costs nothing.
pub const STACK_BYTES: usize = 32 << 20;
/// How deep the parser's rules may be. It counts brackets, conditions and signs in one another.
const RULES_DEEP_MAX: u16 = 64;

thread_local! {
    /// Whether this thread has the stack.
    static IS_ROOMY: Cell<bool> = const { Cell::new(false) };
}

/// Tells that this thread has a stack of [`STACK_BYTES`] to spare, so that it needs no other to compile on.
///
/// Said of a thread that has not, a long expression ends the process.
pub fn this_thread_is_roomy() {
    IS_ROOMY.set(true);
}

pub(crate) fn compile(source: &str) -> Result<Expression, Error> {
    if source.trim().is_empty() {
        return Err(Error::Empty);
    }
    if source.len() > SOURCE_BYTES_MAX {
        return Err(Error::TooLong { bytes: source.len(), max: SOURCE_BYTES_MAX });
    }
    is_flat(source)?;
    if IS_ROOMY.get() {
        return caught(source);
    }
    thread::scope(|scope| {
        let parser = thread::Builder::new().name("expression".to_owned()).stack_size(STACK_BYTES);
        parser
            .spawn_scoped(scope, || caught(source))
            .map_or(Err(Error::NoThread), |parser| parser.join().unwrap_or(Err(Error::Defect)))
    })
}

/// The parser is not ours: what it would panic on is no expression, and no reason to end.
fn caught(source: &str) -> Result<Expression, Error> {
    catch_unwind(AssertUnwindSafe(|| checked(source))).unwrap_or(Err(Error::Defect))
}

/// Brackets in texts count too: telling them apart would have to be exactly what the parser does, or could be led astray.
fn is_flat(source: &str) -> Result<(), Error> {
    let mut deep = 0_usize;
    for (offset, byte) in source.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => deep += 1,
            b')' | b']' | b'}' => deep = deep.saturating_sub(1),
            _ => (),
        }
        if deep > NESTING_MAX {
            return Err(Error::TooNested { at: Place::of_byte(source, offset), max: NESTING_MAX });
        }
    }
    Ok(())
}

fn checked(source: &str) -> Result<Expression, Error> {
    let (tree, info) = parsed(source)?;
    if tree::depth(&tree) > DEPTH_MAX {
        return Err(Error::TooDeep { max: DEPTH_MAX });
    }
    let place = |id: u64| {
        let start = info.offset_for(id).map_or(0, |(start, _)| start);
        Place::of_char(source, usize::try_from(start).unwrap_or_default())
    };
    let references = Names::of(&tree, &place)?;
    Ok(Expression { tree, references })
}

fn parsed(source: &str) -> Result<(IdedExpr, SourceInfo), Error> {
    // Without recovery: the first error is the one that is shown.
    let parser = Parser::new().max_recursion_depth(RULES_DEEP_MAX).error_recovery_limit(0);
    parser.parse_with_source_info(source).map_err(|errors| {
        let first = errors.errors.iter().find(|error| error.pos.0 > 0).or_else(|| errors.errors.first());
        let (line, column) = first.map_or((1, 1), |error| error.pos);
        let problem = first.map_or_else(|| "is not an expression".to_owned(), |error| error.msg.clone());
        let at = Place {
            line: usize::try_from(line).unwrap_or(1).max(1),
            column: usize::try_from(column).unwrap_or(1).max(1),
        };
        Error::Syntax { at, problem }
    })
}
