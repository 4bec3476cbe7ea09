//! `jose.json`: examples of RFC 7515, 7520, 7638, 8037 and OpenID Connect Core; and signing with every algorithm.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridkeep_token::jws::{Algorithm, Jwk, JwkSet, Jws, JwsError, SigningKey, hash_half};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{each, load, same};

#[test]
fn examples_of_the_rfcs() {
    let file = load("jose.json");
    each(&file, |row| {
        let key = Jwk::from_value(&row["jwk"])?;
        same(
            "the key written again",
            Jwk::from_value(&key.to_json()),
            Ok(key.clone()),
        )?;
        if let Some(expected) = row["thumbprint"].as_str() {
            same("the thumbprint", key.thumbprint().as_str(), expected)?;
        }
        let Some(text) = row["jws"].as_str() else {
            return Ok(());
        };
        let alg: Algorithm = row["alg"].as_str().unwrap().parse().unwrap();
        let (input, signature) = text.rsplit_once('.').unwrap();
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        same(
            "the signature is good",
            key.verify_signature(alg, input.as_bytes(), &signature),
            true,
        )?;
        let cut = &signature[..signature.len() - 1];
        same(
            "a cut signature is good",
            key.verify_signature(alg, input.as_bytes(), cut),
            false,
        )?;
        signature[3] ^= 1;
        same(
            "a changed signature is good",
            key.verify_signature(alg, input.as_bytes(), &signature),
            false,
        )?;
        let set = JwkSet::new(vec![key]);
        match row["claims"].as_object() {
            Some(claims) => same(
                "the claims",
                Jws::parse(text).and_then(|jws| jws.verify(&set)),
                Ok(claims.clone()),
            ),
            // The payload is no JSON object, so it is no token.
            None => same("whether it is a token", Jws::parse(text).is_ok(), false),
        }
    });
    for row in file["hashes"].as_array().unwrap() {
        let alg = row["alg"].as_str().unwrap().parse().unwrap();
        let found = hash_half(alg, row["data"].as_str().unwrap().as_bytes());
        assert_eq!(found, row["half"].as_str().unwrap(), "{}", row["id"]);
    }
}

