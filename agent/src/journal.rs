//! The agent's journal: what it has promised, on disk before it is said.
//!
//! - An attempt is durable as accepted **before** it starts, and its result is durable **before** it is reported. The
//!   result is kept until the control plane has acknowledged it; then a tombstone stays for late duplicates.
//! - That an attempt has started, and that a result was acknowledged, is written *lazily*, with the next durable write: if
//!   it is lost, the attempt is looked for once more, or the result is reported once more, and both are harmless.
//! - Nothing is started from the journal. What a restart finds open is only ended and explained, so the journal needs no
//!   more of a task than its kind: arguments and environment may hold secrets and are not written.
//! - Only positions that are durable are ever told to the control plane. It would take a smaller one after a crash for a
//!   journal that was rolled back.
//!
//! Writes are staged, and one commit is under way at a time; what is staged meanwhile goes with the next one. That keeps
//! the order of writes, makes groups without a timer, and lets the owner go on while the disk works. A crash may leave the first
//! writes of a commit without the others, so each of them leaves a journal that makes sense.
//!
//! Owner: the runner's task. It alone calls anything here.

mod codec;
mod commit;
mod load;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stella_durable::{FlusherHandle, IVec, Store, Tree};
use stella_protocol::id::{AttemptKey, Generation, Incarnation, Position, TargetId};
use stella_protocol::limits::OPEN_ATTEMPTS_MAX;
use stella_protocol::message::{Dispatch, Finished, JournalMark, OpenAttempt, Phase, TaskOutcome};
use stella_protocol::spec::{CommandSpec, Probe, TaskSpec};
use stella_protocol::time::Timestamp;

use self::codec::{Attempt, CONTROL_PLANE_KEY, Table, Tombstone, attempt_key, generation_key};
use crate::identity;

/// How many acknowledged attempts are remembered: hours of duplicates, at a few hundred bytes each.
pub const TOMBSTONES_MAX: usize = 4096;

/// The part of the reserve that is for attempts that write little, and below it for results alone.
const LAST_SHARE: u64 = 4;

/// How many targets an agent remembers: far more than slots on a host, and a bound for the file.
pub const TARGETS_MAX: usize = 4096;

