//! Rate limits: how many requests one address or one user may send, as the configuration files say and as operators wrote.
//!
//! Owns what is to be counted and keeps what was written. Refuses to count: that is done where requests arrive. All that was written is
//! one record, read at the start and whenever any node writes it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use gridkeep_store::{Guard, Kind};
use serde::{Deserialize, Serialize};

use crate::database::{Change, Database, NotCommitted, Stored, name};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::recurring::{Recurring, Tell};

const RATE_LIMITS: Kind = Kind(60);

/// Limits that can be written, a bound for the record.
const MOST_WRITTEN: usize = 1000;

/// After which what could not be read is read again.
const RETRY: Duration = Duration::from_secs(2);

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedBy {
    /// All from one IPv4 address, or from one IPv6 network of 64 bits.
    #[default]
    Address,
    /// All whose tokens speak for one identity, wherever they come from; without a live token, those of one address.
    User,
}

impl CountedBy {
    /// The spellings and their meaning.
    pub const CHOICES: [(&'static str, Self); 2] =
        [("address", Self::Address), ("user", Self::User)];

    /// The word in files and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::User => "user",
        }
    }
}

/// One rate limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Its name.
    pub name: String,
    /// The path it is for, without slashes at its ends: a mount with all below it, one path, or all that begin with what stands before
    /// a final `*`. Empty: everything.
    pub path: String,
    /// Requests in an interval.
    pub rate: u64,
    /// The interval, which begins with the first request.
    pub interval: Duration,
    /// How long all further requests are refused after one too many.
    pub block_interval: Duration,
    /// Whose requests are counted together.
    #[serde(default)]
    pub per: CountedBy,
}

/// What holds for all rate limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimitOptions {
    /// Paths that are never limited, besides those that always are exempt; a final `*` stands for any ending.
    #[serde(default)]
    pub exempt_paths: Vec<String>,
    /// Whether refused requests are audited.
    #[serde(default)]
    pub audit: bool,
    /// Whether every answer tells how much of the limit is left.
    #[serde(default)]
    pub headers: bool,
}

/// All rate limits in force.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RateLimitTable {
    /// From the configuration files.
    pub configured: Vec<RateLimit>,
    /// Written by operators, by name. A configured limit of the same name hides one of these.
    pub written: BTreeMap<String, RateLimit>,
    /// What holds for all.
    pub options: RateLimitOptions,
}