#[test]
fn every_algorithm_signs_and_verifies_and_fits_no_other_key() {
    let keys: Vec<SigningKey> = Algorithm::ALL
        .into_iter()
        .map(|alg| SigningKey::generate(alg, alg.name()).unwrap())
        .collect();
    let set = JwkSet::new(keys.iter().map(SigningKey::public_jwk).collect());
    let set = JwkSet::from_json(set.to_json().to_string().as_bytes()).unwrap();
    assert_eq!(set.keys().len(), Algorithm::ALL.len());
    assert!(set.skipped().is_empty());
    for key in &keys {
        let alg = key.alg();
        let token = key.sign(Some("JWT"), &json!({"sub": alg.name()})).unwrap();
        let jws = Jws::parse(&token).unwrap();
        assert_eq!(
            (jws.header().alg, jws.header().kid.as_deref()),
            (alg, Some(alg.name()))
        );
        assert_eq!(jws.verify_named(&set).unwrap()["sub"], alg.name(), "{alg}");
        // Kept and read again, it is the same key.
        let pem = key.to_pkcs8_pem().unwrap();
        let again = SigningKey::from_pkcs8_pem(alg, alg.name(), pem.expose_secret()).unwrap();
        assert_eq!(again.public_jwk(), key.public_jwk(), "{alg}");
        assert!(!format!("{key:?}").contains(pem.expose_secret()));
        // The name of one key, the signature of another.
        let other = keys
            .iter()
            .find(|other| other.alg() != alg && other.alg().key_type() == alg.key_type());
        if let Some(other) = other {
            let header = format!(r#"{{"alg":"{alg}","kid":"{}"}}"#, other.alg());
            let forged = key.sign_compact(header.as_bytes(), b"{}").unwrap();
            let refused = Jws::parse(&forged).unwrap().verify(&set);
            assert!(
                matches!(refused, Err(JwsError::BadKey { .. })),
                "{alg}: {refused:?}"
            );
        }
    }
}

#[test]
fn without_a_kid_exactly_one_key_must_fit() {
    let (first, second) = (
        SigningKey::generate(Algorithm::Es256, "a").unwrap(),
        SigningKey::generate(Algorithm::Es256, "b").unwrap(),
    );
    let rsa = SigningKey::generate(Algorithm::Rs256, "c").unwrap();
    let token = first.sign_compact(br#"{"alg":"ES256"}"#, b"{}").unwrap();
    let jws = Jws::parse(&token).unwrap();
    let set = |keys: &[&SigningKey]| JwkSet::new(keys.iter().map(|key| key.public_jwk()).collect());
    assert!(jws.verify(&set(&[&first, &rsa])).is_ok());
    assert_eq!(jws.verify_named(&set(&[&first])), Err(JwsError::NoKid));
    assert_eq!(jws.verify(&set(&[&first, &second])), Err(JwsError::NoKid));
    assert_eq!(jws.verify(&set(&[&second])), Err(JwsError::BadSignature));
    assert!(matches!(
        jws.verify(&set(&[&rsa])),
        Err(JwsError::BadKey { .. })
    ));
    // Keys of different types may share a name.
    let shared = JwkSet::new(vec![
        rsa.public_jwk().with_members(Some("a"), None, None),
        first.public_jwk().with_members(Some("a"), None, None),
    ]);
    let named = first.sign(None, &json!({})).unwrap();
    assert!(Jws::parse(&named).unwrap().verify_named(&shared).is_ok());
}

#[test]
fn keys_that_cannot_be_used_are_set_aside_with_a_reason() {
    let good = SigningKey::generate(Algorithm::Es256, "good")
        .unwrap()
        .public_jwk()
        .to_json();
    let change = |kid: &str, name: &str, value: Value| {
        let mut key = good.clone();
        key["kid"] = kid.into();
        key[name] = value;
        key
    };
    let x = good["x"].clone();
    let set = json!({"keys": [
        good,
        {"kty": "oct", "kid": "symmetric", "k": "c2VjcmV0"},
        {"kty": "OKP", "kid": "curve", "crv": "X25519", "x": x},
        {"kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB"},
        change("point", "y", x.clone()),
        change("length", "x", json!("AAAA")),
        change("private", "d", x.clone()),
        change("operations", "key_ops", json!(["sign"])),
        {"no": "kty"},
        7
    ]});
    let set = JwkSet::from_json(set.to_string().as_bytes()).unwrap();
    assert_eq!(set.keys().len(), 1);
    let names: Vec<_> = set
        .skipped()
        .iter()
        .map(|skipped| skipped.kid.as_deref().unwrap_or("-"))
        .collect();
    assert_eq!(
        names,
        [
            "symmetric",
            "curve",
            "short",
            "point",
            "length",
            "private",
            "operations",
            "-",
            "-"
        ]
    );
    assert!(
        set.skipped()
            .iter()
            .all(|skipped| !skipped.reason.contains("c2VjcmV0"))
    );
    for text in ["", "[]", "{}", r#"{"keys":{}}"#] {
        assert!(JwkSet::from_json(text.as_bytes()).is_err(), "{text}");
    }
    // A token that names such a key hears why.
    let key = SigningKey::generate(Algorithm::Es256, "point").unwrap();
    let token = key.sign(None, &json!({})).unwrap();
    match Jws::parse(&token).unwrap().verify(&set) {
        Err(JwsError::BadKey { reason, .. }) => assert!(reason.contains("P-256"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn private_keys_are_read_only_from_fitting_pkcs8() {
    let pem = SigningKey::generate(Algorithm::Es256, "k")
        .unwrap()
        .to_pkcs8_pem()
        .unwrap();
    let read = |alg, text: &str| {
        SigningKey::from_pkcs8_pem(alg, "k", text)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    assert_eq!(read(Algorithm::Es256, pem.expose_secret()), Ok(()));
    for alg in [Algorithm::Es384, Algorithm::Rs256, Algorithm::EdDsa] {
        assert!(
            read(alg, pem.expose_secret())
                .unwrap_err()
                .contains(alg.name())
        );
    }
    for text in [
        "",
        "-----BEGIN EC PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----",
    ] {
        assert!(
            read(Algorithm::Es256, text)
                .unwrap_err()
                .contains("openssl"),
            "{text}"
        );
    }
    assert!(
        SigningKey::generate(Algorithm::Es256, "k")
            .unwrap()
            .sign(None, &json!([]))
            .is_err()
    );
}
