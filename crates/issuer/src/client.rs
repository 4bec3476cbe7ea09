//! The client: what it is made of, and the one way each request takes through it.
//!
//! metadata (kept) → endpoint → client authentication → gate (budget, breaker) → transport → what the answer means.
//! What is asked for is not decided here but in `flow/`, one file per grant.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use gridkeep_token::jws::JwkSet;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use url::Url;

use crate::api::{
    AuthorizationRequest, DevicePoll, DeviceStart, ExchangeRequest, IssuerStatus, TokenHint,
    TokenIssuer, TokenResponse,
};
use crate::authenticate::{Authenticated, authenticate};
use crate::discovery::{self, Metadata, required};
use crate::error::{ConfigError, IssuerError};
use crate::form::Form;
use crate::gate::{Change, Gate, Pass, Urgency};
use crate::kept::{Fetched, Kept};
use crate::options::ClientOptions;
use crate::standing::{Asked, Standing, Turn};
use crate::transport::{Reply, Transport, is_protected};
use crate::{answer, flow, id_token};

/// A discovery document is used as long as no newer one can be had.
const METADATA_TRUSTED: Duration = Duration::MAX;
/// No call takes longer, whatever is configured.
const LONGEST_CALL: Duration = Duration::from_secs(3600);
/// Keys are used for two days after they were last read (WLCG profile 4.3.1).
const KEYS_TRUSTED: Duration = Duration::from_secs(2 * 86_400);

/// Where the client reads the wall clock: seconds since 1970.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A client of one issuer. Cheap to call from many tasks at once; making one reads the system's CA bundle.
pub struct Client {
    options: ClientOptions,
    transport: Transport,
    gate: Gate,
    standing: Standing,
    metadata: Kept<Metadata>,
    keys: Kept<JwkSet>,
    /// Rings when metadata or keys were read.
    changed: Arc<Notify>,
    /// Tasks that renew metadata and keys; while there is one, callers do not.
    renewers: AtomicUsize,
    clock: WallClock,
}

impl Client {
    /// A client with the system's clock. Asks the issuer for nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] says which option cannot be used.
    pub fn new(options: ClientOptions) -> Result<Self, ConfigError> {
        Self::with_clock(options, Arc::new(system_time))
    }

    /// As [`Client::new`], with a clock of the caller's. It dates client assertions, `Retry-After` and
    /// [`IssuerStatus::last_success`]; waiting goes by tokio's clock.
    ///
    /// # Errors
    /// [`ConfigError`] says which option cannot be used.
    pub fn with_clock(options: ClientOptions, clock: WallClock) -> Result<Self, ConfigError> {
        let url = checked(&options)?;
        let transport = Transport::new(&options, &url)?;
        let changed = Arc::new(Notify::new());
        Ok(Self {
            transport,
            gate: Gate::new(options.budget, options.breaker, Instant::now()),
            standing: Standing::default(),
            metadata: Kept::new(METADATA_TRUSTED, Arc::clone(&changed)),
            keys: Kept::new(KEYS_TRUSTED, Arc::clone(&changed)),
            changed,
            renewers: AtomicUsize::new(0),
            clock,
            options,
        })
    }

