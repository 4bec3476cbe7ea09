//! Which bearer token a command should use: WLCG Bearer Token Discovery, with its open points decided.
//! Owns the order of places and the rules for reading each; refuses to judge what the token says (an expired one is found,
//! too) and whether it is a JWT at all. A new place is a variant of [`Source`] and a step in [`discover`].

mod read;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use secrecy::SecretString;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::jws::TOKEN_LIMIT;

/// What discovery looks at. [`Environment::current`] is the process's own; tests make others.
#[derive(Clone, PartialEq, Eq)]
pub struct Environment {
    /// `BEARER_TOKEN`: the token itself.
    pub bearer_token: Option<OsString>,
    /// `BEARER_TOKEN_FILE`: a file with the token.
    pub bearer_token_file: Option<OsString>,
    /// `XDG_RUNTIME_DIR`: where `bt_u<uid>` is looked for first.
    pub xdg_runtime_dir: Option<OsString>,
    /// The **effective** user id, in the names of the default files and their expected owner.
    pub uid: u32,
    /// Literally `/tmp`, never `$TMPDIR`.
    pub tmp: PathBuf,
    /// How long a pipe named by `BEARER_TOKEN_FILE` may take.
    pub pipe_wait: Duration,
}

impl fmt::Debug for Environment {
    /// Shows whether there is a token in the environment, never which.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field(
                "bearer_token",
                &self.bearer_token.as_ref().map(|_| "[hidden]"),
            )
            .field("bearer_token_file", &self.bearer_token_file)
            .field("xdg_runtime_dir", &self.xdg_runtime_dir)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

impl Environment {
    /// The variables and the effective user id of this process.
    #[must_use]
    pub fn current() -> Self {
        Self::from_variables(|name| env::var_os(name), geteuid().as_raw())
    }

    /// From any source of variables.
    #[must_use]
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>, uid: u32) -> Self {
        Self {
            bearer_token: variable("BEARER_TOKEN"),
            bearer_token_file: variable("BEARER_TOKEN_FILE"),
            xdg_runtime_dir: variable("XDG_RUNTIME_DIR"),
            uid,
            tmp: PathBuf::from("/tmp"),
            pipe_wait: Duration::from_secs(10),
        }
    }

    /// Where a token file is by default: in `XDG_RUNTIME_DIR` if that is set and not empty, else in `/tmp`.
    #[must_use]
    pub fn default_file(&self) -> PathBuf {
        let directory =
            present(self.xdg_runtime_dir.as_ref()).map_or(self.tmp.as_path(), Path::new);
        directory.join(self.file_name())
    }

    fn file_name(&self) -> String {
        format!("bt_u{}", self.uid)
    }
}

/// Where a token was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Step 1, the variable `BEARER_TOKEN`.
    Variable,
    /// Step 2, the file that `BEARER_TOKEN_FILE` names.
    NamedFile(PathBuf),
    /// Step 3, the file in `XDG_RUNTIME_DIR`.
    RuntimeFile(PathBuf),
    /// Step 4, the file in `/tmp`.
    SharedFile(PathBuf),
}

impl Source {
    /// Its number in the standard.
    #[must_use]
    pub const fn step(&self) -> u8 {
        match self {
            Self::Variable => 1,
            Self::NamedFile(_) => 2,
            Self::RuntimeFile(_) => 3,
            Self::SharedFile(_) => 4,
        }
    }

    /// The file, unless it is the variable.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Variable => None,
            Self::NamedFile(path) | Self::RuntimeFile(path) | Self::SharedFile(path) => Some(path),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable => f.write_str("$BEARER_TOKEN (step 1)"),
            Self::NamedFile(path) => {
                write!(f, "{} from $BEARER_TOKEN_FILE (step 2)", path.display())
            }
            Self::RuntimeFile(path) => write!(f, "{} in $XDG_RUNTIME_DIR (step 3)", path.display()),
            Self::SharedFile(path) => write!(f, "{} (step 4)", path.display()),
        }
    }
}

