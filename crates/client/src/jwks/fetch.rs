//! Asks an issuer for its keys: metadata document first, then the key set it names.

use crate::environment::Environment;
use crate::http::{Call, Client, HttpError, NoLog, ServerUrl, Target, TrustSources};
use gridkeep_token::jws::JwkSet;
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// Why the keys of an issuer are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The issuer or its key set is not addressed by a plain https URL.
    #[error("{0} is no usable https address")]
    Address(String),
    /// No answer, or a refusal.
    #[error("{url} cannot be read: {reason}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: HttpError,
    },
    /// An answer that is not what it should be.
    #[error("{url} is no {expected}: {problem}")]
    Document {
        /// What was asked for.
        url: String,
        /// What should have come.
        expected: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The metadata is somebody else's.
    #[error(
        "{url} says that its issuer is {says:?}, not {issuer:?}; they must agree to the character"
    )]
    OtherIssuer {
        /// The metadata document.
        url: String,
        /// Its `issuer`.
        says: String,
        /// The issuer of the token.
        issuer: String,
    },
    /// The program could not start its own machinery.
    #[error("the network cannot be used: {0}")]
    System(#[from] std::io::Error),
}

/// Fetches the key set of `issuer` (WLCG profile 1.3, section on keys; OpenID Connect Discovery 1.0 section 4; RFC 8414 section 3).
///
/// Gives up after `limit`. Blocks; must not be called from inside an asynchronous task.
///
/// # Errors
/// [`FetchError`]; its sentence names the address and the reason.
pub fn fetch(
    issuer: &str,
    trust: &TrustSources,
    environment: &Environment,
    limit: Duration,
) -> Result<JwkSet, FetchError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let in_time =
        async { tokio::time::timeout(limit, fetch_keys(issuer, trust, environment)).await };
    let answer = runtime.block_on(in_time).unwrap_or_else(|_| {
        Err(FetchError::Unreachable {
            url: issuer.to_owned(),
            reason: HttpError::OutOfTime,
        })
    });
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    answer
}

async fn fetch_keys(
    issuer: &str,
    trust: &TrustSources,
    environment: &Environment,
) -> Result<JwkSet, FetchError> {
    let jwks_uri = jwks_uri(issuer, trust, environment).await?;
    let body = read(&jwks_uri, trust, environment).await?;
    JwkSet::from_json(&body).map_err(|error| FetchError::Document {
        url: jwks_uri.to_string(),
        expected: "JSON Web Key Set",
        problem: error.to_string(),
    })
}

/// Reads the metadata of `issuer` at the first address that has any.
async fn jwks_uri(
    issuer: &str,
    trust: &TrustSources,
    environment: &Environment,
) -> Result<Url, FetchError> {
    let mut first_failure = None;
    for url in metadata_addresses(issuer)? {
        match read(&url, trust, environment).await {
            Ok(body) => return judge(issuer, &url, &body),
            // Only a server that answered may have its document elsewhere.
            Err(
                error @ FetchError::Unreachable {
                    reason: HttpError::Status(_),
                    ..
                },
            ) => {
                first_failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first_failure.unwrap_or_else(|| FetchError::Address(issuer.to_owned())))
}

/// The form that all clients must support first, then those with the well-known part before the issuer's path.
fn metadata_addresses(issuer: &str) -> Result<Vec<Url>, FetchError> {
    let base = https(issuer)?;
    if base.query().is_some() || base.fragment().is_some() {
        return Err(FetchError::Address(issuer.to_owned()));
    }
    let path = base.path().trim_end_matches('/').to_owned();
    let mut paths = vec![format!("{path}/.well-known/openid-configuration")];
    if !path.is_empty() {
        paths.push(format!("/.well-known/openid-configuration{path}"));
        paths.push(format!("/.well-known/oauth-authorization-server{path}"));
    }
    let at = |path: String| {
        let mut url = base.clone();
        url.set_path(&path);
        url
    };
    Ok(paths.into_iter().map(at).collect())
}

fn judge(issuer: &str, url: &Url, body: &[u8]) -> Result<Url, FetchError> {
    let problem = |problem: String| FetchError::Document {
        url: url.to_string(),
        expected: "issuer metadata",
        problem,
    };
    let document: Value =
        serde_json::from_slice(body).map_err(|error| problem(error.to_string()))?;
    let text = |name: &str| {
        document
            .get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| problem(format!("it has no text {name}")))
    };
    let says = text("issuer")?;
    if says != issuer {
        return Err(FetchError::OtherIssuer {
            url: url.to_string(),
            says: says.to_owned(),
            issuer: issuer.to_owned(),
        });
    }
    https(text("jwks_uri")?)
}

fn https(text: &str) -> Result<Url, FetchError> {
    let refused = || FetchError::Address(text.to_owned());
    let url = Url::parse(text).map_err(|_| refused())?;
    if url.scheme() != "https"
        || !url.has_host()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        return Err(refused());
    }
    Ok(url)
}

