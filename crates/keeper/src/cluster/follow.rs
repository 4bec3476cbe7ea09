//! The one watch: what other nodes write and this one has in memory.

use std::time::Duration;

use gridkeep_store::{Kind, KindsWatch, Seen, Version};
use serde::de::DeserializeOwned;

use super::nodes::NodeRecord;
use crate::database::name;
use crate::failure::Failure;
use crate::keeper::{Keeper, missing_record};
use crate::records::{
    CONFIGURATION, CREDENTIAL, ConfigurationRecord, GRANT, INTENT, Intent, KEEPER, KeeperRecord,
    LOGIN, LoginRecord, NODE, POLICIES, TOKEN,
};

/// All that is in memory somewhere.
pub(super) const KINDS: [Kind; 9] = [
    NODE,
    TOKEN,
    CREDENTIAL,
    GRANT,
    POLICIES,
    CONFIGURATION,
    KEEPER,
    LOGIN,
    INTENT,
];

/// From one try to read everything anew to the next.
const AGAIN: Duration = Duration::from_millis(250);

impl Keeper {
    /// Follows the watch for as long as the store is open.
    pub(super) async fn follow(&self, mut watch: KindsWatch) {
        while let Some(seen) = watch.next().await {
            let done = match seen {
                Some(seen) => self.take_in(&seen).await,
                None => Err(None),
            };
            let Err(mut trouble) = done else { continue };
            // From here on nothing in memory counts, until all of it was read anew and a heartbeat sent after that is seen.
            self.inner.cluster.lost_sight();
            tracing::info!(
                trouble = trouble.as_ref().map(tracing::field::display),
                "changes of the store were missed: all that is in memory is read anew"
            );
            while let Err(failure) = self.read_anew().await {
                if trouble.is_none() {
                    tracing::warn!(%failure, "the store cannot be read: nothing in memory counts until it can");
                }
                trouble = Some(failure);
                tokio::time::sleep(AGAIN).await;
            }
            // Heartbeats that were sent before the reading prove nothing.
            self.inner.cluster.lost_sight();
        }
        self.inner.cluster.lost_sight();
    }

    /// One change. An error means that what is in memory is not what the store has.
    async fn take_in(&self, seen: &Seen) -> Result<(), Option<Failure>> {
        let cluster = &self.inner.cluster;
        match seen.name.kind() {
            TOKEN | CREDENTIAL | GRANT => {
                cluster.caches.forget(&seen.name);
            }
            NODE => self.saw_node(seen),
            POLICIES => self.load_policies_if_changed().await.map_err(Some)?,
            CONFIGURATION => {
                if let Some(record) = parsed::<ConfigurationRecord>(seen) {
                    cluster.configuration.send_replace(record.version);
                }
            }
            KEEPER => {
                if let Some(record) = parsed::<KeeperRecord>(seen) {
                    self.inner.db.level.set(record.level);
                }
            }
            LOGIN => {
                let Some(id) = seen.name.parts().first() else {
                    return Ok(());
                };
                match parsed::<LoginRecord>(seen) {
                    Some(login) => self.inner.logins.elsewhere(id, login.from, login.deadline),
                    None => self.inner.logins.remove(id),
                }
            }
            INTENT => match (parsed::<Intent>(seen), seen.name.text(0)) {
                (Some(intent), _) => {
                    self.inner.intents.seen_for(&intent, self.inner.time.boot());
                }
                (None, Some(grant)) => self.inner.intents.ended(grant),
                (None, None) => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn saw_node(&self, seen: &Seen) {
        let Some(node) = seen.name.text(0) else {
            return;
        };
        let Some(record) = parsed::<NodeRecord>(seen) else {
            self.forget_node(node);
            return;
        };
        let own = *node == self.inner.options.node && record.process == self.inner.process;
        let beat = record.beat;
        self.observe(node, seen.version, record);
        if own {
            self.inner.cluster.saw_own(beat);
        }
    }

    /// Reads all that is in memory and is not read when it is needed.
    pub(super) async fn read_anew(&self) -> Result<(), Failure> {
        let db = &self.inner.db;
        let keeper = db
            .get::<KeeperRecord>(&name(KEEPER, &[]))
            .await?
            .ok_or_else(missing_record)?;
        db.level.check(keeper.value.level)?;
        db.level.set(keeper.value.level);
        self.load_policies_if_changed().await?;
        let configuration = db
            .get::<ConfigurationRecord>(&name(CONFIGURATION, &[]))
            .await?;
        if let Some(found) = configuration {
            self.inner.cluster.configuration.send_if_modified(|known| {
                std::mem::replace(known, found.value.version) != found.value.version
            });
        }
        let mut nodes = Vec::new();
        db.each::<NodeRecord>(NODE, &[], |stored| {
            nodes.push(stored);
            std::ops::ControlFlow::Continue(())
        })
        .await?;
        for stored in nodes {
            if let Some(node) = stored.name.text(0) {
                self.observe(node, stored.version, stored.value.clone());
            }
        }
        db.each::<LoginRecord>(LOGIN, &[], |stored| {
            if let Some(id) = stored.name.parts().first() {
                self.inner
                    .logins
                    .elsewhere(id, stored.value.from, stored.value.deadline);
            }
            std::ops::ControlFlow::Continue(())
        })
        .await?;
        let boot = self.inner.time.boot();
        db.each::<Intent>(INTENT, &[], |stored| {
            self.inner.intents.seen_for(&stored.value, boot);
            std::ops::ControlFlow::Continue(())
        })
        .await
    }

    /// Reads the policies if they were written since they were last read.
    pub(super) async fn load_policies_if_changed(&self) -> Result<(), Failure> {
        let mark = self
            .inner
            .db
            .get::<serde_json::Value>(&name(POLICIES, &[]))
            .await?
            .map_or(Version::from_number(0), |mark| mark.version);
        let known = &self.inner.cluster.policies;
        let is_known = |known: &Option<Version>| known.is_some_and(|known| known >= mark);
        if is_known(
            &known
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        ) {
            return Ok(());
        }
        self.inner.policies.reload(&self.inner.db).await?;
        let mut known = known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *known = (*known).max(Some(mark));
        Ok(())
    }
}

fn parsed<T: DeserializeOwned>(seen: &Seen) -> Option<T> {
    let record = seen.record.as_ref()?;
    match record.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%error, "a record that another node wrote cannot be read; is it of a newer version?");
            None
        }
    }
}
