//! The files of ssh keys that operators supply: whether the server may use each of them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use gridkeep_identity::ssh::authorized_keys::{self, FileError};

use super::{Findings, State};
use crate::config::{Config, ServiceUser, counted};

const ABOUT: &str = "ssh keys";
/// Findings about single files; of more it is said how many there are.
const MOST: usize = 10;

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let (Some(_), Some(setting)) = (&config.ssh, &config.gridkeep.ssh_authorized_keys) else {
        return;
    };
    let directory = &setting.value;
    let user = ServiceUser::of(config);
    let closed = |path: &Path| user.as_ref().and_then(|user| user.refused(path, false));
    if let Some((what, remedy)) = closed(directory) {
        let what = format!("{what} Whoever logs in with an ssh key gets 503.");
        return findings.push(ABOUT, State::Bad, what, remedy);
    }
    let files = match files(config, directory) {
        Ok(files) => files,
        Err(error) => {
            let remedy = match error.kind() {
                ErrorKind::NotFound => {
                    "Make it, or take gridkeep.ssh.authorized_keys out; without it only registered keys count."
                }
                ErrorKind::NotADirectory => "Make it a directory with a file for each credkey.",
                _ => "Run this as root (sudo gridkeep doctor).",
            };
            let what = format!("{} cannot be looked into: {error}.", directory.display());
            return findings.push(ABOUT, State::Doubtful, what, remedy);
        }
    };
    let (uid, group) = match &user {
        Some(user) => (user.uid, user.group()),
        None => (nix::unistd::geteuid().as_raw(), "root".to_owned()),
    };
    let mut troubles = Vec::new();
    for path in &files {
        let shown = path.display();
        let by_hand = format!("chown root:{group} {shown} && chmod 0640 {shown}");
        let unusable = "Its people get 503.";
        if let Some((what, remedy)) = closed(path) {
            troubles.push((format!("{what} {unusable}"), remedy));
            continue;
        }
        match authorized_keys::read_for(path, uid) {
            Err(FileError::Unsafe { why, .. }) => {
                troubles.push((format!("{shown} is not used: {why}. {unusable}"), by_hand));
            }
            Err(error) => troubles.push((format!("{error}. {unusable}"), by_hand)),
            Ok(keys) => {
                let left_out = keys.unwrap_or_default().left_out;
                troubles.extend(left_out.into_iter().map(|line| {
                    let remedy = "Correct that line; a key whose limits are not known here would be worth more than was written.";
                    (format!("{shown}: {line}."), remedy.to_owned())
                }));
            }
        }
    }
    let more = troubles.len().saturating_sub(MOST);
    for (what, remedy) in troubles.drain(..).take(MOST) {
        findings.push(ABOUT, State::Doubtful, what, remedy);
    }
    if more > 0 {
        let what = format!("{more} more of the same sort.");
        findings.push(ABOUT, State::Doubtful, what, "Mend those above first.");
    }
    if findings.0.iter().all(|found| found.about != ABOUT) {
        let counted = counted(files.len(), "file");
        findings.good(ABOUT, format!("{counted} in {}.", directory.display()));
    }
}

/// Those for all issuers, and those in the directories of the issuers.
fn files(config: &Config, directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = below(directory)?;
    for issuer in &config.issuers {
        match below(&directory.join(&issuer.name.value)) {
            Ok(more) => files.extend(more),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(error),
        }
    }
    files.sort();
    Ok(files)
}

fn below(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if !path.is_dir() {
            files.push(path);
        }
    }
    Ok(files)
}
