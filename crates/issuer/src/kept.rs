//! A document of the issuer that is read when first needed and then kept: metadata, signing keys.
//!
//! One read at a time. A good copy is served while newer ones cannot be had, until it is too old to be trusted. A
//! failure is remembered only for a short back-off, so that an outage during the first read heals by itself.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as FlightMutex, Notify};
use tokio::time::Instant;

use crate::backoff;
use crate::error::IssuerError;

/// Back-off after the first failed read, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(60);
/// A copy is read anew after this time; within these limits the issuer's own statement counts (WLCG profile 4.3.1).
const MIN_LIFE: Duration = Duration::from_secs(3600);
const MAX_LIFE: Duration = Duration::from_secs(6 * 3600);
/// A reader who has reason to think the copy outdated gets a new read once in this time, whoever asks.
const EARLY_EVERY: Duration = Duration::from_secs(60);

/// A document as read, with the life its server gave it.
pub(crate) struct Fetched<T> {
    pub value: T,
    pub life: Option<Duration>,
}

/// See the module.
pub(crate) struct Kept<T> {
    state: Mutex<State<T>>,
    flight: FlightMutex<()>,
    changed: Arc<Notify>,
    /// How long a copy may be used after it was read.
    trusted_for: Duration,
}

struct State<T> {
    good: Option<Good<T>>,
    failure: Option<Failure>,
    early: Option<Early>,
}

struct Good<T> {
    value: Arc<T>,
    read: Instant,
    renew: Instant,
}

struct Failure {
    error: IssuerError,
    count: u32,
    until: Instant,
}

/// The last read out of turn.
struct Early {
    at: Instant,
    error: Option<IssuerError>,
}

/// When a copy is good enough.
enum Need<'a, T> {
    /// Any that may be trusted. `renew`: one due for renewal is renewed first if that succeeds.
    Any { renew: bool },
    /// Another than this one.
    Other(&'a Arc<T>),
    /// One not due for renewal.
    Renewed,
}

enum Step<T> {
    Use(Arc<T>),
    Fail(IssuerError),
    Fetch {
        fallback: Option<Arc<T>>,
        early: bool,
    },
}

impl<T> Kept<T> {
    pub(crate) fn new(trusted_for: Duration, changed: Arc<Notify>) -> Self {
        let state = State {
            good: None,
            failure: None,
            early: None,
        };
        Self {
            state: Mutex::new(state),
            flight: FlightMutex::new(()),
            changed,
            trusted_for,
        }
    }