async fn read(
    url: &Url,
    trust: &TrustSources,
    environment: &Environment,
) -> Result<Vec<u8>, FetchError> {
    let unreachable = |reason| FetchError::Unreachable {
        url: url.to_string(),
        reason,
    };
    let refused = |_| FetchError::Address(url.to_string());
    let authority = format!(
        "https://{}:{}",
        url.host_str().unwrap_or_default(),
        url.port().unwrap_or(443)
    );
    let target = Target {
        server: ServerUrl::parse(&authority, 443).map_err(refused)?,
        alias: None,
        certificate_name: None,
        trust: trust.clone(),
    };
    let path = url.query().map_or_else(
        || url.path().to_owned(),
        |query| format!("{}?{query}", url.path()),
    );
    let mut client = Client::new(target, environment).map_err(unreachable)?;
    let reply = client
        .send(&Call::get(path, None), &mut NoLog)
        .await
        .map_err(unreachable)?;
    Ok(reply.success().map_err(unreachable)?.body.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_looked_for_at_the_appended_form_first() {
        let addresses = |issuer: &str| -> Vec<String> {
            metadata_addresses(issuer)
                .unwrap()
                .iter()
                .map(Url::to_string)
                .collect()
        };
        for issuer in ["https://vo.example.org", "https://vo.example.org/"] {
            assert_eq!(
                addresses(issuer),
                ["https://vo.example.org/.well-known/openid-configuration"]
            );
        }
        for issuer in ["https://h:8443/t/1", "https://h:8443/t/1/"] {
            assert_eq!(
                addresses(issuer),
                [
                    "https://h:8443/t/1/.well-known/openid-configuration",
                    "https://h:8443/.well-known/openid-configuration/t/1",
                    "https://h:8443/.well-known/oauth-authorization-server/t/1"
                ]
            );
        }
    }

    #[test]
    fn only_plain_https_addresses_are_used() {
        for issuer in [
            "http://vo.example.org",
            "vo.example.org",
            "https://u:p@h",
            "https://h?x",
            "https://h#x",
            "file:///etc/passwd",
            "https://",
        ] {
            assert!(
                matches!(metadata_addresses(issuer), Err(FetchError::Address(_))),
                "{issuer}"
            );
        }
        let url = Url::parse("https://h/x").unwrap();
        let answer = judge(
            "https://h",
            &url,
            br#"{"issuer":"https://h","jwks_uri":"http://h/jwks"}"#,
        );
        assert!(matches!(answer, Err(FetchError::Address(_))));
    }

    #[test]
    fn metadata_must_be_the_issuers_own() {
        let url = Url::parse("https://h/x").unwrap();
        let answer = judge(
            "https://h",
            &url,
            br#"{"issuer":"https://h/","jwks_uri":"https://h/jwks"}"#,
        );
        assert!(matches!(answer, Err(FetchError::OtherIssuer { .. })));
        for body in [
            &b"<html>"[..],
            b"[]",
            b"{}",
            br#"{"issuer":"https://h"}"#,
            br#"{"issuer":7,"jwks_uri":"https://h/j"}"#,
        ] {
            assert!(matches!(
                judge("https://h", &url, body),
                Err(FetchError::Document { .. })
            ));
        }
        assert_eq!(
            judge(
                "https://h",
                &url,
                br#"{"issuer":"https://h","jwks_uri":"https://k/j?a"}"#
            )
            .unwrap()
            .as_str(),
            "https://k/j?a"
        );
    }
}
