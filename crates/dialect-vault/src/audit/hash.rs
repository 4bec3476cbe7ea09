//! The keyed hash that stands for a secret in the audit log.

use aws_lc_rs::hmac;
use serde_json::{Map, Value};

use crate::json;

const PREFIX: &[u8] = b"hmac-sha256:";
/// Length of a hash as a JSON string.
const QUOTED: usize = 2 + PREFIX.len() + 64;

/// A hash as a JSON string, quotes included.
pub(crate) type Hash = [u8; QUOTED];

/// HMAC-SHA256 under a key that belongs to this store and this use alone: equal texts have equal hashes, and nothing else can be told.
pub(crate) struct Hasher {
    key: hmac::Key,
}

impl Hasher {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Hasher {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
        }
    }

    /// Writes `"hmac-sha256:…"` for a text.
    pub(crate) fn text(&self, out: &mut Vec<u8>, text: &str) {
        out.extend_from_slice(&self.quoted(text));
    }

    /// The same as a value, for texts that are written more than once.
    pub(crate) fn quoted(&self, text: &str) -> Hash {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let tag = hmac::sign(&self.key, text.as_bytes());
        let mut quoted = [b'"'; QUOTED];
        quoted[1..=PREFIX.len()].copy_from_slice(PREFIX);
        for (pair, byte) in quoted[1 + PREFIX.len()..]
            .chunks_exact_mut(2)
            .zip(tag.as_ref())
        {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        quoted
    }

    /// Writes an answer's data: every text hashed but times; names of members, numbers and truth values as they are.
    pub(crate) fn members(&self, out: &mut Vec<u8>, members: &Map<String, Value>) {
        self.object(out, members, Source::Answer);
    }

    /// Writes parameters that somebody sent: every text hashed, and each name that is not a plain word, because it may be a secret
    /// at the wrong place.
    pub(crate) fn sent(&self, out: &mut Vec<u8>, params: &Map<String, Value>) {
        self.object(out, params, Source::Request);
    }

    fn value(&self, out: &mut Vec<u8>, value: &Value, source: Source) {
        match value {
            Value::String(text) => self.text(out, text),
            Value::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    self.value(out, element, source);
                }
                out.push(b']');
            }
            Value::Object(members) => self.object(out, members, source),
            other => json::value(out, other),
        }
    }

    fn object(&self, out: &mut Vec<u8>, members: &Map<String, Value>, source: Source) {
        out.push(b'{');
        for (index, (name, value)) in members.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            if source == Source::Answer || is_plain(name) {
                json::text(out, name);
            } else {
                self.text(out, name);
            }
            out.push(b':');
            if source == Source::Answer && is_time(name) {
                json::value(out, value);
            } else {
                self.value(out, value, source);
            }
        }
        out.push(b'}');
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Request,
    Answer,
}

fn is_plain(name: &str) -> bool {
    name.len() <= 40
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn is_time(name: &str) -> bool {
    matches!(name, "expire_time" | "issue_time" | "last_renewal")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_hashed_everywhere() {
        let hasher = Hasher::new(&[7; 32]);
        let value = json!({
            "a": "canary", "b": ["canary", 1, true, null, {"c": "canary"}], "expire_time": "2026-01-01T00:00:00Z"
        });
        let Value::Object(members) = &value else {
            unreachable!()
        };
        let mut out = Vec::new();
        hasher.members(&mut out, members);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("canary"), "{text}");
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["a"], read["b"][4]["c"]);
        assert_eq!(read["a"].as_str().unwrap().len(), "hmac-sha256:".len() + 64);
        assert_eq!(read["b"][1], 1);
        assert_eq!(read["expire_time"], "2026-01-01T00:00:00Z");
        let mut other = Vec::new();
        Hasher::new(&[8; 32]).text(&mut other, "canary");
        let other: Value = serde_json::from_slice(&other).unwrap();
        assert_ne!(other, read["a"], "another key, another hash");
    }

    #[test]
    fn names_that_were_sent_may_be_secrets() {
        let value = json!({"plain_word": 1, "hvs.canary": 2, "Canary9": {"canary-3": "canary"}, "expire_time": "canary"});
        let Value::Object(params) = &value else {
            unreachable!()
        };
        let mut out = Vec::new();
        Hasher::new(&[7; 32]).sent(&mut out, params);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.to_lowercase().contains("canary"), "{text}");
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["plain_word"], 1);
    }

    /// RFC 4231 test case 2 has a shorter key; this is its data under our fixed-length key, computed with OpenSSL.
    #[test]
    fn it_is_hmac_sha256() {
        let mut out = Vec::new();
        Hasher::new(b"0123456789abcdef0123456789abcdef")
            .text(&mut out, "what do ya want for nothing?");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\"hmac-sha256:137e6557c3c13a1ca5dc7e52a389a0f86be8cb4db4ae61c62396058b00acacd0\""
        );
    }
}
