//! The terms of logins: for whom, from where, how long; and where a browser may come back.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use super::issuer::{Rotation, claims};
use super::support::*;
use crate::*;

fn with_terms(house: &House, terms: LoginTerms) -> Setup {
    let mut setup = house.setup();
    setup.issuers[0].roles[0].terms = terms;
    setup
}

fn bound(claim: &str, values: &[&str]) -> LoginTerms {
    LoginTerms {
        bound_claims: vec![BoundClaim {
            claim: ClaimName::parse(claim),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }],
        ..LoginTerms::default()
    }
}

/// What a login comes to for the one who polls.
async fn outcome(keeper: &Keeper) -> Result<Login, Failure> {
    let started = keeper.login_start(start("dune")).await?;
    // The browser is told nothing but a code.
    let _ = keeper.callback(callback("dune", &started.state)).await;
    match keeper.login_poll(poll("dune", &started.state)).await? {
        PollOutcome::LoggedIn(login) => Ok(*login),
        PollOutcome::Pending => panic!("pending"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_lacks_a_claim_cannot_log_in_for_the_role() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_terms(
            &house,
            bound("groups", &["/lab/prod", "/lab/ops"]),
        ))
        .await;
    let error = bad(outcome(&keeper).await).to_string();
    assert!(
        error.contains("claim \"groups\" does not match") && error.contains("role \"default\""),
        "{error}"
    );
    assert!(credential(&keeper, "dune/alice:default").await.is_none());
    house
        .issuer
        .books()
        .person
        .insert("groups".into(), json!(["/lab", "/lab/ops"]));
    assert!(outcome(&keeper).await.is_ok());
    // The other role asks for nothing.
    house.issuer.books().person = claims("bob");
    let other = LoginStart {
        role: Some("production".into()),
        ..start("dune")
    };
    let state = keeper.login_start(other).await.unwrap().state;
    keeper.callback(callback("dune", &state)).await.unwrap();
    assert!(keeper.login_poll(poll("dune", &state)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_claim_may_come_with_userinfo() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_terms(&house, bound("/realm/roles", &["submitter"])))
        .await;
    let mut more = claims("alice");
    more.insert("realm".into(), json!({"roles": ["submitter"]}));
    house.issuer.books().userinfo = Some(more);
    assert!(outcome(&keeper).await.is_ok());
    let mut other = claims("mallory");
    other.insert("realm".into(), json!({"roles": ["submitter"]}));
    house.issuer.books().userinfo = Some(other);
    assert!(
        matches!(bad(outcome(&keeper).await), BadInput::Other(text) if text.contains("does not match")),
        "what userinfo says of another subject counts for nothing"
    );
}

#[tokio::test(start_paused = true)]
async fn the_owner_key_may_lie_deeper_in_the_claims() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.issuers[0].credclaim = "/accounts/0/name".into();
    setup.issuers[0].credclaim_pointer = true;
    let keeper = house.open_with(setup).await;
    house.issuer.books().person.insert(
        "accounts".into(),
        json!([{"name": "alice@deep"}, {"name": "other"}]),
    );
    assert_eq!(outcome(&keeper).await.unwrap().owner, "alice@deep");
    house.issuer.books().person = claims("alice");
    let error = bad(outcome(&keeper).await).to_string();
    assert!(
        error.contains("claim \"/accounts/0/name\" not found"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_role_says_how_long_its_login_tokens_live() {
    let house = House::new(Rotation::Never);
    let hour = Seconds(3600);
    let terms = LoginTerms {
        ttl: Some(hour),
        max_ttl: Some(Seconds(5400)),
        ..LoginTerms::default()
    };
    let keeper = house.open_with(with_terms(&house, terms)).await;
    let login = login(&house, &keeper, "alice").await;
    assert_eq!(login.issued.token.creation_ttl, hour);
    let id = &login.issued.token.id;
    house.clock.pass(Duration::from_secs(3000));
    let renewed = keeper.renew(id, Some(hour)).await.unwrap();
    assert_eq!(renewed.ttl, Seconds(2400), "no longer than the hard end");
    // A child lives no longer than the login it comes from.
    let by = bearer(&keeper, &login.issued.secret).await;
    let child = child(&keeper, &by).await;
    house.clock.pass(Duration::from_secs(2400 + 61));
    assert!(matches!(
        refused(keeper.authenticate(&child.secret, None).await),
        Refused::TokenExpired
    ));

    let terms = LoginTerms {
        period: Some(hour),
        ..LoginTerms::default()
    };
    keeper.reconfigure(with_terms(&house, terms)).await.unwrap();
    let login = login_at(&keeper, "dune").await;
    for _ in 0..1000 {
        house.clock.pass(Duration::from_secs(3599));
        let renewed = keeper.renew(&login.issued.token.id, None).await.unwrap();
        assert_eq!(renewed.ttl, hour);
    }
}

#[tokio::test(start_paused = true)]
async fn an_installation_says_how_long_tokens_live() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.lifetimes = Lifetimes {
        default_ttl: Seconds(1000),
        max_ttl: Seconds(2000),
    };
    let keeper = house.open_with(setup).await;
    let login = login(&house, &keeper, "alice").await;
    assert_eq!(login.issued.token.creation_ttl, Seconds(1000));
    let by = bearer(&keeper, &login.issued.secret).await;
    let wanted = CreateToken {
        ttl: Some(Seconds(9999)),
        ..CreateToken::default()
    };
    let made = keeper.create_token(&by, wanted, false).await.unwrap();
    assert_eq!(made.token.creation_ttl, Seconds(2000));
}

#[tokio::test(start_paused = true)]
async fn a_role_may_be_bound_to_addresses() {
    let house = House::new(Rotation::Never);
    let terms = LoginTerms {
        bound_cidrs: vec![
            "192.0.2.0/28".parse().unwrap(),
            "2001:db8::/64".parse().unwrap(),
        ],
        ..LoginTerms::default()
    };
    let keeper = house.open_with(with_terms(&house, terms)).await;
    let from = |address: &str| Some(address.parse::<IpAddr>().unwrap());
    for stranger in [from("192.0.2.16"), from("2001:db8:0:1::1"), None] {
        let request = LoginStart {
            from: stranger,
            ..start("dune")
        };
        let error = bad(keeper.login_start(request).await);
        assert!(
            matches!(error, BadInput::AddressNotAllowed { .. }),
            "{error}"
        );
    }
    let inside = from("192.0.2.9");
    let request = LoginStart {
        from: inside,
        ..start("dune")
    };
    let state = keeper.login_start(request).await.unwrap().state;
    keeper.callback(callback("dune", &state)).await.unwrap();
    let PollOutcome::LoggedIn(login) = keeper.login_poll(poll("dune", &state)).await.unwrap()
    else {
        panic!()
    };
    let by = keeper
        .authenticate(&login.issued.secret, inside)
        .await
        .unwrap();
    let child = child(&keeper, &by).await;
    for secret in [&login.issued.secret, &child.secret] {
        assert!(
            keeper
                .authenticate(secret, from("2001:db8::5"))
                .await
                .is_ok()
        );
        for stranger in [from("192.0.2.16"), from("203.0.113.1"), None] {
            assert!(matches!(
                refused(keeper.authenticate(secret, stranger).await),
                Refused::WrongAddress
            ));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_renamed_service_takes_back_browsers_under_both_names() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    let former = "https://former.example:8200";
    let begin = |url: &str| LoginStart {
        redirect_uri: Some(format!("{url}/v1/auth/oidc-dune/oidc/callback")),
        ..start("dune")
    };
    let keeper = house.open_with(setup.clone()).await;
    let refused = keeper.login_start(begin(former)).await.unwrap();
    assert!(refused.auth_url.is_empty() && refused.warnings[0].contains(URL));
    setup.other_urls = vec![former.to_owned()];
    keeper.reconfigure(setup).await.unwrap();
    for url in [URL, former] {
        let started = keeper.login_start(begin(url)).await.unwrap();
        assert!(!started.auth_url.is_empty());
        keeper
            .callback(callback("dune", &started.state))
            .await
            .unwrap();
        assert!(matches!(
            keeper.login_poll(poll("dune", &started.state)).await,
            Ok(PollOutcome::LoggedIn(_))
        ));
    }
    let other = keeper
        .login_start(begin("https://former.example:8201"))
        .await
        .unwrap();
    assert!(other.auth_url.is_empty());
}
