//! What a test does to a running issuer from outside the protocol. Shared by the in-process handle and the administration interface.

use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::authorize::decide_device;
use super::browser::{Browser, BrowserError, Consent, Page};
use super::state::{App, Decision, Grant, Session};

/// A device request that waits for a person.
#[derive(Clone, Debug, Serialize)]
pub struct OpenDevice {
    /// What the person types.
    pub user_code: String,
    /// Client.
    pub client: String,
    /// Requested scopes.
    pub scopes: Vec<String>,
}

/// Device requests nobody has decided about.
pub(crate) fn open_devices(app: &App) -> Vec<OpenDevice> {
    let now_ms = app.clock.now_ms();
    let world = app.world();
    let open = world
        .devices
        .iter()
        .filter(|d| matches!(d.decision, Decision::Open) && now_ms < d.expires_ms);
    open.map(|d| OpenDevice {
        user_code: d.user_code.clone(),
        client: d.client.clone(),
        scopes: d.scopes.clone(),
    })
    .collect()
}

/// Approves (as `user`) or denies one device request, or all open ones; returns how many.
pub(crate) fn decide(app: &App, code: Option<&str>, user: Option<&str>) -> usize {
    let codes: Vec<String> = match code {
        Some(code) => vec![code.to_owned()],
        None => open_devices(app).into_iter().map(|d| d.user_code).collect(),
    };
    let session = user.map(|name| Session {
        user: name.to_owned(),
        auth_time: app.clock.now(),
    });
    codes
        .iter()
        .filter(|code| decide_device(app, code, session.clone()))
        .count()
}

/// Ends grants; returns how many were alive.
pub(crate) fn revoke_grants(app: &App, which: impl Fn(&Grant) -> bool) -> usize {
    let mut world = app.world();
    let mut ended = Vec::new();
    for grant in world.grants.values_mut().filter(|g| g.alive && which(g)) {
        grant.alive = false;
        ended.push(grant.id);
    }
    for refresh in world
        .refresh
        .values_mut()
        .filter(|r| ended.contains(&r.grant))
    {
        refresh.revoked = true;
    }
    ended.len()
}

/// Revokes one refresh token by id; returns 1 or 0.
pub(crate) fn revoke_refresh_token(app: &App, id: &str) -> usize {
    let mut world = app.world();
    let found = world.refresh.values_mut().find(|r| r.id == id);
    found.map_or(0, |refresh| {
        refresh.revoked = true;
        1
    })
}

/// Logs a user in with a fresh browser that trusts this issuer and `authorities`.
pub(crate) async fn log_in(
    app: &App,
    url: &str,
    user: &str,
    consent: Consent,
    authorities: &[&str],
) -> Result<Page, BrowserError> {
    let mut trusted = vec![app.ca_pem.as_str()];
    trusted.extend_from_slice(authorities);
    let password = app
        .user(user)
        .map(|u| u.password.expose_secret().to_owned())
        .unwrap_or_default();
    Browser::new(&trusted)?
        .log_in(url, user, &password, consent)
        .await
}
