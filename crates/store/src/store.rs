//! The typed store: names and records above, hashed keys and sealed bytes below.
//!
//! Owns reading and committing. Watching is in `watching`, leases are in `lease`, rotation is in `rotate`, deletion of what has
//! expired in `sweep`. Never hides an
//! expired record: that is for readers, who have the clock.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::bootstrap::{KEYRING_KEY, WrappingKey, load, make, missing};
use crate::engine::{Engine, RawCommitError, RawEntry, RawGuard, RawPut, RawTransaction};
use crate::keyring::Keyring;
use crate::name::NameHasher;
use crate::{
    CommitError, Committed, Entry, Guard, Kind, Mark, Name, RootKey, StoreError, Transaction,
    Version, measure, sealing,
};

/// Most entries a page of a scan has.
pub const MAX_PAGE: usize = 1000;

pub(crate) struct Inner {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) hasher: NameHasher,
    pub(crate) store_id: String,
    pub(crate) write_level: u16,
    /// More than one once another is expected, or was put in force by another node.
    wrapping_keys: RwLock<Vec<WrappingKey>>,
    /// Public identifier of the root key that the keyring is sealed under, while it is none of those.
    lacking: RwLock<Option<String>>,
    pub(crate) replacing_root_key: tokio::sync::Mutex<()>,
    keyring: RwLock<Arc<Keyring>>,
}

/// A store. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("id", &self.inner.store_id)
            .finish_non_exhaustive()
    }
}

/// Where a scan goes on. Opaque, and good for the same kind and prefix only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub(crate) Vec<u8>);

impl Cursor {
    /// As bytes, to be kept by whoever pages on later.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// From the bytes of [`Cursor::as_bytes`]. Other bytes lead to a page from elsewhere in the same prefix, never out of it.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

/// Which part of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Behind the entry at which the last page ended.
    pub after: Option<Cursor>,
    /// At most so many entries, from 1 to [`MAX_PAGE`]; others count as the nearest of these. A page of large records has fewer.
    pub limit: usize,
}

impl Page {
    /// From the beginning.
    #[must_use]
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit }
    }

    /// Behind this cursor.
    #[must_use]
    pub fn after(cursor: Cursor, limit: usize) -> Self {
        Self {
            after: Some(cursor),
            limit,
        }
    }
}

/// Part of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// In an order that is stable and means nothing (that of the hashed keys). What is written during a scan of several pages
    /// may be missing or be there.
    pub entries: Vec<Entry>,
    /// One error for each record that is there and can not be read. The others are not affected.
    pub damaged: Vec<StoreError>,
    /// Where to go on, if there is more.
    pub next: Option<Cursor>,
}

/// What the store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Name of the engine.
    pub engine: &'static str,
    /// Random identifier of the store, given when it was made.
    pub store_id: String,
    /// Public identifier of the root key.
    pub root_key_id: String,
    /// Generation of the data key that new records are sealed under.
    pub key_generation: u32,
    /// Generations in the keyring; more than one until all records are sealed under the newest.
    pub key_generations: usize,
    /// Form that records are written in.
    pub write_level: u16,
    /// Times the data was opened. Never goes back, but where an older copy was restored.
    pub epoch: u64,
    /// Number of the newest commit. Never goes back, but where an older copy was restored.
    pub commit_sequence: u64,
    /// Entries held, those of the store itself included, if known cheaply.
    pub entries: Option<u64>,
    /// Bytes on disk, the reserve not counted.
    pub bytes: u64,
    /// Bytes that it may grow to, if that is limited and known; the disk's end is not such a limit.
    pub limit: Option<u64>,
    /// Why writes are refused at the moment, if they are.
    pub refusing_writes: Option<StoreError>,
}

