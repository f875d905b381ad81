//! One way of telling somebody, and what they answered.

mod email;
mod http;

use std::time::Duration;

pub use email::{Email, Security, Settings as EmailSettings};
pub use http::{Chat, HttpClient, Pager, Secret, Webhook, signature};

use stella_protocol::time::Timestamp;

use crate::message::Message;
use crate::notice::Notice;

/// How long one delivery may take.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// How much of an answer is shown, in characters.
const ANSWER_CHARS_MAX: usize = 200;

/// A receiver, by its name in the configuration.
#[derive(Debug)]
pub struct Receiver {
    /// What it is called.
    pub name: String,
    /// How it is told.
    pub way: Way,
}

/// The ways of telling.
#[derive(Debug)]
pub enum Way {
    /// JSON to an address of the receiver's own, signed.
    Webhook(Webhook),
    /// An incoming webhook of Slack, or of what speaks like it.
    Slack(Chat),
    /// PagerDuty's Events API, version 2.
    PagerDuty(Pager),
    /// Mail by SMTP.
    Email(Box<Email>),
}

/// Why a message was not delivered. Never shows an address or a key: both may be secrets.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The receiver was not reached, or did not answer.
    #[error("the receiver cannot be reached: {0}")]
    Unreachable(String),
    /// The receiver answered that it does not take the message.
    #[error("the receiver does not take the message: {0}")]
    Refused(String),
}

impl Receiver {
    /// Tells it, within [`TIMEOUT`]. What it answered; `None` if there was nothing to tell this kind of receiver.
    ///
    /// # Errors
    /// If it was not reached, or did not take it.
    pub async fn tell(&self, message: &Message) -> Result<Option<String>, DeliveryError> {
        within(async {
            match &self.way {
                Way::Webhook(webhook) => webhook.tell(message).await.map(Some),
                Way::Slack(chat) => chat.tell(message).await.map(Some),
                Way::PagerDuty(pager) => pager.tell(message).await,
                Way::Email(email) => email.tell(message).await.map(Some),
            }
        })
        .await
    }

    /// Tells it what a step of a workflow says, within [`TIMEOUT`]. What it answered.
    ///
    /// # Errors
    /// If it was not reached, or did not take it.
    pub async fn notify(&self, notice: &Notice, now: Timestamp) -> Result<String, DeliveryError> {
        within(async {
            match &self.way {
                Way::Webhook(webhook) => webhook.notify(notice, now).await,
                Way::Slack(chat) => chat.notify(notice).await,
                Way::PagerDuty(pager) => pager.notify(notice).await,
                Way::Email(email) => email.notify(notice).await,
            }
        })
        .await
    }
}

async fn within<T>(told: impl Future<Output = Result<T, DeliveryError>>) -> Result<T, DeliveryError> {
    tokio::time::timeout(TIMEOUT, told).await.unwrap_or_else(|_| {
        Err(DeliveryError::Unreachable(format!("no answer within {} s", TIMEOUT.as_secs())))
    })
}

/// An answer as it may be shown on a terminal and in a log. A receiver may repeat its address and what it was sent: that is masked before
/// the answer is cut, because what is left of a secret is not known for one any more.
fn shown(answer: &str) -> String {
    let masked = stella_telemetry::redact_text(answer.trim());
    let printable = masked.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(ANSWER_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::{ANSWER_CHARS_MAX, shown};

    #[test]
    fn no_part_of_a_secret_is_left_where_an_answer_is_cut() {
        let secret = "k".repeat(60);
        stella_telemetry::hide(std::path::Path::new("answers"), [secret.as_str()]).unwrap();
        let answer = format!("{}{secret} is not here", "x".repeat(ANSWER_CHARS_MAX - 30));
        let shown = shown(&answer);
        assert!(!shown.contains("kkk") && shown.chars().count() <= ANSWER_CHARS_MAX, "{shown}");
    }
}
