//! What people set up and take away while everything else goes on: most of it decides about what comes next.

use std::collections::BTreeMap;

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use stella_domain::access::{AccountKind, Grant, Role};
use stella_domain::agent::FiguresAddress;
use stella_domain::artifact;
use stella_domain::authority::{AgentTrust, AuthorityRecord, RotationPhase};
use stella_domain::channel::{ChannelRule, PreReleases};
use stella_domain::command::{
    Command, Idempotency, NewEnrolmentToken, NewHook, NewTarget, Request, SystemCommand, TargetChange,
    TenantCommand,
};
use stella_domain::hook::HookAction;
use stella_domain::strategy::{self as rollout, Rolling};
use stella_protocol::digest::Digest;
use stella_protocol::id::{EnrolmentTokenId, HookId};
use stella_protocol::message::Profile;
use uuid::Uuid;

use super::{AGENTS, BEFORE, TARGETS, Walk, workflows};
use crate::common::{self, STAGING, TENANT, World, account, agent, api_token, digest, name, target};

/// The service account of hooks.
pub(crate) const SERVICE: u128 = 50;
/// How many targets staging may have.
const STAGING_MAX: usize = 6;

#[derive(Clone, Debug)]
pub(crate) enum Setting {
    /// Staging is called so, or otherwise.
    Rename(bool),
    /// One of the environments before it is removed, if nothing uses it.
    RemoveEnvironment(usize),
    /// One more target, on a slot of an agent.
    NewTarget(u128),
    /// A variable of a target becomes this.
    Variable(u128, u128),
    /// The releases from this version on are stable; or nothing is called so.
    Channel(Option<u128>),
    /// Only stable releases come to staging, or all.
    Channels(bool),
    /// Staging lets nothing come that could not go back, or does.
    WayBack(bool),
    /// A strategy for those who do not say, or none.
    Strategy(bool),
    /// A workflow is applied anew, or removed.
    Workflow(usize, bool),
    /// A hook is made, gets another secret, or is removed.
    Hook(u8),
    /// An enrolment token is made, used or revoked.
    Enrolment(u8),
    /// The archive of a release is stored, or may go.
    Artifact(u8, bool),
    /// A key that signs releases is registered once more.
    Key(usize),
    /// Somebody is gone, or comes back with a token.
    Account(u128, bool),
    /// Somebody's token is revoked.
    Token(u128),
    /// How far a rotation of the authority is.
    Authority(u8),
    /// What an agent trusts, and where its figures are.
    Told(u128, bool),
    /// More is logged.
    Log,
    /// A request comes again, or another one with its key.
    Once(u8),
}

pub(crate) fn setting() -> impl Strategy<Value = Setting> {
    prop_oneof![
        1 => proptest::bool::weighted(0.8).prop_map(Setting::Rename),
        1 => (0..BEFORE.len()).prop_map(Setting::RemoveEnvironment),
        2 => (1..=AGENTS).prop_map(Setting::NewTarget),
        8 => (1..=TARGETS, 1..4_u128).prop_map(|(target, port)| Setting::Variable(target, port)),
        3 => proptest::option::of(1..4_u128).prop_map(Setting::Channel),
        2 => proptest::bool::weighted(0.3).prop_map(Setting::Channels),
        2 => proptest::bool::weighted(0.3).prop_map(Setting::WayBack),
        2 => any::<bool>().prop_map(Setting::Strategy),
        2 => (0..workflows().len(), proptest::bool::weighted(0.7)).prop_map(|(which, on)| Setting::Workflow(which, on)),
        3 => (0..3_u8).prop_map(Setting::Hook),
        4 => (0..3_u8).prop_map(Setting::Enrolment),
        3 => (1..=5_u8, proptest::bool::weighted(0.7)).prop_map(|(n, on)| Setting::Artifact(n, on)),
        1 => (1..=3_usize).prop_map(Setting::Key),
        3 => (2..=3_u128, proptest::bool::weighted(0.7)).prop_map(|(who, on)| Setting::Account(who, on)),
        1 => (2..=3_u128).prop_map(Setting::Token),
        3 => (0..4_u8).prop_map(Setting::Authority),
        3 => (1..=AGENTS, any::<bool>()).prop_map(|(who, figures)| Setting::Told(who, figures)),
        1 => Just(Setting::Log),
        3 => (0..3_u8).prop_map(Setting::Once),
    ]
}

