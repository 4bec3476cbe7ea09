//! Attempts to get around the rules by names that are taken for others: spelled differently, joined into one, or of one's relatives.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use gridkeep_keeper::SshSetup;
use serde_json::{Value, json};

use super::common::{Answer, House, house, setup};
use super::{DENIED_BY_POLICY, text};

async fn post(house: &House, token: &str, path: &str, body: Value) -> Answer {
    house.call("POST", path, Some(token), body).await
}

async fn token_of(house: &House, person: &str) -> String {
    text(&house.log_in(person).await, "/client_token").to_owned()
}

fn exchanges(house: &House) -> usize {
    house.issuer.exchanges.lock().unwrap().len()
}

/// A token with a policy of this text.
async fn with_policy(house: &House, name: &str, rules: &str) -> String {
    let operator = house.operator().await;
    let path = format!("sys/policies/acl/{name}");
    let written = post(house, &operator, &path, json!({"policy": rules})).await;
    assert_eq!(written.status, 204, "{}", written.text);
    let asked = json!({"policies": [name]});
    let made = post(house, &operator, "auth/token/create", asked).await;
    text(&made.json, "/auth/client_token").to_owned()
}

#[tokio::test]
async fn a_scope_that_reads_as_two_opens_nobody_elses_cached_token() {
    let house = house().await;
    let alice = token_of(&house, "alice").await;
    let bob = token_of(&house, "bob").await;
    let given = post(
        &house,
        &alice,
        "delegation/dune/alice:default",
        json!({"to": "oidc-dune/bob", "scopes": "storage.create:/dune"}),
    )
    .await;
    assert_eq!(given.status, 200, "{}", given.text);
    let sts = "secret/oauth/sts/dune/alice:default";
    let wide = format!("{sts}?scopes=storage.create:/dune/a,storage.read:/dune");
    assert_eq!(house.get(&wide, &alice).await.status, 200);
    let before = exchanges(&house);
    for query in [
        "scopes=storage.create:/dune/a%00storage.read:/dune",
        "scopes=storage.create:/dune/a%01storage.read:/dune",
        "scopes=storage.create:/dune/%22a",
        "scopes=storage.create:/dune/%5Ca",
        "scopes=storage.create:/dune/%C3%A4",
        "scopes=storage.create:/dune/a&audience=https://se.example%00x",
        "scopes=storage.create:/dune/a&resources=https://se.example%01x",
    ] {
        for token in [&bob, &alice] {
            let answer = house.get(&format!("{sts}?{query}"), token).await;
            assert_eq!(answer.status, 400, "{query}: {}", answer.text);
            assert!(!answer.text.contains("canary"), "{query}: {}", answer.text);
        }
    }
    assert_eq!(exchanges(&house), before, "the issuer was not asked");
}

#[tokio::test]
async fn a_token_that_does_not_say_for_whom_it_is_passes_no_limit_of_audiences() {
    let house = house().await;
    let alice = token_of(&house, "alice").await;
    let bob = token_of(&house, "bob").await;
    let given = post(
        &house,
        &alice,
        "delegation/dune/alice:default",
        json!({"to": "oidc-dune/bob", "audiences": ["https://se.example"]}),
    )
    .await;
    assert_eq!(given.status, 200, "{}", given.text);
    let creds = "secret/oauth/creds/dune/alice:default";
    assert_eq!(house.get(creds, &bob).await.status, 200);
    house.issuer.opaque.store(true, Ordering::SeqCst);
    let other = format!("{creds}?scopes=storage.read:/");
    let refused = house.get(&other, &bob).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(!refused.text.contains("canary"));
    assert_eq!(house.get(&other, &alice).await.status, 200);
}

