//! Which grants were used since they were last refreshed, and when each is worth refreshing ahead of need.
//!
//! In memory only: a grant whose use is forgotten is refreshed when it is next asked for. It may be as many as there are
//! credentials, so a grant is its number here: the 16 bytes of its identifier.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Grants remembered; the others are refreshed when they are asked for.
const LIMIT: usize = 200_000;

/// The grants used.
#[derive(Default)]
pub(crate) struct Uses(Mutex<HashMap<u128, Use>>);

struct Use {
    /// When it is worth refreshing ahead of need, in Unix seconds.
    ahead: i64,
    /// Since when it counts as used, in Unix seconds.
    since: i64,
}

/// `None` for an identifier that is not one of those we make.
fn number(grant: &str) -> Option<u128> {
    u128::from_str_radix(grant, 16)
        .ok()
        .filter(|number| identifier(*number) == grant)
}

fn identifier(number: u128) -> String {
    format!("{number:032x}")
}

impl Uses {
    fn all(&self) -> MutexGuard<'_, HashMap<u128, Use>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a grant is used, which since `now` it is if it was not before, and when it is worth refreshing.
    pub fn note(&self, grant: &str, ahead: i64, now: i64) {
        let Some(number) = number(grant) else { return };
        let mut all = self.all();
        if let Some(known) = all.get_mut(&number) {
            known.ahead = ahead;
        } else if all.len() < LIMIT {
            all.insert(number, Use { ahead, since: now });
        }
    }

    /// Moves the time of a grant that was used, if it was.
    pub fn put_off(&self, grant: &str, ahead: i64) {
        let Some(number) = number(grant) else { return };
        if let Some(known) = self.all().get_mut(&number) {
            known.ahead = ahead;
        }
    }

    /// Whether the grant was used since this was last asked.
    pub fn take(&self, grant: &str) -> bool {
        number(grant).is_some_and(|number| self.all().remove(&number).is_some())
    }

    /// Those worth refreshing by `now`.
    pub fn due(&self, now: i64) -> Vec<String> {
        self.those(|used| used.ahead <= now)
    }

    /// Those that count as used since `then` or longer.
    pub fn since(&self, then: i64) -> Vec<String> {
        self.those(|used| used.since <= then)
    }

    fn those(&self, which: impl Fn(&Use) -> bool) -> Vec<String> {
        let all = self.all();
        let found = all.iter().filter(|(_, used)| which(used));
        found.map(|(number, _)| identifier(*number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::random_id;

    #[test]
    fn grants_come_back_by_the_identifiers_they_were_noted_by() {
        let uses = Uses::default();
        let leading_zero = "00112233445566778899aabbccddeeff".to_owned();
        let ids = [random_id(), leading_zero];
        for id in &ids {
            uses.note(id, 100, 10);
        }
        uses.note("a/grant that nobody made", 100, 10);
        let sorted = |mut found: Vec<String>| {
            found.sort();
            found
        };
        assert_eq!(sorted(uses.due(100)), sorted(ids.to_vec()));
        assert!(uses.due(99).is_empty() && uses.since(9).is_empty());
        uses.put_off(&ids[0], 200);
        assert_eq!(uses.due(100), ids[1..]);
        uses.note(&ids[1], 300, 20);
        assert_eq!(uses.since(10).len(), 2, "it was used before");
        assert!(uses.take(&ids[0]) && !uses.take(&ids[0]));
        assert_eq!(uses.since(10), ids[1..]);
    }
}
