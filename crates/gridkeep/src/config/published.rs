//! What an issuer's discovery document says against its configuration (the warnings of profile section 16 that need
//! the network).
//!
//! Takes the document from whoever fetched it; fetches nothing.

use super::finding::{Finding, Origin, Severity, quoted};
use super::model::{CallbackMode, ClientAuth, IssuerConfig, RoleConfig};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// What of an issuer's configuration is compared, to notice that it has to be compared anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparable {
    device: bool,
    auth: Option<ClientAuth>,
    /// Name, claim and scopes of each role.
    roles: Vec<[String; 3]>,
}

impl Comparable {
    /// That of an issuer.
    pub fn of(issuer: &IssuerConfig) -> Self {
        let roles = issuer.roles.iter().map(|role| {
            let claim = claim(issuer, role).into_owned();
            [
                role.name.value.clone(),
                claim,
                role.requested_scopes().join(" "),
            ]
        });
        Self {
            device: issuer.callback_mode.value == CallbackMode::Device,
            auth: issuer.client_auth.as_ref().map(|auth| auth.value),
            roles: roles.collect(),
        }
    }
}

/// The top-level claim that holds the credkey of a role: with a JSON pointer its first part (RFC 6901).
fn claim<'a>(issuer: &'a IssuerConfig, role: &'a RoleConfig) -> Cow<'a, str> {
    let claim = issuer.credclaim_of(role);
    match claim.strip_prefix('/') {
        Some(parts) if issuer.credclaim_json_pointer.value => {
            let first = parts.split('/').next().unwrap_or_default();
            Cow::Owned(first.replace("~1", "/").replace("~0", "~"))
        }
        _ => Cow::Borrowed(claim),
    }
}

/// Compares an issuer's configuration with its discovery document. Lists that the document does not have prove
/// nothing.
pub fn against_discovery(issuer: &IssuerConfig, document: &Map<String, Value>) -> Vec<Finding> {
    let key = |rest: &str| format!("issuers[{}].{rest}", issuer.name.value);
    let mut findings = Vec::new();
    let mut warn = |origin: &Origin, key: String, what: String, means: &str| {
        findings.push(Finding::new(Severity::Warning, origin, key, what, means));
    };
    if let Some(scopes) = texts(document, "scopes_supported")
        && scopes.contains(&"offline_access")
    {
        for role in issuer
            .roles
            .iter()
            .filter(|role| !role.requested_scopes().contains(&"offline_access"))
        {
            warn(
                &role.name.origin,
                key(&format!("roles[{}].scopes", role.name.value)),
                "The issuer knows the scope `offline_access` and the role does not ask for it."
                    .to_owned(),
                "There will probably be no refresh token, and people have to log in again after each access token.",
            );
        }
    }
    if let Some(claims) = texts(document, "claims_supported") {
        let mut general_is_told = false;
        for role in &issuer.roles {
            let claim = claim(issuer, role);
            let is_general = role.credclaim.is_none();
            let told = is_general && general_is_told;
            if !told && !claims.contains(&claim.as_ref()) {
                general_is_told |= is_general;
                let origin = role
                    .credclaim
                    .as_ref()
                    .map_or(&issuer.credclaim.origin, |claim| &claim.origin);
                let what = format!("The issuer does not list the claim {}.", quoted(&claim));
                warn(
                    origin,
                    key("credclaim"),
                    what,
                    "Logins fail when the claim is not there.",
                );
            }
        }
    }
    if issuer.callback_mode.value == CallbackMode::Device
        && !document.contains_key("device_authorization_endpoint")
    {
        let origin = if issuer.callback_mode.origin.file().is_some() {
            &issuer.callback_mode.origin
        } else {
            &issuer.name.origin
        };
        let what = "The issuer has no device flow.".to_owned();
        warn(
            origin,
            key("callbackmode"),
            what,
            "Nobody can log in; use `direct` or `noconfirm`.",
        );
    }
    if let (Some(auth), Some(methods)) = (
        &issuer.client_auth,
        texts(document, "token_endpoint_auth_methods_supported"),
    ) && !methods.contains(&auth.value.as_str())
    {
        let what = format!(
            "The issuer does not list the client authentication `{}`.",
            auth.value.as_str()
        );
        warn(
            &auth.origin,
            key("client_auth"),
            what,
            &format!("It lists: {}.", methods.join(", ")),
        );
    }
    findings
}

