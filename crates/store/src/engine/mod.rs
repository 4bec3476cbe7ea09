//! What an engine is: guarded transactions over raw bytes.
//!
//! An engine never sees a name, a body or a key of ours. A new engine is one module here; it is done when
//! [`crate::conformance`] passes on it.

use std::time::Duration;

use async_trait::async_trait;

pub use crate::watch::{RawChange, RawWatch};
use crate::{Mark, StoreError};

pub mod embedded;
pub mod etcd;
pub(crate) mod lease;

/// An entry as the engine holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Its key.
    pub key: Vec<u8>,
    /// Number of the commit that wrote it.
    pub version: u64,
    /// Under which second it is found by [`Engine::due`].
    pub expires_at: Option<i64>,
    /// The bytes written.
    pub value: Vec<u8>,
}

/// A condition of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawGuard {
    /// The key has no entry.
    Absent(Vec<u8>),
    /// The key's entry is at this version.
    At(Vec<u8>, u64),
}

/// An entry to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPut {
    /// Its key.
    pub key: Vec<u8>,
    /// Its bytes.
    pub value: Vec<u8>,
    /// Under which second it is to be found by [`Engine::due`].
    pub expires_at: Option<i64>,
    /// Keep the version of the entry that is there and tell no watcher: the meaning is unchanged, only the bytes are (sealed
    /// anew). Guard the entry's version along with it.
    pub keep_version: bool,
}

/// Writes that happen all or none, and only if every guard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawTransaction {
    /// Judged in order.
    pub guards: Vec<RawGuard>,
    /// Entries to write.
    pub puts: Vec<RawPut>,
    /// Keys to delete.
    pub deletes: Vec<Vec<u8>>,
    /// What is written comes from another store: for a copy only.
    pub copied: Option<Box<CopiedFrom>>,
    /// May use the space that is set aside for when the disk is full. Transactions that only delete always may.
    pub critical: bool,
}

/// What a transaction takes over from another store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopiedFrom {
    /// Versions of the puts, in their order, in place of the commit's number.
    pub versions: Vec<u64>,
    /// The commit's number is at least this, on an engine that chooses the numbers itself.
    pub least_number: u64,
}

impl RawTransaction {
    /// The version that a put brings along.
    pub(crate) fn copied_version(&self, put: usize) -> Option<u64> {
        self.copied.as_ref()?.versions.get(put).copied()
    }
}

/// Why an engine did not commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawCommitError {
    /// The guard of this index did not hold.
    Conflict(usize),
    /// It could not.
    Store(StoreError),
}

impl From<StoreError> for RawCommitError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Entries in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawPage {
    /// The entries.
    pub entries: Vec<RawEntry>,
    /// True if there are more behind the last one.
    pub more: bool,
}

/// An entry whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDue {
    /// Its key.
    pub key: Vec<u8>,
    /// Its version, for the guard of its deletion.
    pub version: u64,
}

/// What an engine says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineStatus {
    /// Its name.
    pub engine: &'static str,
    /// Times the data was opened; never goes back.
    pub epoch: u64,
    /// Number of the newest commit; never goes back.
    pub sequence: u64,
    /// Entries held, if that is known cheaply.
    pub entries: Option<u64>,
    /// Bytes on disk, reserve excluded.
    pub bytes: u64,
    /// Bytes that it may grow to, if that is limited and known.
    pub limit: Option<u64>,
    /// Why writes are being refused at the moment.
    pub refusing_writes: Option<StoreError>,
}

/// A transactional, versioned key-value store of bytes.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// The entries of these keys, all of one moment.
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError>;

    /// The first `limit` entries whose keys begin with `prefix` and are greater than `after`, all of one moment; fewer, at least
    /// one, where they are large.
    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError>;

    /// Commits; answers, once durable, the number that all entries written have as version.
    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError>;

    /// Changes of keys beginning with `prefix` from now on. A change is queued before the commit that made it is answered.
    fn watch(&self, prefix: Vec<u8>) -> RawWatch;

    /// What tells whether this key was written since, to be taken before it is read; `None` on an engine that cannot tell, such as
    /// one that others write to.
    fn mark(&self, _key: &[u8]) -> Option<Mark> {
        None
    }

    /// Up to `limit` entries whose `expires_at` is before `before`, about the oldest first.
    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError>;

    /// Takes a lease unless another holder's is live; answers a number greater than that of any lease before.
    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError>;

    /// Lets a lease live `ttl` from now; false if it is lost.
    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError>;

    /// Gives a lease back; no error if it is lost already.
    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError>;

    /// What the engine says of itself.
    fn status(&self) -> EngineStatus;

    /// Finishes what was queued, flushes and releases. Everything after is answered [`StoreError::Closed`].
    async fn close(&self) -> Result<(), StoreError>;
}
