//! The schema level of records: what this program reads, and what all live nodes can read and is therefore written.
//!
//! A new form of a record that an older program would misread needs a new level: raise [`LEVEL`], and write the new form only
//! where [`Level::writes`] says so.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::nodes::Observed;
use crate::database::{Change, NotCommitted, name};
use crate::failure::{Failure, Later, LaterKind};
use crate::keeper::{Keeper, missing_record};
use crate::records::{KEEPER, KeeperRecord};

/// The newest schema level that this program reads and writes.
pub const LEVEL: u16 = 1;

/// Nodes that were heard of this recently have to be able to read what is written, also while they are restarted.
pub(super) const REMEMBERED: Duration = Duration::from_secs(600);

/// Levels of this node.
#[derive(Debug)]
pub(crate) struct Level {
    /// Up to which level this node reads.
    pub reads: u16,
    writes: AtomicU16,
}

impl Level {
    pub fn new(reads: u16) -> Self {
        Level {
            reads,
            writes: AtomicU16::new(1),
        }
    }

    /// The level in which records are written.
    pub fn writes(&self) -> u16 {
        self.writes.load(Ordering::SeqCst)
    }

    /// The store's level is now `level`.
    pub fn set(&self, level: u16) {
        self.writes.store(level, Ordering::SeqCst);
    }

    /// Refuses a store that this program cannot read.
    pub fn check(&self, stored: u16) -> Result<(), Failure> {
        if stored <= self.reads {
            return Ok(());
        }
        Err(Later::new(
            LaterKind::Store,
            format!("the records of the store are of level {stored}, this program reads levels up to {}: all nodes of the cluster had a newer version when the level was raised; start this node with the version of the others", self.reads),
        )
        .into())
    }
}

impl Keeper {
    /// Raises the level of the store to what every node reads that was heard of in the last ten minutes.
    pub(super) async fn raise_level(&self) -> Result<(), Failure> {
        let level = &self.inner.db.level;
        if level.writes() >= level.reads || !self.fresh() {
            return Ok(());
        }
        let wanted = self
            .each_node(|node: &Observed, keeper| {
                node.is_remembered(keeper).then_some(node.record.level)
            })
            .into_iter()
            .flatten()
            .fold(level.reads, u16::min);
        if wanted <= level.writes() {
            return Ok(());
        }
        let key = name(KEEPER, &[]);
        let stored = self
            .inner
            .db
            .get::<KeeperRecord>(&key)
            .await?
            .ok_or_else(missing_record)?;
        if stored.value.level >= wanted {
            level.set(stored.value.level);
            return Ok(());
        }
        let mut record = stored.value.clone();
        record.level = wanted;
        let mut change = Change::new();
        change.guard(stored.unchanged()).put(key, &record, None)?;
        match self.inner.db.commit(change).await {
            Ok(()) => {
                level.set(wanted);
                tracing::info!(
                    level = wanted,
                    "every node reads this level of records: it is written from now on"
                );
                Ok(())
            }
            Err(NotCommitted::Conflict) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }
}
