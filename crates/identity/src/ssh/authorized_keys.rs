//! Files of public keys that administrators write, in the form of sshd's `authorized_keys`.
//!
//! Owns reading them and what the options in front of a key mean here. A line whose options would narrow its use in a way that
//! does not exist here is left out: taking the key without its limits would give more than was written.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Key;

/// Longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Options that have no meaning for a proof, so that they may stand there.
const HARMLESS: [&str; 12] = [
    "restrict",
    "agent-forwarding",
    "no-agent-forwarding",
    "port-forwarding",
    "no-port-forwarding",
    "pty",
    "no-pty",
    "user-rc",
    "no-user-rc",
    "x11-forwarding",
    "no-x11-forwarding",
    "no-touch-required",
];

/// A key of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its place in the file, from 1.
    pub number: usize,
    /// The key.
    pub key: Key,
    /// When it ends (`expiry-time`), seconds since 1970; `None` = never.
    pub expires_at: Option<i64>,
}

/// A line that gives no key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {number} is left out: {why}")]
pub struct LeftOut {
    /// Its place in the file, from 1.
    pub number: usize,
    /// Why.
    pub why: String,
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// Its keys.
    pub lines: Vec<Line>,
    /// What gives none.
    pub left_out: Vec<LeftOut>,
}

/// Why a file is not used at all.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Others than its owner, root or the user of the service could put keys into it.
    #[error(
        "{} is not used: {why}; give it to root or to the user of the service, and take the right to write from group and others (chmod go-w)",
        path.display()
    )]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: Trouble,
    },
}

/// What is wrong with a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Trouble {
    /// A pipe, a device or a socket.
    #[error("it is not a regular file")]
    NoFile,
    /// It has this mode.
    #[error("its mode is {0:o}, so that others can write it")]
    Writable(u32),
    /// It is neither root's nor the service's.
    #[error("it belongs to user id {0}")]
    Owner(u32),
    /// Nobody has as many keys.
    #[error("it is longer than 1 MiB")]
    TooLong,
}

/// Reads the file at `path`; `None` when there is none. It must be a regular file of root or the running user that nobody else can
/// write.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path) -> Result<Option<Keys>, FileError> {
    read_for(path, nix::unistd::geteuid().as_raw())
}

/// As [`read()`], judged as for a service that runs as the user `own`.
///
/// # Errors
/// [`FileError`].
pub fn read_for(path: &Path, own: u32) -> Result<Option<Keys>, FileError> {
    let io = |source| FileError::Io {
        path: path.to_owned(),
        source,
    };
    let opened = File::options()
        .read(true)
        // A pipe in the place of the file must not hold up the server.
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(io(error)),
    };
    let found = file.metadata().map_err(io)?;
    let unsafe_because = |why: Trouble| FileError::Unsafe {
        path: path.to_owned(),
        why,
    };
    if found.is_dir() {
        return Ok(None);
    }
    if !found.is_file() {
        return Err(unsafe_because(Trouble::NoFile));
    }
    if found.mode() & 0o022 != 0 {
        return Err(unsafe_because(Trouble::Writable(found.mode() & 0o7777)));
    }
    if found.uid() != 0 && found.uid() != own {
        return Err(unsafe_because(Trouble::Owner(found.uid())));
    }
    if found.len() > LONGEST {
        return Err(unsafe_because(Trouble::TooLong));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).map_err(io)?;
    Ok(Some(parse(&text)))
}

/// Reads the text of such a file.
pub fn parse(text: &str) -> Keys {
    let mut keys = Keys::default();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        match parse_line(line) {
            Ok((key, expires_at)) => keys.lines.push(Line {
                number,
                key,
                expires_at,
            }),
            Err(why) => keys.left_out.push(LeftOut { number, why }),
        }
    }
    keys
}

fn parse_line(line: &str) -> Result<(Key, Option<i64>), String> {
    match Key::parse(line) {
        Ok(key) => Ok((key, None)),
        Err(plain) => {
            let Some((options, rest)) = split_options(line) else {
                return Err(plain.to_string());
            };
            // Without a key behind the first word, that word was meant as the key's type.
            let key = Key::parse(rest).map_err(|behind| {
                if rest.split_ascii_whitespace().nth(1).is_some() {
                    behind.to_string()
                } else {
                    plain.to_string()
                }
            })?;
            Ok((key, meaning(options)?))
        }
    }
}

