//! How each character differs from the profile, in ways that clients have to bear.

use std::collections::BTreeMap;

use gridkeep_testbed::issuer::{Character, Client, Options, Rotation, TokenProfile};
use gridkeep_token::profile::{StaticKeys, TrustedIssuer, Verifier};
use gridkeep_token::time::UnixSeconds;
use serde_json::{Value, json};

use super::bench::{Bench, text};

const ALL: &str = "openid profile offline_access storage.read:/ storage.create:/testvo";

fn said((status, body): (u16, Value)) -> (u16, String, String) {
    (
        status,
        text(&body, "error").to_owned(),
        text(&body, "error_description").to_owned(),
    )
}

fn saying(status: u16, error: &str, description: &str) -> (u16, String, String) {
    (status, error.to_owned(), description.to_owned())
}

#[tokio::test]
async fn indigo_iam() {
    let bench = Bench::new(Options::new(Character::Iam)).await;
    assert!(bench.issuer.url().ends_with('/'));
    assert!(
        bench
            .endpoint("device_authorization")
            .ends_with("/devicecode")
    );
    let device = bench.device(ALL).await;
    assert!(device.get("interval").is_none());
    let code = text(&device, "device_code").to_owned();
    let pending = saying(
        400,
        "authorization_pending",
        &format!("Authorization pending for code: {code}"),
    );
    assert_eq!(said(bench.poll(&device).await), pending);
    assert_eq!(said(bench.poll(&device).await), pending, "no slow_down");
    bench.issuer.deny_device(text(&device, "user_code"));
    assert_eq!(
        said(bench.poll(&device).await),
        pending,
        "a denial is not told"
    );

    let body = bench.log_in(ALL).await;
    assert_eq!(
        text(&body, "scope"),
        "storage.create:/testvo storage.read:/ offline_access profile openid",
        "reordered"
    );
    let refresh = text(&body, "refresh_token");
    assert!(
        refresh.starts_with("eyJ") && refresh.ends_with('.'),
        "an unsigned JWT"
    );
    assert_eq!(
        text(&bench.refresh(refresh).await.1, "refresh_token"),
        refresh
    );
    assert_eq!(
        said(bench.refresh("nonsense").await),
        saying(
            401,
            "invalid_token",
            "Refresh token for value nonsense was not found"
        )
    );
    let subject = text(&body, "access_token");
    assert_eq!(
        said(bench.exchange(subject, &[("audience", "x")]).await),
        saying(
            400,
            "invalid_request",
            "The scope parameter is required for a token exchange request!"
        )
    );
    let more = [
        ("scope", "storage.read:/a"),
        ("audience", "https://a.example.org https://b.example.org"),
        ("audience", "c"),
    ];
    let (_, narrow) = bench.exchange(subject, &more).await;
    assert_eq!(
        text(&narrow, "issued_token_type"),
        "urn:ietf:params:oauth:token-type:jwt"
    );
    let claims = bench.claims(&narrow["access_token"]).await;
    assert_eq!(
        claims["aud"],
        json!(["https://a.example.org", "https://b.example.org"]),
        "blanks separate, repetition is ignored"
    );
    assert_eq!(
        said(
            bench
                .exchange(subject, &[("scope", "openid"), ("resource", "not a uri")])
                .await
        ),
        saying(400, "invalid_target", "Not a valid URI: not")
    );
    assert_eq!(
        said(
            bench
                .exchange(subject, &[("scope", "storage.modify:/")])
                .await
        ),
        saying(
            400,
            "invalid_scope",
            "scope not allowed by origin client configuration: storage.modify:/"
        )
    );
}

