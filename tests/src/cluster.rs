//! A control plane with agents, and what every story needs of it.
//!
//! Call [`Cluster::passed`] at the end of a test: a cluster that is dropped without it shows the logs of all its processes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use stella_api_types::agent::{CreateEnrolmentToken, EnrolmentTokenCreated, Profile};
use stella_api_types::deployment::{CreateDeployment, DeploymentDetail};
use stella_api_types::environment::{CreateEnvironment, Environment};
use stella_api_types::paths;
use stella_api_types::release::{CreateRelease, Release};
use stella_api_types::target::{CreateTarget, Target};
use stella_api_types::task::Task;
use stella_api_types::tenant::{CreateTenant, Tenant};
use stella_api_types::workflow::{Run, Step};
use tempfile::TempDir;

use crate::agent::Agent;
use crate::api::{Api, Failure};
use crate::control_plane::{ControlPlane, Settings};
use crate::{binaries, wait};

/// The tenant of the stories.
pub const TENANT: &str = "acme";

/// The environment of the stories.
pub const ENVIRONMENT: &str = "staging";

/// A control plane and its agents. Everything is killed and removed when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The agents, in the order of their names.
    pub agents: Vec<Agent>,
    /// A client of the API.
    pub api: Api,
    folder: TempDir,
    has_passed: bool,
}

impl Cluster {
    /// A control plane with this many agents, each with one target of its name in the environment `staging`.
    ///
    /// # Errors
    /// If not all of it comes up.
    pub async fn start(agents: usize) -> Result<Self> {
        Self::with_settings(agents, &Settings::default()).await
    }

    /// As [`Self::start`], with settings for the control plane.
    ///
    /// # Errors
    /// If not all of it comes up.
    pub async fn with_settings(agents: usize, settings: &Settings) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("stella-test-").tempdir()?;
        let control_plane = ControlPlane::start(&folder.path().join("control-plane"), settings).await?;
        let api = control_plane.api()?;
        let mut cluster = Self { control_plane, agents: Vec::new(), api, folder, has_passed: false };
        create_tenant(&cluster.api, TENANT).await?;
        create_environment(&cluster.api, TENANT, ENVIRONMENT).await?;
        for number in 1..=agents {
            let name = format!("web-{number}");
            let agent = cluster.enrolled(&name, &[]).await?;
            cluster.agents.push(agent);
            create_target(&cluster.api, TENANT, &target(ENVIRONMENT, &name, &name)).await?;
        }
        for agent in &mut cluster.agents {
            agent.start()?;
        }
        for agent in &cluster.agents {
            cluster.wait_online(agent.name()).await?;
        }
        Ok(cluster)
    }

    /// The folder of everything.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An agent that has an identity and does not run.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn enrolled(&self, name: &str, flags: &[&str]) -> Result<Agent> {
        let agent = Agent::with_flags(self.folder(), name, &self.control_plane.agents_address(), flags)?;
        let token = create_token(&self.api, TENANT, &token(Some(name), 1)).await?;
        agent.enrol(token.token.as_deref().context("the token is not in the answer")?)?;
        Ok(agent)
    }

    /// Waits until the control plane calls an agent online.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn wait_online(&self, agent: &str) -> Result<()> {
        self.wait_connectivity(agent, "online").await
    }

    /// Waits until the control plane says this of an agent's connectivity.
    ///
    /// # Errors
    /// If it does not in time.
    pub async fn wait_connectivity(&self, agent: &str, wanted: &str) -> Result<()> {
        wait::until(&format!("agent {agent} is {wanted}"), async || {
            let found = self.api.agent(TENANT, agent).await?.connectivity;
            ensure!(found == wanted, "it is {found}");
            Ok(())
        })
        .await
    }

    /// Creates a release.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn release(&self, release: &CreateRelease) -> Result<Release> {
        create_release(&self.api, TENANT, release).await
    }

    /// Starts a deployment and waits for its end.
    ///
    /// # Errors
    /// If it is refused or does not end in time.
    pub async fn deploy(&self, deployment: &CreateDeployment) -> Result<DeploymentDetail> {
        let started = self.api.deploy(TENANT, deployment, None).await?;
        self.wait_final(&started.deployment.id).await
    }

    /// Waits for the end of a deployment, however it ends; the control plane may be away in between.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn wait_final(&self, deployment: &str) -> Result<DeploymentDetail> {
        wait_final(&self.api, TENANT, deployment).await
    }

    /// Waits until the deployment has a task of this step, on this target, in this state.
    ///
    /// # Errors
    /// If it does not get there in time.
    pub async fn wait_task(&self, deployment: &str, target: &str, step: &str, state: &str) -> Result<Task> {
        wait::until(&format!("step {step} on {target} is {state}"), async || {
            let tasks = self.api.tasks(TENANT, deployment).await?;
            let task = tasks.into_iter().find(|task| task.target.name == target && task.step == step);
            let task = task.context("there is no such task")?;
            ensure!(task.state == state, "it is {} ({})", task.state, task.reason.unwrap_or_default());
            Ok(task)
        })
        .await
    }

    /// Waits until a step of a run is so; the control plane may be away in between.
    ///
    /// # Errors
    /// If it does not get there in time.
    pub async fn wait_step(&self, run: &str, step: &str, state: &str) -> Result<Step> {
        wait::until(&format!("step {step} is {state}"), async || {
            let run: Run = self.api.get(&paths::fill(paths::RUN, &[TENANT, run])).await?;
            let found = run.steps.iter().find(|it| it.id == step).context("there is no such step")?;
            ensure!(found.state == state, "it is {found:?}");
            Ok(found.clone())
        })
        .await
    }

    /// Runs the command line as the administrator; its exit code, and what it said on both of its outputs.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn stella(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let mut stella = Command::new(binaries::path("stella")?);
        stella.args(self.control_plane.stella_flags()).args(["-t", TENANT]).args(arguments);
        let ended = stella.stdin(Stdio::null()).output()?;
        Ok((ended.status.code(), String::from_utf8([ended.stdout, ended.stderr].concat())?))
    }

    /// Waits until a file on a host has this many lines.
    ///
    /// # Errors
    /// If it does not get there in time, or has more.
    pub async fn wait_lines(&self, agent: usize, file: &str, lines: usize) -> Result<()> {
        wait::until(&format!("{file} has {lines} lines"), async || {
            let found = self.agents[agent].read(file);
            ensure!(found.lines().count() == lines, "it has {found:?}");
            Ok(())
        })
        .await
    }

    /// Checks that the control plane and all agents still run, and ends the story.
    ///
    /// # Errors
    /// If a process has ended that nobody killed.
    pub fn passed(mut self) -> Result<()> {
        self.control_plane.daemon().check()?;
        for agent in &mut self.agents {
            agent.daemon().check()?;
        }
        self.has_passed = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.has_passed {
            self.control_plane.show_log();
            for agent in &self.agents {
                agent.show_log();
            }
        }
    }
}

