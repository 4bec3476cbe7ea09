//! The keeper's way to the store: typed records in, typed failures out. Nothing else in this crate names the store's errors.

use gridkeep_store::{
    CommitError, Entry, Guard, Kind, Name, Record, Store, StoreError, Transaction, Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, Later, LaterKind};

const SCHEMA: u16 = 1;

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
}

impl Database {
    pub async fn get<T: DeserializeOwned>(
        &self,
        name: &Name,
    ) -> Result<Option<Stored<T>>, Failure> {
        self.store
            .get(name)
            .await
            .map_err(|error| failure(&error))?
            .map(parse)
            .transpose()
    }

    /// The records of several names, all as of one moment.
    pub async fn get_many<T: DeserializeOwned>(
        &self,
        names: &[Name],
    ) -> Result<Vec<Option<Stored<T>>>, Failure> {
        self.store
            .get_many(names)
            .await
            .map_err(|error| failure(&error))?
            .into_iter()
            .map(|entry| entry.map(parse).transpose())
            .collect()
    }

    pub async fn commit(&self, change: Change) -> Result<(), NotCommitted> {
        Self::outcome(self.store.commit(change.0).await)
    }

    /// The same with room taken from the space set aside: for what cannot be had again or must not be put off.
    pub async fn commit_critical(&self, change: Change) -> Result<(), NotCommitted> {
        Self::outcome(self.store.commit_critical(change.0).await)
    }

    fn outcome(
        committed: Result<gridkeep_store::Committed, CommitError>,
    ) -> Result<(), NotCommitted> {
        match committed {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { .. }) => Err(NotCommitted::Conflict),
            Err(CommitError::Store(error)) => Err(NotCommitted::Failure(failure(&error))),
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
        mut each: impl FnMut(Stored<T>) -> std::ops::ControlFlow<()>,
    ) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let page = self
                .store
                .scan(kind, prefix, gridkeep_store::Page { after, limit: 500 })
                .await
                .map_err(|error| failure(&error))?;
            for damaged in page.damaged {
                tracing::error!(%damaged, "a stored record is passed over");
            }
            for entry in page.entries {
                if each(parse(entry)?).is_break() {
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

fn parse<T: DeserializeOwned>(entry: Entry) -> Result<Stored<T>, Failure> {
    let value = entry.record.parse::<T>().map_err(|error| failure(&error))?;
    Ok(Stored {
        version: entry.version,
        name: entry.name,
        value,
    })
}

/// What a failing store means to whoever asked.
pub(crate) fn failure(error: &StoreError) -> Failure {
    let kind = match error {
        StoreError::Full { .. } => LaterKind::StoreFull,
        _ => LaterKind::Store,
    };
    tracing::warn!(%error, "the store did not serve a request");
    Later::new(kind, error.to_string())
        .after(std::time::Duration::from_secs(5))
        .into()
}

/// A name of `kind` made of texts.
pub(crate) fn name(kind: Kind, parts: &[&str]) -> Name {
    Name::new(kind, parts)
}
