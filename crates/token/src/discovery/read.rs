//! Reading one place: one open, one owner check on what was opened, a bounded read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use zeroize::Zeroizing;

use super::{DiscoveryError, Environment, Source};
use crate::jws::TOKEN_LIMIT;

/// The content of the file, `None` when there is none.
pub(super) fn read(
    source: &Source,
    environment: &Environment,
) -> Result<Option<Zeroizing<Vec<u8>>>, DiscoveryError> {
    let Some(path) = source.path() else {
        return Ok(None);
    };
    let failed = |error: io::Error| DiscoveryError::Unreadable {
        source_place: source.clone(),
        error,
    };
    let owned = |owner: u32| match (source, owner == environment.uid) {
        (Source::NamedFile(_), _) | (_, true) => Ok(()),
        _ => Err(DiscoveryError::ForeignOwner {
            source_place: source.clone(),
            owner,
            uid: environment.uid,
        }),
    };
    if matches!(source, Source::SharedFile(_)) {
        // Everybody may put a link into /tmp; what it points to is checked below, after opening.
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => owned(found.uid())?,
            Ok(_) | Err(_) => {}
        }
    }
    let file = match open(path) {
        Ok(file) => file,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    let found = file.metadata().map_err(failed)?;
    if found.is_dir() {
        return Err(failed(Errno::EISDIR.into()));
    }
    owned(found.uid())?;
    let slow = !found.is_file();
    let deadline = slow.then(|| Instant::now() + environment.pipe_wait);
    let waits_for_writer = found.file_type().is_fifo();
    match read_bounded(&file, deadline, waits_for_writer) {
        Ok(content) if content.len() >= TOKEN_LIMIT => Err(DiscoveryError::TooLarge {
            source_place: source.clone(),
        }),
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(DiscoveryError::TimedOut {
            source_place: source.clone(),
            waited: environment.pipe_wait,
        }),
        Err(error) => Err(failed(error)),
    }
}

/// Non-blocking, because opening a pipe would otherwise wait for its writer without limit.
fn open(path: &Path) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    nix::fcntl::open(path, flags, Mode::empty()).map(File::from)
}

/// Reads up to [`TOKEN_LIMIT`] bytes; pipes and devices until `deadline`.
fn read_bounded(
    mut file: &File,
    deadline: Option<Instant>,
    mut await_writer: bool,
) -> io::Result<Zeroizing<Vec<u8>>> {
    // One allocation, so that no copy of the secret is left behind by growing.
    let mut content = Zeroizing::new(vec![0; TOKEN_LIMIT]);
    let mut length = 0;
    while length < TOKEN_LIMIT {
        // A pipe that nobody has opened for writing yet reads as ended; polling tells the two apart.
        if await_writer {
            wait(file, deadline)?;
            await_writer = false;
        }
        match file.read(&mut content[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(file, deadline)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(length);
    Ok(content)
}

fn wait(file: &File, deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map_or(Duration::ZERO, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut waiting = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
