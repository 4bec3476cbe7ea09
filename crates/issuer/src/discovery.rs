//! An issuer's metadata: where it is found, what of it counts, what is refused.

use serde_json::{Map, Value};
use tokio::time::Instant;
use url::Url;

use crate::answer;
use crate::error::{IssuerError, Sent};
use crate::kept::Fetched;
use crate::transport::{Reply, Transport, host, is_protected};

/// An issuer's metadata (OpenID Connect Discovery 1.0 section 3, RFC 8414 section 2, RFC 8628 section 4).
///
/// Endpoints that tokens must not travel to (not https) are left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    /// The issuer's identifier, equal to the configured one.
    pub issuer: String,
    /// Where browsers log in.
    pub authorization_endpoint: Option<String>,
    /// Where grants are exchanged for tokens.
    pub token_endpoint: Option<String>,
    /// Where device logins start.
    pub device_authorization_endpoint: Option<String>,
    /// Where tokens are revoked.
    pub revocation_endpoint: Option<String>,
    /// Where claims about the user are read.
    pub userinfo_endpoint: Option<String>,
    /// Where the signing keys are.
    pub jwks_uri: Option<String>,
    /// Ways of client authentication; empty when the issuer names none (which means `client_secret_basic`).
    pub token_endpoint_auth_methods_supported: Vec<String>,
    /// Scopes the issuer says it knows; may be empty or incomplete.
    pub scopes_supported: Vec<String>,
    /// Grants the issuer says it knows; may be empty or incomplete.
    pub grant_types_supported: Vec<String>,
    /// The whole document.
    pub document: Map<String, Value>,
}

impl Metadata {
    /// Takes what counts from a discovery document. The `issuer` in it must equal `url` to the character (OpenID
    /// Connect Discovery 1.0, 4.3). `Err` is the text for the operator.
    pub(crate) fn from_document(
        url: &str,
        document: Map<String, Value>,
        allow_http_loopback: bool,
    ) -> Result<Self, String> {
        let issuer = document
            .get("issuer")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if issuer != url {
            return Err(format!(
                "its discovery document is for issuer {issuer:?} and not for {url:?}; the configured URL must be the \
                 same to the character, a slash at the end included"
            ));
        }
        let endpoint = |name: &str| {
            let text = document.get(name)?.as_str()?;
            if Url::parse(text).is_ok_and(|parsed| is_protected(&parsed, allow_http_loopback)) {
                return Some(text.to_owned());
            }
            tracing::warn!(
                issuer = url,
                endpoint = name,
                "left out: its address is not https"
            );
            None
        };
        let list = |name: &str| {
            let items = document
                .get(name)
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        Ok(Self {
            issuer: issuer.to_owned(),
            authorization_endpoint: endpoint("authorization_endpoint"),
            token_endpoint: endpoint("token_endpoint"),
            device_authorization_endpoint: endpoint("device_authorization_endpoint"),
            revocation_endpoint: endpoint("revocation_endpoint"),
            userinfo_endpoint: endpoint("userinfo_endpoint"),
            jwks_uri: endpoint("jwks_uri"),
            token_endpoint_auth_methods_supported: list("token_endpoint_auth_methods_supported"),
            scopes_supported: list("scopes_supported"),
            grant_types_supported: list("grant_types_supported"),
            document,
        })
    }
}

/// An endpoint of the metadata, or the reason why it cannot be used.
pub(crate) fn required<'a>(
    endpoint: &'a Option<String>,
    name: &str,
) -> Result<&'a str, IssuerError> {
    endpoint.as_deref().ok_or_else(|| IssuerError::Unsupported {
        what: format!("its discovery document has no {name} with an https address"),
    })
}

/// Where the metadata of an issuer may be, in the order to try. The first is the one all issuers serve (OpenID Connect
/// Discovery 1.0, 4.1); the others are for issuers with a path (RFC 8414 section 3.1), asked only after a 404.
pub(crate) fn addresses(url: &str) -> Vec<String> {
    let base = url.strip_suffix('/').unwrap_or(url);
    let mut addresses = vec![format!("{base}/.well-known/openid-configuration")];
    let path_at = base
        .find("://")
        .and_then(|at| base[at + 3..].find('/').map(|slash| at + 3 + slash));
    if let Some((origin, path)) = path_at.map(|at| base.split_at(at)) {
        for name in ["openid-configuration", "oauth-authorization-server"] {
            addresses.push(format!("{origin}/.well-known/{name}{path}"));
        }
    }
    addresses
}

