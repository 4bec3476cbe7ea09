//! The root key's file: whether it is there, is a root key, and is the one that the data wants. A store without its key is lost.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use gridkeep_store::{Etcd, RootKey, SealState};

use super::server::Server;
use super::{Findings, State};
use crate::config::{Closed, Config, Loaded, ROOT_KEY};
use crate::server::operator::{self, Order, RootKeyAnswer};
use crate::server::place::{KeySource, ROOT_KEY_CREDENTIAL};
use crate::server::replacement;

/// For etcd to say what the store in it wants.
const PATIENCE: Duration = Duration::from_secs(8);
/// Where systemd finds units, and what is added to them.
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// The data, as far as its root key is concerned.
enum Data {
    /// There is none: the first start makes the key.
    None,
    /// It is sealed under the key of this identifier.
    SealedUnder(String),
    /// There is some; what it wants cannot be seen now.
    There,
    /// Whether there is any cannot be seen now.
    NotSeen,
}

pub(super) async fn look(
    config: &Config,
    loaded: &Loaded,
    server: &Server,
    closed: &[Closed],
    findings: &mut Findings,
) {
    let KeySource::File(file) = KeySource::of(config, loaded) else {
        return;
    };
    if config.gridkeep.shamir.value {
        return;
    }
    let told = server.status().and_then(|_| asked(config));
    let by_manager = match &told {
        Some(told) => told.credential,
        None => config.gridkeep.seal_key_file.is_none() && a_unit_gives_it(&UNITS),
    };
    if by_manager {
        // Only the service sees it.
        return;
    }
    let data = match told {
        Some(told) => Data::SealedUnder(told.id),
        None => seen(config).await,
    };
    let verdict = match std::fs::metadata(&file) {
        Ok(found) => there(&file, &found, &data),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            missing(&file, &data, server.status().is_some())
        }
        Err(error) => {
            let what = format!("{} cannot be looked at: {error}.", file.display());
            Some((State::Doubtful, what, ROOT.to_owned()))
        }
    };
    // That the server's user may not read it has been said already: then nothing is good.
    let said = closed.iter().any(|closed| closed.key == ROOT_KEY);
    if let Some((state, what, remedy)) = verdict
        && !(said && state == State::Good)
    {
        findings.push("root key", state, what, remedy);
    }
}

/// What is found, and what helps.
type Verdict = (State, String, String);

const ROOT: &str = "Run this as root (sudo gridkeep doctor).";

fn put_back(file: &Path) -> String {
    format!(
        "Put the copy of the root key back as {}, with mode 0600 and owned by the server's user.",
        file.display()
    )
}

/// Of a file that is not there. A server that `serves` has the key in its memory.
fn missing(file: &Path, data: &Data, serves: bool) -> Option<Verdict> {
    let (shown, put_back) = (file.display(), put_back(file));
    let lost = format!("{shown} is not there, and the data cannot be opened without it");
    match data {
        Data::None => None,
        Data::NotSeen => Some((
            State::Doubtful,
            format!(
                "{shown} is not there; whether there is data that needs it cannot be seen now."
            ),
            format!("Before the first start nothing is missing. Else: {put_back}"),
        )),
        _ if serves => Some((
            State::Bad,
            format!("{lost}: the next start fails."),
            format!(
                "{put_back} Where there is no copy, do not stop the server before gridkeep operator rotate-root-key --key FILE has made another key and put it into force."
            ),
        )),
        _ => Some((
            State::Bad,
            format!("{lost}."),
            format!(
                "{put_back} If systemd gives the key to the service, its unit has to say so: LoadCredential={ROOT_KEY_CREDENTIAL}:…"
            ),
        )),
    }
}

