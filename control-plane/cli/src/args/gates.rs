//! Gates and what scanners have found.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Gate {
    /// Set a gate; one of the same name is replaced. What is under way meets it before its next wave; promotions that wait for approvals, or
    /// have them, become void where it changes what was approved.
    #[command(subcommand)]
    Set(SetGate),
    /// List the gates of an environment.
    #[command(after_help = "Example:\n  stella gate list production")]
    List {
        /// Its name or id.
        environment: String,
    },
    /// Take a gate away. Promotions that people approve become void, for it is part of what they approve; to let one through, use `stella
    /// gate override`. Others that wait for it alone start.
    #[command(after_help = "Example:\n  stella gate remove production scan")]
    Remove {
        /// The environment's name or id.
        environment: String,
        /// The gate's name.
        gate: String,
    },
    /// Say that a manual gate lets a promotion through. Whoever asked for it cannot.
    #[command(
        after_help = "Example:\n  stella gate pass PROMOTION change-ticket --reason 'CHG-1042 is approved'"
    )]
    Pass {
        #[command(flatten)]
        word: Word,
    },
    /// Say that a manual gate does not let a promotion through: if it is on its way, it halts.
    #[command(
        after_help = "Example:\n  stella gate fail PROMOTION change-ticket --reason 'CHG-1042 is withdrawn'"
    )]
    Fail {
        #[command(flatten)]
        word: Word,
    },
    /// Override a gate for one promotion. Needs the role admin, and stays on record.
    #[command(
        after_help = "Example:\n  stella gate override PROMOTION scan --reason 'the finding is in a tool that we do not ship'"
    )]
    Override {
        #[command(flatten)]
        word: Word,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Word {
    /// The promotion's id.
    pub(crate) promotion: String,
    /// The gate's name.
    pub(crate) gate: String,
    /// Why; it is recorded.
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Place {
    /// The environment's name or id.
    pub(crate) environment: String,
    /// The gate's name, unique there.
    pub(crate) gate: String,
    /// For how long a verdict that lets through holds at most, and how often it is asked while a deployment holds; 5m if not given.
    #[arg(long, value_name = "TIME", value_parser = crate::when::seconds)]
    pub(crate) ttl: Option<u64>,
    /// It is about what was brought: look at it before all waves but the first, while a deployment holds, and at its end.
    #[arg(long)]
    pub(crate) verifies: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SetGate {
    /// What scanners have found in the release.
    #[command(
        after_help = "Examples:\n  stella gate set security production scan --limit critical=0 --limit high=3\n  stella gate set security production scan --limit critical=0 --allow 'CVE-2026-1234=not reachable' --allow-until 2026-12-31T00:00:00Z\n  stella gate set security production scan --scanner trivy --max-age 7d"
    )]
    Security {
        #[command(flatten)]
        place: Place,
        /// How many findings of a severity there may be (can be given more than once), such as critical=0.
        #[arg(long = "limit", value_name = "SEVERITY=COUNT", value_parser = limit, required_unless_present = "scanners")]
        limits: Vec<(String, u32)>,
        /// A finding that does not count, and why (can be given more than once): CVE-2026-1234=REASON.
        #[arg(long = "allow", value_name = "ID=REASON", value_parser = super::pair)]
        allowed: Vec<(String, String)>,
        /// Until when the allowed findings do not count: 2026-12-31T00:00:00Z; for ever if not given.
        #[arg(long, value_name = "TIME", requires = "allowed")]
        allow_until: Option<String>,
        /// A scanner that must have reported (can be given more than once); any one if not given.
        #[arg(long = "scanner", value_name = "NAME")]
        scanners: Vec<String>,
        /// How old its report may be: 7d.
        #[arg(long, value_name = "TIME", value_parser = crate::when::seconds)]
        max_age: Option<u64>,
        /// An account whose reports count (can be given more than once); everybody's who may report if not given.
        #[arg(long = "reporter", value_name = "ACCOUNT")]
        reporters: Vec<String>,
    },
    /// What a Prometheus answers: there must be a sample, and each must compare as wanted.
    #[command(group = clap::ArgGroup::new("comparison").required(true).args(["below", "at_most", "above", "at_least"]))]
    #[command(
        after_help = "Example:\n  stella gate set metric production errors --source main --query 'max(error_ratio)' --below 0.01"
    )]
    Metric {
        #[command(flatten)]
        place: Place,
        /// Which Prometheus: a name in the control plane's configuration.
        #[arg(long, value_name = "NAME")]
        source: String,
        /// The query, in PromQL.
        #[arg(long, value_name = "PROMQL")]
        query: String,
        /// Each sample must be smaller.
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
        below: Option<f64>,
        /// Each sample must be smaller or the same.
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
        at_most: Option<f64>,
        /// Each sample must be larger.
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
        above: Option<f64>,
        /// Each sample must be larger or the same.
        #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
        at_least: Option<f64>,
    },
    /// A CEL expression that must be true: "findings.critical == 0 && release.labels['tier'] == 'gold'".
    #[command(
        after_help = "Example:\n  stella gate set expression production gold \"findings.critical == 0 && release.labels['tier'] == 'gold'\""
    )]
    Expression {
        #[command(flatten)]
        place: Place,
        /// The expression, over release, environment and findings.
        expression: String,
    },
    /// What an HTTP endpoint answers.
    #[command(after_help = "Example:\n  stella gate set http production change --endpoint changes --ttl 1h")]
    Http {
        #[command(flatten)]
        place: Place,
        /// Which one: a name in the control plane's configuration.
        #[arg(long, value_name = "NAME")]
        endpoint: String,
    },
    /// By whose keys the release is signed.
    #[command(
        after_help = "Example:\n  stella gate set signature production signed --needed 2 --key ci --key qa"
    )]
    Signature {
        #[command(flatten)]
        place: Place,
        /// How many signatures there must be, each by another key.
        #[arg(long, default_value_t = 1)]
        needed: u32,
        /// Only that of this key counts: its name or fingerprint (can be given more than once).
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,
    },
    /// What a person says.
    #[command(after_help = "Example:\n  stella gate set manual production change-ticket")]
    Manual {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Findings {
    /// Record a scanner's findings for a release; replaces its previous report.
    #[command(after_help = "Example:\n  stella findings record web:1.4.0 trivy.json --scanner trivy")]
    Record {
        /// The release: an id or APPLICATION:VERSION.
        release: String,
        /// Its report: SARIF, CycloneDX JSON, or the JSON of Trivy or Grype.
        file: PathBuf,
        /// Which scanner.
        #[arg(long, value_name = "NAME")]
        scanner: String,
    },
    /// Show what scanners have found in a release.
    #[command(after_help = "Example:\n  stella findings show web:1.4.0 --from high")]
    Show {
        /// The release: an id or APPLICATION:VERSION.
        release: String,
        /// Only what is at least so bad.
        #[arg(long, value_enum, default_value_t = Severity::Unknown)]
        from: Severity,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Severity {
    Unknown,
    Low,
    Medium,
    High,
    Critical,
}

/// Reads `SEVERITY=COUNT`.
fn limit(text: &str) -> Result<(String, u32), String> {
    let expected = || format!("{text:?} is no limit; expected SEVERITY=COUNT, such as critical=0");
    let (severity, count) = text.split_once('=').ok_or_else(expected)?;
    Ok((severity.to_owned(), count.parse().map_err(|_| expected())?))
}
