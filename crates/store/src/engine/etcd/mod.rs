//! The etcd engine: a store that several nodes share, in an etcd cluster of version 3.4 or later.
//!
//! Reads are linearizable. A commit is one transaction of etcd, judged and applied at one revision, which is the version of what it
//! wrote. `layout` says where things lie, `rpc` which member is asked, `commit` how a lost answer is found out, `follow` keeps the one
//! watch of this process, `lease` its leases, `open` makes and opens a store.
//!
//! Promises: what is acknowledged is on the disks of a majority. A call ends within seconds whatever happens; one whose outcome is not
//! known is said to be so, and nothing of it arrives after the next answer of this process. A full etcd refuses what needs room and
//! nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::AbortHandle;

use self::commit::Session;
use self::follow::Progress;
use self::hints::{Hint, Hints};
use self::layout::{Head, Layout, end_of};
use self::lease::Leases;
use self::proto::{
    Compare, DeleteRangeRequest, KeyValue, RANGE, RangeRequest, RangeResponse, Request, RequestOp,
    TXN, TxnRequest, TxnResponse,
};
use self::rpc::{Repeat, Rpc};
use self::trouble::Trouble;
use self::upkeep::Looks;
use super::{
    Engine, EngineStatus, RawCommitError, RawDue, RawEntry, RawPage, RawTransaction, RawWatch,
};
use crate::StoreError;
use crate::watch::Hub;

mod commit;
mod connect;
mod follow;
mod health;
mod hints;
mod layout;
mod lease;
mod member;
mod open;
mod proto;
mod rpc;
mod transaction;
mod trouble;
mod upkeep;

pub use connect::Tls;
pub use health::{MemberHealth, MemberState, health};
pub(crate) use open::Import;
pub use open::{Etcd, Settings};
pub use upkeep::{DEFAULT_QUOTA, Upkeep};

/// A page of a scan ends with the entry that goes beyond this.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Entries asked for before it is known how large they are.
const FIRST_CHUNK: usize = 32;
/// Keys read in one request.
const READ_CHUNK: usize = 100;
/// Index entries looked at in one request.
const DUE_CHUNK: usize = 100;
/// How often a read that spans several requests begins anew because etcd has compacted what it stood on.
const READ_ATTEMPTS: usize = 3;

/// What the engine and its tasks share.
pub(crate) struct Shared {
    rpc: Rpc,
    layout: Layout,
    /// Endpoints and prefix, for messages.
    place: String,
    hub: Hub,
    hints: Hints,
    session: Session,
    leases: Leases,
    progress: Progress,
    closed: AtomicBool,
    /// Newest revision that was heard of.
    revision: AtomicI64,
    /// By how much versions are greater than revisions: more than 0 where the store was copied here, so that versions never go back.
    offset: AtomicU64,
    epoch: AtomicU64,
    looks: Looks,
    /// etcd has said so when it was asked last.
    full: AtomicBool,
}

/// The engine.
pub(crate) struct EtcdEngine {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
}

impl Shared {
    fn error(&self, trouble: Trouble) -> StoreError {
        trouble.into_error(&self.place)
    }

    /// As an error of what changes nothing.
    fn reading_error(&self, trouble: Trouble) -> StoreError {
        match trouble {
            Trouble::Lost(cause) => self.error(Trouble::NotDone(cause)),
            other => self.error(other),
        }
    }

    /// The version of what is written at a revision.
    fn version(&self, revision: i64) -> u64 {
        self.offset().saturating_add(revision.unsigned_abs())
    }

    fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    fn saw(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
    }

