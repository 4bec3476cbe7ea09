//! One request from its first byte to its answer: the order in which it is checked, audited, acted upon and answered.
//!
//! Owns that order. Refuses to know what any endpoint does. Whatever goes wrong on the way is an answer in JSON, a panic included.

mod acting;
mod auditing;
mod head;
mod options;
mod received;
mod switch;

pub(crate) use head::{caught, client_token, end_connection, request_id};
pub use options::{DialectLimits, DialectOptions, MetricsSource};
pub use switch::SealSwitch;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use futures_util::FutureExt as _;
use gridkeep_keeper::{Bearer, Failure, Granted, Keeper, Operation, Refused};
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use secrecy::SecretString;
use tokio::time::Instant;
use tracing::{Instrument as _, field};

use crate::answer::Answer;
use crate::audit::Hasher;
use crate::endpoints;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::listener::HttpService;
use crate::measure::Asked;
use crate::params::{self, Params};
use crate::path;
use crate::peer::{Passed, Peers};
use crate::quota::{Pass, Quotas};
use crate::route::{CredentialKind, Route, SshRoute, Verb};
use crate::sealed;
use acting::Asker;
use received::{Arrival, MountTable, Received};

/// The Vault API over a keeper. Cheap to clone.
#[derive(Clone)]
pub struct VaultService {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for VaultService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultService")
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Inner {
    pub keeper: Keeper,
    pub options: DialectOptions,
    pub form_key: hmac::Key,
    hasher: Hasher,
    mounts: RwLock<Arc<MountTable>>,
    peers: Peers,
    quotas: Quotas,
}

/// What an endpoint gets.
pub(crate) struct Call<'a> {
    pub operation: Operation,
    pub path: &'a str,
    pub headers: &'a HeaderMap,
    pub peer: SocketAddr,
    pub fields: Fields,
}

/// Who asks, at endpoints that need a token.
pub(crate) struct Caller<'a> {
    pub bearer: &'a Bearer,
    pub granted: &'a Granted,
    pub secret: &'a SecretString,
}

impl Caller<'_> {
    /// Whether what is read is narrowed by what was delegated, whatever was asked for.
    pub(crate) fn is_limited(&self) -> bool {
        let own = self.bearer.token.limits.iter();
        own.chain(&self.granted.limits)
            .any(|limits| !limits.is_empty())
    }
}

impl HttpService for VaultService {
    async fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        self.handle(request, peer).await
    }
}

impl VaultService {
    /// The Vault API over `keeper`.
    pub fn new(keeper: Keeper, options: DialectOptions) -> Self {
        let hasher = Hasher::new(&keeper.derive_key("vault audit"));
        let form_key = hmac::Key::new(
            hmac::HMAC_SHA256,
            keeper.derive_key("vault confirmation form").as_slice(),
        );
        let mounts = RwLock::new(Arc::new(MountTable::of(&keeper)));
        let peers = Peers::new(&keeper);
        VaultService {
            inner: Arc::new(Inner {
                keeper,
                options,
                form_key,
                hasher,
                mounts,
                peers,
                quotas: Quotas::default(),
            }),
        }
    }

    /// Answers one request that came from `peer`.
    pub async fn handle<B>(&self, request: Request<B>, peer: SocketAddr) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let id = head::request_id();
        // What lies between this message and the next is where front servers and we might disagree: do not go on from there.
        let framed = request.headers().contains_key(TRANSFER_ENCODING);
        let asked = Asked::now(request.method());
        let until = Instant::now() + self.inner.options.limits.answer;
        let span = tracing::info_span!(
            "request",
            otel.kind = "server",
            otel.name = field::Empty,
            otel.status_code = field::Empty,
            request_id = id,
            method = asked.method(),
            route = field::Empty,
            status = field::Empty,
        );
        let client = self.inner.options.proxies.client(peer, request.headers());
        let answering = async {
            match client {
                Ok(client) => {
                    let arrival = Arrival {
                        id: &id,
                        peer: client,
                        asked: &asked,
                        until,
                    };
                    self.inner.respond(request, arrival).await
                }
                Err(error) => {
                    Answer::error(StatusCode::BAD_REQUEST, error.to_string()).into_response(&id)
                }
            }
        };
        let mut response = caught(&id, answering.instrument(span.clone())).await;
        asked.answered(response.status());
        span.record("route", asked.route());
        span.record("status", i64::from(response.status().as_u16()));
        if response.status().is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
        // Once it is sealed, somebody else answers on this port.
        if framed || self.inner.options.seal.begun() {
            end_connection(&mut response);
        }
        response
    }
}

