//! JSON Web Signatures in compact form: reading, verifying, making them, and the key sets that go with them.
//! Owns RFC 7515, 7517, 7518 and 8037 as far as tokens use them; refuses to know what a claim means, who is trusted,
//! or where keys come from. A new algorithm is a variant of [`Algorithm`] and one arm in `jwk` and in `sign`.
//!
//! ```
//! use gridkeep_token::jws::{Algorithm, Jws, JwkSet, SigningKey};
//! let key = SigningKey::generate(Algorithm::Es256, "k1")?;
//! let text = key.sign(Some("JWT"), &serde_json::json!({"sub": "anna"}))?;
//! let keys = JwkSet::new(vec![key.public_jwk()]);
//! let claims = Jws::parse(&text)?.verify(&keys)?;
//! assert_eq!(claims["sub"], "anna");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod jwk;
mod sign;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use thiserror::Error;

pub use jwk::{Jwk, JwkSet, JwkSetError, KeyType, Skipped};
pub use sign::{KeyError, SigningKey};

use crate::json::strict_object;

/// Tokens of this many bytes and more are refused everywhere (HTCondor's limit).
pub const TOKEN_LIMIT: usize = 16_384;

/// A signature algorithm by its JOSE name (RFC 7518 section 3.1, RFC 8037 section 3.1). There is no `none` and no MAC,
/// so neither can be reached by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm, in the order of RFC 7518's table.
    pub const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The name in a JOSE header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The kind of key that makes and checks such signatures.
    #[must_use]
    pub const fn key_type(self) -> KeyType {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                KeyType::Rsa
            }
            Self::Es256 => KeyType::P256,
            Self::Es384 => KeyType::P384,
            Self::Es512 => KeyType::P521,
            Self::EdDsa => KeyType::Ed25519,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no signature algorithm that gridkeep knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{}\" is not a signature algorithm known here; known are RS256 to RS512, PS256 to PS512, ES256 to ES512 and EdDSA", .0.escape_debug())]
pub struct UnknownAlgorithm(pub String);

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    /// Names are case-sensitive (RFC 7515 section 4.1.1).
    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| UnknownAlgorithm(name.to_owned()))
    }
}

/// The JOSE header, after its checks. `jwk`, `jku`, `x5u` and `x5c` are kept in `members` but never used: a token may
/// not bring its own key.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The signature algorithm.
    pub alg: Algorithm,
    /// Which key of the issuer signed.
    pub kid: Option<String>,
    /// The media type; recorded, not judged.
    pub typ: Option<String>,
    /// All members as written.
    pub members: Map<String, Value>,
}

/// Why a token is no acceptable JWS. The texts name keys and members, never claim values or signatures.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JwsError {
    /// Not the form that RFC 7515 section 7.1 and this crate's limits demand.
    #[error("the token is malformed: {0}; it was damaged on the way or is no signed token")]
    Malformed(Cow<'static, str>),
    /// The form is right, but the header says something that cannot be followed: `crit`, or a member of the wrong type.
    #[error("the token's header is not acceptable: {0}; the issuer must send another")]
    BadHeader(Cow<'static, str>),
    /// `alg` is unknown, forbidden or not in the caller's list.
    #[error("the signature algorithm \"{}\" is not accepted; the issuer must sign with an asymmetric algorithm", .0.escape_debug())]
    BadAlg(String),
    /// No `kid` where one is needed to choose a key.
    #[error(
        "the token's header has no kid, so the issuer's key cannot be chosen; the issuer must name its key"
    )]
    NoKid,
    /// The issuer publishes no key of that name.
    #[error("the issuer publishes no key \"{}\"; the token is forged or the issuer changed its keys early", .kid.escape_debug())]
    UnknownKid {
        /// The name in the token's header.
        kid: String,
    },
    /// The named key exists but must not be used for this signature.
    #[error("the key \"{}\" cannot check this token: {reason}; the issuer's key set or the token's header is wrong", .kid.escape_debug())]
    BadKey {
        /// The name in the token's header, empty when it had none.
        kid: String,
        /// What does not fit.
        reason: String,
    },
    /// The signature does not belong to this content and key.
    #[error(
        "the signature is wrong: the token was changed after signing or signed with another key"
    )]
    BadSignature,
}

