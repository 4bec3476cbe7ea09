//! `auth/ssh/*`: the statuses and texts of section 9 of the Vault API specification.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gridkeep_keeper::SshSetup;
use serde_json::{Value, json};

use super::common::{Answer, House, house, setup};
use super::{DENIED, DENIED_BY_POLICY, UNSUPPORTED, text};

struct AgentKey(Ed25519KeyPair);

impl AgentKey {
    fn new() -> AgentKey {
        AgentKey(Ed25519KeyPair::generate().unwrap())
    }

    fn line(&self) -> String {
        let mut blob = Vec::new();
        for part in [b"ssh-ed25519".as_slice(), self.0.public_key().as_ref()] {
            blob.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            blob.extend_from_slice(part);
        }
        format!("ssh-ed25519 {}", STANDARD.encode(blob))
    }
}

async fn house_with_ssh() -> House {
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
    house
}

async fn nonce(house: &House) -> String {
    let answer = house.call("GET", "auth/ssh/nonce", None, Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    text(&answer.json, "/data/nonce").to_owned()
}

async fn body(house: &House, key: &AgentKey) -> Value {
    let nonce = nonce(house).await;
    json!({
        "role": "alice",
        "public_key": format!("{} key1", key.line()),
        "signature": STANDARD.encode(key.0.sign(nonce.as_bytes()).as_ref()),
        "nonce": STANDARD.encode(&nonce),
        "metadata": {"issuer": "dune", "group": "default"},
    })
}

async fn login(house: &House, body: &Value) -> Answer {
    house
        .call("POST", "auth/ssh/login", None, body.clone())
        .await
}

async fn registered(house: &House) -> AgentKey {
    let key = AgentKey::new();
    let auth = house.log_in("alice").await;
    let body = json!({"public_keys": [format!("{} key1", key.line())]});
    let answer = house
        .call(
            "POST",
            "auth/ssh/role/alice",
            Some(text(&auth, "/client_token")),
            body,
        )
        .await;
    assert_eq!((answer.status, answer.text.as_str()), (204, ""));
    key
}

#[tokio::test]
async fn a_login_answers_as_the_original_does() {
    let house = house_with_ssh().await;
    let key = registered(&house).await;
    let answer = login(&house, &body(&house, &key).await).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let auth = &answer.json["auth"];
    assert!(text(auth, "/client_token").starts_with("hvs."));
    assert_eq!(auth["policies"], json!(["default", "ssh", "tokenops"]));
    assert_eq!(auth["lease_duration"], 2_419_200);
    assert_eq!(auth["renewable"], true);
    assert_eq!(
        auth["metadata"],
        json!({"group": "default", "issuer": "dune", "role": "alice"})
    );
    let looked_up = house
        .get("auth/token/lookup-self", text(auth, "/client_token"))
        .await;
    assert_eq!(looked_up.json["data"]["path"], "auth/ssh/login");
    assert_eq!(looked_up.json["data"]["display_name"], "ssh-alice");
    let renewed = house
        .call(
            "POST",
            "auth/token/renew-self",
            Some(text(auth, "/client_token")),
            json!({}),
        )
        .await;
    assert_eq!(renewed.status, 200, "{}", renewed.text);
}

#[tokio::test]
async fn each_fault_has_its_text() {
    let house = house_with_ssh().await;
    let key = registered(&house).await;
    let other = AgentKey::new();
    let faults: [(&str, Value, u16, &str); 12] = [
        ("role", json!(""), 400, "role must be provided"),
        ("signature", Value::Null, 400, "signature must be provided"),
        (
            "public_key",
            Value::Null,
            400,
            "cert or pubkey must be provided",
        ),
        ("nonce", Value::Null, 400, "nonce must be provided"),
        ("signature", json!("***"), 400, "decoding signature failed"),
        ("nonce", json!("***"), 400, "decoding nonce failed"),
        (
            "nonce",
            json!(STANDARD.encode("7d0d6f1e-3a52-1b7c-9f1f-5a3c0d3f1b42")),
            400,
            "nonce time expired or invalid",
        ),
        (
            "role",
            json!("nobody"),
            400,
            "role \"nobody\" could not be found",
        ),
        (
            "signature",
            json!(STANDARD.encode([0; 64])),
            400,
            "ssh: signature did not verify",
        ),
        (
            "metadata",
            json!({"issuer": "icecube", "group": "default"}),
            403,
            "validation public_key failed: permission denied",
        ),
        (
            "metadata",
            json!({"issuer": "nosuch", "group": "default"}),
            400,
            "no issuer \"nosuch\" is configured on this server; check the issuer name (htgettoken -i)",
        ),
        (
            "metadata",
            json!({"issuer": "dune", "group": "nosuch"}),
            400,
            "issuer \"dune\" has no role \"nosuch\"",
        ),
    ];
    for (field, value, status, said) in faults {
        let mut body = body(&house, &key).await;
        body[field] = value;
        let answer = login(&house, &body).await;
        assert_eq!((answer.status, answer.error()), (status, said), "{field}");
    }
    let foreign = login(&house, &body(&house, &other).await).await;
    assert_eq!(
        (foreign.status, foreign.error()),
        (403, "validation public_key failed: permission denied")
    );
    let mut unreadable = body(&house, &key).await;
    unreadable["public_key"] = json!("ssh-ed25519 AAAA");
    let answer = login(&house, &unreadable).await;
    assert_eq!(answer.status, 400);
    assert!(
        answer
            .error()
            .starts_with("decoding public_key/cert failed: ")
    );
    let mut certified = body(&house, &key).await;
    certified["cert"] = json!("ssh-ed25519-cert-v01@openssh.com AAAA");
    let answer = login(&house, &certified).await;
    assert_eq!(answer.status, 400);
    assert!(answer.error().starts_with("validation cert failed: "));
    // Used once, a nonce is worth nothing.
    let good = body(&house, &key).await;
    assert_eq!(login(&house, &good).await.status, 200);
    let again = login(&house, &good).await;
    assert_eq!(
        (again.status, again.error()),
        (400, "nonce time expired or invalid")
    );
}

#[tokio::test]
async fn without_ssh_the_mount_says_so_and_denies_nobody() {
    let house = house().await;
    for (method, path) in [("GET", "auth/ssh/nonce"), ("POST", "auth/ssh/login")] {
        let answer = house.call(method, path, None, json!({})).await;
        assert_eq!(
            (answer.status, answer.error()),
            (400, "could not load configuration")
        );
    }
    let operator = house.operator().await;
    for path in ["auth/ssh/config", "auth/ssh/role?list=true"] {
        let answer = house.get(path, &operator).await;
        assert_eq!(
            (answer.status, answer.error()),
            (400, "could not load configuration"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn administrators_write_read_list_and_delete_keys() {
    let house = house_with_ssh().await;
    let operator = house.operator().await;
    let (one, two) = (AgentKey::new(), AgentKey::new());
    assert_eq!(
        house.get("auth/ssh/role?list=true", &operator).await.status,
        404
    );
    assert_eq!(house.get("auth/ssh/role/bob", &operator).await.status, 404);
    // As `public_keys=@file` of the command line sends it, and as a list by commas.
    for (keys, number) in [
        (json!(format!("{} bob@desk\n", one.line())), 1),
        (json!(format!("{} a\n{} b\n", one.line(), two.line())), 2),
        (json!(format!("{},{}", one.line(), two.line())), 2),
        (json!([two.line()]), 1),
    ] {
        let body = json!({"public_keys": keys});
        let answer = house
            .call("PUT", "auth/ssh/role/bob", Some(&operator), body)
            .await;
        assert_eq!(answer.status, 204, "{}", answer.text);
        let read = house.get("auth/ssh/role/bob", &operator).await;
        let shown = read.json["data"]["public_keys"].as_array().unwrap().clone();
        assert_eq!(shown.len(), number);
        assert!(shown.contains(&json!(if number == 1 && keys.is_string() {
            one.line()
        } else {
            two.line()
        })));
        assert_eq!(
            read.json["data"]["token_policies"],
            json!(["ssh", "tokenops"])
        );
    }
    let list = house
        .call("LIST", "auth/ssh/role", Some(&operator), Value::Null)
        .await;
    assert_eq!(list.json["data"]["keys"], json!(["bob"]));
    for (body, said) in [
        (
            json!({"public_keys": [one.line()], "principals": "bob"}),
            "public_keys and principals option are mutually exclusive",
        ),
        (json!({}), "public_keys must be provided"),
        (
            json!({"public_keys": [one.line()], "token_ttl": "1h"}),
            "the parameter token_ttl is not supported by this server: the tokens of ssh logins are as its configuration says",
        ),
    ] {
        let answer = house
            .call("POST", "auth/ssh/role/bob", Some(&operator), body)
            .await;
        assert_eq!((answer.status, answer.error()), (400, said));
    }
    let broken = house
        .call(
            "POST",
            "auth/ssh/role/bob",
            Some(&operator),
            json!({"public_keys": [one.line(), "@/etc/passwd"]}),
        )
        .await;
    assert_eq!(broken.status, 400);
    assert!(
        broken.error().starts_with("public key 2: "),
        "{}",
        broken.error()
    );
    for _ in 0..2 {
        let gone = house
            .call("DELETE", "auth/ssh/role/bob", Some(&operator), Value::Null)
            .await;
        assert_eq!(gone.status, 204);
    }
    assert_eq!(house.get("auth/ssh/role/bob", &operator).await.status, 404);
    let config = house.get("auth/ssh/config", &operator).await;
    assert_eq!(config.json["data"]["ssh_ca_public_keys"], json!([]));
    assert_eq!(config.json["data"]["secure_nonce"], true);
    let written = house
        .call("POST", "auth/ssh/config", Some(&operator), json!({}))
        .await;
    assert_eq!(written.status, 405);
    assert!(written.error().contains("configuration files"));
    let wrong = house
        .call("DELETE", "auth/ssh/nonce", None, Value::Null)
        .await;
    assert_eq!((wrong.status, wrong.error()), (405, UNSUPPORTED));
    let mounts = house.get("sys/auth", &operator).await;
    assert_eq!(mounts.json["data"]["ssh/"]["type"], "ssh");
    let policy = house.get("sys/policies/acl/ssh", &operator).await;
    assert!(text(&policy.json, "/data/policy").contains("metadata.issuer"));
}

#[tokio::test]
async fn people_see_their_own_keys_and_nobody_elses() {
    let house = house_with_ssh().await;
    let key = registered(&house).await;
    let auth = login(&house, &body(&house, &key).await).await;
    let token = text(&auth.json, "/auth/client_token").to_owned();
    let shown = house.get("auth/ssh/keys/dune/alice", &token).await;
    assert_eq!(shown.status, 200, "{}", shown.text);
    let print = text(&shown.json, "/data/keys/0").to_owned();
    let info = &shown.json["data"]["key_info"][&print][0];
    assert_eq!(info["issuer"], "dune");
    assert_eq!(info["source"], "registered");
    assert_eq!(info["comment"], "key1");
    assert_eq!(info["added_by"], "oidc-dune-alice");
    assert_eq!(info["expires"], Value::Null);
    for path in [
        "auth/ssh/keys/dune/bob",
        "auth/ssh/keys/cms/alice",
        "auth/ssh/role/alice",
    ] {
        let answer = house.get(path, &token).await;
        assert_eq!(
            (answer.status, answer.error()),
            (403, DENIED_BY_POLICY),
            "{path}"
        );
    }
    let without = house
        .call("GET", "auth/ssh/keys/dune/alice", None, Value::Null)
        .await;
    assert_eq!((without.status, without.error()), (403, DENIED));
    let path = "auth/ssh/keys/dune/alice";
    let expire = json!({"fingerprint": print, "ttl": "10m"});
    let answer = house.call("POST", path, Some(&token), expire).await;
    assert_eq!(answer.status, 204, "{}", answer.text);
    let shown = house.get(path, &token).await;
    assert!(shown.json["data"]["key_info"][&print][0]["expires"].is_string());
    let vague = house.call("DELETE", path, Some(&token), Value::Null).await;
    assert_eq!(vague.status, 400);
    let encoded = print
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace(':', "%3A");
    let query = format!("{path}?fingerprint={encoded}");
    let gone = house
        .call("DELETE", &query, Some(&token), Value::Null)
        .await;
    assert_eq!(gone.status, 204, "{}", gone.text);
    assert_eq!(house.get(path, &token).await.status, 404);
}

#[tokio::test]
async fn a_nonce_tells_ours_from_the_original_and_the_key_to_use() {
    let house = house_with_ssh().await;
    let key = registered(&house).await;
    let operator = house.operator().await;
    let read = house.get("auth/ssh/role/alice", &operator).await;
    let print = read.json["data"]["key_info"]
        .as_object()
        .unwrap()
        .keys()
        .next()
        .unwrap()
        .clone();
    drop(key);
    let plain = house.call("GET", "auth/ssh/nonce", None, Value::Null).await;
    assert!(
        plain.json["data"]["signature_formats"]
            .as_array()
            .unwrap()
            .contains(&json!("rsa-sha2-512"))
    );
    assert!(plain.json["data"].get("fingerprint").is_none());
    let encoded = print.replace('+', "%2B").replace('/', "%2F");
    for (role, expected) in [("alice", print.as_str()), ("nobody", "")] {
        let path =
            format!("auth/ssh/nonce?role={role}&issuer=dune&fingerprints=SHA256:x,{encoded}");
        let probed = house.call("GET", &path, None, Value::Null).await;
        assert_eq!(text(&probed.json, "/data/fingerprint"), expected);
        assert_eq!(probed.json["warnings"], Value::Null);
    }
}

#[tokio::test]
async fn a_policy_may_allow_only_new_names_or_only_known_ones() {
    let house = house_with_ssh().await;
    let operator = house.operator().await;
    let mut holders = Vec::new();
    for capability in ["create", "update"] {
        let policy = format!("path \"auth/ssh/role/*\" {{ capabilities = [\"{capability}\"] }}");
        let written = house
            .call(
                "PUT",
                &format!("sys/policies/acl/{capability}"),
                Some(&operator),
                json!({"policy": policy}),
            )
            .await;
        assert_eq!(written.status, 204, "{}", written.text);
        let body = json!({"policies": [capability], "no_default_policy": true});
        let made = house
            .call("POST", "auth/token/create-orphan", Some(&operator), body)
            .await;
        holders.push(text(&made.json, "/auth/client_token").to_owned());
    }
    let body = json!({"public_keys": [AgentKey::new().line()]});
    let path = "auth/ssh/role/bob";
    for (holder, status, operation) in [
        (&holders[1], 403, "create"),
        (&holders[0], 204, "create"),
        (&holders[0], 403, "update"),
        (&holders[1], 204, "update"),
        (&operator, 204, "update"),
    ] {
        house.audit.drain();
        let answer = house.call("POST", path, Some(holder), body.clone()).await;
        assert_eq!(answer.status, status, "{operation}: {}", answer.text);
        if status == 403 {
            assert_eq!(answer.error(), DENIED_BY_POLICY);
        }
        let lines = house.audit.drain();
        assert_eq!(lines[0]["request"]["operation"], operation);
    }
    // What people register themselves is covered by both.
    registered(&house).await;
    let again = registered(&house).await;
    assert_eq!(
        login(&house, &self::body(&house, &again).await)
            .await
            .status,
        200
    );
}
