//! A full disk, a failing disk, a vanished directory, an engine that loses answers: what is answered stays true, reads go on, and
//! when the fault is over writing goes on without a restart.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gridkeep_store::conformance::under_faults;
use gridkeep_store::testing::{DiskOperation, FaultyDisk, FaultyEngine};
use gridkeep_store::{CommitError, Outcome, Store, StoreError, Transaction, open, open_behind};
use support::{Place, get, name, put, record, try_put};

fn on_faulty_disk(place: &Place) -> (Store, FaultyDisk) {
    let disk = FaultyDisk::new();
    let mut options = place.options();
    options.disk = Arc::new(disk.clone());
    (open(options).unwrap(), disk)
}

/// Writes until the disk is full; returns how many records are there.
async fn fill(store: &Store) -> usize {
    for n in 0..10_000 {
        match try_put(store, &n.to_string(), &[7; 8000]).await {
            Ok(_) => {}
            Err(CommitError::Store(StoreError::Full { .. })) => return n,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the disk never fills");
}

#[tokio::test]
async fn a_full_disk_refuses_what_needs_room_and_recovers_by_itself() {
    let place = Place::new();
    let (store, disk) = on_faulty_disk(&place);
    disk.set_capacity(Some(disk.used() + 1024 * 1024));
    let there = fill(&store).await;
    assert!(there > 20, "{there}");
    let status = store.status();
    assert_eq!(
        status.refusing_writes,
        Some(StoreError::Full { path: place.data() })
    );
    assert!(
        status
            .refusing_writes
            .unwrap()
            .to_string()
            .contains("no restart is needed")
    );

    for round in 0..3 {
        for n in 0..there {
            assert_eq!(
                get(&store, &n.to_string()).await.as_deref(),
                Some(&[7; 8000][..]),
                "reads go on"
            );
        }
        assert_eq!(
            get(&store, &there.to_string()).await,
            None,
            "nothing of what was refused is there"
        );
        let refused = try_put(&store, "refused", b"x").await;
        assert!(
            matches!(refused, Err(CommitError::Store(StoreError::Full { .. }))),
            "round {round}: {refused:?}"
        );
    }
    // From the space set aside: what must not be lost, and deletions.
    let critical = Transaction::new().put(name("critical"), record(b"a rotated refresh token"));
    store.commit_critical(critical).await.unwrap();
    assert_eq!(
        get(&store, "critical").await.as_deref(),
        Some(&b"a rotated refresh token"[..])
    );
    for n in 0..5 {
        store
            .commit(Transaction::new().delete(name(&n.to_string())))
            .await
            .unwrap();
        assert_eq!(get(&store, &n.to_string()).await, None);
    }

    // A little room lets a write pass, and is no reason to say that the disk has room again.
    disk.set_capacity(Some(disk.used() + 512 * 1024));
    put(&store, "a little", b"1").await;
    assert!(store.status().refusing_writes.is_some());
    // Many that go well are, as after deletions, of which the disk learns nothing.
    for _ in 0..100 {
        put(&store, "a little", b"1").await;
    }
    assert_eq!(store.status().refusing_writes, None);
    disk.set_capacity(None);
    put(&store, "after", b"1").await;
    assert_eq!(store.status().refusing_writes, None);
    store.close().await.unwrap();
    let store = place.open().unwrap();
    assert_eq!(get(&store, "after").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(
        get(&store, "critical").await.as_deref(),
        Some(&b"a rotated refresh token"[..])
    );
}

#[tokio::test]
async fn a_full_disk_is_no_reason_not_to_start() {
    let place = Place::new();
    let (store, disk) = on_faulty_disk(&place);
    disk.set_capacity(Some(disk.used() + 400 * 1024));
    let there = fill(&store).await;
    let mut epoch = store.status().epoch;
    drop(store);
    disk.set_capacity(Some(disk.used()));
    for _ in 0..3 {
        let mut options = place.options();
        options.disk = Arc::new(disk.clone());
        let store = open(options).unwrap();
        assert!(store.status().epoch >= epoch);
        epoch = store.status().epoch;
        assert!(get(&store, &(there - 1).to_string()).await.is_some());
        assert!(matches!(
            store.status().refusing_writes,
            Some(StoreError::Full { .. })
        ));
        assert!(try_put(&store, "refused", b"x").await.is_err());
    }
    disk.set_capacity(None);
    put(&place.open().unwrap(), "after", b"1").await;
}

#[tokio::test]
async fn one_failed_write_or_read_is_not_noticed() {
    let place = Place::new();
    let (store, disk) = on_faulty_disk(&place);
    for operation in [DiskOperation::Write, DiskOperation::Read] {
        for pass in 0..12 {
            disk.fail(operation, pass, 1);
            put(&store, &format!("{operation:?}{pass}"), b"1").await;
            assert_eq!(
                get(&store, &format!("{operation:?}{pass}"))
                    .await
                    .as_deref(),
                Some(&b"1"[..])
            );
        }
        disk.fail(operation, 0, 0);
    }
    assert!(
        disk.count(DiskOperation::Open) > 5,
        "the file was opened anew: {}",
        disk.count(DiskOperation::Open)
    );
}

#[tokio::test]
async fn a_failed_flush_loses_nothing_that_is_acknowledged() {
    let place = Place::new();
    let (store, disk) = on_faulty_disk(&place);
    let (mut refused, mut last) = (0, Vec::new());
    for n in 0..60u32 {
        // One flush fails, or many do; what the disk loses by it differs each time.
        disk.fail(
            DiskOperation::Sync,
            u64::from(n % 4),
            if n % 3 == 0 { 6 } else { 1 },
        );
        let body = n.to_string().into_bytes();
        let answer = try_put(&store, "a", &body).await;
        disk.fail(DiskOperation::Sync, 0, 0);
        let found = store
            .get(&name("a"))
            .await
            .unwrap()
            .map_or(Vec::new(), |entry| entry.record.body.to_vec());
        match answer {
            Ok(_) => assert_eq!(found, body, "{n}"),
            Err(CommitError::Store(StoreError::Unavailable { outcome, .. })) => {
                refused += 1;
                assert!(
                    found == last || (outcome == Outcome::Unknown && found == body),
                    "{n}"
                );
            }
            Err(error) => panic!("{error}"),
        }
        last = found;
    }
    assert!(
        refused > 5,
        "only {refused} commits failed: the test does not test"
    );
}

#[tokio::test]
async fn a_power_failure_loses_nothing_that_is_acknowledged() {
    let place = Place::new();
    let mut acknowledged = 0u32;
    for round in 0..40u64 {
        let (store, disk) = on_faulty_disk(&place);
        let first = acknowledged + 1;
        for n in first..first + 50 {
            if n == first + 3 {
                let writes = 3 + round % 9;
                disk.fail(DiskOperation::Write, writes, u64::MAX);
                disk.fail(DiskOperation::Sync, round % 3, u64::MAX);
                disk.fail(DiskOperation::Open, 0, u64::MAX);
            }
            let body = n.to_string().into_bytes();
            let pair = Transaction::new()
                .put(name("a"), record(&body))
                .put(name("b"), record(&body));
            if store.commit(pair).await.is_err() {
                break;
            }
            acknowledged = n;
        }
        drop(store);
        disk.cut_power(round).unwrap();
        let store = place.open().unwrap();
        let found = get(&store, "a").await;
        let n: u32 = found.as_ref().map_or(0, |body| {
            std::str::from_utf8(body).unwrap().parse().unwrap()
        });
        assert!(
            n == acknowledged || n == acknowledged + 1,
            "round {round}: {n} is there, {acknowledged} was acknowledged"
        );
        assert_eq!(found, get(&store, "b").await, "round {round}: torn");
        acknowledged = n;
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_dead_disk_is_temporary() {
    let place = Place::new();
    let (store, disk) = on_faulty_disk(&place);
    put(&store, "a", b"1").await;
    for operation in [
        DiskOperation::Write,
        DiskOperation::Sync,
        DiskOperation::Open,
    ] {
        disk.fail(DiskOperation::Write, 0, 1);
        disk.fail(operation, 0, 1_000_000);
        for _ in 0..3 {
            let error = try_put(&store, "b", b"1").await.unwrap_err();
            assert!(
                matches!(&error, CommitError::Store(error) if error.is_temporary()),
                "{operation:?}: {error:?}"
            );
            if let Err(error) = store.get(&name("a")).await {
                assert!(error.is_temporary(), "{operation:?}: {error}");
            }
        }
        disk.fail(DiskOperation::Write, 0, 0);
        disk.fail(operation, 0, 0);
        put(&store, "b", b"2").await;
        assert_eq!(get(&store, "a").await.as_deref(), Some(&b"1"[..]));
        store
            .commit(Transaction::new().delete(name("b")))
            .await
            .unwrap();
    }
    // Reading too.
    disk.fail(DiskOperation::Write, 0, 1);
    disk.fail(DiskOperation::Read, 0, 1_000_000);
    assert!(try_put(&store, "b", b"1").await.is_err());
    let error = store.get(&name("a")).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    disk.fail(DiskOperation::Read, 0, 0);
    assert_eq!(get(&store, "a").await.as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_vanished_directory_acknowledges_nothing() {
    let place = Place::new();
    let store = place.open().unwrap();
    put(&store, "a", b"1").await;
    let away = place.beside("away");
    std::fs::rename(place.data(), &away).unwrap();
    for _ in 0..2 {
        let refused = try_put(&store, "b", b"1").await;
        assert_eq!(
            refused.map(drop),
            Err(CommitError::Store(StoreError::Vanished {
                path: place.data()
            }))
        );
    }
    assert!(
        store
            .commit(Transaction::new().delete(name("a")))
            .await
            .is_err()
    );
    assert_eq!(
        get(&store, "a").await.as_deref(),
        Some(&b"1"[..]),
        "reads go on"
    );
    assert_eq!(
        store.status().refusing_writes,
        Some(StoreError::Vanished { path: place.data() })
    );

    // Another directory in its place, a copy even, is not the one that was opened.
    std::fs::create_dir(place.data()).unwrap();
    assert!(try_put(&store, "b", b"1").await.is_err());
    std::fs::copy(away.join("store.redb"), place.data().join("store.redb")).unwrap();
    assert!(try_put(&store, "b", b"1").await.is_err());
    std::fs::remove_dir_all(place.data()).unwrap();

    std::fs::rename(&away, place.data()).unwrap();
    put(&store, "b", b"2").await;
    assert_eq!(store.status().refusing_writes, None);
    drop(store);
    let store = place.open().unwrap();
    assert_eq!(get(&store, "b").await.as_deref(), Some(&b"2"[..]));
}

#[tokio::test]
async fn what_was_written_while_the_directory_vanished_is_not_acknowledged() {
    let place = Place::new();
    let (store, disk) = on_faulty_disk(&place);
    // The look before the batch finds it, the one after does not.
    disk.fail(DiskOperation::Identify, 1, 1);
    let mut watch = store.watch(support::KIND, &[]);
    let refused = try_put(&store, "a", b"1").await;
    assert!(
        matches!(
            refused,
            Err(CommitError::Store(StoreError::Vanished { .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(
        watch.next().await,
        Some(gridkeep_store::WatchEvent::Gap),
        "what a watch may have missed it is told"
    );
    put(&store, "b", b"1").await;
}

#[tokio::test]
async fn an_engine_that_loses_answers_makes_none_untrue() {
    let mut failures = 0;
    for seed in 1..=3 {
        let place = Place::new();
        let mut faulty = None;
        let store = open_behind(place.options(), |inner| {
            let engine = Arc::new(FaultyEngine::new(inner, 4, seed));
            faulty = Some(engine.clone());
            engine
        })
        .unwrap();
        let faulty = faulty.unwrap();
        failures += under_faults(&store, &|on| faulty.set_active(on), seed, 60).await;
        assert!(faulty.injected() > 10);
        rotations_under_faults(&store, &faulty).await;
    }
    assert!(
        failures > 20,
        "only {failures} commits failed: the test does not test"
    );
}

/// However often rotation is interrupted, no record is lost.
async fn rotations_under_faults(store: &Store, faulty: &FaultyEngine) {
    for n in 0..30 {
        put(store, &format!("kept{n}"), b"kept").await;
    }
    for round in 0..10 {
        faulty.set_active(true);
        let _ = store.rotate_keyring().await;
        let _ = store.reseal_all().await;
        let _ = store.sweep(0, 0, 10).await;
        faulty.set_active(false);
        put(store, "again", b"again").await;
        for n in 0..30 {
            assert_eq!(
                get(store, &format!("kept{n}")).await.as_deref(),
                Some(&b"kept"[..]),
                "round {round}"
            );
        }
    }
    let done = store.reseal_all().await.unwrap();
    assert_eq!((done.damaged.len(), store.status().key_generations), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_on_a_failing_disk_keep_what_was_acknowledged() {
    const WRITERS: usize = 16;
    let place = Place::new();
    let (store, disk) = on_faulty_disk(&place);
    // Per writer: what was acknowledged last, and what may be there.
    let known = Arc::new(Mutex::new(vec![(0u64, vec![0u64]); WRITERS]));
    let errors = Arc::new(AtomicU64::new(0));
    for writer in 0..WRITERS {
        put(&store, &writer.to_string(), b"0").await;
    }
    disk.fail_randomly(Some((25, 7)));
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, known, errors) = (store.clone(), known.clone(), errors.clone());
            tokio::spawn(async move {
                for n in 1..40u64 {
                    match try_put(&store, &writer.to_string(), n.to_string().as_bytes()).await {
                        Ok(_) => known.lock().unwrap()[writer] = (n, vec![n]),
                        Err(CommitError::Store(error)) if error.is_temporary() => {
                            errors.fetch_add(1, Ordering::Relaxed);
                            let sure = matches!(
                                error,
                                StoreError::Unavailable {
                                    outcome: Outcome::NotApplied,
                                    ..
                                }
                            );
                            if !sure {
                                known.lock().unwrap()[writer].1.push(n);
                            }
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    disk.fail_randomly(None);
    assert!(errors.load(Ordering::Relaxed) > 0);
    let check = async |store: &Store| {
        for writer in 0..WRITERS {
            let found: u64 = String::from_utf8(get(store, &writer.to_string()).await.unwrap())
                .unwrap()
                .parse()
                .unwrap();
            let (acknowledged, possible) = known.lock().unwrap()[writer].clone();
            assert!(
                possible.contains(&found),
                "writer {writer}: {found} is there, {acknowledged} was acknowledged"
            );
        }
    };
    check(&store).await;
    store.close().await.unwrap();
    check(&place.open().unwrap()).await;
}
