//! A new configuration in force: issuers that go, come back, or become others.

use std::time::Duration;

use secrecy::SecretString;

use super::issuer::{FakeIssuer, Rotation, claims};
use super::support::*;
use crate::*;

const ALICE: &str = "dune/alice:default";

fn at_another_address(house: &House) -> (std::sync::Arc<FakeIssuer>, Setup) {
    let other = FakeIssuer::at("https://other.example/", Rotation::Never);
    let mut setup = house.setup();
    setup.issuers = vec![house.issuer_setup("dune", &other)];
    (other, setup)
}

#[tokio::test(start_paused = true)]
async fn a_login_is_never_shown_to_another_address() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &alice.issued.secret).await;
    let (other, setup) = at_another_address(&house);
    keeper.reconfigure(setup.clone()).await.unwrap();
    assert!(matches!(
        refused(put(&keeper, &by, "dune/alice/x:default", &alice.handle).await),
        Refused::GrantDead { .. }
    ));
    house.clock.pass(Duration::from_secs(3600));
    let Refused::GrantDead { error, .. } = refused(access(&keeper, &by, ALICE).await) else {
        panic!()
    };
    assert_eq!(error, "issuer_changed");
    house.clock.pass(Duration::from_secs(8 * 86_400));
    keeper.keep_alive().await.unwrap();
    keeper.delete(&by, &cred(ALICE)).await.unwrap();
    revoke_all(&keeper).await;
    assert_eq!(other.act_count(), 0);
    assert_eq!(other.refreshes(), 0);
    assert!(other.books().revoked.is_empty());
    // A login there is another login.
    let login = login_at(&keeper, "dune").await;
    let by = bearer(&keeper, &login.issued.secret).await;
    assert!(access(&keeper, &by, ALICE).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_login_under_way_does_not_follow_an_issuer_to_another_address() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let started = keeper.login_start(start("dune")).await.unwrap().state;
    let ready = keeper.login_start(start("dune")).await.unwrap().state;
    keeper.callback(callback("dune", &ready)).await.unwrap();
    let (other, mut setup) = at_another_address(&house);
    keeper.reconfigure(setup.clone()).await.unwrap();
    assert_eq!(
        bad(keeper.callback(callback("dune", &started)).await),
        BadInput::LoginExpired
    );
    assert_eq!(
        bad(keeper.login_poll(poll("dune", &ready)).await),
        BadInput::LoginExpired
    );
    setup.issuers[0].callback_mode = CallbackMode::Device;
    keeper.reconfigure(setup).await.unwrap();
    let device = keeper.login_start(start("dune")).await.unwrap().state;
    keeper.reconfigure(house.setup()).await.unwrap();
    house.issuer.books().device = Some(Ok(claims("alice")));
    house.pass(5).await;
    let _ = keeper.login_poll(poll("dune", &device)).await;
    assert_eq!(house.issuer.books().device_polls, 0);
    assert!(other.books().codes.is_empty());
    assert!(credential(&keeper, ALICE).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_token_brought_to_one_address_is_another_at_the_next() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    let token = SecretString::from(house.issuer.hand_out());
    put(&keeper, &by, ALICE, &token).await.unwrap();
    let (other, setup) = at_another_address(&house);
    other.books().accepted.insert("rt-outside-2".into());
    keeper.reconfigure(setup).await.unwrap();
    put(&keeper, &by, ALICE, &token).await.unwrap();
    assert_eq!(other.refreshes(), 1, "the client itself brought it here");
    access(&keeper, &by, ALICE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removed_issuer_is_explained_for_a_week_and_may_come_back() {
    let house = House::new(Rotation::Never);
    let mut both = house.setup();
    both.issuers.push(house.issuer_setup("cms", &house.issuer));
    let keeper = house.open_with(both.clone()).await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    login_at(&keeper, "cms").await;
    let name = "cms/alice:default";
    access(&keeper, &by, name).await.unwrap();
    keeper.reconfigure(house.setup()).await.unwrap();
    let all = async |wanted: Option<LaterKind>, keeper: &Keeper| {
        let none = serde_json::Map::new();
        let path = format!("secret/oauth/creds/{name}");
        for outcome in [
            access(keeper, &by, name).await.map(|_| ()),
            put(keeper, &by, name, &SecretString::from("x")).await,
            keeper.login_start(start("cms")).await.map(|_| ()),
            keeper
                .authorize(&by, Operation::Read, &path, &none)
                .map(|_| ()),
        ] {
            match wanted {
                Some(wanted) => assert_eq!(kind(outcome), wanted),
                None => drop(bad(outcome)),
            }
        }
    };
    all(Some(LaterKind::IssuerRemoved), &keeper).await;
    // Deleting works; telling the issuer waits for it to come back.
    assert!(keeper.delete(&by, &cred(name)).await.unwrap());
    house.clock.pass(Duration::from_secs(3 * 86_400));
    revoke_all(&keeper).await;
    assert!(house.issuer.books().revoked.is_empty());
    keeper.reconfigure(both).await.unwrap();
    house.clock.pass(Duration::from_secs(3600));
    revoke_all(&keeper).await;
    assert_eq!(house.issuer.books().revoked, ["rt-2"]);

    keeper.reconfigure(house.setup()).await.unwrap();
    keeper.drain(Duration::from_secs(1)).await;
    let keeper = house.open().await;
    all(Some(LaterKind::IssuerRemoved), &keeper).await;
    house.clock.pass(Duration::from_secs(7 * 86_400 - 1));
    all(Some(LaterKind::IssuerRemoved), &keeper).await;
    house.clock.pass(Duration::from_secs(1));
    all(None, &keeper).await;
}

#[tokio::test(start_paused = true)]
async fn policies_are_those_of_the_configuration_in_force() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    let may = |path: &str| {
        keeper
            .authorize(&by, Operation::Read, path, &serde_json::Map::new())
            .is_ok()
    };
    assert!(may("secret/oauth/creds/dune/alice:default"));
    let names = keeper.policies().await.unwrap();
    assert!(names.contains(&"oidc-dune_production".to_owned()));
    let mut setup = house.setup();
    setup.issuers[0].roles.remove(0);
    keeper.reconfigure(setup).await.unwrap();
    assert!(!may("secret/oauth/creds/dune/alice:default"));
    assert!(
        !keeper
            .policies()
            .await
            .unwrap()
            .contains(&"oidc-dune_default".to_owned())
    );

    let text = "path \"secret/oauth/creds/dune/alice:production\" { capabilities = [\"read\"] }";
    assert!(matches!(
        bad(keeper
            .put_policy("oidc-dune_production", &written(text))
            .await),
        BadInput::PolicyFromFiles { .. }
    ));
    for n in 1..=3 {
        keeper.put_policy("Extra", &written(text)).await.unwrap();
        assert_eq!(keeper.policy("extra").await.unwrap().version, n);
    }
    keeper.drain(Duration::from_secs(1)).await;
    let keeper = house.open().await;
    assert_eq!(keeper.policy("extra").await.unwrap().text, text);
    keeper.delete_policy("extra").await.unwrap();
    assert_eq!(keeper.policy("extra").await.unwrap_err(), Failure::NotFound);
    assert_eq!(
        bad(keeper.delete_policy("default").await),
        BadInput::CannotDeleteDefaultPolicy
    );
    assert_eq!(
        bad(keeper.delete_policy("root").await),
        BadInput::CannotChangeRootPolicy
    );
}
