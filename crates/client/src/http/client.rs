//! Requests over the one connection, and the rules of failover between the addresses of a server.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, RETRY_AFTER, USER_AGENT,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::connect::{Dialer, lower};
use super::error::{HttpError, Refusal};
use super::resolve::{Resolver, interleave};
use super::server::ServerUrl;
use super::trust::{Trust, TrustSources};
use super::{Log, redact};
use crate::environment::{Environment, Timing};

/// The longest wait that a server may ask for within a run, seconds.
const LONGEST_WAIT: u64 = 5;
/// The largest answer that is read, bytes.
const LARGEST_BODY: usize = 1 << 20;

/// Whom to talk to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub server: ServerUrl,
    /// Another name of the same service, to which it may redirect.
    pub alias: Option<ServerUrl>,
    /// The name in the server's certificate, if it is not the server's host.
    pub certificate_name: Option<String>,
    /// Which authorities are believed.
    pub trust: TrustSources,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// `GET`, `POST` or `DELETE`.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// `X-Vault-Token`.
    pub token: Option<&'a SecretString>,
    /// What goes after `Negotiate` in `Authorization`.
    pub negotiate: Option<&'a SecretString>,
    /// The JSON body.
    pub body: Option<&'a Value>,
    /// Whether repeating it does no harm when it is unknown whether the server acted on it.
    pub repeatable: bool,
    /// Limit of one read of the answer, if it is not the usual one.
    pub patience: Option<Duration>,
}

impl<'a> Call<'a> {
    /// A `GET`, which may be repeated.
    #[must_use]
    pub fn get(target: String, token: Option<&'a SecretString>) -> Self {
        Self {
            method: Method::GET,
            target,
            token,
            negotiate: None,
            body: None,
            repeatable: true,
            patience: None,
        }
    }

    /// A `POST` of a JSON body, sent at most once.
    #[must_use]
    pub fn post(target: String, token: Option<&'a SecretString>, body: &'a Value) -> Self {
        Self {
            method: Method::POST,
            body: Some(body),
            repeatable: false,
            ..Self::get(target, token)
        }
    }

    /// The same request, declared harmless to repeat.
    #[must_use]
    pub fn repeatable(self) -> Self {
        Self {
            repeatable: true,
            ..self
        }
    }
}

