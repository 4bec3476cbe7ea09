//! Misbehaviour on order, and whether the accounts say truly what arrived.

use std::time::{Duration, Instant};

use gridkeep_testbed::issuer::{
    Counters, Delivery, Ending, Endpoint, Fault, FaultKind, Options, Rotation, Tally,
};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::bench::{Bench, text};

const ALL: &str = "openid offline_access storage.read:/";

fn rotating() -> Options {
    Options {
        rotation: Some(Rotation::Immediate),
        ..Options::default()
    }
}

#[tokio::test]
async fn answers_that_arrive_are_counted_as_delivered() {
    let bench = Bench::new(rotating()).await;
    let mut token = text(&bench.log_in(ALL).await, "refresh_token").to_owned();
    for _ in 0..5 {
        token = text(&bench.refresh(&token).await.1, "refresh_token").to_owned();
    }
    let tally = bench.issuer.counters().refreshes();
    assert_eq!(
        (
            tally.received,
            tally.issued,
            tally.delivered,
            tally.undelivered,
            tally.refused
        ),
        (5, 5, 5, 0, 0)
    );
    assert!(
        tally.confirmed >= 4,
        "later requests on the same connection confirm earlier answers: {tally:?}"
    );
    let grant = &bench.issuer.counters().grants[0];
    let presented: Vec<u64> = grant.refresh_tokens.iter().map(|t| t.presented).collect();
    assert_eq!(presented, [1, 1, 1, 1, 1, 0]);
}

#[tokio::test]
async fn an_answer_lost_after_acting_is_counted_and_costs_the_token() {
    let bench = Bench::new(rotating()).await;
    let body = bench.log_in(ALL).await;
    let token = text(&body, "refresh_token");
    bench.issuer.set_fault(
        Fault::new(Endpoint::Token, FaultKind::ActThenDrop)
            .times(1)
            .grant_type("refresh_token"),
    );
    let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
    assert!(bench.request(&fields).send().await.is_err());
    let (status, refused) = bench.refresh(token).await;
    assert_eq!(
        (status, text(&refused, "error")),
        (400, "invalid_grant"),
        "it was acted on"
    );
    let counters = bench.issuer.counters();
    let tally = counters.refreshes();
    assert_eq!(
        (
            tally.received,
            tally.issued,
            tally.delivered,
            tally.undelivered,
            tally.refused
        ),
        (2, 1, 0, 1, 1)
    );
    let lost = counters.grants[0].refresh_tokens.last().unwrap();
    assert_eq!(
        tally.undelivered_refresh_tokens,
        std::slice::from_ref(&lost.id)
    );
    assert_eq!((lost.presented, lost.usable), (0, true));
    assert!(
        !serde_json::to_string(&counters).unwrap().contains(token),
        "no token in the accounts"
    );
}

#[tokio::test]
async fn half_an_answer_is_no_answer() {
    let bench = Bench::new(rotating()).await;
    let token = text(&bench.log_in(ALL).await, "refresh_token").to_owned();
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Token, FaultKind::ActThenCut).times(1));
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.as_str()),
    ];
    let outcome = match bench.request(&fields).send().await {
        Ok(answer) => answer.bytes().await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(outcome.is_err());
    assert_eq!(bench.issuer.counters().refreshes().undelivered, 1);
}

