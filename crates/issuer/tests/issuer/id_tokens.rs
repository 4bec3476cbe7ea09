//! What an issuer signs for its client: every algorithm, changing keys, keys that cannot be had; userinfo.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridkeep_issuer::{IssuerError, Sent, TokenIssuer};
use gridkeep_token::jws::{Algorithm, JwkSet, SigningKey, hash_half};
use serde_json::{Value, json};

use crate::support::*;

/// What the server publishes at the moment; `None` is an outage.
type Published = Arc<Mutex<Option<Value>>>;

fn published(keys: &[&SigningKey]) -> Published {
    Arc::new(Mutex::new(Some(set(keys))))
}

fn set(keys: &[&SigningKey]) -> Value {
    JwkSet::new(keys.iter().map(|key| key.public_jwk()).collect()).to_json()
}

async fn issuer_with(keys: &Published) -> Server {
    let keys = Arc::clone(keys);
    issuer(move |_| match keys.lock().unwrap().clone() {
        Some(keys) => Answer::Json(200, keys),
        None => Answer::status(503),
    })
    .await
}

fn key(alg: Algorithm, kid: &str) -> SigningKey {
    SigningKey::generate(alg, kid).unwrap()
}

fn claims(server: &Server) -> Value {
    json!({"iss": server.url, "sub": "anna", "aud": "client-1", "nonce": "n", "iat": NOW, "exp": NOW + 600})
}

async fn pass_a_minute() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn every_algorithm_verifies() {
    let keys: Vec<SigningKey> = Algorithm::ALL
        .iter()
        .map(|&alg| key(alg, alg.name()))
        .collect();
    let server = issuer_with(&published(&keys.iter().collect::<Vec<_>>())).await;
    let client = client(&server);
    for (key, alg) in keys.iter().zip(Algorithm::ALL) {
        let mut claims = claims(&server);
        claims["at_hash"] = json!(hash_half(alg, b"at-1"));
        let token = key.sign(Some("JWT"), &claims).unwrap();
        let read = client
            .verify_id_token(&token, Some("n"), Some(&"at-1".into()), NOW)
            .await
            .unwrap();
        assert_eq!(read["sub"], "anna");
        let error = client
            .verify_id_token(&token, Some("n"), Some(&"at-2".into()), NOW)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("at_hash"), "{error}");
    }
    assert_eq!(server.count("/jwk"), 1);
}

#[tokio::test]
async fn a_new_key_is_found_and_strangers_cannot_make_us_ask_for_ever() {
    let (old, new, strange) = (
        key(Algorithm::Es256, "1"),
        key(Algorithm::Es256, "2"),
        key(Algorithm::Es256, "3"),
    );
    let keys = published(&[&old]);
    let server = issuer_with(&keys).await;
    let client = client(&server);
    let verify = async |key: &SigningKey| {
        client
            .verify_id_token(
                &key.sign(None, &claims(&server)).unwrap(),
                Some("n"),
                None,
                NOW,
            )
            .await
    };
    verify(&old).await.unwrap();
    *keys.lock().unwrap() = Some(set(&[&old, &new]));
    verify(&new).await.unwrap();
    assert_eq!(server.count("/jwk"), 2);
    for _ in 0..5 {
        assert!(matches!(
            verify(&strange).await,
            Err(IssuerError::InvalidToken { .. })
        ));
    }
    assert_eq!(server.count("/jwk"), 2, "once a minute");
    pass_a_minute().await;
    assert!(matches!(
        verify(&strange).await,
        Err(IssuerError::InvalidToken { .. })
    ));
    assert_eq!(server.count("/jwk"), 3);
}

