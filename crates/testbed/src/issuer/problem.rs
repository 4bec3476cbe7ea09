//! Why a request is refused, and how each character says it: status, OAuth error code, description.
//! It decides nothing; endpoints name a [`Problem`] and this file speaks. A new refusal is one variant and one arm per table.
//!
//! Some of these texts contain the refused secret: INDIGO IAM really does that, and a client must not pass it on.

use super::options::Character;

/// A refusal as it goes over the wire.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) error: String,
    pub(crate) description: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, error: &str, description: impl Into<String>) -> Self {
        Self {
            status,
            error: error.to_owned(),
            description: description.into(),
        }
    }
}

/// What is wrong with a request.
#[derive(Clone, Debug)]
pub(crate) enum Problem {
    ClientUnknown,
    ClientSecretWrong,
    ClientMissing,
    ClientAuthTwice,
    ClientAssertion(String),
    GrantTypeMissing,
    GrantTypeUnknown(String),
    GrantTypeForbidden(String),
    MissingParameter(&'static str),
    CodeUnknown,
    CodeExpired,
    CodeWrongClient,
    RedirectMismatch,
    PkceMissing,
    PkceMismatch,
    RefreshUnknown(String),
    RefreshExpired(String),
    RefreshRetired(String),
    RefreshRevoked(String),
    RefreshWrongClient,
    SessionGone,
    UpScoping(String),
    ScopeForbidden { client: String, scopes: String },
    ExchangeScope(String),
    ExchangeScopeMissing,
    ScopeMalformed(String),
    CapabilitySetTwice,
    NotEntitled(String),
    DeviceUnknown(String),
    DeviceExpired(String),
    DevicePending(String),
    DeviceSlowDown,
    DeviceDenied,
    SubjectInvalid(String),
    SubjectTypeWrong,
    AudienceForbidden(String),
    ResourceInvalid(String),
}

/// `problem` in the words of `character`.
pub(crate) fn refusal(character: Character, problem: &Problem) -> Refusal {
    match character {
        Character::Wlcg => wlcg(problem),
        Character::Iam => iam(problem).unwrap_or_else(|| wlcg(problem)),
        Character::Cilogon => cilogon(problem).unwrap_or_else(|| wlcg(problem)),
        Character::Keycloak => keycloak(problem).unwrap_or_else(|| wlcg(problem)),
    }
}

/// Codes of the RFCs; words of our own.
fn wlcg(problem: &Problem) -> Refusal {
    let grant = |text: &str| Refusal::new(400, "invalid_grant", text);
    let request = |text: String| Refusal::new(400, "invalid_request", text);
    match problem {
        Problem::ClientUnknown | Problem::ClientSecretWrong => {
            Refusal::new(401, "invalid_client", "client authentication failed")
        }
        Problem::ClientMissing => {
            Refusal::new(401, "invalid_client", "no client authentication found")
        }
        Problem::ClientAuthTwice => {
            request("more than one way of client authentication used".to_owned())
        }
        Problem::ClientAssertion(why) => Refusal::new(
            401,
            "invalid_client",
            format!("client assertion refused: {why}"),
        ),
        Problem::GrantTypeMissing => request("missing parameter grant_type".to_owned()),
        Problem::GrantTypeUnknown(name) => Refusal::new(
            400,
            "unsupported_grant_type",
            format!("grant type {name} is not supported"),
        ),
        Problem::GrantTypeForbidden(name) => Refusal::new(
            400,
            "unauthorized_client",
            format!("this client may not use grant type {name}"),
        ),
        Problem::MissingParameter(name) => request(format!("missing parameter {name}")),
        Problem::CodeUnknown => grant("authorization code is unknown or already used"),
        Problem::CodeExpired => grant("authorization code has expired"),
        Problem::CodeWrongClient => grant("authorization code was issued to another client"),
        Problem::RedirectMismatch => {
            grant("redirect_uri differs from that of the authorization request")
        }
        Problem::PkceMissing => grant("code_verifier is missing"),
        Problem::PkceMismatch => grant("code_verifier does not fit the code challenge"),
        Problem::RefreshUnknown(_) => grant("refresh token is unknown"),
        Problem::RefreshExpired(_) => grant("refresh token has expired"),
        Problem::RefreshRetired(_) => grant("refresh token has been replaced by a newer one"),
        Problem::RefreshRevoked(_) | Problem::SessionGone => {
            grant("refresh token has been revoked")
        }
        Problem::RefreshWrongClient => grant("refresh token was issued to another client"),
        Problem::UpScoping(scopes) => Refusal::new(
            400,
            "invalid_scope",
            format!("not granted before: {scopes}"),
        ),
        Problem::ScopeForbidden { scopes, .. } => Refusal::new(
            400,
            "invalid_scope",
            format!("not allowed for this client: {scopes}"),
        ),
        Problem::ExchangeScope(scopes) => Refusal::new(
            400,
            "invalid_scope",
            format!("not covered by the subject token: {scopes}"),
        ),
        Problem::ExchangeScopeMissing => request("missing parameter scope".to_owned()),
        Problem::ScopeMalformed(scope) => {
            Refusal::new(400, "invalid_scope", format!("malformed scope {scope}"))
        }
        Problem::CapabilitySetTwice => Refusal::new(
            400,
            "invalid_scope",
            "at most one wlcg.capabilityset may be requested",
        ),
        Problem::NotEntitled(what) => {
            Refusal::new(400, "access_denied", format!("not entitled to {what}"))
        }
        Problem::DeviceUnknown(_) => grant("device code is unknown or already used"),
        Problem::DeviceExpired(_) => Refusal::new(400, "expired_token", "device code has expired"),
        Problem::DevicePending(_) => Refusal::new(
            400,
            "authorization_pending",
            "the person has not decided yet",
        ),
        Problem::DeviceSlowDown => {
            Refusal::new(400, "slow_down", "polled before the interval was over")
        }
        Problem::DeviceDenied => {
            Refusal::new(400, "access_denied", "the person denied the request")
        }
        Problem::SubjectInvalid(_) => {
            request("subject_token is not a valid access token of this issuer".to_owned())
        }
        Problem::SubjectTypeWrong => request("only access tokens can be exchanged".to_owned()),
        Problem::AudienceForbidden(name) => Refusal::new(
            400,
            "invalid_target",
            format!("audience {name} is not available"),
        ),
        Problem::ResourceInvalid(name) => Refusal::new(
            400,
            "invalid_target",
            format!("resource {name} is not an absolute URI"),
        ),
    }
}

/// INDIGO IAM (MITREid Connect). A refused refresh token is `invalid_token` with 401, not `invalid_grant`.
fn iam(problem: &Problem) -> Option<Refusal> {
    Some(match problem {
        Problem::ClientUnknown | Problem::ClientSecretWrong | Problem::ClientAssertion(_) => {
            Refusal::new(401, "invalid_client", "Bad client credentials")
        }
        Problem::ClientMissing => Refusal::new(
            401,
            "unauthorized",
            "Full authentication is required to access this resource",
        ),
        Problem::GrantTypeMissing => Refusal::new(400, "invalid_request", "Missing grant type"),
        Problem::GrantTypeUnknown(name) => Refusal::new(
            400,
            "unsupported_grant_type",
            format!("Unsupported grant type: {name}"),
        ),
        Problem::GrantTypeForbidden(name) => Refusal::new(
            401,
            "invalid_client",
            format!("Unauthorized grant type: {name}"),
        ),
        Problem::CodeUnknown | Problem::CodeExpired => {
            Refusal::new(400, "invalid_grant", "Invalid authorization code")
        }
        Problem::CodeWrongClient => Refusal::new(401, "invalid_client", "Client ID mismatch"),
        Problem::RedirectMismatch => Refusal::new(400, "invalid_grant", "Redirect URI mismatch."),
        Problem::PkceMissing | Problem::PkceMismatch => Refusal::new(
            400,
            "invalid_request",
            "Code challenge and verifier do not match",
        ),
        Problem::RefreshUnknown(value)
        | Problem::RefreshRetired(value)
        | Problem::RefreshRevoked(value) => Refusal::new(
            401,
            "invalid_token",
            format!("Refresh token for value {value} was not found"),
        ),
        Problem::RefreshExpired(value) => Refusal::new(
            401,
            "invalid_token",
            format!("Invalid refresh token: {value}"),
        ),
        Problem::RefreshWrongClient => Refusal::new(
            401,
            "invalid_client",
            "Client does not own the presented refresh token",
        ),
        Problem::UpScoping(_) => Refusal::new(400, "invalid_scope", "Up-scoping is not allowed."),
        Problem::ScopeForbidden { client, .. } => Refusal::new(
            400,
            "invalid_scope",
            format!("One or more requested scope is not allowed for client '{client}'"),
        ),
        Problem::ExchangeScope(scopes) => Refusal::new(
            400,
            "invalid_scope",
            format!("scope not allowed by origin client configuration: {scopes}"),
        ),
        Problem::ExchangeScopeMissing => Refusal::new(
            400,
            "invalid_request",
            "The scope parameter is required for a token exchange request!",
        ),
        Problem::DeviceUnknown(code) => {
            Refusal::new(400, "invalid_grant", format!("Invalid device code: {code}"))
        }
        Problem::DeviceExpired(code) => Refusal::new(
            400,
            "expired_token",
            format!("Device code has expired: {code}"),
        ),
        Problem::DevicePending(code) => Refusal::new(
            400,
            "authorization_pending",
            format!("Authorization pending for code: {code}"),
        ),
        Problem::SubjectInvalid(value) => Refusal::new(
            401,
            "invalid_token",
            format!("Access token for value {value} was not found"),
        ),
        Problem::ResourceInvalid(name) => {
            Refusal::new(400, "invalid_target", format!("Not a valid URI: {name}"))
        }
        _ => return None,
    })
}

/// CILogon (OA4MP). Unknown clients and wrong secrets are `unauthorized_client`.
fn cilogon(problem: &Problem) -> Option<Refusal> {
    let grant = |text: &str| Refusal::new(400, "invalid_grant", text);
    Some(match problem {
        Problem::ClientUnknown | Problem::ClientMissing => {
            Refusal::new(400, "unauthorized_client", "unknown client")
        }
        Problem::ClientSecretWrong => Refusal::new(400, "unauthorized_client", "incorrect secret"),
        Problem::GrantTypeMissing => Refusal::new(400, "invalid_request", "missing grant type"),
        Problem::GrantTypeUnknown(name) => Refusal::new(
            400,
            "request_not_supported",
            format!("unsupported grant type \"{name}\""),
        ),
        Problem::CodeUnknown => grant("invalid token"),
        Problem::CodeExpired => grant("grant expired"),
        Problem::CodeWrongClient => {
            Refusal::new(401, "unauthorized_client", "wrong client, access denied")
        }
        Problem::PkceMissing => Refusal::new(
            400,
            "unauthorized_client",
            "missing verifier, access denied",
        ),
        Problem::PkceMismatch => Refusal::new(
            400,
            "unauthorized_client",
            "code challenge failed, access denied",
        ),
        Problem::MissingParameter("refresh_token") => {
            Refusal::new(400, "invalid_request", "missing refresh token")
        }
        Problem::MissingParameter("subject_token") => {
            Refusal::new(400, "invalid_request", "missing subject token")
        }
        Problem::MissingParameter("device_code") => {
            Refusal::new(401, "access_denied", "Missing device_code parameter")
        }
        Problem::RefreshUnknown(_) => Refusal::new(
            400,
            "invalid_token",
            "The token could not be associated with a pending flow",
        ),
        Problem::RefreshRetired(_) => grant("invalid refresh token"),
        Problem::RefreshExpired(_) => grant("expired refresh token"),
        Problem::RefreshRevoked(_) | Problem::SessionGone => Refusal::new(
            400,
            "invalid_request",
            "The refresh token is no longer valid.",
        ),
        Problem::RefreshWrongClient => grant("wrong client"),
        Problem::DeviceUnknown(_) => Refusal::new(401, "access_denied", "no pending request"),
        Problem::DeviceExpired(_) => Refusal::new(400, "expired_token", "device_code expired"),
        Problem::DevicePending(_) => {
            Refusal::new(400, "authorization_pending", "authorization pending")
        }
        Problem::DeviceSlowDown => Refusal::new(400, "slow_down", "slow down"),
        Problem::SubjectInvalid(_) => grant("unknown access token"),
        _ => return None,
    })
}

/// Keycloak.
fn keycloak(problem: &Problem) -> Option<Refusal> {
    let grant = |text: &str| Refusal::new(400, "invalid_grant", text);
    let request = |text: String| Refusal::new(400, "invalid_request", text);
    let credentials = "Invalid client or Invalid client credentials";
    Some(match problem {
        Problem::ClientUnknown | Problem::ClientMissing => {
            Refusal::new(401, "invalid_client", credentials)
        }
        Problem::ClientSecretWrong | Problem::ClientAssertion(_) => {
            Refusal::new(401, "unauthorized_client", credentials)
        }
        Problem::GrantTypeMissing => request("Missing form parameter: grant_type".to_owned()),
        Problem::GrantTypeUnknown(_) => {
            Refusal::new(400, "unsupported_grant_type", "Unsupported grant_type")
        }
        Problem::MissingParameter("refresh_token") => request("No refresh token".to_owned()),
        Problem::MissingParameter(name) => request(format!("Missing parameter: {name}")),
        Problem::CodeUnknown => grant("Code not valid"),
        Problem::CodeExpired => grant("Code is expired"),
        Problem::CodeWrongClient => grant("Auth error"),
        Problem::RedirectMismatch => grant("Incorrect redirect_uri"),
        Problem::PkceMissing => grant("PKCE code verifier not specified"),
        Problem::PkceMismatch => grant("PKCE verification failed: Code mismatch"),
        Problem::RefreshUnknown(_) => grant("Invalid refresh token"),
        Problem::RefreshExpired(_) => grant("Token is not active"),
        Problem::RefreshRetired(_) => grant("Maximum allowed refresh token reuse exceeded"),
        Problem::RefreshRevoked(_) => grant("Session not active"),
        Problem::SessionGone => grant("Session doesn't have required client"),
        Problem::RefreshWrongClient => {
            grant("Invalid refresh token. Token client and authorized client don't match")
        }
        Problem::ScopeForbidden { scopes, .. }
        | Problem::ExchangeScope(scopes)
        | Problem::UpScoping(scopes) => {
            Refusal::new(400, "invalid_scope", format!("Invalid scopes: {scopes}"))
        }
        Problem::DeviceUnknown(_) => grant("Device code not valid"),
        Problem::DeviceExpired(_) => Refusal::new(400, "expired_token", "Device code is expired"),
        Problem::DevicePending(_) => Refusal::new(
            400,
            "authorization_pending",
            "The authorization request is still pending",
        ),
        Problem::DeviceSlowDown => Refusal::new(400, "slow_down", "Slow down"),
        Problem::DeviceDenied => Refusal::new(
            400,
            "access_denied",
            "The end user denied the authorization request",
        ),
        Problem::SubjectInvalid(_) => request("Invalid token".to_owned()),
        Problem::SubjectTypeWrong => {
            request("Parameter 'subject_token' supports access tokens only".to_owned())
        }
        Problem::AudienceForbidden(name) => {
            request(format!("Requested audience not available: {name}"))
        }
        _ => return None,
    })
}
