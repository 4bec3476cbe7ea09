//! A real keeper over a temporary store with an issuer of a few lines, behind the service under test.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use gridkeep_dialect_vault::listener::TrustedProxies;
use gridkeep_dialect_vault::{
    AuditError, AuditFailure, AuditSink, DialectLimits, DialectOptions, VaultService,
};
use gridkeep_issuer::{
    AuthorizationRequest, DevicePoll, DeviceStart, ExchangeRequest, IssuerError, IssuerStatus,
    Metadata, TokenHint, TokenIssuer, TokenResponse,
};
use gridkeep_keeper::clock::{Clock, ManualClock};
use gridkeep_keeper::{
    CallbackMode, IssuerSetup, Keeper, KeeperOptions, LoginTerms, RoleSetup, Setup,
};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, watch};

pub const NOW: i64 = 1_785_500_000;

/// Holds up whoever comes by while it is closed.
pub struct Gate {
    closed: watch::Sender<bool>,
    came: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Gate {
            closed: watch::Sender::new(false),
            came: Semaphore::new(0),
        }
    }
}

impl Gate {
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    pub fn open(&self) {
        self.closed.send_replace(false);
    }

    /// Returns once somebody has come by who was not told of yet.
    pub async fn came(&self) {
        self.came.acquire().await.unwrap().forget();
    }

    /// Forgets who has come by so far.
    pub fn forget(&self) {
        self.came.forget_permits(usize::MAX);
    }

    pub async fn pass(&self) {
        let mut closed = self.closed.subscribe();
        self.came.add_permits(1);
        closed.wait_for(|closed| !closed).await.unwrap();
    }
}

/// An issuer that does as it is told.
#[derive(Default)]
pub struct FakeIssuer {
    pub count: AtomicU64,
    /// Who logs in next.
    pub person: Mutex<String>,
    /// The groups in the next login.
    pub groups: Mutex<Vec<String>>,
    pub device_done: AtomicBool,
    /// When set, refreshing fails with this error.
    pub refuse: Mutex<Option<IssuerError>>,
    pub exchanges: Mutex<Vec<ExchangeRequest>>,
    pub refreshed: Mutex<Vec<String>>,
    /// Whether tokens for certain audiences do not say for whom they are.
    pub opaque: AtomicBool,
    /// Life of access tokens in seconds; 0 = 3600.
    pub life: AtomicU64,
    /// When set, it does not say how long access tokens live.
    pub endless: AtomicBool,
    /// What refreshes have to pass.
    pub refreshing: Gate,
    /// What revocations have to pass.
    pub revoking: Gate,
}

impl FakeIssuer {
    fn tokens(&self, refresh: bool) -> TokenResponse {
        let count = self.count.fetch_add(1, Ordering::SeqCst);
        let life = self.life.load(Ordering::SeqCst);
        TokenResponse {
            access_token: format!("canary-access-{count}").into(),
            token_type: "Bearer".into(),
            expires_in: (!self.endless.load(Ordering::SeqCst)).then_some(if life == 0 {
                3600
            } else {
                life
            }),
            refresh_token: refresh.then(|| format!("canary-refresh-{count}").into()),
            id_token: Some("id-token".into()),
            scope: None,
            issued_token_type: None,
        }
    }
}

