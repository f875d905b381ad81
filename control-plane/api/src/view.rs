//! From the domain's state to the shapes of answers.
//!
//! Things that are referred to but gone are shown by their ids: a deployment outlives the targets that it went to.

mod account;
mod channel;
mod deployment;
mod event;
mod gate;
mod hook;
mod plan;
mod promotion;
mod release;
mod signing;
mod task;
pub(crate) mod way_back;
mod workflow;

use stella_api_types::agent as agent_dto;
use stella_api_types::environment::{
    Automatic, Budget, Environment as EnvironmentDto, Followed, Follows, Freeze as FreezeDto,
    Needs as NeedsDto, Repeats as RepeatsDto, Silence, Verification as VerificationDto,
};
use stella_api_types::hold::Hold as HoldDto;
use stella_api_types::page::Named;
use stella_api_types::target::{Idle as IdleDto, Target as TargetDto};
use stella_api_types::tenant::Tenant as TenantDto;
use stella_domain::agent::{Agent, Connectivity, EnrolmentToken, FiguresAddress};
use stella_domain::environment::{Environment, Needs, PromotionPath, Requirement, Verification};
use stella_domain::freeze::{Freeze, Repeats};
use stella_domain::hold::Hold;
use stella_domain::name::Name;
use stella_domain::state::State;
use stella_domain::target::Target;
use stella_domain::tenant::TenantState;
use stella_protocol::id::{AgentId, EnvironmentId, TargetId};
use stella_protocol::message::Profile;
use stella_protocol::time::Timestamp;

pub(crate) use account::{account, account_alone, api_token, named_in_vain};
pub(crate) use channel::channel;
pub(crate) use deployment::{deployment, deployment_detail};
pub(crate) use event::event;
pub(crate) use gate::{gate, scan_report};
pub(crate) use hook::hook;
pub(crate) use plan::{plan, rollback_plan, target_tasks};
pub(crate) use promotion::{plan_proof, promotion};
pub(crate) use release::release;
pub(crate) use signing::release_key;
pub(crate) use task::{output_line, task};
pub(crate) use workflow::{run, run_plan, workflow};

/// A time as text.
pub(crate) fn time(at: Timestamp) -> String {
    stella_api_types::time::rfc3339(at)
}

/// A tenant.
pub(crate) fn tenant(tenant: &TenantState) -> TenantDto {
    TenantDto {
        id: tenant.id.to_string(),
        name: tenant.name.to_string(),
        signing: signing::signing(tenant),
        created_at: time(tenant.created_at),
    }
}

/// An environment.
pub(crate) fn environment(
    state: &State,
    now: Timestamp,
    tenant: &TenantState,
    environment: &Environment,
) -> EnvironmentDto {
    EnvironmentDto {
        id: environment.id.to_string(),
        name: environment.name.to_string(),
        order: environment.order,
        follows: environment.requires.as_ref().map(|path| follows(tenant, environment, path)),
        approvals: environment.approvals.as_ref().map(|rule| promotion::rule(state, rule)),
        budget: environment.budget.map(|budget| Budget {
            at_risk_max: deployment::amount(budget),
            targets_max: tenant.at_risk_max(environment.id).unwrap_or(u32::MAX),
            at_risk: tenant.at_risk(environment.id),
        }),
        requires_way_back: environment.requires_way_back,
        way_back_proof: way_back::rule(environment.way_back_proof),
        strategy: environment.strategy.as_ref().map(deployment::strategy),
        verification: environment.verification.map(verification),
        silence: environment.silence.map(|rule| Silence {
            percent: rule.percent,
            within_seconds: rule.within_ms / 1_000,
            since: environment.silent_since.map(time),
        }),
        freezes: environment.freezes.iter().map(|it| freeze(it, now)).collect(),
        gates: environment.gates.values().map(|it| gate(tenant, it)).collect(),
        channels: environment.channels.iter().map(Name::to_string).collect(),
        lock: environment.lock.as_ref().map(hold),
        created_at: time(environment.created_at),
    }
}

fn follows(tenant: &TenantState, environment: &Environment, path: &PromotionPath) -> Follows {
    let followed = |it: &Requirement| Followed {
        environment: environment_named(tenant, it.after),
        soak_seconds: it.soak_ms / 1_000,
    };
    let Followed { environment: first, soak_seconds } = followed(&path.first);
    let coming = environment
        .automatic
        .iter()
        .map(|(id, it)| Automatic { release: release::release_ref(tenant, *id), due_at: time(it.due_at) });
    Follows {
        environment: first,
        soak_seconds,
        others: path.others.iter().map(followed).collect(),
        needs: match path.needs {
            Needs::All => NeedsDto::All,
            Needs::Any => NeedsDto::Any,
        },
        auto: path.auto,
        automatic: coming.collect(),
    }
}

/// What comes after the last wave.
const fn verification(verification: Verification) -> VerificationDto {
    VerificationDto { bake_seconds: verification.bake_ms / 1_000 }
}

fn freeze(freeze: &Freeze, now: Timestamp) -> FreezeDto {
    FreezeDto {
        name: freeze.name.to_string(),
        reason: freeze.reason.clone(),
        from: freeze.from.to_string(),
        to: freeze.to.to_string(),
        time_zone: freeze.time_zone.clone(),
        repeats: match freeze.repeats {
            Repeats::Never => RepeatsDto::Never,
            Repeats::Daily => RepeatsDto::Daily,
            Repeats::Weekly => RepeatsDto::Weekly,
            Repeats::Yearly => RepeatsDto::Yearly,
        },
        until: freeze.until(now).map(time),
    }
}

