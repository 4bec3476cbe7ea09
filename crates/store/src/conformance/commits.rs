//! Committing: versions, guards, atomicity, limits, concurrency.

use std::collections::BTreeMap;

use super::*;
use crate::testing::XorShift;

pub(super) async fn put_get_delete(store: Store) {
    let a = name("a");
    assert_eq!(get(&store, &a).await, None);
    let version = put(&store, &a, "1").await;
    let entry = get(&store, &a).await.expect("is there");
    assert_eq!((&entry.name, entry.version), (&a, version));
    assert_eq!(entry.record, text("1"));
    put(&store, &a, "2").await;
    assert_eq!(body(&store, &a).await.as_deref(), Some("2"));
    commit(&store, Transaction::new().delete(a.clone())).await;
    assert_eq!(get(&store, &a).await, None);
    commit(&store, Transaction::new().delete(a.clone())).await;
    commit(&store, Transaction::new()).await;
}

pub(super) async fn versions_never_return(store: Store) {
    let (a, b) = (name("a"), name("b"));
    let mut last = put(&store, &a, "same").await;
    for _ in 0..5 {
        let next = put(&store, &a, "same").await;
        assert!(
            next > last,
            "every write has a greater version, though it writes the same"
        );
        commit(&store, Transaction::new().delete(a.clone())).await;
        last = put(&store, &a, "same").await;
        assert!(
            last > next,
            "a record written again after its deletion has a greater version"
        );
        let both = commit(
            &store,
            Transaction::new()
                .put(a.clone(), text("x"))
                .put(b.clone(), text("y")),
        )
        .await;
        assert_eq!(get(&store, &b).await.expect("is there").version, both);
        last = both;
    }
}

pub(super) async fn guards(store: Store) {
    let (a, b) = (name("a"), name("b"));
    let conflict = |guard| Err(CommitError::Conflict { guard });
    let first = commit(
        &store,
        Transaction::new()
            .guard(absent(&a))
            .put(a.clone(), text("1")),
    )
    .await;
    assert_eq!(
        store
            .commit(
                Transaction::new()
                    .guard(absent(&a))
                    .put(a.clone(), text("2"))
            )
            .await,
        conflict(0)
    );
    let second = commit(
        &store,
        Transaction::new()
            .guard(at(&a, first))
            .put(a.clone(), text("2")),
    )
    .await;
    assert_eq!(
        store
            .commit(
                Transaction::new()
                    .guard(at(&a, first))
                    .put(a.clone(), text("3"))
            )
            .await,
        conflict(0)
    );
    assert_eq!(
        store
            .commit(
                Transaction::new()
                    .guard(at(&b, second))
                    .put(a.clone(), text("3"))
            )
            .await,
        conflict(0)
    );
    let guarded = Transaction::new()
        .guard(at(&a, second))
        .guard(absent(&b))
        .guard(at(&a, first))
        .guard(at(&b, first));
    assert_eq!(
        store.commit(guarded.put(b.clone(), text("3"))).await,
        conflict(2),
        "the first that fails is named"
    );
    // Guards alone, and with a deletion.
    commit(
        &store,
        Transaction::new().guard(at(&a, second)).guard(absent(&b)),
    )
    .await;
    assert_eq!(
        store.commit(Transaction::new().guard(at(&a, first))).await,
        conflict(0)
    );
    assert_eq!(
        store
            .commit(Transaction::new().guard(at(&a, first)).delete(a.clone()))
            .await,
        conflict(0)
    );
    assert_eq!(body(&store, &a).await.as_deref(), Some("2"));
    commit(
        &store,
        Transaction::new().guard(at(&a, second)).delete(a.clone()),
    )
    .await;
    assert_eq!(
        store
            .commit(
                Transaction::new()
                    .guard(at(&a, second))
                    .put(b.clone(), text("4"))
            )
            .await,
        conflict(0)
    );
    commit(
        &store,
        Transaction::new()
            .guard(absent(&a))
            .guard(absent(&b))
            .put(b.clone(), text("5")),
    )
    .await;
}

pub(super) async fn all_or_nothing(store: Store) {
    let names: Vec<Name> = (0..100).map(|n| name(&n.to_string())).collect();
    put(&store, &names[0], "old").await;
    let everything = |guard: Option<Guard>| {
        let mut transaction = Transaction::new().delete(names[0].clone());
        transaction.guards.extend(guard);
        names[1..]
            .iter()
            .fold(transaction, |tx, name| tx.put(name.clone(), text("new")))
    };
    assert!(
        store
            .commit(everything(Some(absent(&names[0]))))
            .await
            .is_err()
    );
    let found = store.get_many(&names).await.expect("reads");
    assert!(
        found[0].is_some() && found[1..].iter().all(Option::is_none),
        "a refused transaction leaves nothing"
    );
    commit(&store, everything(None)).await;
    let found = store.get_many(&names).await.expect("reads");
    assert!(found[0].is_none() && found[1..].iter().all(Option::is_some));
}

