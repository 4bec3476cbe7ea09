//! When an issuer's keys are fetched, how long a copy is used, and when a stranger's token may make us ask early.
//! Owns the policy (WLCG profile 1.3, table of lifetimes) as a state machine; refuses to know how keys are fetched, stored
//! or shared. The fetcher asks [`IssuerKeys::plan`], does what it says and reports with [`IssuerKeys::started`],
//! [`IssuerKeys::fetched`] or [`IssuerKeys::failed`]. Times are the caller's.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::jws::JwkSet;
use crate::time::{Seconds, UnixSeconds};

/// The lengths of time that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A copy is refreshed after this, and no HTTP lifetime is honoured beyond it.
    pub refresh: Seconds,
    /// A copy is fresh at least this long, whatever HTTP headers say.
    pub floor: Seconds,
    /// After the last success a copy is used this long while the issuer is down.
    pub keep: Seconds,
    /// Between two attempts at an issuer, whatever caused them.
    pub pause: Seconds,
    /// A fetch that reported nothing for so long is taken for lost.
    pub deadline: Seconds,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            refresh: Seconds::hours(6),
            floor: Seconds::hours(1),
            keep: Seconds::days(2),
            pause: Seconds(60),
            deadline: Seconds(60),
        }
    }
}

/// What to do for a token that is waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Verify with this copy.
    Use(Arc<JwkSet>),
    /// Verify with this copy and fetch a new one beside.
    UseAndRefresh(Arc<JwkSet>),
    /// Fetch first: there is no usable copy, or the copy does not name the key. If that fails, `fallback` is what is left.
    FetchFirst {
        /// A copy that is still usable.
        fallback: Option<Arc<JwkSet>>,
    },
    /// A fetch is under way: wait for it, then plan again. If it takes too long, `fallback` is what is left.
    Wait {
        /// A copy that is still usable.
        fallback: Option<Arc<JwkSet>>,
    },
    /// No usable copy, and the last attempt failed a moment ago.
    Unavailable {
        /// When asking again makes sense.
        retry_after: Seconds,
    },
}

/// The state for one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerKeys {
    copy: Option<Copy>,
    last_attempt: Option<UnixSeconds>,
    /// Whether that attempt is still under way.
    in_flight: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Copy {
    keys: Arc<JwkSet>,
    fetched: UnixSeconds,
    fresh_until: UnixSeconds,
}

impl IssuerKeys {
    /// What to do for a token signed with `kid`. The clock may have been set back since a time was noted: a time in the
    /// future counts as long ago for asking, so that nothing stays stuck, and as just now for keeping.
    #[must_use]
    pub fn plan(&self, policy: &Policy, kid: Option<&str>, now: UnixSeconds) -> Plan {
        let usable = self
            .copy
            .as_ref()
            .filter(|copy| now.0 <= copy.fetched.plus(policy.keep).0);
        let waited = self.last_attempt.map(|at| now.since(at));
        let flying =
            self.in_flight && matches!(waited, Some(Some(waited)) if waited < policy.deadline);
        let pausing = match waited {
            Some(Some(waited)) if waited < policy.pause => Some(Seconds(policy.pause.0 - waited.0)),
            _ => None,
        };
        let Some(copy) = usable else {
            return match (flying, pausing) {
                (true, _) => Plan::Wait { fallback: None },
                (false, Some(retry_after)) => Plan::Unavailable { retry_after },
                (false, None) => Plan::FetchFirst { fallback: None },
            };
        };
        let keys = Arc::clone(&copy.keys);
        let unknown = kid.is_some_and(|kid| !keys.names(kid));
        match (unknown, flying, pausing) {
            (true, true, _) => Plan::Wait {
                fallback: Some(keys),
            },
            (true, false, None) => Plan::FetchFirst {
                fallback: Some(keys),
            },
            (false, false, None) if now >= copy.fresh_until || copy.fetched > now => {
                Plan::UseAndRefresh(keys)
            }
            _ => Plan::Use(keys),
        }
    }

    /// A fetch begins. The caller keeps it the only one: no other may start while this one is under way.
    pub fn started(&mut self, now: UnixSeconds) {
        self.last_attempt = Some(now);
        self.in_flight = true;
    }

    /// A fetch succeeded; `http_lifetime` is what the response's headers allow, if they say anything.
    pub fn fetched(
        &mut self,
        policy: &Policy,
        keys: JwkSet,
        http_lifetime: Option<Seconds>,
        now: UnixSeconds,
    ) {
        let lifetime = http_lifetime
            .unwrap_or(policy.refresh)
            .clamp(policy.floor, policy.refresh);
        self.copy = Some(Copy {
            keys: Arc::new(keys),
            fetched: now,
            fresh_until: now.plus(lifetime),
        });
        self.in_flight = false;
    }

    /// A fetch failed; the copy stays.
    pub fn failed(&mut self) {
        self.in_flight = false;
    }

    /// When the copy was fetched.
    #[must_use]
    pub fn fetched_at(&self) -> Option<UnixSeconds> {
        self.copy.as_ref().map(|copy| copy.fetched)
    }

    /// The copy, for a file that survives restarts; `None` while there is none.
    #[must_use]
    pub fn to_json(&self) -> Option<Value> {
        let copy = self.copy.as_ref()?;
        Some(
            json!({ "fetched": copy.fetched, "fresh_until": copy.fresh_until, "jwks": copy.keys.to_json() }),
        )
    }

