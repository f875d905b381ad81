//! What there is: tenants, environments, targets, agents.

use serde::Serialize;
use stella_api_types::agent::{self, RevokeAgent, RevokeEnrolmentToken};
use stella_api_types::environment::{self, CreateEnvironment, ProofRule, Repeats, SetFreeze};
use stella_api_types::paths;
use stella_api_types::system::System;
use stella_api_types::tenant::{self, CreateTenant};

use crate::args::{Agent, EnrolmentTokens, Environment, Output, Repeat, Tenant};
use crate::client::Error;
use crate::simulate::describe;
use crate::{Context, channel, enrol, hold, pace, print, promotion, when};

/// Creates something; if it is there already and is the same, that is as good. `otherwise` says what is not, and how to change it.
pub(crate) async fn create<B, T>(
    context: &Context,
    path: &str,
    body: &B,
    existing: &str,
    text: fn(&T) -> String,
    otherwise: impl FnOnce(&T) -> Option<String>,
) -> Result<(), Error>
where
    B: Serialize + Sync,
    T: Serialize + serde::de::DeserializeOwned,
{
    let created = match context.client.post::<B, T>(path, body, None).await {
        Err(Error::Refused(mut problem)) if problem.code == "already_exists" => {
            let there = context.client.get::<T>(existing).await?;
            if let Some(otherwise) = otherwise(&there) {
                problem.detail = format!("it is there already and is otherwise: {otherwise}");
                return Err(Error::Refused(problem));
            }
            return print::result(context.output, &there, |there| {
                format!("{}\n(it was there already and is left as it is)", text(there))
            });
        }
        other => other?,
    };
    print::result(context.output, &created, text)
}

pub(crate) async fn tenant(context: &Context, command: Tenant) -> Result<(), Error> {
    match command {
        Tenant::Create { name } => {
            let existing = paths::fill(paths::TENANT, &[&name]);
            let text = |tenant: &tenant::Tenant| format!("tenant {} {}", tenant.name, tenant.id);
            create(context, paths::TENANTS, &CreateTenant { name }, &existing, text, |_| None).await
        }
        Tenant::List => {
            let tenants: Vec<tenant::Tenant> = context.client.list(paths::TENANTS, &[]).await?;
            print::list(context.output, &tenants, &["NAME", "ID", "CREATED"], |tenant| {
                vec![tenant.name.clone(), tenant.id.clone(), when::ago(&tenant.created_at)]
            })
        }
    }
}

pub(crate) async fn environment(context: &Context, command: Environment) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENTS, &[])?;
    match command {
        Environment::Create { name, order } => {
            create_environment(context, &path, CreateEnvironment { name, order, way_back_proof: None }).await
        }
        Environment::Show { environment } => crate::environment::show(context, &environment).await,
        Environment::Update { environment, name, order } => {
            crate::environment::update(context, &environment, name, order).await
        }
        Environment::Remove { environment } => crate::environment::remove(context, &environment).await,
        Environment::List => list_environments(context, &path).await,
        Environment::Scenario { environment, release } => {
            describe::scenario(context, &environment, release).await
        }
        Environment::Path { environment, after, any, all, soak, auto, nothing: _ } => {
            let path = hold::path_of(after, (any, all), soak, auto)?;
            hold::path(context, &environment, &path).await
        }
        Environment::Approvals { environment, needed, from, expires_in, nobody: _ } => {
            promotion::set_rule(context, &environment, needed.unwrap_or(0), from, expires_in).await
        }
        Environment::Budget { environment, at_most, unlimited: _ } => {
            hold::budget(context, &environment, at_most).await
        }
        Environment::WayBack { environment, required, optional: _ } => {
            hold::way_back(context, &environment, required).await
        }
        Environment::Strategy { environment, pace, any } => {
            let strategy = pace.is_given().then(|| pace::strategy(*pace)).transpose()?;
            if strategy.is_none() && !any {
                let problem = "say how targets follow one another, such as --batch 25%, or leave it to whoever asks with --any";
                return Err(Error::Usage(problem.to_owned()));
            }
            hold::strategy(context, &environment, strategy).await
        }
        Environment::WayBackProof { environment, proof } => {
            hold::way_back_proof(context, &environment, proof).await
        }
        Environment::Channels { environment, take, any: _ } => {
            channel::taken(context, &environment, take).await
        }
        Environment::Verify { environment, bake, nothing: _ } => {
            hold::verification(context, &environment, bake).await
        }
        Environment::Silence { environment, share, within, ignore: _ } => {
            hold::silence(context, &environment, share, within).await
        }
        Environment::Freeze { environment, name, from, to, zone, repeat, reason } => {
            let body = SetFreeze { name, reason, from, to, time_zone: zone, repeats: repeats(repeat) };
            hold::freeze(context, &environment, &body).await
        }
        Environment::Unfreeze { environment, name } => hold::unfreeze(context, &environment, &name).await,
        Environment::Lock { environment, reason } => hold::lock(context, &environment, reason).await,
        Environment::Unlock { environment } => hold::unlock(context, &environment).await,
    }
}

