//! Business metrics: a projection of the state, computed at scrape, so that a restart neither loses nor doubles anything.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use stella_domain::access::{Role, Scope};
use stella_domain::agent::{Agent, Connectivity};
use stella_domain::deployment::RollbackReason;
use stella_domain::environment::Environment;
use stella_domain::gate::{Check, Outcome};
use stella_domain::name::Name;
use stella_domain::promotion::Objection;
use stella_domain::run::RunStatus;
use stella_domain::state::State;
use stella_domain::strategy::Strategy;
use stella_domain::tenant::TenantState;
use stella_engine::Handle;
use stella_fleet::Fleet;
use stella_protocol::id::{AgentId, EnvironmentId};
use stella_telemetry::exemplars::{Exemplars, Histogram};
use stella_telemetry::exposition::Exposition;

use crate::pki::Pki;
use crate::{current, described, durations, measured};

/// Buckets for everything else that takes a short time, in seconds.
const SHORT_SECONDS: [f64; 12] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// Buckets for how many events share a durable write.
const BATCH_EVENTS: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1_000.0, 2_500.0, 10_000.0];

/// What the ends of [`stella_domain::deployment::Status`] are called.
const STATUSES: [&str; 3] = ["succeeded", "failed", "cancelled"];

/// The ends of [`stella_domain::promotion::PromotionStatus`] before a deployment.
const PROMOTION_ENDS: [&str; 4] = ["rejected", "withdrawn", "expired", "invalidated"];
/// How many who may decide in an environment, and have not, have series there: more than ever decide in one.
const APPROVERS_MAX: usize = 50;
/// What somebody says to a promotion.
const DECISIONS: [&str; 2] = ["approved", "rejected"];

/// Installs the recorder of the process.
pub(crate) fn install() -> anyhow::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new();
    let builder = builder.set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SHORT_SECONDS)?;
    let Histogram { name, bounds } = measured::REQUESTS;
    let builder = builder.set_buckets_for_metric(Matcher::Full(name.into()), bounds)?;
    let of_batches = Matcher::Full("stella_journal_batch_events".into());
    let handle = builder.set_buckets_for_metric(of_batches, &BATCH_EVENTS)?.install_recorder()?;
    metrics_process::Collector::default().describe();
    described::describe();
    describe_gauge!("stella_build_info", "Always 1; the version is in the label");
    gauge!("stella_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Where the numbers of a scrape come from.
pub(crate) struct Sources {
    pub(crate) recorder: PrometheusHandle,
    pub(crate) exemplars: Arc<Exemplars>,
    pub(crate) engine: Handle,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) state_dir: PathBuf,
    pub(crate) pki: Pki,
}

/// Renders everything. What follows from the state has a recorder of its own for each scrape, so that a series ends with
/// the thing that it is about: a revoked agent must not go on alerting.
pub(crate) fn render(sources: &Sources, format: Exposition) -> String {
    let Sources { recorder, exemplars, engine, fleet, state_dir, pki } = sources;
    metrics_process::Collector::default().collect();
    let state = engine.state();
    let projection = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&projection, || {
        describe_counter!("stella_releases_total", "Total releases created");
        describe_counter!("stella_deployments_total", "Total deployments, by how they ended");
        describe_counter!("stella_rollbacks_total", "Total rollbacks");
        describe_counter!("stella_promotions_total", "Total promotions, by how they ended");
        describe_counter!("stella_workflow_runs_total", "Workflow executions, by how they ended");
        describe_counter!("stella_approval_decisions_total", "Decisions on promotions");
        describe_counter!(
            "stella_approval_rejections_total",
            "Rejections of promotions, by what the matter was"
        );
        describe_counter!("stella_gate_evaluations_total", "Verdicts of gates, and overrides of them");
        describe_gauge!("stella_approval_pending_count", "Pending approvals");
        describe_gauge!("stella_agents_connected", "Connected agents");
        describe_gauge!("stella_agents_enrolled", "Agents that are enrolled and not revoked");
        describe_gauge!("stella_agents_draining", "Agents whose host was taken out of rotation");
        describe_gauge!(
            "stella_targets_quarantined",
            "Targets that let nothing in, because nobody knows what became of a task there"
        );
        describe_gauge!("stella_targets_total", "Total targets");
        describe_gauge!("stella_agent_heartbeat_age_seconds", "Since last heartbeat, in seconds");
        describe_gauge!(
            "stella_agent_environment",
            "Always 1; an environment in which the agent has a target, or none if it has no target"
        );
        current::describe();
        for tenant in state.tenants.values() {
            project(&state, tenant);
            current::deployments(tenant);
            current::tasks(tenant, engine.now());
        }
        current::log();
        current::disk(engine, state_dir);
        current::backup(state_dir);
        current::journal(engine);
        current::archive(engine, &state);
        current::authority(&state);
        current::certificates(&pki.ends());
        agents(&state, engine, fleet);
    });
    let mut exported = recorder.render();
    exported.push_str(&projection.handle().render());
    let families = durations::families(&state, format, exemplars);
    format.page(&exported, families, exemplars)
}

