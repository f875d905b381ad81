//! Where releases go: tenants, environments and targets.

use clap::{Args, Subcommand, ValueEnum};

use stella_api_types::amount::Amount;
use stella_api_types::environment::{OnExpiry, SetQuorum};

use super::pace::Pace;
use super::pair;

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Create a tenant; if it exists already, say so and succeed.
    #[command(after_help = "Example:\n  stella tenant create acme")]
    Create {
        /// Its name.
        name: String,
    },
    /// List tenants.
    #[command(after_help = "Example:\n  stella tenant list")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Environment {
    /// Create an environment; if it exists already, say so and succeed.
    #[command(
        after_help = "Examples:\n  stella env create staging\n  stella env create production --order 20"
    )]
    Create {
        /// Its name.
        name: String,
        /// Its place among the others; the last if it is not given.
        #[arg(long)]
        order: Option<u32>,
    },
    /// List environments.
    #[command(after_help = "Example:\n  stella env list")]
    List,
    /// Show how an environment is set up: what may come, gates, approvals, strategy, limits, freezes.
    #[command(after_help = "Example:\n  stella env show production")]
    Show {
        /// Its name or id.
        environment: String,
    },
    /// Change an environment's name or its place among the others. Promotions that wait have to be asked for anew when it is renamed.
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["name", "order"]))]
    #[command(after_help = "Example:\n  stella env update live --name production --order 20")]
    Update {
        /// Its name or id.
        environment: String,
        /// What to call it.
        #[arg(long)]
        name: Option<String>,
        /// Its place among the others.
        #[arg(long)]
        order: Option<u32>,
    },
    /// Remove an environment that has no targets, that no promotion waits for, that is on no path and where nobody has roles. What was
    /// done there stays recorded.
    #[command(after_help = "Example:\n  stella env remove live")]
    Remove {
        /// Its name or id.
        environment: String,
    },
    /// Print a scenario for `stella simulate`: its targets and rules, and how long the steps of a release took there.
    #[command(after_help = "Example:\n  stella env scenario production --release web:1.4.0 > scenario.yaml")]
    Scenario {
        /// Its name or id.
        environment: String,
        /// A release, as APPLICATION:VERSION or id; the one that was deployed there last if it is not given.
        #[arg(long)]
        release: Option<String>,
    },
    /// Set what a release must have been through before it may come here.
    #[command(group = clap::ArgGroup::new("what").required(true).args(["after", "nothing"]))]
    #[command(
        after_help = "Examples:\n  stella env path production --after staging --soak 1h\n  stella env path production --after staging --soak 24h --auto\n  stella env path production --after staging:24h --after hotfix:1h --any\n  stella env path production --after eu --after us --all --soak 1h\n  stella env path production --nothing"
    )]
    Path {
        /// Its name or id.
        environment: String,
        /// The environment where the release must have succeeded on all targets (can be given more than once), and for how long if not
        /// for --soak: staging, staging:24h.
        #[arg(long, value_name = "ENVIRONMENT[:TIME]", value_parser = crate::when::place_and_time)]
        after: Vec<(String, Option<u64>)>,
        /// Of several, any one is enough.
        #[arg(long, requires = "after", conflicts_with = "all")]
        any: bool,
        /// Of several, it must have been through all.
        #[arg(long, requires = "after")]
        all: bool,
        /// For how long: 30m, 24h.
        #[arg(long, value_name = "TIME", value_parser = crate::when::seconds, default_value_t = 0, requires = "after")]
        soak: u64,
        /// Request the promotion automatically then, with the settings of the last deployment; gates and approvals still apply.
        #[arg(long, requires = "after")]
        auto: bool,
        /// Let any release come.
        #[arg(long)]
        nothing: bool,
    },
    /// Set whose approval a promotion needs to come here; those that wait have to be asked for anew.
    #[command(group = clap::ArgGroup::new("whose").required(true).args(["needed", "groups", "nobody"]))]
    #[command(
        after_help = "Examples:\n  stella env approvals production --needed 2 --expires-in 2d\n  stella env approvals production --needed 1 --from qa --from security\n  stella env approvals production --group 1:ada,bob --group 1:carol --on-expiry ask-again:2\n  stella env approvals production --nobody"
    )]
    Approvals {
        /// Its name or id.
        environment: String,
        /// How many accounts must approve; never who asked for it.
        #[arg(long, value_name = "COUNT", value_parser = approvals)]
        needed: Option<u32>,
        /// Only this account may decide (can be given more than once); all with the role approver there if not given.
        #[arg(long, value_name = "ACCOUNT", requires = "needed")]
        from: Vec<String>,
        /// So many of these accounts, or of all with the role approver there: 1:ada,bob (can be given more than once: all groups must
        /// approve, and who is in several counts for one).
        #[arg(long = "group", value_name = "COUNT[:ACCOUNT,…]", value_parser = crate::promotion::group)]
        groups: Vec<SetQuorum>,
        /// How long a promotion waits before it expires; a week if not given.
        #[arg(long, value_name = "TIME", value_parser = crate::when::seconds, conflicts_with = "nobody")]
        expires_in: Option<u64>,
        /// What happens if there are not enough approvals by then: expire (the default), reject (silence is a no), ask-again or
        /// ask-again:TIMES.
        #[arg(long, value_name = "WHAT", value_parser = crate::promotion::on_expiry, conflicts_with = "nobody")]
        on_expiry: Option<(OnExpiry, Option<u32>)>,
        /// Let releases come without anybody's approval.
        #[arg(long)]
        nobody: bool,
    },
    /// Set how many of its targets may be at risk at once, in all deployments together; rollbacks are not counted.
    #[command(group = clap::ArgGroup::new("limit").required(true).args(["at_most", "unlimited"]))]
    #[command(
        after_help = "Examples:\n  stella env budget production --at-most 10%\n  stella env budget production --unlimited"
    )]
    Budget {
        /// Its name or id.
        environment: String,
        /// A count, or a share such as 10%.
        #[arg(long, value_name = "AMOUNT")]
        at_most: Option<Amount>,
        /// All of them may.
        #[arg(long)]
        unlimited: bool,
    },
    /// Set whether deployments here must be able to go back on every target, or be let through with a reason.
    #[command(group = clap::ArgGroup::new("way").required(true).args(["required", "optional"]))]
    #[command(after_help = "Example:\n  stella env way-back production --required")]
    WayBack {
        /// Its name or id.
        environment: String,
        /// They must.
        #[arg(long)]
        required: bool,
        /// They need not.
        #[arg(long)]
        optional: bool,
    },
    /// Set how targets follow one another in deployments here that do not say.
    #[command(
        after_help = "Examples:\n  stella env strategy production --batch 10% --pause 5m\n  stella env strategy production --canary 5:30m --canary 25:1h\n  stella env strategy production --any"
    )]
    Strategy {
        /// Its name or id.
        environment: String,
        /// Leave it to whoever asks.
        #[arg(long, conflicts_with = "pace")]
        any: bool,
        #[command(flatten)]
        pace: Box<Pace>,
    },
    /// Set whether the hosts here have to prove, before a deployment changes the first of them, that they could go back.
    #[command(after_help = "Example:\n  stella env way-back-proof production required")]
    WayBackProof {
        /// Its name or id.
        environment: String,
        /// What is wanted.
        #[arg(value_enum)]
        proof: ProofRule,
    },
    /// Set from which channels releases may come here.
    #[command(group = clap::ArgGroup::new("which").required(true).args(["take", "any"]))]
    #[command(
        after_help = "Examples:\n  stella env channels production --take stable\n  stella env channels staging --any"
    )]
    Channels {
        /// Its name or id.
        environment: String,
        /// From this one (can be given more than once).
        #[arg(long, value_name = "CHANNEL")]
        take: Vec<String>,
        /// From all, and what is in none.
        #[arg(long)]
        any: bool,
    },
    /// Set what comes after the last wave of deployments here: the release bakes in on all targets, and the gates are asked meanwhile and
    /// once more at the end. A deployment has succeeded after that alone.
    #[command(
        group = clap::ArgGroup::new("what").required(true).args(["bake", "nothing"]),
        after_help = "Example:\n  stella env verify production --bake 15m"
    )]
    Verify {
        /// Its name or id.
        environment: String,
        /// For so long.
        #[arg(long, value_name = "TIME", value_parser = crate::when::seconds)]
        bake: Option<u64>,
        /// It has succeeded with its last target.
        #[arg(long)]
        nothing: bool,
    },
    /// Set when silence of its agents is taken for a network event, in which its deployments pause until they are heard again.
    #[command(group = clap::ArgGroup::new("rule").required(true).args(["share", "ignore"]))]
    #[command(
        after_help = "Examples:\n  stella env silence production --share 30 --within 1m\n  stella env silence production --ignore"
    )]
    Silence {
        /// Its name or id.
        environment: String,
        /// The share of agents, in percent, that must go silent for it to count as a network event (more than this many).
        #[arg(long, value_name = "PERCENT")]
        share: Option<u32>,
        /// The time within which they must go silent.
        #[arg(long, value_name = "TIME", value_parser = crate::when::seconds, default_value_t = 60, requires = "share")]
        within: u64,
        /// Never.
        #[arg(long)]
        ignore: bool,
    },
    /// Freeze an environment at certain times, once or repeatedly: only rollbacks are allowed then. Replaces a freeze of the same name.
    #[command(
        after_help = "Example:\n  stella env freeze production weekend --from 2026-12-18T18:00 --to 2026-12-21T08:00 --zone Europe/Berlin --repeat weekly --reason 'nobody is there'"
    )]
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
    #[command(after_help = "Example:\n  stella env unfreeze production weekend")]
    Unfreeze {
        /// Its name or id.
        environment: String,
        /// The freeze's name.
        name: String,
    },
    /// Lock an environment: until it is unlocked, only rollbacks are allowed.
    #[command(after_help = "Example:\n  stella env lock production --reason 'inventory'")]
    Lock {
        /// Its name or id.
        environment: String,
        /// Why; it is recorded, and shown to whoever wants to deploy.
        #[arg(long)]
        reason: String,
    },
    /// Unlock an environment.
    #[command(after_help = "Example:\n  stella env unlock production")]
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
    /// Create a target; if it is there already and is the same, say so and succeed.
    #[command(
        after_help = "Example:\n  stella target create web-1 --env staging --agent web-1 --label rack=7 --var port=8080"
    )]
    Create(NewTarget),
    /// List targets.
    #[command(after_help = "Example:\n  stella target list --env production --label rack=7")]
    List {
        /// Only those of this environment.
        #[arg(long = "env")]
        environment: Option<String>,
        /// Only those with this label, as KEY=VALUE (can be given more than once: with all of them).
        #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
    },
    /// Show a target.
    #[command(after_help = "Example:\n  stella target show web-1")]
    Show {
        /// Its id, or its name if that is unique.
        target: String,
    },
    /// Change a target in place. Deployments that are under way keep what they began with.
    #[command(after_help = UPDATE_EXAMPLES)]
    Update(ChangeTarget),
    /// Remove a target that no deployment works on.
    #[command(after_help = "Example:\n  stella target remove web-1")]
    Remove {
        /// Its id, or its name if that is unique.
        target: String,
    },
}

