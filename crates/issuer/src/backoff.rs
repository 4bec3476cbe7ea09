//! Waiting longer after each failure, never in step with other nodes.

use std::time::Duration;

/// No wait is longer than this, whatever is configured.
const LONGEST: Duration = Duration::from_secs(86_400);

/// `first` doubled for every failure after the first, at most `max`, then between half and all of that.
pub(crate) fn exponential(first: Duration, max: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    jittered(first.saturating_mul(1 << doublings).min(max).min(LONGEST))
}

/// Between half of `wait` and all of it.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.div_f64(2.0) + wait.div_f64(2.0).mul_f64(fraction())
}

/// A random number from 0 to 1. Without randomness it is one half: waiting in step is better than not waiting.
fn fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_up_to_the_limit_and_keeps_within_the_jitter() {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(60));
        for (failures, nominal) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (3, 4),
            (6, 32),
            (7, 60),
            (u32::MAX, 60),
        ] {
            for _ in 0..20 {
                let wait = exponential(first, max, failures);
                let nominal = Duration::from_secs(nominal);
                assert!(
                    wait >= nominal / 2 && wait <= nominal,
                    "{failures}: {wait:?}"
                );
            }
        }
    }
}
