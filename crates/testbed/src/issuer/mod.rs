//! A token issuer for tests and the demonstration: OAuth 2, OpenID Connect and the WLCG profile, in the manner of four kinds of
//! issuers, with misbehaviour on order and accounts of what was issued and what arrived.
//!
//! Owned here: the whole issuer, started with [`TestIssuer::start`]. It knows tokens (through `gridkeep-token`) and nothing of the
//! server under test. Where the next thing goes: a grant type into `token/`, an error text into `problem`, a habit of an issuer
//! into `character`, a misbehaviour into `fault`.

mod admin;
mod authorize;
mod browser;
mod character;
mod client_auth;
mod clock;
pub mod command;
mod control;
mod delivery;
mod fault;
mod form;
mod keys;
mod ledger;
mod mint;
mod options;
mod pages;
mod problem;
mod scopes;
mod serve;
mod state;
mod tls;
mod token;
mod userinfo;
pub(crate) mod yaml;

use std::sync::Arc;

use gridkeep_token::jws::{Algorithm, KeyError, UnknownAlgorithm};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use browser::{Browser, BrowserError, Consent, HtmlForm, Page, first_form};
pub use control::OpenDevice;
pub use delivery::{Delivery, Ending};
pub use fault::{Endpoint, Fault, FaultKind};
pub use keys::KeyRotation;
pub use ledger::{Answer, Counters, GrantView, RefreshView, Tally};
pub use options::{
    AudienceBy, Character, Client, ClientAuth, Options, OptionsError, Rotation, ScopeOrder,
    TokenProfile, User,
};
pub use tls::client_config;

use character::Paths;
use keys::KeyRing;
use state::{App, Settings};

/// Why an issuer did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Listening failed.
    #[error(
        "the test issuer cannot listen on {address}: {source}. Choose a free port, or port 0 for any."
    )]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// No such algorithm.
    #[error(
        "the test issuer cannot sign that way: {0}. Choose one of RS, PS or ES 256, 384, 512, or EdDSA."
    )]
    Algorithm(#[from] UnknownAlgorithm),
    /// A signing key could not be made.
    #[error(
        "the test issuer could not make a signing key: {0}. Try again; if it stays, the crypto library is at fault."
    )]
    Key(#[from] KeyError),
    /// A certificate could not be made.
    #[error(
        "the test issuer could not make its certificate: {0}. Check the host name it was given."
    )]
    Certificate(#[from] rcgen::Error),
    /// TLS settings were refused.
    #[error("TLS settings were refused: {0}. This is a fault of the test issuer itself.")]
    Tls(#[from] rustls::Error),
    /// A text is no certificate.
    #[error(
        "a trusted authority is not a PEM certificate: {0}. Give a file that begins with BEGIN CERTIFICATE."
    )]
    Pem(String),
}

