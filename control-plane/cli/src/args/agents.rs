//! Who serves: agents and the tokens that they enrol with.

use clap::{Args, Subcommand, ValueEnum};

use super::pair;

/// What a token lets in.
#[derive(Args, Debug)]
pub(crate) struct NewToken {
    /// The name that the agent gets; its host's name if not given.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How many hosts may use it.
    #[arg(long, default_value_t = 1)]
    pub(crate) uses: u32,
    /// For how long it is good, at most 30d: 2h, 7d.
    #[arg(long, default_value_t = stella_api_types::agent::EXPIRES_IN_SECONDS_DEFAULT, value_name = "TIME", value_parser = crate::when::seconds)]
    pub(crate) expires_in: u64,
    /// A label for the agents, as KEY=VALUE.
    #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
    /// What tasks may do on their hosts; an agent that runs with more than its token says refuses every task.
    #[arg(long, value_enum, default_value_t = Profile::Confined)]
    pub(crate) profile: Profile,
}

const TOKEN_EXAMPLES: &str = "Examples:
  stella agent token --name web-1
  stella agent token --uses 50 --expires-in 30d --label role=web --profile full --quiet > token
  stella agent token list
  stella agent token revoke 01890000-0000-7000-8000-000000000000 --reason 'it was in an image'";

/// What to do with tokens that are there.
#[derive(Debug, Subcommand)]
pub(crate) enum EnrolmentTokens {
    /// List enrolment tokens, without their secrets: those that are good, and those that ended within a week.
    #[command(after_help = "Example:\n  stella agent token list")]
    List,
    /// Take one back: no host enrols with it any more. Agents that it let in stay.
    #[command(
        after_help = "Example:\n  stella agent token revoke 01890000-0000-7000-8000-000000000000 --reason 'it was in an image'"
    )]
    Revoke {
        /// Its id.
        id: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

const ENROL_EXAMPLES: &str = "Examples:
  stella agent enrol-command --name web-1 --package https://packages.example.com/stella-agent_0.1.0-1_amd64.deb
  stella agent enrol-command --uses 50 --label role=web --as cloud-init > user-data
  stella agent enrol-command --profile full --package /media/usb/stella-0.1.0-linux-amd64.tar.gz --public-key /root/stella.pem";

#[derive(Args, Debug)]
pub(crate) struct EnrolCommand {
    #[command(flatten)]
    pub(crate) token: NewToken,
    /// How the agent comes to the host: the address of a .deb, .rpm or .tar.gz, or its path there; if not given, it is there.
    #[arg(long, value_name = "URL|PATH")]
    pub(crate) package: Option<String>,
    /// The SHA-256 that the package has to have.
    #[arg(long, value_name = "HEX", requires = "package")]
    pub(crate) sha256: Option<String>,
    /// The public key that an archive is signed with: a file on the host.
    #[arg(long, value_name = "PATH", requires = "package")]
    pub(crate) public_key: Option<String>,
    /// A unit that tasks may act on: one in full, or all instances of a template, as web@*.service. May be repeated. Tasks then act on no
    /// other unit and run no command: the profile of named units.
    #[arg(long = "unit", value_name = "UNIT")]
    pub(crate) units: Vec<String>,
    /// In which form.
    #[arg(long = "as", value_enum, default_value_t = Form::Line)]
    pub(crate) form: Form,
}

/// What tasks may do on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Read it, change /srv/stella, and start and stop units.
    Confined,
    /// Everything that root may.
    Full,
}

/// How a host is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// One line for a root shell.
    Line,
    /// User data that does the same at the first boot.
    CloudInit,
}

const DRAIN_EXAMPLES: &str = "Examples:
  stella agent drain web-1 --reason 'kernel update' --wait && ssh web-1 'apt-get upgrade -y && reboot'
  stella agent drain web-1 --reason 'kernel update' --output json";

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List agents.
    #[command(after_help = "Example:\n  stella agent list")]
    List,
    /// Show an agent, and what is wrong with how it runs.
    #[command(after_help = "Example:\n  stella agent show web-1")]
    Show {
        /// Its name or id.
        agent: String,
    },
    /// Create a token that lets a host enrol. It is shown once.
    #[command(after_help = TOKEN_EXAMPLES, args_conflicts_with_subcommands = true)]
    Token {
        #[command(subcommand)]
        command: Option<EnrolmentTokens>,
        #[command(flatten)]
        token: NewToken,
        /// Print the token alone.
        #[arg(long, short)]
        quiet: bool,
    },
    /// Create a token, and print one line for a root shell on the host: it installs the agent, enrols it and starts it.
    #[command(after_help = ENROL_EXAMPLES)]
    EnrolCommand(Box<EnrolCommand>),
    /// Take a host out of rotation, for example to patch it: work in progress is finished, and nothing new starts.
    #[command(after_help = DRAIN_EXAMPLES)]
    Drain {
        /// Its name or id.
        agent: String,
        /// Why; it is shown and recorded.
        #[arg(long)]
        reason: String,
        /// Wait until nothing goes on there any more.
        #[arg(long)]
        wait: bool,
    },
    /// Put a drained host back into rotation; work that waited for it starts.
    #[command(after_help = "Example:\n  stella agent undrain web-1")]
    Undrain {
        /// Its name or id.
        agent: String,
    },
    /// Revoke an agent: its session is cut at once, and it can never connect again.
    #[command(after_help = "Example:\n  stella agent revoke web-1 --reason 'the host was sold'")]
    Revoke {
        /// Its name or id.
        agent: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}