fn project(state: &State, tenant: &Arc<TenantState>) {
    let name = tenant.name.to_string();
    let online = tenant
        .agents
        .values()
        .filter(|agent| matches!(agent.connectivity, Connectivity::Online { .. }))
        .count();
    // Figures of a fleet are far below 2^52: no precision is lost.
    gauge!("stella_agents_connected", "tenant" => name.clone()).set(as_f64(online));
    let draining = |agent: &&Arc<Agent>| agent.draining.is_some() && agent.revoked.is_none();
    let draining = tenant.agents.values().filter(draining).count();
    gauge!("stella_agents_draining", "tenant" => name.clone()).set(as_f64(draining));
    let enrolled = tenant.agents.values().filter(|agent| agent.revoked.is_none()).count();
    gauge!("stella_agents_enrolled", "tenant" => name.clone()).set(as_f64(enrolled));
    counter!("stella_releases_total", "tenant" => name.clone(), "status" => "created")
        .absolute(tenant.totals.releases);
    pending_steps_of_no_environment(tenant);
    for environment in tenant.environments.values() {
        count_ends(tenant, &environment.name);
        promotions(state, tenant, environment);
        gates(tenant, environment);
    }
    for workflow in tenant.workflows.keys() {
        let ends = tenant.totals.runs.get(workflow);
        for status in RunStatus::ENDS {
            let labels =
                [("tenant", name.clone()), ("template", workflow.to_string()), ("status", status.to_owned())];
            let count = ends.and_then(|all| all.get(status)).copied().unwrap_or(0);
            counter!("stella_workflow_runs_total", &labels).absolute(count);
        }
    }
    for environment in tenant.environments.values() {
        let places = tenant.index.targets.get(&environment.id).into_iter().flat_map(|names| names.values());
        let places = places.filter_map(|id| tenant.targets.get(id));
        let shut = places.filter(|target| target.blocked_by.is_some()).count();
        gauge!("stella_targets_quarantined", "tenant" => name.clone(), "env" => environment.name.to_string())
            .set(as_f64(shut));
    }
    let mut targets = BTreeMap::<(String, String), usize>::new();
    for target in tenant.targets.values() {
        let environment =
            tenant.environments.get(&target.environment).map(|it| it.name.to_string()).unwrap_or_default();
        *targets.entry((environment, target.kind.to_string())).or_default() += 1;
    }
    for ((environment, kind), count) in targets {
        gauge!("stella_targets_total", "tenant" => name.clone(), "env" => environment, "type" => kind)
            .set(as_f64(count));
    }
}

