use std::fs;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use secrecy::ExposeSecret;

use super::*;

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn replace_makes_a_private_file_and_leaves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("bt_u1");
    replace(&target, b"one\n", &ReplaceOptions::default()).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"one\n");
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o600);
    let options = ReplaceOptions {
        mode: 0o640,
        durable: true,
        ..Default::default()
    };
    replace(&target, b"two\n", &options).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"two\n");
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(names(dir.path()), ["bt_u1"]);
}

#[test]
fn replace_renames_over_read_only_files_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let (target, other) = (dir.path().join("vt"), dir.path().join("other"));
    fs::write(&target, "old").unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o400)).unwrap();
    let before = fs::metadata(&target).unwrap().ino();
    replace(&target, b"new", &ReplaceOptions::default()).unwrap();
    assert_ne!(
        fs::metadata(&target).unwrap().ino(),
        before,
        "a new file stands there"
    );

    fs::write(&other, "kept").unwrap();
    fs::remove_file(&target).unwrap();
    symlink(&other, &target).unwrap();
    replace(&target, b"new", &ReplaceOptions::default()).unwrap();
    assert!(fs::symlink_metadata(&target).unwrap().is_file());
    assert_eq!(fs::read(&other).unwrap(), b"kept");
}

#[test]
fn replace_cleans_up_after_a_failed_rename() {
    let dir = tempfile::tempdir().unwrap();
    // A name that is too long for the file system fails at the rename, after the temporary file was made.
    let target = dir.path().join("x".repeat(300));
    let error = replace(&target, b"secret", &ReplaceOptions::default()).unwrap_err();
    assert!(
        matches!(
            error,
            FileError::Io {
                doing: "replace",
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("xxx") && !error.to_string().contains("secret"));
    assert!(names(dir.path()).is_empty());

    let error = replace(
        &dir.path().join("no/such/file"),
        b"x",
        &ReplaceOptions::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
    let error = replace(dir.path(), b"x", &ReplaceOptions::default()).unwrap_err();
    assert!(matches!(error, FileError::IsDirectory { .. }), "{error}");
}

#[test]
fn replace_writes_devices_and_pipes_in_place() {
    replace(
        Path::new("/dev/null"),
        b"token\n",
        &ReplaceOptions::default(),
    )
    .unwrap();
    let null = fs::symlink_metadata("/dev/null").unwrap();
    assert!(!null.is_file(), "the device is still a device");

    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read(pipe).unwrap())
    };
    replace(&pipe, b"through", &ReplaceOptions::default()).unwrap();
    assert_eq!(reader.join().unwrap(), b"through");

    if geteuid().is_root() {
        nix::unistd::chown(&pipe, Some(54_321.into()), None).unwrap();
        let error = replace(&pipe, b"secret", &ReplaceOptions::default()).unwrap_err();
        assert!(matches!(error, FileError::Untrusted { .. }), "{error}");
    }
}

#[test]
fn replace_never_shows_a_missing_or_partial_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("bt");
    let long = "a".repeat(8000);
    replace(&target, long.as_bytes(), &ReplaceOptions::default()).unwrap();
    let writer = {
        let (target, other) = (target.clone(), "b".repeat(8000));
        std::thread::spawn(move || {
            for turn in 0..300 {
                let content = if turn % 2 == 0 { &other } else { &long };
                replace(&target, content.as_bytes(), &ReplaceOptions::default()).unwrap();
            }
        })
    };
    while !writer.is_finished() {
        let seen = fs::read(&target).unwrap();
        assert_eq!(seen.len(), 8000);
        assert!(seen.iter().all(|byte| *byte == seen[0]));
    }
    writer.join().unwrap();
}

#[test]
fn secrets_are_trimmed_and_missing_or_empty_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vt");
    let read = |policy| {
        read_secret(&path, policy)
            .unwrap()
            .map(|s| s.expose_secret().to_owned())
    };
    assert_eq!(read(ReadPolicy::DefaultLocation), None);
    let below = read_secret(&path.join("below"), ReadPolicy::Named).unwrap();
    assert!(below.is_none());
    replace(&path, b" \n", &ReplaceOptions::default()).unwrap();
    assert_eq!(read(ReadPolicy::DefaultLocation), None);
    replace(&path, b"\t hvs.abc \r\n", &ReplaceOptions::default()).unwrap();
    assert_eq!(
        read(ReadPolicy::DefaultLocation).as_deref(),
        Some("hvs.abc")
    );
    assert_eq!(read(ReadPolicy::Named).as_deref(), Some("hvs.abc"));
}

