//! Blacks out secrets in what `--debug` shows. Owns the list of what is secret on the wire.

use std::borrow::Cow;

use serde_json::Value;

/// Members of JSON bodies whose text must not be seen. `auth_url` carries the login state in its query, `id` is the vault token itself
/// in the answer to looking it up.
const SECRET_MEMBERS: &[&str] = &[
    "access_token",
    "accessor",
    "auth_url",
    "client_nonce",
    "client_token",
    "code",
    "device_code",
    "id",
    "id_token",
    "nonce",
    "oauth2_refresh_token",
    "refresh_token",
    "signature",
    "state",
    "token",
];

/// What stands for a secret: its length and the beginning of its SHA-256, so that two dumps can be compared.
#[must_use]
pub fn redacted(secret: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes());
    let hex: String = digest.as_ref()[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("<redacted len={} sha256={hex}>", secret.len())
}

/// A body as `--debug` shows it. What is not JSON is not shown at all, since nothing tells what in it is secret.
pub(super) fn body(bytes: &[u8], show_secrets: bool) -> String {
    if bytes.is_empty() {
        return "(empty)".to_owned();
    }
    if show_secrets {
        return super::error::one_line(&String::from_utf8_lossy(bytes));
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(mut json) => {
            black_out(&mut json);
            json.to_string()
        }
        Err(_) => format!("({} bytes that are not JSON)", bytes.len()),
    }
}

/// A header value as `--debug` shows it.
pub(super) fn header<'v>(name: &str, value: &'v str, show_secrets: bool) -> Cow<'v, str> {
    let secret = ["x-vault-token", "authorization", "set-cookie", "cookie"]
        .iter()
        .any(|secret| name.eq_ignore_ascii_case(secret));
    if secret && !show_secrets {
        Cow::Owned(redacted(value))
    } else {
        Cow::Borrowed(value)
    }
}

fn black_out(json: &mut Value) {
    match json {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) if SECRET_MEMBERS.contains(&name.as_str()) => {
                        *text = redacted(text);
                    }
                    Value::Object(_) | Value::Array(_)
                        if SECRET_MEMBERS.contains(&name.as_str()) =>
                    {
                        *value = Value::String(redacted(&value.to_string()));
                    }
                    other => black_out(other),
                }
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(black_out),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_left() {
        let text = r#"{"data":{"access_token":"tok","ttl":5,"id":"tok","extra_data":[{"id_token":"tok"}]},"token":"tok","auth":{"client_token":"tok",
            "metadata":{"oauth2_refresh_token":"tok","credkey":"alice"}},"state":{"a":"tok"}}"#;
        let shown = body(text.as_bytes(), false);
        assert!(!shown.contains("tok\""), "{shown}");
        assert!(shown.contains("alice") && shown.contains("\"ttl\":5"));
        assert!(
            shown.contains("<redacted len=3 sha256=1a7674eb>"),
            "{shown}"
        );
        assert!(body(b"tok", false).contains("3 bytes"));
        assert!(body(text.as_bytes(), true).contains("tok"));
        assert_ne!(header("X-Vault-Token", "tok", false), "tok");
        assert_eq!(header("Accept", "x", false), "x");
    }
}
