//! Endpoints that look at a token: userinfo (OIDC Core 5.3), introspection (RFC 7662), revocation (RFC 7009).

use axum::http::{HeaderMap, HeaderValue, header};
use gridkeep_token::jws::Jws;
use serde_json::{Map, Value, json};

use super::client_auth::authenticate;
use super::form::{Answer, Form, bearer, error_answer, json_answer};
use super::mint;
use super::problem::Refusal;
use super::state::{Access, App};

/// Claims and record of an access token that was issued here, still verifies, and is neither expired nor revoked.
pub(crate) fn live_access(app: &App, token: &str) -> Option<(Map<String, Value>, Access)> {
    let claims = Jws::parse(token)
        .ok()?
        .verify_named(&app.keys().public())
        .ok()?;
    let jti = claims.get("jti")?.as_str()?;
    let world = app.world();
    let access = world.access.get(jti)?;
    let alive = world.grants.get(&access.grant)?.alive;
    let live = alive && !access.revoked && app.clock.now() < access.expires;
    live.then(|| (claims.clone(), access.clone()))
}

/// `GET` or `POST` userinfo.
pub(crate) fn userinfo(app: &App, headers: &HeaderMap) -> Answer {
    let refuse = |description: &str| {
        let mut answer = error_answer(&Refusal::new(401, "invalid_token", description));
        answer.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer error=\"invalid_token\""),
        );
        answer
    };
    let Some((claims, access)) = bearer(headers).and_then(|token| live_access(app, token)) else {
        return refuse("the access token is missing, expired or not of this issuer");
    };
    let grant = app.world().grants.get(&access.grant).cloned();
    let Some((grant, user)) = grant.and_then(|g| Some((g.clone(), app.user(g.user.as_deref()?)?)))
    else {
        return refuse("the access token does not belong to a person");
    };
    let mut body = mint::person(app, user, &grant.scopes);
    if let Some(groups) = claims.get("wlcg.groups") {
        body.insert("wlcg.groups".to_owned(), groups.clone());
    }
    json_answer(200, &Value::Object(body))
}

/// Introspection, for authenticated clients.
pub(crate) fn introspect(app: &App, headers: &HeaderMap, form: &Form) -> Answer {
    if let Err(problem) = authenticate(app, headers, form) {
        return error_answer(&app.refusal(&problem));
    }
    let found = form.get("token").and_then(|token| live_access(app, token));
    let body = match found {
        None => json!({"active": false}),
        Some((mut claims, access)) => {
            claims.insert("active".to_owned(), json!(true));
            claims.insert("client_id".to_owned(), json!(access.client));
            Value::Object(claims)
        }
    };
    json_answer(200, &body)
}

/// Revocation: of a refresh token with its whole grant, of an access token alone. Unknown tokens are no error.
pub(crate) fn revoke(app: &App, headers: &HeaderMap, form: &Form) -> Answer {
    let client = match authenticate(app, headers, form) {
        Ok(client) => client,
        Err(problem) => return error_answer(&app.refusal(&problem)),
    };
    let Some(token) = form.get("token") else {
        return error_answer(&Refusal::new(
            400,
            "invalid_request",
            "missing parameter token",
        ));
    };
    let access = live_access(app, token)
        .and_then(|(claims, _)| claims.get("jti").and_then(Value::as_str).map(str::to_owned));
    let mut world = app.world();
    let owner = |world: &super::state::World, id: u64| {
        world.grants.get(&id).is_some_and(|g| g.client == client.id)
    };
    if let Some(grant) = world.refresh.get(token).map(|r| r.grant) {
        if owner(&world, grant) {
            if let Some(refresh) = world.refresh.get_mut(token) {
                refresh.revoked = true;
            }
            world.end_grant(grant);
        }
    } else if let Some(jti) = access
        && let Some(access) = world.access.get_mut(&jti)
        && access.client == client.id
    {
        access.revoked = true;
    }
    json_answer(200, &json!({}))
}
