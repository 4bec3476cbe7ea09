//! Each flow at an issuer that keeps to the WLCG profile.

use gridkeep_testbed::issuer::{
    Browser, Client, ClientAuth, Consent, KeyRotation, Options, Rotation,
};
use gridkeep_token::jws::{Algorithm, JwkSet, SigningKey, hash_half};
use serde_json::json;

use super::bench::{ACCESS_TOKEN, Bench, CALLBACK, VERIFIER, shaped, text};

const ALL: &str = "openid profile offline_access wlcg.groups storage.read:/ compute.create";

#[tokio::test]
async fn the_code_flow_yields_an_id_token_that_fits_its_access_token() {
    let bench = Bench::new(Options::default()).await;
    let back = bench
        .browse(&bench.authorization_url(ALL), Consent::Approve)
        .await;
    assert_eq!(
        (&back["state"], &back["iss"]),
        (&json!("the-state"), &json!(bench.issuer.url()))
    );
    let code = back["code"].as_str().unwrap();
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("code_verifier", VERIFIER),
    ];
    let (status, body) = bench.token(&fields).await;
    assert_eq!(status, 200, "{body}");
    let access = bench.claims(&body["access_token"]).await;
    assert_eq!(access["wlcg.ver"], "1.0");
    assert_eq!(access["aud"], "https://wlcg.cern.ch/jwt/v1/any");
    assert_eq!(access["wlcg.groups"], json!(["/testvo", "/testvo/ana"]));
    assert_eq!(
        access["scope"],
        "openid profile offline_access storage.read:/ compute.create"
    );
    assert_eq!(
        access["exp"].as_i64().unwrap() - access["iat"].as_i64().unwrap(),
        3600
    );
    let id = bench.claims(&body["id_token"]).await;
    assert_eq!(
        (&id["nonce"], &id["aud"], &id["sub"]),
        (&json!("the-nonce"), &json!("gridkeep"), &access["sub"])
    );
    assert_eq!(
        id["at_hash"],
        hash_half(Algorithm::Es256, text(&body, "access_token").as_bytes())
    );
    assert_eq!(
        (&id["wlcg.credkey"], &id["preferred_username"]),
        (&json!("alice"), &json!("alice"))
    );
    assert!(id.get("email").is_none(), "email was not asked for");
    assert!(text(&body, "refresh_token").len() > 20);

    let person = bench
        .http
        .get(bench.endpoint("userinfo"))
        .bearer_auth(text(&body, "access_token"))
        .send()
        .await
        .unwrap();
    let (status, person) = shaped(person).await;
    assert_eq!(
        (status, &person["sub"], &person["wlcg.credkey"]),
        (200, &access["sub"], &json!("alice"))
    );

    // A second use of the code is refused and takes the grant with it.
    let (status, again) = bench.token(&fields).await;
    assert_eq!((status, text(&again, "error")), (400, "invalid_grant"));
    assert_eq!(bench.refresh(text(&body, "refresh_token")).await.0, 400);
}

#[tokio::test]
async fn pkce_and_redirect_uri_are_enforced() {
    let bench = Bench::new(Options::default()).await;
    let mut url = bench.authorization_url("openid");
    let plain: Vec<(String, String)> = url
        .query_pairs()
        .into_owned()
        .filter(|(n, _)| !n.starts_with("code_challenge"))
        .collect();
    url.query_pairs_mut().clear().extend_pairs(&plain);
    assert_eq!(
        bench.browse(&url, Consent::Approve).await["error"],
        "invalid_request"
    );
    url.query_pairs_mut()
        .append_pair("code_challenge", "abc")
        .append_pair("code_challenge_method", "plain");
    assert_eq!(
        bench.browse(&url, Consent::Approve).await["error"],
        "invalid_request"
    );

    let code = bench
        .browse(&bench.authorization_url("openid"), Consent::Approve)
        .await["code"]
        .clone();
    let code = code.as_str().unwrap();
    let wrong = |redirect, verifier| {
        [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", verifier),
        ]
    };
    for fields in [
        wrong(CALLBACK, "another"),
        wrong("https://elsewhere.example.org/", VERIFIER),
    ] {
        let (status, body) = bench.token(&fields).await;
        assert_eq!((status, text(&body, "error")), (400, "invalid_grant"));
    }
    assert_eq!(bench.token(&wrong(CALLBACK, VERIFIER)).await.0, 200);
}

