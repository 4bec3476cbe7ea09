//! A way to log in that was taken out of the configuration on purpose: for a time its tokens are refused for now only.

use std::time::Duration;

use super::issuer::Rotation;
use super::kerberos::{MOUNT, ticket_bearer, with_tickets};
use super::ssh::{alice_registered, log_in, setup_of_two};
use super::support::*;
use crate::*;

const WEEK: u64 = 7 * 86_400;

fn asks(keeper: &Keeper, by: &Bearer) -> Result<Granted, Failure> {
    let path = "secret/oauth/creds/dune/alice:default";
    keeper.authorize(by, Operation::Read, path, &serde_json::Map::new())
}

/// `without` and `with` the login that `by` came by.
async fn is_explained_for_a_week(
    house: &House,
    keeper: &Keeper,
    by: &Bearer,
    without: Setup,
    with: Setup,
) {
    asks(keeper, by).unwrap();
    keeper.reconfigure(without.clone()).await.unwrap();
    assert_eq!(kind(asks(keeper, by)), LaterKind::LoginRemoved);
    house.clock.pass(Duration::from_secs(WEEK - 60));
    assert_eq!(kind(asks(keeper, by)), LaterKind::LoginRemoved);
    // Come back, it goes on, and the week begins again.
    keeper.reconfigure(with).await.unwrap();
    asks(keeper, by).unwrap();
    keeper.reconfigure(without.clone()).await.unwrap();
    house.clock.pass(Duration::from_secs(WEEK - 60));
    // Another change of the configuration does not put it off.
    keeper.reconfigure(without).await.unwrap();
    assert_eq!(kind(asks(keeper, by)), LaterKind::LoginRemoved);
    house.clock.pass(Duration::from_secs(60));
    assert!(matches!(refused(asks(keeper, by)), Refused::Policy { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_kerberos_service_that_was_taken_out_is_no_refusal_at_once() {
    let house = House::new(Rotation::Never);
    let with = with_tickets(house.setup(), "dune", None);
    let keeper = house.open_with(with.clone()).await;
    let alice = login(&house, &keeper, "alice").await;
    let by = ticket_bearer(&keeper, MOUNT, "alice@LAB 1").await;
    is_explained_for_a_week(&house, &keeper, &by, house.setup(), with).await;
    // Other logins are judged as ever.
    let alice = bearer(&keeper, &alice.issued.secret).await;
    let other = keeper.authorize(
        &alice,
        Operation::Read,
        "secret/oauth/creds/dune/bob:default",
        &serde_json::Map::new(),
    );
    assert!(matches!(refused(other), Refused::Policy { .. }));
}

#[tokio::test(start_paused = true)]
async fn ssh_logins_that_were_taken_out_are_no_refusal_at_once() {
    let house = House::new(Rotation::Never);
    let (keeper, key) = alice_registered(&house).await;
    let issued = log_in(&keeper, &key, "alice", "dune").await.unwrap();
    let by = bearer(&keeper, &issued.secret).await;
    let (with, _cms) = setup_of_two(&house);
    let without = Setup {
        ssh: None,
        ..with.clone()
    };
    is_explained_for_a_week(&house, &keeper, &by, without, with).await;
}
