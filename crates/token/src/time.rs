//! The two units of time that tokens speak: a moment and a length, both in whole seconds.
//! Owns the newtypes and their text form; refuses to know where "now" comes from (callers pass it).
//! A new unit belongs here only if a token format uses it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment: seconds since 1970-01-01T00:00:00Z without leap seconds (RFC 7519 section 2, `NumericDate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub i64);

/// A length of time in whole seconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seconds(pub u64);

impl UnixSeconds {
    /// The system's wall clock. For the edge of a program only: everything inward takes `now` as a parameter.
    #[must_use]
    pub fn system() -> Self {
        let seconds = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
        };
        Self(seconds)
    }

    /// This moment moved into the future; saturates.
    #[must_use]
    pub fn plus(self, length: Seconds) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(length.0).unwrap_or(i64::MAX)),
        )
    }

    /// This moment moved into the past; saturates.
    #[must_use]
    pub fn minus(self, length: Seconds) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(length.0).unwrap_or(i64::MAX)),
        )
    }

    /// How long ago `earlier` was, or `None` when it lies in the future.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Seconds> {
        u64::try_from(self.0.checked_sub(earlier.0)?)
            .ok()
            .map(Seconds)
    }
}

impl fmt::Display for UnixSeconds {
    /// RFC 3339 in UTC, or the bare number where no calendar date exists.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(self.0) {
            Ok(moment) => write!(f, "{moment}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

impl Seconds {
    /// So many hours.
    #[must_use]
    pub const fn hours(hours: u64) -> Self {
        Self(hours * 3600)
    }

    /// So many days of 24 hours.
    #[must_use]
    pub const fn days(days: u64) -> Self {
        Self(days * 86_400)
    }
}

impl From<Seconds> for Duration {
    fn from(length: Seconds) -> Self {
        Duration::from_secs(length.0)
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_utc_and_saturate() {
        assert_eq!(
            UnixSeconds(1_900_000_000).to_string(),
            "2030-03-17T17:46:40Z"
        );
        assert_eq!(UnixSeconds(i64::MAX).to_string(), i64::MAX.to_string());
        assert_eq!(
            UnixSeconds(i64::MAX).plus(Seconds(5)),
            UnixSeconds(i64::MAX)
        );
        assert_eq!(UnixSeconds(10).since(UnixSeconds(4)), Some(Seconds(6)));
        assert_eq!(UnixSeconds(4).since(UnixSeconds(10)), None);
        assert_eq!(UnixSeconds(100).minus(Seconds(40)), UnixSeconds(60));
    }
}
