//! The issuer's own clock: the machine's time plus an offset that a test sets.
//! It knows nothing of tokens; whoever stamps or compares times asks it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Wall clock of the test issuer. Moving the offset lets tokens and codes expire without waiting.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    offset: AtomicI64,
}

impl Clock {
    /// Milliseconds since 1970, offset included.
    pub(crate) fn now_ms(&self) -> i64 {
        let machine = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(_) => 0,
        };
        machine.saturating_add(self.offset().saturating_mul(1000))
    }

    /// Whole seconds since 1970, offset included.
    pub(crate) fn now(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }

    /// Seconds by which this clock differs from the machine's.
    pub(crate) fn offset(&self) -> i64 {
        self.offset.load(Ordering::SeqCst)
    }

    /// Replaces the offset (seconds, may be negative).
    pub(crate) fn set_offset(&self, seconds: i64) {
        self.offset.store(seconds, Ordering::SeqCst);
    }

    /// Moves the clock by `seconds` from where it is.
    pub(crate) fn advance(&self, seconds: i64) {
        self.offset.fetch_add(seconds, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn the_offset_moves_the_clock_both_ways() {
        let clock = Clock::default();
        let before = clock.now();
        clock.set_offset(86_400);
        assert!(clock.now() >= before + 86_400);
        clock.advance(-2 * 86_400);
        assert_eq!(clock.offset(), -86_400);
        assert!(clock.now() < before);
    }
}
