//! What there is: tenants, environments, and figures of it all.

use serde::Serialize;
use stella_api_types::environment::{self, CreateEnvironment, ProofRule, Repeats, SetFreeze};
use stella_api_types::paths;
use stella_api_types::system::System;
use stella_api_types::tenant::{self, CreateTenant};

use crate::args::{Environment, Repeat, Tenant};
use crate::client::Error;
use crate::simulate::describe;
use crate::{Context, channel, hold, pace, print, promotion, when};

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
        Environment::Approvals { environment, needed, from, groups, expires_in, on_expiry, nobody: _ } => {
            let rule = promotion::rule_of((needed, from), groups, expires_in, on_expiry);
            promotion::set_rule(context, &environment, &rule).await
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
                environment
                    .approvals
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |it| promotion::needed(it).to_string()),
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
