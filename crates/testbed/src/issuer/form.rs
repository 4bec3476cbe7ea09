//! Parameters of a request, from query or form body, repeated ones included; and answers in the shapes OAuth uses.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::problem::Refusal;

/// Parameters in order of appearance.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded` text.
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(text).into_owned().collect())
    }

    /// First value of a parameter; an empty one counts as absent (RFC 6749 3.1).
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
            .filter(|v| !v.is_empty())
    }

    /// All values of a parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(n, v)| n == name && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }

    /// Words of a blank-separated parameter, without repetitions.
    pub(crate) fn words(&self, name: &str) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        for word in self
            .get(name)
            .unwrap_or("")
            .split(' ')
            .filter(|w| !w.is_empty())
        {
            if !words.iter().any(|w| w == word) {
                words.push(word.to_owned());
            }
        }
        words
    }
}

pub(crate) type Answer = Response<Body>;

/// JSON that must not be cached.
pub(crate) fn json_answer(status: u16, value: &Value) -> Answer {
    let mut answer = Response::new(Body::from(value.to_string()));
    *answer.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    answer
}

/// An OAuth error (RFC 6749 5.2).
pub(crate) fn error_answer(refusal: &Refusal) -> Answer {
    let mut body = json!({"error": refusal.error});
    if !refusal.description.is_empty() {
        body["error_description"] = json!(refusal.description);
    }
    let mut answer = json_answer(refusal.status, &body);
    if refusal.status == 401 {
        answer.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"test issuer\""),
        );
    }
    answer
}

/// An HTML page.
pub(crate) fn page(status: u16, html: String) -> Answer {
    let mut answer = Response::new(Body::from(html));
    *answer.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A redirection that the browser follows with GET.
pub(crate) fn redirect(to: &str) -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SEE_OTHER;
    match HeaderValue::from_str(to) {
        Ok(value) => {
            answer.headers_mut().insert(header::LOCATION, value);
            answer
        }
        Err(_) => page(
            400,
            "<p>The address to return to is not a valid one.</p>".to_owned(),
        ),
    }
}

/// Value of a cookie.
pub(crate) fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(n, _)| *n == name)
        .map(|(_, v)| v.to_owned())
}

/// The token of `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