/// Why a place was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// No such file.
    Missing,
    /// Nothing but white space.
    Empty,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "does not exist",
            Self::Empty => "is empty",
        })
    }
}

/// The token to use.
#[derive(Debug)]
pub struct Found {
    /// The token, without surrounding white space.
    pub token: SecretString,
    /// Where it was.
    pub source: Source,
    /// What was looked at before, and why it did not count.
    pub passed: Vec<(Source, Passed)>,
}

/// Why the search ended without a token. The texts name step and place, never the token.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// Nothing anywhere.
    #[error("no token found: looked at {}; get one first, for example with htgettoken", places(.looked))]
    NotFound {
        /// Every place and why it did not count.
        looked: Vec<(Source, Passed)>,
    },
    /// There is something, but it is no token by RFC 6750 section 2.1.
    #[error(
        "what {source_place} holds is not a token: {problem}; remove it or put one token there"
    )]
    Invalid {
        /// Where.
        source_place: Source,
        /// What is wrong, without content.
        problem: &'static str,
    },
    /// The file is there but cannot be read.
    #[error("cannot read {source_place}: {error}; correct its permissions or remove it")]
    Unreadable {
        /// Where.
        source_place: Source,
        /// The operating system's error.
        error: io::Error,
    },
    /// The file in a default place belongs to somebody else.
    #[error(
        "{source_place} belongs to user id {owner}, not to you ({uid}), so it is not used; remove it or have it removed"
    )]
    ForeignOwner {
        /// Where.
        source_place: Source,
        /// Whose it, or the link to it, is.
        owner: u32,
        /// The effective user id.
        uid: u32,
    },
    /// Too long for a token.
    #[error(
        "{source_place} has {TOKEN_LIMIT} bytes or more, so it is no token; name the right file"
    )]
    TooLarge {
        /// Where.
        source_place: Source,
    },
    /// A pipe did not deliver.
    #[error("{source_place} did not deliver a token within {} s; check the program that writes to it", .waited.as_secs())]
    TimedOut {
        /// Where.
        source_place: Source,
        /// How long was waited.
        waited: Duration,
    },
}

/// Looks in the four places in order and returns the first token. A missing or empty place is passed over; one that holds
/// something else than a token ends the search with an error.
///
/// # Errors
/// [`DiscoveryError`].
pub fn discover(environment: &Environment) -> Result<Found, DiscoveryError> {
    let mut passed = Vec::new();
    for source in sources(environment) {
        let content = match (&source, &environment.bearer_token) {
            (Source::Variable, Some(value)) => Some(Zeroizing::new(value.as_bytes().to_vec())),
            (Source::Variable, None) => None,
            _ => read::read(&source, environment)?,
        };
        let Some(content) = content else {
            passed.push((source, Passed::Missing));
            continue;
        };
        match judge(&content) {
            Ok(None) => passed.push((source, Passed::Empty)),
            Ok(Some(token)) => {
                return Ok(Found {
                    token: SecretString::from(token),
                    source,
                    passed,
                });
            }
            Err(problem) => {
                return Err(DiscoveryError::Invalid {
                    source_place: source,
                    problem,
                });
            }
        }
    }
    Err(DiscoveryError::NotFound { looked: passed })
}

/// The places that apply, in order. Variables that are set but empty are as good as not set.
fn sources(environment: &Environment) -> Vec<Source> {
    let mut sources = Vec::new();
    if environment.bearer_token.is_some() {
        sources.push(Source::Variable);
    }
    if let Some(file) = present(environment.bearer_token_file.as_ref()) {
        sources.push(Source::NamedFile(PathBuf::from(file)));
    }
    if let Some(directory) = present(environment.xdg_runtime_dir.as_ref()) {
        sources.push(Source::RuntimeFile(
            Path::new(directory).join(environment.file_name()),
        ));
    }
    sources.push(Source::SharedFile(
        environment.tmp.join(environment.file_name()),
    ));
    sources
}

fn present(value: Option<&OsString>) -> Option<&OsString> {
    value.filter(|value| !value.is_empty())
}

