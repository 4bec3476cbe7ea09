//! What this process remembers of entries: at which revision a version was found, and when it expires.
//!
//! Never wrong where it matters: that an entry had a version at a revision stays true for ever, and the index entry of an expiry that is
//! no longer an entry's may be deleted by anybody who writes that entry. Forgetting costs a request, or leaves an index entry for
//! [`super::due`] to find. Wastes up to twice its size, so that forgetting needs no list.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Entries remembered at least.
const SIZE: usize = 16 * 1024;

/// What was found of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    pub(crate) version: u64,
    pub(crate) revision: i64,
    pub(crate) expires_at: Option<i64>,
}

#[derive(Default)]
pub(crate) struct Hints {
    generations: Mutex<[HashMap<Vec<u8>, Hint>; 2]>,
}

impl Hints {
    pub(crate) fn note(&self, key: &[u8], hint: Hint) {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let [young, old] = &mut *generations;
        if young.len() >= SIZE && !young.contains_key(key) {
            std::mem::swap(young, old);
            young.clear();
        }
        young.insert(key.to_vec(), hint);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Hint> {
        let generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        generations.iter().find_map(|known| known.get(key)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_newest_and_stays_bounded() {
        let hints = Hints::default();
        let hint = |version| Hint {
            version,
            revision: 1,
            expires_at: None,
        };
        for n in 0..5 * SIZE as u64 {
            hints.note(&n.to_be_bytes(), hint(n));
            hints.note(b"often", hint(n));
        }
        let newest = 5 * SIZE as u64 - 1;
        assert_eq!(hints.get(&newest.to_be_bytes()), Some(hint(newest)));
        assert_eq!(hints.get(b"often"), Some(hint(newest)));
        assert_eq!(hints.get(&0u64.to_be_bytes()), None);
        let held: usize = hints
            .generations
            .lock()
            .unwrap()
            .iter()
            .map(HashMap::len)
            .sum();
        assert!(held <= 2 * SIZE);
    }
}
