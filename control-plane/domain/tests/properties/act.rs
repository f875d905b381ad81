//! What may happen on a walk, and how often.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use stella_domain::deployment::OnFailure;
use stella_protocol::message::TaskOutcome;

use super::settings::{Setting, setting};
use super::{AGENTS, PEOPLE, TARGETS};
use crate::common::failed;

/// By which strategy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Plain,
    Canary,
    /// With a pause between batches.
    Pausing,
    /// One failure domain after the other, and not all of them down.
    Domains,
    /// Prepared, warmed up or confirmed, then switched.
    BlueGreen(bool),
    /// The same between two groups of targets.
    Groups(bool),
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    StartRun(u128),
    LeadRun(usize, u8),
    Deploy {
        release: u128,
        batch: Option<u32>,
        kind: Kind,
        tolerate: Option<u32>,
        only: Option<Vec<u128>>,
        on_failure: OnFailure,
        hours: u64,
    },
    /// A release is deployed to one of the two environments that a path may lead from.
    DeployBefore(u128, u128),
    /// Staging comes after nothing, one of them, any of them or both of them, in the end by itself.
    Path(u8),
    Cancel(usize),
    /// A target of a running deployment is tried again.
    RetryTarget(usize, u128),
    SkipTarget(usize, u128),
    GiveUp(usize, bool),
    /// So many targets may be at risk at once.
    Budget(Option<u32>),
    /// More than a third of the agents silent within a minute is a network event, or nothing is.
    Silence(bool),
    Freeze(bool),
    /// No proof of the way back, one that is reported, or one that is required.
    Proof(u8),
    /// The agent answers so many of the questions about its host, like this.
    Prove(u128, u8),
    /// The agent answers one of the questions about what is left of its attempts, like this.
    Probe(u128, u8),
    /// The hosts are asked again, or the proof is waived.
    ProveAgain(usize, bool),
    Pause(usize, bool),
    Lock(bool),
    Judge(u128, u8),
    /// So many have to approve from now on; from 3 on it is one of a group and one of another, and silence has consequences.
    Rule(u32),
    Approve(usize, u128),
    /// Somebody may do everything, or only look.
    Role(u128, bool),
    /// Rejected by somebody, or withdrawn.
    End(usize, bool),
    /// A gate of this kind is set, or removed.
    Gate(u8, bool),
    /// Deployments are verified after their last wave, or not.
    Verification(bool),
    /// A question to something outside is answered.
    Answer(usize, u8),
    /// Somebody says that the manual gate of a promotion lets it through, or not, or that a gate does not matter.
    Word(usize, u128, u8),
    /// So many signatures are demanded of every release.
    Demand(u32),
    /// A key signs a release.
    Sign(usize, u128),
    /// A key is revoked, for ever.
    RevokeKey(usize),
    /// A scanner finds something, or nothing.
    Scan(u128, bool),
    Rollback(usize),
    Retire(usize),
    Retry(usize),
    Settle(usize, bool),
    /// So many of what has ended in a place may stay in memory.
    Archive(usize),
    Revoke(u128),
    /// A host is taken out of rotation, or comes back.
    Drain(u128, bool),
    RemoveTarget(u128),
    /// A target is served by another agent from now on.
    MoveTarget(u128, u128),
    /// Something is set up, or taken away.
    Set(Setting),
    Wait(u64),
    Connect(u128),
    Disconnect(u128),
    Wipe(u128),
    /// The agent's words are lost from now until it connects again.
    Mute(u128),
    /// The agent takes what was sent to it.
    Accept(u128),
    Run(u128),
    /// The agent says how far the end of something has got.
    Ending(u128, u8),
    /// The agent does all that it is sent, some times over; the last of it ends like this.
    Work(u128, usize, TaskOutcome),
    Finish(u128, TaskOutcome),
    /// The agent says again what was not heard.
    Repeat(u128),
    RestartControlPlane,
    /// A backup is restored that lacks the last commands.
    RestoreControlPlane(usize),
}

fn outcome() -> impl Strategy<Value = TaskOutcome> {
    prop_oneof![
        8 => Just(TaskOutcome::Succeeded),
        1 => Just(failed("exit 1")),
        1 => Just(TaskOutcome::TimedOut),
        1 => Just(TaskOutcome::Cancelled),
        1 => Just(TaskOutcome::Interrupted),
        1 => Just(TaskOutcome::Unknown { reason: "no record".to_owned() }),
        1 => Just(TaskOutcome::Refused { reason: "policy".to_owned() }),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Plain),
        Just(Kind::Canary),
        Just(Kind::Pausing),
        Just(Kind::Domains),
        any::<bool>().prop_map(Kind::BlueGreen),
        any::<bool>().prop_map(Kind::BlueGreen),
        any::<bool>().prop_map(Kind::Groups),
        any::<bool>().prop_map(Kind::Groups),
    ]
}

