//! Channels: which there are, which releases are in them, and which an environment takes.

use std::sync::Arc;

use stella_protocol::id::{EnvironmentId, ReleaseId};
use stella_protocol::time::Timestamp;

use super::transaction::Transaction;
use super::{fields, hold, path, signature};
use crate::channel::{
    APPLICATIONS_MAX, CHANNELS_MAX, ChannelRule, NAMED_MAX, PreReleases, RANGE_BYTES_MAX, by_age,
};
use crate::command::{NewRelease, Outcome};
use crate::environment::Environment;
use crate::event::Fact;
use crate::hold::Standing;
use crate::name::Name;
use crate::rejection::Rejection;
use crate::release::Release;
use crate::tenant::TenantState;

/// Sets a channel, instead of one of the same name. Releases that are there stay in the channels that they are in.
pub(super) fn set(
    tx: &mut Transaction<'_>,
    application: &Name,
    name: &Name,
    rule: &ChannelRule,
) -> Result<Outcome, Rejection> {
    makes_sense(rule)?;
    let channels = tx.tenant.channels.get(application);
    if channels.is_none() && tx.tenant.channels.len() >= APPLICATIONS_MAX {
        let problem = format!("{APPLICATIONS_MAX} applications have channels already");
        return Err(Rejection::Conflict { problem });
    }
    let others = channels.map_or(0, |it| it.keys().filter(|it| *it != name).count());
    if others >= CHANNELS_MAX {
        let problem = format!("{application} has {others} channels already; remove one first");
        return Err(Rejection::Conflict { problem });
    }
    if channels.and_then(|it| it.get(name)).is_none_or(|it| it.rule != *rule) {
        let (application, name, rule) = (application.clone(), name.clone(), rule.clone());
        tx.emit(Fact::ChannelSet { application, name, rule })?;
    }
    Ok(Outcome::Done)
}

fn makes_sense(rule: &ChannelRule) -> Result<(), Rejection> {
    fields::labels(&rule.labels)?;
    if let Some(range) = &rule.versions {
        if range.len() > RANGE_BYTES_MAX {
            return Err(Rejection::invalid("versions", format!("must have at most {RANGE_BYTES_MAX} bytes")));
        }
        let parsed = semver::VersionReq::parse(range).map_err(|error| {
            Rejection::invalid(
                "versions",
                format!("is no range of semantic versions, as >=1.2, <2 is: {error}"),
            )
        })?;
        if parsed.comparators.iter().any(|it| !it.pre.is_empty()) {
            let problem = "names a pre-release; say which in pre_releases, the range is without them";
            return Err(Rejection::invalid("versions", problem));
        }
    }
    let PreReleases::Only(tags) = &rule.pre_releases else { return Ok(()) };
    if tags.is_empty() || tags.len() > NAMED_MAX {
        return Err(Rejection::invalid("pre_releases", format!("must be 1 to {NAMED_MAX}")));
    }
    let is_tag =
        |tag: &String| !tag.contains('.') && semver::Prerelease::new(tag).is_ok_and(|it| !it.is_empty());
    match tags.iter().position(|tag| !is_tag(tag)) {
        None => Ok(()),
        Some(at) => {
            let problem = "must be what comes after the hyphen up to the first dot, as beta in 1.0.0-beta.2";
            Err(Rejection::invalid(format!("pre_releases[{at}]"), problem))
        }
    }
}

pub(super) fn remove(
    tx: &mut Transaction<'_>,
    application: &Name,
    name: &Name,
) -> Result<Outcome, Rejection> {
    if !tx.tenant.channels.get(application).is_some_and(|it| it.contains_key(name)) {
        return Err(Rejection::not_found("channel", format!("{application}/{name}")));
    }
    tx.emit(Fact::ChannelRemoved { application: application.clone(), name: name.clone() })?;
    Ok(Outcome::Done)
}

/// Sets which channels an environment takes; none is all, and what is in no channel.
pub(super) fn set_taken(
    tx: &mut Transaction<'_>,
    id: EnvironmentId,
    channels: &[Name],
) -> Result<Outcome, Rejection> {
    let environment = tx.tenant.environments.get(&id);
    let environment = environment.ok_or_else(|| Rejection::not_found(EnvironmentId::KIND, id))?;
    let mut channels = channels.to_vec();
    channels.sort_unstable();
    channels.dedup();
    if channels.len() > NAMED_MAX {
        return Err(Rejection::invalid("channels", format!("there are more than {NAMED_MAX}")));
    }
    let known = |name: &Name| tx.tenant.channels.values().any(|it| it.contains_key(name));
    if let Some(unknown) = channels.iter().find(|name| !known(name)) {
        let problem = format!("no application has a channel {unknown}; set it first: stella channel set");
        return Err(Rejection::invalid("channels", problem));
    }
    if environment.channels != channels {
        tx.emit(Fact::EnvironmentChannelsSet { id, channels })?;
    }
    Ok(Outcome::Done)
}

/// The channels that a new release is in, in the order of their names.
pub(super) fn of(tenant: &TenantState, new: &NewRelease) -> Vec<Name> {
    let channels = tenant.channels.get(&new.application).into_iter().flat_map(|it| it.values());
    channels.filter(|it| it.rule.takes(&new.version, &new.labels)).map(|it| it.name.clone()).collect()
}

/// Whether an environment takes a release from one of its channels.
pub(super) fn is_taken(environment: &Environment, release: &Release) -> Result<(), Rejection> {
    let taken = &environment.channels;
    if taken.is_empty() || release.channels.iter().any(|it| taken.contains(it)) {
        return Ok(());
    }
    let listed = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let is_in = match release.channels.as_slice() {
        [] => "is in no channel".to_owned(),
        names => format!("is in {}", listed(names)),
    };
    Err(Rejection::conflict(format!(
        "release {}:{} {is_in}, and {} takes releases from {} only",
        release.application,
        release.version,
        environment.name,
        listed(taken)
    )))
}

/// The newest release of a channel that may come to an environment now.
///
/// # Errors
/// If there is none, with what keeps the newest from coming.
pub fn newest(
    tenant: &TenantState,
    environment: &Environment,
    application: &Name,
    channel: &Name,
    now: Timestamp,
) -> Result<ReleaseId, Rejection> {
    let versions = tenant.index.releases.get(application);
    let all = versions.into_iter().flat_map(|it| it.values()).filter_map(|id| tenant.releases.get(id));
    let mut found: Vec<&Arc<Release>> = all.filter(|it| it.channels.contains(channel)).collect();
    found.sort_by(|one, other| by_age(other, one));
    let mut why = None;
    for release in found {
        match may_come(tenant, environment, release, now) {
            Ok(()) => return Ok(release.id),
            Err(rejection) => why = why.or(Some(rejection)),
        }
    }
    let problem = match why {
        None => format!("{application} has no release in channel {channel}"),
        Some(newest) => {
            format!("no release of {application} in channel {channel} may come now; the newest: {newest}")
        }
    };
    Err(Rejection::Conflict { problem })
}

fn may_come(
    tenant: &TenantState,
    environment: &Environment,
    release: &Release,
    now: Timestamp,
) -> Result<(), Rejection> {
    if let Standing::Deprecated(hold) = &release.standing {
        let name = format!("{}:{}", release.application, release.version);
        return Err(Rejection::conflict(format!("release {name} is deprecated: {}", hold.reason)));
    }
    hold::is_usable(release)?;
    is_taken(environment, release)?;
    signature::is_signed(tenant, release)?;
    path::is_reached(tenant, environment, release, now)
}
