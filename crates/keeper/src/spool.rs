//! Received refresh tokens that the store could not take yet: sealed, one file each, in a private directory of this node. They are
//! taken up at the next start, or by the flight that wrote them as soon as the store is back.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::failure::{Failure, Later, LaterKind};
use crate::grants::{open, seal};
use crate::records::CachedToken;
use crate::secret::random_id;

const CONTEXT: &[u8] = b"spool";
/// How the name of a file ends that is being written.
const PARTIAL: &str = "new";
const PROCESSES: &str = "processes";
/// Of how many starts one after the other the unfinished refreshes are told from those of a process elsewhere.
const REMEMBERED: usize = 15;

/// What an issuer answered, as far as it must not be lost.
#[derive(Clone, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct Received {
    pub grant: String,
    pub generation: u64,
    /// The refresh token this is the answer to; empty when that was not noted.
    #[serde(default)]
    pub sent: String,
    pub refresh_token: Option<String>,
    pub access: CachedToken,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("grant", &self.grant)
            .field("generation", &self.generation)
            .field("refreshable", &self.refresh_token.is_some())
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

pub(crate) struct Spool {
    directory: PathBuf,
    key: Zeroizing<[u8; 32]>,
}

impl Spool {
    pub async fn open(directory: &Path, key: Zeroizing<[u8; 32]>) -> Result<Spool, Failure> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| trouble(directory, &error))?;
        Ok(Spool {
            directory: directory.to_owned(),
            key,
        })
    }

    /// The processes that used this directory before, as far as they were noted.
    pub fn processes(&self) -> Vec<String> {
        let noted = std::fs::read_to_string(self.directory.join(PROCESSES)).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    }

    /// Notes who uses this directory from now on: whoever comes after knows that this one has ended.
    pub fn note_process(&self, before: &[String], process: &str) {
        let before = before.iter().rev().take(REMEMBERED).rev();
        let noted: String = before
            .map(String::as_str)
            .chain([process])
            .map(|process| format!("{process}\n"))
            .collect();
        if let Err(error) = self.write(&self.directory.join(PROCESSES), noted.as_bytes()) {
            tracing::warn!(%error, "this start could not be noted in the spool; after the next one, refreshes that this process leaves are taken up only when their time is over");
        }
    }

    /// Writes what was received; returns where, once it is on the disk.
    pub fn keep(&self, received: &Received) -> Result<PathBuf, Failure> {
        let path = self
            .directory
            .join(format!("{}-{}.sealed", received.grant, random_id()));
        let plain = Zeroizing::new(
            serde_json::to_vec(received).map_err(|error| trouble(&path, &error.into()))?,
        );
        let sealed = seal(&self.key, CONTEXT, &plain)?;
        self.write(&path, sealed.as_bytes())
            .map_err(|error| trouble(&path, &error))?;
        Ok(path)
    }

    /// A whole file or none.
    fn write(&self, path: &Path, content: &[u8]) -> std::io::Result<()> {
        let partial = path.with_extension(PARTIAL);
        let written = (|| {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(content)?;
            file.sync_all()?;
            std::fs::rename(&partial, path)?;
            std::fs::File::open(&self.directory)?.sync_all()
        })();
        // Nothing of it is of use, and on a full disk its room is.
        written.inspect_err(|_| drop(std::fs::remove_file(&partial)))
    }

    pub fn forget(&self, path: &Path) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(%error, "a spool file that is no longer needed could not be removed; it is ignored at the next start");
        }
    }

    /// How many answers lie here.
    pub fn count(&self) -> usize {
        std::fs::read_dir(&self.directory).map_or(0, |entries| {
            entries
                .flatten()
                .filter(|entry| entry.path().extension().is_some_and(|it| it == "sealed"))
                .count()
        })
    }

    /// Everything an earlier run left, with its file.
    pub fn left_over(&self) -> Result<Vec<(PathBuf, Received)>, Failure> {
        let mut found = Vec::new();
        for entry in
            std::fs::read_dir(&self.directory).map_err(|error| trouble(&self.directory, &error))?
        {
            let path = entry
                .map_err(|error| trouble(&self.directory, &error))?
                .path();
            // Written only in part before a crash: the issuer's answer it would hold was acknowledged to nobody.
            if path.extension().is_some_and(|it| it == PARTIAL) {
                self.forget(&path);
            }
            if path.extension().is_none_or(|it| it != "sealed") {
                continue;
            }
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                // One file that cannot be read is no reason to serve nobody.
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "a spool file cannot be read and is left where it is");
                    continue;
                }
            };
            match open(&self.key, CONTEXT, text.trim())
                .and_then(|plain| serde_json::from_slice(&plain).ok())
            {
                Some(received) => found.push((path, received)),
                None => {
                    tracing::error!(file = %path.display(), "a spool file cannot be opened and is left where it is")
                }
            }
        }
        Ok(found)
    }
}

fn trouble(path: &Path, error: &std::io::Error) -> Failure {
    Later::new(
        LaterKind::Store,
        format!("the spool for received refresh tokens at {} cannot be used ({error}); make the directory writable for the service and private to it", path.display()),
    )
    .into()
}
