//! What there is: environments, targets, artifacts and releases.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use stella_protocol::digest::Digest;
use stella_protocol::id::Generation;
use stella_protocol::id::{AgentId, EnvironmentId, ReleaseId, TargetId};
use stella_protocol::time::Timestamp;

use super::{Applied, ensure, misplaced, missing, vacant};
use crate::environment::Environment;
use crate::event::Fact;
use crate::hold::Standing;
use crate::name::Name;
use crate::release::Release;
use crate::target::Target;
use crate::tenant::TenantState;

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_inventory(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        match fact {
            Fact::EnvironmentCreated { .. } => self.environment_created(at, fact),
            Fact::EnvironmentUpdated { .. } => self.environment_updated(fact),
            Fact::EnvironmentRemoved { id } => self.environment_removed(*id, fact),
            Fact::TargetCreated { .. } => self.target_created(at, fact),
            Fact::TargetRemoved { id } => self.target_removed(*id, fact),
            Fact::TargetUpdated { .. } => self.target_updated(fact),
            Fact::ArtifactStored { digest, size_bytes } => {
                vacant(!self.artifacts.contains_key(digest), "artifact", digest, fact)?;
                self.artifacts.insert(*digest, *size_bytes);
                Ok(())
            }
            Fact::ArtifactRemoved { digest } => self.artifact_removed(*digest, fact),
            Fact::ReleaseCreated {
                id,
                application,
                version,
                components,
                steps,
                labels,
                provenance,
                channels,
            } => {
                vacant(!self.releases.contains_key(id), ReleaseId::KIND, id, fact)?;
                let versions = self.index.releases.entry(application.clone()).or_default();
                vacant(!versions.contains_key(version), ReleaseId::KIND, version, fact)?;
                versions.insert(version.clone(), *id);
                let release = Release {
                    id: *id,
                    application: application.clone(),
                    version: version.clone(),
                    components: components.clone(),
                    steps: steps.clone(),
                    labels: labels.clone(),
                    provenance: provenance.as_deref().cloned(),
                    channels: channels.clone(),
                    standing: Standing::Good,
                    created_at: at,
                };
                self.index.release_bytes = self.index.release_bytes.saturating_add(release.bytes());
                self.releases.insert(*id, Arc::new(release));
                self.totals.releases += 1;
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }

    fn environment_created(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let Fact::EnvironmentCreated { id, name, order, way_back_proof } = fact else {
            return Err(misplaced(fact));
        };
        vacant(self.environment_name(*id).is_none(), EnvironmentId::KIND, id, fact)?;
        vacant(!self.index.environments.contains_key(name), EnvironmentId::KIND, name, fact)?;
        self.index.environments.insert(name.clone(), *id);
        let environment = Environment {
            id: *id,
            name: name.clone(),
            order: *order,
            requires: None,
            proven: OrdMap::new(),
            proofs: OrdMap::new(),
            unshown: OrdSet::new(),
            automatic: OrdMap::new(),
            approvals: None,
            freezes: Vec::new(),
            gates: BTreeMap::new(),
            channels: Vec::new(),
            budget: None,
            requires_way_back: false,
            way_back_proof: *way_back_proof,
            strategy: None,
            verification: None,
            silence: None,
            silent_since: None,
            heard_again_at: None,
            lock: None,
            created_at: at,
        };
        self.environments.insert(*id, Arc::new(environment));
        Ok(())
    }

    fn environment_updated(&mut self, fact: &Fact) -> Applied {
        let Fact::EnvironmentUpdated { id, name, order } = fact else { return Err(misplaced(fact)) };
        if let Some(name) = name {
            vacant(!self.index.environments.contains_key(name), EnvironmentId::KIND, name, fact)?;
        }
        let environment = self.environments.get_mut(id);
        let environment = environment.ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
        let environment = Arc::make_mut(environment);
        environment.order = order.unwrap_or(environment.order);
        let Some(name) = name else { return Ok(()) };
        let before = std::mem::replace(&mut environment.name, name.clone());
        self.index.environments.remove(&before);
        self.index.environments.insert(name.clone(), *id);
        Ok(())
    }

    fn environment_removed(&mut self, id: EnvironmentId, fact: &Fact) -> Applied {
        let environment = self.environments.get(&id);
        let environment = environment.ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
        let is_used = self.index.targets.contains_key(&id)
            || self.is_on_a_path(environment)
            || self.active_in(id).next().is_some();
        ensure(!is_used, format!("environment {id}"), "in use", fact)?;
        let name = environment.name.clone();
        self.index.environments.remove(&name);
        self.environments.remove(&id);
        self.former_environments.insert(id, name);
        Ok(())
    }

    /// Whether releases come to an environment from another one, or go on from it to another one.
    fn is_on_a_path(&self, environment: &Environment) -> bool {
        environment.requires.is_some() || self.environments.values().any(|it| it.follows(environment.id))
    }

    fn artifact_removed(&mut self, digest: Digest, fact: &Fact) -> Applied {
        self.artifacts.remove(&digest).map(drop).ok_or_else(|| missing("artifact", digest, fact))
    }

    fn target_created(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let Fact::TargetCreated { id, environment, name, kind, agent, slot, labels, variables } = fact else {
            return Err(misplaced(fact));
        };
        vacant(!self.targets.contains_key(id), TargetId::KIND, id, fact)?;
        if !self.environments.contains_key(environment) {
            return Err(missing(EnvironmentId::KIND, environment, fact));
        }
        if !self.agents.contains_key(agent) {
            return Err(missing(AgentId::KIND, agent, fact));
        }
        let names = self.index.targets.entry(*environment).or_default();
        vacant(!names.contains_key(name), TargetId::KIND, name, fact)?;
        names.insert(name.clone(), *id);
        self.take_slot(*id, *agent, slot.as_ref(), fact)?;
        let target = Target {
            id: *id,
            environment: *environment,
            name: name.clone(),
            kind: kind.clone(),
            agent: *agent,
            slot: slot.clone(),
            labels: labels.clone(),
            variables: variables.clone(),
            generation: Generation::default(),
            current: None,
            active: None,
            last: None,
            blocked_by: None,
            live: None,
            idle: None,
            is_torn: false,
            visited: None,
            brought_with: None,
            part: None,
            created_at: at,
        };
        self.targets.insert(*id, Arc::new(target));
        Ok(())
    }

    fn target_removed(&mut self, id: TargetId, fact: &Fact) -> Applied {
        let target = self.targets.get(&id).ok_or_else(|| missing(TargetId::KIND, id, fact))?;
        ensure(target.active.is_none() && target.blocked_by.is_none(), id, "being worked on", fact)?;
        if let Some(names) = self.index.targets.get_mut(&target.environment) {
            names.remove(&target.name);
            if names.is_empty() {
                self.index.targets.remove(&target.environment);
            }
        }
        let (agent, slot) = (target.agent, target.slot.clone());
        self.leave_slot(agent, slot.as_ref());
        self.targets.remove(&id);
        Ok(())
    }

    fn target_updated(&mut self, fact: &Fact) -> Applied {
        let Fact::TargetUpdated { id, labels, variables, agent } = fact else { return Err(misplaced(fact)) };
        let target = self.target_mut(*id, fact)?;
        if let Some(labels) = labels {
            target.labels.clone_from(labels);
        }
        if let Some(variables) = variables {
            target.variables.clone_from(variables);
        }
        let Some(agent) = *agent else { return Ok(()) };
        ensure(target.active.is_none() && target.blocked_by.is_none(), *id, "being worked on", fact)?;
        let (before, slot) = (std::mem::replace(&mut target.agent, agent), target.slot.clone());
        // It is another host, or one that was made anew: nobody knows what is there. The generation goes on, so that whatever the
        // agents remember of the target is older than what comes.
        (target.current, target.last, target.visited) = (None, None, None);
        (target.live, target.idle, target.is_torn) = (None, None, false);
        (target.part, target.brought_with) = (None, None);
        if !self.agents.contains_key(&agent) {
            return Err(missing(AgentId::KIND, agent, fact));
        }
        self.leave_slot(before, slot.as_ref());
        self.take_slot(*id, agent, slot.as_ref(), fact)
    }

    fn take_slot(&mut self, id: TargetId, agent: AgentId, slot: Option<&Name>, fact: &Fact) -> Applied {
        let slots = self.index.slots.entry(agent).or_default();
        let key = slot.map_or_else(String::new, ToString::to_string);
        let free = if slot.is_none() {
            slots.is_empty()
        } else {
            !slots.contains_key("") && !slots.contains_key(&key)
        };
        vacant(free, "target in slot", &key, fact)?;
        slots.insert(key, id);
        Ok(())
    }

    fn leave_slot(&mut self, agent: AgentId, slot: Option<&Name>) {
        let Some(slots) = self.index.slots.get_mut(&agent) else { return };
        slots.remove(slot.map_or("", Name::as_str));
        if slots.is_empty() {
            self.index.slots.remove(&agent);
        }
    }
}
