//! Looking at every record of a journal that nobody has open.

use std::path::Path;

use stella_protocol::id::{Epoch, Incarnation, Position};

use crate::open::{Raw, damage_of};
use crate::port::{Damage, Head, OpenError, Problem, ReadError, Stream};
use crate::record::StoredHead;
use crate::scan::Scan;

/// How many problems a report lists. A journal with more is not repaired by reading on.
pub const PROBLEMS_MAX: usize = 1000;

/// What a journal holds and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its name; `None` if that is damaged, or if it is empty.
    pub incarnation: Option<Incarnation>,
    /// The last leader's term.
    pub epoch: Epoch,
    /// Its streams.
    pub streams: Vec<StreamReport>,
    /// How many snapshots are whole.
    pub snapshots: u64,
    /// How many records of what has left memory are whole.
    pub archived: u64,
    /// Everything that is wrong, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Damage>,
    /// Whether there are more problems than are listed.
    pub has_more_problems: bool,
}

/// One stream of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamReport {
    /// Which.
    pub stream: Stream,
    /// How many readable events it has.
    pub events: u64,
    /// Where it says that it ends; `None` if that is lost.
    pub head: Option<Head>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }

    fn note(&mut self, damage: Damage) {
        if self.problems.contains(&damage) {
            return;
        }
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(damage)
        } else {
            self.has_more_problems = true
        }
    }
}

/// Checks every checksum, every link of the hash chains, the positions, the heads, the snapshots and the archive.
pub fn verify(dir: &Path) -> Result<Report, OpenError> {
    let raw = Raw::open_existing(dir)?;
    let inventory = raw.inventory()?;
    let mut report = Report {
        incarnation: inventory.incarnation,
        epoch: inventory.epoch,
        streams: Vec::new(),
        snapshots: 0,
        archived: 0,
        problems: Vec::new(),
        has_more_problems: false,
    };
    inventory.problems.into_iter().for_each(|damage| report.note(damage));
    for (stream, stored) in inventory.streams {
        walk_stream(&raw, stream, stored, &mut report);
    }
    for id in raw.snapshots.manifests()? {
        match raw.snapshots.load(id)? {
            Ok(_) => report.snapshots += 1,
            Err(problem) => report.note(Damage::of_journal(problem)),
        }
    }
    report.archived = raw.archive.verify(|damage| report.note(damage));
    Ok(report)
}

fn walk_stream(raw: &Raw, stream: Stream, stored: Option<StoredHead>, report: &mut Report) {
    let (mut events, mut last) = (0, None);
    for checked in Scan::all(&raw.tree, report.incarnation, stream, None) {
        match checked {
            Ok(checked) => {
                events += checked.record.events.len() as u64;
                last = Some((checked.record.next(), checked.hash));
            }
            Err(error) => {
                let is_end = matches!(error, ReadError::Storage(_));
                let position = last.map_or(Position(0), |(next, _)| next);
                report.note(damage_of(stream, position, error));
                last = None;
                if is_end {
                    break;
                }
            }
        }
    }
    let head = stored.map(|stored| stored.head);
    if let (Some(head), Some((next, hash))) = (head, last) {
        if head.next != next {
            report.note(Damage::at(stream, next, Problem::HeadDisagrees { head: head.next }));
        } else if head.hash != hash {
            report.note(Damage::at(stream, next, Problem::BrokenChain));
        }
    }
    report.streams.push(StreamReport { stream, events, head });
}
