//! What a login with a Kerberos ticket may use: what stands under the principal's name, with the policy domain behind it or without.
//!
//! The name of the policy and the path of the mount are concatenations and may come to mean another issuer and role when the configuration
//! changes. Rights do not hang on them: the accessor in the policy's paths is made of issuer and role as two things, and an older token's
//! identity fits no other pair.

use crate::secret::Mint;
use crate::setup::Setup;

/// Name of the policy of a role of an issuer.
pub(crate) fn kerberos_policy(issuer: &str, role: &str) -> String {
    format!("kerberos-{issuer}_{role}").to_lowercase()
}

/// The accessor of the login mount of a role.
pub(crate) fn kerberos_accessor(mint: &Mint, issuer: &str, role: &str) -> String {
    mint.mount_accessor("kerberos", &format!("auth/kerberos/{issuer}\0{role}/"))
}

/// Name and text of each such policy. Their paths take names with slashes.
pub(super) fn all(setup: &Setup, mint: &Mint) -> Vec<(String, String)> {
    setup
        .kerberos_roles()
        .map(|(issuer, role, service)| {
            let accessor = kerberos_accessor(mint, &issuer.name, &role.name);
            let user = format!("{{{{identity.entity.aliases.{accessor}.name}}}}");
            let domains = service.policy_domain.as_deref().into_iter().chain([""]);
            let text: String = domains
                .map(|domain| {
                    let path = format!("{}/{user}{domain}:{}", issuer.name, role.name);
                    format!(
                        "path \"secret/oauth/creds/{path}\" {{ capabilities = [\"list\", \"read\", \"delete\"] }}\n\
                         path \"secret/oauth/sts/{path}\" {{ capabilities = [\"list\", \"read\", \"delete\"] }}\n"
                    )
                })
                .collect();
            (kerberos_policy(&issuer.name, &role.name), text)
        })
        .collect()
}
