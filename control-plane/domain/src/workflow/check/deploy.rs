//! Steps that deploy.

use std::collections::BTreeSet;

use super::super::Deploy;
use super::Checker;
use crate::amount::Amount;
use crate::decide;
use crate::deployment::TIMEOUT_MS_RANGE;
use crate::name::Identifier;
use crate::rejection::Rejection;

impl Checker<'_> {
    pub(super) fn deploy(&mut self, field: &str, deploy: &Deploy, known: &BTreeSet<&Identifier>) {
        self.text(&format!("{field}.release"), &deploy.release, known);
        self.text(&format!("{field}.environment"), &deploy.environment, known);
        self.span(&format!("{field}.timeout"), Some(deploy.timeout), TIMEOUT_MS_RANGE);
        if !deploy.targets.is_empty() && !deploy.labels.is_empty() {
            let problem = "choose targets by labels or by name, not by both";
            self.say(format!("{field}.labels"), problem);
        }
        for (label, value) in &deploy.labels {
            self.text(&format!("{field}.labels.{label}"), value, known);
        }
        for (at, target) in deploy.targets.iter().enumerate() {
            self.text(&format!("{field}.targets[{at}]"), target, known);
        }
        self.how(field, deploy);
    }

    /// What a deployment would be refused for whatever its targets are.
    fn how(&mut self, field: &str, deploy: &Deploy) {
        let strategy = deploy.strategy.as_ref();
        if let Some(Err(Rejection::Invalid { field: wrong, problem })) = strategy.map(decide::is_well_formed)
        {
            // A file need not say its lengths of time in milliseconds.
            match wrong.strip_suffix("_ms") {
                Some(length) => self.say(format!("{field}.{length}"), format!("{problem}, in milliseconds")),
                None => self.say(format!("{field}.{wrong}"), problem),
            }
        }
        if let Some(Amount::Percent(percent)) = deploy.tolerate_failures
            && !(1..=99).contains(&percent)
        {
            let problem = format!("is {percent}%; it must be between 1% and 99%");
            self.say(format!("{field}.tolerate_failures"), problem);
        }
    }
}