pub(super) async fn limits(store: Store) {
    let many = |n: usize| {
        (0..n).fold(Transaction::new(), |tx, i| {
            tx.put(name(&i.to_string()), text("x"))
        })
    };
    commit(&store, many(Transaction::MAX_OPERATIONS)).await;
    let refused = store.commit(many(Transaction::MAX_OPERATIONS + 1)).await;
    assert!(
        matches!(
            refused,
            Err(CommitError::TooLarge {
                operations: 101,
                ..
            })
        ),
        "{refused:?}"
    );
    let sized = |bytes: usize| Record {
        schema: 1,
        body: Zeroizing::new(vec![7; bytes]),
        expires_at: None,
    };
    let large = Transaction::MAX_BYTES - 4096;
    commit(&store, Transaction::new().put(name("large"), sized(large))).await;
    assert_eq!(
        get(&store, &name("large"))
            .await
            .expect("is there")
            .record
            .body
            .len(),
        large
    );
    for refused in [
        Transaction::new().put(name("a"), sized(Transaction::MAX_BYTES)),
        Transaction::new()
            .put(name("a"), sized(large))
            .put(name("b"), sized(large)),
    ] {
        let refused = store.commit(refused).await;
        assert!(
            matches!(refused, Err(CommitError::TooLarge { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(get(&store, &name("a")).await, None);
    let twice = Transaction::new()
        .put(name("a"), text("1"))
        .delete(name("a"));
    assert_eq!(store.commit(twice).await, Err(CommitError::Repeated));
}

pub(super) async fn one_of_many_wins(store: Store) {
    let a = name("a");
    let tries = (0..32).map(|n| {
        let (store, a) = (store.clone(), a.clone());
        tokio::spawn(async move {
            store
                .commit(
                    Transaction::new()
                        .guard(absent(&a))
                        .put(a.clone(), text(&n.to_string())),
                )
                .await
        })
    });
    let mut won = Vec::new();
    for (n, task) in tries.collect::<Vec<_>>().into_iter().enumerate() {
        match task.await.expect("runs") {
            Ok(_) => won.push(n.to_string()),
            Err(error) => assert_eq!(error, CommitError::Conflict { guard: 0 }),
        }
    }
    assert_eq!(
        won.len(),
        1,
        "exactly one of many that make the same record wins"
    );
    assert_eq!(body(&store, &a).await, won.pop());
}

pub(super) async fn counting_loses_nothing(store: Store) {
    const TASKS: usize = 8;
    const EACH: usize = 10;
    let a = name("counter");
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (store, a) = (store.clone(), a.clone());
            tokio::spawn(async move {
                for _ in 0..EACH {
                    loop {
                        let found = get(&store, &a).await;
                        let count: u64 = found
                            .as_ref()
                            .map_or(0, |entry| entry.parse().expect("a number"));
                        let record = Record::json(1, &(count + 1), None).expect("a number");
                        let transaction = Transaction::new()
                            .guard(Guard::unchanged(&a, found.as_ref()))
                            .put(a.clone(), record);
                        match store.commit(transaction).await {
                            Ok(_) => break,
                            Err(error) => assert_eq!(error, CommitError::Conflict { guard: 0 }),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("runs");
    }
    assert_eq!(
        get(&store, &a).await.expect("is there").parse::<usize>(),
        Ok(TASKS * EACH)
    );
}

/// Random transactions, against the plainest store there is.
pub(super) async fn agrees_with_a_model(store: Store, seed: u64, rounds: usize) {
    let mut random = XorShift::new(seed);
    let names: Vec<Name> = (0..12)
        .map(|n| Name::new(Kind(n % 2), &[n.to_string()]))
        .collect();
    let mut model: BTreeMap<usize, (Version, String)> = BTreeMap::new();
    for round in 0..rounds {
        let mut transaction = Transaction::new();
        let mut holds = None;
        for guard in 0..random.below(3) as usize {
            let n = random.below(12) as usize;
            let known = model.get(&n).map(|(version, _)| *version);
            let said = if random.below(4) == 0 {
                Some(Version::from_number(random.below(50)))
            } else {
                known
            };
            transaction
                .guards
                .push(said.map_or_else(|| absent(&names[n]), |version| at(&names[n], version)));
            if said != known && holds.is_none() {
                holds = Some(guard);
            }
        }
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        for (n, name) in names.iter().enumerate() {
            match random.below(8) {
                0 => {
                    let body = format!("{round}-{n}");
                    transaction.puts.push((name.clone(), text(&body)));
                    puts.push((n, body));
                }
                1 => {
                    transaction.deletes.push(name.clone());
                    deletes.push(n);
                }
                _ => {}
            }
        }
        match (store.commit(transaction).await, holds) {
            (Ok(Committed { version }), None) => {
                model.extend(puts.into_iter().map(|(n, body)| (n, (version, body))));
                deletes.iter().for_each(|n| drop(model.remove(n)));
            }
            (Err(CommitError::Conflict { guard }), Some(wanted)) => {
                assert_eq!(guard, wanted, "round {round}")
            }
            (answer, wanted) => panic!("round {round}: {answer:?}, conflict wanted: {wanted:?}"),
        }
        let found = store.get_many(&names).await.expect("reads");
        for (n, entry) in found.into_iter().enumerate() {
            let entry = entry.map(|entry| {
                (
                    entry.version,
                    String::from_utf8(entry.record.body.to_vec()).expect("text"),
                )
            });
            assert_eq!(entry.as_ref(), model.get(&n), "round {round}, record {n}");
        }
        for kind in [Kind(0), Kind(1)] {
            let count = model
                .keys()
                .filter(|n| **n % 2 == usize::from(kind.0))
                .count();
            let page = store
                .scan(kind, &[], crate::Page::first(100))
                .await
                .expect("scans");
            assert_eq!(
                (page.entries.len(), page.next),
                (count, None),
                "round {round}"
            );
        }
    }
}