    /// Renews metadata and keys ahead of their end until `stop` holds `true` or its sender is gone. What nobody has
    /// asked for yet is not read. Failures are waited out; the last good copies stay in use.
    pub async fn run_background(&self, mut stop: watch::Receiver<bool>) {
        let _renewing = Renewing::new(&self.renewers);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.renew_for_ever() => {}
        }
    }

    /// An access token of the client's own (RFC 6749 4.4); `sub` in it is the client id.
    ///
    /// # Errors
    /// All of [`IssuerError`].
    pub async fn client_credentials(
        &self,
        scopes: &[String],
    ) -> Result<TokenResponse, IssuerError> {
        flow::client_credentials::obtain(self, scopes).await
    }

    async fn renew_for_ever(&self) {
        loop {
            let due = self.metadata.due().into_iter().chain(self.keys.due()).min();
            let Some(due) = due else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.changed.notified() => continue,
            }
            let deadline = self.deadline();
            if self.metadata.due().is_some_and(|due| due <= Instant::now()) {
                // Failures are logged and remembered where they happen.
                let _ = self.metadata.renew(|| self.fetch_metadata(deadline)).await;
            }
            let deadline = self.deadline();
            if self.keys.due().is_some_and(|due| due <= Instant::now()) {
                let _ = self.keys.renew(|| self.fetch_keys(deadline)).await;
            }
        }
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.options
    }

    /// When a call that starts now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.options.request_timeout.min(LONGEST_CALL)
    }

    pub(crate) fn now(&self) -> i64 {
        (self.clock)()
    }

    pub(crate) async fn metadata_by(
        &self,
        deadline: Instant,
    ) -> Result<Arc<Metadata>, IssuerError> {
        within(
            deadline,
            self.metadata
                .get(self.renews(), || self.fetch_metadata(deadline)),
        )
        .await
    }

    /// The issuer's keys.
    pub(crate) async fn keys_by(&self, deadline: Instant) -> Result<Arc<JwkSet>, IssuerError> {
        within(
            deadline,
            self.keys.get(self.renews(), || self.fetch_keys(deadline)),
        )
        .await
    }

    /// The issuer's keys, read again if that is allowed, because `seen` lacks one.
    pub(crate) async fn keys_other_than(
        &self,
        seen: &Arc<JwkSet>,
        deadline: Instant,
    ) -> Result<Arc<JwkSet>, IssuerError> {
        within(
            deadline,
            self.keys.other_than(seen, || self.fetch_keys(deadline)),
        )
        .await
    }

    /// Sends a form of ours to the token endpoint and reads the tokens in the answer.
    pub(crate) async fn ask_tokens(
        &self,
        asked: Asked,
        form: Form,
        urgency: Urgency,
    ) -> Result<TokenResponse, IssuerError> {
        let deadline = self.deadline();
        let metadata = self.metadata_by(deadline).await?;
        let endpoint = required(&metadata.token_endpoint, "token_endpoint")?;
        let read = |reply: &Reply, form: &Form, now| {
            answer::judge(reply, form, now).and_then(|object| answer::tokens(&reply.host, object))
        };
        let outcome = self
            .post(&metadata, endpoint, form, urgency, deadline, read)
            .await;
        self.note(asked, &outcome);
        outcome
    }

    /// Remembers whether the issuer takes this client, and says once in the log that it does not.
    pub(crate) fn note<T>(&self, asked: Asked, outcome: &Result<T, IssuerError>) {
        let issuer = self.options.name();
        match self.standing.note(asked, outcome) {
            Turn::None => {}
            Turn::Refused(error) => tracing::error!(
                issuer,
                error,
                "the issuer refuses this server as its client: while it does, people get no tokens that way; check clientid and secret of issuers[{issuer}], or what its operators have registered, and reload"
            ),
            Turn::Taken => {
                tracing::info!(issuer, "the issuer takes this server as its client again")
            }
        }
    }

    /// Posts a form, authenticated and through the gate; `read` says what the answer means.
    pub(crate) async fn post<T>(
        &self,
        metadata: &Metadata,
        endpoint: &str,
        form: Form,
        urgency: Urgency,
        deadline: Instant,
        read: impl FnOnce(&Reply, &Form, i64) -> Result<T, IssuerError>,
    ) -> Result<T, IssuerError> {
        let Authenticated {
            form,
            authorization,
        } = authenticate(
            form,
            &self.options.auth,
            &self.options.client_id,
            metadata,
            self.now(),
        )?;
        let pass = self.gate.enter(urgency, Instant::now())?;
        let outcome = match self
            .transport
            .post(endpoint, &form, authorization, deadline)
            .await
        {
            Ok(reply) => read(&reply, &form, self.now()),
            Err(error) => Err(error),
        };
        self.settle(pass, &outcome);
        outcome
    }

    /// Reads an endpoint with an access token, through the gate.
    pub(crate) async fn get_with_token<T>(
        &self,
        endpoint: &str,
        access_token: &SecretString,
        deadline: Instant,
        read: impl FnOnce(&Reply, &Form, i64) -> Result<T, IssuerError>,
    ) -> Result<T, IssuerError> {
        let mut header = HeaderValue::try_from(format!("Bearer {}", access_token.expose_secret()))
            .map_err(|_| IssuerError::unsent("the access token does not fit into a header"))?;
        header.set_sensitive(true);
        let form = Form::default().also_secret(access_token.clone());
        let pass = self.gate.enter(Urgency::Serving, Instant::now())?;
        let outcome = match self.transport.get(endpoint, Some(header), deadline).await {
            Ok(reply) => read(&reply, &form, self.now()),
            Err(error) => Err(error),
        };
        self.settle(pass, &outcome);
        outcome
    }

    fn settle<T>(&self, pass: Pass<'_>, outcome: &Result<T, IssuerError>) {
        let issuer = self.options.url.as_str();
        if let Err(error) = outcome {
            tracing::debug!(issuer, %error, "the issuer gave no usable answer");
        }
        match pass.settle(outcome, Instant::now(), self.now()) {
            Change::None => {}
            Change::Opened(wait) => {
                let seconds = wait.as_secs_f64();
                tracing::warn!(
                    issuer,
                    seconds,
                    "the issuer keeps failing and is left alone for a while"
                );
            }
            Change::Closed => tracing::info!(issuer, "the issuer answers again"),
        }
    }

    async fn fetch_metadata(&self, deadline: Instant) -> Result<Fetched<Metadata>, IssuerError> {
        let deadline = half_way(deadline);
        let allow = self.options.allow_http_loopback;
        discovery::fetch(
            &self.transport,
            &self.options.url,
            allow,
            deadline,
            self.now(),
        )
        .await
    }

    async fn fetch_keys(&self, deadline: Instant) -> Result<Fetched<JwkSet>, IssuerError> {
        let deadline = half_way(deadline);
        let metadata = self.metadata_by(deadline).await?;
        let address = required(&metadata.jwks_uri, "jwks_uri")?;
        let reply = self
            .transport
            .read(address, self.options.allow_http_loopback, deadline)
            .await
            .map_err(discovery::unsent)?;
        discovery::expect_document(&reply, address, self.now())?;
        let value = JwkSet::from_json(&reply.body).map_err(|error| {
            IssuerError::unsent(format!("the keys at {address} cannot be read: {error}"))
        })?;
        Ok(Fetched {
            value,
            life: reply.life(),
        })
    }

    /// Whether a caller renews what is due.
    fn renews(&self) -> bool {
        self.renewers.load(Ordering::Relaxed) == 0
    }
}

