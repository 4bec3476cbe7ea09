//! What can be said of a store without its keys: whether there is one, and what it takes to open it.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{FORMAT, FORMAT_KEY, missing};
use crate::clock::SystemBootClock;
use crate::engine::Engine;
use crate::engine::embedded::{Embedded, HostDisk, MayInitialise, Settings};
use crate::open::block_on;
use crate::{Etcd, RESERVE_BYTES, Store, StoreError, holds_data};

/// How a root key is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// How many there are.
    pub count: u8,
    /// How many it takes.
    pub threshold: u8,
}

impl Shares {
    /// Bytes of each share: those of the key, and one for its place if there are several.
    #[must_use]
    pub fn share_length(self) -> usize {
        if self.threshold == 1 { 32 } else { 33 }
    }
}

/// What a store says of its seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealState {
    /// Public identifier of the root key it wants.
    pub root_key_id: String,
    /// How that was split; `None` if it is held whole somewhere.
    pub shares: Option<Shares>,
}

impl SealState {
    /// What the store on an engine says; `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`], [`StoreError::Damaged`], or what the engine reports.
    pub async fn of(engine: &dyn Engine) -> Result<Option<Self>, StoreError> {
        let found = engine.read(&[FORMAT_KEY.to_vec()]).await?;
        let format = found.into_iter().next().flatten();
        format.map(|format| Self::parse(&format.value)).transpose()
    }

    /// What a format record says.
    fn parse(record: &[u8]) -> Result<Self, StoreError> {
        #[derive(Deserialize)]
        struct Number {
            format: u32,
        }
        #[derive(Deserialize)]
        struct Known {
            root_key: String,
            #[serde(default)]
            shares: Option<Shares>,
        }
        let damaged = |_| StoreError::Damaged {
            what: "the store (its format record)".to_owned(),
        };
        let Number { format: number } = serde_json::from_slice(record).map_err(damaged)?;
        if number > FORMAT {
            return Err(StoreError::NewerFormat {
                found: number,
                supported: FORMAT,
            });
        }
        let known: Known = serde_json::from_slice(record).map_err(damaged)?;
        Ok(SealState {
            root_key_id: known.root_key,
            shares: known.shares,
        })
    }

    /// What the store at a place in etcd says; `None` if there is none.
    ///
    /// # Errors
    /// As [`SealState::of`]; [`StoreError::Unavailable`] without etcd.
    pub async fn in_etcd(etcd: &Etcd) -> Result<Option<Self>, StoreError> {
        let format = etcd.format().await?;
        format.map(|format| Self::parse(&format)).transpose()
    }

    /// What the store in a directory of this host says; `None` if there is none. It is opened for that and closed again.
    ///
    /// # Errors
    /// As [`SealState::of`]; [`StoreError::InUse`].
    pub fn in_directory(directory: &Path) -> Result<Option<Self>, StoreError> {
        if !holds_data(directory)? {
            return Ok(None);
        }
        let engine = Embedded::open(Settings {
            directory: directory.to_owned(),
            reserve_bytes: RESERVE_BYTES,
            disk: Arc::new(HostDisk),
            clock: Arc::new(SystemBootClock),
            may_initialise: MayInitialise {
                empty: false,
                interrupted: false,
                copy: false,
            },
        })?;
        block_on(async {
            let state = Self::of(&engine).await;
            engine.close().await?;
            state
        })
    }

    /// As [`SealState::in_directory`], but nothing in the directory is changed: for whoever looks for trouble. Refuses a store that
    /// was not closed, which its next opening mends.
    ///
    /// # Errors
    /// As [`SealState::of`]; [`StoreError::InUse`].
    pub fn glance(directory: &Path) -> Result<Option<Self>, StoreError> {
        if !holds_data(directory)? {
            return Ok(None);
        }
        let format = crate::engine::embedded::glance(directory, FORMAT_KEY)?;
        format.map(|format| Self::parse(&format)).transpose()
    }
}

impl Store {
    /// What it says of its seal now; another node may have changed it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn seal_state(&self) -> Result<SealState, StoreError> {
        SealState::of(&*self.inner.engine)
            .await?
            .ok_or_else(missing)
    }
}
