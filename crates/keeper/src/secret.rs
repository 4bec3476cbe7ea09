//! Secrets we issue: keeper tokens, handles and login states. Each carries its issue time and a MAC under a store-wide key, so
//! that a guess dies without a look into the store.
//!
//! A keeper token is `hvs.` and base64url of: version, issue time, seed, MAC. Its id is a hash of the seed, so the store never
//! holds what the bearer shows.

use aws_lc_rs::{digest, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridkeep_token::time::UnixSeconds;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const VERSION: u8 = 1;
const MAC_LENGTH: usize = 16;
const TIME_LENGTH: usize = 8;
/// Longest text that is looked at.
const MAX_TEXT: usize = 512;

/// Identifies a keeper token; safe to store and to log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(pub [u8; 16]);

impl From<TokenId> for String {
    fn from(id: TokenId) -> String {
        hex(&id.0)
    }
}

impl TryFrom<String> for TokenId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        unhex(&text).map(TokenId).ok_or("not 32 hexadecimal digits")
    }
}

impl std::fmt::Debug for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// What kind of secret a text is; part of what the MAC covers, so one can never pass for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Token,
    Handle,
    Login,
    SshNonce,
}

impl Purpose {
    pub fn prefix(self) -> &'static str {
        match self {
            Purpose::Token => "hvs.",
            Purpose::Handle => "gkh.",
            Purpose::Login => "st_",
            Purpose::SshNonce => "sn_",
        }
    }

    fn body_length(self) -> usize {
        match self {
            Purpose::Token => 32,
            Purpose::Handle | Purpose::Login | Purpose::SshNonce => 16,
        }
    }
}

/// A parsed secret whose MAC is ours.
pub(crate) struct Proven {
    pub body: Zeroizing<Vec<u8>>,
    pub issued_at: UnixSeconds,
}

impl Proven {
    /// The id under which the record of a token lies.
    pub fn token_id(&self) -> TokenId {
        let mut input = Zeroizing::new(b"gridkeep token id\0".to_vec());
        input.extend_from_slice(&self.body);
        let hash = digest::digest(&digest::SHA256, &input);
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_ref()[..16]);
        TokenId(id)
    }

    /// The id under which the record of a handle or login lies.
    pub fn id(&self) -> Vec<u8> {
        self.body.to_vec()
    }
}

/// Makes and checks secrets.
pub(crate) struct Mint {
    key: hmac::Key,
}

impl Mint {
    pub fn new(key: &[u8; 32]) -> Self {
        Mint {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    pub fn issue(&self, purpose: Purpose, now: UnixSeconds) -> (SecretString, Proven) {
        let mut body = Zeroizing::new(vec![0; purpose.body_length()]);
        fill(&mut body);
        let mut bytes = Zeroizing::new(vec![VERSION]);
        bytes.extend_from_slice(&now.0.to_be_bytes());
        bytes.extend_from_slice(&body);
        let mac = self.mac(purpose, &bytes);
        bytes.extend_from_slice(&mac.as_ref()[..MAC_LENGTH]);
        let text = format!("{}{}", purpose.prefix(), URL_SAFE_NO_PAD.encode(&*bytes));
        (
            SecretString::from(text),
            Proven {
                body,
                issued_at: now,
            },
        )
    }

    pub fn prove(&self, purpose: Purpose, text: &str) -> Option<Proven> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let encoded = text.strip_prefix(purpose.prefix())?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).ok()?);
        if bytes.len() != 1 + TIME_LENGTH + purpose.body_length() + MAC_LENGTH
            || bytes[0] != VERSION
        {
            return None;
        }
        let (signed, mac) = bytes.split_at(bytes.len() - MAC_LENGTH);
        let expected = self.mac(purpose, signed);
        aws_lc_rs::constant_time::verify_slices_are_equal(&expected.as_ref()[..MAC_LENGTH], mac)
            .ok()?;
        let mut time = [0; TIME_LENGTH];
        time.copy_from_slice(&signed[1..=TIME_LENGTH]);
        Some(Proven {
            body: Zeroizing::new(signed[1 + TIME_LENGTH..].to_vec()),
            issued_at: UnixSeconds(i64::from_be_bytes(time)),
        })
    }

    pub fn prove_secret(&self, purpose: Purpose, text: &SecretString) -> Option<Proven> {
        self.prove(purpose, text.expose_secret())
    }

    fn mac(&self, purpose: Purpose, bytes: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(purpose.prefix().as_bytes());
        context.update(bytes);
        context.sign()
    }

    /// The accessor of a mount: `auth_oidc_1a2b3c4d`, the same on every node and after every start.
    pub fn mount_accessor(&self, kind: &str, path: &str) -> String {
        let uuid = self.stable_uuid("accessor", path);
        let class = if path.starts_with("auth/") {
            "auth_"
        } else {
            ""
        };
        format!("{class}{kind}_{}", &uuid[..8])
    }

    /// A stable identifier in the form of a UUID for something that has a name and no record.
    pub fn stable_uuid(&self, label: &str, name: &str) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(label.as_bytes());
        context.update(&[0]);
        context.update(name.as_bytes());
        let tag = context.sign();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&tag.as_ref()[..16]);
        uuid(bytes)
    }
}

