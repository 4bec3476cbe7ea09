//! A token issuer inside the process: every device login is finished by the time it is asked about.
//!
//! Says what a login needs and refuses everything else, so that nothing of what is measured goes over a network.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridkeep_issuer::{
    AuthorizationRequest, BreakerState, DevicePoll, DeviceStart, ExchangeRequest, IssuerError,
    IssuerStatus, Metadata, TokenHint, TokenIssuer, TokenResponse,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

/// Access tokens live longer than any run of the benchmarks, so that nothing is refreshed meanwhile.
const ACCESS_SECONDS: u64 = 7 * 86_400;
/// Bytes behind the dots of a token: about what a signature by RSA 2048 has.
const SIGNATURE: usize = 256;

/// The issuer. The person logged in is the device code, which the caller gives.
pub struct Inside {
    pub url: String,
    pub client_id: String,
    pub scope: String,
    pub next: std::sync::atomic::AtomicU64,
}

/// The login name of person `number`.
pub fn person(number: u64) -> String {
    format!("user{number:07}")
}

impl Inside {
    fn token(&self, claims: &Value) -> Result<SecretString, IssuerError> {
        let mut signature = [0; SIGNATURE];
        rand::fill(&mut signature).map_err(|_| missing("randomness"))?;
        let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"RS256","kid":"rsa1","typ":"at+jwt"}"#);
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        Ok(format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(signature)).into())
    }
}

fn missing(what: &str) -> IssuerError {
    IssuerError::Unsupported {
        what: what.to_owned(),
    }
}

#[async_trait]
impl TokenIssuer for Inside {
    fn url(&self) -> &str {
        &self.url
    }

    fn client_id(&self) -> &str {
        &self.client_id
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, IssuerError> {
        Ok(Arc::new(Metadata {
            issuer: self.url.clone(),
            ..Metadata::default()
        }))
    }

    async fn authorization_url(&self, _: &AuthorizationRequest) -> Result<String, IssuerError> {
        Err(missing("authorization_endpoint"))
    }

    async fn redeem_code(
        &self,
        _: &SecretString,
        _: &str,
        _: &SecretString,
    ) -> Result<TokenResponse, IssuerError> {
        Err(missing("authorization_endpoint"))
    }

    async fn start_device(&self, _: &[String]) -> Result<DeviceStart, IssuerError> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(DeviceStart {
            device_code: person(number).into(),
            user_code: "ABCD-EFGH".to_owned(),
            verification_uri: format!("{}/device", self.url),
            verification_uri_complete: None,
            interval: 1,
            expires_in: 600,
        })
    }

    async fn poll_device(&self, device_code: &SecretString) -> Result<DevicePoll, IssuerError> {
        let person = device_code.expose_secret();
        let access = self.token(&json!({
            "wlcg.ver": "1.0", "sub": person, "iss": self.url, "aud": "https://wlcg.cern.ch/jwt/v1/any", "client_id": self.client_id,
            "scope": self.scope, "nbf": 1_900_000_000, "iat": 1_900_000_000, "exp": 1_900_003_600, "jti": "6d5b9a2e-0f3c-4f35-8d19-0d3c6f0f8a5e",
        }))?;
        Ok(DevicePoll::Done(TokenResponse {
            access_token: access,
            token_type: "Bearer".to_owned(),
            expires_in: Some(ACCESS_SECONDS),
            refresh_token: Some(
                self.token(&json!({ "jti": "2c6f3f0c-53a1-4e0b-9c0e-5f9f7b0d1b11" }))?,
            ),
            id_token: Some(device_code.clone()),
            scope: Some(self.scope.clone()),
            issued_token_type: None,
        }))
    }

    async fn refresh(&self, _: &SecretString) -> Result<TokenResponse, IssuerError> {
        Err(missing("refreshing"))
    }

    async fn exchange(&self, _: &ExchangeRequest) -> Result<TokenResponse, IssuerError> {
        Err(missing("exchange"))
    }

    async fn revoke(&self, _: &SecretString, _: TokenHint) -> Result<(), IssuerError> {
        Err(missing("revocation_endpoint"))
    }

    async fn userinfo(&self, _: &SecretString) -> Result<Map<String, Value>, IssuerError> {
        Err(missing("userinfo_endpoint"))
    }

    async fn verify_id_token(
        &self,
        id_token: &str,
        _: Option<&str>,
        _: Option<&SecretString>,
        _: i64,
    ) -> Result<Map<String, Value>, IssuerError> {
        Ok(Map::from_iter([
            ("sub".to_owned(), id_token.into()),
            ("iss".to_owned(), self.url.clone().into()),
        ]))
    }

    fn set_budget_share(&self, _: u32) {}

    fn status(&self) -> IssuerStatus {
        IssuerStatus {
            breaker: BreakerState::Closed,
            consecutive_failures: 0,
            last_error: None,
            last_success: None,
            client_refused: None,
            metadata_age: None,
            keys_age: None,
            budget_left: 1.0,
        }
    }
}