/// Of a file that is there.
fn there(file: &Path, found: &Metadata, data: &Data) -> Option<Verdict> {
    let shown = file.display();
    let verdict = |state, what: String, remedy: String| Some((state, what, remedy));
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        let what = format!("{shown} has mode {mode:o}.");
        return verdict(State::Bad, what, format!("chmod 0600 {shown}"));
    }
    if let Err(error) = std::fs::File::open(file)
        && error.kind() == ErrorKind::PermissionDenied
    {
        let what = format!("{shown} is there; whether it is the right one only root can see.");
        return verdict(State::Doubtful, what, ROOT.to_owned());
    }
    let key = match RootKey::from_file(file) {
        Ok(key) => key.id(),
        Err(error) => return verdict(State::Bad, format!("{error}."), put_back(file)),
    };
    match data {
        Data::SealedUnder(wanted) if *wanted == key => verdict(
            State::Good,
            format!("{shown} is that of the data; keep a copy in a safe place."),
            String::new(),
        ),
        Data::SealedUnder(wanted) if is_next(file, wanted) => verdict(
            State::Doubtful,
            format!(
                "A replacement of the root key was interrupted: the data is sealed under root key {wanted}, which lies in {}.",
                replacement::next(file).display()
            ),
            "Leave both files where they are; the next start puts the new one in place.".to_owned(),
        ),
        Data::SealedUnder(wanted) => verdict(
            State::Bad,
            format!(
                "{shown} holds root key {key}, the data is sealed under root key {wanted}: the next start fails."
            ),
            format!(
                "Put the file with key {wanted} there, with mode 0600 and owned by the server's user. After a rotation it lies where that was ordered: on another node of the cluster, or in the file that --key named; else in the safe place."
            ),
        ),
        Data::None | Data::There | Data::NotSeen => verdict(
            State::Good,
            format!(
                "{shown} is there; keep a copy in a safe place. Whether it is that of the data cannot be seen now."
            ),
            String::new(),
        ),
    }
}

/// Whether the next start takes the key that lies beside the present one.
fn is_next(file: &Path, wanted: &str) -> bool {
    RootKey::from_file(&replacement::next(file)).is_ok_and(|key| key.id() == wanted)
}

/// What the running server says; `None` of one that is older than the question, or whose store is away.
fn asked(config: &Config) -> Option<RootKeyAnswer> {
    let answer = operator::ask(&config.gridkeep.run_directory.value, &Order::RootKey).ok()?;
    serde_json::from_str(&answer).ok()
}

/// What the data says without being opened.
async fn seen(config: &Config) -> Data {
    let state = match &config.gridkeep.etcd {
        Some(settings) => {
            let asking = async { SealState::in_etcd(&Etcd::new(settings.settings())?).await };
            match tokio::time::timeout(PATIENCE, asking).await {
                Ok(Ok(state)) => state,
                _ => return Data::NotSeen,
            }
        }
        None => {
            let directory = config.gridkeep.data.value.join("store");
            match (
                SealState::glance(&directory),
                gridkeep_store::holds_data(&directory),
            ) {
                (Ok(state), _) => state,
                (Err(_), Ok(true)) => return Data::There,
                (Err(_), _) => return Data::NotSeen,
            }
        }
    };
    state.map_or(Data::None, |state| Data::SealedUnder(state.root_key_id))
}

/// Whether a unit of systemd that bears our name gives its service the root key.
fn a_unit_gives_it(places: &[&str]) -> bool {
    let ours = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("gridkeep")
    };
    let below = |directory: &Path| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    places
        .iter()
        .flat_map(|place| below(Path::new(place)))
        .filter(|path| ours(path))
        .flat_map(|path| match path.is_dir() {
            true => below(&path),
            false => vec![path],
        })
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .any(|text| text.lines().any(gives_it))
}

fn gives_it(line: &str) -> bool {
    let Some((setting, value)) = line.trim().split_once('=') else {
        return false;
    };
    let settings = [
        "LoadCredential",
        "LoadCredentialEncrypted",
        "SetCredential",
        "SetCredentialEncrypted",
        "ImportCredential",
    ];
    settings.contains(&setting.trim())
        && value.trim().split(':').next() == Some(ROOT_KEY_CREDENTIAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_that_gives_the_key() {
        let units = tempfile::tempdir().unwrap();
        let place = units.path().to_str().unwrap();
        let unit =
            "[Service]\nExecStart=/usr/bin/gridkeep server\n#LoadCredential=gridkeep-root-key:/k\n";
        std::fs::write(units.path().join("gridkeep.service"), unit).unwrap();
        assert!(!a_unit_gives_it(&[place, "/nowhere"]));
        let added = units.path().join("gridkeep.service.d");
        std::fs::create_dir(&added).unwrap();
        for (line, gives) in [
            ("LoadCredential=other:/k", false),
            (
                "LoadCredential=gridkeep-root-key:/etc/gridkeep/private/gridkeep-root.key",
                true,
            ),
            (
                "LoadCredentialEncrypted=gridkeep-root-key:/etc/gridkeep/k.cred",
                true,
            ),
            ("ImportCredential=gridkeep-root-key", true),
        ] {
            std::fs::write(added.join("override.conf"), format!("[Service]\n{line}\n")).unwrap();
            assert_eq!(a_unit_gives_it(&[place]), gives, "{line}");
        }
    }
}
