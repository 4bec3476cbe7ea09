//! A token issuer in memory that acts as it is told, and counts what it issued and what was delivered.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gridkeep_issuer::{
    AuthorizationRequest, BreakerState, DevicePoll, DeviceStart, ExchangeRequest, IssuerError,
    IssuerStatus, Metadata, Sent, TokenHint, TokenIssuer, TokenResponse,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::sync::watch;

/// What becomes of a refresh token when it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// It stays.
    Never,
    /// A new one is issued, the old one is still taken.
    Grace,
    /// A new one is issued, the old one is refused from then on.
    Immediate,
}

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is acted on, and the answer is lost.
    LoseAnswer,
    /// It does not arrive.
    Unsent,
    /// Our own budget holds it back.
    HoldBack,
    /// It is refused with this code.
    Refuse(&'static str),
}

#[derive(Default)]
pub struct Books {
    pub life: Option<u64>,
    pub scope: Option<String>,
    /// The scope of the next exchanges; `None` = as asked.
    pub exchange_scope: Option<String>,
    pub down: bool,
    pub next: VecDeque<Next>,
    pub accepted: HashSet<String>,
    pub refreshed_with: Vec<String>,
    pub issued: Vec<String>,
    pub delivered: Vec<String>,
    pub revoked: Vec<String>,
    pub exchanges: Vec<ExchangeRequest>,
    pub codes: Vec<String>,
    pub devices: usize,
    pub device_polls: usize,
    /// What the next poll of a device login finds; `None` = nothing yet.
    pub device: Option<Result<Map<String, Value>, &'static str>>,
    pub slow_down: bool,
    /// Claims of whoever logs in with a code.
    pub person: Map<String, Value>,
    pub userinfo: Option<Map<String, Value>>,
    /// Userinfo does not answer at the moment.
    pub userinfo_down: bool,
    pub without_id_token: bool,
    pub without_refresh_token: bool,
    pub no_revocation: bool,
    /// `None` = closed.
    pub breaker: Option<BreakerState>,
    /// With which words this server is refused as a client.
    pub client_refused: Option<String>,
    /// Live nodes that the budget was divided by, as told.
    pub shares: Vec<u32>,
    /// Nonces of the logins begun here; an id_token is good for any of them.
    pub nonces: HashSet<String>,
    count: u64,
}

pub struct FakeIssuer {
    url: String,
    rotation: Rotation,
    books: Mutex<Books>,
    /// Requests that have been acted on.
    acted: watch::Sender<usize>,
    /// Answers leave only while this is open.
    gate: watch::Sender<bool>,
}

pub fn claims(owner: &str) -> Map<String, Value> {
    Map::from_iter([
        ("sub".to_owned(), json!(format!("sub-{owner}"))),
        ("wlcg.credkey".to_owned(), json!(owner)),
    ])
}

impl FakeIssuer {
    pub fn new(rotation: Rotation) -> Arc<Self> {
        Self::at("https://iss.example/", rotation)
    }

