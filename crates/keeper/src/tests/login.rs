//! Logging in: by code, by device, and everything that goes wrong on the way.

use std::time::Duration;

use serde_json::json;

use super::issuer::{Next, Rotation, claims};
use super::support::*;
use crate::*;

fn with_mode(house: &House, mode: CallbackMode) -> Setup {
    let mut setup = house.setup();
    setup.issuers[0].callback_mode = mode;
    setup
}

async fn logged_in(keeper: &Keeper, state: &str) -> Login {
    match keeper.login_poll(poll("dune", state)).await.unwrap() {
        PollOutcome::LoggedIn(login) => *login,
        PollOutcome::Pending => panic!("pending"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_code_flow_leaves_a_token_a_credential_and_a_handle() {
    let house = House::new(Rotation::Grace);
    let keeper = house
        .open_with(with_mode(&house, CallbackMode::Direct))
        .await;
    let requester = Some("192.0.2.1".parse().unwrap());
    let started = keeper
        .login_start(LoginStart {
            from: requester,
            ..start("dune")
        })
        .await
        .unwrap();
    assert!(started.auth_url.contains(&started.state));
    assert!(pending(&keeper, &started.state).await);
    let back = callback("dune", &started.state);
    for _ in 0..2 {
        assert_eq!(
            keeper.callback(back.clone()).await.unwrap(),
            CallbackOutcome::Confirm {
                requester,
                issuer: "dune".into(),
                role: "default".into()
            }
        );
    }
    assert!(house.issuer.books().codes.is_empty(), "the code is kept");
    let confirmed = Callback {
        confirmed: true,
        ..back
    };
    assert_eq!(
        keeper.callback(confirmed.clone()).await.unwrap(),
        CallbackOutcome::Done {
            issuer: "dune".into(),
            role: "default".into(),
            owner: "alice".into()
        }
    );
    assert_eq!(
        bad(keeper.callback(confirmed).await),
        BadInput::LoginExpired
    );
    let login = logged_in(&keeper, &started.state).await;
    assert_eq!(
        bad(keeper.login_poll(poll("dune", &started.state)).await),
        BadInput::LoginExpired,
        "polled twice"
    );
    let token = &login.issued.token;
    assert_eq!(token.display_name, "oidc-dune-alice");
    assert_eq!(token.path, "auth/oidc-dune/oidc/poll");
    assert_eq!(
        token
            .meta
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>(),
        ["credkey=alice", "role=default"],
        "no refresh token, no handle"
    );
    let by = bearer(&keeper, &login.issued.secret).await;
    assert_eq!(
        access(&keeper, &by, "dune/alice:default").await.unwrap(),
        "at-1"
    );
    assert_eq!(house.issuer.refreshes(), 0);
    assert_eq!(house.issuer.books().codes, ["the code"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_or_unknown_is_said() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let good = || start("dune");
    for (request, text) in [
        (
            LoginStart {
                role: Some("x".into()),
                ..good()
            },
            "role \"x\" could not be found",
        ),
        (
            LoginStart {
                client_nonce: None,
                ..good()
            },
            "missing client_nonce",
        ),
        (
            LoginStart {
                client_nonce: Some(String::new()),
                ..good()
            },
            "missing client_nonce",
        ),
        (
            LoginStart {
                redirect_uri: None,
                ..good()
            },
            "missing redirect_uri",
        ),
    ] {
        assert_eq!(bad(keeper.login_start(request).await).to_string(), text);
    }
    assert_eq!(
        bad(keeper.login_start(start("nowhere")).await),
        BadInput::UnknownIssuer {
            issuer: "nowhere".into()
        }
    );
    let elsewhere = keeper
        .login_start(LoginStart {
            redirect_uri: Some("https://evil.example/".into()),
            ..good()
        })
        .await
        .unwrap();
    assert_eq!(elsewhere.auth_url, "");
    let upper = LoginStart {
        role: Some("PRODUCTION".into()),
        ..good()
    };
    keeper.login_start(upper).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_state_is_good_for_one_issuer_one_nonce_and_ten_minutes() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.issuers.push(house.issuer_setup("cms", &house.issuer));
    let keeper = house.open_with(setup).await;
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    assert_eq!(
        bad(keeper.callback(callback("cms", &state)).await),
        BadInput::LoginExpired
    );
    assert_eq!(
        bad(keeper.login_poll(poll("cms", &state)).await),
        BadInput::LoginExpired
    );
    for guess in ["", "st_AAAA", "nonsense"] {
        assert_eq!(
            bad(keeper.login_poll(poll("dune", guess)).await),
            BadInput::LoginExpired
        );
    }
    assert!(pending(&keeper, &state).await, "none of that ended it");
    let wrong = Poll {
        client_nonce: "other".into(),
        ..poll("dune", &state)
    };
    assert_eq!(
        bad(keeper.login_poll(wrong).await).to_string(),
        "invalid client_nonce"
    );
    assert_eq!(
        bad(keeper.login_poll(poll("dune", &state)).await),
        BadInput::LoginExpired
    );

    let state = keeper.login_start(start("dune")).await.unwrap().state;
    house.clock.pass(Duration::from_secs(599));
    assert!(pending(&keeper, &state).await);
    house.clock.pass(Duration::from_secs(1));
    assert_eq!(
        bad(keeper.callback(callback("dune", &state)).await),
        BadInput::LoginExpired
    );

    let state = keeper.login_start(start("dune")).await.unwrap().state;
    house.clock.jump_to(START + 86_400);
    assert_eq!(
        kind(keeper.login_poll(poll("dune", &state)).await),
        LaterKind::ClockDoubtful
    );
}

#[tokio::test(start_paused = true)]
async fn a_denial_reaches_the_poller() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    for (error, heard) in [
        ("access_denied", "authorization failed: access_denied"),
        ("<script>", "authorization failed: server_error"),
    ] {
        let state = keeper.login_start(start("dune")).await.unwrap().state;
        let denied = Callback {
            code: None,
            error: Some(error.into()),
            ..callback("dune", &state)
        };
        assert!(matches!(
            keeper.callback(denied).await.unwrap(),
            CallbackOutcome::Denied { error } if error == "access_denied" || error == "server_error"
        ));
        assert_eq!(
            bad(keeper.login_poll(poll("dune", &state)).await).to_string(),
            heard
        );
        assert_eq!(
            bad(keeper.login_poll(poll("dune", &state)).await),
            BadInput::LoginExpired
        );
    }
}

#[tokio::test(start_paused = true)]
async fn claims_that_do_not_fit_are_told_to_both_sides() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    for (claim, text) in [
        (
            None,
            "OpenBao login failed. claim \"wlcg.credkey\" not found in token",
        ),
        (
            Some(json!(5)),
            "OpenBao login failed. claim \"wlcg.credkey\" could not be converted to string",
        ),
    ] {
        house.issuer.books().person = claims("x");
        house.issuer.books().person.remove("wlcg.credkey");
        if let Some(claim) = claim {
            house
                .issuer
                .books()
                .person
                .insert("wlcg.credkey".into(), claim);
        }
        let state = keeper.login_start(start("dune")).await.unwrap().state;
        let shown = keeper.callback(callback("dune", &state)).await.unwrap();
        assert_eq!(
            shown,
            CallbackOutcome::Denied {
                error: "server_error".into()
            }
        );
        assert_eq!(
            bad(keeper.login_poll(poll("dune", &state)).await).to_string(),
            text
        );
    }
    house.issuer.books().without_id_token = true;
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    keeper.callback(callback("dune", &state)).await.unwrap();
    assert_eq!(
        bad(keeper.login_poll(poll("dune", &state)).await).to_string(),
        "Token verification failed. No id_token found in response."
    );
}

#[tokio::test(start_paused = true)]
async fn userinfo_fills_in_what_the_id_token_lacks_but_only_of_the_same_person() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.operators = vec![OperatorRule {
        issuer: "dune".into(),
        claim: "groups".into(),
        value: "admins".into(),
    }];
    let keeper = house.open_with(setup).await;
    let mut person = claims("alice");
    person.remove("wlcg.credkey");
    house.issuer.books().person = person;
    let mut info = claims("alice");
    info.insert("groups".into(), json!(["users", "admins"]));
    house.issuer.books().userinfo = Some(info.clone());
    let login = login_at(&keeper, "dune").await;
    assert_eq!(login.owner, "alice");
    assert!(login.issued.token.policies.contains(&"operator".to_owned()));
    info.insert("sub".into(), json!("somebody else"));
    house.issuer.books().userinfo = Some(info);
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    keeper.callback(callback("dune", &state)).await.unwrap();
    assert!(matches!(
        bad(keeper.login_poll(poll("dune", &state)).await),
        BadInput::Other(text) if text.contains("not found in token")
    ));
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_not_missing_while_userinfo_cannot_be_asked() {
    let house = House::new(Rotation::Never);
    let mut bound = house.setup();
    bound.issuers[0].roles[0].terms.bound_claims = vec![BoundClaim {
        claim: ClaimName::parse("groups"),
        values: vec!["lab".to_owned()],
    }];
    let keeper = house.open().await;
    for (setup, gone) in [(house.setup(), "wlcg.credkey"), (bound, "groups")] {
        keeper.reconfigure(setup).await.unwrap();
        let mut person = claims("alice");
        person.insert("groups".into(), json!(["lab"]));
        person.remove(gone);
        house.issuer.books().person = person;
        house.issuer.books().userinfo_down = true;
        let state = keeper.login_start(start("dune")).await.unwrap().state;
        keeper.callback(callback("dune", &state)).await.unwrap();
        assert_eq!(
            bad(keeper.login_poll(poll("dune", &state)).await),
            BadInput::LoginFailed {
                code: "temporarily_unavailable".to_owned()
            },
            "{gone}"
        );
        // When it is asked and does not know, the claim is missing.
        house.issuer.books().userinfo_down = false;
        let state = keeper.login_start(start("dune")).await.unwrap().state;
        keeper.callback(callback("dune", &state)).await.unwrap();
        assert!(matches!(
            bad(keeper.login_poll(poll("dune", &state)).await),
            BadInput::Other(text) if text.contains(gone)
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_role_may_name_people_by_another_claim() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.issuers[0].roles[1].credclaim = Some("groupkey".into());
    let keeper = house.open_with(setup).await;
    house
        .issuer
        .books()
        .person
        .insert("groupkey".into(), json!("dunepro"));
    let request = LoginStart {
        role: Some("production".into()),
        ..start("dune")
    };
    let state = keeper.login_start(request).await.unwrap().state;
    keeper.callback(callback("dune", &state)).await.unwrap();
    let login = logged_in(&keeper, &state).await;
    assert_eq!(
        (login.owner.as_str(), login.role.as_str()),
        ("dunepro", "production")
    );
    assert!(
        credential(&keeper, "dune/dunepro:production")
            .await
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn the_device_flow_asks_the_issuer_at_the_issuers_pace() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_mode(&house, CallbackMode::Device))
        .await;
    let started = keeper
        .login_start(LoginStart {
            redirect_uri: None,
            ..start("dune")
        })
        .await
        .unwrap();
    assert_eq!(
        (started.poll_interval, started.user_code),
        (3, None),
        "the client may come by more often than the issuer is asked"
    );
    assert_eq!(
        started.auth_url,
        "https://iss.example/device?user_code=ABCD-EFGH"
    );
    let state = &started.state;
    let polls = || house.issuer.books().device_polls;
    for _ in 0..10 {
        assert!(pending(&keeper, state).await);
    }
    assert_eq!(polls(), 0, "not before the first interval");
    house.pass(5).await;
    for _ in 0..10 {
        assert!(pending(&keeper, state).await);
    }
    assert_eq!(polls(), 1);
    house.issuer.books().slow_down = true;
    house.pass(5).await;
    assert!(
        pending(&keeper, state).await,
        "slow_down stays between us and the issuer"
    );
    house.pass(5).await;
    assert!(pending(&keeper, state).await);
    assert_eq!(polls(), 2, "ten seconds now");
    house.issuer.books().device = Some(Ok(claims("alice")));
    house.issuer.books().down = true;
    house.pass(10).await;
    assert!(
        pending(&keeper, state).await,
        "trouble that may pass ends nothing"
    );
    house.issuer.books().down = false;
    house.pass(10).await;
    let login = logged_in(&keeper, state).await;
    assert_eq!(login.owner, "alice");
    let by = bearer(&keeper, &login.issued.secret).await;
    assert!(access(&keeper, &by, "dune/alice:default").await.is_ok());
    assert_eq!(
        bad(keeper.callback(callback("dune", state)).await),
        BadInput::LoginExpired
    );
}

#[tokio::test(start_paused = true)]
async fn a_device_login_that_the_person_denies_ends() {
    let house = House::new(Rotation::Never);
    let keeper = house
        .open_with(with_mode(&house, CallbackMode::Device))
        .await;
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    house.issuer.books().device = Some(Err("access_denied"));
    house.pass(5).await;
    assert_eq!(
        bad(keeper.login_poll(poll("dune", &state)).await).to_string(),
        "authorization failed: access_denied"
    );
    assert_eq!(
        bad(keeper.login_poll(poll("dune", &state)).await),
        BadInput::LoginExpired
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_code_exchange_goes_on_without_the_browser() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let (state, browser) = code_on_its_way(&house, &keeper).await;
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(kind(browser.await.unwrap()), LaterKind::IssuerSlow);
    assert!(pending(&keeper, &state).await);
    house.issuer.open_gate();
    until_async("the login is ready", async || {
        !pending(&keeper, &state).await
    })
    .await;
    // The poll that was not pending took the login.
    assert!(credential(&keeper, "dune/alice:default").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn logins_under_way_are_capped_per_address_and_in_total() {
    let house = House::new(Rotation::Never);
    let mut setup = house.setup();
    setup.limits = Limits {
        login_sessions_total: 6,
        login_sessions_per_address: 3,
    };
    let keeper = house.open_with(setup).await;
    let from = |n: u8| LoginStart {
        from: Some([192, 0, 2, n].into()),
        ..start("dune")
    };
    // All at one moment: the place is taken before the issuer is asked.
    let burst: Vec<_> = (0..10)
        .map(|_| {
            let (keeper, request) = (keeper.clone(), from(1));
            tokio::spawn(async move { keeper.login_start(request).await })
        })
        .collect();
    let mut states = Vec::new();
    for task in burst {
        match task.await.unwrap() {
            Ok(started) => states.push(started.state),
            Err(failure) => {
                assert_eq!(kind(Err::<(), _>(failure)), LaterKind::TooManyLogins);
            }
        }
    }
    assert_eq!(states.len(), 3);
    for n in [2, 3, 4] {
        keeper.login_start(from(n)).await.unwrap();
    }
    assert_eq!(
        kind(keeper.login_start(from(5)).await),
        LaterKind::TooManyLogins
    );
    // A finished one gives its place back, one that could not be started never took it.
    keeper.callback(callback("dune", &states[0])).await.unwrap();
    logged_in(&keeper, &states[0]).await;
    house.issuer.books().down = true;
    assert_eq!(
        kind(keeper.login_start(from(5)).await),
        LaterKind::IssuerDown
    );
    house.issuer.books().down = false;
    keeper.login_start(from(5)).await.unwrap();
    assert_eq!(
        kind(keeper.login_start(from(6)).await),
        LaterKind::TooManyLogins
    );
    house.clock.pass(Duration::from_secs(600));
    keeper.login_start(from(6)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_healthy_credential_is_not_replaced_by_a_login() {
    let house = House::new(Rotation::Immediate);
    let keeper = house.open().await;
    login(&house, &keeper, "alice").await;
    let first = credential(&keeper, "dune/alice:default")
        .await
        .unwrap()
        .grant;
    login(&house, &keeper, "alice").await;
    assert_eq!(
        credential(&keeper, "dune/alice:default")
            .await
            .unwrap()
            .grant,
        first
    );

    // One whose issuer refused it is replaced, and so is one whose role asks for other scopes today.
    house.issuer.forget_all();
    house.clock.pass(Duration::from_secs(4000));
    let by = bearer(&keeper, &login(&house, &keeper, "bob").await.issued.secret).await;
    assert!(matches!(
        refused(access(&keeper, &by, "dune/alice:default").await),
        Refused::GrantDead { .. }
    ));
    login(&house, &keeper, "alice").await;
    let second = credential(&keeper, "dune/alice:default")
        .await
        .unwrap()
        .grant;
    assert_ne!(second, first);
    let mut setup = house.setup();
    setup.issuers[0].roles[0]
        .scopes
        .push("storage.read:/".into());
    keeper.reconfigure(setup).await.unwrap();
    let (_, warnings) = read(&keeper, &by, "dune/alice:default", least(60))
        .await
        .unwrap();
    assert!(warnings[0].contains("scopes of role"), "{warnings:?}");
    login(&house, &keeper, "alice").await;
    assert_ne!(
        credential(&keeper, "dune/alice:default")
            .await
            .unwrap()
            .grant,
        second
    );
}

#[tokio::test(start_paused = true)]
async fn a_login_without_refresh_token_says_so_when_it_ends() {
    let house = House::new(Rotation::Never);
    house.issuer.books().without_refresh_token = true;
    let keeper = house.open().await;
    let by = bearer(
        &keeper,
        &login(&house, &keeper, "alice").await.issued.secret,
    )
    .await;
    assert!(access(&keeper, &by, "dune/alice:default").await.is_ok());
    house.clock.pass(Duration::from_secs(3600));
    let Refused::GrantDead { error, cause, .. } =
        refused(access(&keeper, &by, "dune/alice:default").await)
    else {
        panic!()
    };
    assert_eq!(error, "no_refresh_token");
    assert!(cause.contains("offline_access"));
    house.issuer.books().without_refresh_token = false;
    login(&house, &keeper, "alice").await;
    assert!(access(&keeper, &by, "dune/alice:default").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_code_whose_answer_is_lost_is_not_sent_again() {
    let house = House::new(Rotation::Never);
    let keeper = house.open().await;
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    house.issuer.books().next.push_back(Next::LoseAnswer);
    assert_eq!(
        keeper.callback(callback("dune", &state)).await.unwrap(),
        CallbackOutcome::Denied {
            error: "temporarily_unavailable".into()
        }
    );
    assert_eq!(
        bad(keeper.callback(callback("dune", &state)).await),
        BadInput::LoginExpired
    );
    assert_eq!(house.issuer.books().codes.len(), 1);
}
