//! Leases of an engine that only one process uses: kept in memory, since they end with the process anyway.
//!
//! Fences stay greater than any before across restarts, because the epoch is their upper half.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::BootClock;

struct Held {
    holder: String,
    fence: u64,
    until: Duration,
}

pub(crate) struct Leases {
    clock: Arc<dyn BootClock>,
    state: Mutex<(u64, HashMap<String, Held>)>,
}

impl Leases {
    pub(crate) fn new(clock: Arc<dyn BootClock>, epoch: u64) -> Self {
        Self {
            clock,
            state: Mutex::new((epoch << 32, HashMap::new())),
        }
    }

    pub(crate) fn take(&self, name: &str, holder: &str, ttl: Duration) -> Option<u64> {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, held) = &mut *state;
        // Lapsed ones of other names go along, so that the table stays as large as what is live.
        held.retain(|_, lease| lease.until > now);
        if held.get(name).is_some_and(|lease| lease.holder != holder) {
            return None;
        }
        *last += 1;
        held.insert(
            name.to_owned(),
            Held {
                holder: holder.to_owned(),
                fence: *last,
                until: now.saturating_add(ttl),
            },
        );
        Some(*last)
    }

    pub(crate) fn renew(&self, name: &str, fence: u64, ttl: Duration) -> bool {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.1.get_mut(name) {
            Some(lease) if lease.fence == fence && lease.until > now => {
                lease.until = now.saturating_add(ttl);
                true
            }
            _ => false,
        }
    }

    pub(crate) fn release(&self, name: &str, fence: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1.get(name).is_some_and(|lease| lease.fence == fence) {
            state.1.remove(name);
        }
    }
}