#[tokio::test]
async fn a_key_that_changed_under_its_name_is_found() {
    let (old, new) = (key(Algorithm::Rs256, "rsa1"), key(Algorithm::Rs256, "rsa1"));
    let keys = published(&[&old]);
    let server = issuer_with(&keys).await;
    let client = client(&server);
    client
        .verify_id_token(&old.sign(None, &claims(&server)).unwrap(), None, None, NOW)
        .await
        .unwrap();
    *keys.lock().unwrap() = Some(set(&[&new]));
    client
        .verify_id_token(&new.sign(None, &claims(&server)).unwrap(), None, None, NOW)
        .await
        .unwrap();
    let error = client
        .verify_id_token(&old.sign(None, &claims(&server)).unwrap(), None, None, NOW)
        .await;
    assert!(
        matches!(error, Err(IssuerError::InvalidToken { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn keys_that_cannot_be_had_say_nothing_about_the_token() {
    let (known, unknown) = (key(Algorithm::Es384, "1"), key(Algorithm::Es384, "2"));
    let keys: Published = Arc::new(Mutex::new(None));
    let server = issuer_with(&keys).await;
    let client = client(&server);
    let verify = async |key: &SigningKey| {
        client
            .verify_id_token(&key.sign(None, &claims(&server)).unwrap(), None, None, NOW)
            .await
    };
    let unknowable = |result: Result<_, IssuerError>| {
        let error = result.map(|_: serde_json::Map<_, _>| ()).unwrap_err();
        assert!(
            matches!(error, IssuerError::Temporary { sent: Sent::No, .. }),
            "{error:?}"
        );
    };
    unknowable(verify(&known).await);
    *keys.lock().unwrap() = Some(set(&[&known]));
    pass_a_minute().await;
    verify(&known).await.unwrap();
    *keys.lock().unwrap() = None;
    unknowable(verify(&unknown).await);
    unknowable(verify(&unknown).await);
    verify(&known).await.unwrap();
}

#[tokio::test]
async fn what_does_not_belong_to_this_login_is_invalid() {
    let (mine, other) = (key(Algorithm::Es256, "1"), key(Algorithm::Es256, "1"));
    let server = issuer_with(&published(&[&mine])).await;
    let client = client(&server);
    let good = mine.sign(None, &claims(&server)).unwrap();
    let mut foreign = claims(&server);
    foreign["iss"] = json!(format!("{}/", server.url));
    let foreign = mine.sign(None, &foreign).unwrap();
    for (token, nonce, now, word) in [
        (good.as_str(), "other", NOW, "nonce"),
        (good.as_str(), "n", NOW + 660, "expired"),
        (good.as_str(), "n", NOW - 61, "future"),
        (foreign.as_str(), "n", NOW, "iss"),
        (
            other.sign(None, &claims(&server)).unwrap().as_str(),
            "n",
            NOW,
            "signature",
        ),
        ("rubbish", "n", NOW, "malformed"),
    ] {
        let error = client
            .verify_id_token(token, Some(nonce), None, now)
            .await
            .unwrap_err();
        assert!(
            matches!(error, IssuerError::InvalidToken { .. }),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.starts_with("Token verification failed. ") && text.contains(word),
            "{text}"
        );
    }
    client
        .verify_id_token(&good, Some("n"), None, NOW + 659)
        .await
        .unwrap();
}

async fn userinfo_of(
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> (Server, Published, SigningKey) {
    let signer = key(Algorithm::Es256, "1");
    let keys = published(&[&signer]);
    let jwks = Arc::clone(&keys);
    let server = issuer(move |request| match request.path.as_str() {
        "/jwk" => Answer::Json(200, jwks.lock().unwrap().clone().unwrap()),
        _ => answer(request),
    })
    .await;
    (server, keys, signer)
}

#[tokio::test]
async fn userinfo_is_read_with_the_access_token() {
    let (server, ..) =
        userinfo_of(|_| Answer::Json(200, json!({"sub": "anna", "email": "a@example.org"}))).await;
    let claims = client(&server).userinfo(&"at-1".into()).await.unwrap();
    assert_eq!(claims["email"], "a@example.org");
    let request = server.only("/userinfo");
    assert_eq!(
        (request.method.as_str(), request.header("authorization")),
        ("GET", Some("Bearer at-1"))
    );
}

#[tokio::test]
async fn userinfo_may_be_signed() {
    let body = Arc::new(Mutex::new(String::new()));
    let shown = Arc::clone(&body);
    let (server, _, signer) = userinfo_of(move |_| Answer::Raw {
        status: 200,
        headers: vec![("content-type", "application/jwt".into())],
        body: shown.lock().unwrap().clone().into_bytes(),
    })
    .await;
    let client = client(&server);
    for (claims, good) in [
        (json!({"sub": "anna"}), true),
        (
            json!({"sub": "anna", "iss": server.url, "aud": "client-1"}),
            true,
        ),
        (
            json!({"sub": "anna", "iss": "https://other.example.org"}),
            false,
        ),
        (json!({"sub": "anna", "aud": "other"}), false),
    ] {
        *body.lock().unwrap() = signer.sign(None, &claims).unwrap();
        let answer = client.userinfo(&"at-1".into()).await;
        assert_eq!(answer.is_ok(), good, "{claims}: {answer:?}");
    }
    *body.lock().unwrap() = key(Algorithm::Es256, "9")
        .sign(None, &json!({"sub": "eve"}))
        .unwrap();
    assert!(matches!(
        client.userinfo(&"at-1".into()).await,
        Err(IssuerError::InvalidToken { .. })
    ));
}

#[tokio::test]
async fn userinfo_refuses_by_challenge() {
    let (server, ..) = userinfo_of(|_| Answer::Raw {
        status: 401,
        headers: vec![(
            "www-authenticate",
            r#"Bearer error="invalid_token", error_description="at-1x gone""#.into(),
        )],
        body: Vec::new(),
    })
    .await;
    let error = client(&server).userinfo(&"at-1x".into()).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid_token: [removed] gone");
}
