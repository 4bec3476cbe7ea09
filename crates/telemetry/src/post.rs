//! One HTTP request to a collector: address, trust, credentials from a file that is read each time, so that a new one is used at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use reqwest::{redirect, retry};
use url::Url;
use zeroize::Zeroizing;

use crate::ship::Untaken;

const TIME: Duration = Duration::from_secs(10);
/// Bytes of an answer that are shown when it is a refusal.
const SHOWN: usize = 200;

/// How a program proves to a collector who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    #[default]
    None,
    /// `Authorization: Bearer`, the token being the text of a file.
    Bearer {
        /// The file.
        file: PathBuf,
    },
    /// `Authorization: Basic`.
    Basic {
        /// The user's name.
        user: String,
        /// A file that holds the password.
        file: PathBuf,
    },
}

/// Where to send to.
pub struct Endpoint {
    /// The whole address, path included.
    pub url: String,
    /// Whom to trust there; wanted for `https`.
    pub tls: Option<rustls::ClientConfig>,
    /// How to prove who sends.
    pub credentials: Credentials,
    /// Further headers, `X-Scope-OrgID` for example.
    pub headers: Vec<(String, String)>,
}

pub(crate) struct Poster {
    http: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    credentials: Credentials,
}

impl Poster {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, String> {
        let named = |what: String| format!("telemetry cannot be sent to {}: {what}", endpoint.url);
        let url = Url::parse(&endpoint.url).map_err(|error| named(error.to_string()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &endpoint.headers {
            let name = HeaderName::try_from(name)
                .map_err(|_| named(format!("\"{name}\" is not the name of a header")))?;
            let value = HeaderValue::try_from(value)
                .map_err(|_| named(format!("the value of {name} does not fit into a header")))?;
            headers.insert(name, value);
        }
        let mut builder = reqwest::Client::builder()
            .http1_only()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .timeout(TIME)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("gridkeep/", env!("CARGO_PKG_VERSION")));
        match (url.scheme(), endpoint.tls) {
            ("https", Some(tls)) => builder = builder.tls_backend_preconfigured(tls),
            ("http", _) => builder = builder.tls_backend_preconfigured(no_trust()?),
            _ => {
                return Err(format!(
                    "telemetry cannot be sent to {url}: it begins neither with https:// nor with http://"
                ));
            }
        }
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| format!("telemetry cannot be sent to {url}: {error}"))?;
        Ok(Poster {
            http,
            url,
            headers,
            credentials: endpoint.credentials,
        })
    }

    pub(crate) async fn post(
        &self,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<(), Untaken> {
        let mut request = self
            .http
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, content_type)
            .body(body);
        if let Some(value) = authorization(&self.credentials).await? {
            request = request.header(AUTHORIZATION, value);
        }
        // Neither text quotes what was sent.
        let mut answer = request
            .send()
            .await
            .map_err(|error| Untaken::Later(cause(&error), None))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let after = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        let said = match answer.chunk().await {
            Ok(Some(chunk)) => String::from_utf8_lossy(chunk.get(..SHOWN).unwrap_or(&chunk))
                .trim()
                .to_owned(),
            _ => String::new(),
        };
        let text = format!(
            "{} answers {status} {said:?}",
            self.url.host_str().unwrap_or("?")
        );
        // Wrong credentials are put right while the program runs; what a batch holds is not.
        let again =
            status.is_server_error() || matches!(status.as_u16(), 401 | 403 | 404 | 408 | 429);
        Err(if again {
            Untaken::Later(text, after)
        } else {
            Untaken::Never(text)
        })
    }
}

fn cause(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// For addresses without TLS: a client that would trust nobody.
fn no_trust() -> Result<rustls::ClientConfig, String> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

async fn authorization(credentials: &Credentials) -> Result<Option<HeaderValue>, Untaken> {
    let text = match credentials {
        Credentials::None => return Ok(None),
        Credentials::Bearer { file } => {
            let token = secret(file).await?;
            Zeroizing::new(format!("Bearer {}", *token))
        }
        Credentials::Basic { user, file } => {
            let password = secret(file).await?;
            let pair = Zeroizing::new(format!("{user}:{}", *password));
            Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
        }
    };
    let mut value = HeaderValue::try_from(text.as_str()).map_err(|_| {
        Untaken::Later(
            "the credentials in the file do not fit into a header".to_owned(),
            None,
        )
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

async fn secret(file: &Path) -> Result<Zeroizing<String>, Untaken> {
    let text = tokio::fs::read_to_string(file)
        .await
        .map(Zeroizing::new)
        .map_err(|error| {
            Untaken::Later(format!("{} cannot be read: {error}", file.display()), None)
        })?;
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err(Untaken::Later(format!("{} is empty", file.display()), None));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with `answer` and tells its head and body.
    async fn asked(
        answer: &'static str,
        credentials: Credentials,
    ) -> (Result<(), Untaken>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"<end>") {
                let mut some = [0; 1024];
                let count = stream.read(&mut some).await.unwrap();
                seen.extend_from_slice(&some[..count]);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        let poster = Poster::new(Endpoint {
            url: format!("http://{address}/push"),
            tls: None,
            credentials,
            headers: vec![("X-Scope-OrgID".into(), "lab".into())],
        })
        .unwrap();
        let outcome = poster.post("text/plain", b"body<end>".to_vec()).await;
        (outcome, server.await.unwrap())
    }

    #[tokio::test]
    async fn sends_with_credentials_of_a_file_and_judges_the_answer() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "pass-word\n").unwrap();
        let (outcome, seen) = asked(
            "HTTP/1.1 204 No Content\r\n\r\n",
            Credentials::Basic {
                user: "me".into(),
                file: file.clone(),
            },
        )
        .await;
        assert_eq!(outcome, Ok(()));
        assert!(seen.starts_with("POST /push HTTP/1.1\r\n"), "{seen}");
        assert!(
            seen.contains("authorization: Basic bWU6cGFzcy13b3Jk\r\n"),
            "{seen}"
        );
        assert!(seen.contains("x-scope-orgid: lab\r\n"), "{seen}");
        let (outcome, seen) = asked(
            "HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 4\r\n\r\nslow",
            Credentials::Bearer { file },
        )
        .await;
        assert!(
            matches!(&outcome, Err(Untaken::Later(text, Some(after))) if text.contains("slow") && after.as_secs() == 7),
            "{outcome:?}"
        );
        assert!(
            seen.contains("authorization: Bearer pass-word\r\n"),
            "{seen}"
        );
        let (outcome, _) = asked(
            "HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n",
            Credentials::None,
        )
        .await;
        assert!(matches!(outcome, Err(Untaken::Never(_))), "{outcome:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_sent_says_why_and_shows_no_secret() {
        let gone = Credentials::Bearer {
            file: "/nonexistent/token".into(),
        };
        let error = authorization(&gone).await.unwrap_err();
        assert!(
            matches!(&error, Untaken::Later(text, _) if text.contains("/nonexistent/token")),
            "{error:?}"
        );
        let endpoint = |url: &str| Endpoint {
            url: url.into(),
            tls: None,
            credentials: Credentials::None,
            headers: Vec::new(),
        };
        for bad in ["ftp://x", "loki", "https://loki.example"] {
            assert!(Poster::new(endpoint(bad)).is_err(), "{bad}");
        }
    }
}
