//! One request from its first byte to its answer: the order in which it is checked, audited, acted upon and answered.
//!
//! Owns that order. Refuses to know what any endpoint does. Whatever goes wrong on the way is an answer in JSON, a panic included.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use bytes::Bytes;
use futures_util::FutureExt as _;
use gridkeep_keeper::{Bearer, Granted, Keeper, Operation, Refused, Setup};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use secrecy::SecretString;

use crate::answer::{Answer, Body as AnswerBody};
use crate::audit::{AuditError, AuditSink, Common, Exchange, Hasher, Mount, ResponsePart};
use crate::endpoints;
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::listener::HttpService;
use crate::params::{self, Params};
use crate::path;
use crate::route::{CredentialKind, Route, Verb};

/// Bounds of a single request.
#[derive(Debug, Clone)]
pub struct DialectLimits {
    /// Bytes of the body of a request without a token, or whose token was not proven yet.
    pub open_body: usize,
    /// Bytes of the body of a request with a live token.
    pub body: usize,
    /// Time for a body to arrive.
    pub body_time: Duration,
}

impl Default for DialectLimits {
    fn default() -> Self {
        DialectLimits {
            open_body: 64 << 10,
            body: 1 << 20,
            body_time: Duration::from_secs(8),
        }
    }
}

/// What the dialect is given besides the keeper.
#[derive(Clone)]
pub struct DialectOptions {
    /// Where audit lines go.
    pub audit: Arc<dyn AuditSink>,
    /// The version that `sys/health` and others tell.
    pub version: String,
    /// The date of that version, RFC 3339.
    pub build_date: String,
    /// Bounds of a single request.
    pub limits: DialectLimits,
}

impl std::fmt::Debug for DialectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DialectOptions")
            .field("version", &self.version)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

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
}

