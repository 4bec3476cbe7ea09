//! Rotation of the keyring: nothing is lost, versions stay, nobody is disturbed.

use futures_util::FutureExt;

use super::*;

pub(super) async fn rotation(store: Store) {
    let names: Vec<Name> = (0..120).map(|n| name(&n.to_string())).collect();
    for half in names.chunks(60) {
        let puts = half
            .iter()
            .map(|name| (name.clone(), expiring("old", 5)))
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
    let before = store.get_many(&names).await.expect("reads");
    let first = store.status().key_generation;
    assert_eq!(store.rotate_keyring().await, Ok(first + 1));
    let status = store.status();
    assert_eq!(
        (status.key_generation, status.key_generations),
        (first + 1, 2)
    );
    assert_eq!(
        store.get_many(&names).await.expect("reads"),
        before,
        "what is sealed under an old key stays readable"
    );
    put(&store, &name("new"), "new").await;

    let mut watch = store.watch(KIND, &[]);
    let done = store.reseal_all().await.expect("seals anew");
    assert_eq!(
        (done.resealed, done.damaged, done.next),
        (120, Vec::new(), None),
        "only what is not under the newest key"
    );
    assert_eq!(
        store.get_many(&names).await.expect("reads"),
        before,
        "versions and bodies stay"
    );
    assert_eq!(
        watch.next().now_or_never(),
        None,
        "nobody is told of a change that is none"
    );
    assert_eq!(store.status().key_generations, 1, "the old key is gone");
    assert_eq!(store.reseal_all().await.expect("seals anew").resealed, 0);

    let version = before[0].as_ref().expect("is there").version;
    commit(
        &store,
        Transaction::new()
            .guard(at(&names[0], version))
            .put(names[0].clone(), text("guarded")),
    )
    .await;
    assert_eq!(
        store
            .sweep(1_000_000, 0, 1000)
            .await
            .expect("sweeps")
            .deleted,
        119,
        "the expiry index was kept"
    );
}

pub(super) async fn rotation_under_load(store: Store) {
    let writers: Vec<_> = (0..8)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..15 {
                    put(
                        &store,
                        &Name::new(KIND, &[task.to_string(), n.to_string()]),
                        "x",
                    )
                    .await;
                }
            })
        })
        .collect();
    for _ in 0..3 {
        store.rotate_keyring().await.expect("rotates");
        let done = store.reseal_all().await.expect("seals anew");
        assert_eq!(done.damaged, Vec::new());
    }
    for writer in writers {
        writer.await.expect("runs");
    }
    let page = store
        .scan(KIND, &[], crate::Page::first(1000))
        .await
        .expect("scans");
    assert_eq!(
        (page.entries.len(), page.damaged),
        (120, Vec::new()),
        "no record was written under a key that went"
    );
    assert_eq!(store.status().key_generations, 1);
}