/// What was held back.
fn hold(hold: &Hold) -> HoldDto {
    HoldDto { reason: hold.reason.clone(), by: event::actor(&hold.by), since: time(hold.since) }
}

/// A target of this tenant.
pub(crate) fn target(tenant: &TenantState, target: &Target) -> TargetDto {
    TargetDto {
        id: target.id.to_string(),
        name: target.name.to_string(),
        environment: environment_named(tenant, target.environment),
        agent: agent_named(tenant, target.agent),
        kind: target.kind.to_string(),
        slot: target.slot.as_ref().map(Name::to_string),
        labels: target.labels.clone(),
        variables: target.variables.clone(),
        generation: target.generation.0,
        current: target.current.map(|id| release::release_ref(tenant, id)),
        colour: target.live.map(|colour| colour.name().to_owned()),
        idle: target.idle.map(|idle| IdleDto {
            release: release::release_ref(tenant, idle.release),
            colour: idle.colour.name().to_owned(),
            deployment: idle.by.to_string(),
            ready: idle.is_ready,
        }),
        torn: target.is_torn,
        part: target.part.map(|part| part.name().to_owned()),
        active_deployment: target.active.map(|id| id.to_string()),
        quarantined: task::quarantine(tenant, target),
        draining: tenant.draining(target).map(|(_, draining)| hold(draining)),
        created_at: time(target.created_at),
    }
}

/// Whether an agent is there, and since when.
const fn connectivity(connectivity: &Connectivity) -> (&'static str, Option<Timestamp>) {
    match connectivity {
        Connectivity::Never => ("never", None),
        Connectivity::Online { since } => ("online", Some(*since)),
        Connectivity::Suspect { since } => ("suspect", Some(*since)),
        Connectivity::Offline { since } => ("offline", Some(*since)),
    }
}

/// An agent of this tenant.
pub(crate) fn agent(tenant: &TenantState, agent: &Agent) -> agent_dto::Agent {
    let (connectivity, since) = connectivity(&agent.connectivity);
    agent_dto::Agent {
        id: agent.id.to_string(),
        name: agent.name.to_string(),
        connectivity: connectivity.to_owned(),
        since: since.map(time),
        hostname: agent.hostname.clone(),
        version: (!agent.version.is_empty()).then(|| agent.version.clone()),
        labels: agent.labels.clone(),
        profile: agent.profile.map(profile),
        runs_as: agent.runs_as().map(profile),
        profile_problem: profile_problem(agent),
        metrics_address: agent.figures.as_ref().map(FiguresAddress::to_string),
        session: agent.session.0,
        open_tasks: tenant.unsettled.get(&agent.id).map_or(0, |tasks| tasks.len() as u64),
        key_fingerprint: agent.key_fingerprint.to_string(),
        enrolled_at: time(agent.enrolled_at),
        revoked: agent
            .revoked
            .as_ref()
            .map(|revoked| agent_dto::Revoked { at: time(revoked.at), reason: revoked.reason.clone() }),
        draining: agent.draining.as_ref().map(|hold| draining(tenant, agent.id, hold)),
    }
}

fn draining(tenant: &TenantState, agent: AgentId, hold: &Hold) -> agent_dto::Draining {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    agent_dto::Draining {
        reason: hold.reason.clone(),
        by: event::actor(&hold.by),
        since: time(hold.since),
        under_way: count(tenant.under_way_on(agent)),
        waiting: count(tenant.waiting_on(agent)),
    }
}

fn profile(profile: Profile) -> String {
    profile.name().to_owned()
}

/// What it means that an agent runs otherwise than it was enrolled for.
fn profile_problem(agent: &Agent) -> Option<String> {
    let problem = match (agent.profile?, agent.runs_as()?) {
        (Profile::Confined, Profile::Full) => {
            "it was enrolled as confined and runs with full rights, so it refuses every task: take the rights away on its host \
             (stella-agent doctor says how), or enrol it again with a token of the profile full"
        }
        (Profile::Full, Profile::Confined) => {
            "it was enrolled for full rights and runs confined, so tasks that need more fail: give it the rights on its host \
             (stella-agent doctor says how)"
        }
        (Profile::Confined, Profile::Confined) | (Profile::Full, Profile::Full) => return None,
    };
    Some(problem.to_owned())
}

/// What may be known of an enrolment token.
pub(crate) fn enrolment_token(token: &EnrolmentToken) -> agent_dto::EnrolmentToken {
    agent_dto::EnrolmentToken {
        id: token.id.to_string(),
        agent_name: token.agent_name.as_ref().map(Name::to_string),
        labels: token.labels.clone(),
        profile: token.profile.map(profile),
        uses_max: token.uses_max,
        agents: token.used_by.values().map(AgentId::to_string).collect(),
        expires_at: time(token.expires_at),
        created_at: time(token.created_at),
    }
}

fn environment_named(tenant: &TenantState, id: EnvironmentId) -> Named {
    named(id, tenant.environment_name(id))
}

fn agent_named(tenant: &TenantState, id: AgentId) -> Named {
    named(id, tenant.agents.get(&id).map(|agent| &agent.name))
}

fn target_named(tenant: &TenantState, id: TargetId) -> Named {
    named(id, tenant.targets.get(&id).map(|target| &target.name))
}

fn named(id: impl std::fmt::Display, name: Option<&Name>) -> Named {
    let id = id.to_string();
    Named { name: name.map_or_else(|| id.clone(), Name::to_string), id }
}
