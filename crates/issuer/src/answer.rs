//! What an issuer's answer means. Tolerates how issuers spell things; never takes a proxy's page for a refusal.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER, WWW_AUTHENTICATE};
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::api::{DeviceStart, TokenResponse};
use crate::error::{IssuerError, Sent};
use crate::form::Form;
use crate::transport::Reply;

/// Codes that mean "later" wherever they stand.
const PASSING: [&str; 2] = ["temporarily_unavailable", "server_error"];
const DEFAULT_INTERVAL: u64 = 5;
const DEFAULT_DEVICE_LIFE: u64 = 600;
/// Longer polling intervals than this are no login.
const MAX_INTERVAL: u64 = 300;
/// Lives beyond a hundred years are cut, so that nobody's sum of times overflows.
const MAX_SECONDS: f64 = 3_155_760_000.0;
/// Longer waits than a day are cut for the same reason.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// The JSON object of a success, or what the failure is. `now` in seconds since 1970, for dates in `Retry-After`.
pub(crate) fn judge(
    reply: &Reply,
    sent: &Form,
    now: i64,
) -> Result<Map<String, Value>, IssuerError> {
    let object = object(&reply.body);
    if reply.status.is_success() {
        let object = object.ok_or_else(|| {
            garbage(format!(
                "{} answered {} with something that is not a JSON object",
                reply.host, reply.status
            ))
        })?;
        // Some issuers send errors with status 200.
        let refused =
            refusal(reply, &object, sent, now).filter(|_| !object.contains_key("access_token"));
        return refused.map_or(Ok(object), Err);
    }
    check(reply, sent, now)?;
    Err(unclear(reply, now))
}

/// Like [`judge`] where the body of a success does not matter.
pub(crate) fn check(reply: &Reply, sent: &Form, now: i64) -> Result<(), IssuerError> {
    let status = reply.status;
    if status.is_success() {
        return Ok(());
    }
    let definite = status.is_client_error()
        && status != StatusCode::TOO_MANY_REQUESTS
        && status != StatusCode::REQUEST_TIMEOUT;
    if definite
        && let Some(error) =
            object(&reply.body).and_then(|object| refusal(reply, &object, sent, now))
    {
        return Err(error);
    }
    Err(unclear(reply, now))
}

/// A success of the token endpoint (RFC 6749 section 5.1).
pub(crate) fn tokens(
    host: &str,
    mut answer: Map<String, Value>,
) -> Result<TokenResponse, IssuerError> {
    let access_token = secret(&mut answer, "access_token")
        .ok_or_else(|| garbage(format!("the answer of {host} has no access token in it")))?;
    let token_type = match text(&answer, "token_type") {
        Some(name) if !name.eq_ignore_ascii_case("bearer") => name,
        _ => "Bearer".to_owned(),
    };
    Ok(TokenResponse {
        access_token,
        token_type,
        expires_in: answer.get("expires_in").and_then(seconds),
        refresh_token: secret(&mut answer, "refresh_token"),
        id_token: secret(&mut answer, "id_token"),
        scope: answer.get("scope").and_then(scope),
        issued_token_type: text(&answer, "issued_token_type"),
    })
}

/// A success of the device authorization endpoint (RFC 8628 section 3.2, and its drafts' `verification_url`).
pub(crate) fn device(
    host: &str,
    mut answer: Map<String, Value>,
) -> Result<DeviceStart, IssuerError> {
    let missing = |name: &str| {
        garbage(format!(
            "the device login answer of {host} has no usable {name}"
        ))
    };
    let device_code = secret(&mut answer, "device_code").ok_or_else(|| missing("device_code"))?;
    let user_code = text(&answer, "user_code").ok_or_else(|| missing("user_code"))?;
    let page = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| text(&answer, name))
            .filter(|url| is_page(url))
    };
    let verification_uri = page(["verification_uri", "verification_url"])
        .ok_or_else(|| missing("verification_uri"))?;
    Ok(DeviceStart {
        device_code,
        user_code,
        verification_uri,
        verification_uri_complete: page(["verification_uri_complete", "verification_url_complete"]),
        interval: answer
            .get("interval")
            .and_then(seconds)
            .unwrap_or(DEFAULT_INTERVAL)
            .clamp(1, MAX_INTERVAL),
        expires_in: answer
            .get("expires_in")
            .and_then(seconds)
            .unwrap_or(DEFAULT_DEVICE_LIFE),
    })
}

