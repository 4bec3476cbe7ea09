//! Things that fail on command: a disk, an engine, and a clock that only moves when told.
//!
//! For this crate's tests and for those of the crates above. Nothing here is used by a running server, and nothing here makes
//! the wall clock lie.

pub mod etcd;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::BootClock;
use crate::engine::embedded::{Disk, DiskFile, HostDisk, Identity};
use crate::engine::{
    Engine, EngineStatus, RawCommitError, RawDue, RawEntry, RawPage, RawTransaction, RawWatch,
};
use crate::{Mark, Outcome, StoreError};

/// A boot-time clock that moves when told.
#[derive(Debug, Default)]
pub struct ManualBootClock(Mutex<Duration>);

impl ManualBootClock {
    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl BootClock for ManualBootClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the engine asks of a disk. Where it fails, it fails with an I/O error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskOperation {
    /// Opening a file.
    Open,
    /// Reading.
    Read,
    /// Writing. One that fails has written its first half.
    Write,
    /// Changing the length.
    SetLen,
    /// Looking which file is at a path. Where it fails, the file is gone.
    Identify,
    /// Flushing. After one that failed, any of what was written since the one before may be lost.
    Sync,
}

const BLOCK: u64 = 4096;

#[derive(Default)]
struct DiskState {
    capacity: Option<u64>,
    /// Blocks that were written: like on a real disk, only they take room.
    blocks: HashMap<PathBuf, HashSet<u64>>,
    reserved: HashMap<PathBuf, u64>,
    /// Per operation: how many pass, and how many fail then.
    planned: HashMap<DiskOperation, (u64, u64)>,
    /// One in so many operations fails, by this generator.
    random: Option<(u64, XorShift)>,
    vanished: bool,
    /// Per file, since its last flush: where was written, and what was there before.
    unflushed: HashMap<PathBuf, Vec<(u64, Vec<u8>)>>,
    done: HashMap<DiskOperation, u64>,
}

impl DiskState {
    fn used(&self) -> u64 {
        self.blocks
            .values()
            .map(|blocks| blocks.len() as u64 * BLOCK)
            .sum::<u64>()
            + self.reserved.values().sum::<u64>()
    }

