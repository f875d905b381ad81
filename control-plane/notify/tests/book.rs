//! The book in virtual time: what is told, when, once, and what survives a restart.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use stella_domain::name::Name;
use stella_notify::book::{Book, Next};
use stella_notify::incident::{Change, Incident, Kind, Severity};
use stella_notify::message::Message;
use stella_notify::route::{Route, Routes};
use stella_protocol::id::TenantId;
use stella_protocol::time::Timestamp;
use uuid::Uuid;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));

fn routes(repeat_s: Option<u64>) -> Routes {
    Routes(vec![Route {
        receivers: vec!["ops".to_owned()],
        tenants: Vec::new(),
        environments: Vec::new(),
        kinds: Vec::new(),
        severity_min: Severity::Info,
        wait: Duration::from_secs(10),
        repeat: repeat_s.map(Duration::from_secs),
        resolved: true,
    }])
}

fn seconds(at: u64) -> Timestamp {
    Timestamp(at * 1_000)
}

fn begins(kind: Kind, subject: &str, at: u64) -> Change {
    let environment = (kind != Kind::AgentOffline).then(|| "staging".to_owned());
    Change::Begins(Incident {
        kind,
        subject: subject.to_owned(),
        environment,
        summary: format!("{subject} is not well"),
        since: seconds(at),
        scope: Some("staging/app".to_owned()),
    })
}

struct World {
    book: Book,
    routes: Routes,
}

impl World {
    fn new(repeat_s: Option<u64>) -> Self {
        Self { book: Book::default(), routes: routes(repeat_s) }
    }

    fn take(&mut self, change: Change, at: u64) {
        let name: Name = "acme".parse().unwrap();
        self.book.take(&self.routes, (TENANT, &name), change, seconds(at));
    }

    fn begin(&mut self, kind: Kind, subject: &str, at: u64) {
        self.take(begins(kind, subject, at), at);
    }

    fn end(&mut self, kind: Kind, subject: &str, at: u64) {
        self.take(Change::Ends(kind, subject.to_owned()), at);
    }

    /// What is due at this time, delivered.
    fn told(&mut self, at: u64) -> Option<Message> {
        let Next::Send(message) = self.book.next("ops", seconds(at)) else { return None };
        self.book.delivered(&message, seconds(at));
        Some(*message)
    }

    fn restart(&mut self) {
        let saved = serde_json::to_vec(&self.book).unwrap();
        self.book = serde_json::from_slice(&saved).unwrap();
    }
}

#[test]
fn an_incident_is_told_once_repeated_and_ended_over_restarts() {
    let mut world = World::new(Some(3_600));
    world.begin(Kind::AgentOffline, "web-1", 100);
    assert_eq!(world.told(109), None, "it waits for others");
    assert_eq!(world.book.next("ops", seconds(100)), Next::WaitUntil(seconds(110)));
    world.restart();
    let first = world.told(110).unwrap();
    assert_eq!((first.status(), first.open.len(), first.was_open), ("firing", 1, false));
    world.restart();
    assert_eq!(world.told(3_000), None, "it was told");
    let repeated = world.told(110 + 3_600).unwrap();
    assert!(repeated.was_open && repeated.status() == "firing" && repeated.id() != first.id());
    world.end(Kind::AgentOffline, "web-1", 4_000);
    world.restart();
    let last = world.told(4_000).unwrap();
    assert_eq!((last.status(), last.ended.len(), &last.group), ("resolved", 1, &first.group));
    assert_eq!(world.book.next("ops", seconds(1_000_000)), Next::Nothing);
    // The next time is another incident, and no duplicate of the first.
    world.begin(Kind::AgentOffline, "web-1", 5_000);
    let again = world.told(5_010).unwrap();
    assert_ne!(again.id(), first.id());
}

#[test]
fn forty_agents_are_one_message_and_one_that_is_back_before_it_is_not_told() {
    let mut world = World::new(None);
    for n in 0..40 {
        world.begin(Kind::AgentOffline, &format!("web-{n}"), 100 + n / 10);
    }
    world.end(Kind::AgentOffline, "web-7", 105);
    let message = world.told(110).unwrap();
    assert_eq!((message.open.len(), message.ended.len()), (39, 0));
    assert!(message.title().contains("39 agents are offline"), "{}", message.title());
    assert_eq!(message.lines().len(), 21, "and 19 more");
    assert_eq!(world.told(100_000), None, "without repetition it is told once");
    world.begin(Kind::AgentOffline, "web-50", 200);
    world.end(Kind::AgentOffline, "web-50", 201);
    assert_eq!(world.told(100_000), None, "nor is one again because another came and went");
}

