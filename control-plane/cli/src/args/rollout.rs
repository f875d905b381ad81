//! What goes there, and how: deployments, promotions and rollbacks.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use stella_api_types::amount::Amount;

use super::pace::Pace;
use super::{Window, pair};

const DEPLOY_EXAMPLES: &str = "Examples:
  stella deploy web:1.4.0 staging --batch 1 --wait
  stella deploy web:1.4.0 production --plan
  stella deploy web:1.4.0 production --plan --target web-1 --tasks
  stella deploy web:1.4.0 production --canary 10:10m --canary 50 --on-failure rollback
  stella deploy web:1.4.0 production --strategy blue-green --warm-up 30s --keep 1h --wait
  stella deploy web production --channel stable --label rack=7
  stella deploy web:1.4.1 production --override-freeze 'orders are lost'";

#[derive(Args, Debug)]
#[command(after_help = DEPLOY_EXAMPLES)]
pub(crate) struct Deploy {
    /// Which release: its id, or APPLICATION:VERSION; with --channel, the application alone.
    pub(crate) release: String,
    /// To which environment.
    pub(crate) environment: String,
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// How many targets may fail before the deployment is halted; none if not given.
    #[arg(long, value_name = "AMOUNT", help_heading = "Strategy")]
    pub(crate) tolerate: Option<Amount>,
    /// Deploy the newest release of this channel that may go there now (not deprecated or blocked, signed as required, far enough
    /// on the promotion path).
    #[arg(long)]
    pub(crate) channel: Option<String>,
    /// Only this target (can be given more than once). Without it and --label: all targets of the environment that have this
    /// application, and those that have nothing yet as long as no other application is there.
    #[arg(long = "target")]
    pub(crate) targets: Vec<String>,
    /// Only targets with this label (can be given more than once: with all of them).
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair, conflicts_with = "targets")]
    pub(crate) labels: Vec<(String, String)>,
    /// What to do when more targets fail than are tolerated.
    #[arg(long, value_enum, default_value_t = OnFailure::Rollback)]
    pub(crate) on_failure: OnFailure,
    /// How long it may take in all; an hour if not given.
    #[arg(long, value_name = "TIME", value_parser = crate::when::seconds)]
    pub(crate) timeout: Option<u64>,
    /// Only show what would be done, or why it would be refused; exit with 0 or 3.
    #[arg(long, conflicts_with_all = ["wait", "idempotency_key"])]
    pub(crate) plan: bool,
    /// With --plan and a single --target: also show each task, filled in and with its digest. The values of environment variables are
    /// in it: keep it out of logs.
    #[arg(long, requires_all = ["plan", "targets"])]
    pub(crate) tasks: bool,
    /// Deploy although the environment is frozen, and why; it is recorded. Needs the role operator.
    #[arg(long, value_name = "REASON")]
    pub(crate) override_freeze: Option<String>,
    /// Deploy although the release has not been through what comes before the environment, and why; it is recorded. Needs the role
    /// operator.
    #[arg(long, value_name = "REASON")]
    pub(crate) override_path: Option<String>,
    /// Deploy although it could not go back on every target, and why; it is recorded. Needs the role operator.
    #[arg(long, value_name = "REASON")]
    pub(crate) waive_way_back: Option<String>,
    /// Also deploy to targets that have another application, and replace it there; without this flag such targets are refused.
    #[arg(long)]
    pub(crate) replace_application: bool,
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
    /// Start no further targets, and roll back those that were touched.
    Rollback,
    /// Start no further target, and leave everything as it is.
    Stop,
    /// Start no further target until somebody has decided: retry-target, skip or fail.
    Ask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Deployment {
    /// List deployments, the newest first.
    #[command(
        after_help = "Examples:\n  stella deployment list --env production --status failed --since 7d\n  stella deployment list --app web --limit 5"
    )]
    List {
        /// Only those to this environment.
        #[arg(long = "env")]
        environment: Option<String>,
        /// Only those of this application.
        #[arg(long = "app", visible_alias = "application", value_name = "APPLICATION")]
        application: Option<String>,
        /// Only those with this status.
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        window: Window,
    },
    /// Print the output of a deployment's tasks, target by target.
    #[command(after_help = "Example:\n  stella deployment logs DEPLOYMENT --target web-1 --step health")]
    Logs {
        /// Its id.
        deployment: String,
        /// Only that of this target (can be given more than once).
        #[arg(long = "target")]
        targets: Vec<String>,
        /// Only that of this step (can be given more than once).
        #[arg(long = "step")]
        steps: Vec<String>,
    },
    /// Show a deployment and its targets.
    #[command(after_help = "Example:\n  stella deployment show DEPLOYMENT")]
    Show {
        /// Its id.
        deployment: String,
    },
    /// Follow a deployment (or a promotion that still waits) to its end; exit with 1 if it did not succeed.
    #[command(after_help = "Example:\n  stella deployment watch DEPLOYMENT")]
    Watch {
        /// Its id.
        deployment: String,
    },
    /// Pause a deployment: start no further targets until it is resumed. Targets in progress are finished.
    #[command(after_help = "Example:\n  stella deployment pause DEPLOYMENT --reason 'the latency rises'")]
    Pause {
        /// Its id.
        deployment: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Deploy again to the targets that an ended deployment did not bring its release to.
    #[command(after_help = "Example:\n  stella deployment retry DEPLOYMENT --target web-2 --wait")]
    Retry {
        /// Its id.
        deployment: String,
        /// Only this target (can be given more than once).
        #[arg(long = "target")]
        targets: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// End the colours that an ended deployment has left idle, by the steps of the phase retire of what they hold.
    #[command(after_help = "Example:\n  stella deployment retire DEPLOYMENT --wait")]
    Retire {
        /// Its id.
        deployment: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Try a failed target of a running deployment again, from its first step, or from the switch if it has failed there.
    #[command(after_help = "Example:\n  stella deployment retry-target DEPLOYMENT web-2")]
    RetryTarget {
        /// The deployment's id.
        deployment: String,
        /// The target's name or id.
        target: String,
    },
    /// Leave a target of a running deployment alone: it waits, has failed, or waits for an agent that is away.
    #[command(
        after_help = "Example:\n  stella deployment skip DEPLOYMENT web-2 --reason 'its disk is replaced today'"
    )]
    Skip {
        /// The deployment's id.
        deployment: String,
        /// The target's name or id.
        target: String,
        /// Why; it is recorded, and shown for ever.
        #[arg(long)]
        reason: String,
    },
    /// Give up a running deployment: targets in progress are finished, then it counts as failed.
    #[command(
        after_help = "Example:\n  stella deployment fail DEPLOYMENT --rollback --reason 'the latency rises'"
    )]
    Fail {
        /// Its id.
        deployment: String,
        /// Take back what it touched then; without it everything is left as it is.
        #[arg(long)]
        rollback: bool,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Ask the hosts again for the proof that they could go back, after you have fixed something. Only before anything was changed.
    #[command(after_help = "Example:\n  stella deployment prove DEPLOYMENT")]
    Prove {
        /// Its id.
        deployment: String,
    },
    /// Let a deployment begin although it is not proven that it could go back on every target. Needs the role operator.
    #[command(
        after_help = "Example:\n  stella deployment waive DEPLOYMENT --reason 'the old version is gone for good'"
    )]
    Waive {
        /// Its id.
        deployment: String,
        /// Why; it is recorded, and shown for ever.
        #[arg(long)]
        reason: String,
    },
    /// Let a paused deployment go on.
    #[command(after_help = "Example:\n  stella deployment resume DEPLOYMENT")]
    Resume {
        /// Its id.
        deployment: String,
    },
    /// End a deployment: what runs is stopped, what waits is not started.
    #[command(
        after_help = "Example:\n  stella deployment cancel DEPLOYMENT --reason 'it is the wrong release'"
    )]
    Cancel {
        /// Its id.
        deployment: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

impl Deployment {
    /// Which deployment it is about.
    pub(crate) fn deployment(&self) -> Option<&str> {
        match self {
            Self::Logs { deployment, .. }
            | Self::Show { deployment, .. }
            | Self::Watch { deployment, .. }
            | Self::Pause { deployment, .. }
            | Self::Retry { deployment, .. }
            | Self::Retire { deployment, .. }
            | Self::RetryTarget { deployment, .. }
            | Self::Skip { deployment, .. }
            | Self::Fail { deployment, .. }
            | Self::Prove { deployment, .. }
            | Self::Waive { deployment, .. }
            | Self::Resume { deployment, .. }
            | Self::Cancel { deployment, .. } => Some(deployment),
            Self::List { .. } => None,
        }
    }
}

/// A part of a plan that is no target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanPart {
    /// How it would come, and by which approvals.
    Wanted,
    /// Gates, budget, what is wanted of the way back, path, channels, and the signatures that the tenant demands.
    Guards,
    /// The release with its steps.
    Release,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Promotion {
    /// List promotions, the newest first.
    #[command(
        after_help = "Examples:\n  stella promotion list --status waiting\n  stella promotion list --env production --since 7d"
    )]
    List {
        /// Only those to this environment.
        #[arg(long = "env")]
        environment: Option<String>,
        /// Only those with this status: waiting (for anything), pending (for approvals), approved, started, rejected, withdrawn,
        /// expired or invalidated.
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        window: Window,
    },
    /// Show a promotion, who decided on it, and what it would do.
    #[command(
        after_help = "Examples:\n  stella promotion show PROMOTION\n  stella promotion show PROMOTION --target web-1"
    )]
    Show {
        /// Its id.
        promotion: String,
        /// Show what it would run on this target instead, each task filled in and with its digest, and what would take that back.
        #[arg(long)]
        target: Option<String>,
    },
    /// Follow a promotion: its approvals and gates as long as it waits, then its deployment until that has ended; exit with 1 if it
    /// did not come to one, or that did not succeed.
    #[command(after_help = "Example:\n  stella promotion watch PROMOTION")]
    Watch {
        /// Its id.
        promotion: String,
    },
    /// Show one part of what a promotion that waits would do, with the proof that it is in the hash that people approve.
    #[command(group = clap::ArgGroup::new("what").required(true).args(["target", "part"]))]
    #[command(
        after_help = "Examples:\n  stella promotion prove PROMOTION web-1 --output json > proof.json\n  stella promotion prove PROMOTION --part guards"
    )]
    Prove {
        /// Its id.
        promotion: String,
        /// What is done on this target.
        target: Option<String>,
        /// Another part.
        #[arg(long, value_enum)]
        part: Option<PlanPart>,
    },
    /// Check a proof that `prove` has written, without asking the control plane; exit with 1 if it does not hold.
    #[command(after_help = "Example:\n  stella promotion verify proof.json --plan sha256:DIGEST")]
    Verify {
        /// The file; - is standard input.
        proof: PathBuf,
        /// The root that was approved; without it the proof is only checked against the root that it names itself.
        #[arg(long, value_name = "DIGEST")]
        plan: Option<String>,
    },
    /// Approve a promotion. With the last approval that it needs, it starts as soon as it can.
    #[command(
        after_help = "Examples:\n  stella promotion approve PROMOTION --reason 'tested by QA'\n  stella promotion approve PROMOTION --plan sha256:DIGEST\n  stella promotion approve PROMOTION --plan sha256:DIGEST --sign-with qa.pem"
    )]
    Approve {
        /// Its id.
        promotion: String,
        /// The root of the plan that you have looked at; the one that it has now if not given.
        #[arg(long, value_name = "DIGEST")]
        plan: Option<String>,
        /// Why; it is recorded.
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Sign it with the ed25519 key in this file (PEM, as `stella release key create` and openssl make them): the signature and the
        /// public key are kept with the approval. Needs --plan, so that you sign what you have looked at.
        #[arg(long, value_name = "FILE", requires = "plan")]
        sign_with: Option<PathBuf>,
    },
    /// Reject a promotion.
    #[command(
        after_help = "Example:\n  stella promotion reject PROMOTION --objection bad-timing --reason 'not on a Friday'"
    )]
    Reject {
        /// Its id.
        promotion: String,
        /// The kind of objection, for statistics.
        #[arg(long, value_enum, default_value_t = Objection::Other)]
        objection: Objection,
        /// Why; it is recorded, and shown to whoever asked.
        #[arg(long)]
        reason: String,
    },
    /// Withdraw a promotion that is no longer wanted.
    #[command(after_help = "Example:\n  stella promotion withdraw PROMOTION --reason '1.4.1 is coming'")]
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
#[command(
    after_help = "Examples:\n  stella rollback DEPLOYMENT --plan\n  stella rollback DEPLOYMENT --wait\n  stella rollback DEPLOYMENT --target web-1 --target web-2"
)]
pub(crate) struct Rollback {
    /// The deployment to take back.
    pub(crate) deployment: String,
    /// Take only this target back (can be given more than once).
    #[arg(long = "target")]
    pub(crate) targets: Vec<String>,
    /// Only show where each target would go, and which would be left as they are, or why it would be refused; exit with 0 or 3.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
}
