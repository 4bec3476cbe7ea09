//! Narrowed tokens.

use std::time::Duration;

use super::issuer::Rotation;
use super::support::*;
use crate::*;

const ALICE: &str = "dune/alice:default";

fn narrow(scopes: &[&str], audiences: &[&str]) -> Want {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Want {
        minimum: Seconds(60),
        scopes: texts(scopes),
        audiences: texts(audiences),
        resources: Vec::new(),
        ..Want::default()
    }
}

async fn alice(house: &House, keeper: &Keeper) -> Bearer {
    bearer(keeper, &login(house, keeper, "alice").await.issued.secret).await
}

#[tokio::test(start_paused = true)]
async fn a_narrowed_token_is_cached_by_what_it_is_for() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    let (first, _) = read(&keeper, &by, ALICE, narrow(&["compute.read", "b"], &["x"]))
        .await
        .unwrap();
    let (again, _) = read(&keeper, &by, ALICE, narrow(&["b", "compute.read"], &["x"]))
        .await
        .unwrap();
    let (other, _) = read(&keeper, &by, ALICE, narrow(&["compute.read"], &["x"]))
        .await
        .unwrap();
    let (audience, _) = read(&keeper, &by, ALICE, narrow(&[], &["y"]))
        .await
        .unwrap();
    assert_eq!(first, again);
    assert!(first != other && other != audience && first != "at-1");
    {
        let books = house.issuer.books();
        assert_eq!(books.exchanges.len(), 3);
        assert_eq!(
            books.exchanges[0].scopes,
            ["compute.read", "b"],
            "in the order given"
        );
        let subject = &books.exchanges[0].subject_token;
        assert_eq!(secrecy::ExposeSecret::expose_secret(subject), "at-1");
    }
    // Too short for a longer wish: another one.
    house.clock.pass(Duration::from_secs(1800));
    let longer = Want {
        minimum: Seconds(2400),
        ..narrow(&["compute.read", "b"], &["x"])
    };
    let (longer, warnings) = read(&keeper, &by, ALICE, longer).await.unwrap();
    assert!(longer != first && warnings.is_empty());
    assert_eq!(house.issuer.refreshes(), 1, "the base has to last as well");
}

#[tokio::test(start_paused = true)]
async fn the_same_wishes_at_one_moment_are_one_exchange() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    let readers: Vec<_> = (0..200)
        .map(|_| {
            let (keeper, by) = (keeper.clone(), by.clone());
            tokio::spawn(async move { read(&keeper, &by, ALICE, narrow(&["a"], &[])).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap().0, "at-2");
    }
    assert_eq!(house.issuer.books().exchanges.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_exchange_goes_on_and_its_answer_is_there_at_the_next_try() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.issuer.close_gate();
    let reader = tokio::spawn({
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { read(&keeper, &by, ALICE, narrow(&["a"], &[])).await }
    });
    until("it is sent", || house.issuer.books().exchanges.len() == 1).await;
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(kind(reader.await.unwrap()), LaterKind::IssuerSlow);
    house.issuer.open_gate();
    assert_eq!(
        read(&keeper, &by, ALICE, narrow(&["a"], &[]))
            .await
            .unwrap()
            .0,
        "at-2"
    );
    assert_eq!(house.issuer.books().exchanges.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn more_than_was_asked_for_is_never_handed_out() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    house.issuer.books().exchange_scope = Some("compute.read compute.modify".into());
    for _ in 0..2 {
        assert_eq!(
            bad(read(&keeper, &by, ALICE, narrow(&["compute.read"], &[])).await),
            BadInput::TooWide {
                extra: "compute.modify".into()
            }
        );
    }
    assert_eq!(house.issuer.books().exchanges.len(), 2, "nor is it cached");
}

#[tokio::test(start_paused = true)]
async fn trouble_with_an_exchange_is_told_apart() {
    use super::issuer::Next;
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    let want = || narrow(&["a"], &[]);
    house
        .issuer
        .books()
        .next
        .push_back(Next::Refuse("invalid_scope"));
    assert_eq!(
        bad(read(&keeper, &by, ALICE, want()).await).to_string(),
        "exchange failed: server rejected request: invalid_scope: as told"
    );
    house.issuer.books().down = true;
    assert_eq!(
        kind(read(&keeper, &by, ALICE, want()).await),
        LaterKind::IssuerDown
    );
    house.issuer.books().down = false;
    house.issuer.books().life = Some(5);
    assert!(
        bad(read(&keeper, &by, ALICE, want()).await)
            .to_string()
            .starts_with("token expired")
    );
    house.issuer.books().life = Some(600);
    let long = Want {
        minimum: Seconds(2400),
        ..narrow(&["z"], &[])
    };
    let (first, warnings) = read(&keeper, &by, ALICE, long.clone()).await.unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(
        read(&keeper, &by, ALICE, long).await.unwrap().0,
        first,
        "fresh is good enough"
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_no_wider_than_asked_either() {
    use crate::database::{Change, name};
    use crate::records::{CachedToken, EXCHANGED, ExchangedRecord};
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    let want = narrow(&["compute.read"], &[]);
    let grant = grant_of(&keeper, ALICE).await;
    let wider = CachedToken {
        token: "wider".into(),
        token_type: "Bearer".into(),
        issued_at: START,
        expires_at: Some(START + 3600),
        scope: Some("compute.read compute.modify".into()),
    };
    let key = keeper.inner.sealer.key(&grant).unwrap();
    let record = ExchangedRecord {
        sealed: key.seal(&grant.id, &wider).unwrap(),
    };
    let place = name(EXCHANGED, &[&grant.id, &crate::exchange::cache_key(&want)]);
    let mut change = Change::new();
    change.put(place, &record, None).unwrap();
    keeper.inner.db.commit(change).await.unwrap();
    let (token, _) = read(&keeper, &by, ALICE, want).await.unwrap();
    assert_ne!(token, "wider");
    assert_eq!(house.issuer.books().exchanges.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_scope_or_audience_never_reaches_the_issuer() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = alice(&house, &keeper).await;
    for (scope, audience) in [
        ("a\0b", "x"),
        ("a b", "x"),
        ("a\"", "x"),
        ("a\\b", "x"),
        ("sch\u{f6}n", "x"),
        ("", "x"),
        ("a", "x\0y"),
        ("a", "x\ny"),
    ] {
        let want = narrow(&[scope], &[audience]);
        let refused = bad(read(&keeper, &by, ALICE, want).await).to_string();
        assert!(refused.contains("is no "), "{refused}");
    }
    let resource = Want {
        resources: vec!["https://x\u{7f}".into()],
        ..Want::default()
    };
    bad(read(&keeper, &by, ALICE, resource).await);
    assert!(house.issuer.books().exchanges.is_empty());
}
