//! What the keeper's failures and our own become on the wire.

use gridkeep_keeper::{BadInput, Failure, Keeper, LaterKind, Refused};
use http::StatusCode;

use crate::answer::Answer;
use crate::fields::FieldError;
use crate::params::ParamsError;
use crate::path::PathError;
use crate::quota::Exceeded;

/// A token that is missing, unknown, expired, revoked or used from elsewhere.
pub(crate) const DENIED: &str = "permission denied";
/// A live token whose policies say no.
pub(crate) const DENIED_BY_POLICY: &str = "1 error occurred:\n\t* permission denied\n\n";
/// An ssh key that is not registered for the name and issuer it was shown for.
const DENIED_KEY: &str = "validation public_key failed: permission denied";
/// Seconds to wait when nothing better is known.
const USUAL_WAIT: u64 = 10;
/// The operation does not exist at this path.
const UNSUPPORTED: &str = "1 error occurred:\n\t* unsupported operation\n\n";

/// The path lies within something that is mounted, which has no such path.
const UNSUPPORTED_PATH: &str = "1 error occurred:\n\t* unsupported path\n\n";

/// Anything that ends a request early.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The keeper said no.
    Keeper(Failure),
    /// The answer is ready as it is.
    Answer(Box<Answer>),
}

impl Trouble {
    /// The operation does not exist at this path.
    pub(crate) fn unsupported() -> Self {
        Trouble::text(StatusCode::METHOD_NOT_ALLOWED, UNSUPPORTED)
    }

    /// The mount has no such path.
    pub(crate) fn unsupported_path() -> Self {
        Trouble::text(StatusCode::NOT_FOUND, UNSUPPORTED_PATH)
    }

    /// The request is wrong.
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Trouble::text(StatusCode::BAD_REQUEST, text)
    }

    /// `what` is written in the configuration files under `key`, and only there.
    pub(crate) fn from_files(keeper: &Keeper, what: &str, key: &str) -> Self {
        let (what, key) = (what.to_owned(), key.to_owned());
        let node = keeper.setup().published_by.clone();
        Trouble::Keeper(BadInput::FromFiles { what, key, node }.into())
    }

    pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Self {
        Trouble::Answer(Box::new(Answer::error(status, text)))
    }
}

impl<F: Into<Failure>> From<F> for Trouble {
    fn from(failure: F) -> Self {
        Trouble::Keeper(failure.into())
    }
}

impl From<Exceeded> for Trouble {
    fn from(exceeded: Exceeded) -> Self {
        Trouble::Answer(Box::new(exceeded.into()))
    }
}

impl From<FieldError> for Trouble {
    fn from(error: FieldError) -> Self {
        Trouble::bad(error.to_string())
    }
}

impl From<ParamsError> for Trouble {
    fn from(error: ParamsError) -> Self {
        Trouble::text(error.status(), error.to_string())
    }
}

impl From<PathError> for Trouble {
    fn from(error: PathError) -> Self {
        Trouble::bad(error.to_string())
    }
}

impl From<Trouble> for Answer {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Answer(answer) => *answer,
            Trouble::Keeper(failure) => answer(failure),
        }
    }
}

fn answer(failure: Failure) -> Answer {
    match failure {
        Failure::NotFound => Answer::nothing(),
        Failure::Later(later) => {
            // What is wrong is told once; which requests met it, each time, for whoever follows one by its id.
            if matches!(later.kind, LaterKind::Store | LaterKind::StoreFull) {
                tracing::info!(trouble = ?later.kind, "a request was not served because of the store");
            }
            let wait = later
                .retry_after
                .map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
            Answer::error(StatusCode::SERVICE_UNAVAILABLE, later.what)
                .retry_after(Some(wait.unwrap_or(USUAL_WAIT)))
        }
        Failure::BadInput(bad) => {
            let status = match bad {
                BadInput::BuiltinPolicy { .. }
                | BadInput::PolicyFromFiles { .. }
                | BadInput::FromFiles { .. }
                | BadInput::SshKeyInFile { .. } => StatusCode::METHOD_NOT_ALLOWED,
                _ => StatusCode::BAD_REQUEST,
            };
            Answer::error(status, bad.to_string())
        }
        Failure::Refused(refused) => match refused {
            Refused::UnknownToken
            | Refused::TokenRevoked
            | Refused::TokenExpired
            | Refused::WrongAddress => Answer::denied(DENIED),
            Refused::Policy { .. } => Answer::denied(DENIED_BY_POLICY),
            Refused::SshKey => Answer::denied(DENIED_KEY),
            Refused::BadTokenForLookup => Answer::error(StatusCode::FORBIDDEN, "bad token"),
            Refused::GrantDead {
                error,
                description,
                cause,
            } => {
                let description = description
                    .map(|text| format!(": {text}"))
                    .unwrap_or_default();
                let text = format!(
                    "refresh failed: server rejected request: {error}{description} ({cause}); log in again"
                );
                Answer::error(StatusCode::BAD_REQUEST, text)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gridkeep_keeper::{Later, LaterKind};

    use super::*;

    fn said(failure: impl Into<Failure>) -> (u16, Option<String>, Option<u64>) {
        let answer = Answer::from(Trouble::Keeper(failure.into()));
        (
            answer.status.as_u16(),
            answer.error_text().map(str::to_owned),
            answer.retry_after,
        )
    }

    #[test]
    fn each_kind_has_its_status_and_text() {
        for dead in [
            Refused::UnknownToken,
            Refused::TokenRevoked,
            Refused::TokenExpired,
            Refused::WrongAddress,
        ] {
            assert_eq!(said(dead), (403, Some("permission denied".into()), None));
        }
        assert_eq!(
            said(Refused::Policy {
                operation: "read",
                path: "x".into()
            }),
            (
                403,
                Some("1 error occurred:\n\t* permission denied\n\n".into()),
                None
            )
        );
        assert_eq!(
            said(Refused::BadTokenForLookup),
            (403, Some("bad token".into()), None)
        );
        assert_eq!(said(Failure::NotFound), (404, None, None));
        assert_eq!(
            said(BadInput::LoginExpired).1.unwrap(),
            "OpenBao login failed. Expired or missing OAuth state."
        );
        assert_eq!(
            said(BadInput::BuiltinPolicy {
                name: "tokenops".into()
            })
            .0,
            405
        );
        let later = Later::new(LaterKind::IssuerDown, "the issuer said: permission denied")
            .after(Duration::from_millis(1500));
        assert_eq!(
            said(later),
            (
                503,
                Some("the issuer said: permission-denied".into()),
                Some(2)
            )
        );
        let (status, text, _) = said(Refused::GrantDead {
            error: "invalid_grant".into(),
            description: Some("gone".into()),
            cause: "revoked".into(),
        });
        assert_eq!(
            (status, text.unwrap().as_str()),
            (
                400,
                "refresh failed: server rejected request: invalid_grant: gone (revoked); log in again"
            )
        );
    }
}
