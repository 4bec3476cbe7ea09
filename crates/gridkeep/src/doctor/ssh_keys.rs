//! The files of ssh keys that operators supply: whether the server may use each of them.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use gridkeep_identity::ssh::authorized_keys::{self, FileError, Trouble};
use gridkeep_keeper::is_ssh_key_name;

use super::{Findings, State};
use crate::config::{Config, Need, RunsAs, counted};

const ABOUT: &str = "ssh keys";
/// Findings about single files; of more it is said how many there are.
const MOST: usize = 10;

pub(super) fn look(config: &Config, findings: &mut Findings) {
    let (Some(_), Some(setting)) = (&config.ssh, &config.gridkeep.ssh_authorized_keys) else {
        return;
    };
    let directory = &setting.value;
    let runs_as = RunsAs::of(config);
    let closed = |path: &Path, need| runs_as.user().and_then(|user| user.refused(path, need));
    if let Some((what, remedy)) = closed(directory, Need::Pass) {
        let what = format!("{what} Whoever logs in with an ssh key gets 503.");
        return findings.push(ABOUT, State::Bad, what, remedy);
    }
    let mut open = Vec::new();
    for issuer in &config.issuers {
        let (name, below) = (&issuer.name.value, directory.join(&issuer.name.value));
        if !below.is_dir() {
            continue;
        }
        match closed(&below, Need::Pass) {
            Some((what, remedy)) => {
                let what =
                    format!("{what} Whoever logs in with an ssh key at issuer {name} gets 503.");
                findings.push(ABOUT, State::Bad, what, remedy);
            }
            None => open.push(below),
        }
    }
    let files = match files(directory, &open) {
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
    let mut troubles = Vec::new();
    for path in &files {
        let shown = path.display();
        let unusable = "Its people get 503.";
        if let Some((what, remedy)) = closed(path, Need::Read(None)) {
            troubles.push((format!("{what} {unusable}"), remedy));
            continue;
        }
        let own = match &runs_as {
            RunsAs::Root => 0,
            RunsAs::Other(user) => user.uid,
            // Whoever has it may be the one.
            RunsAs::Unknown => std::fs::metadata(path).map_or(0, |found| found.uid()),
        };
        match authorized_keys::read_for(path, own) {
            Err(FileError::Unsafe { why, .. }) => {
                let remedy = match why {
                    Trouble::NoFile => {
                        "Put a file there, in the form of sshd's authorized_keys, or take it away."
                            .to_owned()
                    }
                    Trouble::Writable(_) => format!("chmod go-w {shown}"),
                    Trouble::Owner(_) => format!("chown root {shown}"),
                    Trouble::TooLong => "Take out what are no keys of this person.".to_owned(),
                };
                troubles.push((format!("{shown} is not used: {why}. {unusable}"), remedy));
            }
            Err(FileError::Io { source, .. }) => {
                let remedy = match source.kind() {
                    ErrorKind::PermissionDenied => "Run this as root (sudo gridkeep doctor).",
                    ErrorKind::InvalidData => "Write it in UTF-8; so comments have to be, too.",
                    _ => {
                        "See the kernel's log (dmesg) for what is wrong with the disk or the file system."
                    }
                };
                let what = format!("{shown} cannot be read: {source}. {unusable}");
                troubles.push((what, remedy.to_owned()));
            }
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

/// Those for all issuers in `directory`, and those in the directories `of_issuers`.
fn files(directory: &Path, of_issuers: &[PathBuf]) -> std::io::Result<Vec<PathBuf>> {
    let mut files = below(directory)?;
    for directory in of_issuers {
        files.extend(below(directory)?);
    }
    files.sort();
    Ok(files)
}

/// The files that are read when somebody logs in: no editor's copies, whose names nobody can have.
fn below(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        if !path.is_dir() && name.to_str().is_some_and(is_ssh_key_name) {
            files.push(path);
        }
    }
    Ok(files)
}