/// An answer, of whatever status.
pub struct Reply {
    /// The status number.
    pub status: u16,
    /// `Retry-After`, seconds.
    pub retry_after: Option<u64>,
    /// `Location`.
    location: Option<String>,
    /// The body, which may be a secret.
    pub body: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Reply {
    /// The answer if it is a success (200 or 204), else what it says.
    ///
    /// # Errors
    /// [`HttpError::Status`].
    pub fn success(self) -> Result<Self, HttpError> {
        if matches!(self.status, 200 | 204) {
            Ok(self)
        } else {
            Err(HttpError::Status(self.refusal()))
        }
    }

    /// What a refusing answer says.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.status, &self.body, self.retry_after)
    }
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// How a request on a connection ended badly.
enum Broken {
    /// Nothing of it reached the server.
    Unsent,
    /// It may have reached the server.
    Sent(String),
}

/// A server, and the connection to it once there is one.
pub struct Client {
    server: ServerUrl,
    alias: Option<ServerUrl>,
    dialer: Dialer,
    resolver: Arc<dyn Resolver>,
    timing: Timing,
    addresses: Vec<SocketAddr>,
    /// Index of the address to use or to begin with.
    current: usize,
    /// Whether the current address has answered, so that login state may be there.
    settled: bool,
    connection: Option<Connection>,
    deadline: Option<Instant>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Prepares to talk to `target`; nothing is looked up or connected yet.
    ///
    /// # Errors
    /// [`HttpError::Trust`] when the named bundle cannot be read or the certificate name cannot be one.
    pub fn new(target: Target, environment: &Environment) -> Result<Self, HttpError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = Arc::new(Trust::new(target.trust, Arc::clone(&provider)));
        trust.check().map_err(HttpError::Trust)?;
        let name = target
            .certificate_name
            .unwrap_or_else(|| target.server.host().to_owned());
        let name = ServerName::try_from(name.clone()).map_err(|_| {
            HttpError::Trust(format!(
                "no certificate can be for the name \"{name}\"; see --vaultcertname"
            ))
        })?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| HttpError::Trust(format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&trust) as Arc<_>)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            server: target.server,
            alias: target.alias,
            dialer: Dialer {
                tls: TlsConnector::from(Arc::new(config)),
                trust,
                name,
                timing: environment.timing,
            },
            resolver: Arc::clone(&environment.resolver),
            timing: environment.timing,
            addresses: Vec::new(),
            current: 0,
            settled: false,
            connection: None,
            deadline: None,
        })
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// Limits all that follows to `limit` from now; `None` lifts the limit.
    pub fn limit(&mut self, limit: Option<Duration>) {
        self.deadline = limit.map(|limit| Instant::now() + limit);
    }

    /// Sends a request and reads the answer.
    ///
    /// Failures before anything was sent lead to the next address. Afterwards a repeatable request is sent once more, to the
    /// next address if there is one: when the connection is lost or silent, and on 502, 503 and 504. 429 is repeated once if
    /// the wait is short. 307 and 308 are followed once, and only to the same service.
    ///
    /// # Errors
    /// No answer. An answer of any status that none of the rules above concerns is `Ok`.
    pub async fn send(&mut self, call: &Call<'_>, log: &mut dyn Log) -> Result<Reply, HttpError> {
        match self.deadline {
            Some(deadline) => timeout_at(deadline, self.send_in_time(call, log))
                .await
                .unwrap_or(Err(HttpError::OutOfTime)),
            None => self.send_in_time(call, log).await,
        }
    }

    async fn send_in_time(
        &mut self,
        call: &Call<'_>,
        log: &mut dyn Log,
    ) -> Result<Reply, HttpError> {
        let mut call = call.clone();
        let mut once_more = call.repeatable;
        let mut rate_limit_once_more = true;
        let mut redirect = true;
        let mut stale_connections = 2;
        loop {
            self.connect(log).await?;
            let address = self.addresses[self.current];
            let reply = match self.exchange(&call, log).await {
                Ok(reply) => reply,
                Err(Broken::Unsent) if stale_connections > 0 => {
                    // The server closed an idle connection: same address, new connection.
                    self.connection = None;
                    stale_connections -= 1;
                    continue;
                }
                Err(broken) => {
                    let reason = match broken {
                        Broken::Sent(reason) => reason,
                        Broken::Unsent => "connection closed".to_owned(),
                    };
                    log.request_line(&format!("{address}: {reason}"));
                    self.advance();
                    if once_more {
                        once_more = false;
                        continue;
                    }
                    return Err(HttpError::Lost { address, reason });
                }
            };
            match reply.status {
                502..=504 if once_more => {
                    let wait = reply.retry_after.unwrap_or(0);
                    // A long wait is this node's own; another one may be well.
                    let wait = match (wait <= LONGEST_WAIT, self.addresses.len() > 1) {
                        (true, _) => wait,
                        (false, true) => 0,
                        (false, false) => return Ok(reply),
                    };
                    once_more = false;
                    self.advance();
                    sleep(self.seconds(wait)).await;
                }
                429 if rate_limit_once_more => {
                    match reply.retry_after.filter(|&wait| wait <= LONGEST_WAIT) {
                        Some(wait) => sleep(self.seconds(wait)).await,
                        None => return Ok(reply),
                    }
                    rate_limit_once_more = false;
                }
                307 | 308 if redirect => {
                    redirect = false;
                    call.target = self.follow(&reply, log).await?;
                }
                307 | 308 => {
                    return Err(HttpError::Redirect(
                        reply.location.clone().unwrap_or_default(),
                    ));
                }
                _ => {
                    self.settled = true;
                    return Ok(reply);
                }
            }
        }
    }

    fn seconds(&self, count: u64) -> Duration {
        self.timing
            .second
            .saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Leaves the current address for the next.
    fn advance(&mut self) {
        self.connection = None;
        self.settled = false;
        if !self.addresses.is_empty() {
            self.current = (self.current + 1) % self.addresses.len();
        }
    }

    async fn connect(&mut self, log: &mut dyn Log) -> Result<(), HttpError> {
        if self
            .connection
            .as_ref()
            .is_some_and(|connection| !connection.sender.is_closed())
        {
            return Ok(());
        }
        self.connection = None;
        if self.addresses.is_empty() {
            let found = self.lookup(&self.server).await?;
            self.addresses = interleave(&found, self.server.port());
        }
        let mut order = self.addresses.clone();
        order.rotate_left(self.current);
        // An address that has answered is left only when it fails, not when it is slow.
        let stagger = if self.settled {
            self.timing.connect
        } else {
            self.timing.stagger
        };
        let raced = self.dialer.race(&order, stagger).await;
        for note in self.dialer.trust.take_notes() {
            log.request_line(&note);
        }
        let (address, stream) = raced.map_err(|attempts| HttpError::Connect {
            server: self.server.authority(),
            attempts,
        })?;
        log.request_line(&format!("connected to {} at {address}", self.server));
        self.current = self
            .addresses
            .iter()
            .position(|known| *known == address)
            .unwrap_or(0);
        let lost = |error: &hyper::Error| HttpError::Lost {
            address,
            reason: reason(error),
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(&error))?;
        let driver = tokio::spawn(async move {
            // Its failure reaches the request that is under way.
            let _ = connection.await;
        });
        self.connection = Some(Connection {
            sender,
            address,
            driver,
        });
        Ok(())
    }

    /// Looks a name up, twice if need be. Names an address for itself.
    async fn lookup(&self, server: &ServerUrl) -> Result<Vec<IpAddr>, HttpError> {
        if let Some(address) = server.address() {
            return Ok(vec![address]);
        }
        let mut attempt = 1;
        loop {
            let reason =
                match timeout(self.timing.resolve, self.resolver.resolve(server.host())).await {
                    Ok(Ok(found)) if !found.is_empty() => return Ok(found),
                    Ok(Ok(_)) => "it has none".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "the name service does not answer".to_owned(),
                };
            if attempt == 2 {
                return Err(HttpError::Resolve {
                    host: server.host().to_owned(),
                    reason,
                });
            }
            attempt += 1;
            sleep(self.timing.resolve_again).await;
        }
    }

    async fn exchange(&mut self, call: &Call<'_>, log: &mut dyn Log) -> Result<Reply, Broken> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(Broken::Unsent);
        };
        let address = connection.address;
        let request = build(&self.server, call).map_err(Broken::Sent)?;
        if log.shows_requests() {
            show_request(address, call, request.headers(), log);
        }
        let limit = call.patience.unwrap_or(self.timing.read);
        let late = || Broken::Sent(format!("no answer within {} s", limit.as_secs_f32()));
        let response = match timeout(limit, connection.sender.try_send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(mut error)) => {
                return Err(match error.take_message() {
                    Some(_) => Broken::Unsent,
                    None => Broken::Sent(reason(error.error())),
                });
            }
            Err(_) => return Err(late()),
        };
        let reply = read(response, limit, late).await?;
        if log.shows_requests() {
            let shown = redact::body(&reply.body, log.shows_secrets());
            log.request_line(&format!("< {} {shown}", reply.status));
        }
        Ok(reply)
    }

    /// Goes to the node that a redirect names, if it is one of this service; answers the path to ask there.
    async fn follow(&mut self, reply: &Reply, log: &mut dyn Log) -> Result<String, HttpError> {
        let location = reply.location.clone().unwrap_or_default();
        let elsewhere = || HttpError::Redirect(super::error::one_line(&location));
        let url = url::Url::parse(&location).map_err(|_| elsewhere())?;
        let host = url.host_str().unwrap_or_default();
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        if url.scheme() != "https" || !url.path().starts_with("/v1/") {
            return Err(elsewhere());
        }
        let node = format!(
            "https://{host}:{}",
            url.port_or_known_default().unwrap_or(0)
        );
        let node = ServerUrl::parse(&node, 0).map_err(|_| elsewhere())?;
        let is = |known: &ServerUrl| {
            known.host().eq_ignore_ascii_case(node.host()) && known.port() == node.port()
        };
        if is(&self.server) || self.alias.as_ref().is_some_and(is) {
            self.advance();
        } else {
            let found = self.lookup(&node).await.map_err(|_| elsewhere())?;
            let index = self
                .addresses
                .iter()
                .position(|known| known.port() == node.port() && found.contains(&known.ip()));
            self.connection = None;
            self.settled = false;
            self.current = index.ok_or_else(elsewhere)?;
        }
        log.request_line(&format!("redirected to {node}"));
        Ok(target)
    }
}

