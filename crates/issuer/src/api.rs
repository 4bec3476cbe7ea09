//! What callers hold of an issuer: the trait, the requests it takes and the answers it gives.
//!
//! Knows no HTTP: tests of callers implement [`TokenIssuer`] with a few lines of their own.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::discovery::Metadata;
use crate::error::IssuerError;

/// A token issuer, seen by one of its registered clients.
///
/// Every call ends within the request timeout of the client, its own discovery included. None is retried inside: a
/// caller that wants a second attempt looks at [`IssuerError`] and decides.
#[async_trait]
pub trait TokenIssuer: Send + Sync {
    /// The issuer's identifier, to the character as configured (a trailing slash is part of it).
    fn url(&self) -> &str;

    /// The identifier under which this client is registered at the issuer.
    fn client_id(&self) -> &str;

    /// The issuer's metadata (OpenID Connect Discovery 1.0, RFC 8414), read when first needed; afterwards the last
    /// good document is served, whatever happens to the issuer.
    ///
    /// # Errors
    /// [`IssuerError::Temporary`] with [`Sent::No`](crate::Sent::No) while no document has ever been read.
    async fn metadata(&self) -> Result<Arc<Metadata>, IssuerError>;

    /// The address to send a browser to: authorization code grant with PKCE `S256` (RFC 6749 4.1.1, RFC 7636 4.3).
    /// Asks the issuer for nothing but its metadata. `openid` is put in front when the scopes lack it.
    ///
    /// # Errors
    /// [`IssuerError::Unsupported`] without an authorization endpoint; those of [`metadata`](Self::metadata).
    async fn authorization_url(
        &self,
        request: &AuthorizationRequest,
    ) -> Result<String, IssuerError>;

    /// Exchanges an authorization code for tokens (RFC 6749 4.1.3, RFC 7636 4.5).
    ///
    /// # Errors
    /// All of [`IssuerError`]; a code that was possibly sent must not be sent again.
    async fn redeem_code(
        &self,
        code: &SecretString,
        redirect_uri: &str,
        code_verifier: &SecretString,
    ) -> Result<TokenResponse, IssuerError>;

    /// Starts a device login (RFC 8628 3.1). `openid` is put in front when the scopes lack it.
    ///
    /// # Errors
    /// All of [`IssuerError`]; `Unsupported` without a device authorization endpoint.
    async fn start_device(&self, scopes: &[String]) -> Result<DeviceStart, IssuerError>;

    /// Asks once whether the person has finished a device login (RFC 8628 3.4). The caller keeps the interval.
    ///
    /// # Errors
    /// `Refused` with `access_denied` or `expired_token` ends the login; `Temporary` and `Throttled` do not.
    async fn poll_device(&self, device_code: &SecretString) -> Result<DevicePoll, IssuerError>;

    /// Refreshes (RFC 6749 6). The request goes out at most once and names no scope: the grant decides.
    /// `refresh_token` of the answer is `None` when the issuer keeps the old one.
    ///
    /// # Errors
    /// All of [`IssuerError`]. With `Temporary` and [`Sent::Maybe`](crate::Sent::Maybe) the issuer may have rotated
    /// the refresh token already.
    async fn refresh(&self, refresh_token: &SecretString) -> Result<TokenResponse, IssuerError>;

    /// Exchanges an access token for a narrower one (RFC 8693). The caller compares what was granted
    /// (`scope` of the answer) with what was asked for.
    ///
    /// # Errors
    /// All of [`IssuerError`].
    async fn exchange(&self, request: &ExchangeRequest) -> Result<TokenResponse, IssuerError>;

    /// Revokes a token (RFC 7009). An unknown token counts as revoked.
    ///
    /// # Errors
    /// [`IssuerError::Unsupported`] when the issuer advertises no revocation endpoint; else all of them.
    async fn revoke(&self, token: &SecretString, hint: TokenHint) -> Result<(), IssuerError>;

    /// The claims of the userinfo endpoint (OpenID Connect Core 1.0, 5.3). The caller compares `sub` with the ID
    /// token's, as section 5.3.2 demands.
    ///
    /// # Errors
    /// All of [`IssuerError`]; `InvalidToken` when a signed answer does not verify.
    async fn userinfo(
        &self,
        access_token: &SecretString,
    ) -> Result<Map<String, Value>, IssuerError>;

    /// Verifies an ID token and returns its claims (OpenID Connect Core 1.0, 3.1.3.7): signature by a key of the
    /// issuer, `iss` exact, `aud` and `azp`, times with 60 s of tolerance around `now` (seconds since 1970), `nonce`
    /// when one is given, `at_hash` when the token has one and the access token is given.
    ///
    /// # Errors
    /// `InvalidToken` says which check failed; `Temporary` when the issuer's keys could not be had, which says nothing
    /// about the token.
    async fn verify_id_token(
        &self,
        id_token: &str,
        nonce: Option<&str>,
        access_token: Option<&SecretString>,
        now: i64,
    ) -> Result<Map<String, Value>, IssuerError>;

