//! How a client of one issuer is set up. Values are checked when the client is made, not here.

use std::fmt;
use std::time::Duration;

use gridkeep_token::jws::SigningKey;
use secrecy::SecretString;

/// All a [`Client`](crate::Client) needs to know of its issuer.
pub struct ClientOptions {
    /// What the operators call the issuer, for the log; empty: its URL.
    pub name: String,
    /// The issuer's identifier, exactly as its discovery document spells it; a trailing slash is significant.
    pub url: String,
    /// The identifier under which this client is registered.
    pub client_id: String,
    /// How the client proves who it is.
    pub auth: ClientAuth,
    /// CA certificates, PEM, trusted for this issuer besides those of the system. Each may hold several.
    pub ca_pem: Vec<Vec<u8>>,
    /// Further parameters of the authorization request, for example `prompt` or `access_type`.
    pub authorization_params: Vec<(String, String)>,
    /// How long a connection may take to come about (name look-up and TLS included).
    pub connect_timeout: Duration,
    /// How long a call may take in all.
    pub request_timeout: Duration,
    /// How often the issuer may be asked.
    pub budget: Budget,
    /// When to leave a failing issuer alone.
    pub breaker: BreakerOptions,
    /// Whether `http` is accepted for issuers on the loopback interface. Only for tests.
    pub allow_http_loopback: bool,
    /// Gives the `traceparent` header (W3C Trace Context) for a request made now; absent: none is sent.
    pub traceparent: Option<fn() -> Option<String>>,
}

impl ClientOptions {
    /// Options with defaults for all but the issuer's URL and the client id: a public client, 10 s to connect, 60 s
    /// for a call.
    pub fn new(url: impl Into<String>, client_id: impl Into<String>) -> Self {
        Self {
            name: String::new(),
            url: url.into(),
            client_id: client_id.into(),
            auth: ClientAuth::Public,
            ca_pem: Vec::new(),
            authorization_params: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            budget: Budget::default(),
            breaker: BreakerOptions::default(),
            allow_http_loopback: false,
            traceparent: None,
        }
    }

    /// How the log calls the issuer.
    pub(crate) fn name(&self) -> &str {
        if self.name.is_empty() {
            &self.url
        } else {
            &self.name
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("url", &self.url)
            .field("client_id", &self.client_id)
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

/// How the client authenticates (RFC 6749 2.3, OpenID Connect Core 1.0, 9).
pub enum ClientAuth {
    /// `client_secret_post` when the issuer advertises it, else `client_secret_basic`.
    Auto {
        /// The client secret.
        secret: SecretString,
    },
    /// `client_secret_basic`.
    Basic {
        /// The client secret.
        secret: SecretString,
    },
    /// `client_secret_post`.
    Post {
        /// The client secret.
        secret: SecretString,
    },
    /// `private_key_jwt` (RFC 7523 2.2).
    PrivateKeyJwt {
        /// The key whose public half is registered at the issuer.
        key: SigningKey,
    },
    /// A public client: only its id is sent.
    Public,
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto { .. } => "Auto",
            Self::Basic { .. } => "Basic",
            Self::Post { .. } => "Post",
            Self::PrivateKeyJwt { .. } => "PrivateKeyJwt",
            Self::Public => "Public",
        })
    }
}

/// How often an issuer may be asked by the whole cluster; each node takes its share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Requests per second in the long run.
    pub per_second: f64,
    /// Requests that may go out at once after a quiet time.
    pub burst: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            per_second: 20.0,
            burst: 100,
        }
    }
}

/// When a failing issuer is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerOptions {
    /// Temporary failures in a row that open the breaker.
    pub failures: u32,
    /// How long it stays open the first time; doubles with every failed probe.
    pub first_open: Duration,
    /// How long it stays open at most.
    pub max_open: Duration,
    /// The longest `Retry-After` of an issuer that is obeyed.
    pub max_retry_after: Duration,
}

impl Default for BreakerOptions {
    fn default() -> Self {
        Self {
            failures: 5,
            first_open: Duration::from_secs(2),
            max_open: Duration::from_secs(120),
            max_retry_after: Duration::from_secs(900),
        }
    }
}
