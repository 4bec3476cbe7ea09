//! Replacing a file so that a reader sees the old content or the new one, never none and never half.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, unlinkat};

use super::{Doubt, FileError};

/// How temporary files are called; cleaners know this beginning.
pub const TEMPORARY_PREFIX: &str = ".htgettoken";

/// How the new file shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplaceOptions {
    /// Permission bits, whatever the umask says; 0600 unless changed.
    pub mode: u32,
    /// User and group id to give the file to; nobody unless changed. Needs the privilege to do so.
    pub owner: Option<(u32, u32)>,
    /// Whether the content must survive a power failure before the old one goes; off unless changed, because access
    /// tokens are cheap to fetch again.
    pub durable: bool,
}

impl Default for ReplaceOptions {
    fn default() -> Self {
        Self {
            mode: 0o600,
            owner: None,
            durable: false,
        }
    }
}

/// Puts `content` at `path` by way of a temporary file beside it and a rename; a symbolic link at `path` is replaced, not
/// followed, and so is a read-only file. What exists and is neither file nor link (`/dev/null`, a pipe) is written in
/// place, provided that it belongs to the effective user or root. On failure the old content stands and no temporary
/// file is left.
///
/// # Errors
/// [`FileError::Io`], [`FileError::IsDirectory`] or [`FileError::Untrusted`].
pub fn replace(path: &Path, content: &[u8], options: &ReplaceOptions) -> Result<(), FileError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(FileError::IsDirectory {
                path: path.to_owned(),
            });
        }
        Ok(found) if !found.is_file() && !found.is_symlink() => {
            return write_in_place(path, content);
        }
        // What cannot be looked at will fail below with the error that matters.
        Ok(_) | Err(_) => {}
    }
    let failed = |doing: &'static str, advice: &'static str| {
        move |source: io::Error| FileError::Io {
            path: path.to_owned(),
            doing,
            advice,
            source,
        }
    };
    let name = path.file_name().ok_or_else(|| FileError::IsDirectory {
        path: path.to_owned(),
    })?;
    // The directory is opened once, so that renaming it meanwhile cannot split temporary file and target.
    let directory = open_directory(path).map_err(failed(
        "write",
        "its directory cannot be opened, so create the directory or choose another place",
    ))?;
    let mut temporary = Temporary::create(&directory).map_err(failed(
        "write",
        "no file can be made in its directory, so make the directory writable or choose another place",
    ))?;
    temporary.fill(content, options).map_err(failed(
        "write",
        "what stood there before still does; make room or choose another place",
    ))?;
    temporary.rename_to(name).map_err(failed(
        "replace",
        "what stood there before still does; if it belongs to another user, have it removed or choose another place",
    ))?;
    if options.durable {
        nix::unistd::fsync(&directory)
            .map_err(io::Error::from)
            .map_err(failed(
                "make durable",
                "the new content is in place but may not survive a power failure",
            ))?;
    }
    Ok(())
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(parent, flags, Mode::empty())?)
}

/// A file that disappears unless renamed.
struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: OsString,
    file: File,
    renamed: bool,
}

impl<'a> Temporary<'a> {
    fn create(directory: &'a OwnedFd) -> io::Result<Self> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // A clash means that somebody guesses 64 random bits; a few tries bound the loop.
        for _ in 0..4 {
            let name = random_name()?;
            match openat(
                directory,
                name.as_os_str(),
                flags,
                Mode::S_IRUSR | Mode::S_IWUSR,
            ) {
                Ok(fd) => {
                    return Ok(Self {
                        directory,
                        name,
                        file: File::from(fd),
                        renamed: false,
                    });
                }
                Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::EEXIST.into())
    }

    /// Owner and mode first, so that the content is never in a file with the wrong ones.
    fn fill(&mut self, content: &[u8], options: &ReplaceOptions) -> io::Result<()> {
        if let Some((uid, gid)) = options.owner {
            fchown(
                &self.file,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
            )?;
        }
        fchmod(&self.file, Mode::from_bits_truncate(options.mode))?;
        self.file.write_all(content)?;
        if options.durable {
            self.file.sync_data()
        } else {
            Ok(())
        }
    }

    fn rename_to(mut self, target: &OsStr) -> io::Result<()> {
        renameat(
            self.directory.as_fd(),
            self.name.as_os_str(),
            self.directory.as_fd(),
            target,
        )?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing more can be done about a failure here; the first error is the one to report.
            let _ = unlinkat(
                self.directory,
                self.name.as_os_str(),
                UnlinkatFlags::NoRemoveDir,
            );
        }
    }
}

fn random_name() -> io::Result<OsString> {
    let mut bytes = [0u8; 8];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("no random numbers"))?;
    let mut name = TEMPORARY_PREFIX.as_bytes().to_vec();
    for byte in bytes {
        name.extend_from_slice(format!("{byte:02x}").as_bytes());
    }
    Ok(OsString::from_vec(name))
}

fn write_in_place(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let path_owned = || PathBuf::from(path);
    let failed = |source: io::Error| FileError::Io {
        path: path_owned(),
        doing: "write to",
        advice: "it is a device or pipe and was left as it is; choose another place",
        source,
    };
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    // The owner is asked before opening, too: opening a pipe waits for its reader.
    let before = std::fs::symlink_metadata(path).map_err(failed)?;
    trusted_owner(path, before.uid())?;
    let mut file = File::from(
        nix::fcntl::open(path, flags, Mode::empty())
            .map_err(io::Error::from)
            .map_err(failed)?,
    );
    let opened = file.metadata().map_err(failed)?;
    trusted_owner(path, opened.uid())?;
    let kind = opened.file_type();
    if !(kind.is_char_device() || kind.is_fifo()) {
        return Err(FileError::Untrusted {
            path: path_owned(),
            because: Doubt::NotRegular,
        });
    }
    file.write_all(content).map_err(failed)
}

fn trusted_owner(path: &Path, uid: u32) -> Result<(), FileError> {
    if uid == 0 || uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(FileError::Untrusted {
        path: path.to_owned(),
        because: Doubt::ForeignOwner { uid },
    })
}
