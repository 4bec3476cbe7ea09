//! What can go wrong, in words an operator can act on: what happened, what it means, what to do.
//!
//! Knows nothing of engines. A new refusal is one variant here and one test in `tests/refusals.rs`.

use std::path::PathBuf;

/// Whether a write that was answered with an error can nevertheless be in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of the transaction was recorded.
    NotApplied,
    /// The transaction is there whole or not at all; which of the two is not known. Reading the names it wrote, or repeating
    /// it with the same guards, tells.
    Unknown,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotApplied => "Nothing was recorded.",
            Self::Unknown => "Whether the last write was recorded is not known.",
        })
    }
}

/// What helps when the store is not available, as a sentence at the end of the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Nothing but asking again.
    Wait,
    /// The disk of the data directory.
    Disk,
    /// The members of etcd, and the way to them.
    Members,
    /// A majority of the members of etcd, which its leader needs.
    Leader,
    /// Certificates and keys, here or there.
    Tls,
    /// The rights that etcd gives us.
    Rights,
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Wait => "This passes by itself: ask again",
            Self::Disk => {
                "A running server opens the store anew by itself at the next request; if it stays, look at the disk and the kernel log"
            }
            Self::Members => {
                "It succeeds again as soon as etcd answers, no restart is needed; if it stays, ask the members how they are (etcdctl \
                 endpoint health) and look at the way to them"
            }
            Self::Leader => {
                "etcd has no leader because a majority of its members is away or can not reach each other; it serves again as soon as \
                 most of them do. Start the missing members (etcdctl endpoint health names them), or look at the network between them"
            }
            Self::Tls => {
                "This does not pass by itself: correct the files that gridkeep.store.etcd.tls names, or the certificates of etcd. They \
                 are read anew for every connection, so no restart is needed"
            }
            Self::Rights => {
                "This does not pass by itself: give this client the rights to read and write below the prefix (etcdctl role \
                 grant-permission), and compare the version of etcd with the one that is required"
            }
        })
    }
}

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The engine failed or is unreachable; temporary.
    #[error("the store is not available: {cause}. {outcome} {remedy}")]
    Unavailable {
        /// What the engine reported.
        cause: String,
        /// What is known of a write in progress.
        outcome: Outcome,
        /// What helps.
        remedy: Remedy,
    },
    /// The disk is full. Reads and deletions go on.
    #[error(
        "the disk holding {path} is full. Nothing was recorded; reading and deleting go on. Free some space: writing resumes by \
         itself, no restart is needed"
    )]
    Full {
        /// The data directory.
        path: PathBuf,
    },
    /// etcd's database has reached its quota. Reads and deletions go on.
    #[error(
        "the database of {place} is full: it has reached its quota (NOSPACE). Nothing was recorded; reading and deleting go on. Old \
         revisions are compacted and the members defragmented by themselves; if that does not suffice, raise etcd's \
         --quota-backend-bytes. Writing resumes by itself, no restart is needed"
    )]
    QuotaReached {
        /// Endpoints and prefix.
        place: String,
    },
    /// The way to etcd is not described well enough to be tried.
    #[error("the connection to etcd can not be set up: {problem}")]
    Connection {
        /// What is wrong and what to do.
        problem: String,
    },
    /// Where a store was to be opened or made is something that is none.
    #[error(
        "{place} holds keys that are not of this program. Nothing was changed. Give the prefix of the store, or one that nobody uses"
    )]
    ForeignData {
        /// Endpoints and prefix.
        place: String,
    },
    /// A store was to be copied to where something is.
    #[error(
        "there is a store in {place} already, and a copy never writes over one. Nothing was changed. Copy to another place, or move \
         away what is there"
    )]
    NotEmpty {
        /// The data directory, or endpoints and prefix of etcd.
        place: String,
    },
    /// A copy was not completed.
    #[error(
        "what is in {place} is a copy of a store that was not completed, and no store. Nothing was changed. Copy again, which begins \
         anew, or start with the store that was copied"
    )]
    IncompleteCopy {
        /// The data directory, or endpoints and prefix of etcd.
        place: String,
    },
    /// A store was written while it was copied.
    #[error(
        "the store in {place} was written while it was copied, so the copy is not completed and can not be used. Stop every node that \
         uses the store, and copy again"
    )]
    Changed {
        /// The data directory, or endpoints and prefix of etcd.
        place: String,
    },
    /// The directory at the path is no longer the one that was opened: unmounted, removed or replaced.
    #[error(
        "the data directory {path} has disappeared or was replaced while the store was open. Writes are refused, because they \
         would be lost; whether the last one was recorded is not known. Mount the original directory again, or stop the program \
         and start it on the right one"
    )]
    Vanished {
        /// The data directory.
        path: PathBuf,
    },
    /// The store was closed by this program.
    #[error(
        "the store is closed: the program is stopping. Ask again at the next start or at another node"
    )]
    Closed,
    /// The data was written by a newer version.
    #[error(
        "the data is of format {found}, this program reads formats up to {supported}. A newer version has written it; nothing was \
         changed. Start that version again, or restore the backup made before it was installed"
    )]
    NewerFormat {
        /// Format found.
        found: u32,
        /// Newest format this program reads.
        supported: u32,
    },
    /// The data is sealed under another root key.
    #[error(
        "the data is sealed under root key {expected}, the key given is {given}. It can not be opened with this key; nothing was \
         changed. Give the key that belongs to this data, or the data that belongs to this key"
    )]
    ForeignRootKey {
        /// Public identifier of the key the data wants.
        expected: String,
        /// Public identifier of the key given.
        given: String,
    },
    /// Another node has put a root key in force while this process was about to put in another.
    #[error(
        "another node has put root key {by} in force. Nothing was changed by this one. Every node has to know that key (gridkeep operator \
         expect-root-key FILE); replace it again if it is not the one that is wanted"
    )]
    RootKeyReplaced {
        /// Public identifier of the key in force.
        by: String,
    },
    /// Another process has the data open.
    #[error(
        "the data directory {path} is in use by another process. Two at once would destroy it, so this one stops. End the other \
         process (its id is in the file `lock` there), or give this one a directory of its own"
    )]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
    /// There is a root key, but no data.
    #[error(
        "there is a root key, but no data in {path}. Either the data is elsewhere (a directory that is not mounted, another \
         prefix of etcd) or was lost, or the key is left from an earlier installation; starting empty would hide that. Mount or \
         restore the data; for a fresh start remove the key file \
         as well, or initialise explicitly where the key comes from the service manager"
    )]
    KeyWithoutData {
        /// The data directory, or endpoints and prefix of etcd.
        path: PathBuf,
    },
    /// There is data, but no root key.
    #[error(
        "there is data in {data}, but no root key at {key}. Without it the data can not be read, and making a new key would not \
         help. Restore the key file from its safe place, or copy it from another node of the cluster; for a fresh start move the data away"
    )]
    DataWithoutKey {
        /// The data directory, or endpoints and prefix of etcd.
        data: PathBuf,
        /// Where the key was expected.
        key: PathBuf,
    },
    /// Neither key nor data, and initialising was not allowed.
    #[error(
        "there is no data in {path}, and initialising was not asked for. Nothing was made. Check the path, or initialise the store"
    )]
    NotInitialised {
        /// The data directory, or endpoints and prefix of etcd.
        path: PathBuf,
    },
    /// The root key can not be read or made.
    #[error("the root key {path} can not be used: {problem}")]
    RootKey {
        /// Where the key is.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The data directory can not be used.
    #[error("the data directory {path} can not be used: {problem}")]
    Directory {
        /// The data directory.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A record is there and is not what was written.
    #[error(
        "{what} is damaged: it is not what was written. Other records are not affected and stay readable. Restore it from a backup, \
         or delete it and let its owner log in again"
    )]
    Corrupt {
        /// Which record, without its plain name.
        what: String,
    },
    /// The store as a whole, or a part of it that is not one record, is not what was written.
    #[error(
        "{what} is damaged: it is not what was written. What can still be read is true, and nothing was changed. Stop the program, \
         keep a copy of the data directory, look at the disk, and restore the last backup"
    )]
    Damaged {
        /// Which file or part.
        what: String,
    },
    /// A record's body is not of the form its reader expects. Carries no content.
    #[error(
        "a record of kind {kind} and schema {schema} can not be parsed (at byte {column} of its body). It was written by another \
         version or by mistake; nothing was changed. Use the version that wrote it, or delete the record"
    )]
    Unparsable {
        /// Kind of the record; 0 where it is not known.
        kind: u16,
        /// Schema of the record.
        schema: u16,
        /// Position of the first byte that did not fit.
        column: usize,
    },
    /// The system's cryptography failed, which it does only when it has no randomness.
    #[error(
        "sealing failed: the system gave no randomness. Nothing was recorded. Ask again; if it stays, the host is broken"
    )]
    Sealing,
}