const UPDATE_EXAMPLES: &str = "Examples:
  stella target update web-1 --var port=8081 --label rack=8 --no-label canary
  stella target update web-1 --agent web-1    # its host was enrolled again";

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["labels", "no_labels", "variables", "no_variables", "agent"]))]
pub(crate) struct ChangeTarget {
    /// Its id, or its name if that is unique.
    pub(crate) target: String,
    /// Set a label, as KEY=VALUE (can be given more than once).
    #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
    /// Take a label away (can be given more than once).
    #[arg(long = "no-label", value_name = "KEY")]
    pub(crate) no_labels: Vec<String>,
    /// Set a variable, as NAME=VALUE (can be given more than once).
    #[arg(long = "var", value_parser = pair, value_name = "NAME=VALUE")]
    pub(crate) variables: Vec<(String, String)>,
    /// Take a variable away (can be given more than once).
    #[arg(long = "no-var", value_name = "NAME")]
    pub(crate) no_variables: Vec<String>,
    /// Let this agent serve it from now on: another host, or the same one that was enrolled again. Nothing is known then of what is
    /// there, and no deployment may have to do with the target now.
    #[arg(long)]
    pub(crate) agent: Option<String>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProofRule {
    /// Nobody is asked.
    Off,
    /// What the hosts say is shown and recorded; nothing waits for it.
    Reported,
    /// Nothing is changed before all have proven it, or somebody has waived it (stella deployment waive).
    Required,
}

/// Reads how many approvals are needed.
fn approvals(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("where no approval is needed, say --nobody".to_owned()),
        Ok(needed) => Ok(needed),
        Err(_) => Err("it must be a whole number from 1 on".to_owned()),
    }
}
