//! Time: wall clock for meaning, boot-time clock for waiting, and when the wall clock is not believed.
//!
//! A jump of more than [`TOLERANCE`] against the boot-time clock makes the time doubtful until the kernel reports the clock
//! synchronised or an operator confirms it. So do the clocks of other nodes that differ by as much, unless most agree with this
//! one ([`Vote`]). While it is doubtful nothing is deleted and nothing is called expired for ever.

use std::sync::Mutex;
use std::time::Duration;

use gridkeep_token::time::UnixSeconds;

/// How far clocks may disagree before it counts.
pub const TOLERANCE: Duration = Duration::from_secs(TOLERANCE_SECONDS.unsigned_abs());

/// The same in seconds.
pub(crate) const TOLERANCE_SECONDS: i64 = 60;

/// A clock that is further than this ahead of the latest time a store has seen may be wrong: it is believed only when the kernel
/// reports it synchronised.
const LONGEST_STOP: i64 = 86_400;

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Time since the Unix epoch.
    fn wall(&self) -> Duration;
    /// Time since the machine started, sleep included. Never goes backwards.
    fn boot(&self) -> Duration;
    /// Whether the kernel says that something keeps the wall clock right; `None` when it cannot be asked.
    fn synchronised(&self) -> Option<bool>;
}

/// The clocks of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Duration {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
    }

    fn boot(&self) -> Duration {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map(|time| {
                Duration::new(
                    time.tv_sec().max(0).unsigned_abs(),
                    u32::try_from(time.tv_nsec()).unwrap_or(0),
                )
            })
            .unwrap_or_default()
    }

    fn synchronised(&self) -> Option<bool> {
        const TIME_ERROR: i32 = 5;
        // SAFETY: `timex` is plain integers for which zero is valid, and adjtimex(2) with modes 0 only fills it in.
        #[expect(unsafe_code, reason = "adjtimex(2) has no safe wrapper")]
        let state = unsafe {
            let mut timex: libc::timex = std::mem::zeroed();
            libc::adjtimex(&raw mut timex)
        };
        if state < 0 {
            None
        } else {
            Some(state != TIME_ERROR)
        }
    }
}

/// What the clocks of the other nodes say of this one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Vote {
    /// It is alone, or more than half of all, this one included, agree with it.
    #[default]
    Right,
    /// The others were not heard yet.
    Unheard,
    /// Some differ by more than [`TOLERANCE`], and no majority says who is right.
    Open,
    /// A majority agrees on another time.
    Outvoted,
}

/// What the nodes' clocks, each as seconds ahead of this one's, say of this one's.
pub(crate) fn vote(mut ahead: Vec<i64>) -> Vote {
    let nodes = ahead.len() + 1;
    let agree = |with: i64| move |other: &&i64| (**other - with).abs() <= TOLERANCE_SECONDS;
    let own = 1 + ahead.iter().filter(agree(0)).count();
    if own * 2 > nodes {
        return Vote::Right;
    }
    ahead.retain(|seconds| seconds.abs() > TOLERANCE_SECONDS);
    let largest = ahead
        .iter()
        .map(|one| ahead.iter().filter(agree(*one)).count())
        .max();
    if largest.is_some_and(|largest| largest * 2 > nodes) {
        Vote::Outvoted
    } else {
        Vote::Open
    }
}

/// The keeper's view of a [`Clock`]: notices jumps.
pub struct Time {
    clock: std::sync::Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    wall: Duration,
    boot: Duration,
    doubtful: bool,
    vote: Vote,
    /// An operator has said that this clock is right although others differ; until they agree again.
    confirmed: bool,
}

impl State {
    fn vote(&self) -> Vote {
        if self.confirmed {
            Vote::Right
        } else {
            self.vote
        }
    }
}

impl Time {
    /// Starts trusting the clock as it is now, unless it lies before `high_water`, the latest time this store has seen, or more
    /// than a day after it.
    pub fn new(clock: std::sync::Arc<dyn Clock>, high_water: Option<UnixSeconds>) -> Self {
        let (wall, boot) = (clock.wall(), clock.boot());
        let now = seconds(wall).0;
        let doubtful = high_water.is_some_and(|mark| {
            now + TOLERANCE_SECONDS < mark.0 || now > mark.0.saturating_add(LONGEST_STOP)
        });
        if doubtful {
            tracing::warn!(
                now = %UnixSeconds(now),
                latest_seen = high_water.map(tracing::field::display),
                "the wall clock is before or more than a day after the latest time this store has seen: nothing is deleted or called expired until the kernel reports it synchronised or an operator confirms it (gridkeep operator confirm-clock, once date shows the right time)"
            );
        }
        Time {
            clock,
            state: Mutex::new(State {
                wall,
                boot,
                doubtful,
                vote: Vote::Right,
                confirmed: false,
            }),
        }
    }

    /// Now, in seconds since the epoch, and in passing looks for a jump.
    pub fn now(&self) -> UnixSeconds {
        seconds(self.now_exact())
    }

    /// Now with its fraction.
    pub fn now_exact(&self) -> Duration {
        let mut state = self.state();
        // Read under the lock: a time from before a jump would be one anew to whoever comes after.
        let (wall, boot) = (self.clock.wall(), self.clock.boot());
        let expected = state.wall + boot.saturating_sub(state.boot);
        if expected.abs_diff(wall) > TOLERANCE {
            state.doubtful = true;
            tracing::warn!(
                expected = %seconds(expected),
                found = %seconds(wall),
                "the wall clock jumped: nothing is deleted or called expired until the kernel reports it synchronised or an operator confirms it (gridkeep operator confirm-clock, once date shows the right time)"
            );
        }
        state.wall = wall;
        state.boot = boot;
        wall
    }

