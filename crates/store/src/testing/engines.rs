//! Engines before others: one that fails or hangs, and a way to one that can be cut.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::XorShift;
use crate::engine::{
    Engine, EngineStatus, RawCommitError, RawDue, RawEntry, RawPage, RawTransaction, RawWatch,
};
use crate::{Mark, Outcome, Remedy, StoreError};

/// An engine before another that fails at points chosen by a seed: before the other was asked, or after it has answered.
pub struct FaultyEngine {
    inner: Arc<dyn Engine>,
    active: AtomicBool,
    one_in: u64,
    random: Mutex<XorShift>,
    injected: AtomicU64,
    committing: AtomicU64,
    records_read: AtomicU64,
    hangs: watch::Sender<Hangs>,
}

/// What is not answered, not even with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangs {
    /// All is answered.
    Nothing,
    /// No commit is.
    Commits,
    /// Nothing is.
    Everything,
}

/// A commit that somebody waits for.
struct Committing<'a>(&'a AtomicU64);

impl<'a> Committing<'a> {
    fn counted(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FaultyEngine {
    /// One in `one_in` calls fails, once [`FaultyEngine::set_active`].
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>, one_in: u64, seed: u64) -> Self {
        let random = Mutex::new(XorShift::new(seed));
        Self {
            inner,
            active: AtomicBool::new(false),
            one_in: one_in.max(1),
            random,
            injected: AtomicU64::new(0),
            committing: AtomicU64::new(0),
            records_read: AtomicU64::new(0),
            hangs: watch::Sender::new(Hangs::Nothing),
        }
    }

    /// Lets calls wait until this is said anew.
    pub fn set_hangs(&self, hangs: Hangs) {
        self.hangs.send_replace(hangs);
    }

    /// Records that were handed out so far, by reads and scans.
    #[must_use]
    pub fn records_read(&self) -> u64 {
        self.records_read.load(Ordering::SeqCst)
    }

    /// Commits that somebody waits for at the moment.
    #[must_use]
    pub fn committing(&self) -> u64 {
        self.committing.load(Ordering::SeqCst)
    }

    /// Begins or ends the failing.
    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Relaxed);
    }

    /// Failures so far.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    fn roll(&self) -> bool {
        let fails = self.active.load(Ordering::Relaxed)
            && self
                .random
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .below(self.one_in)
                == 0;
        if fails {
            self.injected.fetch_add(1, Ordering::Relaxed);
        }
        fails
    }

    async fn before(&self, commit: bool) -> Result<(), StoreError> {
        let mut hangs = self.hangs.subscribe();
        let answered = hangs.wait_for(|hangs| match hangs {
            Hangs::Nothing => true,
            Hangs::Commits => !commit,
            Hangs::Everything => false,
        });
        // The sender lives as long as the engine.
        let _ = answered.await;
        if self.roll() {
            Err(StoreError::unavailable(
                "an injected failure before the call",
            ))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Engine for FaultyEngine {
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError> {
        self.before(false).await?;
        let found = self.inner.read(keys).await?;
        let count = found.iter().flatten().count() as u64;
        self.records_read.fetch_add(count, Ordering::SeqCst);
        Ok(found)
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        self.before(false).await?;
        let page = self.inner.scan(prefix, after, limit).await?;
        let count = page.entries.len() as u64;
        self.records_read.fetch_add(count, Ordering::SeqCst);
        Ok(page)
    }

    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError> {
        self.before(true).await?;
        let _waited_for = Committing::counted(&self.committing);
        let answer = self.inner.commit(transaction).await?;
        if self.roll() {
            let cause = "an injected failure after the call".to_owned();
            return Err(StoreError::Unavailable {
                cause,
                outcome: Outcome::Unknown,
                remedy: Remedy::Wait,
            }
            .into());
        }
        Ok(answer)
    }

    fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        self.inner.watch(prefix)
    }

    fn mark(&self, key: &[u8]) -> Option<Mark> {
        self.inner.mark(key)
    }

    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError> {
        self.before(false).await?;
        self.inner.due(before, limit).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.before(false).await?;
        self.inner.lease(name, holder, ttl).await
    }

    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError> {
        self.before(false).await?;
        self.inner.renew_lease(name, fence, ttl).await
    }

    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.before(false).await?;
        self.inner.release_lease(name, fence).await
    }

    fn status(&self) -> EngineStatus {
        self.inner.status()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.close().await
    }
}

/// A node's own way to an engine that several share: it can be cut, and what the engine's watches say can be held back.
pub struct CuttableEngine {
    inner: Arc<dyn Engine>,
    cut: AtomicBool,
    refusing: AtomicBool,
    held: AtomicBool,
    hub: Arc<crate::Hub>,
    reads: AtomicU64,
}

impl CuttableEngine {
    /// A way that is whole. Must be called within a tokio runtime, which carries the changes.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>) -> Arc<Self> {
        use futures_util::StreamExt as _;
        let way = Arc::new(Self {
            inner: inner.clone(),
            cut: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            held: AtomicBool::new(false),
            hub: Arc::default(),
            reads: AtomicU64::new(0),
        });
        let carrier = Arc::downgrade(&way);
        let mut watch = inner.watch(Vec::new());
        tokio::spawn(async move {
            let mut missed = false;
            while let Some(change) = watch.next().await {
                let Some(way) = carrier.upgrade() else { return };
                let stopped = way.cut.load(Ordering::SeqCst) || way.held.load(Ordering::SeqCst);
                match change {
                    _ if stopped => missed = true,
                    Some(change) if !missed => way.hub.publish(&change),
                    _ => {
                        missed = false;
                        way.hub.gap();
                    }
                }
            }
        });
        way
    }

    /// Cuts the way, or makes it whole again; what was missed meanwhile is a gap.
    pub fn set_cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }

    /// Refuses what is asked, while watches go on.
    pub fn set_refusing(&self, refusing: bool) {
        self.refusing.store(refusing, Ordering::SeqCst);
    }

    /// Holds back what watches say, while everything else works.
    pub fn set_held(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// Reads so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    fn whole(&self) -> Result<(), StoreError> {
        if self.cut.load(Ordering::SeqCst) || self.refusing.load(Ordering::SeqCst) {
            Err(StoreError::unavailable("the way is cut"))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Engine for CuttableEngine {
    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.whole()?;
        self.inner.read(keys).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        self.whole()?;
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError> {
        self.whole()?;
        self.inner.commit(transaction).await
    }

    fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        self.hub.watch(prefix)
    }

    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError> {
        self.whole()?;
        self.inner.due(before, limit).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.whole()?;
        self.inner.lease(name, holder, ttl).await
    }

    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError> {
        self.whole()?;
        self.inner.renew_lease(name, fence, ttl).await
    }

    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.whole()?;
        self.inner.release_lease(name, fence).await
    }

    fn status(&self) -> EngineStatus {
        self.inner.status()
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
