//! Releases, where they come from, and who signs them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Window, pair};

#[derive(Debug, Subcommand)]
pub(crate) enum Release {
    /// Create a release; archives that the control plane does not have are uploaded. If it is there already and is the same, say so
    /// and succeed.
    #[command(
        after_help = "Examples:\n  stella release create web 1.4.0 --component web=./web.tar.gz --steps steps.json\n  stella release create web 1.4.0 --component web=./web.tar.gz --label tier=gold --commit 4b825dc --sign-with ci.key"
    )]
    Create(Box<NewRelease>),
    /// Upload archives again that the control plane has removed because they were old.
    #[command(after_help = "Example:\n  stella release upload shop-1.4.2.tar.gz")]
    Upload {
        /// The archives, the same bytes as before.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List releases, the newest first.
    #[command(
        after_help = "Examples:\n  stella release list --app web --since 30d\n  stella release list --app web --channel stable --limit 5"
    )]
    List {
        /// Only those of this application.
        #[arg(long, visible_alias = "app", value_name = "APPLICATION")]
        application: Option<String>,
        /// Only those in this channel.
        #[arg(long)]
        channel: Option<String>,
        #[command(flatten)]
        window: Window,
    },
    /// Show a release.
    #[command(after_help = "Example:\n  stella release show web:1.4.0")]
    Show {
        /// Its id, or APPLICATION:VERSION.
        release: String,
    },
    /// Sign a release that is there. The private key stays here.
    #[command(after_help = "Example:\n  stella release sign web:1.4.0 --key qa.key")]
    Sign {
        /// Its id, or APPLICATION:VERSION.
        release: String,
        /// The private key: a file with PKCS #8 in PEM.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Sign only if this is the digest of the statement that you have looked at.
        #[arg(long, value_name = "DIGEST")]
        statement: Option<String>,
    },
    /// Check the signatures of a release here, by public keys that you trust; exit with 1 if one of them has not signed it.
    #[command(after_help = "Example:\n  stella release verify web:1.4.0 --key ci.key.pub --key qa.key.pub")]
    Verify {
        /// Its id, or APPLICATION:VERSION.
        release: String,
        /// A public key in PEM (can be given more than once).
        #[arg(long = "key", value_name = "FILE", required = true)]
        keys: Vec<PathBuf>,
    },
    /// Print the exact bytes that a signature of a release covers.
    #[command(after_help = "Example:\n  stella release statement web:1.4.0 > statement.json")]
    Statement {
        /// Its id, or APPLICATION:VERSION.
        release: String,
    },
    /// Keys that sign releases.
    #[command(subcommand)]
    Key(ReleaseKey),
    /// Warn whoever deploys a release.
    #[command(after_help = "Example:\n  stella release deprecate web:1.4.0 --reason 'is slow; take 1.4.1'")]
    Deprecate(Judged),
    /// Never deploy a release: it is stopped on its way, and nothing is rolled back to it.
    #[command(after_help = "Example:\n  stella release block web:1.4.0 --reason 'loses orders'")]
    Block(Judged),
    /// Take a deprecation or a block back.
    #[command(after_help = "Example:\n  stella release clear web:1.4.0 --reason 'it was the database'")]
    Clear(Judged),
}

