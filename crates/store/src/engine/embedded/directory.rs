//! The data directory: what lies in it, who may use it, and whether it holds a store.
//!
//! * `STORE`: says that here is a store, and of which format; written before the key is made and completed after the data is,
//!   so that an interrupted first start is told from lost data.
//! * `store.redb`: the data. `lock`: locked as long as a process has the store open. `reserve`: space set aside.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::root_key::sync_directory_of;

/// Format of the directory that this program writes, and newest that it reads.
pub(crate) const FORMAT: u32 = 1;

const MARKER: &str = "STORE";
const DATA: &str = "store.redb";
const LOCK: &str = "lock";
const RESERVE: &str = "reserve";
/// How often the lock is tried again, and after how long each time, while somebody only looks at the store.
const LOOKS: u32 = 20;
const A_LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing of ours.
    Empty,
    /// A first start was begun and not completed.
    Initialising,
    /// Another store was to be copied here, and that was not completed.
    Copying,
    /// A store.
    Ready,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    gridkeep_store_format: u32,
    #[serde(default)]
    initialising: bool,
    #[serde(default)]
    copying: bool,
}

pub(crate) fn data(directory: &Path) -> PathBuf {
    directory.join(DATA)
}

pub(crate) fn reserve(directory: &Path) -> PathBuf {
    directory.join(RESERVE)
}

pub(crate) fn state(directory: &Path) -> Result<State, StoreError> {
    let marker = directory.join(MARKER);
    match fs::read(&marker) {
        Ok(bytes) => {
            let marker: Marker =
                serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged {
                    what: format!("the file {}", marker.display()),
                })?;
            if marker.gridkeep_store_format > FORMAT {
                return Err(StoreError::NewerFormat {
                    found: marker.gridkeep_store_format,
                    supported: FORMAT,
                });
            }
            Ok(if marker.copying {
                State::Copying
            } else if marker.initialising {
                State::Initialising
            } else {
                State::Ready
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Without its marker, data is still data.
            let there = data(directory)
                .try_exists()
                .map_err(|error| problem(directory, &error))?;
            Ok(if there { State::Ready } else { State::Empty })
        }
        Err(error) => Err(problem(directory, &error)),
    }
}

/// Makes the directory if need be and notes that a store is about to be made in it, or copied there: one of the two states that are
/// neither empty nor ready.
pub(crate) fn announce(directory: &Path, state: State) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| problem(directory, &error))?;
    write_marker(directory, state)
}

/// Removes what an interrupted start left: nobody was ever told that anything is in it.
pub(crate) fn clear(directory: &Path) -> Result<(), StoreError> {
    match fs::remove_file(data(directory)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(problem(directory, &error)),
        _ => Ok(()),
    }
}

/// Notes that the store is complete.
pub(crate) fn complete(directory: &Path) -> Result<(), StoreError> {
    write_marker(directory, State::Ready)
}

fn write_marker(directory: &Path, state: State) -> Result<(), StoreError> {
    let target = directory.join(MARKER);
    let beside = directory.join(".STORE.new");
    let write = || -> std::io::Result<()> {
        let text = serde_json::to_vec(&Marker {
            gridkeep_store_format: FORMAT,
            initialising: state == State::Initialising,
            copying: state == State::Copying,
        })?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &target)?;
        sync_directory_of(&target)
    };
    write().map_err(|error| problem(directory, &error))
}

/// Held as long as the store is open; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

pub(crate) fn lock(directory: &Path) -> Result<Lock, StoreError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK))
        .map_err(|error| problem(directory, &error))?;
    let mut looks = 0;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            // Whoever only looks at the store is done in a moment; a server is not.
            Err(fs::TryLockError::WouldBlock) if looks < LOOKS => {
                looks += 1;
                std::thread::sleep(A_LOOK);
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    path: directory.to_owned(),
                });
            }
            Err(fs::TryLockError::Error(error)) => return Err(problem(directory, &error)),
        }
    }
    // For people only: a full disk is no reason not to start.
    let _ = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Lock { _file: file })
}

/// Keeps others from opening the store while it is looked at; changes nothing.
pub(crate) fn lock_shared(directory: &Path) -> Result<Lock, StoreError> {
    let file = File::open(directory.join(LOCK)).map_err(|error| problem(directory, &error))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: directory.to_owned(),
        }),
        Err(fs::TryLockError::Error(error)) => Err(problem(directory, &error)),
    }
}

pub(crate) fn problem(directory: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Directory {
        path: directory.to_owned(),
        problem: format!(
            "{error}. Check that it exists, is mounted, and belongs to the user this program runs as"
        ),
    }
}
