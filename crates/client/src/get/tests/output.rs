//! What is printed where, and exit codes.

use std::io::{self, Write};

use super::mock::{Machine, errors};
use crate::environment::Streams;

/// Counts writes, as a reader of a pipe sees them.
#[derive(Default)]
struct Writes(Vec<Vec<u8>>);

impl Write for Writes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe nobody reads.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn progress_mode() {
    let machine = Machine::warm();
    let ran = machine.run(&[]);
    assert_eq!(
        ran.out,
        format!(
            "Attempting to get token from {} ... succeeded\nStoring bearer token in {}\n",
            machine.url(),
            machine.bearer_file().display()
        )
    );
    assert_eq!(ran.err, "");
}

#[test]
fn failing_in_progress_mode_quiet_mode_and_both() {
    let machine = Machine::warm();
    machine.instead("GET /v1/secret", errors(500, "no"));
    let ran = machine.run(&[]);
    assert!(ran.out.ends_with(" ... failed\n\n"), "{ran:?}");
    assert!(ran.err.starts_with("htgettoken: ") && ran.err.lines().count() == 1);
    let ran = machine.run(&["-q"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (1, "", ""));
    let ran = machine.run(&["-q", "-v"]);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    assert!(ran.out.contains("Attempting to get token from") && !ran.out.contains("..."));
}

#[test]
fn step_one_of_the_storer() {
    // A new vault token: two lines, token first. None needed: one line. Standard output carries nothing else.
    let machine = Machine::new().terminal();
    let ca = crate::testserver::ca_file(machine.directory.path());
    let in_file = machine.directory.path().join("vt");
    let url = machine.url();
    let words = [
        "--vaulttokenttl=28d",
        "-a",
        &url,
        &format!("--cafile={}", ca.display()),
        "--web-open-command=",
        "-i",
        "default",
        &format!("--vaulttokeninfile={}", in_file.display()),
        "--vaulttokenfile=/dev/stdout",
        "--showbearerurl",
    ]
    .map(std::ffi::OsString::from);
    let mut writes = Writes::default();
    let mut err = Vec::new();
    let code = super::super::run(
        &words,
        &machine.environment,
        &mut Streams {
            input: &mut io::empty(),
            out: &mut writes,
            err: &mut err,
        },
    );
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
    let bearer_url = format!("{url}/v1/secret/oauth/creds/default/alice:default\n");
    assert_eq!(
        writes.0,
        [b"hvs.secret1\n".to_vec(), bearer_url.clone().into_bytes()]
    );
    let err = String::from_utf8(err).unwrap();
    assert!(
        err.contains("Complete the authentication at:\n    https://"),
        "{err}"
    );
    assert!(!machine.vault_token_file().exists());

    machine.put(&in_file, "hvs.secret1");
    let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
    let mut quiet = words.clone();
    quiet.extend(["--nooidc", "-q"]);
    let ran = machine.run_bare(&quiet);
    assert_eq!((ran.code, ran.out, ran.err.as_str()), (0, bearer_url, ""));
    // A failing run prints neither.
    machine.state().tokens.clear();
    let ran = machine.run_bare(&quiet);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
}

/// What arrives through `write` when the run's standard output is `out`.
fn through(machine: &Machine, mut out: std::fs::File) {
    let ca = crate::testserver::ca_file(machine.directory.path());
    machine.put(&machine.directory.path().join("vt"), "hvs.secret");
    let words = [
        "-a",
        &machine.url(),
        &format!("--cafile={}", ca.display()),
        "--vaulttokeninfile=/dev/stdin",
        "--vaulttokenfile=/dev/stdout",
        "--credkey=alice",
        "--showbearerurl",
        "-o",
        "/dev/fd/1",
    ]
    .map(std::ffi::OsString::from);
    let mut err = Vec::new();
    let code = super::super::run(
        &words,
        &machine.environment,
        &mut Streams {
            input: &mut b"hvs.secret".as_slice(),
            out: &mut out,
            err: &mut err,
        },
    );
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
}

#[test]
fn pipe_file_and_terminal_receive_the_same_bytes() {
    use std::io::{Read, Seek, SeekFrom};

    let fresh = || {
        let machine = Machine::warm();
        let expected = format!(
            "hvs.secret1\n{}/v1/secret/oauth/creds/default/alice:default\n\
             bearer.secret1.secret/oauth/creds/default/alice:default\n",
            machine.url()
        );
        (machine, expected)
    };

    let (machine, expected) = fresh();
    let path = machine.directory.path().join("stdout");
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.write_all(b"before\n").unwrap();
    through(&machine, file.try_clone().unwrap());
    file.write_all(b"after\n").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    // Nothing is truncated or written over.
    assert_eq!(text, format!("before\n{expected}after\n"));

    let (machine, expected) = fresh();
    let (mut reader, writer) = io::pipe().unwrap();
    through(&machine, std::os::fd::OwnedFd::from(writer).into());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, expected);

    let (machine, expected) = fresh();
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut raw = nix::sys::termios::tcgetattr(&pty.slave).unwrap();
    nix::sys::termios::cfmakeraw(&mut raw);
    nix::sys::termios::tcsetattr(&pty.slave, nix::sys::termios::SetArg::TCSANOW, &raw).unwrap();
    through(&machine, pty.slave.try_clone().unwrap().into());
    let mut bytes = vec![0; expected.len()];
    std::fs::File::from(pty.master)
        .read_exact(&mut bytes)
        .unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}

