//! Logins with Kerberos tickets: what their outcomes mean for the ways that come after, and how the credkey is learned.

use std::sync::{Arc, Mutex};

use gridkeep_identity::kerberos::{Initiate, Initiated};
use serde_json::json;

use super::mock::{Machine, Ran, errors};
use crate::testserver::{Act, NAME};

const LOGIN: &str = "POST /v1/auth/kerberos-default_default/login";

/// A machine whose user has a ticket, and what its proofs were asked for.
fn with_ticket(mut machine: Machine) -> (Machine, Arc<Mutex<Vec<Initiate>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    machine.environment.kerberos = Arc::new(move |wanted| {
        seen.lock().unwrap().push(wanted.clone());
        Ok(Initiated {
            token: b"the secret proof".to_vec().into(),
            name: "alice".into(),
            realm: "LAB.EXAMPLE".into(),
            service: format!("host/{}@LAB.EXAMPLE", wanted.host),
        })
    });
    (machine, asked)
}

/// The server takes the ticket; `credkey` is what it says of the name.
fn accept(machine: &Machine, credkey: Option<&str>) {
    machine
        .state()
        .tokens
        .insert("hvs.ticket".to_owned(), 2_419_200);
    let mut metadata = json!({"user": "alice", "domain": "LAB.EXAMPLE"});
    if let Some(credkey) = credkey {
        metadata["credkey"] = credkey.into();
    }
    let auth = json!({"client_token": "hvs.ticket", "lease_duration": 2_419_200, "policies": ["kerberos-default_default", "tokenops"], "metadata": metadata});
    machine.instead(LOGIN, Act::json(200, json!({"auth": auth})));
}

fn credkey_file(machine: &Machine) -> Option<String> {
    let file = machine
        .home()
        .join(".config/htgettoken/credkey-default-default");
    std::fs::read_to_string(file).ok()
}

fn read_of(credkey: &str) -> String {
    format!("GET /v1/secret/oauth/creds/default/{credkey}:default?minimum_seconds=60")
}

#[test]
fn the_server_tells_the_credkey() {
    let (machine, asked) = with_ticket(Machine::new());
    machine.store("default", "alice@lab.example");
    accept(&machine, Some("alice@lab.example"));
    let ran = machine.run(&["--nooidc"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        machine.lines(),
        [
            LOGIN.to_owned(),
            "POST /v1/auth/token/create".to_owned(),
            read_of("alice@lab.example")
        ]
    );
    assert_eq!(credkey_file(&machine).unwrap(), "alice@lab.example\n");
    assert!(machine.vault_token_file().exists());
    let asked = asked.lock().unwrap();
    assert_eq!(
        *asked,
        [Initiate {
            host: NAME.to_owned(),
            ..Initiate::default()
        }]
    );
}

#[test]
fn a_server_that_does_not_tell_it_is_asked_for_the_usual_names() {
    let (machine, _) = with_ticket(Machine::new());
    machine.store("default", "alice@lab.example");
    accept(&machine, None);
    let ran = machine.run(&["--nooidc", "--showbearerurl"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        machine.lines()[2..],
        [read_of("alice"), read_of("alice@lab.example")]
    );
    assert_eq!(credkey_file(&machine).unwrap(), "alice@lab.example\n");
    assert_eq!(
        ran.out,
        format!(
            "{}/v1/secret/oauth/creds/default/alice@lab.example:default\n",
            machine.url()
        ),
        "the address is that of what was found"
    );
}

#[test]
fn the_options_name_service_principal_keytab_and_path() {
    let (machine, asked) = with_ticket(Machine::new());
    machine.instead("POST /v1/krb/default/x/login", errors(403, "no"));
    let ran = machine.run(&[
        "--nooidc",
        "--vaultalias=keep.example.org",
        "--kerbprincipal=alice/cron/host",
        "--kerbkeytab=~/robot.keytab",
        "--kerbpath=krb/%role/x",
    ]);
    assert_eq!(ran.code, 1);
    assert_eq!(machine.lines(), ["POST /v1/krb/default/x/login"]);
    assert_eq!(
        *asked.lock().unwrap(),
        [Initiate {
            host: "keep.example.org".into(),
            principal: Some("alice/cron/host".into()),
            keytab: Some(machine.home().join("robot.keytab")),
        }]
    );
    let (machine, asked) = with_ticket(Machine::new());
    machine.run(&["--nooidc", "--nokerberos"]);
    assert!(asked.lock().unwrap().is_empty() && machine.lines().is_empty());
}

#[test]
fn whatever_the_server_says_to_a_ticket_the_browser_is_still_tried() {
    let declined = json!({"auth": null, "data": null, "warnings": ["Unauthorised.\n"]});
    for act in [
        errors(401, "authentication required"),
        Act::json(401, declined.clone()),
        errors(403, "permission denied"),
        errors(404, "no handler"),
        errors(500, "could not connect to LDAP"),
        errors(503, "busy"),
        Act::json(200, declined),
        Act::Answer(200, Vec::new(), "no json".to_owned()),
        Act::Drop,
    ] {
        let (machine, _) = with_ticket(Machine::new().terminal());
        machine.instead(LOGIN, act.clone());
        let ran = machine.run(&[]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(machine.state().logins, 1);
        // Without another way the reason is told, and a proof is never sent twice.
        let (machine, _) = with_ticket(Machine::new());
        machine.instead(LOGIN, act);
        let ran = machine.run(&["--nooidc"]);
        assert_eq!(ran.code, 1);
        assert!(ran.err.to_lowercase().contains("kerberos"), "{ran:?}");
        assert_eq!(machine.lines(), [LOGIN]);
    }
}

#[test]
fn a_login_that_brings_no_bearer_token_leaves_no_vault_token() {
    // 404: only a login of the person helps. 403: the token is for something else.
    for status in [403, 404] {
        let (machine, _) = with_ticket(Machine::new());
        accept(&machine, Some("alice"));
        machine.instead("GET /v1/secret", errors(status, "no"));
        let ran = machine.run(&["--nooidc"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(!machine.vault_token_file().exists());
        assert_eq!(credkey_file(&machine), None, "it did not work");
    }
    let (machine, _) = with_ticket(Machine::new());
    accept(&machine, Some("alice"));
    let ran = machine.run(&["--nobearertoken"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(machine.vault_token_file().exists() && !machine.bearer_file().exists());
}

#[test]
fn a_vault_token_that_works_needs_no_ticket() {
    let (machine, asked) = with_ticket(Machine::warm());
    assert_eq!(machine.run(&[]).code, 0);
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn the_proof_is_sent_as_the_original_sends_it_and_is_not_shown() {
    let (machine, _) = with_ticket(Machine::new());
    machine.store("default", "alice");
    accept(&machine, Some("alice"));
    let ran: Ran = machine.run(&["--nooidc", "-d"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let seen = &machine.server.seen()[0];
    assert_eq!(
        seen.headers["authorization"],
        "Negotiate dGhlIHNlY3JldCBwcm9vZg=="
    );
    assert_eq!(
        (
            seen.headers["content-type"].as_str(),
            seen.headers["content-length"].as_str(),
            seen.body.as_str()
        ),
        ("application/x-www-form-urlencoded", "0", "")
    );
    assert!(!ran.out.contains("dGhlIH"), "{ran:?}");
    assert!(
        ran.out.contains("as alice@LAB.EXAMPLE for host/"),
        "{ran:?}"
    );
}
