//! What a request may have: scopes that stand, groups, capabilities, audiences. The algorithm of the WLCG profile comes from the
//! token crate; this file adds what depends on user, client and character. It issues nothing.

use gridkeep_token::group::Group;
use gridkeep_token::scope::{Capability, Language, Scopes};
use gridkeep_token::select::{self, Membership, SelectError};
use url::Url;

use super::character;
use super::form::Form;
use super::options::{AudienceBy, Character, Client, ScopeOrder, User};
use super::problem::Problem;
use super::state::App;

/// Scopes every user may have besides capabilities and groups.
const COMMON: [&str; 9] = [
    "openid",
    "offline_access",
    "profile",
    "email",
    "address",
    "phone",
    "wlcg",
    "wlcg:1.0",
    "org.cilogon.userinfo",
];

/// Scopes that say how to make the token and are not themselves rights in it.
fn is_instruction(scope: &str) -> bool {
    scope == "wlcg"
        || scope == "wlcg.groups"
        || ["wlcg:", "wlcg.groups:", "wlcg.capabilityset:", "aud:"]
            .iter()
            .any(|kind| scope.starts_with(kind))
}

fn is_group_scope(scope: &str) -> bool {
    scope == "wlcg.groups" || scope.starts_with("wlcg.groups:")
}

/// The outcome for one access token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolved {
    /// Requested scopes that stand, as requested: the ceiling of later refreshes and exchanges.
    pub(crate) kept: Vec<String>,
    /// The `scope` claim.
    pub(crate) claim: Vec<String>,
    /// The `scope` member of the reply.
    pub(crate) reply: Vec<String>,
    /// The `wlcg.groups` claim.
    pub(crate) groups: Option<Vec<String>>,
}

/// Decides about `requested` for a user (or, without one, for the client itself).
pub(crate) fn resolve(
    app: &App,
    client: &Client,
    user: Option<&User>,
    requested: &[String],
) -> Result<Resolved, Problem> {
    let membership = user.map(membership).unwrap_or_default();
    let own: &[String] = user.map_or(&client.capabilities, |u| &u.capabilities);
    let standing: Vec<String> = requested
        .iter()
        .filter(|s| !app.options.drop_scopes.contains(s))
        .filter(|s| {
            COMMON.contains(&s.as_str())
                || is_instruction(s)
                || app.options.audience_scopes.contains_key(*s)
                || is_capability(s)
                || own.contains(s)
        })
        .cloned()
        .collect();
    let asked = standing.join(" ");
    let groups = select::groups(&asked, &membership).map_err(|e| selection_problem(e, &asked))?;
    let rights = select::capabilities(&asked, &membership, |scope| {
        own.iter().any(|wide| within(scope, wide))
    })
    .map_err(|e| selection_problem(e, &asked))?;

    let kept: Vec<String> = standing
        .into_iter()
        .filter(|s| !is_capability(s) || rights.contains(s))
        .collect();
    let show_common = app.options.character != Character::Cilogon;
    let mut claim: Vec<String> = Vec::new();
    let mut add = |scope: &str| {
        if !claim.iter().any(|known| known == scope) {
            claim.push(scope.to_owned());
        }
    };
    for scope in &kept {
        if scope.starts_with("wlcg.capabilityset:") {
            // The set stands, whole, where it was asked for.
            rights
                .iter()
                .filter(|right| !kept.contains(right))
                .for_each(|right| add(right));
        } else if is_capability(scope) || (show_common && !is_instruction(scope)) {
            add(scope);
        }
    }
    let mut reply = claim.clone();
    if app.options.character != Character::Cilogon {
        reply.extend(kept.iter().filter(|s| is_group_scope(s)).cloned());
    }
    if app.options.character == Character::Keycloak && user.is_some() {
        // Default client scopes are granted whether asked for or not, and "openid" comes first.
        for scope in ["profile", "email"] {
            if !reply.iter().any(|s| s == scope) {
                reply.push(scope.to_owned());
            }
        }
        reply.sort_by_key(|s| s != "openid");
    }
    for list in [&mut claim, &mut reply] {
        match character::scope_order(&app.options) {
            ScopeOrder::Requested => {}
            ScopeOrder::Reversed => list.reverse(),
            ScopeOrder::Sorted => list.sort(),
        }
    }
    let groups = groups.map(|list| list.iter().map(|g| g.as_str().to_owned()).collect());
    Ok(Resolved {
        kept,
        claim,
        reply,
        groups,
    })
}

/// Drops or refuses what the client is not registered for, as the character does.
pub(crate) fn allowed_for_client(
    app: &App,
    client: &Client,
    requested: Vec<String>,
) -> Result<Vec<String>, Problem> {
    if client.scopes.is_empty() {
        return Ok(requested);
    }
    let allowed = |scope: &String| {
        client.scopes.iter().any(|wide| within(scope, wide))
            || client.scopes.iter().any(|wide| {
                scope
                    .strip_prefix(wide.as_str())
                    .is_some_and(|rest| rest.starts_with(':') && is_instruction(scope))
            })
    };
    let (fine, foreign): (Vec<String>, Vec<String>) = requested.iter().cloned().partition(allowed);
    if foreign.is_empty() {
        return Ok(fine);
    }
    match app.options.character {
        Character::Wlcg | Character::Cilogon => Ok(fine),
        Character::Iam => Err(Problem::ScopeForbidden {
            client: client.id.clone(),
            scopes: foreign.join(" "),
        }),
        Character::Keycloak => Err(Problem::ScopeForbidden {
            client: client.id.clone(),
            scopes: requested.join(" "),
        }),
    }
}

