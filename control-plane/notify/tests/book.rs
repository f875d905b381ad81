//! The book in virtual time: what is told, when, once, and what survives a restart.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use stella_domain::name::Name;
use stella_notify::book::{Book, Next};
use stella_notify::incident::{Change, Found, Incident, Kind, Severity};
use stella_notify::message::{Member, Message};
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

    /// What is due at this time, on its way.
    fn sent(&mut self, at: u64) -> Option<Message> {
        if let Next::Send { message, .. } = self.book.next("ops", seconds(at)) {
            Some(*message)
        } else {
            None
        }
    }

    /// What is due at this time, delivered.
    fn told(&mut self, at: u64) -> Option<Message> {
        let message = self.sent(at)?;
        self.book.delivered(&message, seconds(at));
        Some(message)
    }

    /// What is due at this time, of which nobody knows whether it was heard.
    fn failed(&mut self, at: u64) -> Option<Message> {
        let message = self.sent(at)?;
        self.book.failed(&message, seconds(at));
        Some(message)
    }

    fn restart(&mut self) {
        let saved = serde_json::to_vec(&self.book).unwrap();
        self.book = serde_json::from_slice(&saved).unwrap();
    }
}

#[test]
fn what_is_wrong_with_the_control_plane_itself_is_told_while_it_lasts() {
    let mut world = World::new(None);
    let refused = Found {
        kind: Kind::WritesRefused,
        subject: "journal".to_owned(),
        summary: "writes are refused".to_owned(),
    };
    let found = std::slice::from_ref(&refused);
    assert!(world.book.stand(&world.routes, found, seconds(100)));
    assert!(!world.book.stand(&world.routes, found, seconds(105)), "it is known");
    let message = world.told(110).unwrap();
    assert_eq!((message.kind, message.title().as_str()), (Kind::WritesRefused, "Stella: writes are refused"));
    assert!(message.to_json().get("tenant").is_none(), "{}", message.to_json());
    // After a restart nobody has looked yet.
    let state = stella_domain::state::State::default();
    world.book.reconcile(&["ops"].into(), &state, seconds(120));
    assert!(!world.book.stand(&world.routes, found, seconds(121)));
    assert!(world.told(130).is_none(), "nothing has changed");
    assert!(world.book.stand(&world.routes, &[], seconds(140)));
    let over = world.told(140).unwrap();
    assert_eq!((over.status(), over.title().as_str()), ("resolved", "Stella: writes are refused (over)"));
    // What was over before anybody was told is not told; nor is it to who only wants to hear of one tenant.
    assert!(world.book.stand(&world.routes, found, seconds(200)));
    assert!(world.book.stand(&world.routes, &[], seconds(205)));
    assert!(world.told(220).is_none());
    world.routes.0[0].tenants = vec!["acme".to_owned()];
    assert!(!world.book.stand(&world.routes, found, seconds(300)));
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
fn who_is_asked_again_is_told_again_and_nobody_else_is() {
    let mut world = World::new(None);
    world.begin(Kind::ApprovalWaiting, "p-1", 100);
    world.begin(Kind::AgentOffline, "web-1", 100);
    let told: Vec<_> = std::iter::from_fn(|| world.told(110)).collect();
    let first = told.iter().find(|it| it.kind == Kind::ApprovalWaiting).unwrap();
    world.begin(Kind::ApprovalWaiting, "p-1", 200);
    assert_eq!(world.told(3_000), None, "it goes on, and was told");
    let Change::Begins(mut incident) = begins(Kind::ApprovalWaiting, "p-1", 4_000) else { unreachable!() };
    incident.summary = "p-1 waits for 1 more".to_owned();
    world.take(Change::AskedAgain(incident), 4_000);
    world.restart();
    assert_eq!(world.told(4_009), None, "it waits for others");
    let again = world.told(4_010).unwrap();
    assert_eq!((again.kind, again.open.len(), again.was_open), (Kind::ApprovalWaiting, 1, true));
    assert_eq!(again.open[0].summary, "p-1 waits for 1 more");
    assert!(again.id() != first.id() && again.group == first.group, "another message of the same group");
    assert_eq!(world.book.next("ops", seconds(1_000_000)), Next::Nothing, "once");
    world.end(Kind::ApprovalWaiting, "p-1", 5_000);
    assert_eq!(world.told(5_000).unwrap().status(), "resolved");
}

#[test]
fn who_is_asked_again_while_the_first_message_is_on_its_way_hears_of_both() {
    let mut world = World::new(None);
    world.begin(Kind::ApprovalWaiting, "p-1", 100);
    let first = world.sent(110).unwrap();
    let Change::Begins(incident) = begins(Kind::ApprovalWaiting, "p-1", 111) else { unreachable!() };
    world.take(Change::AskedAgain(incident), 111);
    world.book.delivered(&first, seconds(112));
    let again = world.told(121).unwrap();
    assert!(again.id() != first.id() && again.open.len() == 1);
    assert_eq!(world.book.next("ops", seconds(1_000_000)), Next::Nothing);
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
fn what_failed_somewhere_is_not_told_again_once_that_place_is_gone() {
    let mut world = World::new(Some(60));
    world.begin(Kind::DeploymentFailed, "d1", 100);
    assert!(world.told(110).is_some());
    world.take(Change::EndsWithin(Kind::DeploymentFailed, "production/".to_owned()), 111);
    assert!(world.told(170).is_some(), "it was elsewhere");
    world.take(Change::EndsWithin(Kind::AgentOffline, "staging/".to_owned()), 171);
    world.take(Change::EndsWithin(Kind::DeploymentFailed, "staging/".to_owned()), 172);
    assert_eq!(world.told(200).unwrap().status(), "resolved");
    assert_eq!(world.told(100_000), None);
}

#[test]
fn a_message_that_fails_waits_longer_each_time_and_lets_others_pass() {
    let mut world = World::new(None);
    world.begin(Kind::AgentOffline, "web-1", 100);
    let mut at = 110;
    let mut waits = Vec::new();
    let mut ids = BTreeSet::new();
    for _ in 0..12 {
        let message = world.failed(at).expect("it is due");
        assert!(ids.insert(message.id()), "it says more than the last time: {message:?}");
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
    let first = other.failed(111).unwrap();
    assert_eq!(other.told(111).unwrap().kind, Kind::Rollback);
    let again = other.told(113).unwrap();
    assert_eq!((again.id(), again.open), (first.id(), first.open), "it says the same as before");
}

#[test]
fn what_began_while_a_message_was_heard_and_not_known_to_be_is_another_message() {
    let mut world = World::new(None);
    world.begin(Kind::AgentOffline, "web-1", 100);
    let Next::Send { message: first, is_first: true } = world.book.next("ops", seconds(110)) else {
        panic!("the book has to be durable before the first is sent")
    };
    // The receiver takes it, and answers too late. The control plane even dies meanwhile.
    world.restart();
    world.begin(Kind::AgentOffline, "web-2", 112);
    world.book.failed(&first, seconds(125));
    let second = world.failed(127).unwrap();
    assert_eq!(second.open.len(), 2);
    assert_ne!(second.id(), first.id(), "who drops duplicates hears of web-2");
    let Next::Send { message: same, is_first: false } = world.book.next("ops", seconds(140)) else {
        panic!("nothing is new since the last time")
    };
    assert_eq!((same.id(), same.open.len()), (second.id(), 2));
    world.end(Kind::AgentOffline, "web-1", 141);
    world.book.failed(&same, seconds(142));
    let third = world.told(160).unwrap();
    assert_eq!((third.open.len(), third.ended.len()), (1, 1));
    assert_ne!(third.id(), second.id());
    assert_eq!(world.told(100_000), None);
}

#[test]
fn what_begins_again_after_its_end_may_have_been_heard_is_told() {
    let mut world = World::new(None);
    world.begin(Kind::AgentOffline, "web-1", 100);
    world.told(110).unwrap();
    world.end(Kind::AgentOffline, "web-1", 200);
    assert_eq!(world.failed(200).unwrap().status(), "resolved");
    world.begin(Kind::AgentOffline, "web-1", 201);
    let again = world.told(300).expect("it is news to who has heard of the end");
    assert_eq!((again.status(), again.open.len()), ("firing", 1));
    assert_eq!(world.told(100_000), None);
}

#[test]
fn a_file_of_an_older_version_may_have_a_message_on_its_way() {
    let mut world = World::new(None);
    world.begin(Kind::AgentOffline, "web-1", 100);
    let first = world.sent(110).unwrap();
    let mut saved = serde_json::to_value(&world.book).unwrap();
    for group in saved["groups"].as_object_mut().unwrap().values_mut() {
        assert_eq!(group["delivered"], 0, "older versions can read it");
        group.as_object_mut().unwrap().remove("is_offered").unwrap();
    }
    world.book = serde_json::from_value(saved).unwrap();
    world.begin(Kind::AgentOffline, "web-2", 111);
    assert_ne!(world.told(130).unwrap().id(), first.id());
}

#[test]
fn what_is_over_and_begins_again_while_it_is_told_is_told_again() {
    let mut world = World::new(None);
    world.routes.0[0].resolved = false;
    world.begin(Kind::AgentOffline, "web-1", 100);
    let first = world.sent(110).unwrap();
    world.end(Kind::AgentOffline, "web-1", 111);
    world.begin(Kind::AgentOffline, "web-1", 112);
    world.book.delivered(&first, seconds(113));
    let again = world.told(130).unwrap();
    assert_eq!((again.open[0].since, again.open.len()), (seconds(112), 1));
    assert_ne!(again.id(), first.id());
}

#[test]
fn ten_thousand_agents_come_back_and_only_their_own_incidents_end() {
    const AGENTS: u32 = 10_000;
    let mut world = World::new(None);
    for n in 0..AGENTS {
        world.begin(Kind::AgentOffline, &format!("web-{n}"), 100);
    }
    world.begin(Kind::DeploymentFailed, "web-7", 100);
    assert_eq!(world.told(110).unwrap().open.len() + world.told(110).unwrap().open.len(), 10_001);
    for n in 1..AGENTS {
        world.end(Kind::AgentOffline, &format!("web-{n}"), 200);
        world.end(Kind::AgentOffline, &format!("stranger-{n}"), 200);
    }
    let message = world.told(200).unwrap();
    let open: Vec<_> = message.open.iter().map(|it| it.subject.as_str()).collect();
    assert_eq!((message.kind, open, message.ended.len()), (Kind::AgentOffline, vec!["web-0"], 9_999));
    assert_eq!(world.told(100_000), None);
    assert_eq!(world.book.figures("ops"), (2, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Begin(u8),
    End(u8),
    Deliver,
    Fail,
    /// The receiver hears it, and its answer does not arrive.
    Lose,
    Restart,
    /// A message is on its way while this happens.
    While(Box<Self>),
}

/// A receiver that drops duplicates.
#[derive(Default)]
struct Ear {
    believed: BTreeSet<String>,
    heard: BTreeSet<String>,
    meanings: BTreeMap<String, (Vec<Member>, Vec<Member>)>,
    may_repeat: bool,
}

impl Ear {
    /// An id says one thing, whether it is heard or not.
    fn means(&mut self, message: &Message) {
        let says = (message.open.clone(), message.ended.clone());
        let meaning = self.meanings.entry(message.id()).or_insert_with(|| says.clone());
        assert_eq!(*meaning, says, "{} means two things", message.id());
    }

    fn hear(&mut self, message: &Message) {
        self.means(message);
        assert!(message.was_open || self.believed.is_empty(), "{message:?}");
        if !self.heard.insert(message.id()) {
            assert!(self.may_repeat, "{message:?} has an id that was there");
            return;
        }
        let open: BTreeSet<_> = message.open.iter().map(|it| it.subject.clone()).collect();
        let is_news = open != self.believed || !message.ended.is_empty();
        assert!(is_news || self.may_repeat, "{message:?} says nothing new");
        self.believed = open;
    }
}

fn step() -> impl Strategy<Value = Step> {
    let simple = prop_oneof![(0..6_u8).prop_map(Step::Begin), (0..6_u8).prop_map(Step::End)];
    prop_oneof![
        4 => simple.clone(),
        3 => Just(Step::Deliver),
        1 => Just(Step::Fail),
        1 => Just(Step::Lose),
        1 => Just(Step::Restart),
        2 => simple.prop_map(|it| Step::While(Box::new(it))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Whatever happens, in the end a receiver that drops duplicates believes what is so, no id means two things, and nothing is told
    /// twice as new.
    #[test]
    fn in_the_end_the_receiver_believes_what_is_so(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new(None);
        let (mut truth, mut ear, mut at) = (BTreeSet::new(), Ear::default(), 0);
        // After a failure nobody knows what the receiver has heard.
        ear.may_repeat = steps.iter().any(|it| matches!(it, Step::Fail | Step::Lose));
        let act = |world: &mut World, truth: &mut BTreeSet<String>, it: &Step, at: u64| match it {
            Step::Begin(n) => { truth.insert(n.to_string()); world.begin(Kind::AgentOffline, &n.to_string(), at) }
            Step::End(n) => { truth.remove(&n.to_string()); world.end(Kind::AgentOffline, &n.to_string(), at) }
            Step::Deliver | Step::Fail | Step::Lose | Step::Restart | Step::While(_) => {}
        };
        for it in steps {
            at += 400;
            match &it {
                Step::Begin(_) | Step::End(_) => act(&mut world, &mut truth, &it, at),
                Step::Restart => world.restart(),
                Step::Deliver => if let Some(message) = world.told(at) { ear.hear(&message) },
                Step::Fail => if let Some(message) = world.failed(at) { ear.means(&message) },
                Step::Lose => if let Some(message) = world.failed(at) { ear.hear(&message) },
                Step::While(inner) => if let Some(message) = world.sent(at) {
                    act(&mut world, &mut truth, inner, at);
                    world.book.delivered(&message, seconds(at));
                    ear.hear(&message);
                },
            }
        }
        for _ in 0..10 {
            at += 400;
            if let Some(message) = world.told(at) { ear.hear(&message) }
        }
        prop_assert_eq!(&ear.believed, &truth);
        prop_assert_eq!(world.book.next("ops", seconds(at + 1_000_000)), Next::Nothing);
    }
}
