//! The registry: every node has a record, which its heartbeat writes anew, and what this node has seen of the others.

use std::sync::PoisonError;
use std::time::Duration;

use gridkeep_store::{Name, RootKey, RootKeys, Version};
use gridkeep_token::time::UnixSeconds;
use serde::{Deserialize, Serialize};

use super::{SILENT, level};
use crate::clock::vote;
use crate::database::{Change, NotCommitted, name};
use crate::failure::Failure;
use crate::keeper::Keeper;
use crate::records::NODE;

/// A node that was not heard of for this long, in seconds, is not one any more.
const GONE: i64 = 7 * 86_400;

/// What a node says of itself in the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// This run of it.
    pub process: String,
    /// Counts the heartbeats of this run.
    pub beat: u64,
    /// Its wall clock at the heartbeat.
    pub at: UnixSeconds,
    pub started_at: UnixSeconds,
    /// It has said goodbye.
    #[serde(default)]
    pub stopped: bool,
    pub address: String,
    pub version: String,
    /// Level of records that it reads.
    pub level: u16,
    #[serde(default)]
    pub report: NodeReport,
    /// Milliseconds that the heartbeat before took to be committed.
    #[serde(default)]
    pub commit_ms: u64,
    /// Public identifiers of the root keys that it knows. Empty in a record of an older program, which does not say.
    #[serde(default)]
    pub root_keys: Vec<String>,
}

/// What a node tells the others of its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Digest of the shared part of its own files; `None` when they hold none.
    #[serde(default)]
    pub files: Option<String>,
    /// Version of the stored configuration that it has in force; 0 for none.
    #[serde(default)]
    pub configuration: u64,
    /// Whether its own files say something else than the stored configuration.
    #[serde(default)]
    pub drift: bool,
    /// Why the stored configuration is not in force here.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Keys of its own files that have no effect because the stored configuration says otherwise, each with its place. It goes
    /// with every heartbeat: keep it short.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_effect: Vec<String>,
}

/// What was seen of a node.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub record: NodeRecord,
    version: Version,
    /// Boot time of this node when the record was last seen to change.
    changed: Duration,
    /// Seconds by which its clock is ahead of this node's; `None` until two heartbeats were seen one soon after the other, since
    /// one that comes late says nothing of its clock.
    ahead: Option<i64>,
}

impl Observed {
    /// Whether it was heard of, or says it was, in the last ten minutes.
    pub fn is_remembered(&self, keeper: &Keeper) -> bool {
        let since = keeper.inner.time.boot().saturating_sub(self.changed);
        let said = keeper.now().0.saturating_sub(self.record.at.0);
        let limit = level::REMEMBERED;
        let recent = since < limit && said < i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        // A live one counts whatever its clock says.
        recent || self.is_live(keeper.inner.time.boot())
    }

    fn is_live(&self, now: Duration) -> bool {
        !self.record.stopped && now.saturating_sub(self.changed) < SILENT
    }
}

/// How a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// Its heartbeat was seen a moment ago.
    Live,
    /// It has said goodbye.
    Stopped,
    /// Nothing was heard of it for some seconds.
    Silent,
}

/// A node, as this one sees it.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether it is this one.
    pub here: bool,
    /// How it is doing.
    pub state: NodeState,
    /// Since its last heartbeat was seen here.
    pub since: Duration,
    /// Its wall clock at that heartbeat.
    pub at: UnixSeconds,
    /// Seconds by which its clock is ahead of this node's, where that is known.
    pub ahead: Option<i64>,
    /// When it was started.
    pub started_at: UnixSeconds,
    /// Where it is reached.
    pub address: String,
    /// Version of its program.
    pub version: String,
    /// Level of records that it reads.
    pub level: u16,
    /// Time that one of its heartbeats took to be committed.
    pub commit: Duration,
    /// What it says of its configuration.
    pub report: NodeReport,
    /// Public identifiers of the root keys that it knew at that heartbeat. Empty where its program does not say.
    pub root_keys: Vec<String>,
}

