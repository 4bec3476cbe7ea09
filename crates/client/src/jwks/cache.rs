//! The file that holds the copy of one issuer's keys: where it lies, how it is read with suspicion and written without risk.
//! Losing it costs one request, so every failure here is silent.

use crate::environment::Environment;
use crate::http::TrustSources;
use aws_lc_rs::digest::{SHA256, digest};
use gridkeep_token::file::{
    FileError, Lock, ReadPolicy, ReplaceOptions, lock, read_secret, replace,
};
use gridkeep_token::profile::key_cache::{IssuerKeys, Policy};
use gridkeep_token::time::UnixSeconds;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// Who may fetch.
#[derive(Debug)]
pub enum Fetching {
    /// We, until this is dropped.
    Ours(#[expect(dead_code, reason = "held, not looked at")] Lock),
    /// Another command is at it.
    Busy,
    /// There is no place for a lock: everybody.
    Unguarded,
}

impl Fetching {
    /// Whether another command is fetching.
    pub fn is_busy(&self) -> bool {
        matches!(self, Fetching::Busy)
    }
}

/// The place of one issuer's keys; without a home directory there is none, and nothing is kept.
#[derive(Debug)]
pub struct Entry {
    issuer: String,
    path: Option<PathBuf>,
}

impl Entry {
    /// The place for keys of `issuer` fetched under `trust`: what one set of authorities vouched for is no word of another's.
    pub fn of(issuer: &str, trust: &TrustSources, environment: &Environment) -> Entry {
        let base = environment
            .var("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| environment.home().map(|home| home.join(".cache")));
        let name = digest(
            &SHA256,
            format!("{issuer}\0{:?}\0{:?}", trust.bundle, trust.directory).as_bytes(),
        );
        let name = name.as_ref()[..16]
            .iter()
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
        Entry {
            issuer: issuer.to_owned(),
            path: base.map(|base| base.join("gridkeep").join("jwks").join(name + ".json")),
        }
    }

    /// Keeps other commands from fetching the same keys, waiting at most `patience` for one that does.
    pub fn lock(&self, patience: Duration) -> Fetching {
        let Some(path) = &self.path else {
            return Fetching::Unguarded;
        };
        let made = path.parent().map(|directory| {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
        });
        if !matches!(made, Some(Ok(()))) {
            return Fetching::Unguarded;
        }
        match lock(&path.with_extension("lock"), patience) {
            Ok(lock) => Fetching::Ours(lock),
            Err(FileError::Locked { .. }) => Fetching::Busy,
            Err(_) => Fetching::Unguarded,
        }
    }

    /// The copy, or the state of an issuer never asked.
    pub fn read(&self, policy: &Policy, now: UnixSeconds) -> IssuerKeys {
        self.try_read(policy, now).unwrap_or_default()
    }

    fn try_read(&self, policy: &Policy, now: UnixSeconds) -> Option<IssuerKeys> {
        // Keys are no secret; the policy's checks keep out a file that somebody else could have written.
        let text = read_secret(self.path.as_ref()?, ReadPolicy::DefaultLocation).ok()??;
        let value: Value = serde_json::from_str(text.expose_secret()).ok()?;
        if value.get("issuer")?.as_str()? != self.issuer {
            return None;
        }
        let mut state = IssuerKeys::from_json(value.get("keys")?)?;
        let attempted = UnixSeconds(value.get("attempted")?.as_i64()?);
        if now.since(attempted).is_some_and(|ago| ago < policy.pause) {
            state.started(attempted);
            state.failed();
        }
        Some(state)
    }

    /// Writes the copy, and that the issuer was asked at `attempted`. An attempt without any copy is not remembered: a person who
    /// repeats a command after mending the network should not be told to wait.
    pub fn write(&self, state: &IssuerKeys, attempted: UnixSeconds) {
        let (Some(path), Some(keys)) = (&self.path, state.to_json()) else {
            return;
        };
        let value = json!({ "issuer": self.issuer, "attempted": attempted, "keys": keys });
        let Some(directory) = path.parent() else {
            return;
        };
        if DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .is_ok()
        {
            let _ = replace(
                path,
                value.to_string().as_bytes(),
                &ReplaceOptions::default(),
            );
        }
    }
}