pub(crate) fn act() -> impl Strategy<Value = Act> {
    let who = 1..=AGENTS;
    let tolerate = proptest::option::weighted(0.3, 1..3_u32);
    let policy = prop_oneof![Just(OnFailure::Rollback), Just(OnFailure::Stop), Just(OnFailure::Ask)];
    let only = proptest::option::weighted(0.3, vec(1..=TARGETS, 1..3));
    prop_oneof![
        14 => (1..=5_u128, proptest::option::of(1..3_u32), (kind(), tolerate), only, policy, 1..4_u64)
            .prop_map(|(release, batch, (kind, tolerate), only, on_failure, hours)| Act::Deploy { release, batch, kind, tolerate, only, on_failure, hours }),
        2 => (any::<usize>(), 1..=TARGETS).prop_map(|(which, n)| Act::SkipTarget(which, n)),
        4 => (any::<usize>(), 1..=TARGETS).prop_map(|(which, n)| Act::RetryTarget(which, n)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, back)| Act::GiveUp(which, back)),
        3 => proptest::option::of(1..4_u32).prop_map(Act::Budget),
        8 => (0..2_u128, 1..=5_u128).prop_map(|(place, release)| Act::DeployBefore(place, release)),
        3 => prop_oneof![3 => Just(0_u8), 4 => 1..=6_u8].prop_map(Act::Path),
        2 => any::<bool>().prop_map(Act::Silence),
        1 => any::<bool>().prop_map(Act::Freeze),
        3 => (0..4_u8).prop_map(Act::Proof),
        10 => (who.clone(), 0..8_u8).prop_map(|(who, how)| Act::Prove(who, how)),
        6 => (who.clone(), 0..4_u8).prop_map(|(who, how)| Act::Probe(who, how)),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, waived)| Act::ProveAgain(which, waived)),
        5 => (1..=6_u128).prop_map(Act::StartRun),
        16 => (any::<usize>(), 0..16_u8).prop_map(|(which, how)| Act::LeadRun(which, how)),
        1 => any::<usize>().prop_map(Act::Cancel),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, on)| Act::Pause(which, on)),
        2 => any::<bool>().prop_map(Act::Lock),
        2 => (1..=5_u128, 0..5_u8).prop_map(|(release, what)| Act::Judge(release, what)),
        3 => prop_oneof![4 => Just(0), 2 => Just(1), 1 => Just(2), 2 => 3..=5_u32].prop_map(Act::Rule),
        8 => (any::<usize>(), 1..=PEOPLE).prop_map(|(which, who)| Act::Approve(which, who)),
        3 => (2..=PEOPLE, proptest::bool::weighted(0.6)).prop_map(|(who, all)| Act::Role(who, all)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, rejected)| Act::End(which, rejected)),
        3 => (0..5_u8, proptest::bool::weighted(0.4)).prop_map(|(kind, on)| Act::Gate(kind, on)),
        2 => any::<bool>().prop_map(Act::Verification),
        2 => prop_oneof![3 => Just(0_u32), 2 => Just(1), 1 => Just(2)].prop_map(Act::Demand),
        8 => (1..=3_usize, 1..=3_u128).prop_map(|(key, release)| Act::Sign(key, release)),
        1 => prop_oneof![4 => Just(None), 1 => (1..=3_usize).prop_map(Some)]
            .prop_map(|key| key.map_or(Act::Wait(1), Act::RevokeKey)),
        8 => (any::<usize>(), 0..6_u8).prop_map(|(which, how)| Act::Answer(which, how)),
        5 => (any::<usize>(), 1..=PEOPLE, 0..6_u8).prop_map(|(which, who, word)| Act::Word(which, who, word)),
        5 => (1..=3_u128, proptest::bool::weighted(0.3)).prop_map(|(release, bad)| Act::Scan(release, bad)),
        2 => any::<usize>().prop_map(Act::Rollback),
        1 => any::<usize>().prop_map(Act::Retire),
        2 => any::<usize>().prop_map(Act::Retry),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(which, yes)| Act::Settle(which, yes)),
        6 => (0..3_usize).prop_map(Act::Archive),
        2 => prop_oneof![20 => Just(None), 1 => who.clone().prop_map(Some)]
            .prop_map(|who| who.map_or(Act::Wait(1), Act::Revoke)),
        4 => (who.clone(), proptest::bool::weighted(0.4)).prop_map(|(who, on)| Act::Drain(who, on)),
        1 => (1..=TARGETS * 8).prop_map(Act::RemoveTarget),
        1 => (1..=TARGETS, 1..=AGENTS).prop_map(|(target, agent)| Act::MoveTarget(target, agent)),
        3 => prop_oneof![4 => Just(5_u64), 4 => Just(31_000), 3 => Just(61_000), 1 => Just(3_600_000), 1 => Just(90_000_000)].prop_map(Act::Wait),
        24 => setting().prop_map(Act::Set),
        14 => who.clone().prop_map(Act::Connect),
        3 => who.clone().prop_map(Act::Disconnect),
        3 => who.clone().prop_map(Act::Wipe),
        16 => who.clone().prop_map(Act::Accept),
        4 => who.clone().prop_map(Act::Mute),
        12 => who.clone().prop_map(Act::Run),
        6 => (who.clone(), 0..3_u8).prop_map(|(who, stage)| Act::Ending(who, stage)),
        24 => (who.clone(), 1..9_usize, outcome()).prop_map(|(agent, rounds, last)| Act::Work(agent, rounds, last)),
        24 => (who.clone(), outcome()).prop_map(|(agent, outcome)| Act::Finish(agent, outcome)),
        3 => who.prop_map(Act::Repeat),
        1 => Just(Act::RestartControlPlane),
        1 => proptest::option::weighted(0.3, 1..8_usize)
            .prop_map(|lost| lost.map_or(Act::Wait(2), Act::RestoreControlPlane)),
    ]
}