impl Store {
    /// The store on an engine. Makes it if `initialise`, which the engine's owner must have decided with care: a store that was
    /// made where another had been lost hides the loss.
    ///
    /// # Errors
    /// [`StoreError::NewerFormat`], [`StoreError::ForeignRootKey`], [`StoreError::Damaged`] if something is missing or not what was written.
    pub async fn assemble(
        engine: Arc<dyn Engine>,
        root_key: &RootKey,
        initialise: bool,
    ) -> Result<Self, StoreError> {
        let wrapping_key = WrappingKey::of(root_key);
        let keys = std::slice::from_ref(&wrapping_key);
        let (format, keyring) = match load(&*engine, keys).await? {
            Some(found) => found,
            None if initialise => {
                make(&*engine, &wrapping_key).await?;
                load(&*engine, keys).await?.ok_or_else(missing)?
            }
            None => return Err(missing()),
        };
        let inner = Inner {
            hasher: NameHasher::new(&keyring.derive(b"gridkeep index", b"names")),
            engine,
            store_id: format.store,
            write_level: format.write_level,
            wrapping_keys: RwLock::new(vec![wrapping_key]),
            lacking: RwLock::default(),
            replacing_root_key: tokio::sync::Mutex::default(),
            keyring: RwLock::new(Arc::new(keyring)),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The record of a name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get(&self, name: &Name) -> Result<Option<Entry>, StoreError> {
        let found = self.get_many(std::slice::from_ref(name)).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// The records of several names, in their order, all as of one moment.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::Corrupt`] if any of them is damaged.
    pub async fn get_many(&self, names: &[Name]) -> Result<Vec<Option<Entry>>, StoreError> {
        let found = self.get_marked(names).await?;
        Ok(found.into_iter().map(|(entry, _)| entry).collect())
    }

    /// The same; each with what tells later whether the name was written since, on an engine that nobody else writes to.
    ///
    /// # Errors
    /// As [`Store::get_many`].
    pub async fn get_marked(
        &self,
        names: &[Name],
    ) -> Result<Vec<(Option<Entry>, Option<Mark>)>, StoreError> {
        let since = Instant::now();
        let outcome = self.read(names).await;
        measure::read(since, &outcome);
        outcome
    }

    async fn read(&self, names: &[Name]) -> Result<Vec<(Option<Entry>, Option<Mark>)>, StoreError> {
        // Taken before reading, so that it knows every generation that what is read can be sealed under.
        let keyring = self.inner.keyring();
        let keys: Vec<_> = names
            .iter()
            .map(|name| self.inner.hasher.key(name))
            .collect();
        let marks: Vec<_> = keys.iter().map(|key| self.inner.engine.mark(key)).collect();
        let mut entries = Vec::with_capacity(keys.len());
        for (found, mark) in self.inner.engine.read(&keys).await?.into_iter().zip(marks) {
            let entry = match found {
                None => None,
                Some(raw) => Some(self.inner.open(&keyring, raw).await?),
            };
            entries.push((entry, mark));
        }
        Ok(entries)
    }

    /// A page of the records of a kind whose names begin with these components; the name of exactly these is one of them.
    ///
    /// # Errors
    /// [`StoreError`]. A damaged record is no error of the page: see [`ScanPage::damaged`].
    pub async fn scan(
        &self,
        kind: Kind,
        prefix: &[&[u8]],
        page: Page,
    ) -> Result<ScanPage, StoreError> {
        let since = Instant::now();
        let outcome = self.scan_page(kind, prefix, page).await;
        measure::scan(since, &outcome);
        outcome
    }

    async fn scan_page(
        &self,
        kind: Kind,
        prefix: &[&[u8]],
        page: Page,
    ) -> Result<ScanPage, StoreError> {
        let keyring = self.inner.keyring();
        let prefix = self.inner.hasher.prefix(kind, prefix);
        let after = page.after.as_ref().map(|cursor| cursor.0.as_slice());
        let found = self
            .inner
            .engine
            .scan(&prefix, after, page.limit.clamp(1, MAX_PAGE))
            .await?;
        let next = found
            .entries
            .last()
            .filter(|_| found.more)
            .map(|entry| Cursor(entry.key.clone()));
        let mut page = ScanPage {
            next,
            ..ScanPage::default()
        };
        for raw in found.entries {
            match self.inner.open(&keyring, raw).await {
                Ok(entry) => page.entries.push(entry),
                // Of the keys of this node, not of one record.
                Err(error)
                    if error.is_temporary()
                        || matches!(error, StoreError::ForeignRootKey { .. }) =>
                {
                    return Err(error);
                }
                Err(error) => page.damaged.push(error),
            }
        }
        Ok(page)
    }

    /// Commits a transaction; returns once it is durable. Dropping the future does not take a commit back that is on its way.
    ///
    /// # Errors
    /// [`CommitError`]. On all but [`crate::Outcome::Unknown`] nothing was recorded.
    pub async fn commit(&self, transaction: Transaction) -> Result<Committed, CommitError> {
        self.commit_measured(transaction, false).await
    }

    /// As [`Store::commit`], but on a full disk takes from the space set aside. For what can not be had again, such as a rotated
    /// refresh token; not for what a client can ask for once more.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub async fn commit_critical(
        &self,
        transaction: Transaction,
    ) -> Result<Committed, CommitError> {
        self.commit_measured(transaction, true).await
    }

    async fn commit_measured(
        &self,
        transaction: Transaction,
        critical: bool,
    ) -> Result<Committed, CommitError> {
        let since = Instant::now();
        let outcome = self.commit_as(transaction, critical).await;
        measure::commit(since, &outcome);
        outcome
    }

    async fn commit_as(
        &self,
        transaction: Transaction,
        critical: bool,
    ) -> Result<Committed, CommitError> {
        transaction.check()?;
        loop {
            let keyring = self.inner.keyring();
            let raw = self.inner.seal(&transaction, &keyring, critical)?;
            match self.inner.engine.commit(raw).await {
                Ok(version) => {
                    return Ok(Committed {
                        version: Version(version),
                    });
                }
                // The guard behind the caller's is ours: the keyring has changed, and so must the seals.
                Err(RawCommitError::Conflict(guard)) if guard >= transaction.guards.len() => {
                    self.inner.reload_keyring(keyring.version).await?;
                }
                Err(RawCommitError::Conflict(guard)) => {
                    return Err(CommitError::Conflict { guard });
                }
                Err(RawCommitError::Store(error)) => return Err(error.into()),
            }
        }
    }

    /// A key for a purpose, derived from a secret of the store; the same for the life of the store, whatever is rotated.
    #[must_use]
    pub fn derive_key(&self, label: &str) -> Zeroizing<[u8; 32]> {
        self.inner
            .keyring()
            .derive(b"gridkeep derived", label.as_bytes())
    }

    /// HMAC-SHA256 of `data` under [`Store::derive_key`] of `label`.
    #[must_use]
    pub fn index_mac(&self, label: &str, data: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.derive_key(label));
        let mut out = [0; 32];
        out.copy_from_slice(hmac::sign(&key, data).as_ref());
        out
    }

    /// What the store says of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        let engine = self.inner.engine.status();
        let keyring = self.inner.keyring();
        Status {
            engine: engine.engine,
            store_id: self.inner.store_id.clone(),
            root_key_id: keyring.root_key_id.clone(),
            key_generation: keyring.newest(),
            key_generations: keyring.generations(),
            write_level: self.inner.write_level,
            epoch: engine.epoch,
            commit_sequence: engine.sequence,
            entries: engine.entries,
            bytes: engine.bytes,
            limit: engine.limit,
            refusing_writes: engine.refusing_writes,
        }
    }

