//! Who has chosen what comes to an environment, beside who asks for it: none of them approves it.

use std::collections::BTreeSet;

use stella_protocol::id::{DeploymentId, PromotionId, RunId};

use crate::command::Actor;
use crate::name::Name;
use crate::run::Run;
use crate::tenant::TenantState;

impl TenantState {
    /// Who has had a say in what a run does so far: whoever started it, whoever could choose what the hook that did has sent, whoever wrote
    /// the version of its workflow, and whoever has answered what it has asked for; and the same of each run that it is part of. None twice.
    #[must_use]
    pub fn choosers_in(&self, run: RunId) -> Vec<Actor> {
        let mut choosers = Vec::new();
        let mut next = self.runs.get(&run);
        while let Some(run) = next {
            let answered = run.steps.values().filter_map(|step| step.answered_by.as_ref());
            let written = self.workflows.get(&run.workflow).and_then(|it| it.versions.get(&run.version));
            let written_by = written.map(|version| &version.applied_by);
            let asked = [&run.started_by].into_iter().chain(&run.chosen_by);
            add(&mut choosers, asked.chain(written_by).chain(answered));
            next = run.parent.as_ref().and_then(|(whole, _)| self.runs.get(whole));
        }
        choosers
    }

    /// The same of all that a run is part of, for its steps that wait for people: they let go on what comes after them, in whichever run of
    /// it that is. So whoever wrote a version that is run there, now or later, and whoever has answered anything there, has chosen too.
    #[must_use]
    pub fn choosers_around(&self, run: RunId) -> Vec<Actor> {
        let mut choosers = self.choosers_in(run);
        let mut whole = self.runs.get(&run);
        while let Some(above) = whole.and_then(|run| self.runs.get(&run.parent.as_ref()?.0)) {
            whole = Some(above);
        }
        if let Some(whole) = whole {
            self.add_answers(whole, &mut choosers);
            self.add_writers((&whole.workflow, whole.version), &mut BTreeSet::new(), &mut choosers);
        }
        choosers
    }

    /// Who has answered anything in a run or in one that is part of it.
    fn add_answers(&self, run: &Run, choosers: &mut Vec<Actor>) {
        for step in run.steps.values() {
            add(choosers, step.answered_by.iter());
            step.parts.iter().filter_map(|part| self.runs.get(&part.run)).for_each(|part| {
                self.add_answers(part, choosers);
            });
        }
    }

    /// Who wrote a version of a workflow, and those that it runs. What it runs was there before it, so this ends.
    fn add_writers<'t>(
        &'t self,
        (name, number): (&'t Name, u32),
        seen: &mut BTreeSet<(&'t Name, u32)>,
        choosers: &mut Vec<Actor>,
    ) {
        let version = self.workflows.get(name).and_then(|it| it.versions.get(&number));
        let Some(version) = version.filter(|_| seen.insert((name, number))) else { return };
        add(choosers, std::iter::once(&version.applied_by));
        for inner in version.template.steps.iter().filter_map(|step| step.workflow.as_ref()) {
            self.add_writers((&inner.name, inner.version), seen, choosers);
        }
    }

    /// Who has chosen what a deployment has brought: whoever asked for it, and whoever had chosen it before.
    #[must_use]
    pub fn choosers_of(&self, deployment: DeploymentId) -> Vec<Actor> {
        let mut choosers = Vec::new();
        let asked = self.promotions.get(&PromotionId(deployment.0));
        let created_by = self.deployments.get(&deployment).and_then(|it| it.created_by.as_ref());
        add(&mut choosers, created_by.into_iter().chain(asked.map(|it| &it.requested_by)));
        add(&mut choosers, asked.into_iter().flat_map(|it| &it.chosen_by));
        choosers
    }
}

/// Those who are somebody, each once.
pub(crate) fn each_once<'a>(actors: impl IntoIterator<Item = &'a Actor>) -> Vec<Actor> {
    let mut once = Vec::new();
    add(&mut once, actors.into_iter());
    once
}

/// Adds those who are somebody, and not there already.
fn add<'a>(choosers: &mut Vec<Actor>, more: impl Iterator<Item = &'a Actor>) {
    for actor in more {
        let is_somebody = matches!(actor, Actor::ApiToken { .. } | Actor::Hook { .. });
        if is_somebody && !choosers.iter().any(|known| known.is(actor)) {
            choosers.push(actor.clone());
        }
    }
}
