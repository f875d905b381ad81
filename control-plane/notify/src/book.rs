//! What is open, and what each receiver was told of it. Pure: time comes in, and what should be sent goes out.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use stella_domain::name::Name;
use stella_protocol::id::TenantId;
use stella_protocol::time::Timestamp;
use stella_readers::place::Places;

use crate::incident::{Change, Found, INSTALLATION, Incident, Kind, key, still_lasts};
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
    /// The next message's number: no two that say different things have the same. (Files of older versions count what was delivered.)
    #[serde(rename = "delivered")]
    number: u64,
    /// Whether the message with that number was, or may have been, on its way: what is said next has another number then. A file that
    /// does not say so is of an older version, and nobody knows.
    #[serde(default = "nobody_knows")]
    is_offered: bool,
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
    Send {
        /// What to say.
        message: Box<Message>,
        /// Whether it was not on its way before. Then the book has to be durable before it is: a restart must know what somebody may
        /// have heard, and under which id.
        is_first: bool,
    },
    /// Nothing before this time.
    WaitUntil(Timestamp),
    /// Nothing before something changes.
    Nothing,
}

/// Under which key a receiver's incidents of one kind and place are.
fn group_key(receiver: &str, tenant: TenantId, incident: &Incident) -> String {
    let place = incident.environment.as_deref().unwrap_or_default();
    format!("{receiver}/{tenant}/{}/{place}", incident.kind.name())
}

