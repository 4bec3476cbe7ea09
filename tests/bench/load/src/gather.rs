//! An engine that holds what is written in memory and hands it to the one below from time to time, in the order of keys.
//!
//! Names are hashed, so each login writes into pages all over the file: at ten million tokens that is a page read, copied and flushed
//! per record. Handed over by the gigabyte and sorted, neighbours share their pages. What is in the file afterwards is what the
//! engine below would have been told one by one; nothing is durable before it is handed over, so this is for filling only.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use gridkeep_store::engine::{
    CopiedFrom, Engine, EngineStatus, RawChange, RawCommitError, RawDue, RawEntry, RawGuard,
    RawPage, RawPut, RawTransaction, RawWatch,
};
use gridkeep_store::{Hub, StoreError};
use tokio::sync::{RwLock, RwLockReadGuard};

/// Bytes of one transaction of the engine below, less than it writes at once.
const HANDED: usize = 4 << 20;
/// What an entry takes in memory beside its bytes, roughly.
const OVERHEAD: usize = 128;

/// The engine.
pub struct Gathering {
    below: Arc<dyn Engine>,
    /// Bytes held before they are handed over.
    most: usize,
    /// Shared while something is read or written, alone while it is handed over: the engine below changes only then.
    state: RwLock<Mutex<Held>>,
    hub: Hub,
}

#[derive(Default)]
struct Held {
    entries: BTreeMap<Vec<u8>, Fresh>,
    bytes: usize,
    sequence: u64,
    closed: bool,
}

/// An entry that the engine below does not know yet; without a value it was deleted.
struct Fresh {
    version: u64,
    expires_at: Option<i64>,
    value: Option<Vec<u8>>,
}

impl Fresh {
    fn entry(&self, key: &[u8]) -> Option<RawEntry> {
        Some(RawEntry {
            key: key.to_vec(),
            version: self.version,
            expires_at: self.expires_at,
            value: self.value.clone()?,
        })
    }
}

impl Held {
    fn set(&mut self, key: Vec<u8>, fresh: Fresh) {
        self.bytes += key.len() + fresh.value.as_ref().map_or(0, Vec::len) + OVERHEAD;
        self.entries.insert(key, fresh);
    }

    /// Up to `limit` entries with this prefix after `after`, and whether there are more.
    fn range(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> (Vec<&Vec<u8>>, bool) {
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after.to_vec()),
            None => Bound::Included(prefix.to_vec()),
        };
        let mut keys = self
            .entries
            .range((from, Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix));
        let found = keys.by_ref().take(limit).collect();
        (found, keys.next().is_some())
    }
}

/// What the engine below has of keys that a transaction is about.
type Below = BTreeMap<Vec<u8>, RawEntry>;

/// Writing, when it is known what is below of what is not held.
impl Held {
    fn version(&self, key: &[u8], below: &Below) -> Option<u64> {
        match self.entries.get(key) {
            Some(fresh) => fresh.value.as_ref().map(|_| fresh.version),
            None => below.get(key).map(|entry| entry.version),
        }
    }

    fn judge(&self, guards: &[RawGuard], below: &Below) -> Result<(), RawCommitError> {
        let failing = guards.iter().position(|guard| match guard {
            RawGuard::Absent(key) => self.version(key, below).is_some(),
            RawGuard::At(key, wanted) => self.version(key, below) != Some(*wanted),
        });
        failing.map_or(Ok(()), |index| Err(RawCommitError::Conflict(index)))
    }

