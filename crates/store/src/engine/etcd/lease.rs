//! Leases: a key that says who holds it, and every process's own clock.
//!
//! No clock is compared with another's. A holder counts from before it asked; everybody else counts from when the key's newest write was
//! seen, and so never ends a lease early. Since leases are watched, a process that runs knows of a write when it happens; one that has
//! just started lets a whole lease pass before it takes one over. Fences are versions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::proto::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, Request, RequestOp, TXN,
    TxnRequest, TxnResponse,
};
use super::rpc::Repeat;
use super::trouble::Trouble;
use super::{Shared, revision_of};
use crate::StoreError;
use crate::clock::BootClock;
use crate::codec::{Reader, Writer};

/// How often what was found is judged anew because somebody wrote meanwhile.
const ATTEMPTS: usize = 8;
const FORM: u8 = 1;

/// What a lease's key says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    /// Version of the write that took it.
    fence: u64,
    ttl: Duration,
    holder: String,
}

impl Held {
    fn encode(&self, taken_now: bool) -> Vec<u8> {
        let mut out = Writer::with_capacity(32 + self.holder.len());
        out.u8(FORM);
        out.u64(if taken_now { 0 } else { self.fence });
        out.u64(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX));
        out.bytes(self.holder.as_bytes());
        out.finish().to_vec()
    }

    /// `taken` is the fence of a lease that was taken by this very write.
    fn decode(found: &KeyValue, taken: u64) -> Option<Self> {
        let mut input = Reader::new(&found.value);
        if input.u8()? != FORM {
            return None;
        }
        let fence = match input.u64()? {
            0 => taken,
            fence => fence,
        };
        Some(Self {
            fence,
            ttl: Duration::from_millis(input.u64()?),
            holder: String::from_utf8(input.bytes()?.to_vec()).ok()?,
        })
    }
}

/// Since when a lease is as it is.
#[derive(Clone, Copy, Debug)]
struct Seen {
    revision: i64,
    since: Duration,
}

pub(crate) struct Leases {
    clock: Arc<dyn BootClock>,
    seen: Mutex<HashMap<String, Seen>>,
}

impl Leases {
    pub(crate) fn new(clock: Arc<dyn BootClock>) -> Self {
        Self {
            clock,
            seen: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// A lease's key was written, or deleted.
    pub(crate) fn changed(&self, name: &str, now: Option<&KeyValue>) {
        match now {
            Some(found) => drop(self.observe(name, found.mod_revision)),
            None => drop(self.seen().remove(name)),
        }
    }

    /// Since when the newest write of a lease is known.
    fn observe(&self, name: &str, revision: i64) -> Duration {
        let now = self.clock.now();
        let mut seen = self.seen();
        let entry = seen.entry(name.to_owned()).or_insert(Seen {
            revision,
            since: now,
        });
        if entry.revision < revision {
            *entry = Seen {
                revision,
                since: now,
            };
        }
        entry.since
    }

    /// This process has written it, and began to before `since`.
    fn wrote(&self, name: &str, revision: i64, since: Duration) {
        let mut seen = self.seen();
        let entry = seen
            .entry(name.to_owned())
            .or_insert(Seen { revision, since });
        if entry.revision <= revision {
            *entry = Seen { revision, since };
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    async fn find_lease(&self, name: &str) -> Result<Option<(i64, Held)>, StoreError> {
        let found = self
            .range(RangeRequest::one(self.layout.lease(name)))
            .await
            .map_err(|trouble| self.reading_error(trouble))?;
        let Some(found) = found.kvs.into_iter().next() else {
            return Ok(None);
        };
        let held = Held::decode(&found, self.version(found.mod_revision)).ok_or_else(|| {
            StoreError::Damaged {
                what: format!("{} (a lease)", self.place),
            }
        })?;
        Ok(Some((found.mod_revision, held)))
    }

    /// Writes or deletes a lease's key if it is at this revision; answers the new revision.
    async fn change_lease(
        &self,
        name: &str,
        revision: i64,
        value: Option<Vec<u8>>,
    ) -> Result<Option<i64>, StoreError> {
        let key = self.layout.lease(name);
        let change = match value {
            Some(value) => Request::Put(PutRequest {
                key: key.clone(),
                value,
                prev_kv: false,
            }),
            None => Request::DeleteRange(DeleteRangeRequest::one(key.clone())),
        };
        let request = TxnRequest {
            compare: vec![Compare::at(key, revision)],
            success: vec![RequestOp::from(change)],
            failure: Vec::new(),
        };
        let answer: TxnResponse = self
            .rpc
            .call(TXN, &request, Repeat::Never)
            .await
            .map_err(|trouble| self.error(trouble))?;
        let revision = revision_of(answer.header.as_ref());
        self.saw(revision);
        Ok(answer.succeeded.then_some(revision))
    }

    pub(crate) async fn take_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.ready().await?;
        for _ in 0..ATTEMPTS {
            let found = self.find_lease(name).await?;
            if let Some((revision, held)) = &found {
                let since = self.leases.observe(name, *revision);
                let lapsed = self.leases.clock.now() >= since.saturating_add(held.ttl);
                if held.holder != holder && !lapsed {
                    return Ok(None);
                }
            }
            let wanted = Held {
                fence: 0,
                ttl,
                holder: holder.to_owned(),
            };
            let before = self.leases.clock.now();
            let at = found.map_or(0, |(revision, _)| revision);
            if let Some(revision) = self
                .change_lease(name, at, Some(wanted.encode(true)))
                .await?
            {
                self.leases.wrote(name, revision, before);
                return Ok(Some(self.version(revision)));
            }
        }
        Ok(None)
    }

    pub(crate) async fn renew_lease(
        &self,
        name: &str,
        fence: u64,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.ready().await?;
        for _ in 0..ATTEMPTS {
            let Some((revision, held)) = self.find_lease(name).await? else {
                return Ok(false);
            };
            let since = self.leases.observe(name, revision);
            let before = self.leases.clock.now();
            if held.fence != fence || before >= since.saturating_add(held.ttl) {
                return Ok(false);
            }
            let renewed = Held { ttl, ..held };
            if let Some(revision) = self
                .change_lease(name, revision, Some(renewed.encode(false)))
                .await?
            {
                self.leases.wrote(name, revision, before);
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.ready().await?;
        for _ in 0..ATTEMPTS {
            let Some((revision, held)) = self.find_lease(name).await? else {
                return Ok(());
            };
            if held.fence != fence || self.change_lease(name, revision, None).await?.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Looks at all leases once, so that those that nobody renews any more lapse from now on.
pub(crate) async fn look(shared: &Shared) -> Result<(), Trouble> {
    let (key, range_end) = shared.layout.leases();
    let found = shared
        .range(RangeRequest {
            key,
            range_end,
            keys_only: true,
            ..RangeRequest::default()
        })
        .await?;
    for found in &found.kvs {
        if let Some(name) = shared.layout.lease_name(&found.key) {
            shared.leases.observe(name, found.mod_revision);
        }
    }
    Ok(())
}
