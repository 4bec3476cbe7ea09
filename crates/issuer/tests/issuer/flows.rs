//! Each grant as it goes over the wire when all is well.

use gridkeep_issuer::{
    AuthorizationRequest, Client, ClientAuth, ClientOptions, DevicePoll, ExchangeRequest,
    IssuerError, TokenHint, TokenIssuer,
};
use gridkeep_token::jws::{Algorithm, JwkSet, Jws, SigningKey};
use secrecy::ExposeSecret;
use serde_json::json;
use url::Url;

use crate::support::*;

fn scopes(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn refresh_names_no_scope_and_reads_the_rotated_token() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    let answer = client(&server).refresh(&"rt-1".into()).await.unwrap();
    assert_eq!(answer.access_token.expose_secret(), "at-1");
    assert_eq!(answer.token_type, "Bearer");
    assert_eq!(answer.expires_in, Some(3600));
    assert_eq!(answer.refresh_token.unwrap().expose_secret(), "rt-2");
    assert_eq!(answer.scope.as_deref(), Some("openid"));
    let request = server.only("/token");
    assert_eq!(request.method, "POST");
    assert_eq!(
        request.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(request.header("authorization"), None);
    let mut sent = request.form;
    sent.sort();
    let expected = [
        ("client_id", "client-1"),
        ("client_secret", SECRET),
        ("grant_type", "refresh_token"),
        ("refresh_token", "rt-1"),
    ];
    assert_eq!(
        sent,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[tokio::test]
async fn the_trace_is_told_only_where_that_is_wanted() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    client(&server).refresh(&"rt-1".into()).await.unwrap();
    assert_eq!(server.only("/token").header("traceparent"), None);
    let value = || Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let telling = client_of(ClientOptions {
        traceparent: Some(value),
        ..options(&server)
    });
    telling.refresh(&"rt-1".into()).await.unwrap();
    let requests = server.requests("/token");
    assert_eq!(
        requests[1].header("traceparent").map(str::to_owned),
        value()
    );
}

#[tokio::test]
async fn a_login_by_code_goes_with_pkce() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    let client = client_of(ClientOptions {
        authorization_params: vec![("prompt".into(), "consent".into())],
        ..options(&server)
    });
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let request = AuthorizationRequest {
        redirect_uri: "https://vault.example.org:8200/v1/auth/oidc-vo/oidc/callback".into(),
        scopes: scopes("wlcg offline_access"),
        state: "st".into(),
        nonce: "no".into(),
        code_verifier: verifier.into(),
    };
    let url = Url::parse(&client.authorization_url(&request).await.unwrap()).unwrap();
    assert_eq!(url.path(), "/authorize");
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let expected = [
        ("tenant", "vo"),
        ("response_type", "code"),
        ("client_id", "client-1"),
        ("redirect_uri", request.redirect_uri.as_str()),
        ("scope", "openid wlcg offline_access"),
        ("state", "st"),
        ("nonce", "no"),
        (
            "code_challenge",
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        ),
        ("code_challenge_method", "S256"),
        ("prompt", "consent"),
    ];
    assert_eq!(
        pairs,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    client
        .redeem_code(
            &"c0de".into(),
            &request.redirect_uri,
            &request.code_verifier,
        )
        .await
        .unwrap();
    let sent = server.only("/token");
    assert_eq!(sent.field("grant_type"), Some("authorization_code"));
    assert_eq!(sent.field("code"), Some("c0de"));
    assert_eq!(
        sent.field("redirect_uri"),
        Some(request.redirect_uri.as_str())
    );
    assert_eq!(sent.field("code_verifier"), Some(verifier));
}

#[tokio::test]
async fn a_device_login_from_start_to_end() {
    let polls = std::sync::atomic::AtomicUsize::new(0);
    let server = issuer(move |request| match request.path.as_str() {
        "/device" => Answer::Json(
            200,
            json!({
                "device_code": "dc", "user_code": "AB-CD", "verification_url": "https://i.example.org/device",
                "expires_in": "300", "interval": 3,
            }),
        ),
        _ => match polls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => Answer::Json(400, json!({"error": "authorization_pending"})),
            1 => Answer::Json(403, json!({"error": "slow_down"})),
            2 => Answer::status(502),
            3 => Answer::Json(200, tokens()),
            4 => Answer::Json(400, json!({"error": "access_denied", "error_description": "User denied"})),
            _ => Answer::Json(400, json!({"error": "expired_token"})),
        },
    })
    .await;
    let client = client(&server);
    let start = client.start_device(&scopes("wlcg")).await.unwrap();
    assert_eq!(start.user_code, "AB-CD");
    assert_eq!(start.verification_uri, "https://i.example.org/device");
    assert_eq!(start.verification_uri_complete, None);
    assert_eq!((start.interval, start.expires_in), (3, 300));
    let request = server.only("/device");
    assert_eq!(request.field("scope"), Some("openid wlcg"));
    assert_eq!(request.field("client_id"), Some("client-1"));

    assert!(matches!(
        client.poll_device(&start.device_code).await,
        Ok(DevicePoll::Pending)
    ));
    assert!(matches!(
        client.poll_device(&start.device_code).await,
        Ok(DevicePoll::SlowDown)
    ));
    assert!(
        client
            .poll_device(&start.device_code)
            .await
            .unwrap_err()
            .may_have_acted()
    );
    let Ok(DevicePoll::Done(answer)) = client.poll_device(&start.device_code).await else {
        panic!("not done")
    };
    assert_eq!(answer.access_token.expose_secret(), "at-1");
    for code in ["access_denied", "expired_token"] {
        let error = client.poll_device(&start.device_code).await.unwrap_err();
        assert!(
            matches!(&error, IssuerError::Refused { error, .. } if error == code),
            "{error:?}"
        );
    }
    let poll = &server.requests("/token")[0];
    assert_eq!(
        poll.field("grant_type"),
        Some("urn:ietf:params:oauth:grant-type:device_code")
    );
    assert_eq!(poll.field("device_code"), Some("dc"));
    assert_eq!(client.status().consecutive_failures, 0);
}

#[tokio::test]
async fn an_exchange_repeats_audiences_and_keeps_the_order() {
    let server = issuer(|_| {
        let mut answer = tokens();
        answer["issued_token_type"] = json!("urn:ietf:params:oauth:token-type:access_token");
        Answer::Json(200, answer)
    })
    .await;
    let request = ExchangeRequest {
        subject_token: "wide".into(),
        scopes: scopes("storage.read:/b storage.read:/a"),
        audiences: scopes("https://b https://a"),
        resources: vec!["https://r/".into()],
    };
    let answer = client(&server).exchange(&request).await.unwrap();
    assert_eq!(
        answer.issued_token_type.as_deref(),
        Some("urn:ietf:params:oauth:token-type:access_token")
    );
    let sent = server.only("/token");
    assert_eq!(
        sent.field("grant_type"),
        Some("urn:ietf:params:oauth:grant-type:token-exchange")
    );
    assert_eq!(sent.field("subject_token"), Some("wide"));
    for name in ["subject_token_type", "requested_token_type"] {
        assert_eq!(
            sent.field(name),
            Some("urn:ietf:params:oauth:token-type:access_token")
        );
    }
    assert_eq!(sent.field("scope"), Some("storage.read:/b storage.read:/a"));
    assert_eq!(sent.fields("audience"), ["https://b", "https://a"]);
    assert_eq!(sent.field("resource"), Some("https://r/"));
    assert_eq!(sent.field("code"), None);

    let bare = ExchangeRequest {
        subject_token: "wide".into(),
        scopes: Vec::new(),
        audiences: Vec::new(),
        resources: Vec::new(),
    };
    client(&server).exchange(&bare).await.unwrap();
    let sent = &server.requests("/token")[1];
    assert!(sent.field("scope").is_none() && sent.fields("audience").is_empty());
}

#[tokio::test]
async fn client_credentials() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    client(&server)
        .client_credentials(&scopes("compute.read"))
        .await
        .unwrap();
    let sent = server.only("/token");
    assert_eq!(sent.field("grant_type"), Some("client_credentials"));
    assert_eq!(sent.field("scope"), Some("compute.read"));
}