/// Why the journal cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is on disk is not what was written.
    #[error(
        "the agent's journal in {} is damaged ({what}); nothing was changed. Restore the folder, or move it away and start \
         again: the control plane then calls this agent's open attempts unknown and sends none of them again",
        dir.display()
    )]
    Damaged {
        /// The journal's folder.
        dir: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// That it has begun cannot be noted.
    #[error("it cannot be noted in {} that the agent's journal has begun", path.display())]
    Begun {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: identity::Error,
    },
    /// The store does not work.
    #[error("the agent's journal cannot go on")]
    Store(#[source] Arc<stella_durable::Error>),
}

impl From<stella_durable::Error> for Error {
    fn from(error: stella_durable::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// What the journal knows of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Accepted, and perhaps started. `durable` tells whether it may be said.
    Open {
        /// The position that holds the acceptance.
        position: Position,
        /// When it started, if it has.
        started_at: Option<Timestamp>,
        /// Whether the acceptance is durable.
        durable: bool,
    },
    /// Over. `durable` tells whether it may be said.
    Finished {
        /// The result.
        report: Finished,
        /// Whether it is durable.
        durable: bool,
    },
    /// Acknowledged earlier: this was the result.
    Forgotten(Finished),
}

/// An attempt that an earlier life of the agent left open.
#[derive(Clone, Debug)]
pub struct LeftOpen {
    /// The task, without arguments and environment.
    pub dispatch: Dispatch,
    /// When it started, if that was written.
    pub started_at: Option<Timestamp>,
}

/// How an attempt ended, before it has a position in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When it started; `None` if it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How.
    pub outcome: TaskOutcome,
}

/// The journal. See the module's documentation.
#[derive(Debug)]
pub struct Journal {
    store: Store,
    tree: Tree,
    flusher: FlusherHandle,
    incarnation: Incarnation,
    control_plane: Option<JournalMark>,
    generations: HashMap<TargetId, Generation>,
    attempts: HashMap<AttemptKey, Entry>,
    /// Oldest first.
    tombstones: VecDeque<AttemptKey>,
    /// The position of the newest write, staged ones included.
    position: Position,
    durable: Position,
    staged: Vec<Write>,
    /// Whether somebody waits for what is staged.
    is_urgent: bool,
    under_way: Option<commit::Commit>,
}

#[derive(Clone, Debug)]
struct Entry {
    accepted: Position,
    state: State,
}

impl Entry {
    /// The target that the attempt holds; none if it is over.
    fn target(&self) -> Option<TargetId> {
        match &self.state {
            State::Open { dispatch, .. } => Some(dispatch.target),
            State::Finished(_) => None,
        }
    }
}

#[derive(Clone, Debug)]
enum State {
    Open { dispatch: Box<Dispatch>, started_at: Option<Timestamp> },
    Finished(Finished),
}

#[derive(Clone, Debug)]
struct Write {
    key: IVec,
    /// `None` removes.
    value: Option<IVec>,
}

impl Journal {
    /// Opens the journal in a folder, or makes a new one. Blocks on the disk.
    ///
    /// `reserve_bytes` of the disk have to stay free for new attempts to be accepted. It must leave room for the results
    /// of those that are open.
    ///
    /// # Errors
    /// [`Error::Damaged`] if anything in it is not as it was written.
    pub fn open(dir: &Path, reserve_bytes: u64) -> Result<(Self, Vec<LeftOpen>), Error> {
        load::open(dir, reserve_bytes)
    }

    // === what it knows ===

    /// How far it has got, durably.
    #[must_use]
    pub const fn mark(&self) -> JournalMark {
        JournalMark { incarnation: self.incarnation, position: self.durable }
    }

    /// The control plane's journal, as it was seen last.
    #[must_use]
    pub const fn control_plane(&self) -> Option<JournalMark> {
        self.control_plane
    }

    /// The newest generation that was accepted for a target.
    #[must_use]
    pub fn generation(&self, target: TargetId) -> Option<Generation> {
        self.generations.get(&target).copied()
    }

    /// Whether no more attempts may be open or unacknowledged.
    #[must_use]
    pub fn is_full_of_attempts(&self) -> bool {
        self.attempts.len() >= OPEN_ATTEMPTS_MAX
    }

    /// The highest attempt of the task that is not acknowledged, this one left out.
    #[must_use]
    pub fn newest_other_attempt(&self, key: AttemptKey) -> Option<AttemptKey> {
        self.attempts.keys().copied().filter(|other| other.task == key.task && *other != key).max()
    }

    /// What is known of an attempt.
    ///
    /// # Errors
    /// If a tombstone cannot be read.
    pub fn get(&self, key: AttemptKey) -> Result<Option<Known>, Error> {
        let Some(entry) = self.attempts.get(&key) else { return self.tombstone(key) };
        Ok(Some(match &entry.state {
            State::Open { started_at, .. } => Known::Open {
                position: entry.accepted,
                started_at: *started_at,
                durable: entry.accepted <= self.durable,
            },
            State::Finished(report) => {
                Known::Finished { report: report.clone(), durable: report.position <= self.durable }
            }
        }))
    }

    /// Everything that is here and not acknowledged, for a hello. What is not durable yet is listed too: it runs once it is, and whoever
    /// is not told of it would take it for one that never came. If a crash takes it, the next hello does not have it.
    #[must_use]
    pub fn open_attempts(&self) -> Vec<OpenAttempt> {
        let attempts = self.attempts.iter();
        let mut open: Vec<_> =
            attempts.map(|(key, entry)| OpenAttempt { key: *key, phase: self.phase(entry) }).collect();
        open.sort_unstable_by_key(|attempt| attempt.key);
        open
    }

    fn phase(&self, entry: &Entry) -> Phase {
        match &entry.state {
            State::Open { started_at: None, .. } => Phase::Accepted,
            State::Open { started_at: Some(_), .. } => Phase::Running,
            State::Finished(report) if report.position <= self.durable => Phase::Finished,
            State::Finished(_) => Phase::Running,
        }
    }

    fn tombstone(&self, key: AttemptKey) -> Result<Option<Known>, Error> {
        let bytes = attempt_key(Table::Tombstone, key);
        let under_way = self.under_way.iter().flat_map(|commit| &commit.writes);
        let newest = under_way.chain(&self.staged).rfind(|write| write.key == bytes);
        let value = match newest {
            Some(write) => write.value.clone(),
            None => self.tree.get(&bytes)?,
        };
        let Some(value) = value else { return Ok(None) };
        let tombstone: Tombstone =
            codec::decode(&bytes, &value).map_err(|broken| self.damaged(&bytes, broken))?;
        Ok(Some(Known::Forgotten(tombstone.report)))
    }

    /// Whether the disk has room for a new attempt. One that writes little has it down to a part of the reserve: what brings a host
    /// back to a release that is on it is taken for longer than what could fill the disk.
    ///
    /// # Errors
    /// A sentence for a person, if it has not.
    pub fn check_room(&self, writes_little: bool) -> Result<(), stella_durable::Error> {
        match self.store.check_reserve() {
            Err(stella_durable::Error::ReserveReached { available_bytes, reserve_bytes })
                if writes_little && available_bytes >= reserve_bytes / LAST_SHARE =>
            {
                Ok(())
            }
            checked => checked,
        }
    }

    // === what is written ===

    /// Stages that an attempt is accepted, and the target's generation with it. Gives the position that holds it.
    pub fn accept(&mut self, dispatch: &Dispatch) -> Position {
        let (key, target, generation) = (dispatch.key(), dispatch.target, dispatch.generation);
        if self.generation(target) != Some(generation) {
            self.forget_a_target_for(target);
            self.generations.insert(target, generation);
            let target_key = generation_key(target);
            let value = codec::encode(&target_key, &generation);
            self.stage(target_key, Some(value));
        }
        let dispatch = Box::new(without_secrets(dispatch));
        let accepted = self.put_attempt(key, &Attempt::Open { dispatch: dispatch.clone(), started_at: None });
        self.attempts.insert(key, Entry { accepted, state: State::Open { dispatch, started_at: None } });
        self.is_urgent = true;
        accepted
    }

    /// Makes room for a target that is new here. The one that was deployed to longest ago goes, of those where nothing is open: a
    /// generation is at least the time of its deployment, and nothing as old is on its way any more.
    fn forget_a_target_for(&mut self, target: TargetId) {
        if self.generations.len() < TARGETS_MAX || self.generations.contains_key(&target) {
            return;
        }
        let held: HashSet<TargetId> = self.attempts.values().filter_map(Entry::target).collect();
        let free = self.generations.iter().filter(|(target, _)| !held.contains(target));
        // There are fewer open attempts than targets.
        let Some(oldest) = free.min_by_key(|(target, generation)| (**generation, **target)) else { return };
        let oldest = *oldest.0;
        self.generations.remove(&oldest);
        self.stage(generation_key(oldest), None);
    }

    /// Notes, lazily, that an attempt has started.
    pub fn started(&mut self, key: AttemptKey, at: Timestamp) {
        let Some(entry) = self.attempts.get_mut(&key) else { return };
        let State::Open { dispatch, started_at } = &mut entry.state else { return };
        *started_at = Some(at);
        let record = Attempt::Open { dispatch: dispatch.clone(), started_at: *started_at };
        let _lazily = self.put_attempt(key, &record);
    }

    /// Stages the result of an attempt. `None` if the attempt is not open.
    pub fn finish(&mut self, key: AttemptKey, ending: Ending) -> Option<Finished> {
        let entry = self.attempts.get(&key)?;
        let State::Open { .. } = entry.state else { return None };
        let accepted = entry.accepted;
        let Ending { started_at, finished_at, outcome } = ending;
        let report = Finished { key, position: self.position.next(), started_at, finished_at, outcome };
        let _its_own = self.put_attempt(key, &Attempt::Finished(report.clone()));
        self.attempts.insert(key, Entry { accepted, state: State::Finished(report.clone()) });
        self.is_urgent = true;
        Some(report)
    }

    /// Forgets, lazily, results that are durable at the control plane; open attempts and unknown ones stay as they are.
    /// Gives those that were forgotten.
    pub fn acknowledge(&mut self, keys: &[AttemptKey]) -> Vec<AttemptKey> {
        let mut forgotten = Vec::new();
        for &key in keys {
            let Some(Entry { state: State::Finished(report), .. }) = self.attempts.get(&key) else {
                continue;
            };
            if report.position > self.durable {
                // Nobody can have seen it.
                continue;
            }
            let report = report.clone();
            self.attempts.remove(&key);
            // Before the attempt goes: at no moment would a late duplicate of it be taken for new.
            let tombstone_key = attempt_key(Table::Tombstone, key);
            let tombstone = Tombstone { position: self.position.next(), report };
            let value = codec::encode(&tombstone_key, &tombstone);
            self.stage(tombstone_key, Some(value));
            self.stage(attempt_key(Table::Attempt, key), None);
            self.tombstones.push_back(key);
            forgotten.push(key);
        }
        while self.tombstones.len() > TOMBSTONES_MAX {
            if let Some(oldest) = self.tombstones.pop_front() {
                self.stage(attempt_key(Table::Tombstone, oldest), None);
            }
        }
        forgotten
    }

    /// Stages the control plane's mark from a welcome. Tells whether its journal went back or is another one.
    pub fn note_control_plane(&mut self, mark: JournalMark) -> bool {
        let went_back = self
            .control_plane
            .is_some_and(|before| before.incarnation != mark.incarnation || before.position > mark.position);
        if self.control_plane != Some(mark) {
            self.control_plane = Some(mark);
            let value = codec::encode(&CONTROL_PLANE_KEY, &mark);
            self.stage(CONTROL_PLANE_KEY.to_vec(), Some(value));
            self.is_urgent = true;
        }
        went_back
    }

    fn put_attempt(&mut self, key: AttemptKey, record: &Attempt) -> Position {
        let bytes = attempt_key(Table::Attempt, key);
        let value = codec::encode(&bytes, record);
        self.stage(bytes, Some(value))
    }

    fn stage(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> Position {
        self.position = self.position.next();
        self.staged.push(Write { key: key.into(), value: value.map(IVec::from) });
        self.position
    }

    fn damaged(&self, key: &[u8], broken: codec::Broken) -> Error {
        damaged(self.store.dir(), key, broken)
    }
}

fn damaged(dir: &Path, key: &[u8], broken: codec::Broken) -> Error {
    Error::Damaged { dir: dir.to_owned(), what: format!("{broken}, at key {}", hex::encode(key)) }
}

/// The task without arguments and environment: they may hold secrets, and nothing is started from the journal.
fn without_secrets(dispatch: &Dispatch) -> Dispatch {
    let strip = |command: &mut CommandSpec| {
        command.argv.truncate(1);
        command.environment.clear();
    };
    let mut dispatch = dispatch.clone();
    match &mut dispatch.spec {
        TaskSpec::Command(command) => strip(command),
        TaskSpec::Check(check) => match &mut check.probe {
            Probe::Command(command) => strip(command),
            Probe::Http { .. } | Probe::Tcp { .. } => {}
        },
        TaskSpec::Artifact(_) | TaskSpec::Systemd(_) => {}
    }
    dispatch
}
