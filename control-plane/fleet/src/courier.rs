//! Wakes the sessions that a commit concerns. It brings them nothing: they read the state.
//!
//! It is called by the engine as soon as a batch is durable, and is no subscriber: what agents are told is waited for, and much else
//! wakes up with each commit.

use std::sync::{Arc, Weak};

use stella_domain::event::{Fact, StreamId};
use stella_domain::state::State;
use stella_engine::{Committed, CommittedEvent};
use stella_protocol::id::AgentId;

use crate::Shared;

/// From the next commit on, for as long as the fleet is there.
pub(crate) fn begin(shared: &Arc<Shared>) {
    let fleet: Weak<Shared> = Arc::downgrade(shared);
    shared.engine.call_first(move |committed| {
        if let Some(shared) = fleet.upgrade() {
            wake(&shared, committed);
        }
    });
}

/// At the shutdown, which is no commit, every session is woken once more.
pub(crate) async fn end(shared: Arc<Shared>) {
    shared.shutdown.cancelled().await;
    shared.registry.wake_all();
}

fn wake(shared: &Shared, committed: &Committed) {
    for event in &committed.events {
        if let Some(agent) = concerned(&committed.state, event) {
            shared.registry.wake(agent);
        }
        for agent in asked(&committed.state, event) {
            shared.registry.wake(agent);
        }
    }
}

/// The agents that are asked what their hosts hold.
fn asked(state: &State, event: &CommittedEvent) -> Vec<AgentId> {
    let (StreamId::Tenant(tenant), Fact::WayBackAsked { targets, .. }) = (event.stream, &event.event.fact)
    else {
        return Vec::new();
    };
    let Some(tenant) = state.tenants.get(&tenant) else { return Vec::new() };
    targets.iter().filter_map(|target| tenant.targets.get(target)).map(|target| target.agent).collect()
}

/// The agent whose session has something to do because of an event.
fn concerned(state: &State, event: &CommittedEvent) -> Option<AgentId> {
    let StreamId::Tenant(tenant) = event.stream else { return None };
    if let Fact::TaskDispatched { key, .. }
    | Fact::TaskCancelRequested { key }
    | Fact::TaskProbeAsked { key, .. } = &event.event.fact
    {
        let task = state.tenants.get(&tenant)?.tasks.get(&key.task)?;
        return Some(task.agent);
    }
    // What nobody knows the end of has to end there.
    if let Fact::TargetAbandoned { target, .. } = &event.event.fact {
        return Some(state.tenants.get(&tenant)?.targets.get(target)?.agent);
    }
    if let Fact::AgentRevoked { agent, .. }
    | Fact::AgentConnected { agent, .. }
    | Fact::AgentDisconnected { agent, .. } = &event.event.fact
    {
        return Some(*agent);
    }
    None
}
