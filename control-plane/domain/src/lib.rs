//! The pure core: what may happen, decided without clock, randomness, input or output.
//!
//! A [`command::Request`] and the time come in; [`decide::decide`] answers with events, an outcome and the next state,
//! or with a [`rejection::Rejection`] that changed nothing. [`state::State::apply`] is the one function that joins facts
//! and state: live and in replay. Everything that must happen later is a timer in the state, fired by
//! [`command::Command::Tick`].
//!
//! Reading order: [`state`], then one file a concept ([`tenant`], [`environment`], [`target`], [`application`], [`agent`], [`listening`], [`release`],
//! [`colour`], [`group`], [`provenance`], [`signature`], [`channel`], [`promotion`], [`gate`], [`findings`], [`plan`], [`strategy`], [`deployment`], [`task`], [`way_back`], [`left`], [`hold`], [`freeze`], [`workflow`], [`run`], [`job`], [`access`], [`approvers`], [`api_token`]), then [`archive`], [`artifact`], [`durations`], [`command`], [`event`], [`decide`].
//!
//! # Invariants
//!
//! All are walked by the property tests under these names. Most are kept by `apply`, which refuses what would break them, so that they
//! hold in replay too. These are kept by `decide`, because journals may have facts from before there was such a rule: all of INV-25
//! (`decide::path`) and INV-26 (`decide::rollout::dispatch`); of INV-3 that what proves itself is not replaced (`decide::deployment`); of
//! INV-4 who takes the place of what was left out (`decide::rollout`); of INV-9 that no target is tried again (`decide::guide`); of INV-11
//! what is about silence (`decide::brake`, `decide::gate`); of INV-12 that an answer from outside counts for one wave (`decide::gate`); of
//! INV-29 what is about promotions and about runs that are part of others (`decide::run`).
//!
//! - **INV-1 replay**: applying a tenant's events from nothing gives the live state, also after JSON.
//! - **INV-2 final is final**: a final task, target's part or deployment never changes again; but for a failed part of a running
//!   deployment, which somebody may have tried again or skipped.
//! - **INV-3 one deployment a target**: a target is reserved for at most one deployment that has not ended, and a target whose
//!   last task is `unknown` lets no other in. What somebody asked for comes to no target on which the release of another that somebody asked
//!   for proves itself: not before that has ended.
//! - **INV-4 batch**: a deployment never works on more targets than its batch, nor on two failure domains if it is ordered by them,
//!   nor lets more be down than its limit; it starts no more than its canary step lets of the targets that take part, and holds there only
//!   when as many have the release: what was left out, or has failed, is replaced by the next in the order.
//! - **INV-5 exact indexes**: unsettled tasks, each agent's open and queued tasks, each deployment's counts, its waiting
//!   targets, names and timers are what a search through everything would find.
//! - **INV-6 never again**: an attempt is not dispatched after it became `unknown`.
//! - **INV-7 way back**: the rollback of a failed deployment takes each target to what was there before it, unless that is
//!   blocked or a newer deployment has come to the target; and each that is left as it is is named with the reason.
//! - **INV-8 nothing stuck**: after the due timers have fired none is due, and a deployment that is neither final nor paused
//!   has a target that is worked on, or waits for a gate.
//! - **INV-9 pause**: a paused deployment starts no target, and no time-out passes it by. None is tried again in one that a person or a
//!   freeze holds back.
//! - **INV-10 approvals**: a deployment that somebody asked for comes to an environment with a rule only from a promotion with as
//!   many approvals as the rule needs, each of another account that may approve there when it begins, none of them the one that asked;
//!   and whoever has asked for it may ask for it still, with all that it overrides. Nobody lets a step go on in a run
//!   that they have started, or for which they have chosen, in any part of the whole that it is.
//! - **INV-11 budget**: when a deployment that somebody asked for starts a target, no more targets of the environment are at risk than
//!   its budget lets; and while too many agents of an environment are silent, nothing is started there, no deadline passes, no hold in
//!   which a release proves itself comes to its end, and what something outside says halts nothing and fails no step. The time of a step,
//!   or of a hold, stands only for that.
//! - **INV-12 gates**: a deployment that somebody asked for starts a target only while each gate of its environment, as it is then,
//!   lets it through or is overridden; and nobody decides on a gate of what they have asked for.
//! - **INV-13 order**: no step of a run starts before the steps that it needs are over, and the version that a run has pinned never
//!   changes.
//! - **INV-14 runs end**: a run that has not ended has a step that is under way, and one that has ended has none.
//! - **INV-15 no side door**: what a step deploys is asked for by whoever started the run, as a promotion like any other.
//! - **INV-16 archive**: only what has ended leaves memory, with all that belongs to it, and nothing that is left refers to it but
//!   in words; what was the last to come to a target stays, so that it can be taken back.
//! - **INV-17 signed**: a deployment that somebody asked for starts a target, and switches one, only while its release has the signatures
//!   that its tenant demands, each by another key that is registered and not revoked, and each over that release.
//! - **INV-18 one colour**: what is idle on a target is the colour that is not live; a deployment changes what is live there only
//!   by steps that switch, and what it did not switch it leaves as it was.
//! - **INV-19 switch**: a blue-green deployment starts to switch a target only when the colour there was filled and checked, and
//!   when no target of it still waits for that; so none as long as more have failed than are tolerated.
//! - **INV-20 switch back**: what a rollback has switched back is the release and the colour that were live before.
//! - **INV-21 proof**: a deployment that somebody asked for starts its first target, where its environment requires the proof, only when
//!   each of its targets has nothing to go back to, is left alone, or has proven that it could go back; or when somebody has waived that.
//! - **INV-22 jobs**: what a step of a run wants run on targets is run only while that step waits for it, and leaves what is known of the
//!   targets as it was: what is live there and what is idle, and what was the last to come.
//! - **INV-23 groups**: a deployment to two groups of targets leads no traffic to a group of which no target was prepared or kept, and
//!   none of its targets has the release before the traffic is led there; what it leaves idle is the group that has none.
//! - **INV-24 verification**: a deployment to an environment that wants it has succeeded, and is a proof for the promotion path, only when
//!   its release has baked in on all targets and each gate, as it is then, lets it through or is overridden.
//! - **INV-25 path**: a deployment that somebody asked for, or that comes by itself, begins and starts targets only when its release has
//!   been through what the promotion path of its environment wants, and for as long as it wants it; or when somebody has overridden that.
//!   What has targets left goes on after no command that has taken this away.
//! - **INV-26 draining**: an agent whose host is out of rotation is sent no task but such as go on with what was begun on their target.
//! - **INV-27 plan**: each task that is sent for a deployment that somebody asked for is the one at its place in the leaf of its target in
//!   the plan that was sealed; and so is each task of what takes it back by the steps that are planned there.
//! - **INV-28 unknown**: an outcome that nobody knows is settled by the agent's own word, by a proof of its host or by a person, and never
//!   by silence.
//! - **INV-29 turned away**: when a run has failed, compensates or is being cancelled, no step of it begins any more, nor of what is part of
//!   it, and no deployment that such a step has asked for; but of what makes up for others.

pub mod access;
pub mod agent;
pub mod amount;
pub mod api_token;
pub mod application;
mod apply;
pub mod approvers;
pub mod archive;
pub mod artifact;
pub mod authority;
pub mod channel;
mod choice;
pub mod colour;
pub mod command;
pub mod decide;
pub mod deployment;
mod drain;
pub mod durations;
pub mod environment;
pub mod event;
pub mod findings;
pub mod freeze;
pub mod gate;
pub mod group;
pub mod hold;
pub mod hook;
mod ids;
pub mod job;
pub mod left;
pub mod listening;
pub mod name;
pub mod plan;
pub mod probe;
pub mod promotion;
pub mod provenance;
pub mod rejection;
pub mod release;
mod render;
pub mod run;
pub mod signature;
pub mod size;
pub mod spans;
pub mod state;
pub mod strategy;
pub mod target;
pub mod task;
mod template;
pub mod tenant;
pub mod way_back;
pub mod workflow;
