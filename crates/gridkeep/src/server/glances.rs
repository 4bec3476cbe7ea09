//! Looking at something on request of anybody, but not more often than once in a while: those who ask at the same time share what is
//! seen.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Least time from the beginning of one glance to that of the next.
const BETWEEN_GLANCES: Duration = Duration::from_secs(1);

/// The glances taken at one thing.
#[derive(Default)]
pub(super) struct Glances(Mutex<Option<Last>>);

struct Last {
    began: Instant,
    /// `None` while it lasts, and when it was broken off.
    outcome: Option<Result<(), String>>,
}

impl Glances {
    /// The outcome of a glance that began after this was called: `look` is called for it, unless somebody else's is. If `now`, that
    /// of an older one where it is too early for the next.
    pub(super) async fn share<F>(&self, now: bool, look: impl FnOnce() -> F) -> Result<(), String>
    where
        F: Future<Output = Result<(), String>>,
    {
        let asked = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(last) = &*last {
            let next = last.began + BETWEEN_GLANCES;
            match &last.outcome {
                Some(outcome) if last.began >= asked || (now && Instant::now() < next) => {
                    return outcome.clone();
                }
                _ => tokio::time::sleep_until(next).await,
            }
        }
        *last = Some(Last {
            began: Instant::now(),
            outcome: None,
        });
        let outcome = look().await;
        if let Some(last) = &mut *last {
            last.outcome = Some(outcome.clone());
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn any_number_of_askers_have_one_glance_a_second() {
        const TENTH: Duration = Duration::from_millis(100);
        let (glances, taken) = (Arc::new(Glances::default()), Arc::new(AtomicUsize::new(0)));
        let ask = |times: usize, now: bool| {
            let mut all = JoinSet::new();
            for _ in 0..times {
                let (glances, taken) = (glances.clone(), taken.clone());
                let look = async move || {
                    // As long as a store that does not answer at once.
                    tokio::time::sleep(TENTH).await;
                    Err(taken.fetch_add(1, Ordering::SeqCst).to_string())
                };
                all.spawn(async move { glances.share(now, look).await.unwrap_err() });
            }
            all.join_all()
        };
        let begun = Instant::now();
        assert_eq!(ask(1, false).await, ["0"]);
        // Who asks now wants to know how it is now: all of them wait for the next one.
        assert_eq!(ask(50, false).await, vec!["1"; 50]);
        assert_eq!(begun.elapsed(), BETWEEN_GLANCES + TENTH);
        assert_eq!(ask(50, true).await, vec!["1"; 50], "as it was seen last");
        assert_eq!(begun.elapsed(), BETWEEN_GLANCES + TENTH, "at once");
        tokio::time::sleep(BETWEEN_GLANCES).await;
        assert_eq!(ask(1, true).await, ["2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_glance_that_was_broken_off_is_nobodys_answer() {
        let glances = Glances::default();
        let never = glances.share(false, std::future::pending);
        let broken_off = tokio::time::timeout(Duration::from_millis(10), never).await;
        assert!(broken_off.is_err());
        assert_eq!(glances.share(true, async || Ok(())).await, Ok(()));
    }
}
