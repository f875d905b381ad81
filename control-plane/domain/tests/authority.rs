//! The authority is rotated while agents come and go.

use crate::common::{TENANT, World, agent, digest};
use stella_domain::authority::{AgentTrust, AuthorityRecord, RotationPhase};
use stella_domain::command::{Actor, Command, Request, SystemCommand, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::event::Fact;
use stella_domain::rejection::Rejection;
use stella_protocol::digest::Digest;

fn record(root: u8, issuing: u8, trusted: &[u8], phase: Option<RotationPhase>) -> AuthorityRecord {
    let trusted = trusted.iter().map(|n| Digest([*n; 32])).collect();
    AuthorityRecord { root: Digest([root; 32]), issuing: Digest([issuing; 32]), trusted, phase }
}

fn distributing() -> AuthorityRecord {
    record(1, 11, &[1, 2], Some(RotationPhase::Distributing))
}

fn switched() -> AuthorityRecord {
    record(2, 12, &[1, 2], Some(RotationPhase::Switched))
}

fn finished() -> AuthorityRecord {
    record(2, 12, &[2], None)
}

/// Agents that were there before anything is done to the authority.
fn fleet(count: u128) -> World {
    let mut world = World::with_release_1(count);
    world.wait_ms(1);
    world
}

/// Records it; what that is called, if anything.
fn say(world: &mut World, record: AuthorityRecord) -> Option<String> {
    let before = world.events.len();
    world.system(SystemCommand::RecordAuthority(record)).unwrap();
    world.events[before..].iter().find_map(|(_, event)| match &event.fact {
        Fact::AuthorityChanged { change, .. } => Some(format!("{change:?}")),
        _ => None,
    })
}

fn trusts(world: &mut World, n: u128, roots: &[u8], root: u8) -> Result<(), Rejection> {
    let trust =
        AgentTrust { roots: roots.iter().map(|n| Digest([*n; 32])).collect(), root: Digest([root; 32]) };
    let session = world.state.tenants[&TENANT].agents[&agent(n)].session;
    let command = TenantCommand::RecordAgentTrust { agent: agent(n), session, trust };
    as_agent(world, n, command).map(drop)
}

fn as_agent(world: &mut World, n: u128, command: TenantCommand) -> Result<Decision, Rejection> {
    let command = Command::Tenant(TENANT, command);
    world.send(&Request { actor: Actor::Agent { id: agent(n) }, ..World::request(command) })
}

/// Who would be left behind.
fn behind(world: &World) -> Vec<u128> {
    let authority = world.state.system.authority.as_ref().unwrap();
    let agents = &world.state.tenants[&TENANT].agents;
    (1..=2).filter(|n| authority.is_behind(&agents[&agent(*n)])).collect()
}

/// Who would be told something.
fn told(world: &World) -> Vec<u128> {
    let authority = world.state.system.authority.as_ref().unwrap();
    let agents = &world.state.tenants[&TENANT].agents;
    (1..=2).filter(|n| authority.wanted_of(&agents[&agent(*n)]).is_some()).collect()
}

#[test]
fn who_hears_of_a_new_root_in_time_is_not_left_behind() {
    let mut world = fleet(2);
    assert_eq!(say(&mut world, distributing()).as_deref(), Some("RotationStarted"));
    assert_eq!((behind(&world), told(&world)), (vec![1, 2], vec![1, 2]));
    trusts(&mut world, 1, &[2, 1, 1], 1).unwrap();
    assert_eq!((behind(&world), told(&world)), (vec![2], vec![2]));

    assert_eq!(say(&mut world, switched()).as_deref(), Some("RootSwitched"));
    assert_eq!(behind(&world), [1, 2], "its certificate is of the old root");
    trusts(&mut world, 1, &[1, 2], 2).unwrap();
    assert_eq!((behind(&world), told(&world)), (vec![2], vec![2]));

    assert_eq!(say(&mut world, finished()).as_deref(), Some("RotationFinished"));
    assert_eq!((behind(&world), told(&world)), (vec![2], vec![1, 2]), "the old root is to be forgotten");
    trusts(&mut world, 1, &[2], 2).unwrap();
    assert_eq!((behind(&world), told(&world)), (vec![2], vec![2]));
    let reason = "left behind".to_owned();
    world.tell(TenantCommand::RevokeAgent { agent: agent(2), reason }).unwrap();
    assert_eq!(behind(&world), [0; 0], "who is not let in needs nothing");
}

#[test]
fn what_was_said_before_is_no_news() {
    let mut world = fleet(1);
    say(&mut world, distributing());
    assert_eq!(say(&mut world, distributing()), None);
    trusts(&mut world, 1, &[1, 2], 1).unwrap();
    let before = world.events.len();
    trusts(&mut world, 1, &[2, 1], 1).unwrap();
    assert_eq!(world.events.len(), before);
}

#[test]
fn a_new_issuing_certificate_concerns_no_agent() {
    let mut world = fleet(2);
    assert_eq!(say(&mut world, record(1, 12, &[1], None)).as_deref(), Some("IssuingRotated"));
    assert_eq!((behind(&world), told(&world)), (vec![], vec![]));
}

#[test]
fn who_was_told_of_a_root_that_was_given_up_is_told_to_forget_it() {
    let mut world = fleet(2);
    say(&mut world, distributing());
    trusts(&mut world, 1, &[1, 2], 1).unwrap();
    assert_eq!(say(&mut world, record(1, 11, &[1], None)).as_deref(), Some("RotationCancelled"));
    assert_eq!((behind(&world), told(&world)), (vec![], vec![1]));
}

#[test]
fn other_files_than_any_step_leaves_are_told_apart() {
    let mut world = fleet(2);
    say(&mut world, distributing());
    assert_eq!(say(&mut world, record(7, 17, &[7], None)).as_deref(), Some("Replaced"));
    assert_eq!(behind(&world), [1, 2]);
}

#[test]
fn an_agent_speaks_for_itself_in_its_session() {
    let mut world = fleet(2);
    say(&mut world, distributing());
    let trust = AgentTrust { roots: vec![digest(1)], root: digest(1) };
    let session = world.state.tenants[&TENANT].agents[&agent(1)].session;
    let command =
        |session| TenantCommand::RecordAgentTrust { agent: agent(1), session, trust: trust.clone() };
    let other = as_agent(&mut world, 2, command(session));
    assert!(matches!(other, Err(Rejection::Forbidden { .. })), "{other:?}");
    let late = as_agent(&mut world, 1, command(session.next()));
    assert!(matches!(late, Err(Rejection::SessionSuperseded)), "{late:?}");
}

#[test]
fn a_record_that_contradicts_itself_is_refused() {
    let mut world = fleet(1);
    for bad in [record(3, 1, &[1, 2], None), record(1, 1, &[2, 1], None)] {
        let refused = world.system(SystemCommand::RecordAuthority(bad));
        assert!(matches!(refused, Err(Rejection::Invalid { .. })), "{refused:?}");
    }
}
