//! Watching: what is seen, in which order, and that a slow watcher is told of what it missed.

use futures_util::FutureExt;

use super::*;
use crate::{Change, QUEUE_CHANGES, WatchEvent};

fn change(name: &Name, version: Version, deleted: bool) -> Option<WatchEvent> {
    Some(WatchEvent::Change(Change {
        name: name.clone(),
        version,
        deleted,
    }))
}

pub(super) async fn changes(store: Store) {
    let (mine, other) = (
        Name::new(KIND, &["mine", "a"]),
        Name::new(KIND, &["other", "a"]),
    );
    put(&store, &mine, "before").await;
    let mut watch = store.watch(KIND, &[b"mine"]);
    let mut all = store.watch(KIND, &[]);
    let mut none = store.watch(Kind(KIND.0 + 1), &[]);
    let first = put(&store, &mine, "1").await;
    // Whoever saw the commit answered also sees the change, without waiting.
    assert_eq!(
        watch.next().now_or_never(),
        Some(change(&mine, first, false))
    );
    let second = put(&store, &other, "2").await;
    let refused = store
        .commit(
            Transaction::new()
                .guard(absent(&mine))
                .put(mine.clone(), text("refused")),
        )
        .await;
    assert!(refused.is_err());
    let third = commit(&store, Transaction::new().delete(mine.clone())).await;
    commit(&store, Transaction::new().delete(mine.clone())).await;
    assert_eq!(
        watch.next().await,
        change(&mine, third, true),
        "deletions are seen by name"
    );
    assert_eq!(
        watch.next().now_or_never(),
        None,
        "no more than that, and nothing for deleting what is not there"
    );
    for wanted in [
        change(&mine, first, false),
        change(&other, second, false),
        change(&mine, third, true),
    ] {
        assert_eq!(all.next().await, wanted, "in the order of the commits");
    }
    assert_eq!(none.next().now_or_never(), None);
    // Waits, and is woken.
    let waiting = tokio::spawn(async move { watch.next().await });
    tokio::task::yield_now().await;
    let fourth = put(&store, &mine, "4").await;
    assert_eq!(waiting.await.expect("runs"), change(&mine, fourth, false));
}

pub(super) async fn gap(store: Store) {
    let mut slow = store.watch(KIND, &[]);
    for round in 0..=QUEUE_CHANGES / 100 {
        let puts = (0..100)
            .map(|n| (name(&n.to_string()), text(&round.to_string())))
            .collect();
        commit(
            &store,
            Transaction {
                puts,
                ..Transaction::new()
            },
        )
        .await;
    }
    let mut gap = false;
    while let Some(Some(event)) = slow.next().now_or_never() {
        gap |= event == WatchEvent::Gap;
    }
    assert!(gap, "a watcher that missed something is told so");
    let version = put(&store, &name("after"), "x").await;
    assert_eq!(
        slow.next().await,
        change(&name("after"), version, false),
        "and goes on"
    );
}
