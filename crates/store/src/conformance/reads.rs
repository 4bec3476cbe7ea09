//! Reading: snapshots, scans, pages, bodies, derived keys.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{Mark, Page};

pub(super) async fn snapshots_are_of_one_moment(store: Store) {
    let pair = [name("a"), name("b")];
    let writer = {
        let (store, pair) = (store.clone(), pair.clone());
        tokio::spawn(async move {
            for n in 0..60 {
                let body = n.to_string();
                commit(
                    &store,
                    Transaction::new()
                        .put(pair[0].clone(), text(&body))
                        .put(pair[1].clone(), text(&body)),
                )
                .await;
            }
        })
    };
    while !writer.is_finished() {
        let found = store.get_many(&pair).await.expect("reads");
        let bodies: Vec<_> = found
            .iter()
            .map(|entry| entry.as_ref().map(|entry| &entry.record))
            .collect();
        assert_eq!(
            bodies[0], bodies[1],
            "two records written together are read together"
        );
        tokio::task::yield_now().await;
    }
    writer.await.expect("runs");
    let found = store
        .get_many(&[name("b"), name("none"), name("a"), name("b")])
        .await
        .expect("reads");
    assert_eq!(
        found.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, false, true, true]
    );
    assert_eq!(found[0], found[3]);
    assert_eq!(store.get_many(&[]).await, Ok(Vec::new()));
}

/// On an engine that gives marks: one that still holds says that what was read is what was last answered as written.
pub(super) async fn marks(store: Store) {
    let (all, other) = (["a", "b", "c"].map(name), name("other"));
    let found = store.get_marked(&all).await.expect("reads");
    let Some(taken) = found
        .into_iter()
        .map(|(_, mark)| mark)
        .collect::<Option<Vec<_>>>()
    else {
        return;
    };
    put(&store, &other, "0").await;
    let refused = Transaction::new()
        .guard(absent(&other))
        .put(other.clone(), text("refused"));
    assert!(store.commit(refused).await.is_err());
    assert!(
        taken.iter().any(Mark::holds),
        "not every write ends every mark"
    );
    commit(&store, Transaction::new().delete(all[0].clone())).await;
    assert!(!taken[0].holds(), "a deletion was answered");
    let (answered, kept) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (store, mine) = (store.clone(), all[1].clone());
        let (answered, kept) = (answered.clone(), kept.clone());
        tokio::spawn(async move {
            // At least until one was kept: whoever reads may have had to wait for a processor.
            for n in 0..100_000 {
                if n >= 100 && kept.load(Ordering::SeqCst) > 0 {
                    break;
                }
                let version = put(&store, &mine, &n.to_string()).await;
                answered.store(version.number(), Ordering::SeqCst);
            }
        })
    };
    while !writer.is_finished() {
        let found = store.get_marked(&all[1..2]).await.expect("reads").remove(0);
        let (entry, Some(mark)) = found else {
            panic!("the engine gave marks before");
        };
        let version = entry.map_or(0, |entry| entry.version.number());
        tokio::task::yield_now().await;
        let last = answered.load(Ordering::SeqCst);
        if mark.holds() {
            kept.fetch_add(1, Ordering::SeqCst);
            assert!(
                version >= last,
                "what was read is older than what was answered"
            );
        }
    }
    writer.await.expect("runs");
    assert!(kept.load(Ordering::SeqCst) > 0);
}

async fn names(store: &Store, kind: Kind, prefix: &[&[u8]]) -> BTreeSet<Name> {
    let page = store
        .scan(kind, prefix, Page::first(100))
        .await
        .expect("scans");
    assert_eq!((page.next, page.damaged), (None, Vec::new()));
    page.entries.into_iter().map(|entry| entry.name).collect()
}

