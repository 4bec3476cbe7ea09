//! A watch as the watcher has it: the raw changes of the engine, with their names.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};

use crate::engine::RawWatch;
use crate::store::Inner;
use crate::watch::{Change, WatchEvent};
use crate::{Kind, Store, Version, sealing};

/// Changes, as a stream. Ends when the store is closed.
pub struct Watch {
    raw: RawWatch,
    inner: Arc<Inner>,
}

impl Watch {
    /// The next event; `None` once the store is closed.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        StreamExt::next(self).await
    }
}

impl Stream for Watch {
    type Item = WatchEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        let this = self.get_mut();
        let raw = std::task::ready!(Pin::new(&mut this.raw).poll_next(context));
        Poll::Ready(raw.map(|change| {
            let Some(change) = change else {
                return WatchEvent::Gap;
            };
            let keyring = this.inner.keyring();
            // A change whose name can not be read is still a change of something.
            let opened = sealing::generation(&change.value)
                .ok()
                .and_then(|generation| keyring.key(generation))
                .and_then(|key| sealing::open(key, &change.key, &change.value).ok());
            match opened {
                Some((name, _)) => WatchEvent::Change(Change {
                    name,
                    version: Version(change.version),
                    deleted: change.deleted,
                }),
                None => WatchEvent::Gap,
            }
        }))
    }
}

impl Store {
    /// Changes, from now on, of names of this kind that begin with these components.
    #[must_use]
    pub fn watch(&self, kind: Kind, prefix: &[&[u8]]) -> Watch {
        let raw = self
            .inner
            .engine
            .watch(self.inner.hasher.prefix(kind, prefix));
        Watch {
            raw,
            inner: self.inner.clone(),
        }
    }
}
