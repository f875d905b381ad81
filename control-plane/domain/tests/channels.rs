//! Channels: which releases are in them, where they may go, and which one is the newest.

use std::str::FromStr;

use crate::common::{
    self, STAGING, World, conflict, deployment, end, facts, name, new_deployment, new_release, promotion,
    release,
};
use stella_domain::channel::{CHANNELS_MAX, ChannelRule, PreReleases};
use stella_domain::command::{NewRelease, TenantCommand};
use stella_domain::decide::newest;
use stella_domain::deployment::Status;
use stella_domain::hold::Verdict;
use stella_domain::name::Version;
use stella_domain::promotion::PromotionStatus;
use stella_domain::rejection::Rejection;
use stella_protocol::id::ReleaseId;

fn only(tags: &[&str]) -> ChannelRule {
    let pre_releases = PreReleases::Only(tags.iter().map(|it| (*it).to_owned()).collect());
    ChannelRule { pre_releases, ..ChannelRule::default() }
}

fn set(world: &mut World, channel: &str, rule: ChannelRule) {
    world.ok(TenantCommand::SetChannel { application: name("shop"), name: name(channel), rule });
}

/// One target with release 1, and the channels `stable` and `beta`.
fn world() -> World {
    let mut world = World::with_release_1(1);
    set(&mut world, "stable", ChannelRule::default());
    set(&mut world, "beta", only(&["beta", "rc"]));
    world
}

fn register(world: &mut World, n: u128, version: &str) {
    let new = NewRelease { id: release(n), version: Version::from_str(version).unwrap(), ..new_release(1) };
    world.ok(TenantCommand::CreateRelease(Box::new(new)));
}

fn channels(world: &World, n: u128) -> Vec<&str> {
    world.tenant().releases[&release(n)].channels.iter().map(|it| it.as_str()).collect()
}

fn take(world: &mut World, channels: &[&str]) {
    let channels = channels.iter().map(|it| name(it)).collect();
    world.ok(TenantCommand::SetEnvironmentChannels { environment: STAGING, channels });
}

fn newest_of(world: &World, channel: &str) -> Result<ReleaseId, Rejection> {
    let tenant = world.tenant();
    newest(tenant, &tenant.environments[&STAGING], &name("shop"), &name(channel), world.now)
}

#[test]
fn a_release_is_in_the_channels_whose_rules_took_it_when_it_was_registered() {
    let mut world = world();
    register(&mut world, 10, "1.2.0");
    register(&mut world, 11, "1.3.0-rc.1");
    register(&mut world, 12, "1.3.0-alpha");
    assert_eq!(channels(&world, 10), ["stable"]);
    assert_eq!(channels(&world, 11), ["beta"]);
    assert!(channels(&world, 12).is_empty() && channels(&world, 1).is_empty());
    // A release never changes, and neither do its channels.
    set(&mut world, "stable", only(&["alpha"]));
    let application = name("shop");
    world.ok(TenantCommand::RemoveChannel { application, name: name("beta") });
    assert_eq!((channels(&world, 10), channels(&world, 11)), (vec!["stable"], vec!["beta"]));
    register(&mut world, 13, "1.4.0-alpha.2");
    assert_eq!(channels(&world, 13), ["stable"]);
    end(&world);
}

#[test]
fn an_environment_takes_only_its_channels_and_goes_back_anywhere() {
    let mut world = world();
    register(&mut world, 10, "1.2.0");
    register(&mut world, 11, "1.3.0-rc.1");
    take(&mut world, &["stable"]);
    let refused = conflict(world.tell(TenantCommand::Deploy(Box::new(new_deployment(2, 11, None)))));
    assert_eq!(refused, "release shop:1.3.0-rc.1 is in beta, and staging takes releases from stable only");
    let refused = conflict(world.tell(TenantCommand::Deploy(Box::new(new_deployment(2, 2, None)))));
    assert!(refused.contains("is in no channel"), "{refused}");
    world.deploy(2, 10, None);
    world.complete(1);
    assert_eq!(*world.status(2), Status::Succeeded);
    // Release 1, which was there before, is in no channel.
    world.ok(TenantCommand::Rollback { id: deployment(3), of: deployment(2), targets: None });
    world.complete(1);
    assert_eq!(*world.status(3), Status::Succeeded);
    take(&mut world, &[]);
    world.deploy(4, 11, None);
    end(&world);
}

