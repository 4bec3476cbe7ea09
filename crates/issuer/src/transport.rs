//! HTTP towards one issuer: HTTP/1.1, TLS by our own configuration, no retries, bounded answers; redirects only for
//! public documents, never with credentials.
//!
//! `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment count, except for issuers on the loopback
//! interface. Connections are not kept: a kept connection that the issuer has just closed would make a request that
//! never arrived look like one that may have, and for a refresh that difference matters more than a handshake.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Method, StatusCode, redirect, retry};
use tokio::time::{Instant, timeout_at};
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::error::{ConfigError, IssuerError, Sent};
use crate::form::{Form, clean};
use crate::options::ClientOptions;
use crate::roots;

/// The longest answer that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// Documents may be one or two hops away.
const MAX_REDIRECTS: usize = 4;

/// See the module.
pub(crate) struct Transport {
    http: reqwest::Client,
    traceparent: Option<fn() -> Option<String>>,
}

/// An answer with all of its body.
pub(crate) struct Reply {
    /// Who answered, for texts.
    pub host: String,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Zeroizing<Vec<u8>>,
}

impl Reply {
    /// How long the server says the answer stays good.
    pub(crate) fn life(&self) -> Option<Duration> {
        let text = self
            .headers
            .get(CACHE_CONTROL)?
            .to_str()
            .ok()?
            .to_ascii_lowercase();
        let mut directives = text.split(',').map(str::trim);
        if directives
            .clone()
            .any(|name| matches!(name, "no-store" | "no-cache"))
        {
            return Some(Duration::ZERO);
        }
        let seconds = directives.find_map(|directive| directive.strip_prefix("max-age="))?;
        seconds
            .trim_matches('"')
            .parse()
            .ok()
            .map(Duration::from_secs)
    }

    /// Whether the body is of this media type.
    pub(crate) fn is(&self, media_type: &str) -> bool {
        let text = self
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        text.split(';')
            .next()
            .is_some_and(|name| name.trim().eq_ignore_ascii_case(media_type))
    }
}

impl Transport {
    pub(crate) fn new(options: &ClientOptions, issuer: &Url) -> Result<Self, ConfigError> {
        let tls = roots::tls(&options.url, &options.ca_pem, issuer.scheme() == "https")?;
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .pool_max_idle_per_host(0)
            .connect_timeout(options.connect_timeout.min(options.request_timeout))
            .user_agent(concat!("gridkeep/", env!("CARGO_PKG_VERSION")));
        if is_loopback(issuer) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| ConfigError::Http {
            url: options.url.clone(),
            why: deepest(&error),
        })?;
        Ok(Self {
            http,
            traceparent: options.traceparent,
        })
    }

    /// Reads a document.
    pub(crate) async fn get(
        &self,
        url: &str,
        authorization: Option<HeaderValue>,
        deadline: Instant,
    ) -> Result<Reply, IssuerError> {
        self.send(self.request(Method::GET, url, authorization), url, deadline)
            .await
    }

    /// Reads a public document, following a few redirects to addresses as protected as the first.
    pub(crate) async fn read(
        &self,
        url: &str,
        allow_http_loopback: bool,
        deadline: Instant,
    ) -> Result<Reply, IssuerError> {
        let mut url = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let reply = self.get(&url, None, deadline).await?;
            if !reply.status.is_redirection() {
                return Ok(reply);
            }
            let location = reply
                .headers
                .get(LOCATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|location| Url::parse(&url).ok()?.join(location).ok())
                .filter(|target| is_protected(target, allow_http_loopback));
            match location {
                Some(target) => url = target.into(),
                None => return Ok(reply),
            }
        }
        Err(IssuerError::unsent(format!(
            "{} redirects in circles",
            host(&url)
        )))
    }

    /// Posts a form.
    pub(crate) async fn post(
        &self,
        url: &str,
        form: &Form,
        authorization: Option<HeaderValue>,
        deadline: Instant,
    ) -> Result<Reply, IssuerError> {
        let request = self
            .request(Method::POST, url, authorization)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.encode());
        self.send(request, url, deadline).await
    }

    fn request(
        &self,
        method: Method,
        url: &str,
        authorization: Option<HeaderValue>,
    ) -> reqwest::RequestBuilder {
        let mut request = self
            .http
            .request(method, url)
            .header(ACCEPT, "application/json");
        if let Some(value) = self.traceparent.and_then(|current| current()) {
            request = request.header("traceparent", value);
        }
        match authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        url: &str,
        deadline: Instant,
    ) -> Result<Reply, IssuerError> {
        let host = host(url);
        let started = Instant::now();
        if deadline <= started {
            return Err(IssuerError::unsent(format!(
                "no time was left to ask {host}"
            )));
        }
        match timeout_at(deadline, exchange(request, &host)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(IssuerError::Temporary {
                what: format!(
                    "{host} gave no answer within {:.1} s",
                    (deadline - started).as_secs_f64()
                ),
                sent: Sent::Maybe,
                retry_after: None,
            }),
        }
    }
}

