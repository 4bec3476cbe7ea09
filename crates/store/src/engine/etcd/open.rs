//! Opening a store in etcd: what is found under the prefix, whether a new one may be made, and the tasks that serve it.
//!
//! Whatever number of nodes starts at once, one store is made: its keyring is written by a transaction that wants none to be there, and
//! whoever loses that race reads what the winner wrote.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::commit::Session;
use super::follow::{Progress, follow};
use super::hints::Hints;
use super::layout::Layout;
use super::lease::{Leases, look};
use super::proto::{
    Compare, DeleteRangeRequest, PUT, PutRequest, PutResponse, RangeRequest, Request, TxnRequest,
};
use super::rpc::{Repeat, Rpc};
use super::trouble::Trouble;
use super::upkeep::{self, Looks, Upkeep};
use super::{EtcdEngine, Shared, Tls, behind, revision_of};
use crate::bootstrap::FORMAT_KEY;
use crate::clock::{BootClock, SystemBootClock};
use crate::engine::Engine;
use crate::watch::Hub;
use crate::{Initialise, RootKey, Store, StoreError};

/// Layout of keys that this program writes, and newest that it reads.
const LAYOUT: u32 = 1;
const LAYOUT_NOTE: &str = "layout";
/// Keys deleted at once.
const CLEAR: i64 = 1000;
const OPENED_NOTE: &str = "opened";
/// How long opening waits for the watch. Later it begins by itself.
const WATCH: Duration = Duration::from_secs(2);

/// Where in etcd a store is, and how it is reached.
#[derive(Clone)]
pub struct Settings {
    /// Addresses of the members, as in `https://etcd1.example.org:2379`. All members should be named: the ones that are not are never
    /// asked.
    pub endpoints: Vec<String>,
    /// What all keys of the store begin with. It ends with a slash.
    pub prefix: String,
    /// TLS, for endpoints that begin with `https`.
    pub tls: Option<Tls>,
    /// The clock that leases lapse by.
    pub clock: Arc<dyn BootClock>,
    /// What this program does for etcd.
    pub upkeep: Upkeep,
}

impl Settings {
    /// Members without TLS, this host's clock.
    #[must_use]
    pub fn new(endpoints: Vec<String>, prefix: &str) -> Self {
        Self {
            endpoints,
            prefix: prefix.to_owned(),
            tls: None,
            clock: Arc::new(SystemBootClock),
            upkeep: Upkeep::default(),
        }
    }

    /// Endpoints and prefix, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        format!(
            "etcd at {}, prefix {}",
            self.endpoints.join(", "),
            self.prefix
        )
    }

    /// Judges endpoints and prefix; looks at no file and asks nobody.
    ///
    /// # Errors
    /// [`StoreError::Connection`].
    pub fn check(&self) -> Result<(), StoreError> {
        let problem = |problem: &str| StoreError::Connection {
            problem: problem.to_owned(),
        };
        if self.endpoints.is_empty() {
            return Err(problem("no endpoint is given"));
        }
        if !self.prefix.ends_with('/') {
            return Err(problem(&format!(
                "the prefix {:?} does not end with a slash, without which it would also be the beginning of other keys",
                self.prefix
            )));
        }
        Rpc::new(&self.endpoints, self.tls.clone().map(Arc::new)).map(drop)
    }
}

/// A place in etcd where a store is or is to be.
pub struct Etcd {
    shared: Arc<Shared>,
    upkeep: Upkeep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing under the prefix.
    Empty,
    /// A first start was begun and not completed.
    Initialising,
    /// Another store was to be copied here, and that was not completed.
    Copying,
    /// A store.
    Ready,
}

/// The copy of a store, while it is made.
pub(crate) struct Import {
    etcd: Etcd,
    version_offset: u64,
}

impl Import {
    /// Notes that it is whole.
    pub(crate) async fn complete(&self) -> Result<(), StoreError> {
        let note = LayoutNote {
            version_offset: self.version_offset,
            ..LayoutNote::default()
        };
        self.etcd.write_note(Vec::new(), note).await
    }
}

