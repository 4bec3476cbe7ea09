//! What the tests of this folder share: a scratch directory with a key and a store in it.

#![allow(dead_code, reason = "each test uses its part")]

use std::path::PathBuf;

use gridkeep_store::{
    Committed, Entry, Kind, Name, OpenOptions, Record, RootKey, Store, StoreError, Transaction,
    open,
};
use tempfile::TempDir;
use zeroize::Zeroizing;

pub struct Place {
    scratch: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    pub fn key(&self) -> PathBuf {
        self.scratch.path().join("root.key")
    }

    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub fn try_options(&self) -> Result<OpenOptions, StoreError> {
        let key = RootKey::load_or_generate(&self.key(), &self.data())?;
        let mut options = OpenOptions::new(&self.data(), key);
        options.reserve_bytes = 64 * 1024;
        Ok(options)
    }

    pub fn options(&self) -> OpenOptions {
        self.try_options().unwrap()
    }

    pub fn open(&self) -> Result<Store, StoreError> {
        open(self.try_options()?)
    }
}

pub const KIND: Kind = Kind(7);

pub fn name(part: &str) -> Name {
    Name::new(KIND, &[part])
}

pub fn record(body: &[u8]) -> Record {
    Record {
        schema: 1,
        body: Zeroizing::new(body.to_vec()),
        expires_at: None,
    }
}

pub async fn try_put(
    store: &Store,
    part: &str,
    body: &[u8],
) -> Result<Committed, gridkeep_store::CommitError> {
    store
        .commit(Transaction::new().put(name(part), record(body)))
        .await
}

pub async fn put(store: &Store, part: &str, body: &[u8]) {
    try_put(store, part, body).await.unwrap();
}

pub async fn get(store: &Store, part: &str) -> Option<Vec<u8>> {
    store
        .get(&name(part))
        .await
        .unwrap()
        .map(|Entry { record, .. }| record.body.to_vec())
}
