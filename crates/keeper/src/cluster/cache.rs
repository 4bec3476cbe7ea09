//! Records kept in memory, so that reads cost no way to the store.
//!
//! A kept record is only ever a reason to say yes: whatever would refuse reads the store first. Dropped when this process writes; but a
//! write whose caller is gone is not heard of that way, so on a store of one's own a record counts while its mark holds ([`Mark`]), and
//! on a shared one until the watch shows a write, or a gap, at which all go. Bounded by two generations: what was not put for a whole
//! generation goes, at the price of holding up to twice the stated number.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gridkeep_store::{Mark, Name};

use crate::database::Stored;
use crate::records::{CREDENTIAL, CredentialRecord, GRANT, GrantRecord, KeeperToken, TOKEN};

const SHARDS: usize = 64;
/// Records of one generation of one shard where the store is shared and far: 64 × 512 × 2 of each kind at most.
const SHARED: usize = 512;
/// The same where it is this process's own, and nearly as quick to ask.
const OWN: usize = 8;
/// Names of one shard that were asked for of late and are not kept yet. Where the store is near, keeping what is not asked for
/// again costs more than it saves.
const SEEN: usize = 16;

/// What is kept, by kind.
pub(crate) struct Caches {
    pub tokens: Cache<KeeperToken>,
    pub credentials: Cache<CredentialRecord>,
    pub grants: Cache<GrantRecord>,
}

impl Caches {
    /// With room for what `shared` says of the store.
    pub fn new(shared: bool) -> Self {
        Caches {
            tokens: Cache::new(shared),
            credentials: Cache::new(shared),
            grants: Cache::new(shared),
        }
    }

    /// Forgets a record that was, or may have been, written.
    pub fn forget(&self, name: &Name) {
        match name.kind() {
            TOKEN => self.tokens.forget(name),
            CREDENTIAL => self.credentials.forget(name),
            GRANT => self.grants.forget(name),
            _ => {}
        }
    }

    pub fn clear(&self) {
        self.tokens.clear();
        self.credentials.clear();
        self.grants.clear();
    }
}

/// Records of one kind.
pub(crate) struct Cache<T> {
    shards: Vec<Mutex<Shard<T>>>,
    /// Whether a watch tells of writes.
    watched: bool,
    generation: usize,
    hasher: RandomState,
}

struct Kept<T> {
    record: Arc<Stored<T>>,
    mark: Option<Mark>,
}

struct Shard<T> {
    young: HashMap<Name, Kept<T>>,
    old: HashMap<Name, Kept<T>>,
    /// Hashes of names that were asked for, each in the place that it falls into.
    seen: [u64; SEEN],
    /// Counts what was forgotten, so that what was read before is not kept after.
    forgotten: u64,
}

/// Taken before a record is read; good for keeping it if nothing was forgotten meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Ticket(u64);

impl<T> Cache<T> {
    fn new(shared: bool) -> Self {
        Cache {
            watched: shared,
            generation: if shared { SHARED } else { OWN },
            shards: (0..SHARDS)
                .map(|_| {
                    Mutex::new(Shard {
                        young: HashMap::new(),
                        old: HashMap::new(),
                        seen: [0; SEEN],
                        forgotten: 0,
                    })
                })
                .collect(),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, name: &Name) -> MutexGuard<'_, Shard<T>> {
        self.shard_of(self.hasher.hash_one(name))
    }

    fn shard_of(&self, hash: u64) -> MutexGuard<'_, Shard<T>> {
        self.shards[place(hash, SHARDS)]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, name: &Name) -> Option<Arc<Stored<T>>> {
        let mut shard = self.shard(name);
        if let Some(found) = shard.young.get(name) {
            if found.counts() {
                return Some(found.record.clone());
            }
            shard.young.remove(name);
            return None;
        }
        let found = shard.old.remove(name).filter(Kept::counts)?;
        let record = found.record.clone();
        shard.insert(found, self.generation);
        Some(record)
    }

    pub fn ticket(&self, name: &Name) -> Ticket {
        Ticket(self.shard(name).forgotten)
    }

    /// Keeps what was read with `mark` after `ticket` was taken, unless it may have been written since; where the store is near, what
    /// is asked for the second time within a while.
    pub fn keep(&self, ticket: Ticket, mark: Option<Mark>, record: Arc<Stored<T>>) {
        if mark.is_none() && !self.watched {
            return;
        }
        let hash = self.hasher.hash_one(&record.name);
        let mut shard = self.shard_of(hash);
        let seen = &mut shard.seen[place(hash >> 32, SEEN)];
        if std::mem::replace(seen, hash) != hash && !self.watched {
            return;
        }
        if shard.forgotten == ticket.0 {
            shard.insert(Kept { record, mark }, self.generation);
        }
    }

    pub fn forget(&self, name: &Name) {
        let mut shard = self.shard(name);
        shard.forgotten += 1;
        shard.young.remove(name);
        shard.old.remove(name);
    }

    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.forgotten += 1;
            shard.young.clear();
            shard.old.clear();
        }
    }
}

fn place(hash: u64, places: usize) -> usize {
    usize::try_from(hash % places as u64).unwrap_or(0)
}

impl<T> Kept<T> {
    /// Where nothing but a watch tells of writes, what was not dropped counts.
    fn counts(&self) -> bool {
        self.mark.as_ref().is_none_or(Mark::holds)
    }
}

impl<T> Shard<T> {
    fn insert(&mut self, kept: Kept<T>, generation: usize) {
        if self.young.len() >= generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(kept.record.name.clone(), kept);
    }
}

#[cfg(test)]
mod tests {
    use gridkeep_store::{Kind, Version};

    use super::*;

    fn stored(name: &str) -> Arc<Stored<u32>> {
        Arc::new(Stored {
            version: Version::from_number(1),
            name: Name::new(Kind(1), &[name]),
            value: 7,
        })
    }

    #[test]
    fn what_was_written_while_it_was_read_is_not_kept() {
        let cache = Cache::new(true);
        let record = stored("a");
        let ticket = cache.ticket(&record.name);
        cache.forget(&record.name);
        cache.keep(ticket, None, record.clone());
        assert!(cache.get(&record.name).is_none());
        let ticket = cache.ticket(&record.name);
        cache.clear();
        cache.keep(ticket, None, record.clone());
        assert!(cache.get(&record.name).is_none());
        let ticket = cache.ticket(&record.name);
        cache.keep(ticket, None, record.clone());
        assert!(cache.get(&record.name).is_some());
        cache.forget(&record.name);
        assert!(cache.get(&record.name).is_none());
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let cache = Cache::new(true);
        let asked = stored("asked");
        cache.keep(cache.ticket(&asked.name), None, asked.clone());
        let many = SHARDS * SHARED * 4;
        for n in 0..many {
            let record = stored(&n.to_string());
            cache.keep(cache.ticket(&record.name), None, record);
            assert!(cache.get(&asked.name).is_some());
        }
        let held: usize = cache
            .shards
            .iter()
            .map(|shard| {
                let shard = shard.lock().unwrap();
                shard.young.len() + shard.old.len()
            })
            .sum();
        assert!(held <= SHARDS * SHARED * 2, "{held}");
    }
}
