//! The committer: the one thread that writes. Takes all that is queued and makes one durable write of it.
//!
//! Owns the order of commits, what happens on a full disk, on an I/O error and on a vanished directory, and the promise that
//! nothing is answered as committed that is not durable in the file that was opened. Knows nothing of how a batch is written.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::database::{Batch, DataFile, Failure};
use super::directory::{self, Lock};
use super::disk::Disk;
use crate::engine::{RawCommitError, RawTransaction};
use crate::{Outcome, StoreError};

/// Transactions that may wait; who comes then waits outside.
pub(crate) const QUEUE: usize = 1024;
/// Most bytes written at once, so that redb's write buffer (half its cache) holds a batch.
const BATCH_BYTES: usize = 6 * 1024 * 1024;
/// What has to be free beside the reserve before a disk that was full is called one with room: a write may do without more, out of what
/// is free inside the file, while the next one can not.
const ROOM: u64 = 1024 * 1024;
/// So many writes that need room, one after the other, are proof of it, whatever the disk says is free.
const PROOF: u32 = 100;
/// How long a batch waits, at most, for those who were in the last one and are likely to come again; it stops waiting when
/// nobody has come for [`QUIET`]. Together far less than what is won: a flush to disk per batch.
const GATHER: Duration = Duration::from_millis(1);
const QUIET: Duration = Duration::from_micros(100);

type Answer = Result<u64, RawCommitError>;

/// Something for the committer to do.
pub(crate) enum Job {
    /// Commit this.
    Commit(
        RawTransaction,
        oneshot::Sender<Answer>,
        OwnedSemaphorePermit,
    ),
    /// Open the file anew unless that was done since this generation.
    Reopen(u64, oneshot::Sender<Result<(), StoreError>>),
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// The committer is not woken for fewer.
    wanted: usize,
    closed: bool,
}

/// The queue before the committer.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Queue {
    /// Gives the job back if the queue is closed.
    pub(crate) fn push(&self, job: Job) -> Result<(), Job> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return Err(job);
        }
        waiting.jobs.push_back(job);
        let enough = waiting.jobs.len() >= waiting.wanted;
        drop(waiting);
        if enough {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// No more jobs; those queued are still done.
    pub(crate) fn close(&self) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.arrived.notify_all();
    }

    /// All that waits, once something does; a little later if `expected` more are likely to come at once.
    fn take(&self, expected: usize) -> Option<VecDeque<Job>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.wanted = 1;
        while waiting.jobs.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting = self
                .arrived
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        waiting.wanted = expected;
        let begun = Instant::now();
        let mut seen = 0;
        while waiting.jobs.len() < expected
            && waiting.jobs.len() > seen
            && !waiting.closed
            && begun.elapsed() < GATHER
        {
            seen = waiting.jobs.len();
            waiting = self
                .arrived
                .wait_timeout(waiting, QUIET)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Some(std::mem::take(&mut waiting.jobs))
    }
}

/// Ends the queue however its committer ends, so that nobody waits for an answer that will not come.
struct Abandon(Arc<Queue>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.close();
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .jobs
            .clear();
    }
}

/// Why writes are refused at the moment, for [`crate::Store::status`].
#[derive(Default)]
pub(crate) struct Refusal {
    pub(crate) full: AtomicBool,
    /// What needed room and was written since the disk was last found full.
    pub(crate) written: AtomicU32,
    pub(crate) vanished: AtomicBool,
}

pub(crate) struct Committer {
    pub(crate) file: Arc<DataFile>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) refusal: Arc<Refusal>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) reserve_bytes: u64,
    /// Let go of last of all.
    pub(crate) lock: Lock,
}

struct Pending {
    transaction: RawTransaction,
    answer: oneshot::Sender<Answer>,
}

