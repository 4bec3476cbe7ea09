//! The audit log in a file: one thread writes, everybody who waits in the meantime shares its next write.
//!
//! Promises: mode 0600; a line is never torn, also when the disk fills up in the middle of one; a file that was renamed or removed is
//! noticed within a second and opened anew; what waits is bounded. Wastes one thread.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nix::fcntl::OFlag;
use tokio::sync::oneshot;

use super::{AuditError, AuditSink};

/// How a [`FileAudit`] behaves.
#[derive(Debug, Clone)]
pub struct FileAuditOptions {
    /// The file. Its directory must exist.
    pub path: PathBuf,
    /// Most bytes that may wait to be written; beyond, requests are refused.
    pub pending_bytes: usize,
    /// How often to look whether the file still has its name.
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

/// An audit log in a file.
#[derive(Debug)]
pub struct FileAudit {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    options: FileAuditOptions,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    waiters: Vec<oneshot::Sender<Result<(), AuditError>>>,
    reopen: bool,
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

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(
        &self,
        line: &[u8],
        waiter: Option<oneshot::Sender<Result<(), AuditError>>>,
    ) -> Result<(), AuditError> {
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
            state.waiters.extend(waiter);
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

    /// Waits until there is something to write. Behind a write it lingers, so that under load only those wake the thread who wait
    /// for it; then it sleeps.
    fn gather(&self) -> MutexGuard<'_, State> {
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
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.rest = Rest::Awake;
        state
    }
}

impl FileAudit {
    /// Opens the file, making it when it is missing, and starts the writing thread.
    ///
    /// # Errors
    /// When the file cannot be opened for appending, is not a regular file or not ours to restrict to mode 0600.
    pub fn open(options: FileAuditOptions) -> Result<FileAudit, AuditError> {
        let file = open(&options.path)?;
        let shared = Arc::new(Shared {
            options,
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                Writer {
                    shared: for_thread,
                    file,
                    checked: Instant::now(),
                    complained: None,
                }
                .run()
            })
            .map_err(|error| AuditError::Write {
                what: error.to_string(),
            })?;
        Ok(FileAudit {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Opens the file anew before the next line, as after a SIGHUP.
    pub fn reopen(&self) {
        let mut state = self.shared.state();
        state.reopen = true;
        state.rest = Rest::Awake;
        drop(state);
        self.shared.wake.notify_one();
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

struct Writer {
    shared: Arc<Shared>,
    file: File,
    checked: Instant,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let mut lines = Vec::new();
        let mut waiters = Vec::new();
        loop {
            let (reopen, closed) = {
                let mut state = self.shared.gather();
                std::mem::swap(&mut state.lines, &mut lines);
                std::mem::swap(&mut state.waiters, &mut waiters);
                (std::mem::take(&mut state.reopen), state.closed)
            };
            if reopen || self.checked.elapsed() >= self.shared.options.check_every {
                self.follow_name(reopen);
            }
            let result = self.append(&lines);
            if let Err(error) = &result {
                self.complain(error);
            }
            for waiter in waiters.drain(..) {
                // A waiter that lost patience is gone.
                let _ = waiter.send(result.clone());
            }
            lines.clear();
            if lines.capacity() > 1 << 20 {
                lines = Vec::new();
            }
            if closed && self.shared.state().lines.is_empty() {
                return;
            }
        }
    }

    /// Opens the name anew when it stands for another file, or when told to. On failure the old file goes on being used.
    fn follow_name(&mut self, always: bool) {
        self.checked = Instant::now();
        let path = &self.shared.options.path;
        let same = || -> Option<bool> {
            let named = std::fs::symlink_metadata(path).ok()?;
            let held = self.file.metadata().ok()?;
            Some((named.dev(), named.ino()) == (held.dev(), held.ino()))
        };
        if !always && same() == Some(true) {
            return;
        }
        match open(path) {
            Ok(file) => self.file = file,
            Err(error) => self.complain(&error),
        }
    }

    fn append(&mut self, lines: &[u8]) -> Result<(), AuditError> {
        let mut written = 0;
        while written < lines.len() {
            match self.file.write(&lines[written..]) {
                Ok(0) => return Err(self.undo(written, "the file takes no more".to_owned())),
                Ok(count) => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.undo(written, error.to_string())),
            }
        }
        Ok(())
    }

    /// Takes back a batch that went in only partly, so that no line is torn and none stands for a request that was refused.
    fn undo(&self, written: usize, what: String) -> AuditError {
        if written > 0
            && let Ok(metadata) = self.file.metadata()
        {
            // Without success the next line follows a torn one; there is nothing else to be done.
            let _ = self
                .file
                .set_len(metadata.len().saturating_sub(written as u64));
        }
        AuditError::Write { what }
    }

    fn complain(&mut self, error: &AuditError) {
        if self
            .complained
            .is_none_or(|last| last.elapsed() > Duration::from_secs(10))
        {
            self.complained = Some(Instant::now());
            tracing::error!(path = %self.shared.options.path.display(), %error, "audit log");
        }
    }
}

fn open(path: &Path) -> Result<File, AuditError> {
    let refuse = |what: String| AuditError::Write {
        what: format!("{}: {what}", path.display()),
    };
    let file = OpenOptions::new()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn options(directory: &Path) -> FileAuditOptions {
        FileAuditOptions {
            check_every: Duration::ZERO,
            ..FileAuditOptions::new(directory.join("audit.log"))
        }
    }

    #[tokio::test]
    async fn lines_are_there_when_write_returns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let audit = FileAudit::open(options(directory.path())).unwrap();
        audit.write(b"one\n".to_vec()).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
        audit.queue(b"two\n".to_vec()).unwrap();
        audit.write(b"three\n".to_vec()).await.unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            b"one\ntwo\nthree\n",
            "in order"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        audit.close();
        assert_eq!(
            audit.write(b"four\n".to_vec()).await,
            Err(AuditError::Closed)
        );
    }

    #[tokio::test]
    async fn a_renamed_file_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        std::fs::write(&path, b"").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let audit = FileAudit::open(options(directory.path())).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().mode() & 0o777,
            0o600,
            "a wider mode is narrowed"
        );
        audit.write(b"one\n".to_vec()).await.unwrap();
        std::fs::rename(&path, directory.path().join("audit.log.1")).unwrap();
        audit.write(b"two\n".to_vec()).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
        std::fs::remove_file(&path).unwrap();
        audit.reopen();
        audit.write(b"three\n".to_vec()).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        assert_eq!(
            std::fs::read(directory.path().join("audit.log.1")).unwrap(),
            b"one\n"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_at_once_are_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Arc::new(FileAudit::open(options(directory.path())).unwrap());
        let tasks: Vec<_> = (0..64)
            .map(|task| {
                let audit = Arc::clone(&audit);
                tokio::spawn(async move {
                    for line in 0..20 {
                        audit
                            .write(format!("{task} {line} {}\n", "x".repeat(task)).into_bytes())
                            .await
                            .unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let text = std::fs::read_to_string(directory.path().join("audit.log")).unwrap();
        assert_eq!(text.lines().count(), 64 * 20);
        assert!(text.lines().all(|line| {
            let mut parts = line.split(' ');
            let task: usize = parts.next().unwrap().parse().unwrap();
            parts.nth(1).unwrap().len() == task
        }));
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_recovers() {
        // /dev/full is not a regular file, so it stands in for the opened file directly.
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            options: FileAuditOptions {
                check_every: Duration::from_secs(3600),
                ..options(directory.path())
            },
            state: Mutex::default(),
            wake: Condvar::new(),
        });
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut writer = Writer {
            shared,
            file: full,
            checked: Instant::now(),
            complained: None,
        };
        assert!(matches!(
            writer.append(b"one\n"),
            Err(AuditError::Write { .. })
        ));
        writer.follow_name(true);
        writer.append(b"two\n").unwrap();
        assert_eq!(
            std::fs::read(directory.path().join("audit.log")).unwrap(),
            b"two\n"
        );
        let error = writer.undo(2, "no space".to_owned());
        assert!(error.to_string().contains("no space"));
        assert_eq!(
            std::fs::read(directory.path().join("audit.log")).unwrap(),
            b"tw",
            "what a failed batch had written is taken back"
        );
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let audit = FileAudit::open(FileAuditOptions {
            pending_bytes: 8,
            ..options(directory.path())
        })
        .unwrap();
        assert_eq!(
            audit.write(vec![b'x'; 9]).await,
            Err(AuditError::Overloaded)
        );
        audit.write(b"fits\n".to_vec()).await.unwrap();
    }

    #[test]
    fn odd_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", directory.path().join("audit.log")).unwrap();
        assert!(FileAudit::open(options(directory.path())).is_err());
        assert!(FileAudit::open(FileAuditOptions::new("/dev/null")).is_err());
        assert!(
            FileAudit::open(FileAuditOptions::new(
                directory.path().join("missing/audit.log")
            ))
            .is_err()
        );
    }
}
