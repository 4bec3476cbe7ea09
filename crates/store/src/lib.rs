//! Transactional, versioned, sealed key-value store.
//!
//! Three things a caller wants of it:
//!
//! * **open** it: [`open()`] with [`OpenOptions`] and a [`RootKey`];
//! * **read** it: [`Store::get`], [`Store::get_many`], [`Store::scan`], [`Store::watch`], and with [`Store::get_marked`] keep what was read
//!   for as long as nobody wrote it;
//! * **write** it: [`Store::commit`] of a [`Transaction`] whose [`Guard`]s say what it was decided on.
//!
//! ```
//! use gridkeep_store::{Guard, Kind, Name, OpenOptions, Record, RootKey, Transaction, open};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let (key_file, data) = (scratch.path().join("root.key"), scratch.path().join("data"));
//! let root_key = RootKey::load_or_generate(&key_file, &data)?;
//! let store = open(OpenOptions::new(&data, root_key))?;
//!
//! let name = Name::new(Kind(1), &["dune", "alice", "default"]);
//! let found = store.get(&name).await?;
//! let record = Record::json(1, &"anything", None)?;
//! store.commit(Transaction::new().guard(Guard::unchanged(&name, found.as_ref())).put(name.clone(), record)).await?;
//! assert_eq!(store.get(&name).await?.ok_or("gone")?.parse::<String>()?, "anything");
//! store.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Layers, each in its own module: an [`engine`] that knows bytes only, sealing with a keyring under the root key, and the typed
//! [`Store`]. The store never hides what has expired: that is for readers, who have the clock; [`Store::sweep`] deletes later.
//! A new engine is a module of [`engine`] and done when [`conformance`] passes on it.

mod aside;
mod bootstrap;
mod clock;
mod codec;
pub mod conformance;
mod copy;
pub mod engine;
mod error;
mod keyring;
mod lease;
mod mark;
mod measure;
mod name;
mod open;
mod record;
mod root_key;
mod rotate;
mod seal_state;
mod sealing;
pub mod shamir;
mod store;
mod sweep;
#[cfg(test)]
mod tampering;
pub mod testing;
mod watch;
mod watching;

pub use clock::{BootClock, SystemBootClock};
pub use copy::{Copied, StorePlace, copy};
pub use engine::etcd::{
    Etcd, MemberHealth, MemberState, Settings as EtcdSettings, Tls as EtcdTls,
    Upkeep as EtcdUpkeep, health,
};
pub use error::{CommitError, Outcome, Remedy, StoreError};
pub use lease::Lease;
pub use mark::Mark;
pub use measure::describe_metrics;
pub use name::{Kind, Name};
pub use open::{Initialise, OpenOptions, RESERVE_BYTES, holds_data, open, open_behind};
pub use record::{Committed, Entry, Guard, Record, Transaction, Version};
pub use root_key::RootKey;
pub use rotate::{Resealed, RootKeys};
pub use seal_state::{SealState, Shares};
pub use store::{Cursor, MAX_PAGE, Page, ScanPage, Status, Store};
pub use sweep::Swept;
pub use watch::{Change, Hub, QUEUE_BYTES, QUEUE_CHANGES, WatchEvent};
pub use watching::{KindsWatch, Seen, Watch};
