//! Promotions: requests to bring a release into an environment, and who let them through.
//!
//! Every deployment that somebody asks for comes from one. Where an environment has a rule, the promotion waits until as many
//! people have approved the plan as the rule wants, and starts then or as soon as it can.

use serde::{Deserialize, Serialize};
use stella_protocol::digest::Digest;
use stella_protocol::id::{AccountId, PromotionId};
use stella_protocol::time::Timestamp;
use stella_protocol::trace::TraceContext;
use stella_signing::{ApprovalStatement, PublicKey, Signature};

use crate::command::{ActingAccount, Actor, NewDeployment};
use crate::event::{Event, Fact};
use crate::hold::Hold;
use crate::plan::{Guarded, Plan};

/// How many approvals a rule may want, and how many accounts it may name.
pub const APPROVALS_MAX: u32 = 16;
/// How long a promotion waits, in milliseconds, unless its environment says otherwise: a week.
pub const EXPIRES_MS_DEFAULT: u64 = 7 * 24 * 3_600_000;
/// The shortest and the longest time that a promotion may wait, in milliseconds: a minute and 90 days.
pub const EXPIRES_MS_RANGE: (u64, u64) = (60_000, 90 * 24 * 3_600_000);
/// How many groups a rule may have.
pub const GROUPS_MAX: usize = 8;
/// How often those who may approve may be asked again.
pub const ASKED_AGAIN_MAX: u32 = 8;
/// How many promotions may wait for one environment: each is looked at again when something changes there.
pub const OPEN_MAX: usize = 64;

/// Whose approval a promotion to an environment needs. Who asked for it never counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRule {
    /// How many accounts must approve. At least 1.
    pub needed: u32,
    /// Only these accounts may decide; if empty, all that have the role there. Sorted, none twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<AccountId>,
    /// How long a promotion waits, in milliseconds, before it expires.
    pub expires_ms: u64,
    /// Further groups of whom so many must approve as well. Who is in several counts for one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Quorum>,
    /// What comes of it when not enough have approved by then.
    #[serde(default, skip_serializing_if = "OnExpiry::is_expire")]
    pub on_expiry: OnExpiry,
}

/// So many of some accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// How many of them must approve. At least 1.
    pub needed: u32,
    /// Who they are; if empty, all that have the role there. Sorted, none twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<AccountId>,
}

/// What comes of a promotion that not enough have approved in time. One that has its approvals, and waits for something else, expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// It expires: nobody has said no, and a step of a workflow that wanted it may ask again if it is to be retried.
    #[default]
    Expire,
    /// Silence is a no: it is rejected, counts among the rejections, and nothing asks again by itself.
    Reject,
    /// Those who may approve are asked again, so often at most; then it expires. Approvals that were given go on counting.
    AskAgain {
        /// How often, 1 to [`ASKED_AGAIN_MAX`].
        times: u32,
    },
}

impl OnExpiry {
    const fn is_expire(&self) -> bool {
        matches!(self, Self::Expire)
    }
}

impl ApprovalRule {
    /// So many of these accounts, or of all that have the role if there are none.
    #[must_use]
    pub const fn of(needed: u32, from: Vec<AccountId>, expires_ms: u64) -> Self {
        Self { needed, from, expires_ms, also: Vec::new(), on_expiry: OnExpiry::Expire }
    }

    /// All groups that must approve: how many of whom.
    pub fn groups(&self) -> impl Iterator<Item = (u32, &[AccountId])> {
        let also = self.also.iter().map(|it| (it.needed, it.from.as_slice()));
        std::iter::once((self.needed, self.from.as_slice())).chain(also)
    }

    /// How many approvals it needs in all, each of another account.
    #[must_use]
    pub fn needed_in_all(&self) -> u32 {
        self.groups().fold(0, |sum, (needed, _)| sum.saturating_add(needed))
    }

    /// Whether an account may decide, if it has the role there: a group names it, or one is open to all.
    #[must_use]
    pub fn lets_decide(&self, account: AccountId) -> bool {
        self.groups().any(|(_, from)| from.is_empty() || from.binary_search(&account).is_ok())
    }

    /// How many of the approvals that it needs these accounts give, when each counts where it is of most use.
    #[must_use]
    pub fn met_by(&self, accounts: &[AccountId]) -> u32 {
        let taken = self.seated(accounts).into_iter().filter(|(_, by)| by.is_some());
        u32::try_from(taken.count()).unwrap_or(u32::MAX)
    }

    /// Which groups lack approvals when these accounts have approved: how many more of whom.
    #[must_use]
    pub fn lacking(&self, accounts: &[AccountId]) -> Vec<(u32, &[AccountId])> {
        let seats = self.seated(accounts);
        let groups = self.groups().enumerate().map(|(at, (_, from))| {
            let free = seats.iter().filter(|(group, by)| *group == at && by.is_none()).count();
            (u32::try_from(free).unwrap_or(u32::MAX), from)
        });
        groups.filter(|(missing, _)| *missing > 0).collect()
    }