pub(super) async fn scans(store: Store) {
    let all: Vec<Name> = [
        Name::singleton(Kind(1)),
        Name::new(Kind(1), &["dune"]),
        Name::new(Kind(1), &["dune", "alice"]),
        Name::new(Kind(1), &["dune", "alice", "default"]),
        Name::new(Kind(1), &["dune", "alice", "production"]),
        Name::new(Kind(1), &["dune", "alic"]),
        Name::new(Kind(1), &["dunealice"]),
        Name::new(Kind(1), &["cms", "alice", "default"]),
        Name::new(Kind(1), &[&b"\x00\xff"[..], b"", b"/"]),
        Name::new(Kind(2), &["dune", "alice", "default"]),
        Name::new(Kind(257), &["dune"]),
    ]
    .into();
    for (n, name) in all.iter().enumerate() {
        put(&store, name, &n.to_string()).await;
    }
    let pick = |indices: &[usize]| {
        indices
            .iter()
            .map(|n| all[*n].clone())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(
        names(&store, Kind(1), &[]).await,
        pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8])
    );
    assert_eq!(
        names(&store, Kind(1), &[b"dune"]).await,
        pick(&[1, 2, 3, 4, 5]),
        "with the name of just the prefix"
    );
    assert_eq!(
        names(&store, Kind(1), &[b"dune", b"alice"]).await,
        pick(&[2, 3, 4])
    );
    assert_eq!(
        names(&store, Kind(1), &[b"dune", b"alice", b"default"]).await,
        pick(&[3])
    );
    assert_eq!(names(&store, Kind(1), &[b"\x00\xff"]).await, pick(&[8]));
    assert_eq!(
        names(&store, Kind(1), &[b"dun"]).await,
        pick(&[]),
        "components are whole"
    );
    assert_eq!(names(&store, Kind(2), &[]).await, pick(&[9]));
    assert_eq!(names(&store, Kind(257), &[]).await, pick(&[10]));
    assert_eq!(names(&store, Kind(3), &[]).await, pick(&[]));
}

pub(super) async fn pages(store: Store) {
    for n in 0..25 {
        put(&store, &Name::new(KIND, &["owner", &n.to_string()]), "x").await;
    }
    put(&store, &Name::new(KIND, &["other"]), "x").await;
    for limit in [1, 7, 24, 25, 26, 1000] {
        let (mut seen, mut page, mut pages) = (BTreeSet::new(), Page::first(limit), 0);
        loop {
            let found = store.scan(KIND, &[b"owner"], page).await.expect("scans");
            assert!(found.entries.len() <= limit);
            pages += 1;
            for entry in found.entries {
                assert!(seen.insert(entry.name), "no record twice");
            }
            let Some(next) = found.next else { break };
            page = Page::after(crate::Cursor::from_bytes(next.as_bytes().to_vec()), limit);
        }
        assert_eq!(
            (seen.len(), pages),
            (25, 25usize.div_ceil(limit)),
            "limit {limit}"
        );
    }
    // A cursor outlives the record it stands on, and leads nowhere else.
    let first = store
        .scan(KIND, &[b"owner"], Page::first(10))
        .await
        .expect("scans");
    let deletes = first.entries.into_iter().map(|entry| entry.name).collect();
    commit(
        &store,
        Transaction {
            deletes,
            ..Transaction::new()
        },
    )
    .await;
    let rest = store
        .scan(
            KIND,
            &[b"owner"],
            Page::after(first.next.expect("there is more"), 100),
        )
        .await
        .expect("scans");
    assert_eq!((rest.entries.len(), rest.next), (15, None));
    for bytes in [vec![], vec![0], vec![0xff; 40]] {
        let page = store
            .scan(
                KIND,
                &[b"owner"],
                Page::after(crate::Cursor::from_bytes(bytes), 100),
            )
            .await
            .expect("scans");
        assert!(
            page.entries
                .iter()
                .all(|entry| entry.name.text(0) == Some("owner"))
        );
    }
}

pub(super) async fn bodies_are_opaque(store: Store) {
    for (n, bytes) in [
        &b""[..],
        b"\x00",
        b"{\"known\":1,\"unknown\":[1,2]}",
        &[0xff; 5000],
    ]
    .into_iter()
    .enumerate()
    {
        let record = Record {
            schema: u16::MAX,
            body: Zeroizing::new(bytes.to_vec()),
            expires_at: Some(i64::MIN + 1),
        };
        let name = name(&n.to_string());
        commit(&store, Transaction::new().put(name.clone(), record.clone())).await;
        assert_eq!(get(&store, &name).await.expect("is there").record, record);
    }
    // Expired is not hidden: that is for readers.
    let expired = name("expired");
    commit(
        &store,
        Transaction::new().put(expired.clone(), expiring("x", 0)),
    )
    .await;
    assert_eq!(
        get(&store, &expired)
            .await
            .expect("is there")
            .record
            .expires_at,
        Some(0)
    );
}

pub(super) async fn derived_keys(store: Store) {
    let key = store.derive_key("audit");
    assert_eq!(*key, *store.derive_key("audit"));
    assert_ne!(*key, *store.derive_key("tokens"));
    assert_eq!(
        store.index_mac("audit", b"x"),
        store.index_mac("audit", b"x")
    );
    assert_ne!(
        store.index_mac("audit", b"x"),
        store.index_mac("audit", b"y")
    );
    assert_ne!(
        store.index_mac("audit", b"x"),
        store.index_mac("tokens", b"x")
    );
    store.rotate_keyring().await.expect("rotates");
    store.reseal_all().await.expect("seals anew");
    assert_eq!(
        *key,
        *store.derive_key("audit"),
        "the same for the life of the store"
    );
}
