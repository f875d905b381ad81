//! Workflow templates as files: YAML, and so JSON, with the place of everything that is wrong.
//!
//! A file is read once into a tree that knows where each part of it is ([`Source`]). The template is made from that tree by its own
//! types, and checked by the core; whatever complains names a field, and the field is looked up in the tree. The control plane
//! and the command line share this, so that `stella workflow check` says without a control plane what that would say.

mod tree;

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use stella_domain::workflow::{TEMPLATE_BYTES_MAX, Template, check};

use tree::Tree;

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, counted from 1; `None` if it is about the file as a whole.
    pub at: Option<Place>,
    /// The path of the field, such as `steps[2].needs[0]`; empty if it is about the file as a whole.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.at {
            write!(f, "line {line}, column {column}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.problem)
    }
}

/// A file that is YAML.
#[derive(Debug)]
pub struct Source(Tree);

impl Source {
    /// Reads a workflow's file.
    ///
    /// # Errors
    /// If it is too long, or no YAML.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        Self::parse_a("workflow", "name and steps", text)
    }

    /// Reads the file of something else that is written like a workflow: a map with `fields`.
    ///
    /// # Errors
    /// If it is too long, or no YAML.
    pub fn parse_a(what: &str, fields: &str, text: &str) -> Result<Self, Fault> {
        if text.len() > TEMPLATE_BYTES_MAX {
            let problem = format!("has {} bytes; a {what} may have {TEMPLATE_BYTES_MAX}", text.len());
            return Err(Fault { at: None, field: String::new(), problem });
        }
        tree::parse(text, fields).map(Self)
    }

    /// What is in it.
    ///
    /// # Errors
    /// If it is no such thing.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let json: Value = self.0.to_json();
        serde_path_to_error::deserialize(json).map_err(|error| {
            let field = match error.path().to_string() {
                path if path == "." => String::new(),
                path => path,
            };
            let problem = error.into_inner().to_string();
            // Of what nobody knows, the key is what is wrong.
            let key = self.0.place_of_key(&field).filter(|_| problem.starts_with("unknown field"));
            let fault = self.fault(field, problem);
            Fault { at: key.or(fault.at), ..fault }
        })
    }

    /// The template in it, checked as far as it can be without a tenant.
    ///
    /// # Errors
    /// If it is none, or makes no sense; with everything that is wrong with it, in the order of the file.
    pub fn template(&self) -> Result<Template, Vec<Fault>> {
        let template: Template = self.value().map_err(|fault| vec![fault])?;
        let mut faults: Vec<Fault> =
            check(&template).into_iter().map(|it| self.fault(it.field, it.problem)).collect();
        faults.sort_by_key(|fault| fault.at);
        if faults.is_empty() { Ok(template) } else { Err(faults) }
    }

    /// A complaint about a field, with its place.
    #[must_use]
    pub fn fault(&self, field: String, problem: String) -> Fault {
        Fault { at: Some(self.0.place(&field)), field, problem }
    }
}

