//! Committing, and finding out what became of a commit whose answer was lost.
//!
//! Every process has a key of its own in etcd, its session, and every commit is guarded by that key's revision. Normally nobody writes
//! it. Where an answer was lost, the process writes it: from then on nothing that was sent before can be applied any more, and what is
//! read is final. That is done before anything else is answered, so that reading after an unknown outcome tells what it was.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::layout::Head;
use super::proto::{
    DeleteRangeRequest, PUT, PutRequest, PutResponse, RangeRequest, Request, RequestOp, TXN,
    TxnRequest, TxnResponse,
};
use super::rpc::Repeat;
use super::transaction::{Found, Plan, guarded_version, remember, wanted};
use super::trouble::Trouble;
use super::{RawCommitError, RawTransaction, Shared, revision_of};
use crate::engine::RawGuard;
use crate::{StoreError, sealing};

/// How often a commit is sent anew after answers that say nothing against it: another session, a version found at another revision.
const ATTEMPTS: usize = 16;
/// How long it is tried to find out what became of a commit, before it is said not to be known.
const SETTLE: Duration = Duration::from_secs(3);
/// How long the process's own watch is waited for before those who watch are told of a gap.
const WATCH: Duration = Duration::from_secs(1);
/// For how long a commit is begun anew that certainly was not applied because its member fell silent.
const AGAIN: Duration = Duration::from_secs(3);

/// The key that commits of this process depend on.
pub(crate) struct Session {
    key: Vec<u8>,
    /// What the key says, for people and for whoever clears away sessions that have ended: seconds since 1970 UTC.
    began: i64,
    revision: AtomicI64,
    /// Commits whose answers were lost, and how many of these can no longer be applied.
    lost: AtomicU64,
    settled: AtomicU64,
    /// When it could not be settled last, and why: those who waited for that attempt do not each begin another.
    settling: tokio::sync::Mutex<Option<(Instant, Trouble)>>,
}

impl Session {
    /// A new one, not yet in etcd.
    pub(crate) fn new(layout: &super::Layout, began: i64) -> Result<Self, StoreError> {
        let name: String = sealing::random::<8>()?
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            key: layout.note(&format!("session/{name}")),
            began,
            revision: AtomicI64::new(0),
            // As if one had been lost: the key has still to be written.
            lost: AtomicU64::new(1),
            settled: AtomicU64::new(0),
            settling: tokio::sync::Mutex::default(),
        })
    }

    /// Tells this process from all others.
    pub(crate) fn name(&self) -> String {
        let name = self.key.rsplit(|byte| *byte == b'/').next();
        String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
    }

    fn current(&self) -> (&[u8], i64) {
        (&self.key, self.revision.load(Ordering::Acquire))
    }

    /// Makes sure that no commit that was sent before can be applied any more, if there is one whose outcome is not known.
    pub(crate) async fn settle(&self, shared: &Shared) -> Result<(), Trouble> {
        if self.is_settled() {
            return Ok(());
        }
        let asked = Instant::now();
        let mut failed = self.settling.lock().await;
        if self.is_settled() {
            return Ok(());
        }
        if let Some((at, trouble)) = &*failed
            && *at >= asked
        {
            return Err(trouble.clone());
        }
        let lost = self.lost.load(Ordering::Acquire);
        if let Err(trouble) = self.write(shared).await {
            *failed = Some((Instant::now(), trouble.clone()));
            return Err(trouble);
        }
        self.settled.store(lost, Ordering::Release);
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire) >= self.lost.load(Ordering::Acquire)
    }

    fn unsettle(&self) {
        self.lost.fetch_add(1, Ordering::AcqRel);
    }

    async fn write(&self, shared: &Shared) -> Result<(), Trouble> {
        let put = PutRequest {
            key: self.key.clone(),
            value: self.began.to_string().into_bytes(),
            prev_kv: false,
        };
        let revision = match shared
            .rpc
            // Where it arrives once more later, what is guarded by this one is sent again.
            .call::<_, PutResponse>(PUT, &put, Repeat::WhenLate)
            .await
        {
            Ok(answer) => revision_of(answer.header.as_ref()),
            // A full etcd lets nothing be written. Deleting the key changes its revision too; where it is not there, nothing but
            // deletions could have been sent, since a commit that writes is refused as well.
            Err(Trouble::NoSpace) => {
                let delete = TxnRequest {
                    success: vec![RequestOp::from(Request::DeleteRange(
                        DeleteRangeRequest::one(self.key.clone()),
                    ))],
                    ..TxnRequest::default()
                };
                shared.transact(delete).await?;
                0
            }
            Err(trouble) => return Err(trouble),
        };
        self.revision.store(revision, Ordering::Release);
        Ok(())
    }

    /// Takes the key out of etcd.
    pub(crate) async fn end(&self, shared: &Shared) {
        let delete = TxnRequest {
            success: vec![RequestOp::from(Request::DeleteRange(
                DeleteRangeRequest::one(self.key.clone()),
            ))],
            ..TxnRequest::default()
        };
        if let Err(trouble) = shared.transact(delete).await {
            tracing::debug!(?trouble, "the session's key stays until it is cleared away");
        }
    }
}

