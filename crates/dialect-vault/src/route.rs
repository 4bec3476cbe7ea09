//! Which endpoint a path belongs to. By hand, on the parts of the path: nothing is built per request.

mod mounts;
mod verb;

use gridkeep_keeper::Operation;

use mounts::{below, lease, login, mount_of_issuer, ssh, token};
pub(crate) use verb::Verb;

/// An endpoint and what its path captures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'p> {
    /// Open and not audited, as in the original.
    Status(Status),
    /// Open and audited.
    Login(LoginRoute<'p>),
    UiMounts,
    /// Which mount a path belongs to; for the holder of a token that may use something there.
    UiMount(&'p str),
    Token(TokenRoute),
    /// `auth/token/create/<role>`.
    TokenOfRole(&'p str),
    TokenRole(Option<&'p str>),
    Credential {
        kind: CredentialKind,
        name: &'p str,
    },
    /// The use of a credential given to others, with an end or (`lasting`) without.
    Delegation {
        lasting: bool,
        name: &'p str,
    },
    Policy {
        legacy: bool,
        name: Option<&'p str>,
    },
    Mounts {
        class: MountClass,
        path: Option<&'p str>,
    },
    Capabilities(Whose),
    /// The caller's own live tokens, or one of them by its accessor.
    OwnToken(Option<&'p str>),
    Keys(KeysRoute),
    Lease(LeaseRoute<'p>),
    Audit(Option<&'p str>),
    AuditHash(&'p str),
    /// What follows `sys/plugins/`.
    Plugins(&'p str),
    HostInfo,
    /// The nodes of the cluster.
    HaStatus,
    Raft(RaftRoute),
    /// A node is told to let another lead.
    StepDown,
    /// A mount is to be moved.
    Remount,
    Quota(QuotaRoute<'p>),
    Ssh(SshRoute<'p>),
    FromFiles(FromFiles<'p>),
    Metrics,
    Unknown,
}

/// What an administrator of the original writes and what here follows from the configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromFiles<'p> {
    /// `auth/oidc-<issuer>/config`
    Issuer(&'p str),
    /// `auth/oidc-<issuer>/role`, with or without a name.
    Role {
        issuer: &'p str,
        role: Option<&'p str>,
    },
    /// Below `auth/kerberos-<issuer>_<role>/`.
    Kerberos {
        mount: &'p str,
        part: KerberosPart<'p>,
    },
    /// `secret/oauth/config`
    Credentials,
    /// `secret/oauth/servers`, with or without a name.
    Server(Option<&'p str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KerberosPart<'p> {
    /// `config`
    Config,
    /// `config/ldap`
    Ldap,
    /// `groups`, with or without a name.
    Groups(Option<&'p str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuotaRoute<'p> {
    /// All rate limits.
    All,
    /// The rate limit of this name.
    Named(&'p str),
    /// What holds for all.
    Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Health,
    Seal,
    Leader,
    Init,
    Unseal,
    /// `sys/storage/raft/join`
    Join,
}

/// The store of the original's clusters, below `sys/storage/raft/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RaftRoute {
    Configuration,
    RemovePeer,
    /// With or without force.
    Snapshot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoginRoute<'p> {
    AuthUrl {
        issuer: &'p str,
    },
    Callback {
        issuer: &'p str,
    },
    Poll {
        issuer: &'p str,
    },
    /// Login with a JWT, which no role allows.
    Jwt {
        issuer: &'p str,
    },
    /// Login with a Kerberos ticket, at `kerberos-<issuer>_<role>`.
    Kerberos {
        mount: &'p str,
    },
    SshNonce,
    SshLogin,
}

/// The keys of ssh logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SshRoute<'p> {
    Config,
    Roles,
    Role { name: &'p str },
    Keys { issuer: &'p str, name: &'p str },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenRoute {
    Create { orphan: bool },
    Lookup(Whose),
    Renew(Whose),
    Revoke(Whose),
    RevokeOrphan,
    Accessors,
    Tidy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseRoute<'p> {
    Lookup,
    LookupBelow(&'p str),
    Renew(Option<&'p str>),
    Revoke(Option<&'p str>),
    RevokePrefix(&'p str),
    Tidy,
}

/// Whose token an endpoint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Own,
    Given,
    ByAccessor,
}

/// What is done with the keys of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeysRoute {
    Seal,
    Rotate,
    Status,
    Rekey(RekeyRoute),
}

/// The steps of splitting the root key anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RekeyRoute {
    Init,
    Update,
    Verify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CredentialKind {
    /// `secret/oauth/creds/`: as the issuer grants it.
    Base,
    /// `secret/oauth/sts/`: exchanged.
    Exchanged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountClass {
    Auth,
    Secret,
}

impl<'p> Route<'p> {
    /// Whether this takes power away, or brings what cannot be had again: not to be put off because the audit log cannot be written.
    pub(crate) fn cannot_wait(self, operation: Operation) -> bool {
        match self {
            // The shares that an update tells may be the only copy.
            Route::Keys(KeysRoute::Seal | KeysRoute::Rekey(RekeyRoute::Update))
            | Route::Token(TokenRoute::Revoke(_) | TokenRoute::RevokeOrphan)
            | Route::Lease(LeaseRoute::Revoke(_) | LeaseRoute::RevokePrefix(_)) => true,
            Route::Credential { .. } => matches!(
                operation,
                Operation::Delete | Operation::Create | Operation::Update
            ),
            Route::Delegation { .. } => operation == Operation::Delete,
            _ => false,
        }
    }

    /// The name at the end of the path that is acted upon in lower case, if there is one.
    pub(crate) fn folded(self) -> Option<&'p str> {
        match self {
            Route::Policy { name, .. } => name,
            Route::Ssh(SshRoute::Role { name }) => Some(name),
            _ => None,
        }
    }

    /// The endpoint of a decoded path without its trailing slash.
    pub(crate) fn of(path: &'p str) -> Self {
        if let Some(rest) = path.strip_prefix("secret/oauth/") {
            return match rest.split_once('/') {
                Some(("creds", name)) => Route::Credential {
                    kind: CredentialKind::Base,
                    name,
                },
                Some(("sts", name)) => Route::Credential {
                    kind: CredentialKind::Exchanged,
                    name,
                },
                None if rest == "config" => Route::FromFiles(FromFiles::Credentials),
                _ if below(rest, "servers").is_some() => {
                    Route::FromFiles(FromFiles::Server(below(rest, "servers").flatten()))
                }
                None if rest == "creds" => Route::Credential {
                    kind: CredentialKind::Base,
                    name: "",
                },
                _ => Route::Unknown,
            };
        }
        if let Some(rest) = path.strip_prefix("auth/token/") {
            return token(rest);
        }
        if let Some(rest) = path.strip_prefix("auth/ssh/") {
            return ssh(rest);
        }
        if let Some(rest) = path.strip_prefix("auth/") {
            return login(rest)
                .map(Route::Login)
                .or_else(|| mount_of_issuer(rest).map(Route::FromFiles))
                .unwrap_or(Route::Unknown);
        }
        for (mount, lasting) in [("delegation/", false), ("robot/", true)] {
            if let Some(name) = path.strip_prefix(mount).filter(|name| !name.is_empty()) {
                return Route::Delegation { lasting, name };
            }
        }
        path.strip_prefix("sys/").map_or(Route::Unknown, system)
    }
}

fn system(rest: &str) -> Route<'_> {
    match rest {
        "health" => return Route::Status(Status::Health),
        "seal-status" => return Route::Status(Status::Seal),
        "leader" => return Route::Status(Status::Leader),
        "init" => return Route::Status(Status::Init),
        "unseal" => return Route::Status(Status::Unseal),
        "seal" => return Route::Keys(KeysRoute::Seal),
        "rotate" | "rotate/keyring" => return Route::Keys(KeysRoute::Rotate),
        "key-status" => return Route::Keys(KeysRoute::Status),
        "rekey/init" => return Route::Keys(KeysRoute::Rekey(RekeyRoute::Init)),
        "rekey/update" => return Route::Keys(KeysRoute::Rekey(RekeyRoute::Update)),
        "rekey/verify" => return Route::Keys(KeysRoute::Rekey(RekeyRoute::Verify)),
        "internal/ui/mounts" => return Route::UiMounts,
        "host-info" => return Route::HostInfo,
        "ha-status" => return Route::HaStatus,
        "storage/raft/join" => return Route::Status(Status::Join),
        "storage/raft/configuration" => return Route::Raft(RaftRoute::Configuration),
        "storage/raft/remove-peer" => return Route::Raft(RaftRoute::RemovePeer),
        "storage/raft/snapshot" | "storage/raft/snapshot-force" => {
            return Route::Raft(RaftRoute::Snapshot);
        }
        "step-down" => return Route::StepDown,
        "remount" => return Route::Remount,
        "quotas/config" => return Route::Quota(QuotaRoute::Options),
        "metrics" => return Route::Metrics,
        "capabilities" => return Route::Capabilities(Whose::Given),
        "capabilities-self" => return Route::Capabilities(Whose::Own),
        "capabilities-accessor" => return Route::Capabilities(Whose::ByAccessor),
        _ => {}
    }
    if let Some(lease) = lease(rest) {
        return Route::Lease(lease);
    }
    if let Some(path) = rest.strip_prefix("internal/ui/mounts/") {
        return Route::UiMount(path);
    }
    if let Some(path) = rest.strip_prefix("plugins/") {
        return Route::Plugins(path);
    }
    if let Some(device) = rest.strip_prefix("audit-hash/") {
        return Route::AuditHash(device);
    }
    if let Some(path) = below(rest, "audit") {
        return Route::Audit(path);
    }
    let below = |prefix| below(rest, prefix);
    if let Some(name) = below("policies/acl") {
        Route::Policy {
            legacy: false,
            name,
        }
    } else if let Some(name) = below("policy") {
        Route::Policy { legacy: true, name }
    } else if let Some(name) = below("quotas/rate-limit") {
        Route::Quota(name.map_or(QuotaRoute::All, QuotaRoute::Named))
    } else if let Some(path) = below("auth") {
        Route::Mounts {
            class: MountClass::Auth,
            path,
        }
    } else if let Some(path) = below("mounts") {
        Route::Mounts {
            class: MountClass::Secret,
            path,
        }
    } else {
        Route::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_wait_for_the_audit_log() {
        for (path, waits) in [
            ("sys/seal", false),
            ("sys/rekey/init", true),
            ("sys/rekey/update", false),
            ("sys/rekey/verify", true),
            ("sys/rotate", true),
            ("auth/token/revoke", false),
            ("auth/token/create", true),
        ] {
            let route = Route::of(path);
            assert_eq!(route.cannot_wait(Operation::Update), !waits, "{path}");
        }
    }

    #[test]
    fn a_snapshot_is_one_with_or_without_force() {
        for path in [
            "sys/storage/raft/snapshot",
            "sys/storage/raft/snapshot-force",
        ] {
            assert_eq!(Route::of(path), Route::Raft(RaftRoute::Snapshot));
        }
    }

    #[test]
    fn routes() {
        for (path, route) in [
            (
                "secret/oauth/creds/dune/alice:default",
                Route::Credential {
                    kind: CredentialKind::Base,
                    name: "dune/alice:default",
                },
            ),
            (
                "secret/oauth/sts/dune/a/b/c:d",
                Route::Credential {
                    kind: CredentialKind::Exchanged,
                    name: "dune/a/b/c:d",
                },
            ),
            (
                "robot/dune/a/b/c:d",
                Route::Delegation {
                    lasting: true,
                    name: "dune/a/b/c:d",
                },
            ),
            ("delegation/", Route::Unknown),
            (
                "secret/oauth/config",
                Route::FromFiles(FromFiles::Credentials),
            ),
            (
                "secret/oauth/servers/dune",
                Route::FromFiles(FromFiles::Server(Some("dune"))),
            ),
            (
                "secret/oauth/servers",
                Route::FromFiles(FromFiles::Server(None)),
            ),
            (
                "auth/oidc-dune/role/default",
                Route::FromFiles(FromFiles::Role {
                    issuer: "dune",
                    role: Some("default"),
                }),
            ),
            (
                "auth/oidc-dune/config",
                Route::FromFiles(FromFiles::Issuer("dune")),
            ),
            ("auth/oidc-/config", Route::Unknown),
            ("auth/oidc-dune/roles", Route::Unknown),
            ("secret/oauth/self/x", Route::Unknown),
            (
                "auth/token/create",
                Route::Token(TokenRoute::Create { orphan: false }),
            ),
            ("auth/token/create/role", Route::TokenOfRole("role")),
            ("auth/token/roles", Route::TokenRole(None)),
            ("auth/token/roles/x", Route::TokenRole(Some("x"))),
            ("auth/token/rolesx", Route::Unknown),
            ("auth/token/nosuch", Route::Unknown),
            ("sys/leases/lookup", Route::Lease(LeaseRoute::Lookup)),
            (
                "sys/leases/lookup/auth/x",
                Route::Lease(LeaseRoute::LookupBelow("auth/x")),
            ),
            (
                "sys/leases/revoke-prefix/auth/oidc-dune",
                Route::Lease(LeaseRoute::RevokePrefix("auth/oidc-dune")),
            ),
            (
                "sys/revoke-force/auth/oidc-dune",
                Route::Lease(LeaseRoute::RevokePrefix("auth/oidc-dune")),
            ),
            ("sys/leases/revoke-prefix", Route::Unknown),
            ("sys/leases", Route::Unknown),
            ("sys/revoke", Route::Lease(LeaseRoute::Revoke(None))),
            ("sys/audit", Route::Audit(None)),
            ("sys/audit/file", Route::Audit(Some("file"))),
            ("sys/audit-hash/file", Route::AuditHash("file")),
            ("sys/plugins/catalog", Route::Plugins("catalog")),
            (
                "sys/internal/ui/mounts/secret/oauth",
                Route::UiMount("secret/oauth"),
            ),
            (
                "auth/oidc-dune/oidc/auth_url",
                Route::Login(LoginRoute::AuthUrl { issuer: "dune" }),
            ),
            (
                "auth/oidc-a-b.c/oidc/poll",
                Route::Login(LoginRoute::Poll { issuer: "a-b.c" }),
            ),
            ("auth/oidc-/oidc/poll", Route::Unknown),
            (
                "auth/kerberos-dune_default/login",
                Route::Login(LoginRoute::Kerberos {
                    mount: "kerberos-dune_default",
                }),
            ),
            ("auth/ssh/nonce", Route::Login(LoginRoute::SshNonce)),
            ("auth/ssh/login", Route::Login(LoginRoute::SshLogin)),
            ("auth/ssh/role", Route::Ssh(SshRoute::Roles)),
            (
                "auth/ssh/role/alice@lab",
                Route::Ssh(SshRoute::Role { name: "alice@lab" }),
            ),
            ("auth/ssh/role/alice/robot", Route::Unknown),
            (
                "auth/ssh/keys/dune/alice",
                Route::Ssh(SshRoute::Keys {
                    issuer: "dune",
                    name: "alice",
                }),
            ),
            (
                "auth/kerberos-dune_default/config/ldap",
                Route::FromFiles(FromFiles::Kerberos {
                    mount: "kerberos-dune_default",
                    part: KerberosPart::Ldap,
                }),
            ),
            (
                "auth/kerberos-dune_default/groups/a",
                Route::FromFiles(FromFiles::Kerberos {
                    mount: "kerberos-dune_default",
                    part: KerberosPart::Groups(Some("a")),
                }),
            ),
            ("auth/kerberos-dune_default/groupsx", Route::Unknown),
            ("auth/kerberos-dune_default/config/x", Route::Unknown),
            ("auth/ssh/keys/dune", Route::Unknown),
            ("auth/ssh/keys/dune/alice/robot", Route::Unknown),
            ("sys/health", Route::Status(Status::Health)),
            ("sys/storage/raft/join", Route::Status(Status::Join)),
            (
                "sys/storage/raft/configuration",
                Route::Raft(RaftRoute::Configuration),
            ),
            (
                "sys/storage/raft/remove-peer",
                Route::Raft(RaftRoute::RemovePeer),
            ),
            (
                "sys/storage/raft/snapshot",
                Route::Raft(RaftRoute::Snapshot),
            ),
            ("sys/storage/raft", Route::Unknown),
            ("sys/step-down", Route::StepDown),
            ("sys/remount", Route::Remount),
            ("sys/remount/status/x", Route::Unknown),
            ("sys/seal", Route::Keys(KeysRoute::Seal)),
            ("sys/rotate", Route::Keys(KeysRoute::Rotate)),
            ("sys/key-status", Route::Keys(KeysRoute::Status)),
            (
                "sys/rekey/init",
                Route::Keys(KeysRoute::Rekey(RekeyRoute::Init)),
            ),
            (
                "sys/rekey/verify",
                Route::Keys(KeysRoute::Rekey(RekeyRoute::Verify)),
            ),
            ("sys/rekey/backup", Route::Unknown),
            ("sys/generate-root/attempt", Route::Unknown),
            (
                "sys/policies/acl",
                Route::Policy {
                    legacy: false,
                    name: None,
                },
            ),
            (
                "sys/policies/acl/x",
                Route::Policy {
                    legacy: false,
                    name: Some("x"),
                },
            ),
            (
                "sys/policy/x",
                Route::Policy {
                    legacy: true,
                    name: Some("x"),
                },
            ),
            (
                "sys/auth/oidc-dune",
                Route::Mounts {
                    class: MountClass::Auth,
                    path: Some("oidc-dune"),
                },
            ),
            (
                "sys/mounts",
                Route::Mounts {
                    class: MountClass::Secret,
                    path: None,
                },
            ),
            ("sys/quotas/rate-limit", Route::Quota(QuotaRoute::All)),
            (
                "sys/quotas/rate-limit/x",
                Route::Quota(QuotaRoute::Named("x")),
            ),
            ("sys/quotas/config", Route::Quota(QuotaRoute::Options)),
            ("sys/quotas/lease-count", Route::Unknown),
            ("sys/mountsx", Route::Unknown),
            ("sys", Route::Unknown),
            ("", Route::Unknown),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
            // A template is made of the path's own words (the old paths of leases have those of the new, the forced ending of leases
            // those of the other), and of nothing that somebody can choose.
            let template = route.template();
            let mut words = template.split('/').filter(|word| !word.contains('{'));
            assert!(
                template == "other"
                    || words.all(|word| matches!(word, "leases" | "revoke-prefix")
                        || path.split('/').any(|own| own == word)),
                "{path} {template}"
            );
        }
    }
}
