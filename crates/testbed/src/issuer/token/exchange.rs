//! Grant type `token-exchange` (RFC 8693): a narrower or differently directed access token for an access token of this issuer.

use super::super::form::Form;
use super::super::options::{Character, Client};
use super::super::problem::Problem;
use super::super::scopes::{allowed_for_client, audiences, below, resolve};
use super::super::state::{App, Grant};
use super::super::userinfo::live_access;
use super::{Failure, Issued, Order, RefreshPart, TOKEN_EXCHANGE, issue};

const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

pub(super) fn run(app: &App, client: &Client, form: &Form) -> Result<Issued, Failure> {
    let subject = form
        .get("subject_token")
        .ok_or(Problem::MissingParameter("subject_token"))?;
    let kind = form
        .get("subject_token_type")
        .ok_or(Problem::MissingParameter("subject_token_type"))?;
    let wanted = form.get("requested_token_type").unwrap_or(ACCESS_TOKEN);
    let jwt_too = app.options.character == Character::Iam;
    let fits = |name: &str| name == ACCESS_TOKEN || (jwt_too && name == JWT);
    if !fits(kind) || !fits(wanted) {
        return Err(Problem::SubjectTypeWrong.into());
    }
    let (_, access) =
        live_access(app, subject).ok_or_else(|| Problem::SubjectInvalid(subject.to_owned()))?;
    let asked = form.words("scope");
    if asked.is_empty() && app.options.character == Character::Iam {
        return Err(Problem::ExchangeScopeMissing.into());
    }
    let scopes = if asked.is_empty() {
        access
            .scopes
            .iter()
            .filter(|s| *s != "offline_access")
            .cloned()
            .collect()
    } else {
        let asked_text = asked.join(" ");
        let (fine, above) = below(
            app,
            &allowed_for_client(app, client, asked)?,
            &access.scopes,
        );
        match app.options.character {
            Character::Iam if !above.is_empty() => {
                return Err(Problem::ExchangeScope(above.join(" ")).into());
            }
            Character::Keycloak if !above.is_empty() => {
                return Err(Problem::ExchangeScope(asked_text).into());
            }
            _ if fine.is_empty() => return Err(Problem::ExchangeScope(above.join(" ")).into()),
            _ => fine,
        }
    };
    let mut world = app.world();
    let origin = world
        .grants
        .get(&access.grant)
        .cloned()
        .ok_or_else(|| Problem::SubjectInvalid(subject.to_owned()))?;
    let user = origin.user.as_deref().and_then(|name| app.user(name));
    let resolved = resolve(app, client, user, &scopes)?;
    let named = audiences(app, form, &scopes)?;
    let targets = if named.is_empty() {
        access.audiences.clone()
    } else {
        named
    };
    let grant = Grant {
        client: client.id.clone(),
        scopes: scopes.clone(),
        ..origin
    };
    let mut issued = issue(
        app,
        &mut world,
        &Order {
            grant_type: TOKEN_EXCHANGE,
            client,
            grant: &grant,
            resolved: &resolved,
            audiences: &targets,
            id_token: false,
            refresh: RefreshPart::None,
        },
    )?;
    issued.body["issued_token_type"] = serde_json::json!(if jwt_too { JWT } else { ACCESS_TOKEN });
    Ok(issued)
}
