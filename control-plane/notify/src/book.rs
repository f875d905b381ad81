//! What is open, and what each receiver was told of it. Pure: time comes in, and what should be sent goes out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stella_domain::name::Name;
use stella_protocol::id::TenantId;
use stella_protocol::time::Timestamp;
use stella_publish::place::Places;

use crate::incident::{Change, Incident, Kind, key, still_lasts};
use crate::message::{Member as Told, Message};
use crate::route::{Route, Routes};

/// The first wait after a message could not be delivered, in milliseconds; it doubles.
const RETRY_FIRST_MS: u64 = 2_000;
/// The longest.
const RETRY_MAX_MS: u64 = 300_000;
/// How many incidents a group holds for one receiver: more than an installation has agents. What is beyond is not told.
const MEMBERS_MAX: usize = 50_000;

/// Everything that has to survive a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// How far the journal was read; `None` before the first time.
    pub places: Option<Places>,
    groups: BTreeMap<String, Group>,
}

/// What is told together: incidents of one kind, in one tenant and environment, to one receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    receiver: String,
    tenant: TenantId,
    tenant_name: String,
    environment: Option<String>,
    kind: Kind,
    members: BTreeMap<String, Member>,
    /// When it began: with the number of the message it makes an id that never comes again.
    began_at: Timestamp,
    /// How many messages were delivered; a part of the next one's id.
    delivered: u64,
    /// Whether the receiver may believe that something is wrong.
    is_open: bool,
    /// When the next message is due.
    due_at: Option<Timestamp>,
    /// When the last one was delivered.
    told_at: Option<Timestamp>,
    /// How often the message that is due could not be delivered.
    failures: u32,
    repeat_ms: Option<u64>,
    resolved: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    summary: String,
    subject: String,
    since: Timestamp,
    scope: Option<String>,
    /// When it ended.
    ended_at: Option<Timestamp>,
    /// Whether the receiver knows of it.
    is_told: bool,
    /// Whether it was in a message of which nobody knows whether it was delivered: its end is told then.
    #[serde(default)]
    is_offered: bool,
}

/// What a receiver's task has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Send this.
    Send(Box<Message>),
    /// Nothing before this time.
    WaitUntil(Timestamp),
    /// Nothing before something changes.
    Nothing,
}

impl Book {
    /// Takes what an event means. Whether anything changed.
    pub fn take(
        &mut self,
        routes: &Routes,
        tenant: (TenantId, &Name),
        change: Change,
        now: Timestamp,
    ) -> bool {
        match change {
            Change::Begins(incident) => self.begin(routes, tenant, &incident, now),
            Change::Ends(kind, subject) => {
                let id = key(tenant.0, kind, &subject);
                self.end(|_, member_id, _| member_id == id, now)
            }
            Change::EndsIn(kind, scope) => self.end(
                |group, _, member| {
                    group.tenant == tenant.0 && group.kind == kind && member.scope.as_deref() == Some(&scope)
                },
                now,
            ),
        }
    }

    fn begin(
        &mut self,
        routes: &Routes,
        (tenant, name): (TenantId, &Name),
        incident: &Incident,
        now: Timestamp,
    ) -> bool {
        let routes = routes.of(name.as_str(), incident.environment.as_deref(), incident.kind);
        for (receiver, route) in &routes {
            let place = incident.environment.as_deref().unwrap_or_default();
            let group_key = format!("{receiver}/{tenant}/{}/{place}", incident.kind.name());
            let group = self.groups.entry(group_key).or_insert_with(|| Group {
                receiver: (*receiver).to_owned(),
                tenant,
                tenant_name: name.to_string(),
                environment: incident.environment.clone(),
                kind: incident.kind,
                members: BTreeMap::new(),
                began_at: now,
                delivered: 0,
                is_open: false,
                due_at: None,
                told_at: None,
                failures: 0,
                repeat_ms: None,
                resolved: true,
            });
            group.begin(route, key(tenant, incident.kind, &incident.subject), incident, now);
        }
        !routes.is_empty()
    }

    fn end(&mut self, is_it: impl Fn(&Group, &str, &Member) -> bool, now: Timestamp) -> bool {
        let mut changed = false;
        for group in self.groups.values_mut() {
            let ended: Vec<String> = group
                .members
                .iter()
                .filter(|(id, member)| member.ended_at.is_none() && is_it(group, id, member))
                .map(|(id, _)| id.clone())
                .collect();
            for id in ended {
                group.end(&id, now);
                changed = true;
            }
        }
        self.groups.retain(|_, group| !group.members.is_empty() || group.is_open);
        changed
    }

    /// Ends what lasts no more and forgets receivers that there are no more: for a start, when events may have been missed or the
    /// configuration was changed.
    pub fn reconcile(
        &mut self,
        receivers: &BTreeSet<&str>,
        state: &stella_domain::state::State,
        now: Timestamp,
    ) {
        self.groups.retain(|_, group| receivers.contains(group.receiver.as_str()));
        self.end(
            |group, _, member| {
                let tenant = state.tenants.get(&group.tenant).map(AsRef::as_ref);
                !still_lasts(tenant, group.kind, &member.subject)
            },
            now,
        );
    }

    /// What a receiver is to be told next. Call [`Self::delivered`] or [`Self::failed`] with what is to be sent before the next call.
    #[must_use]
    pub fn next(&mut self, receiver: &str, now: Timestamp) -> Next {
        let due = self.groups.iter_mut().filter(|(_, group)| group.receiver == receiver);
        let first =
            due.filter_map(|(key, group)| Some((group.due_at?, key, group))).min_by_key(|(at, ..)| *at);
        match first {
            None => Next::Nothing,
            Some((at, ..)) if at > now => Next::WaitUntil(at),
            Some((_, key, group)) => Next::Send(Box::new(group.offer(key, now))),
        }
    }

