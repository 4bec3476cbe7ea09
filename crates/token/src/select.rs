//! The issuer's side of the scope language: which groups and which capabilities a request ends up with.
//! Owns the selection algorithm of the WLCG profile (sections on requesting groups and capability sets); refuses to know
//! users, clients and how an issuer stores memberships.

use thiserror::Error;

use crate::group::Group;
use crate::scope::{Language, Scopes};

/// What the issuer knows about one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Asserted whenever groups are, in the VO's configured order.
    pub default_groups: Vec<Group>,
    /// Asserted only when asked for by name.
    pub optional_groups: Vec<Group>,
    /// Per group the capability scopes of its set, for this user.
    pub capability_sets: Vec<(Group, Vec<String>)>,
}

/// Why a request is refused, by the names of RFC 6749 section 4.1.2.1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectError {
    /// `access_denied`.
    #[error("access_denied: the user has no right to {0}; ask the VO's managers for membership")]
    AccessDenied(Group),
    /// `invalid_scope`.
    #[error("invalid_scope: {0}; correct the request")]
    InvalidScope(String),
}

impl SelectError {
    /// The OAuth error code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AccessDenied(_) => "access_denied",
            Self::InvalidScope(_) => "invalid_scope",
        }
    }
}

/// The `wlcg.groups` claim for a request's scopes; `None` when the request asks for no groups.
///
/// # Errors
/// [`SelectError`].
pub fn groups(requested: &str, membership: &Membership) -> Result<Option<Vec<Group>>, SelectError> {
    enum Wanted {
        Defaults,
        Named(Group),
    }
    let mut wanted = Vec::new();
    for scope in requested.split_ascii_whitespace() {
        if scope == "wlcg.groups" {
            wanted.push(Wanted::Defaults);
        } else if let Some(name) = scope.strip_prefix("wlcg.groups:") {
            wanted.push(Wanted::Named(group(name)?));
        }
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    if !wanted.iter().any(|wish| matches!(wish, Wanted::Defaults)) {
        wanted.push(Wanted::Defaults);
    }
    let mut result: Vec<Group> = Vec::new();
    let mut add = |group: &Group| {
        if !result.contains(group) {
            result.push(group.clone());
        }
    };
    for wish in wanted {
        match wish {
            Wanted::Defaults => membership.default_groups.iter().for_each(&mut add),
            Wanted::Named(group) => {
                let mut known = membership
                    .default_groups
                    .iter()
                    .chain(&membership.optional_groups);
                if !known.any(|own| *own == group) {
                    return Err(SelectError::AccessDenied(group));
                }
                add(&group);
            }
        }
    }
    Ok(Some(result))
}

/// The capabilities of the `scope` claim for a request's scopes: first the requested capability set, whole, then the
/// capabilities requested literally, of which `entitled` keeps those that the user may have. At most one set per request.
///
/// # Errors
/// [`SelectError`].
pub fn capabilities(
    requested: &str,
    membership: &Membership,
    entitled: impl Fn(&str) -> bool,
) -> Result<Vec<String>, SelectError> {
    let mut set: Option<Group> = None;
    let mut literal: Vec<&str> = Vec::new();
    for scope in requested.split_ascii_whitespace() {
        if let Some(name) = scope.strip_prefix("wlcg.capabilityset:") {
            if set.replace(group(name)?).is_some() {
                return Err(SelectError::InvalidScope(
                    "only one capability set per request".to_owned(),
                ));
            }
        } else if ["storage.", "compute."]
            .iter()
            .any(|kind| scope.starts_with(kind))
            || scope == "host.auth"
        {
            // A capability that no verifier would accept must not be issued.
            Scopes::parse(scope, Language::Wlcg)
                .map_err(|error| SelectError::InvalidScope(error.to_string()))?;
            literal.push(scope);
        }
    }
    let mut result: Vec<String> = Vec::new();
    if let Some(group) = set {
        let found = membership
            .capability_sets
            .iter()
            .find(|(name, _)| *name == group);
        let (_, scopes) = found.ok_or(SelectError::AccessDenied(group))?;
        result.extend(scopes.iter().cloned());
    }
    for scope in literal {
        if entitled(scope) && !result.iter().any(|known| known == scope) {
            result.push(scope.to_owned());
        }
    }
    Ok(result)
}

fn group(name: &str) -> Result<Group, SelectError> {
    name.parse()
        .map_err(|error: crate::group::BadGroup| SelectError::InvalidScope(error.to_string()))
}
