//! Public keys as JSON (RFC 7517, 7518 section 6, 8037 section 2) and the check of one signature with one key.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::Algorithm;

/// RSA keys outside these bounds are not used, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Kind and size of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// RSA, 2048 to 8192 bits.
    Rsa,
    /// Elliptic curve P-256.
    P256,
    /// Elliptic curve P-384.
    P384,
    /// Elliptic curve P-521.
    P521,
    /// Ed25519.
    Ed25519,
}

impl KeyType {
    const fn curve(self) -> Option<&'static str> {
        match self {
            Self::Rsa => None,
            Self::P256 => Some("P-256"),
            Self::P384 => Some("P-384"),
            Self::P521 => Some("P-521"),
            Self::Ed25519 => Some("Ed25519"),
        }
    }

    /// Bytes of one coordinate.
    const fn width(self) -> usize {
        match self {
            Self::P384 => 48,
            Self::P521 => 66,
            Self::Rsa | Self::P256 | Self::Ed25519 => 32,
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa => f.write_str("an RSA key"),
            Self::P256 | Self::P384 | Self::P521 => {
                write!(f, "an elliptic curve key on {}", self.curve().unwrap_or(""))
            }
            Self::Ed25519 => f.write_str("an Ed25519 key"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    /// Big-endian without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed point: 4, x, y.
    Ec(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// One public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwk {
    kid: Option<String>,
    usage: Option<String>,
    alg: Option<String>,
    key_type: KeyType,
    material: Material,
}

impl Jwk {
    /// The key's name in its set.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The member `use`: `sig`, `enc` or absent.
    #[must_use]
    pub fn usage(&self) -> Option<&str> {
        self.usage.as_deref()
    }

    /// The member `alg` as written; it may name something unknown here.
    #[must_use]
    pub fn alg(&self) -> Option<&str> {
        self.alg.as_deref()
    }

    /// Kind and size.
    #[must_use]
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// Reads one JWK.
    ///
    /// # Errors
    /// A sentence saying why the key cannot be used.
    pub fn from_value(value: &Value) -> Result<Self, String> {
        let members = value.as_object().ok_or("it is not a JSON object")?;
        if members.contains_key("d") {
            return Err("its private half is published, so anybody may sign with it".to_owned());
        }
        let optional = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("its member {name} is not a string")),
        };
        let (kid, usage, alg) = (optional("kid")?, optional("use")?, optional("alg")?);
        let kty = optional("kty")?.ok_or("it has no kty")?;
        let (key_type, material) = match kty.as_str() {
            "RSA" => rsa(members)?,
            "EC" => elliptic(members)?,
            "OKP" => edwards(members)?,
            other => {
                return Err(format!(
                    "its type {other:?} is not used for signatures here"
                ));
            }
        };
        let verifies =
            |operations: &[Value]| operations.iter().any(|operation| operation == "verify");
        if members
            .get("key_ops")
            .and_then(Value::as_array)
            .is_some_and(|operations| !verifies(operations))
        {
            return Err("its key_ops do not include verify".to_owned());
        }
        Ok(Self {
            kid,
            usage,
            alg,
            key_type,
            material,
        })
    }

    pub(super) fn rsa_public(kid: &str, alg: Algorithm, n: &[u8], e: &[u8]) -> Self {
        let material = Material::Rsa {
            n: n.to_vec(),
            e: e.to_vec(),
        };
        Self::signing(kid, alg, material)
    }

    pub(super) fn ec_public(kid: &str, alg: Algorithm, point: &[u8]) -> Self {
        Self::signing(kid, alg, Material::Ec(point.to_vec()))
    }

    pub(super) fn ed25519_public(kid: &str, alg: Algorithm, x: &[u8]) -> Self {
        Self::signing(kid, alg, Material::Ed25519(x.to_vec()))
    }

    fn signing(kid: &str, alg: Algorithm, material: Material) -> Self {
        Self {
            kid: Some(kid.to_owned()),
            usage: Some("sig".to_owned()),
            alg: Some(alg.name().to_owned()),
            key_type: alg.key_type(),
            material,
        }
    }

    /// The same key under another name, usage and algorithm member; `None` leaves the member out.
    #[must_use]
    pub fn with_members(
        mut self,
        kid: Option<&str>,
        usage: Option<&str>,
        alg: Option<&str>,
    ) -> Self {
        self.kid = kid.map(str::to_owned);
        self.usage = usage.map(str::to_owned);
        self.alg = alg.map(str::to_owned);
        self
    }

    /// Public members only, as published in a key set.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut members = self.essential();
        for (name, value) in [("kid", &self.kid), ("use", &self.usage), ("alg", &self.alg)] {
            if let Some(text) = value {
                members.insert(name.to_owned(), Value::from(text.as_str()));
            }
        }
        Value::Object(members)
    }

    /// SHA-256 thumbprint, base64url (RFC 7638).
    #[must_use]
    pub fn thumbprint(&self) -> String {
        // serde_json keeps members sorted only when built without `preserve_order`; RFC 7638 section 3 demands the order.
        let members = self.essential();
        let mut names: Vec<&String> = members.keys().collect();
        names.sort();
        let body: Vec<String> = names
            .into_iter()
            .map(|name| format!("{}:{}", json!(name), members[name]))
            .collect();
        let text = format!("{{{}}}", body.join(","));
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
    }

    /// The members that define the key (RFC 7638 section 3.2, RFC 8037 section 2).
    fn essential(&self) -> Map<String, Value> {
        let encoded = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
        let mut members = Map::new();
        match &self.material {
            Material::Rsa { n, e } => {
                members.insert("e".to_owned(), encoded(e));
                members.insert("kty".to_owned(), Value::from("RSA"));
                members.insert("n".to_owned(), encoded(n));
            }
            Material::Ec(point) => {
                let width = self.key_type.width();
                members.insert("crv".to_owned(), Value::from(self.key_type.curve()));
                members.insert("kty".to_owned(), Value::from("EC"));
                members.insert("x".to_owned(), encoded(&point[1..=width]));
                members.insert("y".to_owned(), encoded(&point[1 + width..]));
            }
            Material::Ed25519(x) => {
                members.insert("crv".to_owned(), Value::from("Ed25519"));
                members.insert("kty".to_owned(), Value::from("OKP"));
                members.insert("x".to_owned(), encoded(x));
            }
        }
        members
    }

    /// Whether this key may check signatures of `alg`; the error says what does not fit.
    pub(super) fn fits(&self, alg: Algorithm) -> Result<(), String> {
        if self.key_type != alg.key_type() {
            return Err(format!(
                "it is {}, which does not fit the algorithm {alg}",
                self.key_type
            ));
        }
        match self.alg.as_deref() {
            // RFC 9864 gives Ed25519 its own algorithm name; issuers publish either for the same key.
            Some("Ed25519") if alg == Algorithm::EdDsa => {}
            Some(own) if own != alg.name() => {
                return Err(format!(
                    "it is published for {own:?} only, the token says {alg}"
                ));
            }
            _ => {}
        }
        match self.usage.as_deref() {
            None | Some("sig") => Ok(()),
            Some(other) => Err(format!(
                "it is published for the use {other:?}, not for signatures"
            )),
        }
    }

    /// Whether `signature` belongs to `message` under this key. Whether the key is meant for that is not asked here.
    #[must_use]
    pub fn verify_signature(&self, alg: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => {
                let Some(parameters) = rsa_parameters(alg) else {
                    return false;
                };
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .is_ok()
            }
            Material::Ec(point) => {
                let Some(algorithm) = ec_algorithm(self.key_type) else {
                    return false;
                };
                UnparsedPublicKey::new(algorithm, point)
                    .verify(message, signature)
                    .is_ok()
            }
            Material::Ed25519(x) => UnparsedPublicKey::new(&signature::ED25519, x)
                .verify(message, signature)
                .is_ok(),
        }
    }
}

