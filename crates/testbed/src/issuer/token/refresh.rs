//! Grant type `refresh_token`, with the rotation the issuer was told to follow (WLCG profile, section on refresh tokens).
//! Under immediate rotation a second use of a replaced token is refused; Keycloak then ends the whole session.

use super::super::form::Form;
use super::super::options::{Character, Client, Rotation};
use super::super::problem::Problem;
use super::super::scopes::{audiences, below, resolve};
use super::super::state::{App, Grant, Standing};
use super::{Failure, Issued, Order, REFRESH_TOKEN, issue, rotated};

pub(super) fn run(app: &App, client: &Client, form: &Form) -> Result<Issued, Failure> {
    let value = form
        .get("refresh_token")
        .ok_or(Problem::MissingParameter("refresh_token"))?;
    let settings = *app.settings();
    let now_ms = app.clock.now_ms();
    let mut world = app.world();
    let found = world
        .refresh
        .get_mut(value)
        .ok_or_else(|| Problem::RefreshUnknown(value.to_owned()))?;
    found.presented += 1;
    let refresh = found.clone();
    let grant = world
        .grants
        .get(&refresh.grant)
        .cloned()
        .ok_or_else(|| Problem::RefreshUnknown(value.to_owned()))?;
    if grant.client != client.id {
        return Err(Problem::RefreshWrongClient.into());
    }
    match refresh.standing(now_ms, settings, app.idle_ms()) {
        Standing::Revoked => return Err(Problem::RefreshRevoked(value.to_owned()).into()),
        _ if !grant.alive => return Err(Problem::SessionGone.into()),
        Standing::Expired => return Err(Problem::RefreshExpired(value.to_owned()).into()),
        Standing::Replaced => {
            if app.options.character == Character::Keycloak {
                world.end_grant(grant.id);
            }
            return Err(Problem::RefreshRetired(value.to_owned()).into());
        }
        Standing::Usable => {}
    }
    // An id_token of a refresh carries no nonce (OIDC Core 12.2).
    let grant = Grant {
        nonce: None,
        ..grant
    };
    let asked = form.words("scope");
    let scopes = if asked.is_empty() {
        grant.scopes.clone()
    } else {
        let (fine, above) = below(app, &asked, &grant.scopes);
        let strict = matches!(app.options.character, Character::Wlcg | Character::Iam);
        if !above.is_empty() && strict {
            return Err(Problem::UpScoping(above.join(" ")).into());
        }
        fine
    };
    let user = grant.user.as_deref().and_then(|name| app.user(name));
    let resolved = resolve(app, client, user, &scopes)?;
    let wanted = audiences(app, form, &scopes)?;
    let targets = if wanted.is_empty() {
        grant.audiences.clone()
    } else {
        wanted
    };
    let issued = issue(
        app,
        &mut world,
        &Order {
            grant_type: REFRESH_TOKEN,
            client,
            grant: &grant,
            resolved: &resolved,
            audiences: &targets,
            id_token: true,
            refresh: rotated(settings.rotation, value),
        },
    )?;
    if let Some(used) = world.refresh.get_mut(value) {
        used.used_ms = now_ms;
        if settings.rotation != Rotation::None && used.retired_ms.is_none() {
            used.retired_ms = Some(now_ms);
        }
    }
    Ok(issued)
}