/// Splits `requested` into what lies within `ceiling` and what does not. Groups and capability sets depend on the user, and scopes
/// that stand for an audience are no rights: `ceiling` limits neither.
pub(crate) fn below(
    app: &App,
    requested: &[String],
    ceiling: &[String],
) -> (Vec<String>, Vec<String>) {
    let stands_for_audience = |scope: &String| {
        scope.starts_with("aud:") || app.options.audience_scopes.contains_key(scope)
    };
    split(requested, ceiling, stands_for_audience)
}

fn split(
    requested: &[String],
    ceiling: &[String],
    unlimited: impl Fn(&String) -> bool,
) -> (Vec<String>, Vec<String>) {
    let free = |scope: &String| {
        scope.starts_with("wlcg.capabilityset:") || is_group_scope(scope) || unlimited(scope)
    };
    let fits = |scope: &String| free(scope) || ceiling.iter().any(|wide| within(scope, wide));
    requested.iter().cloned().partition(fits)
}

/// Whether `scope` asks for no more than `wide`.
pub(crate) fn within(scope: &str, wide: &str) -> bool {
    if scope == wide {
        return true;
    }
    match (storage(scope), storage(wide)) {
        (
            Some(Capability::Storage { right, path }),
            Some(Capability::Storage {
                right: other,
                path: above,
            }),
        ) => right == other && path.components().starts_with(above.components()),
        _ => false,
    }
}

fn storage(scope: &str) -> Option<Capability> {
    let parsed = Scopes::parse(scope, Language::Wlcg).ok()?;
    parsed.list().first()?.capabilities.first().cloned()
}

fn is_capability(scope: &str) -> bool {
    scope.starts_with("storage.") || scope.starts_with("compute.") || scope == "host.auth"
}

fn membership(user: &User) -> Membership {
    let groups = |names: &[String]| {
        names
            .iter()
            .filter_map(|n| n.parse::<Group>().ok())
            .collect()
    };
    Membership {
        default_groups: groups(&user.default_groups),
        optional_groups: groups(&user.optional_groups),
        capability_sets: user
            .capability_sets
            .iter()
            .filter_map(|(name, scopes)| Some((name.parse::<Group>().ok()?, scopes.clone())))
            .collect(),
    }
}

fn selection_problem(error: SelectError, asked: &str) -> Problem {
    let sets = asked
        .split(' ')
        .filter(|s| s.starts_with("wlcg.capabilityset:"))
        .count();
    match error {
        SelectError::AccessDenied(group) => Problem::NotEntitled(group.to_string()),
        SelectError::InvalidScope(_) if sets > 1 => Problem::CapabilitySetTwice,
        SelectError::InvalidScope(why) => Problem::ScopeMalformed(why),
    }
}

/// Audiences that a request asks for, in the ways this issuer understands; empty = none asked.
pub(crate) fn audiences(app: &App, form: &Form, scopes: &[String]) -> Result<Vec<String>, Problem> {
    let ways = character::audience_by(&app.options);
    let mut found: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        if !name.is_empty() && !found.iter().any(|known| known == name) {
            found.push(name.to_owned());
        }
    };
    if app.options.character == Character::Iam {
        // One value only, from the first of three names that has one; blanks separate audiences.
        if let Some(resources) = form.get("resource") {
            for resource in resources.split(' ') {
                absolute(resource, false)?;
            }
        }
        let one = ["resource", "aud", "audience"]
            .iter()
            .find_map(|name| form.get(name));
        one.unwrap_or("").split(' ').for_each(&mut add);
        return Ok(found);
    }
    if ways.contains(&AudienceBy::Audience) {
        form.all("audience")
            .flat_map(|v| v.split(' '))
            .for_each(&mut add);
    }
    if ways.contains(&AudienceBy::Resource) {
        for resource in form.all("resource") {
            absolute(resource, true)?;
            add(resource);
        }
    }
    if ways.contains(&AudienceBy::Scope) {
        for scope in scopes {
            if let Some(name) = scope.strip_prefix("aud:") {
                add(name);
            }
            if let Some(name) = app.options.audience_scopes.get(scope) {
                add(name);
            }
        }
    }
    if !ways.contains(&AudienceBy::Audience) {
        // As Keycloak does: the parameter only narrows what scopes have made available.
        let wanted: Vec<&str> = form.all("audience").collect();
        if let Some(missing) = wanted.iter().find(|name| !found.iter().any(|f| f == *name)) {
            return Err(Problem::AudienceForbidden((*missing).to_owned()));
        }
        if !wanted.is_empty() {
            found.retain(|f| wanted.contains(&f.as_str()));
        }
    }
    Ok(found)
}

fn absolute(resource: &str, query_allowed: bool) -> Result<(), Problem> {
    match Url::parse(resource) {
        Ok(url) if url.fragment().is_none() && (query_allowed || url.query().is_none()) => Ok(()),
        _ => Err(Problem::ResourceInvalid(resource.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{split, within};

    fn list(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn narrower_paths_lie_within_wider_ones_component_by_component() {
        assert!(within("storage.read:/vo/a", "storage.read:/vo"));
        assert!(within("storage.read:/vo", "storage.read:/"));
        assert!(!within("storage.read:/vox", "storage.read:/vo"));
        assert!(!within("storage.create:/vo", "storage.read:/"));
        assert!(within("compute.read", "compute.read"));
    }

    #[test]
    fn the_ceiling_limits_rights_and_leaves_groups_to_the_user() {
        let (fine, above) = split(
            &list("storage.read:/a storage.modify:/ wlcg.capabilityset:/vo compute.read"),
            &list("storage.read:/ compute.read"),
            |_| false,
        );
        assert_eq!(
            fine,
            list("storage.read:/a wlcg.capabilityset:/vo compute.read")
        );
        assert_eq!(above, list("storage.modify:/"));
    }
}
