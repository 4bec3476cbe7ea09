//! The clock for waiting. Wall clock time never enters the store by itself: callers pass it.

use std::time::Duration;

/// Time since the host was started, time spent asleep included. Never goes back, is not set by anybody.
pub trait BootClock: Send + Sync + 'static {
    /// Since the host was started.
    fn now(&self) -> Duration;
}

/// The kernel's boot-time clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemBootClock;

impl BootClock for SystemBootClock {
    fn now(&self) -> Duration {
        // The clock is there on every kernel this program runs on; without it a lease would just never lapse.
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_or(Duration::ZERO, Duration::from)
    }
}