    pub fn at(url: &str, rotation: Rotation) -> Arc<Self> {
        Arc::new(FakeIssuer {
            url: url.to_owned(),
            rotation,
            books: Mutex::new(Books {
                life: Some(3600),
                person: claims("alice"),
                ..Books::default()
            }),
            acted: watch::Sender::new(0),
            gate: watch::Sender::new(true),
        })
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn close_gate(&self) {
        self.gate.send_replace(false);
    }

    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Waits until so many requests have been acted on since the beginning.
    pub async fn acted(&self, count: usize) {
        let mut acted = self.acted.subscribe();
        acted.wait_for(|acted| *acted >= count).await.unwrap();
    }

    pub fn act_count(&self) -> usize {
        *self.acted.borrow()
    }

    /// A refresh token given to somebody outside.
    pub fn hand_out(&self) -> String {
        let mut books = self.books();
        books.count += 1;
        let token = format!("rt-outside-{}", books.count);
        books.accepted.insert(token.clone());
        token
    }

    /// Takes every refresh token back, as an administrator of the issuer does.
    pub fn forget_all(&self) {
        self.books().accepted.clear();
    }

    pub fn refreshes(&self) -> usize {
        self.books().refreshed_with.len()
    }

    fn begin(&self) -> Result<Option<Next>, IssuerError> {
        let mut books = self.books();
        let next = books.next.pop_front();
        if books.down || next == Some(Next::Unsent) {
            return Err(IssuerError::Temporary {
                what: "connection refused".into(),
                sent: Sent::No,
                retry_after: None,
            });
        }
        if next == Some(Next::HoldBack) {
            return Err(IssuerError::Throttled {
                retry_after: std::time::Duration::from_secs(1),
            });
        }
        if let Some(Next::Refuse(code)) = next {
            drop(books);
            self.acted.send_modify(|acted| *acted += 1);
            return Err(refused(code));
        }
        Ok(next)
    }

    /// The answer leaves, unless it is lost or held.
    async fn deliver(
        &self,
        next: Option<Next>,
        response: TokenResponse,
    ) -> Result<TokenResponse, IssuerError> {
        self.acted.send_modify(|acted| *acted += 1);
        let mut gate = self.gate.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
        if next == Some(Next::LoseAnswer) {
            return Err(IssuerError::Temporary {
                what: "the connection broke before the answer".into(),
                sent: Sent::Maybe,
                retry_after: None,
            });
        }
        if let Some(token) = &response.refresh_token {
            let token = token.expose_secret().to_owned();
            self.books().delivered.push(token);
        }
        Ok(response)
    }

    fn response(&self, refresh: bool, claims: Option<&Map<String, Value>>) -> TokenResponse {
        let mut books = self.books();
        books.count += 1;
        let count = books.count;
        let refresh_token = refresh.then(|| {
            let token = format!("rt-{count}");
            books.accepted.insert(token.clone());
            books.issued.push(token.clone());
            SecretString::from(token)
        });
        TokenResponse {
            access_token: SecretString::from(format!("at-{count}")),
            token_type: "Bearer".into(),
            expires_in: books.life,
            refresh_token,
            id_token: claims
                .filter(|_| !books.without_id_token)
                .map(|claims| SecretString::from(Value::Object(claims.clone()).to_string())),
            scope: books.scope.clone(),
            issued_token_type: None,
        }
    }
}

fn refused(code: &str) -> IssuerError {
    IssuerError::Refused {
        status: 400,
        error: code.to_owned(),
        description: Some("as told".into()),
        uri: None,
    }
}

#[async_trait]
impl TokenIssuer for FakeIssuer {
    fn url(&self) -> &str {
        &self.url
    }

    fn client_id(&self) -> &str {
        "gridkeep"
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
        self.begin()?;
        self.books().nonces.insert(request.nonce.clone());
        Ok(format!("{}authorize?state={}", self.url, request.state))
    }

    async fn redeem_code(
        &self,
        code: &SecretString,
        _redirect_uri: &str,
        _code_verifier: &SecretString,
    ) -> Result<TokenResponse, IssuerError> {
        let next = self.begin()?;
        let (claims, refresh) = {
            let mut books = self.books();
            books.codes.push(code.expose_secret().to_owned());
            (books.person.clone(), !books.without_refresh_token)
        };
        let response = self.response(refresh, Some(&claims));
        self.deliver(next, response).await
    }

    async fn start_device(&self, _scopes: &[String]) -> Result<DeviceStart, IssuerError> {
        self.begin()?;
        let mut books = self.books();
        books.devices += 1;
        Ok(DeviceStart {
            device_code: SecretString::from(format!("device-{}", books.devices)),
            user_code: "ABCD-EFGH".into(),
            verification_uri: format!("{}device", self.url),
            verification_uri_complete: Some(format!("{}device?user_code=ABCD-EFGH", self.url)),
            interval: 5,
            expires_in: 600,
        })
    }

