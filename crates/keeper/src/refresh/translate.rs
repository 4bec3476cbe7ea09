//! What issuers answer, in the keeper's words.

use gridkeep_issuer::{IssuerError, TokenResponse};
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::ExposeSecret;

use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::records::CachedToken;
use crate::spool::Received;
use crate::tokens::later;

/// What of the answer to `sent` must be kept.
pub(crate) fn received(
    grant: &str,
    generation: u64,
    sent: &str,
    response: &TokenResponse,
    now: UnixSeconds,
) -> Received {
    Received {
        grant: grant.to_owned(),
        generation,
        sent: sent.to_owned(),
        refresh_token: response
            .refresh_token
            .as_ref()
            .map(|token| token.expose_secret().to_owned())
            .filter(|token| !token.is_empty()),
        access: cached(response, now),
    }
}

/// The access token of an answer, with its life counted from `now`.
pub(crate) fn cached(response: &TokenResponse, now: UnixSeconds) -> CachedToken {
    CachedToken {
        token: response.access_token.expose_secret().to_owned(),
        token_type: response.token_type.clone(),
        issued_at: now.0,
        expires_at: response.expires_in.map(|life| later(now, Seconds(life)).0),
        scope: response.scope.clone(),
    }
}

/// What trouble with an issuer means to whoever asked.
pub(crate) fn issuer_failure(operation: &'static str, error: &IssuerError) -> Failure {
    match error {
        IssuerError::Refused {
            error: code,
            description,
            uri,
            ..
        } if error.is_permanent() => BadInput::IssuerRejected {
            operation,
            error: code.clone(),
            description: description.clone(),
            uri: uri.clone(),
        }
        .into(),
        IssuerError::Throttled { retry_after } => Later::new(
            LaterKind::IssuerThrottled,
            format!("requests to the token issuer are held back for {} seconds, because it fails or its request budget is used up; try again then", retry_after.as_secs().max(1)),
        )
        .after(*retry_after)
        .into(),
        IssuerError::Temporary {
            what, retry_after, ..
        } => {
            let later = Later::new(
                LaterKind::IssuerDown,
                format!("the token issuer cannot be used at the moment ({what}); nothing is lost; try again later"),
            );
            retry_after.map_or(later.clone(), |wait| later.after(wait)).into()
        }
        IssuerError::Unsupported { .. } | IssuerError::InvalidToken { .. } => {
            BadInput::IssuerCannot {
                operation,
                what: error.to_string(),
            }
            .into()
        }
        IssuerError::Refused { .. } => Later::new(
            LaterKind::IssuerDown,
            format!("the token issuer answered with a passing error ({error}); try again later"),
        )
        .into(),
    }
}

pub(crate) fn rfc3339(at: UnixSeconds) -> String {
    jiff::Timestamp::from_second(at.0)
        .map(|time| time.to_string())
        .unwrap_or_else(|_| at.0.to_string())
}
