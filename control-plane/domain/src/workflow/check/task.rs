//! Steps that run something on targets.

use std::collections::BTreeSet;

use super::super::{TargetStep, TaskStep, Text};
use super::Checker;
use crate::amount::Amount;
use crate::decide;
use crate::deployment::TIMEOUT_MS_RANGE;
use crate::name::Identifier;
use crate::rejection::Rejection;
use crate::release::{STEPS_MAX, Step};

/// What stands for the value of an expression as long as there is no run.
const SAMPLE: &str = "1";

impl Checker<'_> {
    pub(super) fn task(&mut self, field: &str, task: &TaskStep, known: &BTreeSet<&Identifier>) {
        self.text(&format!("{field}.environment"), &task.environment, known);
        self.span(&format!("{field}.timeout"), Some(task.timeout), TIMEOUT_MS_RANGE);
        if !task.targets.is_empty() && !task.labels.is_empty() {
            self.say(format!("{field}.labels"), "choose targets by labels or by name, not by both");
        }
        for (label, value) in &task.labels {
            self.text(&format!("{field}.labels.{label}"), value, known);
        }
        for (at, target) in task.targets.iter().enumerate() {
            self.text(&format!("{field}.targets[{at}]"), target, known);
        }
        let amount = |amount, max| match amount {
            Some(Amount::Percent(percent)) if percent == 0 || percent > max => {
                Some(format!("is {percent}%; it must be between 1% and {max}%"))
            }
            Some(Amount::Count(0)) => Some("is 0; it must be at least 1".to_owned()),
            _ => None,
        };
        for (name, problem) in [
            ("max_parallel", amount(task.max_parallel, 100)),
            // None at all may fail if nothing is said.
            ("tolerate_failures", amount(task.tolerate_failures.filter(|it| *it != Amount::Count(0)), 99)),
        ] {
            problem.into_iter().for_each(|problem| self.say(format!("{field}.{name}"), problem));
        }
        match (&task.release, task.steps.is_empty()) {
            (Some(release), true) => self.text(&format!("{field}.release"), release, known),
            (None, false) => self.on_target(field, &task.steps, known),
            _ => self.say(field, "must have either steps or the release whose steps are run"),
        }
    }

    fn on_target(&mut self, field: &str, steps: &[TargetStep], known: &BTreeSet<&Identifier>) {
        if steps.len() > STEPS_MAX {
            self.say(
                format!("{field}.steps"),
                format!("there are {}; at most {STEPS_MAX} are allowed", steps.len()),
            );
            return;
        }
        let before = self.problems.len();
        let mut samples: Vec<(usize, Step)> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            let field = format!("{field}.steps[{at}]");
            match step.kinds().as_slice() {
                [] => self.say(
                    &field,
                    "does nothing; give it one of command, check_http, check_tcp, check_command and systemd",
                ),
                [_] => samples.extend(self.sample(&field, step, known).map(|sample| (at, sample))),
                kinds => {
                    let problem =
                        format!("does several things ({}); make them several steps", kinds.join(", "));
                    self.say(&field, problem);
                }
            }
        }
        if self.problems.len() > before {
            return;
        }
        let Ok(version) = SAMPLE.parse() else { return };
        // What a text becomes is looked at again when it is filled in.
        let samples: Vec<Step> = samples.into_iter().map(|(_, sample)| sample).collect();
        if let Err(rejection) = decide::are_sound(&[], &version, &samples) {
            let (at, problem) = if let Rejection::Invalid { field, problem } = rejection {
                (as_written(&field, steps), problem)
            } else {
                ("steps".to_owned(), rejection.to_string())
            };
            self.say(format!("{field}.{at}"), problem);
        }
    }

    /// The step with something plausible instead of each expression.
    fn sample(&mut self, field: &str, step: &TargetStep, known: &BTreeSet<&Identifier>) -> Option<Step> {
        let range = crate::release::STEP_TIMEOUT_MS_RANGE;
        self.span(&format!("{field}.timeout"), Some(step.timeout), range);
        let mut fill = |name: &str, text: &str| {
            let field = format!("{field}.{name}");
            let filled = Text::parse_for_target(text).and_then(|text| {
                for expression in text.expressions() {
                    self.references(&field, expression.references(), known);
                }
                // What an expression comes to is looked at when it is filled in.
                let whole = match name {
                    "check_http.url" => Some("http://localhost/"),
                    "check_tcp.address" => Some("localhost:1"),
                    _ => None,
                };
                match whole.filter(|_| text.expressions().next().is_some()) {
                    Some(whole) => Ok(whole.to_owned()),
                    None => text.fill_in_for_target(&|_| Ok(SAMPLE.to_owned())),
                }
            });
            Ok::<String, std::convert::Infallible>(filled.unwrap_or_else(|problem| {
                self.say(&field, problem);
                SAMPLE.to_owned()
            }))
        };
        let Ok(sample) = step.filled(&mut fill);
        sample
    }
}

/// The field of a step as a template has it: there the kind of a step is a field around what is in it.
fn as_written(field: &str, steps: &[TargetStep]) -> String {
    let Some((place, inner)) = field.strip_prefix("steps[").and_then(|rest| rest.split_once("].")) else {
        return field.to_owned();
    };
    let kind = place.parse().ok().and_then(|at: usize| Some(*steps.get(at)?.kinds().first()?));
    match (kind, inner) {
        (_, "name") | (None, _) => field.to_owned(),
        (Some(_), "timeout_ms") => format!("steps[{place}].timeout"),
        (Some(kind), "interval_ms") => format!("steps[{place}].{kind}.interval"),
        (Some(kind), inner) => format!("steps[{place}].{kind}.{inner}"),
    }
}
