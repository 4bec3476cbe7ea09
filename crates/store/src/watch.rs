//! Watching: bounded queues between a committer and those who want to know.
//!
//! A queue that overflows is emptied and says so: a [`WatchEvent::Gap`] means that any number of changes was missed and what
//! was derived from earlier ones must be read again. Nobody ever waits for a slow watcher.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;

use crate::{Name, Version};

/// Changes a queue holds before it overflows.
pub const QUEUE_CHANGES: usize = 1024;
/// Bytes a queue holds before it overflows.
pub const QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// A write that was seen by a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name written.
    pub name: Name,
    /// Version of the commit that wrote or deleted it.
    pub version: Version,
    /// True if it was deleted.
    pub deleted: bool,
}

/// What a watch says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A write.
    Change(Change),
    /// Changes were missed: drop what was derived and read again.
    Gap,
}

/// A write as the engine reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawChange {
    /// The key written.
    pub key: Vec<u8>,
    /// Number of the commit.
    pub version: u64,
    /// True if it was deleted.
    pub deleted: bool,
    /// The bytes written; the last bytes there were if it was deleted.
    pub value: Arc<[u8]>,
}

#[derive(Default)]
struct Queue {
    changes: VecDeque<RawChange>,
    bytes: usize,
    gap: bool,
    closed: bool,
    waker: Option<Waker>,
}

struct Watcher {
    prefix: Vec<u8>,
    /// Commits up to this one were before the watch began.
    after: u64,
    queue: Mutex<Queue>,
}

impl Watcher {
    fn update(&self, change: impl FnOnce(&mut Queue)) {
        let waker = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut queue);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Changes of raw keys; `None` in place of a change is a gap.
pub struct RawWatch {
    watcher: Arc<Watcher>,
}

impl Stream for RawWatch {
    type Item = Option<RawChange>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self
            .watcher
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut queue.gap) {
            return Poll::Ready(Some(None));
        }
        if let Some(change) = queue.changes.pop_front() {
            queue.bytes -= change.value.len();
            return Poll::Ready(Some(Some(change)));
        }
        if queue.closed {
            return Poll::Ready(None);
        }
        queue.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// The watchers of an engine.
#[derive(Default)]
pub struct Hub {
    watchers: Mutex<(bool, Vec<Weak<Watcher>>)>,
}

impl Hub {
    /// A new watcher of this prefix.
    pub fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        self.watch_after(prefix, 0)
    }

    /// A new watcher of this prefix that is not told of commits up to number `after`, which may be published late.
    pub fn watch_after(&self, prefix: Vec<u8>, after: u64) -> RawWatch {
        let watcher = Arc::new(Watcher {
            prefix,
            after,
            queue: Mutex::default(),
        });
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.1.retain(|watcher| watcher.strong_count() > 0);
        if watchers.0 {
            watcher.update(|queue| queue.closed = true);
        } else {
            watchers.1.push(Arc::downgrade(&watcher));
        }
        RawWatch { watcher }
    }

    /// True if somebody watches this key.
    pub fn wants(&self, key: &[u8]) -> bool {
        self.each(|watcher| key.starts_with(&watcher.prefix))
            .any(|wants| wants)
    }

    /// Queues a change with everybody who watches its key.
    pub fn publish(&self, change: &RawChange) {
        self.each(|watcher| {
            if change.key.starts_with(&watcher.prefix) && change.version > watcher.after {
                watcher.update(|queue| {
                    if queue.changes.len() >= QUEUE_CHANGES
                        || queue.bytes + change.value.len() > QUEUE_BYTES
                    {
                        queue.changes.clear();
                        queue.bytes = 0;
                        queue.gap = true;
                    }
                    queue.bytes += change.value.len();
                    queue.changes.push_back(change.clone());
                });
            }
        })
        .for_each(drop);
    }

    /// Tells everybody that changes were missed.
    pub fn gap(&self) {
        self.each(|watcher| {
            watcher.update(|queue| {
                queue.changes.clear();
                queue.bytes = 0;
                queue.gap = true;
            });
        })
        .for_each(drop);
    }

    /// Ends every watch once it has been read to its end.
    pub fn close(&self) {
        self.each(|watcher| watcher.update(|queue| queue.closed = true))
            .for_each(drop);
        self.watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0 = true;
    }

    fn each<T>(&self, f: impl Fn(&Watcher) -> T) -> impl Iterator<Item = T> {
        let watchers: Vec<_> = self
            .watchers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        watchers.into_iter().map(move |watcher| f(&watcher))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn change(key: &[u8], bytes: usize) -> RawChange {
        RawChange {
            key: key.to_vec(),
            version: 1,
            deleted: false,
            value: vec![0; bytes].into(),
        }
    }

    #[test]
    fn a_slow_watcher_gets_a_gap_then_what_came_after() {
        let hub = Hub::default();
        let mut slow = hub.watch(b"a".to_vec());
        for _ in 0..=QUEUE_CHANGES {
            hub.publish(&change(b"ab", 1));
        }
        assert_eq!(slow.next().now_or_never(), Some(Some(None)));
        assert_eq!(
            slow.next().now_or_never(),
            Some(Some(Some(change(b"ab", 1))))
        );
        assert_eq!(slow.next().now_or_never(), None);
        // By bytes too.
        for _ in 0..5 {
            hub.publish(&change(b"ab", QUEUE_BYTES / 4));
        }
        assert_eq!(slow.next().now_or_never(), Some(Some(None)));
    }

    #[test]
    fn what_was_before_the_watch_is_not_told_late() {
        let hub = Hub::default();
        let (mut late, mut all) = (hub.watch_after(b"a".to_vec(), 1), hub.watch(b"a".to_vec()));
        hub.publish(&change(b"a", 1));
        assert_eq!(late.next().now_or_never(), None);
        assert_eq!(all.next().now_or_never(), Some(Some(Some(change(b"a", 1)))));
        let next = RawChange {
            version: 2,
            ..change(b"a", 1)
        };
        hub.publish(&next);
        assert_eq!(late.next().now_or_never(), Some(Some(Some(next))));
    }

    #[test]
    fn only_the_prefix_is_seen_and_closing_ends_it() {
        let hub = Hub::default();
        let mut watch = hub.watch(b"a".to_vec());
        assert!(hub.wants(b"ab") && !hub.wants(b"b"));
        hub.publish(&change(b"b", 1));
        hub.publish(&change(b"a", 1));
        hub.close();
        assert_eq!(
            watch.next().now_or_never(),
            Some(Some(Some(change(b"a", 1))))
        );
        assert_eq!(watch.next().now_or_never(), Some(None));
        assert_eq!(hub.watch(Vec::new()).next().now_or_never(), Some(None));
        drop(watch);
        assert!(!hub.wants(b"ab"));
    }
}
