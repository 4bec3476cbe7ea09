//! Refreshing ahead, keeping alive, and how far that goes.

use std::time::Duration;

use super::issuer::Rotation;
use super::support::*;
use crate::database::name;
use crate::records::DUE;
use crate::*;

const ALICE: &str = "dune/alice:default";
const DAY: u64 = 86_400;

#[tokio::test(start_paused = true)]
async fn used_grants_are_refreshed_before_anybody_has_to_wait() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    login(&house, &keeper, "bob").await;
    access(&keeper, &by, ALICE).await.unwrap();
    house.clock.pass(Duration::from_secs(2699));
    keeper.refresh_ahead().await.unwrap();
    assert_eq!(house.issuer.refreshes(), 0);
    house.clock.pass(Duration::from_secs(1));
    keeper.refresh_ahead().await.unwrap();
    assert_eq!(
        house.issuer.books().refreshed_with,
        ["rt-1"],
        "alice's, not bob's"
    );
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-3");
    assert_eq!(house.issuer.refreshes(), 1);
    // Nobody reads it any more: it is left alone.
    house.clock.pass(Duration::from_secs(3600));
    keeper.refresh_ahead().await.unwrap();
    house.clock.pass(Duration::from_secs(3600));
    keeper.refresh_ahead().await.unwrap();
    assert_eq!(house.issuer.refreshes(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_goes_on_with_sealing_anew() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    // A rotation that is stopped before anything is sealed anew.
    keeper.store().rotate_keyring().await.unwrap();
    keeper.drain(Duration::from_secs(1)).await;
    assert_eq!(keeper.key_status().generations, 2);
    let keeper = house.open().await;
    until("older keys are forgotten", || {
        keeper.key_status().generations == 1
    })
    .await;
    assert_eq!(keeper.key_status().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn the_ticking_of_the_background_does_it_by_itself() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    access(&keeper, &by, ALICE).await.unwrap();
    house.clock.pass(Duration::from_secs(2700));
    tokio::time::advance(Duration::from_secs(16)).await;
    until("it was refreshed", || house.issuer.refreshes() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn ahead_of_need_an_issuer_that_is_down_is_asked_again() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    access(&keeper, &by, ALICE).await.unwrap();
    house.clock.pass(Duration::from_secs(2700));
    house.issuer.books().down = true;
    keeper.refresh_ahead().await.unwrap();
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-1");
    house.issuer.books().down = false;
    keeper.refresh_ahead().await.unwrap();
    assert_eq!(access(&keeper, &by, ALICE).await.unwrap(), "at-2");
}

#[tokio::test(start_paused = true)]
async fn idle_grants_are_kept_alive_until_the_limit() {
    let house = House::new(Rotation::Immediate);
    let mut setup = house.setup();
    setup.keep_alive = KeepAlive {
        after: Seconds(7 * DAY),
        limit: Seconds(30 * DAY),
        ..KeepAlive::default()
    };
    let keeper = house.open_with(setup).await;
    login(&house, &keeper, "alice").await;
    let id = grant_of(&keeper, ALICE).await.id;
    let mut refreshed = Vec::new();
    for day in 1..=60 {
        house.clock.pass(Duration::from_secs(DAY));
        let before = house.issuer.refreshes();
        keeper.keep_alive().await.unwrap();
        if house.issuer.refreshes() > before {
            refreshed.push(day);
        }
    }
    assert_eq!(refreshed, [7, 14, 21, 28]);
    let mut standing = 0;
    keeper
        .inner
        .db
        .each::<serde_json::Value>(DUE, &[], |_| {
            standing += 1;
            std::ops::ControlFlow::Continue(())
        })
        .await
        .unwrap();
    assert_eq!(standing, 0, "it is off the index");
    let left = grant(&keeper, &id)
        .await
        .expect("still there for its owner");
    assert_eq!(left.due, None, "and nobody is told that it is late");
}

#[tokio::test(start_paused = true)]
async fn use_counts_against_idleness_with_tokens_that_never_end_too() {
    let house = House::new(Rotation::Immediate);
    house.issuer.books().life = None;
    let mut setup = house.setup();
    setup.keep_alive.limit = Seconds(20 * DAY);
    let keeper = house.open_with(setup).await;
    login(&house, &keeper, "alice").await;
    let by = operator(&keeper).await;
    for _ in 0..8 {
        house.clock.pass(Duration::from_secs(7 * DAY));
        access(&keeper, &by, ALICE).await.unwrap();
        keeper.keep_alive().await.unwrap();
    }
    assert_eq!(house.issuer.refreshes(), 8);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_kept_alive_on_its_day_is_when_it_can() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    login(&house, &keeper, "alice").await;
    house.issuer.books().down = true;
    for _ in 0..40 {
        house.clock.pass(Duration::from_secs(DAY));
        keeper.keep_alive().await.unwrap();
    }
    house.issuer.books().down = false;
    house.clock.pass(Duration::from_secs(DAY));
    keeper.keep_alive().await.unwrap();
    assert_eq!(house.issuer.refreshes(), 1);
    assert_eq!(grant_of(&keeper, ALICE).await.generation, 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_in_doubt_gives_nobody_up() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    login(&house, &keeper, "alice").await;
    house.clock.jump_to(START + 300 * DAY as i64);
    keeper.keep_alive().await.unwrap();
    house.clock.jump_to(START + 60);
    keeper.confirm_clock();
    house.clock.pass(Duration::from_secs(8 * DAY));
    let grant = grant_of(&keeper, ALICE).await;
    let due = grant.due.unwrap();
    let stands = keeper
        .inner
        .db
        .get::<serde_json::Value>(&name(DUE, &[&due.to_string(), &grant.id]))
        .await
        .unwrap();
    assert!(stands.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_died_is_not_asked_for_again() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    login(&house, &keeper, "alice").await;
    house.issuer.forget_all();
    for _ in 0..5 {
        house.clock.pass(Duration::from_secs(7 * DAY));
        keeper.keep_alive().await.unwrap();
    }
    assert_eq!(house.issuer.refreshes(), 1);
}
