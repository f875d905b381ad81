//! Who may do what: accounts, their roles, and the one place where a command is let through or refused.
//!
//! Nothing is allowed that no role allows. The bearer of a token without an account may do everything: that is the first
//! token, and those that were made with it for the same purpose.

use serde::{Deserialize, Serialize};
use stella_protocol::id::{
    AccountId, AgentId, ApiTokenId, DeploymentId, EnvironmentId, HookId, PromotionId, TaskId, TenantId,
};
use stella_protocol::time::Timestamp;

use crate::command::{ActingAccount, Actor, Command, Request, SystemCommand, TenantCommand};
use crate::name::Name;
use crate::rejection::Rejection;
use crate::state::State;

/// How many roles one account may have: each command looks through them.
pub const GRANTS_MAX: usize = 256;

/// A person or a program that uses the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name, unique in the installation and never changed.
    pub name: Name,
    /// What it is.
    pub kind: AccountKind,
    /// What it may do, and where. Sorted, none twice.
    pub roles: Vec<Grant>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Account {
    /// Whether a role, or one that includes it, holds there.
    #[must_use]
    pub fn has(&self, role: Role, scope: Scope) -> bool {
        self.roles.iter().any(|it| it.role.includes(role) && it.covers(scope))
    }
}

/// What uses the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountKind {
    /// A person.
    #[default]
    User,
    /// A program.
    Service,
}

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// See everything of a tenant.
    Viewer,
    /// Upload, create releases, and start, hold and end deployments.
    Deployer,
    /// Look after targets, agents and locks, say what to think of releases, and settle tasks.
    Operator,
    /// Everything, also what the rules are.
    Admin,
    /// Decide on promotions. Beside the others: who approves need not be able to deploy, nor who deploys to approve.
    Approver,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Deployer, Self::Operator, Self::Admin, Self::Approver];

    /// Whether who has this role may do what the other one may.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        match other {
            Self::Viewer => true,
            Self::Approver => matches!(self, Self::Approver | Self::Admin),
            Self::Deployer | Self::Operator | Self::Admin => self != Self::Approver && self >= other,
        }
    }

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Deployer => "deployer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Approver => "approver",
        }
    }
}

/// A role, and where it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// What.
    pub role: Role,
    /// In this tenant; `None` is in all, and outside of them.
    pub tenant: Option<TenantId>,
    /// In this environment of the tenant; `None` is in all, and in what belongs to none.
    pub environment: Option<EnvironmentId>,
}

impl Grant {
    fn covers(&self, scope: Scope) -> bool {
        let Some(tenant) = self.tenant else { return true };
        match scope {
            Scope::Installation => false,
            Scope::Tenant(wanted) => tenant == wanted && self.environment.is_none(),
            Scope::Environment(wanted, environment) => {
                tenant == wanted && self.environment.is_none_or(|it| it == environment)
            }
            Scope::Somewhere(wanted) => tenant == wanted,
        }
    }
}

/// Where a role must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Outside of all tenants.
    Installation,
    /// In the whole of a tenant.
    Tenant(TenantId),
    /// In one of its environments.
    Environment(TenantId, EnvironmentId),
    /// In the tenant or in any of its environments.
    Somewhere(TenantId),
}

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'s> {
    state: &'s State,
    /// `None` may do everything.
    account: Option<&'s Account>,
}

impl<'s> Rights<'s> {
    /// Those of a token; `None` if it lets nobody in at `now`.
    #[must_use]
    pub fn of(state: &'s State, token: ApiTokenId, now: Timestamp) -> Option<Self> {
        let token = state.system.api_tokens.get(&token)?;
        if token.expires_at.is_some_and(|end| end <= now) {
            return None;
        }
        let account = match token.account {
            None => None,
            Some(id) => Some(&**state.system.accounts.get(&id)?),
        };
        Some(Self { state, account })
    }

