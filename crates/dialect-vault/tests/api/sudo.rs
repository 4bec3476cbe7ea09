//! The paths at which the policy capability `sudo` is asked for besides the ordinary one: each line of section 5.9 of the Vault API
//! specification.

use serde_json::json;

use super::common::{House, house};
use super::{DENIED_BY_POLICY, text};

/// `sys/rekey/` besides, which nobody may use in the original.
const GUARDED: [(&str, &str); 28] = [
    ("POST", "sys/auth/x"),
    ("DELETE", "sys/auth/oidc-dune"),
    ("GET", "sys/auth/oidc-dune"),
    ("POST", "sys/auth/oidc-dune/tune"),
    ("GET", "sys/audit"),
    ("PUT", "sys/audit/file"),
    ("DELETE", "sys/audit/file"),
    ("POST", "sys/remount"),
    ("GET", "sys/raw/x"),
    ("POST", "sys/rotate"),
    ("POST", "sys/rotate/keyring"),
    ("GET", "sys/config/cors"),
    ("GET", "sys/config/auditing/request-headers"),
    ("GET", "sys/config/ui/headers/x"),
    ("PUT", "sys/plugins/catalog/auth/x"),
    ("PUT", "sys/revoke-prefix/auth/x"),
    ("PUT", "sys/revoke-force/auth/x"),
    ("PUT", "sys/leases/revoke-prefix/auth/x"),
    ("PUT", "sys/leases/revoke-force/auth/x"),
    ("LIST", "sys/leases/lookup/auth"),
    ("LIST", "sys/leases/lookup"),
    ("GET", "sys/leases"),
    ("GET", "sys/internal/inspect/router/root"),
    ("POST", "sys/step-down"),
    ("LIST", "auth/token/accessors"),
    ("POST", "auth/token/revoke-orphan"),
    ("PUT", "sys/rekey/init"),
    ("POST", "sys/seal"),
];

async fn holder(house: &House, capabilities: &[&str]) -> String {
    let operator = house.operator().await;
    let policy = json!({"path": {"*": {"capabilities": capabilities}}}).to_string();
    let name = format!("of{}", capabilities.len());
    let written = house
        .call(
            "PUT",
            &format!("sys/policies/acl/{name}"),
            Some(&operator),
            json!({"policy": policy}),
        )
        .await;
    assert_eq!(written.status, 204, "{}", written.text);
    let made = house
        .call(
            "POST",
            "auth/token/create-orphan",
            Some(&operator),
            json!({"policies": [name], "no_default_policy": true}),
        )
        .await;
    text(&made.json, "/auth/client_token").to_owned()
}

#[tokio::test]
async fn without_sudo_all_other_capabilities_are_not_enough() {
    let house = house().await;
    let all = ["create", "read", "update", "delete", "list"];
    let without = holder(&house, &all).await;
    let with = [all.as_slice(), &["sudo"]].concat();
    let with = holder(&house, &with).await;
    // With it the last of them seals the server.
    for (method, path) in GUARDED {
        let refused = house.call(method, path, Some(&without), json!({})).await;
        assert_eq!(
            (refused.status, refused.error()),
            (403, DENIED_BY_POLICY),
            "{method} {path}"
        );
        let served = house.call(method, path, Some(&with), json!({})).await;
        assert_ne!(served.status, 403, "{method} {path}: {}", served.text);
    }
    let sealed = house.get("sys/mounts", &with).await;
    assert_eq!((sealed.status, sealed.error()), (503, "Vault is sealed"));
}

#[tokio::test]
async fn beside_them_it_is_not_asked_for() {
    let house = house().await;
    let without = holder(&house, &["create", "read", "update", "delete", "list"]).await;
    for (method, path) in [
        ("GET", "sys/auth"),
        ("GET", "sys/mounts"),
        ("GET", "sys/key-status"),
        ("GET", "sys/ha-status"),
        ("GET", "sys/storage/raft/configuration"),
        ("LIST", "sys/policies/acl"),
        ("POST", "auth/token/create"),
        ("POST", "sys/leases/lookup"),
    ] {
        let served = house.call(method, path, Some(&without), json!({})).await;
        assert_ne!(served.status, 403, "{method} {path}: {}", served.text);
    }
}
