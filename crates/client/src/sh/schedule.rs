//! When to renew: plain arithmetic on a token's times, no clock, no waiting.

use gridkeep_token::time::UnixSeconds;
use std::time::Duration;

/// Seconds added to the computed wait, so that at renewal the old token surely has less than the asked life left and the server mints a new one.
const MARGIN: i64 = 2;
/// A wait shorter than this on a fresh token means that the issuer's tokens are too short for the asked minimum life.
const SHORTEST_REGULAR_WAIT: i64 = 60;

/// The times of a bearer token that matter for renewing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// `iat`, where the token says it.
    pub issued: Option<UnixSeconds>,
    /// `exp`: the token is invalid at and after this moment.
    pub expires: UnixSeconds,
}

/// The next renewal of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    /// Seconds until then, at least 1.
    pub wait: u64,
    /// The remaining life to ask for, in seconds: what the user asked for, or half of the token's life where that is all a token can have.
    pub minimum: u64,
    /// Whether `minimum` is less than what the user asked for.
    pub shortened: bool,
}

impl Life {
    /// Seconds left at `now`; not positive when expired.
    pub fn remaining(&self, now: UnixSeconds) -> i64 {
        self.expires.0.saturating_sub(now.0)
    }

    /// Whether the token is of no use any more at `now`.
    pub fn is_over(&self, now: UnixSeconds) -> bool {
        self.remaining(now) <= 0
    }

    /// When to renew so that never less than `minsecs` are left; `None` when the token has expired already.
    pub fn renewal(&self, minsecs: u64, now: UnixSeconds) -> Option<Renewal> {
        let remaining = self.remaining(now);
        if remaining <= 0 {
            return None;
        }
        let asked = i64::try_from(minsecs).unwrap_or(i64::MAX);
        let whole = self.issued.map_or(remaining, |issued| {
            self.expires.0.saturating_sub(issued.0).max(remaining)
        });
        // A cached token may be near its end although the issuer's tokens are long; only the whole life tells.
        let shortened = whole.saturating_sub(asked).saturating_add(MARGIN) < SHORTEST_REGULAR_WAIT;
        let minimum = if shortened {
            asked.min((whole / 2).max(1))
        } else {
            asked
        };
        let latest = (remaining - 1).max(1);
        let wait = if shortened {
            (remaining - minimum)
                .saturating_add(MARGIN)
                .clamp(1, latest)
        } else {
            remaining
                .saturating_sub(minimum)
                .saturating_add(MARGIN)
                .max(1)
        };
        Some(Renewal {
            wait: wait.unsigned_abs(),
            minimum: minimum.unsigned_abs(),
            shortened: shortened && minimum < asked,
        })
    }
}

/// How long to wait after the `failures`-th failed attempt in a row (counted from 1): 5 s doubling to a minute while the token
/// lives, then every minute.
pub fn pause_after(failures: u32, expired: bool) -> Duration {
    if expired {
        return Duration::from_secs(60);
    }
    let doubled = 5_u64.saturating_mul(1 << failures.saturating_sub(1).min(8));
    Duration::from_secs(doubled.min(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(issued: i64, expires: i64) -> Life {
        Life {
            issued: Some(UnixSeconds(issued)),
            expires: UnixSeconds(expires),
        }
    }

    #[test]
    fn a_long_token_is_renewed_two_seconds_after_its_minimum_is_reached() {
        let renewal = life(1000, 4600).renewal(60, UnixSeconds(1000)).unwrap();
        assert_eq!(
            renewal,
            Renewal {
                wait: 3542,
                minimum: 60,
                shortened: false
            }
        );
    }

    #[test]
    fn a_token_of_120_seconds_with_a_minimum_of_60_is_regular() {
        let renewal = life(1000, 1120).renewal(60, UnixSeconds(1000)).unwrap();
        assert_eq!(
            renewal,
            Renewal {
                wait: 62,
                minimum: 60,
                shortened: false
            }
        );
    }

    #[test]
    fn a_cached_token_near_its_end_is_not_a_short_token() {
        let renewal = life(0, 3600).renewal(60, UnixSeconds(3535)).unwrap();
        assert_eq!(
            renewal,
            Renewal {
                wait: 7,
                minimum: 60,
                shortened: false
            }
        );
        let renewal = life(0, 3600).renewal(60, UnixSeconds(3590)).unwrap();
        assert_eq!(renewal.wait, 1);
    }

    #[test]
    fn a_short_token_is_renewed_at_half_of_its_life() {
        let renewal = life(1000, 1060).renewal(60, UnixSeconds(1000)).unwrap();
        assert_eq!(
            renewal,
            Renewal {
                wait: 32,
                minimum: 30,
                shortened: true
            }
        );
        let without_iat = Life {
            issued: None,
            expires: UnixSeconds(1300),
        };
        let renewal = without_iat.renewal(600, UnixSeconds(1000)).unwrap();
        assert_eq!(
            renewal,
            Renewal {
                wait: 152,
                minimum: 150,
                shortened: true
            }
        );
    }

    #[test]
    fn extremes_neither_overflow_nor_wait_past_the_end() {
        assert_eq!(life(0, 10).renewal(60, UnixSeconds(10)), None);
        assert_eq!(life(0, i64::MIN).renewal(60, UnixSeconds(i64::MAX)), None);
        for remaining in 1..200 {
            let renewal = life(0, remaining)
                .renewal(u64::MAX, UnixSeconds(0))
                .unwrap();
            assert!(
                renewal.wait >= 1 && renewal.wait <= remaining.unsigned_abs(),
                "{remaining}: {renewal:?}"
            );
            assert!(renewal.minimum >= 1);
        }
        let renewal = life(i64::MIN, i64::MAX)
            .renewal(60, UnixSeconds(0))
            .unwrap();
        assert_eq!(renewal.minimum, 60);
    }

    #[test]
    fn failed_attempts_back_off_to_a_minute() {
        let pauses: Vec<u64> = (1..=6)
            .map(|failures| pause_after(failures, false).as_secs())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert_eq!(pause_after(1, true).as_secs(), 60);
        assert_eq!(pause_after(u32::MAX, false).as_secs(), 60);
    }
}
