//! This node's heartbeat: its record in the registry, written anew every quarter of a second.
//!
//! Each is guarded by the one before: two processes of one name notice each other.

use std::sync::PoisonError;
use std::time::Duration;

use gridkeep_store::{Guard, Version};

use super::nodes::{NodeRecord, node_name};
use crate::clock::Vote;
use crate::database::{Change, NotCommitted};
use crate::failure::{Failure, Later, LaterKind};
use crate::keeper::Keeper;

/// Longest wait for the store to take a heartbeat before another is tried.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this the store is asked something beside a heartbeat that it has not taken yet.
const LATE: Duration = Duration::from_millis(500);
/// Heartbeats of a predecessor that are waited for before its name is taken.
const LISTEN: u32 = 5;
/// Heartbeats of this node, each seen on the watch, after which it has heard of each node that is live.
const HEARD: u64 = 3;

/// What the log says of the store and this node's heartbeats. It is said when it changes.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Taken,
    NotTaken,
    /// The public identifier of the root key that this node lacks.
    Lacking(String),
}

/// Where the registry stands with this node.
struct Standing {
    beat: u64,
    /// Version of our record; `None` when it has to be looked up.
    version: Option<Version>,
    commit: Duration,
    said: Said,
    /// Heartbeats one after the other after which this node had seen its own on the watch.
    seen: u64,
}

impl Keeper {
    /// Refuses to start while another process writes heartbeats under this node's name.
    pub(super) async fn refuse_taken_name(&self) -> Result<(), Failure> {
        let Some(options) = &self.inner.cluster.options else {
            return Ok(());
        };
        let key = node_name(&self.inner.options.node);
        let Some(before) = self.inner.db.get::<NodeRecord>(&key).await? else {
            return Ok(());
        };
        if before.value.stopped {
            return Ok(());
        }
        for _ in 0..LISTEN {
            tokio::time::sleep(options.heartbeat).await;
            let now = self.inner.db.get::<NodeRecord>(&key).await?;
            let beats = now.is_some_and(|now| now.version != before.version && !now.value.stopped);
            if beats {
                return Err(Later::new(
                    LaterKind::Store,
                    format!(
                        "another server at {} runs under this node's name, \"{}\": two of one name would take each other's unfinished work for their own; give each node a name of its own (cluster.myname), or stop the other",
                        before.value.address, self.inner.options.node
                    ),
                )
                .into());
            }
        }
        Ok(())
    }

    /// Nothing is served before the clocks of the others are known, if there are others: what a wrong clock calls expired is refused
    /// for good, and what it makes is dead for the others. A store that does not answer is not waited for.
    pub(super) async fn hear_others(&self) {
        let Some(options) = &self.inner.cluster.options else {
            return;
        };
        if self.peers().is_empty() {
            self.inner.time.set_vote(Vote::Right);
            return;
        }
        let mut compared = self.inner.cluster.compared.subscribe();
        let patience = PATIENCE + options.heartbeat * u32::try_from(HEARD).unwrap_or(u32::MAX);
        // Whether it was reached in time is all the same here.
        let _ = tokio::time::timeout(patience, compared.wait_for(|compared| *compared)).await;
    }