#[async_trait]
impl TokenIssuer for FakeIssuer {
    fn url(&self) -> &str {
        "https://issuer.example.org"
    }
    fn client_id(&self) -> &str {
        "client"
    }
    async fn metadata(&self) -> Result<Arc<Metadata>, IssuerError> {
        Err(IssuerError::Unsupported {
            what: "metadata".into(),
        })
    }
    async fn authorization_url(
        &self,
        request: &AuthorizationRequest,
    ) -> Result<String, IssuerError> {
        Ok(format!(
            "https://issuer.example.org/authorize?state={}",
            request.state
        ))
    }
    async fn redeem_code(
        &self,
        _: &SecretString,
        _: &str,
        _: &SecretString,
    ) -> Result<TokenResponse, IssuerError> {
        Ok(self.tokens(true))
    }
    async fn start_device(&self, _: &[String]) -> Result<DeviceStart, IssuerError> {
        Ok(DeviceStart {
            device_code: "device".into(),
            user_code: "ABCD-EFGH".into(),
            verification_uri: "https://issuer.example.org/device".into(),
            verification_uri_complete: None,
            interval: 3,
            expires_in: 600,
        })
    }
    async fn poll_device(&self, _: &SecretString) -> Result<DevicePoll, IssuerError> {
        if self.device_done.load(Ordering::SeqCst) {
            Ok(DevicePoll::Done(self.tokens(true)))
        } else {
            Ok(DevicePoll::Pending)
        }
    }
    async fn refresh(&self, token: &SecretString) -> Result<TokenResponse, IssuerError> {
        self.refreshing.pass().await;
        self.refreshed
            .lock()
            .unwrap()
            .push(token.expose_secret().to_owned());
        match self.refuse.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => Ok(self.tokens(true)),
        }
    }
    async fn exchange(&self, request: &ExchangeRequest) -> Result<TokenResponse, IssuerError> {
        self.exchanges.lock().unwrap().push(request.clone());
        let mut answer = TokenResponse {
            scope: Some(request.scopes.join(" ")),
            ..self.tokens(false)
        };
        if !request.audiences.is_empty() && !self.opaque.load(Ordering::SeqCst) {
            let claims =
                json!({"aud": request.audiences, "jti": answer.access_token.expose_secret()});
            let parts = [json!({"alg": "ES256"}), claims];
            let [head, body] = parts.map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
            answer.access_token = format!("{head}.{body}.c2lnbmF0dXJl").into();
        }
        Ok(answer)
    }
    async fn revoke(&self, _: &SecretString, _: TokenHint) -> Result<(), IssuerError> {
        self.revoking.pass().await;
        Ok(())
    }
    async fn userinfo(&self, _: &SecretString) -> Result<Map<String, Value>, IssuerError> {
        Err(IssuerError::Unsupported {
            what: "userinfo".into(),
        })
    }
    async fn verify_id_token(
        &self,
        _: &str,
        _: Option<&str>,
        _: Option<&SecretString>,
        _: i64,
    ) -> Result<Map<String, Value>, IssuerError> {
        let mut claims = Map::new();
        claims.insert("sub".into(), "subject-1".into());
        claims.insert(
            "wlcg.credkey".into(),
            self.person.lock().unwrap().clone().into(),
        );
        claims.insert("groups".into(), self.groups.lock().unwrap().clone().into());
        Ok(claims)
    }
    fn set_budget_share(&self, _: u32) {}

    fn status(&self) -> IssuerStatus {
        IssuerStatus {
            breaker: gridkeep_issuer::BreakerState::Closed,
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

/// Keeps lines in memory, and fails when told to.
#[derive(Default)]
pub struct MemoryAudit {
    pub lines: Mutex<Vec<String>>,
    pub full: AtomicBool,
    /// What the first line of each request has to pass.
    pub writing: Gate,
}

impl MemoryAudit {
    fn take(&self, line: Vec<u8>) -> Result<(), AuditError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(AuditError::Write {
                what: "No space left on device".into(),
            });
        }
        self.lines
            .lock()
            .unwrap()
            .push(String::from_utf8(line).unwrap());
        Ok(())
    }

    /// All lines so far, read, and forgets them.
    pub fn drain(&self) -> Vec<Value> {
        self.lines
            .lock()
            .unwrap()
            .drain(..)
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect()
    }
}

#[async_trait]
impl AuditSink for MemoryAudit {
    async fn write(&self, line: Vec<u8>) -> Result<(), AuditError> {
        self.writing.pass().await;
        self.take(line)
    }
    fn queue(&self, line: Vec<u8>) -> Result<(), AuditError> {
        self.take(line)
    }
}

pub struct House {
    pub service: VaultService,
    pub keeper: Keeper,
    pub issuer: Arc<FakeIssuer>,
    pub audit: Arc<MemoryAudit>,
    pub clock: Arc<ManualClock>,
    pub proxies: TrustedProxies,
    store: gridkeep_store::Store,
    directory: tempfile::TempDir,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    /// The single error text.
    pub fn error(&self) -> &str {
        let errors = self.json["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors: {}", self.text));
        assert_eq!(errors.len(), 1, "{}", self.text);
        errors[0].as_str().unwrap()
    }
}

pub fn setup(issuer: &Arc<FakeIssuer>) -> Setup {
    let one = |name: &str, callback_mode| IssuerSetup {
        reauth_on_scope_change: false,
        refresh_token_life: None,
        name: name.into(),
        url: "https://issuer.example.org".into(),
        client_id: "client".into(),
        client: Arc::clone(issuer) as Arc<dyn TokenIssuer>,
        callback_mode,
        credclaim: "wlcg.credkey".into(),
        credclaim_pointer: false,
        roles: vec![
            RoleSetup {
                name: "default".into(),
                scopes: vec!["storage.read:/".into()],
                credclaim: None,
                terms: LoginTerms::default(),
            },
            RoleSetup {
                name: "production".into(),
                scopes: vec!["storage.create:/".into()],
                credclaim: None,
                terms: LoginTerms::default(),
            },
        ],
    };
    Setup {
        issuers: vec![
            one("dune", CallbackMode::Device),
            one("cms", CallbackMode::Direct),
            one("icecube", CallbackMode::NoConfirm),
        ],
        public_url: "https://vault.example.org:8200".into(),
        ..Setup::default()
    }
}

fn service(
    keeper: &Keeper,
    audit: Arc<dyn AuditSink>,
    on_audit_failure: AuditFailure,
    proxies: TrustedProxies,
) -> VaultService {
    let options = DialectOptions {
        audit,
        on_audit_failure,
        version: "0.1.0".into(),
        build_date: "2026-08-18T10:00:00Z".into(),
        limits: DialectLimits::default(),
        proxies,
        metrics: None,
        seal: Arc::default(),
    };
    VaultService::new(keeper.clone(), options)
}

