//! Whether the issuer takes this server for a client of its own. If it does not, nobody can log in or refresh there, and no person
//! can mend it: the client id or secret is wrong, or the registration has gone or does not allow what is asked.
//!
//! A refusal is an answer like any other to the breaker (`gate.rs`), so that it has to be remembered here to be seen at all.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::IssuerError;

/// The client is not known, or did not prove who it is.
const UNKNOWN: &str = "invalid_client";
/// The client may not ask for this. Some issuers say so of a wrong secret, too.
const NOT_ALLOWED: &str = "unauthorized_client";

/// What the issuer was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Device,
    Poll,
    Code,
    Refresh,
    Exchange,
    ClientCredentials,
}

impl Asked {
    fn words(self) -> &'static str {
        match self {
            Asked::Device => "starting a login by device code",
            Asked::Poll => "a login by device code",
            Asked::Code => "a login by authorization code",
            Asked::Refresh => "a refresh",
            Asked::Exchange => "a token exchange",
            Asked::ClientCredentials => "a token of this server's own",
        }
    }
}

/// How this client stands with its issuer: what it was refused when it was last asked for.
#[derive(Default)]
pub(crate) struct Standing(Mutex<BTreeMap<Asked, Refused>>);

struct Refused {
    code: String,
    text: String,
}

/// What an answer changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    None,
    /// The client is refused, for this reason.
    Refused(String),
    /// It is taken again.
    Taken,
}

impl Standing {
    /// Remembers what an answer says of this client.
    pub(crate) fn note<T>(&self, asked: Asked, outcome: &Result<T, IssuerError>) -> Turn {
        let error = match outcome {
            Ok(_) => return self.taken(asked),
            Err(error) => error,
        };
        let IssuerError::Refused {
            status,
            error: code,
            ..
        } = error
        else {
            return Turn::None;
        };
        match code.as_str() {
            // Of a login that the person has not finished.
            "authorization_pending" | "slow_down" => self.taken(asked),
            // Keycloak says so of an audience that it does not know, which anybody may name.
            UNKNOWN | NOT_ALLOWED if asked == Asked::Exchange && *status != 401 => Turn::None,
            // Whoever has started a login can bring a code that was given to another client.
            UNKNOWN | NOT_ALLOWED if asked == Asked::Code => Turn::None,
            UNKNOWN | NOT_ALLOWED => {
                let text = format!("{} was refused: {error}", asked.words());
                let news = Refused {
                    code: code.clone(),
                    text: text.clone(),
                };
                match self.lock().insert(asked, news) {
                    Some(before) if before.code == *code => Turn::None,
                    _ => Turn::Refused(text),
                }
            }
            _ => Turn::None,
        }
    }

    /// What the client was refused and with which words, if it has not been taken since.
    pub(crate) fn refused(&self) -> Option<String> {
        self.lock().values().next().map(|held| held.text.clone())
    }

    fn taken(&self, asked: Asked) -> Turn {
        let mut held = self.lock();
        let before = held.len();
        held.remove(&asked);
        // Many issuers start a login without asking for the secret. Who may refresh still may not exchange.
        if asked != Asked::Device {
            held.retain(|_, refused| refused.code != UNKNOWN);
        }
        if held.len() < before && held.is_empty() {
            Turn::Taken
        } else {
            Turn::None
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Asked, Refused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, error: &str) -> Result<(), IssuerError> {
        Err(IssuerError::Refused {
            status,
            error: error.to_owned(),
            description: Some("so it is".to_owned()),
            uri: None,
        })
    }

    #[test]
    fn a_refused_client_is_told_once_until_it_is_taken_again() {
        let standing = Standing::default();
        assert_eq!(standing.note(Asked::Refresh, &Ok(())), Turn::None);
        let text = "a refresh was refused: invalid_client: so it is".to_owned();
        let refused = refusal(401, "invalid_client");
        assert_eq!(
            standing.note(Asked::Refresh, &refused),
            Turn::Refused(text.clone())
        );
        assert_eq!(standing.note(Asked::Refresh, &refused), Turn::None);
        for other in [
            refusal(400, "invalid_grant"),
            Err(IssuerError::unsent("down")),
        ] {
            assert_eq!(standing.note(Asked::Refresh, &other), Turn::None);
            assert_eq!(standing.refused(), Some(text.clone()));
        }
        // A login is often started without the secret.
        assert_eq!(standing.note(Asked::Device, &Ok(())), Turn::None);
        assert_eq!(standing.refused(), Some(text));
        assert_eq!(
            standing.note(Asked::Poll, &refusal(400, "authorization_pending")),
            Turn::Taken
        );
        assert_eq!(standing.refused(), None);
        assert!(matches!(
            standing.note(Asked::Device, &refused),
            Turn::Refused(_)
        ));
        assert_eq!(standing.note(Asked::Device, &Ok(())), Turn::Taken);
    }

    #[test]
    fn what_a_client_may_not_ask_for_is_cleared_by_an_answer_to_the_same() {
        let standing = Standing::default();
        let not_allowed = refusal(400, "unauthorized_client");
        for asked in [Asked::Refresh, Asked::ClientCredentials] {
            assert!(matches!(
                standing.note(asked, &not_allowed),
                Turn::Refused(_)
            ));
        }
        for asked in [Asked::Refresh, Asked::ClientCredentials] {
            assert_eq!(standing.note(asked, &not_allowed), Turn::None);
        }
        assert_eq!(standing.note(Asked::Poll, &Ok(())), Turn::None);
        assert_eq!(standing.note(Asked::Refresh, &Ok(())), Turn::None);
        assert!(standing.refused().unwrap().starts_with("a token of this"));
        assert_eq!(
            standing.note(Asked::ClientCredentials, &Ok(())),
            Turn::Taken
        );
    }

    #[test]
    fn a_code_that_anybody_brings_says_nothing_of_the_client() {
        let standing = Standing::default();
        let refused = refusal(401, "invalid_client");
        assert_eq!(standing.note(Asked::Code, &refused), Turn::None);
        assert_eq!(standing.refused(), None);
    }

    #[test]
    fn an_audience_that_is_not_known_says_nothing_of_the_client() {
        let standing = Standing::default();
        let unknown = refusal(400, "invalid_client");
        assert_eq!(standing.note(Asked::Exchange, &unknown), Turn::None);
        assert_eq!(standing.refused(), None);
        let refused = refusal(401, "invalid_client");
        assert!(matches!(
            standing.note(Asked::Exchange, &refused),
            Turn::Refused(_)
        ));
    }
}
