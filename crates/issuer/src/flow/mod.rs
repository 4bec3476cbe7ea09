//! What can be asked of an issuer, one file each: the parameters of the request and nothing else.
//!
//! Owns: grant types and their parameters. Knows nothing of HTTP, authentication, budgets or answers: that is
//! `client.rs`. A new grant is a new file here and a method on [`TokenIssuer`](crate::TokenIssuer) or
//! [`Client`](crate::Client).

pub(crate) mod client_credentials;
pub(crate) mod code;
pub(crate) mod device;
pub(crate) mod exchange;
pub(crate) mod refresh;
pub(crate) mod revocation;
pub(crate) mod userinfo;

/// Scopes of a login: OpenID Connect demands `openid` (Core 1.0, 3.1.2.1).
fn with_openid(scopes: &[String]) -> Vec<String> {
    let missing = !scopes.iter().any(|scope| scope == "openid");
    missing
        .then(|| "openid".to_owned())
        .into_iter()
        .chain(scopes.iter().cloned())
        .collect()
}