    /// How things stand with this issuer, for health pages and metrics. Never waits.
    fn status(&self) -> IssuerStatus;

    /// Divides the budget among this many live nodes from now on; none counts as one.
    fn set_budget_share(&self, live_nodes: u32);
}

/// What goes into an authorization request.
#[derive(Debug, Clone)]
pub struct AuthorizationRequest {
    /// Where the issuer sends the browser back to, exactly as registered.
    pub redirect_uri: String,
    /// Scopes in the order to send.
    pub scopes: Vec<String>,
    /// Ties the answer to this request (RFC 6749 10.12).
    pub state: String,
    /// Ties the ID token to this request (OpenID Connect Core 1.0, 15.5.2).
    pub nonce: String,
    /// The PKCE verifier, 43 to 128 characters of RFC 7636 4.1; only its hash is sent now.
    pub code_verifier: SecretString,
}

/// A started device login (RFC 8628 3.2).
#[derive(Debug, Clone)]
pub struct DeviceStart {
    /// What [`TokenIssuer::poll_device`] takes; a secret.
    pub device_code: SecretString,
    /// What the person types.
    pub user_code: String,
    /// Where the person types it.
    pub verification_uri: String,
    /// The same with the code already in it, when the issuer offers that.
    pub verification_uri_complete: Option<String>,
    /// Seconds to leave between polls; 5 when the issuer names none.
    pub interval: u64,
    /// Seconds until the device code expires; 600 when the issuer names none.
    pub expires_in: u64,
}

/// The answer to one poll of a device login.
#[derive(Debug, Clone)]
pub enum DevicePoll {
    /// The person has not finished (`authorization_pending`).
    Pending,
    /// As `Pending`, and the interval must grow by 5 s from now on (`slow_down`).
    SlowDown,
    /// The person has logged in.
    Done(TokenResponse),
}

/// A token exchange (RFC 8693 2.1). Empty lists are not sent.
#[derive(Debug, Clone)]
pub struct ExchangeRequest {
    /// The access token to exchange.
    pub subject_token: SecretString,
    /// Scopes in the order to send, joined by blanks into one parameter.
    pub scopes: Vec<String>,
    /// One `audience` parameter each, in this order.
    pub audiences: Vec<String>,
    /// One `resource` parameter each (RFC 8707), in this order.
    pub resources: Vec<String>,
}

/// What kind of token is to be revoked (RFC 7009 2.1 `token_type_hint`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenHint {
    /// An access token.
    AccessToken,
    /// A refresh token; at most issuers its access tokens die with it.
    RefreshToken,
}

/// A successful answer of the token endpoint (RFC 6749 5.1, RFC 8693 2.2.1).
#[derive(Debug, Clone)]
pub struct TokenResponse {
    /// The access token.
    pub access_token: SecretString,
    /// `Bearer` however the issuer spelt it; any other type as it came.
    pub token_type: String,
    /// Seconds the access token lives from now on; `None` when the issuer said nothing.
    pub expires_in: Option<u64>,
    /// A refresh token, when the answer had one that is not empty.
    pub refresh_token: Option<SecretString>,
    /// An ID token, not verified yet.
    pub id_token: Option<SecretString>,
    /// Scopes granted, separated by blanks; `None` means "as requested" (RFC 6749 3.3).
    pub scope: Option<String>,
    /// What kind of token an exchange gave.
    pub issued_token_type: Option<String>,
}

/// Where the breaker of an issuer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests go out.
    Closed,
    /// Nothing goes out until this much time has passed.
    Open(Duration),
    /// One request goes out as a probe.
    HalfOpen,
}

/// How things stand with an issuer.
#[derive(Debug, Clone, PartialEq)]
pub struct IssuerStatus {
    /// Breaker.
    pub breaker: BreakerState,
    /// Temporary failures since the last answer that made sense.
    pub consecutive_failures: u32,
    /// Text of the last failure, free of secrets; `None` after a success.
    pub last_error: Option<String>,
    /// When the issuer last gave an answer that made sense, in seconds since 1970.
    pub last_success: Option<i64>,
    /// With which words the issuer last refused this server as its client (`invalid_client`, `unauthorized_client`); `None` once it
    /// takes it again.
    pub client_refused: Option<String>,
    /// Age of the metadata in use.
    pub metadata_age: Option<Duration>,
    /// Age of the key set in use.
    pub keys_age: Option<Duration>,
    /// Requests that could go out at once now, of this node's share of the budget.
    pub budget_left: f64,
}
