//! Tests that reach below the typed store: records exchanged, altered and moved by somebody who can write the disk, and data of
//! newer versions. What is read is what was written in its place, or an error; never something else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::bootstrap::{FORMAT_KEY, KEYRING_KEY, meta_put};
use crate::engine::{RawPut, RawTransaction};
use crate::testing::XorShift;
use crate::{
    CommitError, Kind, Name, OpenOptions, Page, Record, RootKey, Store, StoreError, Transaction,
    WatchEvent, open,
};

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn open_with(&self, key: RootKey) -> Result<Store, StoreError> {
        open(OpenOptions {
            reserve_bytes: 4096,
            ..OpenOptions::new(&self.path("data"), key)
        })
    }
    fn open(&self) -> Result<Store, StoreError> {
        self.open_with(RootKey::load_or_generate(
            &self.path("key"),
            &self.path("data"),
        )?)
    }
}

fn name(n: usize) -> Name {
    Name::new(Kind(3), &["alice", &n.to_string()])
}

fn record(n: usize) -> Record {
    Record {
        schema: 2,
        body: Zeroizing::new(format!("body {n}").into_bytes()),
        expires_at: Some(1000),
    }
}

async fn fill(store: &Store, count: usize) {
    let puts = (0..count).map(|n| (name(n), record(n))).collect();
    store
        .commit(Transaction {
            puts,
            ..Transaction::new()
        })
        .await
        .unwrap();
}

async fn raw(store: &Store, n: usize) -> (Vec<u8>, Vec<u8>) {
    let key = store.inner.hasher.key(&name(n));
    let found = store
        .inner
        .engine
        .read(std::slice::from_ref(&key))
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    (key, found.value)
}

async fn overwrite(store: &Store, put: RawPut) {
    let transaction = RawTransaction {
        puts: vec![put],
        ..RawTransaction::default()
    };
    store.inner.engine.commit(transaction).await.unwrap();
}

fn raw_put(key: Vec<u8>, value: Vec<u8>) -> RawPut {
    RawPut {
        key,
        value,
        expires_at: Some(1000),
        keep_version: true,
    }
}

#[tokio::test]
async fn one_damaged_record_is_reported_and_the_others_are_read() {
    let place = Place::new();
    let store = place.open().unwrap();
    fill(&store, 10).await;
    let (key, value) = raw(&store, 4).await;
    for at in [0, 1, 4, 7, 15, 25, value.len() - 1] {
        let mut bad = value.clone();
        bad[at] ^= 0x40;
        overwrite(&store, raw_put(key.clone(), bad)).await;
        let error = store.get(&name(4)).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Corrupt { .. } | StoreError::NewerFormat { .. }
            ),
            "byte {at}: {error:?}"
        );
        assert!(!error.is_temporary() && !error.to_string().contains("alice"));
        let page = store
            .scan(Kind(3), &[b"alice"], Page::first(100))
            .await
            .unwrap();
        assert_eq!(
            (page.entries.len(), page.damaged),
            (9, vec![error]),
            "byte {at}"
        );
        for n in (0..10).filter(|n| *n != 4) {
            assert_eq!(
                store.get(&name(n)).await.unwrap().unwrap().record,
                record(n)
            );
        }
    }
    // It does not keep keys from being rotated, and its key is kept for it.
    store.rotate_keyring().await.unwrap();
    let done = store.reseal_all().await.unwrap();
    assert_eq!(
        (
            done.resealed,
            done.damaged.len(),
            store.status().key_generations
        ),
        (9, 1, 2)
    );
    // A watch can not name it, and says that it missed something.
    let mut watch = store.watch(Kind(3), &[]);
    store
        .commit(Transaction::new().delete(name(4)))
        .await
        .unwrap();
    assert_eq!(watch.next().await, Some(WatchEvent::Gap));
    store
        .commit(Transaction::new().put(name(4), record(4)))
        .await
        .unwrap();
    assert_eq!(
        store.get(&name(4)).await.unwrap().unwrap().record,
        record(4)
    );
}

#[tokio::test]
async fn records_do_not_open_in_each_others_places() {
    let place = Place::new();
    let store = place.open().unwrap();
    fill(&store, 2).await;
    let ((key_a, value_a), (key_b, value_b)) = (raw(&store, 0).await, raw(&store, 1).await);
    overwrite(&store, raw_put(key_a, value_b)).await;
    overwrite(&store, raw_put(key_b, value_a)).await;
    for n in 0..2 {
        assert!(matches!(
            store.get(&name(n)).await,
            Err(StoreError::Corrupt { .. })
        ));
    }
    // Nor in another store of the same names.
    let other = Place::new();
    let elsewhere = other.open().unwrap();
    fill(&elsewhere, 1).await;
    assert_ne!(
        raw(&elsewhere, 0).await.0,
        raw(&store, 0).await.0,
        "the names are hashed otherwise"
    );
    let (key, _) = raw(&elsewhere, 0).await;
    overwrite(&elsewhere, raw_put(key, raw(&store, 0).await.1)).await;
    assert!(matches!(
        elsewhere.get(&name(0)).await,
        Err(StoreError::Corrupt { .. })
    ));
}

