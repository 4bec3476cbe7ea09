//! What was taken out of the configuration: explained, kept for a time, then deleted; and who has what.

use std::time::Duration;

use secrecy::SecretString;

use super::issuer::Rotation;
use super::support::*;
use crate::*;

const WEEK: u64 = 7 * 86_400;

fn without_default(house: &House) -> Setup {
    let mut setup = house.setup();
    setup.issuers[0].roles.remove(0);
    setup
}

#[tokio::test(start_paused = true)]
async fn a_removed_role_is_explained_for_a_week_and_may_come_back() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let alice = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &alice.issued.secret).await;
    put(&keeper, &by, "dune/alice/cron:default", &alice.handle)
        .await
        .unwrap();
    let names = ["dune/alice:default", "dune/alice/cron:default"];
    keeper.reconfigure(without_default(&house)).await.unwrap();
    let all = async |wanted: Option<LaterKind>| {
        for name in names {
            let path = format!("secret/oauth/creds/{name}");
            let none = serde_json::Map::new();
            let outcomes = [
                access(&keeper, &by, name).await.map(|_| ()),
                put(&keeper, &by, name, &SecretString::from("x")).await,
                keeper.login_start(start("dune")).await.map(|_| ()),
                keeper
                    .authorize(&by, Operation::Read, &path, &none)
                    .map(|_| ()),
            ];
            for (at, outcome) in outcomes.into_iter().enumerate() {
                match wanted {
                    Some(wanted) => assert_eq!(kind(outcome), wanted, "{name} {at}"),
                    None => drop(bad(outcome)),
                }
            }
        }
    };
    all(Some(LaterKind::RoleRemoved)).await;
    house.clock.pass(Duration::from_secs(WEEK - 60));
    keeper.forget_removed().await.unwrap();
    all(Some(LaterKind::RoleRemoved)).await;
    // A slip of the pen costs nobody a login.
    keeper.reconfigure(house.setup()).await.unwrap();
    house.clock.pass(Duration::from_secs(120));
    keeper.forget_removed().await.unwrap();
    for name in names {
        access(&keeper, &by, name).await.unwrap();
    }
    // Taken out again, the week begins again.
    keeper.reconfigure(without_default(&house)).await.unwrap();
    house.clock.pass(Duration::from_secs(WEEK - 60));
    all(Some(LaterKind::RoleRemoved)).await;
    house.clock.pass(Duration::from_secs(60));
    all(None).await;
    assert!(house.issuer.books().revoked.is_empty());
    keeper.forget_removed().await.unwrap();
    for name in names {
        assert!(credential(&keeper, name).await.is_none());
    }
    revoke_all(&keeper).await;
    assert_eq!(house.issuer.books().revoked, ["rt-1"]);
    keeper.reconfigure(house.setup()).await.unwrap();
    assert_eq!(access(&keeper, &by, names[0]).await, Err(Failure::NotFound));
}

#[tokio::test(start_paused = true)]
async fn credentials_of_a_removed_issuer_go_after_the_time_that_was_set() {
    let house = House::new(Rotation::Never);
    let mut both = house.setup();
    both.issuers.push(house.issuer_setup("cms", &house.issuer));
    let keeper = house.open_with(both.clone()).await;
    login_at(&keeper, "cms").await;
    login_at(&keeper, "dune").await;
    let mut one = house.setup();
    one.keep_removed = Some(Seconds(3600));
    keeper.reconfigure(one.clone()).await.unwrap();
    house.clock.pass(Duration::from_secs(3599));
    keeper.forget_removed().await.unwrap();
    assert!(credential(&keeper, "cms/alice:default").await.is_some());
    // While the clock is in doubt nothing is deleted.
    house.clock.jump_to(START + 10 * 86_400);
    keeper.forget_removed().await.unwrap();
    assert!(credential(&keeper, "cms/alice:default").await.is_some());
    keeper.confirm_clock();
    keeper.forget_removed().await.unwrap();
    assert!(credential(&keeper, "cms/alice:default").await.is_none());
    assert!(credential(&keeper, "dune/alice:default").await.is_some());
    // What comes back later is a new issuer.
    keeper.reconfigure(both).await.unwrap();
    keeper.forget_removed().await.unwrap();
    login_at(&keeper, "cms").await;
    keeper.forget_removed().await.unwrap();
    assert!(credential(&keeper, "cms/alice:default").await.is_some());
}

