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
    /// It was accepted. Once that is durable it waits for its turn.
    Accepted(Box<TracedDispatch>),
    /// It runs.
    Running(CancelHandle),
    /// It was left by an earlier life and is being ended. Its target is not free.
    Recovering,
}

impl Slot {
    /// Of an attempt that has just come.
    pub(super) fn accepted(traced: Box<TracedDispatch>) -> Self {
        let (target, generation) = (traced.dispatch.target, traced.dispatch.generation);
        Self { target, generation, stage: Stage::Accepted(traced) }
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
        if matches!(self.stage(key), Some(Stage::Accepted(_))) {
            self.waiting.push_back(key);
        }
    }

    /// Takes the first attempt that waits and whose target is free. From here on it runs, and `handle` ends it.
    pub(super) fn start_ready(&mut self, handle: CancelHandle) -> Option<(AttemptKey, Box<TracedDispatch>)> {
        let held: HashSet<TargetId> =
            self.slots.values().filter(|slot| slot.holds_target()).map(|slot| slot.target).collect();
        let is_free = |key: &AttemptKey| self.slots.get(key).is_some_and(|slot| !held.contains(&slot.target));
        let place = self.waiting.iter().position(is_free)?;
        let key = self.waiting.remove(place)?;
        let slot = self.slots.get_mut(&key)?;
        match std::mem::replace(&mut slot.stage, Stage::Running(handle)) {
            Stage::Accepted(dispatch) => Some((key, dispatch)),
            // It does not wait, so it is as it was.
            stage @ (Stage::Running(_) | Stage::Recovering) => {
                slot.stage = stage;
                None
            }
        }
    }

    pub(super) fn running(&self) -> usize {
        self.slots.values().filter(|slot| matches!(slot.stage, Stage::Running(_))).count()
    }

    /// Those that were accepted and have not begun.
    pub(super) fn unbegun(&self) -> Vec<AttemptKey> {
        let is_unbegun = |slot: &Slot| matches!(slot.stage, Stage::Accepted(_));
        self.slots.iter().filter(|(_, slot)| is_unbegun(slot)).map(|(key, _)| *key).collect()
    }

    /// The attempts on a target that are of an older generation.
    pub(super) fn older_than(&self, target: TargetId, generation: Generation) -> Vec<AttemptKey> {
        let is_older = |slot: &Slot| slot.target == target && slot.generation < generation;
        self.slots.iter().filter(|(_, slot)| is_older(slot)).map(|(key, _)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use stella_protocol::id::{Attempt, DeploymentId, SessionEpoch, TaskId};
    use stella_protocol::spec::{ArtifactSpec, TaskSpec};
    use stella_protocol::trace::TraceParent;
    use uuid::Uuid;

    use super::*;

    fn dispatch(task: u128, target: u128) -> Box<TracedDispatch> {
        let spec = ArtifactSpec {
            component: "web".to_owned(),
            version: "1".to_owned(),
            digest: stella_protocol::digest::Digest([1; 32]),
            size_bytes: 1,
            keep_releases: 1,
            timeout_ms: 1,
        };
        let dispatch = Dispatch {
            task: TaskId(Uuid::from_u128(task)),
            attempt: Attempt(1),
            session: SessionEpoch(1),
            deployment: DeploymentId(Uuid::from_u128(1)),
            target: TargetId(Uuid::from_u128(target)),
            target_name: "web-1".to_owned(),
            slot: None,
            generation: Generation(1),
            release_version: "1".to_owned(),
            spec: TaskSpec::Artifact(spec),
            trace: TraceParent::default(),
        };
        Box::new(dispatch.into())
    }

    /// Takes one up to where it waits for its turn.
    fn wait(slots: &mut Slots, dispatch: Box<TracedDispatch>) -> AttemptKey {
        let key = dispatch.dispatch.key();
        slots.insert(key, Slot::accepted(dispatch));
        slots.enqueue(key);
        key
    }

    #[test]
    fn attempts_start_in_order_one_on_a_target_and_only_once_they_are_durable() {
        let mut slots = Slots::default();
        let start = |slots: &mut Slots| slots.start_ready(crate::cancel::pair().0).map(|(key, _)| key);
        let staged = dispatch(9, 9);
        slots.insert(staged.dispatch.key(), Slot::accepted(staged));
        assert_eq!(start(&mut slots), None);
        let first = wait(&mut slots, dispatch(1, 1));
        let second = wait(&mut slots, dispatch(2, 1));
        let third = wait(&mut slots, dispatch(3, 2));
        assert_eq!(
            (start(&mut slots), start(&mut slots), start(&mut slots)),
            (Some(first), Some(third), None)
        );
        slots.remove(first);
        assert_eq!((start(&mut slots), slots.running()), (Some(second), 2));
    }

    #[test]
    fn what_a_dispatch_has_in_it_is_not_copied_on_its_way() {
        let mut slots = Slots::default();
        let traced = dispatch(1, 1);
        let before = ptr::from_ref(&*traced);
        wait(&mut slots, traced);
        let (_, started) = slots.start_ready(crate::cancel::pair().0).unwrap();
        assert!(ptr::eq(before, &*started));
    }
}
