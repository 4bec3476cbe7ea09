//! Logging in at an issuer: starting, the browser's return, polling, and what a finished login leaves behind.
//!
//! A login is one record that every node can read. Whoever moves it on does so guarded by its version, so each step happens
//! once. The refresh token never leaves the server (decision 4): the client gets a handle.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gridkeep_issuer::{AuthorizationRequest, DevicePoll, IssuerError, TokenResponse};
use gridkeep_store::{Guard, Name};
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::background::unreferenced_since;
use crate::credentials::CredentialName;
use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::policy::{known_issuer, login_policies};
use crate::records::{
    GRANT, GrantSecrets, HANDLE, HandleRecord, Identity, LOGIN, LoginRecord, LoginStep, REVOCATION,
    ReadyLogin,
};
use crate::refresh::{cached, issuer_failure};
use crate::secret::{Purpose, base62};
use crate::setup::{CallbackMode, IssuerSetup, Limits, OperatorRule};
use crate::tokens::{Issued, LoginToken, later, sanitised};

/// A login may take this long.
const LOGIN_LIFE: Seconds = Seconds(600);
/// A handle can be redeemed for this long.
pub(crate) const HANDLE_LIFE: Seconds = Seconds(900);
/// How often the client is asked to poll, in seconds, when the issuer does not say otherwise.
const POLL_INTERVAL: u64 = 3;
const LONGEST_NONCE: usize = 256;

/// A login to be started.
#[derive(Debug, Clone, Default)]
pub struct LoginStart {
    /// Name of the issuer.
    pub issuer: String,
    /// Role; `default` when it is not given.
    pub role: Option<String>,
    /// Where the issuer shall send the browser.
    pub redirect_uri: Option<String>,
    /// A secret of the client that has to be shown again when polling.
    pub client_nonce: Option<String>,
    /// Address of the client.
    pub from: Option<IpAddr>,
}

/// A login that was started.
#[derive(Debug, Clone)]
pub struct LoginStarted {
    /// Where the person has to go; empty when the redirect address is not allowed.
    pub auth_url: String,
    /// Names the login.
    pub state: String,
    /// Seconds between polls.
    pub poll_interval: u64,
    /// Code to type at `auth_url`, when it is not part of it.
    pub user_code: Option<String>,
    /// Why `auth_url` is empty.
    pub warnings: Vec<String>,
}

/// The browser's return from the issuer.
#[derive(Debug, Clone)]
pub struct Callback {
    /// Name of the issuer, from the path.
    pub issuer: String,
    /// The state the issuer returned.
    pub state: String,
    /// The authorization code.
    pub code: Option<SecretString>,
    /// The issuer's error.
    pub error: Option<String>,
    /// Its description, for the server's log only.
    pub error_description: Option<String>,
    /// Whether the person confirmed that the login is theirs.
    pub confirmed: bool,
    /// Address of the browser.
    pub from: Option<IpAddr>,
}

/// What the browser is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackOutcome {
    /// Ask the person whether this is their login.
    Confirm {
        /// Address that asked for the login.
        requester: Option<IpAddr>,
        /// Name of the issuer.
        issuer: String,
        /// Name of the role.
        role: String,
    },
    /// Logged in.
    Done {
        /// Name of the issuer.
        issuer: String,
        /// Name of the role.
        role: String,
        /// The owner key of the person.
        owner: String,
    },
    /// Not logged in.
    Denied {
        /// The error code, one of RFC 6749's.
        error: String,
    },
}

/// A client asking for the outcome.
#[derive(Debug, Clone)]
pub struct Poll {
    /// Name of the issuer, from the path.
    pub issuer: String,
    /// The login.
    pub state: String,
    /// The client's secret.
    pub client_nonce: String,
    /// Address of the client.
    pub from: Option<IpAddr>,
}

/// What it hears.
#[derive(Debug)]
pub enum PollOutcome {
    /// Not yet.
    Pending,
    /// Logged in.
    LoggedIn(Box<Login>),
}

/// A finished login.
#[derive(Debug)]
pub struct Login {
    /// The login token.
    pub issued: Issued,
    /// The owner key.
    pub owner: String,
    /// The role's name.
    pub role: String,
    /// What old clients are given in the place of the refresh token.
    pub handle: SecretString,
}

