//! What a route is called where people and metrics are told of it: the path with what it captures taken out, never anything a
//! client made up.

use crate::route::{
    CredentialKind, FromFiles, KerberosPart, KeysRoute, LeaseRoute, LoginRoute, MountClass,
    QuotaRoute, RaftRoute, RekeyRoute, Route, SshRoute, Status, TokenRoute, Whose,
};

impl Route<'_> {
    /// The template, such as `secret/oauth/creds/{name}`; `other` for what is no endpoint.
    pub(crate) fn template(self) -> &'static str {
        match self {
            Route::Status(status) => match status {
                Status::Health => "sys/health",
                Status::Seal => "sys/seal-status",
                Status::Leader => "sys/leader",
                Status::Init => "sys/init",
                Status::Unseal => "sys/unseal",
                Status::Join => "sys/storage/raft/join",
            },
            Route::Login(login) => match login {
                LoginRoute::AuthUrl { .. } => "auth/oidc-{issuer}/oidc/auth_url",
                LoginRoute::Callback { .. } => "auth/oidc-{issuer}/oidc/callback",
                LoginRoute::Poll { .. } => "auth/oidc-{issuer}/oidc/poll",
                LoginRoute::Jwt { .. } => "auth/oidc-{issuer}/login",
                LoginRoute::Kerberos { .. } => "auth/kerberos-{service}/login",
                LoginRoute::SshNonce => "auth/ssh/nonce",
                LoginRoute::SshLogin => "auth/ssh/login",
            },
            Route::UiMounts => "sys/internal/ui/mounts",
            Route::UiMount(_) => "sys/internal/ui/mounts/{path}",
            Route::Token(token) => token.template(),
            Route::TokenOfRole(_) => "auth/token/create/{role}",
            Route::TokenRole(None) => "auth/token/roles",
            Route::TokenRole(Some(_)) => "auth/token/roles/{role}",
            Route::Credential { kind, name } => match (kind, name) {
                (CredentialKind::Base, "") => "secret/oauth/creds",
                (CredentialKind::Base, _) => "secret/oauth/creds/{name}",
                (CredentialKind::Exchanged, _) => "secret/oauth/sts/{name}",
            },
            Route::Delegation { lasting: false, .. } => "delegation/{name}",
            Route::Delegation { lasting: true, .. } => "robot/{name}",
            Route::Policy { legacy, name } => match (legacy, name) {
                (false, None) => "sys/policies/acl",
                (false, Some(_)) => "sys/policies/acl/{name}",
                (true, None) => "sys/policy",
                (true, Some(_)) => "sys/policy/{name}",
            },
            Route::Mounts { class, path } => match (class, path) {
                (MountClass::Auth, None) => "sys/auth",
                (MountClass::Auth, Some(_)) => "sys/auth/{path}",
                (MountClass::Secret, None) => "sys/mounts",
                (MountClass::Secret, Some(_)) => "sys/mounts/{path}",
            },
            Route::Capabilities(whose) => match whose {
                Whose::Given => "sys/capabilities",
                Whose::Own => "sys/capabilities-self",
                Whose::ByAccessor => "sys/capabilities-accessor",
            },
            Route::OwnToken(None) => "auth/token/mine",
            Route::OwnToken(Some(_)) => "auth/token/mine/{accessor}",
            Route::Lease(lease) => match lease {
                LeaseRoute::Lookup => "sys/leases/lookup",
                LeaseRoute::LookupBelow(_) => "sys/leases/lookup/{prefix}",
                LeaseRoute::Renew(_) => "sys/leases/renew",
                LeaseRoute::Revoke(_) => "sys/leases/revoke",
                LeaseRoute::RevokePrefix(_) => "sys/leases/revoke-prefix/{prefix}",
                LeaseRoute::Tidy => "sys/leases/tidy",
            },
            Route::Audit(None) => "sys/audit",
            Route::Audit(Some(_)) => "sys/audit/{path}",
            Route::AuditHash(_) => "sys/audit-hash/{path}",
            Route::Plugins(_) => "sys/plugins/{path}",
            Route::Keys(keys) => match keys {
                KeysRoute::Seal => "sys/seal",
                KeysRoute::Rotate => "sys/rotate",
                KeysRoute::Status => "sys/key-status",
                KeysRoute::Rekey(RekeyRoute::Init) => "sys/rekey/init",
                KeysRoute::Rekey(RekeyRoute::Update) => "sys/rekey/update",
                KeysRoute::Rekey(RekeyRoute::Verify) => "sys/rekey/verify",
            },
            Route::HostInfo => "sys/host-info",
            Route::HaStatus => "sys/ha-status",
            Route::Raft(raft) => match raft {
                RaftRoute::Configuration => "sys/storage/raft/configuration",
                RaftRoute::RemovePeer => "sys/storage/raft/remove-peer",
                RaftRoute::Snapshot => "sys/storage/raft/snapshot",
            },
            Route::StepDown => "sys/step-down",
            Route::Remount => "sys/remount",
            Route::Quota(quota) => match quota {
                QuotaRoute::All => "sys/quotas/rate-limit",
                QuotaRoute::Named(_) => "sys/quotas/rate-limit/{name}",
                QuotaRoute::Options => "sys/quotas/config",
            },
            Route::Ssh(ssh) => match ssh {
                SshRoute::Config => "auth/ssh/config",
                SshRoute::Roles => "auth/ssh/role",
                SshRoute::Role { .. } => "auth/ssh/role/{name}",
                SshRoute::Keys { .. } => "auth/ssh/keys/{name}",
            },
            Route::FromFiles(what) => match what {
                FromFiles::Issuer(_) => "auth/oidc-{issuer}/config",
                FromFiles::Role { role: None, .. } => "auth/oidc-{issuer}/role",
                FromFiles::Role { role: Some(_), .. } => "auth/oidc-{issuer}/role/{role}",
                FromFiles::Kerberos { part, .. } => match part {
                    KerberosPart::Config => "auth/kerberos-{service}/config",
                    KerberosPart::Ldap => "auth/kerberos-{service}/config/ldap",
                    KerberosPart::Groups(None) => "auth/kerberos-{service}/groups",
                    KerberosPart::Groups(Some(_)) => "auth/kerberos-{service}/groups/{name}",
                },
                FromFiles::Credentials => "secret/oauth/config",
                FromFiles::Server(None) => "secret/oauth/servers",
                FromFiles::Server(Some(_)) => "secret/oauth/servers/{name}",
            },
            Route::Metrics => "sys/metrics",
            Route::Unknown => "other",
        }
    }
}

impl TokenRoute {
    fn template(self) -> &'static str {
        match self {
            TokenRoute::Create { orphan: false } => "auth/token/create",
            TokenRoute::Create { orphan: true } => "auth/token/create-orphan",
            TokenRoute::Lookup(Whose::Given) => "auth/token/lookup",
            TokenRoute::Lookup(Whose::Own) => "auth/token/lookup-self",
            TokenRoute::Lookup(Whose::ByAccessor) => "auth/token/lookup-accessor",
            TokenRoute::Renew(Whose::Given) => "auth/token/renew",
            TokenRoute::Renew(Whose::Own) => "auth/token/renew-self",
            TokenRoute::Renew(Whose::ByAccessor) => "auth/token/renew-accessor",
            TokenRoute::Revoke(Whose::Given) => "auth/token/revoke",
            TokenRoute::Revoke(Whose::Own) => "auth/token/revoke-self",
            TokenRoute::Revoke(Whose::ByAccessor) => "auth/token/revoke-accessor",
            TokenRoute::RevokeOrphan => "auth/token/revoke-orphan",
            TokenRoute::Accessors => "auth/token/accessors",
            TokenRoute::Tidy => "auth/token/tidy",
        }
    }
}