/// A list of texts that is there and not empty.
fn texts<'d>(document: &'d Map<String, Value>, key: &str) -> Option<Vec<&'d str>> {
    let texts: Vec<&str> = document
        .get(key)?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    (!texts.is_empty()).then_some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn findings(issuer: &str, document: Value) -> Vec<(u32, String)> {
        let loaded = crate::config::tests::loaded(&[issuer]);
        let config = loaded.config.unwrap();
        let Value::Object(document) = document else {
            panic!()
        };
        let findings = against_discovery(&config.issuers[0], &document);
        findings
            .iter()
            .map(|finding| (finding.origin.line(), finding.key.clone()))
            .collect()
    }

    const ISSUER: &str = "issuers:
- name: default
  clientid: c
  secret: s
  url: https://iam.example.org/
  credclaim: eppn
  client_auth: client_secret_post
  roles:
  - {name: default, scopes: [wlcg, offline_access]}
  - {name: plain, scopes: [wlcg], credclaim: sub}
";

    #[test]
    fn what_the_document_contradicts_is_named_with_its_line() {
        let document = json!({
            "scopes_supported": ["openid", "offline_access"],
            "claims_supported": ["sub"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        });
        let expected = [
            (10, "issuers[default].roles[plain].scopes"),
            (6, "issuers[default].credclaim"),
            (2, "issuers[default].callbackmode"),
            (7, "issuers[default].client_auth"),
        ];
        assert_eq!(
            findings(ISSUER, document),
            expected.map(|(line, key)| (line, key.to_owned()))
        );
    }

    #[test]
    fn of_a_pointer_the_first_part_is_a_claim() {
        let document = |claims: Value| json!({"device_authorization_endpoint": "https://x", "claims_supported": claims});
        let issuer = ISSUER
            .replace("  client_auth: client_secret_post\n", "")
            .replace(
                "credclaim: eppn\n",
                "credclaim: /realm/user\n  credclaim_json_pointer: true\n",
            );
        let issuer = issuer.replace("credclaim: sub", "credclaim: /a~1b/user");
        assert!(findings(&issuer, document(json!(["realm", "a/b"]))).is_empty());
        let told = findings(&issuer, document(json!(["user"])));
        assert_eq!(told.len(), 2, "{told:?}");
    }

    #[test]
    fn a_role_with_a_claim_of_its_own_is_looked_at_behind_others() {
        let document =
            json!({"device_authorization_endpoint": "https://x", "claims_supported": ["name"]});
        let issuer = ISSUER.replace("  client_auth: client_secret_post\n", "");
        let issuer = format!("{issuer}  - {{name: last, scopes: [wlcg]}}\n");
        let told = findings(&issuer, document);
        let lines: Vec<u32> = told.into_iter().map(|(line, _)| line).collect();
        assert_eq!(
            lines,
            [6, 9],
            "the general claim once, and that of the second role"
        );
    }

    #[test]
    fn a_change_of_what_is_compared_is_noticed_and_another_is_not() {
        let of = |text: &str| {
            let config = crate::config::tests::loaded(&[text]).config.unwrap();
            Comparable::of(&config.issuers[0])
        };
        let base = of(ISSUER);
        for (from, to) in [
            ("eppn", "mail"),
            ("credclaim: sub", "credclaim: uid"),
            ("client_secret_post", "client_secret_basic"),
            (", offline_access", ""),
            ("  roles:", "  callbackmode: direct\n  roles:"),
        ] {
            assert_ne!(of(&ISSUER.replace(from, to)), base, "{from}");
        }
        assert_eq!(of(&ISSUER.replace("secret: s", "secret: t")), base);
    }

    #[test]
    fn what_the_document_does_not_list_proves_nothing() {
        let document = json!({"device_authorization_endpoint": "https://x", "scopes_supported": [], "claims_supported": 5});
        assert!(findings(ISSUER, document).is_empty());
        let direct = ISSUER.replace("  roles:", "  callbackmode: direct\n  roles:");
        assert!(findings(&direct, json!({})).is_empty());
    }
}
