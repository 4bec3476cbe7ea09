//! The embedded engine: redb in a directory of this host, for a single server.
//!
//! Readers read directly, in the task that asks. Writers queue before the one committer thread (`committer`), which makes one
//! durable write of all that waits (`database`). `directory` guards what lies on disk, `disk` is what tests replace by a
//! failing one.
//!
//! Promises: an acknowledged commit survives a kill and a power failure as far as the disk keeps its own promise. A disk that is
//! full refuses writes that need room and nothing else, and recovers by itself. After an I/O error the file is opened anew. If
//! the directory is unmounted or replaced, writes are refused from the next batch on, and the batch during which it happened is
//! not acknowledged; the same directory mounted again is taken up again, any other needs a restart.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use self::committer::{Committer, Job, QUEUE, Queue, Refusal};
use self::database::{DataFile, Failure};
use self::directory::State;
pub use self::disk::{Disk, DiskFile, HostDisk, Identity};
use super::lease::Leases;
use super::{
    Engine, EngineStatus, RawCommitError, RawDue, RawEntry, RawPage, RawTransaction, RawWatch,
};
use crate::clock::BootClock;
use crate::{Mark, Outcome, Remedy, StoreError};

mod backend;
mod committer;
mod database;
mod directory;
mod disk;

/// True if the directory holds a complete store, or data of one.
pub(crate) fn holds_data(directory: &Path) -> Result<bool, StoreError> {
    Ok(matches!(
        directory::state(directory)?,
        State::Ready | State::Copying
    ))
}

/// Notes in the directory that a store is about to be made in it.
pub(crate) fn announce_initialising(directory: &Path) -> Result<(), StoreError> {
    directory::announce(directory, State::Initialising)
}

/// Notes that a store was copied into the directory whole.
pub(crate) fn complete_copy(directory: &Path) -> Result<(), StoreError> {
    directory::complete(directory)
}

/// What is stored under `key` by a server that does not run; nothing is changed, so a file that has to be mended first is refused.
pub(crate) fn glance(directory: &Path, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let _lock = directory::lock_shared(directory)?;
    database::glance(&directory::data(directory), key)
        .map_err(|failure| failure.into_error(directory, Outcome::NotApplied))
}

/// Whether a new store may be made, by what the directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MayInitialise {
    /// In a directory without anything of ours.
    pub(crate) empty: bool,
    /// In one where an earlier start was interrupted.
    pub(crate) interrupted: bool,
    /// By copying another one: where there is none, also where an earlier copy was interrupted.
    pub(crate) copy: bool,
}

/// The embedded engine.
pub struct Embedded {
    file: Arc<DataFile>,
    queue: Arc<Queue>,
    room: Arc<Semaphore>,
    refusal: Arc<Refusal>,
    leases: Leases,
    directory: PathBuf,
    thread: Mutex<Option<JoinHandle<Result<(), StoreError>>>>,
    initialising: bool,
}

/// How the engine is opened.
pub(crate) struct Settings {
    pub(crate) directory: PathBuf,
    pub(crate) reserve_bytes: u64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn BootClock>,
    pub(crate) may_initialise: MayInitialise,
}

