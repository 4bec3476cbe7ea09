//! The audit log in a file: one thread writes, everybody who waits in the meantime shares its next write.
//!
//! Promises: mode 0600; every line is chained to the one before; a line is never torn, also when the disk fills up in the middle of
//! one; a file that was renamed or removed is noticed within a second and opened anew, one that was cut before the next line; lines
//! that nobody waits for are kept while they cannot be written; what waits is bounded. Wastes one thread.

mod resume;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gridkeep_keeper::clock::Clock;
use gridkeep_keeper::{AuditAnchor, AuditEvidence};
use nix::fcntl::OFlag;
use tokio::sync::oneshot;

use super::chain::{Chainer, Head, mac_text};
use super::{AuditError, AuditSink};

/// How a [`FileAudit`] behaves.
#[derive(Debug, Clone)]
pub struct FileAuditOptions {
    /// The file. Its directory must exist.
    pub path: PathBuf,
    /// Most bytes that may wait to be written; beyond, requests are refused. As many again of lines that could not be written are kept
    /// for when they can.
    pub pending_bytes: usize,
    /// How often to look whether the file still has its name, and to try again what could not be written.
    pub check_every: Duration,
    /// How long a request waits for its line to be written before it is refused.
    pub patience: Duration,
    /// How long a line that nobody waits for may lie before it is written.
    pub linger: Duration,
}

impl FileAuditOptions {
    /// The usual bounds: 4 MiB waiting, a look each second, 5 s of patience, half a millisecond for lines that nobody waits for.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        FileAuditOptions {
            path: path.into(),
            pending_bytes: 4 << 20,
            check_every: Duration::from_secs(1),
            patience: Duration::from_secs(5),
            linger: Duration::from_micros(500),
        }
    }
}

/// What the lines of a file are chained with.
#[derive(Clone)]
pub struct AuditChain {
    node: String,
    chainer: Chainer,
    anchor: Option<AuditAnchor>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for AuditChain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditChain")
            .field("node", &self.node)
            .field("anchor", &self.anchor)
            .finish_non_exhaustive()
    }
}

impl AuditChain {
    /// The chain of this node, to be gone on with where its anchor in `evidence` is.
    pub fn new(node: &str, evidence: &AuditEvidence, clock: Arc<dyn Clock>) -> Self {
        AuditChain {
            node: node.to_owned(),
            chainer: Chainer::new(&evidence.key),
            anchor: evidence
                .anchors
                .iter()
                .find(|anchor| anchor.node == node)
                .cloned(),
            clock,
        }
    }
}

/// An audit log in a file.
#[derive(Debug)]
pub struct FileAudit {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    options: FileAuditOptions,
    node: String,
    state: Mutex<State>,
    wake: Condvar,
    end: Mutex<End>,
}

type Waiter = oneshot::Sender<Result<(), AuditError>>;

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    count: usize,
    /// Who waits for which line.
    waiters: Vec<(usize, Waiter)>,
    reopen: bool,
    /// Who waits for the file to have been opened anew.
    reopeners: Vec<oneshot::Sender<()>>,
    closed: bool,
    rest: Rest,
}

/// What the writing thread waits for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// For nothing: it works.
    #[default]
    Awake,
    /// For somebody who waits, a little while: lines that nobody waits for do not wake it, since it looks for them by itself.
    Lingering,
    /// For anything.
    Asleep,
}