    /// Refuses what is asked of a closed store, and waits until nothing of an earlier commit can still arrive.
    async fn ready(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        self.session
            .settle(self)
            .await
            .map_err(|trouble| self.reading_error(trouble))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Trouble> {
        let found: RangeResponse = self.rpc.call(RANGE, &request, Repeat::WhenLate).await?;
        self.saw(revision_of(found.header.as_ref()));
        Ok(found)
    }

    /// A transaction that may be carried out twice.
    async fn transact(&self, request: TxnRequest) -> Result<TxnResponse, Trouble> {
        let answer: TxnResponse = self.rpc.call(TXN, &request, Repeat::WhenLost).await?;
        self.saw(revision_of(answer.header.as_ref()));
        Ok(answer)
    }

    /// What stands first in each of these ranges at one moment, that of `revision` or else of now; also answers which that is.
    ///
    /// Not a transaction of ranges: etcd before 3.4.23 and 3.5.7 may end when whoever asked for one goes away (issues 14110 and 14891
    /// of etcd), and some of them refuse it while they are full.
    async fn look_up(
        &self,
        ranges: Vec<RangeRequest>,
        mut revision: i64,
    ) -> Result<(i64, Vec<Option<KeyValue>>), Trouble> {
        let first_of = |found: RangeResponse| found.kvs.into_iter().next();
        let mut ranges = ranges.into_iter();
        let mut entries = Vec::new();
        if let Some(range) = ranges.next() {
            let found = self.range(RangeRequest { revision, ..range }).await?;
            if revision == 0 {
                revision = revision_of(found.header.as_ref());
            }
            entries.push(first_of(found));
        }
        let others: Vec<_> = ranges
            .map(|range| self.range(RangeRequest { revision, ..range }))
            .collect();
        let others = futures_util::future::try_join_all(others).await?;
        entries.extend(others.into_iter().map(first_of));
        Ok((revision, entries))
    }

    fn entry(&self, found: KeyValue) -> Result<RawEntry, StoreError> {
        let damaged = || StoreError::Damaged {
            what: format!("{} (an entry that is not this program's)", self.place),
        };
        let key = self.layout.entry_key(&found.key).ok_or_else(damaged)?;
        let (head, bytes) = Head::split(&found.value).ok_or_else(damaged)?;
        let version = head.version.unwrap_or(self.version(found.mod_revision));
        self.hints.note(
            key,
            Hint {
                version,
                revision: found.mod_revision,
                expires_at: head.expires_at,
            },
        );
        Ok(RawEntry {
            key: key.to_vec(),
            version,
            expires_at: head.expires_at,
            value: bytes.to_vec(),
        })
    }

    /// Entries of one moment: of `revision`, or of now if that is 0; also answers which.
    async fn read_at(
        &self,
        keys: &[Vec<u8>],
        revision: i64,
    ) -> Result<(i64, Vec<Option<RawEntry>>), Failed> {
        let ranges = keys
            .iter()
            .map(|key| RangeRequest::one(self.layout.entry(key)));
        let (revision, found) = self.look_up(ranges.collect(), revision).await?;
        let entries = found
            .into_iter()
            .map(|found| found.map(|found| self.entry(found)).transpose());
        Ok((revision, entries.collect::<Result<_, _>>()?))
    }

    async fn read_all(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, Failed> {
        let mut entries = Vec::with_capacity(keys.len());
        let mut revision = 0;
        for chunk in keys.chunks(READ_CHUNK) {
            let (at, mut found) = self.read_at(chunk, revision).await?;
            if revision == 0 {
                revision = at;
            }
            entries.append(&mut found);
        }
        Ok(entries)
    }

    async fn scan_all(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, Failed> {
        let start = self.layout.entry(prefix);
        let range_end = end_of(&start);
        let mut key = match after.filter(|after| *after >= prefix) {
            Some(after) => behind(&self.layout.entry(after)),
            None => start,
        };
        let mut page = RawPage::default();
        let (mut revision, mut bytes, mut chunk) = (0, 0, FIRST_CHUNK);
        while key < range_end || range_end == [0] {
            let request = RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: i64::try_from(chunk.min(limit - page.entries.len())).unwrap_or(i64::MAX),
                revision,
                ..RangeRequest::default()
            };
            let found = self.range(request).await?;
            if revision == 0 {
                revision = revision_of(found.header.as_ref());
            }
            page.more = found.more;
            let Some(last) = found.kvs.last() else { break };
            key = behind(&last.key);
            for found in found.kvs {
                bytes += found.value.len();
                page.entries.push(self.entry(found)?);
            }
            if !page.more || page.entries.len() >= limit || bytes > PAGE_BYTES {
                break;
            }
            let average = (bytes / page.entries.len()).max(1);
            chunk = ((PAGE_BYTES - bytes) / average).max(1);
        }
        Ok(page)
    }

    /// Does it again where etcd has compacted what the read stood on.
    async fn reading<T, F>(&self, read: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        self.ready().await?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match read().await {
                Ok(found) => return Ok(found),
                Err(Failed::Call(Trouble::Compacted)) if attempt < READ_ATTEMPTS => {}
                Err(Failed::Call(trouble)) => return Err(self.reading_error(trouble)),
                Err(Failed::Store(error)) => return Err(error),
            }
        }
    }

    async fn due_all(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, Failed> {
        let (mut key, range_end) = self.layout.indexed_before(before);
        let mut due = Vec::new();
        loop {
            let found = self
                .range(RangeRequest {
                    key: key.clone(),
                    range_end: range_end.clone(),
                    limit: DUE_CHUNK as i64,
                    ..RangeRequest::default()
                })
                .await?;
            let Some(last) = found.kvs.last() else { break };
            key = behind(&last.key);
            let more = found.more;
            let stale = self.judge_index(found.kvs, before, &mut due).await?;
            if !stale.is_empty() {
                self.delete_stale(stale).await;
            }
            if !more || due.len() >= limit {
                break;
            }
        }
        due.truncate(limit);
        Ok(due)
    }

    /// Which of these index entries are of entries that are due; answers those that are of nothing any more.
    async fn judge_index(
        &self,
        indexed: Vec<KeyValue>,
        before: i64,
        due: &mut Vec<RawDue>,
    ) -> Result<Vec<KeyValue>, Failed> {
        let ranges = indexed.iter().filter_map(|found| {
            let key = self.layout.indexed_key(&found.key)?;
            Some(RangeRequest {
                keys_only: true,
                ..RangeRequest::one(self.layout.entry(key))
            })
        });
        let (_, entries) = self.look_up(ranges.collect(), 0).await?;
        let mut stale = Vec::new();
        for (index, found) in indexed.into_iter().zip(entries) {
            let revision = found.map_or(0, |found| found.mod_revision);
            // An entry and its index are always written together.
            if revision != index.mod_revision {
                if revision > index.mod_revision || revision == 0 {
                    stale.push(index);
                }
                continue;
            }
            let Some(key) = self.layout.indexed_key(&index.key) else {
                continue;
            };
            let Some((head, _)) = Head::split(&index.value) else {
                continue;
            };
            let version = head.version.unwrap_or(self.version(index.mod_revision));
            self.hints.note(
                key,
                Hint {
                    version,
                    revision,
                    expires_at: head.expires_at,
                },
            );
            if head.expires_at.is_some_and(|at| at < before) {
                due.push(RawDue {
                    key: key.to_vec(),
                    version,
                });
            }
        }
        Ok(stale)
    }

    /// Deletes index entries that nobody has written anew meanwhile. What fails here is found again by the next sweep.
    async fn delete_stale(&self, stale: Vec<KeyValue>) {
        let compare = stale
            .iter()
            .map(|index| Compare::at(index.key.clone(), index.mod_revision));
        let success = stale.iter().map(|index| {
            RequestOp::from(Request::DeleteRange(DeleteRangeRequest::one(
                index.key.clone(),
            )))
        });
        let request = TxnRequest {
            compare: compare.collect(),
            success: success.collect(),
            failure: Vec::new(),
        };
        if let Err(trouble) = self.transact(request).await {
            tracing::debug!(?trouble, "stale entries of the expiry index stay");
        }
    }
}

/// A call that failed, or what it brought is not what was written.
enum Failed {
    Call(Trouble),
    Store(StoreError),
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Call(trouble)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn revision_of(header: Option<&proto::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// The first key behind this one.
fn behind(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

#[async_trait]
impl Engine for EtcdEngine {
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.shared.reading(|| self.shared.read_all(keys)).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        self.shared
            .reading(|| self.shared.scan_all(prefix, after, limit.max(1)))
            .await
    }

    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError> {
        self.shared.commit(transaction).await
    }

    fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        let now = self.shared.revision.load(Ordering::Acquire);
        self.shared
            .hub
            .watch_after(prefix, self.shared.version(now))
    }

    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError> {
        self.shared
            .reading(|| self.shared.due_all(before, limit))
            .await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.shared.take_lease(name, holder, ttl).await
    }

    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError> {
        self.shared.renew_lease(name, fence, ttl).await
    }

    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.shared.release_lease(name, fence).await
    }

    fn status(&self) -> EngineStatus {
        let shared = &self.shared;
        let full = shared.full.load(Ordering::Relaxed) || shared.looks.is_short();
        let refusing_writes = full.then(|| StoreError::QuotaReached {
            place: shared.place.clone(),
        });
        EngineStatus {
            engine: "etcd",
            epoch: shared.epoch.load(Ordering::Relaxed),
            sequence: shared.version(shared.revision.load(Ordering::Acquire)),
            entries: None,
            bytes: shared.looks.bytes(),
            limit: shared.looks.quota(),
            refusing_writes,
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.shared.session.end(&self.shared).await;
        self.tasks.iter().for_each(AbortHandle::abort);
        self.shared.hub.close();
        Ok(())
    }
}

impl Drop for EtcdEngine {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}