// === the parts of a set-up, for those who need another one ===

/// Creates a tenant.
///
/// # Errors
/// If it is refused.
pub async fn create_tenant(api: &Api, name: &str) -> Result<Tenant> {
    post(api, paths::TENANTS, &CreateTenant { name: name.to_owned() }).await
}

/// Creates an environment.
///
/// # Errors
/// If it is refused.
pub async fn create_environment(api: &Api, tenant: &str, name: &str) -> Result<Environment> {
    let body = CreateEnvironment { name: name.to_owned(), order: None, way_back_proof: None };
    post(api, &paths::fill(paths::ENVIRONMENTS, &[tenant]), &body).await
}

/// Creates a target.
///
/// # Errors
/// If it is refused.
pub async fn create_target(api: &Api, tenant: &str, body: &CreateTarget) -> Result<Target> {
    post(api, &paths::fill(paths::TARGETS, &[tenant]), body).await
}

/// Creates a release.
///
/// # Errors
/// If it is refused.
pub async fn create_release(api: &Api, tenant: &str, body: &CreateRelease) -> Result<Release> {
    post(api, &paths::fill(paths::RELEASES, &[tenant]), body).await
}

/// Creates an enrolment token.
///
/// # Errors
/// If it is refused.
pub async fn create_token(
    api: &Api,
    tenant: &str,
    body: &CreateEnrolmentToken,
) -> Result<EnrolmentTokenCreated> {
    post(api, &paths::fill(paths::ENROLMENT_TOKENS, &[tenant]), body).await
}

/// A target without labels and variables.
#[must_use]
pub fn target(environment: &str, name: &str, agent: &str) -> CreateTarget {
    CreateTarget {
        name: name.to_owned(),
        environment: environment.to_owned(),
        agent: agent.to_owned(),
        kind: None,
        slot: None,
        labels: BTreeMap::new(),
        variables: BTreeMap::new(),
    }
}

/// A token that lasts. Its agents run as the tests do, which is as root and unconfined.
#[must_use]
pub fn token(name: Option<&str>, uses: u32) -> CreateEnrolmentToken {
    CreateEnrolmentToken {
        name: name.map(str::to_owned),
        labels: BTreeMap::new(),
        profile: Profile::Full,
        uses,
        expires_in_seconds: stella_api_types::agent::EXPIRES_IN_SECONDS_DEFAULT,
    }
}

/// Waits for the end of a deployment.
///
/// # Errors
/// If it does not end in time.
pub async fn wait_final(api: &Api, tenant: &str, deployment: &str) -> Result<DeploymentDetail> {
    wait::until("the deployment has ended", async || {
        let detail = api.deployment(tenant, deployment).await?;
        ensure!(detail.deployment.is_final, "{:?} {:?}", detail.deployment.status, detail.targets);
        Ok(detail)
    })
    .await
}

async fn post<B, T>(api: &Api, path: &str, body: &B) -> Result<T>
where
    B: serde::Serialize + Sync,
    T: serde::de::DeserializeOwned,
{
    let answer: Result<T, Failure> = api.post(path, body, None).await;
    answer.with_context(|| format!("POST {path}"))
}
