//! The data file: tables, reading, writing a batch, and opening it anew after a fault.
//!
//! Owns all that touches redb. Knows neither threads nor queues: the committer decides when.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    Table, TableDefinition, WriteTransaction,
};

use super::backend::{Backend, Notes};
use super::disk::{Disk, DiskFile, Identity, is_full};
use crate::StoreError;
use crate::engine::{RawChange, RawDue, RawEntry, RawGuard, RawPage, RawPut, RawTransaction};
use crate::mark::Marks;
use crate::watch::Hub;

const RECORDS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// Keys: bucket, then key of the record.
const EXPIRY: TableDefinition<&[u8], ()> = TableDefinition::new("expiry");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SEQUENCE: &str = "sequence";
const EPOCH: &str = "epoch";

/// redb's own default is 1 GiB.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// A page of a scan ends with the entry that goes beyond this.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Width of a bucket of the expiry index, in seconds.
const BUCKET: i64 = 60;
/// Before each value: version and expiry.
const HEAD: usize = 16;
/// Stands for no expiry; no clock shows it.
const NEVER: i64 = i64::MIN;

/// Why an access failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No room on the disk.
    Full,
    /// Anything that may pass, and wants the file opened anew.
    Broken(String),
    /// The file is not what was written.
    Corrupt(String),
    /// The file at the path is not the one that was opened.
    Vanished,
    /// Closed by us.
    Closed,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => f.write_str("the disk is full"),
            Self::Broken(cause) | Self::Corrupt(cause) => f.write_str(cause),
            Self::Vanished => f.write_str("the data directory has disappeared"),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) if is_full(&error) => Self::Full,
            redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Corrupt(error.to_string())
            }
            redb::Error::Corrupted(what) => Self::Corrupt(what),
            redb::Error::TableDoesNotExist(table) => {
                Self::Corrupt(format!("no table {table} in it"))
            }
            other => Self::Broken(other.to_string()),
        }
    }
}

/// What became of a batch.
#[derive(Default)]
pub(crate) struct Batch {
    /// Per transaction: its number, or the index of the guard that did not hold.
    pub(crate) outcomes: Vec<Result<u64, usize>>,
    /// What watchers want to know.
    pub(crate) changes: Vec<RawChange>,
    /// Number of the last transaction applied; the one before the batch if there was none.
    pub(crate) sequence: u64,
}

/// The data file.
pub(crate) struct DataFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    identity: Identity,
    /// `None` after a failure to open it anew. Readers hold the lock shared while they read, so that no reader of the old
    /// handle is left when a new one begins to reuse its pages.
    database: RwLock<Option<Database>>,
    /// Counts openings within this process.
    generation: AtomicU64,
    closed: AtomicBool,
    notes: Arc<Notes>,
    sequence: AtomicU64,
    epoch: AtomicU64,
    pub(crate) hub: Hub,
    pub(crate) marks: Marks,
}

/// What is stored under `key` in the file at `path`, which nobody has open; the file is not written.
pub(crate) fn glance(path: &Path, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    guarded(|| {
        let database = Builder::new().open_read_only(path)?;
        let txn = database.begin_read()?;
        let records = txn.open_table(RECORDS)?;
        match records.get(key)? {
            None => Ok(None),
            Some(stored) => Ok(Some(entry(key, stored.value())?.value)),
        }
    })
}

