//! Which attempt is where, and whose turn it is.

use std::collections::{HashMap, HashSet, VecDeque};

use stella_protocol::id::{AttemptKey, Generation, TargetId};
use stella_protocol::message::{Dispatch, TracedDispatch};

use crate::cancel::CancelHandle;

/// Every attempt that is not over. Their number is bounded by the journal.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: HashMap<AttemptKey, Slot>,
    /// Those that wait, in the order in which they were accepted.
    waiting: VecDeque<AttemptKey>,
}

#[derive(Debug)]
pub(super) struct Slot {
    target: TargetId,
    generation: Generation,
    stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The acceptance is not durable yet.
    Staged(Box<TracedDispatch>),
    /// It may start when it is its turn.
    Waiting(Box<TracedDispatch>),
    /// It runs.
    Running(CancelHandle),
    /// It was left by an earlier life and is being ended. Its target is not free.
    Recovering,
}

impl Slot {
    /// Of an attempt that has just come.
    pub(super) fn staged(traced: Box<TracedDispatch>) -> Self {
        let (target, generation) = (traced.dispatch.target, traced.dispatch.generation);
        Self { target, generation, stage: Stage::Staged(traced) }
    }

    /// Of one that an earlier life has left.
    pub(super) const fn recovering(dispatch: &Dispatch) -> Self {
        Self { target: dispatch.target, generation: dispatch.generation, stage: Stage::Recovering }
    }

    const fn holds_target(&self) -> bool {
        matches!(self.stage, Stage::Running(_) | Stage::Recovering)
    }
}

impl Slots {
    pub(super) fn insert(&mut self, key: AttemptKey, slot: Slot) {
        self.slots.insert(key, slot);
    }

    pub(super) fn remove(&mut self, key: AttemptKey) {
        self.slots.remove(&key);
        self.waiting.retain(|waiting| *waiting != key);
    }

    pub(super) fn contains(&self, key: AttemptKey) -> bool {
        self.slots.contains_key(&key)
    }

    pub(super) fn stage(&self, key: AttemptKey) -> Option<&Stage> {
        self.slots.get(&key).map(|slot| &slot.stage)
    }

    /// The acceptance is durable: it takes its place in the queue. One that was cancelled meanwhile is not there.
    pub(super) fn enqueue(&mut self, key: AttemptKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if let Stage::Staged(dispatch) = &slot.stage {
            slot.stage = Stage::Waiting(dispatch.clone());
            self.waiting.push_back(key);
        }
    }

    /// Takes the first attempt that waits and whose target is free. The caller starts it.
    pub(super) fn take_ready(&mut self) -> Option<(AttemptKey, Box<TracedDispatch>)> {
        let held: HashSet<TargetId> =
            self.slots.values().filter(|slot| slot.holds_target()).map(|slot| slot.target).collect();
        let is_free = |key: &AttemptKey| self.slots.get(key).is_some_and(|slot| !held.contains(&slot.target));
        let place = self.waiting.iter().position(is_free)?;
        let key = self.waiting.remove(place)?;
        match &self.slots.get(&key)?.stage {
            Stage::Waiting(dispatch) => Some((key, dispatch.clone())),
            Stage::Staged(_) | Stage::Running(_) | Stage::Recovering => None,
        }
    }

    pub(super) fn set_running(&mut self, key: AttemptKey, handle: CancelHandle) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.stage = Stage::Running(handle);
        }
    }

    pub(super) fn running(&self) -> usize {
        self.slots.values().filter(|slot| matches!(slot.stage, Stage::Running(_))).count()
    }

    /// The attempts on a target that are of an older generation.
    pub(super) fn older_than(&self, target: TargetId, generation: Generation) -> Vec<AttemptKey> {
        let is_older = |slot: &Slot| slot.target == target && slot.generation < generation;
        self.slots.iter().filter(|(_, slot)| is_older(slot)).map(|(key, _)| *key).collect()
    }
}
