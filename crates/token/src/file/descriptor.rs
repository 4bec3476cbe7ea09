//! Targets that are open descriptors: `/dev/stdout`, `/dev/stderr`, `/dev/fd/N`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::FileError;

/// A descriptor that a file name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub RawFd);

impl Descriptor {
    /// The descriptor named by `/dev/stdin`, `/dev/stdout`, `/dev/stderr` or `/dev/fd/N`; `None` for every other name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "/dev/stdin" => Some(Self(0)),
            "/dev/stdout" => Some(Self(1)),
            "/dev/stderr" => Some(Self(2)),
            _ => {
                let digits = name.strip_prefix("/dev/fd/")?;
                let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                plain.then(|| digits.parse().ok().map(Self)).flatten()
            }
        }
    }
}

/// The string test for "device" that htgettoken's callers rely on: the beginning `/dev/std` or `/dev/fd` of the raw option
/// value.
#[must_use]
pub fn is_device_name(name: &str) -> bool {
    name.starts_with("/dev/std") || name.starts_with("/dev/fd")
}

/// Writes `content` to the descriptor that is already open under this number: no reopening, so no truncation, and what
/// others write to the same open file follows on.
///
/// # Errors
/// [`FileError::Descriptor`].
pub fn write_descriptor(fd: RawFd, content: &[u8]) -> Result<(), FileError> {
    let failed = |source| FileError::Descriptor { fd, source };
    let file = File::from(duplicate(fd).map_err(failed)?);
    write_all(&file, content).map_err(failed)
}

fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    match fd {
        1 => io::stdout().as_fd().try_clone_to_owned(),
        2 => io::stderr().as_fd().try_clone_to_owned(),
        negative if negative < 0 => Err(Errno::EBADF.into()),
        _ => borrow_named(fd).try_clone_to_owned(),
    }
}

#[expect(
    unsafe_code,
    reason = "a number typed by the user can become a descriptor in no other way"
)]
fn borrow_named(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number is not -1 (the caller excludes negative ones). The borrow is used for one call only, fcntl with
    // F_DUPFD_CLOEXEC, which fails with EBADF when nothing is open there and reads no memory of ours; all writing goes
    // through the duplicate. The descriptor was opened for us by whoever started the program and named to us, which is
    // the permission to use it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// As `Write::write_all`, but waits where the other side made the pipe non-blocking.
fn write_all(mut file: &File, mut content: &[u8]) -> io::Result<()> {
    while !content.is_empty() {
        match file.write(content) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => content = &content[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut waiting = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                match poll(&mut waiting, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