    /// Finishes the commits that are on their way, flushes and lets go of the data. Clones are answered
    /// [`StoreError::Closed`] or [`StoreError::Unavailable`] from then on.
    ///
    /// # Errors
    /// [`StoreError`] if flushing failed; all that was acknowledged is there nevertheless.
    pub async fn close(self) -> Result<(), StoreError> {
        self.inner.engine.close().await
    }
}

impl Inner {
    pub(crate) fn wrapping_keys(&self) -> Vec<WrappingKey> {
        self.wrapping_keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes a root key for known; true if it was not.
    pub(crate) fn know(&self, new: WrappingKey) -> bool {
        let mut keys = self
            .wrapping_keys
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let unknown = keys.iter().all(|key| key.root_key_id != new.root_key_id);
        if unknown {
            keys.push(new);
        }
        unknown
    }

    pub(crate) fn forget(&self, root_key_id: &str) {
        self.wrapping_keys
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key| key.root_key_id != root_key_id);
    }

    /// What was noted before a key was told counts no more.
    pub(crate) fn lacking(&self) -> Option<String> {
        let lacking = self.lacking.read().unwrap_or_else(PoisonError::into_inner);
        let keys = self.wrapping_keys();
        lacking
            .clone()
            .filter(|lacking| keys.iter().all(|key| key.root_key_id != *lacking))
    }

