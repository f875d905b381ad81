//! Who is told when something is wrong, without any other server: the control plane reads its own journal and sends webhooks, Slack messages,
//! pages and mails.
//!
//! What is wrong is an [`incident`]: it begins with an event and ends with another. A [`route`] says which incidents a receiver is told of. The
//! [`book`] holds what is open and what each receiver was told; it is pure, and saved beside the journal after each change, so that a restart
//! neither forgets an incident nor tells it twice. A [`receiver`] is one way of telling. The [`notifier`] connects them: one task reads, one
//! task for each receiver tells, so that a receiver that is away delays its own messages only.
//!
//! A [`notice`] is what a step of a workflow tells a receiver: once, and by nobody's rules.
//!
//! A message says how things stand when it is sent, not what happened since the last one: nothing piles up for a receiver that is away.

pub mod book;
pub mod incident;
pub mod message;
pub mod notice;
pub mod notifier;
pub mod receiver;
pub mod route;