fn build(server: &ServerUrl, call: &Call<'_>) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(call.target.as_str())
        .header(HOST, server.authority())
        .header(
            USER_AGENT,
            concat!("gridkeep-htgettoken/", env!("CARGO_PKG_VERSION")),
        );
    if let Some(token) = call.token {
        let mut value = HeaderValue::from_str(token.expose_secret())
            .map_err(|_| "the vault token holds characters that no token has".to_owned())?;
        value.set_sensitive(true);
        request = request.header("x-vault-token", value);
    }
    if let Some(proof) = call.negotiate {
        let mut value = HeaderValue::from_str(&format!("Negotiate {}", proof.expose_secret()))
            .map_err(|_| "the proof holds characters that no header has".to_owned())?;
        value.set_sensitive(true);
        // As the original labels a body of no bytes. Servers in front may insist on its length, which is not written by itself.
        request = request
            .header(AUTHORIZATION, value)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(CONTENT_LENGTH, "0");
    }
    let body = match call.body {
        Some(body) => {
            request = request.header(CONTENT_TYPE, "application/json");
            Bytes::from(body.to_string())
        }
        None => Bytes::new(),
    };
    request
        .body(Full::new(body))
        .map_err(|error| format!("the request cannot be written: {error}"))
}

async fn read(
    response: Response<Incoming>,
    limit: Duration,
    late: impl Fn() -> Broken,
) -> Result<Reply, Broken> {
    let status = response.status().as_u16();
    let text = |headers: &HeaderMap, name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
            .map(str::to_owned)
    };
    let location = text(response.headers(), LOCATION);
    let retry_after =
        text(response.headers(), RETRY_AFTER).and_then(|value| value.trim().parse().ok());
    let mut incoming = response.into_body();
    let mut body = Zeroizing::new(Vec::new());
    loop {
        match timeout(limit, incoming.frame()).await {
            Err(_) => return Err(late()),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(Broken::Sent(reason(&error))),
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    if body.len() + data.len() > LARGEST_BODY {
                        return Err(Broken::Sent("the answer is larger than 1 MiB".to_owned()));
                    }
                    body.extend_from_slice(data);
                }
            }
        }
    }
    Ok(Reply {
        status,
        retry_after,
        location,
        body,
    })
}

fn show_request(address: SocketAddr, call: &Call<'_>, headers: &HeaderMap, log: &mut dyn Log) {
    let mut line = format!("> {} {} to {address}", call.method, call.target);
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let value = redact::header(name.as_str(), &value, log.shows_secrets());
        let _ = write!(line, ", {name}: {value}");
    }
    log.request_line(&line);
    if let Some(body) = call.body {
        let shown = redact::body(body.to_string().as_bytes(), log.shows_secrets());
        log.request_line(&format!("> {shown}"));
    }
}

/// The innermost cause, which is the one that says something.
fn reason(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(error) => lower(error),
        None => cause.to_string(),
    }
}