    /// Answers the number of the commit.
    fn apply(&mut self, transaction: RawTransaction, below: &Below, hub: &Hub) -> u64 {
        let copied = transaction.copied.unwrap_or_default();
        self.sequence = (self.sequence + 1).max(copied.least_number);
        let sequence = self.sequence;
        for (n, put) in transaction.puts.into_iter().enumerate() {
            let kept = put
                .keep_version
                .then(|| self.version(&put.key, below))
                .flatten();
            let version = kept
                .or_else(|| copied.versions.get(n).copied())
                .unwrap_or(sequence);
            if !put.keep_version && hub.wants(&put.key) {
                hub.publish(&RawChange {
                    key: put.key.clone(),
                    version,
                    deleted: false,
                    value: put.value.as_slice().into(),
                });
            }
            let fresh = Fresh {
                version,
                expires_at: put.expires_at,
                value: Some(put.value),
            };
            self.set(put.key, fresh);
        }
        for key in transaction.deletes {
            let old = match self.entries.get(&key) {
                Some(fresh) => fresh.value.as_deref(),
                None => below.get(&key).map(|entry| entry.value.as_slice()),
            };
            if let Some(value) = old.filter(|_| hub.wants(&key)) {
                hub.publish(&RawChange {
                    key: key.clone(),
                    version: sequence,
                    deleted: true,
                    value: value.into(),
                });
            }
            let fresh = Fresh {
                version: sequence,
                expires_at: None,
                value: None,
            };
            self.set(key, fresh);
        }
        sequence
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gathering {
    /// Before `below`, which nobody else may write to. Hands over when `most` bytes are held.
    pub fn new(below: Arc<dyn Engine>, most: usize) -> Self {
        let held = Held {
            sequence: below.status().sequence,
            ..Held::default()
        };
        Self {
            below,
            most,
            state: RwLock::new(Mutex::new(held)),
            hub: Hub::default(),
        }
    }

    /// Hands over all that is held.
    pub async fn hand_over(&self) -> Result<(), StoreError> {
        self.hand_over_beyond(0).await
    }

    /// The same, if it is more than so many bytes.
    async fn hand_over_beyond(&self, bytes: usize) -> Result<(), StoreError> {
        let mut state = self.state.write().await;
        let held = state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if held.bytes <= bytes {
            return Ok(());
        }
        let mut next = RawTransaction::default();
        let (mut versions, mut size) = (Vec::new(), 0);
        while let Some((key, fresh)) = held.entries.pop_first() {
            size += key.len();
            if let Some(value) = fresh.value {
                size += value.len();
                versions.push(fresh.version);
                next.puts.push(RawPut {
                    key,
                    value,
                    expires_at: fresh.expires_at,
                    keep_version: false,
                });
            } else {
                next.deletes.push(key);
            }
            if size >= HANDED || held.entries.is_empty() {
                next.copied = Some(Box::new(CopiedFrom {
                    versions: std::mem::take(&mut versions),
                    least_number: held.sequence,
                }));
                size = 0;
                self.below.commit(std::mem::take(&mut next)).await.map_err(
                    |error| match error {
                        RawCommitError::Store(error) => error,
                        RawCommitError::Conflict(_) => StoreError::Damaged {
                            what: "a transaction without guards met a conflict".to_owned(),
                        },
                    },
                )?;
            }
        }
        held.bytes = 0;
        held.sequence = held.sequence.max(self.below.status().sequence);
        Ok(())
    }

    async fn open(&self) -> Result<RwLockReadGuard<'_, Mutex<Held>>, StoreError> {
        let state = self.state.read().await;
        if lock(&state).closed {
            return Err(StoreError::Closed);
        }
        Ok(state)
    }

    /// What the engine below has of the keys that are not held, by their places among `keys`.
    async fn below(
        &self,
        state: &Mutex<Held>,
        keys: &[Vec<u8>],
    ) -> Result<BTreeMap<usize, Option<RawEntry>>, StoreError> {
        let (places, wanted): (Vec<usize>, Vec<Vec<u8>>) = {
            let held = lock(state);
            keys.iter()
                .enumerate()
                .filter(|(_, key)| !held.entries.contains_key(*key))
                .map(|(place, key)| (place, key.clone()))
                .unzip()
        };
        let found = self.below.read(&wanted).await?;
        Ok(places.into_iter().zip(found).collect())
    }
}

#[async_trait]
impl Engine for Gathering {
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError> {
        let state = self.open().await?;
        let mut below = self.below(&state, keys).await?;
        let held = lock(&state);
        Ok(keys
            .iter()
            .enumerate()
            .map(|(place, key)| match held.entries.get(key) {
                Some(fresh) => fresh.entry(key),
                None => below.remove(&place).flatten(),
            })
            .collect())
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        let state = self.open().await?;
        let mut after = after.map(<[u8]>::to_vec);
        loop {
            let page = self.below.scan(prefix, after.as_deref(), limit).await?;
            let held = lock(&state);
            let (keys, more_held) = held.range(prefix, after.as_deref(), limit);
            // Beyond the end of either part the other is not known to be whole.
            let ends = [
                page.more
                    .then(|| page.entries.last().map(|entry| &entry.key)),
                more_held.then(|| keys.last().copied()),
            ];
            let end = ends.into_iter().flatten().flatten().min().cloned();
            let mut merged: BTreeMap<&[u8], Option<RawEntry>> = page
                .entries
                .iter()
                .map(|entry| (entry.key.as_slice(), Some(entry.clone())))
                .collect();
            for key in keys {
                let fresh = held.entries.get(key).and_then(|fresh| fresh.entry(key));
                merged.insert(key, fresh);
            }
            let mut entries: Vec<RawEntry> = merged
                .into_iter()
                .filter(|(key, _)| end.as_deref().is_none_or(|end| *key <= end))
                .filter_map(|(_, entry)| entry)
                .collect();
            let more = end.is_some() || entries.len() > limit;
            entries.truncate(limit);
            if !entries.is_empty() || !more {
                return Ok(RawPage { entries, more });
            }
            after = end;
        }
    }

    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError> {
        let state = self.open().await?;
        let guards = transaction.guards.iter().map(|guard| match guard {
            RawGuard::Absent(key) | RawGuard::At(key, _) => key,
        });
        let kept = transaction.puts.iter().filter(|put| put.keep_version);
        let deleted = transaction.deletes.iter();
        let wanted: Vec<Vec<u8>> = guards
            .chain(kept.map(|put| &put.key))
            .chain(deleted.filter(|key| self.hub.wants(key)))
            .cloned()
            .collect();
        let below: Below = self
            .below(&state, &wanted)
            .await?
            .into_values()
            .flatten()
            .map(|entry| (entry.key.clone(), entry))
            .collect();
        let (sequence, full) = {
            let mut held = lock(&state);
            // What is held may have changed meanwhile; the engine below has not.
            held.judge(&transaction.guards, &below)?;
            (
                held.apply(transaction, &below, &self.hub),
                held.bytes > self.most,
            )
        };
        drop(state);
        if full {
            self.hand_over_beyond(self.most).await?;
        }
        Ok(sequence)
    }

    fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        self.hub.watch(prefix)
    }

    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError> {
        let state = self.open().await?;
        let below = self.below.due(before, limit).await?;
        let held = lock(&state);
        let mut due: Vec<RawDue> = below
            .into_iter()
            .filter(|due| !held.entries.contains_key(&due.key))
            .collect();
        let fresh = held.entries.iter().filter(|(_, fresh)| {
            fresh.value.is_some() && fresh.expires_at.is_some_and(|at| at < before)
        });
        due.extend(fresh.take(limit).map(|(key, fresh)| RawDue {
            key: key.clone(),
            version: fresh.version,
        }));
        due.truncate(limit);
        Ok(due)
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.below.lease(name, holder, ttl).await
    }

    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError> {
        self.below.renew_lease(name, fence, ttl).await
    }

    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.below.release_lease(name, fence).await
    }

    fn status(&self) -> EngineStatus {
        let mut status = self.below.status();
        let Ok(state) = self.state.try_read() else {
            return status;
        };
        let held = lock(&state);
        status.sequence = status.sequence.max(held.sequence);
        if !held.entries.is_empty() {
            // Some of what is held may be below already.
            status.entries = None;
        }
        status
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.hand_over().await?;
        lock(&*self.state.read().await).closed = true;
        self.hub.close();
        self.below.close().await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use gridkeep_store::conformance::{Subject, conformance};
    use gridkeep_store::testing::ManualBootClock;
    use gridkeep_store::{OpenOptions, RootKey, open_behind};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_conforms_whatever_it_holds() {
        let scratch = tempfile::tempdir().unwrap();
        let count = AtomicU64::new(0);
        // All at once, now and then, never.
        for most in [0, 2000, usize::MAX] {
            conformance(|| async {
                let number = count.fetch_add(1, Ordering::Relaxed).to_string();
                let directory = scratch.path().join(number);
                std::fs::create_dir(&directory).unwrap();
                let data = directory.join("data");
                let key = RootKey::load_or_generate(&directory.join("root.key"), &data).unwrap();
                let mut options = OpenOptions::new(&data, key);
                options.reserve_bytes = 64 * 1024;
                let clock = Arc::new(ManualBootClock::default());
                options.clock = clock.clone();
                let wrap = |below| Arc::new(Gathering::new(below, most)) as Arc<dyn Engine>;
                Subject {
                    store: open_behind(options, wrap).unwrap(),
                    pass_time: Box::new(move |by| {
                        clock.advance(by);
                        Box::pin(std::future::ready(())) as _
                    }),
                }
            })
            .await;
        }
    }
}
