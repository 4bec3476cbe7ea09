//! What operators ask about keys and nodes, and what they would change about mounts and audit devices.

use std::time::Duration;

use serde_json::{Value, json};

use super::common::{NOW, house};
use super::{DENIED, UNSUPPORTED, text};

#[tokio::test]
async fn the_key_in_use_has_a_time_and_a_count() {
    let house = house().await;
    let operator = house.operator().await;
    let status = house.get("sys/key-status", &operator).await;
    assert_eq!(status.json["data"]["term"], 1, "{}", status.text);
    assert_eq!(status.json["data"]["install_time"], "2026-07-31T12:13:20Z");
    assert_eq!(status.json["data"]["encryptions"], 0);
    assert_eq!(
        status.json["install_time"],
        status.json["data"]["install_time"]
    );
    house.clock.pass(Duration::from_secs(100));
    let rotated = house
        .call("POST", "sys/rotate", Some(&operator), Value::Null)
        .await;
    assert_eq!(rotated.status, 204, "{}", rotated.text);
    house.clock.pass(Duration::from_secs(100));
    let status = house.get("sys/key-status", &operator).await;
    assert_eq!(status.json["data"]["term"], 2);
    assert_eq!(status.json["data"]["install_time"], "2026-07-31T12:15:00Z");
}

#[tokio::test]
async fn the_nodes_stand_at_both_places() {
    let house = house().await;
    let operator = house.operator().await;
    let told = house.get("sys/ha-status", &operator).await;
    assert_eq!(told.status, 200);
    assert!(told.json["data"]["nodes"].is_array(), "{}", told.text);
    assert_eq!(told.json["nodes"], told.json["data"]["nodes"]);
}

#[tokio::test]
async fn a_single_server_has_no_raft_and_says_what_to_do_instead() {
    let house = house().await;
    let operator = house.operator().await;
    let path = "sys/storage/raft/configuration";
    let none = house.get(path, &operator).await;
    assert_eq!(
        (none.status, none.error()),
        (400, "raft storage is not in use")
    );
    let without = house.call("GET", path, None, Value::Null).await;
    assert_eq!((without.status, without.error()), (403, DENIED));
    for (method, path, body, told) in [
        (
            "POST",
            "sys/storage/raft/join",
            json!({"leader_api_addr": "https://vault.example.org:8200"}),
            "gridkeep cluster status",
        ),
        (
            "POST",
            "sys/storage/raft/remove-peer",
            json!({"server_id": "n2"}),
            "systemctl stop gridkeep",
        ),
        (
            "GET",
            "sys/storage/raft/snapshot",
            Value::Null,
            "gridkeep.data",
        ),
        (
            "POST",
            "sys/storage/raft/snapshot",
            json!({}),
            "gridkeep.data",
        ),
        (
            "POST",
            "sys/storage/raft/snapshot-force",
            json!({}),
            "gridkeep.data",
        ),
    ] {
        let refused = house.call(method, path, Some(&operator), body).await;
        assert_eq!(refused.status, 405, "{method} {path}: {}", refused.text);
        assert!(refused.error().contains(told), "{}", refused.text);
    }
    let open = house
        .call("POST", "sys/storage/raft/join", None, json!({}))
        .await;
    assert_eq!(open.status, 405, "a node that would join has no token");
    let wrong = house
        .call("DELETE", path, Some(&operator), Value::Null)
        .await;
    assert_eq!((wrong.status, wrong.error()), (405, UNSUPPORTED));
}

#[tokio::test]
async fn stepping_down_changes_nothing() {
    let house = house().await;
    let operator = house.operator().await;
    for method in ["PUT", "POST"] {
        let done = house
            .call(method, "sys/step-down", Some(&operator), Value::Null)
            .await;
        assert_eq!(done.status, 204, "{}", done.text);
    }
    assert_eq!(house.get("sys/step-down", &operator).await.status, 405);
    let health = house.call("GET", "sys/health", None, Value::Null).await;
    assert_eq!(
        (health.status, &health.json["server_time_utc"]),
        (200, &json!(NOW))
    );
}

#[tokio::test]
async fn audit_devices_and_mounts_are_refused_alike_with_the_key_to_change() {
    let house = house().await;
    let operator = house.operator().await;
    for (method, path, told) in [
        ("PUT", "sys/audit/file", "cluster.auditlog"),
        ("POST", "sys/audit/other", "cluster.auditlog"),
        ("DELETE", "sys/audit/file", "cluster.auditlog"),
        ("POST", "sys/remount", "configuration files"),
        ("PUT", "sys/remount", "configuration files"),
    ] {
        let refused = house
            .call(
                method,
                path,
                Some(&operator),
                json!({"type": "file", "from": "auth/ssh", "to": "auth/x"}),
            )
            .await;
        assert_eq!(refused.status, 405, "{method} {path}: {}", refused.text);
        assert!(refused.error().contains(told), "{}", refused.text);
    }
    let enabled = house
        .call("PUT", "sys/audit/file", Some(&operator), json!({}))
        .await;
    assert!(
        text(&enabled.json, "/errors/0").starts_with("cannot enable audit device via API"),
        "as in the original"
    );
}
