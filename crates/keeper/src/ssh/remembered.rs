//! What stands in the files of keys that administrators keep, as it was read last. Anybody can have them looked at, with a nonce for a
//! name of their choice: so a file is read again, and what is wrong with it logged again, only once it has changed.
//!
//! Wastes the memory of the files that are there; those that are not are not remembered.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::SshKey;

/// What a change of a file changes: place, owner and mode, length, and the times of its last change with their fractions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 9]);

impl Stamp {
    fn of(found: &std::fs::Metadata) -> Stamp {
        Stamp([
            found.dev().cast_signed(),
            found.ino().cast_signed(),
            found.uid().into(),
            found.mode().into(),
            found.len().cast_signed(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ])
    }
}

pub(super) type Read = Result<Arc<Vec<SshKey>>, String>;

/// Why a file cannot be used; what kind of trouble that is if it may pass while the file stays as it is.
pub(super) struct Unusable {
    pub why: String,
    pub passing: Option<ErrorKind>,
}

/// The files that were read.
#[derive(Debug, Default)]
pub(crate) struct KeyFiles {
    read: Mutex<HashMap<PathBuf, (Stamp, Read)>>,
    /// Directories in which it cannot be told what is there, and why; each is logged once.
    closed: Mutex<HashMap<PathBuf, ErrorKind>>,
}

impl KeyFiles {
    /// The keys in the file at `path`, read by `read` if it is not known as it is now; none when there is no file.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(super) fn get(
        &self,
        path: &Path,
        read: impl FnOnce(&Path) -> Result<Vec<SshKey>, Unusable>,
    ) -> Read {
        let stamp = match std::fs::metadata(path) {
            Ok(found) => Stamp::of(&found),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                lock(&self.read).remove(path);
                return Ok(Arc::default());
            }
            Err(error) => {
                let why = format!("{} cannot be read: {error}", path.display());
                self.tell(path, error.kind(), &why);
                return Err(why);
            }
        };
        if let Some((known, outcome)) = lock(&self.read).get(path)
            && *known == stamp
        {
            return outcome.clone();
        }
        // Changed since the stamp was taken, it is read again the next time.
        let outcome = match read(path) {
            Ok(keys) => Ok(Arc::new(keys)),
            Err(Unusable { why, passing: None }) => {
                tracing::error!("{why}");
                Err(why)
            }
            // The host's trouble, not the file's: the next one to ask may fare better.
            Err(Unusable {
                why,
                passing: Some(kind),
            }) => {
                self.tell(path, kind, &why);
                return Err(why);
            }
        };
        lock(&self.read).insert(path.to_owned(), (stamp, outcome.clone()));
        outcome
    }
}

impl KeyFiles {
    /// Logs trouble with files of a directory, once until it is another.
    fn tell(&self, path: &Path, kind: ErrorKind, why: &str) {
        let directory = path.parent().unwrap_or(path).to_owned();
        if lock(&self.closed).insert(directory, kind) != Some(kind) {
            tracing::error!("{why}");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_read_once_and_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alice");
        let (files, reads) = (KeyFiles::default(), Cell::new(0));
        let outcome = |answer: Result<Vec<SshKey>, Unusable>| {
            files.get(&path, |_| {
                reads.set(reads.get() + 1);
                answer
            })
        };
        let no_good = |passing| Unusable {
            why: "no good".to_owned(),
            passing,
        };
        assert!(outcome(Ok(Vec::new())).unwrap().is_empty());
        let known = lock(&files.read).len();
        assert_eq!((reads.get(), known), (0, 0), "there is no file");
        // What cannot be used is remembered too, and so logged once.
        std::fs::write(&path, "one").unwrap();
        // Trouble of the host is none of the file's.
        assert!(outcome(Err(no_good(Some(ErrorKind::Other)))).is_err());
        assert_eq!(reads.replace(0), 1);
        for _ in 0..3 {
            assert!(outcome(Err(no_good(None))).is_err());
        }
        assert_eq!(reads.get(), 1);
        for change in [0o640, 0o600] {
            let before = reads.get();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(change)).unwrap();
            for _ in 0..3 {
                assert!(outcome(Ok(Vec::new())).is_ok());
            }
            assert_eq!(reads.get(), before + 1, "its mode is another");
        }
        std::fs::write(&path, "another length").unwrap();
        assert!(outcome(Err(no_good(None))).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(outcome(Err(no_good(None))).is_ok());
        assert!(lock(&files.read).is_empty(), "nothing is kept of it");
    }

    #[test]
    fn a_closed_directory_is_no_place_to_fill_memory() {
        let directory = tempfile::tempdir().unwrap();
        let files = KeyFiles::default();
        // A name that is too long for the system, as one where nothing can be looked up.
        for n in 0..3 {
            let path = directory.path().join(format!("{n}{}", "x".repeat(300)));
            assert!(files.get(&path, |_| panic!("it is not there")).is_err());
        }
        let known = (lock(&files.read).len(), lock(&files.closed).len());
        assert_eq!(known, (0, 1));
    }
}
