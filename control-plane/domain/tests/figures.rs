//! Where agents serve their own figures.

use crate::common::{TENANT, World, agent, facts, hello, mark};
use stella_domain::agent::FiguresAddress;
use stella_domain::command::{Actor, Command, Request, TenantCommand};
use stella_domain::decide::Decision;
use stella_domain::rejection::Rejection;
use stella_protocol::id::SessionEpoch;
use stella_protocol::message::{Hello, capability};

fn at(host: &str) -> FiguresAddress {
    FiguresAddress { host: host.to_owned(), port: 9091 }
}

fn says(
    world: &mut World,
    (by, of): (u128, u128),
    session: SessionEpoch,
    at: FiguresAddress,
) -> Result<Decision, Rejection> {
    let command =
        Command::Tenant(TENANT, TenantCommand::RecordAgentFigures { agent: agent(of), session, at });
    world.send(&Request { actor: Actor::Agent { id: agent(by) }, ..World::request(command) })
}

fn figures(world: &World, n: u128) -> Option<String> {
    world.tenant().agents[&agent(n)].figures.as_ref().map(FiguresAddress::to_string)
}

fn connects(world: &mut World, n: u128, capabilities: u64) -> Decision {
    let hello = Hello { capabilities, ..hello(mark(1, 0), vec![]) };
    world.connect_with(n, hello, false)
}

#[test]
fn an_agents_figures_are_where_it_last_said_until_it_has_none() {
    let mut world = World::with_targets(2);
    connects(&mut world, 1, capability::FIGURES);
    let session = world.session(1);
    let said = says(&mut world, (1, 1), session, at("10.0.0.1")).unwrap();
    assert_eq!(facts(&said), ["agent_figures_moved"]);
    assert_eq!(
        facts(&says(&mut world, (1, 1), session, at("10.0.0.1")).unwrap()),
        [""; 0],
        "that is no news"
    );
    let said = says(&mut world, (1, 1), session, at("2001:db8::1")).unwrap();
    assert_eq!(facts(&said), ["agent_figures_moved"]);
    assert_eq!(figures(&world, 1).as_deref(), Some("[2001:db8::1]:9091"));

    // It has them still, and says where once it is asked.
    let again = connects(&mut world, 1, capability::FIGURES);
    assert!(!facts(&again).contains(&"agent_figures_moved"), "{again:?}");
    assert!(figures(&world, 1).is_some());
    let without = connects(&mut world, 1, 0);
    assert!(facts(&without).contains(&"agent_figures_moved"), "{without:?}");
    assert_eq!(figures(&world, 1), None);
    assert!(!facts(&connects(&mut world, 1, 0)).contains(&"agent_figures_moved"));
}

#[test]
fn an_agent_speaks_for_itself_in_its_session_and_names_a_host() {
    let mut world = World::with_targets(2);
    connects(&mut world, 1, capability::FIGURES);
    let session = world.session(1);
    let other = says(&mut world, (2, 1), session, at("10.0.0.1"));
    assert!(matches!(other, Err(Rejection::Forbidden { .. })), "{other:?}");
    let late = says(&mut world, (1, 1), session.next(), at("10.0.0.1"));
    assert!(matches!(late, Err(Rejection::SessionSuperseded)), "{late:?}");
    for bad in [at(""), at("a b"), at("web-1/metrics"), FiguresAddress { port: 0, ..at("web-1") }] {
        let refused = says(&mut world, (1, 1), session, bad);
        assert!(matches!(refused, Err(Rejection::Invalid { .. })), "{refused:?}");
    }
    world.ok(TenantCommand::RevokeAgent { agent: agent(1), reason: "stolen".to_owned() });
    let revoked = says(&mut world, (1, 1), session, at("10.0.0.1"));
    assert!(matches!(revoked, Err(Rejection::Revoked { .. })), "{revoked:?}");
    assert_eq!(figures(&world, 1), None);
}
