//! Answers and how they become bytes: the envelope, the error shape, the headers that every answer has.
//!
//! Owns the exact form. Refuses to know why an answer is what it is: endpoints and [`crate::failure`] decide that.

mod envelope;

use bytes::Bytes;
use gridkeep_web::Page;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER, STRICT_TRANSPORT_SECURITY, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value};

use crate::json;
pub(crate) use envelope::{Auth, Data, TokenData};

/// The words that make stock credential monitors delete a user's tokens.
const DESTRUCTIVE: &str = "permission denied";

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: Body,
    pub warnings: Vec<String>,
    /// Seconds after which asking again makes sense.
    pub retry_after: Option<u64>,
    /// What is left of a rate limit, where answers tell it.
    pub limit: Option<LimitHeaders>,
    /// `WWW-Authenticate`: how to prove oneself.
    pub challenge: Option<&'static str>,
}

/// The headers about a rate limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitHeaders {
    /// Requests in an interval.
    pub limit: u64,
    /// Those that are left of them.
    pub remaining: u64,
    /// When the count begins anew.
    pub reset: String,
}

/// What an answer holds.
#[derive(Debug)]
pub(crate) enum Body {
    /// The usual envelope. With neither data nor login nor warnings it is status 204 and no body.
    Envelope {
        data: Data,
        auth: Option<Box<Auth>>,
        repeat: bool,
    },
    /// A JSON object without envelope.
    Bare(Map<String, Value>),
    /// The error shape.
    Errors(Vec<String>),
    /// Metrics in Prometheus' text format.
    Metrics(String),
    /// A page for a person.
    Page(Page),
    /// A redirect, outside of the API only.
    Redirect(&'static str),
}

impl Answer {
    /// Status 204, or 200 once there are warnings.
    pub(crate) fn done() -> Self {
        Answer::envelope(Data::None, None)
    }

    pub(crate) fn data(data: Map<String, Value>) -> Self {
        Answer::envelope(Data::Object(data), None)
    }

    /// `data` in the envelope and its members beside it, as some old endpoints have it.
    pub(crate) fn repeated(data: Map<String, Value>) -> Self {
        Answer {
            body: Body::Envelope {
                data: Data::Object(data),
                auth: None,
                repeat: true,
            },
            ..Answer::done()
        }
    }

    pub(crate) fn auth(auth: Auth) -> Self {
        Answer::envelope(Data::None, Some(Box::new(auth)))
    }

    pub(crate) fn envelope(data: Data, auth: Option<Box<Auth>>) -> Self {
        Answer {
            status: StatusCode::OK,
            body: Body::Envelope {
                data,
                auth,
                repeat: false,
            },
            warnings: Vec::new(),
            retry_after: None,
            limit: None,
            challenge: None,
        }
    }

    pub(crate) fn bare(status: StatusCode, object: Map<String, Value>) -> Self {
        Answer {
            status,
            body: Body::Bare(object),
            warnings: Vec::new(),
            retry_after: None,
            limit: None,
            challenge: None,
        }
    }

    pub(crate) fn metrics(text: String) -> Self {
        Answer {
            body: Body::Metrics(text),
            ..Answer::done()
        }
    }

    pub(crate) fn page(page: Page) -> Self {
        let status = StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Answer {
            status,
            body: Body::Page(page),
            warnings: Vec::new(),
            retry_after: None,
            limit: None,
            challenge: None,
        }
    }

    pub(crate) fn redirect(to: &'static str) -> Self {
        Answer {
            status: StatusCode::TEMPORARY_REDIRECT,
            body: Body::Redirect(to),
            warnings: Vec::new(),
            retry_after: None,
            limit: None,
            challenge: None,
        }
    }

    /// A list of keys; an empty one is "nothing found".
    pub(crate) fn keys(keys: Vec<String>) -> Self {
        if keys.is_empty() {
            return Answer::nothing();
        }
        let mut data = Map::new();
        data.insert("keys".to_owned(), keys.into());
        Answer::data(data)
    }

    /// A list of keys with what is known of each; an empty one is "nothing found".
    pub(crate) fn keys_with_info(all: impl Iterator<Item = (String, Map<String, Value>)>) -> Self {
        let info: Map<String, Value> = all.map(|(key, facts)| (key, facts.into())).collect();
        if info.is_empty() {
            return Answer::nothing();
        }
        let mut keys: Vec<String> = info.keys().cloned().collect();
        keys.sort_unstable();
        let mut data = Map::new();
        data.insert("keys".to_owned(), keys.into());
        data.insert("key_info".to_owned(), info.into());
        Answer::data(data)
    }

