//! Rotating the keys of the store while it is in use.
//!
//! Owns the order of the steps: a new data key counts at once, what is older is sealed anew in the background, and only then are old
//! keys forgotten.

use gridkeep_store::{RootKey, StoreError};
use gridkeep_token::time::UnixSeconds;

use crate::database::{Change, failure};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::records::{DataKeySince, KeeperRecord};

/// What the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    /// Generation of the data key that new records are sealed under.
    pub generation: u32,
    /// Generations that some record may still be sealed under.
    pub generations: usize,
    /// Public identifier of the root key.
    pub root_key_id: String,
}

/// Writes down that the newest data key is in use since `now`, unless that is known already, or of a newer one.
pub(crate) fn note(record: &mut KeeperRecord, generation: u32, now: UnixSeconds) {
    if record
        .data_key
        .is_none_or(|key| key.generation < generation)
    {
        record.data_key = Some(DataKeySince {
            generation,
            at: now,
        });
    }
}

impl Keeper {
    /// What the keys are.
    #[must_use]
    pub fn key_status(&self) -> KeyStatus {
        let status = self.inner.db.store.status();
        KeyStatus {
            generation: status.key_generation,
            generations: status.key_generations,
            root_key_id: status.root_key_id,
        }
    }

    /// The root key that the store is sealed under now, in a cluster by whichever node: the one that the next start needs.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn root_key_id(&self) -> Result<String, Failure> {
        let state = self.inner.db.store.seal_state().await;
        Ok(state.map_err(|error| failure(&error))?.root_key_id)
    }

    /// Since when records are sealed under the newest data key. Of one that was made by an older version, since it was first seen.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn data_key_since(&self) -> Result<UnixSeconds, Failure> {
        let record = self.record().await?.value;
        let generation = self.key_status().generation;
        Ok(record
            .data_key
            .filter(|key| key.generation == generation)
            .map_or(self.inner.started_at, |key| key.at))
    }

    /// Adds a data key, and seals all records under it in the background; answers its generation.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn rotate_keyring(&self, by: &str) -> Result<u32, Failure> {
        let store = &self.inner.db.store;
        let generation = store
            .rotate_keyring()
            .await
            .map_err(|error| failure(&error))?;
        let noted = self.amend_record(|record| note(record, generation, self.now()));
        if let Err(error) = noted.await {
            tracing::info!(%error, generation, "since when the new data key is in use could not be stored; the next start or reload notes its own time");
        }
        self.tell_of_keys("keyring_rotated", by, &format!("generation {generation}"))
            .await;
        self.reseal_in_background(generation);
        Ok(generation)
    }

    /// At a start: goes on with what an earlier run did not finish.
    pub(crate) fn take_up_resealing(&self) {
        let status = self.key_status();
        if status.generations > 1 {
            self.reseal_in_background(status.generation);
        }
    }

    /// Several at once, here or on other nodes, do no harm: who comes second finds less to do.
    fn reseal_in_background(&self, generation: u32) {
        let keeper = self.clone();
        let mut stop = self.stopping();
        self.own(async move {
            let resealed = tokio::select! {
                // What was sealed anew stays so, and the next start does the rest.
                _ = stop.wait_for(|stop| *stop) => return,
                resealed = keeper.inner.db.store.reseal_all() => resealed,
            };
            match resealed {
                Ok(done) if done.damaged.is_empty() => tracing::info!(
                    generation,
                    records = done.resealed,
                    "all records are sealed under the newest key; older ones are forgotten"
                ),
                Ok(done) => {
                    for damaged in &done.damaged {
                        tracing::error!(%damaged, "a record could not be sealed anew; its old key is kept");
                    }
                }
                Err(error) => tracing::warn!(
                    %error,
                    "not all records are sealed under the newest key yet; the next start or rotation goes on"
                ),
            }
        });
    }

    /// Seals the keyring under another root key; from then on the old one opens this store no longer. Who does not know the new one is
    /// locked out: [`Keeper::nodes_without`].
    ///
    /// # Errors
    /// [`BadInput::RootKeyReplaced`] when another node has replaced it at the same time; [`Failure::Later`] when the store cannot be written; then either key may be the one, and the same call tells.
    pub async fn replace_root_key(&self, key: &RootKey, by: &str) -> Result<(), Failure> {
        let store = &self.inner.db.store;
        store
            .replace_root_key(key)
            .await
            .map_err(|error| match error {
                StoreError::RootKeyReplaced { .. } => BadInput::RootKeyReplaced {
                    what: error.to_string(),
                }
                .into(),
                error => failure(&error),
            })?;
        if !store
            .is_sealed_under(key)
            .await
            .map_err(|error| failure(&error))?
        {
            return Err(failure(&StoreError::ForeignRootKey {
                expected: store.status().root_key_id,
                given: key.id(),
            }));
        }
        self.tell_of_keys("root_key_replaced", by, &format!("root key {}", key.id()))
            .await;
        Ok(())
    }

    /// Takes a root key for known that another node is about to seal the store under. Answers whether the others can see already that
    /// this node knows it; where they cannot, they refuse to put it in force for a while.
    pub async fn expect_root_key(&self, key: &RootKey) -> bool {
        self.inner.db.store.expect_root_key(key);
        self.told_of_root_key(&key.id()).await
    }

    /// What is told of is done already; so it does not fail because it cannot be told.
    async fn tell_of_keys(&self, what: &str, by: &str, detail: &str) {
        if let Err(error) = self.record_of_keys(what, by, detail).await {
            tracing::warn!(
                %error,
                what,
                by,
                detail,
                "the keys of the store were changed, but the event of it could not be stored"
            );
        }
    }

    async fn record_of_keys(&self, what: &str, by: &str, detail: &str) -> Result<(), Failure> {
        let mut change = Change::new();
        events::record(
            &mut change,
            &Event {
                at: self.now(),
                what: what.to_owned(),
                subject: "store".to_owned(),
                by: by.to_owned(),
                from: None,
                detail: detail.to_owned(),
            },
        )?;
        Ok(self.inner.db.commit(change).await?)
    }
}