    /// Whose they are; `None` if the token has no account and may do everything.
    #[must_use]
    pub const fn account(&self) -> Option<&'s Account> {
        self.account
    }

    /// Whether a role, or one that includes it, holds there.
    #[must_use]
    pub fn has(&self, role: Role, scope: Scope) -> bool {
        self.account.is_none_or(|account| account.has(role, scope))
    }

    /// Whether anything of a tenant may be known.
    #[must_use]
    pub fn sees(&self, tenant: TenantId) -> bool {
        self.has(Role::Viewer, Scope::Somewhere(tenant))
    }

    /// Whether the installation may be administered.
    #[must_use]
    pub fn administers(&self) -> bool {
        self.has(Role::Admin, Scope::Installation)
    }

    /// That a role holds there.
    ///
    /// # Errors
    /// If it does not, with what is missing and where.
    pub fn require(&self, role: Role, scope: Scope) -> Result<(), Rejection> {
        self.require_for(role, scope, String::new)
    }

    /// As [`Self::require`], with what makes it needed there behind the place.
    fn require_for(
        &self,
        role: Role,
        scope: Scope,
        because: impl FnOnce() -> String,
    ) -> Result<(), Rejection> {
        if self.has(role, scope) {
            return Ok(());
        }
        let who = self.account.map_or_else(String::new, |account| format!("account {} ", account.name));
        let (what, place) = (role.name(), self.place(scope));
        let why = because();
        let problem = format!(
            "{who}needs the role {what} {place}{why}; whoever administers the installation can give it"
        );
        Err(Rejection::Forbidden { problem })
    }

    /// Only of tenants that are seen: the names of others are nobody's business.
    fn place(&self, scope: Scope) -> String {
        let tenant_name = |id: TenantId| {
            self.state.tenants.get(&id).map_or_else(|| id.to_string(), |tenant| tenant.name.to_string())
        };
        match scope {
            Scope::Installation => "in the whole installation".to_owned(),
            Scope::Tenant(tenant) => format!("in the whole of tenant {}", tenant_name(tenant)),
            Scope::Somewhere(tenant) => format!("in tenant {}", tenant_name(tenant)),
            Scope::Environment(tenant, id) => {
                let environment = self.state.tenants.get(&tenant).and_then(|it| it.environments.get(&id));
                let name = environment.map_or_else(|| id.to_string(), |it| it.name.to_string());
                format!("in environment {name} of tenant {}", tenant_name(tenant))
            }
        }
    }
}

/// Lets a command through, or does not.
pub(crate) fn check(state: &State, request: &Request, now: Timestamp) -> Result<(), Rejection> {
    match &request.actor {
        Actor::System => Ok(()),
        Actor::Agent { id } => by_agent(*id, &request.command),
        Actor::Hook { id, account, .. } => by_hook(state, (*id, account), &request.command),
        Actor::ApiToken { id, .. } => {
            let rights = Rights::of(state, *id, now).ok_or_else(|| {
                let problem = "the token has expired or was revoked";
                Rejection::Forbidden { problem: problem.to_owned() }
            })?;
            if let Command::Tenant(tenant, _) = &request.command
                && !rights.sees(*tenant)
            {
                return Err(Rejection::not_found(TenantId::KIND, tenant));
            }
            if is_about_oneself(state, rights, &request.command) || leads_own_run(state, request) {
                return Ok(());
            }
            let (role, scope) = needed(state, &request.command)
                .ok_or_else(|| Rejection::Forbidden { problem: "only agents do that".to_owned() })?;
            rights.require(role, scope)?;
            if let Command::Tenant(tenant, command) = &request.command {
                needed_elsewhere(state, rights, *tenant, command)?;
            }
            Ok(())
        }
    }
}

/// What a host may be used for beside what it is used for already. Commands run there as the agent's user, whatever environment
/// they came through: who gives a host another target has power over all that the host is for.
///
/// # Errors
/// If the role is missing in an environment that the host serves, or, of a host that serves none yet, in the tenant.
fn needed_elsewhere(
    state: &State,
    rights: Rights<'_>,
    tenant: TenantId,
    command: &TenantCommand,
) -> Result<(), Rejection> {
    let host = if let TenantCommand::CreateTarget(new) = command {
        Some(new.agent)
    } else if let TenantCommand::UpdateTarget(change) = command {
        change.agent
    } else {
        None
    };
    let Some(found) = state.tenants.get(&tenant) else { return Ok(()) };
    let Some(agent) = host.and_then(|host| found.agents.get(&host)) else { return Ok(()) };
    let Some(slots) = found.index.slots.get(&agent.id) else {
        let scope = Scope::Tenant(tenant);
        return rights.require_for(Role::Operator, scope, || {
            format!(": host {} serves no environment yet, and its first target decides which", agent.name)
        });
    };
    for target in slots.values().filter_map(|target| found.targets.get(target)) {
        let scope = Scope::Environment(tenant, target.environment);
        rights.require_for(Role::Operator, scope, || {
            format!(" too: host {} has target {} of it", agent.name, target.name)
        })?;
    }
    Ok(())
}