impl Default for LayoutNote {
    fn default() -> Self {
        Self {
            gridkeep_etcd_layout: LAYOUT,
            initialising: false,
            copying: false,
            version_offset: 0,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct LayoutNote {
    gridkeep_etcd_layout: u32,
    #[serde(default)]
    initialising: bool,
    #[serde(default)]
    copying: bool,
    /// By how much versions are greater than revisions.
    #[serde(default)]
    version_offset: u64,
}

impl Etcd {
    /// Describes the place; nobody is asked yet.
    ///
    /// # Errors
    /// [`StoreError::Connection`] if an endpoint, the prefix or a file of TLS can not be used.
    pub fn new(settings: Settings) -> Result<Self, StoreError> {
        settings.check()?;
        let place = settings.place();
        let Settings {
            endpoints,
            prefix,
            tls,
            clock,
            upkeep,
        } = settings;
        if let Some(tls) = &tls {
            tls.load()?;
        }
        let layout = Layout::new(&prefix);
        let began = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs().cast_signed());
        let shared = Shared {
            rpc: Rpc::new(&endpoints, tls.map(Arc::new))?,
            session: Session::new(&layout, began)?,
            layout,
            place,
            hub: Hub::default(),
            hints: Hints::default(),
            leases: Leases::new(clock),
            progress: Progress::new(),
            closed: AtomicBool::new(false),
            revision: AtomicI64::new(0),
            offset: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            looks: Looks::default(),
            full: AtomicBool::new(false),
        };
        Ok(Self {
            shared: Arc::new(shared),
            upkeep,
        })
    }

    /// Endpoints and prefix, for messages.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.shared.place
    }

    /// True if there is a store under the prefix; false if there is nothing, or a first start was interrupted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::ForeignData`], [`StoreError::NewerFormat`], [`StoreError::Damaged`].
    pub async fn holds_data(&self) -> Result<bool, StoreError> {
        Ok(matches!(self.state().await?, State::Ready | State::Copying))
    }

    /// Reads the key file, or makes it if neither it nor any data exists: the first start. As [`RootKey::load_or_generate`] for a
    /// directory.
    ///
    /// # Errors
    /// [`StoreError::DataWithoutKey`] if there is data but no key; else as [`RootKey::from_file`], [`RootKey::generate_file`] and
    /// [`Etcd::holds_data`].
    pub async fn load_or_generate(&self, path: &Path) -> Result<RootKey, StoreError> {
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // Whatever else is wrong, reading says it.
            _ => return RootKey::from_file(path),
        }
        if self.holds_data().await? {
            return Err(self.data_without(path));
        }
        self.announce().await?;
        RootKey::generate_file(path)
    }

