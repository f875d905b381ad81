//! What was done to the certificate authority, and which agents have heard of it.

use stella_protocol::time::Timestamp;

use super::{Applied, ensure, misplaced};
use crate::authority::Authority;
use crate::event::Fact;
use crate::state::SystemState;

impl SystemState {
    pub(super) fn apply_authority(&mut self, at: Timestamp, fact: &Fact) -> Applied {
        let Fact::AuthorityChanged { change, record } = fact else { return Err(misplaced(fact)) };
        let before = self.authority.as_ref();
        let follows = record.change_since(before.map(|it| &it.record)) == Some(*change);
        ensure(follows, "the authority", "something else", fact)?;
        let is_same_root = before.is_none_or(|it| it.record.root == record.root);
        let root_since = if is_same_root { before.and_then(|it| it.root_since) } else { Some(at) };
        self.authority = Some(Authority { record: record.clone(), since: at, root_since });
        Ok(())
    }
}