/// Whether somebody who has asked for something earlier may still have it done: an account by the roles that it has now, whatever
/// became of the token that it asked with.
pub(crate) fn check_authority(
    state: &State,
    actor: &Actor,
    tenant: TenantId,
    command: &TenantCommand,
    now: Timestamp,
) -> Result<(), Rejection> {
    let gone = |problem: String| Rejection::Forbidden { problem };
    let rights = match actor {
        Actor::System => return Ok(()),
        Actor::Agent { id } => return Err(gone(format!("agent {id} may only speak for itself"))),
        Actor::ApiToken { account: Some(by), .. } | Actor::Hook { account: by, .. } => {
            let account = state.system.accounts.get(&by.id);
            let account = account.ok_or_else(|| gone(format!("account {} was removed", by.name)))?;
            Rights { state, account: Some(account) }
        }
        Actor::ApiToken { id, account: None } => Rights::of(state, *id, now)
            .ok_or_else(|| gone("the token that asked for it has expired or was revoked".to_owned()))?,
    };
    let (role, scope) =
        needed_in(state, tenant, command).ok_or_else(|| gone("only agents do that".to_owned()))?;
    rights.require(role, scope)?;
    needed_elsewhere(state, rights, tenant, command)
}

/// The account of that name, if it has a role in the tenant: of others, nobody there knows.
pub(crate) fn account_of(state: &State, tenant: TenantId, name: &Name) -> Option<AccountId> {
    let id = state.system.account_names.get(name)?;
    let account = state.system.accounts.get(id)?;
    account.has(Role::Viewer, Scope::Somewhere(tenant)).then_some(*id)
}

/// Why what somebody has approved there counts no more; `None` if it does.
pub(crate) fn no_approver(state: &State, by: &ActingAccount, place: Scope) -> Option<String> {
    match state.system.accounts.get(&by.id) {
        None => Some(format!("account {} was removed", by.name)),
        Some(account) if !account.has(Role::Approver, place) => {
            Some(format!("account {} has not the role approver there any more", by.name))
        }
        Some(_) => None,
    }
}

/// An agent speaks for itself and for nobody else.
fn by_agent(id: AgentId, command: &Command) -> Result<(), Rejection> {
    let speaker = match command {
        Command::Tenant(
            _,
            TenantCommand::ConnectAgent { agent, .. }
            | TenantCommand::DisconnectAgent { agent, .. }
            | TenantCommand::Report { agent, .. }
            | TenantCommand::AnswerInspection { agent, .. }
            | TenantCommand::AnswerProbe { agent, .. }
            | TenantCommand::RecordAgentTrust { agent, .. }
            | TenantCommand::RecordAgentFigures { agent, .. },
        ) => Some(*agent),
        Command::Tenant(..) | Command::System(_) | Command::Tick(_) => None,
    };
    if speaker == Some(id) {
        return Ok(());
    }
    Err(Rejection::Forbidden { problem: format!("agent {id} may only speak for itself") })
}

/// A hook asks for what it was made for, with the roles that its account has now, and for nothing else.
fn by_hook(state: &State, (id, by): (HookId, &ActingAccount), command: &Command) -> Result<(), Rejection> {
    let forbidden = |problem: String| Rejection::Forbidden { problem };
    let Command::Tenant(tenant, command) = command else {
        return Err(forbidden("a hook acts in its tenant only".to_owned()));
    };
    let hook = state.tenants.get(tenant).and_then(|tenant| tenant.hooks.get(&id));
    let hook = hook.ok_or_else(|| forbidden("the hook was removed".to_owned()))?;
    let account = state.system.accounts.get(&hook.account).filter(|account| account.id == by.id);
    let account = account.ok_or_else(|| forbidden(format!("account {} was removed", by.name)))?;
    if !hook.may(command) {
        return Err(forbidden(format!("hook {} may only start what it was made for", hook.name)));
    }
    let rights = Rights { state, account: Some(account) };
    let (role, scope) =
        needed_in(state, *tenant, command).ok_or_else(|| forbidden("only agents do that".to_owned()))?;
    rights.require(role, scope)
}

/// Everybody may renew their own tokens.
fn is_about_oneself(state: &State, rights: Rights<'_>, command: &Command) -> bool {
    let Some(own) = rights.account().map(|account| account.id) else { return false };
    let owner = match command {
        Command::System(SystemCommand::CreateApiToken { account, .. }) => *account,
        Command::System(SystemCommand::RevokeApiToken { id }) => {
            state.system.api_tokens.get(id).and_then(|token| token.account)
        }
        Command::System(_) | Command::Tenant(..) | Command::Tick(_) => None,
    };
    owner == Some(own)
}

