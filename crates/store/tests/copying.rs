//! Copying a store between engines, in both directions.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

use std::path::Path;

use gridkeep_store::testing::etcd::EtcdCluster;
use gridkeep_store::{
    Etcd, EtcdSettings, Guard, Initialise, OpenOptions, Record, RootKey, Store, StoreError,
    StorePlace, Transaction, copy, holds_data, open,
};

mod support;
use support::{Place, get, name, put, record};

async fn in_etcd(settings: &EtcdSettings, key: &Path) -> Result<Store, StoreError> {
    let etcd = Etcd::new(settings.clone())?;
    etcd.open(RootKey::from_file(key)?, Initialise::WhenEmpty)
        .await
}

/// Records of all sizes, some that expire, some sealed anew.
async fn fill(store: &Store) {
    for n in 0..250 {
        put(store, &n.to_string(), &vec![n as u8; n * 40]).await;
    }
    put(store, "large", &vec![1; 900_000]).await;
    let expiring = |at| Record {
        expires_at: Some(at),
        ..record(b"old")
    };
    for n in 0..5 {
        let transaction = Transaction::new().put(name(&format!("expires{n}")), expiring(1000 + n));
        store.commit(transaction).await.unwrap();
    }
    store.rotate_keyring().await.unwrap();
    store.reseal(None, 100).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_again_nothing_is_lost_and_versions_go_on() {
    let place = Place::new();
    let cluster = EtcdCluster::start(1, &[]).unwrap();
    let settings = EtcdSettings::new(cluster.endpoints(), "copy/");
    let original = place.open().unwrap();
    fill(&original).await;
    // Far ahead of etcd's revisions, so that versions would go back.
    for n in 0..300u32 {
        put(&original, "counter", &n.to_be_bytes()).await;
    }
    let before = original.get(&name("7")).await.unwrap().unwrap();
    let last = original.get(&name("counter")).await.unwrap().unwrap();
    let status = original.status();
    original.close().await.unwrap();

    let directory = StorePlace::Directory(place.data());
    let there = StorePlace::Etcd(settings.clone());
    let copied = copy(directory.clone(), there.clone()).await.unwrap();
    assert_eq!(copied.records, 250 + 1 + 5 + 1 + 2);
    let store = in_etcd(&settings, &place.key()).await.unwrap();
    assert_eq!(store.status().store_id, status.store_id);
    assert_eq!(store.status().key_generations, status.key_generations);
    let found = store.get(&name("7")).await.unwrap().unwrap();
    assert_eq!(found, before, "as it was, version included");
    // A guard that was made before the copy holds after it, and one that did not hold does not.
    let guarded = |entry: &gridkeep_store::Entry| {
        Transaction::new()
            .guard(Guard::At(entry.name.clone(), entry.version))
            .put(entry.name.clone(), record(b"after"))
    };
    let committed = store.commit(guarded(&before)).await.unwrap();
    assert!(committed.version > last.version, "versions go on");
    assert!(store.commit(guarded(&before)).await.is_err());
    let again = store.get(&name("7")).await.unwrap().unwrap();
    assert_eq!(again.version, committed.version);
    store.commit(guarded(&again)).await.unwrap();
    let swept = store.sweep(1002, 0, 100).await.unwrap();
    assert_eq!(swept.deleted, 2, "the expiry index came along");
    let lease = store
        .lease("l", "me", std::time::Duration::from_secs(5))
        .await
        .unwrap()
        .unwrap();
    assert!(lease.fence() > last.version.number());
    store.reseal_all().await.unwrap();
    put(&store, "new", b"1").await;
    let newest = store.get(&name("new")).await.unwrap().unwrap();
    store.close().await.unwrap();

    let back = place.beside("back");
    let copied = copy(there, StorePlace::Directory(back.clone()))
        .await
        .unwrap();
    assert_eq!(copied.records, 250 + 1 + 3 + 1 + 1 + 2);
    let key = RootKey::from_file(&place.key()).unwrap();
    let store = open(OpenOptions::new(&back, key)).unwrap();
    assert_eq!(store.get(&name("new")).await.unwrap().unwrap(), newest);
    assert_eq!(get(&store, "7").await.as_deref(), Some(&b"after"[..]));
    store.commit(guarded(&newest)).await.unwrap();
    let next = store.get(&name("new")).await.unwrap().unwrap();
    assert!(next.version > newest.version);
    assert_eq!(store.sweep(1010, 0, 100).await.unwrap().deleted, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_is_not_written_over_and_what_is_not_whole_is_no_store() {
    let place = Place::new();
    let cluster = EtcdCluster::start(1, &[]).unwrap();
    let settings = EtcdSettings::new(cluster.endpoints(), "copy/");
    let there = StorePlace::Etcd(settings.clone());
    let directory = StorePlace::Directory(place.data());
    // Nothing to copy.
    for (from, to) in [
        (&directory, &there),
        (&there, &StorePlace::Directory(place.beside("other"))),
    ] {
        let error = copy(from.clone(), to.clone()).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::NotInitialised { .. }),
            "{error}"
        );
    }
    let store = place.open().unwrap();
    fill(&store).await;
    // A store in use.
    let error = copy(directory.clone(), there.clone()).await.unwrap_err();
    assert!(matches!(&error, StoreError::InUse { .. }), "{error}");
    store.close().await.unwrap();

    // Interrupted: the engine is full. Nobody takes that for a store.
    let small = EtcdCluster::start(1, &["--quota-backend-bytes", "400000"]).unwrap();
    let mut full = EtcdSettings::new(small.endpoints(), "copy/");
    full.upkeep.act = false;
    let error = copy(directory.clone(), StorePlace::Etcd(full.clone()))
        .await
        .unwrap_err();
    assert!(matches!(&error, StoreError::QuotaReached { .. }), "{error}");
    let error = in_etcd(&full, &place.key()).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::IncompleteCopy { .. }),
        "{error}"
    );
    let etcd = Etcd::new(full).unwrap();
    assert!(etcd.holds_data().await.unwrap(), "no key is made for it");

    // In a directory as well; begun anew, it succeeds.
    copy(directory.clone(), there.clone()).await.unwrap();
    let half = place.beside("half");
    std::fs::create_dir(&half).unwrap();
    let marker = r#"{"gridkeep_store_format":1,"copying":true}"#;
    std::fs::write(half.join("STORE"), marker).unwrap();
    assert!(holds_data(&half).unwrap());
    let open_half = || {
        let key = RootKey::from_file(&place.key()).unwrap();
        open(OpenOptions::new(&half, key))
    };
    let error = open_half().unwrap_err();
    assert!(
        matches!(&error, StoreError::IncompleteCopy { .. }),
        "{error}"
    );
    copy(there.clone(), StorePlace::Directory(half.clone()))
        .await
        .unwrap();
    assert!(get(&open_half().unwrap(), "249").await.is_some());

    // A store stands at the target.
    for (from, to) in [
        (&directory, &there),
        (&there, &StorePlace::Directory(half.clone())),
    ] {
        let error = copy(from.clone(), to.clone()).await.unwrap_err();
        assert!(matches!(&error, StoreError::NotEmpty { .. }), "{error}");
    }
    assert!(get(&open_half().unwrap(), "249").await.is_some());

    // Somebody writes the original meanwhile.
    let writer = in_etcd(&settings, &place.key()).await.unwrap();
    let writing = tokio::spawn(async move {
        for n in 0u32.. {
            put(&writer, "heartbeat", &n.to_be_bytes()).await;
        }
    });
    let target = place.beside("changed");
    let error = copy(there, StorePlace::Directory(target.clone()))
        .await
        .unwrap_err();
    writing.abort();
    assert!(matches!(&error, StoreError::Changed { .. }), "{error}");
    let key = RootKey::from_file(&place.key()).unwrap();
    assert!(open(OpenOptions::new(&target, key)).is_err());
}