async fn create_environment(context: &Context, path: &str, body: CreateEnvironment) -> Result<(), Error> {
    let existing = context.path(paths::ENVIRONMENT, &[&body.name])?;
    let text = |it: &environment::Environment| format!("environment {} {}", it.name, it.id);
    create(context, path, &body, &existing, text, |there| {
        let order = body.order.filter(|order| *order != there.order)?;
        let (name, is) = (&there.name, there.order);
        Some(format!(
            "environment {name} has the order {is} and not {order}; change it with: stella env update {name} --order {order}"
        ))
    })
    .await
}

async fn list_environments(context: &Context, path: &str) -> Result<(), Error> {
    let mut all: Vec<environment::Environment> = context.client.list(path, &[]).await?;
    all.sort_by_key(|environment| environment.order);
    print::list(
        context.output,
        &all,
        &["ORDER", "NAME", "AFTER", "APPROVALS", "GATES", "AT RISK", "PROOF", "LOCKED", "ID"],
        |environment| {
            let lock = environment.lock.as_ref();
            vec![
                environment.order.to_string(),
                environment.name.clone(),
                environment.follows.as_ref().map_or_else(|| "-".to_owned(), hold::follows),
                environment.approvals.as_ref().map_or_else(|| "-".to_owned(), |it| it.needed.to_string()),
                environment.gates.len().to_string(),
                environment.budget.as_ref().map_or_else(|| "-".to_owned(), hold::budget_of),
                match environment.way_back_proof {
                    ProofRule::Off => "-",
                    ProofRule::Reported => "reported",
                    ProofRule::Required => "required",
                }
                .to_owned(),
                lock.map_or_else(|| held(environment), |lock| lock.reason.clone()),
                environment.id.clone(),
            ]
        },
    )
}

/// What holds an environment that is not locked, or will.
fn held(environment: &environment::Environment) -> String {
    hold::held_now(environment).unwrap_or_else(|| match environment.freezes.len() {
        0 => "-".to_owned(),
        planned => format!("{} planned", print::count(planned as u64, "freeze")),
    })
}

const fn repeats(repeat: Repeat) -> Repeats {
    match repeat {
        Repeat::Never => Repeats::Never,
        Repeat::Daily => Repeats::Daily,
        Repeat::Weekly => Repeats::Weekly,
        Repeat::Yearly => Repeats::Yearly,
    }
}

pub(crate) async fn agent(context: &Context, command: Agent) -> Result<(), Error> {
    match command {
        Agent::List => {
            let agents: Vec<agent::Agent> =
                context.client.list(&context.path(paths::AGENTS, &[])?, &[]).await?;
            let head = ["NAME", "STATE", "SINCE", "VERSION", "PROFILE", "HOST", "ID"];
            print::list(context.output, &agents, &head, |agent| {
                let state = if agent.revoked.is_some() { "revoked" } else { &agent.connectivity };
                vec![
                    agent.name.clone(),
                    state.to_owned(),
                    agent.since.as_deref().map_or_else(|| "-".into(), when::ago),
                    agent.version.clone().unwrap_or_else(|| "-".into()),
                    profile(agent),
                    agent.hostname.clone(),
                    agent.id.clone(),
                ]
            })
        }
        Agent::Show { agent } => {
            let path = context.path(paths::AGENT, &[&agent])?;
            let agent: agent::Agent = context.client.get(&path).await?;
            print::result(context.output, &agent, shown)
        }
        Agent::EnrolCommand(wanted) => enrol::command(context, *wanted).await,
        Agent::Token { command: Some(command), .. } => enrolment_tokens(context, command).await,
        Agent::Token { command: None, token, quiet } => {
            let created = enrol::new_token(context, &token).await?;
            let token = created.token.clone().unwrap_or_default();
            if quiet && context.output == Output::Text {
                print::line(&token);
                return Ok(());
            }
            print::result(context.output, &created, |created| {
                // Not as an argument, which everybody on the host can read.
                format!(
                    "{token}\n\nIt is shown only now. On the host, before {}, with it in a file that only root can read:\n\n  \
                     stella-agent enrol --server {} --token @/root/token",
                    when::moment(&created.details.expires_at),
                    created.agent_address
                )
            })
        }
        Agent::Revoke { agent, reason } => {
            let path = context.path(paths::AGENT_REVOKE, &[&agent])?;
            let revoked: agent::Agent = context.client.post(&path, &RevokeAgent { reason }, None).await?;
            print::result(context.output, &revoked, |agent| format!("agent {} is revoked", agent.name))
        }
    }
}