/// Fills `bytes` from the system's random source.
#[expect(
    clippy::expect_used,
    reason = "without random numbers nothing here is safe, and the source does not fail on a running Linux system"
)]
pub(crate) fn fill(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the random source of the system answers");
}

/// `length` random characters of base 62, as accessors have.
pub(crate) fn base62(length: usize) -> String {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        fill(&mut bytes);
        for byte in bytes {
            // 248 is the largest multiple of 62 in a byte: below it the remainder is not biased.
            if byte < 248 && text.len() < length {
                text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
        }
    }
    text
}

/// A random identifier of 16 bytes in hexadecimal.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    hex(&bytes)
}

/// A random identifier in the form of a UUID.
pub fn random_uuid() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes);
    uuid(bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let bytes = text.as_bytes();
    if bytes.len() != 32 || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut out = [0; 16];
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(out)
}

fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = (bytes[6] & 0x0f) | 0x80; // version 8: made by a rule of its own (RFC 9562 section 5.8)
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes);
    format!(
        "{}-{}-{}-{}-{}",
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_secret_proves_itself_and_nothing_else() {
        let mint = Mint::new(&[7; 32]);
        let (text, made) = mint.issue(Purpose::Token, UnixSeconds(1_900_000_000));
        let proven = mint.prove_secret(Purpose::Token, &text).expect("ours");
        assert_eq!(proven.token_id(), made.token_id());
        assert_eq!(proven.issued_at, UnixSeconds(1_900_000_000));
        assert!(mint.prove_secret(Purpose::Handle, &text).is_none());
        assert!(
            Mint::new(&[8; 32])
                .prove_secret(Purpose::Token, &text)
                .is_none()
        );
        assert!(text.expose_secret().len() < 200);
    }

    proptest! {
        #[test]
        fn any_changed_character_is_noticed(at in 4usize..80, to in "[A-Za-z0-9_-]") {
            let mint = Mint::new(&[7; 32]);
            let (text, made) = mint.issue(Purpose::Token, UnixSeconds(1));
            let mut changed = text.expose_secret().to_owned();
            prop_assume!(at < changed.len() && changed[at..=at] != to);
            changed.replace_range(at..=at, &to);
            // A character may carry unused trailing bits; then the bytes are the same or the text is refused.
            if let Some(proven) = mint.prove(Purpose::Token, &changed) {
                prop_assert_eq!(proven.token_id(), made.token_id());
            }
        }

        #[test]
        fn arbitrary_text_is_refused_quietly(text in ".{0,600}") {
            prop_assert!(Mint::new(&[7; 32]).prove(Purpose::Token, &text).is_none());
        }
    }

    #[test]
    fn ids_survive_their_text_form() {
        let id = TokenId([0xab; 16]);
        assert_eq!(TokenId::try_from(String::from(id)), Ok(id));
        assert!(TokenId::try_from("é".repeat(16)).is_err());
    }
}
