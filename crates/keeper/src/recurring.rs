//! Trouble that comes back with every try: told in full when it begins, counted once a minute while it lasts, told when it is over.
//!
//! Owns when something is to be told. Refuses to know what, and to whom. Whatever tries again and again keeps one [`Recurring`] of its
//! own and logs at the level that [`Tell`] names, so that an idle server whose store is away does not fill the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// From one count to the next.
const COUNTED_EVERY: Duration = Duration::from_secs(60);

/// What is to be told of one failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    /// The first of its kind: in full, as a warning.
    Begun,
    /// It lasts: as a warning, with how many there were since it was told last, this one included.
    Lasts(u64),
    /// It is known: for those who look for it only.
    Known,
}

/// Trouble that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Over {
    /// Failures in all.
    pub times: u64,
    /// From the first failure to the success that ends it.
    pub lasted: Duration,
}

/// One thing that may fail again and again, in several kinds of ways.
#[derive(Debug)]
pub(crate) struct Recurring<K> {
    /// How long nothing may have failed before a success counts as the end: where some tries succeed while others fail.
    quiet: Duration,
    /// Whether there is a spell, for those who succeed meanwhile.
    failing: AtomicBool,
    spell: Mutex<Option<Spell<K>>>,
}

#[derive(Debug)]
struct Spell<K> {
    began: Instant,
    last: Instant,
    times: u64,
    kinds: Vec<Known<K>>,
}

#[derive(Debug)]
struct Known<K> {
    kind: K,
    told: Instant,
    untold: u64,
}

impl<K: PartialEq> Recurring<K> {
    /// Nothing has failed yet.
    pub(crate) fn new(quiet: Duration) -> Self {
        Self {
            quiet,
            failing: AtomicBool::new(false),
            spell: Mutex::new(None),
        }
    }

    /// It failed.
    pub(crate) fn failed(&self, kind: K) -> Tell {
        let now = Instant::now();
        let mut spell = self.spell.lock().unwrap_or_else(PoisonError::into_inner);
        self.failing.store(true, Ordering::Relaxed);
        let spell = spell.get_or_insert_with(|| Spell {
            began: now,
            last: now,
            times: 0,
            kinds: Vec::new(),
        });
        spell.last = now;
        spell.times += 1;
        let Some(known) = spell.kinds.iter_mut().find(|known| known.kind == kind) else {
            spell.kinds.push(Known {
                kind,
                told: now,
                untold: 0,
            });
            return Tell::Begun;
        };
        known.untold += 1;
        if now - known.told < COUNTED_EVERY {
            return Tell::Known;
        }
        known.told = now;
        Tell::Lasts(std::mem::take(&mut known.untold))
    }

    /// It succeeded. Answers what is over by that.
    pub(crate) fn worked(&self) -> Option<Over> {
        if !self.failing.load(Ordering::Relaxed) {
            return None;
        }
        let now = Instant::now();
        let mut spell = self.spell.lock().unwrap_or_else(PoisonError::into_inner);
        let over = spell.take_if(|spell| now - spell.last >= self.quiet)?;
        self.failing.store(false, Ordering::Relaxed);
        Some(Over {
            times: over.times,
            lasted: now - over.began,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_is_told_when_it_begins_once_a_minute_and_when_it_is_over() {
        let store = Recurring::new(Duration::from_secs(5));
        assert_eq!(store.worked(), None);
        assert_eq!(store.failed("away"), Tell::Begun);
        for _ in 0..59 {
            pass(1).await;
            assert_eq!(store.failed("away"), Tell::Known);
        }
        assert_eq!(store.failed("full"), Tell::Begun, "another kind is news");
        pass(1).await;
        assert_eq!(store.failed("away"), Tell::Lasts(60));
        assert_eq!(store.failed("away"), Tell::Known);
        pass(4).await;
        assert_eq!(store.worked(), None, "one success between failures");
        assert_eq!(store.failed("full"), Tell::Known);
        pass(5).await;
        let over = Over {
            times: 64,
            lasted: Duration::from_secs(69),
        };
        assert_eq!(store.worked(), Some(over));
        assert_eq!(store.worked(), None);
        assert_eq!(store.failed("away"), Tell::Begun);
    }
}
