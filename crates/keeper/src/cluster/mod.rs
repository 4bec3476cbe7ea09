//! Nodes are equal (decision 7): any node serves any request, and what two requests share is in the store.
//!
//! Owns what a node knows of the others and of how far it has seen: its heartbeat in [`beat`], the one watch in [`follow`], the
//! registry of nodes in [`nodes`], records kept in memory in [`cache`], what only one node at a time shall do in [`lease`], the
//! schema level of records in [`level`], the configuration that all share in [`configuration`].
//!
//! What is in memory counts only while this node has seen its own heartbeat on the watch: the watch shows commits in their
//! order, so whoever has seen a heartbeat has seen all that was committed before it was sent. A keeper without
//! [`ClusterOptions`] is the only one on its store: it has no heartbeat, and what it keeps in memory counts by marks.

mod beat;
mod cache;
mod configuration;
mod follow;
mod intents;
mod lease;
mod level;
mod nodes;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gridkeep_store::Version;
use tokio::sync::watch;

use crate::clock::Vote;
use crate::failure::Failure;
use crate::keeper::Keeper;

pub(crate) use cache::{Cache, Caches};
pub use configuration::{StoredConfiguration, previous_files};
pub(crate) use intents::Intents;
pub use level::LEVEL;
pub(crate) use level::Level;
use nodes::Observed;
pub use nodes::{ClusterStatus, NodeReport, NodeState, NodeStatus, Peer, WithoutKey};

/// How a node takes part in a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Host and port at which the other nodes reach this one.
    pub address: String,
    /// Version of the program, to be shown to operators.
    pub version: String,
    /// Time from one heartbeat to the next.
    pub heartbeat: Duration,
    /// For how long after the sending of the newest heartbeat that was seen on the watch what is in memory counts.
    pub fresh_for: Duration,
}

impl ClusterOptions {
    /// The stated times: 250 ms from heartbeat to heartbeat, 750 ms until nothing in memory counts.
    pub fn new(address: impl Into<String>, version: impl Into<String>) -> Self {
        ClusterOptions {
            address: address.into(),
            version: version.into(),
            heartbeat: Duration::from_millis(250),
            fresh_for: Duration::from_millis(750),
        }
    }
}

/// A node whose store has not answered for this long passes requests on.
const STORE_SILENT: Duration = Duration::from_millis(1500);
/// A node that was not heard of for this long is not counted as live.
const SILENT: Duration = Duration::from_secs(5);
/// Heartbeats under way of which the time of sending is remembered.
const SENT: usize = 32;

/// What this node knows of the cluster.
pub(crate) struct Cluster {
    options: Option<ClusterOptions>,
    pub caches: Arc<Caches>,
    /// Boot time, in nanoseconds, at which the newest heartbeat seen on the watch was sent; 0 for none.
    seen: AtomicU64,
    /// Boot time, in nanoseconds, of the last answer of the store; 0 for none.
    answered: AtomicU64,
    sent: Mutex<VecDeque<(u64, Duration)>>,
    nodes: Mutex<BTreeMap<String, Observed>>,
    report: Mutex<NodeReport>,
    /// Why the store did not take the last heartbeat.
    heartbeat_trouble: Mutex<Option<String>>,
    /// Public identifiers of the root keys that the newest heartbeat taken has told the others of.
    told_keys: watch::Sender<Vec<String>>,
    /// Version of the mark of the policies that are in memory.
    policies: Mutex<Option<Version>>,
    /// Version of the configuration in the store, as last seen.
    configuration: watch::Sender<u64>,
    superseded: watch::Sender<bool>,
    live: watch::Sender<u32>,
    /// Whether the clocks of the others were compared with this node's.
    compared: watch::Sender<bool>,
}

impl Cluster {
    pub fn new(options: Option<ClusterOptions>) -> Self {
        Cluster {
            caches: Arc::new(Caches::new(options.is_some())),
            options,
            seen: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            sent: Mutex::default(),
            nodes: Mutex::default(),
            report: Mutex::default(),
            heartbeat_trouble: Mutex::default(),
            told_keys: watch::Sender::default(),
            policies: Mutex::default(),
            configuration: watch::Sender::new(0),
            superseded: watch::Sender::new(false),
            live: watch::Sender::new(1),
            compared: watch::Sender::new(false),
        }
    }