#[test]
fn doubtful_files_are_ignored_by_default_and_noted_when_named() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link, pipe) = (
        dir.path().join("vt"),
        dir.path().join("link"),
        dir.path().join("pipe"),
    );
    fs::write(&path, "hvs.abc").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    symlink(&path, &link).unwrap();
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();

    let because = |path: &Path| match read_secret(path, ReadPolicy::DefaultLocation) {
        Err(FileError::Ignored { because, .. }) => because,
        other => panic!("{path:?}: {other:?}"),
    };
    assert_eq!(because(&path), Doubt::Exposed { mode: 0o644 });
    assert_eq!(because(&link), Doubt::Symlink);
    assert_eq!(because(&pipe), Doubt::NotRegular);

    let mut noted = Vec::new();
    let secret =
        read_secret_noting(&path, ReadPolicy::Named, &mut |doubt| noted.push(doubt)).unwrap();
    assert_eq!(secret.unwrap().expose_secret(), "hvs.abc");
    assert_eq!(noted, [Doubt::Exposed { mode: 0o644 }]);

    if geteuid().is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        nix::unistd::chown(&path, Some(54_321.into()), None).unwrap();
        assert_eq!(because(&path), Doubt::ForeignOwner { uid: 54_321 });
    }
}

#[test]
fn what_is_no_secret_is_refused_without_showing_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vt");
    let cases: [(&[u8], &str); 3] = [
        (&[b'a'; SECRET_LIMIT + 1], "more than"),
        (b"abc\xff", "not a text"),
        (b"abc\0def", "not a text"),
    ];
    for (content, expected) in cases {
        replace(&path, content, &ReplaceOptions::default()).unwrap();
        let error = read_secret(&path, ReadPolicy::Named)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && !error.contains("abc"),
            "{error}"
        );
    }
    assert!(matches!(
        read_secret(dir.path(), ReadPolicy::Named),
        Err(FileError::IsDirectory { .. })
    ));
}

#[test]
fn a_lock_excludes_until_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock-issuer-role");
    let held = lock(&path, Duration::ZERO).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let error = lock(&path, Duration::ZERO).unwrap_err();
    assert!(matches!(error, FileError::Locked { .. }), "{error}");
    let waiter = {
        let path = path.clone();
        std::thread::spawn(move || lock(&path, Duration::from_secs(60)).map(|_| ()))
    };
    drop(held);
    waiter.join().unwrap().unwrap();
    drop(lock(&path, Duration::ZERO).unwrap());
}

#[test]
fn descriptors_are_written_where_they_stand() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"url\n").unwrap();
    write_descriptor(file.as_raw_fd(), b"token\n").unwrap();
    file.write_all(b"end\n").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "url\ntoken\nend\n");

    for closed in [-1, 99_999] {
        let error = write_descriptor(closed, b"token").unwrap_err().to_string();
        assert!(
            error.contains(&closed.to_string()) && !error.contains("token"),
            "{error}"
        );
    }
}

#[test]
fn device_names_are_known_by_their_text() {
    for (name, expected) in [
        ("/dev/stdout", Some(Descriptor(1))),
        ("/dev/stderr", Some(Descriptor(2))),
        ("/dev/stdin", Some(Descriptor(0))),
        ("/dev/fd/7", Some(Descriptor(7))),
        ("/dev/fd/", None),
        ("/dev/fd/+7", None),
        ("/dev/fd/99999999999", None),
        ("/tmp/x", None),
    ] {
        assert_eq!(Descriptor::from_name(name), expected, "{name}");
    }
    assert!(is_device_name("/dev/stdfoo") && is_device_name("/dev/fd/3"));
    assert!(!is_device_name("/dev/null") && !is_device_name("x/dev/stdout"));
}
