//! An issuer whose files on this host cannot be used: its users hear that, and that it may pass, until an operator mends it and
//! reloads. Leaving it out would tell them that it does not exist.

use std::sync::Arc;

use async_trait::async_trait;
use gridkeep_issuer::{
    AuthorizationRequest, BreakerState, DevicePoll, DeviceStart, ExchangeRequest, IssuerError,
    IssuerStatus, Metadata, Sent, TokenHint, TokenIssuer, TokenResponse,
};
use secrecy::SecretString;
use serde_json::{Map, Value};

/// Answers every call with why it cannot.
pub struct Unusable {
    /// The issuer's URL.
    pub url: String,
    /// Our client id there.
    pub client_id: String,
}

impl Unusable {
    fn why<T>(&self) -> Result<T, IssuerError> {
        Err(IssuerError::Temporary {
            what: "a file of its configuration on this server cannot be used; the server's log says which"
                .to_owned(),
            sent: Sent::No,
            retry_after: None,
        })
    }
}

#[async_trait]
impl TokenIssuer for Unusable {
    fn url(&self) -> &str {
        &self.url
    }

    fn client_id(&self) -> &str {
        &self.client_id
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, IssuerError> {
        self.why()
    }

    async fn authorization_url(&self, _: &AuthorizationRequest) -> Result<String, IssuerError> {
        self.why()
    }

    async fn redeem_code(
        &self,
        _: &SecretString,
        _: &str,
        _: &SecretString,
    ) -> Result<TokenResponse, IssuerError> {
        self.why()
    }

    async fn start_device(&self, _: &[String]) -> Result<DeviceStart, IssuerError> {
        self.why()
    }

    async fn poll_device(&self, _: &SecretString) -> Result<DevicePoll, IssuerError> {
        self.why()
    }

    async fn refresh(&self, _: &SecretString) -> Result<TokenResponse, IssuerError> {
        self.why()
    }

    async fn exchange(&self, _: &ExchangeRequest) -> Result<TokenResponse, IssuerError> {
        self.why()
    }

    async fn revoke(&self, _: &SecretString, _: TokenHint) -> Result<(), IssuerError> {
        self.why()
    }

    async fn userinfo(&self, _: &SecretString) -> Result<Map<String, Value>, IssuerError> {
        self.why()
    }

    async fn verify_id_token(
        &self,
        _: &str,
        _: Option<&str>,
        _: Option<&SecretString>,
        _: i64,
    ) -> Result<Map<String, Value>, IssuerError> {
        self.why()
    }

    fn set_budget_share(&self, _: u32) {}

    fn status(&self) -> IssuerStatus {
        IssuerStatus {
            breaker: BreakerState::Closed,
            consecutive_failures: 0,
            last_error: self.why::<()>().err().map(|error| error.to_string()),
            last_success: None,
            client_refused: None,
            metadata_age: None,
            keys_age: None,
            budget_left: 0.0,
        }
    }
}