impl Walk {
    pub(crate) fn set(&mut self, setting: Setting) {
        let environment = STAGING;
        let command = match setting {
            Setting::Rename(usual) => {
                let name = name(if usual { "staging" } else { "stage" });
                TenantCommand::UpdateEnvironment { id: environment, name: Some(name), order: None }
            }
            Setting::RemoveEnvironment(which) => TenantCommand::RemoveEnvironment { id: BEFORE[which] },
            Setting::NewTarget(of) => return self.new_target(of),
            Setting::Variable(n, port) => {
                let variables = BTreeMap::from([("port".to_owned(), Some(format!("8{port}{n}")))]);
                let change = TargetChange { id: target(n), labels: BTreeMap::new(), variables, agent: None };
                TenantCommand::UpdateTarget(Box::new(change))
            }
            Setting::Channel(from) => {
                let (application, name) = (name("shop"), name("stable"));
                match from {
                    Some(from) => {
                        let versions = Some(format!(">={from}"));
                        let rule = ChannelRule {
                            versions,
                            pre_releases: PreReleases::Any,
                            ..ChannelRule::default()
                        };
                        TenantCommand::SetChannel { application, name, rule }
                    }
                    None => TenantCommand::RemoveChannel { application, name },
                }
            }
            Setting::Channels(on) => {
                let channels = if on { vec![name("stable")] } else { Vec::new() };
                TenantCommand::SetEnvironmentChannels { environment, channels }
            }
            Setting::WayBack(required) => TenantCommand::SetEnvironmentWayBack { environment, required },
            Setting::Strategy(on) => {
                let strategy = on.then(|| rollout::Strategy::Rolling(Rolling::of(2)));
                TenantCommand::SetEnvironmentStrategy { environment, strategy }
            }
            Setting::Workflow(which, on) => workflow(which, on),
            Setting::Hook(how) => hook(how),
            Setting::Enrolment(how) => return self.enrolment(how),
            Setting::Artifact(n, true) => {
                TenantCommand::StoreArtifact { digest: digest(n), size_bytes: 10, tenant_bytes_max: None }
            }
            Setting::Artifact(n, false) => {
                let rule = artifact::Rule { after_ms: 0, newest_min: 2 };
                TenantCommand::RemoveArtifacts { digests: vec![digest(n)], rule }
            }
            Setting::Key(n) => common::add_key(n),
            Setting::Account(who, on) => return self.account(who, on),
            Setting::Token(who) => return self.system(SystemCommand::RevokeApiToken { id: api_token(who) }),
            Setting::Authority(how) => return self.system(SystemCommand::RecordAuthority(authority(how))),
            Setting::Told(n, figures) => self.told(n, figures),
            Setting::Log => return self.system(SystemCommand::SetLogLevel { level: "debug".to_owned() }),
            Setting::Once(which) => return self.once(which),
        };
        self.tenant(command);
    }

    fn system(&mut self, command: SystemCommand) {
        self.tell(Command::System(command));
    }

    fn new_target(&mut self, of: u128) {
        let targets = self.world.tenant().targets.values();
        if targets.filter(|it| it.environment == STAGING).count() >= STAGING_MAX {
            return;
        }
        self.ids += 1;
        let n = 100 + self.ids;
        let labels = [("rack", (n % 2).to_string()), ("colour", "blue".to_owned())];
        let labels = labels.into_iter().map(|(label, value)| (label.to_owned(), value)).collect();
        let slot = Some(name(&format!("s{n}")));
        let new = NewTarget { agent: agent(of), slot, labels, ..common::new_target(n) };
        self.tenant(TenantCommand::CreateTarget(Box::new(new)));
    }

