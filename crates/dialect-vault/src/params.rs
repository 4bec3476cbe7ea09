//! Parameters of a request, from its query and its body, as one map of JSON values.
//!
//! Owns the leniency of the original about content types and its limits. Refuses to know what any endpoint expects: that is
//! [`crate::fields`].

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::path::{DecodeError, decode_percent};

/// Parameters by name.
pub(crate) type Params = Map<String, Value>;

/// Most parameters in one query or form.
const MOST_PAIRS: usize = 256;

/// Why parameters cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum ParamsError {
    #[error("the {place} contains a % that is not followed by two hexadecimal digits")]
    Escape { place: &'static str },
    #[error("the {place} is not UTF-8 after decoding")]
    NotText { place: &'static str },
    #[error("the {place} has more than 256 parameters")]
    TooMany { place: &'static str },
    #[error("failed to parse JSON input: {0}")]
    Json(String),
    #[error("the request body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the request body did not arrive in time; send it again")]
    TooSlow,
    #[error("the request body broke off; send it again")]
    Broken,
}

impl ParamsError {
    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            ParamsError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            ParamsError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a query. One occurrence is a string, several are a list; `help` is skipped.
pub(crate) fn query(raw: &str) -> Result<Params, ParamsError> {
    pairs(raw, "query")
}

/// Whether a query asks for help on its path instead of what the path does.
pub(crate) fn asks_for_help(raw: &str) -> bool {
    raw.split('&').any(|pair| {
        pair.strip_prefix("help=")
            .is_some_and(|value| !value.is_empty())
    })
}

fn pairs(raw: &str, place: &'static str) -> Result<Params, ParamsError> {
    let mut params = Params::new();
    for (count, pair) in raw.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if count == MOST_PAIRS {
            return Err(ParamsError::TooMany { place });
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (unplus(name, place)?, unplus(value, place)?);
        if name == "help" {
            continue;
        }
        match params.get_mut(&name) {
            None => {
                params.insert(name, Value::String(value));
            }
            Some(Value::Array(list)) => list.push(Value::String(value)),
            Some(single) => *single = Value::Array(vec![single.take(), Value::String(value)]),
        }
    }
    Ok(params)
}

fn unplus(raw: &str, place: &'static str) -> Result<String, ParamsError> {
    let spaced;
    let raw = if raw.contains('+') {
        spaced = raw.replace('+', " ");
        &spaced
    } else {
        raw
    };
    match decode_percent(raw) {
        Ok(text) => Ok(text.into_owned()),
        Err(DecodeError::Escape) => Err(ParamsError::Escape { place }),
        Err(DecodeError::NotText) => Err(ParamsError::NotText { place }),
    }
}

/// Receives a body of at most `limit` bytes within `time`.
pub(crate) async fn receive<B>(body: B, limit: usize, time: Duration) -> Result<Bytes, ParamsError>
where
    B: Body<Data = Bytes>,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > limit as u64 {
        return Err(ParamsError::TooLarge { limit });
    }
    let receiving = async {
        let mut body = std::pin::pin!(body);
        let mut whole: Vec<u8> = Vec::new();
        while let Some(frame) = body.as_mut().frame().await {
            let Ok(frame) = frame else {
                return Err(ParamsError::Broken);
            };
            if let Ok(data) = frame.into_data() {
                if whole.len() + data.len() > limit {
                    return Err(ParamsError::TooLarge { limit });
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(Bytes::from(whole))
    };
    tokio::time::timeout(time, receiving)
        .await
        .unwrap_or(Err(ParamsError::TooSlow))
}

/// Decodes a body: JSON whatever the content type says, a form only when it says so *and* the body does not look like JSON.
pub(crate) fn body(content_type: Option<&str>, bytes: &[u8]) -> Result<Params, ParamsError> {
    let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) else {
        return Ok(Params::new());
    };
    let is_form = content_type.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or("").trim();
        essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if is_form && !matches!(first, b'{' | b'[') {
        let text =
            std::str::from_utf8(bytes).map_err(|_| ParamsError::NotText { place: "form" })?;
        return pairs(text.trim(), "form");
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Params::new()),
        Ok(_) => Err(ParamsError::Json(
            "the top level must be an object".to_owned(),
        )),
        Err(error) => Err(ParamsError::Json(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded");

    fn object(value: Value) -> Params {
        match value {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn queries() {
        assert_eq!(
            query("minimum_seconds=60&scopes=a%20b+c,d&help=1").unwrap(),
            object(json!({"minimum_seconds": "60", "scopes": "a b c,d"}))
        );
        assert_eq!(
            query("a=1&a=2&a=3&b").unwrap(),
            object(json!({"a": ["1", "2", "3"], "b": ""}))
        );
        assert_eq!(query("a=%2B").unwrap(), object(json!({"a": "+"})));
        assert_eq!(query("&&").unwrap(), Params::new());
        assert!(matches!(query("a=%f"), Err(ParamsError::Escape { .. })));
        assert!(matches!(query("a=%ff"), Err(ParamsError::NotText { .. })));
        assert!(matches!(
            query(&"a&".repeat(257)),
            Err(ParamsError::TooMany { .. })
        ));
    }

    #[test]
    fn bodies_whatever_the_content_type() {
        let expected = object(json!({"ttl": "604800s"}));
        for content_type in [
            None,
            FORM,
            Some("application/json"),
            Some("text/plain; charset=utf-8"),
        ] {
            assert_eq!(
                body(content_type, b" {\"ttl\": \"604800s\"}").unwrap(),
                expected
            );
            assert_eq!(body(content_type, b"").unwrap(), Params::new());
            assert_eq!(body(content_type, b" \r\n").unwrap(), Params::new());
        }
        assert_eq!(body(FORM, b"ttl=604800s").unwrap(), expected);
        assert_eq!(
            body(
                Some("Application/X-WWW-Form-Urlencoded; charset=UTF-8"),
                b"ttl=604800s\n"
            )
            .unwrap(),
            expected
        );
        assert!(
            body(None, b"ttl=604800s")
                .unwrap_err()
                .to_string()
                .starts_with("failed to parse JSON input: ")
        );
        assert!(
            body(FORM, b"[1]")
                .unwrap_err()
                .to_string()
                .starts_with("failed to parse JSON input: ")
        );
        assert!(
            body(None, &b"[".repeat(100_000))
                .unwrap_err()
                .to_string()
                .starts_with("failed to parse JSON input: "),
            "depth is bounded"
        );
    }

    #[test]
    fn json_errors_do_not_repeat_what_was_sent() {
        let text = body(None, b"{\"refresh_token\": \"canary-secret\" x}")
            .unwrap_err()
            .to_string();
        assert!(!text.contains("canary"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_are_bounded_in_size_and_time() {
        let time = Duration::from_secs(10);
        assert_eq!(
            receive(Full::new(Bytes::from_static(b"1234")), 4, time)
                .await
                .unwrap(),
            "1234"
        );
        let error = receive(Full::new(Bytes::from_static(b"12345")), 4, time)
            .await
            .unwrap_err();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let unsized_body = StreamBody::new(futures_util::stream::iter((0..100).map(|_| {
            Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::from_static(&[0; 1024])))
        })));
        assert_eq!(
            receive(unsized_body, 4096, time).await,
            Err(ParamsError::TooLarge { limit: 4096 })
        );
        let stalled = StreamBody::new(futures_util::stream::pending::<
            Result<hyper::body::Frame<Bytes>, std::io::Error>,
        >());
        assert_eq!(
            receive(stalled, 4096, time).await,
            Err(ParamsError::TooSlow)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn anything_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200), form in any::<bool>(), raw in "\\PC{0,60}") {
            let _ = body(if form { FORM } else { None }, &bytes);
            let _ = query(&raw);
        }

        #[test]
        fn objects_come_through_whole(key in "[a-z_]{1,8}", text in "\\PC{0,20}", number in any::<i64>()) {
            let sent = json!({ key.clone(): text, "n": number });
            prop_assert_eq!(Value::Object(body(FORM, sent.to_string().as_bytes()).unwrap()), sent);
        }
    }
}
