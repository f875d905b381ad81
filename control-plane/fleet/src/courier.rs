//! Wakes the sessions that a commit concerns. It brings them nothing: they read the state.

use std::sync::Arc;

use stella_domain::event::{Fact, StreamId};
use stella_domain::state::State;
use stella_engine::{Committed, CommittedEvent};
use stella_protocol::id::AgentId;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::Shared;

/// Follows the commits until the shutdown.
pub(crate) async fn run(shared: Arc<Shared>, mut commits: Receiver<Arc<Committed>>) {
    while let Some(received) = shared.shutdown.run_until_cancelled(commits.recv()).await {
        match received {
            Ok(committed) => {
                for event in &committed.events {
                    if let Some(agent) = concerned(&committed.state, event) {
                        shared.registry.wake(agent);
                    }
                    for agent in asked(&committed.state, event) {
                        shared.registry.wake(agent);
                    }
                }
            }
            // What was missed is in the state.
            Err(RecvError::Lagged(batches)) => {
                tracing::debug!(batches, "commits came too fast; every session looks at the state");
                shared.registry.wake_all();
            }
            Err(RecvError::Closed) => break,
        }
    }
    // Sessions that are awake see the shutdown.
    shared.registry.wake_all();
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
    if let Fact::TaskDispatched { key, .. } | Fact::TaskCancelRequested { key } = &event.event.fact {
        let task = state.tenants.get(&tenant)?.tasks.get(&key.task)?;
        return Some(task.agent);
    }
    if let Fact::AgentRevoked { agent, .. }
    | Fact::AgentConnected { agent, .. }
    | Fact::AgentDisconnected { agent, .. } = &event.event.fact
    {
        return Some(*agent);
    }
    None
}
