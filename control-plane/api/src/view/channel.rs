//! Channels.

use stella_api_types::channel as dto;
use stella_domain::channel::{Channel, PreReleases};

use super::event::actor;
use super::time;
use crate::routes::channels::ANY;

/// A channel.
pub(crate) fn channel(channel: &Channel) -> dto::Channel {
    dto::Channel {
        application: channel.application.to_string(),
        name: channel.name.to_string(),
        versions: channel.rule.versions.clone(),
        pre_releases: match &channel.rule.pre_releases {
            PreReleases::None => Vec::new(),
            PreReleases::Only(tags) => tags.clone(),
            PreReleases::Any => vec![ANY.to_owned()],
        },
        labels: channel.rule.labels.clone(),
        set_at: time(channel.set_at),
        set_by: actor(&channel.set_by),
    }
}
