//! The one watch of this process: what changes in the store is told to the hub, in the order of the revisions.
//!
//! Where the watch breaks, everybody is told of a gap, and it goes on from where it was, with another member if need be. If etcd has
//! compacted that away, it goes on from now, and tells of another gap once it does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::Shared;
use super::layout::Head;
use super::proto::{
    Event, EventType, WATCH, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchRequestUnion, WatchResponse,
};
use crate::engine::RawChange;

/// How often the member is asked to say something, and after what silence it is given up.
const ASK: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// How far the watch has come.
pub(crate) struct Progress {
    state: watch::Sender<At>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    connected: bool,
    /// All changes up to this revision were told.
    revision: i64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(At {
                connected: false,
                revision: 0,
            }),
        }
    }

    /// Says from behind which revision on there is something to tell, before it is followed.
    pub(crate) fn start_behind(&self, revision: i64) {
        self.update(|at| at.revision = revision);
    }

    /// Waits until the changes of this revision were told; false if the watch is broken or that takes longer.
    pub(crate) async fn reaches(&self, revision: i64, wait: Duration) -> bool {
        let mut state = self.state.subscribe();
        let reached = state.wait_for(|at| !at.connected || at.revision >= revision);
        timeout(wait, reached)
            .await
            .is_ok_and(|at| at.is_ok_and(|at| at.revision >= revision))
    }

    /// Waits until the watch has begun.
    pub(crate) async fn begins(&self, wait: Duration) -> bool {
        let mut state = self.state.subscribe();
        let begun = state.wait_for(|at| at.connected);
        timeout(wait, begun).await.is_ok_and(|at| at.is_ok())
    }

    fn update(&self, change: impl FnOnce(&mut At)) {
        self.state.send_modify(change);
    }
}

/// Follows the store until the task is ended.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut next = shared.progress.state.borrow().revision + 1;
    loop {
        match once(&shared, next).await {
            End::Compacted => next = 0,
            End::Broken(cause) => {
                tracing::debug!(place = shared.place, cause, "the watch is broken");
                if next != 0 || shared.progress.state.borrow().connected {
                    next = shared.progress.state.borrow().revision + 1;
                }
            }
        }
        // Once for each break: what happens until the watch goes on is told then, or there is another gap.
        if shared.progress.state.borrow().connected {
            shared.progress.update(|at| at.connected = false);
            shared.hub.gap();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum End {
    Compacted,
    Broken(String),
}

/// One stream, from the revision `next` on; from now on if that is 0.
async fn once(shared: &Shared, next: i64) -> End {
    let (asking, asked) = mpsc::channel(2);
    let (key, range_end) = shared.layout.watched();
    let create = WatchRequestUnion::Create(WatchCreateRequest {
        key,
        range_end,
        start_revision: next,
        prev_kv: true,
        fragment: true,
    });
    let request = |request| WatchRequest {
        request: Some(request),
    };
    if asking.try_send(request(create)).is_err() {
        return End::Broken("the requests are full".to_owned());
    }
    let requests = stream::unfold(asked, |mut asked| async move {
        asked.recv().await.map(|request| (request, asked))
    });
    let (connection, mut answers) = match shared.rpc.stream(WATCH, requests).await {
        Ok(opened) => opened,
        Err(trouble) => return End::Broken(format!("{trouble:?}")),
    };
    let mut heard = Instant::now();
    let end = loop {
        match timeout(ASK, answers.message()).await {
            Ok(Ok(Some(answer))) => {
                heard = Instant::now();
                if let Some(end) = take(shared, answer, next) {
                    break end;
                }
            }
            Ok(Ok(None)) => break End::Broken("the stream was ended".to_owned()),
            Ok(Err(status)) => break End::Broken(status.to_string()),
            Err(_) if heard.elapsed() > SILENCE => {
                break End::Broken("the member fell silent".to_owned());
            }
            Err(_) => {
                let progress = WatchRequestUnion::Progress(WatchProgressRequest {});
                // If it is full, the member has not read the one before.
                let _ = asking.try_send(request(progress));
            }
        }
    };
    if matches!(end, End::Broken(_)) {
        shared.rpc.abandon(connection);
    }
    end
}

fn take(shared: &Shared, answer: WatchResponse, next: i64) -> Option<End> {
    if answer.compact_revision != 0 {
        return Some(End::Compacted);
    }
    if answer.canceled {
        return Some(End::Broken(answer.cancel_reason));
    }
    let revision = super::revision_of(answer.header.as_ref());
    if answer.created {
        shared.progress.update(|at| {
            at.connected = true;
            // From now on is from behind this revision on.
            if next == 0 {
                at.revision = at.revision.max(revision);
            }
        });
        if next == 0 {
            shared.hub.gap();
        }
    }
    let mut told = 0;
    for event in answer.events {
        told = event.kv.as_ref().map_or(told, |kv| kv.mod_revision);
        tell(shared, event);
    }
    // The rest of a revision that comes in parts is still to come.
    let told = if answer.fragment { told - 1 } else { told };
    shared.saw(told);
    shared
        .progress
        .update(|at| at.revision = at.revision.max(told));
    None
}

fn tell(shared: &Shared, event: Event) {
    let Some(now) = event.kv else { return };
    let deleted = event.kind == i32::from(EventType::Delete);
    if let Some(name) = shared.layout.lease_name(&now.key) {
        shared.leases.changed(name, (!deleted).then_some(&now));
        return;
    }
    let Some(key) = shared.layout.entry_key(&now.key) else {
        return;
    };
    if !shared.hub.wants(key) {
        return;
    }
    let holder = if deleted {
        event.prev_kv.as_ref()
    } else {
        Some(&now)
    };
    let Some((head, bytes)) = holder.and_then(|found| Head::split(&found.value)) else {
        // What was deleted has been compacted away, or is not ours: a change of something.
        shared.hub.gap();
        return;
    };
    // Sealed anew: the meaning is the same.
    if !deleted && head.version.is_some() {
        return;
    }
    shared.hub.publish(&RawChange {
        key: key.to_vec(),
        version: shared.version(now.mod_revision),
        deleted,
        value: bytes.into(),
    });
}