    fn fits(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used() + more > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

/// A disk of this host that fails on command. Clones are the same disk.
#[derive(Clone, Default)]
pub struct FaultyDisk {
    state: Arc<Mutex<DiskState>>,
}

impl FaultyDisk {
    /// A disk that does not fail yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many bytes the disk holds; `None` for any number.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes in use, the reserve included.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// Lets `pass` more operations of this kind succeed and the `fail` after them fail.
    pub fn fail(&self, operation: DiskOperation, pass: u64, fail: u64) {
        self.state().planned.insert(operation, (pass, fail));
    }

    /// Lets one in `one_in` operations fail, chosen by `seed`; `None` for none.
    pub fn fail_randomly(&self, plan: Option<(u64, u64)>) {
        self.state().random = plan.map(|(one_in, seed)| (one_in.max(1), XorShift::new(seed)));
    }

    /// Takes the files away from their paths, as an unmounting does: those who have them open do not notice.
    pub fn set_vanished(&self, vanished: bool) {
        self.state().vanished = vanished;
    }

    /// The power fails: any of what was not flushed may be lost, by this seed. The store that is open must not be used any more;
    /// let all operations fail before this is called.
    ///
    /// # Errors
    /// Those of the host's disk.
    pub fn cut_power(&self, seed: u64) -> io::Result<()> {
        let paths: Vec<PathBuf> = self.state().unflushed.keys().cloned().collect();
        let mut random = XorShift::new(seed);
        for path in paths {
            self.lose(&path, &*HostDisk.open(&path, false)?, &mut random)?;
        }
        Ok(())
    }

    fn lose(&self, path: &Path, file: &dyn DiskFile, random: &mut XorShift) -> io::Result<()> {
        let writes = self.state().unflushed.remove(path).unwrap_or_default();
        for (offset, before) in writes.into_iter().rev() {
            if random.below(2) == 0 && offset + before.len() as u64 <= file.len()? {
                file.write(offset, &before)?;
            }
        }
        Ok(())
    }

    /// Operations of this kind so far.
    #[must_use]
    pub fn count(&self, operation: DiskOperation) -> u64 {
        self.state().done.get(&operation).copied().unwrap_or(0)
    }

    fn step(&self, operation: DiskOperation) -> io::Result<()> {
        let mut state = self.state();
        *state.done.entry(operation).or_default() += 1;
        if let Some((pass, fail)) = state.planned.get_mut(&operation) {
            if *pass > 0 {
                *pass -= 1;
            } else if *fail > 0 {
                *fail -= 1;
                return Err(io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32));
            }
        }
        let unlucky = state
            .random
            .as_mut()
            .is_some_and(|(one_in, random)| random.below(*one_in) == 0);
        if unlucky {
            Err(io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32))
        } else {
            Ok(())
        }
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.step(DiskOperation::Read)?;
        self.file.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut before = vec![0; data.len()];
        self.file.read(offset, &mut before)?;
        self.disk
            .state()
            .unflushed
            .entry(self.path.clone())
            .or_default()
            .push((offset, before));
        if let Err(error) = self.disk.step(DiskOperation::Write) {
            self.file
                .write(offset, data.get(..data.len() / 2).unwrap_or_default())?;
            return Err(error);
        }
        let touched: Vec<u64> =
            (offset / BLOCK..(offset + data.len() as u64).div_ceil(BLOCK)).collect();
        {
            let mut state = self.disk.state();
            let have = state.blocks.entry(self.path.clone()).or_default();
            let new = touched.iter().filter(|block| !have.contains(block)).count() as u64;
            // Nothing new is asked of a disk that is over its limit already.
            if new > 0 {
                state.fits(new * BLOCK)?;
            }
            state
                .blocks
                .entry(self.path.clone())
                .or_default()
                .extend(touched);
        }
        self.file.write(offset, data)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.step(DiskOperation::SetLen)?;
        self.file.set_len(length)?;
        if let Some(blocks) = self.disk.state().blocks.get_mut(&self.path) {
            blocks.retain(|block| block * BLOCK < length);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step(DiskOperation::Sync)?;
        self.disk.state().unflushed.remove(&self.path);
        // Only this simulated disk loses anything, so nothing has to reach the real one.
        Ok(())
    }

    fn forget(&self) -> io::Result<()> {
        let seed = self.disk.count(DiskOperation::Sync);
        self.disk
            .lose(&self.path, &*self.file, &mut XorShift::new(seed))
    }

    fn identity(&self) -> io::Result<Identity> {
        self.file.identity()
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        self.step(DiskOperation::Open)?;
        if self.state().vanished {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = HostDisk.open(path, create)?;
        Ok(Box::new(FaultyFile {
            disk: self.clone(),
            path: path.to_owned(),
            file,
        }))
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        self.step(DiskOperation::Identify)?;
        if self.state().vanished {
            return Err(io::ErrorKind::NotFound.into());
        }
        HostDisk.identity(path)
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        let held = state.reserved.get(path).copied().unwrap_or(0);
        state.fits(bytes.saturating_sub(held))?;
        state.reserved.insert(path.to_owned(), bytes);
        Ok(())
    }

    fn release(&self, path: &Path) -> io::Result<()> {
        self.state().reserved.remove(path);
        Ok(())
    }
}

/// An engine before another that fails at points chosen by a seed: before the other was asked, or after it has answered.
pub struct FaultyEngine {
    inner: Arc<dyn Engine>,
    active: AtomicBool,
    one_in: u64,
    random: Mutex<XorShift>,
    injected: AtomicU64,
    committing: AtomicU64,
    records_read: AtomicU64,
}

/// A commit that somebody waits for.
struct Committing<'a>(&'a AtomicU64);

impl<'a> Committing<'a> {
    fn counted(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FaultyEngine {
    /// One in `one_in` calls fails, once [`FaultyEngine::set_active`].
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>, one_in: u64, seed: u64) -> Self {
        let random = Mutex::new(XorShift::new(seed));
        Self {
            inner,
            active: AtomicBool::new(false),
            one_in: one_in.max(1),
            random,
            injected: AtomicU64::new(0),
            committing: AtomicU64::new(0),
            records_read: AtomicU64::new(0),
        }
    }

    /// Records that were handed out so far, by reads and scans.
    #[must_use]
    pub fn records_read(&self) -> u64 {
        self.records_read.load(Ordering::SeqCst)
    }

    /// Commits that somebody waits for at the moment.
    #[must_use]
    pub fn committing(&self) -> u64 {
        self.committing.load(Ordering::SeqCst)
    }

    /// Begins or ends the failing.
    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Relaxed);
    }

