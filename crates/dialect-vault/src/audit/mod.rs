//! The audit log: who asked for what, when, from where, and what came of it.
//!
//! Owns the format of the lines (that of the original, so that operators' scripts go on working) and the files they go to. Refuses to
//! know secrets: texts in token fields and data are replaced by a keyed hash before a line exists. The line of a request is in the hands
//! of the kernel before anything is done about the request; if that fails, nothing is done but what [`AuditFailure`] lets pass. Lines of a
//! file are chained ([`AuditVerifier`] reads the chain), and where the chain ends is noted in the store each second.
//!
//! Another place to write to is one more implementation of [`AuditSink`] beside [`FileAudit`].

mod anchor;
mod blot;
mod chain;
mod file;
mod hash;
mod line;
mod verify;

use async_trait::async_trait;
use thiserror::Error;

pub use anchor::{anchor, keep_anchored};
pub use file::{AuditChain, FileAudit, FileAuditOptions};
pub(crate) use hash::Hasher;
pub(crate) use line::{Common, Exchange, Mount, ResponsePart};
pub use verify::{AuditFinding, AuditReport, AuditVerifier, beginning};

/// What is done while the audit log cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditFailure {
    /// Nothing.
    Refuse,
    /// What makes the world safer or cannot be had again: revoking tokens, deleting credentials, sealing, taking in a refresh token, and
    /// giving a share for a rekey, which tells the new ones.
    #[default]
    Revoke,
    /// Everything. Lines are kept in memory as far as there is room.
    Serve,
}

/// Where audit lines go.
#[async_trait]
pub trait AuditSink: Send + Sync + 'static {
    /// Writes one line, newline included. When this returns, the line is out of this process.
    ///
    /// # Errors
    /// When it is not written; the request it announces must then not be acted upon.
    async fn write(&self, line: Vec<u8>) -> Result<(), AuditError>;

    /// Takes over one line to be written in order behind those before it, without waiting for it.
    ///
    /// # Errors
    /// When the sink already knows that it cannot: no room, or stopped.
    fn queue(&self, line: Vec<u8>) -> Result<(), AuditError>;

    /// The file that lines go to, where it is one.
    fn file(&self) -> Option<&std::path::Path> {
        None
    }
}

/// Why a line was not written. All may pass.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuditError {
    /// The system refused.
    #[error(
        "the audit log cannot be written ({what}); requests are refused until it can: check the space and the permissions of its directory"
    )]
    Write {
        /// What the system said.
        what: String,
    },
    /// Lines arrive faster than they can be written.
    #[error("the audit log cannot keep up with the requests; try again in a moment")]
    Overloaded,
    /// The sink was closed.
    #[error("the audit log is closed because the server is stopping")]
    Closed,
}