    /// Status 404 without a text: nothing is there.
    pub(crate) fn nothing() -> Self {
        Answer {
            status: StatusCode::NOT_FOUND,
            body: Body::Errors(Vec::new()),
            warnings: Vec::new(),
            retry_after: None,
            limit: None,
            challenge: None,
        }
    }

    /// An error with its text. The words of a final refusal are taken apart wherever they come from (an issuer's description, a path):
    /// only [`Answer::denied`] may say them.
    pub(crate) fn error(status: StatusCode, text: impl Into<String>) -> Self {
        let text = harmless(text.into());
        Answer {
            status,
            body: Body::Errors(vec![text]),
            warnings: Vec::new(),
            retry_after: None,
            limit: None,
            challenge: None,
        }
    }

    /// The final refusal. `text` is one of the two exact forms.
    pub(crate) fn denied(text: &'static str) -> Self {
        Answer {
            status: StatusCode::FORBIDDEN,
            body: Body::Errors(vec![text.to_owned()]),
            warnings: Vec::new(),
            retry_after: None,
            limit: None,
            challenge: None,
        }
    }

    pub(crate) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        if self.warnings.is_empty() {
            self.warnings = warnings;
        } else {
            self.warnings.extend(warnings);
        }
        self
    }

    pub(crate) fn retry_after(mut self, seconds: Option<u64>) -> Self {
        self.retry_after = seconds;
        self
    }

    pub(crate) fn challenge(mut self, how: &'static str) -> Self {
        self.challenge = Some(how);
        self
    }

    /// The text of the error, for the audit log.
    pub(crate) fn error_text(&self) -> Option<&str> {
        match &self.body {
            Body::Errors(texts) => texts.first().map(String::as_str),
            Body::Page(page) if page.status >= 400 => Some("the login did not complete"),
            _ => None,
        }
    }

