//! Sending things elsewhere without ever making the program wait: a bounded queue, batches, retries with back-off.
//!
//! Guarantees that [`Queue::offer`] returns at once, that no more than [`MOST_BYTES`] and [`MOST_ITEMS`] wait, and that what is lost
//! is counted in `gridkeep_telemetry_dropped_total`. Gives up on a batch that the receiver refuses, or that it did not take after
//! [`ATTEMPTS`] attempts, and goes on with the next.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metrics::counter;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

/// Bytes that wait at most.
pub(crate) const MOST_BYTES: usize = 4 << 20;
/// Things that wait at most.
pub(crate) const MOST_ITEMS: usize = 16_384;
/// Bytes of a batch, which one more thing may exceed.
const BATCH_BYTES: usize = 256 << 10;
/// Things in a batch.
const BATCH_ITEMS: usize = 1_000;
/// How long the first thing of a batch waits for company.
const GATHER: Duration = Duration::from_secs(1);
/// Attempts to send one batch: with the pauses between them, about four minutes.
const ATTEMPTS: u32 = 12;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a batch was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Untaken {
    /// Worth another attempt, after this long at the earliest.
    Later(String, Option<Duration>),
    /// The same batch will never be taken.
    Never(String),
}

/// Whoever takes batches.
pub(crate) trait Receiver<T>: Send + Sync + 'static {
    /// Sends a batch.
    fn send(&self, batch: &[T]) -> impl Future<Output = Result<(), Untaken>> + Send;
}

/// The end at which things are put in.
pub(crate) struct Queue<T> {
    sink: &'static str,
    sender: mpsc::Sender<(T, usize)>,
    held: Arc<AtomicUsize>,
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("sink", &self.sink).finish()
    }
}

impl<T> Queue<T> {
    /// Takes `item`, which holds about `bytes`, along, or drops it if too much waits already.
    pub(crate) fn offer(&self, item: T, bytes: usize) {
        if self.held.fetch_add(bytes, Ordering::Relaxed) + bytes > MOST_BYTES
            || self.sender.try_send((item, bytes)).is_err()
        {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            dropped(self.sink, "queue_full", 1);
        }
    }
}