impl Committer {
    /// Works until the queue is closed and empty, then closes the file.
    pub(crate) fn run(self) -> Result<(), StoreError> {
        let _last = Abandon(self.queue.clone());
        let mut last = 0;
        while let Some(jobs) = self.queue.take(last) {
            last = 0;
            let mut batch = Vec::new();
            let mut bytes = 0;
            for job in jobs {
                match job {
                    Job::Commit(transaction, answer, permit) => {
                        let size: usize = transaction
                            .puts
                            .iter()
                            .map(|put| put.value.len() + put.key.len())
                            .sum();
                        if bytes + size > BATCH_BYTES && !batch.is_empty() {
                            self.commit(std::mem::take(&mut batch));
                            bytes = 0;
                        }
                        bytes += size;
                        last += 1;
                        batch.push(Pending {
                            transaction,
                            answer,
                        });
                        drop(permit);
                    }
                    Job::Reopen(generation, answer) => {
                        // The waiter may have gone; the reopening was needed all the same.
                        let _ = answer.send(
                            self.reopen(generation)
                                .map_err(|failure| self.error(failure, Outcome::NotApplied)),
                        );
                    }
                }
            }
            if !batch.is_empty() {
                self.commit(batch);
            }
        }
        let mut closed = self.file.close();
        if matches!(closed, Err(Failure::Broken(_))) {
            // A failure of before, which the next start would mend: better now.
            let reopened = self.file.reopen(self.file.generation());
            closed = reopened.and_then(|()| self.file.close());
        }
        let closed = closed.map_err(|failure| self.error(failure, Outcome::NotApplied));
        drop(self.lock);
        closed
    }

    fn error(&self, failure: Failure, outcome: Outcome) -> StoreError {
        failure.into_error(&self.directory, outcome)
    }

    fn reopen(&self, generation: u64) -> Result<(), Failure> {
        let result = self.file.reopen(generation);
        // It may hold a batch whose outcome was not known.
        self.file.marks.all_written();
        match &result {
            Ok(()) => tracing::info!("the data file was opened anew after a failure"),
            Err(failure) => tracing::warn!(%failure, "the data file could not be opened anew"),
        }
        result
    }

    /// Commits a batch and answers everybody in it.
    fn commit(&self, batch: Vec<Pending>) {
        let in_place = self.file.is_in_place();
        self.note_vanished(!in_place);
        if !in_place {
            // Nothing is written, so nothing of this is unknown; but an earlier batch may be.
            return refuse(batch, &self.error(Failure::Vanished, Outcome::NotApplied));
        }
        let batch = self.admit(batch);
        if batch.is_empty() {
            return;
        }
        match self.write(&batch) {
            Ok(done) => {
                self.look_for_room(&batch, &done);
                self.acknowledge(batch, &done);
            }
            Err((Failure::Full, Outcome::NotApplied)) => {
                self.refusal.written.store(0, Ordering::Relaxed);
                self.note_full(true);
                self.release_reserve();
                let (critical, other): (Vec<_>, Vec<_>) = batch
                    .into_iter()
                    .partition(|pending| may_use_reserve(&pending.transaction));
                refuse(other, &self.error(Failure::Full, Outcome::NotApplied));
                if critical.is_empty() {
                    return;
                }
                match self.write(&critical) {
                    Ok(done) => self.acknowledge(critical, &done),
                    Err((failure, outcome)) => refuse(critical, &self.error(failure, outcome)),
                }
            }
            Err((failure, outcome)) => refuse(batch, &self.error(failure, outcome)),
        }
    }

