//! Listing names: by person, of all for those who may, and of a store that was written before there was an index.

use super::issuer::Rotation;
use super::support::*;
use crate::database::{Change, Stored, name};
use crate::records::{KEEPER, KeeperRecord, NAMED};
use crate::*;

fn wanted<'a>(below: &'a str, after: Option<&'a str>, most: usize) -> NamesWanted<'a> {
    NamesWanted {
        issuer: "dune",
        below,
        after,
        most,
    }
}

async fn names(keeper: &Keeper, token: &KeeperToken, wanted: NamesWanted<'_>) -> Vec<String> {
    let page = keeper.list_names(token, &wanted).await.unwrap();
    page.names.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn each_sees_their_own_and_those_who_may_see_all_page_through_them() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    for other in ["alice2", "bob"] {
        login(&house, &keeper, other).await;
    }
    let operator = keeper.operator_token("uid:0").await.unwrap().token;
    assert_eq!(
        names(&keeper, &alice.token, wanted("", None, 10)).await,
        ["dune/alice:default"]
    );
    for below in ["bob", "alice", "alice2"] {
        assert!(
            names(&keeper, &alice.token, wanted(below, None, 10))
                .await
                .is_empty(),
            "{below}"
        );
    }
    let all = names(&keeper, &operator, wanted("", None, 10)).await;
    assert_eq!(
        all,
        [
            "dune/alice2:default",
            "dune/alice:default",
            "dune/bob:default"
        ]
    );
    let page = keeper
        .list_names(&operator, &wanted("", None, 2))
        .await
        .unwrap();
    assert!(page.more && page.names.len() == 2);
    assert_eq!(
        names(&keeper, &operator, wanted("", Some(&all[1]), 2)).await,
        all[2..]
    );
    let name = keeper.parse_name("dune/alice:default").unwrap();
    assert!(keeper.delete(&alice, &name).await.unwrap());
    assert!(
        names(&keeper, &alice.token, wanted("", None, 10))
            .await
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn names_of_an_older_store_are_shown_and_then_indexed() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    let entry = name(NAMED, &["dune", "alice", "alice", "default"]);
    let record = name(KEEPER, &[]);
    let stored: Stored<KeeperRecord> = keeper.inner.db.get(&record).await.unwrap().unwrap();
    let mut older = Change::new();
    let mut value = stored.value;
    value.names_indexed = false;
    older.put(record.clone(), &value, None).unwrap();
    older.delete(entry.clone());
    keeper.inner.db.commit(older).await.unwrap();
    let shown = ["dune/alice:default"];
    assert_eq!(
        names(&keeper, &alice.token, wanted("", None, 10)).await,
        shown
    );
    keeper.index_names().await.unwrap();
    let found: Option<Stored<serde_json::Value>> = keeper.inner.db.get(&entry).await.unwrap();
    assert!(found.is_some());
    assert_eq!(
        names(&keeper, &alice.token, wanted("", None, 10)).await,
        shown
    );
}