/// What is asked for is answered with "later", and nothing is deleted however long it lasts.
async fn is_kept(house: &House, keeper: &Keeper, by: &Bearer, name: &str) {
    for days in [0, 30, 300] {
        house.clock.pass(Duration::from_secs(days * 86_400));
        keeper.forget_removed().await.unwrap();
        let issuer = name.split('/').next().unwrap();
        for outcome in [
            access(keeper, by, name).await.map(|_| ()),
            put(keeper, by, name, &SecretString::from("x")).await,
            keeper.login_start(start(issuer)).await.map(|_| ()),
        ] {
            assert_eq!(kind(outcome), LaterKind::LeftOut, "{name}");
        }
        // Whatever policies allow of it comes from the configuration, so without that nothing is refused for good.
        for path in [
            format!("secret/oauth/creds/{name}"),
            format!("secret/oauth/sts/{name}"),
            format!("delegation/{name}"),
        ] {
            let asked = keeper.authorize(by, Operation::Update, &path, &serde_json::Map::new());
            assert_eq!(kind(asked), LaterKind::LeftOut, "{path}");
        }
        assert!(credential(keeper, name).await.is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_in_the_configuration_costs_nobody_a_login() {
    let house = House::new(Rotation::Never);
    let mut both = house.setup();
    both.issuers.push(house.issuer_setup("cms", &house.issuer));
    let keeper = house.open_with(both.clone()).await;
    let cms = login_at(&keeper, "cms").await;
    let by_cms = bearer(&keeper, &cms.issued.secret).await;
    let dune = login(&house, &keeper, "alice").await;
    let by_dune = bearer(&keeper, &dune.issued.secret).await;

    // The issuer's entry is broken, and its name can be read or not.
    let named = LeftOut {
        issuers: ["cms".to_owned()].into(),
        ..LeftOut::default()
    };
    let nameless = LeftOut {
        any_issuer: true,
        ..LeftOut::default()
    };
    for left_out in [named, nameless] {
        let broken = Setup {
            left_out,
            ..house.setup()
        };
        keeper.reconfigure(broken).await.unwrap();
        is_kept(&house, &keeper, &by_cms, "cms/alice:default").await;
    }
    // It was noted that the issuer is there: taken out in truth, its time begins.
    keeper.reconfigure(house.setup()).await.unwrap();
    house.clock.pass(Duration::from_secs(WEEK - 60));
    keeper.forget_removed().await.unwrap();
    assert!(credential(&keeper, "cms/alice:default").await.is_some());
    // Put back with an error in it, it is back, and so it is when the name cannot be read.
    for any_issuer in [true, false] {
        let mut broken = house.setup();
        broken.left_out.any_issuer = any_issuer;
        if !any_issuer {
            broken.left_out.issuers.insert("cms".to_owned());
        }
        keeper.reconfigure(broken).await.unwrap();
        house.clock.pass(Duration::from_secs(2 * WEEK));
        keeper.forget_removed().await.unwrap();
        assert!(credential(&keeper, "cms/alice:default").await.is_some());
    }
    keeper.reconfigure(house.setup()).await.unwrap();
    house.clock.pass(Duration::from_secs(WEEK + 60));
    keeper.forget_removed().await.unwrap();
    assert!(credential(&keeper, "cms/alice:default").await.is_none());

    // The same of a role.
    let mut by_name = without_default(&house);
    by_name.left_out.insert_role("dune", "Default");
    let mut unreadable = without_default(&house);
    unreadable.left_out.any_role_of.insert("dune".to_owned());
    for broken in [by_name, unreadable] {
        keeper.reconfigure(broken).await.unwrap();
        is_kept(&house, &keeper, &by_dune, "dune/alice:default").await;
    }
    // A role that was lost while its issuer could not be read was taken out when that can be read again.
    let mut unreadable = Setup {
        issuers: Vec::new(),
        ..house.setup()
    };
    unreadable.left_out.issuers.insert("dune".to_owned());
    keeper.reconfigure(unreadable).await.unwrap();
    keeper.reconfigure(without_default(&house)).await.unwrap();
    assert_eq!(
        kind(keeper.login_start(start("dune")).await),
        LaterKind::RoleRemoved
    );
    house.clock.pass(Duration::from_secs(WEEK + 60));
    keeper.forget_removed().await.unwrap();
    assert!(credential(&keeper, "dune/alice:default").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_login_whose_role_is_left_out_meanwhile_gets_no_token_without_terms() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    login(&house, &keeper, "alice").await;
    let mut broken = without_default(&house);
    broken.left_out.insert_role("dune", "default");

    let started = keeper.login_start(start("dune")).await.unwrap();
    let back = callback("dune", &started.state);
    keeper.callback(back).await.unwrap();
    keeper.reconfigure(broken.clone()).await.unwrap();
    let asks = async || keeper.login_poll(poll("dune", &started.state)).await;
    assert_eq!(kind(asks().await), LaterKind::LeftOut);
    keeper.reconfigure(house.setup()).await.unwrap();
    assert!(matches!(asks().await, Ok(PollOutcome::LoggedIn(_))));

    let started = keeper.login_start(start("dune")).await.unwrap();
    keeper.reconfigure(broken).await.unwrap();
    let back = callback("dune", &started.state);
    assert_eq!(
        keeper.callback(back).await.unwrap(),
        CallbackOutcome::Denied {
            error: "temporarily_unavailable".into()
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_claim_leaves_old_credentials_under_their_old_names() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let old = login(&house, &keeper, "alice").await;
    let by = bearer(&keeper, &old.issued.secret).await;
    let mut setup = house.setup();
    setup.issuers[0].credclaim = "sub".into();
    keeper.reconfigure(setup).await.unwrap();
    access(&keeper, &by, "dune/alice:default").await.unwrap();
    let new = login_at(&keeper, "dune").await;
    assert_eq!(new.owner, "sub-alice");
    let may = |bearer: &Bearer, owner: &str| {
        let path = format!("secret/oauth/creds/dune/{owner}:default");
        keeper
            .authorize(bearer, Operation::Read, &path, &serde_json::Map::new())
            .is_ok()
    };
    let now = bearer(&keeper, &new.issued.secret).await;
    assert!(may(&by, "alice") && !may(&by, "sub-alice"));
    assert!(may(&now, "sub-alice") && !may(&now, "alice"));
}

#[tokio::test(start_paused = true)]
async fn holders_are_counted_by_role() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    for owner in ["alice", "bob"] {
        let login = login(&house, &keeper, owner).await;
        let by = bearer(&keeper, &login.issued.secret).await;
        if owner == "bob" {
            put(&keeper, &by, "dune/bob/cron:production", &login.handle)
                .await
                .unwrap();
        }
    }
    let holders = keeper.holders("dune").await.unwrap();
    assert_eq!(holders["default"].count, 2);
    let mut examples = holders["default"].examples.clone();
    examples.sort();
    assert_eq!(examples, ["alice", "bob"]);
    assert_eq!(holders["production"].examples, ["bob/cron"]);
    assert!(keeper.holders("cms").await.unwrap().is_empty());
}

#[test]
fn a_way_to_log_in_that_an_error_switched_off_is_no_refusal_to_its_tokens() {
    let left_out = crate::LeftOut {
        ssh: true,
        kerberos: false,
        ..crate::LeftOut::default()
    };
    let policies = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    assert!(
        left_out
            .excuses(&policies(&["default", "tokenops"]))
            .is_ok()
    );
    assert!(
        left_out
            .excuses(&policies(&["kerberos-dune_default"]))
            .is_ok()
    );
    let failure = left_out.excuses(&policies(&["ssh"])).unwrap_err();
    assert!(matches!(failure, Failure::Later(later) if later.kind == LaterKind::LeftOut));
    let left_out = crate::LeftOut {
        kerberos: true,
        ..crate::LeftOut::default()
    };
    assert!(left_out.excuses(&policies(&["ssh"])).is_ok());
    assert!(
        left_out
            .excuses(&policies(&["kerberos-dune_default"]))
            .is_err()
    );
}