/// A parsed compact JWS whose signature has **not** been checked yet; [`Jws::verify`] does that.
#[derive(Clone)]
pub struct Jws<'a> {
    signing_input: &'a str,
    header: Header,
    claims: Map<String, Value>,
    header_json: String,
    payload_json: String,
    signature: Vec<u8>,
}

impl fmt::Debug for Jws<'_> {
    /// Without claims and signature: a token is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jws")
            .field("alg", &self.header.alg)
            .field("kid", &self.header.kid)
            .finish_non_exhaustive()
    }
}

impl Jws<'_> {
    /// Reads the compact form: under [`TOKEN_LIMIT`] bytes, three parts of base64url without padding, header and payload
    /// JSON objects without duplicate member names, an asymmetric `alg`, no `crit`.
    ///
    /// # Errors
    /// [`JwsError::Malformed`], [`JwsError::BadHeader`] or [`JwsError::BadAlg`].
    pub fn parse(text: &str) -> Result<Jws<'_>, JwsError> {
        if text.len() >= TOKEN_LIMIT {
            return Err(malformed("it has 16384 bytes or more"));
        }
        let mut parts = text.split('.');
        let (Some(head), Some(body), Some(tail), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it does not have three parts separated by dots"));
        };
        let header_json = decode_text(head, "header")?;
        let payload_json = decode_text(body, "payload")?;
        let signature = decode(tail, "signature")?;
        let members = strict_object(header_json.as_bytes()).map_err(|why| {
            JwsError::Malformed(format!("its header is not acceptable JSON ({why})").into())
        })?;
        let claims = strict_object(payload_json.as_bytes()).map_err(|why| {
            JwsError::Malformed(format!("its payload is not acceptable JSON ({why})").into())
        })?;
        Ok(Jws {
            signing_input: &text[..head.len() + 1 + body.len()],
            header: header(members)?,
            claims,
            header_json,
            payload_json,
            signature,
        })
    }

    /// The checked header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The claims, which anybody may have written.
    #[must_use]
    pub fn unverified_claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The header's JSON text exactly as signed.
    #[must_use]
    pub fn header_json(&self) -> &str {
        &self.header_json
    }

    /// The payload's JSON text exactly as signed: member order and the spelling of numbers survive.
    #[must_use]
    pub fn payload_json(&self) -> &str {
        &self.payload_json
    }

    /// Checks the signature with a key of `keys` and returns the claims. Without a `kid` the set must hold exactly one key
    /// that fits the algorithm, as OpenID Connect Core section 10.1 has it.
    ///
    /// # Errors
    /// [`JwsError::NoKid`], [`JwsError::UnknownKid`], [`JwsError::BadKey`] or [`JwsError::BadSignature`].
    pub fn verify(&self, keys: &JwkSet) -> Result<Map<String, Value>, JwsError> {
        self.check(keys)?;
        Ok(self.claims.clone())
    }

    /// As [`Jws::verify`], but a missing `kid` is an error, as the WLCG profile section on signing keys has it.
    ///
    /// # Errors
    /// As [`Jws::verify`].
    pub fn verify_named(&self, keys: &JwkSet) -> Result<Map<String, Value>, JwsError> {
        if self.header.kid.is_none() {
            return Err(JwsError::NoKid);
        }
        self.verify(keys)
    }

    fn check(&self, keys: &JwkSet) -> Result<(), JwsError> {
        let alg = self.header.alg;
        let candidates: Vec<&Jwk> = match &self.header.kid {
            Some(kid) => {
                let named: Vec<&Jwk> = keys
                    .keys()
                    .iter()
                    .filter(|key| key.kid() == Some(kid))
                    .collect();
                // RFC 7517 section 4.5 lets keys of different types share a name, so one misfit is no error yet.
                let fitting: Vec<&Jwk> = named
                    .iter()
                    .copied()
                    .filter(|key| key.fits(alg).is_ok())
                    .collect();
                if fitting.is_empty() {
                    return Err(unusable(kid, &named, keys, alg));
                }
                fitting
            }
            None => {
                let mut fitting = keys.keys().iter().filter(|key| key.fits(alg).is_ok());
                match (fitting.next(), fitting.next()) {
                    (Some(only), None) => vec![only],
                    (None, _) => {
                        let reason = format!("no published key can check {alg}");
                        return Err(JwsError::BadKey {
                            kid: String::new(),
                            reason,
                        });
                    }
                    (Some(_), Some(_)) => return Err(JwsError::NoKid),
                }
            }
        };
        if candidates
            .iter()
            .any(|key| key.verify_signature(alg, self.signing_input.as_bytes(), &self.signature))
        {
            Ok(())
        } else {
            Err(JwsError::BadSignature)
        }
    }
}

