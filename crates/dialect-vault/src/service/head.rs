//! What the head of a request says besides its path: who asks, in which namespace, and the name we give the request; and that every
//! request has an answer.

use std::panic::AssertUnwindSafe;

use aws_lc_rs::rand;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use secrecy::SecretString;

use crate::answer::Answer;
use crate::failure::Trouble;

/// Headers that would change the meaning of an answer in ways this server does not offer.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Trouble> {
    if let Some(namespace) = headers.get("x-vault-namespace") {
        let name = namespace.to_str().unwrap_or("?").trim_matches('/');
        if !name.is_empty() && name != "root" {
            return Err(Trouble::text(StatusCode::NOT_FOUND, "namespace not found"));
        }
    }
    // An unwrapped secret must not go to somebody who asked for a wrapped one.
    if headers
        .get("x-vault-wrap-ttl")
        .is_some_and(|value| !matches!(value.as_bytes(), b"" | b"0" | b"0s"))
    {
        return Err(Trouble::bad(
            "response wrapping is not supported; leave out the header X-Vault-Wrap-TTL",
        ));
    }
    let mut tokens = headers.get_all("x-vault-token").iter();
    if let Some(first) = tokens.next()
        && tokens.any(|other| other != first)
    {
        return Err(Trouble::bad(
            "the request carries two different values of X-Vault-Token",
        ));
    }
    Ok(())
}

/// The secret of the caller's token: `X-Vault-Token`, else a bearer authorization.
pub(crate) fn client_token(headers: &HeaderMap) -> Option<SecretString> {
    let text = match headers.get("x-vault-token") {
        Some(value) => value.to_str().ok()?.trim(),
        None => {
            let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return None;
            }
            token.trim()
        }
    };
    (!text.is_empty()).then(|| SecretString::from(text))
}

/// The answer to a request, also to one whose answering panics.
pub(crate) fn caught(
    id: &str,
    answering: impl Future<Output = Response<Full<Bytes>>>,
) -> impl Future<Output = Response<Full<Bytes>>> {
    // Not an async function: that would hold what is large twice.
    AssertUnwindSafe(answering)
        .catch_unwind()
        .map(move |answer| {
            answer.unwrap_or_else(|_| {
                tracing::error!(request_id = id, "a request ended in a panic");
                Answer::error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("internal error; the server's log has more under request {id}"),
                )
                .into_response(id)
            })
        })
}

/// Has the connection end with this answer.
pub(crate) fn end_connection(response: &mut Response<Full<Bytes>>) {
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
}

/// A random identifier in the form of a UUID of version 4.
pub(crate) fn request_id() -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0; 16];
    // Only an identifier: without randomness it is not unique, and the request can still be served.
    let _ = rand::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut id = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        id.push(char::from(DIGITS[usize::from(byte >> 4)]));
        id.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    id
}