/// A running issuer. Dropping it stops it.
pub struct TestIssuer {
    app: Arc<App>,
    admin_url: Option<String>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl TestIssuer {
    /// Starts an issuer on the current Tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let algorithm: Algorithm = character::algorithm(&options).parse()?;
        let listener = bind(options.listen).await?;
        let address = listener.local_addr().map_err(|source| StartError::Listen {
            address: options.listen,
            source,
        })?;
        let host = options.host.clone().unwrap_or_else(|| match address.ip() {
            ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            ip @ std::net::IpAddr::V4(_) => ip.to_string(),
        });
        let identity = tls::Identity::generate(&host)?;
        let base = format!("https://{host}:{}", address.port());
        let keys = KeyRing::generate(algorithm, options.character)?;
        let settings = Settings {
            access_token_seconds: options.access_token_seconds,
            rotation: character::rotation(&options),
            grace_seconds: options.grace_seconds,
        };
        let admin = match options.admin_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let (stop, stopped) = watch::channel(false);
        let issuer = character::issuer(options.character, &base, &options.vo);
        let paths = Paths::of(options.character, &options.vo);
        let app = Arc::new(App::new(
            options,
            base,
            issuer,
            paths,
            identity.ca_pem,
            keys,
            settings,
            stopped,
        ));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve::run(Arc::clone(&app), listener, identity.config));
        let mut admin_url = None;
        if let Some(listener) = admin {
            admin_url = listener
                .local_addr()
                .ok()
                .map(|at| format!("http://{at}/admin"));
            let router = admin::router(Arc::clone(&app));
            let app = Arc::clone(&app);
            tasks.spawn(async move {
                // Ends with the issuer; a test's connection to it holds nothing.
                tokio::select! {
                    _ = axum::serve(listener, router) => {}
                    () = app.stopped() => {}
                }
            });
        }
        Ok(Self {
            app,
            admin_url,
            stop,
            tasks,
        })
    }

    /// Issuer identifier (`iss`), to the character.
    pub fn url(&self) -> &str {
        &self.app.issuer
    }

    /// `https://host:port`, no slash at the end.
    pub fn base_url(&self) -> &str {
        &self.app.base
    }

    /// The administration interface, when [`Options::admin_listen`] asked for it.
    pub fn admin_url(&self) -> Option<&str> {
        self.admin_url.as_deref()
    }

    /// The throw-away authority's certificate (PEM).
    pub fn ca_pem(&self) -> &str {
        &self.app.ca_pem
    }

    /// An HTTP client that trusts this issuer only and follows no redirects.
    ///
    /// # Errors
    /// [`StartError`] when TLS cannot be set up.
    pub fn http_client(&self) -> Result<reqwest::Client, StartError> {
        reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(&[self.ca_pem()])?)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| StartError::Pem(e.to_string()))
    }

    /// Everything counted so far.
    pub fn counters(&self) -> Counters {
        self.app.counters()
    }

    /// Orders a misbehaviour; earlier ones stay and come first.
    pub fn set_fault(&self, fault: Fault) {
        self.app.faults().add(fault);
    }

    /// Ends all misbehaviour.
    pub fn clear_faults(&self) {
        self.app.faults().clear();
    }

    /// Device requests that wait for a person.
    pub fn open_devices(&self) -> Vec<OpenDevice> {
        control::open_devices(&self.app)
    }

    /// Approves a device request as `user`. False when there is no such open request or user.
    pub fn approve_device(&self, user_code: &str, user: &str) -> bool {
        self.app.user(user).is_some()
            && control::decide(&self.app, Some(user_code), Some(user)) == 1
    }

    /// Denies a device request. (INDIGO IAM does not tell the device: it goes on waiting.)
    pub fn deny_device(&self, user_code: &str) -> bool {
        control::decide(&self.app, Some(user_code), None) == 1
    }

    /// Completes a login that begins at `url` as `user` would with a browser; `authorities` (PEM) are those of servers the
    /// browser is sent to afterwards.
    ///
    /// # Errors
    /// [`BrowserError`].
    pub async fn log_in(
        &self,
        url: &str,
        user: &str,
        consent: Consent,
        authorities: &[&str],
    ) -> Result<Page, BrowserError> {
        control::log_in(&self.app, url, user, consent, authorities).await
    }

    /// Exchanges signing keys; returns the `kid` that signs from now on.
    ///
    /// # Errors
    /// [`KeyError`] when no key can be made.
    pub fn rotate_keys(&self, how: KeyRotation) -> Result<String, KeyError> {
        self.app.keys().rotate(how)
    }

    /// Revokes all grants of a user; returns how many were alive.
    pub fn revoke_user(&self, user: &str) -> usize {
        control::revoke_grants(&self.app, |g| g.user.as_deref() == Some(user))
    }

    /// Revokes one grant.
    pub fn revoke_grant(&self, id: u64) -> bool {
        control::revoke_grants(&self.app, |g| g.id == id) == 1
    }

    /// Revokes one refresh token by its id.
    pub fn revoke_refresh_token(&self, id: &str) -> bool {
        control::revoke_refresh_token(&self.app, id) == 1
    }

    /// Sets how far the issuer's clock is ahead of the machine's (seconds, may be negative).
    pub fn set_clock_offset(&self, seconds: i64) {
        self.app.clock.set_offset(seconds);
    }

    /// Moves the issuer's clock on.
    pub fn advance_clock(&self, seconds: i64) {
        self.app.clock.advance(seconds);
    }

    /// Changes the life of access tokens issued from now on.
    pub fn set_access_token_seconds(&self, seconds: i64) {
        self.app.settings().access_token_seconds = seconds;
    }

    /// Changes what becomes of used refresh tokens from now on.
    pub fn set_rotation(&self, rotation: Rotation, grace_seconds: i64) {
        let mut settings = self.app.settings();
        settings.rotation = rotation;
        settings.grace_seconds = grace_seconds;
    }

    /// Stops the issuer and waits until its connections are closed.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })
}
