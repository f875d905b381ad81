//! People with accounts, and what they decide on.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use stella_api_types::account::{Account, CreateAccount, GiveRole};
use stella_api_types::deployment::CreateDeployment;
use stella_api_types::environment::{Environment, OnExpiry, SetApprovals};
use stella_api_types::paths;
use stella_api_types::promotion::{ApprovePromotion, Objection, Promotion, RejectPromotion};
use stella_api_types::token::{ApiTokenCreated, CreateApiToken};

use crate::api::Api;
use crate::cluster::{Cluster, ENVIRONMENT, TENANT};
use crate::{binaries, wait};

/// A new account with a role in the tenant of the stories, and a token of it.
///
/// # Errors
/// If it is refused.
pub async fn person(api: &Api, name: &str, role: &str) -> Result<String> {
    let role = GiveRole { role: role.to_owned(), tenant: Some(TENANT.to_owned()), environment: None };
    let body = CreateAccount { name: name.to_owned(), kind: "user".to_owned(), roles: vec![role] };
    api.post::<_, Account>(paths::ACCOUNTS, &body, None).await?;
    let body = CreateApiToken {
        name: "laptop".to_owned(),
        account: Some(name.to_owned()),
        expires_in_seconds: None,
    };
    let created: ApiTokenCreated = api.post(paths::API_TOKENS, &body, None).await?;
    created.token.context("the token is not in the answer")
}

/// The command line of one person, in the tenant of the stories.
#[derive(Debug)]
pub struct Shell<'c> {
    cluster: &'c Cluster,
    token: String,
}

impl<'c> Shell<'c> {
    /// That of a new account with a role.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn of(cluster: &'c Cluster, name: &str, role: &str) -> Result<Self> {
        Ok(Self { cluster, token: person(&cluster.api, name, role).await? })
    }

    /// The same person's in a cluster that was changed meanwhile.
    #[must_use]
    pub const fn again(cluster: &'c Cluster, token: String) -> Self {
        Self { cluster, token }
    }

    /// What the person comes in with.
    #[must_use]
    pub fn token(&self) -> String {
        self.token.clone()
    }

    /// A command that is not started.
    ///
    /// # Errors
    /// If there is no program.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut stella = Command::new(binaries::path("stella")?);
        stella.args(self.cluster.control_plane.stella_flags()).args(["-t", TENANT]).args(arguments);
        stella.env("STELLA_TOKEN", &self.token).stdin(Stdio::null());
        Ok(stella)
    }

    /// Runs a command; its exit code, and what it said on both of its outputs.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn run(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let ended = self.command(arguments)?.output()?;
        let said = [ended.stdout, ended.stderr].concat();
        Ok((ended.status.code(), String::from_utf8(said)?))
    }

    /// Runs a command that has to go well; what it said.
    ///
    /// # Errors
    /// If it does not.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let (code, said) = self.run(arguments)?;
        ensure!(code == Some(0), "{arguments:?} ended with {code:?}: {said}");
        Ok(said)
    }
}

/// So many have to approve promotions to the environment of the stories from now on.
///
/// # Errors
/// If it is refused.
pub async fn need_approvals(api: &Api, needed: u32) -> Result<Environment> {
    let path = paths::fill(paths::ENVIRONMENT_APPROVALS, &[TENANT, ENVIRONMENT]);
    let body = SetApprovals {
        needed,
        from: Vec::new(),
        expires_in_seconds: None,
        also: Vec::new(),
        on_expiry: OnExpiry::Expire,
        ask_again_max: None,
    };
    Ok(api.post(&path, &body, None).await?)
}

/// Asks for a deployment that waits for approvals.
///
/// # Errors
/// If it is refused or does not wait.
pub async fn ask(api: &Api, deployment: &CreateDeployment) -> Result<Promotion> {
    Ok(api.post(&paths::fill(paths::DEPLOYMENTS, &[TENANT]), deployment, None).await?)
}

/// A promotion as it is now.
///
/// # Errors
/// If it is refused.
pub async fn promotion(api: &Api, id: &str) -> Result<Promotion> {
    Ok(api.get(&paths::fill(paths::PROMOTION, &[TENANT, id])).await?)
}

/// Approves what a promotion is.
///
/// # Errors
/// If it is refused.
pub async fn approve(api: &Api, promotion: &Promotion) -> Result<Promotion> {
    let path = paths::fill(paths::PROMOTION_APPROVE, &[TENANT, &promotion.id]);
    let body =
        ApprovePromotion { plan: promotion.plan.root.clone(), reason: "tested".to_owned(), signature: None };
    Ok(api.post(&path, &body, None).await?)
}

/// Rejects a promotion.
///
/// # Errors
/// If it is refused.
pub async fn reject(api: &Api, promotion: &Promotion) -> Result<Promotion> {
    let path = paths::fill(paths::PROMOTION_REJECT, &[TENANT, &promotion.id]);
    let body = RejectPromotion { objection: Objection::BadTiming, reason: "friday".to_owned() };
    Ok(api.post(&path, &body, None).await?)
}

/// One promotion that is approved and deployed, and one that is rejected; after it nobody has to approve.
///
/// # Errors
/// If it does not go so.
pub async fn decide_twice(cluster: &Cluster, approver: &Api, deployment: &CreateDeployment) -> Result<()> {
    need_approvals(&cluster.api, 1).await?;
    let waits = ask(&cluster.api, deployment).await?;
    approve(approver, &waits).await?;
    // A rollback may still have its targets.
    wait::until("the promotion starts", async || {
        let found = promotion(approver, &waits.id).await?;
        ensure!(found.status == "started", "{found:?}");
        Ok(())
    })
    .await?;
    let ended = cluster.wait_final(&waits.id).await?;
    ensure!(ended.deployment.status == "succeeded", "{ended:?}");
    reject(approver, &ask(&cluster.api, deployment).await?).await?;
    need_approvals(&cluster.api, 0).await?;
    Ok(())
}