/// Reads and checks a file.
///
/// # Errors
/// With everything that is wrong with it.
pub fn read(text: &str) -> Result<Template, Vec<Fault>> {
    Source::parse(text).map_err(|fault| vec![fault])?.template()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        read(text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_is_a_template_in_yaml_and_in_json() {
        let yaml =
            "name: ship\ninputs:\n  n: {type: number, default: 3}\nsteps:\n  - id: soak\n    wait: 10m\n";
        let json = r#"{"name": "ship", "inputs": {"n": {"type": "number", "default": 3}}, "steps": [{"id": "soak", "wait": "10m"}]}"#;
        assert_eq!(read(yaml), read(json));
        assert_eq!(read(yaml).map(|it| it.steps.len()), Ok(1));
    }

    #[test]
    fn what_is_wrong_has_a_place() {
        let head = "name: ship\nsteps:\n";
        for (text, expected) in [
            ("  - id: a\n    pause: 10m\n", "line 4, column 5: steps[0].pause: unknown field `pause`"),
            ("  - id: a\n    wait: soon\n", "line 4, column 11: steps[0].wait: is no length of time"),
            ("  - id: A\n    wait: 1s\n", "line 3, column 9: steps[0].id: must not have 'A' at position 0"),
            (
                "  - id: a\n    wait: 1s\n    needs: [b]\n",
                "line 5, column 13: steps[0].needs[0]: there is no step b",
            ),
            (
                "  - id: a\n    wait: 1s\n    when: inputs.x\n",
                "line 5, column 11: steps[0].when: at character 1: there is no input x",
            ),
            ("  - id: a\n    wait: 1s\noutputs:\n  n: 1 +\n", "line 6, column 6: outputs.n: "),
            (
                "  - id: a\n    wait: 1s\noutputs:\n  n: steps.b.status\n",
                "line 6, column 6: outputs.n: at character 1: there is no step b",
            ),
            (
                "  - id: a\n    wait: 1s\noutputs:\n  n: 1\n",
                "line 6, column 6: outputs.n: invalid type: integer",
            ),
            ("  - id: a\n    wait: 1s\n    wait: 2s\n", "line 5, column 5: duplicate"),
            ("  - id: a\n   wait: 1s\n", "line 4, column "),
            ("  - [a\n", "line "),
            (
                "  - id: a\n    deploy: {release: x, environment: y, strategy: {type: rolling, bacth: 1}}\n",
                "line 4, column 68: steps[0].deploy.strategy.bacth: unknown field `bacth`",
            ),
            (
                "  - id: a\n    deploy:\n      release: x\n      environment: y\n      strategy:\n        type: canary\n        steps:\n          - {percent: 10, soka: 10m}\n",
                "line 10, column 27: steps[0].deploy.strategy.steps[0].soka: unknown field `soka`, expected one of `percent`, `soak`",
            ),
            (
                "  - id: a\n    deploy: {release: x, environment: y, strategy: {type: rolling, batch: 0%}}\n",
                "line 4, column 75: steps[0].deploy.strategy.batch: is 0; it must be between 1 and 100%",
            ),
            (
                "  - id: a\n    deploy:\n      release: x\n      environment: y\n      strategy: {type: canary, steps: [{percent: 10, soak: 8d}]}\n",
                "line 7, column 60: steps[0].deploy.strategy.steps[0].soak: is 691200000; it must be between 1000 and 604800000",
            ),
            (
                "  - id: a\n    deploy:\n      release: x\n      environment: y\n      strategy: {type: canary, steps: [{percent: 101}]}\n",
                "line 7, column 50: steps[0].deploy.strategy.steps[0].percent: is 101; it must be between 1 and 99",
            ),
            (
                "  - id: a\n    deploy: {release: x, environment: y, tolerate_failures: 150%}\n",
                "line 4, column 61: steps[0].deploy.tolerate_failures: is 150%",
            ),
        ] {
            let found = said(&format!("{head}{text}"));
            assert!(found.first().is_some_and(|it| it.starts_with(expected)), "{text}: {found:?}");
        }
        assert_eq!(said(""), ["line 1, column 1: must be a map with name and steps"]);
        assert!(said("- a").first().is_some_and(|it| it.contains("must be a map")), "{:?}", said("- a"));
    }

    #[test]
    fn several_faults_come_at_once_in_the_order_of_the_file() {
        let text = "name: x\nsteps:\n- {id: a, wait: 0s}\n- {id: b, wait: 1s, when: nothing}\n";
        let places: Vec<_> = read(text).err().unwrap_or_default().iter().filter_map(|it| it.at).collect();
        assert_eq!(places, [Place { line: 3, column: 17 }, Place { line: 4, column: 27 }]);
    }

    #[test]
    fn hostile_files_are_refused() {
        let deep = format!("name: {}", "[".repeat(10_000));
        let bomb = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n";
        let long = "x".repeat(TEMPLATE_BYTES_MAX + 1);
        for text in
            [deep.as_str(), bomb, long.as_str(), "\0", "name: !!binary x\nsteps: []", "--- a\n--- b\n"]
        {
            assert!(!said(text).is_empty(), "{:?}", text.get(..20));
        }
    }
}