/// Alters the format record, closes, and opens again.
async fn reopened_with(key: &[u8], value: &[u8]) -> StoreError {
    let place = Place::new();
    let store = place.open().unwrap();
    overwrite(&store, meta_put(key, value.to_vec())).await;
    store.close().await.unwrap();
    place.open().unwrap_err()
}

#[tokio::test]
async fn what_a_newer_version_wrote_is_refused_as_such() {
    // Whatever else that version may have put into it.
    let newer = reopened_with(FORMAT_KEY, br#"{"format":2,"keys":"elsewhere"}"#).await;
    assert_eq!(
        newer,
        StoreError::NewerFormat {
            found: 2,
            supported: 1
        }
    );
    let level = br#"{"format":1,"write_level":7,"store":"x","root_key":"y"}"#;
    assert_eq!(
        reopened_with(FORMAT_KEY, level).await,
        StoreError::NewerFormat {
            found: 7,
            supported: 1
        }
    );
    assert!(matches!(
        reopened_with(FORMAT_KEY, b"no json").await,
        StoreError::Damaged { .. }
    ));
    assert!(matches!(
        reopened_with(KEYRING_KEY, b"no keyring").await,
        StoreError::Damaged { .. }
    ));

    let place = Place::new();
    let store = place.open().unwrap();
    fill(&store, 1).await;
    let (key, mut value) = raw(&store, 0).await;
    value[0] = 2;
    overwrite(&store, raw_put(key, value)).await;
    assert_eq!(
        store.get(&name(0)).await,
        Err(StoreError::NewerFormat {
            found: 2,
            supported: 1
        })
    );
}

#[tokio::test]
async fn the_root_key_is_replaced_while_others_write() {
    let place = Place::new();
    let store = place.open().unwrap();
    fill(&store, 20).await;
    let derived = store.derive_key("x");
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..40 {
                store
                    .commit(Transaction::new().put(name(n % 20), record(n % 20)))
                    .await
                    .unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let old = RootKey::from_file(&place.path("key")).unwrap();
    let new = RootKey::generate_file(&place.path("new.key")).unwrap();
    assert_eq!(
        (
            store.is_sealed_under(&old).await,
            store.is_sealed_under(&new).await
        ),
        (Ok(true), Ok(false))
    );
    store.replace_root_key(&new).await.unwrap();
    store.rotate_keyring().await.unwrap();
    writer.await.unwrap();
    assert_eq!(
        (
            store.is_sealed_under(&old).await,
            store.is_sealed_under(&new).await
        ),
        (Ok(false), Ok(true))
    );
    assert_eq!(store.status().root_key_id, new.id());
    store.close().await.unwrap();

    assert_eq!(
        place.open().map(drop),
        Err(StoreError::ForeignRootKey {
            expected: new.id(),
            given: old.id()
        })
    );
    let store = place
        .open_with(RootKey::from_file(&place.path("new.key")).unwrap())
        .unwrap();
    for n in 0..20 {
        assert_eq!(
            store.get(&name(n)).await.unwrap().unwrap().record,
            record(n)
        );
    }
    assert_eq!(*store.derive_key("x"), *derived);
}

/// Two processes on one engine, as nodes on one etcd are.
#[tokio::test]
async fn of_two_who_replace_the_root_key_at_once_one_changes_nothing() {
    let place = Place::new();
    let one = place.open().unwrap();
    let old = RootKey::from_file(&place.path("key")).unwrap();
    let another = async || {
        let engine = one.inner.engine.clone();
        Store::assemble(engine, &old, false).await.unwrap()
    };
    let (two, untold) = (another().await, another().await);
    let (first, second) = (
        RootKey::generate_file(&place.path("first.key")).unwrap(),
        RootKey::generate_file(&place.path("second.key")).unwrap(),
    );
    one.expect_root_key(&second);
    two.expect_root_key(&first);
    one.replace_root_key(&first).await.unwrap();
    for late in [&two, &untold] {
        assert_eq!(
            late.replace_root_key(&second).await,
            Err(StoreError::RootKeyReplaced { by: first.id() })
        );
        assert_eq!(one.is_sealed_under(&first).await, Ok(true));
        assert!(!late.root_keys().known.contains(&second.id()));
    }
    // What one expects it still knows when it has put another in force; what it has replaced it does not.
    assert_eq!(one.root_keys().known, [second.id(), first.id()]);
    let write = Transaction::new().put(name(1), record(1));
    two.commit(write.clone()).await.unwrap();
    assert_eq!(two.root_keys().in_force, first.id());
    // Who was not told can write nothing, knows which key it lacks, and goes on when it has it.
    let foreign = StoreError::ForeignRootKey {
        expected: first.id(),
        given: old.id(),
    };
    assert_eq!(
        untold.commit(write.clone()).await,
        Err(foreign.clone().into())
    );
    // Nor does it take what it cannot open for damaged, and the rest for all there is.
    two.rotate_keyring().await.unwrap();
    two.commit(write.clone()).await.unwrap();
    let page = Page::first(100);
    assert_eq!(untold.scan(Kind(3), &[], page).await, Err(foreign));
    assert_eq!(untold.root_keys().lacking, Some(first.id()));
    untold.expect_root_key(&first);
    untold.commit(write).await.unwrap();
    assert_eq!(untold.root_keys().lacking, None);
    // One after the other is in order.
    two.expect_root_key(&second);
    two.replace_root_key(&second).await.unwrap();
    assert_eq!(one.is_sealed_under(&second).await, Ok(true));
    one.close().await.unwrap();
}

/// Bytes of the data file altered at random: whatever is still read is what was written.
#[tokio::test]
async fn an_altered_data_file_shows_nothing_that_was_not_written() {
    let original = Place::new();
    let store = original.open().unwrap();
    fill(&store, 60).await;
    store.close().await.unwrap();
    let data = std::fs::read(original.path("data/store.redb")).unwrap();
    // Most of the file is empty; what is altered should matter.
    let used: Vec<usize> = (0..data.len()).filter(|at| data[*at] != 0).collect();
    let mut random = XorShift::new(5);
    let (mut refused, mut read) = (0, 0);
    for _ in 0..25 {
        let mut altered = data.clone();
        for _ in 0..40 {
            let at = used[random.below(used.len() as u64) as usize];
            altered[at] ^= 1 << random.below(8);
        }
        std::fs::write(original.path("data/store.redb"), &altered).unwrap();
        match original.open() {
            Err(_) => refused += 1,
            Ok(store) => {
                for n in 0..60 {
                    if let Ok(Some(entry)) = store.get(&name(n)).await {
                        assert_eq!((entry.name, entry.record), (name(n), record(n)));
                        read += 1;
                    }
                }
            }
        }
    }
    assert!(
        read < 25 * 60,
        "nothing was altered that matters: {refused} refused, {read} read"
    );
}

#[tokio::test]
async fn epochs_and_sequences_only_rise() {
    let place = Place::new();
    let (mut epoch, mut sequence, mut fence) = (0, 0, 0);
    for n in 0..4 {
        let store = place.open().unwrap();
        let status = store.status();
        assert!(status.epoch > epoch && status.commit_sequence >= sequence);
        let committed = store
            .commit(Transaction::new().put(name(n), record(n)))
            .await
            .unwrap();
        assert_eq!(store.status().commit_sequence, committed.version.number());
        let lease = store
            .lease("l", "holder", std::time::Duration::from_secs(1))
            .await
            .unwrap()
            .unwrap();
        assert!(lease.fence() > fence, "fences rise across restarts");
        (epoch, sequence, fence) = (status.epoch, committed.version.number(), lease.fence());
        if n % 2 == 0 {
            store.close().await.unwrap();
        }
    }
    let store = place.open().unwrap();
    let stale = Transaction::new()
        .guard(crate::Guard::At(
            name(0),
            crate::Version::from_number(sequence),
        ))
        .put(name(0), record(0));
    assert_eq!(
        store.commit(stale).await,
        Err(CommitError::Conflict { guard: 0 })
    );
    assert_eq!(
        store.status().entries,
        Some(6),
        "the records, and two of the store's own"
    );
    assert!(store.status().bytes > 0 && store.status().store_id.len() == 32);
}

/// Everything is dropped in a runtime and outside of one without hanging, a watch left over included.
#[test]
fn handles_may_be_dropped_anywhere() {
    let place = Place::new();
    let store = place.open().unwrap();
    let watch = store.watch(Kind(1), &[]);
    drop(store);
    assert!(place.open().is_err(), "a watch keeps the store open");
    drop(watch);
    let store = Arc::new(place.open().unwrap());
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(async move {
            fill(&store, 3).await;
            drop(store);
        });
    assert!(Path::new(&place.path("data/STORE")).exists());
    place.open().unwrap();
}