    /// The places that have to be taken, each with the number of its group and who takes it: a matching of accounts and places, found by
    /// augmenting paths.
    fn seated(&self, accounts: &[AccountId]) -> Vec<(usize, Option<AccountId>)> {
        let most = usize::try_from(APPROVALS_MAX).unwrap_or(usize::MAX);
        let places = self.groups().enumerate().flat_map(|(at, (needed, from))| {
            std::iter::repeat_n((at, from), usize::try_from(needed).unwrap_or(most).min(most))
        });
        let (groups, places): (Vec<usize>, Vec<&[AccountId]>) = places.unzip();
        let mut taken: Vec<Option<AccountId>> = vec![None; places.len()];
        for account in accounts {
            let mut tried = vec![false; places.len()];
            seat(*account, &places, &mut taken, &mut tried);
        }
        groups.into_iter().zip(taken).collect()
    }
}

/// Finds a place for an account, if need be by moving others to other places.
fn seat(
    account: AccountId,
    places: &[&[AccountId]],
    taken: &mut [Option<AccountId>],
    tried: &mut [bool],
) -> bool {
    for (at, from) in places.iter().enumerate() {
        if tried[at] || !(from.is_empty() || from.binary_search(&account).is_ok()) {
            continue;
        }
        tried[at] = true;
        if taken[at].is_none_or(|other| seat(other, places, taken, tried)) {
            taken[at] = Some(account);
            return true;
        }
    }
    false
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_never(times: &u32) -> bool {
    *times == 0
}

/// A request to bring a release into an environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Its id, with the digits of [`NewDeployment::id`].
    pub id: PromotionId,
    /// The deployment that it asks for.
    pub wanted: NewDeployment,
    /// What that deployment would do, frozen: it starts only as long as it would do the same.
    pub plan: Plan,
    /// Whose approval it needs, frozen; `None` is nobody's.
    pub rule: Option<ApprovalRule>,
    /// Who let it through, oldest first, none twice.
    pub approvals: Vec<Approval>,
    /// Approvals that counted once and count no more, the newest last, at most [`APPROVALS_MAX`].
    #[serde(default)]
    pub lapsed: Vec<Lapsed>,
    /// How far it has got.
    pub status: PromotionStatus,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// By whom.
    pub requested_by: Actor,
    /// Who else has chosen what it brings: whoever wrote the workflow of the run that asks or answered what that has asked for, or asked
    /// for what has come by itself since, or is tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen_by: Vec<Actor>,
    /// The trace that it belongs to, and the span that asked for it.
    pub trace: TraceContext,
    /// When the freeze ends that keeps it from starting, if one does.
    #[serde(default)]
    pub held_until: Option<Timestamp>,
    /// How often those who may approve were asked again.
    #[serde(default, skip_serializing_if = "is_never")]
    pub asked_again: u32,
    /// When it expires, if it still waits then.
    pub expires_at: Option<Timestamp>,
}

impl Promotion {
    /// Whether enough accounts have approved.
    #[must_use]
    pub fn is_approved(&self) -> bool {
        self.missing() == 0
    }

    /// Whether this event let it through: it is the last approval that was needed. Several may come in one batch, and in one
    /// millisecond; the state that is seen is then the one after all of them.
    #[must_use]
    pub fn is_let_through_by(&self, event: &Event) -> bool {
        let (Actor::ApiToken { account: Some(by), .. }, Some(rule)) = (&event.actor, &self.rule) else {
            return false;
        };
        let is_this = matches!(&event.fact, Fact::ApprovalGranted { id, .. } if *id == self.id);
        let given = self.given();
        let enough = (1..=given.len()).find(|count| rule.met_by(&given[..*count]) >= rule.needed_in_all());
        is_this && enough.is_some_and(|count| given[count - 1] == by.id)
    }

    /// Who has approved, oldest first.
    fn given(&self) -> Vec<AccountId> {
        self.approvals.iter().map(|approval| approval.by.id).collect()
    }

    /// How many approvals it lacks.
    #[must_use]
    pub fn missing(&self) -> u32 {
        let lacks = |rule: &ApprovalRule| rule.needed_in_all().saturating_sub(rule.met_by(&self.given()));
        self.rule.as_ref().map_or(0, lacks)
    }

    /// Which groups lack approvals: how many more of whom.
    #[must_use]
    pub fn lacking(&self) -> Vec<(u32, &[AccountId])> {
        let given = self.given();
        self.rule.as_ref().map(|rule| rule.lacking(&given)).unwrap_or_default()
    }

    /// How much of what guards its environment is part of what people approve: it is looked at in the form in which it was asked for until
    /// its end.
    pub(crate) const fn guarded(&self) -> Guarded {
        if self.rule.is_some() { self.plan.guarded() } else { Guarded::Wholly }
    }

