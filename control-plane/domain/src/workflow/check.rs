//! Whether a template makes sense. Everything that can be known without a tenant is, so that it can be checked where it is written.

mod call;
mod deploy;
mod task;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use stella_expression::{Expression, Reference};

use super::{
    ATTEMPTS_MAX, Action, BACKOFF_MS_MAX, FAN_OUT_MAX, ForEach, GateStep, INPUTS_MAX, Input, InputKind,
    NEEDS_MAX, OnFailure, SPAN_MS_RANGE, STEPS_MAX, Span, Step, SubWorkflow, Template, Text, VALUE_BYTES_MAX,
};
use crate::gate::{QUERY_BYTES_MAX, VARIABLES};
use crate::name::Identifier;
use crate::promotion::APPROVALS_MAX;
use crate::signature::SIGNATURES_MAX;

/// How many problems are told at once.
const PROBLEMS_MAX: usize = 50;

/// Something that is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: the path of a field, such as `steps[2].needs[0]`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// What is wrong with a template; nothing if it makes sense.
#[must_use]
pub fn check(template: &Template) -> Vec<Problem> {
    let mut checker = Checker::new(template);
    checker.run();
    checker.problems.truncate(PROBLEMS_MAX);
    checker.problems
}

/// An output of a step that an expression of a template uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedOutput {
    /// Where: the path of a field.
    pub field: String,
    /// Where in the expression, for a person.
    pub at: String,
    /// Of which step.
    pub step: Identifier,
    /// Its name.
    pub output: String,
}

/// The outputs of steps that a template uses by name. Whether a step that runs another workflow has them only a tenant can tell.
#[must_use]
pub fn used_outputs(template: &Template) -> Vec<UsedOutput> {
    let mut checker = Checker::new(template);
    checker.run();
    checker.used
}

struct Checker<'t> {
    template: &'t Template,
    problems: Vec<Problem>,
    used: Vec<UsedOutput>,
    /// For each step, all that are over before it.
    before: BTreeMap<&'t Identifier, BTreeSet<&'t Identifier>>,
    /// Whether what is looked at is done for each of several items.
    has_item: bool,
}

impl<'t> Checker<'t> {
    const fn new(template: &'t Template) -> Self {
        Self { template, problems: Vec::new(), used: Vec::new(), before: BTreeMap::new(), has_item: false }
    }

    fn say(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.problems.push(Problem { field: field.into(), problem: problem.into() });
    }

    fn run(&mut self) {
        let template = self.template;
        self.inputs("inputs", &template.inputs);
        let steps = template.steps.len();
        if steps == 0 || steps > STEPS_MAX {
            self.say("steps", format!("there are {steps}; a workflow has 1 to {STEPS_MAX}"));
            return;
        }
        if template.steps.iter().all(|step| step.compensates.is_some()) {
            self.say("steps", "all of them only make up for others; at least one has to do something");
        }
        self.graph();
        if !self.problems.is_empty() {
            // What comes next goes through the graph.
            return;
        }
        for (at, step) in template.steps.iter().enumerate() {
            self.step(&format!("steps[{at}]"), step);
        }
        self.outputs();
    }

    /// What a run hands on is told when all is over. What only makes up for others is not done in a run that succeeds.
    fn outputs(&mut self) {
        let template = self.template;
        let outputs = template.outputs.len();
        if outputs > INPUTS_MAX {
            self.say("outputs", format!("there are {outputs}; at most {INPUTS_MAX} are allowed"));
        }
        let steps = template.steps.iter().filter(|step| step.compensates.is_none());
        let known: BTreeSet<&Identifier> = steps.map(|step| &step.id).collect();
        for (name, source) in &template.outputs {
            let field = format!("outputs.{name}");
            if matches!(name.as_str(), "run" | "runs") {
                self.say(
                    &field,
                    "is the name of what each step that runs a workflow has; choose another one",
                );
            }
            match Expression::compile(source) {
                Ok(expression) => self.references(&field, expression.references(), &known),
                Err(error) => self.say(field, error.to_string()),
            }
        }
    }