#[tokio::test]
async fn faults_that_do_not_act_leave_the_token_usable() {
    let bench = Bench::new(rotating()).await;
    let mut token = text(&bench.log_in(ALL).await, "refresh_token").to_owned();
    let status = FaultKind::Status {
        status: 503,
        body: "later".to_owned(),
        content_type: None,
        retry_after: Some(7),
    };
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Token, status).times(1));
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Token, FaultKind::Garbage).times(1));
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Token, FaultKind::Drop).times(1));
    let refuse = FaultKind::Refuse {
        error: "temporarily_unavailable".to_owned(),
        description: "busy".to_owned(),
        status: Some(429),
    };
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Token, refuse).times(1));
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.as_str()),
    ];
    let answer = bench.request(&fields).send().await.unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["retry-after"].to_str().unwrap()
        ),
        (503, "7")
    );
    let answer = bench.request(&fields).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.json::<serde_json::Value>().await.is_err());
    assert!(bench.request(&fields).send().await.is_err());
    assert_eq!(
        bench.token(&fields).await,
        (
            429,
            json!({"error": "temporarily_unavailable", "error_description": "busy"})
        )
    );
    let (status, body) = bench.refresh(&token).await;
    assert_eq!(status, 200);
    token = text(&body, "refresh_token").to_owned();
    let counters = bench.issuer.counters();
    assert_eq!(
        (
            counters.refreshes().received,
            counters.refreshes().issued,
            counters.faults
        ),
        (5, 1, 4)
    );
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Token, FaultKind::Drop));
    bench.issuer.clear_faults();
    assert_eq!(bench.refresh(&token).await.0, 200);
}

/// A refresh that has no answer for a while after it has come as far as `arrived` says, and whose client leaves then.
async fn left_in_silence(bench: &Bench, token: &str, arrived: impl Fn(&Tally) -> bool) {
    let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
    let mut sending = std::pin::pin!(bench.request(&fields).send());
    tokio::select! {
        answer = &mut sending => panic!("{answer:?}"),
        () = until(bench, |counters| arrived(&counters.refreshes())) => {}
    }
    let silence = tokio::time::timeout(Duration::from_millis(80), sending).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn slow_and_silent_issuers() {
    let bench = Bench::new(rotating()).await;
    let token = text(&bench.log_in(ALL).await, "refresh_token").to_owned();
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token.as_str()),
    ];
    // The wait is real time at the issuer; only its lower bound is looked at.
    bench.issuer.set_fault(
        Fault::new(Endpoint::Token, FaultKind::Delay)
            .times(1)
            .delay_ms(60),
    );
    let begun = Instant::now();
    let (_, body) = bench.token(&fields).await;
    assert!(begun.elapsed() >= Duration::from_millis(60));
    let token = text(&body, "refresh_token").to_owned();

    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Token, FaultKind::Hang).times(1));
    left_in_silence(&bench, &token, |refreshes| refreshes.received == 2).await;
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Token, FaultKind::ActThenHang).times(1));
    left_in_silence(&bench, &token, |refreshes| refreshes.issued == 2).await;
    assert_eq!(
        bench.refresh(&token).await.0,
        400,
        "the second silence came after acting"
    );
    assert_eq!(bench.issuer.counters().refreshes().undelivered, 1);
}

#[tokio::test]
async fn discovery_and_keys_can_fail_too() {
    let bench = Bench::new(Options::default()).await;
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Discovery, FaultKind::Garbage).times(1));
    bench
        .issuer
        .set_fault(Fault::new(Endpoint::Jwks, FaultKind::Drop).times(1));
    let url = format!("{}/.well-known/openid-configuration", bench.issuer.url());
    assert!(
        bench
            .http
            .get(&url)
            .send()
            .await
            .unwrap()
            .json::<serde_json::Value>()
            .await
            .is_err()
    );
    assert!(
        bench
            .http
            .get(bench.discovery["jwks_uri"].as_str().unwrap())
            .send()
            .await
            .is_err()
    );
    assert_eq!(
        bench
            .http
            .get(&url)
            .send()
            .await
            .unwrap()
            .json::<serde_json::Value>()
            .await
            .unwrap(),
        bench.discovery
    );
    assert_eq!(bench.issuer.counters().endpoints["discovery"], 3);
}

