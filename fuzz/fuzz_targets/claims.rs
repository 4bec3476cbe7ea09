//! The payload of a token that a trusted issuer did sign: what it means is decided without panic, and whatever is accepted is not
//! expired, not of the future, and meant for us.
#![no_main]

use std::sync::LazyLock;

use gridkeep_token::jws::{Algorithm, JwkSet, SigningKey};
use gridkeep_token::profile::{StaticKeys, TrustedIssuer, Verifier};
use gridkeep_token::scope::Operation;
use gridkeep_token::time::UnixSeconds;
use libfuzzer_sys::fuzz_target;

const ISSUER: &str = "https://vo.example.org";
const NOW: i64 = 1_900_000_000;
const HEADERS: [&str; 3] = [
    r#"{"alg":"EdDSA","kid":"k"}"#,
    r#"{"alg":"EdDSA","kid":"k","typ":"at+jwt"}"#,
    r#"{"alg":"EdDSA","typ":"JWT"}"#,
];

static KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::generate(Algorithm::EdDsa, "k").unwrap());
static KNOWN: LazyLock<StaticKeys> =
    LazyLock::new(|| StaticKeys::one(ISSUER, JwkSet::new(vec![KEY.public_jwk()])));
static VERIFIERS: LazyLock<[Verifier; 2]> = LazyLock::new(|| {
    [
        TrustedIssuer::wlcg(ISSUER),
        TrustedIssuer::scitokens(ISSUER),
    ]
    .map(|issuer| {
        Verifier::new(["https://se.example.org"])
            .trust(issuer)
            .with_algorithms(&Algorithm::ALL)
    })
});
static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    Operation::words()
        .iter()
        .filter_map(|word| word.replace("<new path>", "/a/b").parse().ok())
        .collect()
});

fuzz_target!(|payload: &[u8]| {
    for header in HEADERS {
        let Ok(token) = KEY.sign_compact(header.as_bytes(), payload) else {
            continue;
        };
        for verifier in VERIFIERS.iter() {
            match verifier.verify(&token, &*KNOWN, UnixSeconds(NOW)) {
                Ok(verified) => {
                    assert_eq!(verified.issuer(), ISSUER);
                    // A clock may be wrong by a minute or so.
                    assert!(verified.expires().0 + 600 > NOW);
                    for operation in OPERATIONS.iter() {
                        for path in ["/", "/a", "/a/../b", "/a//b", ""] {
                            let _ = verified.authorize(operation, path);
                        }
                    }
                }
                Err(refusal) => {
                    let shown = refusal.to_string();
                    assert!(!shown.chars().any(char::is_control), "{shown:?}");
                }
            }
        }
    }
});
