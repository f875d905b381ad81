//! Who is told when something is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stella_domain::name::Name;
use stella_domain::workflow::Notify;
use stella_notify::incident::{Kind, Severity};
use stella_notify::receiver::{
    Chat, Email, EmailSettings, HttpClient, Pager, Receiver, Secret, Security, Way, Webhook,
};
use stella_notify::route::{Route, Routes};
use stella_settings::MASKED;
use zeroize::Zeroizing;

use super::Destination;

/// The key of those who can be told.
pub(super) const RECEIVERS: &str = "notifications.receivers";

/// In the place of the name of a tenant.
const EVERYBODY: &str = "*";
/// Where pages go if nothing else is said.
const PAGERDUTY_URL: &str = "https://events.pagerduty.com/v2/enqueue";

/// Who is told; nobody if there is no receiver.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Notifications {
    /// What the installation is called in pages.
    pub(crate) source: String,
    /// Who can be told.
    pub(crate) receivers: Vec<ReceiverConfig>,
    /// Who is told of what.
    pub(crate) routes: Vec<RouteConfig>,
}

impl Default for Notifications {
    fn default() -> Self {
        Self { source: "stella".to_owned(), receivers: Vec::new(), routes: Vec::new() }
    }
}

/// How a receiver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Type {
    Webhook,
    Slack,
    Pagerduty,
    Email,
}

/// A receiver. Which keys it may have depends on its type.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReceiverConfig {
    name: String,
    #[serde(rename = "type")]
    kind: Type,
    /// Webhook, PagerDuty: the address.
    url: Option<String>,
    /// Webhook, Slack: the address, if it is a secret.
    url_file: Option<PathBuf>,
    /// Webhook: what messages are signed with.
    secret_file: Option<PathBuf>,
    /// Slack: another channel.
    channel: Option<String>,
    /// PagerDuty: the integration's key.
    routing_key_file: Option<PathBuf>,
    /// All: the authorities that the certificate may be under.
    ca: Option<PathBuf>,
    /// All: the tenants whose workflows may tell it something; `*` is all of them.
    #[serde(default)]
    workflow_tenants: Vec<String>,
    /// Mail: the server, and how to get in.
    host: Option<String>,
    port: Option<u16>,
    security: Option<Security>,
    username: Option<String>,
    password_file: Option<PathBuf>,
    /// Mail: the addresses.
    from: Option<String>,
    #[serde(default)]
    to: Vec<String>,
}

/// A rule: empty lists are everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteConfig {
    receivers: Vec<String>,
    #[serde(default)]
    tenants: Vec<String>,
    #[serde(default)]
    environments: Vec<String>,
    #[serde(default)]
    kinds: Vec<Kind>,
    #[serde(default)]
    severity_min: Severity,
    /// How long a change waits for others, in seconds.
    #[serde(default = "default_wait_s")]
    wait_s: u64,
    /// After how long it is told again, in seconds; 0 is never.
    #[serde(default = "default_repeat_s")]
    repeat_s: u64,
    #[serde(default = "default_resolved")]
    resolved: bool,
}

const fn default_wait_s() -> u64 {
    10
}

const fn default_repeat_s() -> u64 {
    4 * 3_600
}

const fn default_resolved() -> bool {
    true
}