/// While a commit is on its way: if nobody waits for it any more, its outcome is not known.
struct OnItsWay<'a> {
    session: &'a Session,
    answered: bool,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.session.unsettle();
        }
    }
}

/// What became of a commit whose answer was lost.
enum Fate {
    /// At this revision.
    Applied(i64),
    /// And never will be.
    NotApplied,
    Unknown,
}

impl Shared {
    pub(crate) async fn commit(&self, asked: RawTransaction) -> Result<u64, RawCommitError> {
        if !asked.puts.is_empty() && !asked.critical {
            self.has_room()?;
        }
        let began = Instant::now();
        for _ in 0..ATTEMPTS {
            self.ready().await?;
            let transaction = self.with_kept_versions(&asked).await?;
            let wanted: Vec<i64> = transaction
                .guards
                .iter()
                .map(|guard| wanted(guard, &self.hints, self.offset()))
                .collect();
            let session = self.session.current();
            let plan = Plan::new(&self.layout, &self.hints, &transaction, &wanted, session);
            let since = self.revision.load(Ordering::Acquire);
            let mut way = OnItsWay {
                session: &self.session,
                answered: false,
            };
            let answer = self
                .rpc
                .call::<_, TxnResponse>(TXN, &plan.request, Repeat::Never)
                .await;
            way.answered = !matches!(answer, Err(Trouble::Lost(_)));
            drop(way);
            match answer {
                Ok(answer) if answer.succeeded => {
                    let revision = revision_of(answer.header.as_ref());
                    self.committed(&transaction, revision, || plan.has_deleted(answer))
                        .await;
                    return Ok(self.version(revision));
                }
                Ok(answer) => {
                    self.saw(revision_of(answer.header.as_ref()));
                    let found = Found::of(answer);
                    if found.session != session.1 {
                        // Another task of this process has settled it, or somebody has cleared it away.
                        if self.session.current().1 == session.1 {
                            self.session.unsettle();
                        }
                        continue;
                    }
                    match self.failing(&transaction, &wanted, &found).await? {
                        Some(guard) if guard < asked.guards.len() => {
                            return Err(RawCommitError::Conflict(guard));
                        }
                        _ => continue,
                    }
                }
                Err(Trouble::Lost(cause)) => match self.find_out(&transaction, since).await {
                    Fate::Applied(revision) => {
                        self.committed(&transaction, revision, || true).await;
                        return Ok(self.version(revision));
                    }
                    Fate::NotApplied if began.elapsed() < AGAIN => {}
                    Fate::NotApplied => return Err(self.error(Trouble::NotDone(cause)).into()),
                    Fate::Unknown => return Err(self.error(Trouble::Lost(cause)).into()),
                },
                Err(trouble) => {
                    if trouble == Trouble::NoSpace {
                        self.full.store(true, Ordering::Relaxed);
                    }
                    return Err(self.error(trouble).into());
                }
            }
        }
        Err(StoreError::unavailable(format!(
            "{}: what a commit was to be guarded by changed again and again",
            self.place
        ))
        .into())
    }

