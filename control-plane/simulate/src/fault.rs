//! What goes wrong, when, and for whom.

use stella_domain::agent::RECONNECT_WINDOW_MS;
use stella_domain::command::TenantCommand;
use stella_domain::listening::Listening;
use stella_domain::rejection::Rejection;
use stella_protocol::limits::{HEARTBEAT_INTERVAL_MS, HEARTBEATS_MISSED_MAX};
use stella_protocol::time::Timestamp;

use crate::dice::within;
use crate::fleet::DEPLOYMENT;
use crate::queue::{Happening, HostIndex};
use crate::scenario::{Fault, Range};
use crate::world::World;

/// After this long without a sign of an agent its session is lost, in milliseconds.
const NOTICED_MS: u64 = HEARTBEAT_INTERVAL_MS * HEARTBEATS_MISSED_MAX;
/// How long after its start the control plane waits for agents that were there before, in milliseconds; the last part is for those that it turns away
/// once.
const PATIENCE_MS: u64 = NOTICED_MS + RECONNECT_WINDOW_MS + 15_000;
/// How long an agent takes to dial again when it can, in milliseconds: its back-off has full jitter.
const DIALS: Range = Range { shortest_ms: 10, longest_ms: 5_000 };

impl World<'_> {
    /// Everything that the scenario has planned, from now on.
    pub(crate) fn plan_faults(&mut self) {
        for (at, fault) in self.scenario.faults.iter().enumerate() {
            let (begins, ends) = fault.times();
            if !fault.comes_first() {
                self.queue.plan(self.now.plus_ms(begins), Happening::FaultBegins(at));
            }
            if let Some(ends) = ends {
                self.queue.plan(self.now.plus_ms(ends), Happening::FaultEnds(at));
            }
        }
    }

    /// What is there before the request.
    pub(crate) fn first_faults(&mut self) -> Result<(), Rejection> {
        let faults = self.scenario.faults.iter().enumerate();
        faults.filter(|(_, fault)| fault.comes_first()).try_for_each(|(at, _)| self.fault_begins(at))
    }

    pub(crate) fn fault_begins(&mut self, number: usize) -> Result<(), Rejection> {
        let Some(fault) = self.scenario.faults.get(number) else { return Ok(()) };
        match fault {
            Fault::Silent { .. } => self.each_struck(number, Self::is_cut_off),
            Fault::Crash { .. } => self.each_struck(number, Self::goes_down),
            Fault::Breaks { step, .. } => {
                for host in self.struck.get(number).into_iter().flatten() {
                    *self.broken.entry((step.clone(), *host)).or_default() += 1;
                }
            }
            Fault::GateClosed { gate, .. } => *self.closed.entry(gate.clone()).or_default() += 1,
            Fault::ControlPlaneDown { lasts, .. } => self.control_plane_goes_down(self.now.plus_ms(lasts.0)),
            Fault::Pause { .. } => {
                let reason = "the scenario wants it".to_owned();
                return self.if_under_way(TenantCommand::PauseDeployment { deployment: DEPLOYMENT, reason });
            }
            Fault::Cancel { .. } => {
                let reason = "the scenario wants it".to_owned();
                return self.if_under_way(TenantCommand::CancelDeployment { deployment: DEPLOYMENT, reason });
            }
            Fault::Drain { .. } => {
                if !self.postpone(Happening::FaultBegins(number)) {
                    return self.drain(number);
                }
            }
            Fault::Skip { .. } => {
                if !self.postpone(Happening::FaultBegins(number)) {
                    return self.skip(number);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn fault_ends(&mut self, number: usize) -> Result<(), Rejection> {
        let Some(fault) = self.scenario.faults.get(number) else { return Ok(()) };
        match fault {
            Fault::Silent { .. } => self.each_struck(number, |world, host| world.is_heard_again(host, false)),
            Fault::Crash { .. } => self.each_struck(number, |world, host| world.is_heard_again(host, true)),
            Fault::Breaks { step, .. } => {
                for host in self.struck.get(number).into_iter().flatten() {
                    self.broken.entry((step.clone(), *host)).and_modify(|count| *count -= 1);
                }
            }
            Fault::GateClosed { gate, .. } => {
                self.closed.entry(gate.clone()).and_modify(|count| *count -= 1);
            }
            Fault::Pause { .. } => {
                return self.if_under_way(TenantCommand::ResumeDeployment { deployment: DEPLOYMENT });
            }
            Fault::Drain { .. } => {
                if !self.postpone(Happening::FaultEnds(number)) {
                    return self.undrain(number);
                }
            }
            // It has planned its end by itself, or has none.
            Fault::ControlPlaneDown { .. } | Fault::Cancel { .. } | Fault::Skip { .. } => {}
        }
        Ok(())
    }

    fn drain(&mut self, fault: usize) -> Result<(), Rejection> {
        for host in self.struck.get(fault).cloned().unwrap_or_default() {
            self.hosts[host].drained += 1;
            let (agent, reason) = (self.hosts[host].agent, "the scenario wants it".to_owned());
            self.tell(TenantCommand::DrainAgent { agent, reason })?;
        }
        Ok(())
    }

    /// Hosts are in rotation again, unless another fault has them out of it.
    fn undrain(&mut self, fault: usize) -> Result<(), Rejection> {
        for host in self.struck.get(fault).cloned().unwrap_or_default() {
            self.hosts[host].drained = self.hosts[host].drained.saturating_sub(1);
            if self.hosts[host].drained == 0 {
                self.tell(TenantCommand::UndrainAgent { agent: self.hosts[host].agent })?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, fault: usize) -> Result<(), Rejection> {
        for host in self.struck.get(fault).cloned().unwrap_or_default() {
            let (target, reason) = (self.hosts[host].target, "the scenario wants it".to_owned());
            self.if_under_way(TenantCommand::SkipTarget { deployment: DEPLOYMENT, target, reason })?;
        }
        Ok(())
    }

    /// What people do to the deployment, if it is there and has not ended: the core says so.
    fn if_under_way(&mut self, command: TenantCommand) -> Result<(), Rejection> {
        match self.tell(command) {
            Ok(_) | Err(Rejection::Conflict { .. } | Rejection::NotFound { .. }) => Ok(()),
            Err(other) => Err(other),
        }
    }

    fn each_struck(&mut self, fault: usize, act: impl Fn(&mut Self, HostIndex)) {
        for host in self.struck.get(fault).cloned().unwrap_or_default() {
            act(self, host);
        }
    }

    fn is_cut_off(&mut self, index: HostIndex) {
        self.will_be_missed(index);
        self.hosts[index].cut += 1;
    }

    fn goes_down(&mut self, index: HostIndex) {
        self.will_be_missed(index);
        self.hosts[index].down += 1;
        let now = self.now;
        self.hosts[index].restart(now);
    }

    /// A session that is live now is going to be lost.
    fn will_be_missed(&mut self, index: HostIndex) {
        if let Some(session) = self.hosts[index].session {
            self.queue.plan(self.now.plus_ms(NOTICED_MS), Happening::SessionLost(index, session));
        }
    }

    fn is_heard_again(&mut self, index: HostIndex, was_down: bool) {
        let host = &mut self.hosts[index];
        let count = if was_down { &mut host.down } else { &mut host.cut };
        *count = count.saturating_sub(1);
        if !self.hosts[index].is_reachable() {
            return;
        }
        if self.hosts[index].session.is_some() {
            // Nobody has noticed: what was sent meanwhile is sent again by the transport.
            self.queue.plan(self.now, Happening::Dials(index));
        } else {
            self.will_dial(index);
        }
    }

    pub(crate) fn will_dial(&mut self, index: HostIndex) {
        let name = self.hosts[index].name.clone();
        let mut source = self.dice.of("dials", &[name.as_bytes(), &self.now.0.to_be_bytes()]);
        self.queue.plan(self.now.plus_ms(within(&mut source, DIALS)), Happening::Dials(index));
    }

    fn control_plane_goes_down(&mut self, until: Timestamp) {
        let until = self.down_until.map_or(until, |other| other.max(until));
        self.down_until = Some(until);
        for host in &mut self.hosts {
            host.session = None;
        }
        self.queue.plan(until, Happening::ControlPlaneBack);
    }

    /// The agents come back; those that do not are missed.
    pub(crate) fn control_plane_is_back(&mut self) {
        if self.down_until.is_none_or(|until| self.now < until) {
            return;
        }
        self.down_until = None;
        let until = self.now.plus_ms(PATIENCE_MS);
        self.listening = Listening::Since { at: self.now, until };
        for index in 0..self.hosts.len() {
            if self.hosts[index].is_reachable() {
                self.will_dial(index);
            }
            let agent = self.hosts[index].agent;
            let session = self.tenant().agents.get(&agent).map(|agent| agent.session);
            if let Some(session) = session {
                self.queue.plan(until, Happening::SessionLost(index, session));
            }
        }
    }
}
