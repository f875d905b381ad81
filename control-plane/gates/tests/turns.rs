//! Whose turn it is, with work that ends when it is told to.

use std::collections::BTreeMap;

use stella_gates::turns::Turns;
use stella_protocol::id::TenantId;
use tokio::sync::oneshot;
use tokio::task::JoinError;
use uuid::Uuid;

type Key = (u128, u32);

fn tenant(n: u128) -> TenantId {
    TenantId(Uuid::from_u128(n))
}

fn wanted(of: &[(u128, u32)]) -> Vec<(TenantId, Key)> {
    of.iter().flat_map(|&(n, count)| (0..count).map(move |it| (tenant(n), (n, it)))).collect()
}

/// Starts what has its turn; how much of each tenant that was.
fn start(turns: &mut Turns<Key, ()>, wanted: Vec<(TenantId, Key)>) -> BTreeMap<u128, usize> {
    let mut started = BTreeMap::new();
    for it in turns.next(wanted) {
        *started.entry(it.1.0).or_default() += 1;
        turns.start(it, std::future::pending());
    }
    started
}

#[tokio::test]
async fn a_tenant_with_much_to_do_takes_no_place_of_others() {
    let mut turns = Turns::new(8, 4);
    assert_eq!(start(&mut turns, wanted(&[(1, 100)])), BTreeMap::from([(1, 4)]), "its own bound");
    assert_eq!(start(&mut turns, wanted(&[(1, 100)])), BTreeMap::new());
    let all = [(1, 100), (2, 1), (3, 100)];
    assert_eq!(start(&mut turns, wanted(&all)), BTreeMap::from([(2, 1), (3, 3)]), "the least first");
    assert_eq!(start(&mut turns, wanted(&all)), BTreeMap::new(), "all places are taken");
    // One is not wanted any more: its place is for who has least.
    let all = [(1, 100), (3, 100), (4, 2)];
    assert_eq!(start(&mut turns, wanted(&all)), BTreeMap::from([(4, 1)]));
}

#[tokio::test]
async fn equals_come_one_after_the_other() {
    let mut turns = Turns::<Key, ()>::new(1, 1);
    let mut order = Vec::new();
    for round in 0..7_u32 {
        // What was under way is over: it is not wanted any more.
        let next = turns.next((1..=3).map(|n| (tenant(n), (n, round))));
        let [(_, (n, _))] = next[..] else { panic!("one place: {next:?}") };
        order.push(n);
        turns.start(next[0], std::future::pending());
    }
    assert_eq!(order, [1, 2, 3, 1, 2, 3, 1]);
}

#[tokio::test]
async fn what_breaks_off_is_known_by_its_key_and_what_is_given_up_is_not_heard_of() {
    struct Dropped(Option<oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.take().unwrap().send(()).unwrap();
        }
    }
    let mut turns = Turns::new(8, 8);
    let (dropped, gone) = oneshot::channel();
    let guard = Dropped(Some(dropped));
    turns.start((tenant(1), (1, 0)), async move {
        let _guard = guard;
        std::future::pending().await
    });
    turns.start((tenant(1), (1, 1)), async { panic!("a defect") });
    assert_eq!(turns.next(wanted(&[(1, 2)])), [], "both are under way");
    let (key, result) = turns.ended().await;
    assert_eq!((key, result.is_err_and(|it: JoinError| it.is_panic())), ((1, 1), true));
    assert_eq!(turns.next([(tenant(1), (1, 2))]), [(tenant(1), (1, 2))]);
    gone.await.unwrap();
    turns.start((tenant(1), (1, 2)), async {});
    let (key, result) = turns.ended().await;
    assert_eq!((key, result.is_ok()), ((1, 2), true), "and nothing of the one that was given up");
}
