//! Applications: which targets of an environment are for one.
//!
//! A target has one application: that of the release which is there. Of one that has no release yet nobody has said whose it is. It is for
//! whichever application comes, as long as no other one is in its environment; where there are others, it is nobody's until a deployment
//! names it.
//!
//! Two groups of targets are a whole: a deployment to them goes to all of the environment, as jobs do, and what replaces applications.

use std::sync::Arc;

use stella_protocol::id::EnvironmentId;

use crate::command::NewDeployment;
use crate::deployment::Deployment;
use crate::name::Name;
use crate::target::Target;
use crate::tenant::TenantState;

impl TenantState {
    /// The application of what is on a target; `None` if nothing is there.
    #[must_use]
    pub fn application_on(&self, target: &Target) -> Option<&Name> {
        Some(&self.releases.get(&target.current?)?.application)
    }

    /// Whether an environment has targets of other applications than this one.
    #[must_use]
    pub fn has_others(&self, environment: EnvironmentId, application: &Name) -> bool {
        let mut there = self.targets_of(environment).filter_map(|target| self.application_on(target));
        there.any(|there| there != application)
    }

    /// The targets of an environment that are for an application, in the order of their names.
    fn targets_for<'t>(
        &'t self,
        environment: EnvironmentId,
        application: &'t Name,
    ) -> impl Iterator<Item = &'t Arc<Target>> {
        let is_shared = self.has_others(environment, application);
        let is_for_it = move |target: &Target| match self.application_on(target) {
            Some(there) => there == application,
            None => !is_shared,
        };
        self.targets_of(environment).filter(move |target| is_for_it(target))
    }

    /// The targets that a deployment would go to: those that it names, or those that are for its application. If none is, all, so that it is
    /// refused for what is there.
    #[must_use]
    pub fn meant_by<'t>(&'t self, wanted: &'t NewDeployment) -> Vec<&'t Arc<Target>> {
        if let Some(named) = &wanted.targets {
            return named.iter().filter_map(|id| self.targets.get(id)).collect();
        }
        let takes_all =
            wanted.job.is_some() || wanted.replace_application || wanted.strategy.groups().is_some();
        let release = self.releases.get(&wanted.release).filter(|_| !takes_all);
        let found: Vec<_> = release
            .into_iter()
            .flat_map(|release| self.targets_for(wanted.environment, &release.application))
            .collect();
        if found.is_empty() { self.targets_of(wanted.environment).collect() } else { found }
    }

    /// Whether a deployment that succeeds now proves its release in its environment: each target that is for its application, and each that it
    /// was to come to, has the release, but for those of a group without traffic. Where there is none to show it, nothing is proven.
    #[must_use]
    pub(crate) fn proves(&self, deployment: &Deployment) -> bool {
        let Some(release) = self.releases.get(&deployment.release) else { return false };
        let groups = deployment.strategy.groups();
        let led = groups.and_then(|groups| Some((groups, deployment.leads_to()?)));
        let is_out =
            |target: &Target| led.is_some_and(|(groups, to)| groups.group_of(target) == Some(to.other()));
        // INV-23: what is prepared in the group that has the traffic has the release with the end of the deployment.
        let is_about_to = |target: &Target| {
            led.is_some_and(|(groups, to)| {
                let is_member = groups.group_of(target) == Some(to) && !groups.leads(target);
                is_member && target.can_take(release.id, to)
            })
        };
        let has_it = |target: &Target| target.current == Some(release.id) || is_about_to(target);
        let is_shared = self.has_others(deployment.environment, &release.application);
        let counts = |target: &Target| match self.application_on(target) {
            _ if deployment.targets.contains_key(&target.id) => true,
            Some(there) => *there == release.application,
            None => !is_shared,
        };
        let mut found = self.targets_of(deployment.environment).filter(|target| counts(target)).peekable();
        found.peek().is_some() && found.all(|target| is_out(target) || has_it(target))
    }
}