/// Strips C's six white space characters and checks the token syntax of RFC 6750 section 2.1; `None` when nothing is left.
fn judge(content: &[u8]) -> Result<Option<String>, &'static str> {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    let Some(start) = content.iter().position(|byte| !space(byte)) else {
        return Ok(None);
    };
    let end = content
        .iter()
        .rposition(|byte| !space(byte))
        .map_or(start, |last| last + 1);
    let token = &content[start..end];
    let body = token
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |last| last + 1);
    if body == 0 {
        return Err("it has nothing but equals signs");
    }
    let problem = token[..body].iter().find_map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'+' | b'/' => None,
        b'\n' | b'\r' => Some("it has more than one line"),
        b' ' | b'\t' | 0x0b | 0x0c => Some("it has white space inside"),
        b'=' => Some("it has an equals sign inside"),
        0..=0x1f | 0x7f => Some("it has control characters"),
        0x80.. => Some("it has characters beyond ASCII"),
        _ => Some("it has characters that RFC 6750 does not allow"),
    });
    match problem {
        Some(problem) => Err(problem),
        // Only ASCII is left.
        None => Ok(Some(String::from_utf8_lossy(token).into_owned())),
    }
}

fn places(looked: &[(Source, Passed)]) -> String {
    let texts: Vec<String> = looked
        .iter()
        .map(|(source, why)| format!("{source}, which {why}"))
        .collect();
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn the_current_environment_uses_the_effective_user_and_literal_tmp() {
        let current = Environment::current();
        assert_eq!(current.uid, geteuid().as_raw());
        assert_eq!(current.tmp, Path::new("/tmp"));
        let made =
            Environment::from_variables(|name| (name == "TMPDIR").then(|| "/scratch".into()), 7);
        assert_eq!(made.default_file(), Path::new("/tmp/bt_u7"));
        let made = Environment {
            xdg_runtime_dir: Some("/run/user/7".into()),
            ..made
        };
        assert_eq!(made.default_file(), Path::new("/run/user/7/bt_u7"));
    }

    #[test]
    fn no_text_shows_the_token() {
        let environment = Environment::from_variables(
            |name| (name == "BEARER_TOKEN").then(|| "hush hush".into()),
            7,
        );
        let error = discover(&environment).unwrap_err();
        for text in [
            format!("{environment:?}"),
            format!("{error:?}"),
            error.to_string(),
        ] {
            assert!(!text.contains("hush"), "{text}");
        }
        assert!(error.to_string().contains("step 1"));
        let good = Environment {
            bearer_token: Some("hush".into()),
            ..environment
        };
        let found = discover(&good).unwrap();
        assert_eq!(found.token.expose_secret(), "hush");
        assert!(!format!("{found:?}").contains("hush"));
    }

    #[test]
    fn a_silent_pipe_is_given_up_and_a_talking_one_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(
            &pipe,
            nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
        )
        .unwrap();
        let mut environment = Environment::from_variables(|_| None, geteuid().as_raw());
        environment.bearer_token_file = Some(pipe.clone().into());
        environment.tmp = dir.path().to_owned();
        environment.pipe_wait = Duration::ZERO;
        assert!(matches!(
            discover(&environment),
            Err(DiscoveryError::TimedOut { .. })
        ));
        environment.pipe_wait = Duration::from_secs(60);
        let writer = std::thread::spawn(move || std::fs::write(pipe, "abc\n").unwrap());
        assert_eq!(discover(&environment).unwrap().token.expose_secret(), "abc");
        writer.join().unwrap();
        environment.bearer_token_file = Some("/dev/null".into());
        assert!(matches!(
            discover(&environment),
            Err(DiscoveryError::NotFound { .. })
        ));
        environment.bearer_token_file = Some("/dev/zero".into());
        assert!(matches!(
            discover(&environment),
            Err(DiscoveryError::TooLarge { .. })
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn judged_tokens_are_clean(content in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(Some(token)) = judge(&content) {
                prop_assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
                prop_assert_eq!(judge(token.as_bytes()), Ok(Some(token.clone())));
            }
        }
    }
}
