//! Channels: named streams of an application's releases.

use stella_api_types::channel::{Channel as Dto, SetChannel, SetChannels};
use stella_api_types::environment::Environment;
use stella_api_types::paths;

use crate::args::Channel;
use crate::client::Error;
use crate::{Context, print, when};

pub(crate) async fn channel(context: &Context, command: Channel) -> Result<(), Error> {
    match command {
        Channel::Set { application, name, versions, pre_releases, any, labels } => {
            let pre_releases = if any { vec!["*".to_owned()] } else { pre_releases };
            let body = SetChannel {
                application,
                name,
                versions,
                pre_releases,
                labels: labels.into_iter().collect(),
            };
            let path = context.path(paths::CHANNELS, &[])?;
            let set: Dto = context.client.post(&path, &body, None).await?;
            print::result(context.output, &set, |it| {
                format!("channel {} of {} takes {} from now on", it.name, it.application, takes(it))
            })
        }
        Channel::List => {
            let all: Vec<Dto> = context.client.list(&context.path(paths::CHANNELS, &[])?, &[]).await?;
            print::list(context.output, &all, &["APPLICATION", "CHANNEL", "TAKES", "SET"], |it| {
                vec![it.application.clone(), it.name.clone(), takes(it), when::ago(&it.set_at)]
            })
        }
        Channel::Remove { application, name } => {
            context.client.delete(&context.path(paths::CHANNEL, &[&application, &name])?).await?;
            print::result(context.output, &serde_json::json!({ "removed": name }), |_| {
                format!("channel {name} of {application} removed; releases that are in it stay so")
            })
        }
    }
}

/// What a channel takes, for people.
fn takes(channel: &Dto) -> String {
    let which = match channel.pre_releases.as_slice() {
        [] => "finished versions".to_owned(),
        [any] if any == "*" => "all versions".to_owned(),
        tags => format!("{} pre-releases", tags.join(" and ")),
    };
    let range = channel.versions.as_ref().map(|it| format!(" {it}")).unwrap_or_default();
    let labels: Vec<String> =
        channel.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(", ")) };
    format!("{which}{range}{labels}")
}

pub(crate) async fn taken(context: &Context, environment: &str, channels: Vec<String>) -> Result<(), Error> {
    let path = context.path(paths::ENVIRONMENT_CHANNELS, &[environment])?;
    let set: Environment = context.client.post(&path, &SetChannels { channels }, None).await?;
    print::result(context.output, &set, |it| match it.channels.as_slice() {
        [] => format!("environment {} takes releases from any channel, and from none", it.name),
        channels => format!("environment {} takes releases from {} only", it.name, channels.join(", ")),
    })
}
