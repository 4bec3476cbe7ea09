//! Grant type `authorization_code` with PKCE (RFC 6749 4.1.3, RFC 7636). A code works once; a second use ends its grant.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::super::form::Form;
use super::super::options::Client;
use super::super::problem::Problem;
use super::super::scopes::{audiences, resolve};
use super::super::state::{App, Grant, random_text};
use super::{AUTHORIZATION_CODE, Failure, Issued, Order, issue, wants_refresh};

pub(super) fn run(app: &App, client: &Client, form: &Form) -> Result<Issued, Failure> {
    let value = form.get("code").ok_or(Problem::MissingParameter("code"))?;
    let mut world = app.world();
    let code = world
        .codes
        .get(value)
        .cloned()
        .ok_or(Problem::CodeUnknown)?;
    if code.request.client != client.id {
        return Err(Problem::CodeWrongClient.into());
    }
    if let Some(grant) = code.used_by {
        world.end_grant(grant);
        return Err(Problem::CodeUnknown.into());
    }
    if app.clock.now_ms() >= code.expires_ms {
        return Err(Problem::CodeExpired.into());
    }
    if form.get("redirect_uri") != Some(code.request.redirect_uri.as_str()) {
        return Err(Problem::RedirectMismatch.into());
    }
    if let Some(challenge) = &code.request.challenge {
        let verifier = form.get("code_verifier").ok_or(Problem::PkceMissing)?;
        if URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes())) != *challenge {
            return Err(Problem::PkceMismatch.into());
        }
    }
    let user = app.user(&code.session.user).ok_or(Problem::CodeUnknown)?;
    let resolved = resolve(app, client, Some(user), &code.request.scopes)?;
    let asked = audiences(app, form, &code.request.scopes)?;
    let targets = if asked.is_empty() {
        code.request.audiences.clone()
    } else {
        asked
    };
    let id = world.number();
    let grant = Grant {
        id,
        user: Some(user.name.clone()),
        client: client.id.clone(),
        scopes: resolved.kept.clone(),
        audiences: targets.clone(),
        nonce: code.request.nonce.clone(),
        auth_time: code.session.auth_time,
        created_ms: app.clock.now_ms(),
        sid: random_text(16),
        alive: true,
    };
    let issued = issue(
        app,
        &mut world,
        &Order {
            grant_type: AUTHORIZATION_CODE,
            client,
            grant: &grant,
            resolved: &resolved,
            audiences: &targets,
            id_token: true,
            refresh: wants_refresh(app, &resolved),
        },
    )?;
    if let Some(code) = world.codes.get_mut(value) {
        code.used_by = Some(id);
    }
    world.grants.insert(id, grant);
    Ok(issued)
}