impl Embedded {
    pub(crate) fn open(settings: Settings) -> Result<Self, StoreError> {
        let Settings {
            directory,
            reserve_bytes,
            disk,
            clock,
            may_initialise,
        } = settings;
        let wants_initialising = |state| match state {
            State::Ready if may_initialise.copy => Err(StoreError::NotEmpty {
                place: directory.display().to_string(),
            }),
            State::Ready => Ok(false),
            _ if may_initialise.copy => Ok(true),
            State::Copying => Err(StoreError::IncompleteCopy {
                place: directory.display().to_string(),
            }),
            State::Empty if may_initialise.empty => Ok(true),
            State::Initialising if may_initialise.interrupted => Ok(true),
            State::Empty | State::Initialising => Err(StoreError::NotInitialised {
                path: directory.clone(),
            }),
        };
        if wants_initialising(directory::state(&directory)?)? {
            let state = if may_initialise.copy {
                State::Copying
            } else {
                State::Initialising
            };
            directory::announce(&directory, state)?;
        }
        let lock = directory::lock(&directory)?;
        // Once more under the lock: another process may have been quicker.
        let initialising = wants_initialising(directory::state(&directory)?)?;

        let fail = |failure: Failure| failure.into_error(&directory, Outcome::NotApplied);
        let path = directory::data(&directory);
        if initialising {
            directory::clear(&directory)?;
        } else if !path
            .try_exists()
            .map_err(|error| directory::problem(&directory, &error))?
        {
            return Err(StoreError::Damaged {
                what: format!(
                    "the store in {} (its data file is missing)",
                    directory.display()
                ),
            });
        }
        let file = DataFile::open(disk.clone(), path, initialising).map_err(fail)?;
        let file = Arc::new(file);
        let refusal = Arc::new(Refusal::default());
        let queue = Arc::new(Queue::default());
        let committer = Committer {
            file: file.clone(),
            queue: queue.clone(),
            refusal: refusal.clone(),
            disk,
            directory: directory.clone(),
            reserve_bytes,
            lock,
        };
        file.begin_epoch();
        let mut started = file.make_tables();
        if started == Err(Failure::Full) && !initialising {
            // The reserve of the last run is room enough to start. Where even that is gone, reads are worth a start.
            committer.release_reserve();
            started = file
                .reopen(file.generation())
                .and_then(|()| file.make_tables());
            if started == Err(Failure::Full) {
                started = file.reopen(file.generation());
            }
        }
        started.map_err(fail)?;
        committer.take_reserve();
        let leases = Leases::new(clock, file.epoch());
        let thread = std::thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || committer.run())
            .map_err(StoreError::unavailable)?;
        Ok(Self {
            file,
            queue,
            room: Arc::new(Semaphore::new(QUEUE)),
            refusal,
            leases,
            directory,
            thread: Mutex::new(Some(thread)),
            initialising,
        })
    }

    /// True if the store above has still to be made.
    pub(crate) fn is_initialising(&self) -> bool {
        self.initialising
    }

    /// Notes that the store above has been made.
    pub(crate) fn completed(&self) -> Result<(), StoreError> {
        directory::complete(&self.directory)
    }

    /// Reads, with one more try on a file opened anew.
    async fn reading<T>(
        &self,
        read: impl Fn(&DataFile) -> Result<T, Failure> + Send + Sync,
    ) -> Result<T, StoreError> {
        let generation = self.file.generation();
        let failure = match read(&self.file) {
            Ok(found) => return Ok(found),
            Err(failure) => failure,
        };
        if matches!(failure, Failure::Broken(_)) {
            let (answer, answered) = oneshot::channel();
            self.queue
                .push(Job::Reopen(generation, answer))
                .map_err(|_| StoreError::Closed)?;
            answered.await.map_err(|_| StoreError::Closed)??;
            return read(&self.file)
                .map_err(|failure| failure.into_error(&self.directory, Outcome::NotApplied));
        }
        Err(failure.into_error(&self.directory, Outcome::NotApplied))
    }

    fn thread(&self) -> Option<JoinHandle<Result<(), StoreError>>> {
        self.thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

#[async_trait]
impl Engine for Embedded {
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError> {
        self.reading(|file| file.get(keys)).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        self.reading(|file| file.scan(prefix, after, limit)).await
    }

    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError> {
        let permit = self
            .room
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let (answer, answered) = oneshot::channel();
        self.queue
            .push(Job::Commit(transaction, answer, permit))
            .map_err(|_| StoreError::Closed)?;
        answered.await.unwrap_or_else(|_| {
            // The committer ended without an answer, which only a fault of ours can bring about.
            Err(StoreError::Unavailable {
                cause: "the committer has stopped".to_owned(),
                outcome: Outcome::Unknown,
                remedy: Remedy::Disk,
            }
            .into())
        })
    }

    fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        self.file.hub.watch(prefix)
    }

    fn mark(&self, key: &[u8]) -> Option<Mark> {
        Some(self.file.marks.mark(key))
    }

    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError> {
        self.reading(|file| file.due(before, limit)).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        Ok(self.leases.take(name, holder, ttl))
    }

    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError> {
        Ok(self.leases.renew(name, fence, ttl))
    }

    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.leases.release(name, fence);
        Ok(())
    }

    fn status(&self) -> EngineStatus {
        let path = || self.directory.clone();
        let refusing_writes = if self.refusal.vanished.load(Ordering::Relaxed) {
            Some(StoreError::Vanished { path: path() })
        } else if self.refusal.full.load(Ordering::Relaxed) {
            Some(StoreError::Full { path: path() })
        } else {
            None
        };
        EngineStatus {
            engine: "embedded",
            epoch: self.file.epoch(),
            sequence: self.file.sequence(),
            entries: self.file.entries().ok(),
            bytes: self.file.bytes(),
            limit: None,
            refusing_writes,
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.queue.close();
        let Some(thread) = self.thread() else {
            return Ok(());
        };
        // A thread of its own joins, so that no runtime is needed and none is blocked.
        let (answer, answered) = oneshot::channel();
        std::thread::spawn(move || answer.send(thread.join().unwrap_or(Err(StoreError::Closed))));
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread() {
            // Waits for one batch at most: nobody is left who could queue more.
            let _ = thread.join();
        }
    }
}
