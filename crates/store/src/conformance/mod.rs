//! What every engine must do, as test functions that panic where it does not.
//!
//! One file per matter; a new promise of the store is a new function in one of them and one line in [`conformance`]. Knows no
//! engine: it is given stores.

#![expect(
    clippy::expect_used,
    reason = "test functions: a panic is their verdict"
)]

use std::pin::Pin;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::{
    CommitError, Committed, Entry, Guard, Kind, Name, Record, Store, Transaction, Version,
};

mod commits;
mod faults;
mod reads;
mod rotation;
mod time;
mod watching;

pub use faults::under_faults;

/// A store under test.
pub struct Subject {
    /// New and empty.
    pub store: Store,
    /// Lets time pass for the engine's leases: moves its clock, or waits where that is a real one.
    pub pass_time: PassTime,
}

/// Lets time pass.
pub type PassTime = Box<dyn Fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Runs the whole suite; `fresh` makes a new and empty store each time it is called. Needs a tokio runtime.
///
/// # Panics
/// Where the engine does not conform.
pub async fn conformance<F, S>(fresh: F)
where
    F: Fn() -> S,
    S: Future<Output = Subject>,
{
    commits::put_get_delete(fresh().await.store).await;
    commits::versions_never_return(fresh().await.store).await;
    commits::guards(fresh().await.store).await;
    commits::all_or_nothing(fresh().await.store).await;
    commits::limits(fresh().await.store).await;
    commits::one_of_many_wins(fresh().await.store).await;
    commits::counting_loses_nothing(fresh().await.store).await;
    commits::agrees_with_a_model(fresh().await.store, 1, 300).await;
    reads::snapshots_are_of_one_moment(fresh().await.store).await;
    reads::scans(fresh().await.store).await;
    reads::pages(fresh().await.store).await;
    reads::marks(fresh().await.store).await;
    reads::bodies_are_opaque(fresh().await.store).await;
    reads::derived_keys(fresh().await.store).await;
    watching::changes(fresh().await.store).await;
    watching::gap(fresh().await.store).await;
    time::leases(fresh().await).await;
    time::sweeping(fresh().await.store).await;
    time::sweeping_follows_the_record(fresh().await.store).await;
    time::one_sweep_at_a_time(fresh().await).await;
    rotation::rotation(fresh().await.store).await;
    rotation::rotation_under_load(fresh().await.store).await;
    let closing = fresh().await.store;
    let clone = closing.clone();
    put(&closing, &name("a"), "1").await;
    closing.close().await.expect("closes");
    let refused = clone
        .commit(Transaction::new().put(name("a"), text("2")))
        .await;
    assert!(
        matches!(refused, Err(CommitError::Store(error)) if error.is_temporary()),
        "a closed store commits nothing"
    );
}

const KIND: Kind = Kind(7);

fn name(part: &str) -> Name {
    Name::new(KIND, &[part])
}

fn text(body: &str) -> Record {
    Record {
        schema: 1,
        body: Zeroizing::new(body.as_bytes().to_vec()),
        expires_at: None,
    }
}

fn expiring(body: &str, at: i64) -> Record {
    Record {
        expires_at: Some(at),
        ..text(body)
    }
}

async fn put(store: &Store, name: &Name, body: &str) -> Version {
    commit(store, Transaction::new().put(name.clone(), text(body))).await
}

async fn commit(store: &Store, transaction: Transaction) -> Version {
    let Committed { version } = store.commit(transaction).await.expect("commits");
    version
}

async fn get(store: &Store, name: &Name) -> Option<Entry> {
    store.get(name).await.expect("reads")
}

async fn body(store: &Store, name: &Name) -> Option<String> {
    get(store, name)
        .await
        .map(|entry| String::from_utf8(entry.record.body.to_vec()).expect("text"))
}

fn at(name: &Name, version: Version) -> Guard {
    Guard::At(name.clone(), version)
}

fn absent(name: &Name) -> Guard {
    Guard::Absent(name.clone())
}
