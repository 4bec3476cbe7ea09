//! Marks: whether what was read may have been written since, told without reading.
//!
//! An engine to which this process alone writes counts the commits that touch a key, before it answers them. Keys share their
//! counters, so that a mark may cease to hold although its own key was left alone; it never holds where that was written.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters. With 128 KiB of them a commit ends one in 16,384 of the marks of other keys.
const COUNTERS: usize = 1 << 14;

/// The counters of an engine.
#[derive(Clone)]
pub(crate) struct Marks(Arc<Counters>);

struct Counters {
    counters: Box<[AtomicU64]>,
    hasher: RandomState,
}

/// Says of a name, as of when this was taken, whether it was written since.
#[derive(Clone)]
pub struct Mark {
    marks: Marks,
    index: usize,
    count: u64,
}

impl std::fmt::Debug for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mark")
            .field("holds", &self.holds())
            .finish()
    }
}

impl Mark {
    /// False from the moment at which a commit that writes or deletes the name is answered, and maybe earlier or without one.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.marks.0.counters[self.index].load(Ordering::SeqCst) == self.count
    }
}

impl Default for Marks {
    fn default() -> Self {
        Marks(Arc::new(Counters {
            counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }))
    }
}

impl Marks {
    fn index(&self, key: &[u8]) -> usize {
        let hash = self.0.hasher.hash_one(key) % COUNTERS as u64;
        usize::try_from(hash).unwrap_or(0)
    }

    /// To be taken before the key is read.
    pub(crate) fn mark(&self, key: &[u8]) -> Mark {
        let index = self.index(key);
        Mark {
            marks: self.clone(),
            index,
            count: self.0.counters[index].load(Ordering::SeqCst),
        }
    }

    /// To be called once a write of the key can be read, and before it is answered.
    pub(crate) fn written(&self, key: &[u8]) {
        self.0.counters[self.index(key)].fetch_add(1, Ordering::SeqCst);
    }

    /// Any key may have been written.
    pub(crate) fn all_written(&self) {
        for counter in &self.0.counters {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_until_its_key_is_written() {
        let marks = Marks::default();
        let (mine, other) = (marks.mark(b"mine"), marks.mark(b"other"));
        assert!(mine.holds() && other.holds());
        marks.written(b"mine");
        assert!(!mine.holds());
        assert!(marks.mark(b"mine").holds(), "one taken later does");
        marks.all_written();
        assert!(!other.holds());
    }
}
