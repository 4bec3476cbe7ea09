//! The courtesy owed to an issuer: a budget of requests and a breaker that leaves a failing issuer alone.
//!
//! Every request to an endpoint of the issuer passes here; reading metadata and keys does not (that has its own
//! back-off, see `kept.rs`). Time is a parameter. What is refused here was never sent.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::BreakerState;
use crate::backoff;
use crate::error::IssuerError;
use crate::options::{BreakerOptions, Budget};

/// How long others are told to wait while the one probe is under way.
const PROBE_WAIT: Duration = Duration::from_secs(1);
/// The longest wait that is named to a caller whom the budget holds back.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Who asks for a part of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for a token, or one is kept alive.
    Serving,
    /// Can be set off by strangers or can wait: takes nothing of the last quarter of the budget.
    Spare,
}

/// Budget and breaker of one issuer on this node.
pub(crate) struct Gate {
    budget: Budget,
    breaker: BreakerOptions,
    state: Mutex<State>,
}

struct State {
    nodes: u32,
    tokens: f64,
    filled: Instant,
    phase: Phase,
    /// Temporary failures since the last answer that made sense.
    failures: u32,
    /// Times the breaker opened since then.
    opened: u32,
    /// End of the pause the issuer itself asked for.
    held: Option<Instant>,
    last_error: Option<String>,
    last_success: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    /// After `until` the next request is the probe.
    Open {
        until: Instant,
    },
    Probing,
}

/// What the end of a request did to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// Nothing goes out for this long.
    Opened(Duration),
    /// Requests go out again.
    Closed,
}

/// What [`Gate::view`] shows.
pub(crate) struct View {
    pub breaker: BreakerState,
    pub failures: u32,
    pub last_error: Option<String>,
    pub last_success: Option<i64>,
    pub budget_left: f64,
}

impl Gate {
    pub(crate) fn new(budget: Budget, breaker: BreakerOptions, now: Instant) -> Self {
        let state = State {
            nodes: 1,
            tokens: f64::from(budget.burst).max(1.0),
            filled: now,
            phase: Phase::Closed,
            failures: 0,
            opened: 0,
            held: None,
            last_error: None,
            last_success: None,
        };
        Self {
            budget,
            breaker,
            state: Mutex::new(state),
        }
    }

    /// Divides the budget among this many nodes from now on.
    pub(crate) fn share(&self, nodes: u32, now: Instant) {
        let mut state = self.lock();
        self.fill(&mut state, now);
        state.nodes = nodes.max(1);
        state.tokens = state.tokens.min(self.capacity(&state));
    }