impl Notifications {
    /// What is wrong with it.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let mut names = BTreeSet::new();
        for receiver in self.receivers()? {
            ensure!(
                names.insert(receiver.name.clone()),
                "two of notifications.receivers are called {:?}",
                receiver.name
            );
        }
        let routed: BTreeSet<_> = self.routes.iter().flat_map(|route| &route.receivers).collect();
        if let Some(unknown) = routed.iter().find(|name| !names.contains(**name)) {
            bail!(
                "notifications.routes leads to {unknown:?}, which none of notifications.receivers is called"
            );
        }
        if let Some(idle) =
            self.receivers.iter().find(|it| it.workflow_tenants.is_empty() && !routed.contains(&it.name))
        {
            bail!(
                "notifications.receivers {:?} is never told anything: none of notifications.routes leads there, and it has no workflow_tenants",
                idle.name
            );
        }
        for receiver in &self.receivers {
            for tenant in receiver.workflow_tenants.iter().filter(|it| *it != EVERYBODY) {
                tenant.parse::<Name>().with_context(|| {
                    format!("workflow_tenants of notifications.receivers {:?}: {tenant:?}", receiver.name)
                })?;
            }
        }
        for route in &self.routes {
            ensure!(!route.receivers.is_empty(), "a rule of notifications.routes names no receivers");
            ensure!(
                route.repeat_s == 0 || route.repeat_s >= 60,
                "repeat_s in notifications.routes must be 0 (never) or at least 60, not {}",
                route.repeat_s
            );
        }
        Ok(())
    }

    /// The rules.
    pub(crate) fn routes(&self) -> Routes {
        let route = |it: &RouteConfig| Route {
            receivers: it.receivers.clone(),
            tenants: it.tenants.clone(),
            environments: it.environments.clone(),
            kinds: it.kinds.clone(),
            severity_min: it.severity_min,
            wait: Duration::from_secs(it.wait_s),
            repeat: (it.repeat_s > 0).then(|| Duration::from_secs(it.repeat_s)),
            resolved: it.resolved,
        };
        Routes(self.routes.iter().map(route).collect())
    }

    /// The receivers, with what their files hold.
    ///
    /// # Errors
    /// Names the receiver and the key that makes no sense; never shows what a file holds.
    pub(crate) fn receivers(&self) -> anyhow::Result<Vec<Receiver>> {
        // Clients for TLS cannot be made without it.
        stella_certs::install_provider();
        self.receivers.iter().map(|receiver| receiver.made(&self.source)).collect()
    }

    /// Those that workflows of some tenant may tell something, by name.
    ///
    /// # Errors
    /// As [`Self::receivers`].
    pub(crate) fn for_workflows(&self) -> anyhow::Result<BTreeMap<String, Receiver>> {
        stella_certs::install_provider();
        let told = self.receivers.iter().filter(|it| !it.workflow_tenants.is_empty());
        told.map(|it| Ok((it.name.clone(), it.made(&self.source)?))).collect()
    }

    /// Whether workflows of a tenant may tell a receiver something.
    ///
    /// # Errors
    /// Says in which key whoever runs the control plane can allow it. Names no receiver that is others' only.
    pub(crate) fn may_notify(&self, tenant: &str, name: &str) -> Result<(), String> {
        let is_theirs = |it: &&ReceiverConfig| {
            it.workflow_tenants.iter().any(|named| named == EVERYBODY || named == tenant)
        };
        let theirs: Vec<_> = self.receivers.iter().filter(is_theirs).map(|it| it.name.as_str()).collect();
        if theirs.contains(&name) {
            return Ok(());
        }
        let known = if theirs.is_empty() {
            "there is none that they may".to_owned()
        } else {
            format!("they may tell {}", theirs.join(", "))
        };
        Err(format!(
            "workflows of tenant {tenant} may not tell the receiver {name} anything; {known}: whoever runs the control plane can name the tenant \
             in workflow_tenants of a receiver of that name in notifications.receivers"
        ))
    }
}

impl Notifications {
    /// Whom messages go to, by the name of the receiver; the address may be in a file that cannot be read.
    pub(super) fn destinations(&self) -> Vec<(String, anyhow::Result<Destination>)> {
        self.receivers.iter().map(|it| (format!("receiver {}", it.name), it.destination())).collect()
    }

    /// Files that hold secrets.
    pub(crate) fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.receivers.iter().flat_map(|it| {
            [&it.url_file, &it.secret_file, &it.routing_key_file, &it.password_file].into_iter().flatten()
        })
    }

    /// Files that hold authorities.
    pub(crate) fn ca_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.receivers.iter().filter_map(|it| it.ca.as_ref())
    }

    /// Addresses that may be secrets as a whole.
    pub(super) fn addresses(&self) -> Vec<Zeroizing<String>> {
        self.receivers.iter().filter_map(|it| it.address().ok()).collect()
    }
}

impl ReceiverConfig {
    fn destination(&self) -> anyhow::Result<Destination> {
        match self.kind {
            Type::Email => Ok(Destination {
                host: self.host.clone().context("it needs host")?,
                port: self.smtp_port(),
                tls: self.security.unwrap_or_default() == Security::Tls,
                by_http: false,
                ca: self.ca.clone(),
            }),
            Type::Pagerduty => {
                Destination::of_url(self.url.as_deref().unwrap_or(PAGERDUTY_URL), self.ca.clone())
            }
            Type::Webhook | Type::Slack => Destination::of_url(&self.address()?, self.ca.clone()),
        }
    }

    fn smtp_port(&self) -> u16 {
        let usual = match self.security.unwrap_or_default() {
            Security::Starttls => 587,
            Security::Tls => 465,
            Security::None => 25,
        };
        self.port.unwrap_or(usual)
    }

    fn made(&self, source: &str) -> anyhow::Result<Receiver> {
        let way = self.way(source).with_context(|| format!("notifications.receivers {:?}", self.name))?;
        Ok(Receiver { name: self.name.clone(), way })
    }