/// Reads the metadata. Whatever fails, nothing was asked of the issuer that it could have acted on.
pub(crate) async fn fetch(
    transport: &Transport,
    url: &str,
    allow_http_loopback: bool,
    deadline: Instant,
    now: i64,
) -> Result<Fetched<Metadata>, IssuerError> {
    let mut not_found = None;
    for address in addresses(url) {
        let reply = transport
            .read(&address, allow_http_loopback, deadline)
            .await
            .map_err(unsent)?;
        if reply.status.as_u16() == 404 {
            not_found.get_or_insert(address);
            continue;
        }
        expect_document(&reply, &address, now)?;
        let unusable = |what: String| {
            IssuerError::unsent(format!("issuer {} cannot be used: {what}", host(url)))
        };
        let document = answer::object(&reply.body)
            .ok_or_else(|| unusable(format!("{address} is not a JSON object")))?;
        let value =
            Metadata::from_document(url, document, allow_http_loopback).map_err(unusable)?;
        return Ok(Fetched {
            value,
            life: reply.life(),
        });
    }
    let address = not_found.unwrap_or_default();
    Err(IssuerError::unsent(format!(
        "issuer {} cannot be used: there is nothing at {address} (404); url of this issuer has to be what the issuer calls itself, path \
         included",
        host(url)
    )))
}

/// Only status 200 brings a document; all else is trouble that passes.
pub(crate) fn expect_document(reply: &Reply, address: &str, now: i64) -> Result<(), IssuerError> {
    if reply.status.as_u16() == 200 {
        return Ok(());
    }
    Err(IssuerError::Temporary {
        what: format!("{address} answered {}", reply.status),
        sent: Sent::No,
        retry_after: answer::retry_after(&reply.headers, now),
    })
}

/// The same failure of a mere reading.
pub(crate) fn unsent(error: IssuerError) -> IssuerError {
    match error {
        IssuerError::Temporary {
            what, retry_after, ..
        } => IssuerError::Temporary {
            what,
            sent: Sent::No,
            retry_after,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(url: &str, document: Value) -> Result<Metadata, String> {
        Metadata::from_document(url, document.as_object().unwrap().clone(), false)
    }

    #[test]
    fn addresses_lose_one_slash_and_try_the_inserted_forms_for_paths() {
        assert_eq!(
            addresses("https://iam.example.org/"),
            ["https://iam.example.org/.well-known/openid-configuration"]
        );
        assert_eq!(
            addresses("https://i.org//")[0],
            "https://i.org//.well-known/openid-configuration"
        );
        assert_eq!(
            addresses("https://kc.example.org/realms/vo"),
            [
                "https://kc.example.org/realms/vo/.well-known/openid-configuration",
                "https://kc.example.org/.well-known/openid-configuration/realms/vo",
                "https://kc.example.org/.well-known/oauth-authorization-server/realms/vo",
            ]
        );
    }

    #[test]
    fn the_issuer_must_be_the_same_to_the_character() {
        let document = json!({"issuer": "https://i.org/"});
        parse("https://i.org/", document.clone()).unwrap();
        for url in ["https://i.org", "https://I.org/", "https://i.org:443/"] {
            let text = parse(url, document.clone()).unwrap_err();
            assert!(text.contains("to the character"), "{text}");
        }
        parse("https://i.org/", json!({})).unwrap_err();
    }

    #[test]
    fn endpoints_in_clear_are_left_out() {
        let document = json!({
            "issuer": "https://i.org",
            "token_endpoint": "https://other.org/token",
            "authorization_endpoint": "http://i.org/authorize",
            "device_authorization_endpoint": "http://localhost/device",
            "revocation_endpoint": 7,
            "userinfo_endpoint": "not a url",
            "scopes_supported": ["openid", 7, "wlcg"],
        });
        let metadata = parse("https://i.org", document).unwrap();
        assert_eq!(
            metadata.token_endpoint.as_deref(),
            Some("https://other.org/token")
        );
        assert_eq!(metadata.authorization_endpoint, None);
        assert_eq!(metadata.device_authorization_endpoint, None);
        assert_eq!(
            (metadata.revocation_endpoint, metadata.userinfo_endpoint),
            (None, None)
        );
        assert_eq!(metadata.scopes_supported, ["openid", "wlcg"]);
    }
}
