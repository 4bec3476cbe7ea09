//! The policies that follow from the configuration, as text in the language operators know.

use super::{DEFAULT, DELEGATED, OPERATOR, ROBOTS, SSH, SSH_REGISTER, TOKENOPS};
use crate::delegation::MOUNT;
use crate::secret::Mint;
use crate::setup::{IssuerSetup, RobotRule, Setup};
use crate::ssh::SSH_MOUNT;

const DEFAULT_TEXT: &str = r#"# What a token may do with itself.
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
path "auth/token/mine" { capabilities = ["list"] }
path "auth/token/mine/*" { capabilities = ["read", "delete"] }
"#;

const TOKENOPS_TEXT: &str = r#"# What a login token may do with itself.
path "auth/token/create" { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "auth/token/mine" { capabilities = ["list"] }
path "auth/token/mine/*" { capabilities = ["read", "delete"] }
"#;

const OPERATOR_TEXT: &str = r#"# Everything but other people's access tokens.
path "*" { capabilities = ["create", "read", "update", "delete", "list", "scan", "patch", "sudo"] }
path "secret/oauth/creds/*" { capabilities = ["list", "delete"] }
path "secret/oauth/sts/*" { capabilities = ["deny"] }
path "delegation/*" { capabilities = ["read", "delete"] }
path "robot/*" { capabilities = ["read", "delete"] }
"#;

/// Name of the policy of a role of an issuer.
pub(crate) fn oidc_policy(issuer: &str, role: &str) -> String {
    format!("oidc-{issuer}_{role}").to_lowercase()
}

/// The policies an OIDC login gets.
pub(crate) fn login_policies(
    setup: &Setup,
    issuer: &str,
    role: &str,
    operator: bool,
    robot_rules: &[String],
) -> Vec<String> {
    let mut policies = vec![oidc_policy(issuer, role), TOKENOPS.to_owned()];
    if setup.self_registration {
        policies.push(ssh_register_policy(issuer));
    }
    if operator {
        policies.push(OPERATOR.to_owned());
    }
    let known = setup.robots.iter().map(RobotRule::text);
    policies.extend(
        known
            .filter(|text| robot_rules.contains(text))
            .map(|text| robot_policy(&text)),
    );
    policies
}

/// Name of the policy by which a login at an issuer registers ssh keys.
pub(crate) fn ssh_register_policy(issuer: &str) -> String {
    format!("{SSH_REGISTER}{issuer}").to_lowercase()
}

/// What a login with an ssh key may do. Its issuer and role are those of this very login, bound to the token.
fn ssh_policy(mint: &Mint) -> String {
    let accessor = mint.mount_accessor("ssh", SSH_MOUNT);
    let of_alias = |field: &str| format!("{{{{identity.entity.aliases.{accessor}.{field}}}}}");
    let (issuer, owner, role, domain) = (
        of_alias("metadata.issuer"),
        of_alias("name"),
        of_alias("metadata.group"),
        of_alias("metadata.domain"),
    );
    let mut text = String::new();
    // Without a domain its template has no value, and the path is none.
    for name in [
        format!("{issuer}/{owner}:{role}"),
        format!("{issuer}/{owner}{domain}:{role}"),
    ] {
        for kind in ["creds", "sts"] {
            text.push_str(&format!(
                "path \"secret/oauth/{kind}/{name}\" {{ capabilities = [\"list\", \"read\", \"delete\"] }}\n"
            ));
        }
    }
    text.push_str(&own_ssh_keys(&issuer, &owner));
    text
}

/// Looking at, ending and removing one's own ssh keys, which is not in the original. Adding one takes a new login.
fn own_ssh_keys(issuer: &str, owner: &str) -> String {
    format!(
        "path \"auth/ssh/keys/{issuer}/{owner}\" {{ capabilities = [\"read\", \"update\", \"delete\"] }}\n"
    )
}

/// Name of the policy of a rule about robots. It is made of the whole rule, so that the policy, and with it the right of all who got
/// it, is gone as soon as the rule is changed.
fn robot_policy(rule: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, rule.as_bytes());
    let issuer = rule.split(' ').next().unwrap_or_default();
    format!(
        "{ROBOTS}{issuer}-{}",
        crate::secret::hex(&hash.as_ref()[..6])
    )
    .to_lowercase()
}

