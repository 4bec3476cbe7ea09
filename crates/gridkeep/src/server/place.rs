//! Where the store is: opening it with the root key, in the data directory or in etcd, and making both at the very first start.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use gridkeep_store::{Etcd, Initialise, OpenOptions, RootKey, SealState, Store, StoreError};

use super::replacement;
use crate::config::{Config, Loaded};

/// The credential of the service manager that holds the root key.
pub const ROOT_KEY_CREDENTIAL: &str = "gridkeep-root-key";

/// Where the root key is.
pub enum KeySource {
    /// The service manager's credential.
    Credential,
    /// This file.
    File(PathBuf),
}

impl KeySource {
    /// The key, which exists.
    pub(super) fn read(self) -> anyhow::Result<RootKey> {
        Ok(match self {
            Self::Credential => RootKey::from_credential_dir(ROOT_KEY_CREDENTIAL)?,
            Self::File(path) => RootKey::from_file(&path)?,
        })
    }

    /// As the configuration and the service manager have it.
    pub fn of(config: &Config, loaded: &Loaded) -> Self {
        if Self::is_credential(config) {
            return Self::Credential;
        }
        Self::File(config.root_key_file(&loaded.sources.base))
    }

    /// Whether this process gets it from the service manager.
    pub(super) fn is_credential(config: &Config) -> bool {
        config.gridkeep.seal_key_file.is_none()
            && std::env::var_os("CREDENTIALS_DIRECTORY")
                .is_some_and(|place| Path::new(&place).join(ROOT_KEY_CREDENTIAL).exists())
    }
}

/// Opens the store of this configuration; makes it at the very first start. The data directory is made in either case: what is received
/// while the store is away is kept there. With a key that is `given`, from shares, the store has been made already.
///
/// # Errors
/// In words for the operator.
pub(super) async fn open(
    config: &Config,
    loaded: &Loaded,
    initialise: bool,
    given: Option<RootKey>,
) -> anyhow::Result<Store> {
    let data = config.gridkeep.data.value.clone();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&data)
        .with_context(|| format!("the data directory {} cannot be made; make it for the user of the service, or set gridkeep.data", data.display()))?;
    let source = KeySource::of(config, loaded);
    let initialise = if initialise {
        Initialise::WithGivenKey
    } else {
        Initialise::WhenEmpty
    };
    if let Some(etcd) = &config.gridkeep.etcd {
        let etcd = Etcd::new(etcd.settings())?;
        let key = match (given, &source) {
            (Some(key), _) => key,
            (None, KeySource::Credential) => RootKey::from_credential_dir(ROOT_KEY_CREDENTIAL)?,
            (None, KeySource::File(path)) => {
                if replacement::was_interrupted(path) {
                    let state = SealState::in_etcd(&etcd).await?;
                    replacement::finish(path, state.as_ref())?;
                }
                match etcd.load_or_generate(path).await {
                    Err(error @ StoreError::DataWithoutKey { .. }) => {
                        let state = SealState::in_etcd(&etcd).await;
                        return Err(or_split(error, state));
                    }
                    found => found?,
                }
            }
        };
        let made = made(&key, &source);
        let store = etcd.open(key, initialise).await?;
        tell_of_new(made);
        return Ok(store);
    }
    tokio::task::spawn_blocking(move || {
        let directory = data.join("store");
        let key = match (given, &source) {
            (Some(key), _) => key,
            (None, KeySource::Credential) => RootKey::from_credential_dir(ROOT_KEY_CREDENTIAL)?,
            (None, KeySource::File(path)) => {
                if replacement::was_interrupted(path) {
                    let state = SealState::in_directory(&directory)?;
                    replacement::finish(path, state.as_ref())?;
                }
                match RootKey::load_or_generate(path, &directory) {
                    Err(error @ StoreError::DataWithoutKey { .. }) => {
                        return Err(or_split(error, SealState::in_directory(&directory)));
                    }
                    found => found?,
                }
            }
        };
        let made = made(&key, &source);
        let mut options = OpenOptions::new(&directory, key);
        options.initialise = initialise;
        let store = gridkeep_store::open(options)?;
        tell_of_new(made);
        Ok(store)
    })
    .await
    .context("opening the store failed")?
}

/// Where the key lies, if it was made by this start.
fn made(key: &RootKey, source: &KeySource) -> Option<PathBuf> {
    match source {
        KeySource::File(path) if key.is_fresh() && key.shares().is_none() => Some(path.clone()),
        _ => None,
    }
}

/// Says that there is a key of which no copy exists: once there is something sealed under it.
fn tell_of_new(key: Option<PathBuf>) {
    if let Some(path) = key {
        tracing::warn!(
            "a new root key was made: {}; copy it to a safe place off this host now: without it nothing that is stored can be opened",
            path.display()
        );
    }
}

/// The error of a key that is not in its file, or that it lies in none because it was split.
fn or_split(error: StoreError, state: Result<Option<SealState>, StoreError>) -> anyhow::Error {
    match (&error, state.ok().flatten().and_then(|state| state.shares)) {
        (StoreError::DataWithoutKey { data, .. }, Some(shares)) => anyhow::anyhow!(
            "there is data in {}, and its root key lies in no file: it was split into {} shares, of which {} open it. Set gridkeep.seal.shamir to true again, start the server, and unseal it with the shares (gridkeep operator unseal)",
            data.display(),
            shares.count,
            shares.threshold
        ),
        _ => error.into(),
    }
}

/// Opens the store of a server that does not run; `root_key` instead of the configured one. Makes nothing.
///
/// # Errors
/// In words for the operator; also when a server runs on a data directory.
pub(super) async fn open_existing(
    config: &Config,
    loaded: &Loaded,
    root_key: Option<&Path>,
) -> anyhow::Result<Store> {
    let key = match root_key {
        Some(path) => RootKey::from_file(path)?,
        None => KeySource::of(config, loaded).read()?,
    };
    if let Some(etcd) = &config.gridkeep.etcd {
        let etcd = Etcd::new(etcd.settings())?;
        return Ok(etcd.open(key, Initialise::Never).await?);
    }
    let mut options = OpenOptions::new(&config.gridkeep.data.value.join("store"), key);
    options.initialise = Initialise::Never;
    Ok(gridkeep_store::open(options)?)
}
