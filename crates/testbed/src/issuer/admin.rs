//! The administration interface for tests in other languages: plain HTTP on a loopback port of its own, JSON in and out.
//! Each path does one thing that [`TestIssuer`](super::TestIssuer) also offers as a method.
//!
//! | request | body | answer |
//! |:--|:--|:--|
//! | `GET /admin/counters` | | [`Counters`](super::Counters) |
//! | `GET`, `POST`, `DELETE /admin/faults` | a [`Fault`], or a list of them | the faults in force |
//! | `GET /admin/devices` | | open device requests |
//! | `POST /admin/approve` | `{"user_code"?, "user", "wait_ms"?}` | `{"done": n}` |
//! | `POST /admin/deny` | `{"user_code"?, "wait_ms"?}` | `{"done": n}` |
//! | `POST /admin/login` | `{"url", "user", "decision"?, "ca"?}` (`ca`: PEM text) | `{"url", "status", "body"}` |
//! | `POST /admin/rotate-keys` | `{"how"?: "announce", "overlap", "emergency"}` | `{"kid"}` |
//! | `POST /admin/revoke` | `{"grant"}`, `{"user"}` or `{"refresh_token"}` (id) | `{"done": n}` |
//! | `POST /admin/clock-offset` | `{"seconds"}` or `{"advance"}` | `{"seconds"}` |
//! | `POST /admin/settings` | `{"access_token_seconds"?, "rotation"?, "grace_seconds"?, "secrets"?}` (`secrets`: client id → new secret) | `{}` |

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::browser::Consent;
use super::control;
use super::fault::Fault;
use super::keys::KeyRotation;
use super::options::Rotation;
use super::state::App;

type Shared = State<Arc<App>>;

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/admin/counters", get(counters))
        .route(
            "/admin/faults",
            get(faults).post(add_faults).delete(clear_faults),
        )
        .route("/admin/devices", get(devices))
        .route("/admin/approve", post(approve))
        .route("/admin/deny", post(deny))
        .route("/admin/login", post(login))
        .route("/admin/rotate-keys", post(rotate_keys))
        .route("/admin/revoke", post(revoke))
        .route("/admin/clock-offset", post(clock_offset))
        .route("/admin/settings", post(settings))
        .with_state(app)
}

/// Reads a JSON body whatever its content type says; none at all counts as `{}`, for curl's sake.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Box<Response>> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text).map_err(|error| Box::new(refuse(StatusCode::BAD_REQUEST, error)))
}

fn refuse(status: StatusCode, text: impl ToString) -> Response {
    (status, Json(json!({"error": text.to_string()}))).into_response()
}

async fn counters(State(app): Shared) -> Response {
    Json(app.counters()).into_response()
}

async fn faults(State(app): Shared) -> Response {
    Json(app.faults().list()).into_response()
}

