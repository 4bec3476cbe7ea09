//! Why a token was refused: the step, a code for programs, the claim, a sentence for people.

use std::borrow::Cow;
use std::fmt;

use crate::jws::JwsError;
use crate::time::Seconds;

/// The steps of verification, in their order; nothing of the payload but `iss` is used before the signature is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Size, three parts, base64url, JSON.
    Form = 1,
    /// `alg`, `kid`, `crit`.
    Header,
    /// `iss` is trusted.
    Issuer,
    /// Key and signature.
    Signature,
    /// Which profile, which version.
    Version,
    /// Presence and types of claims.
    Claims,
    /// `exp`, `nbf`, `iat`.
    Time,
    /// `aud`.
    Audience,
    /// `scope` and `wlcg.groups` can be read.
    Rights,
    /// The operation is allowed.
    Authorization,
}

impl Step {
    /// From 1 to 10.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// One word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Header => "header",
            Self::Issuer => "issuer",
            Self::Signature => "signature",
            Self::Version => "version",
            Self::Claims => "claims",
            Self::Time => "time",
            Self::Audience => "audience",
            Self::Rights => "rights",
            Self::Authorization => "authorization",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} ({})", self.number(), self.name())
    }
}

/// The reason for programs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// No acceptable JWS, at step 1 or in its header at step 2.
    Malformed,
    /// Signature algorithm not accepted.
    BadAlg,
    /// No key named.
    NoKid,
    /// `iss` missing or not trusted.
    UntrustedIssuer,
    /// The issuer has no such key.
    UnknownKid,
    /// The key does not fit.
    BadKey,
    /// Wrong signature.
    BadSignature,
    /// The issuer's keys cannot be had now; the token may be good.
    KeysUnavailable,
    /// No profile version claim.
    NoVersion,
    /// A version that is not understood or not switched on.
    BadVersion,
    /// A required claim is missing.
    MissingClaim(String),
    /// A claim has the wrong type or content.
    BadClaim(String),
    /// At or after `exp`.
    Expired,
    /// Before `nbf` or `iat`.
    NotYetValid,
    /// For somebody else.
    BadAudience,
    /// The scope list cannot be accepted.
    BadScope,
    /// The groups claim cannot be accepted.
    BadGroups,
    /// Good, but does not allow the operation.
    Denied,
}

impl Code {
    /// The code as text: `expired`, `missing_claim:aud`.
    #[must_use]
    pub fn text(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Malformed => "malformed",
            Self::BadAlg => "bad_alg",
            Self::NoKid => "no_kid",
            Self::UntrustedIssuer => "untrusted_issuer",
            Self::UnknownKid => "unknown_kid",
            Self::BadKey => "bad_key",
            Self::BadSignature => "bad_signature",
            Self::KeysUnavailable => "keys_unavailable",
            Self::NoVersion => "no_version",
            Self::BadVersion => "bad_version",
            Self::MissingClaim(claim) => return format!("missing_claim:{claim}").into(),
            Self::BadClaim(claim) => return format!("bad_claim:{claim}").into(),
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::BadAudience => "bad_audience",
            Self::BadScope => "bad_scope",
            Self::BadGroups => "bad_groups",
            Self::Denied => "denied",
        })
    }
}

/// A token was not accepted. [`fmt::Display`] gives the sentence for people; it may quote claims of the token, but never the
/// token or its signature. Over HTTP only [`Refusal::code`] belongs into the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(Box<Reason>);

/// Boxed, so that a result with a refusal stays small.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reason {
    step: Step,
    code: Code,
    text: Cow<'static, str>,
    claim: Option<Cow<'static, str>>,
    sentence: String,
    retry_after: Option<Seconds>,
}

impl Refusal {
    pub(crate) fn new(
        step: Step,
        code: Code,
        claim: impl Into<Option<&'static str>>,
        sentence: impl Into<String>,
    ) -> Self {
        let text = code.text();
        let claim = match &code {
            Code::MissingClaim(name) | Code::BadClaim(name) => Some(Cow::Owned(name.clone())),
            _ => claim.into().map(Cow::Borrowed),
        };
        Self(Box::new(Reason {
            step,
            code,
            text,
            claim,
            sentence: sentence.into(),
            retry_after: None,
        }))
    }

    pub(crate) fn keys_unavailable(sentence: String, retry_after: Option<Seconds>) -> Self {
        let mut refusal = Self::new(Step::Signature, Code::KeysUnavailable, None, sentence);
        refusal.0.retry_after = retry_after;
        refusal
    }

    pub(crate) fn from_jws(error: &JwsError) -> Self {
        let (step, code, claim) = match error {
            JwsError::Malformed(_) => (Step::Form, Code::Malformed, None),
            JwsError::BadHeader(_) => (Step::Header, Code::Malformed, None),
            JwsError::BadAlg(_) => (Step::Header, Code::BadAlg, Some("alg")),
            JwsError::NoKid => (Step::Header, Code::NoKid, Some("kid")),
            JwsError::UnknownKid { .. } => (Step::Signature, Code::UnknownKid, Some("kid")),
            JwsError::BadKey { .. } => (Step::Signature, Code::BadKey, Some("kid")),
            JwsError::BadSignature => (Step::Signature, Code::BadSignature, None),
        };
        Self::new(step, code, claim, error.to_string())
    }

    /// Which step failed.
    #[must_use]
    pub fn step(&self) -> Step {
        self.0.step
    }

    /// The code as text, for example `missing_claim:aud`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.text
    }

    /// The code as a value.
    #[must_use]
    pub fn kind(&self) -> &Code {
        &self.0.code
    }

    /// The claim or header member at fault, if one is.
    #[must_use]
    pub fn claim(&self) -> Option<&str> {
        self.0.claim.as_deref()
    }

    /// What happened and what to do, without the step.
    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.0.sentence
    }

    /// When asking again makes sense; only for [`Code::KeysUnavailable`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Seconds> {
        self.0.retry_after
    }

    /// The status of RFC 6750 section 3.1; our own lack of keys is 503 and no fault of the client.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self.0.code {
            Code::KeysUnavailable => 503,
            Code::Denied => 403,
            _ => 401,
        }
    }

    /// The `error` parameter of RFC 6750 section 3.1, where there is one.
    #[must_use]
    pub fn bearer_error(&self) -> Option<&'static str> {
        match self.0.code {
            Code::KeysUnavailable => None,
            Code::Denied => Some("insufficient_scope"),
            _ => Some("invalid_token"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "refused at {} with {}: {}",
            self.0.step, self.0.text, self.0.sentence
        )
    }
}

impl std::error::Error for Refusal {}