/// The path that a request is about when the name at its end is acted upon in lower case and was given in another.
fn folded(route: Route<'_>, path: &str) -> Option<String> {
    let name = route.folded()?;
    let lower = name.to_lowercase();
    if lower == name {
        return None;
    }
    Some(format!("{}{lower}", path.strip_suffix(name)?))
}

impl Inner {
    /// The answer of this node, or that of another where this one does not serve.
    async fn respond<B>(
        self: &Arc<Self>,
        request: Request<B>,
        arrival: Arrival<'_>,
    ) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let id = arrival.id;
        // A node that is being sealed passes nothing on, and serves nothing that another passes on.
        if self.options.seal.begun() {
            return self.answer(request, arrival).await.into_response(id);
        }
        let passing = self.peers.pass(
            &self.keeper,
            &self.options.limits,
            request,
            arrival.peer,
            id,
        );
        match passing.await {
            Passed::Here(request, peer) => {
                let arrival = Arrival { peer, ..arrival };
                self.answer(request, arrival).await.into_response(id)
            }
            Passed::Answered(response) => response,
            Passed::Refused(answer) => answer.into_response(id),
        }
    }

    async fn answer<B>(self: &Arc<Self>, request: Request<B>, arrival: Arrival<'_>) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let (parts, body) = request.into_parts();
        let raw = parts.uri.path();
        let Some(raw) = raw.strip_prefix("/v1/") else {
            return self.outside(&parts.method, raw);
        };
        self.api(raw, &parts, body, arrival)
            .await
            .unwrap_or_else(Answer::from)
    }

    /// What is not the API: a page that says so.
    fn outside(&self, method: &Method, raw: &str) -> Answer {
        match raw {
            "/" | "/ui" if method == Method::GET || method == Method::HEAD => {
                Answer::redirect("/ui/")
            }
            "/ui/" if method == Method::GET || method == Method::HEAD => {
                Answer::page(gridkeep_web::landing(&self.options.version))
            }
            "/" | "/ui" | "/ui/" => Trouble::unsupported().into(),
            _ => Answer::nothing(),
        }
    }

    async fn api<B>(
        self: &Arc<Self>,
        raw: &str,
        parts: &http::request::Parts,
        body: B,
        arrival: Arrival<'_>,
    ) -> Result<Answer, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let decoded = path::decode(raw)?;
        let trimmed = decoded.strip_suffix('/').unwrap_or(&decoded);
        // Also of what is refused before anybody looks at it, and before a span below this one begins.
        let template = Route::of(trimmed).template();
        arrival.asked.route.get_or_init(|| template);
        tracing::Span::current().record("otel.name", template);
        let mut pass = match self.quotas.arrive(&self.keeper, trimmed, arrival.peer.ip()) {
            Ok(pass) => pass,
            Err(exceeded) => return Ok(self.too_many(exceeded, trimmed, parts, arrival).await),
        };
        let outcome = self
            .decoded(&decoded, &mut pass, parts, body, arrival)
            .await;
        let mut answer = outcome.unwrap_or_else(Answer::from);
        if answer.limit.is_none() {
            answer.limit = pass.take_headers();
        }
        Ok(answer)
    }

    /// A request whose path was decoded and which its address may send.
    async fn decoded<B>(
        self: &Arc<Self>,
        decoded: &str,
        pass: &mut Pass<'_>,
        parts: &http::request::Parts,
        body: B,
        arrival: Arrival<'_>,
    ) -> Result<Answer, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let mut query = parts
            .uri
            .query()
            .map_or_else(|| Ok(Params::new()), params::query)?;
        let Some(verb) = Verb::of(&parts.method, &parts.headers, &mut query) else {
            return Err(Trouble::unsupported());
        };
        head::check(&parts.headers)?;
        let trimmed = decoded.strip_suffix('/').unwrap_or(decoded);
        let route = Route::of(trimmed);
        if self.options.seal.begun() && !matches!(route, Route::Status(_)) {
            return Err(sealed::sealed());
        }
        let help =
            parts.method == Method::GET && parts.uri.query().is_some_and(params::asks_for_help);
        let open = matches!(route, Route::Status(_) | Route::Login(_) | Route::UiMounts);
        if open || head::client_token(&parts.headers).is_none() {
            pass.by_address()?;
        }
        let operation = match (verb, route) {
            (_, Route::Status(status)) if !help => {
                return endpoints::status::answer(self, status, &parts.method, query, body).await;
            }
            (Verb::Header, _) => return Err(Trouble::unsupported()),
            (Verb::Does(operation), _) => operation,
        };
        let writes = matches!(
            operation,
            Operation::Create | Operation::Update | Operation::Patch
        );
        if writes && decoded.ends_with('/') {
            return Err(Trouble::bad("cannot write to a path ending in '/'"));
        }
        // Policies see the path of a list with its slash and any other without: always the very text that is acted upon.
        let listed;
        let path = if matches!(operation, Operation::List | Operation::Scan) {
            listed = format!("{trimmed}/");
            listed.as_str()
        } else {
            trimmed
        };
        let request = Received {
            id: arrival.id,
            operation,
            path,
            route,
            writes,
            headers: &parts.headers,
            peer: arrival.peer,
            help,
            until: arrival.until,
        };
        Ok(if open && !help {
            self.open(request, query, body).await
        } else {
            self.guarded(request, query, body, pass).await
        })
    }

    /// An endpoint that needs no token. One that is sent along is not held against anybody.
    async fn open<B>(self: &Arc<Self>, mut request: Received<'_>, query: Params, body: B) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let mounts = self.mounts();
        let limit = self.options.limits.open_body;
        let params = match self.params(&mut request, query, body, limit).await {
            Ok(params) => params,
            Err(trouble) => {
                let nothing = Params::new();
                let exchange = request.exchange(&mounts, None, &nothing, None);
                return self.refuse(&exchange, trouble, request.until).await;
            }
        };
        self.carry_out(request, mounts, params, None).await
    }

    /// An endpoint that needs a token.
    async fn guarded<B>(
        self: &Arc<Self>,
        mut request: Received<'_>,
        query: Params,
        body: B,
        pass: &mut Pass<'_>,
    ) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let mounts = self.mounts();
        let Some(secret) = head::client_token(request.headers) else {
            let exchange = request.exchange(&mounts, None, &query, None);
            let trouble = Refused::UnknownToken.into();
            return self.refuse(&exchange, trouble, request.until).await;
        };
        let from = Some(request.peer.ip());
        let proving = self.keeper.authenticate(&secret, from);
        let proving = proving.map(|done| done.map_err(Trouble::from));
        let bearer = match self.in_time(request.until, proving).await {
            Ok(bearer) => bearer,
            Err(failure) => {
                // Without this, guessing tokens would be free of any limit.
                if let Err(exceeded) = pass.by_address() {
                    return self.over_limit(exceeded, &request, &mounts, &query).await;
                }
                let exchange = request.exchange(&mounts, Some(&secret), &query, None);
                return self.refuse(&exchange, failure, request.until).await;
            }
        };
        if let Err(exceeded) = pass.by_user(&bearer) {
            return self.over_limit(exceeded, &request, &mounts, &query).await;
        }
        let limit = self.options.limits.body;
        let params = match self.params(&mut request, query, body, limit).await {
            Ok(params) => params,
            Err(trouble) => {
                let nothing = Params::new();
                let shown = Some((&*bearer.token, None));
                let exchange = request.exchange(&mounts, Some(&secret), &nothing, shown);
                return self.refuse(&exchange, trouble, request.until).await;
            }
        };
        let until = request.until;
        let permitted = async {
            request.operation = self.exact(&request).await?;
            self.authorize(&bearer, &request, &params).await
        };
        let granted = match self.in_time(until, permitted).await {
            Ok(granted) => granted,
            Err(trouble) => {
                let shown = Some((&*bearer.token, None));
                let exchange = request.exchange(&mounts, Some(&secret), &params, shown);
                return self.refuse(&exchange, trouble, request.until).await;
            }
        };
        let asker = Asker {
            bearer,
            granted,
            secret,
        };
        self.carry_out(request, mounts, params, Some(asker)).await
    }

    /// What is done to the path, now that it matters whether something is there. Only the names of ssh keys are looked at, as in the
    /// original; writing any other path is updating it.
    async fn exact(&self, request: &Received<'_>) -> Result<Operation, Trouble> {
        let Route::Ssh(SshRoute::Role { name }) = request.route else {
            return Ok(request.operation);
        };
        if request.operation != Operation::Update || request.help {
            return Ok(request.operation);
        }
        match self.keeper.ssh_keys(name, None).await {
            Err(Failure::NotFound) => Ok(Operation::Create),
            // What is wrong with the name is told to those who may write it.
            Ok(_) | Err(Failure::BadInput(_)) => Ok(Operation::Update),
            Err(other) => Err(other.into()),
        }
    }

    async fn authorize(
        &self,
        bearer: &Bearer,
        request: &Received<'_>,
        params: &Params,
    ) -> Result<Granted, Trouble> {
        let (operation, route) = (request.operation, request.route);
        let anybody = Granted {
            policies: Vec::new(),
            sudo: false,
            root: false,
            limits: Vec::new(),
        };
        // Help is the same for all; which mount a path belongs to is told by what the caller's own policies reach.
        if request.help || matches!(route, Route::UiMount(_)) {
            return Ok(anybody);
        }
        if let Route::Credential { kind, name } = route {
            match (kind, operation) {
                // The list shows each caller what its own policies cover and is open to every live token.
                (CredentialKind::Base, Operation::List | Operation::Scan) => {
                    return Ok(anybody);
                }
                // Deleting is deleting the credential, whichever of its two paths is used, and takes the same permission.
                (CredentialKind::Exchanged, Operation::Delete) => {
                    return Ok(self.keeper.authorize(
                        bearer,
                        operation,
                        &format!("secret/oauth/creds/{name}"),
                        params,
                    )?);
                }
                _ => {}
            }
        }
        let own = self
            .keeper
            .authorize(bearer, operation, request.path, params);
        // What one's own policies do not cover may have been delegated by the one whose it is: reading, and nothing else.
        if let (Err(Failure::Refused(Refused::Policy { .. })), Route::Credential { name, .. }) =
            (&own, route)
            && operation == Operation::Read
            && let Ok(name) = self.keeper.parse_name(name)
            && let Some(granted) = self.keeper.delegated(bearer, &name).await?
        {
            return Ok(granted);
        }
        let mut granted = own?;
        if let Some(folded) = folded(route, request.path)
            && !self.keeper.adds_own_ssh_keys(bearer, &granted)
        {
            // Acted upon is the name in lower case: a rule about that one counts whatever is asked for.
            let other = self.keeper.authorize(bearer, operation, &folded, params)?;
            granted.sudo &= other.sudo;
        }
        Ok(granted)
    }

    /// The parameters of a request: its query, and of what writes the body, of at most `limit` bytes. The time that this takes is the
    /// client's and does not count.
    async fn params<B>(
        &self,
        request: &mut Received<'_>,
        mut query: Params,
        body: B,
        limit: usize,
    ) -> Result<Params, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        if !request.writes {
            return Ok(query);
        }
        let begun = Instant::now();
        let received = params::receive(body, limit, self.options.limits.body_time).await;
        request.until += begun.elapsed();
        let content_type = request
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let mut sent = params::body(content_type, &received?)?;
        if query.is_empty() {
            return Ok(sent);
        }
        query.append(&mut sent);
        Ok(query)
    }

    /// Whether something is mounted where `path` lies.
    pub(crate) fn is_mounted(&self, path: &str) -> bool {
        self.mounts().find(path).is_some()
    }

    fn wall(&self) -> Duration {
        self.keeper.clock().wall()
    }

    fn mounts(&self) -> Arc<MountTable> {
        let setup = self.keeper.setup();
        let table = Arc::clone(&self.mounts.read().unwrap_or_else(PoisonError::into_inner));
        if Arc::ptr_eq(&table.setup, &setup) {
            return table;
        }
        let table = Arc::new(MountTable::of(&self.keeper));
        *self.mounts.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&table);
        table
    }
}
