//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stella_api_types::deployment::CanaryStep;

use crate::observability::Observability;

/// Deploys releases to fleets of hosts.
///
/// The control plane's address, a token and its CA come from flags, from the environment, or from ~/.config/stella/config.toml
/// (keys: url, token_file, ca, tenant).
#[derive(Debug, Parser)]
#[command(name = "stella", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "Examples:
  stella tenant create acme
  stella account create ci --service --role deployer@acme/staging
  stella token create 'build server' --account ci --quiet > ci-token
  stella env create staging
  stella agent token --name web-1
  stella target create web-1 --env staging --agent web-1 --var port=8080
  stella release create web 1.4.0 --component web=./web.tar.gz --steps steps.json
  stella deploy web:1.4.0 staging --plan
  stella deploy web:1.4.0 staging --batch 1 --wait
  stella deploy web:1.4.0 production --canary 10:600 --canary 50
  stella deployment pause DEPLOYMENT --reason 'the latency rises'
  stella rollback DEPLOYMENT --wait
  stella env path production --after staging --soak 3600
  stella env approvals production --needed 2
  stella promotion list --status pending
  stella promotion approve PROMOTION --reason 'tested by QA'
  stella env freeze production weekend --from 2026-12-18T18:00 --to 2026-12-21T08:00 --repeat weekly --reason 'nobody is there'
  stella env lock production --reason 'inventory'
  stella release block web:1.4.0 --reason 'loses orders'
  stella task logs TASK --follow
  stella observability render ./stella --target stella.example.com:9090

Exit codes: 0 done; 1 the deployment failed; 2 wrong use; 3 refused by the control plane; 4 not reachable.";