    fn inputs(&mut self, field: &str, inputs: &BTreeMap<Identifier, Input>) {
        if inputs.len() > INPUTS_MAX {
            self.say(field, format!("there are {}; at most {INPUTS_MAX} are allowed", inputs.len()));
        }
        for (name, input) in inputs {
            let field = format!("{field}.{name}");
            let numeric = input.min.is_some() || input.max.is_some();
            if numeric && input.kind != InputKind::Number {
                self.say(&field, "min and max are for numbers");
            }
            if matches!((input.min, input.max), (Some(min), Some(max)) if min > max) {
                self.say(format!("{field}.max"), "is smaller than min");
            }
            if input.max_length.is_some() && input.kind != InputKind::Text {
                self.say(format!("{field}.max_length"), "is for texts");
            }
            let max = u32::try_from(VALUE_BYTES_MAX).unwrap_or(u32::MAX);
            if input.max_length.is_some_and(|length| length == 0 || length > max) {
                self.say(format!("{field}.max_length"), format!("must be between 1 and {max}"));
            }
            match (input.kind, input.options.len()) {
                (InputKind::Choice, 0) => {
                    self.say(format!("{field}.options"), "is missing: what can be chosen?")
                }
                (InputKind::Choice, options) if options > 64 => {
                    self.say(
                        format!("{field}.options"),
                        format!("there are {options}; at most 64 are allowed"),
                    );
                }
                (InputKind::Choice, _) | (_, 0) => {}
                _ => self.say(format!("{field}.options"), "is for choices"),
            }
            if let Some(Err(problem)) = input.default.as_ref().map(|value| input.accepts(value)) {
                self.say(format!("{field}.default"), problem);
            }
        }
    }

    fn graph(&mut self) {
        let template = self.template;
        let mut ids: BTreeMap<&Identifier, usize> = BTreeMap::new();
        for (at, step) in template.steps.iter().enumerate() {
            if let Some(first) = ids.get(&step.id) {
                self.say(
                    format!("steps[{at}].id"),
                    format!("{} is the id of steps[{first}] already", step.id),
                );
            } else {
                ids.insert(&step.id, at);
            }
        }
        for (at, step) in template.steps.iter().enumerate() {
            if step.needs.len() > NEEDS_MAX {
                self.say(
                    format!("steps[{at}].needs"),
                    format!("there are {}; at most {NEEDS_MAX} are allowed", step.needs.len()),
                );
            }
            for (index, need) in step.needs.iter().enumerate() {
                let field = format!("steps[{at}].needs[{index}]");
                match ids.get(need).and_then(|at| template.steps.get(*at)) {
                    None => self.say(field, format!("there is no step {need}")),
                    Some(_) if *need == step.id => self.say(field, "a step cannot wait for itself"),
                    Some(other) if other.compensates.is_some() => {
                        self.say(
                            field,
                            format!("step {need} only makes up for another; nothing can wait for it"),
                        );
                    }
                    Some(_) => {}
                }
            }
            let Some(other) = &step.compensates else { continue };
            let field = format!("steps[{at}].compensates");
            match template.step(other) {
                None => self.say(field, format!("there is no step {other}")),
                Some(it) if it.compensates.is_some() => {
                    self.say(field, format!("step {other} makes up for another itself"));
                }
                Some(_) if !step.needs.is_empty() || step.when.is_some() => {
                    self.say(
                        field,
                        "such a step has no needs and no when: it is done when the run compensates",
                    );
                }
                Some(_) => {}
            }
        }
        self.order();
    }