impl StoreError {
    /// True if the same request can succeed later without anybody changing the data or the key.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::Full { .. }
                | Self::QuotaReached { .. }
                | Self::Vanished { .. }
                | Self::Closed
                | Self::InUse { .. }
                | Self::Sealing
        )
    }

    pub(crate) fn unavailable(cause: impl std::fmt::Display) -> Self {
        Self::Unavailable {
            cause: cause.to_string(),
            outcome: Outcome::NotApplied,
            remedy: Remedy::Wait,
        }
    }
}

/// Why a transaction was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A guard did not hold: somebody else wrote first. Nothing was recorded.
    #[error(
        "guard {guard} did not hold: somebody else changed the record first. Nothing was recorded. Read it again and decide anew"
    )]
    Conflict {
        /// Index into the transaction's guards.
        guard: usize,
    },
    /// More than the limits allow.
    #[error(
        "a transaction of {operations} operations and {bytes} bytes is too large (limits: {max_operations} operations, {max_bytes} \
         bytes). Nothing was recorded. Split it", max_operations = crate::Transaction::MAX_OPERATIONS, max_bytes = crate::Transaction::MAX_BYTES
    )]
    TooLarge {
        /// Puts and deletes, or guards if those are more.
        operations: usize,
        /// Bytes of keys and sealed records.
        bytes: usize,
    },
    /// One name is written twice in one transaction, which no engine gives a meaning to.
    #[error(
        "a transaction writes the same name twice. Nothing was recorded. This is a mistake in the program"
    )]
    Repeated,
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}
