//! Whether a token is good, for whom, and what it allows: the WLCG profile 1.x and SciTokens 1.0 and 2.0.
//! Owns the ten verification steps, their codes and sentences, and the policy for caching issuers' keys; refuses to know how
//! keys are fetched and what "now" is (both are parameters). A new profile is a variant of [`Profile`] and its rules in
//! `claims`.
//!
//! ```
//! use gridkeep_token::jws::{Algorithm, JwkSet, SigningKey};
//! use gridkeep_token::profile::{StaticKeys, TrustedIssuer, Verifier};
//! use gridkeep_token::time::UnixSeconds;
//! let key = SigningKey::generate(Algorithm::Es256, "k1")?;
//! let keys = StaticKeys::one("https://vo.example.org", JwkSet::new(vec![key.public_jwk()]));
//! let token = key.sign(None, &serde_json::json!({
//!     "wlcg.ver": "1.0", "iss": "https://vo.example.org", "sub": "anna", "jti": "1", "iat": 1000, "exp": 2000,
//!     "aud": "https://se.example.org", "scope": "storage.read:/data",
//! }))?;
//! let verifier = Verifier::new(["https://se.example.org"]).trust(TrustedIssuer::wlcg("https://vo.example.org"));
//! let verified = verifier.verify(&token, &keys, UnixSeconds(1500))?;
//! assert!(verified.authorize(&"read".parse()?, "/data/f").allowed);
//! assert_eq!(verifier.verify(&token, &keys, UnixSeconds(2000)).unwrap_err().code(), "expired");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod claims;
mod issuer;
pub mod key_cache;
mod keys;
mod refusal;
mod verified;
mod verify;

use std::fmt;

pub use issuer::{GroupRule, Profiles, SubjectRule, TrustedIssuer};
pub use keys::{Keys, KeysUnavailable, StaticKeys};
pub use refusal::{Code, Refusal, Step};
pub use verified::Verified;
pub use verify::{KeyRequest, Verifier};

/// Any relying party, in WLCG tokens.
pub const WLCG_ANY_AUDIENCE: &str = "https://wlcg.cern.ch/jwt/v1/any";
/// Any relying party, in SciTokens 2.0.
pub const SCITOKENS_ANY_AUDIENCE: &str = "ANY";

/// The rules a token is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// WLCG Common JWT Profiles 1.x.
    Wlcg,
    /// SciTokens 1.0.
    SciTokens1,
    /// SciTokens 2.0.
    SciTokens2,
    /// RFC 9068 without a grid profile.
    AccessToken,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wlcg => "WLCG 1.x",
            Self::SciTokens1 => "SciTokens 1.0",
            Self::SciTokens2 => "SciTokens 2.0",
            Self::AccessToken => "RFC 9068",
        })
    }
}