    /// Finds what is over before each step, and what waits for itself in a circle.
    fn order(&mut self) {
        let mut left: Vec<&Step> = self.template.steps.iter().collect();
        loop {
            let before = left.len();
            left.retain(|step| {
                if !step.needs.iter().all(|need| self.before.contains_key(need)) {
                    return true;
                }
                let mut all: BTreeSet<&Identifier> = step.needs.iter().collect();
                for need in &step.needs {
                    all.extend(self.before.get(need).into_iter().flatten());
                }
                self.before.insert(&step.id, all);
                false
            });
            if left.len() == before {
                break;
            }
        }
        if !self.problems.is_empty() {
            return;
        }
        if let Some(circle) = circle(&left) {
            let at = self.template.steps.iter().position(|step| Some(&step.id) == circle.first().copied());
            let names: Vec<&str> = circle.iter().map(|id| id.as_str()).collect();
            let problem = format!("they wait for one another in a circle: {}", names.join(" needs "));
            self.say(format!("steps[{}].needs", at.unwrap_or_default()), problem);
        }
    }

    fn step(&mut self, field: &str, step: &'t Step) {
        let actions: Vec<Action<'_>> = step.actions().collect();
        let [action] = actions.as_slice() else {
            let problem = if actions.is_empty() {
                format!("does nothing; give it one of {}", Action::TYPES.join(", "))
            } else {
                let names: Vec<&str> = actions.iter().map(Action::name).collect();
                format!("does several things ({}); make them several steps", names.join(", "))
            };
            self.say(field, problem);
            return;
        };
        let known = self.known(step);
        if let Some(when) = &step.when {
            match Expression::compile(when) {
                Ok(expression) => self.references(&format!("{field}.when"), expression.references(), &known),
                Err(error) => self.say(format!("{field}.when"), error.to_string()),
            }
        }
        self.span(&format!("{field}.timeout"), step.timeout, SPAN_MS_RANGE);
        self.span(&format!("{field}.hold"), step.hold, SPAN_MS_RANGE);
        if let Some(retry) = &step.retry {
            if retry.attempts == 0 || retry.attempts > ATTEMPTS_MAX {
                let problem = format!("is {}; it must be between 1 and {ATTEMPTS_MAX}", retry.attempts);
                self.say(format!("{field}.retry.attempts"), problem);
            }
            let range = (1, BACKOFF_MS_MAX);
            self.span(&format!("{field}.retry.backoff"), Some(retry.backoff), range);
            self.span(&format!("{field}.retry.backoff_max"), Some(retry.backoff_max), range);
        }
        if step.compensates.is_some() && step.on_failure != OnFailure::Fail {
            let problem = "is for steps that do not make up for others themselves";
            self.say(format!("{field}.on_failure"), problem);
        }
        if step.for_each.is_some() && step.workflow.is_none() {
            self.say(
                format!("{field}.for_each"),
                "is for steps that run another workflow: put what is done for each into one",
            );
        }
        self.action(field, step, *action, &known);
    }

    fn gate(&mut self, field: &str, gate: &GateStep, known: &BTreeSet<&Identifier>) {
        self.text(&format!("{field}.release"), &gate.release, known);
        self.text(&format!("{field}.environment"), &gate.environment, known);
        let ways = [
            gate.name.is_some(),
            gate.expression.is_some(),
            !gate.findings.is_empty(),
            gate.signatures.is_some(),
            gate.metric.is_some(),
            gate.http.is_some(),
            gate.manual.is_some(),
        ];
        if ways.into_iter().filter(|it| *it).count() != 1 {
            let problem = "must have exactly one of name (a gate of the environment), expression, findings, \
                           signatures, metric, http and manual";
            self.say(field, problem);
        }
        let max = u32::try_from(SIGNATURES_MAX).unwrap_or(u32::MAX);
        if gate.signatures.is_some_and(|needed| needed == 0 || needed > max) {
            self.say(format!("{field}.signatures"), format!("must be between 1 and {max}"));
        }
        if let Some(metric) = &gate.metric {
            let field = format!("{field}.metric.query");
            if metric.query.trim().is_empty() || metric.query.len() > QUERY_BYTES_MAX {
                self.say(&field, format!("must have 1 to {QUERY_BYTES_MAX} bytes"));
            }
            self.text(&field, &metric.query, known);
        }
        if let Some(manual) = &gate.manual {
            self.text(&format!("{field}.manual.message"), &manual.message, known);
        }
        let Some(source) = &gate.expression else { return };
        let field = format!("{field}.expression");
        match Expression::compile(source) {
            Err(error) => self.say(field, error.to_string()),
            Ok(expression) => {
                let wrong = expression.references().iter().find(|it| !VARIABLES.contains(&it.name.as_str()));
                if let Some(it) = wrong {
                    let there = VARIABLES.join(", ");
                    self.say(field, format!("{}: there is no {}; there are {there}", it.at, it.name));
                }
            }
        }
    }

