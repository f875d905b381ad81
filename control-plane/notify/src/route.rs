//! Which incidents a receiver is told of, and how.

use std::time::Duration;

use crate::incident::{Kind, Severity};

/// A rule. Empty lists are everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The names of who is told.
    pub receivers: Vec<String>,
    /// The names of tenants.
    pub tenants: Vec<String>,
    /// The names of environments. Incidents without one pass.
    pub environments: Vec<String>,
    /// What may be wrong.
    pub kinds: Vec<Kind>,
    /// How bad it has to be.
    pub severity_min: Severity,
    /// How long a change waits for others to be told with it; what is over by then and was a state is not told at all.
    pub wait: Duration,
    /// After how long what is still open is told again; `None` is never.
    pub repeat: Option<Duration>,
    /// Whether the end is told.
    pub resolved: bool,
}

impl Route {
    fn matches(&self, tenant: &str, environment: Option<&str>, kind: Kind) -> bool {
        let is_in = |list: &[String], name: &str| list.is_empty() || list.iter().any(|it| it == name);
        is_in(&self.tenants, tenant)
            && environment.is_none_or(|environment| is_in(&self.environments, environment))
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
            && kind.severity() >= self.severity_min
    }
}

/// All rules. For each receiver the first one that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Routes(pub Vec<Route>);

impl Routes {
    /// Who is told of an incident, each once, with the rule that says how.
    pub fn of<'r>(
        &'r self,
        tenant: &str,
        environment: Option<&str>,
        kind: Kind,
    ) -> Vec<(&'r str, &'r Route)> {
        let mut found: Vec<(&str, &Route)> = Vec::new();
        for route in self.0.iter().filter(|route| route.matches(tenant, environment, kind)) {
            for receiver in &route.receivers {
                if found.iter().all(|(known, _)| known != receiver) {
                    found.push((receiver, route));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn to(receivers: &[&str]) -> Route {
        Route {
            receivers: receivers.iter().map(ToString::to_string).collect(),
            tenants: Vec::new(),
            environments: Vec::new(),
            kinds: Vec::new(),
            severity_min: Severity::Info,
            wait: Duration::from_secs(10),
            repeat: None,
            resolved: true,
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts_for_each_receiver() {
        let routes = Routes(vec![
            Route {
                kinds: vec![Kind::AgentOffline],
                repeat: Some(Duration::from_secs(60)),
                ..to(&["pager"])
            },
            Route {
                tenants: vec!["acme".to_owned()],
                severity_min: Severity::Warning,
                ..to(&["pager", "chat"])
            },
            Route { environments: vec!["production".to_owned()], ..to(&["mail"]) },
        ]);
        let names = |tenant, environment, kind| -> Vec<&str> {
            routes.of(tenant, environment, kind).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names("acme", None, Kind::AgentOffline), ["pager", "chat", "mail"]);
        assert!(routes.of("acme", None, Kind::AgentOffline)[0].1.repeat.is_some());
        assert_eq!(names("other", Some("staging"), Kind::DeploymentFailed), [""; 0]);
        assert_eq!(names("acme", Some("staging"), Kind::ApprovalWaiting), [""; 0]);
        assert_eq!(names("acme", Some("production"), Kind::Rollback), ["pager", "chat", "mail"]);
    }
}