#[async_trait]
impl TokenIssuer for Client {
    fn url(&self) -> &str {
        &self.options.url
    }

    fn client_id(&self) -> &str {
        &self.options.client_id
    }

    async fn metadata(&self) -> Result<Arc<Metadata>, IssuerError> {
        self.metadata_by(self.deadline()).await
    }

    async fn authorization_url(
        &self,
        request: &AuthorizationRequest,
    ) -> Result<String, IssuerError> {
        flow::code::authorization_url(self, request).await
    }

    async fn redeem_code(
        &self,
        code: &SecretString,
        redirect_uri: &str,
        code_verifier: &SecretString,
    ) -> Result<TokenResponse, IssuerError> {
        flow::code::redeem(self, code, redirect_uri, code_verifier).await
    }

    async fn start_device(&self, scopes: &[String]) -> Result<DeviceStart, IssuerError> {
        flow::device::start(self, scopes).await
    }

    async fn poll_device(&self, device_code: &SecretString) -> Result<DevicePoll, IssuerError> {
        flow::device::poll(self, device_code).await
    }

    async fn refresh(&self, refresh_token: &SecretString) -> Result<TokenResponse, IssuerError> {
        flow::refresh::refresh(self, refresh_token).await
    }

    async fn exchange(&self, request: &ExchangeRequest) -> Result<TokenResponse, IssuerError> {
        flow::exchange::exchange(self, request).await
    }

    async fn revoke(&self, token: &SecretString, hint: TokenHint) -> Result<(), IssuerError> {
        flow::revocation::revoke(self, token, hint).await
    }

    async fn userinfo(
        &self,
        access_token: &SecretString,
    ) -> Result<Map<String, Value>, IssuerError> {
        flow::userinfo::read(self, access_token).await
    }

    async fn verify_id_token(
        &self,
        id_token: &str,
        nonce: Option<&str>,
        access_token: Option<&SecretString>,
        now: i64,
    ) -> Result<Map<String, Value>, IssuerError> {
        id_token::verify(
            self,
            id_token,
            &id_token::Expected {
                nonce,
                access_token,
                now,
            },
        )
        .await
    }

    fn set_budget_share(&self, live_nodes: u32) {
        self.gate.share(live_nodes, Instant::now());
    }