/// The cluster, as this node sees it.
#[derive(Debug, Clone)]
pub struct ClusterStatus {
    /// Whether other nodes may be on the same store.
    pub shared: bool,
    /// This node.
    pub node: String,
    /// Whether the store answers this node.
    pub store: bool,
    /// Since the store last answered this node; `None` if it never has.
    pub answered: Option<Duration>,
    /// Why the store did not take this node's last heartbeat.
    pub heartbeat_trouble: Option<String>,
    /// The root keys as this node knows them.
    pub root_keys: RootKeys,
    /// Whether what this node has in memory counts.
    pub fresh: bool,
    /// Whether most of the cluster agree on another time than this node's.
    pub outvoted: bool,
    /// Level in which records are written.
    pub level: u16,
    /// Version of the stored configuration; 0 for none.
    pub configuration: u64,
    /// All nodes that are known, by name.
    pub nodes: Vec<NodeStatus>,
}

/// A live node that is not known to have a root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutKey {
    /// Its name.
    pub name: String,
    /// Whether it says which keys it knows, as programs of before do not.
    pub says: bool,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Host and port.
    pub address: String,
}

pub(super) fn node_name(node: &str) -> Name {
    name(NODE, &[node])
}

impl Keeper {
    /// Takes note of a node's record.
    pub(super) fn observe(&self, node: &str, version: Version, record: NodeRecord) {
        let now = self.inner.time.boot();
        let ahead = record.at.0 - self.now().0;
        let mut nodes = self.nodes();
        match nodes.get_mut(node) {
            Some(known) if known.version >= version => {}
            Some(known) => {
                let promptly = known.is_live(now) && known.record.process == record.process;
                *known = Observed {
                    ahead: promptly.then_some(ahead),
                    record,
                    version,
                    changed: now,
                };
            }
            None => {
                nodes.insert(
                    node.to_owned(),
                    Observed {
                        record,
                        version,
                        changed: now,
                        ahead: None,
                    },
                );
            }
        }
    }

