//! Signatures that a real ssh-agent made (OpenSSH 9.2), and those of hardware keys, made in software by the rule of OpenSSH's
//! PROTOCOL.u2f: each verified, and each refused once anything about it is changed.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;

use super::{Form, Key, Signature, SignatureError, verify};

struct Vector {
    name: String,
    key: Key,
    message: String,
    form: Form,
    signature: Vec<u8>,
    expect: String,
}

static VECTORS: LazyLock<Vec<Vector>> = LazyLock::new(read);

fn vectors() -> &'static [Vector] {
    &VECTORS
}

fn read() -> Vec<Vector> {
    let all: Vec<Value> =
        serde_json::from_str(include_str!("../../vectors/ssh-signatures.json")).unwrap();
    all.iter()
        .map(|vector| {
            let text = |name: &str| vector[name].as_str().unwrap().to_owned();
            Vector {
                name: text("name"),
                key: Key::parse(&text("public_key")).unwrap(),
                message: text("message"),
                form: if text("form") == "bare" {
                    Form::Bare
                } else {
                    Form::Whole
                },
                signature: STANDARD.decode(text("signature")).unwrap(),
                expect: text("expect"),
            }
        })
        .collect()
}

impl Vector {
    fn check(&self, message: &str, bytes: &[u8], rsa_sha1: bool) -> Result<(), SignatureError> {
        verify(
            &self.key,
            message.as_bytes(),
            Signature {
                form: self.form,
                bytes,
                rsa_sha1,
            },
        )
    }
}

#[test]
fn every_vector_is_judged_as_it_says() {
    for vector in vectors() {
        let judged = vector.check(&vector.message, &vector.signature, true);
        let expected = match vector.expect.as_str() {
            "ok" => judged.is_ok(),
            "wrong" => judged == Err(SignatureError::Wrong),
            "malformed" => matches!(judged, Err(SignatureError::Malformed(_))),
            "other kind" => matches!(judged, Err(SignatureError::OtherKind { .. })),
            "needs whole" => matches!(judged, Err(SignatureError::HardwareNeedsWhole { .. })),
            "not touched" => judged == Err(SignatureError::NotTouched),
            other => panic!("{other}"),
        };
        assert!(expected, "{}: {judged:?}", vector.name);
    }
}

#[test]
fn a_signature_over_another_nonce_proves_nothing() {
    for vector in vectors().iter().filter(|vector| vector.expect == "ok") {
        let other = format!("{}x", vector.message);
        assert_eq!(
            vector.check(&other, &vector.signature, true),
            Err(SignatureError::Wrong),
            "{}",
            vector.name
        );
    }
}

#[test]
fn another_key_of_the_same_kind_proves_nothing() {
    let vectors = vectors();
    let (short, long) = (
        vectors
            .iter()
            .find(|vector| vector.name == "rsa2048 rsa-sha2-512 whole")
            .unwrap(),
        vectors
            .iter()
            .find(|vector| vector.name == "rsa4096 rsa-sha2-512 whole")
            .unwrap(),
    );
    let judged = verify(
        &long.key,
        short.message.as_bytes(),
        Signature {
            form: Form::Whole,
            bytes: &short.signature,
            rsa_sha1: true,
        },
    );
    assert_eq!(judged, Err(SignatureError::Wrong));
}

#[test]
fn rsa_with_sha1_is_refused_where_the_operator_wants_that_and_nothing_else_is() {
    for vector in vectors().iter().filter(|vector| vector.expect == "ok") {
        let judged = vector.check(&vector.message, &vector.signature, false);
        if vector.name.contains("ssh-rsa") {
            assert_eq!(judged, Err(SignatureError::Sha1), "{}", vector.name);
        } else {
            assert_eq!(judged, Ok(()), "{}", vector.name);
        }
    }
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    for (text, why) in [
        ("", "base64 are needed"),
        ("ssh-ed25519", "base64 are needed"),
        ("ssh-ed25519 AAAA", "cut off"),
        ("@/etc/passwd x", "not base64"),
        ("ssh-ed25519-cert-v01@openssh.com AAAA", "certificate"),
        (
            "ssh-dss AAAAB3NzaC1kc3MAAAABBwAAAAEHAAAAAQcAAAABBw==",
            "ssh-dss are not supported",
        ),
        (
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAgCB",
            "8 bits, and only 2048",
        ),
        (
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
            "another type",
        ),
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fAA==",
            "not what belongs",
        ),
    ] {
        let error = Key::parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let vector = &vectors()[0];
    let read = Key::parse(&format!("  {}\n", vector.key.line())).unwrap();
    assert_eq!(read.line(), vector.key.line());
    assert_eq!(vector.key.comment(), "a b");
    assert!(read.fingerprint().starts_with("SHA256:"));
    let two_lines = format!("{0}\n{0}", vector.key.line());
    assert!(Key::parse(&two_lines).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_changed_signature_is_accepted(which in 0usize..31, at in 0usize..600, to in any::<u8>()) {
        let vectors = vectors();
        let vector = &vectors[which];
        let mut signature = vector.signature.clone();
        prop_assume!(vector.expect == "ok" && at < signature.len() && signature[at] != to);
        signature[at] = to;
        let judged = vector.check(&vector.message, &signature, true);
        prop_assert!(judged.is_err(), "{} at {at}", vector.name);
    }

    #[test]
    fn arbitrary_bytes_are_refused_quietly(which in 0usize..31, bytes in proptest::collection::vec(any::<u8>(), 0..600), text in ".{0,200}") {
        let vectors = vectors();
        prop_assert!(vectors[which].check(&text, &bytes, true).is_err());
        let _ = Key::parse(&text);
        let _ = Key::from_blob(&bytes, &text);
        let _ = super::authorized_keys::parse(&text);
    }
}
