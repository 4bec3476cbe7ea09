use std::collections::BTreeMap;
use std::path::Path;

use super::*;

#[test]
fn records_do_not_show_their_secrets_by_mistake() {
    let access = CachedToken {
        token: "canary-access".into(),
        token_type: "Bearer".into(),
        issued_at: 1,
        expires_at: Some(2),
        scope: None,
    };
    let secrets = GrantSecrets {
        refresh_token: Some("canary-refresh".into()),
        alternates: vec!["canary-alternate".into()],
        access: Some(access.clone()),
    };
    let received = crate::spool::Received {
        grant: "grant".into(),
        generation: 1,
        sent: "canary-sent".into(),
        refresh_token: Some("canary-refresh".into()),
        access: access.clone(),
    };
    let steps = [
        LoginStep::Device {
            device_code: "canary-device".into(),
            interval: 5,
            next_ms: 0,
        },
        LoginStep::Code {
            redirect_uri: "https://keep.example".into(),
            code_verifier: "canary-verifier".into(),
            nonce: "canary-nonce".into(),
        },
        LoginStep::Ready {
            login: Box::new(ReadyLogin {
                owner: "alice".into(),
                subject: None,
                operator_rule: None,
                robot_rules: Vec::new(),
                refresh_token: Some("canary-refresh".into()),
                access: access.clone(),
            }),
        },
    ];
    let logins = steps.map(|step| LoginRecord {
        issuer: "dune".into(),
        issuer_url: String::new(),
        client_id: String::new(),
        role: "default".into(),
        client_nonce: "canary-client".into(),
        started_at: UnixSeconds(1),
        deadline: UnixSeconds(2),
        from: None,
        step,
    });
    let shown = format!("{access:?} {secrets:?} {received:?} {logins:?}");
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("alice"), "{shown}");
}

fn look(directory: &Path, found: &mut BTreeMap<u16, Vec<String>>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look(&path, found);
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let numbered = line
                .split_once(": Kind = Kind(")
                .and_then(|(name, rest)| Some((name, rest.split_once(");")?.0.parse().ok()?)));
            if let Some((name, number)) = numbered {
                found.entry(number).or_default().push(name.to_owned());
            }
        }
    }
}

/// Kinds are given where they are used, by people who do not see each other's.
#[test]
fn no_two_kinds_of_records_have_one_number() {
    let mut found = BTreeMap::new();
    look(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    assert!(found.len() > 15, "{found:?}");
    found.retain(|_, names| names.len() > 1);
    assert!(found.is_empty(), "{found:?}");
}
