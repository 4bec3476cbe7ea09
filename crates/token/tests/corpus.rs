//! Replays the hostile inputs of `corpus/`.
#![allow(clippy::unwrap_used, reason = "a missing corpus shall fail the test")]

use std::path::Path;
use std::time::Duration;

use gridkeep_token::discovery::{Environment, discover};
use gridkeep_token::jws::{Algorithm, Jwk, JwkSet, Jws};
use gridkeep_token::mapfile::{MapFile, Style};
use gridkeep_token::profile::{StaticKeys, TrustedIssuer, Verifier};
use gridkeep_token::scope::{Language, Scopes};
use gridkeep_token::time::UnixSeconds;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

/// Name and content of every file, so that a failure names its input.
fn inputs(directory: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(directory);
    let mut inputs: Vec<(String, Vec<u8>)> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.display().to_string(), std::fs::read(path).unwrap())
        })
        .collect();
    inputs.sort();
    assert!(inputs.len() > 10, "{directory} has too few inputs");
    inputs
}

#[test]
fn hostile_tokens_are_refused() {
    let key = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    });
    let key = Jwk::from_value(&key)
        .unwrap()
        .with_members(Some("k1"), None, None);
    let keys = JwkSet::new(vec![key]);
    let known = StaticKeys::one("https://vo.example.org", keys.clone());
    let strict = Verifier::new(["https://se.example.org"])
        .trust(TrustedIssuer::wlcg("https://vo.example.org"))
        .with_algorithms(&Algorithm::ALL);
    for (name, bytes) in inputs("tokens") {
        let Ok(text) = std::str::from_utf8(&bytes) else {
            continue;
        };
        if let Ok(jws) = Jws::parse(text) {
            assert!(jws.verify(&keys).is_err(), "{name}");
            assert!(!format!("{jws:?}").contains(text), "{name}");
        }
        for verifier in [&strict, &Verifier::for_decoding()] {
            let refusal = verifier
                .verify(text, &known, UnixSeconds(1_900_000_000))
                .expect_err(&name);
            let shown = refusal.to_string();
            assert!(!shown.contains(['\n', '\0', '\u{1b}']), "{name}: {shown:?}");
            assert!(text.len() < 9 || !shown.contains(text), "{name}: {shown}");
        }
    }
}

#[test]
fn hostile_scopes_are_refused() {
    for (name, bytes) in inputs("scopes") {
        let text = String::from_utf8(bytes).unwrap();
        let found = Scopes::parse(&text, Language::Wlcg);
        let error = found.expect_err(&name).to_string();
        assert!(!error.contains(char::is_control), "{name}: {error:?}");
        // In the other vocabulary these names mean nothing, but reading them must be as safe.
        let _ = Scopes::parse(&text, Language::SciTokens);
    }
}

#[test]
fn hostile_keys_are_not_used() {
    for (name, bytes) in inputs("jwks") {
        match JwkSet::from_json(&bytes) {
            Ok(set) => assert!(set.keys().is_empty(), "{name}: {:?}", set.keys()),
            Err(error) => assert!(!error.to_string().is_empty(), "{name}"),
        }
    }
}

/// How long this thread has worked so far, without its waits for a processor.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

#[test]
fn hostile_map_files_take_bounded_time() {
    let subject = "a".repeat(2000);
    for (name, bytes) in inputs("mapfiles") {
        let text = String::from_utf8_lossy(&bytes);
        let before = worked();
        for style in [Style::HashKeys, Style::Expressions] {
            let map = MapFile::parse(&text, style);
            let _ = map.match_token("https://vo.example.org", &subject);
        }
        let took = worked() - before;
        assert!(took < Duration::from_secs(10), "{name}: {took:?}");
    }
}

#[test]
fn hostile_bearer_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in inputs("bearer") {
        let path = dir.path().join("token");
        std::fs::write(&path, &bytes).unwrap();
        let mut environment = Environment::from_variables(
            |name| (name == "BEARER_TOKEN_FILE").then(|| path.clone().into()),
            0,
        );
        environment.tmp = dir.path().join("none");
        let error = discover(&environment).expect_err(&name).to_string();
        assert!(error.contains("step 2"), "{name}: {error}");
        assert!(!error.contains("abc"), "{name}: {error}");
    }
}
