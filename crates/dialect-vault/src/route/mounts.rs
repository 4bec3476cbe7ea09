//! The paths of each mount, without the mount itself.

use super::{FromFiles, KerberosPart, LeaseRoute, LoginRoute, Route, SshRoute, TokenRoute, Whose};

pub(super) fn token(rest: &str) -> Route<'_> {
    if let Some(role) = rest.strip_prefix("create/").filter(|role| !role.is_empty()) {
        return Route::TokenOfRole(role);
    }
    if let Some(role) = below(rest, "roles") {
        return Route::TokenRole(role);
    }
    if let Some(accessor) = below(rest, "mine") {
        return Route::OwnToken(accessor);
    }
    Route::Token(match rest {
        "create" => TokenRoute::Create { orphan: false },
        "create-orphan" => TokenRoute::Create { orphan: true },
        "lookup" => TokenRoute::Lookup(Whose::Given),
        "lookup-self" => TokenRoute::Lookup(Whose::Own),
        "lookup-accessor" => TokenRoute::Lookup(Whose::ByAccessor),
        "renew" => TokenRoute::Renew(Whose::Given),
        "renew-self" => TokenRoute::Renew(Whose::Own),
        "renew-accessor" => TokenRoute::Renew(Whose::ByAccessor),
        "revoke" => TokenRoute::Revoke(Whose::Given),
        "revoke-self" => TokenRoute::Revoke(Whose::Own),
        "revoke-accessor" => TokenRoute::Revoke(Whose::ByAccessor),
        "revoke-orphan" => TokenRoute::RevokeOrphan,
        "accessors" => TokenRoute::Accessors,
        "tidy" => TokenRoute::Tidy,
        _ => return Route::Unknown,
    })
}

pub(super) fn ssh(rest: &str) -> Route<'_> {
    let named = |name: &str| !name.is_empty() && !name.contains('/');
    match rest.split_once('/') {
        None => match rest {
            "nonce" => Route::Login(LoginRoute::SshNonce),
            "login" => Route::Login(LoginRoute::SshLogin),
            "config" => Route::Ssh(SshRoute::Config),
            "role" => Route::Ssh(SshRoute::Roles),
            _ => Route::Unknown,
        },
        Some(("role", name)) if named(name) => Route::Ssh(SshRoute::Role { name }),
        Some(("keys", rest)) => match rest.split_once('/') {
            Some((issuer, name)) if named(name) => Route::Ssh(SshRoute::Keys { issuer, name }),
            _ => Route::Unknown,
        },
        Some(_) => Route::Unknown,
    }
}

pub(super) fn login(rest: &str) -> Option<LoginRoute<'_>> {
    let (mount, action) = rest.split_once('/')?;
    if mount.starts_with("kerberos-") && action == "login" {
        return Some(LoginRoute::Kerberos { mount });
    }
    let issuer = mount
        .strip_prefix("oidc-")
        .filter(|issuer| !issuer.is_empty())?;
    match action {
        "oidc/auth_url" => Some(LoginRoute::AuthUrl { issuer }),
        "oidc/callback" => Some(LoginRoute::Callback { issuer }),
        "oidc/poll" => Some(LoginRoute::Poll { issuer }),
        "login" => Some(LoginRoute::Jwt { issuer }),
        _ => None,
    }
}

/// Whether `rest` is `prefix` alone (`Some(None)`) or what follows it and a slash.
pub(super) fn below<'p>(rest: &'p str, prefix: &str) -> Option<Option<&'p str>> {
    match rest.strip_prefix(prefix)? {
        "" => Some(None),
        tail => tail.strip_prefix('/').map(Some),
    }
}

/// What of an issuer's mount is configured.
pub(super) fn mount_of_issuer(rest: &str) -> Option<FromFiles<'_>> {
    let (mount, action) = rest.split_once('/')?;
    if mount.starts_with("kerberos-") {
        let part = match action {
            "config" => KerberosPart::Config,
            "config/ldap" => KerberosPart::Ldap,
            _ => KerberosPart::Groups(below(action, "groups")?),
        };
        return Some(FromFiles::Kerberos { mount, part });
    }
    let issuer = mount
        .strip_prefix("oidc-")
        .filter(|issuer| !issuer.is_empty())?;
    if action == "config" {
        return Some(FromFiles::Issuer(issuer));
    }
    below(action, "role").map(|role| FromFiles::Role { issuer, role })
}

/// Leases, under their present paths and under the old ones.
pub(super) fn lease(rest: &str) -> Option<LeaseRoute<'_>> {
    let rest = match rest.split_once('/').map_or((rest, ""), |parts| parts) {
        ("leases", below) => below,
        ("renew" | "revoke" | "revoke-prefix" | "revoke-force", _) => rest,
        _ => return None,
    };
    let (action, tail) = match rest.split_once('/') {
        Some((action, tail)) => (action, Some(tail).filter(|tail| !tail.is_empty())),
        None => (rest, None),
    };
    Some(match (action, tail) {
        ("lookup", None) => LeaseRoute::Lookup,
        ("lookup", Some(prefix)) => LeaseRoute::LookupBelow(prefix),
        ("renew", lease) => LeaseRoute::Renew(lease),
        ("revoke", lease) => LeaseRoute::Revoke(lease),
        ("revoke-prefix" | "revoke-force", Some(prefix)) => LeaseRoute::RevokePrefix(prefix),
        ("tidy", None) => LeaseRoute::Tidy,
        _ => return None,
    })
}