#[tokio::test]
async fn revocation_says_what_kind_of_token_it_is() {
    let server = issuer(|_| Answer::status(200)).await;
    client(&server)
        .revoke(&"rt-1".into(), TokenHint::RefreshToken)
        .await
        .unwrap();
    let sent = server.only("/revoke");
    assert_eq!(
        (sent.field("token"), sent.field("token_type_hint")),
        (Some("rt-1"), Some("refresh_token"))
    );
}

#[tokio::test]
async fn what_the_issuer_does_not_offer_is_said_without_asking() {
    let server = Server::start(|request| Answer::Json(200, json!({"issuer": request.base}))).await;
    let client = client(&server);
    let unsupported = |result: Result<(), IssuerError>| {
        assert!(
            matches!(result, Err(IssuerError::Unsupported { .. })),
            "{result:?}"
        );
    };
    unsupported(client.revoke(&"x".into(), TokenHint::AccessToken).await);
    unsupported(client.refresh(&"x".into()).await.map(drop));
    unsupported(client.start_device(&[]).await.map(drop));
    unsupported(client.userinfo(&"x".into()).await.map(drop));
    let metadata = client.metadata().await.unwrap();
    assert_eq!(metadata.issuer, server.url);
    assert_eq!(server.count(DISCOVERY), 1);
}