async fn add_faults(State(app): Shared, body: Bytes) -> Response {
    let body: Value = match read(&body) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    let list = match &body {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    match list.iter().map(Fault::read).collect::<Result<Vec<_>, _>>() {
        Ok(list) => {
            list.into_iter().for_each(|fault| app.faults().add(fault));
            faults(State(app)).await
        }
        Err(slip) => refuse(StatusCode::BAD_REQUEST, slip),
    }
}

async fn clear_faults(State(app): Shared) -> Response {
    app.faults().clear();
    faults(State(app)).await
}

async fn devices(State(app): Shared) -> Response {
    Json(control::open_devices(&app)).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decide {
    #[serde(default)]
    user_code: Option<String>,
    #[serde(default)]
    user: Option<String>,
    /// Wait this long for a fitting request to appear, milliseconds.
    #[serde(default)]
    wait_ms: u64,
}

/// Decides, at once or as soon as there is something to decide.
async fn decide(app: &App, body: &Decide, user: Option<&str>) -> Response {
    let deadline = Instant::now() + Duration::from_millis(body.wait_ms);
    loop {
        let done = control::decide(app, body.user_code.as_deref(), user);
        if done > 0 || Instant::now() >= deadline {
            return Json(json!({"done": done})).into_response();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn approve(State(app): Shared, body: Bytes) -> Response {
    let body: Decide = match read(&body) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    let Some(user) = body.user.clone() else {
        return refuse(StatusCode::BAD_REQUEST, "say which user approves");
    };
    if app.user(&user).is_none() {
        return refuse(StatusCode::NOT_FOUND, format!("there is no user {user}"));
    }
    decide(&app, &body, Some(&user)).await
}

async fn deny(State(app): Shared, body: Bytes) -> Response {
    let body: Decide = match read(&body) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    decide(&app, &body, None).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    url: String,
    user: String,
    #[serde(default)]
    decision: Option<String>,
    #[serde(default)]
    ca: Option<String>,
}

async fn login(State(app): Shared, body: Bytes) -> Response {
    let body: Login = match read(&body) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    let consent = if body.decision.as_deref() == Some("deny") {
        Consent::Deny
    } else {
        Consent::Approve
    };
    let more: Vec<&str> = body.ca.as_deref().into_iter().collect();
    match control::log_in(&app, &body.url, &body.user, consent, &more).await {
        Ok(page) => {
            Json(json!({"url": page.url.as_str(), "status": page.status, "body": page.body}))
                .into_response()
        }
        Err(error) => refuse(StatusCode::BAD_GATEWAY, error),
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotateKeys {
    how: KeyRotation,
}

async fn rotate_keys(State(app): Shared, body: Bytes) -> Response {
    let body: RotateKeys = match read(&body) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    match app.keys().rotate(body.how) {
        Ok(kid) => Json(json!({"kid": kid})).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    #[serde(default)]
    grant: Option<u64>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
}

async fn revoke(State(app): Shared, body: Bytes) -> Response {
    let body: Revoke = match read(&body) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    let done = match body {
        Revoke {
            grant: Some(id),
            user: None,
            refresh_token: None,
        } => control::revoke_grants(&app, |g| g.id == id),
        Revoke {
            grant: None,
            user: Some(name),
            refresh_token: None,
        } => control::revoke_grants(&app, |g| g.user.as_deref() == Some(name.as_str())),
        Revoke {
            grant: None,
            user: None,
            refresh_token: Some(id),
        } => control::revoke_refresh_token(&app, &id),
        _ => {
            return refuse(
                StatusCode::BAD_REQUEST,
                "name exactly one of grant, user, refresh_token",
            );
        }
    };
    Json(json!({"done": done})).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockOffset {
    #[serde(default)]
    seconds: Option<i64>,
    #[serde(default)]
    advance: Option<i64>,
}

async fn clock_offset(State(app): Shared, body: Bytes) -> Response {
    let body: ClockOffset = match read(&body) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    if let Some(seconds) = body.seconds {
        app.clock.set_offset(seconds);
    }
    if let Some(seconds) = body.advance {
        app.clock.advance(seconds);
    }
    Json(json!({"seconds": app.clock.offset()})).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    access_token_seconds: Option<i64>,
    #[serde(default)]
    rotation: Option<Rotation>,
    #[serde(default)]
    grace_seconds: Option<i64>,
    #[serde(default)]
    secrets: HashMap<String, String>,
}

async fn settings(State(app): Shared, body: Bytes) -> Response {
    let body: Change = match read(&body) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    let mut settings = app.settings();
    settings.access_token_seconds = body
        .access_token_seconds
        .unwrap_or(settings.access_token_seconds);
    settings.rotation = body.rotation.unwrap_or(settings.rotation);
    settings.grace_seconds = body.grace_seconds.unwrap_or(settings.grace_seconds);
    drop(settings);
    let secrets = body.secrets.into_iter();
    app.world()
        .secrets
        .extend(secrets.map(|(id, secret)| (id, SecretString::from(secret))));
    Json(json!({})).into_response()
}