/// Where the log ends, for whoever notes it elsewhere.
#[derive(Debug)]
struct End {
    chain: String,
    head: Head,
    file: Arc<File>,
    length: u64,
    /// Files from before, which may not be on the disk yet.
    earlier: Vec<Arc<File>>,
    /// Number of the last line that was noted.
    anchored: u64,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: &[u8], waiter: Option<Waiter>) -> Result<(), AuditError> {
        let wake = {
            let mut state = self.state();
            if state.closed {
                return Err(AuditError::Closed);
            }
            if state.lines.len() + line.len() > self.options.pending_bytes {
                return Err(AuditError::Overloaded);
            }
            state.lines.extend_from_slice(line);
            let wake =
                state.rest == Rest::Asleep || (state.rest == Rest::Lingering && waiter.is_some());
            let index = state.count;
            state.count += 1;
            state.waiters.extend(waiter.map(|waiter| (index, waiter)));
            if wake {
                state.rest = Rest::Awake;
            }
            wake
        };
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until there is something to write, but not beyond `at_most`. Behind a write it lingers, so that under load only those
    /// wake the thread who wait for it; then it sleeps.
    fn gather(&self, at_most: Option<Duration>) -> MutexGuard<'_, State> {
        let mut state = self.state();
        let begun = Instant::now();
        while state.waiters.is_empty() && !state.reopen && !state.closed {
            let left = self.options.linger.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            state.rest = Rest::Lingering;
            state = self
                .wake
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        while state.lines.is_empty() && !state.reopen && !state.closed {
            state.rest = Rest::Asleep;
            state = match at_most {
                None => self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(most) => {
                    let left = most.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        break;
                    }
                    self.wake
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
        state.rest = Rest::Awake;
        state
    }
}

impl FileAudit {
    /// Says whether the file could be opened, making it when it is missing; for a start that is to fail early.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, is not a regular file or not ours to restrict to mode 0600.
    pub fn probe(path: &Path) -> Result<(), AuditError> {
        open(path).map(drop)
    }

    /// Opens the file, making it when it is missing, finds where the chain goes on, and starts the writing thread.
    ///
    /// # Errors
    /// As [`FileAudit::probe`]; also when the file cannot be read.
    pub fn open(options: FileAuditOptions, chain: AuditChain) -> Result<FileAudit, AuditError> {
        let file = Arc::new(open(&options.path)?);
        let place =
            resume::resume(&file, &options.path, &chain).map_err(|error| AuditError::Write {
                what: format!(
                    "{}: its end cannot be read: {error}",
                    options.path.display()
                ),
            })?;
        let shared = Arc::new(Shared {
            options,
            node: chain.node.clone(),
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
            end: Mutex::new(End {
                chain: place.chain.clone(),
                head: place.head,
                file: file.clone(),
                length: place.length,
                earlier: Vec::new(),
                anchored: chain.anchor.as_ref().map_or(0, |anchor| anchor.seq),
            }),
        });
        let mut writer = writer::Writer::new(Arc::clone(&shared), file, chain, place);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| AuditError::Write {
                what: error.to_string(),
            })?;
        Ok(FileAudit {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Opens the file anew before the next line, as after a SIGHUP. What is answered completes when that was done: nothing is
    /// written to the old file from then on.
    pub fn reopen(&self) -> oneshot::Receiver<()> {
        let (sender, done) = oneshot::channel();
        let mut state = self.shared.state();
        state.reopen = true;
        state.reopeners.push(sender);
        state.rest = Rest::Awake;
        drop(state);
        self.shared.wake.notify_one();
        done
    }

    /// Brings what was written onto the disk, and says where the log ends, unless that was noted already. Blocks.
    ///
    /// # Errors
    /// When the system could not.
    pub fn settle(&self) -> std::io::Result<Option<AuditAnchor>> {
        let (chain, head, file, length, earlier) = {
            let mut end = self.shared.end();
            if end.head.seq == end.anchored {
                return Ok(None);
            }
            (
                end.chain.clone(),
                end.head,
                end.file.clone(),
                end.length,
                std::mem::take(&mut end.earlier),
            )
        };
        let synced = earlier
            .iter()
            .chain([&file])
            .try_for_each(|file| file.sync_data());
        if let Err(error) = synced {
            // No end is noted past lines that may not be on the disk.
            self.shared.end().earlier.splice(0..0, earlier);
            return Err(error);
        }
        let metadata = file.metadata()?;
        let path = &self.shared.options.path;
        Ok(Some(AuditAnchor {
            node: self.shared.node.clone(),
            chain,
            seq: head.seq,
            mac: mac_text(&head.mac),
            path: path.to_string_lossy().into_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            length,
            at: gridkeep_keeper::UnixSeconds(0),
        }))
    }

    /// Tells that the end at line `seq` is noted.
    pub fn settled(&self, seq: u64) {
        self.shared.end().anchored = seq;
    }

    /// Writes what waits and stops. Later lines are refused.
    pub fn close(&self) {
        self.shared.state().closed = true;
        self.shared.wake.notify_one();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // The thread only ends by returning or by a panic, which it has then reported itself.
            let _ = thread.join();
        }
    }
}

impl Drop for FileAudit {
    fn drop(&mut self) {
        self.close();
    }
}

#[async_trait]
impl AuditSink for FileAudit {
    async fn write(&self, line: Vec<u8>) -> Result<(), AuditError> {
        let (sender, receiver) = oneshot::channel();
        self.shared.put(&line, Some(sender))?;
        drop(line);
        match tokio::time::timeout(self.shared.options.patience, receiver).await {
            Ok(result) => result.unwrap_or(Err(AuditError::Closed)),
            Err(_) => Err(AuditError::Overloaded),
        }
    }

    fn queue(&self, line: Vec<u8>) -> Result<(), AuditError> {
        self.shared.put(&line, None)
    }

    fn file(&self) -> Option<&std::path::Path> {
        Some(&self.shared.options.path)
    }
}

fn open(path: &Path) -> Result<File, AuditError> {
    let refuse = |what: String| AuditError::Write {
        what: format!("{}: {what}", path.display()),
    };
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        // Not blocking on a FIFO somebody put there; no effect on a regular file.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
        .open(path)
        .map_err(|error| refuse(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file".to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))
            .map_err(|error| refuse(format!("its mode cannot be set to 0600: {error}")))?;
    }
    Ok(file)
}
