//! The files that the htgettoken family keeps for a user, besides the bearer token.
//!
//! Owns names and places: remembered credkeys, private copies of vault tokens, unfinished logins, the lock. How a file is read and
//! replaced safely is the business of `gridkeep_token::file`. A further kind of file is one more method of [`Keep`].

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use gridkeep_token::file::{self, FileError, ReplaceOptions};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::environment::Environment;

/// Lives longer than this must not lie on disk (a rule of the IGTF), seconds.
pub const LONGEST_ON_DISK: u64 = 1_000_000;

/// The directory for what is private to us, below a runtime directory.
const PRIVATE: &str = "gridkeep";

/// The files that belong to one server, issuer and role.
#[derive(Clone, Debug)]
pub struct Keep {
    config_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    euid: u32,
    server: String,
    issuer: String,
    role: String,
}

impl Keep {
    /// `config_dir` is `--configdir` or its default, unless there is no home directory; `server` the canonical URL.
    #[must_use]
    pub fn new(
        config_dir: Option<PathBuf>,
        server: &str,
        issuer: &str,
        role: &str,
        environment: &Environment,
    ) -> Self {
        Self {
            config_dir,
            runtime_dir: runtime_dir(environment),
            euid: environment.euid,
            server: server.to_owned(),
            issuer: issuer.to_owned(),
            role: role.to_owned(),
        }
    }

    /// The name that the original uses. It mentions no server, and issuer `a-b` with role `c` collides with `a` and `b-c`.
    fn shared_credkey(&self) -> Option<PathBuf> {
        let plain = |text: &str| !text.contains(['/', '\0']);
        (plain(&self.issuer) && plain(&self.role))
            .then(|| self.in_config(&format!("credkey-{}-{}", self.issuer, self.role)))
            .flatten()
    }

    /// Ours, which is about one server, issuer and role only.
    fn own_credkey(&self) -> Option<PathBuf> {
        let name = digest(&[&self.server, &self.issuer, &self.role]);
        self.in_config(&format!("{PRIVATE}/credkey-{name}"))
    }

    fn in_config(&self, name: &str) -> Option<PathBuf> {
        self.config_dir
            .as_ref()
            .map(|directory| directory.join(name))
    }

    /// The credkey of the last login, and the file it is from.
    #[must_use]
    pub fn credkey(&self) -> Option<(String, PathBuf)> {
        [self.own_credkey(), self.shared_credkey()]
            .into_iter()
            .flatten()
            .find_map(|path| {
                let text = fs::read_to_string(&path).ok()?;
                let credkey = text.trim();
                (!credkey.is_empty()).then(|| (credkey.to_owned(), path))
            })
    }

    /// Remembers a credkey, also for the original; answers where.
    ///
    /// # Errors
    /// Neither file, or not the one of the original, could be written.
    pub fn remember_credkey(&self, credkey: &str) -> Result<Option<PathBuf>, FileError> {
        let line = format!("{credkey}\n");
        if let Some(own) = self.own_credkey().filter(|own| make_parent(own).is_ok()) {
            // The shared file is the one that counts; this one only corrects it.
            let _ = write(&own, line.as_bytes());
        }
        let Some(shared) = self.shared_credkey() else {
            return Ok(None);
        };
        let _ = make_parent(&shared);
        write(&shared, line.as_bytes())?;
        Ok(Some(shared))
    }

    /// Where a copy of the vault token may lie that only we read; made only by [`Keep::make_private`].
    #[must_use]
    pub fn private_vault_token(&self, credkey: &str) -> Option<PathBuf> {
        let name = digest(&[&self.server, &self.issuer, &self.role, credkey]);
        self.private_dir()
            .map(|directory| directory.join(format!("vt-{name}")))
    }

    /// `$XDG_RUNTIME_DIR/gridkeep`, or a directory on disk.
    fn private_dir(&self) -> Option<PathBuf> {
        match &self.runtime_dir {
            Some(directory) => Some(directory.join(PRIVATE)),
            None => self.in_config("run"),
        }
    }

    /// Stores a vault token that lives `life` seconds in its private copy; answers where, or `None` if there is no place for it.
    ///
    /// # Errors
    /// The directory is not ours alone, or the file cannot be written.
    pub fn make_private(
        &self,
        credkey: &str,
        life: u64,
        content: &[u8],
    ) -> Result<Option<PathBuf>, String> {
        if self.runtime_dir.is_none() && life > LONGEST_ON_DISK {
            return Ok(None);
        }
        let (Some(directory), Some(path)) = (self.private_dir(), self.private_vault_token(credkey))
        else {
            return Ok(None);
        };
        make_dir(&directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        private_to(&directory, self.euid)?;
        write(&path, content).map_err(|error| error.to_string())?;
        Ok(Some(path))
    }

    /// Where an unfinished login is remembered.
    #[must_use]
    pub fn unfinished_login(&self, oidc_path: &str) -> Option<PathBuf> {
        let name = digest(&[&self.server, &self.issuer, &self.role, oidc_path]);
        self.in_config(&format!("{PRIVATE}/login-{name}"))
    }

    /// The lock around logging in and writing. Never a token file: those are replaced.
    #[must_use]
    pub fn lock(&self) -> Option<PathBuf> {
        let safe = |text: &str| text.replace(['/', '\0'], "%2F");
        let path = self.in_config(&format!("lock-{}-{}", safe(&self.issuer), safe(&self.role)))?;
        make_parent(&path).ok().map(|()| path)
    }
}

/// The vault tokens that [`Keep::make_private`] may have left, of all servers, issuers and roles: what a command that destroys
/// tokens has to remove.
#[must_use]
pub fn private_vault_tokens(environment: &Environment, config_dir: Option<&Path>) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = [
        runtime_dir(environment).map(|directory| directory.join(PRIVATE)),
        config_dir.map(|directory| directory.join("run")),
    ]
    .into_iter()
    .flatten()
    .filter(|directory| private_to(directory, environment.euid).is_ok())
    .filter_map(|directory| fs::read_dir(directory).ok())
    .flat_map(|entries| entries.flatten())
    .filter(|entry| entry.file_name().to_string_lossy().starts_with("vt-"))
    .map(|entry| entry.path())
    .collect();
    found.sort();
    found
}