    /// The transaction, with a guard for every entry whose version is to be kept.
    async fn with_kept_versions(
        &self,
        asked: &RawTransaction,
    ) -> Result<RawTransaction, StoreError> {
        let mut transaction = asked.clone();
        let unguarded: Vec<Vec<u8>> = asked
            .puts
            .iter()
            .filter(|put| put.keep_version && guarded_version(asked, &put.key).is_none())
            .map(|put| put.key.clone())
            .collect();
        if unguarded.is_empty() {
            return Ok(transaction);
        }
        let found = self.reading(|| self.read_all(&unguarded)).await?;
        for (key, entry) in unguarded.into_iter().zip(found) {
            transaction.guards.push(match entry {
                Some(entry) => RawGuard::At(key, entry.version),
                None => RawGuard::Absent(key),
            });
        }
        Ok(transaction)
    }

    /// The first guard that does not hold; `None` if all do once it is known at which revision their versions are.
    async fn failing(
        &self,
        transaction: &RawTransaction,
        wanted: &[i64],
        found: &Found,
    ) -> Result<Option<usize>, StoreError> {
        for (index, guard) in transaction.guards.iter().enumerate() {
            let (wanted, found) = (wanted.get(index), found.guards.get(index));
            if wanted == found {
                continue;
            }
            // The version may be there at another revision: entries that were sealed anew keep theirs.
            let same = match (guard, found) {
                (RawGuard::At(key, version), Some(revision)) if *revision != 0 => {
                    let keys = std::slice::from_ref(key);
                    let now = self.reading(|| self.read_all(keys)).await?;
                    now.into_iter()
                        .flatten()
                        .any(|entry| entry.version == *version)
                }
                _ => false,
            };
            if !same {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    async fn committed(
        &self,
        transaction: &RawTransaction,
        revision: i64,
        has_deleted: impl FnOnce() -> bool,
    ) {
        self.saw(revision);
        if !transaction.puts.is_empty() {
            self.full.store(false, Ordering::Relaxed);
        }
        remember(&self.hints, transaction, revision, self.version(revision));
        let watched = transaction
            .puts
            .iter()
            .map(|put| &put.key)
            .chain(&transaction.deletes)
            .any(|key| self.hub.wants(key));
        // Whoever is told of the commit finds it in his watch.
        if watched
            && (!transaction.puts.is_empty() || has_deleted())
            && !self.progress.reaches(revision, WATCH).await
        {
            self.hub.gap();
        }
    }

    /// What became of a transaction whose answer was lost, which was sent when the store was at revision `since`.
    async fn find_out(&self, transaction: &RawTransaction, since: i64) -> Fate {
        let settled = tokio::time::timeout(SETTLE, self.session.settle(self)).await;
        if !settled.is_ok_and(|settled| settled.is_ok()) {
            return Fate::Unknown;
        }
        for put in &transaction.puts {
            let request = RangeRequest::one(self.layout.entry(&put.key));
            let Ok(found) = self.range(request).await else {
                return Fate::Unknown;
            };
            let Some(found) = found.kvs.into_iter().next() else {
                continue;
            };
            if found.mod_revision <= since {
                return Fate::NotApplied;
            }
            // Sealed bytes are never the same twice.
            if Head::split(&found.value).is_some_and(|(_, bytes)| bytes == put.value) {
                return Fate::Applied(found.mod_revision);
            }
        }
        for key in &transaction.deletes {
            let request = RangeRequest {
                keys_only: true,
                ..RangeRequest::one(self.layout.entry(key))
            };
            let found = self.range(request).await;
            if found.is_ok_and(|found| {
                found
                    .kvs
                    .first()
                    .is_some_and(|found| found.mod_revision <= since)
            }) {
                return Fate::NotApplied;
            }
        }
        Fate::Unknown
    }
}
