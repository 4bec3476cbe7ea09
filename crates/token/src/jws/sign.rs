//! Private keys and making signatures: for the test issuer, for `private_key_jwt`, for whoever mints.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Algorithm, Jwk};

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// A private key could not be made, read or used. The texts hold no key material.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The provider refused to make a key.
    #[error("no {0} key could be made: the cryptographic library refused")]
    Generate(Algorithm),
    /// No PKCS#8 PEM block.
    #[error(
        "the key is not PKCS#8 PEM (a block BEGIN PRIVATE KEY, not encrypted); convert it with: openssl pkcs8 -topk8 -nocrypt"
    )]
    NotPem,
    /// PKCS#8, but not of the kind that the algorithm needs.
    #[error(
        "the private key does not fit {alg} ({reason}); give the key that belongs to the algorithm"
    )]
    Misfit {
        /// What was to be signed with it.
        alg: Algorithm,
        /// The provider's reason.
        reason: String,
    },
    /// Claims must be a JSON object.
    #[error("the claims to sign are not a JSON object")]
    NotAnObject,
    /// The provider refused to sign.
    #[error("the {0} signature could not be made: the cryptographic library refused")]
    Sign(Algorithm),
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A private key with its algorithm and name.
pub struct SigningKey {
    alg: Algorithm,
    kid: String,
    pair: Pair,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("alg", &self.alg)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a new key; RSA keys have 2048 bits.
    ///
    /// # Errors
    /// [`KeyError::Generate`].
    pub fn generate(alg: Algorithm, kid: &str) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Generate(alg);
        let pair = match ec_signing(alg) {
            Some(curve) => Pair::Ec(Box::new(EcdsaKeyPair::generate(curve).map_err(failed)?)),
            None if alg == Algorithm::EdDsa => {
                Pair::Ed25519(Box::new(Ed25519KeyPair::generate().map_err(failed)?))
            }
            None => Pair::Rsa(Box::new(
                RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?,
            )),
        };
        Ok(Self {
            alg,
            kid: kid.to_owned(),
            pair,
        })
    }

    /// Reads an unencrypted PKCS#8 key in PEM.
    ///
    /// # Errors
    /// [`KeyError::NotPem`] or [`KeyError::Misfit`].
    pub fn from_pkcs8_pem(alg: Algorithm, kid: &str, pem: &str) -> Result<Self, KeyError> {
        let (_, rest) = pem.split_once(PEM_BEGIN).ok_or(KeyError::NotPem)?;
        let (body, _) = rest.split_once(PEM_END).ok_or(KeyError::NotPem)?;
        let compact: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let der = Zeroizing::new(
            STANDARD
                .decode(compact.as_bytes())
                .map_err(|_| KeyError::NotPem)?,
        );
        Self::from_pkcs8_der(alg, kid, &der)
    }

    /// Reads an unencrypted PKCS#8 key.
    ///
    /// # Errors
    /// [`KeyError::Misfit`].
    pub fn from_pkcs8_der(alg: Algorithm, kid: &str, der: &[u8]) -> Result<Self, KeyError> {
        let misfit = |error: aws_lc_rs::error::KeyRejected| KeyError::Misfit {
            alg,
            reason: error.to_string(),
        };
        let pair = match ec_signing(alg) {
            Some(curve) => Pair::Ec(Box::new(
                EcdsaKeyPair::from_pkcs8(curve, der).map_err(misfit)?,
            )),
            None if alg == Algorithm::EdDsa => {
                Pair::Ed25519(Box::new(Ed25519KeyPair::from_pkcs8(der).map_err(misfit)?))
            }
            None => Pair::Rsa(Box::new(RsaKeyPair::from_pkcs8(der).map_err(misfit)?)),
        };
        Ok(Self {
            alg,
            kid: kid.to_owned(),
            pair,
        })
    }

    /// The private key as PKCS#8 PEM, for keeping it.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when the library cannot write the key.
    pub fn to_pkcs8_pem(&self) -> Result<SecretString, KeyError> {
        let failed = |_| KeyError::Sign(self.alg);
        let der: Zeroizing<Vec<u8>> = Zeroizing::new(match &self.pair {
            Pair::Rsa(pair) => AsDer::<Pkcs8V1Der<'static>>::as_der(&**pair)
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Pair::Ec(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
        });
        let encoded = Zeroizing::new(STANDARD.encode(&*der));
        let mut pem = String::with_capacity(encoded.len() + 128);
        pem.push_str(PEM_BEGIN);
        for (at, letter) in encoded.chars().enumerate() {
            if at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(letter);
        }
        pem.push('\n');
        pem.push_str(PEM_END);
        pem.push('\n');
        Ok(SecretString::from(pem))
    }

    /// The algorithm it signs with.
    #[must_use]
    pub fn alg(&self) -> Algorithm {
        self.alg
    }

    /// The name it writes into headers.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half, marked for signatures with this algorithm.
    #[must_use]
    pub fn public_jwk(&self) -> Jwk {
        match &self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let n = public.modulus().big_endian_without_leading_zero().to_vec();
                let e = public.exponent().big_endian_without_leading_zero().to_vec();
                Jwk::rsa_public(&self.kid, self.alg, &n, &e)
            }
            Pair::Ec(pair) => Jwk::ec_public(&self.kid, self.alg, pair.public_key().as_ref()),
            Pair::Ed25519(pair) => {
                Jwk::ed25519_public(&self.kid, self.alg, pair.public_key().as_ref())
            }
        }
    }

    /// Signs `claims` with a header of `alg`, `kid` and, if given, `typ`.
    ///
    /// # Errors
    /// [`KeyError::NotAnObject`] or [`KeyError::Sign`].
    pub fn sign(&self, typ: Option<&str>, claims: &Value) -> Result<String, KeyError> {
        if !claims.is_object() {
            return Err(KeyError::NotAnObject);
        }
        let mut header = Map::new();
        header.insert("alg".to_owned(), json!(self.alg.name()));
        header.insert("kid".to_owned(), json!(self.kid));
        if let Some(typ) = typ {
            header.insert("typ".to_owned(), json!(typ));
        }
        self.sign_compact(
            Value::Object(header).to_string().as_bytes(),
            claims.to_string().as_bytes(),
        )
    }

    /// Signs header and payload exactly as given, whatever they say; tests make hostile tokens with it.
    ///
    /// # Errors
    /// [`KeyError::Sign`].
    pub fn sign_compact(&self, header: &[u8], payload: &[u8]) -> Result<String, KeyError> {
        let mut text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let signature = self.sign_bytes(text.as_bytes())?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        Ok(text)
    }

    fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError::Sign(self.alg);
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding = rsa_encoding(self.alg).ok_or(KeyError::Sign(self.alg))?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
            Pair::Ec(pair) => Ok(pair
                .sign(&random, message)
                .map_err(failed)?
                .as_ref()
                .to_vec()),
            Pair::Ed25519(pair) => Ok(pair.try_sign(message).map_err(failed)?.as_ref().to_vec()),
        }
    }
}

fn ec_signing(alg: Algorithm) -> Option<&'static EcdsaSigningAlgorithm> {
    match alg {
        Algorithm::Es256 => Some(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::Es384 => Some(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::Es512 => Some(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
        _ => None,
    }
}

fn rsa_encoding(alg: Algorithm) -> Option<&'static dyn RsaEncoding> {
    match alg {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_SHA512),
        Algorithm::Ps256 => Some(&signature::RSA_PSS_SHA256),
        Algorithm::Ps384 => Some(&signature::RSA_PSS_SHA384),
        Algorithm::Ps512 => Some(&signature::RSA_PSS_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 | Algorithm::EdDsa => None,
    }
}