impl DataFile {
    /// Opens the file, or makes it where `create` says so.
    pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf, create: bool) -> Result<Self, Failure> {
        let notes = Arc::new(Notes::default());
        let file = disk.open(&path, create)?;
        let identity = file.identity()?;
        if !create && file.is_empty()? {
            return Err(Failure::Corrupt("the data file is empty".to_owned()));
        }
        let this = Self {
            disk,
            path,
            identity,
            database: RwLock::new(None),
            generation: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            notes,
            sequence: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            hub: Hub::default(),
            marks: Marks::default(),
        };
        let database = guarded(|| {
            let database = build(file, &this.notes)?;
            if !create {
                this.load(&database)?;
            }
            Ok(database)
        })?;
        *this
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(this)
    }

    /// Begins a new epoch, in memory: the next commit makes it durable, and so does [`DataFile::make_tables`].
    pub(crate) fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes the tables where there are none, and what is in the file durable.
    pub(crate) fn make_tables(&self) -> Result<(), Failure> {
        self.commit_with(|txn| {
            txn.open_table(RECORDS)?;
            txn.open_table(EXPIRY)?;
            Ok(Some(self.sequence()))
        })
    }

    fn load(&self, database: &Database) -> Result<(), Failure> {
        let txn = database.begin_read()?;
        let meta = txn.open_table(META)?;
        let number = |name| -> Result<u64, Failure> {
            Ok(meta
                .get(name)?
                .ok_or_else(|| Failure::Corrupt(format!("no {name} in it")))?
                .value())
        };
        let (sequence, epoch) = (number(SEQUENCE)?, number(EPOCH)?);
        self.sequence.store(sequence, Ordering::Release);
        // One that was begun and could not be written yet stays.
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
        Ok(())
    }

    /// Opens the file anew, unless somebody has done so since `generation`.
    pub(crate) fn reopen(&self, generation: u64) -> Result<(), Failure> {
        let mut guard = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if self.generation() != generation && guard.is_some() {
            return Ok(());
        }
        // The old one goes first: it lets go of its pages without writing, since its failure is latched.
        let old = guard.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(old)));
        let file = match self.disk.open(&self.path, false) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Failure::Vanished);
            }
            other => other?,
        };
        if file.identity()? != self.identity {
            return Err(Failure::Vanished);
        }
        // After a failed flush the kernel may go on to show what the disk never got.
        if self.notes.sync_failed.load(Ordering::Relaxed) {
            file.forget()?;
            self.notes.sync_failed.store(false, Ordering::Relaxed);
        }
        let database = guarded(|| {
            let database = build(file, &self.notes)?;
            // Known before anybody writes: versions are never given twice.
            self.load(&database)?;
            Ok(database)
        })?;
        *guard = Some(database);
        self.generation.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    pub(crate) fn close(&self) -> Result<(), Failure> {
        self.closed.store(true, Ordering::Release);
        let database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.hub.close();
        database.map_or(Ok(()), |database| guarded(|| Ok(database.close()?)))
    }

    fn not_open(&self) -> Failure {
        if self.closed.load(Ordering::Acquire) {
            Failure::Closed
        } else {
            Failure::Broken("the data file could not be opened anew".to_owned())
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.database
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
    pub(crate) fn bytes(&self) -> u64 {
        self.notes.bytes.load(Ordering::Relaxed)
    }

    /// True if the file at the path is the one that was opened. An unmounted or replaced directory shows only here: the
    /// descriptor would go on to work.
    pub(crate) fn is_in_place(&self) -> bool {
        self.disk
            .identity(&self.path)
            .is_ok_and(|found| found == self.identity)
    }

    /// Reads in one snapshot.
    pub(crate) fn read<T>(
        &self,
        f: impl FnOnce(&ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or_else(|| self.not_open())?;
        guarded(|| f(&database.begin_read()?))
    }

    pub(crate) fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, Failure> {
        self.read(|txn| {
            let records = txn.open_table(RECORDS)?;
            keys.iter()
                .map(|key| match records.get(key.as_slice())? {
                    None => Ok(None),
                    Some(stored) => entry(key, stored.value()).map(Some),
                })
                .collect()
        })
    }

    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, Failure> {
        self.read(|txn| {
            let records = txn.open_table(RECORDS)?;
            let from = after.filter(|after| *after >= prefix);
            let mut page = RawPage::default();
            let mut bytes = 0;
            for item in records.range(from.unwrap_or(prefix)..)? {
                let (key, stored) = item?;
                let key = key.value();
                if from == Some(key) {
                    continue;
                }
                if !key.starts_with(prefix) {
                    break;
                }
                if page.entries.len() >= limit || bytes > PAGE_BYTES {
                    page.more = true;
                    break;
                }
                bytes += stored.value().len();
                page.entries.push(entry(key, stored.value())?);
            }
            Ok(page)
        })
    }

    pub(crate) fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, Failure> {
        self.read(|txn| {
            let expiry = txn.open_table(EXPIRY)?;
            let records = txn.open_table(RECORDS)?;
            // The bucket that `before` falls in is looked through to its end.
            let end = bucket(before).saturating_add(1).to_be_bytes();
            let mut due = Vec::new();
            for item in expiry.range(..end.as_slice())? {
                if due.len() >= limit {
                    break;
                }
                let (index_key, _) = item?;
                let Some(key) = index_key.value().get(8..) else {
                    continue;
                };
                if let Some(stored) = records.get(key)? {
                    let (version, expires_at, _) = split(stored.value())?;
                    if expires_at != NEVER && expires_at < before {
                        due.push(RawDue {
                            key: key.to_vec(),
                            version,
                        });
                    }
                }
            }
            Ok(due)
        })
    }

    pub(crate) fn entries(&self) -> Result<u64, Failure> {
        self.read(|txn| Ok(txn.open_table(RECORDS)?.len()?))
    }

    /// Judges and applies these transactions, in order, in one durable write. Each sees what those before it did. `batch` is
    /// told what becomes of them if the write arrives, even if it is answered with a failure.
    pub(crate) fn write(
        &self,
        transactions: &[&RawTransaction],
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let first = self.sequence();
        *batch = Batch {
            outcomes: Vec::with_capacity(transactions.len()),
            changes: Vec::new(),
            sequence: first,
        };
        self.commit_with(|txn| {
            let mut tables = Tables {
                records: txn.open_table(RECORDS)?,
                expiry: txn.open_table(EXPIRY)?,
                hub: &self.hub,
                changes: &mut batch.changes,
            };
            for transaction in transactions {
                batch
                    .outcomes
                    .push(match tables.failing_guard(transaction)? {
                        Some(guard) => Err(guard),
                        None => {
                            batch.sequence = (batch.sequence + 1).max(
                                transaction
                                    .copied
                                    .as_ref()
                                    .map_or(0, |copied| copied.least_number),
                            );
                            tables.apply(transaction, batch.sequence)?;
                            Ok(batch.sequence)
                        }
                    });
            }
            Ok((batch.sequence != first).then_some(batch.sequence))
        })?;
        self.sequence.store(batch.sequence, Ordering::Release);
        Ok(())
    }

    /// Makes what is in the file durable, by a write that changes nothing.
    pub(crate) fn confirm(&self) -> Result<(), Failure> {
        self.commit_with(|_| Ok(Some(self.sequence())))
    }

    /// Commits what `f` does, along with the sequence it answers and the epoch; nothing if it answers none.
    fn commit_with(
        &self,
        f: impl FnOnce(&WriteTransaction) -> Result<Option<u64>, Failure>,
    ) -> Result<(), Failure> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or_else(|| self.not_open())?;
        let work = || -> Result<(), Failure> {
            let mut txn = database.begin_write()?;
            // A kill must not make the next start walk the whole file.
            txn.set_quick_repair(true);
            let Some(sequence) = f(&txn)? else {
                return Ok(txn.abort()?);
            };
            {
                let mut meta = txn.open_table(META)?;
                meta.insert(SEQUENCE, sequence)?;
                meta.insert(EPOCH, self.epoch())?;
            }
            Ok(txn.commit()?)
        };
        guarded(work)
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        // redb panics on dropping a handle that panicked before.
        let database = self
            .database
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
    }
}

fn build(file: Box<dyn DiskFile>, notes: &Arc<Notes>) -> Result<Database, Failure> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    Ok(builder.create_with_backend(Backend {
        file,
        notes: notes.clone(),
    })?)
}

