//! The configuration that all nodes share, as one record of the store. What is in it is nobody's business here.

use gridkeep_store::{Guard, Store};
use gridkeep_token::time::UnixSeconds;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::Level;
use super::nodes::{NodeRecord, node_name};
use crate::cluster::LEVEL;
use crate::database::{Change, Database, NotCommitted, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::records::{CONFIGURATION, ConfigurationRecord};

/// Largest configuration that is stored, in bytes: a transaction has to hold it in its sealed form.
const LARGEST: usize = 700 * 1024;

/// A configuration as it is in the store, where it is sealed like everything else.
#[derive(Clone)]
pub struct StoredConfiguration {
    /// Counts the configurations, from 1.
    pub version: u64,
    /// Digest of what it says, by which nodes compare their files with it.
    pub digest: String,
    /// The node whose files it was.
    pub by: String,
    /// When it was published.
    pub at: UnixSeconds,
    /// What it says.
    pub text: Zeroizing<String>,
}

impl std::fmt::Debug for StoredConfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredConfiguration")
            .field("version", &self.version)
            .field("digest", &self.digest)
            .field("by", &self.by)
            .finish_non_exhaustive()
    }
}

impl StoredConfiguration {
    /// What is in the store.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn read(store: &Store) -> Result<Option<Self>, Failure> {
        let found = database(store)
            .get::<ConfigurationRecord>(&name(CONFIGURATION, &[]))
            .await?;
        Ok(found.map(|found| StoredConfiguration {
            version: found.value.version,
            digest: found.value.digest.clone(),
            by: found.value.by.clone(),
            at: found.value.at,
            text: Zeroizing::new(found.value.text.clone()),
        }))
    }

    /// Puts `text` into the store as the configuration of all nodes, in the place of version `over` (`None`: of whatever is
    /// there); answers its version, or `None` when another node was quicker.
    ///
    /// # Errors
    /// [`BadInput`] when it is too large, [`Failure::Later`] when the store cannot be written.
    pub async fn publish(
        store: &Store,
        over: Option<u64>,
        digest: &str,
        text: &str,
        by: &str,
        at: UnixSeconds,
    ) -> Result<Option<u64>, Failure> {
        if text.len() > LARGEST {
            return Err(BadInput::Other(format!(
                "the configuration has {} bytes, of which nodes can share at most {LARGEST}; shorten it, or take comments out of its files",
                text.len()
            ))
            .into());
        }
        let db = database(store);
        let key = name(CONFIGURATION, &[]);
        loop {
            let found = db.get::<ConfigurationRecord>(&key).await?;
            let standing = found.as_ref().map_or(0, |found| found.value.version);
            if over.is_some_and(|over| over != standing) {
                return Ok(None);
            }
            let record = ConfigurationRecord {
                version: standing + 1,
                digest: digest.to_owned(),
                by: by.to_owned(),
                at,
                text: text.to_owned(),
            };
            let mut change = Change::new();
            change
                .guard(found.as_ref().map_or_else(
                    || Guard::Absent(key.clone()),
                    crate::database::Stored::unchanged,
                ))
                .put(key.clone(), &record, None)?;
            events::record(
                &mut change,
                &Event {
                    at,
                    what: "configuration".into(),
                    subject: "configuration".into(),
                    by: by.to_owned(),
                    from: None,
                    detail: format!("version {}", record.version),
                },
            )?;
            match db.commit(change).await {
                Ok(()) => return Ok(Some(record.version)),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }
}

/// Digest of the shared part of the files of `node` when it last ran, if it did and they had one.
///
/// # Errors
/// [`Failure::Later`] when the store cannot be read.
pub async fn previous_files(store: &Store, node: &str) -> Result<Option<String>, Failure> {
    let found = database(store).get::<NodeRecord>(&node_name(node)).await?;
    Ok(found.and_then(|found| found.value.report.files))
}

fn database(store: &Store) -> Database {
    Database {
        store: store.clone(),
        caches: None,
        level: std::sync::Arc::new(Level::new(LEVEL)),
        troubles: std::sync::Arc::default(),
    }
}

impl Keeper {
    /// The store, for what is in it beside the keeper's own: see [`StoredConfiguration`].
    pub fn store(&self) -> &Store {
        &self.inner.db.store
    }

    /// The version of the stored configuration whenever it changes; 0 while there is none.
    pub fn configuration_versions(&self) -> watch::Receiver<u64> {
        self.inner.cluster.configuration.subscribe()
    }
}
