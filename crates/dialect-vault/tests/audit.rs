//! The audit log: two lines per request, the first before anything happens, and never a secret.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::house;
use gridkeep_dialect_vault::{
    AuditChain, AuditError, AuditFailure, AuditSink, FileAudit, FileAuditOptions,
    audit::keep_anchored,
};
use serde_json::{Value, json};

#[tokio::test]
async fn every_request_leaves_two_lines_without_secrets() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = login["client_token"].as_str().unwrap();
    let handle = login["metadata"]["oauth2_refresh_token"].as_str().unwrap();
    let creds = "secret/oauth/creds/dune/alice:default";
    house
        .get(&format!("{creds}?minimum_seconds=60"), token)
        .await;
    house
        .call(
            "POST",
            creds,
            Some(token),
            json!({"server": "dune", "refresh_token": handle}),
        )
        .await;
    house
        .call(
            "POST",
            creds,
            Some(token),
            json!({"server": "dune", "refresh_token": "canary-real-refresh"}),
        )
        .await;
    house
        .get("secret/oauth/creds/dune/bob:default", token)
        .await;
    house.get(creds, "hvs.canary-guess").await;
    house
        .call(
            "POST",
            "auth/token/create",
            Some(token),
            json!({"meta": {"note": "canary-meta"}}),
        )
        .await;

    // Secrets at wrong places: in the path, and as the name of a parameter.
    let operator = house.operator().await;
    house
        .get(&format!("auth/token/lookup/{token}"), &operator)
        .await;
    house
        .send(
            "POST",
            "/v1/auth/token/renew",
            &[
                ("x-vault-token", operator.as_str()),
                ("content-type", "application/x-www-form-urlencoded"),
            ],
            "canary-Refresh-without-name",
        )
        .await;

    let raw = house.audit.lines.lock().unwrap().clone();
    for line in &raw {
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
        for secret in [
            token,
            handle,
            "canary-access",
            "canary-refresh",
            "canary-real-refresh",
            "canary-guess",
            "canary-Refresh-without-name",
        ] {
            assert!(!line.contains(secret), "{secret} in {line}");
        }
    }
    let lines = house.audit.drain();
    for pair in lines.chunks(2) {
        assert_eq!(
            (&pair[0]["type"], &pair[1]["type"]),
            (&json!("request"), &json!("response"))
        );
        assert_eq!(pair[0]["request"], pair[1]["request"]);
        assert!(pair[0]["time"].as_str().unwrap().ends_with('Z'));
    }
    let by_path = |path: &str, kind: &str| {
        lines
            .iter()
            .find(|line| line["request"]["path"] == path && line["type"] == kind)
            .unwrap()
            .clone()
    };

    let poll = by_path("auth/oidc-dune/oidc/poll", "response");
    assert_eq!(poll["auth"]["display_name"], "oidc-dune-alice");
    assert_eq!(
        poll["auth"]["metadata"],
        json!({"credkey": "alice", "role": "default"}),
        "no refresh token, no handle"
    );
    assert_eq!(poll["response"]["auth"], poll["auth"]);
    assert_eq!(poll["request"]["mount_point"], "auth/oidc-dune/");

    let read = by_path(creds, "response");
    assert_eq!(read["auth"]["policy_results"]["allowed"], true);
    assert_eq!(
        read["auth"]["policy_results"]["granting_policies"][0],
        json!({"name": "oidc-dune_default", "namespace_id": "root", "type": "acl"})
    );
    assert_eq!(read["auth"]["token_ttl"], 2_419_200);
    let request = &read["request"];
    assert_eq!(
        (
            &request["operation"],
            &request["mount_type"],
            &request["mount_class"],
            &request["namespace"]
        ),
        (
            &json!("read"),
            &json!("oauth"),
            &json!("secret"),
            &json!({"id": "root"})
        )
    );
    assert_eq!(
        (&request["remote_address"], &request["remote_port"]),
        (&json!("192.0.2.7"), &json!(51234))
    );
    assert!(
        request["data"]["minimum_seconds"]
            .as_str()
            .unwrap()
            .starts_with("hmac-sha256:")
    );
    assert!(
        read["response"]["data"]["access_token"]
            .as_str()
            .unwrap()
            .starts_with("hmac-sha256:")
    );
    assert!(
        read["response"]["data"]["expire_time"]
            .as_str()
            .unwrap()
            .starts_with("2026-")
    );
    assert_eq!(
        request["client_token"], poll["response"]["auth"]["client_token"],
        "the same secret has the same hash"
    );

    let refused = by_path("secret/oauth/creds/dune/bob:default", "request");
    assert_eq!(refused["auth"]["policy_results"], json!({"allowed": false}));
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("permission denied")
    );
    let guess = lines
        .iter()
        .find(|line| line["error"] == "permission denied")
        .unwrap();
    assert!(guess["auth"].is_null() && guess["request"]["client_token"].is_string());
}