async fn enrolment_tokens(context: &Context, command: EnrolmentTokens) -> Result<(), Error> {
    match command {
        EnrolmentTokens::List => {
            let tokens: Vec<agent::EnrolmentToken> =
                context.client.list(&context.path(paths::ENROLMENT_TOKENS, &[])?, &[]).await?;
            print::list(context.output, &tokens, &["ID", "PROFILE", "USED", "EXPIRES", "LABELS"], |token| {
                let labels: Vec<_> =
                    token.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                vec![
                    token.id.clone(),
                    token.profile.clone().unwrap_or_else(|| "-".to_owned()),
                    format!("{} of {}", token.agents.len(), token.uses_max),
                    when::moment(&token.expires_at),
                    labels.join(" "),
                ]
            })
        }
        EnrolmentTokens::Revoke { id, reason } => {
            let path = context.path(paths::ENROLMENT_TOKEN_REVOKE, &[&id])?;
            context.client.tell(&path, &RevokeEnrolmentToken { reason }).await?;
            print::line(&format!("enrolment token {id} is revoked"));
            Ok(())
        }
    }
}

/// What it was enrolled for, and how it runs if that is something else.
fn profile(agent: &agent::Agent) -> String {
    let enrolled = agent.profile.as_deref();
    match (enrolled, agent.runs_as.as_deref()) {
        (Some(enrolled), Some(runs)) if enrolled != runs => format!("{enrolled}, runs {runs}!"),
        (Some(enrolled), _) => enrolled.to_owned(),
        (None, Some(runs)) => format!("runs {runs}"),
        (None, None) => "-".to_owned(),
    }
}

fn shown(agent: &agent::Agent) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let labels: Vec<_> = agent.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let since = agent.since.as_deref().map_or_else(|| "-".to_owned(), when::moment_and_age);
    let state = agent.revoked.as_ref().map_or_else(
        || format!("{} since {since}", agent.connectivity),
        |revoked| format!("revoked at {}: {}", when::moment(&revoked.at), revoked.reason),
    );
    let mut text = format!(
        "agent       {} {}\nstate       {state}\nhost        {}\nversion     {}\nenrolled    {}, for the profile {}\nruns        {}\nlabels      {}\nmetrics     {}\nopen tasks  {}",
        agent.name,
        agent.id,
        print::one_line(&agent.hostname),
        print::one_line(&or_none(&agent.version)),
        when::moment_and_age(&agent.enrolled_at),
        or_none(&agent.profile),
        or_none(&agent.runs_as),
        labels.join(", "),
        or_none(&agent.metrics_address),
        agent.open_tasks,
    );
    if let Some(problem) = &agent.profile_problem {
        text.push_str("\nproblem     ");
        text.push_str(&print::one_line(problem));
    }
    text
}

pub(crate) async fn status(context: &Context) -> Result<(), Error> {
    let system: System = context.client.get(paths::SYSTEM).await?;
    print::result(context.output, &system, |system| {
        let counts = &system.counts;
        let look =
            if counts.waiting_promotions > 0 { " (stella promotion list --status waiting)" } else { "" };
        format!(
            "stella-orchestrator {}, up {}\nagents {} of {} online, targets {}, releases {}\n\
             deployments {} ({} active), open tasks {}\npromotions that wait {}{look}\nagents dial {}\nroot certificate {}",
            system.version,
            when::length(system.uptime),
            counts.agents_online,
            counts.agents,
            counts.targets,
            counts.releases,
            counts.deployments,
            counts.active_deployments,
            counts.open_tasks,
            counts.waiting_promotions,
            system.agent_address,
            system.root_fingerprint
        )
    })
}
