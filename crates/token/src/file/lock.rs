//! An advisory lock in a file of its own, so that several of ours agree on who fetches and writes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::Mode;

use super::FileError;

/// Between two tries; `flock` cannot wait with a deadline.
const PAUSE: Duration = Duration::from_millis(20);

/// A lock held until dropped, also by the death of the process. The lock file stays, because removing it would let two
/// processes hold two different files of that name.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

/// Takes the lock `path`, making the file with mode 0600 if need be, and waits at most `wait` for another holder. Never name
/// the token file itself: it is replaced, and a lock on the old one would guard nothing. Blocks the thread; with a `wait` of
/// zero it only tries.
///
/// # Errors
/// [`FileError::Locked`] when another process held it all the time, [`FileError::Io`] otherwise.
pub fn lock(path: &Path, wait: Duration) -> Result<Lock, FileError> {
    let failed = |source: io::Error| FileError::Io {
        path: path.to_owned(),
        doing: "lock",
        advice: "make its directory writable or remove the file if it is another user's",
        source,
    };
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(io::Error::from)
        .map_err(failed)?;
    let mut file = File::from(fd);
    let start = Instant::now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(Lock { _held: held }),
            Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
            Err((_, error)) => return Err(failed(error.into())),
        };
        let left = wait.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(FileError::Locked {
                path: path.to_owned(),
                waited: wait,
            });
        }
        thread::sleep(PAUSE.min(left));
    }
}