#[tokio::test]
async fn nothing_happens_without_its_line() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = login["client_token"].as_str().unwrap();
    let creds = "secret/oauth/creds/dune/alice:default";
    house.audit.full.store(true, Ordering::SeqCst);
    for (method, path, token) in [
        ("DELETE", creds, Some(token)),
        ("GET", creds, Some(token)),
        ("GET", creds, None),
        ("POST", "auth/token/revoke-self", Some(token)),
        ("POST", "auth/oidc-dune/oidc/auth_url", None),
    ] {
        let answer = house.call(method, path, token, Value::Null).await;
        assert_eq!(answer.status, 503, "{method} {path}: {}", answer.text);
        assert!(
            answer.error().contains("audit") && !answer.text.contains("permission denied"),
            "{}",
            answer.text
        );
        assert_eq!(answer.headers["retry-after"], "5");
    }
    assert_eq!(
        house
            .call("GET", "sys/health", None, Value::Null)
            .await
            .status,
        200,
        "health is not audited"
    );
    house.audit.full.store(false, Ordering::SeqCst);
    assert_eq!(
        house.get(creds, token).await.status,
        200,
        "neither deleted nor revoked"
    );
}

#[tokio::test]
async fn taking_power_away_does_not_wait_for_a_full_disk() {
    let mut house = house().await;
    let login = house.log_in("alice").await;
    let token = login["client_token"].as_str().unwrap().to_owned();
    let other = house.log_in("bob").await;
    let other = other["client_token"].as_str().unwrap().to_owned();
    house.on_audit_failure(AuditFailure::Revoke);
    house.audit.full.store(true, Ordering::SeqCst);
    let creds = "secret/oauth/creds/dune/alice:default";
    let refresh = json!({"server": "dune", "refresh_token": "canary-real-refresh"});
    for (method, path, token, body, status) in [
        ("GET", creds, &token, Value::Null, 503),
        ("POST", "auth/token/create", &token, json!({}), 503),
        ("POST", creds, &token, refresh, 204),
        ("DELETE", creds, &token, Value::Null, 204),
        ("DELETE", creds, &other, Value::Null, 503),
        ("POST", "auth/token/revoke-self", &token, Value::Null, 204),
        (
            "POST",
            "auth/oidc-dune/oidc/auth_url",
            &other,
            json!({}),
            503,
        ),
    ] {
        let answer = house.call(method, path, Some(token), body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text);
    }
    house.audit.full.store(false, Ordering::SeqCst);
    assert_eq!(house.get(creds, &token).await.status, 403, "revoked");
    assert_eq!(
        house.get("auth/token/lookup-self", &other).await.status,
        200
    );

    house.on_audit_failure(AuditFailure::Serve);
    house.audit.full.store(true, Ordering::SeqCst);
    assert_eq!(
        house.get("auth/token/lookup-self", &other).await.status,
        200
    );
    let refused = house.get(creds, &other).await;
    assert_eq!(
        (refused.status, refused.text.contains("audit")),
        (403, false)
    );
}

/// A sink with a defect.
struct Panicking;

#[async_trait::async_trait]
impl AuditSink for Panicking {
    async fn write(&self, _: Vec<u8>) -> Result<(), AuditError> {
        panic!("a defect")
    }
    fn queue(&self, _: Vec<u8>) -> Result<(), AuditError> {
        panic!("a defect")
    }
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let mut house = house().await;
    house.audit_with(Arc::new(Panicking));
    let answer = house
        .get("secret/oauth/creds/dune/alice:default", "hvs.guess")
        .await;
    assert_eq!(answer.status, 500);
    assert!(
        answer.error().starts_with("internal error"),
        "{}",
        answer.text
    );
    assert!(!answer.text.contains("permission denied"));
    assert_eq!(
        house
            .call("GET", "sys/health", None, Value::Null)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn the_file_has_the_lines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.log");
    let mut house = house().await;
    let evidence = house.keeper.audit_evidence().await.unwrap();
    let chain = AuditChain::new("gk", &evidence, Arc::clone(house.keeper.clock()));
    let file = Arc::new(FileAudit::open(FileAuditOptions::new(&path), chain).unwrap());
    house.audit_with(Arc::clone(&file) as Arc<dyn AuditSink>);
    let login = house.log_in("alice").await;
    let token = login["client_token"].as_str().unwrap();
    let creds = "secret/oauth/creds/dune/alice:default";
    assert_eq!(house.get(creds, token).await.status, 200);
    file.close();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let types: Vec<&str> = lines
        .iter()
        .skip(1)
        .map(|line| line["type"].as_str().unwrap())
        .collect();
    assert_eq!(lines[0]["request"]["path"], "operator/audit");
    assert_eq!(types, ["request", "response"].repeat(3));
    assert_eq!(lines[6]["request"]["path"], creds);
    assert_eq!(lines[6]["chain"]["seq"], 7);
    let closed = house.get(creds, token).await;
    assert_eq!(closed.status, 503, "{}", closed.text);
}

#[tokio::test]
async fn the_end_of_the_log_is_noted_in_the_store_without_being_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let mut house = house().await;
    let evidence = house.keeper.audit_evidence().await.unwrap();
    let chain = AuditChain::new("gk", &evidence, Arc::clone(house.keeper.clock()));
    let options = FileAuditOptions::new(scratch.path().join("audit.log"));
    let file = Arc::new(FileAudit::open(options, chain).unwrap());
    house.audit_with(Arc::clone(&file) as Arc<dyn AuditSink>);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let keeping = tokio::spawn(keep_anchored(file.clone(), house.keeper.clone(), stopped));
    house.log_in("alice").await;
    let noted = async {
        loop {
            let evidence = house.keeper.audit_evidence().await.unwrap();
            // Two requests make four lines after the one that begins the file.
            if evidence.anchors.iter().any(|anchor| anchor.seq >= 5) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noted)
        .await
        .expect("nobody notes the end");
    stop.send_replace(true);
    keeping.await.unwrap();
    file.close();
}
