//! Where each node's audit log ended when it was last looked at: what a log that was cut short cannot take back.
//!
//! Owns one record per node and the key that audit lines are chained under. Refuses to know what a line is: a dialect writes and
//! verifies them.

use gridkeep_store::{Guard, Name, Page, Store};
use gridkeep_token::time::UnixSeconds;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::database::{Change, NotCommitted, failure, name};
use crate::failure::{Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::records::AUDIT_ANCHOR;

const CHAIN_KEY: &str = "audit chain";

/// The end of a node's audit log at some moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnchor {
    /// The node that writes it.
    pub node: String,
    /// Identifier of its chain of lines.
    pub chain: String,
    /// Number of the last line.
    pub seq: u64,
    /// The chain value of that line, as it stands in it.
    pub mac: String,
    /// The file's path on that node.
    pub path: String,
    /// Device number of the file.
    pub device: u64,
    /// Inode number of the file.
    pub inode: u64,
    /// Bytes the file had with that line.
    pub length: u64,
    /// When this was noted.
    pub at: UnixSeconds,
}

/// What audit logs are verified with.
#[derive(Debug, Clone)]
pub struct AuditEvidence {
    /// The key of the chains.
    pub key: Zeroizing<[u8; 32]>,
    /// The ends of all nodes' logs.
    pub anchors: Vec<AuditAnchor>,
}

impl AuditEvidence {
    /// Reads it from a store that no keeper is open on.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn of_store(store: &Store) -> Result<AuditEvidence, Failure> {
        let mut anchors = Vec::new();
        let mut after = None;
        loop {
            let page = store
                .scan(AUDIT_ANCHOR, &[], Page { after, limit: 500 })
                .await
                .map_err(|error| failure(&error))?;
            if let Some(damaged) = page.damaged.first() {
                return Err(failure(damaged));
            }
            for entry in page.entries {
                anchors.push(
                    entry
                        .record
                        .parse::<AuditAnchor>()
                        .map_err(|error| failure(&error))?,
                );
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(AuditEvidence {
            key: store.derive_key(CHAIN_KEY),
            anchors,
        })
    }
}

impl Keeper {
    /// What audit logs are verified with, and lines are chained under.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn audit_evidence(&self) -> Result<AuditEvidence, Failure> {
        AuditEvidence::of_store(&self.inner.db.store).await
    }

    /// Notes where this node's audit log ends.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written, or when the anchor is older than what is noted: then another process
    /// writes under this node's name.
    pub async fn anchor_audit(&self, anchor: &AuditAnchor) -> Result<(), Failure> {
        let key: Name = name(AUDIT_ANCHOR, &[&anchor.node]);
        let stored = self.inner.db.get::<AuditAnchor>(&key).await?;
        let newer = stored.as_ref().is_some_and(|stored| {
            stored.value.chain == anchor.chain && stored.value.seq > anchor.seq
        });
        let mut change = Change::new();
        change.guard(stored.map_or(Guard::Absent(key.clone()), |stored| stored.unchanged()));
        change.put(key, anchor, None)?;
        let outcome = if newer {
            Err(NotCommitted::Conflict)
        } else {
            self.inner.db.commit(change).await
        };
        match outcome {
            Err(NotCommitted::Conflict) => Err(Later::new(
                LaterKind::Store,
                format!(
                    "another process notes the end of the audit log of node {}; give each node a name of its own (cluster.myname)",
                    anchor.node
                ),
            )
            .into()),
            done => Ok(done?),
        }
    }

    /// The name of this node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.options.node
    }
}