/// Counts what gates said in an environment: of the types that it has, from 0 on, and of those that it had.
fn gates(tenant: &TenantState, environment: &Environment) {
    let totals = tenant.totals.gates.get(&environment.name);
    let has = |kind: &str| environment.gates.values().any(|it| it.gate.check.name() == kind);
    for kind in
        Check::TYPES.into_iter().filter(|kind| has(kind) || totals.is_some_and(|it| it.contains_key(*kind)))
    {
        let outcomes = [Outcome::Passed, Outcome::Failed, Outcome::Unavailable].map(Outcome::name);
        for result in outcomes.into_iter().chain(["overridden"]) {
            let count = totals.and_then(|it| it.get(kind)).and_then(|it| it.get(result));
            let labels = [
                ("tenant", tenant.name.to_string()),
                ("env", environment.name.to_string()),
                ("gate_type", kind.to_owned()),
                ("result", result.to_owned()),
            ];
            counter!("stella_gate_evaluations_total", &labels).absolute(count.copied().unwrap_or(0));
        }
    }
}

/// Counts what has ended in an environment, from 0 on: a counter that begins at 1 has not increased for Prometheus, and the
/// first failure would alert nobody.
fn count_ends(tenant: &TenantState, environment: &Name) {
    let strategies = tenant.totals.deployments.get(environment);
    for (strategy, status) in
        Strategy::NAMES.iter().flat_map(|it| STATUSES.iter().map(move |status| (it, status)))
    {
        let count = strategies.and_then(|all| all.get(*strategy)).and_then(|all| all.get(*status));
        let labels = [
            ("tenant", tenant.name.to_string()),
            ("env", environment.to_string()),
            ("strategy", (*strategy).to_owned()),
            ("status", (*status).to_owned()),
        ];
        counter!("stella_deployments_total", &labels).absolute(count.copied().unwrap_or(0));
    }
    let reasons = tenant.totals.rollbacks.get(environment);
    for reason in RollbackReason::ALL.map(RollbackReason::name) {
        let labels = [
            ("tenant", tenant.name.to_string()),
            ("env", environment.to_string()),
            ("reason", reason.to_owned()),
        ];
        let count = reasons.and_then(|all| all.get(reason));
        counter!("stella_rollbacks_total", &labels).absolute(count.copied().unwrap_or(0));
    }
}