    /// Failures so far.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    fn roll(&self) -> bool {
        let fails = self.active.load(Ordering::Relaxed)
            && self
                .random
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .below(self.one_in)
                == 0;
        if fails {
            self.injected.fetch_add(1, Ordering::Relaxed);
        }
        fails
    }

    fn before(&self) -> Result<(), StoreError> {
        if self.roll() {
            Err(StoreError::unavailable(
                "an injected failure before the call",
            ))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Engine for FaultyEngine {
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError> {
        self.before()?;
        let found = self.inner.read(keys).await?;
        let count = found.iter().flatten().count() as u64;
        self.records_read.fetch_add(count, Ordering::SeqCst);
        Ok(found)
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        self.before()?;
        let page = self.inner.scan(prefix, after, limit).await?;
        let count = page.entries.len() as u64;
        self.records_read.fetch_add(count, Ordering::SeqCst);
        Ok(page)
    }

    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError> {
        self.before()?;
        let _waited_for = Committing::counted(&self.committing);
        let answer = self.inner.commit(transaction).await?;
        if self.roll() {
            let cause = "an injected failure after the call".to_owned();
            return Err(StoreError::Unavailable {
                cause,
                outcome: Outcome::Unknown,
            }
            .into());
        }
        Ok(answer)
    }

    fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        self.inner.watch(prefix)
    }

    fn mark(&self, key: &[u8]) -> Option<Mark> {
        self.inner.mark(key)
    }

    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError> {
        self.before()?;
        self.inner.due(before, limit).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.before()?;
        self.inner.lease(name, holder, ttl).await
    }

    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError> {
        self.before()?;
        self.inner.renew_lease(name, fence, ttl).await
    }

    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.before()?;
        self.inner.release_lease(name, fence).await
    }

    fn status(&self) -> EngineStatus {
        self.inner.status()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

/// Marsaglia's xorshift: enough to choose where things fail, the same for the same seed.
#[derive(Clone, Debug)]
pub struct XorShift(u64);

impl XorShift {
    /// From any seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `n`, which must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n.max(1)
    }
}

/// A node's own way to an engine that several share: it can be cut, and what the engine's watches say can be held back.
pub struct CuttableEngine {
    inner: Arc<dyn Engine>,
    cut: AtomicBool,
    held: AtomicBool,
    hub: Arc<crate::Hub>,
    reads: AtomicU64,
}

impl CuttableEngine {
    /// A way that is whole. Must be called within a tokio runtime, which carries the changes.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>) -> Arc<Self> {
        use futures_util::StreamExt as _;
        let way = Arc::new(Self {
            inner: inner.clone(),
            cut: AtomicBool::new(false),
            held: AtomicBool::new(false),
            hub: Arc::default(),
            reads: AtomicU64::new(0),
        });
        let carrier = Arc::downgrade(&way);
        let mut watch = inner.watch(Vec::new());
        tokio::spawn(async move {
            let mut missed = false;
            while let Some(change) = watch.next().await {
                let Some(way) = carrier.upgrade() else { return };
                let stopped = way.cut.load(Ordering::SeqCst) || way.held.load(Ordering::SeqCst);
                match change {
                    _ if stopped => missed = true,
                    Some(change) if !missed => way.hub.publish(&change),
                    _ => {
                        missed = false;
                        way.hub.gap();
                    }
                }
            }
        });
        way
    }

    /// Cuts the way, or makes it whole again; what was missed meanwhile is a gap.
    pub fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    /// Holds back what watches say, while everything else works.
    pub fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// Reads so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    fn whole(&self) -> Result<(), StoreError> {
        if self.cut.load(Ordering::SeqCst) {
            Err(StoreError::unavailable("the way is cut"))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Engine for CuttableEngine {
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.whole()?;
        self.inner.read(keys).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        self.whole()?;
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError> {
        self.whole()?;
        self.inner.commit(transaction).await
    }

    fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        self.hub.watch(prefix)
    }

    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError> {
        self.whole()?;
        self.inner.due(before, limit).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.whole()?;
        self.inner.lease(name, holder, ttl).await
    }

    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError> {
        self.whole()?;
        self.inner.renew_lease(name, fence, ttl).await
    }

    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.whole()?;
        self.inner.release_lease(name, fence).await
    }

    fn status(&self) -> EngineStatus {
        self.inner.status()
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
