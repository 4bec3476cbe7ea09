//! Why a server that answers its operator does not do what it was asked, as far as that decides what helps.

use gridkeep_keeper::{BadInput, Failure, LaterKind};
use serde::{Deserialize, Serialize};

/// The sort of refusal. Goes over the operators' socket beside its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The caller is neither root nor the server's user.
    NotAllowed,
    /// The server has no keys.
    Sealed,
    /// It has no store and no keys yet.
    NotInitialised,
    /// It was sealed or unsealed a moment ago, and answers for itself again as soon as it has begun anew.
    Turning,
    /// The store does not answer, or takes no writes.
    Store,
    /// The audit log cannot be written.
    AuditLog,
    /// It was refused before anything was changed.
    NothingDone,
    /// It was begun and took too long; whether it was done is not known.
    TooLong,
    /// Everything else, and what a newer server may say.
    #[serde(other)]
    Other,
}

impl Reason {
    /// Whether it is certain that nothing was changed.
    pub fn is_before_all(self) -> bool {
        match self {
            Reason::NotAllowed
            | Reason::Sealed
            | Reason::NotInitialised
            | Reason::Turning
            | Reason::AuditLog
            | Reason::NothingDone => true,
            Reason::Store | Reason::TooLong | Reason::Other => false,
        }
    }
}

/// A refusal with its words.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Its sort.
    pub reason: Reason,
    /// What is shown.
    pub text: String,
}

impl Refusal {
    /// A refusal of this sort.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Refusal {
            reason,
            text: text.into(),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// The sort of what went wrong.
pub fn reason_of(error: &anyhow::Error) -> Reason {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return refusal.reason;
    }
    match error.downcast_ref::<Failure>() {
        Some(Failure::Later(later))
            if matches!(later.kind, LaterKind::Store | LaterKind::StoreFull) =>
        {
            Reason::Store
        }
        Some(Failure::BadInput(BadInput::RootKeyReplaced { .. })) => Reason::NothingDone,
        _ => Reason::Other,
    }
}
