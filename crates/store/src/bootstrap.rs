//! What makes bytes on an engine a store: its format record and its keyring.
//!
//! Owns finding, judging and making the two. A newer format is refused before anything of it is taken for known.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::engine::{Engine, RawCommitError, RawGuard, RawPut, RawTransaction};
use crate::keyring::Keyring;
use crate::{RootKey, Shares, StoreError, sealing};

/// Newest format of a store that this program reads, and the one it makes.
pub(crate) const FORMAT: u32 = 1;
pub(crate) const FORMAT_KEY: &[u8] = b"m/format";
pub(crate) const KEYRING_KEY: &[u8] = b"m/keyring";
/// What a store says of itself in the clear.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Format {
    pub(crate) format: u32,
    /// Form that records may be written in: rises only when every live node can read it.
    pub(crate) write_level: u16,
    pub(crate) store: String,
    pub(crate) root_key: String,
    /// How the root key was split, if nobody holds it whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shares: Option<Shares>,
}

/// What is kept of a root key.
#[derive(Clone)]
pub(crate) struct WrappingKey {
    pub(crate) root_key_id: String,
    pub(crate) shares: Option<Shares>,
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

impl WrappingKey {
    pub(crate) fn of(root_key: &RootKey) -> Self {
        Self {
            root_key_id: root_key.id(),
            shares: root_key.shares(),
            secret: root_key.wrapping_key(),
        }
    }
}

pub(crate) fn missing() -> StoreError {
    StoreError::Damaged {
        what: "the store (its keyring is missing)".to_owned(),
    }
}

/// Format and keyring of what is on an engine; `None` if there is neither.
pub(crate) async fn load(
    engine: &dyn Engine,
    wrapping_keys: &[WrappingKey],
) -> Result<Option<(Format, Keyring)>, StoreError> {
    let mut found = engine
        .read(&[FORMAT_KEY.to_vec(), KEYRING_KEY.to_vec()])
        .await?
        .into_iter();
    let (format, keyring) = match (found.next().flatten(), found.next().flatten()) {
        (None, None) => return Ok(None),
        (Some(format), Some(keyring)) => (format, keyring),
        _ => return Err(missing()),
    };
    // The format number alone first: nothing else of a newer format may be taken for known.
    #[derive(Deserialize)]
    struct Number {
        format: u32,
    }
    let damaged = |_| StoreError::Damaged {
        what: "the store (its format record)".to_owned(),
    };
    let Number { format: number } = serde_json::from_slice(&format.value).map_err(damaged)?;
    if number > FORMAT {
        return Err(StoreError::NewerFormat {
            found: number,
            supported: FORMAT,
        });
    }
    let format: Format = serde_json::from_slice(&format.value).map_err(damaged)?;
    if format.write_level > u16::from(sealing::FORM) {
        return Err(StoreError::NewerFormat {
            found: format.write_level.into(),
            supported: sealing::FORM.into(),
        });
    }
    let Some(wrapping_key) = wrapping_keys
        .iter()
        .find(|key| key.root_key_id == format.root_key)
    else {
        let given = wrapping_keys
            .last()
            .map(|key| key.root_key_id.clone())
            .unwrap_or_default();
        return Err(StoreError::ForeignRootKey {
            expected: format.root_key,
            given,
        });
    };
    let mut keyring = Keyring::open(
        &wrapping_key.secret,
        format.store.as_bytes(),
        keyring.version,
        &keyring.value,
    )?;
    keyring.root_key_id.clone_from(&format.root_key);
    Ok(Some((format, keyring)))
}

pub(crate) fn meta_put(key: &[u8], value: Vec<u8>) -> RawPut {
    RawPut {
        key: key.to_vec(),
        value,
        expires_at: None,
        keep_version: false,
    }
}

pub(crate) fn format_bytes(format: &Format) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(format).map_err(|_| StoreError::Sealing)
}

/// Makes the format record and a first keyring.
pub(crate) async fn make(
    engine: &dyn Engine,
    wrapping_key: &WrappingKey,
) -> Result<(), StoreError> {
    let store: String = sealing::random::<16>()?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let keyring = Keyring::generate()?.seal(&wrapping_key.secret, store.as_bytes())?;
    let format = Format {
        format: FORMAT,
        write_level: sealing::FORM.into(),
        store,
        root_key: wrapping_key.root_key_id.clone(),
        shares: wrapping_key.shares,
    };
    let transaction = RawTransaction {
        guards: vec![
            RawGuard::Absent(FORMAT_KEY.to_vec()),
            RawGuard::Absent(KEYRING_KEY.to_vec()),
        ],
        puts: vec![
            meta_put(FORMAT_KEY, format_bytes(&format)?),
            meta_put(KEYRING_KEY, keyring),
        ],
        ..RawTransaction::default()
    };
    match engine.commit(transaction).await {
        // Another node was quicker: its keyring is ours.
        Ok(_) | Err(RawCommitError::Conflict(_)) => Ok(()),
        Err(RawCommitError::Store(error)) => Err(error),
    }
}