    fn status(&self) -> IssuerStatus {
        let now = Instant::now();
        let view = self.gate.view(now);
        IssuerStatus {
            breaker: view.breaker,
            consecutive_failures: view.failures,
            last_error: view
                .last_error
                .or_else(|| self.metadata.last_error())
                .or_else(|| self.keys.last_error()),
            last_success: view.last_success,
            client_refused: self.standing.refused(),
            metadata_age: self.metadata.age(now),
            keys_age: self.keys.age(now),
            budget_left: view.budget_left,
        }
    }
}

/// Waiting for somebody else's reading is bounded too.
async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, IssuerError>>,
) -> Result<T, IssuerError> {
    match tokio::time::timeout_at(deadline, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(IssuerError::unsent(
            "the issuer's metadata did not come in time",
        )),
    }
}

/// Reading a document takes half of the time that is left, so that a copy in hand can still be used in the other half.
fn half_way(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// Counts a background task while it runs.
struct Renewing<'a>(&'a AtomicUsize);

impl<'a> Renewing<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Renewing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn system_time() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn checked(options: &ClientOptions) -> Result<Url, ConfigError> {
    let wrong = |why| ConfigError::Url {
        url: options.url.clone(),
        why,
    };
    let url = Url::parse(&options.url).map_err(|_| wrong("it is not a URL"))?;
    if !is_protected(&url, options.allow_http_loopback) {
        return Err(wrong("it must begin with https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it must not have a query or a fragment"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must not have a user name or password in it"));
    }
    if options.client_id.is_empty() {
        return Err(ConfigError::ClientId {
            url: options.url.clone(),
        });
    }
    if let Some((name, _)) = options
        .authorization_params
        .iter()
        .find(|(name, _)| flow::code::is_reserved(name))
    {
        return Err(ConfigError::ReservedParameter { name: name.clone() });
    }
    let zero = |what| Err(ConfigError::Zero { what });
    if options.connect_timeout.is_zero() {
        return zero("the connect timeout");
    }
    if options.request_timeout.is_zero() {
        return zero("the request timeout");
    }
    if !(options.budget.per_second.is_finite() && options.budget.per_second > 0.0) {
        return zero("the budget's requests per second");
    }
    if options.budget.burst == 0 {
        return zero("the budget's burst");
    }
    if options.breaker.failures == 0 {
        return zero("the breaker's number of failures");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Budget;

    fn refused(change: impl FnOnce(&mut ClientOptions)) -> String {
        let mut options = ClientOptions::new("https://issuer.example.org/", "client");
        change(&mut options);
        checked(&options).unwrap_err().to_string()
    }

    #[test]
    fn options_that_cannot_work_are_named() {
        checked(&ClientOptions::new(
            "https://issuer.example.org/realms/x",
            "client",
        ))
        .unwrap();
        for (url, word) in [
            ("issuer.example.org", "not a URL"),
            ("http://issuer.example.org", "https"),
            ("http://127.0.0.1:80", "https"),
            ("https://i.org/?x", "query"),
            ("https://i.org/#x", "fragment"),
            ("https://u:p@i.org/", "user name"),
            ("file:///etc/passwd", "https"),
        ] {
            let text = refused(|options| url.clone_into(&mut options.url));
            assert!(text.contains(word), "{text}");
        }
        assert!(refused(|o| o.client_id.clear()).contains("client id"));
        assert!(
            refused(|o| o.authorization_params.push(("state".into(), "x".into())))
                .contains("state")
        );
        assert!(
            refused(|o| o.budget = Budget {
                per_second: f64::NAN,
                burst: 1
            })
            .contains("per second")
        );
        assert!(refused(|o| o.budget.burst = 0).contains("burst"));
        assert!(refused(|o| o.breaker.failures = 0).contains("failures"));
        assert!(refused(|o| o.request_timeout = Duration::ZERO).contains("request timeout"));
        assert!(refused(|o| o.connect_timeout = Duration::ZERO).contains("connect timeout"));
    }

    #[test]
    fn only_the_loopback_interface_may_be_spoken_to_in_clear() {
        for (url, allowed) in [
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080/x", true),
            ("http://localhost/", true),
            ("http://localhost.example.org/", false),
            ("http://10.0.0.1/", false),
        ] {
            let options = ClientOptions {
                allow_http_loopback: true,
                ..ClientOptions::new(url, "client")
            };
            assert_eq!(checked(&options).is_ok(), allowed, "{url}");
        }
    }
}