/// The mounts of one configuration.
struct MountTable {
    setup: Arc<Setup>,
    mounts: Vec<Mount>,
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
        VaultService {
            inner: Arc::new(Inner {
                keeper,
                options,
                form_key,
                hasher,
                mounts,
            }),
        }
    }

    /// Answers one request that came from `peer`.
    pub async fn handle<B>(&self, request: Request<B>, peer: SocketAddr) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
    {
        let id = request_id();
        // What lies between this message and the next is where front servers and we might disagree: do not go on from there.
        let close = request.headers().contains_key(TRANSFER_ENCODING);
        let answering = AssertUnwindSafe(self.inner.answer(request, peer, &id)).catch_unwind();
        let answer = answering.await.unwrap_or_else(|_| {
            tracing::error!(request_id = id, "a request ended in a panic");
            Answer::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal error; the server's log has more under request {id}"),
            )
        });
        let mut response = answer.into_response(&id);
        if close {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Inner {
    async fn answer<B>(&self, request: Request<B>, peer: SocketAddr, id: &str) -> Answer
    where
        B: Body<Data = Bytes>,
    {
        let (parts, body) = request.into_parts();
        let raw = parts.uri.path();
        let Some(raw) = raw.strip_prefix("/v1/") else {
            return self.outside(&parts.method, raw);
        };
        self.api(raw, &parts, body, peer, id)
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
    ) -> Result<Answer, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let decoded = path::decode(raw)?;
        let mut query = parts
            .uri
            .query()
            .map_or_else(|| Ok(Params::new()), params::query)?;
        let Some(verb) = Verb::of(&parts.method, &parts.headers, &mut query) else {
            return Err(Trouble::unsupported());
        };
        check_headers(&parts.headers)?;
        let trimmed = decoded.strip_suffix('/').unwrap_or(&decoded);
        let route = Route::of(trimmed);
        let operation = match (verb, route) {
            (_, Route::Status(status)) => {
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
        // Policies see the path of a list with its slash, and that of anything else as it came.
        let listed;
        let path =
            if matches!(operation, Operation::List | Operation::Scan) && !decoded.ends_with('/') {
                listed = format!("{decoded}/");
                listed.as_str()
            } else {
                decoded.as_ref()
            };
        let request = Received {
            id,
            operation,
            path,
            writes,
            query,
            headers: &parts.headers,
            peer,
        };
        match route {
            Route::Login(_) | Route::UiMounts => self.open(route, request, body).await,
            _ => self.guarded(route, request, body).await,
        }
    }

    /// An endpoint that needs no token. One that is sent along is not held against anybody.
    async fn open<B>(
        &self,
        route: Route<'_>,
        request: Received<'_>,
        body: B,
    ) -> Result<Answer, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let Received {
            id,
            operation,
            path,
            writes,
            query,
            headers,
            peer,
        } = request;
        let params = if writes {
            self.receive(query, headers, body, self.options.limits.open_body)
                .await?
        } else {
            query
        };
        let mounts = self.mounts();
        let exchange = Exchange {
            id,
            operation: operation.word(),
            path,
            mount: mounts.find(path),
            secret: None,
            params: &params,
            peer,
            token: None,
            granted: None,
        };
        let common = Common::new(&self.hasher, &exchange);
        if let Err(error) = self
            .options
            .audit
            .write(common.request_line(self.wall(), None))
            .await
        {
            return Ok(unaudited(&error));
        }
        let mut call = Call {
            operation,
            path,
            headers,
            peer,
            fields: Fields::new(params),
        };
        let answer = endpoints::open(self, route, &mut call)
            .await
            .unwrap_or_else(Answer::from);
        Ok(self.finish(&common, call.fields, answer))
    }

    /// An endpoint that needs a token.
    async fn guarded<B>(
        &self,
        route: Route<'_>,
        request: Received<'_>,
        body: B,
    ) -> Result<Answer, Trouble>
    where
        B: Body<Data = Bytes>,
    {
        let Received {
            id,
            operation,
            path,
            writes,
            query,
            headers,
            peer,
        } = request;
        let mounts = self.mounts();
        let word = operation.word();
        let secret = client_token(headers);
        let mut exchange = Exchange {
            id,
            operation: word,
            path,
            mount: mounts.find(path),
            secret: secret.as_ref(),
            params: &query,
            peer,
            token: None,
            granted: None,
        };
        let Some(secret) = secret.as_ref() else {
            return Ok(self.refuse(&exchange, Refused::UnknownToken.into()).await);
        };
        let bearer = match self.keeper.authenticate(secret, Some(peer.ip())).await {
            Ok(bearer) => bearer,
            Err(failure) => return Ok(self.refuse(&exchange, failure.into()).await),
        };
        exchange.token = Some(&bearer.token);
        let merged;
        let params = if writes {
            match self
                .receive(query.clone(), headers, body, self.options.limits.body)
                .await
            {
                Ok(params) => {
                    merged = params;
                    &merged
                }
                Err(trouble) => return Ok(self.refuse(&exchange, trouble).await),
            }
        } else {
            &query
        };
        exchange.params = params;
        let granted = match self.authorize(&bearer, route, operation, path, params) {
            Ok(granted) => granted,
            Err(trouble) => return Ok(self.refuse(&exchange, trouble).await),
        };
        exchange.granted = Some(&granted);
        let common = Common::new(&self.hasher, &exchange);
        if let Err(error) = self
            .options
            .audit
            .write(common.request_line(self.wall(), None))
            .await
        {
            return Ok(unaudited(&error));
        }
        let mut call = Call {
            operation,
            path,
            headers,
            peer,
            fields: Fields::new(params.clone()),
        };
        let caller = Caller {
            bearer: &bearer,
            granted: &granted,
            secret,
        };
        let answer = endpoints::guarded(self, route, &mut call, &caller)
            .await
            .unwrap_or_else(Answer::from);
        Ok(self.finish(&common, call.fields, answer))
    }

    fn authorize(
        &self,
        bearer: &Bearer,
        route: Route<'_>,
        operation: Operation,
        path: &str,
        params: &Params,
    ) -> Result<Granted, Trouble> {
        if let Route::Credential { kind, name } = route {
            match (kind, operation) {
                // The list shows each caller what its own policies cover and is open to every live token.
                (CredentialKind::Base, Operation::List | Operation::Scan) => {
                    return Ok(Granted {
                        policies: Vec::new(),
                        sudo: false,
                        root: false,
                    });
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
        Ok(self.keeper.authorize(bearer, operation, path, params)?)
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

    /// Both audit lines of a request that is not acted upon.
    async fn refuse(&self, exchange: &Exchange<'_>, trouble: Trouble) -> Answer {
        let answer = Answer::from(trouble);
        let error = answer.error_text().unwrap_or("not found");
        let common = Common::new(&self.hasher, exchange);
        let now = self.wall();
        if let Err(error) = self
            .options
            .audit
            .write(common.request_line(now, Some(error)))
            .await
        {
            return unaudited(&error);
        }
        let line = common.response_line(&self.hasher, now, &ResponsePart::default(), Some(error));
        self.options
            .audit
            .queue(line)
            .err()
            .map_or(answer, |error| unaudited(&error))
    }

    /// The second audit line, and the warnings about parameters nobody knew.
    fn finish(&self, common: &Common, fields: Fields, mut answer: Answer) -> Answer {
        if matches!(answer.body, AnswerBody::Envelope { .. }) {
            fields.finish(&mut answer.warnings);
        }
        let part = match &answer.body {
            AnswerBody::Envelope { data, auth, .. } => ResponsePart {
                data: Some(data),
                auth: auth.as_deref(),
                warnings: &answer.warnings,
            },
            _ => ResponsePart::default(),
        };
        let line = common.response_line(&self.hasher, self.wall(), &part, answer.error_text());
        self.options
            .audit
            .queue(line)
            .err()
            .map_or(answer, |error| unaudited(&error))
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

/// A request whose path and method were understood.
struct Received<'a> {
    id: &'a str,
    operation: Operation,
    path: &'a str,
    writes: bool,
    query: Params,
    headers: &'a HeaderMap,
    peer: SocketAddr,
}

impl MountTable {
    fn of(keeper: &Keeper) -> Self {
        let setup = keeper.setup();
        let mounts = keeper
            .mounts()
            .into_iter()
            .map(|mount| Mount {
                class: if mount.path.starts_with("auth/") {
                    "auth"
                } else if mount.path.starts_with("sys/") {
                    "system"
                } else {
                    "secret"
                },
                point: mount.path,
                kind: mount.kind.to_owned(),
                accessor: mount.accessor,
            })
            .collect();
        MountTable { setup, mounts }
    }

    fn find(&self, path: &str) -> Option<&Mount> {
        self.mounts
            .iter()
            .find(|mount| path.starts_with(&mount.point))
    }
}

/// The audit log cannot take the request: nothing was done, or nothing of it may be told.
fn unaudited(error: &AuditError) -> Answer {
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, error.to_string()).retry_after(Some(5))
}

/// Headers that would change the meaning of an answer in ways this server does not offer.
fn check_headers(headers: &HeaderMap) -> Result<(), Trouble> {
    if let Some(namespace) = headers.get("x-vault-namespace") {
        let name = namespace.to_str().unwrap_or("?").trim_matches('/');
        if !name.is_empty() && name != "root" {
            return Err(Trouble::text(StatusCode::NOT_FOUND, "namespace not found"));
        }
    }
    // An unwrapped secret must not go to somebody who asked for a wrapped one.
    if headers
        .get("x-vault-wrap-ttl")
        .is_some_and(|value| !matches!(value.as_bytes(), b"" | b"0" | b"0s"))
    {
        return Err(Trouble::bad(
            "response wrapping is not supported; leave out the header X-Vault-Wrap-TTL",
        ));
    }
    let mut tokens = headers.get_all("x-vault-token").iter();
    if let Some(first) = tokens.next()
        && tokens.any(|other| other != first)
    {
        return Err(Trouble::bad(
            "the request carries two different values of X-Vault-Token",
        ));
    }
    Ok(())
}

/// The secret of the caller's token: `X-Vault-Token`, else a bearer authorization.
fn client_token(headers: &HeaderMap) -> Option<SecretString> {
    let text = match headers.get("x-vault-token") {
        Some(value) => value.to_str().ok()?.trim(),
        None => {
            let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return None;
            }
            token.trim()
        }
    };
    (!text.is_empty()).then(|| SecretString::from(text))
}

/// A random identifier in the form of a UUID of version 4.
fn request_id() -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0; 16];
    // Only an identifier: without randomness it is not unique, and the request can still be served.
    let _ = rand::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut id = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        id.push(char::from(DIGITS[usize::from(byte >> 4)]));
        id.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    id
}