/// redb may panic on a page that is not what it wrote.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Failure::Corrupt(
            "reading it made the engine stop".to_owned(),
        ))
    })
}

struct Tables<'txn, 'a> {
    records: Table<'txn, &'static [u8], &'static [u8]>,
    expiry: Table<'txn, &'static [u8], ()>,
    hub: &'a Hub,
    changes: &'a mut Vec<RawChange>,
}

impl Tables<'_, '_> {
    fn failing_guard(&self, transaction: &RawTransaction) -> Result<Option<usize>, Failure> {
        for (index, guard) in transaction.guards.iter().enumerate() {
            let (key, wanted) = match guard {
                RawGuard::Absent(key) => (key, None),
                RawGuard::At(key, version) => (key, Some(*version)),
            };
            let found = match self.records.get(key.as_slice())? {
                None => None,
                Some(stored) => Some(split(stored.value())?.0),
            };
            if found != wanted {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn apply(&mut self, transaction: &RawTransaction, sequence: u64) -> Result<(), Failure> {
        for (n, put) in transaction.puts.iter().enumerate() {
            let version = transaction.copied_version(n);
            self.put(put, version.unwrap_or(sequence))?;
        }
        for key in &transaction.deletes {
            let old = match self.records.remove(key.as_slice())? {
                None => continue,
                Some(stored) => {
                    let (_, expires_at, value) = split(stored.value())?;
                    (expires_at, self.hub.wants(key).then(|| value.into()))
                }
            };
            self.index(key, old.0, NEVER)?;
            if let Some(value) = old.1 {
                self.changes.push(RawChange {
                    key: key.clone(),
                    version: sequence,
                    deleted: true,
                    value,
                });
            }
        }
        Ok(())
    }

    fn put(&mut self, put: &RawPut, sequence: u64) -> Result<(), Failure> {
        let key = put.key.as_slice();
        let mut version = sequence;
        if put.keep_version
            && let Some(stored) = self.records.get(key)?
        {
            version = split(stored.value())?.0;
        }
        let expires_at = put.expires_at.unwrap_or(NEVER);
        let mut stored = Vec::with_capacity(HEAD + put.value.len());
        stored.extend_from_slice(&version.to_be_bytes());
        stored.extend_from_slice(&expires_at.to_be_bytes());
        stored.extend_from_slice(&put.value);
        let before = match self.records.insert(key, stored.as_slice())? {
            None => NEVER,
            Some(old) => split(old.value())?.1,
        };
        self.index(key, before, expires_at)?;
        if !put.keep_version && self.hub.wants(key) {
            self.changes.push(RawChange {
                key: put.key.clone(),
                version,
                deleted: false,
                value: put.value.as_slice().into(),
            });
        }
        Ok(())
    }

    /// Moves a key in the expiry index.
    fn index(&mut self, key: &[u8], before: i64, after: i64) -> Result<(), Failure> {
        if before != NEVER && (after == NEVER || bucket(before) != bucket(after)) {
            self.expiry.remove(index_key(before, key).as_slice())?;
        }
        if after != NEVER && (before == NEVER || bucket(before) != bucket(after)) {
            self.expiry.insert(index_key(after, key).as_slice(), ())?;
        }
        Ok(())
    }
}

/// Number of a bucket, such that big-endian bytes sort as times do, those before 1970 included.
fn bucket(at: i64) -> u64 {
    at.div_euclid(BUCKET).cast_unsigned() ^ (1 << 63)
}

fn index_key(at: i64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend_from_slice(&bucket(at).to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Version, expiry and bytes of a stored value.
fn split(stored: &[u8]) -> Result<(u64, i64, &[u8]), Failure> {
    let parts = stored.split_first_chunk::<8>().and_then(|(version, rest)| {
        rest.split_first_chunk::<8>()
            .map(|(expiry, value)| (version, expiry, value))
    });
    let (version, expiry, value) =
        parts.ok_or_else(|| Failure::Corrupt("a record without its head".to_owned()))?;
    Ok((
        u64::from_be_bytes(*version),
        i64::from_be_bytes(*expiry),
        value,
    ))
}

fn entry(key: &[u8], stored: &[u8]) -> Result<RawEntry, Failure> {
    let (version, expires_at, value) = split(stored)?;
    Ok(RawEntry {
        key: key.to_vec(),
        version,
        expires_at: (expires_at != NEVER).then_some(expires_at),
        value: value.to_vec(),
    })
}

impl Failure {
    pub(crate) fn into_error(
        self,
        directory: &std::path::Path,
        outcome: crate::Outcome,
    ) -> StoreError {
        match self {
            // What the text of a full disk says would be untrue.
            Self::Full if outcome == crate::Outcome::Unknown => StoreError::Unavailable {
                cause: "the disk is full".to_owned(),
                outcome,
                remedy: crate::Remedy::Disk,
            },
            Self::Full => StoreError::Full {
                path: directory.to_owned(),
            },
            Self::Broken(cause) => StoreError::Unavailable {
                cause,
                outcome,
                remedy: crate::Remedy::Disk,
            },
            Self::Corrupt(what) => StoreError::Damaged {
                what: format!("the data file in {} ({what})", directory.display()),
            },
            Self::Vanished => StoreError::Vanished {
                path: directory.to_owned(),
            },
            Self::Closed => StoreError::Closed,
        }
    }
}
