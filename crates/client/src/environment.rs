//! What a command of this crate knows of the process it runs in: variables, user, terminals, clock, the three streams.
//!
//! Owns the only place that looks at the real process. Everything else takes an [`Environment`], so that tests run side by side
//! and a command can be run inside another one. It refuses to know what any variable means; that stands with its reader.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gridkeep_identity::kerberos::{Initiate, InitiateError, Initiated, initiate};

use crate::http::{Resolver, SystemResolver};

/// Which of the three standard streams are terminals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terminals {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Terminals {
    /// Whether a person may be there: one terminal among the three is enough.
    #[must_use]
    pub fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}

/// How long the commands wait for what. The defaults are those of the compatibility specification; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Limit of one attempt to connect, TLS handshake included.
    pub connect: Duration,
    /// Head start of one address over the next (RFC 8305 calls it the connection attempt delay).
    pub stagger: Duration,
    /// Limit of every single read of an answer.
    pub read: Duration,
    /// Pause before the one repetition of a failed name lookup.
    pub resolve_again: Duration,
    /// Limit of one name lookup.
    pub resolve: Duration,
    /// Limit of everything that needs no person: callers kill the program after 60 s.
    pub unattended: Duration,
    /// The length that counts as one second in the waits which a server prescribes (poll interval, `Retry-After`).
    pub second: Duration,
    /// How long a login in a browser may take, in units of [`Timing::second`].
    pub login_seconds: u64,
    /// How long to wait for another run that is logging in.
    pub lock: Duration,
    /// How long to watch a browser for an early failure.
    pub browser: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            stagger: Duration::from_millis(250),
            read: Duration::from_secs(10),
            resolve_again: Duration::from_millis(500),
            resolve: Duration::from_secs(10),
            unattended: Duration::from_secs(50),
            second: Duration::from_secs(1),
            login_seconds: 120,
            lock: Duration::from_secs(10),
            browser: Duration::from_secs(1),
        }
    }
}

/// A wall clock: seconds since 1970-01-01T00:00:00Z.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How a Kerberos ticket becomes a proof; blocks.
pub type Kerberos = Arc<dyn Fn(&Initiate) -> Result<Initiated, InitiateError> + Send + Sync>;

/// The process as a command sees it.
#[derive(Clone)]
pub struct Environment {
    /// Environment variables. May hold secrets (`BEARER_TOKEN`), so `Debug` prints the names only.
    pub vars: BTreeMap<OsString, OsString>,
    /// Effective user id.
    pub euid: u32,
    /// Which streams are terminals.
    pub terminals: Terminals,
    /// Directory that relative file names start from.
    pub cwd: PathBuf,
    /// The directory for temporary files that other programs agree on: `/tmp`, whatever `TMPDIR` says.
    pub tmp: PathBuf,
    /// Wall clock.
    pub now: Clock,
    /// How names become addresses.
    pub resolver: Arc<dyn Resolver>,
    /// Proofs by Kerberos tickets.
    pub kerberos: Kerberos,
    /// Waiting times.
    pub timing: Timing,
}

impl Environment {
    /// The real process.
    #[must_use]
    pub fn current() -> Self {
        Self {
            vars: std::env::vars_os().collect(),
            euid: nix::unistd::geteuid().as_raw(),
            terminals: Terminals {
                stdin: std::io::stdin().is_terminal(),
                stdout: std::io::stdout().is_terminal(),
                stderr: std::io::stderr().is_terminal(),
            },
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            tmp: PathBuf::from("/tmp"),
            now: Arc::new(|| {
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
            }),
            resolver: Arc::new(SystemResolver),
            kerberos: Arc::new(initiate),
            timing: Timing::default(),
        }
    }

    /// The value of a variable, set or empty.
    #[must_use]
    pub fn var_os(&self, name: &str) -> Option<&OsStr> {
        self.vars.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// The value of a variable that is set, not empty, and text.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&str> {
        self.var_os(name)
            .and_then(OsStr::to_str)
            .filter(|value| !value.is_empty())
    }

    /// The home directory: `$HOME`, else the one of the effective user in the password database.
    #[must_use]
    pub fn home(&self) -> Option<PathBuf> {
        if let Some(home) = self.var_os("HOME").filter(|home| !home.is_empty()) {
            return Some(PathBuf::from(home));
        }
        nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(self.euid))
            .ok()
            .flatten()
            .map(|user| user.dir)
    }

    /// Replaces a leading `~` or `~user`; a name that has no home directory stays as it is.
    #[must_use]
    pub fn expand_tilde(&self, text: &str) -> PathBuf {
        let Some(rest) = text.strip_prefix('~') else {
            return PathBuf::from(text);
        };
        let (user, tail) = rest.split_once('/').unwrap_or((rest, ""));
        let home = if user.is_empty() {
            self.home()
        } else {
            nix::unistd::User::from_name(user)
                .ok()
                .flatten()
                .map(|user| user.dir)
        };
        match home {
            Some(home) if tail.is_empty() => home,
            Some(home) => home.join(tail),
            None => PathBuf::from(text),
        }
    }

    /// Makes a file name absolute.
    #[must_use]
    pub fn absolute(&self, path: &Path) -> PathBuf {
        self.cwd.join(path)
    }

    /// Now, in seconds since 1970.
    #[must_use]
    pub fn now(&self) -> i64 {
        (self.now)()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("vars", &self.vars.keys().collect::<Vec<_>>())
            .field("euid", &self.euid)
            .field("terminals", &self.terminals)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

/// The three standard streams of a command. A command writes nowhere else on them.
pub struct Streams<'a> {
    /// Standard input.
    pub input: &'a mut dyn Read,
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
}

impl fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streams")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_and_tilde() {
        let mut environment = Environment::current();
        environment.vars.clear();
        let from_database = environment.home();
        assert_eq!(
            from_database,
            nix::unistd::User::from_uid(nix::unistd::geteuid())
                .unwrap()
                .map(|user| user.dir)
        );
        environment.vars.insert("HOME".into(), "/home/alice".into());
        assert_eq!(
            environment.expand_tilde("~/x/y"),
            Path::new("/home/alice/x/y")
        );
        assert_eq!(environment.expand_tilde("~"), Path::new("/home/alice"));
        assert_eq!(environment.expand_tilde("a~/x"), Path::new("a~/x"));
        assert_eq!(
            environment.expand_tilde("~no-such-user-here/x"),
            Path::new("~no-such-user-here/x")
        );
        environment
            .vars
            .insert("BEARER_TOKEN".into(), "secret".into());
        assert!(!format!("{environment:?}").contains("secret"));
    }
}
