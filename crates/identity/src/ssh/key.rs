//! Public keys: reading them, and which kinds are taken.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use thiserror::Error;

use super::wire::Reader;

/// Shortest RSA modulus that is taken, in bits.
const SHORTEST_RSA: usize = 2048;
/// Longest RSA modulus that can be verified with, in bits.
const LONGEST_RSA: usize = 8192;
/// Longest line that is looked at, in bytes.
const LONGEST_LINE: usize = 16 << 10;

/// The curves of ECDSA keys (RFC 5656 section 10.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn of(name: &str) -> Option<Curve> {
        Some(match name {
            "nistp256" => Curve::P256,
            "nistp384" => Curve::P384,
            "nistp521" => Curve::P521,
            _ => return None,
        })
    }

    /// Length of a coordinate, in bytes.
    pub fn length(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }
}

/// What a key consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parts {
    Ed25519(Vec<u8>),
    Ecdsa(Curve, Vec<u8>),
    Rsa { e: Vec<u8>, n: Vec<u8> },
    HardwareEd25519 { key: Vec<u8>, application: String },
    HardwareEcdsa { point: Vec<u8>, application: String },
}

/// A public key whose signatures can be verified here. Two are equal when they are the same key, whatever they are called.
#[derive(Clone)]
pub struct Key {
    parts: Parts,
    /// `type base64`, without a comment.
    line: String,
    /// Length of the type in it.
    algorithm: usize,
    fingerprint: String,
    comment: String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), self.fingerprint)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.line == other.line
    }
}

impl Eq for Key {}

/// Why a text or a blob is no key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not a key at all.
    #[error("it is not a public key of the form `type base64 comment` ({what})")]
    NotAKey {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A kind that nobody here can verify.
    #[error(
        "keys of type {algorithm} are not supported; use ssh-ed25519, ecdsa-sha2-nistp256/384/521, ssh-rsa or a hardware key (sk-)"
    )]
    Unsupported {
        /// Its type.
        algorithm: String,
    },
    /// A certificate where a key is wanted.
    #[error("it is a certificate ({algorithm}); give the public key itself")]
    Certificate {
        /// Its type.
        algorithm: String,
    },
    /// An RSA key that is too weak or too long.
    #[error(
        "the RSA key has {bits} bits, and only 2048 to 8192 are taken; make a new key (ssh-keygen -t ed25519)"
    )]
    RsaLength {
        /// Length of its modulus.
        bits: usize,
    },
}

impl Key {
    /// Reads `type base64 comment`. Blanks around it, a final newline among them, do not matter.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        let not_a_key = |what| KeyError::NotAKey { what };
        if text.len() > LONGEST_LINE || text.trim().contains(['\n', '\r']) {
            return Err(not_a_key("it is too long, or more than one line"));
        }
        let mut words = text.split_ascii_whitespace();
        let (Some(kind), Some(encoded)) = (words.next(), words.next()) else {
            return Err(not_a_key("a type and a text in base64 are needed"));
        };
        if kind.contains("-cert-v0") {
            return Err(KeyError::Certificate {
                algorithm: shown(kind),
            });
        }
        let blob = STANDARD
            .decode(encoded)
            .map_err(|_| not_a_key("its second word is not base64"))?;
        let comment = words.collect::<Vec<_>>().join(" ");
        let key = Key::from_blob(&blob, &comment)?;
        if key.algorithm() != kind {
            return Err(not_a_key("it is of another type than its first word says"));
        }
        Ok(key)
    }

    /// Reads a key as it stands in the messages of the protocol (RFC 4253 section 6.6).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_blob(blob: &[u8], comment: &str) -> Result<Key, KeyError> {
        let not_a_key = |what| KeyError::NotAKey { what };
        if blob.len() > LONGEST_LINE {
            return Err(not_a_key("it is too long"));
        }
        let mut reader = Reader::new(blob);
        let kind = reader.text().ok_or(not_a_key("it is cut off"))?;
        if kind.contains("-cert-v0") {
            return Err(KeyError::Certificate {
                algorithm: shown(kind),
            });
        }
        let parts = parts(kind, &mut reader)
            .map_err(|()| KeyError::Unsupported {
                algorithm: shown(kind),
            })?
            .filter(|_| reader.is_at_end())
            .ok_or(not_a_key("what follows its type is not what belongs to it"))?;
        if let Parts::Rsa { n, .. } = &parts {
            let bits = bit_length(n);
            if !(SHORTEST_RSA..=LONGEST_RSA).contains(&bits) {
                return Err(KeyError::RsaLength { bits });
            }
        }
        let hash = digest::digest(&digest::SHA256, blob);
        Ok(Key {
            parts,
            line: format!("{kind} {}", STANDARD.encode(blob)),
            algorithm: kind.len(),
            fingerprint: format!("SHA256:{}", STANDARD_NO_PAD.encode(hash)),
            comment: comment.trim().chars().filter(|c| !c.is_control()).collect(),
        })
    }

    /// `type base64`, the same text for the same key.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// What its owner calls it; may be empty.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Its type: `ssh-ed25519` …
    pub fn algorithm(&self) -> &str {
        &self.line[..self.algorithm]
    }

    /// Whether its private half lies in a piece of hardware that is touched to sign.
    pub fn is_hardware(&self) -> bool {
        matches!(
            self.parts,
            Parts::HardwareEd25519 { .. } | Parts::HardwareEcdsa { .. }
        )
    }

    /// `SHA256:…`, as `ssh-keygen -l` and `ssh-add -l` show it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }
}

/// What follows the type of a key: `Ok(None)` when it is not as it has to be, an error when the type is not known.
fn parts(kind: &str, reader: &mut Reader<'_>) -> Result<Option<Parts>, ()> {
    let sized = |bytes: Option<&[u8]>, length| {
        bytes
            .filter(|bytes| bytes.len() == length)
            .map(<[u8]>::to_vec)
    };
    let point = |bytes: Option<&[u8]>, curve: Curve| {
        sized(bytes, 1 + 2 * curve.length()).filter(|bytes| bytes[0] == 4)
    };
    let mut read = || {
        Some(match kind {
            "ssh-ed25519" => Parts::Ed25519(sized(reader.string(), 32)?),
            "ssh-rsa" => Parts::Rsa {
                e: reader.positive()?.to_vec(),
                n: reader.positive()?.to_vec(),
            },
            "sk-ssh-ed25519@openssh.com" => Parts::HardwareEd25519 {
                key: sized(reader.string(), 32)?,
                application: reader.text()?.to_owned(),
            },
            "sk-ecdsa-sha2-nistp256@openssh.com" => {
                reader.text().filter(|name| *name == "nistp256")?;
                Parts::HardwareEcdsa {
                    point: point(reader.string(), Curve::P256)?,
                    application: reader.text()?.to_owned(),
                }
            }
            _ => {
                let curve = Curve::of(kind.strip_prefix("ecdsa-sha2-")?)?;
                reader
                    .text()
                    .and_then(Curve::of)
                    .filter(|named| *named == curve)?;
                Parts::Ecdsa(curve, point(reader.string(), curve)?)
            }
        })
    };
    const KNOWN: [&str; 7] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    if KNOWN.contains(&kind) {
        Ok(read())
    } else {
        Err(())
    }
}

/// A type that somebody sent, fit for a message.
fn shown(kind: &str) -> String {
    kind.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn bit_length(bytes: &[u8]) -> usize {
    let leading = bytes
        .first()
        .map_or(0, |byte| byte.leading_zeros() as usize);
    bytes.len() * 8 - leading
}
