//! One request from its first byte to its answer: the order in which it is checked, audited, acted upon and answered.
//!
//! Owns that order. Refuses to know what any endpoint does. Whatever goes wrong on the way is an answer in JSON, a panic included.

mod auditing;
mod head;
mod options;
mod received;
mod switch;

pub(crate) use head::{caught, client_token, end_connection, request_id};
pub use options::{DialectLimits, DialectOptions, MetricsSource};
pub use switch::SealSwitch;

use std::future::Future;
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
use tracing::{Instrument as _, field};

use crate::answer::Answer;
use crate::audit::{AuditFailure, Common, Hasher};
use crate::endpoints;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::listener::HttpService;
use crate::measure::Asked;
use crate::params::{self, Params};
use crate::path;
use crate::peer::{Passed, Peers};
use crate::quota::{Pass, Quotas};
use crate::route::{CredentialKind, Route, Verb};
use crate::sealed;
use auditing::unaudited;
use received::{MountTable, Received};

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
                Ok(client) => self.inner.respond(request, client, &id, &asked).await,
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
        &self,
        request: Request<B>,
        peer: SocketAddr,
        id: &str,
        asked: &Asked,
    ) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        // A node that is being sealed passes nothing on, and serves nothing that another passes on.
        if self.options.seal.begun() {
            return self
                .answer(request, peer, id, asked)
                .await
                .into_response(id);
        }
        let passing = self
            .peers
            .pass(&self.keeper, &self.options.limits, request, peer, id);
        match passing.await {
            Passed::Here(request, peer) => self
                .answer(request, peer, id, asked)
                .await
                .into_response(id),
            Passed::Answered(response) => response,
            Passed::Refused(answer) => answer.into_response(id),
        }
    }

    async fn answer<B>(
        &self,
        request: Request<B>,
        peer: SocketAddr,
        id: &str,
        asked: &Asked,
    ) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let (parts, body) = request.into_parts();
        let raw = parts.uri.path();
        let Some(raw) = raw.strip_prefix("/v1/") else {
            return self.outside(&parts.method, raw);
        };
        self.api(raw, &parts, body, peer, id, asked)
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
        &self,
        raw: &str,
        parts: &http::request::Parts,
        body: B,
        peer: SocketAddr,
        id: &str,
        asked: &Asked,
    ) -> Result<Answer, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let decoded = path::decode(raw)?;
        let trimmed = decoded.strip_suffix('/').unwrap_or(&decoded);
        // Also of what is refused before anybody looks at it, and before a span below this one begins.
        let template = Route::of(trimmed).template();
        asked.route.get_or_init(|| template);
        tracing::Span::current().record("otel.name", template);
        let mut pass = match self.quotas.arrive(&self.keeper, trimmed, peer.ip()) {
            Ok(pass) => pass,
            Err(exceeded) => return Ok(self.too_many(exceeded, trimmed, parts, peer, id).await),
        };
        let outcome = self
            .decoded(&decoded, &mut pass, parts, body, peer, id)
            .await;
        let mut answer = outcome.unwrap_or_else(Answer::from);
        if answer.limit.is_none() {
            answer.limit = pass.take_headers();
        }
        Ok(answer)
    }

    /// A request whose path was decoded and which its address may send.
    async fn decoded<B>(
        &self,
        decoded: &str,
        pass: &mut Pass<'_>,
        parts: &http::request::Parts,
        body: B,
        peer: SocketAddr,
        id: &str,
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
            id,
            operation,
            path,
            writes,
            headers: &parts.headers,
            peer,
            help,
        };
        if open && !help {
            self.open(route, request, query, body).await
        } else {
            Ok(self.guarded(route, request, query, body, pass).await)
        }
    }

    /// An endpoint that needs no token. One that is sent along is not held against anybody.
    async fn open<B>(
        &self,
        route: Route<'_>,
        request: Received<'_>,
        query: Params,
        body: B,
    ) -> Result<Answer, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let params = if request.writes {
            let limit = self.options.limits.open_body;
            self.receive(query, request.headers, body, limit).await?
        } else {
            query
        };
        let mounts = self.mounts();
        let common = Common::new(
            &self.hasher,
            &request.exchange(&mounts, None, &params, None),
        );
        let passes = self.options.on_audit_failure == AuditFailure::Serve;
        if let Err(error) = self.announce(&common, None, passes).await {
            return Ok(unaudited(&error));
        }
        let mut call = request.call(params);
        let answer = endpoints::open(self, route, &mut call)
            .await
            .unwrap_or_else(Answer::from);
        Ok(self.finish(&common, call.fields, answer, passes))
    }

    /// An endpoint that needs a token.
    async fn guarded<B>(
        &self,
        route: Route<'_>,
        request: Received<'_>,
        query: Params,
        body: B,
        pass: &mut Pass<'_>,
    ) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let mounts = self.mounts();
        let secret = head::client_token(request.headers);
        let Some(secret) = secret.as_ref() else {
            let exchange = request.exchange(&mounts, None, &query, None);
            return self.refuse(&exchange, Refused::UnknownToken.into()).await;
        };
        let from = Some(request.peer.ip());
        let proving = self.keeper.authenticate(secret, from);
        let bearer = match self
            .in_time(proving.map(|done| done.map_err(Trouble::from)))
            .await
        {
            Ok(bearer) => bearer,
            Err(failure) => {
                // Without this, guessing tokens would be free of any limit.
                if let Err(exceeded) = pass.by_address() {
                    return self.over_limit(exceeded, &request, &mounts, &query).await;
                }
                let exchange = request.exchange(&mounts, Some(secret), &query, None);
                return self.refuse(&exchange, failure).await;
            }
        };
        if let Err(exceeded) = pass.by_user(&bearer) {
            return self.over_limit(exceeded, &request, &mounts, &query).await;
        }
        let params = if request.writes {
            let limit = self.options.limits.body;
            match self.receive(query, request.headers, body, limit).await {
                Ok(params) => params,
                Err(trouble) => {
                    let nothing = Params::new();
                    let shown = Some((&*bearer.token, None));
                    let exchange = request.exchange(&mounts, Some(secret), &nothing, shown);
                    return self.refuse(&exchange, trouble).await;
                }
            }
        } else {
            query
        };
        let authorizing = self.authorize(&bearer, route, &request, &params);
        let granted = match self.in_time(authorizing).await {
            Ok(granted) => granted,
            Err(trouble) => {
                let shown = Some((&*bearer.token, None));
                let exchange = request.exchange(&mounts, Some(secret), &params, shown);
                return self.refuse(&exchange, trouble).await;
            }
        };
        let shown = Some((&*bearer.token, Some(&granted)));
        let common = Common::new(
            &self.hasher,
            &request.exchange(&mounts, Some(secret), &params, shown),
        );
        let passes = match self.options.on_audit_failure {
            AuditFailure::Refuse => false,
            AuditFailure::Revoke => route.cannot_wait(request.operation),
            AuditFailure::Serve => true,
        };
        if let Err(error) = self.announce(&common, None, passes).await {
            return unaudited(&error);
        }
        let mut call = request.call(params);
        let caller = Caller {
            bearer: &bearer,
            granted: &granted,
            secret,
        };
        let acting = async {
            if request.help {
                endpoints::help::answer(route, request.path)
            } else {
                endpoints::guarded(self, route, &mut call, &caller).await
            }
        };
        // What changes something is not broken off in the middle; reading leaves nothing half done.
        let acted = if request.writes || request.operation == Operation::Delete {
            acting.await
        } else {
            self.in_time(acting).await
        };
        let answer = acted.unwrap_or_else(Answer::from);
        self.finish(&common, call.fields, answer, passes)
    }

    /// The outcome of `work`, or that it takes longer than the stock clients wait.
    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let limit = self.options.limits.answer;
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            let text = format!(
                "the server did not finish this within {} seconds; try again in a moment",
                limit.as_secs()
            );
            let answer = Answer::error(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(Some(5));
            Err(Trouble::Answer(Box::new(answer)))
        })
    }

    async fn authorize(
        &self,
        bearer: &Bearer,
        route: Route<'_>,
        request: &Received<'_>,
        params: &Params,
    ) -> Result<Granted, Trouble> {
        let operation = request.operation;
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

    async fn receive<B>(
        &self,
        mut query: Params,
        headers: &HeaderMap,
        body: B,
        limit: usize,
    ) -> Result<Params, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let bytes = params::receive(body, limit, self.options.limits.body_time).await?;
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let mut sent = params::body(content_type, &bytes)?;
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
