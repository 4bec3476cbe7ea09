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
    // Also where a task of its own does what was asked.
    let path = "auth/oidc-dune/oidc/auth_url";
    let answer = house.call("POST", path, None, json!({})).await;
    assert_eq!(answer.status, 500);
    assert!(answer.error().starts_with("internal error"));
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

fn keys(object: &Value) -> Vec<&str> {
    let object = object.as_object().unwrap_or_else(|| panic!("{object}"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn a_line_has_the_members_of_the_original_and_no_others() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = login["client_token"].as_str().unwrap();
    house.audit.drain();
    let path = "secret/oauth/creds/dune/alice:default";
    house
        .get(&format!("{path}?minimum_seconds=60"), token)
        .await;
    let lines = house.audit.drain();
    let (request, response) = (&lines[0], &lines[1]);
    assert_eq!(keys(request), ["auth", "request", "time", "type"]);
    assert_eq!(
        keys(response),
        ["auth", "request", "response", "time", "type"]
    );
    assert_eq!(
        keys(&response["auth"]),
        [
            "accessor",
            "client_token",
            "display_name",
            "entity_id",
            "metadata",
            "policies",
            "policy_results",
            "token_issue_time",
            "token_policies",
            "token_ttl",
            "token_type",
        ]
    );
    assert_eq!(
        keys(&response["request"]),
        [
            "client_id",
            "client_token",
            "client_token_accessor",
            "data",
            "id",
            "mount_accessor",
            "mount_class",
            "mount_point",
            "mount_type",
            "namespace",
            "operation",
            "path",
            "remote_address",
            "remote_port",
        ]
    );
    assert_eq!(
        keys(&response["response"]),
        [
            "data",
            "mount_accessor",
            "mount_class",
            "mount_point",
            "mount_type",
        ]
    );
    let (auth, asked) = (&response["auth"], &response["request"]);
    assert_eq!(asked["client_id"], login["entity_id"]);
    assert_eq!(auth["entity_id"], login["entity_id"]);
    assert_eq!(asked["client_token"], auth["client_token"]);
    assert_eq!(asked["client_token_accessor"], auth["accessor"]);
    for hashed in [&auth["accessor"], &auth["client_token"]] {
        assert!(hashed.as_str().unwrap().starts_with("hmac-sha256:"));
    }
    assert_eq!(
        asked["mount_accessor"],
        response["response"]["mount_accessor"]
    );
    assert!(
        asked["mount_accessor"]
            .as_str()
            .unwrap()
            .starts_with("oauth_")
    );
    assert_eq!(auth["token_issue_time"], "2026-07-31T12:13:24Z");
    assert_eq!(auth["token_type"], "service");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_leaves_its_lines_too() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let token = login["client_token"].as_str().unwrap();
    house.audit.drain();
    let large = format!("{{\"a\": \"{}\"}}", "x".repeat(70 << 10));
    for (path, token, body, status) in [
        ("auth/oidc-dune/oidc/auth_url", None, "{canary", 400),
        ("auth/oidc-dune/oidc/poll", None, "[1, \"canary\"]", 400),
        ("auth/ssh/login", None, large.as_str(), 413),
        ("auth/token/create", Some(token), "{canary", 400),
    ] {
        let headers: Vec<(&str, &str)> = token
            .map(|token| ("x-vault-token", token))
            .into_iter()
            .collect();
        let answer = house
            .send("POST", &format!("/v1/{path}"), &headers, body.to_owned())
            .await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
        assert!(
            !house
                .audit
                .lines
                .lock()
                .unwrap()
                .concat()
                .contains("canary")
        );
        let lines = house.audit.drain();
        let types: Vec<&Value> = lines.iter().map(|line| &line["type"]).collect();
        assert_eq!(types, ["request", "response"], "{path}");
        for line in &lines {
            assert_eq!(line["request"]["path"], path);
            assert_eq!(line["request"]["remote_address"], "192.0.2.7");
            assert_eq!(line["error"].as_str().unwrap(), answer.error());
        }
    }
}

#[tokio::test]
async fn a_token_without_an_end_is_shown_without_one() {
    let house = house().await;
    house.issuer.endless.store(true, Ordering::SeqCst);
    let login = house.log_in("alice").await;
    let token = login["client_token"].as_str().unwrap();
    house.audit.drain();
    let read = house
        .get("secret/oauth/creds/dune/alice:default", token)
        .await;
    assert_eq!(read.status, 200, "{}", read.text);
    assert_eq!(keys(&read.json["data"]), ["access_token", "server", "type"]);
    let lines = house.audit.drain();
    assert_eq!(
        keys(&lines[1]["response"]["data"]),
        ["access_token", "server", "type"]
    );
}
