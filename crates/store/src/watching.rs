//! A watch as the watcher has it: the raw changes of the engine, with their names.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};

use crate::engine::RawWatch;
use crate::name::{all_records, kind_of};
use crate::store::Inner;
use crate::watch::{Change, WatchEvent};
use crate::{Kind, Name, Record, Store, Version, sealing};

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

/// A write as a watch over several kinds shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The name written.
    pub name: Name,
    /// Version of the commit that wrote or deleted it.
    pub version: Version,
    /// What was written; `None` if it was deleted.
    pub record: Option<Record>,
}

/// Changes of several kinds as one stream, in the order in which they were committed: who has seen one of them has seen all
/// before it. `Some(None)` is a gap: any number of changes was missed. Ends when the store is closed.
pub struct KindsWatch {
    raw: RawWatch,
    kinds: Vec<Kind>,
    inner: Arc<Inner>,
}

impl KindsWatch {
    /// The next change, `Some(None)` for a gap; `None` once the store is closed.
    pub async fn next(&mut self) -> Option<Option<Seen>> {
        loop {
            let Some(change) = self.raw.next().await? else {
                return Some(None);
            };
            if !kind_of(&change.key).is_some_and(|kind| self.kinds.contains(&kind)) {
                continue;
            }
            let keyring = self.inner.keyring();
            let raw = crate::engine::RawEntry {
                key: change.key,
                version: change.version,
                // Of no use here: the record says it as well.
                expires_at: None,
                value: change.value.to_vec(),
            };
            // A change that can not be read is still a change of something.
            let Ok(entry) = self.inner.open(&keyring, raw).await else {
                return Some(None);
            };
            return Some(Some(Seen {
                name: entry.name,
                version: entry.version,
                record: (!change.deleted).then_some(entry.record),
            }));
        }
    }
}

impl Store {
    /// Changes, from now on, of all names of these kinds.
    #[must_use]
    pub fn watch_kinds(&self, kinds: &[Kind]) -> KindsWatch {
        KindsWatch {
            raw: self.inner.engine.watch(all_records()),
            kinds: kinds.to_vec(),
            inner: self.inner.clone(),
        }
    }

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
