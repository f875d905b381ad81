//! At intervals, makes right what no event will: sessions that have something left to send, and agents that the state
//! has online although nobody is there.
//!
//! The latter are what a control plane that went away leaves behind, in order or not, or a disk that was full when a session ended. Such an
//! agent is left alone for one interval; one that was connected before the start, for as long as agents take to notice that,
//! and to come back: those who do need no event that says they were away.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;

use futures::{StreamExt, stream};
use stella_domain::agent::Connectivity;
use stella_domain::command::{Actor, Command, Request, TenantCommand};
use stella_domain::state::State;
use stella_protocol::id::{AgentId, SessionEpoch, TenantId};
use stella_protocol::trace::TraceContext;
use tokio::time::sleep;

use crate::limits::SWEEP_IN_FLIGHT_MAX;
use crate::{Shared, orders};

/// A session that is in the state and nowhere else.
type Orphan = (TenantId, AgentId, SessionEpoch);

/// Sweeps until the shutdown.
pub(crate) async fn run(shared: Arc<Shared>) {
    let left = orphans(&shared, &shared.engine.state());
    let patience = shared.config.patience();
    let mut suspects = HashMap::new();
    while shared.shutdown.run_until_cancelled(sleep(shared.config.reconcile_interval)).await.is_some() {
        shared.pace.forget_quiet();
        let state = shared.engine.state();
        shared.registry.wake_where(|link| orders::has_any(&state, link));
        let found = orphans(&shared, &state);
        let may_come_back = |found: &(AgentId, Orphan)| {
            left.get(&found.0) == Some(&found.1) && shared.started.elapsed() < patience
        };
        let (lost, others): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|found| suspects.get(&found.0) == Some(&found.1) && !may_come_back(found));
        suspects = others.into_iter().collect();
        let ends: Vec<_> = lost.into_iter().map(|(_, orphan)| end(Arc::clone(&shared), orphan)).collect();
        let ending = stream::iter(ends).buffer_unordered(SWEEP_IN_FLIGHT_MAX).for_each(|()| ready(()));
        if shared.shutdown.run_until_cancelled(ending).await.is_none() {
            break;
        }
    }
}

fn orphans(shared: &Shared, state: &State) -> HashMap<AgentId, Orphan> {
    let mut found = HashMap::new();
    for (tenant, owned) in &state.tenants {
        for (id, agent) in &owned.agents {
            let is_online = matches!(agent.connectivity, Connectivity::Online { .. });
            let is_here = || shared.registry.get(*id).is_some_and(|link| link.session >= agent.session);
            if is_online && !is_here() {
                found.insert(*id, (*tenant, *id, agent.session));
            }
        }
    }
    found
}

async fn end(shared: Arc<Shared>, (tenant, agent, session): Orphan) {
    let reason = "the session was lost while the control plane could not note it".to_owned();
    let command = TenantCommand::DisconnectAgent { agent, session, reason };
    let request = Request {
        actor: Actor::System,
        trace: TraceContext::default(),
        idempotency: None,
        command: Command::Tenant(tenant, command),
    };
    match shared.engine.submit(request).await {
        Ok(_) => {
            tracing::debug!(tenantId = %tenant, agentId = %agent, session = session.0, "a lost session was noted")
        }
        // Without room it is found again; a newer session makes it moot.
        Err(error) => {
            tracing::debug!(tenantId = %tenant, agentId = %agent, %error, "a lost session was not noted")
        }
    }
}
