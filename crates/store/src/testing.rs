//! Things that fail on command: a disk, an engine, and a clock that only moves when told.
//!
//! For this crate's tests and for those of the crates above. Nothing here is used by a running server, and nothing here makes
//! the wall clock lie.

mod engines;
pub mod etcd;

pub use engines::{CuttableEngine, FaultyEngine, Hangs};

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::BootClock;
use crate::engine::embedded::{Disk, DiskFile, HostDisk, Identity};

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

    fn free(&self, _: &Path) -> io::Result<u64> {
        let state = self.state();
        let capacity = state.capacity.unwrap_or(u64::MAX);
        Ok(capacity.saturating_sub(state.used()))
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
