//! The keeper's way to the store: typed records in, typed failures out. Nothing else in this crate names the store's errors.

use std::sync::Arc;
use std::time::Duration;

use gridkeep_store::{
    CommitError, Cursor, Entry, Guard, Kind, Name, Page, Record, Store, StoreError, Transaction,
    Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::{Cache, Caches, Level};
use crate::failure::{Failure, Later, LaterKind};
use crate::recurring::{Recurring, Tell};

/// The level that records are made at; the one in force is put in when they are committed.
const SCHEMA: u16 = 1;

/// A store that has failed within this time is not said to serve again.
const QUIET: Duration = Duration::from_secs(5);

/// A record with the version it was read at.
#[derive(Debug, Clone)]
pub(crate) struct Stored<T> {
    pub version: Version,
    pub name: Name,
    pub value: T,
}

impl<T> Stored<T> {
    /// The guard that holds as long as nobody wrote this record.
    pub fn unchanged(&self) -> Guard {
        Guard::At(self.name.clone(), self.version)
    }
}

/// Why a commit did not happen.
#[derive(Debug)]
pub(crate) enum NotCommitted {
    /// A guard did not hold: somebody else wrote first.
    Conflict,
    /// The store could not.
    Failure(Failure),
}

impl From<NotCommitted> for Failure {
    fn from(not: NotCommitted) -> Failure {
        match not {
            NotCommitted::Failure(failure) => failure,
            NotCommitted::Conflict => Later::new(
                LaterKind::Store,
                "another request changed the same record at the same moment; nothing was changed by this one; repeat it",
            )
            .into(),
        }
    }
}

/// A transaction being put together.
#[derive(Default)]
pub(crate) struct Change(Transaction);

impl Change {
    pub fn new() -> Self {
        Change(Transaction {
            guards: Vec::new(),
            puts: Vec::new(),
            deletes: Vec::new(),
        })
    }

    pub fn guard(&mut self, guard: Guard) -> &mut Self {
        self.0.guards.push(guard);
        self
    }

    pub fn put<T: Serialize>(
        &mut self,
        name: Name,
        value: &T,
        expires_at: Option<i64>,
    ) -> Result<&mut Self, Failure> {
        self.0.puts.push((
            name,
            Record::json(SCHEMA, value, expires_at).map_err(|error| failure(&error))?,
        ));
        Ok(self)
    }

    pub fn delete(&mut self, name: Name) -> &mut Self {
        self.0.deletes.push(name);
        self
    }
}

/// The store, as the keeper sees it.
#[derive(Clone)]
pub(crate) struct Database {
    pub store: Store,
    /// Records in memory.
    pub caches: Option<Arc<Caches>>,
    pub level: Arc<Level>,
    /// What of its troubles the log knows.
    pub troubles: Arc<Troubles>,
}

/// A store that does not serve: readers, writers and what needs room may fail apart from each other.
#[derive(Debug)]
pub(crate) struct Troubles {
    reading: Recurring<LaterKind>,
    writing: Recurring<LaterKind>,
    room: Recurring<LaterKind>,
}

impl Default for Troubles {
    fn default() -> Self {
        Self {
            reading: Recurring::new(QUIET),
            writing: Recurring::new(QUIET),
            room: Recurring::new(QUIET),
        }
    }
}

impl Database {
    pub async fn get<T: DeserializeOwned>(
        &self,
        name: &Name,
    ) -> Result<Option<Stored<T>>, Failure> {
        self.read(self.store.get(name).await)?
            .map(|entry| self.parse(entry))
            .transpose()
    }

    /// As [`Database::get`], and keeps what it found in memory.
    pub async fn get_and_keep<T: DeserializeOwned>(
        &self,
        cache: impl Fn(&Caches) -> &Cache<T>,
        name: &Name,
    ) -> Result<Option<Arc<Stored<T>>>, Failure> {
        let found = self.get_many_and_keep(cache, std::slice::from_ref(name));
        Ok(found.await?.into_iter().next().flatten())
    }

    /// The records of several names, all as of one moment.
    pub async fn get_many<T: DeserializeOwned>(
        &self,
        names: &[Name],
    ) -> Result<Vec<Option<Stored<T>>>, Failure> {
        self.read(self.store.get_many(names).await)?
            .into_iter()
            .map(|entry| entry.map(|entry| self.parse(entry)).transpose())
            .collect()
    }

    /// The same, keeping what was found in memory.
    pub async fn get_many_and_keep<T: DeserializeOwned>(
        &self,
        cache: impl Fn(&Caches) -> &Cache<T>,
        names: &[Name],
    ) -> Result<Vec<Option<Arc<Stored<T>>>>, Failure> {
        let Some(caches) = self.caches.as_deref() else {
            let found = self.get_many(names).await?;
            return Ok(found.into_iter().map(|found| found.map(Arc::new)).collect());
        };
        let cache = cache(caches);
        let tickets: Vec<_> = names.iter().map(|name| cache.ticket(name)).collect();
        let found = self.read(self.store.get_marked(names).await)?;
        let mut all = Vec::with_capacity(names.len());
        for (ticket, (entry, mark)) in tickets.into_iter().zip(found) {
            let stored = entry.map(|entry| self.parse::<T>(entry)).transpose()?;
            let stored = stored.map(Arc::new);
            if let Some(stored) = &stored {
                cache.keep(ticket, mark, stored.clone());
            }
            all.push(stored);
        }
        Ok(all)
    }

    pub async fn commit(&self, change: Change) -> Result<(), NotCommitted> {
        self.commit_at(change).await.map(|_| ())
    }

    /// The same; answers the version that what was written has.
    pub async fn commit_at(&self, change: Change) -> Result<Version, NotCommitted> {
        self.write(change, false).await
    }

    /// The same with room taken from the space set aside: for what cannot be had again or must not be put off.
    pub async fn commit_critical(&self, change: Change) -> Result<(), NotCommitted> {
        self.commit_critical_at(change).await.map(|_| ())
    }

    /// The same; answers the version that what was written has.
    pub async fn commit_critical_at(&self, change: Change) -> Result<Version, NotCommitted> {
        self.write(change, true).await
    }

    async fn write(&self, change: Change, critical: bool) -> Result<Version, NotCommitted> {
        let mut transaction = change.0;
        for (_, record) in &mut transaction.puts {
            record.schema = self.level.writes();
        }
        let written: Vec<Name> = match self.caches {
            None => Vec::new(),
            Some(_) => {
                let puts = transaction.puts.iter().map(|(name, _)| name);
                puts.chain(&transaction.deletes).cloned().collect()
            }
        };
        // What always finds room proves nothing of it.
        let needs_room = !critical && !transaction.puts.is_empty();
        let committed = if critical {
            self.store.commit_critical(transaction).await
        } else {
            self.store.commit(transaction).await
        };
        // Whatever came of it: it may be there although the answer was lost.
        if let Some(caches) = &self.caches {
            written.iter().for_each(|name| caches.forget(name));
        }
        if committed.is_ok() {
            told_over(
                &self.troubles.writing,
                "the store takes what is written again",
            );
            if needs_room && self.store.status().refusing_writes.is_none() {
                told_over(&self.troubles.room, "the store has room again");
            }
        }
        self.outcome(committed)
    }

    fn outcome(
        &self,
        committed: Result<gridkeep_store::Committed, CommitError>,
    ) -> Result<Version, NotCommitted> {
        match committed {
            Ok(committed) => Ok(committed.version),
            Err(CommitError::Conflict { .. }) => Err(NotCommitted::Conflict),
            Err(CommitError::Store(error)) => Err(NotCommitted::Failure(self.not_written(&error))),
            Err(other) => Err(NotCommitted::Failure(
                Later::new(
                    LaterKind::Store,
                    format!("the change could not be stored: {other}; nothing was changed"),
                )
                .into(),
            )),
        }
    }

    /// Every record of `kind` below `prefix`, page by page, handed to `each`.
    pub async fn each<T: DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &[&[u8]],
        each: impl FnMut(Stored<T>) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Failure> {
        self.each_resting(kind, prefix, 0, each).await
    }

    /// The same; tells how many there are that are damaged and were passed over, for whoever would refuse something because a record is
    /// not there.
    pub async fn each_counting_damaged<T: DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &[&[u8]],
        each: impl FnMut(Stored<T>) -> std::ops::ControlFlow<()>,
    ) -> Result<usize, Failure> {
        self.pages(kind, prefix, 0, each).await
    }

    /// The same with a rest after each page, `rest` times as long as the page took: for what has time while others are served.
    pub async fn each_resting<T: DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &[&[u8]],
        rest: u32,
        each: impl FnMut(Stored<T>) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Failure> {
        self.pages(kind, prefix, rest, each).await.map(drop)
    }

    /// A page of these records, where to go on if there are more, and how many are damaged and were passed over.
    pub async fn page<T: DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &[&[u8]],
        after: Option<Cursor>,
    ) -> Result<(Vec<Stored<T>>, Option<Cursor>, usize), Failure> {
        let page = self.store.scan(kind, prefix, Page { after, limit: 500 });
        let page = self.read(page.await)?;
        let passed_over = page.damaged.len();
        for damaged in page.damaged {
            tracing::error!(%damaged, "a stored record is passed over");
        }
        let entries = page.entries.into_iter().map(|entry| self.parse(entry));
        Ok((entries.collect::<Result<_, _>>()?, page.next, passed_over))
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &[&[u8]],
        rest: u32,
        mut each: impl FnMut(Stored<T>) -> std::ops::ControlFlow<()>,
    ) -> Result<usize, Failure> {
        let (mut after, mut passed_over) = (None, 0);
        loop {
            let began = tokio::time::Instant::now();
            let (page, next, damaged) = self.page(kind, prefix, after).await?;
            passed_over += damaged;
            for stored in page {
                if each(stored).is_break() {
                    return Ok(passed_over);
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(passed_over),
            }
            if rest > 0 {
                tokio::time::sleep(began.elapsed() * rest).await;
            }
        }
    }
}

