//! What an issuer's discovery document says against its configuration (the warnings of profile section 16 that need
//! the network).
//!
//! Takes the document from whoever fetched it; fetches nothing.

use super::finding::{Finding, Origin, Severity, quoted};
use super::model::{CallbackMode, IssuerConfig};
use serde_json::{Map, Value};

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
        for role in &issuer.roles {
            let claim = issuer.credclaim_of(role);
            if !claims.contains(&claim) {
                let origin = role
                    .credclaim
                    .as_ref()
                    .map_or(&issuer.credclaim.origin, |claim| &claim.origin);
                let what = format!("The issuer does not list the claim {}.", quoted(claim));
                warn(
                    origin,
                    key("credclaim"),
                    what,
                    "Logins fail when the claim is not there.",
                );
                if role.credclaim.is_none() {
                    // It is the same for the other roles.
                    break;
                }
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
    fn what_the_document_does_not_list_proves_nothing() {
        let document = json!({"device_authorization_endpoint": "https://x", "scopes_supported": [], "claims_supported": 5});
        assert!(findings(ISSUER, document).is_empty());
        let direct = ISSUER.replace("  roles:", "  callbackmode: direct\n  roles:");
        assert!(findings(&direct, json!({})).is_empty());
    }
}
