//! The certificate authority of the running control plane: what was done to it is recorded, taken over by the listeners and
//! told to the agents.
//!
//! The files come first and the journal after them: a certificate cannot be trusted before it exists. A crash in between leaves
//! files that the next start records.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use stella_api_types::time::rfc3339;
use stella_certs::authority::rotation::{Pair, Phase, Status};
use stella_domain::agent::Connectivity;
use stella_domain::authority::{AuthorityRecord, RotationPhase};
use stella_domain::command::{Actor, Command, Request, SystemCommand};
use stella_domain::state::State;
use stella_engine::Handle;
use stella_fleet::Fleet;
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use tokio::sync::Mutex;

use crate::pki::Pki;

/// How many agents are listed by name. The count is of all.
const LISTED_MAX: usize = 1_000;
/// How many of them a refusal names.
const NAMED_MAX: usize = 10;

/// What can be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// Nothing: tell how it is.
    Status,
    /// Replace the issuing certificate.
    RotateIssuing,
    /// Make a new root and tell all agents of it.
    Start,
    /// Issue everything under the new root.
    Switch,
    /// Trust the old root no more.
    Finish {
        /// Whether also if that cuts agents off.
        leave_behind: bool,
    },
    /// Give the new root up.
    Cancel,
}

/// How the authority is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The root that certificates are issued under.
    pub(crate) root: Ca,
    /// What issues.
    pub(crate) issuing: Ca,
    /// How far a rotation of the root is.
    pub(crate) phase: Option<String>,
    /// The other root that is trusted.
    pub(crate) other_root: Option<Ca>,
    /// How many agents there are that are not revoked.
    pub(crate) agents: usize,
    /// How many of them would be cut off by the end of the rotation, or were by one before.
    pub(crate) behind: usize,
    /// Who they are, as many as are listed.
    pub(crate) behind_agents: Vec<Behind>,
}

/// A certificate of the authority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ca {
    /// SHA-256 of its DER.
    pub(crate) fingerprint: String,
    /// When it ends.
    pub(crate) not_after: String,
}

/// An agent that does not trust the new root yet, or whose certificate is of the old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Behind {
    /// Its tenant's name.
    pub(crate) tenant: String,
    /// Its name.
    pub(crate) agent: String,
    /// Whether it is reachable.
    pub(crate) connectivity: String,
}

/// Does steps, one at a time.
#[derive(Debug)]
pub(crate) struct Rotator {
    engine: Handle,
    pki: Pki,
    fleet: Arc<Fleet>,
    one: Mutex<()>,
}

impl Rotator {
    pub(crate) fn new(engine: Handle, pki: Pki, fleet: Arc<Fleet>) -> Self {
        Self { engine, pki, fleet, one: Mutex::new(()) }
    }

    /// Does a step and tells how the authority is after it.
    ///
    /// # Errors
    /// If the step cannot be done now. What it did before it failed is done, and doing it again goes on from there.
    pub(crate) async fn take(&self, step: Step) -> anyhow::Result<Report> {
        let _one = self.one.lock().await;
        if step != Step::Status {
            if step == (Step::Finish { leave_behind: false }) {
                self.refuse_to_leave_behind()?;
            }
            if !self.is_done_but_unrecorded(step) {
                let pki = self.pki.clone();
                tokio::task::spawn_blocking(move || pki.step(step)).await??;
            }
            // Whom the listeners trust does not wait for a disk that may be full; what agents are told follows from the record.
            self.fleet.trust_has_changed()?;
            record(&self.engine, &self.pki).await?;
            self.fleet.trust_has_changed()?;
            tracing::info!(?step, "the certificate authority was changed");
        }
        Ok(report(&self.engine.state(), &self.pki.status()))
    }

    /// Whether it is the end of a rotation that is at its end in the files, but not in the journal, which could not take it then.
    fn is_done_but_unrecorded(&self, step: Step) -> bool {
        let recorded =
            self.engine.state().system.authority.as_ref().and_then(|authority| authority.record.phase);
        matches!(step, Step::Finish { .. })
            && self.pki.status().phase.is_none()
            && recorded == Some(RotationPhase::Switched)
    }