/// What this node remembers of logins beside their records: how many, and when to ask the issuer next.
#[derive(Default)]
pub(crate) struct Logins(Mutex<Remembered>);

#[derive(Default)]
struct Remembered {
    by_login: HashMap<Vec<u8>, Pace>,
    by_address: HashMap<IpAddr, usize>,
}

struct Pace {
    from: Option<IpAddr>,
    ends: UnixSeconds,
    next: Duration,
    interval: Duration,
    asking: bool,
}

impl Logins {
    fn admit(
        &self,
        limits: &Limits,
        from: Option<IpAddr>,
        now: UnixSeconds,
    ) -> Result<(), Failure> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.by_login.len() >= limits.login_sessions_total {
            inner.purge(now);
        }
        let here = from
            .and_then(|from| inner.by_address.get(&from).copied())
            .unwrap_or(0);
        if here >= limits.login_sessions_per_address {
            inner.purge(now);
        }
        let here = from
            .and_then(|from| inner.by_address.get(&from).copied())
            .unwrap_or(0);
        if inner.by_login.len() >= limits.login_sessions_total
            || here >= limits.login_sessions_per_address
        {
            return Err(Later::new(
                LaterKind::TooManyLogins,
                "too many logins are under way and not finished; finish one of them, or try again in ten minutes, when they are forgotten",
            )
            .after(Duration::from_secs(60))
            .into());
        }
        Ok(())
    }

    fn add(
        &self,
        id: Vec<u8>,
        from: Option<IpAddr>,
        ends: UnixSeconds,
        interval: u64,
        boot: Duration,
    ) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = Duration::from_secs(interval);
        inner.by_login.insert(
            id,
            Pace {
                from,
                ends,
                next: boot + interval,
                interval,
                asking: false,
            },
        );
        if let Some(from) = from {
            *inner.by_address.entry(from).or_default() += 1;
        }
    }

    fn remove(&self, id: &[u8]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }

    /// Whether it is time to ask the issuer, and nobody does so already.
    fn may_ask(&self, id: &[u8], ends: UnixSeconds, interval: u64, boot: Duration) -> bool {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let interval = Duration::from_secs(interval.max(1));
        let pace = inner.by_login.entry(id.to_vec()).or_insert(Pace {
            from: None,
            ends,
            next: boot,
            interval,
            asking: false,
        });
        // A client that polls exactly at the interval is not made to wait a second one for a hair's breadth.
        if pace.asking || boot + Duration::from_millis(200) < pace.next {
            return false;
        }
        pace.asking = true;
        true
    }

    fn asked(&self, id: &[u8], slower: bool, boot: Duration) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pace) = inner.by_login.get_mut(id) {
            if slower {
                pace.interval += Duration::from_secs(5);
            }
            pace.next = boot + pace.interval;
            pace.asking = false;
        }
    }
}