    /// Whether the wall clock is in doubt. Ends the doubt about a jump when the kernel reports synchronisation; that of the other
    /// nodes only they end, or an operator.
    pub fn doubtful(&self) -> bool {
        self.now_exact();
        let mut state = self.state();
        let right = (state.doubtful || state.vote() == Vote::Open)
            && self.clock.synchronised() == Some(true);
        if state.doubtful && right {
            state.doubtful = false;
            tracing::info!("the kernel reports the wall clock synchronised: it is trusted again");
        }
        match state.vote() {
            Vote::Right => state.doubtful,
            Vote::Open => state.doubtful || !right,
            Vote::Unheard | Vote::Outvoted => true,
        }
    }

    /// Whether the other nodes agree on another time.
    pub(crate) fn outvoted(&self) -> bool {
        self.state().vote() == Vote::Outvoted
    }

    /// No other node is there: who has not heard any yet trusts his own clock, and who was told that it is wrong goes by that.
    pub(crate) fn alone(&self) {
        if self.state().vote == Vote::Unheard {
            self.set_vote(Vote::Right);
        }
    }

    /// What the other nodes' clocks say of this one's.
    pub(crate) fn set_vote(&self, vote: Vote) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.vote, vote);
        if before == vote {
            return;
        }
        match vote {
            Vote::Right => {
                state.confirmed = false;
                if before != Vote::Unheard {
                    tracing::info!("the clocks of the cluster agree with this node's");
                }
            }
            Vote::Unheard => {}
            Vote::Open => tracing::warn!(
                "the clocks of the cluster differ by more than {TOLERANCE_SECONDS} s and no majority says which is right: nothing is deleted or called expired unless the kernel reports this node's synchronised; `gridkeep cluster status` shows them"
            ),
            Vote::Outvoted => tracing::warn!(
                "this node's clock differs by more than {TOLERANCE_SECONDS} s from one on which most of the cluster agree: requests are passed to other nodes, and nothing is deleted or called expired here until it is set right or an operator confirms it (gridkeep operator confirm-clock)"
            ),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// An operator says that the clock is right, whatever the kernel and other nodes say.
    pub fn confirm(&self) {
        self.now_exact();
        let mut state = self.state();
        state.doubtful = false;
        state.confirmed = matches!(state.vote, Vote::Open | Vote::Outvoted);
    }

    /// Time since the machine started.
    pub fn boot(&self) -> Duration {
        self.clock.boot()
    }
}

fn seconds(wall: Duration) -> UnixSeconds {
    UnixSeconds(i64::try_from(wall.as_secs()).unwrap_or(i64::MAX))
}

/// A clock that tests set.
#[derive(Debug)]
pub struct ManualClock {
    inner: Mutex<(Duration, Duration, Option<bool>)>,
}

impl ManualClock {
    /// A clock that stands at `wall` seconds after the epoch.
    pub fn at(wall: i64) -> Self {
        let wall = Duration::from_secs(wall.unsigned_abs());
        ManualClock {
            inner: Mutex::new((wall, Duration::from_secs(1000), Some(false))),
        }
    }

    /// Lets `by` pass on both clocks.
    pub fn pass(&self, by: Duration) {
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.0 += by;
        inner.1 += by;
    }

    /// Sets the wall clock alone, as a jump does.
    pub fn jump_to(&self, wall: i64) {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .0 = Duration::from_secs(wall.unsigned_abs());
    }

    /// What the kernel says about synchronisation.
    pub fn set_synchronised(&self, to: Option<bool>) {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .2 = to;
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Duration {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .0
    }

    fn boot(&self) -> Duration {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .1
    }

    fn synchronised(&self) -> Option<bool> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_clocks_decide() {
        for (ahead, expected) in [
            (vec![], Vote::Right),
            (vec![60, -60], Vote::Right),
            (vec![7200, 1], Vote::Right),
            (vec![7200, 7201], Vote::Outvoted),
            (vec![-7200, -7250], Vote::Outvoted),
            // Nobody agrees with anybody, or as many with one as with the other.
            (vec![7200], Vote::Open),
            (vec![7200, -7200], Vote::Open),
            (vec![0, 7200, 7200], Vote::Open),
            (vec![0, 7200, 7200, 7200], Vote::Outvoted),
            (vec![0, 0, 7200, 7200], Vote::Right),
            (vec![i64::from(i32::MIN), 0], Vote::Right),
        ] {
            assert_eq!(vote(ahead.clone()), expected, "{ahead:?}");
        }
    }

    #[test]
    fn what_the_kernel_and_an_operator_say_of_a_vote() {
        let clock = std::sync::Arc::new(ManualClock::at(1_000_000));
        let time = Time::new(clock.clone(), None);
        time.set_vote(Vote::Open);
        assert!(time.doubtful() && !time.outvoted());
        clock.set_synchronised(Some(true));
        assert!(!time.doubtful());
        time.set_vote(Vote::Outvoted);
        assert!(time.doubtful() && time.outvoted());
        time.confirm();
        assert!(!time.doubtful() && !time.outvoted());
        // What was confirmed counts until the clocks agree again, and not only until nobody is heard.
        time.alone();
        assert!(!time.doubtful());
        time.set_vote(Vote::Open);
        clock.set_synchronised(Some(false));
        assert!(!time.doubtful());
        time.set_vote(Vote::Right);
        time.set_vote(Vote::Outvoted);
        assert!(time.outvoted());
        time.alone();
        assert!(time.outvoted(), "what was heard is not forgotten");
        time.set_vote(Vote::Unheard);
        time.alone();
        assert!(!time.outvoted() && !time.doubtful());
    }
}
