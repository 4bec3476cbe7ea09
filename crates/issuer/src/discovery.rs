//! An issuer's metadata: where it is found, what of it counts, what is refused.

use serde_json::{Map, Value};

/// An issuer's metadata (OpenID Connect Discovery 1.0 section 3, RFC 8414 section 2, RFC 8628 section 4).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    /// The issuer's identifier, equal to the configured one.
    pub issuer: String,
    /// Where browsers log in.
    pub authorization_endpoint: Option<String>,
    /// Where grants are exchanged for tokens.
    pub token_endpoint: Option<String>,
    /// Where device logins start.
    pub device_authorization_endpoint: Option<String>,
    /// Where tokens are revoked.
    pub revocation_endpoint: Option<String>,
    /// Where claims about the user are read.
    pub userinfo_endpoint: Option<String>,
    /// Where the signing keys are.
    pub jwks_uri: Option<String>,
    /// Ways of client authentication; empty when the issuer names none (which means `client_secret_basic`).
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// Scopes the issuer says it knows; may be empty or incomplete.
    pub scopes_supported: Vec<String>,
    /// Grants the issuer says it knows; may be empty or incomplete.
    pub grant_types_supported: Vec<String>,
    /// The whole document.
    pub document: Map<String, Value>,
}