    /// The format record of the store under the prefix, if one was completed.
    pub(crate) async fn format(&self) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.holds_data().await? {
            return Ok(None);
        }
        let shared = &self.shared;
        let request = RangeRequest::one(shared.layout.entry(FORMAT_KEY));
        let found = shared
            .range(request)
            .await
            .map_err(|trouble| shared.reading_error(trouble))?;
        let entry = found.kvs.into_iter().next();
        Ok(entry
            .map(|found| shared.entry(found))
            .transpose()?
            .map(|entry| entry.value))
    }

    fn data_without(&self, key: &Path) -> StoreError {
        StoreError::DataWithoutKey {
            data: self.place().into(),
            key: key.to_owned(),
        }
    }

    /// Opens the store, or makes it where `initialise` allows.
    ///
    /// # Errors
    /// Each refusal has its own [`StoreError`]; nothing is changed on any of them.
    pub async fn open(
        self,
        root_key: RootKey,
        initialise: Initialise,
    ) -> Result<Store, StoreError> {
        self.open_behind(root_key, initialise, |engine| engine)
            .await
    }

    /// As [`Etcd::open`], with something put before the engine: for tests, one that fails.
    ///
    /// # Errors
    /// As [`Etcd::open`].
    pub async fn open_behind(
        self,
        root_key: RootKey,
        initialise: Initialise,
        wrap: impl FnOnce(Arc<dyn Engine>) -> Arc<dyn Engine>,
    ) -> Result<Store, StoreError> {
        let mut state = self.state().await?;
        let refused = match state {
            State::Ready => false,
            State::Copying => {
                return Err(StoreError::IncompleteCopy {
                    place: self.shared.place.clone(),
                });
            }
            State::Initialising => initialise == Initialise::Never,
            State::Empty => match initialise {
                Initialise::WhenEmpty => !root_key.is_fresh(),
                Initialise::WithGivenKey => false,
                Initialise::Never => true,
            },
        };
        if refused {
            let path = self.place().into();
            return Err(if root_key.is_fresh() {
                StoreError::NotInitialised { path }
            } else {
                StoreError::KeyWithoutData { path }
            });
        }
        if state == State::Empty {
            self.announce().await?;
            state = State::Initialising;
        }
        let initialising = state == State::Initialising;
        let engine = Arc::new(self.start().await?);
        let made = match Store::assemble(wrap(engine.clone()), &root_key, initialising).await {
            Ok(store) if initialising => self
                .write_note(Vec::new(), LayoutNote::default())
                .await
                .map(|()| store),
            other => other,
        };
        if made.is_err() {
            // What is said of it would only hide why.
            let _ = engine.close().await;
        }
        match made {
            // Another node was quicker, with a key of its own: the one that was just made protects nothing.
            Err(StoreError::ForeignRootKey { .. }) if root_key.is_fresh() => {
                let error = self.data_without(root_key.source());
                root_key.discard();
                Err(error)
            }
            other => other,
        }
    }

    /// Begins to follow the store.
    async fn start(&self) -> Result<EtcdEngine, StoreError> {
        let shared = &self.shared;
        let epoch = self.count_opening().await?;
        shared
            .epoch
            .store(epoch, std::sync::atomic::Ordering::Relaxed);
        look(shared)
            .await
            .map_err(|trouble| shared.reading_error(trouble))?;
        shared
            .progress
            .start_behind(shared.revision.load(std::sync::atomic::Ordering::Acquire));
        let following = tokio::spawn(follow(shared.clone()));
        let looking = tokio::spawn(upkeep::upkeep(shared.clone(), self.upkeep));
        let engine = EtcdEngine {
            shared: shared.clone(),
            tasks: vec![following.abort_handle(), looking.abort_handle()],
        };
        if !shared.progress.begins(WATCH).await {
            tracing::warn!(
                place = shared.place,
                "etcd answers, but does not let itself be watched yet; changes by other nodes are noticed late"
            );
        }
        Ok(engine)
    }

    /// Notes an opening; answers how many there were.
    async fn count_opening(&self) -> Result<u64, StoreError> {
        let shared = &self.shared;
        let put = PutRequest {
            key: shared.layout.note(OPENED_NOTE),
            value: env!("CARGO_PKG_VERSION").into(),
            prev_kv: true,
        };
        let (revision, count) = match shared
            .rpc
            .call::<_, PutResponse>(PUT, &put, Repeat::WhenLost)
            .await
        {
            Ok(answer) => (
                revision_of(answer.header.as_ref()),
                answer.prev_kv.map_or(0, |before| before.version) + 1,
            ),
            // A full etcd is no reason not to start.
            Err(Trouble::NoSpace) => {
                let found = shared
                    .range(RangeRequest::one(shared.layout.note(OPENED_NOTE)))
                    .await
                    .map_err(|trouble| shared.reading_error(trouble))?;
                let count = found.kvs.first().map_or(0, |found| found.version);
                (revision_of(found.header.as_ref()), count)
            }
            Err(trouble) => return Err(shared.reading_error(trouble)),
        };
        shared.saw(revision);
        Ok(count.unsigned_abs())
    }

    async fn state(&self) -> Result<State, StoreError> {
        let shared = &self.shared;
        let (key, range_end) = shared.layout.all();
        let ranges = vec![
            RangeRequest::one(shared.layout.note(LAYOUT_NOTE)),
            RangeRequest {
                keys_only: true,
                ..RangeRequest::one(shared.layout.entry(FORMAT_KEY))
            },
            RangeRequest {
                key,
                range_end,
                limit: 1,
                keys_only: true,
                ..RangeRequest::default()
            },
        ];
        let (_, found) = shared
            .look_up(ranges, 0)
            .await
            .map_err(|trouble| shared.reading_error(trouble))?;
        let mut found = found.into_iter();
        let mut next = || found.next().flatten();
        let (note, format, any) = (next(), next(), next());
        let Some(note) = note else {
            return match (format, any) {
                (Some(_), _) => Ok(State::Ready),
                (None, None) => Ok(State::Empty),
                (None, Some(_)) => Err(StoreError::ForeignData {
                    place: shared.place.clone(),
                }),
            };
        };
        let note: LayoutNote =
            serde_json::from_slice(&note.value).map_err(|_| StoreError::Damaged {
                what: format!("{} (the note of its layout)", shared.place),
            })?;
        if note.gridkeep_etcd_layout > LAYOUT {
            return Err(StoreError::NewerFormat {
                found: note.gridkeep_etcd_layout,
                supported: LAYOUT,
            });
        }
        shared
            .offset
            .store(note.version_offset, std::sync::atomic::Ordering::Relaxed);
        if note.copying {
            return Ok(State::Copying);
        }
        // Without its data, a store that was completed is damaged, which assembling it says.
        Ok(if note.initialising && format.is_none() {
            State::Initialising
        } else {
            State::Ready
        })
    }

    /// Notes that a store is about to be made, unless anything is noted.
    async fn announce(&self) -> Result<(), StoreError> {
        let key = self.shared.layout.note(LAYOUT_NOTE);
        let note = LayoutNote {
            initialising: true,
            ..LayoutNote::default()
        };
        self.write_note(vec![Compare::at(key, 0)], note).await
    }

    /// The engine of a store that is to be copied.
    pub(crate) async fn open_source(self) -> Result<Arc<dyn Engine>, StoreError> {
        match self.state().await? {
            State::Ready => Ok(Arc::new(self.start().await?)),
            State::Copying => Err(StoreError::IncompleteCopy {
                place: self.shared.place.clone(),
            }),
            State::Empty | State::Initialising => Err(StoreError::NotInitialised {
                path: self.place().into(),
            }),
        }
    }

    /// The engine of a place that a store is to be copied to, emptied of what an interrupted copy has left. `sequence` is the number of
    /// the original's newest commit.
    pub(crate) async fn open_target(
        self,
        sequence: u64,
    ) -> Result<(Arc<dyn Engine>, Import), StoreError> {
        if self.state().await? == State::Ready {
            return Err(StoreError::NotEmpty {
                place: self.shared.place.clone(),
            });
        }
        let note = LayoutNote {
            copying: true,
            version_offset: sequence,
            ..LayoutNote::default()
        };
        self.write_note(Vec::new(), note).await?;
        self.shared
            .offset
            .store(sequence, std::sync::atomic::Ordering::Relaxed);
        self.clear().await?;
        let engine = Arc::new(self.start().await?);
        let import = Import {
            etcd: self,
            version_offset: sequence,
        };
        Ok((engine, import))
    }

    /// Deletes all that is no note of the engine's.
    async fn clear(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        for (key, range_end) in shared.layout.data() {
            loop {
                let found = shared
                    .range(RangeRequest {
                        key: key.clone(),
                        range_end: range_end.clone(),
                        limit: CLEAR,
                        keys_only: true,
                        ..RangeRequest::default()
                    })
                    .await
                    .map_err(|trouble| shared.reading_error(trouble))?;
                let Some(last) = found.kvs.last() else { break };
                let delete = DeleteRangeRequest {
                    key: key.clone(),
                    range_end: behind(&last.key),
                };
                shared
                    .transact(TxnRequest {
                        success: vec![Request::DeleteRange(delete).into()],
                        ..TxnRequest::default()
                    })
                    .await
                    .map_err(|trouble| shared.error(trouble))?;
            }
        }
        Ok(())
    }

    async fn write_note(&self, compare: Vec<Compare>, note: LayoutNote) -> Result<(), StoreError> {
        let value = serde_json::to_vec(&note).map_err(|_| StoreError::Sealing)?;
        let put = Request::Put(PutRequest {
            key: self.shared.layout.note(LAYOUT_NOTE),
            value,
            prev_kv: false,
        });
        self.shared
            .transact(TxnRequest {
                compare,
                success: vec![put.into()],
                failure: Vec::new(),
            })
            .await
            .map(drop)
            .map_err(|trouble| self.shared.error(trouble))
    }
}