async fn exchange(request: reqwest::RequestBuilder, host: &str) -> Result<Reply, IssuerError> {
    let mut response = request
        .send()
        .await
        .map_err(|error| failure(&error, host))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| failure(&error, host))?
    {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(IssuerError::Temporary {
                what: format!("{host} answered {status} with more than {MAX_BODY} bytes"),
                sent: Sent::Maybe,
                retry_after: None,
            });
        }
        grow(&mut body, &chunk);
    }
    Ok(Reply {
        host: host.to_owned(),
        status,
        headers,
        body,
    })
}

/// Appends without leaving unwiped copies behind where the vector has to move.
fn grow(body: &mut Zeroizing<Vec<u8>>, chunk: &[u8]) {
    if body.capacity() - body.len() < chunk.len() {
        let mut larger = Vec::with_capacity(
            (body.len() + chunk.len())
                .max(2 * body.capacity())
                .max(8192),
        );
        larger.extend_from_slice(body);
        *body = Zeroizing::new(larger);
    }
    body.extend_from_slice(chunk);
}

/// Only a connection that never came about proves that nothing was sent.
fn failure(error: &reqwest::Error, host: &str) -> IssuerError {
    let cause = deepest(error);
    if error.is_connect() || error.is_builder() {
        let hint = if cause.contains("certificate") {
            "; if the issuer's CA is not one of the system's, name a PEM file with it in ca_file of this issuer"
        } else {
            ""
        };
        return IssuerError::unsent(format!("no connection to {host} ({cause}){hint}"));
    }
    IssuerError::Temporary {
        what: format!("the connection to {host} broke before the answer was complete ({cause})"),
        sent: Sent::Maybe,
        retry_after: None,
    }
}

fn deepest(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    // The outermost text may quote the address; the inner ones are about sockets and TLS.
    let text = if error.source().is_some() {
        cause.to_string()
    } else {
        "unusable request".to_owned()
    };
    clean(&text)
}

/// Host and port of an address, for texts.
pub(crate) fn host(url: &str) -> String {
    let parsed = Url::parse(url).ok();
    let host = parsed
        .as_ref()
        .and_then(Url::host_str)
        .unwrap_or("the issuer");
    match parsed.as_ref().and_then(Url::port) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether an address is one that tokens may travel to: https, or http on the loopback interface where allowed.
pub(crate) fn is_protected(url: &Url, allow_http_loopback: bool) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => allow_http_loopback && is_loopback(url),
        _ => false,
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_an_answer_is_read_from_its_header() {
        for (text, seconds) in [
            (Some("public, Max-Age=7200"), Some(7200)),
            (Some("max-age=\"60\""), Some(60)),
            (Some("no-store, max-age=60"), Some(0)),
            (Some("private"), None),
            (Some("max-age=soon"), None),
            (None, None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert(CACHE_CONTROL, text.parse().unwrap());
            }
            let reply = Reply {
                host: String::new(),
                status: StatusCode::OK,
                headers,
                body: Zeroizing::default(),
            };
            assert_eq!(reply.life(), seconds.map(Duration::from_secs), "{text:?}");
        }
    }

    #[test]
    fn a_body_grows_without_losing_bytes() {
        let mut body = Zeroizing::new(Vec::new());
        let whole: Vec<u8> = (0..50_000_u32).map(|at| at.to_le_bytes()[0]).collect();
        for chunk in whole.chunks(777) {
            grow(&mut body, chunk);
        }
        assert_eq!(*body, whole);
    }
}