    /// Other live nodes that would be locked out if the store were sealed under this root key now, as their records in the store say at
    /// this moment. Whoever beat since this node heard of him last is live, whether or not this node hears anything.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn nodes_without(&self, key: &RootKey) -> Result<Vec<WithoutKey>, Failure> {
        let mut found = Vec::new();
        if !self.is_shared() {
            return Ok(found);
        }
        let id = key.id();
        self.inner
            .db
            .each::<NodeRecord>(NODE, &[], |stored| {
                if let Some(node) = stored.name.text(0)
                    && *node != self.inner.options.node
                    && !stored.value.stopped
                    && !stored.value.root_keys.contains(&id)
                    && !self.is_silent(node, stored.version)
                {
                    found.push(WithoutKey {
                        name: node.to_owned(),
                        says: !stored.value.root_keys.is_empty(),
                    });
                }
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Whether a node whose record is at this version was not heard of for some seconds.
    fn is_silent(&self, node: &str, version: Version) -> bool {
        let now = self.inner.time.boot();
        self.nodes()
            .get(node)
            .is_some_and(|known| known.version >= version && !known.is_live(now))
    }

    /// Deletes the records of nodes that were not heard of for a week.
    pub(crate) async fn forget_gone_nodes(&self, now: UnixSeconds) -> Result<(), Failure> {
        let mut gone = Vec::new();
        self.inner
            .db
            .each::<NodeRecord>(NODE, &[], |stored| {
                if now.0 - stored.value.at.0 > GONE {
                    gone.push(stored);
                }
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        for node in gone {
            let mut change = Change::new();
            change.guard(node.unchanged()).delete(node.name);
            match self.inner.db.commit(change).await {
                Ok(()) | Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    pub(super) fn forget_node(&self, node: &str) {
        self.nodes().remove(node);
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<String, Observed>> {
        self.inner
            .cluster
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn each_node<T>(&self, each: impl Fn(&Observed, &Keeper) -> T) -> Vec<T> {
        let nodes: Vec<Observed> = self.nodes().values().cloned().collect();
        nodes.iter().map(|node| each(node, self)).collect()
    }

    /// Nodes that are live, this one included, and the share of each issuer's budget that follows.
    pub(super) fn count_live_nodes(&self) {
        let now = self.inner.time.boot();
        let own = &self.inner.options.node;
        let others = self
            .nodes()
            .iter()
            .filter(|(name, node)| *name != own && node.is_live(now))
            .count();
        let live = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
        let changed = self.inner.cluster.live.send_if_modified(|known| {
            let changed = *known != live;
            *known = live;
            changed
        });
        if changed {
            tracing::info!(nodes = live, "live nodes of the cluster");
            self.share_budgets();
        }
    }

    /// Compares this node's clock with those of the others that are live; tells whether that could be done. While one of them was
    /// heard only once, or nobody is heard, what was found before stays.
    pub(super) fn compare_clocks(&self) -> bool {
        let now = self.inner.time.boot();
        let own = &self.inner.options.node;
        let ahead: Option<Vec<i64>> = self
            .nodes()
            .iter()
            .filter(|(name, node)| *name != own && node.is_live(now))
            .map(|(_, node)| node.ahead)
            .collect();
        match ahead {
            None => return false,
            Some(ahead) if ahead.is_empty() => self.inner.time.alone(),
            Some(ahead) => self.inner.time.set_vote(vote(ahead)),
        }
        true
    }

    /// Tells every issuer's client how many nodes share its budget.
    pub(crate) fn share_budgets(&self) {
        let live = *self.inner.cluster.live.borrow();
        for issuer in &self.setup().issuers {
            issuer.client.set_budget_share(live);
        }
    }

    /// Other nodes to which a request can be passed on, those that were heard of last first.
    pub fn peers(&self) -> Vec<Peer> {
        let own = &self.inner.options.node;
        let mut peers: Vec<(Duration, Peer)> = self
            .nodes()
            .iter()
            .filter(|(name, node)| *name != own && !node.record.stopped)
            .map(|(name, node)| {
                let peer = Peer {
                    name: name.clone(),
                    address: node.record.address.clone(),
                };
                (node.changed, peer)
            })
            .collect();
        peers.sort_by_key(|(changed, _)| std::cmp::Reverse(*changed));
        peers.into_iter().map(|(_, peer)| peer).collect()
    }

    /// Says what the others are told of this node's configuration, from the next heartbeat on.
    pub fn report(&self, report: NodeReport) {
        *self
            .inner
            .cluster
            .report
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = report;
    }

    /// What the others are told of this node's configuration.
    pub fn reported(&self) -> NodeReport {
        self.inner
            .cluster
            .report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The cluster, as this node sees it.
    pub fn cluster_status(&self) -> ClusterStatus {
        let cluster = &self.inner.cluster;
        let now = self.inner.time.boot();
        let own = &self.inner.options.node;
        let root_keys = self.inner.db.store.root_keys();
        let nodes = self
            .nodes()
            .iter()
            .map(|(name, node)| {
                let here = name == own;
                NodeStatus {
                    name: name.clone(),
                    here,
                    state: if node.record.stopped {
                        NodeState::Stopped
                    } else if node.is_live(now) {
                        NodeState::Live
                    } else {
                        NodeState::Silent
                    },
                    since: now.saturating_sub(node.changed),
                    at: node.record.at,
                    ahead: node.ahead.filter(|_| !here),
                    started_at: node.record.started_at,
                    address: node.record.address.clone(),
                    version: node.record.version.clone(),
                    level: node.record.level,
                    commit: Duration::from_millis(node.record.commit_ms),
                    // This node knows its own before its next heartbeat tells it.
                    report: if here {
                        self.reported()
                    } else {
                        node.record.report.clone()
                    },
                    root_keys: if here {
                        root_keys.known.clone()
                    } else {
                        node.record.root_keys.clone()
                    },
                }
            })
            .collect();
        ClusterStatus {
            shared: cluster.is_shared(),
            node: own.clone(),
            store: self.has_store(),
            answered: cluster.since_answer(now),
            heartbeat_trouble: cluster.heartbeat_trouble(),
            root_keys,
            fresh: self.fresh(),
            outvoted: self.inner.time.outvoted(),
            level: self.inner.db.level.writes(),
            configuration: *cluster.configuration.borrow(),
            nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_program_that_says_nothing_of_root_keys_is_read() {
        let old = serde_json::json!({
            "process": "p", "beat": 1, "at": 5, "started_at": 4, "address": "n.example:8200", "version": "0.1.0", "level": 1,
        });
        let read: NodeRecord = serde_json::from_value(old).unwrap();
        assert!(read.root_keys.is_empty() && !read.stopped);
    }
}
