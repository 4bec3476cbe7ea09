//! What can go wrong between a command and its server, in words. Owns the texts that other programs match on.

use std::net::SocketAddr;

use serde_json::Value;
use thiserror::Error;

/// No answer, or none that helps.
#[derive(Clone, Debug, Error)]
pub enum HttpError {
    /// The name has no address, twice.
    #[error(
        "cannot find the address of {host} ({reason}); check the server's name and the network"
    )]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver says.
        reason: String,
    },
    /// No address could be connected to.
    #[error("cannot connect to {server}: {}", list(.attempts))]
    Connect {
        /// `host:port`.
        server: String,
        /// Each address and what happened there.
        attempts: Vec<(SocketAddr, String)>,
    },
    /// The connection broke, or no answer came, after the request had been sent.
    #[error("no answer from {address}: {reason}")]
    Lost {
        /// The server's address.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// A status other than 200 and 204.
    #[error("HTTPError: {0}")]
    Status(Refusal),
    /// A redirect to somewhere else, or one too many.
    #[error(
        "the server redirects to {0}, which is not another node of it that answers; nothing was sent elsewhere"
    )]
    Redirect(String),
    /// An answer with status 200 that no server of this kind gives; a portal or proxy may stand in the way.
    #[error("the answer is not JSON; something other than the server may have answered")]
    NotJson,
    /// An answer with status 200 that is not what was agreed.
    #[error("the answer is not in the expected form: {0}")]
    Malformed(String),
    /// The certificates to trust cannot be had.
    #[error("{0}")]
    Trust(String),
    /// The time for everything together is over.
    #[error("gave up because the whole run took too long")]
    OutOfTime,
}

fn list(attempts: &[(SocketAddr, String)]) -> String {
    let texts: Vec<String> = attempts
        .iter()
        .map(|(address, reason)| format!("{address}: {reason}"))
        .collect();
    texts.join("; ")
}

impl HttpError {
    /// The status, if there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            HttpError::Status(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// Whether a token issuer refused the server itself, and not what the user has there. The words are those of the original's plugin.
    #[must_use]
    pub fn is_about_the_server(&self) -> bool {
        const WORDS: &str = "server rejected request: ";
        let HttpError::Status(refusal) = self else {
            return false;
        };
        let code = refusal
            .text
            .split_once(WORDS)
            .and_then(|(_, rest)| rest.split([':', ' ', ';', ',']).next());
        matches!(code, Some("invalid_client" | "unauthorized_client"))
    }

    /// Whether the same request may succeed later, so that no other way of logging in can be the remedy.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self.status() {
            Some(status) => !(400..500).contains(&status) || status == 429 || status == 408,
            None => true,
        }
    }
}

/// An answer that refuses, reduced to one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status number.
    pub status: u16,
    /// The errors, or the warnings when there are none, or the body: one line without control characters.
    pub text: String,
    /// `Retry-After`, seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// Reads the body of an answer.
    #[must_use]
    pub fn new(status: u16, body: &[u8], retry_after: Option<u64>) -> Self {
        Self {
            status,
            text: text(body),
            retry_after,
        }
    }
}

/// `403 Forbidden: permission denied`; one line, because callers search it with expressions that stop at line ends.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.status)?;
        let phrase = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason());
        if let Some(phrase) = phrase {
            write!(f, " {phrase}")?;
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        if self.status == 429 {
            match self.retry_after {
                Some(seconds) => write!(f, " (rate limited: try again in {seconds} s)")?,
                None => f.write_str(" (rate limited: try again in a few minutes)")?,
            }
        }
        Ok(())
    }
}

/// The entries of `errors`, else of `warnings`, else the raw body.
fn text(body: &[u8]) -> String {
    let Ok(json) = serde_json::from_slice::<Value>(body) else {
        return one_line(&String::from_utf8_lossy(body));
    };
    let entries = |name: &str| -> Vec<String> {
        json.get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|entry| match entry {
                Value::String(text) => undecorated(&one_line(text)),
                other => one_line(&other.to_string()),
            })
            .collect()
    };
    let mut texts = entries("errors");
    if texts.is_empty() {
        texts = entries("warnings");
    }
    texts.join(" ")
}

/// Vault wraps errors as `1 error occurred:\n\t* permission denied\n\n`.
fn undecorated(line: &str) -> String {
    let Some((head, rest)) = line.split_once(':') else {
        return line.to_owned();
    };
    let counted = head
        .strip_suffix(" errors occurred")
        .or_else(|| head.strip_suffix(" error occurred"))
        .is_some_and(|count| !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit()));
    match rest.trim_start().strip_prefix("* ") {
        Some(rest) if counted => rest.replace(" * ", "; "),
        _ => line.to_owned(),
    }
}

/// Collapses white space and drops control characters, so that a server cannot steer a terminal; at most 500 characters.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 500;
    let words: Vec<&str> = text.split_whitespace().collect();
    let clean = words.join(" ");
    let mut clean: String = clean.chars().filter(|c| !c.is_control()).collect();
    if let Some((end, _)) = clean.char_indices().nth(LONGEST) {
        clean.truncate(end);
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_line_with_number_phrase_and_errors() {
        for (status, body, line) in [
            (
                403,
                r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
                "403 Forbidden: permission denied",
            ),
            (
                403,
                r#"{"errors":["permission denied"]}"#,
                "403 Forbidden: permission denied",
            ),
            (404, r#"{"errors":[]}"#, "404 Not Found"),
            (
                401,
                r#"{"errors":[],"warnings":["no such principal"],"auth":null}"#,
                "401 Unauthorized: no such principal",
            ),
            (
                400,
                r#"{"errors":["2 errors occurred:\n\t* a\n\t* b\n\n","c"]}"#,
                "400 Bad Request: a; b c",
            ),
            (
                502,
                "<html>\n<b>Bad</b>",
                "502 Bad Gateway: <html> <b>Bad</b>",
            ),
            (472, "", "472"),
            (500, "\u{1b}[31mred", "500 Internal Server Error: [31mred"),
            (
                400,
                r#"{"errors":["note: * x"]}"#,
                "400 Bad Request: note: * x",
            ),
        ] {
            assert_eq!(
                Refusal::new(status, body.as_bytes(), None).to_string(),
                line
            );
        }
    }

    #[test]
    fn rate_limits_say_how_long() {
        let refusal = Refusal::new(429, br#"{"errors":["slow"]}"#, Some(120));
        assert_eq!(
            refusal.to_string(),
            "429 Too Many Requests: slow (rate limited: try again in 120 s)"
        );
    }

    proptest! {
        #[test]
        fn any_body_is_one_harmless_line(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..80), text in "\\PC{0,20}[\u{0}-\u{1f}\u{7f}-\u{9f}]{0,4}\\PC{0,20}") {
            let json = serde_json::json!({"errors": [text]}).to_string();
            for body in [body.as_slice(), json.as_bytes()] {
                let line = Refusal::new(status, body, None).to_string();
                prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
            }
        }
    }

    #[test]
    fn what_is_temporary() {
        let status = |status| HttpError::Status(Refusal::new(status, b"", None)).is_temporary();
        assert!(status(429) && status(500) && status(503) && status(307));
        assert!(!status(400) && !status(401) && !status(403) && !status(404) && !status(405));
        assert!(HttpError::OutOfTime.is_temporary());
    }
}