/// Real time passes at the issuer: looks until the accounts say what is awaited.
async fn until(bench: &Bench, awaited: impl Fn(&Counters) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !awaited(&bench.issuer.counters()) {
        assert!(Instant::now() < deadline, "{:?}", bench.issuer.counters());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends a refresh request on a connection of its own and reads nothing.
async fn send_only(
    bench: &Bench,
    token: &str,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let config = gridkeep_testbed::issuer::client_config(&[bench.issuer.ca_pem()]).unwrap();
    let address = bench
        .issuer
        .base_url()
        .trim_start_matches("https://")
        .to_owned();
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector
        .connect("127.0.0.1".try_into().unwrap(), stream)
        .await
        .unwrap();
    let body = format!(
        "grant_type=refresh_token&client_id=gridkeep&client_secret=gridkeep-secret&refresh_token={token}"
    );
    let request = format!(
        "POST /token HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// A client that goes before the answer: the issuer acts all the same, and knows that nobody has the answer.
#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let bench = Bench::new(rotating()).await;
    let token = text(&bench.log_in(ALL).await, "refresh_token").to_owned();
    bench.issuer.set_fault(Fault {
        delay_answer_ms: 100,
        ..Fault::new(Endpoint::Token, FaultKind::Delay).times(1)
    });
    let stream = send_only(&bench, &token).await;
    until(&bench, |counters| counters.refreshes().received == 1).await;
    drop(stream);
    until(&bench, |counters| {
        counters
            .answers
            .iter()
            .any(|a| a.delivery == Delivery::Lost)
    })
    .await;
    assert_eq!(bench.issuer.counters().refreshes().undelivered, 1);
    assert_eq!(bench.refresh(&token).await.0, 400, "the issuer acted");
}

/// A client that goes with the answer in its kernel, unread, as when it is killed at that moment.
#[tokio::test]
async fn an_answer_that_nobody_read_is_not_delivered() {
    let bench = Bench::new(rotating()).await;
    let token = text(&bench.log_in(ALL).await, "refresh_token").to_owned();
    let stream = send_only(&bench, &token).await;
    until(&bench, |counters| counters.refreshes().delivered == 1).await;
    drop(stream);
    until(&bench, |counters| counters.refreshes().undelivered == 1).await;
    let counters = bench.issuer.counters();
    assert_eq!(counters.refreshes().delivered, 0);
    let answer = counters.answers.last().unwrap();
    assert_eq!(
        (answer.delivery, answer.ending),
        (Delivery::Lost, Ending::Reset)
    );
    assert!(answer.ended_at_ms >= answer.written_at_ms);
}

/// Many clients at once, some answers lost: every answer made is accounted for exactly once.
#[tokio::test]
async fn accounts_balance_under_load() {
    let bench = std::sync::Arc::new(Bench::new(Options::default()).await);
    let mut tokens = Vec::new();
    for _ in 0..16 {
        tokens.push(text(&bench.log_in(ALL).await, "refresh_token").to_owned());
    }
    let mut fault = Fault::new(Endpoint::Token, FaultKind::ActThenDrop)
        .times(20)
        .grant_type("refresh_token");
    fault.after = 30;
    bench.issuer.set_fault(fault);
    let mut clients = tokio::task::JoinSet::new();
    for token in tokens {
        let bench = std::sync::Arc::clone(&bench);
        clients.spawn(async move {
            let mut failed = 0;
            for _ in 0..10 {
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token.as_str()),
                ];
                let arrived = match bench.request(&fields).send().await {
                    Ok(answer) => answer.bytes().await.is_ok(),
                    Err(_) => false,
                };
                failed += u64::from(!arrived);
            }
            failed
        });
    }
    let failed: u64 = clients.join_all().await.into_iter().sum();
    let tally = bench.issuer.counters().refreshes();
    // An HTTP client may repeat a request on a new connection when a pooled one was closed under it: never less than asked for.
    assert!(tally.received >= 160, "{tally:?}");
    assert_eq!(
        (tally.undelivered, tally.issued),
        (20, tally.delivered + 20)
    );
    assert!(failed <= 20, "{failed}");
    let grants = bench.issuer.counters().grants;
    assert_eq!(
        grants.iter().map(|g| g.refreshes.issued).sum::<u64>(),
        tally.issued
    );
}
