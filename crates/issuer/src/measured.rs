//! An issuer that counts and times what is asked of it, under the name it has in the configuration, and makes each request a span.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use metrics::{counter, describe_counter, describe_histogram, histogram};
use secrecy::SecretString;
use serde_json::{Map, Value};
use tracing::{Instrument as _, field};

use crate::api::{
    AuthorizationRequest, DevicePoll, DeviceStart, ExchangeRequest, IssuerStatus, TokenHint,
    TokenIssuer, TokenResponse,
};
use crate::discovery::Metadata;
use crate::error::{IssuerError, Sent};

const COUNT: &str = "gridkeep_issuer_requests_total";
const SECONDS: &str = "gridkeep_issuer_request_duration_seconds";
/// What an issuer is asked, and how it can end.
const OPERATIONS: [&str; 7] = [
    "code", "device", "poll", "refresh", "exchange", "revoke", "userinfo",
];
const OUTCOMES: [&str; 7] = [
    "ok",
    "refused",
    "unreachable",
    "no_answer",
    "held_back",
    "invalid",
    "unsupported",
];

/// Says what the metrics of this crate mean.
pub fn describe_metrics() {
    describe_counter!(
        COUNT,
        "Requests to token issuers by what was asked and how it ended; held_back were not sent, by our own budget or breaker"
    );
    describe_histogram!(
        SECONDS,
        metrics::Unit::Seconds,
        "Time until a token issuer's answer, discovery included where that was needed; without what was held back"
    );
}

/// See the module.
pub struct Measured {
    name: String,
    issuer: Arc<dyn TokenIssuer>,
}

impl Measured {
    /// `issuer`, counted under `name`.
    pub fn new(name: impl Into<String>, issuer: Arc<dyn TokenIssuer>) -> Self {
        let name = name.into();
        for operation in OPERATIONS {
            for outcome in OUTCOMES {
                counter!(COUNT, "issuer" => name.clone(), "operation" => operation, "outcome" => outcome).increment(0);
            }
        }
        Measured { name, issuer }
    }

    async fn measure<T>(
        &self,
        operation: &'static str,
        asking: impl Future<Output = Result<T, IssuerError>>,
    ) -> Result<T, IssuerError> {
        let span = tracing::info_span!(
            "issuer request",
            otel.kind = "client",
            otel.status_code = field::Empty,
            issuer = self.name,
            operation,
            outcome = field::Empty,
        );
        let since = Instant::now();
        let answer = asking.instrument(span.clone()).await;
        let outcome = answer.as_ref().map_or_else(word, |_| "ok");
        span.record("outcome", outcome);
        if !matches!(outcome, "ok" | "refused") {
            span.record("otel.status_code", "ERROR");
        }
        counter!(COUNT, "issuer" => self.name.clone(), "operation" => operation, "outcome" => outcome)
            .increment(1);
        if outcome != "held_back" {
            histogram!(SECONDS, "issuer" => self.name.clone(), "operation" => operation)
                .record(since.elapsed());
        }
        answer
    }
}

fn word(error: &IssuerError) -> &'static str {
    match error {
        IssuerError::Refused { .. } => "refused",
        IssuerError::Temporary { sent: Sent::No, .. } => "unreachable",
        IssuerError::Temporary {
            sent: Sent::Maybe, ..
        } => "no_answer",
        IssuerError::Throttled { .. } => "held_back",
        IssuerError::InvalidToken { .. } => "invalid",
        IssuerError::Unsupported { .. } => "unsupported",
    }
}

#[async_trait]
impl TokenIssuer for Measured {
    fn url(&self) -> &str {
        self.issuer.url()
    }

    fn client_id(&self) -> &str {
        self.issuer.client_id()
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, IssuerError> {
        self.issuer.metadata().await
    }

    async fn authorization_url(
        &self,
        request: &AuthorizationRequest,
    ) -> Result<String, IssuerError> {
        self.issuer.authorization_url(request).await
    }

    async fn redeem_code(
        &self,
        code: &SecretString,
        redirect_uri: &str,
        code_verifier: &SecretString,
    ) -> Result<TokenResponse, IssuerError> {
        let asking = self.issuer.redeem_code(code, redirect_uri, code_verifier);
        self.measure("code", asking).await
    }

    async fn start_device(&self, scopes: &[String]) -> Result<DeviceStart, IssuerError> {
        self.measure("device", self.issuer.start_device(scopes))
            .await
    }

    async fn poll_device(&self, device_code: &SecretString) -> Result<DevicePoll, IssuerError> {
        self.measure("poll", self.issuer.poll_device(device_code))
            .await
    }

    async fn refresh(&self, refresh_token: &SecretString) -> Result<TokenResponse, IssuerError> {
        self.measure("refresh", self.issuer.refresh(refresh_token))
            .await
    }

    async fn exchange(&self, request: &ExchangeRequest) -> Result<TokenResponse, IssuerError> {
        self.measure("exchange", self.issuer.exchange(request))
            .await
    }

    async fn revoke(&self, token: &SecretString, hint: TokenHint) -> Result<(), IssuerError> {
        self.measure("revoke", self.issuer.revoke(token, hint))
            .await
    }

    async fn userinfo(
        &self,
        access_token: &SecretString,
    ) -> Result<Map<String, Value>, IssuerError> {
        self.measure("userinfo", self.issuer.userinfo(access_token))
            .await
    }

    async fn verify_id_token(
        &self,
        id_token: &str,
        nonce: Option<&str>,
        access_token: Option<&SecretString>,
        now: i64,
    ) -> Result<Map<String, Value>, IssuerError> {
        self.issuer
            .verify_id_token(id_token, nonce, access_token, now)
            .await
    }

    fn status(&self) -> IssuerStatus {
        self.issuer.status()
    }

    fn set_budget_share(&self, live_nodes: u32) {
        self.issuer.set_budget_share(live_nodes);
    }
}