#[tokio::test]
async fn no_spelling_of_a_policys_name_gets_around_a_rule_about_it() {
    let house = house().await;
    with_policy(&house, "admin", r#"path "x" { capabilities = ["read"] }"#).await;
    let rules = r#"path "*" { capabilities = ["create", "read", "update", "delete", "list"] }
        path "sys/policies/acl/admin" { capabilities = ["deny"] }
        path "sys/policy/admin" { capabilities = ["deny"] }"#;
    let editor = with_policy(&house, "editor", rules).await;
    for place in ["sys/policies/acl", "sys/policy"] {
        for name in ["admin", "ADMIN", "Admin", "%41dmin"] {
            let path = format!("{place}/{name}");
            for method in ["GET", "DELETE", "PUT", "POST"] {
                let body = match method {
                    "PUT" | "POST" => json!({"policy": "path \"*\" { policy = \"sudo\" }"}),
                    _ => Value::Null,
                };
                let answer = house.call(method, &path, Some(&editor), body).await;
                assert_eq!(
                    (answer.status, answer.error()),
                    (403, DENIED_BY_POLICY),
                    "{method} {path}"
                );
            }
        }
        // Other names are folded as in the original.
        let path = format!("{place}/Other");
        let body = json!({"policy": r#"path "y" { capabilities = ["read"] }"#});
        let answer = post(&house, &editor, &path, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(
            answer.text.contains("converted to other"),
            "{}",
            answer.text
        );
    }
    let operator = house.operator().await;
    let kept = house.get("sys/policies/acl/admin", &operator).await;
    assert!(text(&kept.json, "/data/policy").contains("\"x\""));
}

#[tokio::test]
async fn no_spelling_of_a_credkey_gets_around_a_rule_about_its_ssh_keys() {
    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJPLxNdm0hUPRKBaXyJAPwFZXqUyX0w4b1zv6gMUY0vv key1";
    let house = house().await;
    let mut setup = setup(&house.issuer);
    setup.self_registration = true;
    setup.ssh = Some(SshSetup {
        cross_issuer: false,
        authorized_keys: None,
        rsa_sha1: true,
        domains: BTreeMap::new(),
    });
    house.keeper.reconfigure(setup).await.unwrap();
    let rules = r#"path "auth/ssh/role/*" { capabilities = ["create", "read", "update", "delete"] }
        path "auth/ssh/role/alice" { capabilities = ["deny"] }"#;
    let editor = with_policy(&house, "keys", rules).await;
    let body = json!({"public_keys": [KEY]});
    for name in ["alice", "ALICE", "Alice"] {
        let path = format!("auth/ssh/role/{name}");
        for method in ["GET", "DELETE", "POST"] {
            let answer = house.call(method, &path, Some(&editor), body.clone()).await;
            assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text);
        }
    }
    let other = post(&house, &editor, "auth/ssh/role/Bob", body.clone()).await;
    assert_eq!(other.status, 204, "{}", other.text);
    // Somebody whose own name has capitals adds keys under it.
    let own = token_of(&house, "Carol").await;
    let added = post(&house, &own, "auth/ssh/role/Carol", body).await;
    assert_eq!(added.status, 204, "{}", added.text);
}

#[tokio::test]
async fn a_child_that_was_given_less_neither_sees_nor_ends_what_is_above_or_beside_it() {
    let house = house().await;
    let login = house.log_in("alice").await;
    let (parent, above) = (text(&login, "/client_token"), text(&login, "/accessor"));
    let child = async |of: &str, body: Value| {
        let made = post(&house, of, "auth/token/create", body).await;
        assert_eq!(made.status, 200, "{}", made.text);
        made.json["auth"].clone()
    };
    let beside = child(parent, json!({"ttl": "1h"})).await;
    let narrowed = [
        child(parent, json!({"policies": ["tokenops"]})).await,
        child(parent, json!({"bound_cidrs": "192.0.2.0/24"})).await,
    ];
    for given in &narrowed {
        let less = text(given, "/client_token");
        let below = child(less, json!({})).await;
        let mut own = [text(given, "/accessor"), text(&below, "/accessor")];
        own.sort_unstable();
        let listed = house.get("auth/token/mine?list=true", less).await;
        assert_eq!(listed.json["data"]["keys"], json!(own), "{}", listed.text);
        for accessor in [above, text(&beside, "/accessor")] {
            let path = format!("auth/token/mine/{accessor}");
            for method in ["GET", "DELETE"] {
                let answer = house.call(method, &path, Some(less), Value::Null).await;
                assert_eq!(answer.status, 404, "{method}: {}", answer.text);
            }
        }
        // Its own child is one that was given less, too.
        let grandchild = text(&below, "/client_token");
        let listed = house.get("auth/token/mine?list=true", grandchild).await;
        assert_eq!(
            listed.json["data"]["keys"],
            json!([text(&below, "/accessor")])
        );
        let path = format!("auth/token/mine/{}", text(&below, "/accessor"));
        let ended = house.call("DELETE", &path, Some(less), Value::Null).await;
        assert_eq!(ended.status, 204, "{}", ended.text);
    }
    // What clients keep in the place of the login sees and ends all of the person's.
    let usual = text(&beside, "/client_token");
    let path = format!("auth/token/mine/{}", text(&narrowed[0], "/accessor"));
    let ended = house.call("DELETE", &path, Some(usual), Value::Null).await;
    assert_eq!(ended.status, 204, "{}", ended.text);
    let path = format!("auth/token/mine/{above}");
    assert_eq!(house.get(&path, usual).await.status, 200);
}