fn rsa_parameters(alg: Algorithm) -> Option<&'static RsaParameters> {
    match alg {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => None,
    }
}

fn ec_algorithm(key_type: KeyType) -> Option<&'static dyn VerificationAlgorithm> {
    match key_type {
        KeyType::P256 => Some(&signature::ECDSA_P256_SHA256_FIXED),
        KeyType::P384 => Some(&signature::ECDSA_P384_SHA384_FIXED),
        KeyType::P521 => Some(&signature::ECDSA_P521_SHA512_FIXED),
        KeyType::Rsa | KeyType::Ed25519 => None,
    }
}

fn bytes(members: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = members
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| format!("it has no text member {name}"))?;
    // Some issuers pad; the bytes are unambiguous either way and nothing is signed over this spelling.
    URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| format!("its member {name} is not base64url"))
}

fn rsa(members: &Map<String, Value>) -> Result<(KeyType, Material), String> {
    // RFC 7518 section 6.3.1.1 forbids leading zeros and says that implementations emit them.
    let trimmed = |name| {
        let value = bytes(members, name)?;
        let start = value
            .iter()
            .position(|byte| *byte != 0)
            .unwrap_or(value.len());
        Ok::<_, String>(value[start..].to_vec())
    };
    let (n, e) = (trimmed("n")?, trimmed("e")?);
    let bits = n
        .first()
        .map_or(0, |top| n.len() * 8 - top.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(format!(
            "it is an RSA key of {bits} bits; accepted are 2048 to 8192"
        ));
    }
    let odd = e.last().is_some_and(|low| low % 2 == 1);
    if !odd || e.as_slice() == [1] || e.len() > 8 {
        return Err("its RSA exponent is not usable".to_owned());
    }
    Ok((KeyType::Rsa, Material::Rsa { n, e }))
}

