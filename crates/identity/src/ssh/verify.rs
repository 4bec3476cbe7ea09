//! Whether a signature over a text was made with the private half of a key.
//!
//! Clients of the original send only the second string of an agent's signature, so its algorithm is not known: for RSA keys all
//! that an agent may have used are tried. Ours sends the signature as a whole, which hardware keys need: what their device adds
//! stands behind the second string.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
    VerificationAlgorithm,
};
use thiserror::Error;

use super::Key;
use super::key::{Curve, Parts};
use super::wire::Reader;

/// The names of the signatures that can be sent as a whole.
pub const FORMATS: [&str; 9] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The device says that somebody touched it (FIDO2 flag UP).
const USER_PRESENT: u8 = 1;

/// How a signature was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The second string alone, as clients of the original send it.
    Bare,
    /// The whole structure of RFC 4253 section 6.6, and of PROTOCOL.u2f for hardware keys.
    Whole,
}

/// A signature and what its making is allowed to have been.
#[derive(Debug, Clone, Copy)]
pub struct Signature<'a> {
    /// How it was sent.
    pub form: Form,
    /// The bytes.
    pub bytes: &'a [u8],
    /// Whether RSA with SHA-1 counts, which is all that old clients can make.
    pub rsa_sha1: bool,
}

/// Why a signature proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// It was not made with this key over this text.
    #[error("ssh: signature did not verify")]
    Wrong,
    /// It cannot be read.
    #[error("ssh: the signature cannot be read: {0}")]
    Malformed(&'static str),
    /// It names an algorithm that does not belong to the key.
    #[error("ssh: a signature of type {signature} does not belong to a key of type {key}")]
    OtherKind {
        /// The signature's.
        signature: String,
        /// The key's.
        key: String,
    },
    /// A hardware key's signature without what the device adds.
    #[error(
        "ssh: signatures of hardware keys ({key}) cannot be verified in the form in which this client sends them; use the htgettoken of gridkeep, or another key"
    )]
    HardwareNeedsWhole {
        /// The key's type.
        key: String,
    },
    /// The device was not touched.
    #[error("ssh: the hardware key signed without being touched, which is not accepted")]
    NotTouched,
    /// RSA with SHA-1, which this server does not take.
    #[error(
        "ssh: the signature is RSA with SHA-1, which this server does not accept; use an ed25519 or ecdsa key, or the htgettoken of gridkeep"
    )]
    Sha1,
}

/// Proves that `signature` was made over `message` with the private half of `key`.
///
/// # Errors
/// [`SignatureError`], whose texts are for the person who logs in.
pub fn verify(key: &Key, message: &[u8], signature: Signature<'_>) -> Result<(), SignatureError> {
    match signature.form {
        Form::Bare => bare(key, message, signature),
        Form::Whole => whole(key, message, signature),
    }
}

/// The name of the algorithm and the second string of a whole signature: what clients of the original send.
pub fn parts(whole: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut reader = Reader::new(whole);
    Some((reader.text()?.to_owned(), reader.string()?.to_vec()))
}

fn bare(key: &Key, message: &[u8], signature: Signature<'_>) -> Result<(), SignatureError> {
    let bytes = signature.bytes;
    match key.parts() {
        Parts::Ed25519(public) => fixed(&ED25519, public, message, bytes),
        Parts::Ecdsa(curve, point) => ecdsa(*curve, point, message, bytes),
        Parts::Rsa { e, n } => {
            let public = RsaPublicKeyComponents { e, n };
            let made_with = |hash| rsa(&public, hash, message, bytes).is_ok();
            if made_with(&RSA_PKCS1_2048_8192_SHA512) || made_with(&RSA_PKCS1_2048_8192_SHA256) {
                Ok(())
            } else {
                sha1(&public, message, bytes, signature.rsa_sha1)
            }
        }
        Parts::HardwareEd25519 { .. } | Parts::HardwareEcdsa { .. } => {
            Err(SignatureError::HardwareNeedsWhole {
                key: key.algorithm().to_owned(),
            })
        }
    }
}

