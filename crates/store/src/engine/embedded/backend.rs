//! redb's way to the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::StorageBackend;

use super::disk::DiskFile;

/// Passes redb's accesses on to a disk and notes what it must know of them.
pub(crate) struct Backend {
    pub(crate) file: Box<dyn DiskFile>,
    pub(crate) notes: Arc<Notes>,
}

/// What is noted of a file, over all its openings.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Its length.
    pub(crate) bytes: AtomicU64,
    /// A flush failed, and the kernel has not been made to forget what it holds of the file since.
    pub(crate) sync_failed: AtomicBool,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        let length = self.file.len()?;
        self.notes.bytes.store(length, Ordering::Relaxed);
        Ok(length)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.file.set_len(length)?;
        self.notes.bytes.store(length, Ordering::Relaxed);
        Ok(())
    }
    fn sync_data(&self) -> std::io::Result<()> {
        let result = self.file.sync();
        if result.is_err() {
            self.notes.sync_failed.store(true, Ordering::Relaxed);
        }
        result
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.file.write(offset, data)
    }
}
