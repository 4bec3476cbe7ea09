//! Lists of tokens by person: what they cost, and that the index follows what happens to tokens.

use super::issuer::Rotation;
use super::support::*;
use crate::database::{Change, Stored};
use crate::records::HELD;
use crate::secret::{TokenId, random_id};
use crate::tokens::put_new;
use crate::*;

/// Tokens of people that the test does not look at, `each` of each.
async fn fill(keeper: &Keeper, like: &KeeperToken, people: usize, each: usize) {
    for person in 0..people {
        let mut change = Change::new();
        for _ in 0..each {
            let mut token = like.clone();
            token.id = TokenId::try_from(random_id()).unwrap();
            token.accessor = random_id();
            token.entity = Some(format!("entity-{person}"));
            token.display_name = format!("oidc-dune-other{person}");
            token.identity.as_mut().unwrap().alias = format!("other{person}");
            put_new(&mut change, &token).unwrap();
        }
        keeper.inner.db.commit(change).await.unwrap();
    }
}

async fn indexed(keeper: &Keeper, person: &str) -> usize {
    let mut count = 0;
    keeper
        .inner
        .db
        .each::<serde_json::Value>(HELD, &[person.as_bytes()], |_| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        })
        .await
        .unwrap();
    count
}

async fn mine(keeper: &Keeper, by: &Bearer) -> Vec<String> {
    let listed = keeper.tokens_of(by, None, 100).await.unwrap();
    assert!(!listed.more);
    let tokens = listed.found.into_iter();
    tokens.map(|token| token.accessor).collect()
}

#[tokio::test(start_paused = true)]
async fn a_list_of_ones_own_tokens_reads_no_others() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = login(&house, &keeper, "alice").await.issued;
    let by = bearer(&keeper, &alice.secret).await;
    let below = child(&keeper, &by).await;
    fill(&keeper, &alice.token, 200, 10).await;
    until("the census is over", || {
        keeper.inner.census.last().is_some()
    })
    .await;
    let engine = house.engine.lock().unwrap().clone().unwrap();
    let before = engine.records_read();
    let mut own = vec![alice.token.accessor.clone(), below.token.accessor.clone()];
    own.sort_unstable();
    assert_eq!(mine(&keeper, &by).await, own);
    let read = engine.records_read() - before;
    assert!(read <= 10, "{read} records were read");

    // Operators find all of a person, however many others there are; and hear that others were not looked at.
    let before = engine.records_read();
    for of in ["alice", "oidc-dune-alice"] {
        let listed = keeper.tokens_named(of, 100).await.unwrap();
        assert!(listed.more);
        let found = |issued: &Issued| {
            let mut all = listed.found.iter();
            all.any(|token| token.accessor == issued.token.accessor)
        };
        assert!(found(&alice), "{of}");
        assert_eq!(found(&below), of == "alice");
        assert!(
            listed
                .found
                .iter()
                .all(|token| token.entity == alice.token.entity)
        );
    }
    let read = engine.records_read() - before;
    assert!(read < 2100, "{read} records were read");

    // Page by page, each once.
    let first = keeper.tokens_of(&by, None, 1).await.unwrap();
    assert!(first.more);
    let rest = keeper
        .tokens_of(&by, Some(&first.found[0].accessor), 10)
        .await
        .unwrap();
    assert!(!rest.more);
    let paged = [&first.found[..], &rest.found[..]].concat();
    let paged: Vec<_> = paged.into_iter().map(|token| token.accessor).collect();
    assert_eq!(paged, own);
}

#[tokio::test(start_paused = true)]
async fn the_index_follows_making_renewing_using_up_and_revoking() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = login(&house, &keeper, "alice").await.issued;
    let by = bearer(&keeper, &alice.secret).await;
    let second = child(&keeper, &by).await;
    let once = CreateToken {
        num_uses: 1,
        ..CreateToken::default()
    };
    let once = keeper.create_token(&by, once, false).await.unwrap();
    assert_eq!(indexed(&keeper, "alice").await, 3);
    keeper.authenticate(&once.secret, None).await.unwrap();
    assert_eq!(indexed(&keeper, "alice").await, 2);
    keeper.revoke(&second.token.id).await.unwrap();
    assert_eq!(indexed(&keeper, "alice").await, 1);
    // What was renewed is still listed when the end it was made with has passed.
    let short = CreateToken {
        ttl: Some(Seconds(1000)),
        ..CreateToken::default()
    };
    let short = keeper.create_token(&by, short, false).await.unwrap();
    house.pass(900).await;
    keeper.renew(&short.token.id, None).await.unwrap();
    house.pass(200).await;
    let listed = mine(&keeper, &by).await;
    assert!(listed.contains(&short.token.accessor), "{listed:?}");
    house
        .clock
        .pass(std::time::Duration::from_secs(50 * 86_400));
    house.clock.set_synchronised(Some(true));
    // The keeper's own sweep may be at it.
    until_async("they are swept", || async {
        keeper.note_time_and_sweep().await.unwrap();
        indexed(&keeper, "alice").await == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tokens_of_an_older_store_are_shown_and_then_indexed() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = login(&house, &keeper, "alice").await.issued;
    let by = bearer(&keeper, &alice.secret).await;
    for _ in 0..50 {
        child(&keeper, &by).await;
    }
    let mut entries: Vec<gridkeep_store::Name> = Vec::new();
    keeper
        .inner
        .db
        .each(HELD, &[], |stored: Stored<serde_json::Value>| {
            entries.push(stored.name);
            std::ops::ControlFlow::Continue(())
        })
        .await
        .unwrap();
    let mut older = Change::new();
    for entry in entries {
        older.delete(entry);
    }
    keeper.inner.db.commit(older).await.unwrap();
    keeper
        .amend_record(|record| record.tokens_indexed = false)
        .await
        .unwrap();
    assert_eq!(mine(&keeper, &by).await.len(), 51);
    keeper.index_tokens().await.unwrap();
    assert_eq!(indexed(&keeper, "alice").await, 51);
    assert_eq!(mine(&keeper, &by).await.len(), 51);
}
