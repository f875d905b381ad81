//! Whom steps of workflows tell what they tell.

use std::collections::BTreeMap;
use std::time::Duration;

use stella_domain::run::CallOutcome;
use stella_notify::notice::Notice;
use stella_notify::receiver::Receiver;
use stella_protocol::time::Timestamp;

use crate::config::Notifications;

/// Those that workflows may tell something, and what says of which tenants.
#[derive(Debug)]
pub(super) struct Receivers {
    made: BTreeMap<String, Receiver>,
    config: Notifications,
}

impl Receivers {
    /// # Errors
    /// Names the receiver and the key that makes no sense.
    pub(super) fn of(config: &Notifications) -> anyhow::Result<Self> {
        Ok(Self { made: config.for_workflows()?, config: config.clone() })
    }

    /// Tells one of them, if workflows of the tenant may.
    pub(super) async fn notify(
        &self,
        receiver: &str,
        notice: &Notice,
        now: Timestamp,
        limit: Duration,
    ) -> CallOutcome {
        let told = async {
            self.config.may_notify(&notice.tenant, receiver)?;
            let found = self.made.get(receiver).ok_or_else(|| format!("there is no receiver {receiver}"))?;
            // The reason is an event, which a tenant reads.
            found.notify(notice, now).await.map_err(|error| stella_telemetry::redact_text(&error.to_string()))
        };
        match tokio::time::timeout(limit, told).await {
            Ok(Ok(_)) => CallOutcome::Told,
            Ok(Err(reason)) => CallOutcome::Failed { reason },
            Err(_) => {
                CallOutcome::Failed { reason: format!("there was no answer within {} s", limit.as_secs()) }
            }
        }
    }
}