/// Cuts at the first blank that is not inside quotes.
fn split_options(line: &str) -> Option<(&str, &str)> {
    let options = split_unquoted(line, |c| matches!(c, ' ' | '\t')).next()?;
    let rest = &line[options.len()..];
    (!rest.is_empty()).then(|| (options, rest.trim_start()))
}

/// Cuts at every separator that is not inside quotes.
fn split_unquoted(text: &str, separates: impl Fn(char) -> bool) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |character| {
        if character == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = character == '\\' && !escaped;
        separates(character) && !quoted
    })
}

fn meaning(options: &str) -> Result<Option<i64>, String> {
    let mut expires_at = None;
    for option in split_unquoted(options, |c| c == ',') {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.trim_matches('"'))),
            None => (option, None),
        };
        match (name.to_ascii_lowercase().as_str(), value) {
            (name, None) if HARMLESS.contains(&name) => {}
            ("expiry-time", Some(time)) => {
                expires_at = Some(moment(time).ok_or_else(|| {
                    format!("its expiry-time {time} is not of the form YYYYMMDD[HHMM[SS]]Z; times are in UTC here, so the Z is needed")
                })?);
            }
            ("cert-authority", _) => {
                return Err(
                    "it is a certificate authority (cert-authority), and certificates are not accepted"
                        .to_owned(),
                );
            }
            (name, _) => {
                return Err(format!(
                    "its option {name} has no meaning here, and the key is not taken without it"
                ));
            }
        }
    }
    Ok(expires_at)
}

/// `YYYYMMDD[HHMM[SS]]Z` as seconds since 1970. sshd's form without Z means the zone of the host, which two nodes may not share.
fn moment(text: &str) -> Option<i64> {
    let digits = text.strip_suffix(['Z', 'z'])?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || !matches!(digits.len(), 8 | 12 | 14) {
        return None;
    }
    let number = |from: usize, to: usize| digits.get(from..to).map_or(Some(0), |d| d.parse().ok());
    let (year, month, day): (i64, i64, i64) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second): (i64, i64, i64) =
        (number(8, 10)?, number(10, 12)?, number(12, 14)?);
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days since 1970-01-01 in the proleptic Gregorian calendar, years counted from March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day
            - 719_469;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

    #[test]
    fn a_file_is_read_line_by_line() {
        let text = format!(
            "# a comment\n\n{KEY} alice's laptop\n  restrict,no-pty {KEY} two\nexpiry-time=\"20301231Z\" {KEY}\nfrom=\"192.0.2.0/24\" {KEY}\ncommand=\"say \\\"hi there\\\" now\" {KEY}\ncert-authority {KEY}\nnonsense\nexpiry-time=\"20301231\" {KEY}\n"
        );
        let keys = parse(&text);
        let numbers: Vec<usize> = keys.lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [3, 4, 5], "{:?}", keys.left_out);
        assert_eq!(keys.lines[0].key.comment(), "alice's laptop");
        assert_eq!(keys.lines[2].expires_at, Some(1_924_905_600));
        let why: Vec<&str> = keys.left_out.iter().map(|out| out.why.as_str()).collect();
        assert!(why[0].contains("from has no meaning"), "{why:?}");
        assert!(why[1].contains("command has no meaning"), "{why:?}");
        assert!(why[2].contains("certificate"), "{why:?}");
        assert!(why[3].contains("not a public key"), "{why:?}");
        assert!(why[4].contains("UTC"), "{why:?}");
    }

    #[test]
    fn moments() {
        for (text, seconds) in [
            ("19700101Z", Some(0)),
            ("20000229Z", Some(951_782_400)),
            ("202611292003Z", Some(1_795_982_580)),
            ("20261129200342z", Some(1_795_982_622)),
            ("20261329Z", None),
            ("2026112Z", None),
            ("20261129", None),
            ("2026112920x3Z", None),
        ] {
            assert_eq!(moment(text), seconds, "{text}");
        }
    }

    #[test]
    fn a_file_that_others_can_write_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alice");
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(read(&path.join("below")).unwrap(), None);
        assert_eq!(read(directory.path()).unwrap(), None);
        std::fs::write(&path, format!("{KEY}\n")).unwrap();
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(0o644);
        assert_eq!(read(&path).unwrap().unwrap().lines.len(), 1);
        assert_eq!(read(&path.join("below")).unwrap(), None);
        for open in [0o664, 0o646] {
            mode(open);
            assert!(
                matches!(read(&path), Err(FileError::Unsafe { .. })),
                "{open:o}"
            );
        }
        assert!(matches!(
            read(Path::new("/dev/null")),
            Err(FileError::Unsafe { .. })
        ));
    }
}