    /// Turns the answer into what goes over the wire.
    pub(crate) fn into_response(self, request_id: &str) -> Response<Full<Bytes>> {
        let Answer {
            mut status,
            body,
            warnings,
            retry_after,
            limit,
            challenge,
        } = self;
        let mut bytes = Vec::new();
        let mut content_type = "application/json";
        let mut page = false;
        let mut location = None;
        match body {
            Body::Envelope { data, auth, repeat } => {
                if matches!(data, Data::None) && auth.is_none() && warnings.is_empty() {
                    if status == StatusCode::OK {
                        status = StatusCode::NO_CONTENT;
                    }
                } else {
                    bytes.reserve(2048);
                    envelope::write(
                        &mut bytes,
                        request_id,
                        &data,
                        auth.as_deref(),
                        &warnings,
                        repeat,
                    );
                }
            }
            Body::Bare(object) => {
                json::value(&mut bytes, &object);
                bytes.push(b'\n');
            }
            Body::Errors(texts) => {
                bytes.extend_from_slice(b"{\"errors\":");
                json::value(&mut bytes, &texts);
                bytes.extend_from_slice(b"}\n");
            }
            Body::Metrics(text) => {
                bytes = text.into_bytes();
                content_type = "text/plain; version=0.0.4; charset=utf-8";
            }
            Body::Page(shown) => {
                bytes = shown.html.into_bytes();
                page = true;
            }
            Body::Redirect(to) => location = Some(to),
        }
        let mut response = Response::new(Full::new(Bytes::from(bytes)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.reserve(8);
        if page {
            for (name, value) in gridkeep_web::HEADERS {
                headers.insert(
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
            }
        } else {
            if status != StatusCode::NO_CONTENT {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            }
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        headers.insert(
            STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000; includeSubDomains"),
        );
        if let Some(to) = location {
            headers.insert(LOCATION, HeaderValue::from_static(to));
        }
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(limit) = limit {
            for (name, value) in [
                ("x-ratelimit-limit", limit.limit.into()),
                ("x-ratelimit-remaining", limit.remaining.into()),
            ] {
                headers.insert(HeaderName::from_static(name), value);
            }
            if let Ok(reset) = HeaderValue::try_from(limit.reset) {
                headers.insert(HeaderName::from_static("x-ratelimit-reset"), reset);
            }
        }
        if let Some(how) = challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(how));
        }
        response
    }
}

fn harmless(text: String) -> String {
    // Of the same length to the byte; made once, since a text may hold the words thousands of times.
    let lower = text.to_ascii_lowercase();
    let mut safe = String::new();
    let mut done = 0;
    for (at, words) in lower.match_indices(DESTRUCTIVE) {
        safe.push_str(&text[done..at]);
        safe.push_str("permission-denied");
        done = at + words.len();
    }
    if done == 0 {
        return text;
    }
    safe.push_str(&text[done..]);
    safe
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;

    async fn sent(answer: Answer) -> (Response<()>, String) {
        let (parts, body) = answer
            .into_response("0c2f5f7e-3d1e-9a41-5f5b-0f6f4f6bb0d1")
            .into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (
            Response::from_parts(parts, ()),
            String::from_utf8(bytes.to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn the_envelope_is_exact() {
        let token = TokenData {
            access_token: "eyJ".into(),
            expire_time: Some("2026-09-01T10:20:30Z".into()),
            server: Some("dune".into()),
            kind: "Bearer".into(),
        };
        let (head, body) = sent(Answer::envelope(Data::Token(token), None)).await;
        assert_eq!(
            body.trim_end(),
            r#"{"request_id":"0c2f5f7e-3d1e-9a41-5f5b-0f6f4f6bb0d1","lease_id":"","renewable":false,"lease_duration":0,"data":{"access_token":"eyJ","expire_time":"2026-09-01T10:20:30Z","server":"dune","type":"Bearer"},"wrap_info":null,"warnings":null,"auth":null}"#
        );
        assert_eq!(head.headers()["content-type"], "application/json");
        assert_eq!(head.headers()["cache-control"], "no-store");
        assert_eq!(
            head.headers()["strict-transport-security"],
            "max-age=31536000; includeSubDomains"
        );
    }

    #[tokio::test]
    async fn nothing_to_say_is_204_and_warnings_make_it_200() {
        let (head, body) = sent(Answer::done()).await;
        assert_eq!((head.status(), body.as_str()), (StatusCode::NO_CONTENT, ""));
        let (head, body) = sent(Answer::done().with_warnings(vec!["w".into()])).await;
        assert_eq!(head.status(), StatusCode::OK);
        assert!(
            body.contains(r#""data":null,"wrap_info":null,"warnings":["w"],"auth":null"#),
            "{body}"
        );
        let (head, body) = sent(Answer::keys(Vec::new())).await;
        assert_eq!(
            (head.status(), body.trim_end()),
            (StatusCode::NOT_FOUND, r#"{"errors":[]}"#)
        );
    }

    #[tokio::test]
    async fn old_endpoints_repeat_their_data_without_overwriting_the_envelope() {
        let Value::Object(data) = json!({"token/": {"type": "token"}, "auth": 1, "data": 2}) else {
            unreachable!()
        };
        let (_, body) = sent(Answer::repeated(data)).await;
        let read: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(read["token/"]["type"], "token");
        assert_eq!(read["auth"], Value::Null);
        assert_eq!(read["data"]["auth"], 1);
    }

    #[tokio::test]
    async fn the_destructive_words_come_from_denials_only() {
        let (_, body) = sent(Answer::error(
            StatusCode::BAD_REQUEST,
            "refresh failed: Permission denied by permission denied",
        ))
        .await;
        assert!(!body.to_lowercase().contains(DESTRUCTIVE), "{body}");
        assert!(body.contains("permission-denied by permission-denied"));
        let (_, body) =
            sent(Answer::done().with_warnings(vec!["a permission denied b".into()])).await;
        assert!(!body.contains(DESTRUCTIVE), "{body}");
        // Names of parameters come from strangers and stand in warnings: the work must grow with the length, not with its square.
        let (_, body) =
            sent(Answer::done().with_warnings(vec!["Permission denied".repeat(60_000)])).await;
        assert_eq!(body.matches("permission-denied").count(), 60_000);
        let (head, body) = sent(Answer::denied("permission denied")).await;
        assert_eq!(
            (head.status(), body.trim_end()),
            (StatusCode::FORBIDDEN, r#"{"errors":["permission denied"]}"#)
        );
    }
}
