//! The few things the embedded engine asks of a disk, so that tests can put a failing one in its place.
//!
//! Knows nothing of what is stored. [`crate::testing::FaultyDisk`] is the other implementation.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Tells whether the file at a path is the one that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

/// A file of a disk.
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// True if it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads exactly this range.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes exactly this range.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Sets the length; new bytes are zero.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Makes everything written durable.
    fn sync(&self) -> io::Result<()>;
    /// Makes the kernel forget what of it is not on the disk, so that what is read is what the disk has.
    fn forget(&self) -> io::Result<()>;
    /// Which file it is.
    fn identity(&self) -> io::Result<Identity>;
}

/// A disk.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing, made with mode 0600 where it may be made.
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>>;
    /// Which file is at this path.
    fn identity(&self, path: &Path) -> io::Result<Identity>;
    /// Makes the file at this path take up this many bytes of the disk.
    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Gives back what [`Disk::reserve`] took.
    fn release(&self, path: &Path) -> io::Result<()>;
    /// Bytes that are free for us where this directory is.
    fn free(&self, directory: &Path) -> io::Result<u64>;
}

/// The disk of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDisk;

struct HostFile(File);

fn identity(meta: &std::fs::Metadata) -> Identity {
    Identity {
        device: meta.dev(),
        inode: meta.ino(),
    }
}

impl DiskFile for HostFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn forget(&self) -> io::Result<()> {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        Ok(posix_fadvise(
            &self.0,
            0,
            0,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        )?)
    }
    fn identity(&self) -> io::Result<Identity> {
        self.0.metadata().map(|meta| identity(&meta))
    }
}

impl Disk for HostDisk {
    fn open(&self, path: &Path, create: bool) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(HostFile(file)))
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        std::fs::metadata(path).map(|meta| identity(&meta))
    }

    fn reserve(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        if bytes == 0 {
            return file.set_len(0);
        }
        if file.metadata()?.blocks().saturating_mul(512) >= bytes {
            return Ok(());
        }
        let result = allocate(&file, bytes);
        if result.is_err() {
            // Half a reserve would keep the last free blocks from those who could still use them.
            let _ = file.set_len(0);
        }
        result
    }

    fn release(&self, path: &Path) -> io::Result<()> {
        match OpenOptions::new().write(true).open(path) {
            Ok(file) => file.set_len(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn free(&self, directory: &Path) -> io::Result<u64> {
        let space = nix::sys::statvfs::statvfs(directory).map_err(io::Error::from)?;
        Ok(space
            .blocks_available()
            .saturating_mul(space.fragment_size()))
    }
}

fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use nix::errno::Errno;
        use nix::fcntl::{FallocateFlags, fallocate};
        let length = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
            other => return other.map_err(io::Error::from),
        }
    }
    let zeros = vec![0; 64 * 1024];
    let mut at = 0;
    while at < bytes {
        let n = zeros
            .len()
            .min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
        file.write_all_at(zeros.get(..n).unwrap_or_default(), at)?;
        at += n as u64;
    }
    file.sync_data()
}

/// True if the disk or the quota has no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_takes_its_room_and_gives_it_back() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("reserve");
        let taken = || std::fs::metadata(&path).unwrap().blocks() * 512;
        HostDisk.release(&path).unwrap();
        for _ in 0..2 {
            HostDisk.reserve(&path, 256 * 1024).unwrap();
            assert!(taken() >= 256 * 1024, "{}", taken());
        }
        HostDisk.release(&path).unwrap();
        assert_eq!(taken(), 0);
        HostDisk.reserve(&path, 0).unwrap();
        assert!(
            HostDisk
                .reserve(&scratch.path().join("none/reserve"), 1)
                .is_err()
        );
    }

    #[test]
    fn a_file_is_known_by_more_than_its_path() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        assert!(HostDisk.open(&path, false).is_err());
        let file = HostDisk.open(&path, true).unwrap();
        file.write(0, b"something").unwrap();
        file.sync().unwrap();
        file.forget().unwrap();
        let mut read = [0; 9];
        file.read(0, &mut read).unwrap();
        assert_eq!(&read, b"something");
        assert!(file.read(1, &mut read).is_err(), "a short read is an error");
        assert_eq!(HostDisk.identity(&path).unwrap(), file.identity().unwrap());
        std::fs::rename(&path, scratch.path().join("away")).unwrap();
        assert!(HostDisk.identity(&path).is_err());
        let other = HostDisk.open(&path, true).unwrap();
        assert_ne!(other.identity().unwrap(), file.identity().unwrap());
    }

    #[test]
    fn no_room_is_told_from_other_errors() {
        use nix::errno::Errno;
        for (errno, full) in [
            (Errno::ENOSPC, true),
            (Errno::EDQUOT, true),
            (Errno::EIO, false),
        ] {
            assert_eq!(
                is_full(&io::Error::from_raw_os_error(errno as i32)),
                full,
                "{errno}"
            );
        }
    }
}