/// The task that sends.
pub(crate) struct Shipping {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Shipping {
    /// Sends what waits, until `ends` at the latest.
    pub(crate) async fn finish(mut self, ends: Instant) {
        self.stop.send_replace(true);
        if timeout_at(ends, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Starts a task that takes what is put into the queue to `receiver`.
pub(crate) fn start<T: Send + Sync + 'static>(
    sink: &'static str,
    receiver: impl Receiver<T>,
) -> (Queue<T>, Shipping) {
    counter!("gridkeep_telemetry_sent_total", "sink" => sink).increment(0);
    counter!("gridkeep_telemetry_failures_total", "sink" => sink).increment(0);
    for reason in ["queue_full", "refused", "undelivered"] {
        dropped(sink, reason, 0);
    }
    let (sender, queue) = mpsc::channel(MOST_ITEMS);
    let held = Arc::new(AtomicUsize::new(0));
    let (stop, stopping) = watch::channel(false);
    let work = Work {
        sink,
        receiver,
        queue,
        held: held.clone(),
        stopping,
        failing: false,
    };
    let task = tokio::spawn(work.run());
    (Queue { sink, sender, held }, Shipping { stop, task })
}

struct Work<T, R> {
    sink: &'static str,
    receiver: R,
    queue: mpsc::Receiver<(T, usize)>,
    held: Arc<AtomicUsize>,
    stopping: watch::Receiver<bool>,
    /// Whether the last attempt failed, which is said once.
    failing: bool,
}

impl<T: Send + Sync + 'static, R: Receiver<T>> Work<T, R> {
    async fn run(mut self) {
        while let Some((batch, bytes)) = self.gather().await {
            let count = batch.len() as u64;
            match self.deliver(&batch).await {
                Ok(()) => {
                    counter!("gridkeep_telemetry_sent_total", "sink" => self.sink).increment(count)
                }
                Err(reason) => dropped(self.sink, reason, count),
            }
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// The next batch; `None` when there will be no more.
    async fn gather(&mut self) -> Option<(Vec<T>, usize)> {
        let (first, mut bytes) = tokio::select! {
            biased;
            first = self.queue.recv() => first?,
            _ = self.stopping.wait_for(|stop| *stop) => self.queue.try_recv().ok()?,
        };
        let mut batch = vec![first];
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH_ITEMS && bytes < BATCH_BYTES {
            let next = tokio::select! {
                biased;
                next = self.queue.recv() => next,
                _ = self.stopping.wait_for(|stop| *stop) => self.queue.try_recv().ok(),
                () = tokio::time::sleep_until(until) => None,
            };
            let Some((item, size)) = next else { break };
            batch.push(item);
            bytes += size;
        }
        Some((batch, bytes))
    }

    async fn deliver(&mut self, batch: &[T]) -> Result<(), &'static str> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            match self.receiver.send(batch).await {
                Ok(()) => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!(sink = self.sink, "telemetry is taken again");
                    }
                    return Ok(());
                }
                Err(Untaken::Never(why)) => {
                    self.complain(&why);
                    return Err("refused");
                }
                Err(Untaken::Later(why, after)) => {
                    self.complain(&why);
                    if attempt == ATTEMPTS || *self.stopping.borrow() {
                        break;
                    }
                    let wait = after.map_or(pause, |after| after.max(pause).min(LONGEST_PAUSE));
                    tokio::select! {
                        () = sleep(wait) => {}
                        // One more attempt at the end, without a pause.
                        _ = self.stopping.wait_for(|stop| *stop) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Err("undelivered")
    }

    fn complain(&mut self, why: &str) {
        counter!("gridkeep_telemetry_failures_total", "sink" => self.sink).increment(1);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                sink = self.sink,
                "telemetry is not taken: {why}; it is tried again, what waits too long is dropped and counted, and nothing else is affected"
            );
        }
    }
}

fn dropped(sink: &'static str, reason: &'static str, count: u64) {
    counter!("gridkeep_telemetry_dropped_total", "sink" => sink, "reason" => reason)
        .increment(count);
}

pub(crate) fn describe() {
    metrics::describe_counter!(
        "gridkeep_telemetry_sent_total",
        "Log lines or spans that were taken by the place they are sent to"
    );
    metrics::describe_counter!(
        "gridkeep_telemetry_dropped_total",
        "Log lines or spans that were not sent, by reason"
    );
    metrics::describe_counter!(
        "gridkeep_telemetry_failures_total",
        "Attempts to send log lines or spans that failed"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Fake {
        answers: Arc<Mutex<Vec<Result<(), Untaken>>>>,
        seen: Arc<Mutex<Vec<Vec<u32>>>>,
    }

    impl Receiver<u32> for Fake {
        async fn send(&self, batch: &[u32]) -> Result<(), Untaken> {
            self.seen.lock().unwrap().push(batch.to_vec());
            self.answers.lock().unwrap().pop().unwrap_or(Ok(()))
        }
    }

    fn later() -> Result<(), Untaken> {
        Err(Untaken::Later("down".into(), None))
    }

    #[tokio::test(start_paused = true)]
    async fn gathers_retries_and_skips_what_is_refused() {
        let fake = Fake::default();
        *fake.answers.lock().unwrap() = vec![
            Ok(()),
            Err(Untaken::Never("bad".into())),
            Ok(()),
            later(),
            later(),
        ];
        let (queue, shipping) = start("test", fake.clone());
        queue.offer(1, 10);
        queue.offer(2, 10);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(*fake.seen.lock().unwrap(), [[1, 2], [1, 2], [1, 2]]);
        queue.offer(3, 10);
        sleep(Duration::from_secs(10)).await;
        queue.offer(4, 10);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(
            fake.seen.lock().unwrap()[3..],
            [[3], [4]],
            "a refused batch is not sent again"
        );
        assert_eq!(queue.held.load(Ordering::Relaxed), 0);
        shipping
            .finish(Instant::now() + Duration::from_secs(1))
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_is_away_costs_no_more_than_the_bounds() {
        let fake = Fake::default();
        *fake.answers.lock().unwrap() = vec![later(); 1000];
        let (queue, shipping) = start("test", fake.clone());
        for at in 0..2 * MOST_ITEMS as u32 {
            queue.offer(at, 1);
        }
        assert_eq!(queue.held.load(Ordering::Relaxed), MOST_ITEMS);
        for _ in 0..10 {
            queue.offer(7, MOST_BYTES);
        }
        assert_eq!(queue.held.load(Ordering::Relaxed), MOST_ITEMS);
        // All attempts at the first batch are over, and the next one's have begun.
        sleep(Duration::from_secs(400)).await;
        let seen = fake.seen.lock().unwrap().clone();
        assert_eq!(seen[0][0], 0);
        assert_eq!(seen[ATTEMPTS as usize - 1][0], 0);
        assert_eq!(seen[ATTEMPTS as usize][0], BATCH_ITEMS as u32);
        let before = Instant::now();
        shipping.finish(before + Duration::from_secs(3)).await;
        assert!(before.elapsed() <= Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_sends_what_waits() {
        let fake = Fake::default();
        let (queue, shipping) = start("test", fake.clone());
        for at in 0..2_500 {
            queue.offer(at, 1);
        }
        shipping
            .finish(Instant::now() + Duration::from_secs(1))
            .await;
        let seen = fake.seen.lock().unwrap();
        assert_eq!(seen.iter().map(Vec::len).sum::<usize>(), 2_500);
        assert!(seen.len() >= 3);
    }
}
