//! Discovery for Prometheus: which agents can be scraped, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};

use axum::Extension;
use axum::extract::State;
use serde::Deserialize;
use stella_api_types::discovery::TargetGroup;
use stella_api_types::paths;
use stella_domain::access::{Role, Scope};
use stella_domain::agent::{Agent, FiguresAddress};
use stella_domain::tenant::TenantState;
use stella_protocol::id::{AgentId, TenantId};

use crate::body::{Json, Query};
use crate::error::ApiError;
use crate::request::Caller;
use crate::{App, resolve};

/// Whose agents.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Whose {
    /// A tenant's name or id; those of all that the token may see if absent.
    tenant: Option<String>,
}

/// Lists the agents whose own figures can be scraped from other hosts, in the form of Prometheus' HTTP discovery. All of them are in
/// one answer, whether they are online or not: a host that is away is a target that is down.
#[utoipa::path(get, path = paths::SD_AGENTS, tag = "agents", params(("tenant" = Option<String>, Query, description = "A tenant's name or id; all that the token may see if absent")), responses((status = 200, body = Vec<TargetGroup>)))]
pub(crate) async fn agents_to_scrape(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(whose): Query<Whose>,
) -> Result<Json<Vec<TargetGroup>>, ApiError> {
    // A large fleet takes milliseconds, which other requests need not wait for.
    let listed = tokio::task::spawn_blocking(move || list(&app, &caller, &whose));
    Ok(Json(listed.await.map_err(|error| ApiError::internal(&error))??))
}

fn list(app: &App, caller: &Caller, whose: &Whose) -> Result<Vec<TargetGroup>, ApiError> {
    let state = app.engine.state();
    let rights = caller.rights(&state, app.engine.now())?;
    let seen: Vec<&TenantState> = match &whose.tenant {
        Some(text) => {
            let tenant = resolve::tenant(&state, text)?;
            if !rights.sees(tenant.id) {
                return Err(ApiError::not_found(TenantId::KIND, text));
            }
            vec![&**tenant]
        }
        None => state.tenants.values().filter(|it| rights.sees(it.id)).map(|it| &**it).collect(),
    };
    if seen.is_empty() {
        // Prometheus keeps what it had when it is refused. An empty list would take every agent from it.
        rights.require(Role::Viewer, Scope::Installation)?;
    }
    Ok(seen.into_iter().flat_map(of_tenant).collect())
}

fn of_tenant(tenant: &TenantState) -> impl Iterator<Item = TargetGroup> {
    let mut places = BTreeMap::<AgentId, BTreeSet<&str>>::new();
    for target in tenant.targets.values() {
        if let Some(environment) = tenant.environments.get(&target.environment) {
            places.entry(target.agent).or_default().insert(environment.name.as_str());
        }
    }
    tenant.agents.values().filter(|agent| agent.revoked.is_none()).filter_map(move |agent| {
        let address = agent.figures.as_ref()?;
        let environments = places.get(&agent.id);
        Some(group(tenant, agent, address, environments.into_iter().flatten().copied()))
    })
}

fn group<'t>(
    tenant: &TenantState,
    agent: &Agent,
    address: &FiguresAddress,
    environments: impl Iterator<Item = &'t str>,
) -> TargetGroup {
    let meta = |name: &str| format!("__meta_stella_{name}");
    // As Prometheus writes lists: a separator on both sides of each, so that an expression need not care which is the first.
    let environments: String = environments.flat_map(|name| [",", name]).collect();
    let environments = if environments.is_empty() { environments } else { environments + "," };
    let mut labels: BTreeMap<String, String> = [
        ("__scheme__".to_owned(), "https".to_owned()),
        (meta("agent"), agent.name.to_string()),
        (meta("agent_id"), agent.id.to_string()),
        (meta("tenant"), tenant.name.to_string()),
        (meta("tenant_id"), tenant.id.to_string()),
        (meta("hostname"), agent.hostname.clone()),
        (meta("version"), agent.version.clone()),
        (meta("environments"), environments),
    ]
    .into();
    for (key, value) in &agent.labels {
        // Two keys that differ in such characters only are one name here, and the first has it.
        labels.entry(meta(&format!("label_{}", sanitized(key)))).or_insert_with(|| value.clone());
    }
    TargetGroup { targets: vec![address.to_string()], labels }
}

/// As the name of a label has to be.
fn sanitized(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
