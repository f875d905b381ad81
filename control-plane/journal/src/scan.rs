//! Walking the records of one stream and checking each against its neighbours.

use std::cmp::Ordering;

use stella_durable::{IVec, Pairs, Tree};
use stella_protocol::digest::Digest;
use stella_protocol::id::{Incarnation, Position};

use crate::port::{Damage, Problem, ReadError, Stream};
use crate::record::{Record, decode_record, decode_record_key, hash_after, hash_of_nothing, record_key};

/// A record that fits to the ones before it, with the stream's hash after it.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) record: Record,
    pub(crate) hash: Digest,
}

/// The records of a stream up to an end. After damage the walk goes on with the next record, without a predecessor to
/// compare it with; whoever must not go on stops at the first error.
#[derive(Debug)]
pub(crate) struct Scan {
    stream: Stream,
    pairs: Pairs,
    /// Where the next record has to start and what it has to follow, as far as that is known.
    next: Option<Position>,
    hash: Option<Digest>,
    /// `None` walks to wherever the records end.
    end: Option<Position>,
    is_done: bool,
}

impl Scan {
    /// From the first record on. Without an incarnation the first record is not compared with the stream's start.
    pub(crate) fn all(
        tree: &Tree,
        incarnation: Option<Incarnation>,
        stream: Stream,
        end: Option<Position>,
    ) -> Self {
        let nothing = incarnation.map(|incarnation| hash_of_nothing(incarnation, stream));
        Self::new(tree, stream, Position(0), end, nothing)
    }

    /// From the record on that holds a position before `end`.
    pub(crate) fn holding(
        tree: &Tree,
        incarnation: Incarnation,
        stream: Stream,
        position: Position,
        end: Position,
    ) -> Result<Self, ReadError> {
        let mut upto = tree.range(record_key(stream, Position(0))..=record_key(stream, position));
        let Some((key, _)) = upto.next_back().transpose()? else {
            let found = first_key_after(tree, stream, position)?.unwrap_or(end);
            return Err(Damage::at(stream, Position(0), Problem::Gap { found }).into());
        };
        let first = decode_record_key(&key).map_err(|problem| Damage::at(stream, position, problem))?.1;
        let hash = (first == Position(0)).then(|| hash_of_nothing(incarnation, stream));
        Ok(Self::new(tree, stream, first, Some(end), hash))
    }

    fn new(
        tree: &Tree,
        stream: Stream,
        first: Position,
        end: Option<Position>,
        hash: Option<Digest>,
    ) -> Self {
        let stop = end.unwrap_or(Position(u64::MAX));
        let pairs = tree.range(record_key(stream, first)..record_key(stream, stop));
        Self { stream, pairs, next: Some(first), hash, end, is_done: first >= stop }
    }

    fn check(&mut self, key: &IVec, value: &IVec) -> Result<Checked, Damage> {
        let expected = self.next.take();
        let previous = self.hash.take();
        let place = |position, problem| Damage::at(self.stream, position, problem);
        let (_, first) =
            decode_record_key(key).map_err(|problem| place(expected.unwrap_or_default(), problem))?;
        if let Some(expected) = expected {
            if first > expected {
                return Err(place(expected, Problem::Gap { found: first }));
            }
            if first < expected {
                return Err(place(first, Problem::Overlap));
            }
        }
        let record = decode_record(value).map_err(|problem| place(first, problem))?;
        if (record.stream, record.first) != (self.stream, first) {
            return Err(place(first, Problem::Misplaced));
        }
        if previous.is_some_and(|previous| previous != record.previous) {
            return Err(place(first, Problem::BrokenChain));
        }
        let hash = hash_after(record.previous, value);
        (self.next, self.hash) = (Some(record.next()), Some(hash));
        Ok(Checked { record, hash })
    }
}

impl Iterator for Scan {
    type Item = Result<Checked, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        match self.pairs.next() {
            Some(Ok((key, value))) => Some(self.check(&key, &value).map_err(ReadError::from)),
            Some(Err(error)) => {
                self.is_done = true;
                Some(Err(error.into()))
            }
            None => {
                self.is_done = true;
                let (next, end) = (self.next?, self.end?);
                let problem = match next.cmp(&end) {
                    Ordering::Equal => return None,
                    Ordering::Less => Problem::Gap { found: end },
                    Ordering::Greater => Problem::HeadDisagrees { head: end },
                };
                Some(Err(Damage::at(self.stream, next, problem).into()))
            }
        }
    }
}

fn first_key_after(tree: &Tree, stream: Stream, position: Position) -> Result<Option<Position>, ReadError> {
    let mut after = tree.range(record_key(stream, position)..=record_key(stream, Position(u64::MAX)));
    let Some((key, _)) = after.next().transpose()? else { return Ok(None) };
    Ok(decode_record_key(&key).ok().map(|(_, first)| first))
}
