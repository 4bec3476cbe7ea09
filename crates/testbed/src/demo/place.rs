//! The demo's directory: one for everything, mode 0700, removed at the end. Owns the names of the files in it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::failure::Failure;

/// A socket's path, its final zero included, must fit `sun_path` (unix(7)).
const LONGEST_SOCKET: usize = 108;
/// What the server puts below the directory and listens on; the longest of its socket names.
const LONGEST_NAME: &str = "/run/operator.sock";

/// How often, and how far apart, removing is tried.
const ATTEMPTS: usize = 20;
const BETWEEN: Duration = Duration::from_millis(50);

/// The directory. Dropping it removes it too.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn make() -> Result<Self, Failure> {
        let parent = parent(&std::env::temp_dir());
        let failed = |source| Failure::File {
            what: "making a directory",
            path: parent.clone(),
            source,
        };
        let directory = tempfile::Builder::new()
            .prefix("gridkeep-demo-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(failed)?;
        let place = Self(directory);
        for name in ["home", "etc"] {
            let path = place.file(name);
            fs::create_dir(&path).map_err(|source| Failure::File {
                what: "making a directory",
                path,
                source,
            })?;
        }
        Ok(place)
    }

    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }

    /// A path in the directory.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The same as text. The directory is under a path of the system's and the rest are our own names.
    pub(super) fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// Writes a new file that only its owner can read, and returns its path.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<PathBuf, Failure> {
        let path = self.file(name);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()));
        match written {
            Ok(()) => Ok(path),
            Err(source) => Err(Failure::File {
                what: "writing a file",
                path,
                source,
            }),
        }
    }

    /// Removes everything.
    pub(super) async fn remove(self) -> Result<(), Failure> {
        let path = self.0.keep();
        let mut attempt = 1;
        loop {
            match fs::remove_dir_all(&path) {
                Ok(()) => return Ok(()),
                // A process that was killed a moment ago may have written a last file.
                Err(_) if attempt < ATTEMPTS => attempt += 1,
                Err(source) => {
                    return Err(Failure::File {
                        what: "removing the demo's directory",
                        path,
                        source,
                    });
                }
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }
}

/// Where the directory goes: `wanted`, unless sockets in it would have names too long.
fn parent(wanted: &Path) -> PathBuf {
    let absolute = std::path::absolute(wanted).unwrap_or_else(|_| wanted.to_owned());
    let length =
        absolute.as_os_str().as_bytes().len() + "/gridkeep-demo-XXXXXX".len() + LONGEST_NAME.len();
    let text = absolute.to_str();
    // Configuration files are text, so the path has to be one as well.
    if length < LONGEST_SOCKET && text.is_some() {
        absolute
    } else {
        PathBuf::from("/tmp")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_its_owner_sees_it_and_it_goes() {
        let place = Place::make().unwrap();
        let root = place.root().to_owned();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&root), 0o700);
        let file = place.write("etc/x", "secret").unwrap();
        assert_eq!(mode(&file), 0o600);
        assert!(
            place.write("etc/x", "again").is_err(),
            "nothing is overwritten"
        );
        place.remove().await.unwrap();
        assert!(!root.exists());
    }

    #[test]
    fn sockets_must_fit() {
        assert_eq!(parent(Path::new("/var/tmp")), Path::new("/var/tmp"));
        let long = format!("/{}", "x".repeat(80));
        assert_eq!(parent(Path::new(&long)), Path::new("/tmp"));
    }
}
