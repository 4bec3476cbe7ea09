//! Real refresh tokens that clients bring.

use std::time::Duration;

use secrecy::SecretString;

use super::issuer::{Next, Rotation};
use super::support::*;
use crate::*;

async fn somebody(house: &House, keeper: &Keeper) -> Bearer {
    let login = login(house, keeper, "alice").await;
    bearer(keeper, &login.issued.secret).await
}

const ROBOT: &str = "dune/alice/cron/host:default";
const OTHER: &str = "dune/alice/cron/other:default";

#[tokio::test(start_paused = true)]
async fn a_brought_token_is_proved_once_and_stored() {
    for rotation in [Rotation::Never, Rotation::Grace, Rotation::Immediate] {
        let house = House::new(rotation);
        let keeper = house.open().await;
        let by = somebody(&house, &keeper).await;
        let token = SecretString::from(house.issuer.hand_out());
        put(&keeper, &by, ROBOT, &token).await.unwrap();
        assert_eq!(house.issuer.refreshes(), 1);
        access(&keeper, &by, ROBOT).await.unwrap();
        assert_eq!(
            house.issuer.refreshes(),
            1,
            "the proof's access token is used"
        );

        // Brought again, for the same name or another: one record, no further use of the token.
        put(&keeper, &by, ROBOT, &token).await.unwrap();
        put(&keeper, &by, OTHER, &token).await.unwrap();
        assert_eq!(house.issuer.refreshes(), 1);
        house.clock.pass(Duration::from_secs(3600));
        revoke_all(&keeper).await;
        assert!(house.issuer.books().revoked.is_empty());
        assert_eq!(
            access(&keeper, &by, ROBOT).await.unwrap(),
            access(&keeper, &by, OTHER).await.unwrap()
        );
        assert_eq!(house.issuer.refreshes(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_token_opens_nothing_to_another_person() {
    const BOBS: &str = "dune/bob:default";
    for rotation in [Rotation::Never, Rotation::Immediate] {
        let house = House::new(rotation);
        let keeper = house.open().await;
        let by = somebody(&house, &keeper).await;
        let token = SecretString::from(house.issuer.hand_out());
        put(&keeper, &by, ROBOT, &token).await.unwrap();
        let bob = login(&house, &keeper, "bob").await;
        let bob = bearer(&keeper, &bob.issued.secret).await;
        let grant = credential(&keeper, ROBOT).await.unwrap().grant;
        let before = house.issuer.refreshes();
        let outcome = put(&keeper, &bob, BOBS, &token).await;
        let bound = credential(&keeper, BOBS).await.unwrap().grant;
        if rotation == Rotation::Never {
            outcome.unwrap();
            assert_eq!(bound, grant);
            assert_eq!(house.issuer.refreshes(), before + 1, "proved anew");
        } else {
            assert!(
                matches!(bad(outcome), BadInput::IssuerRejected { operation: "refresh", error, .. } if error == "invalid_grant")
            );
            assert_ne!(bound, grant);
            assert_eq!(house.issuer.refreshes(), before, "never sent again");
        }
        // Its own person loses nothing by that.
        access(&keeper, &by, ROBOT).await.unwrap();
        put(&keeper, &by, OTHER, &token).await.unwrap();
        assert_eq!(credential(&keeper, OTHER).await.unwrap().grant, grant);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_request_is_said() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.issuers.push(house.issuer_setup("cms", &house.issuer));
    let keeper = house.open_with(setup).await;
    let by = somebody(&house, &keeper).await;
    let good = || PutCredential {
        server: Some("dune".into()),
        grant_type: None,
        refresh_token: Some(SecretString::from("x")),
    };
    for (name, request, text) in [
        (
            ROBOT,
            PutCredential {
                server: None,
                ..good()
            },
            "missing server (consider configuring a default server)",
        ),
        (
            ROBOT,
            PutCredential {
                server: Some("legacy".into()),
                ..good()
            },
            "server \"legacy\" has configuration problems: server configuration does not exist (was it deleted?)",
        ),
        (
            ROBOT,
            PutCredential {
                server: Some("cms".into()),
                ..good()
            },
            "server \"cms\" does not match issuer \"dune\" of the credential's name",
        ),
        (
            ROBOT,
            PutCredential {
                refresh_token: None,
                ..good()
            },
            "missing refresh_token",
        ),
        (
            ROBOT,
            PutCredential {
                refresh_token: Some(SecretString::from(" \n")),
                ..good()
            },
            "missing refresh_token",
        ),
        (
            ROBOT,
            PutCredential {
                grant_type: Some("password".into()),
                ..good()
            },
            "unknown grant_type \"password\"; this server stores refresh tokens only",
        ),
        (
            "dune/alice:nothing",
            good(),
            "role \"nothing\" could not be found",
        ),
    ] {
        assert_eq!(
            bad(keeper.put(&by, &cred(name), request).await).to_string(),
            text
        );
    }
    assert_eq!(house.issuer.refreshes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_the_issuer_refuses_is_bad_input_and_leaves_nothing() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = somebody(&house, &keeper).await;
    put(
        &keeper,
        &by,
        ROBOT,
        &SecretString::from(house.issuer.hand_out()),
    )
    .await
    .unwrap();
    let before = credential(&keeper, ROBOT).await.unwrap().grant;
    let count = keeper.store_status().entries;
    let refused = bad(put(&keeper, &by, ROBOT, &SecretString::from("never issued")).await);
    assert_eq!(
        refused.to_string(),
        "refresh failed: server rejected request: invalid_grant: as told"
    );
    assert_eq!(
        credential(&keeper, ROBOT).await.unwrap().grant,
        before,
        "the old one stands"
    );
    house
        .issuer
        .books()
        .next
        .push_back(Next::Refuse("invalid_client"));
    let refused = bad(put(&keeper, &by, ROBOT, &SecretString::from("another")).await);
    assert!(matches!(refused, BadInput::IssuerRejected { error, .. } if error == "invalid_client"));
    // The events of the refusals are all that is left.
    let left = keeper.store_status().entries.unwrap() - count.unwrap();
    assert!(left <= 2, "{left} records left");
}

#[tokio::test(start_paused = true)]
async fn a_token_brought_while_the_issuer_is_down_can_be_brought_again_and_is_never_revoked() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = somebody(&house, &keeper).await;
    let token = SecretString::from(house.issuer.hand_out());
    house.issuer.books().down = true;
    assert_eq!(
        kind(put(&keeper, &by, ROBOT, &token).await),
        LaterKind::IssuerDown
    );
    house.issuer.books().down = false;
    put(&keeper, &by, ROBOT, &token).await.unwrap();
    let given_up = SecretString::from(house.issuer.hand_out());
    house.issuer.books().down = true;
    assert_eq!(
        kind(put(&keeper, &by, OTHER, &given_up).await),
        LaterKind::IssuerDown
    );
    house.issuer.books().down = false;
    house.clock.pass(Duration::from_secs(3600));
    revoke_all(&keeper).await;
    assert!(
        house.issuer.books().revoked.is_empty(),
        "it is the client's own"
    );
    access(&keeper, &by, ROBOT).await.unwrap();
    put(&keeper, &by, OTHER, &given_up).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_proof_goes_on_and_a_second_try_joins_it() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    let by = somebody(&house, &keeper).await;
    let token = SecretString::from(house.issuer.hand_out());
    house.issuer.close_gate();
    let tries: Vec<_> = (0..2)
        .map(|_| {
            let (keeper, by, token) = (keeper.clone(), by.clone(), token.clone());
            tokio::spawn(async move { put(&keeper, &by, ROBOT, &token).await })
        })
        .collect();
    // One code, one refresh.
    house.issuer.acted(1).await;
    until("the proof was sent", || house.issuer.refreshes() == 1).await;
    tokio::time::advance(Duration::from_secs(9)).await;
    for task in tries {
        assert_eq!(kind(task.await.unwrap()), LaterKind::IssuerSlow);
    }
    assert!(credential(&keeper, ROBOT).await.is_none());
    house.issuer.open_gate();
    until_async("it is stored", async || {
        credential(&keeper, ROBOT).await.is_some()
    })
    .await;
    assert_eq!(house.issuer.refreshes(), 1);
    put(&keeper, &by, ROBOT, &token).await.unwrap();
    assert_eq!(house.issuer.refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_brought_again_after_its_grant_died_is_tried_anew() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = somebody(&house, &keeper).await;
    let text = house.issuer.hand_out();
    let token = SecretString::from(text.clone());
    put(&keeper, &by, ROBOT, &token).await.unwrap();
    house.issuer.forget_all();
    house.clock.pass(Duration::from_secs(3600));
    refused(access(&keeper, &by, ROBOT).await);
    assert!(matches!(
        bad(put(&keeper, &by, ROBOT, &token).await),
        BadInput::IssuerRejected { .. }
    ));
    house.issuer.books().accepted.insert(text);
    put(&keeper, &by, ROBOT, &token).await.unwrap();
    access(&keeper, &by, ROBOT).await.unwrap();
    // The dead grant is released; the index still leads to the living one.
    revoke_all(&keeper).await;
    let living = grant_of(&keeper, ROBOT).await.id;
    put(&keeper, &by, OTHER, &token).await.unwrap();
    assert_eq!(credential(&keeper, OTHER).await.unwrap().grant, living);
}
