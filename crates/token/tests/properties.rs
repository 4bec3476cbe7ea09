//! What holds for every input: nothing panics, what was signed verifies, what was changed does not.
#![allow(
    clippy::unwrap_used,
    reason = "a failure to set up shall fail the test"
)]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridkeep_token::group::Group;
use gridkeep_token::jws::{Algorithm, JwkSet, Jws, SigningKey};
use gridkeep_token::profile::{Profiles, StaticKeys, TrustedIssuer, Verifier};
use gridkeep_token::scope::{Language, Operation, Scopes};
use gridkeep_token::select::{self, Membership};
use gridkeep_token::time::UnixSeconds;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const ISSUER: &str = "https://vo.example.org";

static KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::generate(Algorithm::Es256, "k1").unwrap());
static SET: LazyLock<JwkSet> = LazyLock::new(|| JwkSet::new(vec![KEY.public_jwk()]));
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    Verifier::new(["https://se.example.org"])
        .trust(TrustedIssuer::wlcg(ISSUER).with_profiles(Profiles::ALL))
});

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "storage\\.(read|create):/[a-z%.]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn claims() -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof![
        any::<String>(),
        proptest::sample::select(vec![
            "iss",
            "sub",
            "aud",
            "exp",
            "nbf",
            "iat",
            "jti",
            "scope",
            "wlcg.ver",
            "wlcg.groups",
            "ver",
            "client_id",
        ])
        .prop_map(str::to_owned),
    ];
    proptest::collection::btree_map(name, json_value(), 0..8)
        .prop_map(|map| map.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_text_is_survived(text in any::<String>()) {
        prop_assert!(Jws::parse(&text).is_err());
    }

    #[test]
    fn any_parts_are_survived(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..5)) {
        let text: Vec<String> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
        let _ = Jws::parse(&text.join("."));
        for part in parts {
            let _ = JwkSet::from_json(&part);
        }
    }

    #[test]
    fn any_header_is_survived(header in claims(), alg in proptest::sample::select(Algorithm::ALL.to_vec())) {
        let mut header = Value::Object(header);
        header["alg"] = alg.name().into();
        let token = KEY.sign_compact(header.to_string().as_bytes(), b"{}").unwrap();
        if let Ok(jws) = Jws::parse(&token) {
            let verified = jws.verify(&SET).is_ok();
            let named = jws.header().kid.as_deref().is_none_or(|kid| kid == "k1");
            prop_assert_eq!(verified, alg == Algorithm::Es256 && named);
        }
    }

    #[test]
    fn what_was_signed_verifies(claims in claims()) {
        let token = KEY.sign(Some("JWT"), &Value::Object(claims.clone())).unwrap();
        match Jws::parse(&token) {
            Ok(jws) => prop_assert_eq!(jws.verify_named(&SET), Ok(claims)),
            Err(_) => prop_assert!(token.len() >= 16_384),
        }
    }

    #[test]
    fn what_was_changed_does_not(at in any::<prop::sample::Index>(), letter in "[A-Za-z0-9_.=-]") {
        let token = KEY.sign(None, &json!({"sub": "anna", "scope": "storage.read:/"})).unwrap();
        let at = at.index(token.len());
        let mut changed = token.clone();
        changed.replace_range(at..=at, &letter);
        let good = Jws::parse(&changed).is_ok_and(|jws| jws.verify(&SET).is_ok());
        prop_assert_eq!(good, changed == token);
    }

    #[test]
    fn verification_survives_any_claims(mut claims in claims(), essentials in any::<u8>()) {
        claims.insert("iss".to_owned(), ISSUER.into());
        let good = [
            ("wlcg.ver", json!("1.0")), ("sub", json!("a")), ("aud", json!("https://se.example.org")), ("jti", json!("1")),
            ("iat", json!(1_900_000_000)), ("exp", json!(1_900_000_100)), ("scope", json!("storage.read:/")),
        ];
        for (bit, (name, value)) in good.into_iter().enumerate() {
            if essentials & (1 << bit) == 0 {
                claims.insert(name.to_owned(), value);
            }
        }
        let token = KEY.sign(None, &Value::Object(claims)).unwrap();
        let keys = StaticKeys::one(ISSUER, SET.clone());
        match VERIFIER.verify(&token, &keys, UnixSeconds(1_900_000_050)) {
            Ok(verified) => {
                prop_assert!(verified.expires() >= UnixSeconds(1_900_000_050));
                let _ = verified.authorize(&Operation::Read, "/a/b");
            }
            Err(refusal) => prop_assert!(!refusal.to_string().contains(&token)),
        }
    }

    #[test]
    fn no_scope_reaches_outside_its_path(path in "/[a-c]{1,2}(/[a-c]{1,2}){0,2}", request in "/[a-c]{1,2}(/[a-c]{1,2}){0,3}") {
        let scopes = Scopes::parse(&format!("storage.read:{path}"), Language::Wlcg).unwrap();
        let allowed = scopes.decide(&Operation::Read, &request).unwrap().allowed;
        prop_assert_eq!(allowed, request == path || request.starts_with(&format!("{path}/")));
    }

    #[test]
    fn rights_only_grow_with_more_scopes(first in "storage\\.(read|create|modify|stage):/[ab]", second in "storage\\.(read|create|modify|stage):/[ab]", at in 0usize..22, request in "/[ab]/[ab]") {
        let words = Operation::words();
        let operation: Operation = words[at % words.len()].replace("<new path>", "/a/c").parse().unwrap();
        let one = Scopes::parse(&first, Language::Wlcg).unwrap();
        let both = Scopes::parse(&format!("{first} {second}"), Language::Wlcg).unwrap();
        let before = one.decide(&operation, &request).unwrap().allowed;
        let after = both.decide(&operation, &request).unwrap().allowed;
        prop_assert!(after || !before);
    }

    #[test]
    fn selected_groups_are_entitled_unique_and_complete(wishes in proptest::collection::vec("wlcg\\.groups(:/vo(/[a-d])?)?", 0..6)) {
        let group = |name: &str| name.parse::<Group>().unwrap();
        let membership = Membership {
            default_groups: vec![group("/vo"), group("/vo/a")],
            optional_groups: vec![group("/vo/b"), group("/vo/c")],
            capability_sets: Vec::new(),
        };
        match select::groups(&wishes.join(" "), &membership) {
            Ok(None) => prop_assert!(wishes.is_empty()),
            Ok(Some(groups)) => {
                let mut unique = groups.clone();
                unique.sort();
                unique.dedup();
                prop_assert_eq!(unique.len(), groups.len());
                prop_assert!(membership.default_groups.iter().all(|default| groups.contains(default)));
                prop_assert!(!groups.contains(&group("/vo/d")));
            }
            Err(error) => {
                prop_assert_eq!(error.code(), "access_denied");
                prop_assert!(wishes.iter().any(|wish| wish.ends_with("/d")));
            }
        }
    }
}
