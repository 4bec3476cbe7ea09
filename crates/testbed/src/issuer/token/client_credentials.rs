//! Grant type `client_credentials`: a client acts for itself; `sub` is its id (WLCG profile, host-based authorization).

use super::super::form::Form;
use super::super::options::{Client, ClientAuth};
use super::super::problem::Problem;
use super::super::scopes::{allowed_for_client, audiences, resolve};
use super::super::state::{App, Grant, random_text};
use super::{CLIENT_CREDENTIALS, Failure, Issued, Order, RefreshPart, issue};

pub(super) fn run(app: &App, client: &Client, form: &Form) -> Result<Issued, Failure> {
    if client.auth_methods() == [ClientAuth::None] {
        return Err(Problem::GrantTypeForbidden(CLIENT_CREDENTIALS.to_owned()).into());
    }
    let scopes = allowed_for_client(app, client, form.words("scope"))?;
    let resolved = resolve(app, client, None, &scopes)?;
    let targets = audiences(app, form, &scopes)?;
    let mut world = app.world();
    let grant = Grant {
        id: world.number(),
        user: None,
        client: client.id.clone(),
        scopes: resolved.kept.clone(),
        audiences: targets.clone(),
        nonce: None,
        auth_time: app.clock.now(),
        created_ms: app.clock.now_ms(),
        sid: random_text(16),
        alive: true,
    };
    let issued = issue(
        app,
        &mut world,
        &Order {
            grant_type: CLIENT_CREDENTIALS,
            client,
            grant: &grant,
            resolved: &resolved,
            audiences: &targets,
            id_token: false,
            refresh: RefreshPart::None,
        },
    )?;
    world.grants.insert(grant.id, grant);
    Ok(issued)
}