#[tokio::test]
async fn a_person_may_deny_and_may_mistype() {
    let bench = Bench::new(Options::default()).await;
    let back = bench
        .browse(&bench.authorization_url("openid"), Consent::Deny)
        .await;
    assert_eq!(
        (&back["error"], &back["state"]),
        (&json!("access_denied"), &json!("the-state"))
    );

    let mut browser = Browser::new(&[bench.issuer.ca_pem()]).unwrap();
    let page = browser
        .visit(bench.authorization_url("openid").as_str())
        .await
        .unwrap();
    let page = browser
        .submit(&page, &[("username", "alice"), ("password", "wrong")], None)
        .await
        .unwrap();
    assert_eq!(page.status, 401);
    let page = browser
        .submit(&page, &[("username", "alice"), ("password", "alice")], None)
        .await
        .unwrap();
    assert!(
        page.body.contains("Allow access?") && page.body.contains("gridkeep"),
        "{}",
        page.body
    );
}

#[tokio::test]
async fn the_device_flow_keeps_its_interval() {
    let bench = Bench::new(Options::default()).await;
    let device = bench.device("openid offline_access storage.read:/").await;
    assert_eq!(device["interval"], 5);
    let error =
        |(status, body): (u16, serde_json::Value)| (status, text(&body, "error").to_owned());
    assert_eq!(
        error(bench.poll(&device).await),
        (400, "authorization_pending".to_owned())
    );
    assert_eq!(
        error(bench.poll(&device).await),
        (400, "slow_down".to_owned())
    );
    bench.issuer.advance_clock(6);
    assert_eq!(
        error(bench.poll(&device).await),
        (400, "slow_down".to_owned()),
        "the interval has grown by 5 s"
    );
    bench.issuer.advance_clock(16);
    assert_eq!(
        error(bench.poll(&device).await),
        (400, "authorization_pending".to_owned())
    );

    let page = bench
        .issuer
        .log_in(
            text(&device, "verification_uri_complete"),
            "alice",
            Consent::Approve,
            &[],
        )
        .await
        .unwrap();
    assert!(page.body.contains("Device connected"), "{}", page.body);
    let (status, body) = bench.poll(&device).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(bench.claims(&body["id_token"]).await["sub"], "sub-alice");
    assert_eq!(
        error(bench.poll(&device).await),
        (400, "invalid_grant".to_owned()),
        "a device code works once"
    );

    let denied = bench.device("openid").await;
    bench
        .issuer
        .log_in(
            text(&denied, "verification_uri_complete"),
            "bob",
            Consent::Deny,
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        error(bench.poll(&denied).await),
        (400, "access_denied".to_owned())
    );

    let late = bench.device("openid").await;
    bench.issuer.advance_clock(601);
    assert_eq!(
        error(bench.poll(&late).await),
        (400, "expired_token".to_owned())
    );
}

#[tokio::test]
async fn a_person_can_type_the_user_code() {
    let bench = Bench::new(Options::default()).await;
    let device = bench.device("openid").await;
    let mut browser = Browser::new(&[bench.issuer.ca_pem()]).unwrap();
    let page = browser
        .visit(text(&device, "verification_uri"))
        .await
        .unwrap();
    let page = browser
        .submit(&page, &[("username", "alice"), ("password", "alice")], None)
        .await
        .unwrap();
    let page = browser
        .submit(&page, &[("user_code", "XXXX-XXXX")], None)
        .await
        .unwrap();
    assert!(
        page.body.contains("unknown, expired or already used"),
        "{}",
        page.body
    );
    let sloppy = text(&device, "user_code").to_lowercase().replace('-', " ");
    let page = browser
        .submit(&page, &[("user_code", &sloppy)], None)
        .await
        .unwrap();
    let page = browser.submit(&page, &[], Some("approve")).await.unwrap();
    assert!(page.body.contains("Device connected"));
    assert_eq!(bench.poll(&device).await.0, 200);
}

