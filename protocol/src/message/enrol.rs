//! How a host becomes an agent, and for how much.

use serde::{Deserialize, Serialize};

use super::capability;
use crate::id::{AgentId, EnrolmentTokenId, TenantId};

/// The first and only frame of an agent that has no identity yet (ALPN [`crate::version::ALPN_ENROL`]
/// and [`crate::version::ALPN_ENROL_2`]).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The token's public half.
    pub token: EnrolmentTokenId,
    /// The token's secret half.
    pub secret: [u8; 32],
    /// A PKCS #10 request in DER. Names in it are ignored.
    pub csr_der: Vec<u8>,
    /// How the host calls itself; the tenant may rename it.
    pub hostname: String,
    /// The agent's software version, for people.
    pub agent_version: String,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("token", &self.token)
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

/// The same from a host that says what it wants to be (ALPN [`crate::version::ALPN_ENROL_3`]): a token for something else is then
/// refused, and not used up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequestFor {
    /// What the token has to be for; `None` takes whatever it is for.
    pub profile: Option<Profile>,
    /// Everything else.
    pub request: EnrolRequest,
}

/// What tasks may do on a host. Its words are kept in journals and files, its numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Read it, change the host root, and start and stop units: no capability, and a system that cannot be written to.
    Confined,
    /// Everything that the agent's user may.
    Full,
}

impl Profile {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Confined => "confined",
            Self::Full => "full",
        }
    }

    /// How an agent runs that says so by these bits; `None` if it says nothing about it.
    #[must_use]
    pub const fn of_capabilities(bits: u64) -> Option<Self> {
        if bits & capability::PROFILE == 0 {
            return None;
        }
        Some(if bits & capability::FULL == 0 { Self::Confined } else { Self::Full })
    }
}

/// The answer to an enrolment. The same (token, public key) always gets the same identity, so a lost reply burns nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolResponse {
    /// Welcome to the fleet.
    Granted {
        /// The tenant that the token belongs to.
        tenant: TenantId,
        /// The new identity.
        agent: AgentId,
        /// The leaf and its intermediates, DER, leaf first.
        chain_der: Vec<Vec<u8>>,
        /// The roots to trust, DER.
        roots_der: Vec<Vec<u8>>,
    },
    /// No. Nothing was changed.
    Refused {
        /// For a person: why, and what to do.
        reason: String,
    },
    /// Welcome, for this much and no more. Only from [`crate::version::ALPN_ENROL_2`] on, and only if the token says for how much.
    GrantedFor {
        /// What the token lets tasks do on the host.
        profile: Profile,
        /// The tenant that the token belongs to.
        tenant: TenantId,
        /// The new identity.
        agent: AgentId,
        /// The leaf and its intermediates, DER, leaf first.
        chain_der: Vec<Vec<u8>>,
        /// The roots to trust, DER.
        roots_der: Vec<Vec<u8>>,
    },
}

/// What a host is given that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// What the token lets tasks do on the host; `None` if it does not say, or the control plane is of before tokens did.
    pub profile: Option<Profile>,
    /// The tenant that the token belongs to.
    pub tenant: TenantId,
    /// The new identity.
    pub agent: AgentId,
    /// The leaf and its intermediates, DER, leaf first.
    pub chain_der: Vec<Vec<u8>>,
    /// The roots to trust, DER.
    pub roots_der: Vec<Vec<u8>>,
}

impl EnrolResponse {
    /// What was granted.
    ///
    /// # Errors
    /// The reason of a refusal.
    pub fn into_granted(self) -> Result<Granted, String> {
        match self {
            Self::Granted { tenant, agent, chain_der, roots_der } => {
                Ok(Granted { profile: None, tenant, agent, chain_der, roots_der })
            }
            Self::GrantedFor { profile, tenant, agent, chain_der, roots_der } => {
                Ok(Granted { profile: Some(profile), tenant, agent, chain_der, roots_der })
            }
            Self::Refused { reason } => Err(reason),
        }
    }
}

impl From<Granted> for EnrolResponse {
    fn from(granted: Granted) -> Self {
        let Granted { profile, tenant, agent, chain_der, roots_der } = granted;
        match profile {
            Some(profile) => Self::GrantedFor { profile, tenant, agent, chain_der, roots_der },
            None => Self::Granted { tenant, agent, chain_der, roots_der },
        }
    }
}
