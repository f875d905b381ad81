//! What there is before the request, and the request.

use std::collections::BTreeMap;

use stella_domain::command::{NewDeployment, NewEnrolmentToken, SystemCommand, TenantCommand};
use stella_domain::deployment::Strategy;
use stella_domain::environment::{SilenceRule, Verification};
use stella_domain::promotion::{ApprovalRule, EXPIRES_MS_DEFAULT};
use stella_domain::rejection::Rejection;
use stella_domain::strategy::BlueGreen;
use stella_domain::way_back::ProofRule;
use stella_protocol::digest::Digest;
use stella_protocol::time::Timestamp;

use crate::fleet::{self, NEW, OLD, OLD_DEPLOYMENT, PLACE, TENANT, TOKEN};
use crate::world::{Impossible, World};

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
        self.tell(TenantCommand::Deploy(Box::new(new)))
            .map_err(|rejection| Impossible::from_core("deploy", &rejection))?;
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
        let new = fleet::deployment(self.scenario);
        let asked = self.tell(TenantCommand::Deploy(Box::new(new)));
        asked.map_err(|rejection| Impossible::from_core("deploy", &rejection))?;
        self.plan_faults();
        Ok(())
    }
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