    /// A copy that may be trusted; read with `fetch` when there is none. With `renew`, one due for renewal is renewed.
    pub(crate) async fn get<F>(
        &self,
        renew: bool,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<T>, IssuerError>
    where
        F: Future<Output = Result<Fetched<T>, IssuerError>>,
    {
        self.obtain(Need::Any { renew }, fetch).await
    }

    /// A copy other than `seen`, which turned out not to be enough. Reads at most once a minute: in between, the same
    /// copy is the answer, or the reason why no other could be had.
    pub(crate) async fn other_than<F>(
        &self,
        seen: &Arc<T>,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<T>, IssuerError>
    where
        F: Future<Output = Result<Fetched<T>, IssuerError>>,
    {
        self.obtain(Need::Other(seen), fetch).await
    }

    /// Renews the copy if that is due.
    pub(crate) async fn renew<F>(&self, fetch: impl FnOnce() -> F) -> Result<Arc<T>, IssuerError>
    where
        F: Future<Output = Result<Fetched<T>, IssuerError>>,
    {
        self.obtain(Need::Renewed, fetch).await
    }

    /// When [`Kept::renew`] has something to do; `None` while nothing has ever been read.
    pub(crate) fn due(&self) -> Option<Instant> {
        let state = self.lock();
        let renew = state.good.as_ref()?.renew;
        Some(
            state
                .failure
                .as_ref()
                .map_or(renew, |failure| renew.max(failure.until)),
        )
    }

    /// Age of the copy in use.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        Some(now.saturating_duration_since(self.lock().good.as_ref()?.read))
    }

    /// Why the last read failed, if it did.
    pub(crate) fn last_error(&self) -> Option<String> {
        Some(self.lock().failure.as_ref()?.error.to_string())
    }

    async fn obtain<F>(
        &self,
        need: Need<'_, T>,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<T>, IssuerError>
    where
        F: Future<Output = Result<Fetched<T>, IssuerError>>,
    {
        let _flight = match self.decide(&need, Instant::now()) {
            Step::Use(value) => return Ok(value),
            Step::Fail(error) => return Err(error),
            Step::Fetch { fallback, .. } => match (&need, fallback, self.flight.try_lock()) {
                (_, _, Ok(flight)) => flight,
                // Somebody else is reading: what we have will do.
                (Need::Any { .. }, Some(value), Err(_)) => return Ok(value),
                (_, _, Err(_)) => self.flight.lock().await,
            },
        };
        let (fallback, early) = match self.decide(&need, Instant::now()) {
            Step::Use(value) => return Ok(value),
            Step::Fail(error) => return Err(error),
            Step::Fetch { fallback, early } => (fallback, early),
        };
        let outcome = fetch().await;
        let outcome = self.record(outcome, early, Instant::now());
        self.changed.notify_one();
        match (outcome, fallback) {
            (Err(error), Some(value)) if !early => {
                tracing::warn!(%error, "could not renew a document of the issuer; the last good copy stays in use");
                Ok(value)
            }
            (outcome, _) => outcome,
        }
    }

    fn decide(&self, need: &Need<'_, T>, now: Instant) -> Step<T> {
        let state = self.lock();
        let good = state
            .good
            .as_ref()
            .filter(|good| now.saturating_duration_since(good.read) < self.trusted_for);
        let failure = state.failure.as_ref().and_then(|failure| {
            let wait = failure
                .until
                .checked_duration_since(now)
                .filter(|wait| !wait.is_zero())?;
            Some(after(&failure.error, wait))
        });
        let Some(good) = good else {
            return failure.map_or(
                Step::Fetch {
                    fallback: None,
                    early: false,
                },
                Step::Fail,
            );
        };
        let value = Arc::clone(&good.value);
        match need {
            Need::Any { renew: false } => Step::Use(value),
            Need::Any { renew: true } | Need::Renewed if now < good.renew || failure.is_some() => {
                Step::Use(value)
            }
            Need::Any { .. } | Need::Renewed => Step::Fetch {
                fallback: Some(value),
                early: false,
            },
            Need::Other(seen) if !Arc::ptr_eq(&value, seen) => Step::Use(value),
            Need::Other(_) => match &state.early {
                Some(early) if now.saturating_duration_since(early.at) < EARLY_EVERY => {
                    match &early.error {
                        Some(error) => Step::Fail(after(
                            error,
                            EARLY_EVERY - now.saturating_duration_since(early.at),
                        )),
                        None => Step::Use(value),
                    }
                }
                _ => Step::Fetch {
                    fallback: Some(value),
                    early: true,
                },
            },
        }
    }

    fn record(
        &self,
        outcome: Result<Fetched<T>, IssuerError>,
        early: bool,
        now: Instant,
    ) -> Result<Arc<T>, IssuerError> {
        let mut state = self.lock();
        if early {
            state.early = Some(Early {
                at: now,
                error: outcome.as_ref().err().cloned(),
            });
        }
        match outcome {
            Ok(Fetched { value, life }) => {
                let value = Arc::new(value);
                let life = life.unwrap_or(MAX_LIFE).clamp(MIN_LIFE, MAX_LIFE);
                // Ahead of its end, and not at the same moment on every node.
                let renew = now + life.mul_f64(0.8) + backoff::jittered(life.mul_f64(0.2));
                state.good = Some(Good {
                    value: Arc::clone(&value),
                    read: now,
                    renew,
                });
                state.failure = None;
                Ok(value)
            }
            Err(error) => {
                let count = state
                    .failure
                    .as_ref()
                    .map_or(1, |failure| failure.count.saturating_add(1));
                let wait = backoff::exponential(FIRST_RETRY, MAX_RETRY, count)
                    .max(error.retry_after().unwrap_or_default().min(MAX_RETRY));
                state.failure = Some(Failure {
                    error: error.clone(),
                    count,
                    until: now + wait,
                });
                Err(after(&error, wait))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same failure, with the time after which a new read is made.
fn after(error: &IssuerError, wait: Duration) -> IssuerError {
    match error.clone() {
        IssuerError::Temporary { what, sent, .. } => IssuerError::Temporary {
            what,
            sent,
            retry_after: Some(wait),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Source {
        reads: AtomicU32,
        down: std::sync::atomic::AtomicBool,
    }

    impl Source {
        fn new() -> Self {
            Self {
                reads: AtomicU32::new(0),
                down: false.into(),
            }
        }

        async fn read(&self) -> Result<Fetched<u32>, IssuerError> {
            let count = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if self.down.load(Ordering::SeqCst) {
                return Err(IssuerError::unsent("down"));
            }
            Ok(Fetched {
                value: count,
                life: None,
            })
        }

        fn reads(&self) -> u32 {
            self.reads.load(Ordering::SeqCst)
        }

        fn set_down(&self, down: bool) {
            self.down.store(down, Ordering::SeqCst);
        }
    }

    fn kept() -> Kept<u32> {
        Kept::new(Duration::from_secs(2 * 86_400), Arc::new(Notify::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn many_readers_cause_one_read() {
        let (kept, source) = (Arc::new(kept()), Arc::new(Source::new()));
        let readers: Vec<_> = (0..50)
            .map(|_| {
                let (kept, source) = (Arc::clone(&kept), Arc::clone(&source));
                tokio::spawn(async move { kept.get(false, || source.read()).await })
            })
            .collect();
        for reader in readers {
            assert_eq!(*reader.await.unwrap().unwrap(), 1);
        }
        assert_eq!(source.reads(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_leaves_is_replaced_by_the_next() {
        let (kept, source) = (Arc::new(kept()), Arc::new(Source::new()));
        let read = || {
            let (kept, source) = (Arc::clone(&kept), Arc::clone(&source));
            tokio::spawn(async move { kept.get(false, || source.read()).await })
        };
        let (first, second) = (read(), read());
        tokio::time::sleep(Duration::from_millis(50)).await;
        first.abort();
        assert_eq!(*second.await.unwrap().unwrap(), 2);
        assert_eq!(source.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_waits_for_a_reading_under_way() {
        let (kept, source) = (Arc::new(kept()), Arc::new(Source::new()));
        let first = kept.get(false, || source.read()).await.unwrap();
        tokio::time::advance(MAX_LIFE).await;
        let early = {
            let (kept, source) = (Arc::clone(&kept), Arc::clone(&source));
            tokio::spawn(async move { kept.other_than(&first, || source.read()).await })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(
            *kept.get(true, || source.read()).await.unwrap(),
            1,
            "a caller does not wait"
        );
        assert_eq!(*kept.renew(|| source.read()).await.unwrap(), 2);
        early.await.unwrap().unwrap();
        assert_eq!(source.reads(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_shared_and_forgotten_soon() {
        let (kept, source) = (kept(), Source::new());
        source.set_down(true);
        let (first, second) = tokio::join!(
            kept.get(false, || source.read()),
            kept.get(false, || source.read())
        );
        let wait = first.unwrap_err().retry_after().unwrap();
        assert!(wait <= FIRST_RETRY);
        second.unwrap_err();
        assert_eq!(source.reads(), 1);
        source.set_down(false);
        tokio::time::advance(wait).await;
        assert_eq!(*kept.get(false, || source.read()).await.unwrap(), 2);
        assert_eq!(kept.last_error(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_copy_outlives_an_outage_but_not_its_trust() {
        let (kept, source) = (kept(), Source::new());
        kept.get(false, || source.read()).await.unwrap();
        source.set_down(true);
        tokio::time::advance(MAX_LIFE).await;
        assert_eq!(*kept.get(true, || source.read()).await.unwrap(), 1);
        assert_eq!(source.reads(), 2, "due, so it was tried");
        assert_eq!(*kept.get(true, || source.read()).await.unwrap(), 1);
        assert_eq!(source.reads(), 2, "but not again at once");
        assert_eq!(kept.last_error().as_deref(), Some("down"));
        tokio::time::advance(Duration::from_secs(2 * 86_400)).await;
        kept.get(false, || source.read()).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn renewal_is_due_ahead_of_the_end_and_backs_off() {
        let (kept, source) = (kept(), Source::new());
        assert_eq!(kept.due(), None, "nothing is read before it is needed");
        kept.get(false, || source.read()).await.unwrap();
        let due = kept.due().unwrap();
        let wait = due - Instant::now();
        assert!(
            wait >= MAX_LIFE.mul_f64(0.89) && wait <= MAX_LIFE,
            "{wait:?}"
        );
        tokio::time::advance(wait).await;
        source.set_down(true);
        kept.renew(|| source.read()).await.unwrap();
        assert!(kept.due().unwrap() > Instant::now());
        source.set_down(false);
        tokio::time::advance(MAX_RETRY).await;
        assert_eq!(*kept.renew(|| source.read()).await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn early_reads_happen_once_a_minute() {
        let (kept, source) = (kept(), Source::new());
        let first = kept.get(false, || source.read()).await.unwrap();
        let second = kept.other_than(&first, || source.read()).await.unwrap();
        assert_eq!(*second, 2);
        assert_eq!(
            *kept.other_than(&first, || source.read()).await.unwrap(),
            2,
            "somebody else has read it"
        );
        assert_eq!(
            *kept.other_than(&second, || source.read()).await.unwrap(),
            2,
            "not twice in a minute"
        );
        tokio::time::advance(EARLY_EVERY).await;
        source.set_down(true);
        kept.other_than(&second, || source.read())
            .await
            .unwrap_err();
        source.set_down(false);
        kept.other_than(&second, || source.read())
            .await
            .expect_err("not known is not the same as not there");
        assert_eq!(source.reads(), 3);
        assert_eq!(
            *kept.get(false, || source.read()).await.unwrap(),
            2,
            "others are not disturbed"
        );
    }
}