    /// Lets one request pass, or says when to come back.
    pub(crate) fn enter(&self, urgency: Urgency, now: Instant) -> Result<Pass<'_>, IssuerError> {
        let mut state = self.lock();
        if let Some(wait) = state.held.and_then(|until| remaining(until, now)) {
            return Err(IssuerError::Throttled { retry_after: wait });
        }
        let probe = match state.phase {
            Phase::Closed => false,
            Phase::Probing => {
                return Err(IssuerError::Throttled {
                    retry_after: PROBE_WAIT,
                });
            }
            Phase::Open { until } => match remaining(until, now) {
                Some(wait) => return Err(IssuerError::Throttled { retry_after: wait }),
                None => true,
            },
        };
        self.fill(&mut state, now);
        let capacity = self.capacity(&state);
        let needed = match urgency {
            Urgency::Serving => 1.0,
            Urgency::Spare => (1.0 + capacity / 4.0).min(capacity),
        };
        if state.tokens < needed {
            let seconds = (needed - state.tokens) / self.rate(&state);
            let wait = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_WAIT);
            return Err(IssuerError::Throttled {
                retry_after: wait.clamp(Duration::from_millis(1), LONGEST_WAIT),
            });
        }
        state.tokens -= 1.0;
        if probe {
            state.phase = Phase::Probing;
        }
        Ok(Pass {
            gate: self,
            probe,
            settled: false,
        })
    }

    pub(crate) fn view(&self, now: Instant) -> View {
        let mut state = self.lock();
        self.fill(&mut state, now);
        let held = state.held.and_then(|until| remaining(until, now));
        let breaker = match (state.phase, held) {
            (Phase::Closed, None) => BreakerState::Closed,
            (Phase::Closed, Some(wait)) => BreakerState::Open(wait),
            (Phase::Probing, _) => BreakerState::HalfOpen,
            (Phase::Open { until }, held) => match remaining(until, now).max(held) {
                Some(wait) => BreakerState::Open(wait),
                None => BreakerState::HalfOpen,
            },
        };
        View {
            breaker,
            failures: state.failures,
            last_error: state.last_error.clone(),
            last_success: state.last_success,
            budget_left: state.tokens,
        }
    }

    fn capacity(&self, state: &State) -> f64 {
        (f64::from(self.budget.burst) / f64::from(state.nodes)).max(1.0)
    }

    fn rate(&self, state: &State) -> f64 {
        self.budget.per_second / f64::from(state.nodes)
    }

    fn fill(&self, state: &mut State, now: Instant) {
        let passed = now.saturating_duration_since(state.filled).as_secs_f64();
        state.tokens = (state.tokens + passed * self.rate(state)).min(self.capacity(state));
        state.filled = state.filled.max(now);
    }

    fn succeeded(&self, wall: i64) -> Change {
        let mut state = self.lock();
        let was_open = state.phase != Phase::Closed;
        state.phase = Phase::Closed;
        state.failures = 0;
        state.opened = 0;
        state.last_error = None;
        state.last_success = Some(wall);
        if was_open {
            Change::Closed
        } else {
            Change::None
        }
    }

    fn failed(
        &self,
        probe: bool,
        what: &str,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Change {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        state.last_error = Some(what.to_owned());
        if let Some(wait) = retry_after {
            let until = now + wait.min(self.breaker.max_retry_after);
            state.held = state.held.max(Some(until));
        }
        // Requests that went out before the breaker opened come back failed after it did: they say nothing new.
        let opens = match state.phase {
            Phase::Closed => state.failures >= self.breaker.failures,
            Phase::Probing => probe,
            Phase::Open { .. } => false,
        };
        if !opens {
            return Change::None;
        }
        state.opened = state.opened.saturating_add(1);
        let wait =
            backoff::exponential(self.breaker.first_open, self.breaker.max_open, state.opened);
        state.phase = Phase::Open { until: now + wait };
        Change::Opened(wait)
    }

    /// A probe that was given up unanswered leaves the place to the next request.
    fn abandoned(&self, now: Instant) {
        let mut state = self.lock();
        if state.phase == Phase::Probing {
            state.phase = Phase::Open { until: now };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to send one request. Dropped without [`Pass::settle`] it counts as neither success nor failure.
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    probe: bool,
    settled: bool,
}

impl Pass<'_> {
    /// Tells the breaker how the request ended. Only temporary failures count against the issuer; a refusal is an
    /// answer like any other.
    pub(crate) fn settle<T>(
        mut self,
        outcome: &Result<T, IssuerError>,
        now: Instant,
        wall: i64,
    ) -> Change {
        self.settled = true;
        match outcome {
            Err(IssuerError::Temporary {
                what, retry_after, ..
            }) => self.gate.failed(self.probe, what, *retry_after, now),
            _ => self.gate.succeeded(wall),
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            self.gate.abandoned(Instant::now());
        }
    }
}

fn remaining(until: Instant, now: Instant) -> Option<Duration> {
    until
        .checked_duration_since(now)
        .filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Sent;

    const WALL: i64 = 1_800_000_000;

    fn gate(per_second: f64, burst: u32) -> Gate {
        let breaker = BreakerOptions {
            failures: 3,
            first_open: Duration::from_secs(4),
            max_open: Duration::from_secs(16),
            max_retry_after: Duration::from_secs(600),
        };
        Gate::new(Budget { per_second, burst }, breaker, Instant::now())
    }

    fn trouble(retry_after: Option<Duration>) -> Result<(), IssuerError> {
        Err(IssuerError::Temporary {
            what: "down".into(),
            sent: Sent::Maybe,
            retry_after,
        })
    }

    fn refusal() -> Result<(), IssuerError> {
        Err(IssuerError::Refused {
            status: 400,
            error: "invalid_grant".into(),
            description: None,
            uri: None,
        })
    }

    fn fail(gate: &Gate) {
        gate.enter(Urgency::Serving, Instant::now())
            .unwrap()
            .settle(&trouble(None), Instant::now(), WALL);
    }

    fn wait_of(gate: &Gate, urgency: Urgency) -> Duration {
        match gate.enter(urgency, Instant::now()) {
            Err(IssuerError::Throttled { retry_after }) => retry_after,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("passed"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_spent_and_comes_back() {
        let gate = gate(2.0, 3);
        for _ in 0..3 {
            gate.enter(Urgency::Serving, Instant::now()).unwrap();
        }
        let wait = wait_of(&gate, Urgency::Serving);
        assert_eq!(wait, Duration::from_millis(500));
        tokio::time::advance(wait).await;
        gate.enter(Urgency::Serving, Instant::now()).unwrap();
        wait_of(&gate, Urgency::Serving);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(
            (gate.view(Instant::now()).budget_left - 3.0).abs() < 1e-9,
            "never more than the burst"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn live_nodes_divide_the_budget() {
        let gate = gate(4.0, 8);
        gate.share(4, Instant::now());
        gate.enter(Urgency::Serving, Instant::now()).unwrap();
        gate.enter(Urgency::Serving, Instant::now()).unwrap();
        assert_eq!(wait_of(&gate, Urgency::Serving), Duration::from_secs(1));
        gate.share(100, Instant::now());
        tokio::time::advance(Duration::from_secs(25)).await;
        gate.enter(Urgency::Serving, Instant::now())
            .expect("a share is never less than one request");
        gate.share(0, Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!((gate.view(Instant::now()).budget_left - 8.0).abs() < 1e-9);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_leave_a_quarter_of_the_budget() {
        let gate = gate(1.0, 8);
        let mut started = 0;
        while gate.enter(Urgency::Spare, Instant::now()).is_ok() {
            started += 1;
        }
        assert_eq!(started, 6);
        gate.enter(Urgency::Serving, Instant::now()).unwrap();
        gate.enter(Urgency::Serving, Instant::now()).unwrap();
        wait_of(&gate, Urgency::Serving);
    }

    #[tokio::test(start_paused = true)]
    async fn opens_after_failures_in_a_row_probes_once_and_closes() {
        let gate = gate(100.0, 100);
        fail(&gate);
        fail(&gate);
        gate.enter(Urgency::Serving, Instant::now())
            .unwrap()
            .settle(&refusal(), Instant::now(), WALL);
        assert_eq!(
            gate.view(Instant::now()).failures,
            0,
            "a refusal is an answer"
        );
        for _ in 0..3 {
            fail(&gate);
        }
        let wait = wait_of(&gate, Urgency::Serving);
        assert!(
            wait >= Duration::from_secs(2) && wait <= Duration::from_secs(4),
            "{wait:?}"
        );
        assert_eq!(gate.view(Instant::now()).breaker, BreakerState::Open(wait));
        tokio::time::advance(wait).await;
        let probe = gate.enter(Urgency::Serving, Instant::now()).unwrap();
        assert_eq!(wait_of(&gate, Urgency::Serving), PROBE_WAIT);
        probe.settle(&trouble(None), Instant::now(), WALL);
        let second = wait_of(&gate, Urgency::Serving);
        assert!(
            second >= Duration::from_secs(4) && second <= Duration::from_secs(8),
            "{second:?}"
        );
        tokio::time::advance(second).await;
        drop(gate.enter(Urgency::Serving, Instant::now()).unwrap());
        assert_eq!(
            gate.view(Instant::now()).breaker,
            BreakerState::HalfOpen,
            "an abandoned probe is not a verdict"
        );
        gate.enter(Urgency::Serving, Instant::now())
            .unwrap()
            .settle(&Ok(()), Instant::now(), WALL);
        let view = gate.view(Instant::now());
        assert_eq!(
            (view.breaker, view.last_error, view.last_success),
            (BreakerState::Closed, None, Some(WALL))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn late_failures_do_not_keep_the_breaker_open() {
        let gate = gate(100.0, 100);
        let early: Vec<_> = (0..5)
            .map(|_| gate.enter(Urgency::Serving, Instant::now()).unwrap())
            .collect();
        let mut early = early.into_iter();
        for pass in early.by_ref().take(3) {
            pass.settle(&trouble(None), Instant::now(), WALL);
        }
        let wait = wait_of(&gate, Urgency::Serving);
        early
            .next()
            .unwrap()
            .settle(&trouble(None), Instant::now(), WALL);
        tokio::time::advance(wait).await;
        let probe = gate.enter(Urgency::Serving, Instant::now()).unwrap();
        early
            .next()
            .unwrap()
            .settle(&trouble(None), Instant::now(), WALL);
        probe.settle(&Ok(()), Instant::now(), WALL);
        assert_eq!(gate.view(Instant::now()).breaker, BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_after_is_obeyed_within_its_limit() {
        let gate = gate(100.0, 100);
        let minute = Duration::from_secs(60);
        gate.enter(Urgency::Serving, Instant::now())
            .unwrap()
            .settle(&trouble(Some(minute)), Instant::now(), WALL);
        assert_eq!(wait_of(&gate, Urgency::Serving), minute);
        tokio::time::advance(minute).await;
        let day = Duration::from_secs(86_400);
        gate.enter(Urgency::Serving, Instant::now())
            .unwrap()
            .settle(&trouble(Some(day)), Instant::now(), WALL);
        assert_eq!(wait_of(&gate, Urgency::Serving), Duration::from_secs(600));
    }
}
