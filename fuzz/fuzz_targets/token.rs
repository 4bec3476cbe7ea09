//! Text that claims to be a token: nobody who lacks the key makes one that is accepted, and no refusal repeats what it was given.
#![no_main]

use std::sync::LazyLock;

use gridkeep_token::jws::{Algorithm, Jwk, JwkSet, Jws, SigningKey};
use gridkeep_token::profile::{StaticKeys, TrustedIssuer, Verifier};
use gridkeep_token::time::UnixSeconds;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const ISSUER: &str = "https://vo.example.org";

/// The key the corpus names, and one of each other kind whose private half nobody keeps.
static KEYS: LazyLock<JwkSet> = LazyLock::new(|| {
    let known = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    });
    let known = Jwk::from_value(&known).unwrap();
    let mut keys = vec![known.with_members(Some("k1"), None, None)];
    for (alg, kid) in [
        (Algorithm::EdDsa, "ed"),
        (Algorithm::Es512, "ec"),
        (Algorithm::Rs256, "rsa"),
    ] {
        keys.push(SigningKey::generate(alg, kid).unwrap().public_jwk());
    }
    JwkSet::new(keys)
});

static STRICT: LazyLock<Verifier> = LazyLock::new(|| {
    Verifier::new(["https://se.example.org"])
        .trust(TrustedIssuer::wlcg(ISSUER))
        .with_algorithms(&Algorithm::ALL)
});

fuzz_target!(|text: &str| {
    if let Ok(jws) = Jws::parse(text) {
        assert!(jws.verify(&KEYS).is_err());
        assert!(jws.verify_named(&KEYS).is_err());
    }
    let known = StaticKeys::one(ISSUER, KEYS.clone());
    let now = UnixSeconds(1_900_000_000);
    for verifier in [&*STRICT, &Verifier::for_decoding()] {
        let refusal = verifier
            .verify(text, &known, now)
            .expect_err("unsigned and accepted");
        let shown = refusal.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
        let _ = (refusal.http_status(), refusal.bearer_error());
    }
});
