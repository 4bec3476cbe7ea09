//! Records kept in memory, so that reads cost no way to the store.
//!
//! A kept record is only ever a reason to say yes: whatever would refuse reads the store first. Dropped when the watch shows a
//! write, when this node writes, and as a whole after a gap. Bounded by two generations: what was not put for a whole
//! generation goes, at the price of holding up to twice the stated number.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gridkeep_store::Name;

use crate::database::Stored;
use crate::records::{CREDENTIAL, CredentialRecord, GRANT, GrantRecord, KeeperToken, TOKEN};

const SHARDS: usize = 64;
/// Records of one generation of one shard: 64 × 512 × 2 of each kind at most.
const GENERATION: usize = 512;

/// What is kept, by kind.
#[derive(Default)]
pub(crate) struct Caches {
    pub tokens: Cache<KeeperToken>,
    pub credentials: Cache<CredentialRecord>,
    pub grants: Cache<GrantRecord>,
}

impl Caches {
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
    hasher: RandomState,
}

struct Shard<T> {
    young: HashMap<Name, Arc<Stored<T>>>,
    old: HashMap<Name, Arc<Stored<T>>>,
    /// Counts what was forgotten, so that what was read before is not kept after.
    forgotten: u64,
}

/// Taken before a record is read; good for keeping it if nothing was forgotten meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Ticket(u64);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Cache {
            shards: (0..SHARDS)
                .map(|_| {
                    Mutex::new(Shard {
                        young: HashMap::new(),
                        old: HashMap::new(),
                        forgotten: 0,
                    })
                })
                .collect(),
            hasher: RandomState::new(),
        }
    }
}

impl<T> Cache<T> {
    fn shard(&self, name: &Name) -> MutexGuard<'_, Shard<T>> {
        let index = self.hasher.hash_one(name) % SHARDS as u64;
        let index = usize::try_from(index).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, name: &Name) -> Option<Arc<Stored<T>>> {
        let mut shard = self.shard(name);
        if let Some(found) = shard.young.get(name) {
            return Some(found.clone());
        }
        let found = shard.old.remove(name)?;
        shard.insert(found.clone());
        Some(found)
    }

    pub fn ticket(&self, name: &Name) -> Ticket {
        Ticket(self.shard(name).forgotten)
    }

    /// Keeps what was read after `ticket` was taken, unless it may have been written since.
    pub fn keep(&self, ticket: Ticket, record: Arc<Stored<T>>) {
        let mut shard = self.shard(&record.name);
        if shard.forgotten == ticket.0 {
            shard.insert(record);
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

impl<T> Shard<T> {
    fn insert(&mut self, record: Arc<Stored<T>>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(record.name.clone(), record);
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
        let cache = Cache::default();
        let record = stored("a");
        let ticket = cache.ticket(&record.name);
        cache.forget(&record.name);
        cache.keep(ticket, record.clone());
        assert!(cache.get(&record.name).is_none());
        let ticket = cache.ticket(&record.name);
        cache.clear();
        cache.keep(ticket, record.clone());
        assert!(cache.get(&record.name).is_none());
        let ticket = cache.ticket(&record.name);
        cache.keep(ticket, record.clone());
        assert!(cache.get(&record.name).is_some());
        cache.forget(&record.name);
        assert!(cache.get(&record.name).is_none());
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
        let cache = Cache::default();
        let asked = stored("asked");
        cache.keep(cache.ticket(&asked.name), asked.clone());
        let many = SHARDS * GENERATION * 4;
        for n in 0..many {
            let record = stored(&n.to_string());
            cache.keep(cache.ticket(&record.name), record);
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
        assert!(held <= SHARDS * GENERATION * 2, "{held}");
    }
}
