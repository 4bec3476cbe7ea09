//! Reading a file that holds one secret.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{Doubt, FileError};

/// Secrets of more bytes than this are refused.
pub const SECRET_LIMIT: usize = 65_536;

/// How the file came to be chosen, which decides how much is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadPolicy {
    /// A default place, perhaps in a directory where everybody may write: links, foreign owners and open modes make the
    /// file ignored.
    DefaultLocation,
    /// The user named the file: it is read, and doubts are only noted. Services receive tokens from others this way.
    Named,
}

/// The secret in `path` without surrounding white space; `None` when the file is missing or empty.
///
/// # Errors
/// [`FileError::Ignored`] for a doubtful file in a default place; [`FileError::Io`], [`FileError::TooLarge`],
/// [`FileError::NotText`] otherwise.
pub fn read_secret(path: &Path, policy: ReadPolicy) -> Result<Option<SecretString>, FileError> {
    read_secret_noting(path, policy, &mut |_| {})
}

/// As [`read_secret`]; `note` hears of every doubt about a named file, so that the caller can warn.
///
/// # Errors
/// As [`read_secret`].
pub fn read_secret_noting(
    path: &Path,
    policy: ReadPolicy,
    note: &mut dyn FnMut(Doubt),
) -> Result<Option<SecretString>, FileError> {
    let failed = |source: io::Error| FileError::Io {
        path: path.to_owned(),
        doing: "read",
        advice: "check its owner and mode, or name another file",
        source,
    };
    let ignored = |because| FileError::Ignored {
        path: path.to_owned(),
        because,
    };
    let mut flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    if policy == ReadPolicy::DefaultLocation {
        // Without O_NONBLOCK somebody's pipe in a shared directory would hold us for ever.
        flags |= OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    }
    let file = match nix::fcntl::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(Errno::ELOOP) if policy == ReadPolicy::DefaultLocation => {
            return Err(ignored(Doubt::Symlink));
        }
        Err(error) => return Err(failed(error.into())),
    };
    let found = file.metadata().map_err(failed)?;
    if found.is_dir() {
        return Err(FileError::IsDirectory {
            path: path.to_owned(),
        });
    }
    let doubts = doubts(&found);
    match policy {
        ReadPolicy::DefaultLocation => {
            if let Some(first) = doubts.first() {
                return Err(ignored(*first));
            }
        }
        // Standard input and process substitution are pipes and terminals: nothing to doubt.
        ReadPolicy::Named if found.is_file() => doubts.into_iter().for_each(note),
        ReadPolicy::Named => {}
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_LIMIT + 1));
    file.take(SECRET_LIMIT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > SECRET_LIMIT {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            limit: SECRET_LIMIT,
        });
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| FileError::NotText {
        path: path.to_owned(),
    })?;
    if text.contains('\0') {
        return Err(FileError::NotText {
            path: path.to_owned(),
        });
    }
    let secret = text.trim();
    Ok((!secret.is_empty()).then(|| SecretString::from(secret)))
}

fn doubts(found: &std::fs::Metadata) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    if !found.is_file() {
        doubts.push(Doubt::NotRegular);
    }
    if found.uid() != 0 && found.uid() != geteuid().as_raw() {
        doubts.push(Doubt::ForeignOwner { uid: found.uid() });
    }
    if found.mode() & 0o066 != 0 {
        doubts.push(Doubt::Exposed {
            mode: found.mode() & 0o7777,
        });
    }
    doubts
}
