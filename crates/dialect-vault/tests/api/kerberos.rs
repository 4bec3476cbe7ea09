//! Logging in with a Kerberos ticket, as clients meet it: old htgettoken ends at any status but 200, browsers wait for a challenge.

use std::sync::Arc;

use base64::Engine as _;
use gridkeep_identity::kerberos::{AcceptError, AcceptTickets, Principal, Proven};
use gridkeep_keeper::KerberosSetup;
use serde_json::{Value, json};

use super::common::{Answer, House, house, setup};
use super::{DENIED, UNSUPPORTED};

const LOGIN: &str = "/v1/auth/kerberos-dune_default/login";

/// Takes the bytes for the client's name.
#[derive(Debug)]
struct Believer;

impl AcceptTickets for Believer {
    fn accept(&self, bytes: &[u8]) -> Result<Proven, AcceptError> {
        let name = String::from_utf8(bytes.to_vec())
            .map_err(|_| AcceptError::Rejected("permission denied to garbage".into()))?;
        let mut authenticator = [0; 32];
        authenticator[..name.len()].copy_from_slice(name.as_bytes());
        let realm = "LAB.EXAMPLE".into();
        Ok(Proven {
            principal: Principal { name, realm },
            authenticator,
        })
    }
}

/// A house where people of `dune` log in with tickets.
pub async fn with_tickets() -> House {
    let house = house().await;
    let mut setup = setup(&house.issuer);
    let service = KerberosSetup {
        acceptor: Arc::new(Believer),
        service_account: "host/tokens.lab.example".into(),
        policy_domain: None,
    };
    setup.kerberos.insert("dune".into(), service);
    house.keeper.reconfigure(setup).await.unwrap();
    house
}

fn negotiate(name: &[u8]) -> String {
    let token = base64::engine::general_purpose::STANDARD.encode(name);
    format!("Negotiate {token}")
}

/// As htgettoken sends it.
async fn log_in(house: &House, path: &str, name: &[u8]) -> Answer {
    let negotiate = negotiate(name);
    let headers = [
        ("authorization", negotiate.as_str()),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    house.send("POST", path, &headers, "").await
}

#[tokio::test]
async fn a_ticket_is_a_login() {
    let house = with_tickets().await;
    house.log_in("alice").await;
    let answer = log_in(&house, LOGIN, b"alice").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let auth = &answer.json["auth"];
    assert_eq!(
        auth["policies"],
        json!(["kerberos-dune_default", "tokenops"])
    );
    assert_eq!(
        auth["metadata"],
        json!({"user": "alice", "domain": "LAB.EXAMPLE", "credkey": "alice"})
    );
    assert_eq!(
        (&auth["lease_duration"], &auth["renewable"]),
        (&json!(2_419_200), &json!(false))
    );
    let token = auth["client_token"].as_str().unwrap();
    let read = house
        .get("secret/oauth/creds/dune/alice:default", token)
        .await;
    assert_eq!(read.status, 200, "{}", read.text);
    let other = house
        .get("secret/oauth/creds/dune/alice:production", token)
        .await;
    assert_eq!(other.status, 403, "{}", other.text);
}

#[tokio::test]
async fn the_field_and_other_methods() {
    let house = with_tickets().await;
    let field = json!({"authorization": negotiate(b"bob")}).to_string();
    let answer = house.send("POST", LOGIN, &[], field).await;
    assert_eq!(answer.json["auth"]["metadata"]["user"], "bob");
    let header = negotiate(b"carol");
    let answer = house
        .send("GET", LOGIN, &[("authorization", header.as_str())], "")
        .await;
    assert_eq!(answer.json["auth"]["metadata"]["user"], "carol");
    let answer = house
        .send("DELETE", LOGIN, &[("authorization", header.as_str())], "")
        .await;
    assert_eq!((answer.status, answer.error()), (405, UNSUPPORTED));
}

#[tokio::test]
async fn who_brings_nothing_is_told_what_to_bring() {
    let house = with_tickets().await;
    for method in ["GET", "POST"] {
        for header in [
            "",
            "Negotiate",
            "Negotiate %%%",
            "Basic YWI=",
            "Bearer hvs.x",
        ] {
            let answer = house
                .send(method, LOGIN, &[("authorization", header)], "")
                .await;
            assert_eq!(
                (answer.status, answer.error()),
                (401, "authentication required"),
                "{method} {header}"
            );
            assert_eq!(answer.headers["www-authenticate"], "Negotiate");
        }
    }
}

#[tokio::test]
async fn what_is_not_accepted_lets_its_client_go_on() {
    let house = with_tickets().await;
    assert_eq!(log_in(&house, LOGIN, b"alice").await.status, 200);
    for (path, name) in [
        (LOGIN, &b"\xff"[..]),
        // A replay.
        (LOGIN, b"alice"),
        ("/v1/auth/kerberos-dune_none/login", b"bob"),
        ("/v1/auth/kerberos-cms_default/login", b"bob"),
        ("/v1/auth/kerberos-none_default/login", b"bob"),
        ("/v1/auth/kerberos-none_default/login", b""),
    ] {
        let answer = log_in(&house, path, name).await;
        assert_eq!(
            (answer.status, &answer.json["auth"]),
            (200, &Value::Null),
            "{path}"
        );
        assert_eq!(answer.json["warnings"].as_array().unwrap().len(), 1);
        assert!(answer.headers.get("www-authenticate").is_none());
        assert!(!answer.text.contains(DENIED), "{}", answer.text);
    }
}

#[tokio::test]
async fn mounts_are_listed_and_their_lines_are_audited_without_the_ticket() {
    let house = with_tickets().await;
    let operator = house.operator().await;
    let listed = house.get("sys/auth", &operator).await;
    for role in ["default", "production"] {
        let mount = &listed.json["data"][format!("kerberos-dune_{role}/")];
        assert_eq!(mount["type"], "kerberos", "{}", listed.text);
        let accessor = mount["accessor"].as_str().unwrap();
        assert!(accessor.starts_with("auth_kerberos_"));
        let policy = house
            .get(&format!("sys/policies/acl/kerberos-dune_{role}"), &operator)
            .await;
        let text = policy.json["data"]["policy"].as_str().unwrap();
        assert!(text.contains(accessor), "{text}");
        assert_eq!(
            policy.json["data"]["allow_slashes_in_identity_templates"],
            true
        );
    }
    house.audit.drain();
    log_in(&house, LOGIN, b"canary-ticket").await;
    let field = json!({"authorization": negotiate(b"canary-field")}).to_string();
    house.send("POST", LOGIN, &[], field).await;
    let lines = house.audit.drain();
    assert_eq!(lines.len(), 4);
    for line in lines {
        let text = line.to_string();
        for canary in [&b"canary-ticket"[..], b"canary-field"] {
            let told = negotiate(canary);
            assert!(!text.contains(told.split_once(' ').unwrap().1), "{text}");
        }
        assert_eq!(line["request"]["mount_type"], "kerberos", "{text}");
    }
}
