//! Accounts and their tokens.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// Create an account; if it exists already, say so and succeed.
    #[command(
        after_help = "Examples:\n  stella account create ada --role approver@acme\n  stella account create ci --service --role deployer@acme/staging"
    )]
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
    #[command(after_help = "Example:\n  stella account list")]
    List,
    /// Show an account.
    #[command(after_help = "Example:\n  stella account show ci")]
    Show {
        /// Its name or id.
        account: String,
    },
    /// Replace the roles of an account.
    #[command(group = clap::ArgGroup::new("what").required(true).args(["roles", "nothing"]))]
    #[command(
        after_help = "Examples:\n  stella account roles ci --role deployer@acme/staging --role deployer@acme/production\n  stella account roles ci --nothing"
    )]
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
    #[command(after_help = "Example:\n  stella account remove ci")]
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
    #[command(
        after_help = "Example:\n  stella token create 'build server' --account ci --expires-in 90d --quiet > ci-token"
    )]
    Create {
        /// What it is for.
        name: String,
        /// Whose it is: an account's name or id; that of the token in use if not given.
        #[arg(long)]
        account: Option<String>,
        /// For how long it is good; for ever if not given: 30d.
        #[arg(long, value_name = "TIME", value_parser = crate::when::seconds)]
        expires_in: Option<u64>,
        /// Print the token alone, for a file or a pipe.
        #[arg(long, short)]
        quiet: bool,
    },
    /// List tokens, without their secrets.
    #[command(after_help = "Example:\n  stella token list")]
    List,
    /// Revoke a token; its open feeds end. The last administrative token cannot be revoked.
    #[command(after_help = "Example:\n  stella token revoke TOKEN")]
    Revoke {
        /// Its id.
        token: String,
    },
}
