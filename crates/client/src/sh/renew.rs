//! Keeps one bearer token fresh for as long as it is polled: waits, fetches, and after a failure tries again.
//!
//! Knows neither how a token is fetched nor what runs meanwhile; the wall clock and the fetching are given to it.

use super::schedule::{Life, pause_after};
use gridkeep_token::time::UnixSeconds;
use std::convert::Infallible;
use std::future::Future;
use std::io::Write;
use std::time::Duration;

/// The longest sleep before the wall clock is looked at again: a suspended machine does not count the time it slept.
const RECHECK: Duration = Duration::from_secs(15);

/// Gets a new token and puts it where the command reads it.
pub trait Fetch {
    /// Gets a token with at least `minimum` seconds of life, writing what was done to `log`. The error is a sentence for the log.
    fn fetch(
        &mut self,
        minimum: u64,
        log: &mut dyn Write,
    ) -> impl Future<Output = Result<Life, String>>;
}

/// A token being kept fresh.
pub struct Renewer<'a, F> {
    /// The wall clock.
    pub now: &'a dyn Fn() -> UnixSeconds,
    /// How to get the next token.
    pub fetch: F,
    /// Where to tell what happens.
    pub log: &'a mut dyn Write,
    /// Where to tell the user, at most once per trouble.
    pub warn: &'a mut dyn FnMut(&str),
    /// The life a token must have left, in seconds, as the user asked.
    pub minsecs: u64,
    /// The token of now.
    pub life: Life,
    /// Failed attempts since the last success.
    pub failures: u32,
    /// Whether the user was told that the issuer's tokens are too short.
    pub told_short: bool,
}