#[test]
fn a_failure_is_told_even_if_it_is_over_and_a_later_success_ends_all_of_them() {
    let mut world = World::new(None);
    world.begin(Kind::DeploymentFailed, "d1", 100);
    world.begin(Kind::DeploymentFailed, "d2", 101);
    world.take(Change::EndsIn(Kind::DeploymentFailed, "production/app".to_owned()), 102);
    world.take(Change::EndsIn(Kind::DeploymentFailed, "staging/app".to_owned()), 103);
    let message = world.told(110).unwrap();
    assert_eq!((message.status(), message.ended.len(), message.was_open), ("resolved", 2, false));
    assert_eq!(world.told(100_000), None);
}

#[test]
fn a_message_that_fails_waits_longer_each_time_and_lets_others_pass() {
    let mut world = World::new(None);
    world.begin(Kind::AgentOffline, "web-1", 100);
    let mut at = 110;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let Next::Send(message) = world.book.next("ops", seconds(at)) else { panic!("not due at {at}") };
        assert_eq!(message.number, 0, "it is the same message");
        world.book.failed(&message, seconds(at));
        let Next::WaitUntil(next) = world.book.next("ops", seconds(at)) else { panic!("it is given up") };
        waits.push(next.since(seconds(at)).as_secs());
        at = next.0 / 1_000;
        // More of the same does not make it due earlier.
        world.begin(Kind::AgentOffline, &format!("web-{at}"), at - 1);
        assert_eq!(world.book.next("ops", seconds(at - 1)), Next::WaitUntil(next));
    }
    assert!(waits.is_sorted() && waits[0] == 2 && waits[11] == 300, "{waits:?}");
    let mut other = World::new(None);
    other.begin(Kind::AgentOffline, "web-1", 100);
    other.begin(Kind::Rollback, "r1", 101);
    let Next::Send(first) = other.book.next("ops", seconds(111)) else { panic!("nothing is due") };
    other.book.failed(&first, seconds(111));
    assert_eq!(other.told(111).unwrap().kind, Kind::Rollback);
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u8),
    End(u8),
    Deliver,
    Fail,
    Restart,
    /// A message is on its way while this happens.
    While(Box<Self>),
}

fn step() -> impl Strategy<Value = Step> {
    let simple = prop_oneof![(0..6_u8).prop_map(Step::Begin), (0..6_u8).prop_map(Step::End)];
    prop_oneof![
        4 => simple.clone(),
        3 => Just(Step::Deliver),
        1 => Just(Step::Fail),
        1 => Just(Step::Restart),
        2 => simple.prop_map(|it| Step::While(Box::new(it))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Whatever happens, in the end the receiver believes what is so, each message has an id of its own, and nothing is told twice
    /// as new.
    #[test]
    fn in_the_end_the_receiver_believes_what_is_so(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(None);
        let (mut truth, mut believed) = (BTreeSet::new(), BTreeSet::new());
        let (mut ids, mut at) = (BTreeSet::new(), 0);
        // After a failure nobody knows what the receiver has heard.
        let may_repeat = steps.iter().any(|it| matches!(it, Step::Fail));
        let mut hear = |message: &Message, believed: &mut BTreeSet<String>, may_repeat: bool| {
            assert!(ids.insert(message.id()), "{message:?} has an id that was there");
            assert!(message.was_open || believed.is_empty(), "{message:?}");
            let open: BTreeSet<_> = message.open.iter().map(|it| it.subject.clone()).collect();
            assert!(open != *believed || !message.ended.is_empty() || may_repeat, "{message:?} says nothing new");
            *believed = open;
        };
        let act = |world: &mut World, truth: &mut BTreeSet<String>, it: &Step, at: u64| match it {
            Step::Begin(n) => { truth.insert(n.to_string()); world.begin(Kind::AgentOffline, &n.to_string(), at) }
            Step::End(n) => { truth.remove(&n.to_string()); world.end(Kind::AgentOffline, &n.to_string(), at) }
            Step::Deliver | Step::Fail | Step::Restart | Step::While(_) => {}
        };
        for it in steps {
            at += 400;
            match &it {
                Step::Begin(_) | Step::End(_) => act(&mut world, &mut truth, &it, at),
                Step::Restart => world.restart(),
                Step::Deliver => if let Some(message) = world.told(at) { hear(&message, &mut believed, may_repeat) },
                Step::Fail => if let Next::Send(message) = world.book.next("ops", seconds(at)) { world.book.failed(&message, seconds(at)) },
                Step::While(inner) => if let Next::Send(message) = world.book.next("ops", seconds(at)) {
                    act(&mut world, &mut truth, inner, at);
                    world.book.delivered(&message, seconds(at));
                    hear(&message, &mut believed, may_repeat);
                },
            }
        }
        for _ in 0..10 {
            at += 400;
            if let Some(message) = world.told(at) { hear(&message, &mut believed, may_repeat) }
        }
        prop_assert_eq!(&believed, &truth);
        prop_assert_eq!(world.book.next("ops", seconds(at + 1_000_000)), Next::Nothing);
    }
}
