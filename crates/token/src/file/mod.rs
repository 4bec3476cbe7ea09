//! Token files: replaced whole or not at all, read with suspicion, guarded by a lock of their own.
//! Owns how a secret meets the file system; refuses to know which secret, which default place and what to do when it
//! is missing. A new way of writing or reading is one file here and one line below.

mod descriptor;
mod lock;
mod read;
mod replace;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

pub use descriptor::{Descriptor, is_device_name, write_descriptor};
pub use lock::{Lock, lock};
pub use read::{ReadPolicy, SECRET_LIMIT, read_secret, read_secret_noting};
pub use replace::{ReplaceOptions, TEMPORARY_PREFIX, replace};

/// What makes a file that exists doubtful.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It is a symbolic link.
    Symlink,
    /// It is a directory, a device, a pipe or a socket.
    NotRegular,
    /// It belongs to neither the effective user nor root.
    ForeignOwner {
        /// Whose it is.
        uid: u32,
    },
    /// Group or others may read or write it.
    Exposed {
        /// Its permission bits.
        mode: u32,
    },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink => f.write_str("it is a symbolic link"),
            Self::NotRegular => f.write_str("it is not a regular file"),
            Self::ForeignOwner { uid } => {
                write!(f, "it belongs to user id {uid}, neither to you nor to root")
            }
            Self::Exposed { mode } => {
                write!(f, "its mode {mode:04o} lets other users read or write it")
            }
        }
    }
}

/// What went wrong with a token file. No text holds a file's content.
#[derive(Debug, Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}; {advice}", .path.display())]
    Io {
        /// The file meant by the caller, not a temporary name.
        path: PathBuf,
        /// A verb for the sentence.
        doing: &'static str,
        /// What state that leaves and what to do.
        advice: &'static str,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file in a default place exists but is not trusted.
    #[error("{} is ignored because {because}; remove it, or name the file explicitly to use it anyway", .path.display())]
    Ignored {
        /// The file.
        path: PathBuf,
        /// Why.
        because: Doubt,
    },
    /// A pipe or device that somebody else placed there would receive the secret.
    #[error("{} is not written because {because}; it could hand the secret to somebody else, so remove it or choose another place", .path.display())]
    Untrusted {
        /// The target.
        path: PathBuf,
        /// Why.
        because: Doubt,
    },
    /// A directory stands where the file should be.
    #[error("{} is a directory; name a file", .path.display())]
    IsDirectory {
        /// The target.
        path: PathBuf,
    },
    /// More bytes than any secret has.
    #[error("{} has more than {limit} bytes, so it is no token file; name the right file", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not UTF-8, or with NUL bytes.
    #[error("{} is not a text file, so it holds no token; name the right file", .path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else held the lock all the time.
    #[error("{} is still locked by another process after {} s; wait for that process or end it", .path.display(), .waited.as_secs())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// A descriptor named by `/dev/fd/N` could not be written.
    #[error(
        "cannot write to descriptor {fd}: {source}; open it for writing before starting the command"
    )]
    Descriptor {
        /// Its number.
        fd: i32,
        /// The operating system's error.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;