/// The error code of a bearer challenge (RFC 6750 section 3), which the userinfo endpoint uses instead of a body. Only there: at the token endpoint a
/// challenge may be a proxy's.
pub(crate) fn challenge(reply: &Reply, sent: &Form) -> Option<IssuerError> {
    let header = reply.headers.get(WWW_AUTHENTICATE)?.to_str().ok()?;
    let parameter = |name: &str| {
        let (_, rest) = header.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0)
    };
    let error = parameter("error").filter(|error| is_code(error))?;
    Some(IssuerError::Refused {
        status: reply.status.as_u16(),
        error: sent.clean(error),
        description: parameter("error_description").map(|text| sent.clean(text)),
        uri: None,
    })
}

/// An answer that makes no sense; the issuer may have acted.
pub(crate) fn garbage(what: String) -> IssuerError {
    IssuerError::Temporary {
        what,
        sent: Sent::Maybe,
        retry_after: None,
    }
}

/// A JSON object, if it is one.
pub(crate) fn object(body: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(body).ok()
}

/// `Retry-After` (RFC 9110 section 10.2.3), in seconds or as a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(MAX_WAIT));
    }
    let date = jiff::fmt::rfc2822::parse(text)
        .ok()?
        .timestamp()
        .as_second();
    let seconds = u64::try_from(date.saturating_sub(now)).unwrap_or(0);
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}

/// An OAuth error body (RFC 6749 section 5.2). Frameworks put `"error": "Bad Request"` into their own error pages: only
/// what is spelt like an error code is one.
fn refusal(
    reply: &Reply,
    object: &Map<String, Value>,
    sent: &Form,
    now: i64,
) -> Option<IssuerError> {
    let error = object.get("error")?.as_str()?;
    if !is_code(error) {
        return None;
    }
    let description = object
        .get("error_description")
        .and_then(Value::as_str)
        .map(|text| sent.clean(text));
    if PASSING.contains(&error) {
        let said = description.unwrap_or_default();
        return Some(IssuerError::Temporary {
            what: format!("{} is not able to answer now: {error} {said}", reply.host)
                .trim_end()
                .to_owned(),
            sent: Sent::Maybe,
            retry_after: retry_after(&reply.headers, now),
        });
    }
    Some(IssuerError::Refused {
        status: reply.status.as_u16(),
        error: sent.clean(error),
        description,
        uri: object
            .get("error_uri")
            .and_then(Value::as_str)
            .map(|text| sent.clean(text)),
    })
}

fn is_code(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.:/".contains(c);
    !text.is_empty() && text.len() <= 100 && text.chars().all(fits)
}

/// An answer that says nothing about the request.
fn unclear(reply: &Reply, now: i64) -> IssuerError {
    let hint = match reply.status {
        status if status.is_redirection() => " (redirects are not followed with credentials)",
        status if status.is_client_error() => {
            " without an OAuth error; a proxy may stand in between"
        }
        _ => "",
    };
    IssuerError::Temporary {
        what: format!("{} answered {}{hint}", reply.host, reply.status),
        sent: Sent::Maybe,
        retry_after: retry_after(&reply.headers, now),
    }
}

fn secret(answer: &mut Map<String, Value>, name: &str) -> Option<SecretString> {
    match answer.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(SecretString::from(text)),
        _ => None,
    }
}

fn text(answer: &Map<String, Value>, name: &str) -> Option<String> {
    answer
        .get(name)?
        .as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// Seconds as a number, a number with a fraction, or a string holding either; negative is zero.
fn seconds(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    // A cast of a float saturates, and a value that is not a number becomes zero.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturation is what is wanted"
    )]
    number.is_finite().then_some(number.min(MAX_SECONDS) as u64)
}

/// Scopes as one string, or as a list of strings (seen at some issuers).
fn scope(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
            Some(items?.join(" "))
        }
        _ => None,
    }
}