/// What somebody may do who cares for the robots of `owner`.
fn robot_text(issuer: &IssuerSetup, owner: &str) -> String {
    let name = &issuer.name;
    let mut text = String::new();
    let own = issuer
        .roles
        .iter()
        .map(|role| format!("{owner}:{}", role.name));
    for path in own.chain([format!("{owner}/*")]) {
        text.push_str(&credential_text(name, &path));
        text.push_str(&format!(
            "path \"robot/{name}/{path}\" {{ capabilities = [\"create\", \"read\", \"update\", \"delete\"] }}\n"
        ));
    }
    text.push_str(&format!(
        "path \"secret/oauth/creds/{name}\" {{ capabilities = [\"list\"] }}\n"
    ));
    text
}

/// What somebody may do with the credentials at `path` below an issuer that are their own.
fn credential_text(issuer: &str, path: &str) -> String {
    format!(
        "path \"secret/oauth/creds/{issuer}/{path}\" {{\n  capabilities = [\"update\"]\n  allowed_parameters = {{ \"server\" = [\"{issuer}\"], \"*\" = [] }}\n}}\n\
         path \"secret/oauth/creds/{issuer}/{path}\" {{ capabilities = [\"list\", \"read\", \"delete\"] }}\n\
         path \"secret/oauth/sts/{issuer}/{path}\" {{ capabilities = [\"list\", \"read\", \"delete\"] }}\n\
         path \"delegation/{issuer}/{path}\" {{ capabilities = [\"create\", \"read\", \"update\", \"delete\"] }}\n"
    )
}

/// What the token of a delegation may do: use its one credential, and live on.
fn delegated_text(mint: &Mint) -> String {
    let accessor = mint.mount_accessor("delegation", MOUNT);
    let fact = |name: &str| format!("{{{{identity.entity.aliases.{accessor}.{name}}}}}");
    let path = format!(
        "{}/{}:{}",
        fact("metadata.issuer"),
        fact("name"),
        fact("metadata.role")
    );
    format!(
        "{TOKENOPS_TEXT}path \"auth/token/renew-self\" {{ capabilities = [\"update\"] }}\n\
         path \"secret/oauth/creds/{path}\" {{ capabilities = [\"read\"] }}\n\
         path \"secret/oauth/sts/{path}\" {{ capabilities = [\"read\"] }}\n"
    )
}

/// Name and text of every built-in policy.
pub(super) fn all(setup: &Setup, mint: &Mint) -> Vec<(String, String)> {
    let mut policies = vec![
        (DEFAULT.to_owned(), DEFAULT_TEXT.to_owned()),
        (TOKENOPS.to_owned(), TOKENOPS_TEXT.to_owned()),
        (OPERATOR.to_owned(), OPERATOR_TEXT.to_owned()),
        (DELEGATED.to_owned(), delegated_text(mint)),
    ];
    if setup.ssh.is_some() {
        policies.push((SSH.to_owned(), ssh_policy(mint)));
    }
    for issuer in &setup.issuers {
        let accessor = mint.mount_accessor("oidc", &format!("auth/oidc-{}/", issuer.name));
        let name = &issuer.name;
        let owner = format!("{{{{identity.entity.aliases.{accessor}.name}}}}");
        for role in &issuer.roles {
            let role = &role.name;
            let mut text = String::new();
            for path in [format!("{owner}:{role}"), format!("{owner}/*")] {
                text.push_str(&credential_text(name, &path));
            }
            // Listing what one keeps is not in the original; it shows names the policy covers and nothing else.
            text.push_str(&format!(
                "path \"secret/oauth/creds/{name}\" {{ capabilities = [\"list\"] }}\n"
            ));
            if setup.ssh.is_some() {
                text.push_str(&own_ssh_keys(name, &owner));
            }
            policies.push((oidc_policy(name, role), text));
        }
        for rule in setup.robots.iter().filter(|rule| rule.issuer == *name) {
            let robots_of = rule.account.as_ref().unwrap_or(&owner);
            policies.push((robot_policy(&rule.text()), robot_text(issuer, robots_of)));
        }
        if setup.self_registration {
            policies.push((
                ssh_register_policy(name),
                format!("path \"auth/ssh/role/{owner}\" {{\n  capabilities = [\"create\", \"update\"]\n  allowed_parameters = {{ \"public_keys\" = [] }}\n}}\n"),
            ));
        }
    }
    policies
}