pub async fn house() -> House {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let key = gridkeep_store::RootKey::load_or_generate(&directory.path().join("root.key"), &data)
        .unwrap();
    let mut options = gridkeep_store::OpenOptions::new(&data, key);
    options.reserve_bytes = 0;
    // Requests have an end in real time, and a real disk may take longer than that for a flush.
    options.disk = Arc::new(gridkeep_store::testing::FaultyDisk::new());
    let store = gridkeep_store::open(options).unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let issuer = Arc::new(FakeIssuer {
        person: Mutex::new("alice".into()),
        ..FakeIssuer::default()
    });
    let keeper = Keeper::open(
        store.clone(),
        setup(&issuer),
        Arc::clone(&clock) as Arc<dyn Clock>,
        KeeperOptions::new("node", directory.path().join("spool")),
    )
    .await
    .unwrap();
    let audit = Arc::new(MemoryAudit::default());
    let proxies = TrustedProxies::default();
    let service = service(
        &keeper,
        Arc::clone(&audit) as Arc<dyn AuditSink>,
        AuditFailure::Refuse,
        proxies.clone(),
    );
    House {
        service,
        keeper,
        issuer,
        audit,
        clock,
        proxies,
        store,
        directory,
    }
}

impl House {
    /// What is done while the audit log cannot be written.
    pub fn on_audit_failure(&mut self, failure: AuditFailure) {
        let audit = Arc::clone(&self.audit) as Arc<dyn AuditSink>;
        self.service = service(&self.keeper, audit, failure, self.proxies.clone());
    }

    /// Replaces the audit log.
    pub fn audit_with(&mut self, audit: Arc<dyn AuditSink>) {
        self.service = service(
            &self.keeper,
            audit,
            AuditFailure::Refuse,
            self.proxies.clone(),
        );
    }

    /// Another keeper over the same store.
    pub async fn second_node(&self) -> Keeper {
        Keeper::open(
            self.store.clone(),
            setup(&self.issuer),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            KeeperOptions::new("second", self.directory.path().join("second")),
        )
        .await
        .unwrap()
    }

    pub fn peer() -> SocketAddr {
        "192.0.2.7:51234".parse().unwrap()
    }

    pub async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.send_from(House::peer(), method, target, headers, body)
            .await
    }

    /// A GET of the API with a token, from another address.
    pub async fn get_from(&self, address: &str, path: &str, token: &str) -> Answer {
        let peer = SocketAddr::new(address.parse().unwrap(), 40_000);
        let headers = [("x-vault-token", token)];
        self.send_from(peer, "GET", &format!("/v1/{path}"), &headers, "")
            .await
    }

    pub async fn send_from(
        &self,
        peer: SocketAddr,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .service
            .handle(request.body(Full::new(body.into())).unwrap(), peer)
            .await;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        let answer = Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text,
            json,
        };
        assert_eq!(answer.headers["cache-control"], "no-store");
        let html = answer
            .headers
            .get("content-type")
            .is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
        if !html && !matches!(answer.status, 204 | 307) {
            assert_eq!(
                answer.headers["content-type"], "application/json",
                "{target}: {}",
                answer.text
            );
            assert!(answer.json.is_object(), "{target}: {}", answer.text);
        }
        answer
    }

    pub async fn call(&self, method: &str, path: &str, token: Option<&str>, body: Value) -> Answer {
        let headers: Vec<(&str, &str)> = token
            .map(|token| ("x-vault-token", token))
            .into_iter()
            .collect();
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send(method, &format!("/v1/{path}"), &headers, body)
            .await
    }

    pub async fn get(&self, path: &str, token: &str) -> Answer {
        self.call("GET", path, Some(token), Value::Null).await
    }

    /// An operator's token.
    pub async fn operator(&self) -> String {
        self.keeper
            .operator_token("uid:0")
            .await
            .unwrap()
            .secret
            .expose_secret()
            .to_owned()
    }

    /// Logs `person` in at the device issuer; the `auth` of the poll.
    pub async fn log_in(&self, person: &str) -> Value {
        *self.issuer.person.lock().unwrap() = person.to_owned();
        self.issuer.device_done.store(true, Ordering::SeqCst);
        let started = self
            .call(
                "POST",
                "auth/oidc-dune/oidc/auth_url",
                None,
                json!({"role": "default", "client_nonce": "nonce", "redirect_uri": "x"}),
            )
            .await;
        assert_eq!(started.status, 200, "{}", started.text);
        self.clock.pass(Duration::from_secs(4));
        let state = started.json["data"]["state"].as_str().unwrap();
        let polled = self
            .call(
                "POST",
                "auth/oidc-dune/oidc/poll",
                None,
                json!({"state": state, "client_nonce": "nonce"}),
            )
            .await;
        assert_eq!(polled.status, 200, "{}", polled.text);
        polled.json["auth"].clone()
    }
}

/// The query of an address as a map.
pub fn query_of(address: &str) -> HashMap<String, String> {
    address
        .split_once('?')
        .unwrap()
        .1
        .split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
