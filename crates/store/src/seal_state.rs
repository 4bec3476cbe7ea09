//! What can be said of a store without its keys: whether there is one, and what it takes to open it.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{FORMAT, FORMAT_KEY};
use crate::clock::SystemBootClock;
use crate::engine::Engine;
use crate::engine::embedded::{Embedded, HostDisk, MayInitialise, Settings};
use crate::open::block_on;
use crate::{RESERVE_BYTES, StoreError, holds_data};

/// How a root key is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// How many there are.
    pub count: u8,
    /// How many it takes.
    pub threshold: u8,
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
        let found = engine.read(&[FORMAT_KEY.to_vec()]).await?;
        let Some(format) = found.into_iter().next().flatten() else {
            return Ok(None);
        };
        let Number { format: number } = serde_json::from_slice(&format.value).map_err(damaged)?;
        if number > FORMAT {
            return Err(StoreError::NewerFormat {
                found: number,
                supported: FORMAT,
            });
        }
        let known: Known = serde_json::from_slice(&format.value).map_err(damaged)?;
        Ok(Some(SealState {
            root_key_id: known.root_key,
            shares: known.shares,
        }))
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
}
