//! Counting requests in windows of a fixed length, each beginning with somebody's first request, as the original counts.
//!
//! Guarantees a bound of memory: at most [`MOST`] addresses or users are remembered per limit. When more come within one interval, the
//! half that sent least is forgotten, so that a flood from ever new addresses cannot wash away the count of a busy or shut-out one. What
//! it wastes is one look through the table for each such half.
//!
//! `governor` and other leaky buckets do not know the fixed window, the time of being shut out, or a bound of keys.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gridkeep_keeper::RateLimit;

/// Addresses and users remembered per limit.
const MOST: usize = 65_536;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Address(IpAddr),
    User(Box<str>),
}

/// The counts of one limit.
pub(super) struct Counts {
    rate: u64,
    interval: Duration,
    block: Duration,
    most: usize,
    windows: Mutex<HashMap<Key, Window>>,
}

/// All times are of the boot-time clock.
struct Window {
    ends: Duration,
    used: u64,
    shut_until: Duration,
}

/// Whether a request may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Within { remaining: u64, resets_in: Duration },
    Over { wait: Duration },
}

impl Verdict {
    pub(super) fn remaining(&self) -> u64 {
        match self {
            Verdict::Within { remaining, .. } => *remaining,
            Verdict::Over { .. } => 0,
        }
    }

    /// Until the count begins anew.
    pub(super) fn resets_in(&self) -> Duration {
        match self {
            Verdict::Within { resets_in, .. } => *resets_in,
            Verdict::Over { wait } => *wait,
        }
    }
}

impl Counts {
    pub(super) fn of(limit: &RateLimit) -> Self {
        Counts {
            rate: limit.rate,
            interval: limit.interval,
            block: limit.block_interval,
            most: MOST,
            windows: Mutex::default(),
        }
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// Counts one request at `now`.
    pub(super) fn take(&self, key: &Key, now: Duration) -> Verdict {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = match windows.get_mut(key) {
            Some(window) => window,
            None => {
                if windows.len() >= self.most {
                    make_room(&mut windows, self.most, now);
                }
                windows.entry(key.clone()).or_insert(Window {
                    ends: now + self.interval,
                    used: 0,
                    shut_until: Duration::ZERO,
                })
            }
        };
        if window.shut_until > now {
            return Verdict::Over {
                wait: window.shut_until - now,
            };
        }
        if window.ends <= now {
            window.ends = now + self.interval;
            window.used = 0;
        }
        if window.used < self.rate {
            window.used += 1;
            return Verdict::Within {
                remaining: self.rate - window.used,
                resets_in: window.ends - now,
            };
        }
        if self.block.is_zero() {
            return Verdict::Over {
                wait: window.ends - now,
            };
        }
        window.shut_until = now + self.block;
        Verdict::Over { wait: self.block }
    }
}

/// Forgets what is over, and where that is not enough the half that sent least.
fn make_room(windows: &mut HashMap<Key, Window>, most: usize, now: Duration) {
    windows.retain(|_, window| window.ends > now || window.shut_until > now);
    if windows.len() < most - most / 8 {
        return;
    }
    let weight = |window: &Window| (window.shut_until.max(now), window.used);
    let mut weights: Vec<_> = windows.values().map(weight).collect();
    let half = weights.len() / 2;
    let (_, middle, _) = weights.select_nth_unstable(half);
    let (middle, mut to_go) = (*middle, half);
    windows.retain(|_, window| {
        let goes = to_go > 0 && weight(window) <= middle;
        to_go -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn counts(rate: u64, interval: u64, block: u64) -> Counts {
        Counts {
            rate,
            interval: SECOND * u32::try_from(interval).unwrap(),
            block: SECOND * u32::try_from(block).unwrap(),
            most: MOST,
            windows: Mutex::default(),
        }
    }

    fn address(n: u32) -> Key {
        Key::Address(std::net::Ipv4Addr::from(n).into())
    }

    fn refused(verdict: &Verdict) -> Option<Duration> {
        match verdict {
            Verdict::Within { .. } => None,
            Verdict::Over { wait } => Some(*wait),
        }
    }

    #[test]
    fn a_window_begins_with_the_first_request() {
        let counts = counts(2, 10, 0);
        let (a, b) = (address(1), address(2));
        let at = |seconds: u32| SECOND * (1000 + seconds);
        assert_eq!(
            counts.take(&a, at(3)),
            Verdict::Within {
                remaining: 1,
                resets_in: SECOND * 10
            }
        );
        assert_eq!(counts.take(&a, at(8)).remaining(), 0);
        assert_eq!(refused(&counts.take(&a, at(9))), Some(SECOND * 4));
        assert_eq!(refused(&counts.take(&b, at(9))), None, "somebody else");
        assert_eq!(
            counts.take(&a, at(13)),
            Verdict::Within {
                remaining: 1,
                resets_in: SECOND * 10
            }
        );
    }

    #[test]
    fn one_too_many_shuts_out_and_further_ones_do_not_prolong_it() {
        let counts = counts(1, 10, 60);
        let a = address(1);
        let at = |seconds: u32| SECOND * (1000 + seconds);
        assert_eq!(refused(&counts.take(&a, at(0))), None);
        assert_eq!(refused(&counts.take(&a, at(5))), Some(SECOND * 60));
        assert_eq!(refused(&counts.take(&a, at(30))), Some(SECOND * 35));
        assert_eq!(refused(&counts.take(&a, at(64))), Some(SECOND));
        assert_eq!(refused(&counts.take(&a, at(65))), None);
        assert_eq!(refused(&counts.take(&a, at(66))), Some(SECOND * 60));
    }

    #[test]
    fn ever_new_addresses_cost_no_more_than_the_bound_and_wash_nobody_away() {
        let mut counts = counts(3, 3600, 7200);
        counts.most = 1000;
        let (busy, shut) = (address(1), address(2));
        for _ in 0..3 {
            counts.take(&busy, SECOND);
        }
        for _ in 0..4 {
            counts.take(&shut, SECOND);
        }
        for n in 10..20_000 {
            counts.take(&address(n), SECOND * 2);
            assert!(counts.windows.lock().unwrap().len() <= 1000);
        }
        assert!(refused(&counts.take(&busy, SECOND * 3)).is_some());
        assert!(refused(&counts.take(&shut, SECOND * 3)).is_some());
    }

    #[test]
    fn what_is_over_makes_room_first() {
        let mut counts = counts(3, 10, 0);
        counts.most = 100;
        for n in 0..100 {
            counts.take(&address(n), SECOND);
        }
        counts.take(&address(200), SECOND * 20);
        assert_eq!(counts.windows.lock().unwrap().len(), 1);
    }

    #[test]
    fn when_all_are_alike_half_of_them_stay() {
        let mut counts = counts(3, 10, 0);
        counts.most = 100;
        for n in 0..101 {
            counts.take(&address(n), SECOND);
        }
        assert_eq!(counts.windows.lock().unwrap().len(), 51);
    }
}