    /// The state from such a file; `None` when the value is none of ours, which is the same as having no file.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let moment = |name: &str| value.get(name)?.as_i64().map(UnixSeconds);
        let keys = Arc::new(JwkSet::from_value(value.get("jwks")?).ok()?);
        let copy = Copy {
            keys,
            fetched: moment("fetched")?,
            fresh_until: moment("fresh_until")?,
        };
        Some(Self {
            copy: Some(copy),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jws::{Algorithm, SigningKey};

    const NOW: UnixSeconds = UnixSeconds(1_900_000_000);

    fn set() -> JwkSet {
        JwkSet::new(vec![
            SigningKey::generate(Algorithm::Es256, "k1")
                .unwrap()
                .public_jwk(),
        ])
    }

    fn fetched(http: Option<Seconds>) -> IssuerKeys {
        let mut state = IssuerKeys::default();
        state.started(NOW);
        state.fetched(&Policy::default(), set(), http, NOW);
        state
    }

    fn plan(state: &IssuerKeys, kid: &str, after: u64) -> Plan {
        state.plan(&Policy::default(), Some(kid), NOW.plus(Seconds(after)))
    }

    #[test]
    fn a_copy_is_fresh_for_six_hours_and_kept_for_two_days() {
        let state = fetched(None);
        assert!(matches!(plan(&state, "k1", 0), Plan::Use(_)));
        assert!(matches!(plan(&state, "k1", 6 * 3600 - 1), Plan::Use(_)));
        assert!(matches!(
            plan(&state, "k1", 6 * 3600),
            Plan::UseAndRefresh(_)
        ));
        assert!(matches!(
            plan(&state, "k1", 48 * 3600),
            Plan::UseAndRefresh(_)
        ));
        assert_eq!(
            plan(&state, "k1", 48 * 3600 + 1),
            Plan::FetchFirst { fallback: None }
        );
    }

    #[test]
    fn http_lifetimes_count_between_one_and_six_hours() {
        for (http, fresh) in [(0, 3600), (7200, 7200), (86_400, 21_600)] {
            let state = fetched(Some(Seconds(http)));
            assert!(
                matches!(plan(&state, "k1", fresh - 1), Plan::Use(_)),
                "{http}"
            );
            assert!(
                matches!(plan(&state, "k1", fresh), Plan::UseAndRefresh(_)),
                "{http}"
            );
        }
    }

    #[test]
    fn an_unknown_key_asks_early_once_a_minute() {
        let mut state = fetched(None);
        assert!(matches!(plan(&state, "k9", 59), Plan::Use(_)));
        assert!(matches!(
            plan(&state, "k9", 60),
            Plan::FetchFirst { fallback: Some(_) }
        ));
        state.started(NOW.plus(Seconds(60)));
        assert!(matches!(
            plan(&state, "k9", 61),
            Plan::Wait { fallback: Some(_) }
        ));
        assert!(matches!(plan(&state, "k1", 61), Plan::Use(_)));
        state.fetched(&Policy::default(), set(), None, NOW.plus(Seconds(62)));
        assert!(matches!(plan(&state, "k9", 119), Plan::Use(_)));
        assert!(matches!(plan(&state, "k9", 120), Plan::FetchFirst { .. }));
    }

    #[test]
    fn failures_are_remembered_for_a_minute() {
        let mut state = IssuerKeys::default();
        assert_eq!(plan(&state, "k1", 0), Plan::FetchFirst { fallback: None });
        state.started(NOW);
        assert_eq!(plan(&state, "k1", 1), Plan::Wait { fallback: None });
        state.failed();
        assert_eq!(
            plan(&state, "k1", 20),
            Plan::Unavailable {
                retry_after: Seconds(40)
            }
        );
        assert_eq!(plan(&state, "k1", 60), Plan::FetchFirst { fallback: None });
    }

    #[test]
    fn a_lost_fetch_does_not_block_for_ever() {
        let mut state = IssuerKeys::default();
        state.started(NOW);
        assert_eq!(plan(&state, "k1", 59), Plan::Wait { fallback: None });
        assert_eq!(plan(&state, "k1", 60), Plan::FetchFirst { fallback: None });
    }

    #[test]
    fn a_clock_set_back_neither_hammers_nor_sticks() {
        let mut state = fetched(None);
        let earlier = NOW.minus(Seconds::days(3));
        assert!(matches!(
            state.plan(&Policy::default(), Some("k1"), earlier),
            Plan::UseAndRefresh(_)
        ));
        state.started(earlier);
        state.failed();
        assert!(matches!(
            state.plan(&Policy::default(), Some("k1"), earlier.plus(Seconds(5))),
            Plan::Use(_)
        ));
    }

    #[test]
    fn the_copy_survives_a_restart() {
        let state = fetched(None);
        let text = state.to_json().unwrap().to_string();
        let again = IssuerKeys::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.fetched_at(), Some(NOW));
        assert!(matches!(
            plan(&again, "k1", 47 * 3600),
            Plan::UseAndRefresh(_)
        ));
        assert_eq!(IssuerKeys::from_json(&json!({"fetched": 1})), None);
        assert_eq!(IssuerKeys::default().to_json(), None);
    }
}