    fn workflow(&mut self, field: &str, step: &Step, sub: &'t SubWorkflow, known: &BTreeSet<&Identifier>) {
        if sub.version == 0 {
            self.say(format!("{field}.workflow.version"), "is 0; the first version is 1");
        }
        if sub.inputs.len() > INPUTS_MAX {
            let problem = format!("there are {}; at most {INPUTS_MAX} are allowed", sub.inputs.len());
            self.say(format!("{field}.workflow.inputs"), problem);
        }
        match &step.for_each {
            None => {}
            Some(ForEach::Items(items)) => {
                if items.is_empty() || items.len() > FAN_OUT_MAX {
                    let problem = format!("there are {}; it must be 1 to {FAN_OUT_MAX}", items.len());
                    self.say(format!("{field}.for_each"), problem);
                }
                for (at, item) in items.iter().enumerate().take(FAN_OUT_MAX) {
                    self.text(&format!("{field}.for_each[{at}]"), item, known);
                }
            }
            Some(ForEach::Targets(targets)) => {
                self.text(&format!("{field}.for_each.environment"), &targets.environment, known);
            }
        }
        self.has_item = step.for_each.is_some();
        for (name, value) in &sub.inputs {
            self.body(&format!("{field}.workflow.inputs.{name}"), value, known);
        }
        self.has_item = false;
    }

    fn action(&mut self, field: &str, step: &Step, action: Action<'t>, known: &BTreeSet<&Identifier>) {
        match action {
            Action::Deploy(deploy) => self.deploy(&format!("{field}.deploy"), deploy, known),
            Action::Rollback(rollback) => match self.template.step(&rollback.of) {
                None => self.say(format!("{field}.rollback.of"), format!("there is no step {}", rollback.of)),
                Some(other) if other.deploy.is_none() => {
                    self.say(format!("{field}.rollback.of"), format!("step {} deploys nothing", rollback.of));
                }
                Some(_) if !known.contains(&rollback.of) => {
                    let problem = format!("step {} may not be over by then; list it in needs", rollback.of);
                    self.say(format!("{field}.rollback.of"), problem);
                }
                Some(_) => {}
            },
            Action::Task(task) => self.task(&format!("{field}.task"), task, known),
            Action::Approval(approval) => {
                let needed = approval.needed;
                if needed == 0 || needed > APPROVALS_MAX {
                    let problem = format!("is {needed}; it must be between 1 and {APPROVALS_MAX}");
                    self.say(format!("{field}.approval.needed"), problem);
                }
                let named = u32::try_from(approval.from.len()).unwrap_or(u32::MAX);
                if named > APPROVALS_MAX {
                    self.say(
                        format!("{field}.approval.from"),
                        format!("there are more than {APPROVALS_MAX}"),
                    );
                } else if named > 0 && named < needed {
                    let problem = format!("names {named} accounts, and {needed} have to approve");
                    self.say(format!("{field}.approval.from"), problem);
                }
                self.text(&format!("{field}.approval.message"), &approval.message, known);
            }
            Action::Wait(span) => {
                self.span(&format!("{field}.wait"), Some(span), SPAN_MS_RANGE);
                if step.timeout.is_some() || step.retry.is_some() {
                    self.say(field, "a wait does not fail, and has no timeout and no retry");
                }
            }
            Action::Input(inputs) => {
                if inputs.is_empty() {
                    self.say(format!("{field}.input"), "asks for nothing; name what is asked for");
                }
                self.inputs(&format!("{field}.input"), inputs);
            }
            Action::Http(call) => self.call(&format!("{field}.http"), step, call, known),
            Action::Notify(notify) => self.notify(field, step, notify, known),
            Action::Gate(gate) => self.gate(&format!("{field}.gate"), gate, known),
            Action::Workflow(sub) => self.workflow(field, step, sub, known),
        }
    }