    pub(super) fn start_beating(&self) {
        let (keeper, mut stop) = (self.clone(), self.stopping());
        self.own(async move {
            let Some(options) = keeper.inner.cluster.options.clone() else {
                return;
            };
            let mut standing = Standing {
                beat: 0,
                version: None,
                commit: Duration::ZERO,
                said: Said::Taken,
                seen: 0,
            };
            loop {
                let began = tokio::time::Instant::now();
                keeper.beat(&mut standing, false).await;
                if *keeper.inner.cluster.superseded.borrow() {
                    return;
                }
                keeper.count_live_nodes();
                // Whoever does not hear himself hears nobody: what was found before stays.
                standing.seen = if keeper.fresh() { standing.seen + 1 } else { 0 };
                if standing.seen > HEARD && keeper.compare_clocks() {
                    keeper.inner.cluster.compared.send_replace(true);
                }
                if let Err(failure) = keeper.raise_level().await {
                    tracing::debug!(%failure, "the level of records could not be raised");
                }
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => break,
                    () = tokio::time::sleep_until(began + options.heartbeat) => {}
                }
            }
            keeper.beat(&mut standing, true).await;
        });
    }

    async fn beat(&self, standing: &mut Standing, last: bool) {
        let cluster = &self.inner.cluster;
        let began = self.inner.time.boot();
        standing.beat += 1;
        cluster.sent(standing.beat, began);
        let outcome = {
            let writing = tokio::time::timeout(PATIENCE, self.write_beat(standing, last));
            let mut writing = std::pin::pin!(writing);
            loop {
                tokio::select! {
                    outcome = &mut writing => break outcome,
                    () = self.ask_store_meanwhile() => {}
                }
            }
        };
        let now = self.inner.time.boot();
        let trouble = match outcome {
            Ok(Ok(())) => {
                standing.commit = now.saturating_sub(began);
                cluster.heard_store(now);
                None
            }
            Ok(Err(failure)) => {
                standing.version = None;
                // A store without room for a heartbeat still answers questions.
                if matches!(&failure, Failure::Later(later) if later.kind == LaterKind::StoreFull) {
                    cluster.heard_store(now);
                }
                Some(failure.to_string())
            }
            Err(_) => {
                standing.version = None;
                Some(format!("no answer within {} seconds", PATIENCE.as_secs()))
            }
        };
        let said = match (&trouble, self.inner.db.store.root_keys().lacking) {
            (None, _) => Said::Taken,
            (Some(_), None) => Said::NotTaken,
            (Some(_), Some(lacking)) => Said::Lacking(lacking),
        };
        if said != standing.said {
            match &said {
                Said::Taken => tracing::info!("the store takes this node's heartbeat again"),
                Said::NotTaken => tracing::warn!(
                    trouble,
                    "the store does not take this node's heartbeat: nothing in memory counts, and requests are passed to other nodes while it does not answer"
                ),
                Said::Lacking(key) => tracing::error!(
                    "the store is sealed under root key {key}, which another node has put in force and this one does not know: nothing can be written here, and requests are passed to other nodes; copy the file with that key here and run gridkeep operator expect-root-key FILE, or put it where the server finds its key and start it anew"
                ),
            }
            standing.said = said;
        }
        *cluster
            .heartbeat_trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// A store that takes its time over a heartbeat may answer questions all the same: etcd does while one of its members is away.
    async fn ask_store_meanwhile(&self) {
        tokio::time::sleep(LATE).await;
        let key = node_name(&self.inner.options.node);
        if self.inner.db.get::<NodeRecord>(&key).await.is_ok() {
            self.inner.cluster.heard_store(self.inner.time.boot());
        }
    }

    async fn write_beat(&self, standing: &mut Standing, last: bool) -> Result<(), Failure> {
        let Some(options) = &self.inner.cluster.options else {
            return Ok(());
        };
        let key = node_name(&self.inner.options.node);
        let guard = match standing.version {
            Some(version) => Guard::At(key.clone(), version),
            None => match self.inner.db.get::<NodeRecord>(&key).await? {
                None => Guard::Absent(key.clone()),
                Some(found) => {
                    // Ours from before, or one that is dead: see `refuse_taken_name`.
                    if standing.beat > 1 && found.value.process != self.inner.process {
                        self.give_way(&found.value);
                        return Ok(());
                    }
                    found.unchanged()
                }
            },
        };
        let report = self.reported();
        let record = NodeRecord {
            process: self.inner.process.clone(),
            beat: standing.beat,
            at: self.inner.time.now(),
            started_at: self.inner.started_at,
            stopped: last,
            address: options.address.clone(),
            version: options.version.clone(),
            level: self.inner.db.level.reads,
            report,
            commit_ms: u64::try_from(standing.commit.as_millis()).unwrap_or(u64::MAX),
            root_keys: self.inner.db.store.root_keys().known,
        };
        let mut change = Change::new();
        change.guard(guard).put(key, &record, None)?;
        // Critical: without heartbeats every node takes the others for gone.
        match self.inner.db.commit_critical_at(change).await {
            Ok(version) => {
                standing.version = Some(version);
                self.inner.cluster.told_keys.send_replace(record.root_keys);
                Ok(())
            }
            // Our own, of which the answer was lost, or another's: the next look tells.
            Err(NotCommitted::Conflict) => {
                standing.version = None;
                Ok(())
            }
            Err(NotCommitted::Failure(failure)) => Err(failure),
        }
    }

    /// Waits until the others can see that this node knows a root key; false if that takes too long, as without the store.
    pub(crate) async fn told_of_root_key(&self, id: &str) -> bool {
        if !self.is_shared() {
            return true;
        }
        let mut told = self.inner.cluster.told_keys.subscribe();
        let told = told.wait_for(|told| told.iter().any(|known| known == id));
        // The sender lives as long as the keeper.
        matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(_)))
    }

    fn give_way(&self, other: &NodeRecord) {
        tracing::error!(
            address = other.address,
            "another server has taken this node's name while this one did not reach the store: this one stops; give each node a name of its own (cluster.myname)"
        );
        self.inner.cluster.lost_sight();
        self.inner.cluster.superseded.send_replace(true);
    }
}
