//! Connections and routing: TLS, HTTP/1.1, faults, then the endpoint. It carries out what `fault` decides and tells `delivery` what
//! happens to answers; it knows no tokens.
//!
//! Each request runs in a task of its own, so that the issuer finishes acting even when the client has gone: a real one would.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, header, request};
use axum::routing::{any, get, post};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::delivery::{Connection, Ending, Ticket, TicketBody, Watched};
use super::fault::{Endpoint, Fault, FaultKind};
use super::form::{Answer, Form, error_answer, json_answer};
use super::problem::Refusal;
use super::state::App;
use super::{authorize, character, client_auth, token, userinfo};

/// Longest request body, bytes.
const BODY_LIMIT: usize = 256 * 1024;

/// Accepts connections until the issuer is stopped; then ends those that are open.
pub(crate) async fn run(app: Arc<App>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    let router = router(Arc::clone(&app));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = app.stopped() => break,
            accepted = listener.accept() => {
                // A failed accept (too many files, aborted connection) concerns one client only.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(Arc::clone(&app), stream, acceptor.clone(), router.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn connection(app: Arc<App>, stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    // Without it answers wait for acknowledgements; failing to set it changes nothing else.
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await
    else {
        return;
    };
    let connection = Connection::new(Arc::clone(&app.clock));
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&connection)));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (app, connection, router) = (Arc::clone(&app), Arc::clone(&connection), router.clone());
        async move { one_request(app, connection, router, request).await }
    });
    // An error here is a client that went away or an answer that was cut on purpose: both are in the accounts already.
    // Without a timer idle connections stay open: a test that wants them closed orders a fault.
    let _ = http1::Builder::new().serve_connection(io, service).await;
}

/// What to send, after the fault had its way.
enum Reply {
    Whole(Answer),
    Cut(Answer),
    Hang,
    Close,
}

/// The ticket of a made answer on its way to the connection; lost unless it gets there.
struct Fate(Option<Arc<Ticket>>);

impl Fate {
    fn reached(mut self) -> Option<Arc<Ticket>> {
        self.0.take()
    }
}

impl Drop for Fate {
    fn drop(&mut self) {
        if let Some(ticket) = &self.0 {
            ticket.lose(Ending::Ours);
        }
    }
}

async fn one_request(
    app: Arc<App>,
    connection: Arc<Connection>,
    router: Router,
    request: hyper::Request<Incoming>,
) -> Result<Response<TicketBody>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), BODY_LIMIT)
        .await
        .map_err(io::Error::other)?;
    let worker = Arc::clone(&app);
    let acting = tokio::spawn(async move { act(&worker, router, parts, body).await });
    let (reply, fate) = acting.await.map_err(io::Error::other)?;
    let (answer, cut) = match reply {
        Reply::Whole(answer) => (answer, false),
        Reply::Cut(answer) => (answer, true),
        Reply::Hang => {
            drop(fate);
            app.stopped().await;
            return Err(io::Error::other("the issuer stopped"));
        }
        Reply::Close => return Err(io::Error::other("closed without an answer on purpose")),
    };
    let (parts, body) = answer.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.map_err(io::Error::other)?;
    let ticket = if cut { None } else { fate.reached() };
    if let Some(ticket) = &ticket {
        connection.carry(Arc::clone(ticket));
    }
    Ok(Response::from_parts(
        parts,
        TicketBody::new(bytes, ticket, cut),
    ))
}