    /// While the disk is full, lets pass what needs no room, and everything else when the reserve is there: whether there is room for
    /// more than the reserve, only the write itself tells.
    fn admit(&self, batch: Vec<Pending>) -> Vec<Pending> {
        if !self.refusal.full.load(Ordering::Relaxed) {
            return batch;
        }
        if batch
            .iter()
            .any(|pending| !may_use_reserve(&pending.transaction))
            && self.reserve().is_ok()
        {
            return batch;
        }
        let (critical, other): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|pending| may_use_reserve(&pending.transaction));
        refuse(other, &self.error(Failure::Full, Outcome::NotApplied));
        critical
    }

    /// Writes a batch, with one more try on a file opened anew. Says what became of it if that fails too.
    fn write(&self, batch: &[Pending]) -> Result<Batch, (Failure, Outcome)> {
        let transactions: Vec<&RawTransaction> =
            batch.iter().map(|pending| &pending.transaction).collect();
        let mut retried = false;
        loop {
            let generation = self.file.generation();
            if !self.file.is_open() {
                // Opened first, so that what an earlier batch left is not taken for this one's.
                self.reopen(generation)
                    .map_err(|failure| (failure, Outcome::NotApplied))?;
                continue;
            }
            let before = self.file.sequence();
            let mut done = Batch::default();
            let Err(failure) = self.file.write(&transactions, &mut done) else {
                return Ok(done);
            };
            tracing::warn!(%failure, "a batch could not be written");
            if let Err(again) = self.reopen(generation) {
                self.gap();
                return Err((again, Outcome::Unknown));
            }
            // The sequence is part of each write: what the file says now tells whether this one arrived. If it did, one more
            // flush tells whether it is there to stay.
            if self.file.sequence() != before {
                if self.file.sequence() == done.sequence && self.file.confirm().is_ok() {
                    return Ok(done);
                }
                self.gap();
                return Err((Failure::Broken(failure.to_string()), Outcome::Unknown));
            }
            if retried || matches!(failure, Failure::Full | Failure::Closed) {
                return Err((failure, Outcome::NotApplied));
            }
            retried = true;
        }
    }

    /// Answers a batch that is durable. The last look at the directory is here: what went into a file that nobody will ever
    /// open again is not acknowledged.
    fn acknowledge(&self, batch: Vec<Pending>, done: &Batch) {
        if !self.file.is_in_place() {
            self.note_vanished(true);
            return refuse(batch, &self.error(Failure::Vanished, Outcome::Unknown));
        }
        for change in &done.changes {
            self.file.hub.publish(change);
        }
        for pending in &batch {
            let puts = pending.transaction.puts.iter().map(|put| &put.key);
            puts.chain(&pending.transaction.deletes)
                .for_each(|key| self.file.marks.written(key));
        }
        for (pending, outcome) in batch.into_iter().zip(&done.outcomes) {
            // A waiter that is gone does not undo what it asked for.
            let _ = pending
                .answer
                .send(outcome.map_err(RawCommitError::Conflict));
        }
    }

    fn note_full(&self, full: bool) {
        if self.refusal.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::error!(directory = %self.directory.display(), "the disk is full: writes are refused, reads and deletions go on");
            } else {
                tracing::info!(directory = %self.directory.display(), "there is room on the disk again: writes are accepted");
            }
        }
    }

    fn note_vanished(&self, vanished: bool) {
        if self.refusal.vanished.swap(vanished, Ordering::Relaxed) != vanished {
            if vanished {
                tracing::error!(directory = %self.directory.display(), "the data directory has disappeared or was replaced: writes are refused");
            } else {
                tracing::info!(directory = %self.directory.display(), "the data directory is back");
            }
            self.gap();
        }
    }

    /// What became of a batch is not known: any key may have been written.
    fn gap(&self) {
        self.file.marks.all_written();
        self.file.hub.gap();
    }

    /// Calls the disk one with room again when something that needs room was written while the reserve was there, and more is free; or
    /// when that has gone well for long, as it does with what deletions have freed inside the file.
    fn look_for_room(&self, batch: &[Pending], done: &Batch) {
        if !self.refusal.full.load(Ordering::Relaxed) {
            return;
        }
        let answers = batch.iter().zip(&done.outcomes);
        let wrote = answers
            .filter(|(pending, outcome)| outcome.is_ok() && !may_use_reserve(&pending.transaction))
            .count();
        if wrote == 0 {
            return;
        }
        let wrote = u32::try_from(wrote).unwrap_or(u32::MAX);
        let before = self.refusal.written.fetch_add(wrote, Ordering::Relaxed);
        // A disk that does not say how much is free has proved itself by the write.
        let more = || !matches!(self.disk.free(&self.directory), Ok(free) if free < ROOM);
        if before.saturating_add(wrote) >= PROOF || more() {
            self.note_full(false);
        }
    }

    /// Takes the reserve at the start; without it the disk is called full.
    pub(crate) fn take_reserve(&self) {
        self.note_full(self.reserve().is_err());
    }

    fn reserve(&self) -> std::io::Result<()> {
        let path = directory::reserve(&self.directory);
        self.disk.reserve(&path, self.reserve_bytes)
    }

    pub(crate) fn release_reserve(&self) {
        if let Err(error) = self.disk.release(&directory::reserve(&self.directory)) {
            tracing::warn!(%error, "the space set aside could not be given back");
        }
    }
}

fn may_use_reserve(transaction: &RawTransaction) -> bool {
    transaction.critical || transaction.puts.is_empty()
}

fn refuse(batch: Vec<Pending>, error: &StoreError) {
    for pending in batch {
        let _ = pending
            .answer
            .send(Err(RawCommitError::Store(error.clone())));
    }
}