#[tokio::test]
async fn cilogon() {
    let bench = Bench::new(Options::new(Character::Cilogon)).await;
    assert!(bench.issuer.url().ends_with("/testvo"));
    let inserted = format!(
        "{}/.well-known/openid-configuration/testvo",
        bench.issuer.base_url()
    );
    let other: Value = bench
        .http
        .get(inserted)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(other, bench.discovery);
    assert!(bench.endpoint("token").ends_with("/oauth2/token"));
    let device = bench.device(ALL).await;
    assert_eq!(
        said(bench.poll(&device).await),
        saying(400, "authorization_pending", "authorization pending")
    );
    assert_eq!(
        said(bench.poll(&device).await),
        saying(400, "slow_down", "slow down")
    );
    let body = bench
        .log_in("openid storage.read:/testvo storage.create:/testvo")
        .await;
    assert_eq!(
        text(&body, "scope"),
        "storage.create:/testvo storage.read:/testvo",
        "sorted, rights only"
    );
    let old = text(&body, "refresh_token");
    let (_, refreshed) = bench.refresh(old).await;
    assert_ne!(
        text(&refreshed, "refresh_token"),
        old,
        "a new one at every refresh"
    );
    assert_eq!(
        said(bench.refresh(old).await),
        saying(400, "invalid_grant", "invalid refresh token")
    );
    assert_eq!(
        bench.refresh(text(&refreshed, "refresh_token")).await.0,
        200,
        "the grant lives on"
    );
    let wrong = bench
        .http
        .post(bench.endpoint("token"))
        .basic_auth("gridkeep", Some("wrong"));
    let wrong = wrong
        .form(&[("grant_type", "client_credentials")])
        .send()
        .await
        .unwrap();
    assert_eq!(
        said(super::bench::shaped(wrong).await),
        saying(400, "unauthorized_client", "incorrect secret")
    );
    let (_, narrow) = bench
        .exchange(
            text(&body, "access_token"),
            &[
                ("scope", "storage.read:/testvo/a"),
                ("resource", "https://se.example.org"),
            ],
        )
        .await;
    assert_eq!(
        bench.claims(&narrow["access_token"]).await["aud"],
        "https://se.example.org"
    );
}

#[tokio::test]
async fn keycloak() {
    let mut options = Options::new(Character::Keycloak);
    options.audience_scopes =
        BTreeMap::from([("se-access".to_owned(), "https://se.example.org".to_owned())]);
    options.rotation = Some(Rotation::Immediate);
    let bench = Bench::new(options).await;
    assert!(bench.issuer.url().ends_with("/realms/testvo"));
    assert!(
        bench
            .endpoint("device_authorization")
            .ends_with("/protocol/openid-connect/auth/device")
    );
    let body = bench.log_in("storage.read:/ openid se-access").await;
    assert_eq!(
        text(&body, "scope"),
        "openid storage.read:/ se-access profile email",
        "default scopes are added"
    );
    assert_eq!(
        bench.claims(&body["access_token"]).await["aud"],
        "https://se.example.org",
        "a scope stands for an audience"
    );
    assert!(
        body["refresh_expires_in"].as_i64().unwrap() > 0,
        "a refresh token without offline_access"
    );
    let subject = text(&body, "access_token");
    let (_, directed) = bench
        .exchange(
            subject,
            &[
                ("scope", "storage.read:/ se-access"),
                ("audience", "https://se.example.org"),
            ],
        )
        .await;
    assert_eq!(
        bench.claims(&directed["access_token"]).await["aud"],
        "https://se.example.org"
    );
    assert_eq!(
        said(
            bench
                .exchange(
                    subject,
                    &[
                        ("scope", "storage.read:/"),
                        ("audience", "https://other.example.org")
                    ]
                )
                .await
        ),
        saying(
            400,
            "invalid_request",
            "Requested audience not available: https://other.example.org"
        )
    );
    assert_eq!(
        said(
            bench
                .exchange(subject, &[("scope", "storage.modify:/x openid")])
                .await
        ),
        saying(
            400,
            "invalid_scope",
            "Invalid scopes: storage.modify:/x openid"
        )
    );
    let old = text(&body, "refresh_token");
    let (_, refreshed) = bench.refresh(old).await;
    assert_eq!(
        said(bench.refresh(old).await),
        saying(
            400,
            "invalid_grant",
            "Maximum allowed refresh token reuse exceeded"
        )
    );
    assert_eq!(
        said(bench.refresh(text(&refreshed, "refresh_token")).await),
        saying(400, "invalid_grant", "Session doesn't have required client"),
        "reuse ends the whole session"
    );
}