/// An address that may be shown to a person as a link.
fn is_page(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;
    use serde_json::json;
    use zeroize::Zeroizing;

    const NOW: i64 = 1_800_000_000;

    fn reply(status: u16, body: &str) -> Reply {
        Reply {
            host: "issuer.example.org".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Zeroizing::new(body.as_bytes().to_vec()),
        }
    }

    fn judged(status: u16, body: &str) -> Result<Map<String, Value>, IssuerError> {
        judge(&reply(status, body), &Form::default(), NOW)
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_oauth_errors_are_refusals() {
        for (status, body) in [
            (
                400,
                r#"{"error":"invalid_grant","error_description":"gone"}"#,
            ),
            (401, r#"{"error":"invalid_client"}"#),
            (
                403,
                r#"{"error":"unauthorized_client","error_uri":"https://x/y"}"#,
            ),
        ] {
            let error = judged(status, body).unwrap_err();
            assert!(error.is_permanent(), "{error:?}");
        }
        for (status, body) in [
            (400, r#"{"error":"access_denied"}"#),
            (428, r#"{"error":"authorization_pending"}"#),
            (404, r#"{"error":"invalid_grant"}"#),
            (200, r#"{"error":"invalid_grant"}"#),
        ] {
            let error = judged(status, body).unwrap_err();
            assert!(
                matches!(error, IssuerError::Refused { .. }) && !error.is_permanent(),
                "{error:?}"
            );
        }
        for (status, body) in [
            (400, ""),
            (400, "<html>permission denied</html>"),
            (400, r#"{"error":"Bad Request","status":400}"#),
            (400, r#"{"error":{"code":400}}"#),
            (400, r#"["invalid_grant"]"#),
            (400, r#"{"error":"temporarily_unavailable"}"#),
            (403, r#"{"message":"Forbidden"}"#),
            (429, r#"{"error":"invalid_grant"}"#),
            (500, r#"{"error":"invalid_grant"}"#),
            (503, ""),
            (302, ""),
            (200, "not json"),
            (200, "[]"),
        ] {
            let error = judged(status, body).unwrap_err();
            assert!(error.may_have_acted(), "{status} {body}: {error:?}");
            assert!(!error.to_string().contains("permission denied"), "{error}");
        }
    }

    #[test]
    fn a_refusal_reads_as_vault_clients_know_it() {
        let body = r#"{"error":"invalid_grant","error_description":"Token expired","error_uri":"https://e.org/1"}"#;
        assert_eq!(
            judged(400, body).unwrap_err().to_string(),
            "invalid_grant: Token expired (see https://e.org/1)"
        );
    }

    #[test]
    fn waits_are_read_in_both_forms() {
        for (text, seconds) in [
            ("120", Some(120)),
            ("Fri, 15 Jan 2027 08:00:30 GMT", Some(30)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(0)),
            ("18446744073709551615", Some(86_400)),
            ("soon", None),
        ] {
            let mut reply = reply(503, "");
            reply.headers.insert(RETRY_AFTER, text.parse().unwrap());
            let error = judge(&reply, &Form::default(), NOW).unwrap_err();
            assert_eq!(
                error.retry_after(),
                seconds.map(Duration::from_secs),
                "{text}"
            );
        }
    }

    #[test]
    fn a_challenge_is_a_refusal_where_one_is_expected() {
        let mut reply = reply(401, "");
        let header = r#"Bearer realm="x", error="invalid_token", error_description="expired""#;
        reply
            .headers
            .insert(WWW_AUTHENTICATE, header.parse().unwrap());
        let error = challenge(&reply, &Form::default()).unwrap();
        assert_eq!(error.to_string(), "invalid_token: expired");
        assert!(!error.is_permanent());
        assert!(
            check(&reply, &Form::default(), NOW)
                .unwrap_err()
                .may_have_acted()
        );
    }

    #[test]
    fn token_answers_with_all_their_quirks() {
        let plain = tokens("h", map(json!({"access_token": "a"}))).unwrap();
        assert_eq!(plain.token_type, "Bearer");
        assert_eq!((plain.expires_in, plain.scope), (None, None));
        assert!(plain.refresh_token.is_none() && plain.id_token.is_none());

        let quirky = json!({
            "access_token": "a", "token_type": "bearer", "expires_in": "3599.5", "refresh_token": "",
            "id_token": null, "scope": ["openid", "wlcg"], "issued_token_type": "urn:x",
        });
        let quirky = tokens("h", map(quirky)).unwrap();
        assert_eq!(quirky.token_type, "Bearer");
        assert_eq!(quirky.expires_in, Some(3599));
        assert!(quirky.refresh_token.is_none());
        assert_eq!(quirky.scope.as_deref(), Some("openid wlcg"));
        assert_eq!(quirky.issued_token_type.as_deref(), Some("urn:x"));

        let other = json!({"access_token": "a", "token_type": "DPoP", "expires_in": -5, "refresh_token": "r"});
        let other = tokens("h", map(other)).unwrap();
        assert_eq!(
            (other.token_type.as_str(), other.expires_in),
            ("DPoP", Some(0))
        );
        assert_eq!(other.refresh_token.unwrap().expose_secret(), "r");

        let endless = json!({"access_token": "a", "expires_in": 1e300});
        assert_eq!(
            tokens("h", map(endless)).unwrap().expires_in,
            Some(3_155_760_000)
        );

        for bad in [
            json!({}),
            json!({"access_token": ""}),
            json!({"access_token": 7}),
        ] {
            assert!(tokens("h", map(bad)).unwrap_err().may_have_acted());
        }
    }

    #[test]
    fn device_answers_with_all_their_quirks() {
        let old = json!({
            "device_code": "d", "user_code": "U", "verification_url": "https://i/d",
            "verification_url_complete": "https://i/d?c=U", "interval": "7", "expires_in": "1800",
        });
        let old = device("h", map(old)).unwrap();
        assert_eq!(old.verification_uri, "https://i/d");
        assert_eq!(
            old.verification_uri_complete.as_deref(),
            Some("https://i/d?c=U")
        );
        assert_eq!((old.interval, old.expires_in), (7, 1800));

        let bare = json!({"device_code": "d", "user_code": "U", "verification_uri": "https://i/d", "interval": 0});
        let bare = device("h", map(bare)).unwrap();
        assert_eq!((bare.interval, bare.expires_in), (1, DEFAULT_DEVICE_LIFE));

        for bad in [
            json!({"user_code": "U", "verification_uri": "https://i/d"}),
            json!({"device_code": "d", "verification_uri": "https://i/d"}),
            json!({"device_code": "d", "user_code": "U"}),
            json!({"device_code": "d", "user_code": "U", "verification_uri": "javascript:alert(1)"}),
        ] {
            device("h", map(bad)).unwrap_err();
        }
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z_]{0,20}".prop_map(Value::from),
            ".{0,60}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop::collection::vec(inner, 0..3).prop_map(Value::from)
        })
    }

    fn any_object() -> impl Strategy<Value = Map<String, Value>> {
        let names = prop::sample::select(vec![
            "access_token",
            "token_type",
            "expires_in",
            "refresh_token",
            "id_token",
            "scope",
            "error",
            "error_description",
            "error_uri",
            "device_code",
            "user_code",
            "verification_uri",
            "interval",
        ]);
        prop::collection::vec((names, anything()), 0..8).prop_map(|pairs| {
            pairs
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn only_a_json_error_code_with_a_fitting_status_refuses(
            status in 200_u16..600,
            body in prop_oneof![
                any_object().prop_map(|object| Value::from(object).to_string()),
                ".{0,80}".prop_map(String::from),
            ],
        ) {
            let object = object(body.as_bytes());
            let code = object.as_ref().and_then(|object| object.get("error")).and_then(Value::as_str);
            match judged(status, &body) {
                Ok(read) => prop_assert!(status < 300 && Some(read) == object),
                Err(IssuerError::Refused { error, .. }) => {
                    prop_assert_eq!(Some(error.as_str()), code);
                    prop_assert!(status < 300 || ((400..500).contains(&status) && status != 429 && status != 408));
                }
                Err(error) => prop_assert!(error.may_have_acted()),
            }
        }

        #[test]
        fn any_object_is_read_or_called_garbage(answer in any_object()) {
            if let Ok(read) = tokens("h", answer.clone()) {
                prop_assert_eq!(Some(read.access_token.expose_secret()), answer["access_token"].as_str());
                prop_assert!(read.refresh_token.is_none_or(|token| !token.expose_secret().is_empty()));
            }
            if let Ok(read) = device("h", answer) {
                prop_assert!(read.interval > 0);
            }
        }
    }
}