#[tokio::test]
async fn a_private_key_signs_a_new_assertion_each_time() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    let key = SigningKey::generate(Algorithm::Es256, "k1").unwrap();
    let public = JwkSet::new(vec![key.public_jwk()]);
    let client = client_of(ClientOptions {
        auth: ClientAuth::PrivateKeyJwt { key },
        ..options(&server)
    });
    let mut seen = Vec::new();
    for _ in 0..2 {
        client.refresh(&"rt".into()).await.unwrap();
        let request = server.requests("/token").pop().unwrap();
        assert_eq!(
            request.field("client_assertion_type"),
            Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
        );
        assert_eq!(request.field("client_secret"), None);
        let claims = Jws::parse(request.field("client_assertion").unwrap())
            .unwrap()
            .verify(&public)
            .unwrap();
        assert_eq!(
            (&claims["iss"], &claims["sub"]),
            (&json!("client-1"), &json!("client-1"))
        );
        assert_eq!(claims["aud"], json!(format!("{}/token", server.url)));
        assert_eq!(
            (&claims["iat"], &claims["exp"]),
            (&json!(NOW), &json!(NOW + 120))
        );
        seen.push(claims["jti"].clone());
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn a_secret_in_the_header_stays_out_of_the_body() {
    let server = issuer(|request| match request.path.as_str() {
        "/device" => Answer::Json(
            200,
            json!({"device_code": "d", "user_code": "u", "verification_uri": "https://i/d"}),
        ),
        _ => Answer::Json(200, tokens()),
    })
    .await;
    let auth = ClientAuth::Basic {
        secret: SECRET.into(),
    };
    let client = client_of(ClientOptions {
        auth,
        ..options(&server)
    });
    client.refresh(&"rt".into()).await.unwrap();
    client.start_device(&[]).await.unwrap();
    for path in ["/token", "/device"] {
        let sent = server.only(path);
        assert!(sent.header("authorization").unwrap().starts_with("Basic "));
        assert_eq!(sent.field("client_secret"), None);
    }
    assert_eq!(server.only("/token").field("client_id"), None);
    assert_eq!(
        server.only("/device").field("client_id"),
        Some("client-1"),
        "some issuers demand it there"
    );
}

#[tokio::test]
async fn an_issuer_with_a_path_is_looked_for_in_three_places() {
    let server = Server::start(|request| match request.path.as_str() {
        "/.well-known/oauth-authorization-server/realms/vo" => Answer::Json(
            200,
            json!({"issuer": format!("{}/realms/vo", request.base)}),
        ),
        _ => Answer::status(404),
    })
    .await;
    let url = format!("{}/realms/vo", server.url);
    let client = Client::new(ClientOptions {
        url: url.clone(),
        ..options(&server)
    })
    .unwrap();
    assert_eq!(client.metadata().await.unwrap().issuer, url);
    assert_eq!(
        server.count("/realms/vo/.well-known/openid-configuration"),
        1
    );
}