/// Left half of the hash of `data` under the hash function of `alg`, base64url: `at_hash` and `c_hash` of OpenID Connect
/// Core sections 3.1.3.6 and 3.3.2.11. Ed25519 uses SHA-512, its inner hash.
#[must_use]
pub fn hash_half(alg: Algorithm, data: &[u8]) -> String {
    let function = match alg {
        Algorithm::Rs256 | Algorithm::Ps256 | Algorithm::Es256 => &digest::SHA256,
        Algorithm::Rs384 | Algorithm::Ps384 | Algorithm::Es384 => &digest::SHA384,
        Algorithm::Rs512 | Algorithm::Ps512 | Algorithm::Es512 | Algorithm::EdDsa => {
            &digest::SHA512
        }
    };
    let hash = digest::digest(function, data);
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..hash.as_ref().len() / 2])
}

/// Why none of the keys called `kid` will do.
fn unusable(kid: &str, named: &[&Jwk], keys: &JwkSet, alg: Algorithm) -> JwsError {
    let misfit = named.iter().find_map(|key| key.fits(alg).err());
    let skipped = || {
        keys.skipped()
            .iter()
            .find(|key| key.kid.as_deref() == Some(kid))
            .map(|key| key.reason.clone())
    };
    match misfit.or_else(skipped) {
        Some(reason) => JwsError::BadKey {
            kid: kid.to_owned(),
            reason,
        },
        None => JwsError::UnknownKid {
            kid: kid.to_owned(),
        },
    }
}

fn header(members: Map<String, Value>) -> Result<Header, JwsError> {
    // `crit` lists what a reader must understand beyond RFC 7515; there is nothing of the kind we understand.
    if members.contains_key("crit") {
        return Err(bad_header(
            "it demands an extension (crit) that is not known here",
        ));
    }
    let alg = match members.get("alg") {
        Some(Value::String(name)) => name
            .parse()
            .map_err(|UnknownAlgorithm(name)| JwsError::BadAlg(name))?,
        Some(_) => return Err(bad_header("its member alg is not a string")),
        None => return Err(bad_header("it has no alg")),
    };
    let text = |name: &'static str| match members.get(name) {
        None => Ok(None),
        Some(Value::String(value)) => Ok(Some(value.clone())),
        Some(_) => Err(JwsError::BadHeader(
            format!("its member {name} is not a string").into(),
        )),
    };
    let (kid, typ) = (text("kid")?, text("typ")?);
    Ok(Header {
        alg,
        kid,
        typ,
        members,
    })
}

fn bad_header(why: &'static str) -> JwsError {
    JwsError::BadHeader(Cow::Borrowed(why))
}

fn malformed(why: &'static str) -> JwsError {
    JwsError::Malformed(Cow::Borrowed(why))
}

fn decode(part: &str, name: &str) -> Result<Vec<u8>, JwsError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| {
        JwsError::Malformed(format!("its {name} is not base64url without padding").into())
    })
}

fn decode_text(part: &str, name: &str) -> Result<String, JwsError> {
    String::from_utf8(decode(part, name)?)
        .map_err(|_| JwsError::Malformed(format!("its {name} is not UTF-8").into()))
}
