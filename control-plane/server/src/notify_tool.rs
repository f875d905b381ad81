//! `stella-orchestrator notifications`: tries what is configured.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Subcommand;
use stella_notify::message::Message;
use stella_protocol::time::Timestamp;

use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum NotificationsCommand {
    /// Send a test message to a receiver and say what it answered. The control plane may run meanwhile.
    #[command(after_help = "Example:\n  sudo stella-orchestrator notifications test pager")]
    Test {
        /// The name of one of `notifications.receivers`.
        receiver: String,
    },
}

/// Whether the receiver took the message.
pub(crate) fn run(command: &NotificationsCommand, config: &Config) -> anyhow::Result<bool> {
    let NotificationsCommand::Test { receiver: name } = command;
    let receivers = config.notifications.receivers()?;
    let names: Vec<_> = receivers.iter().map(|it| it.name.as_str()).collect();
    let known = if names.is_empty() {
        "there are none".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    };
    let receiver = receivers
        .iter()
        .find(|it| it.name == *name)
        .with_context(|| format!("none of notifications.receivers is called {name:?}; {known}"))?;
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut out = std::io::stdout();
    match runtime.block_on(receiver.tell(&Message::test(now))) {
        Ok(answer) => {
            writeln!(out, "{name} took the test message and answered {}", answer.unwrap_or_default())?;
            Ok(true)
        }
        Err(error) => {
            writeln!(out, "{name} was not told: {error}")?;
            Ok(false)
        }
    }
}
