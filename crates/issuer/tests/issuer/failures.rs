//! Each kind of trouble, and what a caller may conclude from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use gridkeep_issuer::{
    BreakerState, Budget, ClientOptions, IssuerError, Sent, TokenHint, TokenIssuer,
};
use gridkeep_token::jws::{Algorithm, SigningKey};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::*;

const REFRESH_TOKEN: &str = "rt/short";

async fn refresh_error(server: &Server) -> IssuerError {
    client(server)
        .refresh(&REFRESH_TOKEN.into())
        .await
        .unwrap_err()
}

#[track_caller]
fn assert_temporary(error: &IssuerError, expected: Sent) {
    assert!(
        matches!(error, IssuerError::Temporary { sent, .. } if *sent == expected),
        "{error:?}"
    );
}

/// A port that nobody listens on.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[tokio::test]
async fn no_connection_means_nothing_was_sent() {
    let port = closed_port().await;
    let server = Server::start(move |request| {
        let mut document = discovery(&request.base);
        document["token_endpoint"] = json!(format!("http://127.0.0.1:{port}/token"));
        Answer::Json(200, document)
    })
    .await;
    let error = refresh_error(&server).await;
    assert_temporary(&error, Sent::No);
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
}

#[tokio::test]
async fn a_request_that_may_have_arrived_is_not_sent_again() {
    for answer in [|| Answer::Drop, || Answer::Truncated] {
        let server = issuer(move |_| answer()).await;
        let error = refresh_error(&server).await;
        assert_temporary(&error, Sent::Maybe);
        assert_eq!(server.count("/token"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_issuer_is_given_up_in_time() {
    let _held = hold_time();
    let server = issuer(|_| Answer::Hang).await;
    let options = options(&server);
    let limit = options.request_timeout;
    let client = client_of(options);
    let token = REFRESH_TOKEN.into();
    let silence = async {
        while server.count("/token") == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(limit).await;
    };
    let (answer, ()) = tokio::join!(client.refresh(&token), silence);
    let error = answer.unwrap_err();
    assert_temporary(&error, Sent::Maybe);
    assert!(error.to_string().contains("no answer"), "{error}");
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn silence_during_discovery_means_nothing_was_sent() {
    let server = Server::start(|_| Answer::Hang).await;
    let client = client_of(ClientOptions {
        request_timeout: Duration::from_millis(200),
        ..options(&server)
    });
    let token = REFRESH_TOKEN.into();
    let (first, second) = tokio::join!(client.refresh(&token), client.metadata());
    assert_temporary(&first.unwrap_err(), Sent::No);
    assert_temporary(&second.map(drop).unwrap_err(), Sent::No);
    assert_eq!(server.count("/token"), 0);
}

#[tokio::test]
async fn answers_that_prove_nothing_are_not_refusals() {
    let html = || Answer::Raw {
        status: 403,
        headers: vec![("content-type", "text/html".into())],
        body: b"<h1>permission denied</h1>".to_vec(),
    };
    let large = || Answer::Raw {
        status: 200,
        headers: Vec::new(),
        body: vec![b' '; 1024 * 1024 + 1],
    };
    let garbage = || Answer::Raw {
        status: 200,
        headers: Vec::new(),
        body: b"<html>".to_vec(),
    };
    let spring = || {
        Answer::Json(
            400,
            json!({"status": 400, "error": "Bad Request", "path": "/token"}),
        )
    };
    let empty = || Answer::Json(200, json!({"token_type": "Bearer"}));
    let refused_500 = || Answer::Json(500, json!({"error": "invalid_grant"}));
    let answers: [fn() -> Answer; 6] = [html, large, garbage, spring, empty, refused_500];
    for answer in answers {
        let server = issuer(move |_| answer()).await;
        let error = refresh_error(&server).await;
        assert_temporary(&error, Sent::Maybe);
        assert!(!error.to_string().contains("permission denied"), "{error}");
    }
}

#[tokio::test]
async fn credentials_do_not_follow_redirects() {
    let server = issuer(|request| match request.path.as_str() {
        "/token" => Answer::Raw {
            status: 307,
            headers: vec![("location", format!("{}/elsewhere", request.base))],
            body: Vec::new(),
        },
        _ => Answer::Json(200, tokens()),
    })
    .await;
    assert_temporary(&refresh_error(&server).await, Sent::Maybe);
    assert_eq!(server.count("/elsewhere"), 0);
}

#[tokio::test]
async fn a_refusal_is_told_without_what_was_sent() {
    let server = issuer(|request| {
        let echo = format!(
            "Invalid refresh token: {} for {:?}",
            request.field("refresh_token").unwrap(),
            request.field("client_secret")
        );
        Answer::Json(400, json!({"error": "invalid_grant", "error_description": echo, "error_uri": "https://e/1"}))
    })
    .await;
    let client = client(&server);
    let error = client.refresh(&REFRESH_TOKEN.into()).await.unwrap_err();
    assert!(error.is_permanent());
    let text = format!("{error} {error:?} {:?}", client.status());
    assert!(
        text.contains("invalid_grant: Invalid refresh token: [removed]"),
        "{text}"
    );
    assert!(
        !text.contains(REFRESH_TOKEN) && !text.contains(SECRET),
        "{text}"
    );
    assert_eq!(
        client.status().last_success,
        Some(NOW),
        "a refusal is an answer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failing_issuer_is_left_alone_and_tried_again() {
    let _held = hold_time();
    let down = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&down);
    let server = issuer(move |_| match state.load(Ordering::SeqCst) {
        true => Answer::status(503),
        false => Answer::Json(200, tokens()),
    })
    .await;
    let client = client(&server);
    for _ in 0..5 {
        assert_temporary(
            &client.refresh(&REFRESH_TOKEN.into()).await.unwrap_err(),
            Sent::Maybe,
        );
    }
    let status = client.status();
    assert_eq!(status.consecutive_failures, 5);
    assert!(
        matches!(status.breaker, BreakerState::Open(_)),
        "{status:?}"
    );
    assert!(status.last_error.unwrap().contains("503"));
    let error = client.refresh(&REFRESH_TOKEN.into()).await.unwrap_err();
    let IssuerError::Throttled { retry_after } = error else {
        panic!("{error:?}")
    };
    assert_eq!(server.count("/token"), 5, "held back means not sent");
    assert!(!error.may_have_acted());

    down.store(false, Ordering::SeqCst);
    tokio::time::advance(retry_after).await;
    client.refresh(&REFRESH_TOKEN.into()).await.unwrap();
    let status = client.status();
    assert_eq!(
        (status.breaker, status.last_error),
        (BreakerState::Closed, None)
    );
}

#[tokio::test(start_paused = true)]
async fn the_issuer_may_ask_for_a_pause() {
    let _held = hold_time();
    for code in [429, 503] {
        let server = issuer(move |_| Answer::Raw {
            status: code,
            headers: vec![("retry-after", "30".into())],
            body: br#"{"error":"invalid_grant"}"#.to_vec(),
        })
        .await;
        let client = client(&server);
        let error = client.refresh(&REFRESH_TOKEN.into()).await.unwrap_err();
        assert_temporary(&error, Sent::Maybe);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
        let error = client.refresh(&REFRESH_TOKEN.into()).await.unwrap_err();
        assert!(matches!(error, IssuerError::Throttled { .. }), "{error:?}");
        assert!(error.retry_after().unwrap() > Duration::from_secs(20));
        assert_eq!(server.count("/token"), 1);
    }
}

#[tokio::test]
async fn the_budget_holds_for_all_endpoints_together() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    let client = client_of(ClientOptions {
        budget: Budget {
            per_second: 0.001,
            burst: 4,
        },
        ..options(&server)
    });
    client.set_budget_share(2);
    client.refresh(&REFRESH_TOKEN.into()).await.unwrap();
    assert!(client.status().budget_left < 1.1);
    // Logins, which strangers can start, and revoking can wait, serving cannot.
    let waits = client
        .redeem_code(&"c".into(), "https://tokens.lab.example/done", &"v".into())
        .await
        .unwrap_err();
    assert!(matches!(waits, IssuerError::Throttled { .. }), "{waits:?}");
    let waits = client.poll_device(&"dc".into()).await.unwrap_err();
    assert!(matches!(waits, IssuerError::Throttled { .. }), "{waits:?}");
    let waits = client
        .revoke(&"x".into(), TokenHint::RefreshToken)
        .await
        .unwrap_err();
    assert!(matches!(waits, IssuerError::Throttled { .. }), "{waits:?}");
    client.refresh(&REFRESH_TOKEN.into()).await.unwrap();
    let error = client.refresh(&REFRESH_TOKEN.into()).await.unwrap_err();
    assert!(matches!(error, IssuerError::Throttled { .. }), "{error:?}");
    assert_eq!((server.count("/token"), server.count("/revoke")), (2, 0));
}

#[tokio::test]
async fn many_callers_cause_one_discovery() {
    let server = issuer(|_| Answer::Json(200, tokens())).await;
    let client = Arc::new(client(&server));
    let calls: Vec<_> = (0..30)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move { client.refresh(&REFRESH_TOKEN.into()).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!((server.count(DISCOVERY), server.count("/token")), (1, 30));
}

#[tokio::test(start_paused = true)]
async fn a_failed_discovery_heals_after_a_short_wait() {
    let _held = hold_time();
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        match (request.path.as_str(), asked.fetch_add(1, Ordering::SeqCst)) {
            (DISCOVERY, 0) => Answer::status(500),
            (DISCOVERY, _) => Answer::Json(200, discovery(&request.base)),
            _ => Answer::Json(200, tokens()),
        }
    })
    .await;
    let client = client(&server);
    let first = client.refresh(&REFRESH_TOKEN.into()).await.unwrap_err();
    assert_temporary(&first, Sent::No);
    let again = client.refresh(&REFRESH_TOKEN.into()).await.unwrap_err();
    assert_temporary(&again, Sent::No);
    assert_eq!(server.count(DISCOVERY), 1, "not asked twice in a row");
    assert!(client.status().last_error.unwrap().contains("500"));
    let wait = first.retry_after().unwrap();
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    tokio::time::advance(wait).await;
    client.refresh(&REFRESH_TOKEN.into()).await.unwrap();
}

#[tokio::test]
async fn a_document_of_another_issuer_is_refused_with_advice() {
    let server = Server::start(|request| {
        let mut document = discovery(&request.base);
        document["issuer"] = json!(format!("{}/", request.base));
        Answer::Json(200, document)
    })
    .await;
    let error = refresh_error(&server).await;
    assert_temporary(&error, Sent::No);
    assert!(error.to_string().contains("to the character"), "{error}");

    let server = Server::start(|_| Answer::status(404)).await;
    let error = refresh_error(&server).await;
    assert!(
        error
            .to_string()
            .contains(".well-known/openid-configuration"),
        "{error}"
    );
}

#[tokio::test]
async fn documents_may_be_moved_but_not_into_the_clear_or_in_circles() {
    let moved = |location: &'static str| Answer::Raw {
        status: 302,
        headers: vec![("location", location.into())],
        body: Vec::new(),
    };
    let server = Server::start(move |request| match request.path.as_str() {
        DISCOVERY => moved("/one"),
        "/one" => moved("two"),
        "/two" => Answer::Json(200, discovery(&request.base)),
        _ => Answer::Json(200, tokens()),
    })
    .await;
    client(&server)
        .refresh(&REFRESH_TOKEN.into())
        .await
        .unwrap();

    for location in [
        DISCOVERY,
        "http://issuer.example.org/",
        "file:///etc/passwd",
    ] {
        let server = Server::start(move |_| moved(location)).await;
        assert_temporary(&refresh_error(&server).await, Sent::No);
    }
}

#[tokio::test]
async fn a_refusal_of_the_keys_is_no_refusal_of_the_token() {
    let server = issuer(|_| Answer::Json(400, json!({"error": "invalid_request"}))).await;
    let key = SigningKey::generate(Algorithm::Es256, "1").unwrap();
    let token = key.sign(None, &json!({"sub": "anna"})).unwrap();
    let error = client(&server)
        .verify_id_token(&token, None, None, NOW)
        .await
        .unwrap_err();
    assert_temporary(&error, Sent::No);
}