#[tokio::test]
async fn refreshing_without_rotation_keeps_the_token_and_narrows_on_request() {
    let bench = Bench::new(Options::default()).await;
    let first = bench.log_in(ALL).await;
    let token = text(&first, "refresh_token");
    let (status, body) = bench.refresh(token).await;
    assert_eq!((status, text(&body, "refresh_token")), (200, token));
    assert_ne!(body["access_token"], first["access_token"]);
    let with_scope = |scope| {
        [
            ("grant_type", "refresh_token"),
            ("refresh_token", token),
            ("scope", scope),
        ]
    };
    let (_, body) = bench.token(&with_scope("storage.read:/deep/down")).await;
    assert_eq!(
        bench.claims(&body["access_token"]).await["scope"],
        "storage.read:/deep/down"
    );
    let (status, body) = bench.token(&with_scope("storage.modify:/")).await;
    assert_eq!((status, text(&body, "error")), (400, "invalid_scope"));
    bench.issuer.advance_clock(31 * 86_400);
    assert_eq!(bench.refresh(token).await.0, 400, "30 days are over");
}

#[tokio::test]
async fn rotation_with_grace_forgives_and_immediate_rotation_does_not() {
    let bench = Bench::new(Options {
        rotation: Some(Rotation::Grace),
        grace_seconds: 60,
        ..Options::default()
    })
    .await;
    let old = bench.log_in(ALL).await["refresh_token"].clone();
    let old = old.as_str().unwrap();
    let (_, body) = bench.refresh(old).await;
    let new = text(&body, "refresh_token");
    assert_ne!(new, old);
    assert_eq!(bench.refresh(old).await.0, 200, "within the grace period");
    bench.issuer.advance_clock(61);
    let (status, refused) = bench.refresh(old).await;
    assert_eq!((status, text(&refused, "error")), (400, "invalid_grant"));
    let (_, body) = bench.refresh(new).await;
    bench.issuer.set_rotation(Rotation::Immediate, 0);
    let last = text(&body, "refresh_token");
    assert_eq!(bench.refresh(last).await.0, 200);
    assert_eq!(bench.refresh(last).await.0, 400);
    let counters = bench.issuer.counters();
    let grant = &counters.grants[0];
    assert_eq!(
        (
            grant.refreshes.received,
            grant.refreshes.issued,
            grant.refreshes.refused
        ),
        (6, 4, 2)
    );
    assert_eq!(
        grant.refresh_tokens.iter().filter(|t| t.usable).count(),
        1 + 1,
        "the last, and the unused one of the grace period"
    );
}

#[tokio::test]
async fn idle_refresh_tokens_end_before_their_absolute_end() {
    let bench = Bench::new(Options {
        refresh_idle_seconds: Some(3600),
        ..Options::default()
    })
    .await;
    let body = bench.log_in(ALL).await;
    let token = text(&body, "refresh_token");
    bench.issuer.advance_clock(3000);
    assert_eq!(bench.refresh(token).await.0, 200);
    bench.issuer.advance_clock(3000);
    assert_eq!(bench.refresh(token).await.0, 200);
    bench.issuer.advance_clock(3601);
    assert_eq!(bench.refresh(token).await.0, 400);
}

#[tokio::test]
async fn exchange_narrows_scope_and_audience_and_never_widens() {
    let bench = Bench::new(Options::default()).await;
    let body = bench
        .log_in("openid offline_access storage.read:/ storage.create:/testvo")
        .await;
    let subject = text(&body, "access_token");
    let (status, narrow) = bench
        .exchange(
            subject,
            &[
                ("requested_token_type", ACCESS_TOKEN),
                ("scope", "storage.create:/testvo/x storage.read:/a"),
                ("audience", "https://se.example.org"),
                ("audience", "https://se2.example.org"),
            ],
        )
        .await;
    assert_eq!(status, 200, "{narrow}");
    assert_eq!(
        (text(&narrow, "issued_token_type"), &narrow["refresh_token"]),
        (ACCESS_TOKEN, &json!(null))
    );
    let claims = bench.claims(&narrow["access_token"]).await;
    assert_eq!(claims["scope"], "storage.create:/testvo/x storage.read:/a");
    assert_eq!(
        claims["aud"],
        json!(["https://se.example.org", "https://se2.example.org"])
    );
    let (_, wide) = bench
        .exchange(
            text(&narrow, "access_token"),
            &[("scope", "storage.read:/a/b storage.read:/b")],
        )
        .await;
    assert_eq!(
        bench.claims(&wide["access_token"]).await["scope"],
        "storage.read:/a/b"
    );
    let (status, refused) = bench
        .exchange(subject, &[("scope", "storage.modify:/")])
        .await;
    assert_eq!((status, text(&refused, "error")), (400, "invalid_scope"));
    bench.issuer.advance_clock(3600);
    let (status, refused) = bench
        .exchange(subject, &[("scope", "storage.read:/")])
        .await;
    assert_eq!((status, text(&refused, "error")), (400, "invalid_request"));
}