    /// Whether other nodes may be on the same store.
    pub fn is_shared(&self) -> bool {
        self.options.is_some()
    }

    fn sent(&self, beat: u64, at: Duration) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.len() == SENT {
            sent.pop_front();
        }
        sent.push_back((beat, at));
    }

    /// Our heartbeat was seen: all that was committed before it was sent has been seen.
    fn saw_own(&self, beat: u64) {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, at)) = sent.iter().find(|(number, _)| *number == beat) {
            self.seen.fetch_max(nanos(*at), Ordering::SeqCst);
        }
    }

    /// Something was missed: nothing in memory counts until a later heartbeat is seen.
    fn lost_sight(&self) {
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.seen.store(0, Ordering::SeqCst);
        self.caches.clear();
    }

    fn heard_store(&self, now: Duration) {
        self.answered.store(nanos(now), Ordering::SeqCst);
    }

    fn since_answer(&self, now: Duration) -> Option<Duration> {
        let answered = Duration::from_nanos(self.answered.load(Ordering::SeqCst));
        (answered != Duration::ZERO).then(|| now.saturating_sub(answered))
    }

    fn heartbeat_trouble(&self) -> Option<String> {
        self.heartbeat_trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Keeper {
    /// Whether what is in memory counts.
    pub(crate) fn fresh(&self) -> bool {
        let cluster = &self.inner.cluster;
        let Some(options) = &cluster.options else {
            return true;
        };
        let seen = cluster.seen.load(Ordering::SeqCst);
        let now = nanos(self.inner.time.boot());
        seen != 0 && now.saturating_sub(seen) < nanos(options.fresh_for)
    }

    /// The records kept in memory, while they count.
    pub(crate) fn kept(&self) -> Option<&Caches> {
        self.fresh().then_some(&self.inner.cluster.caches)
    }

    /// Before anything is decided by what is in memory beside the records: makes sure that it is what the store has.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store does not answer.
    pub(crate) async fn catch_up(&self) -> Result<(), Failure> {
        if self.fresh() {
            return Ok(());
        }
        self.load_policies_if_changed().await
    }

    /// Whether other nodes may be on the same store.
    pub fn is_shared(&self) -> bool {
        self.inner.cluster.is_shared()
    }

    /// Whether the store answered this node a moment ago. A keeper that is alone with its store has it always.
    pub fn has_store(&self) -> bool {
        let cluster = &self.inner.cluster;
        if !cluster.is_shared() {
            return true;
        }
        let answered = cluster.answered.load(Ordering::SeqCst);
        answered != 0
            && nanos(self.inner.time.boot()).saturating_sub(answered) < nanos(STORE_SILENT)
    }

    /// Whether this node is to answer requests itself rather than pass them on: its store answers, and its clock is not one
    /// that most of the cluster call wrong.
    pub fn serves(&self) -> bool {
        self.has_store() && !self.inner.time.outvoted()
    }

    /// Returns when another process has taken this node's name: then this one must stop, or both would take the other's
    /// unfinished refreshes for their own.
    pub async fn superseded(&self) {
        // The sender lives as long as the keeper.
        let _ = self
            .inner
            .cluster
            .superseded
            .subscribe()
            .wait_for(|gone| *gone)
            .await;
    }

    /// Joins the cluster, if this keeper is in one, and follows it from then on.
    pub(crate) async fn join_cluster(&self) -> Result<(), Failure> {
        if !self.inner.cluster.is_shared() {
            return Ok(());
        }
        self.inner.time.set_vote(Vote::Unheard);
        // Before anything is read, so that no change falls between.
        let watch = self.inner.db.store.watch_kinds(&follow::KINDS);
        self.refuse_taken_name().await?;
        self.read_anew().await?;
        self.start_beating();
        let (keeper, mut stop) = (self.clone(), self.stopping());
        self.own(async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                () = keeper.follow(watch) => {}
            }
        });
        self.hear_others().await;
        Ok(())
    }
}