/// Counts, lets a fault strike, and asks the router.
async fn act(app: &Arc<App>, router: Router, parts: request::Parts, body: Bytes) -> (Reply, Fate) {
    let endpoint = endpoint(app, parts.uri.path());
    let form = Form::parse(&body);
    let grant_type = form
        .get("grant_type")
        .filter(|_| endpoint == Endpoint::Token);
    {
        let refresh_of = if endpoint == Endpoint::Token {
            token::refresh_grant(app, &form)
        } else {
            None
        };
        let mut ledger = app.ledger();
        ledger.request(name(endpoint));
        if endpoint == Endpoint::Token {
            ledger.token_request(grant_type.unwrap_or(""), refresh_of);
        }
    }
    let fault = app.faults().take(endpoint, grant_type);
    if let Some(fault) = &fault {
        app.ledger().fault();
        pause(app, fault.delay_ms).await;
        if let Some(reply) = instead(fault) {
            return (reply, Fate(None));
        }
    }
    let mut answer = route(router, Request::from_parts(parts, Body::from(body))).await;
    let fate = Fate(answer.extensions_mut().remove::<Arc<Ticket>>());
    let Some(fault) = fault else {
        return (Reply::Whole(answer), fate);
    };
    pause(app, fault.delay_answer_ms).await;
    let reply = match fault.kind {
        FaultKind::ActThenDrop => Reply::Close,
        FaultKind::ActThenHang => Reply::Hang,
        FaultKind::ActThenCut => Reply::Cut(answer),
        _ => Reply::Whole(answer),
    };
    (reply, fate)
}

async fn route(router: Router, request: Request) -> Answer {
    match TowerToHyperService::new(router).call(request).await {
        Ok(answer) => answer,
        Err(never) => {
            let never: Infallible = never;
            match never {}
        }
    }
}

async fn pause(app: &App, milliseconds: u64) {
    if milliseconds > 0 {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(milliseconds)) => {}
            () = app.stopped() => {}
        }
    }
}

/// The reply of a fault that does not act.
fn instead(fault: &Fault) -> Option<Reply> {
    Some(match &fault.kind {
        FaultKind::Delay
        | FaultKind::ActThenDrop
        | FaultKind::ActThenHang
        | FaultKind::ActThenCut => return None,
        FaultKind::Hang => Reply::Hang,
        FaultKind::Drop => Reply::Close,
        FaultKind::Garbage => {
            let mut answer = json_answer(200, &serde_json::Value::Null);
            *answer.body_mut() = Body::from(&b"<html>\x00\xff{\"access_token\": unquoted"[..]);
            Reply::Whole(answer)
        }
        FaultKind::Status {
            status,
            body,
            content_type,
            retry_after,
        } => {
            let mut answer = Response::new(Body::from(body.clone()));
            *answer.status_mut() =
                StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let kind = HeaderValue::from_str(content_type.as_deref().unwrap_or("text/html"));
            if let Ok(kind) = kind {
                answer.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            if let Some(seconds) = retry_after {
                answer
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
            }
            Reply::Whole(answer)
        }
        FaultKind::Refuse {
            error,
            description,
            status,
        } => Reply::Whole(error_answer(&Refusal::new(
            status.unwrap_or(400),
            error,
            description.clone(),
        ))),
    })
}

fn endpoint(app: &App, path: &str) -> Endpoint {
    let paths = &app.paths;
    match path {
        _ if paths.discovery.iter().any(|p| p == path) => Endpoint::Discovery,
        _ if path == paths.jwks => Endpoint::Jwks,
        _ if path == paths.authorize => Endpoint::Authorize,
        _ if path == paths.device => Endpoint::DeviceAuthorization,
        _ if path == paths.token => Endpoint::Token,
        _ if path == paths.userinfo => Endpoint::Userinfo,
        _ if path == paths.revoke => Endpoint::Revocation,
        _ if path == paths.introspect => Endpoint::Introspection,
        _ => Endpoint::Pages,
    }
}

fn name(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Discovery => "discovery",
        Endpoint::Jwks => "jwks",
        Endpoint::Authorize => "authorize",
        Endpoint::DeviceAuthorization => "device_authorization",
        Endpoint::Token => "token",
        Endpoint::Userinfo => "userinfo",
        Endpoint::Revocation => "revocation",
        Endpoint::Introspection => "introspection",
        Endpoint::Pages => "pages",
    }
}

type Shared = State<Arc<App>>;