#[test]
fn what_waits_is_void_when_its_environment_takes_another_channel() {
    let mut world = world();
    register(&mut world, 11, "1.3.0-rc.1");
    let rule = Some(common::rule(1, &[]));
    world.ok(TenantCommand::SetEnvironmentApprovals { environment: STAGING, rule });
    world.deploy(2, 11, None);
    let (environment, channels) = (STAGING, vec![name("stable"), name("stable")]);
    let decision = world.ok(TenantCommand::SetEnvironmentChannels { environment, channels });
    assert_eq!(facts(&decision), ["environment_channels_set", "promotion_invalidated"]);
    let status = &world.tenant().promotions[&promotion(2)].status;
    assert!(
        matches!(status, PromotionStatus::Invalidated { reason, .. } if reason.contains("is in beta")),
        "{status:?}"
    );
    end(&world);
}

#[test]
fn the_newest_is_by_version_and_not_by_time_and_may_come() {
    let mut world = world();
    let said = conflict(newest_of(&world, "stable"));
    assert_eq!(said, "shop has no release in channel stable");
    register(&mut world, 10, "1.10.0");
    register(&mut world, 11, "1.9.0");
    register(&mut world, 12, "1.11.0-beta.1");
    assert_eq!(newest_of(&world, "stable").unwrap(), release(10));
    assert_eq!(newest_of(&world, "beta").unwrap(), release(12));
    for (n, verdict) in [(10, Verdict::Deprecate), (11, Verdict::Block)] {
        let judge =
            TenantCommand::JudgeRelease { release: release(n), verdict, reason: "loses orders".to_owned() };
        world.ok(judge);
        if n == 10 {
            assert_eq!(
                newest_of(&world, "stable").unwrap(),
                release(11),
                "a warning is enough to leave it out"
            );
        }
    }
    let said = conflict(newest_of(&world, "stable"));
    assert!(said.contains("the newest: release shop:1.10.0 is deprecated: loses orders"), "{said}");
    end(&world);
}

#[test]
fn rules_that_mean_nothing_are_refused_by_field() {
    let mut world = world();
    let versions = |text: &str| ChannelRule { versions: Some(text.to_owned()), ..ChannelRule::default() };
    for (rule, wanted) in [
        (versions("soon"), "versions"),
        (versions(">=1.0.0-beta"), "versions"),
        (versions(&">=1, ".repeat(100)), "versions"),
        (only(&[]), "pre_releases"),
        (only(&["beta.1"]), "pre_releases[0]"),
        (only(&["beta", ""]), "pre_releases[1]"),
    ] {
        let command = TenantCommand::SetChannel { application: name("shop"), name: name("x"), rule };
        let Err(Rejection::Invalid { field, problem }) = world.tell(command.clone()) else {
            panic!("{command:?}")
        };
        assert_eq!(field, wanted, "{problem}");
    }
    let unknown =
        TenantCommand::SetEnvironmentChannels { environment: STAGING, channels: vec![name("nightly")] };
    assert!(matches!(world.tell(unknown), Err(Rejection::Invalid { field, .. }) if field == "channels"));
    let missing = TenantCommand::RemoveChannel { application: name("shop"), name: name("nightly") };
    assert!(matches!(world.tell(missing), Err(Rejection::NotFound { .. })));
    for n in 2..CHANNELS_MAX {
        set(&mut world, &format!("c{n}"), ChannelRule::default());
    }
    let more =
        TenantCommand::SetChannel { application: name("shop"), name: name("more"), rule: only(&["x"]) };
    assert!(conflict(world.tell(more)).contains("remove one first"));
    end(&world);
}
