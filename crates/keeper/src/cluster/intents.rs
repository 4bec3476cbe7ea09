//! Refreshes of other nodes, and for how long this node has seen each stand.
//!
//! Another node's refresh may be taken over only when its request has certainly ended. The clock on the wall says that only
//! where all clocks agree, so what counts is the boot-time clock of the one who takes over, from when he first saw it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::records::Intent;

/// Intents remembered; those beyond are looked at when they are met.
const MOST: usize = 100_000;

#[derive(Default)]
pub(crate) struct Intents(Mutex<HashMap<String, (String, Duration)>>);

impl Intents {
    /// How long `intent` has been seen to stand at boot time `now`.
    pub fn seen_for(&self, intent: &Intent, now: Duration) -> Duration {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((id, since)) = known.get(&intent.grant)
            && *id == intent.id
        {
            return now.saturating_sub(*since);
        }
        if known.len() >= MOST {
            // Nothing outlives its deadline by much: what is older has ended unseen.
            known.retain(|_, (_, since)| now.saturating_sub(*since) < Duration::from_secs(300));
        }
        if known.len() < MOST {
            known.insert(intent.grant.clone(), (intent.id.clone(), now));
        }
        Duration::ZERO
    }

    /// The refresh of a grant has ended.
    pub fn ended(&self, grant: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(grant);
    }
}
