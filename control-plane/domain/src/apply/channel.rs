//! Channels of applications.

use std::sync::Arc;

use stella_protocol::id::EnvironmentId;

use super::{Applied, misplaced, missing};
use crate::channel::Channel;
use crate::event::{Event, Fact};
use crate::tenant::TenantState;

impl TenantState {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a fact that is not listed is refused")]
    pub(super) fn apply_channel(&mut self, event: &Event) -> Applied {
        let Event { at, actor, fact, .. } = event;
        match fact {
            Fact::ChannelSet { application, name, rule } => {
                let channel = Channel {
                    application: application.clone(),
                    name: name.clone(),
                    rule: rule.clone(),
                    set_at: *at,
                    set_by: actor.clone(),
                };
                let channels = self.channels.entry(application.clone()).or_default();
                channels.insert(name.clone(), Arc::new(channel));
                Ok(())
            }
            Fact::ChannelRemoved { application, name } => {
                let channels = self.channels.get_mut(application);
                let channels = channels.ok_or_else(|| missing("application", application, fact))?;
                channels.remove(name).ok_or_else(|| missing("channel", name, fact))?;
                if channels.is_empty() {
                    self.channels.remove(application);
                }
                Ok(())
            }
            Fact::EnvironmentChannelsSet { id, channels } => {
                let environment = self.environments.get_mut(id);
                let environment = environment.ok_or_else(|| missing(EnvironmentId::KIND, id, fact))?;
                Arc::make_mut(environment).channels.clone_from(channels);
                Ok(())
            }
            other => Err(misplaced(other)),
        }
    }
}
