//! The renewal log: a file of this session that nobody else can read, or have put there.

use nix::libc;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Creates the log with mode 0600. A file left over under the same name is removed first, never written through: the name can
/// be foreseen and may lie in a directory that all can write.
pub fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_log_is_private_and_replaces_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("t.log"), dir.path().join("target"));
        fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        create(&path).unwrap().write_all(b"line").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "line");
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        assert_eq!(
            fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
    }
}