#[tokio::test]
async fn capability_sets_and_groups_follow_the_user() {
    let bench = Bench::new(Options::default()).await;
    let body = bench
        .log_in("openid offline_access wlcg.capabilityset:/testvo/prod wlcg.groups:/testvo/prod")
        .await;
    let claims = bench.claims(&body["access_token"]).await;
    assert_eq!(
        claims["scope"],
        "openid offline_access storage.read:/testvo storage.create:/testvo/data"
    );
    assert_eq!(
        claims["wlcg.groups"],
        json!(["/testvo/prod", "/testvo", "/testvo/ana"])
    );
    assert_eq!(
        bench.claims(&body["id_token"]).await["wlcg.credkey"],
        "testvopro",
        "the key depends on the role"
    );
    let (status, other) = bench
        .exchange(
            text(&body, "access_token"),
            &[("scope", "wlcg.capabilityset:/testvo")],
        )
        .await;
    assert_eq!(status, 200, "{other}");
    let scope = bench.claims(&other["access_token"]).await["scope"].clone();
    assert_eq!(
        scope,
        "storage.read:/testvo storage.create:/testvo/users/alice compute.create"
    );
    let (_, refused) = bench
        .exchange(
            text(&body, "access_token"),
            &[("scope", "wlcg.capabilityset:/testvo/ops")],
        )
        .await;
    assert_eq!(text(&refused, "error"), "access_denied");
    let twice = "wlcg.capabilityset:/testvo wlcg.capabilityset:/testvo/prod";
    let (_, refused) = bench
        .exchange(text(&body, "access_token"), &[("scope", twice)])
        .await;
    assert_eq!(text(&refused, "error"), "invalid_scope");

    let back = bench
        .browse(
            &bench.authorization_url("openid wlcg.groups:/testvo/secret"),
            Consent::Approve,
        )
        .await;
    assert_eq!(back["error"], "access_denied");
}