    /// Whether it waits.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(self.status, PromotionStatus::Pending)
    }

    /// When it came to its end.
    #[must_use]
    pub const fn ended_at(&self) -> Option<Timestamp> {
        match &self.status {
            PromotionStatus::Pending => None,
            PromotionStatus::Started { at }
            | PromotionStatus::Expired { at }
            | PromotionStatus::Invalidated { at, .. } => Some(*at),
            PromotionStatus::Rejected { hold, .. } | PromotionStatus::Withdrawn { hold } => Some(hold.since),
        }
    }

    /// Its status in messages and the API: one that waits is `pending`, or `approved` when only its start is missing.
    #[must_use]
    pub fn status_name(&self) -> &'static str {
        if self.is_open() && self.is_approved() { "approved" } else { self.status.name() }
    }

    /// Whether this is who asked for it, or has chosen what it brings: they do not let it through.
    #[must_use]
    pub fn is_of(&self, actor: &Actor) -> bool {
        self.requested_by.is(actor) || self.has_chosen(actor)
    }

    /// Whether this is who has chosen what it brings, and did not ask for it.
    #[must_use]
    pub fn has_chosen(&self, actor: &Actor) -> bool {
        self.chosen_by.iter().any(|chooser| chooser.is(actor))
    }
}

/// Somebody's word for a promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Whose.
    pub by: ActingAccount,
    /// When.
    pub at: Timestamp,
    /// Why, for a person. May be empty.
    pub reason: String,
    /// A signature over what was approved, if one was given. It was checked: see [`ApprovalSignature`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<ApprovalSignature>,
}

/// A signature over an approval's [`ApprovalStatement`]. The core takes none that this key has not made; whose key it is, is not known
/// here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalSignature {
    /// The key.
    pub key: PublicKey,
    /// What it has made.
    pub signature: Signature,
}

impl ApprovalSignature {
    /// Whether the key has signed that this account approves this plan of this promotion.
    #[must_use]
    pub fn is_over(&self, promotion: PromotionId, plan: Digest, account: AccountId) -> bool {
        self.is_of(promotion, plan, Some(account))
    }

    /// Whether it may be in a journal: those of before have some that do not say whose approval it is.
    pub(crate) fn may_be_recorded(&self, promotion: PromotionId, plan: Digest, account: AccountId) -> bool {
        self.is_over(promotion, plan, account) || self.is_of(promotion, plan, None)
    }

    fn is_of(&self, promotion: PromotionId, plan: Digest, account: Option<AccountId>) -> bool {
        let account = account.map(|account| account.to_string());
        let statement = ApprovalStatement { promotion: promotion.to_string(), plan, account };
        self.key.has_signed(&statement, &self.signature)
    }
}

/// An approval that counts no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapsed {
    /// What was said.
    pub approval: Approval,
    /// Since when it does not count.
    pub at: Timestamp,
    /// Why, for a person.
    pub reason: String,
}

/// How far a promotion has got. All but the first are final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum PromotionStatus {
    /// It waits: for approvals, or for what keeps it from starting.
    Pending,
    /// It has become the deployment with the same digits.
    Started {
        /// When.
        at: Timestamp,
    },
    /// Somebody did not let it through.
    Rejected {
        /// What was the matter.
        objection: Objection,
        /// Who, when and why.
        hold: Hold,
    },
    /// It is not asked for any more.
    Withdrawn {
        /// Who, when and why.
        hold: Hold,
    },
    /// It has waited for too long.
    Expired {
        /// When.
        at: Timestamp,
    },
    /// It would not do any more what was approved.
    Invalidated {
        /// When.
        at: Timestamp,
        /// What has changed, for a person.
        reason: String,
    },
}

impl PromotionStatus {
    /// The names of the ends in messages and the API. In metrics, what has started counts with the end of its deployment.
    pub const ENDS: [&'static str; 5] = ["started", "rejected", "withdrawn", "expired", "invalidated"];

    /// The name in messages and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Started { .. } => "started",
            Self::Rejected { .. } => "rejected",
            Self::Withdrawn { .. } => "withdrawn",
            Self::Expired { .. } => "expired",
            Self::Invalidated { .. } => "invalidated",
        }
    }
}

/// Why somebody does not let a promotion through: the label `reason` of `stella_approval_rejections_total`, which free text
/// cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objection {
    /// It was not tested enough.
    NotTested,
    /// It could break too much.
    TooRisky,
    /// Not now.
    BadTiming,
    /// Something is missing: a note, a migration, an agreement.
    Incomplete,
    /// It is the wrong release or the wrong place.
    Mistake,
    /// Nobody has answered in time, and the rule takes that for a no. Not for people to say.
    Unanswered,
    /// None of these; the reason says it.
    Other,
}

impl Objection {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::NotTested,
        Self::TooRisky,
        Self::BadTiming,
        Self::Incomplete,
        Self::Mistake,
        Self::Unanswered,
        Self::Other,
    ];

    /// The name in metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotTested => "not_tested",
            Self::TooRisky => "too_risky",
            Self::BadTiming => "bad_timing",
            Self::Incomplete => "incomplete",
            Self::Mistake => "mistake",
            Self::Unanswered => "unanswered",
            Self::Other => "other",
        }
    }
}