/// `--configdir`, else `~/.config/htgettoken`; none when there is no home directory.
#[must_use]
pub fn config_dir(option: Option<&str>, environment: &Environment) -> Option<PathBuf> {
    let path = match option.filter(|path| !path.is_empty()) {
        Some(path) => environment.expand_tilde(path),
        None => environment.home()?.join(".config/htgettoken"),
    };
    Some(environment.absolute(&path))
}

fn runtime_dir(environment: &Environment) -> Option<PathBuf> {
    environment
        .var("XDG_RUNTIME_DIR")
        .map(|directory| environment.absolute(Path::new(directory)))
        .filter(|directory| directory.is_dir())
}

/// Replaces a file with mode 0600. Signals that end the program wait until it is done, so that no temporary file is left.
///
/// # Errors
/// As [`file::replace`].
pub fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mut ending = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        ending.add(signal);
    }
    let before = ending.thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let written = file::replace(path, content, &ReplaceOptions::default());
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    written
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), make_dir)
}

/// Makes the directory, and those above it, for the user alone.
pub(crate) fn make_dir(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

/// Whether a directory is the user's and nobody else's.
fn private_to(directory: &Path, euid: u32) -> Result<(), String> {
    let found = fs::symlink_metadata(directory)
        .map_err(|error| format!("cannot look at {}: {error}", directory.display()))?;
    if found.is_dir() && found.uid() == euid && found.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(format!(
            "{} is not a directory of this user alone, so no vault token is kept there",
            directory.display()
        ))
    }
}

/// A file name for several texts together.
pub(crate) fn digest(parts: &[&str]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref()[..16]
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn keep(directory: &Path, server: &str, issuer: &str, role: &str) -> Keep {
        let mut environment = Environment::current();
        environment.vars.clear();
        Keep::new(
            Some(directory.join("config")),
            server,
            issuer,
            role,
            &environment,
        )
    }

    #[test]
    fn credkeys_of_two_servers_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let one = keep(directory.path(), "https://one:8200", "a-b", "c");
        let two = keep(directory.path(), "https://two:8200", "a", "b-c");
        assert_eq!(one.credkey(), None);
        let shared = one.remember_credkey("alice").unwrap().unwrap();
        assert!(shared.ends_with("config/credkey-a-b-c"));
        assert_eq!(fs::read_to_string(&shared).unwrap(), "alice\n");
        assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o777, 0o600);
        // What the original wrote for another server is better than nothing.
        assert_eq!(two.credkey().unwrap().0, "alice");
        two.remember_credkey("bob").unwrap();
        assert_eq!(one.credkey().unwrap().0, "alice");
        assert_eq!(two.credkey().unwrap().0, "bob");
    }

    #[test]
    fn a_slash_in_a_name_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let keep = keep(directory.path(), "https://one:8200", "../x", "c");
        assert_eq!(keep.remember_credkey("alice").unwrap(), None);
        assert_eq!(keep.credkey().unwrap().0, "alice");
        assert!(keep.lock().unwrap().ends_with("config/lock-..%2Fx-c"));
    }

    #[test]
    fn private_copies() {
        let directory = tempfile::tempdir().unwrap();
        let mut environment = Environment::current();
        environment.vars.clear();
        let config = directory.path().join("config");
        let keep =
            |environment: &Environment| Keep::new(Some(config.clone()), "s", "i", "r", environment);
        let on_disk = keep(&environment);
        assert_eq!(
            on_disk
                .make_private("k", LONGEST_ON_DISK + 1, b"t")
                .unwrap(),
            None
        );
        let path = on_disk
            .make_private("k", LONGEST_ON_DISK, b"t")
            .unwrap()
            .unwrap();
        assert!(path.starts_with(config.join("run")));
        assert_eq!(on_disk.private_vault_token("k").unwrap(), path);
        assert_ne!(on_disk.private_vault_token("l").unwrap(), path);

        let runtime = directory.path().join("runtime");
        fs::create_dir(&runtime).unwrap();
        environment
            .vars
            .insert("XDG_RUNTIME_DIR".into(), runtime.clone().into());
        let in_memory = keep(&environment);
        let second = in_memory
            .make_private("k", u64::MAX, b"t")
            .unwrap()
            .unwrap();
        assert!(second.starts_with(runtime.join("gridkeep")));
        let mut both = vec![path, second];
        both.sort();
        assert_eq!(private_vault_tokens(&environment, Some(&config)), both);

        fs::set_permissions(runtime.join("gridkeep"), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(in_memory.make_private("k", 1, b"t").is_err());
    }
}