/// Who has started a run may lead it: what it does is checked anyway, each time that it does something.
fn leads_own_run(state: &State, request: &Request) -> bool {
    let Command::Tenant(tenant, command) = &request.command else { return false };
    let (TenantCommand::CancelRun { run, .. }
    | TenantCommand::RetryStep { run, .. }
    | TenantCommand::AnswerStep { run, .. }) = command
    else {
        return false;
    };
    let run = state.tenants.get(tenant).and_then(|tenant| tenant.runs.get(run));
    run.is_some_and(|run| run.is_started_by(&request.actor))
}

/// The role that a command needs, and where; `None` if no role is enough. What is about a thing that is not there needs the
/// role anywhere in the tenant: then it is told that the thing is not there.
fn needed(state: &State, command: &Command) -> Option<(Role, Scope)> {
    match command {
        Command::Tick(_) | Command::System(_) => Some((Role::Admin, Scope::Installation)),
        Command::Tenant(tenant, command) => needed_in(state, *tenant, command),
    }
}

#[expect(clippy::too_many_lines, reason = "a table: each command has its role")]
fn needed_in(state: &State, tenant: TenantId, command: &TenantCommand) -> Option<(Role, Scope)> {
    let found = state.tenants.get(&tenant);
    let environment =
        |id: Option<EnvironmentId>| id.map_or(Scope::Somewhere(tenant), |id| Scope::Environment(tenant, id));
    let deployment = |id: &DeploymentId| {
        environment(found.and_then(|it| it.deployments.get(id)).map(|deployment| deployment.environment))
    };
    let promotion = |id: &PromotionId| {
        environment(found.and_then(|it| it.promotions.get(id)).map(|promotion| promotion.wanted.environment))
    };
    let task = |id: &TaskId| {
        let task = found.and_then(|it| it.tasks.get(id));
        task.map_or(Scope::Somewhere(tenant), |task| deployment(&task.deployment))
    };
    Some(match command {
        TenantCommand::ApplyWorkflow(_)
        | TenantCommand::RemoveWorkflow { .. }
        | TenantCommand::StartRun(_)
        | TenantCommand::CancelRun { .. }
        | TenantCommand::RetryStep { .. }
        | TenantCommand::AnswerStep { .. }
        | TenantCommand::DecideStep { .. }
        | TenantCommand::AnswerCall { .. }
        | TenantCommand::AnswerStepGate { .. } => return needed_for_workflow(state, tenant, command),
        TenantCommand::StoreArtifact { .. }
        | TenantCommand::CreateRelease(_)
        | TenantCommand::SignRelease { .. }
        | TenantCommand::RecordFindings(_) => (Role::Deployer, Scope::Somewhere(tenant)),
        TenantCommand::Deploy(new) if new.overrides_something() => {
            (Role::Operator, environment(Some(new.environment)))
        }
        TenantCommand::Deploy(new) => (Role::Deployer, environment(Some(new.environment))),
        TenantCommand::Rollback { of, .. }
        | TenantCommand::RetryDeployment { of, .. }
        | TenantCommand::RetireColours { of, .. } => (Role::Deployer, deployment(of)),
        TenantCommand::CancelDeployment { deployment: id, .. }
        | TenantCommand::FailDeployment { deployment: id, .. }
        | TenantCommand::RetryTarget { deployment: id, .. }
        | TenantCommand::SkipTarget { deployment: id, .. }
        | TenantCommand::PauseDeployment { deployment: id, .. }
        | TenantCommand::ProveWayBack { deployment: id }
        | TenantCommand::ResumeDeployment { deployment: id } => (Role::Deployer, deployment(id)),
        TenantCommand::WaiveWayBack { deployment: id, .. } => (Role::Operator, deployment(id)),
        TenantCommand::WithdrawPromotion { promotion: id, .. } => (Role::Deployer, promotion(id)),
        TenantCommand::ApprovePromotion { promotion: id, .. }
        | TenantCommand::RejectPromotion { promotion: id, .. }
        | TenantCommand::DecideGate { promotion: id, .. } => (Role::Approver, promotion(id)),
        TenantCommand::OverrideGate { promotion: id, .. } => (Role::Admin, promotion(id)),
        TenantCommand::CreateTarget(new) => (Role::Operator, environment(Some(new.environment))),
        TenantCommand::UpdateTarget(change) => {
            let target = found.and_then(|it| it.targets.get(&change.id));
            (Role::Operator, environment(target.map(|target| target.environment)))
        }
        TenantCommand::RemoveTarget { id } => {
            let target = found.and_then(|it| it.targets.get(id));
            (Role::Operator, environment(target.map(|target| target.environment)))
        }
        TenantCommand::LockEnvironment { environment: id, .. }
        | TenantCommand::UnlockEnvironment { environment: id } => (Role::Operator, environment(Some(*id))),
        TenantCommand::SettleTask { task: id, .. } => (Role::Operator, task(id)),
        TenantCommand::CreateEnrolmentToken(_)
        | TenantCommand::RevokeEnrolmentToken { .. }
        | TenantCommand::RevokeAgent { .. }
        | TenantCommand::DrainAgent { .. }
        | TenantCommand::UndrainAgent { .. }
        | TenantCommand::JudgeRelease { .. } => (Role::Operator, Scope::Tenant(tenant)),
        TenantCommand::CreateEnvironment { .. }
        | TenantCommand::UpdateEnvironment { .. }
        | TenantCommand::RemoveEnvironment { .. }
        | TenantCommand::AddReleaseKey { .. }
        | TenantCommand::RevokeReleaseKey { .. }
        | TenantCommand::SetChannel { .. }
        | TenantCommand::RemoveChannel { .. }
        | TenantCommand::SetReleaseSigning { .. }
        | TenantCommand::CreateHook(_)
        | TenantCommand::RotateHook { .. }
        | TenantCommand::RemoveHook { .. } => (Role::Admin, Scope::Tenant(tenant)),
        TenantCommand::SetEnvironmentPath { environment: id, .. }
        | TenantCommand::SetEnvironmentBudget { environment: id, .. }
        | TenantCommand::SetEnvironmentWayBack { environment: id, .. }
        | TenantCommand::SetEnvironmentStrategy { environment: id, .. }
        | TenantCommand::SetEnvironmentWayBackProof { environment: id, .. }
        | TenantCommand::SetEnvironmentVerification { environment: id, .. }
        | TenantCommand::SetEnvironmentSilence { environment: id, .. }
        | TenantCommand::SetEnvironmentChannels { environment: id, .. }
        | TenantCommand::SetEnvironmentApprovals { environment: id, .. }
        | TenantCommand::FreezeEnvironment { environment: id, .. }
        | TenantCommand::UnfreezeEnvironment { environment: id, .. }
        | TenantCommand::SetGate { environment: id, .. }
        | TenantCommand::RemoveGate { environment: id, .. } => (Role::Admin, environment(Some(*id))),
        // The control plane itself asks and answers, and agents speak.
        TenantCommand::AnswerGate(_)
        | TenantCommand::Archive(_)
        | TenantCommand::RemoveArtifacts { .. }
        | TenantCommand::Enrol { .. }
        | TenantCommand::ConnectAgent { .. }
        | TenantCommand::DisconnectAgent { .. }
        | TenantCommand::Report { .. }
        | TenantCommand::AnswerInspection { .. }
        | TenantCommand::AnswerProbe { .. }
        | TenantCommand::RecordAgentTrust { .. }
        | TenantCommand::RecordAgentFigures { .. } => return None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the caller sorts them")]
fn needed_for_workflow(state: &State, tenant: TenantId, command: &TenantCommand) -> Option<(Role, Scope)> {
    Some(match command {
        TenantCommand::ApplyWorkflow(_) | TenantCommand::RemoveWorkflow { .. } => {
            (Role::Operator, Scope::Tenant(tenant))
        }
        TenantCommand::StartRun(_) => (Role::Deployer, Scope::Somewhere(tenant)),
        // Those that somebody has started, they may lead themselves: see `leads_own_run`.
        TenantCommand::CancelRun { .. }
        | TenantCommand::RetryStep { .. }
        | TenantCommand::AnswerStep { .. } => (Role::Deployer, Scope::Tenant(tenant)),
        TenantCommand::DecideStep { run, step, .. } => {
            let run = state.tenants.get(&tenant).and_then(|it| it.runs.get(run));
            let place = run.and_then(|run| run.steps.get(step)).and_then(|step| step.state.approved_in());
            (Role::Approver, place.map_or(Scope::Tenant(tenant), |id| Scope::Environment(tenant, id)))
        }
        // Whoever makes calls and asks gates is the control plane itself.
        _ => return None,
    })
}