impl RateLimitTable {
    /// The limit called `name`.
    pub fn get(&self, name: &str) -> Option<&RateLimit> {
        self.configured(name).or_else(|| self.written.get(name))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &RateLimit> {
        let written = self
            .written
            .values()
            .filter(|limit| self.configured(&limit.name).is_none());
        self.configured.iter().chain(written)
    }

    fn configured(&self, name: &str) -> Option<&RateLimit> {
        self.configured.iter().find(|limit| limit.name == name)
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct RateLimitsRecord {
    #[serde(default)]
    limits: BTreeMap<String, RateLimit>,
    #[serde(default)]
    options: RateLimitOptions,
}

/// The limits as this node has them in memory.
pub(crate) struct RateLimits(RwLock<Arc<RateLimitTable>>);

impl RateLimits {
    pub async fn load(db: &Database) -> Result<RateLimits, Failure> {
        let limits = RateLimits(RwLock::default());
        limits.reload(db).await?;
        Ok(limits)
    }

    async fn reload(&self, db: &Database) -> Result<(), Failure> {
        let record = db
            .get::<RateLimitsRecord>(&name(RATE_LIMITS, &[]))
            .await?
            .map(|stored| stored.value)
            .unwrap_or_default();
        self.update(|table| RateLimitTable {
            configured: table.configured.clone(),
            written: record.limits,
            options: record.options,
        });
        Ok(())
    }

    /// Puts the limits of the files into force.
    pub fn configure(&self, configured: &[RateLimit]) {
        self.update(|table| RateLimitTable {
            configured: configured.to_vec(),
            written: table.written.clone(),
            options: table.options.clone(),
        });
    }

    fn update(&self, make: impl FnOnce(&RateLimitTable) -> RateLimitTable) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *table = Arc::new(make(&table));
    }
}

impl Keeper {
    /// The rate limits in force. Another [`Arc`] means that they may have changed.
    pub fn rate_limits(&self) -> Arc<RateLimitTable> {
        self.inner
            .rate_limits
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Writes a rate limit in the place of one of the same name.
    ///
    /// # Errors
    /// [`BadInput::FromFiles`] for one that the configuration files give, [`BadInput::SimilarRateLimit`] when there is one for the same
    /// path, [`Failure::Later`] when the store cannot be written.
    pub async fn put_rate_limit(&self, limit: RateLimit) -> Result<(), Failure> {
        self.refuse_configured(&limit.name)?;
        let table = self.rate_limits();
        let similar = table.iter().find(|other| {
            other.name != limit.name && other.path == limit.path && other.per == limit.per
        });
        if let Some(similar) = similar {
            return Err(BadInput::SimilarRateLimit {
                name: similar.name.clone(),
            }
            .into());
        }
        self.write_rate_limits(|record| {
            if record.limits.len() >= MOST_WRITTEN && !record.limits.contains_key(&limit.name) {
                return Err(BadInput::Other(format!(
                    "there are {MOST_WRITTEN} rate limits already; delete one first"
                )));
            }
            record.limits.insert(limit.name.clone(), limit.clone());
            Ok(())
        })
        .await
    }

    /// Deletes a rate limit that was written; one that is not there stays so.
    ///
    /// # Errors
    /// As [`Keeper::put_rate_limit`].
    pub async fn delete_rate_limit(&self, name: &str) -> Result<(), Failure> {
        self.refuse_configured(name)?;
        self.write_rate_limits(|record| {
            record.limits.remove(name);
            Ok(())
        })
        .await
    }

    /// Writes what holds for all rate limits.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn put_rate_limit_options(&self, options: RateLimitOptions) -> Result<(), Failure> {
        self.write_rate_limits(|record| {
            record.options = options.clone();
            Ok(())
        })
        .await
    }

    fn refuse_configured(&self, name: &str) -> Result<(), BadInput> {
        if self.rate_limits().configured(name).is_none() {
            return Ok(());
        }
        Err(BadInput::FromFiles {
            what: format!("rate limit \"{name}\""),
            key: format!("ratelimits[{name}]"),
            node: self.setup().published_by.clone(),
        })
    }

    async fn write_rate_limits(
        &self,
        change_record: impl Fn(&mut RateLimitsRecord) -> Result<(), BadInput>,
    ) -> Result<(), Failure> {
        let key = name(RATE_LIMITS, &[]);
        loop {
            let stored = self.inner.db.get::<RateLimitsRecord>(&key).await?;
            let mut record = stored
                .as_ref()
                .map(|stored| stored.value.clone())
                .unwrap_or_default();
            change_record(&mut record)?;
            let mut change = Change::new();
            change
                .guard(
                    stored
                        .as_ref()
                        .map_or_else(|| Guard::Absent(key.clone()), Stored::unchanged),
                )
                .put(key.clone(), &record, None)?;
            match self.inner.db.commit(change).await {
                // Read back instead of put in place: another write may have come after this one.
                Ok(()) => return self.inner.rate_limits.reload(&self.inner.db).await,
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Takes over what other nodes write, until the keeper stops.
    pub(crate) fn follow_rate_limits(&self) {
        let mut watch = self.inner.db.store.watch(RATE_LIMITS, &[]);
        let (keeper, mut stop) = (self.clone(), self.stopping());
        self.own(async move {
            // What was written since they were loaded came before the watch.
            let mut again = Some(Duration::ZERO);
            let troubles = Recurring::new(Duration::ZERO);
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    event = watch.next() => if event.is_none() { return },
                    () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
                }
                again = match keeper.inner.rate_limits.reload(&keeper.inner.db).await {
                    Ok(()) => {
                        if troubles.worked().is_some() {
                            tracing::info!("the rate limits that were written are in force on this node");
                        }
                        None
                    }
                    // Until then the limits from before hold.
                    Err(failure) => {
                        match troubles.failed(failure.later_kind()) {
                            Tell::Begun => tracing::warn!(%failure, "rate limits that were written are not in force on this node yet; they are read again by themselves"),
                            Tell::Lasts(times) => tracing::warn!(times, %failure, "rate limits that were written are still not in force on this node"),
                            Tell::Known => tracing::debug!(%failure, "rate limits could not be read"),
                        }
                        Some(RETRY)
                    }
                };
            }
        });
    }
}