/// What became of promotions to an environment, from 0 on, and how many wait for somebody.
fn promotions(state: &State, tenant: &TenantState, environment: &Environment) {
    let (name, totals) = (&environment.name, &tenant.totals);
    let labels = [("tenant", tenant.name.to_string()), ("env", name.to_string())];
    let labelled = |more: &[(&'static str, String)]| [labels.as_slice(), more].concat();
    let ends = totals.promotions.get(name);
    for status in STATUSES.into_iter().chain(PROMOTION_ENDS) {
        let count = ends.and_then(|all| all.get(status)).copied().unwrap_or(0);
        counter!("stella_promotions_total", &labelled(&[("status", status.to_owned())])).absolute(count);
    }
    let rejections = totals.rejections.get(name);
    for objection in Objection::ALL.map(Objection::name) {
        let count = rejections.and_then(|all| all.get(objection)).copied().unwrap_or(0);
        counter!("stella_approval_rejections_total", &labelled(&[("reason", objection.to_owned())]))
            .absolute(count);
    }
    let decisions = totals.decisions.get(name);
    for user in deciders(state, tenant, environment) {
        for decision in DECISIONS {
            let count = decisions.and_then(|all| all.get(user)).and_then(|all| all.get(decision));
            let count = count.copied().unwrap_or(0);
            let more = [("user", user.to_string()), ("decision", decision.to_owned())];
            counter!("stella_approval_decisions_total", &labelled(&more)).absolute(count);
        }
    }
    let open = tenant.open_promotions.iter().filter_map(|id| tenant.promotions.get(id));
    let here = open.filter(|it| it.wanted.environment == environment.id);
    let pending = here.filter(|it| tenant.awaits_people(it)).count();
    let words = tenant.deployments_that_await_a_word().filter(|it| it.environment == environment.id).count();
    let pending = pending + words + steps_that_await_people(tenant, Some(environment.id));
    gauge!("stella_approval_pending_count", &labels).set(as_f64(pending));
}

/// How many steps of workflows wait for people in an environment, or in none.
fn steps_that_await_people(tenant: &TenantState, environment: Option<EnvironmentId>) -> usize {
    tenant.steps_that_await_people().filter(|(.., state)| state.approved_in() == environment).count()
}

/// Approval steps need not name an environment: those are of the whole tenant. Without workflows there is no such thing.
fn pending_steps_of_no_environment(tenant: &TenantState) {
    if !tenant.workflows.is_empty() {
        let pending = steps_that_await_people(tenant, None);
        gauge!("stella_approval_pending_count", "tenant" => tenant.name.to_string(), "env" => "")
            .set(as_f64(pending));
    }
}

/// Who decides on promotions to an environment: who has, as long as the account is there, and where approvals are needed who may,
/// [`APPROVERS_MAX`] of them.
fn deciders<'s>(state: &'s State, tenant: &TenantState, environment: &Environment) -> BTreeSet<&'s Name> {
    let accounts = &state.system.accounts;
    let decided = tenant.totals.decisions.get(&environment.name);
    let has_decided = |account: &&'s Name| decided.is_some_and(|all| all.contains_key(*account));
    let names = accounts.values().map(|account| &account.name);
    let mut users: BTreeSet<&Name> = names.filter(has_decided).collect();
    let Some(rule) = &environment.approvals else { return users };
    let place = Scope::Environment(tenant.id, environment.id);
    let may = accounts
        .values()
        .filter(|account| account.has(Role::Approver, place) && rule.lets_decide(account.id));
    users.extend(may.map(|account| &account.name).take(APPROVERS_MAX));
    users
}

/// Ages count from the last heartbeat, also if that came before a restart; where nobody knows when it came, from when the
/// agent's connectivity last changed.
fn agents(state: &State, engine: &Handle, fleet: &Fleet) {
    let now = engine.now();
    for tenant in state.tenants.values() {
        environments_of_agents(tenant);
        for agent in tenant.agents.values().filter(|agent| agent.revoked.is_none()) {
            if let Some(live) = fleet.live(agent.id) {
                current::host(tenant, agent, &live);
            }
            if let Some(life) = fleet.certificate(agent.id) {
                current::certificate(tenant, agent, life);
            }
            let seen = fleet.last_seen(agent.id).or(match agent.connectivity {
                Connectivity::Never => None,
                Connectivity::Online { since }
                | Connectivity::Suspect { since }
                | Connectivity::Offline { since } => Some(since),
            });
            if let Some(seen) = seen {
                gauge!("stella_agent_heartbeat_age_seconds", "agent" => agent.name.to_string(), "tenant" => tenant.name.to_string())
                    .set(now.since(seen).as_secs_f64());
            }
        }
    }
}

/// Where each agent has targets: what else is known of agents can be looked at by environment with it.
fn environments_of_agents(tenant: &TenantState) {
    let mut places = BTreeMap::<AgentId, BTreeSet<&str>>::new();
    for target in tenant.targets.values() {
        let environment = tenant.environment_name(target.environment).map_or("", Name::as_str);
        places.entry(target.agent).or_default().insert(environment);
    }
    for agent in tenant.agents.values().filter(|agent| agent.revoked.is_none()) {
        for environment in places.remove(&agent.id).unwrap_or_else(|| BTreeSet::from([""])) {
            let labels = [
                ("agent", agent.name.to_string()),
                ("tenant", tenant.name.to_string()),
                ("env", environment.to_owned()),
            ];
            gauge!("stella_agent_environment", &labels).set(1.0);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a fleet are far below 2^52")]
const fn as_f64(count: usize) -> f64 {
    count as f64
}
