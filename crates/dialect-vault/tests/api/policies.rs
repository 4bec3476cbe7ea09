//! Policies: what a merge leaves as it was, and which requests limits on parameters bind.

use std::time::Duration;

use serde_json::{Value, json};

use super::common::{Answer, House, house};
use super::{DENIED_BY_POLICY, text};

const PATH: &str = "sys/policies/acl/short";
const RULES: &str = "path \"sys/mounts\" { capabilities = [\"read\"] }";

async fn patch(house: &House, token: &str, path: &str, body: Value) -> Answer {
    let headers = [
        ("x-vault-token", token),
        ("content-type", "application/merge-patch+json"),
    ];
    house
        .send("PATCH", &format!("/v1/{path}"), &headers, body.to_string())
        .await
}

async fn read(house: &House, token: &str) -> Value {
    house.get(PATH, token).await.json["data"].clone()
}

#[tokio::test]
async fn a_merge_changes_what_it_names_and_nothing_else() {
    let house = house().await;
    let operator = house.operator().await;
    let body = json!({"policy": RULES, "allow_wildcards_in_identity_templates": true});
    let written = house.call("PUT", PATH, Some(&operator), body).await;
    assert_eq!(written.status, 204, "{}", written.text);
    let before = read(&house, &operator).await;
    assert_eq!(before["modified"], "2026-07-31T12:13:20Z");
    assert!(before.get("expiration").is_none());

    house.clock.pass(Duration::from_secs(100));
    let ended = patch(&house, &operator, PATH, json!({"ttl": "1h"})).await;
    assert_eq!(ended.status, 204, "{}", ended.text);
    let mut expected = before.clone();
    expected["version"] = json!(2);
    expected["modified"] = json!("2026-07-31T12:15:00Z");
    expected["expiration"] = json!("2026-07-31T13:15:00Z");
    assert_eq!(read(&house, &operator).await, expected);

    let flag = json!({"allow_slashes_in_identity_templates": true});
    assert_eq!(patch(&house, &operator, PATH, flag).await.status, 204);
    expected["version"] = json!(3);
    expected["allow_slashes_in_identity_templates"] = json!(true);
    assert_eq!(read(&house, &operator).await, expected);

    let absent = patch(
        &house,
        &operator,
        "sys/policies/acl/nosuch",
        json!({"ttl": "1h"}),
    )
    .await;
    assert_eq!(absent.status, 404);
    assert_eq!(absent.json, json!({"errors": []}));
    for (name, status) in [("tokenops", 405), ("root", 400)] {
        let path = format!("sys/policies/acl/{name}");
        let refused = patch(&house, &operator, &path, json!({"policy": RULES})).await;
        assert_eq!(refused.status, status, "{name}: {}", refused.text);
    }
    let plain = house
        .call("PATCH", PATH, Some(&operator), json!({"ttl": "1h"}))
        .await;
    assert_eq!(plain.status, 405, "without the content type of a merge");
}

#[tokio::test]
async fn merges_at_the_same_time_all_count() {
    let house = house().await;
    let operator = house.operator().await;
    let body = json!({"policy": RULES});
    house.call("PUT", PATH, Some(&operator), body).await;
    let (one, two, three) = tokio::join!(
        patch(&house, &operator, PATH, json!({"ttl": "1h"})),
        patch(
            &house,
            &operator,
            PATH,
            json!({"allow_slashes_in_identity_templates": true})
        ),
        patch(
            &house,
            &operator,
            PATH,
            json!({"allow_wildcards_in_identity_templates": true})
        ),
    );
    for answer in [one, two, three] {
        assert_eq!(answer.status, 204, "{}", answer.text);
    }
    let read = read(&house, &operator).await;
    assert_eq!(read["version"], 4, "{read}");
    assert!(read["expiration"].is_string(), "{read}");
    assert_eq!(read["allow_slashes_in_identity_templates"], true);
    assert_eq!(read["allow_wildcards_in_identity_templates"], true);
}

#[tokio::test]
async fn a_merge_names_the_version_where_that_is_required() {
    let house = house().await;
    let operator = house.operator().await;
    let body = json!({"policy": RULES, "cas_required": true});
    house.call("PUT", PATH, Some(&operator), body).await;
    for (cas, status) in [(None, 400), (Some(7), 400), (Some(1), 204)] {
        let merged = patch(&house, &operator, PATH, json!({"ttl": "1h", "cas": cas})).await;
        assert_eq!(merged.status, status, "{cas:?}: {}", merged.text);
    }
}

#[tokio::test]
async fn limits_on_parameters_bind_reading_and_writing_only() {
    let house = house().await;
    let operator = house.operator().await;
    let rules = r#"
        path "sys/policies/acl" {
          capabilities = ["list"]
          allowed_parameters = { "a" = [] }
        }
        path "sys/policies/acl/*" {
          capabilities = ["read", "update", "delete"]
          allowed_parameters = { "policy" = [] }
          required_parameters = ["policy"]
        }"#;
    let written = house
        .call(
            "PUT",
            "sys/policies/acl/bound",
            Some(&operator),
            json!({"policy": rules}),
        )
        .await;
    assert_eq!(written.status, 204, "{}", written.text);
    let made = house
        .call(
            "POST",
            "auth/token/create-orphan",
            Some(&operator),
            json!({"policies": ["bound"], "no_default_policy": true}),
        )
        .await;
    let holder = text(&made.json, "/auth/client_token");
    let write = |body: Value| house.call("PUT", PATH, Some(holder), body);
    assert_eq!(write(json!({"policy": RULES})).await.status, 204);
    assert_eq!(
        write(json!({"policy": RULES, "ttl": "1h"})).await.error(),
        DENIED_BY_POLICY
    );
    for query in ["", "?policy=x&other=1"] {
        let refused = house.get(&format!("{PATH}{query}"), holder).await;
        assert_eq!(refused.error(), DENIED_BY_POLICY, "{query}");
    }
    assert_eq!(
        house.get(&format!("{PATH}?policy=x"), holder).await.status,
        200
    );
    let listed = house
        .call("LIST", "sys/policies/acl?b=1", Some(holder), Value::Null)
        .await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    for query in ["", "?other=1"] {
        let path = format!("{PATH}{query}");
        let deleted = house.call("DELETE", &path, Some(holder), Value::Null).await;
        assert!(
            matches!(deleted.status, 200 | 204),
            "{query}: {}",
            deleted.text
        );
    }
}
