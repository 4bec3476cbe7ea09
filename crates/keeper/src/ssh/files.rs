//! Keys that administrators put into files: reading those of a credkey, and saying which of them go on counting.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gridkeep_identity::ssh::authorized_keys::{self, FileError};
use gridkeep_token::time::UnixSeconds;

use super::keys::{SshKey, SshKeySource};
use super::remembered::{KeyFiles, Read, Unusable};
use crate::setup::SshSetup;

/// A file that administrators may put keys into, and what it has, or why it cannot be used.
pub(super) type InFile = (PathBuf, Read);

/// Reads the files for `credkey`: those of `issuers`, and the one for all of them.
pub(super) async fn read_files(
    known: &Arc<KeyFiles>,
    ssh: &SshSetup,
    issuers: &[&str],
    credkey: &str,
) -> Vec<InFile> {
    let Some(directory) = &ssh.authorized_keys else {
        return Vec::new();
    };
    let places: Vec<(PathBuf, Option<String>)> = issuers
        .iter()
        .map(|issuer| {
            (
                directory.join(issuer).join(credkey),
                Some((*issuer).to_owned()),
            )
        })
        .chain([(directory.join(credkey), None)])
        .collect();
    let (owner, whole, known) = (credkey.to_owned(), directory.clone(), known.clone());
    tokio::task::spawn_blocking(move || {
        let read = |(path, issuer): (PathBuf, Option<String>)| {
            let keys = known.get(&path, |path| from_file(path, issuer.as_deref(), &owner));
            (path, keys)
        };
        places.into_iter().map(read).collect()
    })
    .await
    .unwrap_or_else(|_| vec![(whole, Err("reading keys ended in a panic".to_owned()))])
}

/// The files with a key whose fingerprint is `meant`; one that cannot be read may have it.
pub(super) fn files_of(found: &[InFile], meant: impl Fn(&str) -> bool) -> Vec<&Path> {
    let has = |read: &Read| match read {
        Ok(keys) => keys.iter().any(|key| meant(&key.fingerprint)),
        Err(_) => true,
    };
    found
        .iter()
        .filter(|(_, read)| has(read))
        .map(|(path, _)| path.as_path())
        .collect()
}

/// A warning for each of `files`.
pub(super) fn still_counting(files: &[&Path]) -> Vec<String> {
    files
        .iter()
        .map(|file| {
            format!(
                "keys in the file {} still count, which operators of this server edit; take them out there",
                file.display()
            )
        })
        .collect()
}

/// Reads a file and logs which of its lines are left out.
fn from_file(path: &Path, issuer: Option<&str>, owner: &str) -> Result<Vec<SshKey>, Unusable> {
    let read = authorized_keys::read(path).map_err(|error| Unusable {
        why: error.to_string(),
        passing: match &error {
            FileError::Io { source, .. } => Some(source.kind()),
            FileError::Unsafe { .. } => None,
        },
    });
    let Some(file) = read? else {
        return Ok(Vec::new());
    };
    for left_out in &file.left_out {
        tracing::warn!(file = %path.display(), "{left_out}");
    }
    Ok(file
        .lines
        .into_iter()
        .map(|line| SshKey {
            fingerprint: line.key.fingerprint().to_owned(),
            line: line.key.line().to_owned(),
            comment: line.key.comment().to_owned(),
            owner: owner.to_owned(),
            issuer: issuer.map(str::to_owned),
            source: SshKeySource::File {
                path: path.to_owned(),
                line: line.number,
            },
            added_at: None,
            added_by: None,
            expires_at: line.expires_at.map(UnixSeconds),
            used_at: None,
        })
        .collect())
}
