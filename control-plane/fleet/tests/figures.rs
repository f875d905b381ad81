//! An agent that serves its own figures to others is asked where, once, and only that one.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a failure here is a failed test")]

mod common;

use common::{Agent, Identity, World, hello};
use stella_domain::state::State;
use stella_protocol::close::CloseCode;
use stella_protocol::message::{FiguresAt, Hello, ToAgent, ToControlPlane, capability};

fn serving() -> Hello {
    Hello { capabilities: capability::FIGURES, ..hello(vec![]) }
}

fn at(host: Option<&str>) -> ToControlPlane {
    ToControlPlane::FiguresAt(FiguresAt { host: host.map(str::to_owned), port: 9091 })
}

fn figures(world: &World, identity: &Identity, state: &State) -> Option<String> {
    state.tenants[&world.tenant].agents[&identity.agent].figures.as_ref().map(ToString::to_string)
}

#[tokio::test]
async fn where_an_agent_says_or_where_it_is_seen() {
    let world = World::new().await;
    let identity = world.enrol().await;
    for (host, recorded) in [(None, "127.0.0.1:9091"), (Some("web-1.example.com"), "web-1.example.com:9091")]
    {
        let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, serving()).await;
        assert!(matches!(agent.hear().await, ToAgent::WhereFigures));
        agent.say(&at(host)).await;
        world.until(|state| figures(&world, &identity, state).as_deref() == Some(recorded)).await;
    }
    // One that serves none any more, or is of a version before they could be found, is not asked.
    let (agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    assert_eq!(figures(&world, &identity, &world.state()), None);
    world.shutdown.cancel();
    assert_eq!(agent.closed().await, CloseCode::ShuttingDown, "nothing came before the end");
}

#[tokio::test]
async fn who_tells_more_than_is_asked_is_sent_away() {
    let world = World::new().await;
    let identity = world.enrol().await;
    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, hello(vec![])).await;
    agent.say(&at(None)).await;
    assert_eq!(agent.closed().await, CloseCode::ProtocolViolation);

    let (mut agent, _) = Agent::connect(world.fleet.local_addr(), &identity, serving()).await;
    assert!(matches!(agent.hear().await, ToAgent::WhereFigures));
    agent.say(&at(None)).await;
    agent.say(&at(Some("elsewhere"))).await;
    assert_eq!(agent.closed().await, CloseCode::ProtocolViolation);
    world.until(|state| figures(&world, &identity, state).is_some()).await;
    assert_eq!(figures(&world, &identity, &world.state()).as_deref(), Some("127.0.0.1:9091"));
}
