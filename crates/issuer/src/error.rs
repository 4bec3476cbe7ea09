//! What can go wrong between us and an issuer, cut by what a caller may conclude from it.

use std::time::Duration;

/// Whether a request that failed can have had an effect at the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It certainly did not reach the issuer: no connection came about, or nothing was to be sent yet.
    No,
    /// The issuer may have acted on it, for example have rotated a refresh token.
    Maybe,
}

/// Why an issuer gave no usable answer.
///
/// No text of these contains a token or a secret: what issuers say is cleaned of what we sent and of anything that
/// looks like a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// A definite OAuth error answer (RFC 6749 5.2). Whether asking again can help is [`IssuerError::is_permanent`].
    #[error("{}", refused_text(.error, .description.as_deref(), .uri.as_deref()))]
    Refused {
        /// HTTP status.
        status: u16,
        /// The OAuth error code.
        error: String,
        /// `error_description`, cleaned.
        description: Option<String>,
        /// `error_uri`, cleaned.
        uri: Option<String>,
    },
    /// Trouble that says nothing about the request: DNS, connection, TLS, timeout, 5xx, 429, an answer that makes no
    /// sense.
    #[error("{what}")]
    Temporary {
        /// What happened.
        what: String,
        /// Whether the issuer may have acted.
        sent: Sent,
        /// When the issuer, or our own back-off, lets us ask again.
        retry_after: Option<Duration>,
    },
    /// Held back by our own budget or breaker; nothing was sent.
    #[error(
        "the request was not sent, to spare the issuer: its budget is used up or it has been failing; try again in {} s",
        .retry_after.as_secs().max(1)
    )]
    Throttled {
        /// When to ask again.
        retry_after: Duration,
    },
    /// A signed token of the issuer did not verify.
    #[error("Token verification failed. {what}")]
    InvalidToken {
        /// Which check failed.
        what: String,
    },
    /// The issuer does not offer this.
    #[error("the issuer does not offer this: {what}")]
    Unsupported {
        /// What is missing from the discovery document.
        what: String,
    },
}

impl IssuerError {
    /// Whether the issuer refused for good, so that the same request would be refused again: the error codes of
    /// RFC 6749 5.2, with status 400, 401 or 403.
    pub fn is_permanent(&self) -> bool {
        const CODES: [&str; 6] = [
            "invalid_request",
            "invalid_client",
            "invalid_grant",
            "unauthorized_client",
            "unsupported_grant_type",
            "invalid_scope",
        ];
        matches!(self, Self::Refused { status: 400 | 401 | 403, error, .. } if CODES.contains(&error.as_str()))
    }

    /// Whether the issuer may have acted on the request although no usable answer came.
    pub fn may_have_acted(&self) -> bool {
        matches!(
            self,
            Self::Temporary {
                sent: Sent::Maybe,
                ..
            }
        )
    }

    /// How long to wait before asking again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Temporary { retry_after, .. } => *retry_after,
            Self::Throttled { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// A failure before anything was sent.
    pub(crate) fn unsent(what: impl Into<String>) -> Self {
        Self::Temporary {
            what: what.into(),
            sent: Sent::No,
            retry_after: None,
        }
    }
}

/// `<code>: <description> (see <uri>)`, the wording that Vault clients know.
fn refused_text(error: &str, description: Option<&str>, uri: Option<&str>) -> String {
    let mut text = error.to_owned();
    if let Some(description) = description.filter(|text| !text.is_empty()) {
        text.push_str(": ");
        text.push_str(description);
    }
    if let Some(uri) = uri.filter(|text| !text.is_empty()) {
        text.push_str(" (see ");
        text.push_str(uri);
        text.push(')');
    }
    text
}

/// Why a [`Client`](crate::Client) could not be made from its options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The issuer's address cannot be used.
    #[error(
        "the issuer URL {url:?} cannot be used: {why}; write it exactly as the issuer's discovery document does"
    )]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The client id is empty.
    #[error(
        "the client id for issuer {url} is empty; enter the id under which the client is registered there"
    )]
    ClientId {
        /// The issuer.
        url: String,
    },
    /// A CA file has no certificate that can be used.
    #[error(
        "the CA certificates given for issuer {url} cannot be used: {why}; they must be PEM certificates"
    )]
    Ca {
        /// The issuer.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// There is nothing to check the issuer's certificate against.
    #[error(
        "no CA certificates were found on this machine, so issuer {url} cannot be trusted; install the \
         ca-certificates package, point SSL_CERT_FILE at a bundle, or configure a CA for this issuer"
    )]
    NoRoots {
        /// The issuer.
        url: String,
    },
    /// An extra authorization parameter would change what the protocol itself says.
    #[error(
        "authorization parameter {name:?} is set by the login itself and cannot be configured; remove it"
    )]
    ReservedParameter {
        /// Name of the parameter.
        name: String,
    },
    /// A number makes no sense.
    #[error("{what} must be greater than zero; remove the setting to get the default")]
    Zero {
        /// The setting.
        what: &'static str,
    },
    /// The TLS or HTTP stack refused to start.
    #[error(
        "the HTTP client for issuer {url} cannot be set up: {why}; this is a defect of the program or its build"
    )]
    Http {
        /// The issuer.
        url: String,
        /// What the library said.
        why: String,
    },
}