    /// The key that this keyring was found sealed under.
    pub(crate) fn wrapping_key(&self, keyring: &Keyring) -> Result<WrappingKey, StoreError> {
        self.wrapping_keys()
            .into_iter()
            .find(|key| key.root_key_id == keyring.root_key_id)
            .ok_or_else(|| StoreError::unavailable("the root key is being replaced"))
    }

    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.keyring
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the keyring again, because it is no longer at version `known`.
    pub(crate) async fn reload_keyring(&self, known: u64) -> Result<Arc<Keyring>, StoreError> {
        let current = self.keyring();
        if current.version > known {
            return Ok(current);
        }
        let wrapping_keys = self.wrapping_keys();
        let loaded = load(&*self.engine, &wrapping_keys).await;
        let lacking = match &loaded {
            Ok(_) => Some(None),
            Err(StoreError::ForeignRootKey { expected, .. }) => Some(Some(expected.clone())),
            // Says nothing of keys.
            Err(_) => None,
        };
        // Unless another reading has found a later one meanwhile.
        if let Some(lacking) = lacking.filter(|_| self.keyring().version <= known) {
            *self.lacking.write().unwrap_or_else(PoisonError::into_inner) = lacking;
        }
        let (_, keyring) = loaded?.ok_or_else(missing)?;
        if keyring.version <= known {
            return Err(StoreError::unavailable("the keyring is about to change"));
        }
        let keyring = Arc::new(keyring);
        let mut slot = self.keyring.write().unwrap_or_else(PoisonError::into_inner);
        if slot.version < keyring.version {
            *slot = keyring;
        }
        Ok(slot.clone())
    }

    fn seal(
        &self,
        transaction: &Transaction,
        keyring: &Keyring,
        critical: bool,
    ) -> Result<RawTransaction, CommitError> {
        let mut bytes = 0;
        let mut raw = RawTransaction {
            critical,
            ..RawTransaction::default()
        };
        for guard in &transaction.guards {
            let key = self.hasher.key(guard.name());
            raw.guards.push(match guard {
                Guard::Absent(_) => RawGuard::Absent(key),
                Guard::At(_, version) => RawGuard::At(key, version.0),
            });
        }
        for (name, record) in &transaction.puts {
            let key = self.hasher.key(name);
            let value = sealing::seal(keyring.sealing_key()?, &key, name, record)?;
            bytes += key.len() + value.len();
            raw.puts.push(RawPut {
                key,
                value,
                expires_at: record.expires_at,
                keep_version: false,
            });
        }
        raw.deletes = transaction
            .deletes
            .iter()
            .map(|name| self.hasher.key(name))
            .collect();
        bytes += raw.deletes.iter().map(Vec::len).sum::<usize>();
        if bytes > Transaction::MAX_BYTES {
            return Err(CommitError::TooLarge {
                operations: raw.puts.len() + raw.deletes.len(),
                bytes,
            });
        }
        if !raw.puts.is_empty() {
            raw.guards
                .push(RawGuard::At(KEYRING_KEY.to_vec(), keyring.version));
        }
        Ok(raw)
    }

    /// Opens what was read; fetches the keyring if another node has added a generation.
    pub(crate) async fn open(&self, keyring: &Keyring, raw: RawEntry) -> Result<Entry, StoreError> {
        let generation = sealing::generation(&raw.value).map_err(|error| match error {
            StoreError::Corrupt { .. } => sealing::damaged(&raw.key),
            other => other,
        })?;
        let opened = if let Some(key) = keyring.key(generation) {
            sealing::open(key, &raw.key, &raw.value)
        } else if generation > keyring.newest() {
            // A damaged number looks the same; then there is nothing newer.
            let newer = match self.reload_keyring(keyring.version).await {
                Ok(newer) => newer,
                Err(StoreError::Unavailable { .. }) => self.keyring(),
                Err(error) => return Err(error),
            };
            newer.key(generation).map_or_else(
                || Err(sealing::damaged(&raw.key)),
                |key| sealing::open(key, &raw.key, &raw.value),
            )
        } else {
            Err(sealing::damaged(&raw.key))
        };
        let (name, record) = opened?;
        Ok(Entry {
            name,
            version: Version(raw.version),
            record,
        })
    }
}