#[tokio::test]
async fn clients_prove_themselves_in_every_way() {
    let key = SigningKey::generate(Algorithm::Es256, "client-key").unwrap();
    let mut signer = Client::public("signer");
    signer.jwks = Some(JwkSet::new(vec![key.public_jwk()]).to_json());
    let mut basic_only = Client::confidential("odd:id", "se cret+%");
    basic_only.auth = vec![ClientAuth::ClientSecretBasic];
    let mut options = Options::default();
    options.clients.extend([signer, basic_only]);
    let bench = Bench::new(options).await;
    let token = bench.endpoint("token").to_owned();
    let send = |fields: Vec<(&'static str, String)>| {
        let request = bench.http.post(&token).form(&fields);
        async move { shaped(request.send().await.unwrap()).await }
    };
    let own = |more: &[(&'static str, &str)]| {
        let mut fields = vec![
            ("grant_type", "client_credentials".to_owned()),
            ("scope", "host.auth compute.read".to_owned()),
        ];
        fields.extend(more.iter().map(|(n, v)| (*n, (*v).to_owned())));
        fields
    };
    let (status, body) = send(own(&[
        ("client_id", "gridkeep"),
        ("client_secret", "gridkeep-secret"),
    ]))
    .await;
    assert_eq!(status, 200, "{body}");
    let claims = bench.claims(&body["access_token"]).await;
    assert_eq!(
        (&claims["sub"], &claims["scope"]),
        (&json!("gridkeep"), &json!("host.auth compute.read"))
    );
    assert!(body.get("refresh_token").is_none() && body.get("id_token").is_none());

    let now = claims["iat"].as_i64().unwrap();
    let assertion = |jti: &str, aud: &str| {
        let claims =
            json!({"iss": "signer", "sub": "signer", "aud": aud, "exp": now + 60, "jti": jti});
        key.sign(Some("JWT"), &claims).unwrap()
    };
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let signed = assertion("1", &token);
    assert_eq!(
        send(own(&[
            ("client_assertion_type", kind),
            ("client_assertion", &signed)
        ]))
        .await
        .0,
        200
    );
    assert_eq!(
        send(own(&[
            ("client_assertion_type", kind),
            ("client_assertion", &signed)
        ]))
        .await
        .0,
        401,
        "replayed"
    );
    let elsewhere = assertion("2", "https://other.example.org");
    assert_eq!(
        send(own(&[
            ("client_assertion_type", kind),
            ("client_assertion", &elsewhere)
        ]))
        .await
        .0,
        401
    );

    let basic = bench
        .http
        .post(&token)
        .basic_auth("odd%3Aid", Some("se+cret%2B%25"))
        .form(&own(&[]));
    assert_eq!(
        basic.send().await.unwrap().status(),
        200,
        "both parts are form-encoded inside Basic"
    );
    assert_eq!(
        send(own(&[
            ("client_id", "odd:id"),
            ("client_secret", "se cret+%")
        ]))
        .await
        .0,
        401,
        "only Basic for this client"
    );
    assert_eq!(
        send(own(&[
            ("client_id", "gridkeep"),
            ("client_secret", "wrong")
        ]))
        .await
        .0,
        401
    );
    assert_eq!(send(own(&[("client_id", "gridkeep")])).await.0, 401);
    assert_eq!(send(own(&[])).await.0, 401);
    let (status, body) = send(own(&[("client_id", "public-client")])).await;
    assert_eq!((status, text(&body, "error")), (400, "unauthorized_client"));
}

#[tokio::test]
async fn revocation_ends_the_grant_and_introspection_tells() {
    let bench = Bench::new(Options::default()).await;
    let body = bench.log_in(ALL).await;
    let (access, refresh) = (text(&body, "access_token"), text(&body, "refresh_token"));
    let ask = |endpoint: &str, token: &str| {
        bench
            .http
            .post(endpoint)
            .basic_auth("gridkeep", Some("gridkeep-secret"))
            .form(&[("token", token)])
            .send()
    };
    let (_, told) = shaped(ask(bench.endpoint("introspection"), access).await.unwrap()).await;
    assert_eq!(
        (&told["active"], &told["client_id"]),
        (&json!(true), &json!("gridkeep"))
    );
    assert_eq!(
        ask(bench.endpoint("revocation"), "unknown")
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        ask(bench.endpoint("revocation"), refresh)
            .await
            .unwrap()
            .status(),
        200
    );
    let (status, refused) = bench.refresh(refresh).await;
    assert_eq!((status, text(&refused, "error")), (400, "invalid_grant"));
    let (_, told) = shaped(ask(bench.endpoint("introspection"), access).await.unwrap()).await;
    assert_eq!(told, json!({"active": false}));
    assert!(!bench.issuer.counters().grants[0].alive);
}

#[tokio::test]
async fn keys_rotate_and_lifetimes_change_while_running() {
    let bench = Bench::new(Options {
        algorithm: Some("EdDSA".to_owned()),
        ..Options::default()
    })
    .await;
    let body = bench.log_in(ALL).await;
    bench.claims(&body["access_token"]).await;
    bench.issuer.rotate_keys(KeyRotation::Overlap).unwrap();
    bench.claims(&body["access_token"]).await;
    bench.issuer.set_access_token_seconds(7);
    let (_, fresh) = bench.refresh(text(&body, "refresh_token")).await;
    assert_eq!(fresh["expires_in"], 7);
    let claims = bench.claims(&fresh["access_token"]).await;
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        7
    );
    bench.issuer.rotate_keys(KeyRotation::Emergency).unwrap();
    let (status, _) = bench.exchange(text(&fresh, "access_token"), &[]).await;
    assert_eq!(status, 400, "its key is gone");
    assert_eq!(bench.issuer.revoke_user("alice"), 1);
    assert_eq!(bench.refresh(text(&body, "refresh_token")).await.0, 400);
}

#[tokio::test]
async fn a_robot_is_logged_in_everywhere() {
    let bench = Bench::new(Options {
        auto_login: Some("bob".to_owned()),
        ..Options::default()
    })
    .await;
    let device = bench.device("openid offline_access").await;
    let (status, body) = bench.poll(&device).await;
    assert_eq!(
        (status, &bench.claims(&body["id_token"]).await["sub"]),
        (200, &json!("sub-bob"))
    );
    let answer = bench
        .http
        .get(bench.authorization_url("openid"))
        .send()
        .await
        .unwrap();
    let consent = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(consent.starts_with("/consent?"));
    let answer = bench
        .http
        .get(format!("{}{consent}", bench.issuer.base_url()))
        .send()
        .await
        .unwrap();
    let back = answer.headers()["location"].to_str().unwrap();
    assert!(
        back.starts_with(CALLBACK) && back.contains("code="),
        "{back}"
    );
}
