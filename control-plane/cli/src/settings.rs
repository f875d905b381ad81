//! Where the control plane is and how to speak to it: flags and environment first, then the user's file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::Global;
use crate::client::{Client, Error, read};

/// The user's file, `~/.config/stella/config.toml` (or below `$XDG_CONFIG_HOME`).
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    url: Option<String>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    tenant: Option<String>,
}

/// What was found.
pub(crate) struct Settings {
    url: String,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    tenant: Option<String>,
}

impl Settings {
    pub(crate) fn load(global: &Global) -> Result<Self, Error> {
        let global = with_environment(global);
        let file = match path() {
            Some(path) if path.exists() => config::Config::builder()
                .add_source(config::File::from(path.as_path()))
                .build()
                .and_then(config::Config::try_deserialize)
                .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?,
            _ => File::default(),
        };
        Ok(Self {
            url: global.url.or(file.url).unwrap_or_else(|| "https://localhost:8443".to_owned()),
            token_file: global.token_file.or(file.token_file),
            ca: global.ca.or(file.ca),
            tenant: global.tenant.or(file.tenant),
        })
    }

    #[cfg(test)]
    pub(crate) fn bare(url: &str) -> Self {
        Self { url: url.to_owned(), token_file: None, ca: None, tenant: None }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) const fn token_file(&self) -> Option<&PathBuf> {
        self.token_file.as_ref()
    }

    pub(crate) const fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    pub(crate) fn client(&self) -> Result<Client, Error> {
        Client::new(&self.url, self.token()?, self.ca.as_ref())
    }

    /// Whether the control plane would be trusted with other certificates in the file.
    pub(crate) async fn would_trust(&self, file: &Path, pem: &str) -> Result<bool, Error> {
        let client = Client::trusting(&self.url, self.token()?, Some((file, pem)))?;
        match client.health().await {
            Ok(_) => Ok(true),
            Err(Error::Untrusted { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn token(&self) -> Result<String, Error> {
        let (token, from) = match (std::env::var("STELLA_TOKEN"), &self.token_file) {
            (Ok(token), _) => (token, "STELLA_TOKEN".to_owned()),
            (Err(_), Some(path)) => (read(path)?, path.display().to_string()),
            (Err(_), None) => {
                return Err(Error::Usage(
                    "there is no API token; give --token-file FILE, or set STELLA_TOKEN_FILE or STELLA_TOKEN. The control plane \
                     wrote the first one to admin-token in its state folder"
                        .into(),
                ));
            }
        };
        Ok(only_token(&token, &from)?.to_owned())
    }

    pub(crate) fn tenant(&self) -> Result<&str, Error> {
        self.tenant
            .as_deref()
            .ok_or_else(|| Error::Usage("which tenant? give --tenant NAME, or set STELLA_TENANT".into()))
    }
}

/// The token in a text that is to hold nothing else. What is in it is not told: it may hold the token as well.
fn only_token<'t>(text: &'t str, from: &str) -> Result<&'t str, Error> {
    let token = text.trim();
    let problem = match token {
        "" => "is empty",
        _ if token.lines().count() > 1 => "has several lines",
        _ if !token.chars().all(|character| character.is_ascii_graphic()) => {
            "has more than a token in its line"
        }
        _ => return Ok(token),
    };
    Err(Error::Usage(format!(
        "{from} {problem}; an API token is one line of text, as `stella token create` prints it"
    )))
}

/// Flags stand above the environment. It is read here and not by the parser, which would take what is in it for given and put it into
/// the usage of commands that were written wrongly.
fn with_environment(global: &Global) -> Global {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
    Global {
        url: global.url.clone().or_else(|| text("STELLA_URL")),
        token_file: global.token_file.clone().or_else(|| set("STELLA_TOKEN_FILE").map(PathBuf::from)),
        ca: global.ca.clone().or_else(|| set("STELLA_CA").map(PathBuf::from)),
        tenant: global.tenant.clone().or_else(|| text("STELLA_TENANT")),
        output: global.output,
    }
}

fn path() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(folder.join("stella/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::only_token;

    #[test]
    fn a_token_is_one_line_and_what_is_wrong_with_its_file_is_told_without_it() {
        assert_eq!(only_token(" stella_abc\n", "ci-token").ok(), Some("stella_abc"));
        for (text, problem) in [
            ("\n", "ci-token is empty"),
            ("stella_abc\n\nxx", "ci-token has several lines"),
            ("token: stella_abc", "ci-token has more than a token in its line"),
            ("stella_ab\u{200b}c", "ci-token has more than a token in its line"),
        ] {
            let told = only_token(text, "ci-token").expect_err("it is none").to_string();
            assert!(told.starts_with(problem) && !told.contains("stella_a"), "{told}");
        }
    }
}
