//! Deleting, and what the issuer hears of it.

use std::time::Duration;

use super::issuer::Rotation;
use super::support::*;
use crate::database::name;
use crate::records::REVOCATION;
use crate::*;

const ALICE: &str = "dune/alice:default";
const ROBOT: &str = "dune/alice/cron/host:default";

async fn queued(keeper: &Keeper, grant: &str) -> bool {
    keeper
        .inner
        .db
        .get::<serde_json::Value>(&name(REVOCATION, &[grant]))
        .await
        .unwrap()
        .is_some()
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_revoked_when_its_last_name_goes() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    put(&keeper, &by, ROBOT, &login.handle).await.unwrap();
    let id = grant_of(&keeper, ALICE).await.id;
    assert!(keeper.delete(&by, &cred(ALICE)).await.unwrap());
    assert!(!keeper.delete(&by, &cred(ALICE)).await.unwrap());
    assert_eq!(
        access(&keeper, &by, ALICE).await.unwrap_err(),
        Failure::NotFound
    );
    access(&keeper, &by, ROBOT).await.unwrap();
    revoke_all(&keeper).await;
    assert!(house.issuer.books().revoked.is_empty());
    // The answer does not wait for the issuer; the revocation follows by itself.
    assert!(keeper.delete(&by, &cred(ROBOT)).await.unwrap());
    until_async("it is revoked and forgotten", async || {
        grant(&keeper, &id).await.is_none()
    })
    .await;
    assert_eq!(house.issuer.books().revoked, ["rt-1"]);
    assert!(!queued(&keeper, &id).await);
    assert_eq!(
        bad(put(&keeper, &by, ALICE, &login.handle).await),
        BadInput::UnknownHandle
    );
}

#[tokio::test(start_paused = true)]
async fn revocation_is_tried_until_the_issuer_is_back() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let id = grant_of(&keeper, ALICE).await.id;
    house.issuer.books().down = true;
    keeper.delete(&by, &cred(ALICE)).await.unwrap();
    until_async("it was tried", async || {
        matches!(
            grant(&keeper, &id).await.unwrap().state,
            crate::records::GrantState::Dead { .. }
        )
    })
    .await;
    // Withdrawn though the issuer does not know yet: the handle leads nowhere.
    assert_eq!(
        bad(put(&keeper, &by, ALICE, &login.handle).await),
        BadInput::UnknownHandle
    );
    for _ in 0..3 {
        house.clock.pass(Duration::from_secs(600));
        revoke_all(&keeper).await;
        assert!(queued(&keeper, &id).await);
    }
    house.issuer.books().down = false;
    house.clock.pass(Duration::from_secs(3600));
    until_async("it is revoked and forgotten", async || {
        revoke_all(&keeper).await;
        grant(&keeper, &id).await.is_none()
    })
    .await;
    assert_eq!(house.issuer.books().revoked, ["rt-1"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_refresh_under_way_brings_is_revoked_too() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let id = grant_of(&keeper, ALICE).await.id;
    house.clock.pass(Duration::from_secs(3600));
    house.issuer.close_gate();
    let mut flight = keeper.flight(&id, None);
    until("it is sent", || house.issuer.refreshes() == 1).await;
    keeper.delete(&by, &cred(ALICE)).await.unwrap();
    revoke_all(&keeper).await;
    assert!(house.issuer.books().revoked.is_empty());
    house.issuer.open_gate();
    flight.wait_for(Option::is_some).await.unwrap();
    until_async("it is forgotten", async || {
        revoke_all(&keeper).await;
        grant(&keeper, &id).await.is_none()
    })
    .await;
    assert!(house.issuer.books().revoked.contains(&"rt-2".to_owned()));
    assert!(house.issuer.books().accepted.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_cannot_revoke_is_no_reason_to_keep_a_grant() {
    let house = House::new(Rotation::Immediate);
    house.issuer.books().no_revocation = true;
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    let id = grant_of(&keeper, ALICE).await.id;
    keeper.delete(&by, &cred(ALICE)).await.unwrap();
    until_async("it is forgotten", async || {
        grant(&keeper, &id).await.is_none()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_revoked_while_the_clock_is_in_doubt() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    login(&house, &keeper, "alice").await;
    // A second login whose handle may still be redeemed: by the jumped clock its time is over.
    let second = login(&house, &keeper, "alice").await;
    house.clock.jump_to(START + 86_400);
    revoke_all(&keeper).await;
    assert!(house.issuer.books().revoked.is_empty());
    house.clock.jump_to(START + 60);
    keeper.confirm_clock();
    revoke_all(&keeper).await;
    assert!(house.issuer.books().revoked.is_empty());
    let by = bearer(&keeper, &second.issued.secret).await;
    put(&keeper, &by, ALICE, &second.handle).await.unwrap();
}