impl Database {
    fn read<T>(&self, answer: Result<T, StoreError>) -> Result<T, Failure> {
        match answer {
            Ok(found) => {
                told_over(&self.troubles.reading, "the store answers again");
                Ok(found)
            }
            Err(error) => Err(self.not_read(&error)),
        }
    }

    /// As [`failure`], for a store that is asked again and again: the log tells once, and then how often.
    pub(crate) fn not_read(&self, error: &StoreError) -> Failure {
        told(&self.troubles.reading, error)
    }

    /// The same for what is written.
    pub(crate) fn not_written(&self, error: &StoreError) -> Failure {
        match kind(error) {
            LaterKind::StoreFull => told(&self.troubles.room, error),
            _ => told(&self.troubles.writing, error),
        }
    }

    fn parse<T: DeserializeOwned>(&self, entry: Entry) -> Result<Stored<T>, Failure> {
        self.level.check(entry.record.schema)?;
        let value = entry.record.parse::<T>().map_err(|error| failure(&error))?;
        Ok(Stored {
            version: entry.version,
            name: entry.name,
            value,
        })
    }
}

/// What a failing store means to whoever asked, and to the log each time: for what an operator asks for once.
pub(crate) fn failure(error: &StoreError) -> Failure {
    if matches!(error, StoreError::ForeignRootKey { .. }) {
        // Whatever is written fails, many times a second: the heartbeat says once what happened and what helps.
        tracing::debug!(%error, "the store did not serve a request");
    } else {
        tracing::warn!(%error, "the store did not serve a request");
    }
    later(error)
}

