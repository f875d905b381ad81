//! Agents, and the tokens that they enrol with.

use stella_api_types::agent::{self, RevokeAgent, RevokeEnrolmentToken};
use stella_api_types::hold::HoldBack;
use stella_api_types::paths;

use crate::args::{Agent, EnrolmentTokens, Output};
use crate::client::Error;
use crate::follow::{self, Look};
use crate::{Context, enrol, print, when};

pub(crate) async fn agent(context: &Context, command: Agent) -> Result<(), Error> {
    match command {
        Agent::List => {
            let agents: Vec<agent::Agent> =
                context.client.list(&context.path(paths::AGENTS, &[])?, &[]).await?;
            let head = ["NAME", "STATE", "SINCE", "VERSION", "PROFILE", "HOST", "ID"];
            print::list(context.output, &agents, &head, |agent| {
                vec![
                    agent.name.clone(),
                    state(agent),
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
                let other_hosts = enrol::only_this_host(&created.agent_address);
                let other_hosts = other_hosts.map(|note| format!("\n\n{note}")).unwrap_or_default();
                // Not as an argument, which everybody on the host can read.
                format!(
                    "{token}\n\nIt is shown only now. On the host, before {}, with it in a file that only root can read:\n\n  \
                     stella-agent enrol --server {} --token @/root/token{other_hosts}",
                    when::moment(&created.details.expires_at),
                    created.agent_address
                )
            })
        }
        Agent::Drain { agent, reason, wait } => drain(context, &agent, reason, wait).await,
        Agent::Undrain { agent } => {
            let path = context.path(paths::AGENT_UNDRAIN, &[&agent])?;
            let back: agent::Agent = context.client.post(&path, &serde_json::json!({}), None).await?;
            print::result(context.output, &back, |agent| format!("agent {} is in rotation", agent.name))
        }
        Agent::Revoke { agent, reason } => {
            let path = context.path(paths::AGENT_REVOKE, &[&agent])?;
            let revoked: agent::Agent = context.client.post(&path, &RevokeAgent { reason }, None).await?;
            print::result(context.output, &revoked, |agent| format!("agent {} is revoked", agent.name))
        }
    }
}

/// Takes a host out of rotation, and waits until nothing goes on there if that is wanted.
async fn drain(context: &Context, name: &str, reason: String, wait: bool) -> Result<(), Error> {
    let path = context.path(paths::AGENT_DRAIN, &[name])?;
    let drained: agent::Agent = context.client.post(&path, &HoldBack { reason }, None).await?;
    if !wait {
        return print::result(context.output, &drained, rotation);
    }
    let path = context.path(paths::AGENT, &[&drained.id])?;
    let mut told = None;
    let look = async || context.client.get::<agent::Agent>(&path).await;
    let quiet = follow::until(follow::INTERVAL, look, |look| {
        let agent = match look {
            Look::Found(agent) => agent,
            Look::Lost(why) => {
                print::note(&format!("{why}; trying again"));
                return Ok(None);
            }
        };
        let Some(draining) = &agent.draining else {
            return Err(Error::Usage(format!("somebody has undrained agent {} meanwhile", agent.name)));
        };
        if draining.under_way == 0 {
            return Ok(Some(agent));
        }
        if told.replace(draining.under_way) != Some(draining.under_way) {
            print::note(&rotation(&agent));
        }
        Ok(None)
    });
    print::result(context.output, &quiet.await?, rotation)
}

/// Whether a host is out of rotation, and what goes on there still.
fn rotation(agent: &agent::Agent) -> String {
    let Some(draining) = &agent.draining else { return format!("agent {} is in rotation", agent.name) };
    let on = |count| print::count(count, "target");
    let state = match draining.under_way {
        0 => "is drained: nothing goes on there".to_owned(),
        count => format!("is draining: something is under way on {}", on(count)),
    };
    let waits = match draining.waiting {
        0 => String::new(),
        count => format!("; something waits on {} until it is undrained", on(count)),
    };
    format!("agent {} {state}{waits}", agent.name)
}

/// Whether it is there, and whether work comes to it.
fn state(agent: &agent::Agent) -> String {
    match &agent.draining {
        _ if agent.revoked.is_some() => "revoked".to_owned(),
        None => agent.connectivity.clone(),
        Some(draining) if draining.under_way > 0 => format!("{}, draining", agent.connectivity),
        Some(_) => format!("{}, drained", agent.connectivity),
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
    if let Some(draining) = &agent.draining {
        let since = when::moment(&draining.since);
        text.push_str(&format!(
            "\nrotation    out of it since {since}: {}\n            {}",
            print::one_line(&draining.reason),
            rotation(agent)
        ));
    }
    if let Some(problem) = &agent.profile_problem {
        text.push_str("\nproblem     ");
        text.push_str(&print::one_line(problem));
    }
    text
}