fn router(app: Arc<App>) -> Router {
    let paths = app.paths.clone();
    let mut router = Router::new();
    for path in &paths.discovery {
        router = router.route(path, get(discovery));
    }
    router
        .route(&paths.jwks, get(jwks))
        .route(
            &paths.authorize,
            get(authorize_endpoint).post(authorize_endpoint),
        )
        .route(&paths.device, post(device_endpoint))
        .route(&paths.token, post(token_endpoint))
        .route(
            &paths.userinfo,
            get(userinfo_endpoint).post(userinfo_endpoint),
        )
        .route(&paths.revoke, post(revoke_endpoint))
        .route(&paths.introspect, post(introspect_endpoint))
        .route(&paths.verification, get(device_page).post(device_page))
        .route("/login", get(login).post(login))
        .route("/consent", get(consent).post(consent))
        .fallback(any(nothing))
        .with_state(app)
}

/// Parameters of a request: those of the query, then those of a form body.
async fn parameters(request: Request) -> (request::Parts, Form) {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_LIMIT).await.unwrap_or_default();
    let mut text = parts.uri.query().unwrap_or("").as_bytes().to_vec();
    if !body.is_empty() {
        text.push(b'&');
        text.extend_from_slice(&body);
    }
    (parts, Form::parse(&text))
}

/// Parameters of a token-like request: only the body counts (RFC 6749 2.3.1).
async fn body_only(request: Request) -> (request::Parts, Form) {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_LIMIT).await.unwrap_or_default();
    (parts, Form::parse(&body))
}

async fn discovery(State(app): Shared) -> Answer {
    let algorithms = [app.keys().algorithm().to_string()];
    json_answer(
        200,
        &character::discovery(&app.options, &app.base, &app.paths, &algorithms),
    )
}

async fn jwks(State(app): Shared) -> Answer {
    json_answer(200, &app.keys().public().to_json())
}

async fn authorize_endpoint(State(app): Shared, request: Request) -> Answer {
    let (parts, form) = parameters(request).await;
    authorize::authorize(&app, &parts.headers, &form)
}

async fn device_endpoint(State(app): Shared, request: Request) -> Answer {
    let (parts, form) = body_only(request).await;
    let started = client_auth::authenticate(&app, &parts.headers, &form)
        .and_then(|client| {
            let grant = token::DEVICE_CODE.to_owned();
            let allowed = client.grant_types.is_empty() || client.grant_types.contains(&grant);
            if allowed {
                Ok(client)
            } else {
                Err(super::problem::Problem::GrantTypeForbidden(grant))
            }
        })
        .and_then(|client| authorize::start_device(&app, client, &form));
    match started {
        Ok(body) => json_answer(200, &body),
        Err(problem) => error_answer(&app.refusal(&problem)),
    }
}

async fn token_endpoint(State(app): Shared, request: Request) -> Answer {
    let (parts, form) = body_only(request).await;
    token::answer(&app, &parts.headers, &form)
}

async fn userinfo_endpoint(State(app): Shared, request: Request) -> Answer {
    userinfo::userinfo(&app, request.headers())
}

async fn revoke_endpoint(State(app): Shared, request: Request) -> Answer {
    let (parts, form) = body_only(request).await;
    userinfo::revoke(&app, &parts.headers, &form)
}

async fn introspect_endpoint(State(app): Shared, request: Request) -> Answer {
    let (parts, form) = body_only(request).await;
    userinfo::introspect(&app, &parts.headers, &form)
}

async fn device_page(State(app): Shared, request: Request) -> Answer {
    let (parts, form) = parameters(request).await;
    authorize::device_page(&app, &parts.headers, &form, parts.method == Method::POST)
}

async fn login(State(app): Shared, request: Request) -> Answer {
    let (parts, form) = parameters(request).await;
    if parts.method == Method::POST {
        authorize::login(&app, &form)
    } else {
        authorize::login_page(&form)
    }
}

async fn consent(State(app): Shared, request: Request) -> Answer {
    let (parts, form) = parameters(request).await;
    authorize::consent(&app, &parts.headers, &form, parts.method == Method::POST)
}

async fn nothing() -> Answer {
    json_answer(
        404,
        &serde_json::json!({"error": "not_found", "error_description": "nothing is served here"}),
    )
}