#[test]
fn bearer_token_on_standard_output() {
    let machine = Machine::warm();
    for name in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let ran = machine.run(&["-o", name]);
        assert_eq!(ran.code, 0);
        assert_eq!(
            ran.out,
            "bearer.secret1.secret/oauth/creds/default/alice:default\n"
        );
        assert!(ran.err.contains("... succeeded"));
    }
    let ran = machine.run(&["-q", "-o", "/dev/stderr"]);
    assert_eq!(
        ran.err,
        "bearer.secret1.secret/oauth/creds/default/alice:default\n"
    );
}

#[test]
fn device_in_place() {
    use std::os::unix::fs::FileTypeExt;
    let machine = Machine::warm();
    let ran = machine.run(&["-o", "/dev/null"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        std::fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
}

#[test]
fn target_that_cannot_be_written() {
    let machine = Machine::warm();
    let ran = machine.run(&["-o", "/no/such/directory/x"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("/no/such/directory/x"), "{ran:?}");
}

#[test]
fn nobody_reads() {
    let machine = Machine::warm();
    let ca = crate::testserver::ca_file(machine.directory.path());
    let words: Vec<std::ffi::OsString> = [
        "-a",
        &machine.url(),
        "--cafile",
        ca.to_str().unwrap(),
        "-o",
        "/dev/stdout",
    ]
    .iter()
    .map(Into::into)
    .collect();
    let mut err = Vec::new();
    let code = super::super::run(
        &words,
        &machine.environment,
        &mut Streams {
            input: &mut io::empty(),
            out: &mut Closed,
            err: &mut err,
        },
    );
    assert_eq!(code, 1);
    assert!(!String::from_utf8(err).unwrap().contains("htgettoken:"));
}

#[test]
fn debug_output_holds_no_secret() {
    let machine = Machine::new().terminal();
    let ran = machine.run(&["-d"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.out.contains("> GET /v1/secret/oauth/creds/") && ran.out.contains("<redacted len=")
    );
    for text in [&ran.out, &ran.err] {
        assert!(
            !text.contains("secret1") && !text.contains("secret2"),
            "{text}"
        );
        assert!(
            !text.contains("gkh.") && !text.contains("st_secret"),
            "{text}"
        );
    }
    for seen in machine.server.seen() {
        let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap_or_default();
        if let Some(nonce) = body["client_nonce"].as_str() {
            assert!(!ran.out.contains(nonce));
        }
    }
    let ran = machine.run(&["-d", "--show-secrets"]);
    assert!(ran.out.contains("bearer.secret1"), "{ran:?}");
}

#[test]
fn usage_help_and_version() {
    let machine = Machine::warm();
    let ran = machine.run_bare(&["--version"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "2.6\n", "")
    );
    let ran = machine.run_bare(&["-h"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(
        ran.out
            .starts_with("Usage: htgettoken [-h] [otheroptions]\n")
    );
    let ran = machine.run_bare(&["--bogus"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    let ran = machine.run_bare(&["-q"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.starts_with("htgettoken: no server: ") && ran.err.contains("--capath"));
    let ran = machine.run(&["--vaulttokenttl=5"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.starts_with("htgettoken: --vaulttokenttl wants"),
        "{ran:?}"
    );
}

#[test]
fn almost_empty_environment() {
    let mut machine = Machine::warm();
    let opts = format!(
        "-a {} --cafile={} --credkey=alice --vaulttokenminttl=10s",
        machine.url(),
        crate::testserver::ca_file(machine.directory.path()).display()
    );
    machine.environment.vars = [("HTGETTOKENOPTS".into(), opts.into())].into();
    let out = machine.directory.path().join("bt");
    machine.put(&out, "");
    let ran = machine.run_bare(&["-o", out.to_str().unwrap(), "--verbose"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(machine.read(&out).starts_with("bearer."));
}