    fn enrolment(&mut self, how: u8) {
        let id = EnrolmentTokenId(Uuid::from_u128(0x7100));
        self.ids += u128::from(how == 1);
        let n = 100 + self.ids;
        self.tenant(match how {
            0 => TenantCommand::CreateEnrolmentToken(Box::new(NewEnrolmentToken {
                id,
                secret_hash: digest(98),
                agent_name: None,
                labels: BTreeMap::new(),
                profile: Profile::Confined,
                uses_max: 2,
                expires_at: self.world.now.plus_ms(3_600_000),
            })),
            1 => {
                let mut key = [1; 32];
                key[..16].copy_from_slice(&n.to_be_bytes());
                TenantCommand::Enrol {
                    token: id,
                    key_fingerprint: Digest(key),
                    agent: agent(n),
                    hostname: format!("Host {n}"),
                    takes_profile: true,
                    wanted: None,
                }
            }
            _ => TenantCommand::RevokeEnrolmentToken { id, reason: "walk".to_owned() },
        });
    }

    fn account(&mut self, who: u128, on: bool) {
        let id = account(who);
        if !on {
            return self.system(SystemCommand::RemoveAccount { account: id });
        }
        let roles = vec![Grant { role: Role::Admin, tenant: None, environment: None }];
        let (kind, named) = (AccountKind::User, name(&format!("person-{who}")));
        self.system(SystemCommand::CreateAccount { id, name: named, kind, roles });
        let (id, name, hash) = (api_token(who), "laptop".to_owned(), digest(1));
        let account = Some(account(who));
        self.system(SystemCommand::CreateApiToken { id, name, hash, account, expires_at: None });
    }

    fn told(&self, n: u128, figures: bool) -> TenantCommand {
        let (agent, session) = (agent(n), self.world.session(n));
        if figures {
            let at = FiguresAddress { host: format!("host-{n}"), port: 9464 };
            TenantCommand::RecordAgentFigures { agent, session, at }
        } else {
            let trust = AgentTrust { roots: vec![digest(1), digest(2)], root: digest(1) };
            TenantCommand::RecordAgentTrust { agent, session, trust }
        }
    }

    fn once(&mut self, which: u8) {
        let digest = digest(which);
        let idempotency = Some(Idempotency { key: format!("walk-{}", which % 2), digest });
        let command = if which == 0 {
            TenantCommand::LockEnvironment { environment: STAGING, reason: "walk".to_owned() }
        } else {
            TenantCommand::UnlockEnvironment { environment: STAGING }
        };
        self.send(&Request { idempotency, ..World::request(Command::Tenant(TENANT, command)) });
    }
}

fn workflow(which: usize, on: bool) -> TenantCommand {
    let template = workflows()[which].clone();
    if on {
        TenantCommand::ApplyWorkflow(Box::new(serde_json::from_value(template).unwrap()))
    } else {
        let name = name(template["name"].as_str().unwrap());
        TenantCommand::RemoveWorkflow { name, reason: "walk".to_owned() }
    }
}

fn hook(how: u8) -> TenantCommand {
    let id = HookId(Uuid::from_u128(0x7200));
    match how {
        0 => {
            let action = HookAction::Workflow { workflow: name("walk-1"), inputs: BTreeMap::new() };
            let (account, salt) = (account(SERVICE), digest(7));
            TenantCommand::CreateHook(Box::new(NewHook {
                id,
                name: name("walk"),
                account,
                action,
                when: None,
                salt,
            }))
        }
        1 => TenantCommand::RotateHook { hook: id, salt: digest(8), overlap_ms: 60_000 },
        _ => TenantCommand::RemoveHook { hook: id },
    }
}

fn authority(how: u8) -> AuthorityRecord {
    let (root, issuing, trusted, phase) = match how {
        0 => (1, 11, &[1][..], None),
        1 => (1, 11, &[1, 2][..], Some(RotationPhase::Distributing)),
        2 => (2, 12, &[1, 2][..], Some(RotationPhase::Switched)),
        _ => (2, 12, &[2][..], None),
    };
    let trusted = trusted.iter().map(|n| digest(*n)).collect();
    AuthorityRecord { root: digest(root), issuing: digest(issuing), trusted, phase }
}