    async fn poll_device(&self, _device_code: &SecretString) -> Result<DevicePoll, IssuerError> {
        let next = self.begin()?;
        let outcome = {
            let mut books = self.books();
            books.device_polls += 1;
            if std::mem::take(&mut books.slow_down) {
                return Ok(DevicePoll::SlowDown);
            }
            books.device.take()
        };
        match outcome {
            None => Ok(DevicePoll::Pending),
            Some(Err(code)) => Err(refused(code)),
            Some(Ok(claims)) => {
                let response = self.response(true, Some(&claims));
                Ok(DevicePoll::Done(self.deliver(next, response).await?))
            }
        }
    }

    async fn refresh(&self, refresh_token: &SecretString) -> Result<TokenResponse, IssuerError> {
        let token = refresh_token.expose_secret();
        if !self.books().down {
            self.books().refreshed_with.push(token.to_owned());
        }
        let next = self.begin()?;
        if !self.books().accepted.contains(token) {
            self.acted.send_modify(|acted| *acted += 1);
            return Err(refused("invalid_grant"));
        }
        if self.rotation == Rotation::Immediate {
            self.books().accepted.remove(token);
        }
        let response = self.response(self.rotation != Rotation::Never, None);
        self.deliver(next, response).await
    }

    async fn exchange(&self, request: &ExchangeRequest) -> Result<TokenResponse, IssuerError> {
        let next = self.begin()?;
        let scope = {
            let mut books = self.books();
            books.exchanges.push(request.clone());
            books
                .exchange_scope
                .clone()
                .unwrap_or_else(|| request.scopes.join(" "))
        };
        let mut response = self.response(false, None);
        response.scope = Some(scope);
        self.deliver(next, response).await
    }

    async fn revoke(&self, token: &SecretString, hint: TokenHint) -> Result<(), IssuerError> {
        assert_eq!(hint, TokenHint::RefreshToken);
        if self.books().no_revocation {
            return Err(IssuerError::Unsupported {
                what: "no revocation endpoint".into(),
            });
        }
        self.begin()?;
        let mut books = self.books();
        books.accepted.remove(token.expose_secret());
        books.revoked.push(token.expose_secret().to_owned());
        drop(books);
        self.acted.send_modify(|acted| *acted += 1);
        Ok(())
    }

    async fn userinfo(
        &self,
        _access_token: &SecretString,
    ) -> Result<Map<String, Value>, IssuerError> {
        if self.books().userinfo_down {
            return Err(IssuerError::Temporary {
                what: "connection refused".into(),
                sent: Sent::No,
                retry_after: None,
            });
        }
        self.books()
            .userinfo
            .clone()
            .ok_or(IssuerError::Unsupported {
                what: "no userinfo endpoint".into(),
            })
    }

    async fn verify_id_token(
        &self,
        id_token: &str,
        nonce: Option<&str>,
        _access_token: Option<&SecretString>,
        _now: i64,
    ) -> Result<Map<String, Value>, IssuerError> {
        let Ok(Value::Object(claims)) = serde_json::from_str(id_token) else {
            return Err(IssuerError::InvalidToken {
                what: "it is no JWT".into(),
            });
        };
        if nonce.is_some_and(|nonce| !self.books().nonces.contains(nonce)) {
            return Err(IssuerError::InvalidToken {
                what: "the nonce is another".into(),
            });
        }
        Ok(claims)
    }

    fn set_budget_share(&self, live_nodes: u32) {
        self.books().shares.push(live_nodes);
    }

    fn status(&self) -> IssuerStatus {
        let books = self.books();
        IssuerStatus {
            breaker: books.breaker.unwrap_or(BreakerState::Closed),
            consecutive_failures: 0,
            last_error: None,
            last_success: None,
            client_refused: books.client_refused.clone(),
            metadata_age: None,
            keys_age: None,
            budget_left: 1.0,
        }
    }
}
