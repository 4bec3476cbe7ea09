//! Users of the host who ask on the operators' socket and may not.
//!
//! Owns counting them, so that whoever asks again and again fills neither the audit log nor the memory.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// From a line about a user to the next.
const BETWEEN: Duration = Duration::from_secs(60);
/// Users that are told apart; further ones are counted together.
const MOST_USERS: usize = 1024;

/// Calls of one user, or of `None` that were too many to be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Their user id.
    pub caller: Option<u32>,
    /// How often, since the line before.
    pub count: u64,
}

struct Calls {
    noted: Instant,
    since: u64,
}

/// What was refused and is not noted yet.
#[derive(Default)]
pub struct Strangers(HashMap<Option<u32>, Calls>);

impl Strangers {
    /// Counts a call; answers what is to be noted of it at once.
    pub fn count(&mut self, caller: u32, now: Instant) -> Option<Refused> {
        let known = self.0.contains_key(&Some(caller));
        let caller = (known || self.0.len() < MOST_USERS).then_some(caller);
        if let Some(calls) = self.0.get_mut(&caller) {
            calls.since += 1;
            return None;
        }
        let calls = Calls {
            noted: now,
            since: 0,
        };
        self.0.insert(caller, calls);
        Some(Refused { caller, count: 1 })
    }

    /// What is to be noted of users about whom nothing was for a minute; those who have not called since are forgotten.
    pub fn due(&mut self, now: Instant) -> Vec<Refused> {
        let mut due = Vec::new();
        self.0.retain(|caller, calls| {
            if now.duration_since(calls.noted) < BETWEEN {
                return true;
            }
            if calls.since == 0 {
                return false;
            }
            due.push(Refused {
                caller: *caller,
                count: std::mem::take(&mut calls.since),
            });
            calls.noted = now;
            true
        });
        due
    }

    /// All that is not noted yet.
    pub fn rest(&mut self) -> Vec<Refused> {
        let left = std::mem::take(&mut self.0).into_iter();
        left.filter(|(_, calls)| calls.since > 0)
            .map(|(caller, calls)| Refused {
                caller,
                count: calls.since,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_noted_once_a_minute_with_a_count() {
        let mut strangers = Strangers::default();
        let start = Instant::now();
        let refused = |count| Refused {
            caller: Some(1000),
            count,
        };
        assert_eq!(strangers.count(1000, start), Some(refused(1)));
        for _ in 0..5000 {
            assert_eq!(strangers.count(1000, start), None);
        }
        assert_eq!(strangers.due(start + BETWEEN / 2), []);
        assert_eq!(strangers.due(start + BETWEEN), [refused(5000)]);
        assert_eq!(strangers.count(1000, start + BETWEEN), None);
        assert_eq!(strangers.due(start + BETWEEN * 2), [refused(1)]);
        assert_eq!(strangers.due(start + BETWEEN * 3), []);
        assert!(strangers.0.is_empty());
        strangers.count(1000, start);
        assert_eq!(strangers.rest(), []);
    }

    #[test]
    fn users_beyond_number_are_counted_together() {
        let mut strangers = Strangers::default();
        let start = Instant::now();
        let noted = (0..3000)
            .filter_map(|caller| strangers.count(caller, start))
            .count();
        assert_eq!((noted, strangers.0.len()), (MOST_USERS + 1, MOST_USERS + 1));
        assert_eq!(
            strangers.due(start + BETWEEN),
            [Refused {
                caller: None,
                count: 3000 - MOST_USERS as u64 - 1
            }]
        );
    }
}
