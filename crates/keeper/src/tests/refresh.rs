//! The refresh engine: intents, rotation, lost answers, answers that meet.

use std::time::Duration;

use gridkeep_issuer::TokenResponse;
use secrecy::SecretString;

use super::issuer::{Next, Rotation};
use super::support::*;
use crate::database::{Change, name};
use crate::records::{GrantState, INTENT, Intent};
use crate::refresh::received;
use crate::*;

const ALICE: &str = "dune/alice:default";

async fn expired(house: &House, keeper: &Keeper) -> Bearer {
    let by = bearer(keeper, &login(house, keeper, "alice").await.issued.secret).await;
    house.clock.pass(Duration::from_secs(3600));
    by
}

async fn intent(keeper: &Keeper, grant: &str) -> Option<Intent> {
    keeper
        .inner
        .db
        .get(&name(INTENT, &[grant]))
        .await
        .unwrap()
        .map(|stored| stored.value)
}

fn answer(access: &str, refresh: Option<&str>) -> TokenResponse {
    TokenResponse {
        access_token: SecretString::from(access.to_owned()),
        token_type: "Bearer".into(),
        expires_in: Some(3600),
        refresh_token: refresh.map(|text| SecretString::from(text.to_owned())),
        id_token: None,
        scope: None,
        issued_token_type: None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_intent_stands_before_the_call_and_is_gone_after_it() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    let id = grant_of(&keeper, ALICE).await.id;
    house.issuer.close_gate();
    let reader = tokio::spawn({
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { access(&keeper, &by, ALICE).await }
    });
    until("it is sent", || house.issuer.refreshes() == 1).await;
    let standing = intent(&keeper, &id).await.expect("an intent");
    assert_eq!((standing.generation, standing.node.as_str()), (0, "node1"));
    assert_eq!(standing.deadline.0, standing.started_at.0 + 65);
    assert!(
        secrets_of(&keeper, ALICE)
            .await
            .access
            .as_ref()
            .unwrap()
            .token
            == "at-1"
    );
    house.issuer.open_gate();
    reader.await.unwrap().unwrap();
    assert_eq!(intent(&keeper, &id).await, None);
    assert_eq!(grant_of(&keeper, ALICE).await.generation, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_rotations_lose_nothing() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    for _ in 0..100 {
        access(&keeper, &by, ALICE).await.unwrap();
        house.clock.pass(Duration::from_secs(3600));
    }
    let books = house.issuer.books();
    assert_eq!(books.refreshed_with, books.issued[..100]);
    assert_eq!(books.delivered, books.issued);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_costs_the_login_only_where_the_issuer_rotates_at_once() {
    for (rotation, lives) in [
        (Rotation::Never, true),
        (Rotation::Grace, true),
        (Rotation::Immediate, false),
    ] {
        let house = House::new(rotation);
        let keeper = house.open().await;
        let by = expired(&house, &keeper).await;
        house.issuer.books().next.push_back(Next::LoseAnswer);
        assert_eq!(
            kind(access(&keeper, &by, ALICE).await),
            LaterKind::IssuerDown
        );
        assert!(grant_of(&keeper, ALICE).await.answer_lost.is_some());
        if lives {
            access(&keeper, &by, ALICE).await.unwrap();
            assert!(grant_of(&keeper, ALICE).await.answer_lost.is_none());
        } else {
            let Refused::GrantDead { cause, .. } = refused(access(&keeper, &by, ALICE).await)
            else {
                panic!()
            };
            assert!(
                cause.contains("was lost (the connection broke before the answer)"),
                "{cause}"
            );
            // A new login is not held to be in the way of a healthy one.
            login(&house, &keeper, "alice").await;
            access(&keeper, &by, ALICE).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_is_not_called_lost() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    house.issuer.books().next.push_back(Next::Unsent);
    assert_eq!(
        kind(access(&keeper, &by, ALICE).await),
        LaterKind::IssuerDown
    );
    let grant = grant_of(&keeper, ALICE).await;
    assert!(grant.answer_lost.is_none());
    assert_eq!(intent(&keeper, &grant.id).await, None);
    access(&keeper, &by, ALICE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_flight_has_an_end_of_its_own() {
    let house = House::new(Rotation::Grace);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    house.issuer.close_gate();
    let flight = keeper.flight(&grant_of(&keeper, ALICE).await.id, None);
    until("it is sent", || house.issuer.refreshes() == 1).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    let mut landed = flight.clone();
    let landed = landed
        .wait_for(Option::is_some)
        .await
        .unwrap()
        .clone()
        .unwrap();
    assert_eq!(kind(landed.map(|_| ())), LaterKind::IssuerDown);
    let lost = grant_of(&keeper, ALICE).await.answer_lost.unwrap();
    assert_eq!(lost.how, "no answer within 60 seconds");
    house.issuer.open_gate();
    access(&keeper, &by, ALICE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_second_is_kept_beside_and_tried() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    let id = grant_of(&keeper, ALICE).await.id;
    access(&keeper, &by, ALICE).await.unwrap();
    // Another node's flight for the same generation lands after ours.
    let other = house.issuer.hand_out();
    let second = received(&id, 0, "rt-1", &answer("at-x", Some(&other)), keeper.now());
    let landed = keeper.land(second, None).await.unwrap();
    assert_eq!(landed.token, "at-x");
    let secrets = secrets_of(&keeper, ALICE).await;
    assert_eq!(secrets.refresh_token.as_deref(), Some("rt-2"));
    assert_eq!(secrets.alternates, [other.clone(), "rt-1".to_owned()]);
    assert_eq!(grant_of(&keeper, ALICE).await.generation, 1);
    // The issuer turns out to take only the second one's.
    house
        .issuer
        .books()
        .accepted
        .retain(|token| *token == other);
    house.clock.pass(Duration::from_secs(3600));
    access(&keeper, &by, ALICE).await.unwrap();
    assert_eq!(
        house.issuer.books().refreshed_with,
        ["rt-1", "rt-2", &other]
    );
    house.clock.pass(Duration::from_secs(3600));
    access(&keeper, &by, ALICE).await.unwrap();
    assert_eq!(
        house.issuer.refreshes(),
        4,
        "and what it gave is used from then on"
    );
}

#[tokio::test(start_paused = true)]
async fn an_alternate_that_works_and_is_not_rotated_becomes_the_refresh_token() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    let id = grant_of(&keeper, ALICE).await.id;
    access(&keeper, &by, ALICE).await.unwrap();
    let other = house.issuer.hand_out();
    let second = received(&id, 0, "rt-1", &answer("at-x", Some(&other)), keeper.now());
    keeper.land(second, None).await.unwrap();
    house.issuer.books().accepted.remove("rt-1");
    for _ in 0..3 {
        house.clock.pass(Duration::from_secs(3600));
        access(&keeper, &by, ALICE).await.unwrap();
    }
    assert_eq!(
        secrets_of(&keeper, ALICE).await.refresh_token,
        Some(other.clone())
    );
    assert_eq!(
        house.issuer.books().refreshed_with,
        ["rt-1", "rt-1", &other, &other, &other]
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_long_on_its_way_is_no_proof_that_the_issuers_live_too_short() {
    let house = House::new(Rotation::Grace);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    let read = || {
        let (keeper, by) = (keeper.clone(), by.clone());
        tokio::spawn(async move { access(&keeper, &by, ALICE).await })
    };
    house.issuer.books().life = Some(15);
    house.issuer.close_gate();
    let reader = read();
    until("it is sent", || house.issuer.refreshes() == 1).await;
    house.pass(7).await;
    house.issuer.open_gate();
    assert_eq!(kind(reader.await.unwrap()), LaterKind::IssuerSlow);
    assert!(
        read().await.unwrap().is_ok(),
        "the next one is here at once"
    );
    house.pass(3600).await;
    house.issuer.books().life = Some(9);
    assert!(matches!(
        bad(read().await.unwrap()),
        BadInput::Expired { .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_token_that_was_replaced_meanwhile_proves_nothing() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    let id = grant_of(&keeper, ALICE).await.id;
    house.issuer.close_gate();
    let reader = tokio::spawn({
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { access(&keeper, &by, ALICE).await }
    });
    until("it is sent", || house.issuer.refreshes() == 1).await;
    let flying = intent(&keeper, &id).await.unwrap();
    house.issuer.open_gate();
    reader.await.unwrap().unwrap();
    let buried = keeper.bury(&flying, "invalid_grant".into(), None).await;
    assert_eq!(kind(buried.map(|_| ())), LaterKind::IssuerSlow);
    assert_eq!(grant_of(&keeper, ALICE).await.state, GrantState::Live);
}

#[tokio::test(start_paused = true)]
async fn nobody_takes_over_from_another_node_before_its_deadline() {
    let house = House::new(Rotation::Grace);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    let grant = grant_of(&keeper, ALICE).await;
    let now = keeper.now();
    let other = Intent {
        id: "other".into(),
        grant: grant.id.clone(),
        generation: 0,
        node: "node2".into(),
        process: "p".into(),
        started_at: now,
        deadline: UnixSeconds(now.0 + 65),
    };
    let mut change = Change::new();
    change
        .put(name(INTENT, &[&grant.id]), &other, None)
        .unwrap();
    keeper.inner.db.commit(change).await.unwrap();
    let reader = tokio::spawn({
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { access(&keeper, &by, ALICE).await }
    });
    for _ in 0..36 {
        tokio::time::advance(Duration::from_millis(250)).await;
    }
    assert_eq!(kind(reader.await.unwrap()), LaterKind::IssuerSlow);
    assert_eq!(house.issuer.refreshes(), 0);
    // The other node lands: its token is handed out, and none is sent from here.
    let landed = received(
        &grant.id,
        0,
        "rt-1",
        &answer("at-node2", Some("rt-node2")),
        now,
    );
    keeper.land(landed, None).await.unwrap();
    assert_eq!(
        intent(&keeper, &grant.id).await,
        Some(other),
        "it is the other node's"
    );
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-node2");
    assert_eq!(house.issuer.refreshes(), 0);
    // Its clock may be wrong, so nobody goes by what it wrote; and it dies without a word. Who has seen the intent stand for as
    // long as a refresh can take may take over.
    house.issuer.books().accepted.insert("rt-node2".into());
    house.clock.pass(Duration::from_secs(3600));
    let reader = tokio::spawn({
        let (keeper, by) = (keeper.clone(), by.clone());
        async move { access(&keeper, &by, ALICE).await }
    });
    // The flight that waited for the other node looks again after a quarter of a second.
    tokio::time::advance(Duration::from_millis(300)).await;
    reader.await.unwrap().unwrap();
    assert_eq!(house.issuer.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flight_whose_task_ends_badly_leaves_the_way_free() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    let id = grant_of(&keeper, ALICE).await.id;
    let flight = keeper.launch(&id, async { panic!("a bug") });
    let mut waiting = flight.clone();
    assert!(waiting.wait_for(Option::is_some).await.is_err());
    access(&keeper, &by, ALICE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_flights_and_lets_none_begin() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = expired(&house, &keeper).await;
    let bob = bearer(&keeper, &login(&house, &keeper, "bob").await.issued.secret).await;
    house.clock.pass(Duration::from_secs(3600));
    house.issuer.close_gate();
    let _flight = keeper.flight(&grant_of(&keeper, ALICE).await.id, None);
    until("it is sent", || house.issuer.refreshes() == 1).await;
    let draining = tokio::spawn({
        let keeper = keeper.clone();
        async move { keeper.drain(Duration::from_secs(30)).await }
    });
    until("it drains", || *keeper.stopping().borrow()).await;
    assert_eq!(
        kind(access(&keeper, &bob, "dune/bob:default").await),
        LaterKind::ShuttingDown
    );
    assert!(!draining.is_finished());
    house.issuer.open_gate();
    draining.await.unwrap();
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-3");
    assert_eq!(house.issuer.refreshes(), 1);
}