/// Whether `path` asks for the capability sudo besides the ordinary one (section 5.9 of the Vault API specification).
pub(super) fn needs_sudo(path: &str) -> bool {
    const EXACT: [&str; 8] = [
        "sys/audit",
        "sys/leases",
        "sys/seal",
        "sys/step-down",
        "sys/remount",
        "sys/config/cors",
        "auth/token/accessors",
        "auth/token/revoke-orphan",
    ];
    const BELOW: [&str; 13] = [
        "sys/auth/",
        "sys/audit/",
        "sys/raw",
        "sys/rotate",
        // Open to everybody in the original of old.
        "sys/rekey/",
        "sys/config/auditing/",
        "sys/config/ui/headers/",
        "sys/plugins/catalog/",
        "sys/revoke-prefix/",
        "sys/revoke-force/",
        "sys/leases/revoke-prefix/",
        "sys/leases/revoke-force/",
        "sys/internal/inspect/",
    ];
    let below_lookup = path.starts_with("sys/leases/lookup/");
    let path = path.strip_suffix('/').unwrap_or(path);
    EXACT.contains(&path) || below_lookup || BELOW.iter().any(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudo_is_asked_for_where_the_original_does() {
        for path in [
            "auth/token/accessors",
            "auth/token/accessors/",
            "auth/token/revoke-orphan",
            "sys/auth/oidc-x",
            "sys/auth/oidc-x/tune",
            "sys/audit",
            "sys/audit/",
            "sys/audit/file",
            "sys/remount",
            "sys/raw",
            "sys/raw/x",
            "sys/rotate",
            "sys/rotate/keyring",
            "sys/config/cors",
            "sys/config/auditing/request-headers",
            "sys/config/ui/headers/x",
            "sys/plugins/catalog/auth/x",
            "sys/revoke-prefix/x",
            "sys/revoke-force/x",
            "sys/leases",
            "sys/leases/",
            "sys/leases/revoke-prefix/x",
            "sys/leases/revoke-force/x",
            "sys/leases/lookup/x",
            "sys/leases/lookup/",
            "sys/internal/inspect/router/root",
            "sys/seal",
            "sys/step-down",
            "sys/rekey/init",
        ] {
            assert!(needs_sudo(path), "{path}");
        }
        for path in [
            "sys/auth",
            "sys/audit-hash/file",
            "sys/mounts",
            "sys/mounts/x/tune",
            "sys/health",
            "sys/seal-status",
            "sys/key-status",
            "sys/config/state/sanitized",
            "sys/plugins/reload/backend",
            "sys/internal/ui/mounts",
            "sys/leases/renew",
            "sys/leases/revoke",
            "sys/storage/raft/configuration",
            "auth/token/create",
            "auth/token/revoke",
            "auth/token/lookup-accessor",
            "sys/policies/acl/x",
            "sys/leases/lookup",
        ] {
            assert!(!needs_sudo(path), "{path}");
        }
    }
}