    fn way(&self, source: &str) -> anyhow::Result<Way> {
        ensure!(Notify::may_be_receiver(&self.name), "a name has 1 to 63 letters, digits, '-' and '_'");
        self.refuse_foreign_keys()?;
        let readable = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))
        };
        let ca = self.ca.as_deref().map(readable).transpose()?;
        let ca = ca.as_ref().map(|text| text.as_bytes());
        let http = |url: &str| HttpClient::new(url, ca).map_err(anyhow::Error::msg);
        Ok(match self.kind {
            Type::Webhook => Way::Webhook(Webhook {
                http: http(&self.address()?)?,
                secret: self.secret_file.as_deref().map(read).transpose()?.map(Secret),
            }),
            Type::Slack => Way::Slack(Chat { http: http(&self.address()?)?, channel: self.channel.clone() }),
            Type::Pagerduty => Way::PagerDuty(Pager {
                http: http(self.url.as_deref().unwrap_or(PAGERDUTY_URL))?,
                routing_key: Secret(read(
                    self.routing_key_file.as_deref().context("it needs routing_key_file")?,
                )?),
                source: source.to_owned(),
            }),
            Type::Email => Way::Email(Box::new(self.email(ca)?)),
        })
    }

    fn email(&self, ca: Option<&[u8]>) -> anyhow::Result<Email> {
        let security = self.security.unwrap_or_default();
        let login = match (&self.username, &self.password_file) {
            (Some(user), Some(file)) => Some((user.as_str(), read(file)?)),
            (None, None) => None,
            _ => bail!("username and password_file go together"),
        };
        let settings = EmailSettings {
            host: self.host.as_deref().context("it needs host")?,
            port: self.smtp_port(),
            security,
            login,
            ca,
            from: self.from.as_deref().context("it needs from")?,
            to: &self.to,
        };
        Email::new(&settings).map_err(anyhow::Error::msg)
    }

    /// The address, from the configuration or from a file of its own.
    fn address(&self) -> anyhow::Result<Zeroizing<String>> {
        match (&self.url, &self.url_file) {
            (Some(url), None) => Ok(Zeroizing::new(url.clone())),
            (None, Some(file)) => read(file),
            _ => bail!("it needs either url or url_file"),
        }
    }

    /// A key of another type is a mistake: it would have no effect.
    fn refuse_foreign_keys(&self) -> anyhow::Result<()> {
        let is_mail = self.kind == Type::Email;
        let keys = [
            ("url", self.url.is_some(), matches!(self.kind, Type::Webhook | Type::Pagerduty)),
            ("url_file", self.url_file.is_some(), matches!(self.kind, Type::Webhook | Type::Slack)),
            ("secret_file", self.secret_file.is_some(), self.kind == Type::Webhook),
            ("channel", self.channel.is_some(), self.kind == Type::Slack),
            ("routing_key_file", self.routing_key_file.is_some(), self.kind == Type::Pagerduty),
            ("host", self.host.is_some(), is_mail),
            ("port", self.port.is_some(), is_mail),
            ("security", self.security.is_some(), is_mail),
            ("username", self.username.is_some(), is_mail),
            ("password_file", self.password_file.is_some(), is_mail),
            ("from", self.from.is_some(), is_mail),
            ("to", !self.to.is_empty(), is_mail),
        ];
        match keys.iter().find(|(_, is_set, may_be)| *is_set && !*may_be) {
            None => Ok(()),
            Some((key, ..)) => bail!("{key} is no key of this type of receiver"),
        }
    }
}

/// Of receivers as they are shown, leaves only where they are: what follows the host is what lets in, however short it is.
pub(super) fn mask(receivers: &mut Value) {
    for receiver in receivers.as_array_mut().into_iter().flatten() {
        let Some(Value::String(url)) = receiver.get_mut("url") else { continue };
        let host = url.find("://").map_or(0, |at| at + 3);
        if let Some(end) = url[host..].find(['/', '?', '#']) {
            url.truncate(host + end);
            url.extend(["/", MASKED]);
        }
    }
}

/// What a file holds, without the end of its last line.
fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let wrong = || format!("{} cannot be read", path.display());
    let text = Zeroizing::new(std::fs::read_to_string(path).with_context(wrong)?);
    let trimmed = Zeroizing::new(text.trim().to_owned());
    ensure!(!trimmed.is_empty(), "{} is empty", path.display());
    stella_telemetry::hide(path, [trimmed.as_str()]).with_context(|| path.display().to_string())?;
    Ok(trimmed)
}
