//! Handles: what old clients are given in the place of the refresh token (decision 4).

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::issuer::Rotation;
use super::support::*;
use crate::*;

#[tokio::test(start_paused = true)]
async fn the_login_token_and_its_descendants_redeem_a_handle() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    assert!(login.handle.expose_secret().starts_with("gkh."));
    let own = bearer(&keeper, &login.issued.secret).await;
    let first = child(&keeper, &own).await;
    let first = bearer(&keeper, &first.secret).await;
    let second = child(&keeper, &first).await;
    let second = bearer(&keeper, &second.secret).await;
    let grant = credential(&keeper, "dune/alice:default")
        .await
        .unwrap()
        .grant;
    let before = keeper.store_status().commit_sequence;
    for by in [&own, &first, &second] {
        for _ in 0..2 {
            put(&keeper, by, "dune/alice:default", &login.handle)
                .await
                .unwrap();
        }
    }
    assert_eq!(
        keeper.store_status().commit_sequence,
        before,
        "a no-op is no write"
    );
    // Another allowed path binds a second name to the same grant.
    let robot = "dune/alice/cron/host.example.org:production";
    put(&keeper, &second, robot, &login.handle).await.unwrap();
    assert_eq!(credential(&keeper, robot).await.unwrap().grant, grant);
    assert_eq!(
        grant_of(&keeper, robot).await.references,
        ["dune/alice:default", robot]
    );
    assert_eq!(
        house.issuer.refreshes(),
        0,
        "a handle never goes to an issuer"
    );
    house.clock.pass(Duration::from_secs(3600));
    let one = access(&keeper, &own, robot).await.unwrap();
    assert_eq!(
        access(&keeper, &own, "dune/alice:default").await.unwrap(),
        one
    );
    assert_eq!(house.issuer.refreshes(), 1, "both names share one record");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_unknown_or_late_handle_is_bad_input_and_goes_nowhere() {
    let house = House::new(Rotation::Immediate);
    let mut setup = house.setup();
    setup.issuers.push(house.issuer_setup("cms", &house.issuer));
    let keeper = house.open_with(setup).await;
    let alice = login(&house, &keeper, "alice").await;
    let bob = login(&house, &keeper, "bob").await;
    let bob_by = bearer(&keeper, &bob.issued.secret).await;
    let alice_by = bearer(&keeper, &alice.issued.secret).await;
    for (by, name, handle) in [
        (&bob_by, "dune/bob:default", alice.handle.expose_secret()),
        (&alice_by, "cms/alice:default", alice.handle.expose_secret()),
        (&alice_by, "dune/alice:default", "gkh.AAAA"),
        (&alice_by, "dune/alice:default", "gkh."),
        (
            &alice_by,
            "dune/alice:default",
            &alice.handle.expose_secret().replace("gkh.A", "gkh.B"),
        ),
    ] {
        let handle = SecretString::from(handle.to_owned());
        assert_eq!(
            bad(put(&keeper, by, name, &handle).await),
            BadInput::UnknownHandle
        );
    }
    house.clock.pass(Duration::from_secs(899));
    put(&keeper, &alice_by, "dune/alice/a:default", &alice.handle)
        .await
        .unwrap();
    house.clock.pass(Duration::from_secs(1));
    assert_eq!(
        bad(put(&keeper, &alice_by, "dune/alice/b:default", &alice.handle).await),
        BadInput::UnknownHandle
    );
    assert_eq!(house.issuer.refreshes(), 0);
    house.clock.jump_to(START + 9 * 86_400);
    assert_eq!(
        kind(put(&keeper, &alice_by, "dune/alice/b:default", &alice.handle).await),
        LaterKind::ClockDoubtful
    );
}

#[tokio::test(start_paused = true)]
async fn the_handle_of_a_second_login_replaces_when_its_owner_says_so() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    login(&house, &keeper, "alice").await;
    let first = credential(&keeper, "dune/alice:default")
        .await
        .unwrap()
        .grant;
    let second = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &second.issued.secret).await;
    put(&keeper, &by, "dune/alice:default", &second.handle)
        .await
        .unwrap();
    let now = grant_of(&keeper, "dune/alice:default").await;
    assert_ne!(now.id, first);
    revoke_all(&keeper).await;
    assert_eq!(
        house.issuer.books().revoked,
        ["rt-1"],
        "the replaced one, not the new one"
    );
    assert!(grant(&keeper, &first).await.is_none());
    house.clock.pass(Duration::from_secs(3600));
    access(&keeper, &by, "dune/alice:default").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_nobody_redeems_ends_with_its_grant() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    login(&house, &keeper, "alice").await;
    let second = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &second.issued.secret).await;
    house.clock.pass(Duration::from_secs(800));
    revoke_all(&keeper).await;
    assert!(
        house.issuer.books().revoked.is_empty(),
        "it may still be redeemed"
    );
    house.clock.pass(Duration::from_secs(500));
    revoke_all(&keeper).await;
    assert_eq!(house.issuer.books().revoked, ["rt-2"]);
    assert_eq!(
        bad(put(&keeper, &by, "dune/alice:default", &second.handle).await),
        BadInput::UnknownHandle
    );
    access(&keeper, &by, "dune/alice:default").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_grant_has_a_bounded_number_of_names() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let login = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    for n in 1..64 {
        put(
            &keeper,
            &by,
            &format!("dune/alice/r{n}:default"),
            &login.handle,
        )
        .await
        .unwrap();
    }
    let refused = bad(put(&keeper, &by, "dune/alice/more:default", &login.handle).await);
    assert!(
        refused.to_string().contains("at most 64 names"),
        "{refused}"
    );
}