impl<F: Fetch> Renewer<'_, F> {
    /// Renews for ever; stops when dropped.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let now = (self.now)();
            let (minimum, shortened) = match self.life.renewal(self.minsecs, now) {
                Some(renewal) => {
                    if renewal.shortened && !self.told_short {
                        self.told_short = true;
                        (self.warn)(&format!(
                            "the issuer's tokens live too short for --minsecs={}; renewing at half of their life ({} seconds)",
                            self.minsecs, renewal.minimum
                        ));
                    }
                    self.note(&format!("Renewal scheduled in {} seconds", renewal.wait));
                    let due = UnixSeconds(now.0.saturating_add_unsigned(renewal.wait));
                    self.sleep_until(due).await;
                    (renewal.minimum, renewal.shortened)
                }
                None => (self.minsecs, false),
            };
            self.renew(minimum, shortened).await;
        }
    }

    /// Whether the token has run out and the last attempt to renew it failed.
    pub fn failed_for_good(&self) -> bool {
        self.failures > 0 && self.life.is_over((self.now)())
    }

    /// Tries until it succeeds.
    async fn renew(&mut self, minimum: u64, shortened: bool) {
        self.failures = 0;
        loop {
            self.note("Renewing the bearer token");
            let fetched = self.fetch.fetch(minimum, self.log).await;
            let now = (self.now)();
            let reason = match fetched {
                Ok(life) if life.is_over(now) => "the new token has expired already".to_owned(),
                Ok(life)
                    if life.expires <= self.life.expires
                        && life
                            .renewal(self.minsecs, now)
                            .is_none_or(|next| next.wait < 5) =>
                {
                    "the server gave the old token again".to_owned()
                }
                Ok(life) => {
                    self.life = life;
                    self.failures = 0;
                    self.note(&format!(
                        "Renewed; the new token lives until {}",
                        life.expires
                    ));
                    return;
                }
                Err(reason) => reason,
            };
            self.failures = self.failures.saturating_add(1);
            let pause = pause_after(self.failures, self.life.is_over(now));
            self.note(&format!(
                "Renewal failed: {reason}; trying again in {} seconds",
                pause.as_secs()
            ));
            let needed =
                i64::try_from(if shortened { minimum } else { self.minsecs }).unwrap_or(i64::MAX);
            if self.failures == 1 && self.life.remaining(now) < needed {
                let left = self.life.remaining(now).max(0);
                (self.warn)(&format!(
                    "the bearer token could not be renewed and expires in {left} seconds: {reason}; still trying"
                ));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn sleep_until(&self, due: UnixSeconds) {
        loop {
            let left = due.0.saturating_sub((self.now)().0);
            if left <= 0 {
                return;
            }
            tokio::time::sleep(RECHECK.min(Duration::from_secs(left.unsigned_abs()))).await;
        }
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(self.log, "{} {text}", (self.now)());
        let _ = self.log.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;
    use tokio::time::{Instant, timeout};

    /// One call seen by the server: when (seconds since start) and the asked minimum.
    type Calls = Rc<RefCell<Vec<(i64, u64)>>>;

    /// A server whose tokens live `life` seconds, that is down during `down`, and that caches its token.
    struct Server {
        start: Instant,
        life: i64,
        down: std::ops::Range<i64>,
        current: i64,
        calls: Calls,
    }

    impl Fetch for Server {
        async fn fetch(&mut self, minimum: u64, log: &mut dyn Write) -> Result<Life, String> {
            let now = i64::try_from(self.start.elapsed().as_secs()).unwrap();
            self.calls.borrow_mut().push((now, minimum));
            writeln!(log, "asked").unwrap();
            if self.down.contains(&now) {
                return Err("503 Service Unavailable".into());
            }
            if self.current - now < i64::try_from(minimum).unwrap() {
                self.current = now + self.life;
            }
            Ok(Life {
                issued: Some(UnixSeconds(self.current - self.life)),
                expires: UnixSeconds(self.current),
            })
        }
    }

    struct Outcome {
        calls: Vec<(i64, u64)>,
        warnings: Vec<String>,
        log: String,
        failed_for_good: bool,
    }

    async fn run(life: i64, minsecs: u64, down: std::ops::Range<i64>, seconds: u64) -> Outcome {
        let start = Instant::now();
        let now = move || UnixSeconds(i64::try_from(start.elapsed().as_secs()).unwrap());
        let calls = Calls::default();
        let mut log = Vec::new();
        let mut warnings = Vec::new();
        let mut warn = |text: &str| warnings.push(text.to_owned());
        let mut renewer = Renewer {
            now: &now,
            fetch: Server {
                start,
                life,
                down,
                current: life,
                calls: calls.clone(),
            },
            log: &mut log,
            warn: &mut warn,
            minsecs,
            life: Life {
                issued: Some(UnixSeconds(0)),
                expires: UnixSeconds(life),
            },
            failures: 0,
            told_short: false,
        };
        assert!(
            timeout(Duration::from_secs(seconds), renewer.run())
                .await
                .is_err()
        );
        let failed_for_good = renewer.failed_for_good();
        let calls = calls.take();
        Outcome {
            calls,
            warnings,
            log: String::from_utf8(log).unwrap(),
            failed_for_good,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_of_two_minutes_are_renewed_every_minute_without_a_gap() {
        let outcome = run(120, 60, 0..0, 400).await;
        assert_eq!(
            outcome.calls,
            [
                (62, 60),
                (124, 60),
                (186, 60),
                (248, 60),
                (310, 60),
                (372, 60)
            ]
        );
        assert_eq!(outcome.warnings, [] as [&str; 0]);
        assert!(!outcome.failed_for_good);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_for_90_seconds_is_asked_again_with_growing_pauses() {
        let outcome = run(120, 60, 60..150, 400).await;
        let times: Vec<i64> = outcome.calls.iter().map(|call| call.0).collect();
        // 62 fails; 5, 10, 20 and 40 s later; the token expired at 120, so the last pauses are a minute.
        assert_eq!(times, [62, 67, 77, 97, 137, 197, 259, 321, 383]);
        assert_eq!(outcome.warnings.len(), 1, "{:?}", outcome.warnings);
        assert!(outcome.warnings[0].contains("expires in 58 seconds: 503"));
        assert!(!outcome.failed_for_good);
        assert!(
            outcome
                .log
                .contains("Renewal failed: 503 Service Unavailable; trying again in 40 seconds")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failure_is_for_good_only_once_the_token_is_dead() {
        assert!(!run(120, 60, 0..1000, 110).await.failed_for_good);
        assert!(run(120, 60, 0..1000, 130).await.failed_for_good);
    }

    #[tokio::test(start_paused = true)]
    async fn short_tokens_are_renewed_at_half_life_with_one_warning() {
        let outcome = run(60, 60, 0..0, 200).await;
        assert_eq!(
            outcome.calls,
            [
                (32, 30),
                (64, 30),
                (96, 30),
                (128, 30),
                (160, 30),
                (192, 30)
            ]
        );
        assert_eq!(outcome.warnings.len(), 1);
        assert!(outcome.warnings[0].contains("half of their life"));
    }

    /// A clock that jumps, as after a suspended night.
    #[tokio::test(start_paused = true)]
    async fn a_suspended_machine_renews_soon_after_it_wakes() {
        let start = Instant::now();
        let now = move || {
            let awake = i64::try_from(start.elapsed().as_secs()).unwrap();
            UnixSeconds(if awake < 100 { awake } else { awake + 50_000 })
        };
        let calls = Calls::default();
        let (mut log, mut warn) = (Vec::new(), |_: &str| {});
        let fetch = Server {
            start,
            life: 90_000,
            down: 0..0,
            current: 0,
            calls: calls.clone(),
        };
        let life = Life {
            issued: Some(UnixSeconds(0)),
            expires: UnixSeconds(3600),
        };
        let mut renewer = Renewer {
            now: &now,
            fetch,
            log: &mut log,
            warn: &mut warn,
            minsecs: 60,
            life,
            failures: 0,
            told_short: false,
        };
        assert!(
            timeout(Duration::from_secs(300), renewer.run())
                .await
                .is_err()
        );
        assert_eq!(calls.take(), [(105, 60)]);
    }
}