const fn nobody_knows() -> bool {
    true
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
            Change::Begins(incident) => self.begin(routes, (tenant.0, tenant.1.as_str()), &incident, now),
            Change::AskedAgain(incident) => {
                self.ask_again(tenant.0, &incident);
                self.begin(routes, (tenant.0, tenant.1.as_str()), &incident, now)
            }
            Change::Ends(kind, subject) => {
                let id = key(tenant.0, kind, &subject);
                self.end(|group| group.open(&id).map(|_| id.clone()).into_iter().collect(), now)
            }
            Change::EndsIn(kind, scope) => self.end_in((tenant.0, kind), |it| it == scope, now),
            Change::EndsWithin(kind, within) => {
                self.end_in((tenant.0, kind), |it| it.starts_with(&within), now)
            }
        }
    }

    fn end_in(&mut self, of: (TenantId, Kind), is_over: impl Fn(&str) -> bool, now: Timestamp) -> bool {
        self.end(
            |group| {
                if (group.tenant, group.kind) != of {
                    return Vec::new();
                }
                group.open_where(|member| member.scope.as_deref().is_some_and(&is_over))
            },
            now,
        )
    }

    fn begin(
        &mut self,
        routes: &Routes,
        (tenant, name): (TenantId, &str),
        incident: &Incident,
        now: Timestamp,
    ) -> bool {
        let routes = routes.of(name, incident.environment.as_deref(), incident.kind);
        for (receiver, route) in &routes {
            let group = self.groups.entry(group_key(receiver, tenant, incident)).or_insert_with(|| Group {
                receiver: (*receiver).to_owned(),
                tenant,
                tenant_name: name.to_owned(),
                environment: incident.environment.clone(),
                kind: incident.kind,
                members: BTreeMap::new(),
                began_at: now,
                number: 0,
                is_offered: false,
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

    /// What was told of it is not what is to be told now: it is news again to everybody who is told of it.
    fn ask_again(&mut self, tenant: TenantId, incident: &Incident) {
        let id = key(tenant, incident.kind, &incident.subject);
        for group in self.groups.values_mut().filter(|group| group.open(&id).is_some()) {
            group.renew();
            if let Some(member) = group.members.get_mut(&id) {
                member.is_told = false;
                member.since = incident.since;
                member.summary.clone_from(&incident.summary);
            }
        }
    }

    /// Takes how the control plane itself is doing now: what is new begins, what is not found any more ends. Whether anything changed.
    pub fn stand(&mut self, routes: &Routes, found: &[Found], now: Timestamp) -> bool {
        let mut changed = false;
        for it in found.iter().filter(|it| it.kind.is_of_installation()) {
            let incident = Incident {
                kind: it.kind,
                subject: it.subject.clone(),
                environment: None,
                summary: it.summary.clone(),
                since: now,
                scope: None,
            };
            let id = key(INSTALLATION, it.kind, &it.subject);
            let is_known = |receiver: &str| {
                let group = self.groups.get(&group_key(receiver, INSTALLATION, &incident));
                group.is_some_and(|group| group.open(&id).is_some())
            };
            if routes.of("", None, it.kind).iter().any(|(receiver, _)| !is_known(receiver)) {
                changed |= self.begin(routes, (INSTALLATION, ""), &incident, now);
            }
        }
        let over = |group: &Group| {
            if !group.kind.is_of_installation() {
                return Vec::new();
            }
            let is_found = |member: &Member| {
                found.iter().any(|it| it.kind == group.kind && it.subject == member.subject)
            };
            group.open_where(|member| !is_found(member))
        };
        self.end(over, now) || changed
    }

    /// Ends those of each group that `which` names. Whether there were any.
    fn end(&mut self, which: impl Fn(&Group) -> Vec<String>, now: Timestamp) -> bool {
        let mut changed = false;
        self.groups.retain(|_, group| {
            for id in which(group) {
                group.end(&id, now);
                changed = true;
            }
            !group.members.is_empty() || group.is_open
        });
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
            |group| {
                let tenant = state.tenants.get(&group.tenant).map(AsRef::as_ref);
                group.open_where(|member| {
                    !still_lasts(tenant, group.kind, &member.subject, member.scope.as_deref())
                })
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
            Some((_, key, group)) => {
                let is_first = !group.is_offered;
                Next::Send { message: Box::new(group.offer(key, now)), is_first }
            }
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
    /// An incident that has not ended.
    fn open(&self, id: &str) -> Option<&Member> {
        self.members.get(id).filter(|member| member.ended_at.is_none())
    }

    /// The keys of those that have not ended and are meant.
    fn open_where(&self, is_it: impl Fn(&Member) -> bool) -> Vec<String> {
        let meant = self.members.iter().filter(|(_, member)| member.ended_at.is_none() && is_it(member));
        meant.map(|(id, _)| id.clone()).collect()
    }

    /// What a message would say has changed: it is another one than that which somebody may have heard.
    fn renew(&mut self) {
        if std::mem::take(&mut self.is_offered) {
            self.number += 1;
        }
    }

    fn begin(&mut self, route: &Route, id: String, incident: &Incident, now: Timestamp) {
        let milliseconds = |it: std::time::Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX);
        self.repeat_ms = route.repeat.map(milliseconds);
        self.resolved = route.resolved;
        if self.members.len() >= MEMBERS_MAX && !self.members.contains_key(&id) {
            return;
        }
        if self.open(&id).is_none_or(|known| known.summary != incident.summary) {
            self.renew();
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
        // The same thing again before its end was told is one incident that goes on; what is said of it may have changed.
        member.ended_at = None;
        member.summary.clone_from(&incident.summary);
        if member.is_told {
            self.calm_down();
        } else {
            self.change(now.plus_ms(milliseconds(route.wait)));
        }
    }

    fn end(&mut self, id: &str, now: Timestamp) {
        self.renew();
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
        for member in self.members.values_mut() {
            member.is_offered = true;
            // Should it begin again, that is news to who has heard of its end.
            member.is_told &= member.ended_at.is_none();
        }
        self.is_open |= !message.open.is_empty();
        self.is_offered = true;
        message
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
            number: self.number,
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
            // One that is over, and began again while nobody tells of ends, is not the one that was told.
            if let Some(member) = self.members.get_mut(&told.id).filter(|it| it.since == told.since) {
                member.is_told = true;
            }
        }
        for told in &message.ended {
            if self.members.get(&told.id).is_some_and(|it| it.ended_at == told.ended_at) {
                self.members.remove(&told.id);
            }
        }
        self.is_open = !message.open.is_empty();
        if self.number == message.number {
            self.renew();
        }
        self.failures = 0;
        self.told_at = Some(now);
        self.due_at = Some(now);
        self.calm_down();
    }
}