#[derive(Args, Debug)]
pub(crate) struct NewRelease {
    /// What it is a release of.
    pub(crate) application: String,
    /// Its version.
    pub(crate) version: String,
    /// A component and its archive (.tar or .tar.gz), as NAME=FILE.
    #[arg(long = "component", value_parser = pair, value_name = "NAME=FILE")]
    pub(crate) components: Vec<(String, String)>,
    /// A JSON file with the steps to run on a target; without it, each component is brought there and switched to.
    #[arg(long, value_name = "FILE")]
    pub(crate) steps: Option<PathBuf>,
    /// A label, as KEY=VALUE.
    #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) provenance: Provenance,
    /// Sign it with this private key, a file with PKCS #8 in PEM (can be given more than once). The key stays here.
    #[arg(long, value_name = "FILE", help_heading = "Signatures")]
    pub(crate) sign_with: Vec<PathBuf>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Where it comes from")]
pub(crate) struct Provenance {
    /// A JSON file with all of this (commit, repository, build_url, builder, sboms, attestations); flags come on top of it.
    #[arg(long, value_name = "FILE")]
    pub(crate) provenance: Option<PathBuf>,
    /// The revision of the source.
    #[arg(long)]
    pub(crate) commit: Option<String>,
    /// Where the source is.
    #[arg(long, value_name = "URI")]
    pub(crate) repository: Option<String>,
    /// The page of the build.
    #[arg(long, value_name = "URI")]
    pub(crate) build_url: Option<String>,
    /// What built it.
    #[arg(long)]
    pub(crate) builder: Option<String>,
    /// A software bill of materials and what it hashes to, as URI@sha256:HEX (can be given more than once).
    #[arg(long = "sbom", value_parser = pinned, value_name = "URI@DIGEST")]
    pub(crate) sboms: Vec<(String, String)>,
    /// An attestation and what it hashes to, as URI@sha256:HEX (can be given more than once).
    #[arg(long = "attestation", value_parser = pinned, value_name = "URI@DIGEST")]
    pub(crate) attestations: Vec<(String, String)>,
}

/// Reads `URI@sha256:HEX`.
fn pinned(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('@') {
        Some((uri, digest)) if !uri.is_empty() && digest.starts_with("sha256:") => {
            Ok((uri.to_owned(), digest.to_owned()))
        }
        _ => Err("expected URI@sha256:HEX".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseKey {
    /// Make a key pair here: FILE with the private key, which nobody else should read, and FILE.pub with the public one.
    #[command(after_help = "Example:\n  stella release key create ci.key")]
    Create {
        /// The file for the private key. It must not be there yet.
        file: PathBuf,
    },
    /// Let a key sign releases. Needs the role admin in the tenant.
    #[command(after_help = "Example:\n  stella release key add ci ci.key.pub")]
    Add {
        /// What to call it.
        name: String,
        /// The public key in PEM.
        public_key: PathBuf,
    },
    /// List the keys that sign releases.
    #[command(after_help = "Example:\n  stella release key list")]
    List,
    /// Revoke a key: its signatures no longer count. Deployments that depend on them halt before their next wave.
    #[command(
        after_help = "Example:\n  stella release key revoke ci --reason 'the build server was broken into'"
    )]
    Revoke {
        /// Its name or fingerprint.
        key: String,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
    /// Require signatures on every release of the tenant: unsigned releases are neither registered nor deployed.
    #[command(
        after_help = "Examples:\n  stella release key require --needed 2 --key ci --key qa\n  stella release key require --nothing"
    )]
    Require {
        /// How many, each by another key.
        #[arg(long, required_unless_present = "nothing")]
        needed: Option<u32>,
        /// Only that of this key counts: its name or fingerprint (can be given more than once).
        #[arg(long = "key", requires = "needed")]
        keys: Vec<String>,
        /// Demand none.
        #[arg(long, conflicts_with = "needed")]
        nothing: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Judged {
    /// The release: its id, or APPLICATION:VERSION.
    pub(crate) release: String,
    /// Why; it is recorded.
    #[arg(long)]
    pub(crate) reason: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Channel {
    /// Set which releases of an application belong to a channel from now on; one of the same name is replaced.
    #[command(
        after_help = "Examples:\n  stella channel set web stable --versions '>=1.2, <2'\n  stella channel set web beta --pre-release beta --pre-release rc"
    )]
    Set {
        /// Of what.
        application: String,
        /// The channel's name.
        name: String,
        /// A range of semantic versions, such as '>=1.2, <2'; any if not given.
        #[arg(long, value_name = "RANGE")]
        versions: Option<String>,
        /// Only pre-releases that begin so, as beta does in 1.0.0-beta.2 (can be given more than once); without, only finished versions.
        #[arg(long = "pre-release", value_name = "TAG")]
        pre_releases: Vec<String>,
        /// Finished versions, pre-releases and what is no semantic version.
        #[arg(long, conflicts_with = "pre_releases")]
        any: bool,
        /// A label that a release must have, as KEY=VALUE (can be given more than once).
        #[arg(long = "label", value_parser = pair, value_name = "KEY=VALUE")]
        labels: Vec<(String, String)>,
    },
    /// List channels.
    #[command(after_help = "Example:\n  stella channel list")]
    List,
    /// Remove a channel. Releases that are in it stay in it.
    #[command(after_help = "Example:\n  stella channel remove web beta")]
    Remove {
        /// Of what.
        application: String,
        /// The channel's name.
        name: String,
    },
}