fn elliptic(members: &Map<String, Value>) -> Result<(KeyType, Material), String> {
    let name = members
        .get("crv")
        .and_then(Value::as_str)
        .ok_or("it has no crv")?;
    let key_type = [KeyType::P256, KeyType::P384, KeyType::P521]
        .into_iter()
        .find(|key_type| key_type.curve() == Some(name))
        .ok_or_else(|| format!("its curve {name:?} is not known here"))?;
    let (x, y) = (bytes(members, "x")?, bytes(members, "y")?);
    if x.len() != key_type.width() || y.len() != key_type.width() {
        return Err(format!(
            "its coordinates do not have the {} bytes of {name}",
            key_type.width()
        ));
    }
    let point = [&[4u8][..], &x, &y].concat();
    let algorithm = ec_algorithm(key_type).ok_or("its curve is not known here")?;
    UnparsedPublicKey::new(algorithm, &point)
        .parse()
        .map_err(|_| format!("its point does not lie on {name}"))?;
    Ok((key_type, Material::Ec(point)))
}

fn edwards(members: &Map<String, Value>) -> Result<(KeyType, Material), String> {
    match members.get("crv").and_then(Value::as_str) {
        Some("Ed25519") => {}
        other => {
            return Err(format!(
                "its curve {:?} is not known here",
                other.unwrap_or("")
            ));
        }
    }
    let x = bytes(members, "x")?;
    if x.len() != KeyType::Ed25519.width() {
        return Err("its public key does not have 32 bytes".to_owned());
    }
    Ok((KeyType::Ed25519, Material::Ed25519(x)))
}

/// A key of a set that is not used, and why: an unknown type, a curve nobody knows, a key that is too short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name, if it has one.
    pub kid: Option<String>,
    /// A sentence without key material.
    pub reason: String,
}

/// The text is no key set.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum JwkSetError {
    /// Not JSON.
    #[error("the key set is not JSON ({0}); the address serves something else")]
    NotJson(String),
    /// JSON without an array `keys`.
    #[error("the key set has no array named keys; the address serves something else")]
    NoKeys,
}

/// The keys that one issuer publishes (RFC 7517 section 5). Keys that cannot be used are set aside, not fatal, because
/// issuers publish keys for other purposes in the same place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwkSet {
    keys: Vec<Jwk>,
    skipped: Vec<Skipped>,
}

impl JwkSet {
    /// A set of these keys.
    #[must_use]
    pub fn new(keys: Vec<Jwk>) -> Self {
        Self {
            keys,
            skipped: Vec::new(),
        }
    }

    /// Reads a published set.
    ///
    /// # Errors
    /// [`JwkSetError`] when the text is no key set at all.
    pub fn from_json(text: &[u8]) -> Result<Self, JwkSetError> {
        let value: Value = serde_json::from_slice(text)
            .map_err(|error| JwkSetError::NotJson(error.to_string()))?;
        Self::from_value(&value)
    }

    /// As [`JwkSet::from_json`], from parsed JSON.
    ///
    /// # Errors
    /// [`JwkSetError::NoKeys`].
    pub fn from_value(value: &Value) -> Result<Self, JwkSetError> {
        let entries = value
            .get("keys")
            .and_then(Value::as_array)
            .ok_or(JwkSetError::NoKeys)?;
        let mut set = Self::default();
        for entry in entries {
            match Jwk::from_value(entry) {
                Ok(key) => set.keys.push(key),
                Err(reason) => {
                    let kid = entry.get("kid").and_then(Value::as_str).map(str::to_owned);
                    set.skipped.push(Skipped { kid, reason });
                }
            }
        }
        Ok(set)
    }

    /// The usable keys, in published order.
    #[must_use]
    pub fn keys(&self) -> &[Jwk] {
        &self.keys
    }

    /// What was set aside, and why.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Whether the set names this key at all, usable or not.
    #[must_use]
    pub fn names(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid() == Some(kid))
            || self
                .skipped
                .iter()
                .any(|key| key.kid.as_deref() == Some(kid))
    }

    /// The set as published: `{"keys": […]}`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "keys": self.keys.iter().map(Jwk::to_json).collect::<Vec<_>>() })
    }
}
