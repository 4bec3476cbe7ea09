//! Leases, and the deletion of what has expired.

use super::*;

const TTL: Duration = Duration::from_secs(10);

pub(super) async fn leases(subject: Subject) {
    let Subject { store, pass_time } = subject;
    let first = store
        .lease("l", "one", TTL)
        .await
        .expect("asks")
        .expect("is free");
    assert!(
        store.lease("l", "two", TTL).await.expect("asks").is_none(),
        "another holder waits"
    );
    let beside = store
        .lease("m", "two", TTL)
        .await
        .expect("asks")
        .expect("another lease is free");
    assert!(beside.fence() > first.fence());
    assert!(first.renew().await.expect("asks"));
    let again = store
        .lease("l", "one", TTL)
        .await
        .expect("asks")
        .expect("the same holder gets it anew");
    assert!(again.fence() > beside.fence());
    assert!(
        !first.renew().await.expect("asks"),
        "and has lost what it held before"
    );
    first.release().await.expect("is no error");
    assert!(
        store.lease("l", "two", TTL).await.expect("asks").is_none(),
        "giving back a lost lease changes nothing"
    );

    pass_time(TTL / 2).await;
    assert!(again.renew().await.expect("asks"));
    pass_time(TTL * 3 / 4).await;
    assert!(
        again.renew().await.expect("asks"),
        "it lives from its renewal on"
    );
    pass_time(TTL + Duration::from_secs(1)).await;
    assert!(
        !again.renew().await.expect("asks"),
        "a lapsed lease does not come back"
    );
    let next = store
        .lease("l", "two", TTL)
        .await
        .expect("asks")
        .expect("has lapsed");
    assert!(next.fence() > again.fence());
    next.release().await.expect("gives back");
    assert!(
        store
            .lease("l", "three", TTL)
            .await
            .expect("asks")
            .is_some(),
        "what was given back is free at once"
    );
}

const NOW: i64 = 1_800_000_000;
const GRACE: i64 = 7 * 86_400;

pub(super) async fn sweeping(store: Store) {
    let old = NOW - GRACE;
    let mut transaction = Transaction::new();
    for (label, at) in [
        ("long", old - 100_000),
        ("just", old - 1),
        ("edge", old),
        ("grace", NOW - 10),
        ("live", NOW + 10),
        ("past", -5),
    ] {
        transaction = transaction.put(name(label), expiring(label, at));
    }
    commit(&store, transaction.put(name("forever"), text("x"))).await;
    let swept = store.sweep(NOW, GRACE, 100).await.expect("sweeps");
    assert_eq!((swept.ran, swept.deleted, swept.more), (true, 3, false));
    for (label, there) in [
        ("long", false),
        ("just", false),
        ("past", false),
        ("edge", true),
        ("grace", true),
        ("live", true),
        ("forever", true),
    ] {
        assert_eq!(get(&store, &name(label)).await.is_some(), there, "{label}");
    }
    assert_eq!(
        store.sweep(NOW, GRACE, 100).await.expect("sweeps").deleted,
        0
    );
    assert_eq!(
        store
            .sweep(NOW, i64::MIN, 100)
            .await
            .expect("sweeps")
            .deleted,
        2,
        "a negative grace is none"
    );
    assert_eq!(
        store
            .sweep(i64::MIN, GRACE, 100)
            .await
            .expect("sweeps")
            .deleted,
        0
    );
    assert_eq!(
        store.sweep(i64::MAX, 0, 100).await.expect("sweeps").deleted,
        1
    );
    assert!(get(&store, &name("forever")).await.is_some());
}

pub(super) async fn sweeping_follows_the_record(store: Store) {
    let expired = NOW - GRACE - 1000;
    for label in ["renewed", "deleted", "kept", "shortened", "moved"] {
        commit(
            &store,
            Transaction::new().put(
                name(label),
                expiring(
                    "x",
                    if label == "shortened" {
                        NOW + 1
                    } else {
                        expired
                    },
                ),
            ),
        )
        .await;
    }
    commit(
        &store,
        Transaction::new()
            .put(name("renewed"), expiring("y", NOW + 1000))
            .delete(name("deleted")),
    )
    .await;
    commit(
        &store,
        Transaction::new()
            .put(name("kept"), text("y"))
            .put(name("shortened"), expiring("y", expired)),
    )
    .await;
    commit(
        &store,
        Transaction::new().put(name("moved"), expiring("y", expired + 1)),
    )
    .await;
    let mut watch = store.watch(KIND, &[]);
    let swept = store.sweep(NOW, GRACE, 100).await.expect("sweeps");
    assert_eq!(swept.deleted, 2);
    for (label, there) in [
        ("renewed", true),
        ("deleted", false),
        ("kept", true),
        ("shortened", false),
        ("moved", false),
    ] {
        assert_eq!(get(&store, &name(label)).await.is_some(), there, "{label}");
    }
    for _ in 0..2 {
        let event = watch.next().await;
        assert!(
            matches!(&event, Some(crate::WatchEvent::Change(change)) if change.deleted),
            "watchers see it: {event:?}"
        );
    }
    // Many, in rounds.
    for round in 0..2 {
        let puts = (0..90)
            .map(|n| (name(&format!("{round}-{n}")), expiring("x", expired + n)))
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
    let mut deleted = Vec::new();
    loop {
        let swept = store.sweep(NOW, GRACE, 70).await.expect("sweeps");
        deleted.push(swept.deleted);
        if !swept.more {
            break;
        }
    }
    assert_eq!(deleted, [70, 70, 40]);
}

pub(super) async fn one_sweep_at_a_time(subject: Subject) {
    let Subject { store, pass_time } = subject;
    commit(
        &store,
        Transaction::new().put(name("old"), expiring("x", 0)),
    )
    .await;
    let held = store
        .lease("store/sweep", "another node", TTL)
        .await
        .expect("asks")
        .expect("is free");
    let swept = store.sweep(NOW, GRACE, 10).await.expect("asks");
    assert!(!swept.ran && swept.deleted == 0);
    drop(held);
    pass_time(TTL + Duration::from_secs(1)).await;
    assert_eq!(
        store.sweep(NOW, GRACE, 10).await.expect("sweeps").deleted,
        1
    );
}