fn later(error: &StoreError) -> Failure {
    Later::new(kind(error), error.to_string())
        .after(Duration::from_secs(5))
        .into()
}

fn kind(error: &StoreError) -> LaterKind {
    match error {
        StoreError::Full { .. } | StoreError::QuotaReached { .. } => LaterKind::StoreFull,
        _ => LaterKind::Store,
    }
}

/// Which request of a client failed by it is told where it is answered.
fn told(troubles: &Recurring<LaterKind>, error: &StoreError) -> Failure {
    // A damaged record is news each time: it may be another one.
    if !error.is_temporary() {
        return failure(error);
    }
    match troubles.failed(kind(error)) {
        Tell::Begun => tracing::warn!(
            %error,
            "the store does not serve; who asks meanwhile is told to ask again (503), and how often that was is told once a minute"
        ),
        Tell::Lasts(times) => tracing::warn!(times, %error, "the store still does not serve"),
        Tell::Known => tracing::debug!(%error, "the store did not serve a request"),
    }
    later(error)
}

fn told_over(troubles: &Recurring<LaterKind>, what: &str) {
    if let Some(over) = troubles.worked() {
        let seconds = over.lasted.as_secs();
        tracing::info!(times = over.times, seconds, "{what}");
    }
}

/// A name of `kind` made of texts.
pub(crate) fn name(kind: Kind, parts: &[&str]) -> Name {
    Name::new(kind, parts)
}