    /// The steps whose outputs a step may use: what is over before it, and for what makes up for others, all.
    fn known(&self, step: &Step) -> BTreeSet<&'t Identifier> {
        if step.compensates.is_some() {
            return self.template.steps.iter().map(|step| &step.id).collect();
        }
        self.before.get(&step.id).cloned().unwrap_or_default()
    }

    fn text(&mut self, field: &str, text: &str, known: &BTreeSet<&Identifier>) {
        match Text::parse(text) {
            Ok(text) => {
                text.expressions()
                    .for_each(|expression| self.references(field, expression.references(), known));
            }
            Err(problem) => self.say(field, problem),
        }
    }

    fn references(&mut self, field: &str, references: &[Reference], known: &BTreeSet<&Identifier>) {
        for Reference { name, fields, at } in references {
            let first = fields.first().map(String::as_str);
            let named = |id: &&Identifier| Some(id.as_str()) == first;
            let problem = match (name.as_str(), first) {
                ("inputs", Some(_)) if self.template.inputs.keys().any(|it| named(&it)) => {
                    continue;
                }
                ("inputs", Some(first)) => format!("{at}: there is no input {first}"),
                ("steps", Some(first)) if !self.template.steps.iter().any(|step| named(&&step.id)) => {
                    format!("{at}: there is no step {first}")
                }
                ("steps", Some(first)) if !known.iter().any(named) && field.starts_with("outputs.") => {
                    format!(
                        "{at}: step {first} makes up for another one, and is not done in a run that succeeds"
                    )
                }
                ("steps", Some(first)) if !known.iter().any(named) => {
                    format!("{at}: step {first} may not be over by then; list it in needs")
                }
                ("steps", Some(first)) => match fields.get(1).map(String::as_str) {
                    Some("outputs") => {
                        self.uses((field, at.to_string()), first, fields.get(2));
                        continue;
                    }
                    None | Some("status" | "attempts") => continue,
                    Some(other) => {
                        format!("{at}: step {first} has a status, outputs and attempts, and no {other}")
                    }
                },
                ("run", None | Some("id" | "workflow" | "version" | "started_by"))
                | ("inputs" | "steps", None) => continue,
                ("run", Some(other)) => {
                    format!("{at}: a run has an id, a workflow, a version and a started_by, and no {other}")
                }
                ("item", _) if self.has_item => continue,
                ("item", _) => format!("{at}: there is an item only in the inputs of a step with for_each"),
                (other, _) => format!("{at}: there is no {other}; there are inputs, steps and run"),
            };
            self.say(field, problem);
        }
    }

    fn uses(&mut self, (field, at): (&str, String), step: &str, output: Option<&String>) {
        let step = self.template.steps.iter().find(|it| it.id.as_str() == step);
        self.used.extend(step.zip(output).map(|(step, output)| UsedOutput {
            field: field.to_owned(),
            at,
            step: step.id.clone(),
            output: output.clone(),
        }));
    }

    fn span(&mut self, field: &str, span: Option<Span>, (min, max): (u64, u64)) {
        if let Some(span) = span.filter(|span| !(min..=max).contains(&span.0)) {
            self.say(field, format!("is {span}; it must be between {} and {}", Span(min), Span(max)));
        }
    }
}

/// Some steps that wait for one another in a circle: the first is named again at the end.
fn circle<'t>(left: &[&'t Step]) -> Option<Vec<&'t Identifier>> {
    let mut path: Vec<&Identifier> = vec![&left.first()?.id];
    loop {
        let last = path.last()?;
        let step = left.iter().find(|step| step.id == **last)?;
        // What is left waits for something that is left.
        let next = step.needs.iter().find(|need| left.iter().any(|other| other.id == **need))?;
        let seen = path.iter().position(|id| *id == next);
        path.push(next);
        if let Some(seen) = seen {
            return Some(path.split_off(seen));
        }
    }
}