/// Flags that every command has.
#[derive(Args, Debug)]
#[command(next_help_heading = "For every command")]
pub(crate) struct Global {
    /// The control plane's address.
    #[arg(long, env = "STELLA_URL", global = true)]
    pub(crate) url: Option<String>,
    /// A file that holds the API token.
    #[arg(long, env = "STELLA_TOKEN_FILE", global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The CA that signed the control plane's certificate (PEM); the system's if it is not given.
    #[arg(long, env = "STELLA_CA", global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The tenant to work in.
    #[arg(long, short = 't', env = "STELLA_TENANT", global = true)]
    pub(crate) tenant: Option<String>,
    /// How to print results.
    #[arg(long, short = 'o', global = true, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// How to print results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs: the API's JSON.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Accounts: who uses the API, and what they may do.
    #[command(subcommand)]
    Account(Account),
    /// Tokens of the API: what they come in with.
    #[command(subcommand)]
    Token(Token),
    /// Show whose token this is, and what it may do.
    Whoami,
    /// Tenants: the boundary of isolation.
    #[command(subcommand)]
    Tenant(Tenant),
    /// Environments: the stages that releases pass through.
    #[command(subcommand, visible_alias = "environment")]
    Env(Environment),
    /// Targets: hosts, or slots on them.
    #[command(subcommand)]
    Target(Target),
    /// Agents and their enrolment.
    #[command(subcommand)]
    Agent(Agent),
    /// Releases: immutable, versioned, pinned by digest.
    #[command(subcommand)]
    Release(Release),
    /// Bring a release to an environment.
    Deploy(Deploy),
    /// Look at deployments, follow or end them.
    #[command(subcommand)]
    Deployment(Deployment),
    /// Look at what waits for approvals, and decide on it.
    #[command(subcommand)]
    Promotion(Promotion),
    /// Take a deployment back: each target gets what it had before.
    Rollback(Rollback),
    /// Look at tasks.
    #[command(subcommand)]
    Task(Task),
    /// Show what happened, and with --follow what happens.
    Events(Events),
    /// Show the end of the tenant's journal: its position, and the hash over everything before it.
    Journal {
        /// That of what belongs to no tenant.
        #[arg(long)]
        system: bool,
    },
    /// How the control plane does.
    Status,
    /// Configuration for what watches Stella.
    #[command(subcommand)]
    Observability(Observability),
    /// Print a completion script for a shell.
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command into a folder.
    #[command(hide = true)]
    Man {
        /// The folder.
        folder: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// Create an account; if it exists already, say so and succeed.
    Create {
        /// Its name.
        name: String,
        /// It is a program, not a person.
        #[arg(long)]
        service: bool,
        #[command(flatten)]
        roles: RoleFlags,
    },
    /// List accounts.
    List,
    /// Show an account.
    Show {
        /// Its name or id.
        account: String,
    },
    /// Set what an account may do, instead of what it may do now.
    #[command(group = clap::ArgGroup::new("what").required(true).args(["roles", "nothing"]))]
    Roles {
        /// Its name or id.
        account: String,
        #[command(flatten)]
        roles: RoleFlags,
        /// Take all of its roles away.
        #[arg(long, conflicts_with = "roles")]
        nothing: bool,
    },
    /// Remove an account and revoke its tokens; what it did stays recorded.
    Remove {
        /// Its name or id.
        account: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct RoleFlags {
    /// What it may do (can be given more than once): viewer, deployer, operator, admin or approver, everywhere, in a TENANT,
    /// or in one of its ENVIRONMENTs.
    #[arg(long = "role", value_name = "ROLE[@TENANT[/ENVIRONMENT]]")]
    pub(crate) roles: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Create a token. It is shown once.
    Create {
        /// What it is for.
        name: String,
        /// Whose it is: an account's name or id; that of the token in use if not given.
        #[arg(long)]
        account: Option<String>,
        /// For how long it is good, in seconds; for ever if not given.
        #[arg(long, value_name = "SECONDS")]
        expires_in: Option<u64>,
        /// Print the token alone, for a file or a pipe.
        #[arg(long, short)]
        quiet: bool,
    },
    /// List tokens, without their secrets.
    List,
    /// Let nobody in with a token any more; its open feeds end. The last one stays.
    Revoke {
        /// Its id.
        token: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Create a tenant; if it exists already, say so and succeed.
    Create {
        /// Its name.
        name: String,
    },
    /// List tenants.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Environment {
    /// Create an environment; if it exists already, say so and succeed.
    Create {
        /// Its name.
        name: String,
        /// Its place among the others; the last if it is not given.
        #[arg(long)]
        order: Option<u32>,
    },
    /// List environments.
    List,
    /// Set what a release must have been through before it may come here.
    #[command(group = clap::ArgGroup::new("what").required(true).args(["after", "nothing"]))]
    Path {
        /// Its name or id.
        environment: String,
        /// The environment where the release must have succeeded on all targets.
        #[arg(long, value_name = "ENVIRONMENT")]
        after: Option<String>,
        /// For how long, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "after")]
        soak: u64,
        /// Let any release come.
        #[arg(long)]
        nothing: bool,
    },
    /// Set whose approval a promotion needs to come here; those that wait have to be asked for anew.
    #[command(group = clap::ArgGroup::new("whose").required(true).args(["needed", "nobody"]))]
    Approvals {
        /// Its name or id.
        environment: String,
        /// How many accounts must approve; never who asked for it.
        #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        needed: Option<u32>,
        /// Only this account may decide (can be given more than once); all with the role approver there if not given.
        #[arg(long, value_name = "ACCOUNT", requires = "needed")]
        from: Vec<String>,
        /// How long a promotion waits before it expires, in seconds; a week if not given.
        #[arg(long, value_name = "SECONDS", requires = "needed")]
        expires_in: Option<u64>,
        /// Let releases come without anybody's approval.
        #[arg(long)]
        nobody: bool,
    },
    /// Let no deployment come but rollbacks at certain times, once or again and again; a freeze of the same name is replaced.
    Freeze {
        /// Its name or id.
        environment: String,
        /// The freeze's name.
        name: String,
        /// When it begins, for the first time, as the clocks there show it: 2026-12-18T18:00.
        #[arg(long, value_name = "TIME")]
        from: String,
        /// When it ends, for the first time.
        #[arg(long, value_name = "TIME")]
        to: String,
        /// The time zone, such as Europe/Berlin.
        #[arg(long, default_value = "UTC")]
        zone: String,
        /// Whether it comes again.
        #[arg(long, value_enum, default_value_t = Repeat::Never)]
        repeat: Repeat,
        /// Why; it is recorded, and shown to whoever wants to deploy.
        #[arg(long)]
        reason: String,
    },
    /// Take a freeze back.
    Unfreeze {
        /// Its name or id.
        environment: String,
        /// The freeze's name.
        name: String,
    },
    /// Let no deployment come but rollbacks, until it is unlocked.
    Lock {
        /// Its name or id.
        environment: String,
        /// Why; it is recorded, and shown to whoever wants to deploy.
        #[arg(long)]
        reason: String,
    },
    /// Let deployments come again.
    Unlock {
        /// Its name or id.
        environment: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Repeat {
    Never,
    Daily,
    Weekly,
    Yearly,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Target {
    /// Create a target.
    Create(NewTarget),
    /// List targets.
    List {
        /// Only those of this environment.
        #[arg(long = "env")]
        environment: Option<String>,
    },
    /// Remove a target that no deployment works on.
    Remove {
        /// Its id, or its name if that is unique.
        target: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct NewTarget {
    /// Its name, unique in the environment.
    pub(crate) name: String,
    /// Its environment.
    #[arg(long = "env")]
    pub(crate) environment: String,
    /// The agent that serves it.
    #[arg(long)]
    pub(crate) agent: String,
    /// What it is, for metrics.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// The folder under the agent's host root that it owns; all of it if not given.
    #[arg(long)]
    pub(crate) slot: Option<String>,
    /// A label, as KEY=VALUE.
    #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
    /// A variable for ${NAME} in the steps of releases, as NAME=VALUE.
    #[arg(long = "var", value_parser = pair, value_name = "NAME=VALUE")]
    pub(crate) variables: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List agents.
    List,
    /// Create a token that lets a host enrol. It is shown once.
    Token {
        /// The name that the agent gets; its host's name if not given.
        #[arg(long)]
        name: Option<String>,
        /// How many hosts may use it.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// For how long it is good, in seconds.
        #[arg(long, default_value_t = stella_api_types::agent::EXPIRES_IN_SECONDS_DEFAULT, value_name = "SECONDS")]
        expires_in: u64,
        /// A label for the agents, as KEY=VALUE.
        #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
        /// Print the token alone.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Believe an agent's identity no more: its session is cut at once.
    Revoke {
        /// Its name or id.
        agent: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Release {
    /// Create a release; archives that the control plane does not have are uploaded.
    Create {
        /// What it is a release of.
        application: String,
        /// Its version.
        version: String,
        /// A component and its archive (.tar or .tar.gz), as NAME=FILE.
        #[arg(long = "component", value_parser = pair, value_name = "NAME=FILE")]
        components: Vec<(String, String)>,
        /// A JSON file with the steps to run on a target; without it, each component is brought there and switched to.
        #[arg(long, value_name = "FILE")]
        steps: Option<PathBuf>,
        /// A label, as KEY=VALUE.
        #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
    },
    /// List releases.
    List,
    /// Show a release.
    Show {
        /// Its id, or APPLICATION:VERSION.
        release: String,
    },
    /// Warn whoever deploys a release.
    Deprecate(Judged),
    /// Never deploy a release: it is stopped on its way, and nothing is rolled back to it.
    Block(Judged),
    /// Take a deprecation or a block back.
    Clear(Judged),
}

#[derive(Args, Debug)]
pub(crate) struct Judged {
    /// The release: its id, or APPLICATION:VERSION.
    pub(crate) release: String,
    /// Why; it is recorded.
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Args, Debug)]
pub(crate) struct Deploy {
    /// Which release: its id, or APPLICATION:VERSION.
    pub(crate) release: String,
    /// To which environment.
    pub(crate) environment: String,
    /// How many targets to work on at the same time; 1 if not given, or all of a canary step.
    #[arg(long, conflicts_with = "all_at_once")]
    pub(crate) batch: Option<u32>,
    /// Work on all targets at the same time.
    #[arg(long)]
    pub(crate) all_at_once: bool,
    /// So many percent of the targets first, then hold for so long, or without a time until somebody resumes it (can be given
    /// more than once).
    #[arg(long, value_name = "PERCENT[:SECONDS]", conflicts_with = "all_at_once", value_parser = canary_step)]
    pub(crate) canary: Vec<CanaryStep>,
    /// Only this target (can be given more than once).
    #[arg(long = "target")]
    pub(crate) targets: Vec<String>,
    /// What to do when a target fails.
    #[arg(long, value_enum, default_value_t = OnFailure::Rollback)]
    pub(crate) on_failure: OnFailure,
    /// How long it may take in all, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Only show what would be done, or why it would be refused; exit with 0 or 3.
    #[arg(long, conflicts_with_all = ["wait", "idempotency_key"])]
    pub(crate) plan: bool,
    /// Deploy although the environment is frozen, and why; it is recorded. Needs the role operator.
    #[arg(long, value_name = "REASON")]
    pub(crate) override_freeze: Option<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    /// Makes the request safe to repeat; a random one if not given.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Wait for approvals if it needs some, then show progress until it has ended, automatic rollback included; exit with 1 if it
    /// did not succeed.
    #[arg(long, short)]
    pub(crate) wait: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFailure {
    /// Start no further target, and bring those that were touched back.
    Rollback,
    /// Start no further target, and leave everything as it is.
    Stop,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Deployment {
    /// List deployments.
    List {
        /// Only those to this environment.
        #[arg(long = "env")]
        environment: Option<String>,
        /// Only those with this status.
        #[arg(long)]
        status: Option<String>,
    },
    /// Show a deployment and its targets.
    Show {
        /// Its id.
        deployment: String,
    },
    /// Follow a deployment until it has ended.
    Watch {
        /// Its id.
        deployment: String,
    },
    /// Start no further target until it is resumed; those that are worked on come to their end.
    Pause {
        /// Its id.
        deployment: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Deploy again to the targets that an ended deployment did not bring its release to.
    Retry {
        /// Its id.
        deployment: String,
        /// Only this target (can be given more than once).
        #[arg(long = "target")]
        targets: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a paused deployment go on.
    Resume {
        /// Its id.
        deployment: String,
    },
    /// End a deployment: what runs is stopped, what waits is not started.
    Cancel {
        /// Its id.
        deployment: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Promotion {
    /// List promotions.
    List {
        /// Only those to this environment.
        #[arg(long = "env")]
        environment: Option<String>,
        /// Only those with this status: pending, approved, started, rejected, withdrawn, expired or invalidated.
        #[arg(long)]
        status: Option<String>,
    },
    /// Show a promotion, who decided on it, and what it would do.
    Show {
        /// Its id.
        promotion: String,
    },
    /// Let a promotion through. With the last approval that it needs it starts, or as soon as it can.
    Approve {
        /// Its id.
        promotion: String,
        /// The root of the plan that you have looked at; the one that it has now if not given.
        #[arg(long, value_name = "DIGEST")]
        plan: Option<String>,
        /// Why; it is recorded.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Do not let a promotion through.
    Reject {
        /// Its id.
        promotion: String,
        /// What the matter is, for statistics.
        #[arg(long, value_enum, default_value_t = Objection::Other)]
        objection: Objection,
        /// Why; it is recorded, and shown to whoever asked.
        #[arg(long)]
        reason: String,
    },
    /// Ask for a promotion no more.
    Withdraw {
        /// Its id.
        promotion: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Objection {
    /// It was not tested enough.
    NotTested,
    /// It could break too much.
    TooRisky,
    /// Not now.
    BadTiming,
    /// Something is missing.
    Incomplete,
    /// It is the wrong release or the wrong place.
    Mistake,
    /// None of these.
    Other,
}

#[derive(Args, Debug)]
pub(crate) struct Rollback {
    /// The deployment to take back.
    pub(crate) deployment: String,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// List the tasks of a deployment.
    List {
        /// The deployment's id.
        deployment: String,
    },
    /// Show a task.
    Show {
        /// Its id.
        task: String,
    },
    /// Print a task's output.
    Logs {
        /// Its id.
        task: String,
        /// Go on until the task has ended.
        #[arg(long, short)]
        follow: bool,
    },
    /// Say what became of a task that is unknown.
    Settle {
        /// Its id.
        task: String,
        /// Whether it did what it was asked to do.
        #[arg(long = "as", value_enum)]
        outcome: Settled,
        /// How you know; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Settled {
    Succeeded,
    Failed,
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    /// From which position on.
    #[arg(long, default_value_t = 0)]
    pub(crate) after: u64,
    /// Go on with what happens from now on.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// What belongs to no tenant: tenants, accounts and tokens.
    #[arg(long)]
    pub(crate) system: bool,
}

/// Reads `PERCENT[:SECONDS]`.
fn canary_step(text: &str) -> Result<CanaryStep, String> {
    let (percent, soak) = text.split_once(':').map_or((text, None), |(percent, soak)| (percent, Some(soak)));
    let number = |text: &str| format!("{text:?} is no number; expected PERCENT[:SECONDS], such as 10:600");
    Ok(CanaryStep {
        percent: percent.parse().map_err(|_| number(percent))?,
        soak_seconds: soak.map(|soak| soak.parse().map_err(|_| number(soak))).transpose()?,
    })
}

/// Reads `KEY=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_and_groups_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