    fn refuse_to_leave_behind(&self) -> anyhow::Result<()> {
        let Report { behind, behind_agents, .. } = report(&self.engine.state(), &self.pki.status());
        let names: Vec<_> =
            behind_agents.iter().take(NAMED_MAX).map(|it| format!("{}/{}", it.tenant, it.agent)).collect();
        ensure!(
            behind == 0,
            "{behind} agents would be cut off and have to enrol again: {}{}; start them, revoke those that are gone, or say --leave-behind",
            names.join(", "),
            if behind > names.len() { ", ..." } else { "" }
        );
        Ok(())
    }
}

/// Records what the files say, if something was ever done to them.
///
/// # Errors
/// If it cannot be recorded.
pub(crate) async fn record(engine: &Handle, pki: &Pki) -> anyhow::Result<()> {
    let status = pki.status();
    let record = AuthorityRecord {
        root: status.active.root,
        issuing: status.active.issuing,
        trusted: status.trusted,
        phase: status.phase.map(|phase| match phase {
            Phase::Distributing => RotationPhase::Distributing,
            Phase::Switched => RotationPhase::Switched,
        }),
    };
    let request = Request {
        actor: Actor::System,
        trace: TraceContext::default(),
        idempotency: None,
        command: Command::System(SystemCommand::RecordAuthority(record)),
    };
    engine.submit(request).await.context("what was done to the certificate authority is not recorded")?;
    Ok(())
}

/// Records what a crash has left unrecorded. An authority to which nothing was ever done is not in the journal.
///
/// # Errors
/// If it cannot be recorded.
pub(crate) async fn resume(engine: &Handle, pki: &Pki) -> anyhow::Result<()> {
    if engine.state().system.authority.is_none() && pki.status().phase.is_none() {
        return Ok(());
    }
    record(engine, pki).await
}

/// How many agents are behind; `None` if nothing was ever done to the authority.
pub(crate) fn count_behind(state: &State) -> Option<usize> {
    let authority = state.system.authority.as_ref()?;
    let agents = state.tenants.values().flat_map(|tenant| tenant.agents.values());
    Some(agents.filter(|agent| authority.is_behind(agent)).count())
}

fn report(state: &State, status: &Status) -> Report {
    let mut agents = 0;
    let mut behind = 0;
    let mut behind_agents = Vec::new();
    for tenant in state.tenants.values() {
        for agent in tenant.agents.values().filter(|agent| agent.revoked.is_none()) {
            agents += 1;
            if state.system.authority.as_ref().is_some_and(|authority| authority.is_behind(agent)) {
                behind += 1;
                if behind_agents.len() < LISTED_MAX {
                    behind_agents.push(Behind {
                        tenant: tenant.name.to_string(),
                        agent: agent.name.to_string(),
                        connectivity: connectivity(&agent.connectivity).to_owned(),
                    });
                }
            }
        }
    }
    let Pair { root, root_not_after, issuing, issuing_not_after } = &status.active;
    Report {
        root: Ca { fingerprint: root.to_string(), not_after: written(*root_not_after) },
        issuing: Ca { fingerprint: issuing.to_string(), not_after: written(*issuing_not_after) },
        phase: status.phase.map(|phase| phase.name().to_owned()),
        other_root: status
            .other
            .as_ref()
            .map(|it| Ca { fingerprint: it.root.to_string(), not_after: written(it.root_not_after) }),
        agents,
        behind,
        behind_agents,
    }
}

/// The word for it.
pub(crate) const fn connectivity(connectivity: &Connectivity) -> &'static str {
    match connectivity {
        Connectivity::Never => "never seen",
        Connectivity::Online { .. } => "online",
        Connectivity::Suspect { .. } => "suspect",
        Connectivity::Offline { .. } => "offline",
    }
}

/// A time as the API writes it.
pub(crate) fn written(at: SystemTime) -> String {
    let since_1970 = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    rfc3339(Timestamp(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)))
}