    /// A message was delivered, or there was nobody to be told of it.
    pub fn delivered(&mut self, message: &Message, now: Timestamp) {
        if let Some(group) = self.groups.get_mut(&message.group) {
            group.delivered(message, now);
            if group.members.is_empty() && !group.is_open {
                self.groups.remove(&message.group);
            }
        }
    }

    /// A message was not delivered: it is tried again later, others of the receiver before it.
    pub fn failed(&mut self, message: &Message, now: Timestamp) {
        if let Some(group) = self.groups.get_mut(&message.group) {
            let wait = RETRY_FIRST_MS.saturating_mul(1 << group.failures.min(16)).min(RETRY_MAX_MS);
            group.failures = group.failures.saturating_add(1);
            group.due_at = Some(now.plus_ms(wait));
            group.forget_ends(message);
        }
    }

    /// How many incidents are open, and how many of its messages are late, for a receiver.
    #[must_use]
    pub fn figures(&self, receiver: &str) -> (usize, usize) {
        let groups = self.groups.values().filter(|group| group.receiver == receiver);
        groups.fold((0, 0), |(open, late), group| {
            let of_group = group.members.values().filter(|it| it.ended_at.is_none()).count();
            (open + of_group, late + usize::from(group.failures > 0))
        })
    }
}

impl Group {
    fn begin(&mut self, route: &Route, id: String, incident: &Incident, now: Timestamp) {
        let milliseconds = |it: std::time::Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
        self.repeat_ms = route.repeat.map(milliseconds);
        self.resolved = route.resolved;
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&id) {
            return;
        }
        let member = self.members.entry(id).or_insert_with(|| Member {
            summary: incident.summary.clone(),
            subject: incident.subject.clone(),
            since: incident.since,
            scope: incident.scope.clone(),
            ended_at: None,
            is_told: false,
            is_offered: false,
        });
        // The same thing again before its end was told is one incident that goes on.
        member.ended_at = None;
        if member.is_told {
            self.calm_down();
        } else {
            self.change(now.plus_ms(milliseconds(route.wait)));
        }
    }

    fn end(&mut self, id: &str, now: Timestamp) {
        let Some(member) = self.members.get_mut(id) else { return };
        let may_know = member.is_told || member.is_offered;
        let is_worth_it = if may_know { self.resolved } else { !self.kind.is_state() };
        if is_worth_it {
            member.ended_at = Some(now);
            self.change(now);
        } else {
            self.members.remove(id);
            self.is_open &= !self.members.is_empty();
            self.calm_down();
        }
    }

    /// Something is to be told at this time, or before. After a failure the wait goes on: a receiver that is away is not asked more often
    /// because more happens.
    fn change(&mut self, at: Timestamp) {
        let earlier = self.due_at.filter(|due| self.failures > 0 || *due < at);
        self.due_at = Some(earlier.unwrap_or(at));
    }

    /// What was to be told is not so any more: only the repetition is left.
    fn calm_down(&mut self) {
        if !self.has_news() {
            let repeat = |told_at: Timestamp| self.repeat_ms.map(|repeat| told_at.plus_ms(repeat));
            self.due_at = self.told_at.filter(|_| !self.members.is_empty()).and_then(repeat);
        }
    }

    fn has_news(&self) -> bool {
        self.members.values().any(|it| !it.is_told || it.ended_at.is_some())
    }

    /// From here on the receiver may know.
    fn offer(&mut self, key: &str, now: Timestamp) -> Message {
        let message = self.message(key, now);
        for member in self.members.values_mut().filter(|it| it.ended_at.is_none()) {
            member.is_offered = true;
        }
        self.is_open |= !message.open.is_empty();
        message
    }

    /// What was said to have ended, and has begun again meanwhile, is news.
    fn forget_ends(&mut self, message: &Message) {
        for told in &message.ended {
            if let Some(member) = self.members.get_mut(&told.id).filter(|it| it.ended_at.is_none()) {
                member.is_told = false;
            }
        }
    }

    fn message(&self, key: &str, now: Timestamp) -> Message {
        let told = |(id, member): (&String, &Member)| Told {
            id: id.clone(),
            subject: member.subject.clone(),
            summary: member.summary.clone(),
            since: member.since,
            ended_at: member.ended_at,
        };
        let (open, ended) = self.members.iter().map(told).partition(|it| it.ended_at.is_none());
        Message {
            group: key.to_owned(),
            began_at: self.began_at,
            number: self.delivered,
            kind: self.kind,
            severity: self.kind.severity(),
            tenant: self.tenant_name.clone(),
            environment: self.environment.clone(),
            at: now,
            was_open: self.is_open,
            is_test: false,
            open,
            ended,
        }
    }

    fn delivered(&mut self, message: &Message, now: Timestamp) {
        for told in &message.open {
            if let Some(member) = self.members.get_mut(&told.id) {
                member.is_told = true;
            }
        }
        for told in &message.ended {
            if self.members.get(&told.id).is_some_and(|it| it.ended_at == told.ended_at) {
                self.members.remove(&told.id);
            }
        }
        self.forget_ends(message);
        self.is_open = !message.open.is_empty();
        self.delivered += 1;
        self.failures = 0;
        self.told_at = Some(now);
        self.due_at = Some(now);
        self.calm_down();
    }
}