impl Remembered {
    fn purge(&mut self, now: UnixSeconds) {
        let ended: Vec<Vec<u8>> = self
            .by_login
            .iter()
            .filter(|(_, pace)| pace.ends <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ended {
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &[u8]) {
        if let Some(from) = self.by_login.remove(id).and_then(|pace| pace.from) {
            if let Some(count) = self.by_address.get_mut(&from) {
                *count -= 1;
                if *count == 0 {
                    self.by_address.remove(&from);
                }
            }
        }
    }
}

fn login_name(id: &[u8]) -> Name {
    Name::new(LOGIN, &[id])
}

impl Keeper {
    /// Starts a login.
    ///
    /// # Errors
    /// [`BadInput`] for what is missing or unknown, [`Failure::Later`] when the issuer cannot be asked or too many are under way.
    pub async fn login_start(&self, request: LoginStart) -> Result<LoginStarted, Failure> {
        let setup = self.setup();
        let now = self.now();
        let issuer = known_issuer(&setup, &request.issuer, now)?;
        let role_name = request
            .role
            .filter(|role| !role.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        let role = issuer
            .role(&role_name)
            .ok_or(BadInput::UnknownRole { role: role_name })?;
        let client_nonce = request
            .client_nonce
            .filter(|nonce| !nonce.is_empty() && nonce.len() <= LONGEST_NONCE)
            .ok_or(BadInput::MissingClientNonce)?;
        self.inner.logins.admit(&setup.limits, request.from, now)?;
        let mut scopes = vec!["openid".to_owned()];
        scopes.extend(
            role.scopes
                .iter()
                .filter(|scope| *scope != "openid")
                .cloned(),
        );
        let (state, proven) = self.inner.mint.issue(Purpose::Login, now);
        let state = state.expose_secret().to_owned();
        let mut life = LOGIN_LIFE;
        let (step, started) = if issuer.callback_mode == CallbackMode::Device {
            let device = issuer
                .client
                .start_device(&scopes)
                .await
                .map_err(|error| issuer_failure("login", &error))?;
            life = Seconds(life.0.min(device.expires_in.max(1)));
            let interval = device.interval.max(1);
            let started = LoginStarted {
                user_code: device
                    .verification_uri_complete
                    .is_none()
                    .then(|| device.user_code.clone()),
                auth_url: device
                    .verification_uri_complete
                    .unwrap_or(device.verification_uri),
                state: state.clone(),
                poll_interval: interval.min(POLL_INTERVAL.max(interval)),
                warnings: Vec::new(),
            };
            (
                LoginStep::Device {
                    device_code: device.device_code.expose_secret().to_owned(),
                    interval,
                },
                started,
            )
        } else {
            let redirect_uri = request
                .redirect_uri
                .filter(|uri| !uri.is_empty())
                .ok_or(BadInput::MissingRedirectUri)?;
            let allowed = setup.callback_url(&issuer.name);
            if !same_address(&allowed, &redirect_uri) {
                return Ok(LoginStarted {
                    auth_url: String::new(),
                    state,
                    poll_interval: POLL_INTERVAL,
                    user_code: None,
                    warnings: vec![format!(
                        "the redirect address {redirect_uri} is not allowed; this server is known to its issuers as {allowed}; use that name with htgettoken -a or --vaultalias"
                    )],
                });
            }
            let code_verifier = base62(64);
            let nonce = base62(32);
            let auth_url = issuer
                .client
                .authorization_url(&AuthorizationRequest {
                    redirect_uri: redirect_uri.clone(),
                    scopes,
                    state: state.clone(),
                    nonce: nonce.clone(),
                    code_verifier: SecretString::from(code_verifier.clone()),
                })
                .await
                .map_err(|error| issuer_failure("login", &error))?;
            let started = LoginStarted {
                auth_url,
                state: state.clone(),
                poll_interval: POLL_INTERVAL,
                user_code: None,
                warnings: Vec::new(),
            };
            (
                LoginStep::Code {
                    redirect_uri,
                    code_verifier,
                    nonce,
                },
                started,
            )
        };
        let deadline = later(now, life);
        let record = LoginRecord {
            issuer: issuer.name.clone(),
            role: role.name.clone(),
            client_nonce,
            started_at: now,
            deadline,
            from: request.from,
            step,
        };
        let id = proven.id();
        let mut change = Change::new();
        change.guard(Guard::Absent(login_name(&id))).put(
            login_name(&id),
            &record,
            Some(deadline.0),
        )?;
        self.inner.db.commit(change).await?;
        self.inner.logins.add(
            id,
            request.from,
            deadline,
            started.poll_interval,
            self.inner.time.boot(),
        );
        Ok(started)
    }

    async fn login_record(
        &self,
        issuer: &str,
        state: &str,
    ) -> Result<(Vec<u8>, Stored<LoginRecord>), Failure> {
        let proven = self
            .inner
            .mint
            .prove(Purpose::Login, state)
            .ok_or(BadInput::LoginExpired)?;
        if self.now() >= later(proven.issued_at, LOGIN_LIFE) {
            return Err(BadInput::LoginExpired.into());
        }
        let id = proven.id();
        let stored = self
            .inner
            .db
            .get::<LoginRecord>(&login_name(&id))
            .await?
            .ok_or(BadInput::LoginExpired)?;
        if stored.value.issuer != issuer || self.now() >= stored.value.deadline {
            return Err(BadInput::LoginExpired.into());
        }
        Ok((id, stored))
    }

    /// The browser comes back from the issuer.
    ///
    /// # Errors
    /// [`BadInput::LoginExpired`] for an unknown, late or used state; [`Failure::Later`] when the store does not answer.
    pub async fn callback(&self, request: Callback) -> Result<CallbackOutcome, Failure> {
        let (id, stored) = self.login_record(&request.issuer, &request.state).await?;
        let LoginStep::Code {
            redirect_uri,
            code_verifier,
            nonce,
        } = &stored.value.step
        else {
            return Err(BadInput::LoginExpired.into());
        };
        let setup = self.setup();
        let issuer = known_issuer(&setup, &request.issuer, self.now())?.clone();
        if let Some(error) = request.error {
            tracing::info!(
                issuer = issuer.name,
                error,
                description = request.error_description,
                "a login was refused at the issuer"
            );
            let error = standard_error(&error);
            self.advance(
                &id,
                &stored,
                LoginStep::Failed {
                    code: error.clone(),
                },
            )
            .await?;
            return Ok(CallbackOutcome::Denied { error });
        }
        let code = request.code.ok_or_else(|| BadInput::Other("the issuer sent the browser back with neither a code nor an error; start the login again".into()))?;
        if issuer.callback_mode == CallbackMode::Direct && !request.confirmed {
            return Ok(CallbackOutcome::Confirm {
                requester: stored.value.from,
                issuer: issuer.name,
                role: stored.value.role.clone(),
            });
        }
        let (redirect_uri, code_verifier, nonce) = (
            redirect_uri.clone(),
            SecretString::from(code_verifier.clone()),
            nonce.clone(),
        );
        // From here on the code is this callback's alone.
        let stored = self.advance(&id, &stored, LoginStep::Redeeming).await?;
        let role = stored.value.role.clone();
        let (answer, waiting) = tokio::sync::oneshot::channel();
        let keeper = self.clone();
        self.own(async move {
            let outcome = match issuer
                .client
                .redeem_code(&code, &redirect_uri, &code_verifier)
                .await
            {
                Ok(response) => {
                    keeper
                        .accept(&issuer, &stored.value.role, &response, Some(&nonce))
                        .await
                }
                Err(error) => Err(issuer_failure("login", &error)),
            };
            let shown = keeper
                .finish_step(&id, &stored, &issuer.name, outcome)
                .await;
            let _ = answer.send(shown);
        });
        match tokio::time::timeout(self.inner.options.waiter, waiting).await {
            Ok(Ok(Ok(owner))) => Ok(CallbackOutcome::Done { issuer: request.issuer, role, owner }),
            Ok(Ok(Err(code))) => Ok(CallbackOutcome::Denied { error: code }),
            _ => Err(Later::new(LaterKind::IssuerSlow, "the token issuer has not confirmed the login yet; go back to the program that asked you to log in, it may go on by itself; else start again").into()),
        }
    }

    /// Writes what a login has come to; tells the owner key or the error code.
    async fn finish_step(
        &self,
        id: &[u8],
        stored: &Stored<LoginRecord>,
        issuer: &str,
        outcome: Result<ReadyLogin, Failure>,
    ) -> Result<String, String> {
        let (step, shown) = match outcome {
            Ok(ready) => {
                let owner = ready.owner.clone();
                (
                    LoginStep::Ready {
                        login: Box::new(ready),
                    },
                    Ok(owner),
                )
            }
            Err(failure) => {
                tracing::warn!(issuer, %failure, "a login failed");
                let code = failure_code(&failure);
                (LoginStep::Failed { code: code.clone() }, Err(code))
            }
        };
        match self.advance(id, stored, step).await {
            Ok(_) => shown,
            Err(failure) => {
                tracing::error!(issuer, %failure, "the outcome of a login could not be stored; the person has to log in again");
                Err("temporarily_unavailable".to_owned())
            }
        }
    }

    /// Moves a login on, if nobody else has.
    async fn advance(
        &self,
        id: &[u8],
        stored: &Stored<LoginRecord>,
        step: LoginStep,
    ) -> Result<Stored<LoginRecord>, Failure> {
        let mut record = stored.value.clone();
        record.step = step;
        let mut change = Change::new();
        change
            .guard(stored.unchanged())
            .put(login_name(id), &record, Some(record.deadline.0))?;
        match self.inner.db.commit(change).await {
            Ok(()) => self
                .inner
                .db
                .get::<LoginRecord>(&login_name(id))
                .await?
                .ok_or_else(|| BadInput::LoginExpired.into()),
            Err(NotCommitted::Conflict) => Err(BadInput::LoginExpired.into()),
            Err(other) => Err(other.into()),
        }
    }

    /// A client asks whether its login is finished.
    ///
    /// # Errors
    /// [`BadInput::LoginExpired`], [`BadInput::WrongNonce`], [`BadInput::LoginFailed`]; each ends the login.
    pub async fn login_poll(&self, request: Poll) -> Result<PollOutcome, Failure> {
        let (id, stored) = self.login_record(&request.issuer, &request.state).await?;
        if aws_lc_rs::constant_time::verify_slices_are_equal(
            request.client_nonce.as_bytes(),
            stored.value.client_nonce.as_bytes(),
        )
        .is_err()
        {
            self.end(&id, &stored).await?;
            return Err(BadInput::WrongNonce.into());
        }
        let stored = match stored.value.step {
            LoginStep::Device { .. } => self.ask_device(&request, &id, stored).await?,
            _ => stored,
        };
        match &stored.value.step {
            LoginStep::Device { .. } | LoginStep::Code { .. } | LoginStep::Redeeming => {
                Ok(PollOutcome::Pending)
            }
            LoginStep::Failed { code } => {
                let failure = failed(code);
                self.end(&id, &stored).await?;
                Err(failure)
            }
            LoginStep::Ready { login } => {
                let ready = login.as_ref().clone();
                let login = self.complete(&id, &stored, ready, request.from).await?;
                self.inner.logins.remove(&id);
                Ok(PollOutcome::LoggedIn(Box::new(login)))
            }
        }
    }

    async fn end(&self, id: &[u8], stored: &Stored<LoginRecord>) -> Result<(), Failure> {
        self.inner.logins.remove(id);
        let mut change = Change::new();
        change.guard(stored.unchanged()).delete(login_name(id));
        match self.inner.db.commit(change).await {
            Ok(()) | Err(NotCommitted::Conflict) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// Asks the issuer about a device login, at the issuer's pace however fast the client polls, and tells what has become of it.
    async fn ask_device(
        &self,
        request: &Poll,
        id: &[u8],
        stored: Stored<LoginRecord>,
    ) -> Result<Stored<LoginRecord>, Failure> {
        let LoginStep::Device {
            device_code,
            interval,
        } = &stored.value.step
        else {
            return Ok(stored);
        };
        if !self
            .inner
            .logins
            .may_ask(id, stored.value.deadline, *interval, self.inner.time.boot())
        {
            return Ok(stored);
        }
        let setup = self.setup();
        let issuer = match known_issuer(&setup, &request.issuer, self.now()) {
            Ok(issuer) => issuer.clone(),
            Err(failure) => {
                self.inner.logins.asked(id, false, self.inner.time.boot());
                return Err(failure);
            }
        };
        let device_code = SecretString::from(device_code.clone());
        let (answer, waiting) = tokio::sync::oneshot::channel();
        let (keeper, id, before) = (self.clone(), id.to_vec(), stored.clone());
        self.own(async move {
            let polled = issuer.client.poll_device(&device_code).await;
            let slower = matches!(polled, Ok(DevicePoll::SlowDown));
            let outcome = match polled {
                Ok(DevicePoll::Pending | DevicePoll::SlowDown) => None,
                Ok(DevicePoll::Done(response)) => Some(keeper.accept(&issuer, &before.value.role, &response, None).await),
                Err(IssuerError::Refused { error, description, .. }) => {
                    tracing::info!(issuer = issuer.name, error, description, "a login was refused at the issuer");
                    Some(Err(BadInput::LoginFailed { code: error }.into()))
                }
                Err(error) => {
                    // Trouble that may pass does not end a login.
                    tracing::info!(issuer = issuer.name, %error, "the issuer could not be asked about a login");
                    None
                }
            };
            if let Some(outcome) = outcome {
                let _ = keeper.finish_step(&id, &before, &issuer.name, outcome).await;
            }
            keeper.inner.logins.asked(&id, slower, keeper.inner.time.boot());
            let _ = answer.send(());
        });
        let _ = tokio::time::timeout(self.inner.options.waiter, waiting).await;
        self.login_record(&request.issuer, &request.state)
            .await
            .map(|(_, stored)| stored)
    }

    /// Checks what the issuer gave at the end of a login, and takes the identity out of it.
    async fn accept(
        &self,
        issuer: &IssuerSetup,
        role: &str,
        response: &TokenResponse,
        nonce: Option<&str>,
    ) -> Result<ReadyLogin, Failure> {
        let id_token = response.id_token.as_ref().ok_or(BadInput::NoIdToken)?;
        let now = self.now();
        let mut claims = issuer
            .client
            .verify_id_token(
                id_token.expose_secret(),
                nonce,
                Some(&response.access_token),
                now.0,
            )
            .await
            .map_err(|error| match error {
                IssuerError::InvalidToken { what } => BadInput::TokenVerification { what }.into(),
                other => issuer_failure("login", &other),
            })?;
        let rules: Vec<OperatorRule> = self
            .setup()
            .operators
            .iter()
            .filter(|rule| rule.issuer == issuer.name)
            .cloned()
            .collect();
        let credclaim = issuer
            .role(role)
            .and_then(|role| role.credclaim.as_ref())
            .unwrap_or(&issuer.credclaim);
        let missing = !claims.contains_key(credclaim)
            || rules.iter().any(|rule| !claims.contains_key(&rule.claim));
        if missing {
            self.add_userinfo(issuer, response, &mut claims).await;
        }
        let owner = owner_of(&claims, credclaim)?;
        let refresh_token = response
            .refresh_token
            .as_ref()
            .map(|token| token.expose_secret().to_owned())
            .filter(|token| !token.is_empty());
        if refresh_token.is_none() {
            tracing::warn!(
                issuer = issuer.name,
                role,
                "the issuer gave no refresh token: the login ends with its first access token; the role's scopes may lack offline_access"
            );
        }
        Ok(ReadyLogin {
            owner,
            subject: claims.get("sub").and_then(Value::as_str).map(str::to_owned),
            operator: rules
                .iter()
                .any(|rule| claim_holds(claims.get(&rule.claim), &rule.value)),
            refresh_token,
            access: cached(response, now),
        })
    }

    async fn add_userinfo(
        &self,
        issuer: &IssuerSetup,
        response: &TokenResponse,
        claims: &mut Map<String, Value>,
    ) {
        match issuer.client.userinfo(&response.access_token).await {
            Ok(more) if more.get("sub") == claims.get("sub") => {
                for (claim, value) in more {
                    claims.entry(claim).or_insert(value);
                }
            }
            Ok(_) => tracing::warn!(
                issuer = issuer.name,
                "userinfo speaks of another subject than the id_token and is ignored"
            ),
            Err(error) => {
                tracing::info!(issuer = issuer.name, %error, "userinfo could not be read; going on with the id_token")
            }
        }
    }

    /// Makes everything a finished login leaves behind, in one commit: the grant, the credential unless a healthy one stands
    /// there, the login token, the handle.
    async fn complete(
        &self,
        id: &[u8],
        stored: &Stored<LoginRecord>,
        ready: ReadyLogin,
        from: Option<IpAddr>,
    ) -> Result<Login, Failure> {
        let setup = self.setup();
        loop {
            let now = self.now();
            let issuer = known_issuer(&setup, &stored.value.issuer, now)?;
            let credential = CredentialName {
                issuer: issuer.name.clone(),
                owner: ready.owner.clone(),
                role: stored.value.role.clone(),
            };
            let (standing, healthy) = self.healthy(&credential, issuer).await?;
            let secrets = GrantSecrets {
                refresh_token: ready.refresh_token.clone(),
                alternates: Vec::new(),
                access: Some(ready.access.clone()),
            };
            let mut grant = self.new_grant(issuer, ready.subject.clone(), &secrets)?;
            let mut change = Change::new();
            change.guard(stored.unchanged()).delete(login_name(id));
            let issued = self.login_token(
                &mut change,
                self.token_of(issuer, &stored.value.role, &ready),
            )?;
            if grant_is_kept_alive(&ready) {
                self.move_due(&mut change, &mut grant)?;
            }
            if healthy {
                change.put(
                    name(REVOCATION, &[&grant.id]),
                    &unreferenced_since(now),
                    None,
                )?;
            } else {
                grant.references.push(credential.to_string());
                let scopes = issuer
                    .role(&stored.value.role)
                    .map(|role| role.scopes.clone())
                    .unwrap_or_default();
                self.put_credential(
                    &mut change,
                    &credential,
                    &grant,
                    standing.as_ref(),
                    &issued.token.display_name,
                    scopes,
                )
                .await?;
            }
            change.put(name(GRANT, &[&grant.id]), &grant, None)?;
            let (handle, proven) = self.inner.mint.issue(Purpose::Handle, now);
            let expires_at = later(now, HANDLE_LIFE);
            let record = HandleRecord {
                grant: grant.id.clone(),
                issuer: issuer.name.clone(),
                role: stored.value.role.clone(),
                owner: ready.owner.clone(),
                login_token: issued.token.id,
                expires_at,
            };
            change.put(
                Name::new(HANDLE, &[proven.id().as_slice()]),
                &record,
                Some(expires_at.0),
            )?;
            events::record(
                &mut change,
                &Event {
                    at: now,
                    what: "login".into(),
                    subject: credential.to_string(),
                    by: issued.token.display_name.clone(),
                    from,
                    detail: format!("grant {}", grant.id),
                },
            )?;
            match self.inner.db.commit(change).await {
                Ok(()) => {
                    return Ok(Login {
                        issued,
                        owner: ready.owner.clone(),
                        role: stored.value.role.clone(),
                        handle,
                    });
                }
                Err(NotCommitted::Conflict) => {
                    // Either the credential changed under us, or another poll took this login.
                    let current = self.inner.db.get::<LoginRecord>(&login_name(id)).await?;
                    if current.is_none_or(|current| current.version != stored.version) {
                        return Err(BadInput::LoginExpired.into());
                    }
                }
                Err(other) => return Err(other.into()),
            }
        }
    }

    fn token_of(&self, issuer: &IssuerSetup, role: &str, ready: &ReadyLogin) -> LoginToken {
        let mount = format!("auth/oidc-{}/", issuer.name);
        let meta = BTreeMap::from([
            ("credkey".to_owned(), ready.owner.clone()),
            ("role".to_owned(), role.to_owned()),
        ]);
        LoginToken {
            policies: login_policies(&self.setup(), &issuer.name, role, ready.operator),
            display_name: format!("oidc-{}-{}", issuer.name, sanitised(&ready.owner)),
            path: format!("{mount}oidc/poll"),
            entity: self
                .inner
                .mint
                .stable_uuid("entity", &format!("{mount}{}", ready.owner.to_lowercase())),
            identity: Identity {
                mount_accessor: self.inner.mint.mount_accessor("oidc", &mount),
                alias: ready.owner.clone(),
                metadata: meta.clone(),
            },
            meta,
        }
    }
}

fn grant_is_kept_alive(ready: &ReadyLogin) -> bool {
    ready.refresh_token.is_some()
}

fn failed(code: &str) -> Failure {
    match code.strip_prefix("text:") {
        Some(text) => BadInput::Other(text.to_owned()).into(),
        None => BadInput::LoginFailed {
            code: code.to_owned(),
        }
        .into(),
    }
}

/// How the poller is told of a failure that happened elsewhere.
fn failure_code(failure: &Failure) -> String {
    match failure {
        Failure::BadInput(BadInput::LoginFailed { code }) => code.clone(),
        Failure::BadInput(BadInput::IssuerRejected { error, .. }) => error.clone(),
        Failure::BadInput(other) => format!("text:{other}"),
        _ => "temporarily_unavailable".to_owned(),
    }
}

/// Only the codes of RFC 6749 section 4.1.2.1 and OpenID Connect are shown; anything else could be anybody's text.
fn standard_error(error: &str) -> String {
    const KNOWN: [&str; 11] = [
        "invalid_request",
        "unauthorized_client",
        "access_denied",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
    ];
    if KNOWN.contains(&error) {
        error.to_owned()
    } else {
        "server_error".to_owned()
    }
}

/// Whether an issuer may send the browser to `given`: the same address, or for a loopback host the same but for the port.
fn same_address(allowed: &str, given: &str) -> bool {
    if allowed == given {
        return true;
    }
    let (Ok(mut allowed), Ok(mut given)) = (url::Url::parse(allowed), url::Url::parse(given))
    else {
        return false;
    };
    let loopback =
        |url: &url::Url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if !loopback(&allowed) || !loopback(&given) {
        return false;
    }
    allowed.set_port(None).is_ok() && given.set_port(None).is_ok() && allowed == given
}

fn owner_of(claims: &Map<String, Value>, claim: &str) -> Result<String, BadInput> {
    let value = claims.get(claim).ok_or_else(|| BadInput::MissingClaim {
        claim: claim.to_owned(),
    })?;
    let owner = value.as_str().ok_or_else(|| BadInput::ClaimNotString {
        claim: claim.to_owned(),
    })?;
    let unusable = |why| BadInput::ClaimUnusable {
        claim: claim.to_owned(),
        why,
    };
    if owner.is_empty() || owner.len() > 255 {
        return Err(unusable("it is empty or longer than 255 bytes"));
    }
    if owner.contains(['/', ':', '*', '+', '"', '\\', '{', '}', '%', '?', '#'])
        || owner.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return Err(unusable("it holds a character that has a meaning in paths"));
    }
    if matches!(owner, "." | "..") {
        return Err(unusable("it is a relative path"));
    }
    Ok(owner.to_owned())
}

fn claim_holds(claim: Option<&Value>, wanted: &str) -> bool {
    match claim {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Array(items)) => items.iter().any(|item| item.as_str() == Some(wanted)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_may_differ_in_its_port() {
        for (allowed, given, same) in [
            (
                "https://t.lab.example:8200/v1/x",
                "https://t.lab.example:8200/v1/x",
                true,
            ),
            (
                "https://t.lab.example:8200/v1/x",
                "https://t.lab.example:8201/v1/x",
                false,
            ),
            (
                "https://localhost:8200/v1/x",
                "https://localhost:41234/v1/x",
                true,
            ),
            (
                "https://localhost:8200/v1/x",
                "https://localhost:41234/v1/y",
                false,
            ),
            (
                "https://localhost:8200/v1/x",
                "http://localhost:8200/v1/x",
                false,
            ),
            (
                "https://t.lab.example:8200/v1/x",
                "https://localhost:8200/v1/x",
                false,
            ),
            ("https://t.lab.example:8200/v1/x", "nonsense", false),
        ] {
            assert_eq!(same_address(allowed, given), same, "{allowed} {given}");
        }
    }

    #[test]
    fn a_claim_that_could_change_a_path_is_not_an_owner() {
        for bad in ["", "a/b", "a:b", "*", "..", "a b", "a\u{7}", "a%2fb"] {
            let claims = Map::from_iter([("sub".to_owned(), Value::from(bad))]);
            assert!(owner_of(&claims, "sub").is_err(), "{bad:?}");
        }
        let claims = Map::from_iter([
            ("sub".to_owned(), Value::from("alice@lab.example")),
            ("n".to_owned(), Value::from(3)),
        ]);
        assert_eq!(owner_of(&claims, "sub").as_deref(), Ok("alice@lab.example"));
        assert_eq!(
            owner_of(&claims, "n"),
            Err(BadInput::ClaimNotString { claim: "n".into() })
        );
        assert_eq!(
            owner_of(&claims, "x"),
            Err(BadInput::MissingClaim { claim: "x".into() })
        );
    }
}
