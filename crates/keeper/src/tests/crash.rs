//! A kill between any two steps: what was in flight is found, tried once, and called by its name.

use std::time::Duration;

use super::issuer::Rotation;
use super::support::*;
use crate::database::name;
use crate::records::{INTENT, Intent};
use crate::*;

const ALICE: &str = "dune/alice:default";

/// A keeper that is killed while the answer to its refresh is on the way.
async fn killed_in_flight(house: &House) -> Login {
    let keeper = house.open().await;
    let login = login(house, &keeper, "alice").await;
    house.clock.pass(Duration::from_secs(3600));
    house.issuer.close_gate();
    let _flight = keeper.flight(&grant_of(&keeper, ALICE).await.id, None);
    until("it is sent", || house.issuer.refreshes() == 1).await;
    keeper.crash().await;
    house.issuer.open_gate();
    login
}

async fn no_intents(keeper: &Keeper) -> bool {
    let mut count = 0;
    keeper
        .inner
        .db
        .each::<Intent>(INTENT, &[], |_| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        })
        .await
        .unwrap();
    count == 0
}

#[tokio::test(start_paused = true)]
async fn with_a_grace_period_a_kill_loses_nothing() {
    for rotation in [Rotation::Grace, Rotation::Never] {
        let house = House::new(rotation);
        let login = killed_in_flight(&house).await;
        let keeper = house.open().await;
        // The start finds the intent and tries by itself.
        until_async("the intent is gone", async || no_intents(&keeper).await).await;
        assert_eq!(house.issuer.books().refreshed_with, ["rt-1", "rt-1"]);
        let by = bearer(&keeper, &login.issued.secret).await;
        access(&keeper, &by, ALICE).await.unwrap();
        assert_eq!(house.issuer.refreshes(), 2);
        assert!(grant_of(&keeper, ALICE).await.answer_lost.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn with_immediate_rotation_the_login_in_flight_is_reported_with_its_cause() {
    let house = House::new(Rotation::Immediate);
    let alice = killed_in_flight(&house).await;
    let keeper = house.open().await;
    until_async("the intent is gone", async || no_intents(&keeper).await).await;
    let by = bearer(&keeper, &alice.issued.secret).await;
    let Refused::GrantDead { cause, .. } = refused(access(&keeper, &by, ALICE).await) else {
        panic!()
    };
    assert!(
        cause.contains("by node1 was lost (the server stopped before the answer arrived)"),
        "{cause}"
    );
    assert_eq!(house.issuer.refreshes(), 2, "tried once");
    let books = house.issuer.books();
    assert_eq!(
        books.issued.len() - books.delivered.len(),
        1,
        "as the issuer counts"
    );
}

#[tokio::test(start_paused = true)]
async fn only_what_was_in_flight_is_lost_by_a_kill() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let mut logins = Vec::new();
    for n in 0..10 {
        logins.push(login(&house, &keeper, &format!("user{n}")).await);
    }
    house.clock.pass(Duration::from_secs(3600));
    for (n, login) in logins.iter().enumerate().take(4) {
        let by = bearer(&keeper, &login.issued.secret).await;
        access(&keeper, &by, &format!("dune/user{n}:default"))
            .await
            .unwrap();
    }
    house.issuer.close_gate();
    for n in 4..7 {
        let grant = grant_of(&keeper, &format!("dune/user{n}:default")).await;
        let _ = keeper.flight(&grant.id, None);
    }
    until("they are sent", || house.issuer.refreshes() == 7).await;
    keeper.crash().await;
    house.close_store().await;
    house.issuer.open_gate();

    let keeper = house.open().await;
    until_async("the intents are gone", async || no_intents(&keeper).await).await;
    let mut dead = Vec::new();
    for (n, login) in logins.iter().enumerate() {
        let by = bearer(&keeper, &login.issued.secret).await;
        match access(&keeper, &by, &format!("dune/user{n}:default")).await {
            Ok(_) => {}
            Err(Failure::Refused(Refused::GrantDead { cause, .. })) => {
                assert!(cause.contains("was lost"));
                dead.push(n);
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(dead, [4, 5, 6]);
    let books = house.issuer.books();
    assert_eq!(books.issued.len() - books.delivered.len(), dead.len());
}

#[tokio::test(start_paused = true)]
async fn a_kill_while_the_issuer_stays_down_keeps_the_cause_for_later() {
    let house = House::new(Rotation::Immediate);
    let alice = killed_in_flight(&house).await;
    house.issuer.books().down = true;
    let keeper = house.open().await;
    until_async("the intent is gone", async || no_intents(&keeper).await).await;
    let by = bearer(&keeper, &alice.issued.secret).await;
    assert_eq!(
        kind(access(&keeper, &by, ALICE).await),
        LaterKind::IssuerDown
    );
    house.issuer.books().down = false;
    let Refused::GrantDead { cause, .. } = refused(access(&keeper, &by, ALICE).await) else {
        panic!()
    };
    assert!(cause.contains("the server stopped"), "{cause}");
}

#[tokio::test(start_paused = true)]
async fn an_intent_whose_grant_is_gone_is_cleared_away() {
    let house = House::new(Rotation::Grace);
    killed_in_flight(&house).await;
    let keeper = house.open().await;
    let grant = grant_of(&keeper, ALICE).await;
    keeper.crash().await;
    let mut change = crate::database::Change::new();
    change.delete(name(crate::records::GRANT, &[&grant.id]));
    keeper.inner.db.commit(change).await.unwrap();
    let keeper = house.open().await;
    until_async("the intent is gone", async || no_intents(&keeper).await).await;
}
