//! The token endpoint. This file takes the request apart, proves the client, counts, and shapes the reply; each grant type is a
//! file of its own beside it. A new grant type is one file, one arm in [`answer`], and a name in `character::discovery`.

mod client_credentials;
mod code;
mod device;
mod exchange;
mod refresh;

use std::sync::Arc;

use axum::http::HeaderMap;
use gridkeep_token::jws::KeyError;
use serde_json::{Value, json};

use super::client_auth::authenticate;
use super::delivery::Ticket;
use super::form::{Answer, Form, error_answer, json_answer};
use super::mint;
use super::options::{Character, Client, Rotation};
use super::problem::{Problem, Refusal};
use super::scopes::Resolved;
use super::state::{Access, App, Grant, Refresh, World};

pub(crate) const AUTHORIZATION_CODE: &str = "authorization_code";
pub(crate) const REFRESH_TOKEN: &str = "refresh_token";
pub(crate) const CLIENT_CREDENTIALS: &str = "client_credentials";
pub(crate) const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
pub(crate) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Why a token request failed.
pub(crate) enum Failure {
    Refused(Problem),
    /// Signing failed: the issuer's own fault.
    Broken(KeyError),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        Self::Broken(error)
    }
}

/// Handles one token request. The answer carries its [`Ticket`] as an extension when tokens are in it.
pub(crate) fn answer(app: &App, headers: &HeaderMap, form: &Form) -> Answer {
    let grant_type = form.get("grant_type").unwrap_or("");
    let outcome = authenticate(app, headers, form)
        .map_err(Failure::from)
        .and_then(|client| {
            if grant_type.is_empty() {
                return Err(Problem::GrantTypeMissing.into());
            }
            if !client.grant_types.is_empty() && !client.grant_types.iter().any(|g| g == grant_type)
            {
                return Err(Problem::GrantTypeForbidden(grant_type.to_owned()).into());
            }
            match grant_type {
                AUTHORIZATION_CODE => code::run(app, client, form),
                REFRESH_TOKEN => refresh::run(app, client, form),
                DEVICE_CODE => device::run(app, client, form),
                TOKEN_EXCHANGE => exchange::run(app, client, form),
                CLIENT_CREDENTIALS => client_credentials::run(app, client, form),
                other => Err(Problem::GrantTypeUnknown(other.to_owned()).into()),
            }
        });
    match outcome {
        Ok(issued) => {
            app.ledger().issued(Arc::clone(&issued.ticket));
            let mut answer = json_answer(200, &issued.body);
            answer.extensions_mut().insert(issued.ticket);
            answer
        }
        Err(failure) => {
            let refresh_of = refresh_grant(app, form);
            app.ledger().refused(grant_type, refresh_of);
            let refusal = match failure {
                Failure::Refused(problem) => app.refusal(&problem),
                Failure::Broken(error) => Refusal::new(500, "server_error", error.to_string()),
            };
            error_answer(&refusal)
        }
    }
}

/// Grant of the refresh token in a refresh request, for the accounts.
pub(crate) fn refresh_grant(app: &App, form: &Form) -> Option<u64> {
    if form.get("grant_type") != Some(REFRESH_TOKEN) {
        return None;
    }
    app.world()
        .refresh
        .get(form.get("refresh_token")?)
        .map(|r| r.grant)
}

/// Tokens that were made.
pub(crate) struct Issued {
    body: Value,
    ticket: Arc<Ticket>,
}

/// What a grant type wants in the reply.
struct Order<'a> {
    grant_type: &'a str,
    client: &'a Client,
    grant: &'a Grant,
    resolved: &'a Resolved,
    audiences: &'a [String],
    id_token: bool,
    /// A new refresh token, or the one that stays.
    refresh: RefreshPart,
}

enum RefreshPart {
    None,
    New,
    Same(String),
}

/// Makes the tokens of `order` and remembers them.
fn issue(app: &App, world: &mut World, order: &Order<'_>) -> Result<Issued, Failure> {
    let user = order.grant.user.as_deref().and_then(|name| app.user(name));
    let minted = mint::access_token(app, order.grant, user, order.resolved, order.audiences)?;
    let mut body = json!({"access_token": minted.token, "token_type": "Bearer", "expires_in": minted.lifetime});
    let asked_openid = order.grant.scopes.iter().any(|s| s == "openid");
    if let Some(user) = user
        && order.id_token
        && asked_openid
    {
        body["id_token"] = json!(mint::id_token(
            app,
            order.grant,
            user,
            order.resolved,
            &minted.token
        )?);
    }
    let now_ms = app.clock.now_ms();
    let absolute_ms = order
        .grant
        .created_ms
        .saturating_add(app.options.refresh_token_seconds.saturating_mul(1000));
    let mut refresh_id = None;
    match &order.refresh {
        RefreshPart::None => {}
        RefreshPart::Same(value) => body["refresh_token"] = json!(value),
        RefreshPart::New => {
            let number = world.number();
            let id = format!("refresh-{number}");
            let value = mint::refresh_text(app, order.grant, absolute_ms / 1000);
            body["refresh_token"] = json!(value);
            refresh_id = Some(id.clone());
            world.refresh.insert(
                value,
                Refresh {
                    id,
                    number,
                    grant: order.grant.id,
                    expires_ms: absolute_ms,
                    used_ms: now_ms,
                    retired_ms: None,
                    revoked: false,
                    presented: 0,
                },
            );
        }
    }
    if !order.resolved.reply.is_empty() {
        body["scope"] = json!(order.resolved.reply.join(" "));
    }
    let left = (absolute_ms - now_ms) / 1000;
    match app.options.character {
        Character::Wlcg | Character::Iam => {}
        Character::Cilogon => {
            if body.get("refresh_token").is_some() {
                body["refresh_token_lifetime"] = json!(left);
                body["refresh_token_iat"] = json!(now_ms / 1000);
            }
        }
        Character::Keycloak => {
            body["refresh_expires_in"] = json!(if body.get("refresh_token").is_some() {
                left
            } else {
                0
            });
            body["not-before-policy"] = json!(0);
            if user.is_some() {
                body["session_state"] = json!(order.grant.sid);
            }
        }
    }
    world.remember(
        minted.jti,
        Access {
            grant: order.grant.id,
            client: order.client.id.clone(),
            scopes: order.resolved.kept.clone(),
            audiences: order.audiences.to_vec(),
            expires: minted.expires,
            revoked: false,
        },
        app.clock.now(),
    );
    Ok(Issued {
        body,
        ticket: Ticket::new(order.grant_type, Some(order.grant.id), refresh_id),
    })
}

/// Whether a first login yields a refresh token: Keycloak and CILogon always, others for `offline_access`.
fn wants_refresh(app: &App, resolved: &Resolved) -> RefreshPart {
    let always = matches!(
        app.options.character,
        Character::Keycloak | Character::Cilogon
    );
    if always || resolved.kept.iter().any(|s| s == "offline_access") {
        RefreshPart::New
    } else {
        RefreshPart::None
    }
}

/// What a refresh does with the token that was used.
fn rotated(rotation: Rotation, value: &str) -> RefreshPart {
    match rotation {
        Rotation::None => RefreshPart::Same(value.to_owned()),
        Rotation::Grace | Rotation::Immediate => RefreshPart::New,
    }
}
