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

    /// Writes what was received; returns where, once it is on the disk.
    pub fn keep(&self, received: &Received) -> Result<PathBuf, Failure> {
        let path = self
            .directory
            .join(format!("{}-{}.sealed", received.grant, random_id()));
        let plain = Zeroizing::new(
            serde_json::to_vec(received).map_err(|error| trouble(&path, &error.into()))?,
        );
        let sealed = seal(&self.key, CONTEXT, &plain)?;
        let written = (|| {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(sealed.as_bytes())?;
            file.sync_all()?;
            std::fs::File::open(&self.directory)?.sync_all()
        })();
        written.map_err(|error| trouble(&path, &error))?;
        Ok(path)
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
            if path
                .extension()
                .is_none_or(|extension| extension != "sealed")
            {
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
                // Written only in part before a crash: the issuer's answer it would hold was acknowledged to nobody.
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
