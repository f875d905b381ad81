//! What there is before the request, and the request.

use std::collections::BTreeMap;

use stella_domain::command::{NewDeployment, NewEnrolmentToken, SystemCommand, TenantCommand};
use stella_domain::deployment::Strategy;
use stella_domain::environment::{PromotionPath, SilenceRule, Verification};
use stella_domain::promotion::{ApprovalRule, EXPIRES_MS_DEFAULT};
use stella_domain::rejection::Rejection;
use stella_domain::strategy::BlueGreen;
use stella_domain::way_back::ProofRule;
use stella_protocol::digest::Digest;
use stella_protocol::id::DeploymentId;
use stella_protocol::time::Timestamp;

use crate::fleet::{self, NEW, OLD, OLD_DEPLOYMENT, PLACE, TENANT, TOKEN};
use crate::queue::Happening;
use crate::world::{Impossible, World};

/// How often somebody tries again to ask for a release that may not come yet, in milliseconds.
const TRY_AGAIN_MS: u64 = 60_000;

impl World<'_> {
    /// A fleet that has the version before, and an environment with its policy.
    pub(crate) fn set_up(&mut self) -> Result<(), Impossible> {
        let of = |part: &'static str| move |rejection: Rejection| Impossible::from_core(part, &rejection);
        let no_name = |part: &'static str| move |error| Impossible::name(part, &error);
        let name = "simulated".parse().map_err(no_name("fleet"))?;
        self.tell_system(SystemCommand::CreateTenant { id: TENANT, name }).map_err(of("fleet"))?;
        let name = "simulated".parse().map_err(no_name("fleet"))?;
        let create =
            TenantCommand::CreateEnvironment { id: PLACE, name, order: None, way_back_proof: ProofRule::Off };
        self.tell(create).map_err(of("environment"))?;
        self.lay_path().map_err(of("path"))?;
        self.enrol_all()?;
        for (id, version) in [(OLD, "before"), (NEW, "new")] {
            let digest = fleet::digest_of(id);
            self.tell(TenantCommand::StoreArtifact { digest, size_bytes: 1, tenant_bytes_max: None })
                .map_err(of("steps"))?;
            let release = fleet::release(self.scenario, id, version).map_err(no_name("steps"))?;
            let created = self.tell(TenantCommand::CreateRelease(Box::new(release)));
            created.map_err(|rejection| at_root(Impossible::from_core("", &rejection)))?;
        }
        if self.scenario.deploy.replaces {
            self.deploy_before()?;
        }
        self.part_from_those_who_are_away().map_err(of("fleet"))?;
        self.set_policy()
    }

    /// The environments on the way, each with what has to come before it.
    fn lay_path(&mut self) -> Result<(), Rejection> {
        for (at, stage) in self.scenario.path.iter().enumerate() {
            let (id, name) = (fleet::stage(at), stage.name.clone());
            let way_back_proof = ProofRule::Off;
            self.tell(TenantCommand::CreateEnvironment { id, name, order: None, way_back_proof })?;
        }
        for (at, stage) in self.scenario.path.iter().enumerate() {
            let soak_ms = stage.soak.map_or(0, |soak| soak.0);
            let next = if at + 1 == self.scenario.path.len() { PLACE } else { fleet::stage(at + 1) };
            let requires = Some(PromotionPath::after(fleet::stage(at), soak_ms, false));
            self.tell(TenantCommand::SetEnvironmentPath { environment: next, requires })?;
        }
        Ok(())
    }

    fn enrol_all(&mut self) -> Result<(), Impossible> {
        let token = NewEnrolmentToken {
            id: TOKEN,
            secret_hash: Digest([0; 32]),
            agent_name: None,
            labels: BTreeMap::new(),
            profile: stella_protocol::message::Profile::Full,
            uses_max: u32::try_from(self.hosts.len()).unwrap_or(u32::MAX),
            expires_at: Timestamp(u64::MAX),
        };
        let of = |rejection: Rejection| Impossible::from_core("fleet", &rejection);
        self.tell(TenantCommand::CreateEnrolmentToken(Box::new(token))).map_err(of)?;
        for index in 0..self.hosts.len() {
            let host = &self.hosts[index];
            let mut key = [0; 32];
            key[..16].copy_from_slice(host.agent.0.as_bytes());
            let enrol = TenantCommand::Enrol {
                token: TOKEN,
                key_fingerprint: Digest(key),
                agent: host.agent,
                hostname: host.name.clone(),
                takes_profile: true,
                wanted: None,
            };
            let target = fleet::target(host).map_err(|error| Impossible::name("fleet", &error))?;
            self.tell(enrol).map_err(of)?;
            self.tell(TenantCommand::CreateTarget(Box::new(target))).map_err(of)?;
            // All are there at first: those who will be away too got the version before.
            let is_away = std::mem::take(&mut self.hosts[index].away);
            self.dials(index).map_err(of)?;
            self.hosts[index].away = is_away;
        }
        Ok(())
    }

    fn deploy_before(&mut self) -> Result<(), Impossible> {
        let away: Vec<bool> = self.hosts.iter_mut().map(|host| std::mem::take(&mut host.away)).collect();
        // Two groups have it on one of them, and the traffic is led there.
        let groups = self.scenario.deploy.strategy.groups().cloned();
        let strategy = groups.map_or(Strategy::AllAtOnce, |groups| {
            Strategy::BlueGreen(BlueGreen { groups: Some(groups), ..BlueGreen::default() })
        });
        let new = NewDeployment {
            id: OLD_DEPLOYMENT,
            release: OLD,
            strategy,
            tolerate_failures: None,
            ..fleet::deployment(self.scenario)
        };
        // The version before has been everywhere for long.
        let on_the_way = (0..self.scenario.path.len()).map(|at| fleet::on_the_way(self.scenario, at, OLD));
        for new in on_the_way.chain([new]) {
            self.tell(TenantCommand::Deploy(Box::new(without_path(new))))
                .map_err(|rejection| Impossible::from_core("deploy", &rejection))?;
        }
        while !self.tenant().active_deployments.is_empty() && self.next_at().is_some() {
            self.step()?;
        }
        for (host, is_away) in self.hosts.iter_mut().zip(away) {
            host.away = is_away;
        }
        Ok(())
    }

    fn part_from_those_who_are_away(&mut self) -> Result<(), Rejection> {
        for index in 0..self.hosts.len() {
            if self.hosts[index].away
                && let Some(session) = self.hosts[index].session
            {
                self.session_lost(index, session)?;
            }
        }
        Ok(())
    }

    fn set_policy(&mut self) -> Result<(), Impossible> {
        let of = |field: &'static str| move |rejection: Rejection| in_policy(field, &rejection);
        let policy = &self.scenario.environment;
        if let Some(budget) = policy.budget {
            let set = TenantCommand::SetEnvironmentBudget { environment: PLACE, budget: Some(budget) };
            self.tell(set).map_err(of("budget"))?;
        }
        if let Some(silence) = policy.silence {
            let rule = Some(SilenceRule { percent: silence.percent, within_ms: silence.within.0 });
            self.tell(TenantCommand::SetEnvironmentSilence { environment: PLACE, rule })
                .map_err(of("silence"))?;
        }
        if let Some(bake) = policy.bake {
            let verification = Some(Verification { bake_ms: bake.0 });
            self.tell(TenantCommand::SetEnvironmentVerification { environment: PLACE, verification })
                .map_err(of("bake"))?;
        }
        if policy.require_way_back {
            let set = TenantCommand::SetEnvironmentWayBack { environment: PLACE, required: true };
            self.tell(set).map_err(of("require_way_back"))?;
        }
        if policy.way_back_proof != ProofRule::Off {
            let rule = policy.way_back_proof;
            self.tell(TenantCommand::SetEnvironmentWayBackProof { environment: PLACE, rule })
                .map_err(of("way_back_proof"))?;
        }
        if let Some(needed) = policy.approvals {
            self.hire(needed).map_err(of("approvals"))?;
            let rule = Some(ApprovalRule::of(needed, Vec::new(), EXPIRES_MS_DEFAULT));
            self.tell(TenantCommand::SetEnvironmentApprovals { environment: PLACE, rule })
                .map_err(of("approvals"))?;
        }
        for freeze in policy.freezes.clone() {
            let set = TenantCommand::FreezeEnvironment { environment: PLACE, freeze: Box::new(freeze) };
            self.tell(set).map_err(of("freezes"))?;
        }
        let gates = fleet::gates(self.scenario);
        for gate in gates.map_err(|error| Impossible::name("environment.gates", &error))? {
            let set = TenantCommand::SetGate { environment: PLACE, gate: Box::new(gate) };
            self.tell(set).map_err(of("gates"))?;
        }
        Ok(())
    }

    /// The time has come, and somebody asks for the new version.
    pub(crate) fn request(&mut self) -> Result<(), Impossible> {
        let start = Timestamp(self.scenario.starts.0);
        while self.next_at().is_some_and(|at| at < start) {
            self.step()?;
        }
        self.now = start;
        self.begun = true;
        self.figures.on_the_way(self.now, &self.scenario.path);
        self.first_faults().map_err(|rejection| Impossible::from_core("faults", &rejection))?;
        self.would_take(without_path(fleet::deployment(self.scenario)))
            .and_then(|()| self.ask_for(0))
            .map_err(|rejection| Impossible::from_core("deploy", &rejection))
    }

    /// Whether the core would take it, as far as it can say that before the time has come.
    fn would_take(&self, new: NewDeployment) -> Result<(), Rejection> {
        if self.scenario.path.is_empty() {
            Ok(())
        } else {
            self.consider(TenantCommand::Deploy(Box::new(new)))
        }
    }

    /// Somebody asks for the new version in the environment that comes next. What goes wrong is counted from the last request on.
    fn ask_for(&mut self, at: usize) -> Result<(), Rejection> {
        let new = if at < self.scenario.path.len() {
            fleet::on_the_way(self.scenario, at, NEW)
        } else {
            fleet::deployment(self.scenario)
        };
        self.tell(TenantCommand::Deploy(Box::new(new)))?;
        if at == self.scenario.path.len() {
            self.plan_faults();
        }
        Ok(())
    }

    /// The release has succeeded in an environment on the way: it is asked for in the next when it has soaked.
    pub(crate) fn came_through(&mut self, deployment: DeploymentId) {
        let stages = self.scenario.path.iter().enumerate();
        for (at, stage) in stages.filter(|(at, _)| fleet::stage_deployment(*at, NEW) == deployment) {
            let soaked = self.now.plus_ms(stage.soak.map_or(0, |soak| soak.0));
            self.queue.plan(soaked, Happening::Requests(at + 1));
        }
    }

    /// The time has come for the next environment. While it is frozen, or the control plane is away, it is tried again.
    pub(crate) fn requests(&mut self, at: usize) -> Result<(), Rejection> {
        if self.postpone(Happening::Requests(at)) {
            return Ok(());
        }
        match self.ask_for(at) {
            Err(Rejection::Conflict { .. }) => {
                self.queue.plan(self.now.plus_ms(TRY_AGAIN_MS), Happening::Requests(at));
                Ok(())
            }
            other => other,
        }
    }
}

/// The same, wherever the version has been before.
fn without_path(new: NewDeployment) -> NewDeployment {
    NewDeployment { override_path: Some("simulated".to_owned()), ..new }
}

/// What the core says of a field of the policy is about the scenario's field of that name.
fn in_policy(field: &str, rejection: &Rejection) -> Impossible {
    let Impossible { problem, .. } = Impossible::from_core("", rejection);
    Impossible { field: format!("environment.{field}"), problem }
}

/// What the core says of a release is about fields that the scenario has at its top.
fn at_root(impossible: Impossible) -> Impossible {
    Impossible { field: impossible.field.trim_start_matches('.').to_owned(), ..impossible }
}