#[tokio::test]
async fn scopes_a_client_is_not_registered_for() {
    for (character, expected) in [
        (Character::Wlcg, None),
        (Character::Cilogon, None),
        (
            Character::Iam,
            Some("One or more requested scope is not allowed for client 'gridkeep'"),
        ),
        (
            Character::Keycloak,
            Some("Invalid scopes: openid offline_access storage.modify:/ storage.read:/a"),
        ),
    ] {
        let mut client = Client::confidential("gridkeep", "gridkeep-secret");
        client.scopes = ["openid", "offline_access", "storage.read:/"]
            .map(str::to_owned)
            .to_vec();
        let bench = Bench::new(Options {
            character,
            clients: vec![client],
            algorithm: Some("ES256".to_owned()),
            ..Options::default()
        })
        .await;
        let fields = [
            ("client_id", "gridkeep"),
            ("client_secret", "gridkeep-secret"),
            (
                "scope",
                "openid offline_access storage.modify:/ storage.read:/a",
            ),
        ];
        let answer = bench
            .http
            .post(bench.endpoint("device_authorization"))
            .form(&fields)
            .send()
            .await
            .unwrap();
        let (status, body) = super::bench::shaped(answer).await;
        match expected {
            Some(description) => assert_eq!(
                said((status, body)),
                saying(400, "invalid_scope", description)
            ),
            None => {
                assert!(
                    bench
                        .issuer
                        .approve_device(text(&body, "user_code"), "alice")
                );
                let (_, body) = bench.poll(&body).await;
                assert!(
                    !text(&body, "scope").contains("modify")
                        && text(&body, "scope").contains("storage.read:/a"),
                    "{body}"
                );
            }
        }
    }
}

#[tokio::test]
async fn configured_habits_win() {
    let mut options = Options {
        drop_scopes: vec!["offline_access".to_owned()],
        ..Options::default()
    };
    options
        .discovery
        .insert("revocation_endpoint".to_owned(), Value::Null);
    options.discovery.insert(
        "jwks_uri".to_owned(),
        json!("https://elsewhere.example.org/"),
    );
    let bench = Bench::new(options).await;
    assert!(bench.discovery.get("revocation_endpoint").is_none());
    assert_eq!(
        bench.discovery["jwks_uri"],
        "https://elsewhere.example.org/"
    );
    let body = bench.log_in(ALL).await;
    assert!(
        body.get("refresh_token").is_none() && !text(&body, "scope").contains("offline_access")
    );
}

#[tokio::test]
async fn tokens_of_every_character_pass_the_profile() {
    for character in [
        Character::Wlcg,
        Character::Iam,
        Character::Cilogon,
        Character::Keycloak,
    ] {
        let bench = Bench::new(Options {
            character,
            algorithm: Some("ES256".to_owned()),
            ..Options::default()
        })
        .await;
        let body = bench
            .log_in("openid offline_access wlcg.groups storage.read:/testvo")
            .await;
        let iss = bench.issuer.url();
        let verifier = Verifier::new(["https://se.example.org"]).trust(TrustedIssuer::wlcg(iss));
        let keys = StaticKeys::one(iss, bench.keys().await);
        let now = bench.claims(&body["access_token"]).await["iat"]
            .as_i64()
            .unwrap();
        let verified = verifier
            .verify(text(&body, "access_token"), &keys, UnixSeconds(now))
            .unwrap();
        assert!(
            verified
                .authorize(&"read".parse().unwrap(), "/testvo/f")
                .allowed,
            "{character:?}"
        );
        let groups: Vec<&str> = verified.groups().list.iter().map(|g| g.as_str()).collect();
        assert_eq!(groups, ["/testvo", "/testvo/ana"], "{character:?}");
    }
}

#[tokio::test]
async fn scitokens_on_request() {
    let bench = Bench::new(Options {
        profile: TokenProfile::Scitokens,
        ..Options::default()
    })
    .await;
    let body = bench
        .log_in("openid storage.read:/a storage.create:/b storage.modify:/b")
        .await;
    let claims = bench.claims(&body["access_token"]).await;
    assert_eq!(
        (&claims["ver"], &claims["aud"]),
        (&json!("scitoken:2.0"), &json!("ANY"))
    );
    assert!(claims.get("wlcg.ver").is_none());
    assert_eq!(claims["scope"], "openid read:/a write:/b");
    let iss = bench.issuer.url();
    let verifier = Verifier::new(["https://se.example.org"]).trust(TrustedIssuer::scitokens(iss));
    let keys = StaticKeys::one(iss, bench.keys().await);
    let now = UnixSeconds(claims["iat"].as_i64().unwrap());
    let verified = verifier
        .verify(text(&body, "access_token"), &keys, now)
        .unwrap();
    assert!(verified.authorize(&"read".parse().unwrap(), "/a/f").allowed);
    assert!(!verified.authorize(&"read".parse().unwrap(), "/b/f").allowed);
}