fn whole(key: &Key, message: &[u8], signature: Signature<'_>) -> Result<(), SignatureError> {
    const CUT: SignatureError = SignatureError::Malformed("it ends too early");
    let mut reader = Reader::new(signature.bytes);
    let kind = reader.text().ok_or(CUT)?;
    let inner = reader.string().ok_or(CUT)?;
    let of_this_kind = match key.parts() {
        Parts::Rsa { .. } => matches!(kind, "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512"),
        _ => kind == key.algorithm(),
    };
    if !of_this_kind {
        return Err(SignatureError::OtherKind {
            signature: kind.chars().filter(|c| !c.is_control()).take(64).collect(),
            key: key.algorithm().to_owned(),
        });
    }
    let device = if key.is_hardware() {
        (reader.byte().ok_or(CUT)?, reader.number().ok_or(CUT)?)
    } else {
        (0, 0)
    };
    if !reader.is_at_end() {
        return Err(SignatureError::Malformed("something stands behind its end"));
    }
    match key.parts() {
        Parts::Ed25519(public) => fixed(&ED25519, public, message, inner),
        Parts::Ecdsa(curve, point) => ecdsa(*curve, point, message, inner),
        Parts::Rsa { e, n } => {
            let public = RsaPublicKeyComponents { e, n };
            match kind {
                "rsa-sha2-512" => rsa(&public, &RSA_PKCS1_2048_8192_SHA512, message, inner),
                "rsa-sha2-256" => rsa(&public, &RSA_PKCS1_2048_8192_SHA256, message, inner),
                _ => sha1(&public, message, inner, signature.rsa_sha1),
            }
        }
        Parts::HardwareEd25519 { key, application } => {
            let signed = of_device(application, device, message)?;
            fixed(&ED25519, key, &signed, inner)
        }
        Parts::HardwareEcdsa { point, application } => {
            let signed = of_device(application, device, message)?;
            ecdsa(Curve::P256, point, &signed, inner)
        }
    }
}

/// What a hardware key signs in the place of the message (PROTOCOL.u2f of OpenSSH).
fn of_device(
    application: &str,
    (flags, counter): (u8, u32),
    message: &[u8],
) -> Result<Vec<u8>, SignatureError> {
    if flags & USER_PRESENT == 0 {
        return Err(SignatureError::NotTouched);
    }
    let mut signed = digest::digest(&digest::SHA256, application.as_bytes())
        .as_ref()
        .to_vec();
    signed.push(flags);
    signed.extend_from_slice(&counter.to_be_bytes());
    signed.extend_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    Ok(signed)
}

fn fixed(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .map_err(|_| SignatureError::Wrong)
}

fn ecdsa(curve: Curve, point: &[u8], message: &[u8], inner: &[u8]) -> Result<(), SignatureError> {
    let algorithm: &'static dyn VerificationAlgorithm = match curve {
        Curve::P256 => &ECDSA_P256_SHA256_FIXED,
        Curve::P384 => &ECDSA_P384_SHA384_FIXED,
        Curve::P521 => &ECDSA_P521_SHA512_FIXED,
    };
    let raw = two_numbers(inner, curve.length()).ok_or(SignatureError::Malformed(
        "an ecdsa signature is two numbers of the curve's length",
    ))?;
    fixed(algorithm, point, message, &raw)
}

/// The two numbers of an ECDSA signature (RFC 5656 section 3.1.2), each at its full length.
fn two_numbers(inner: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut reader = Reader::new(inner);
    let mut raw = Vec::with_capacity(2 * length);
    for _ in 0..2 {
        let digits = reader.positive()?;
        let missing = length.checked_sub(digits.len())?;
        raw.resize(raw.len() + missing, 0);
        raw.extend_from_slice(digits);
    }
    reader.is_at_end().then_some(raw)
}

type Rsa<'a> = RsaPublicKeyComponents<&'a Vec<u8>>;

fn rsa(
    public: &Rsa<'_>,
    parameters: &'static RsaParameters,
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    // Some agents leave out zeros in front, and OpenSSH puts them there again.
    let mut padded = vec![0; public.n.len().saturating_sub(signature.len())];
    padded.extend_from_slice(signature);
    public
        .verify(parameters, message, &padded)
        .map_err(|_| SignatureError::Wrong)
}

fn sha1(
    public: &Rsa<'_>,
    message: &[u8],
    signature: &[u8],
    allowed: bool,
) -> Result<(), SignatureError> {
    rsa(
        public,
        &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        message,
        signature,
    )?;
    if allowed {
        Ok(())
    } else {
        Err(SignatureError::Sha1)
    }
}
