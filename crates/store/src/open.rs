//! Opening a store on the embedded engine: the options, and decision by decision whether a new one may be made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::{BootClock, SystemBootClock};
use crate::engine::Engine;
use crate::engine::embedded::{Disk, Embedded, HostDisk, MayInitialise, Settings};
use crate::{RootKey, Store, StoreError};

/// When a new store may be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Initialise {
    /// If there is no data, and the root key was made by this start ([`RootKey::load_or_generate`]): neither key nor data existed.
    #[default]
    WhenEmpty,
    /// If there is no data, whatever the age of the key: an operator has said so. For keys from the service manager, which are
    /// there before the first start.
    WithGivenKey,
    /// Not at all.
    Never,
}

/// Space set aside unless told otherwise: 16 MiB.
pub const RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// How a store is opened.
pub struct OpenOptions {
    /// Where the data lies.
    pub directory: PathBuf,
    /// The key it is sealed under.
    pub root_key: RootKey,
    /// Whether it may be made.
    pub initialise: Initialise,
    /// Bytes of the disk set aside, so that on a full disk deletions and critical writes still pass.
    pub reserve_bytes: u64,
    /// The clock that leases lapse by.
    pub clock: Arc<dyn BootClock>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
}

impl OpenOptions {
    /// The usual: this host's disk and clock, [`RESERVE_BYTES`], [`Initialise::WhenEmpty`].
    #[must_use]
    pub fn new(directory: &Path, root_key: RootKey) -> Self {
        Self {
            directory: directory.to_owned(),
            root_key,
            initialise: Initialise::default(),
            reserve_bytes: RESERVE_BYTES,
            clock: Arc::new(SystemBootClock),
            disk: Arc::new(HostDisk),
        }
    }
}

/// Opens the store in a directory of this host, or makes it where [`OpenOptions::initialise`] allows. Blocks for as long as the
/// disk does; a store that was killed opens as fast as one that was closed.
///
/// # Errors
/// Each refusal has its own [`StoreError`]; nothing is changed on any of them.
pub fn open(options: OpenOptions) -> Result<Store, StoreError> {
    open_behind(options, |engine| engine)
}

/// As [`open()`], with something put before the engine: for tests, one that fails.
///
/// # Errors
/// As [`open()`].
pub fn open_behind(
    options: OpenOptions,
    wrap: impl FnOnce(Arc<dyn Engine>) -> Arc<dyn Engine>,
) -> Result<Store, StoreError> {
    let OpenOptions {
        directory,
        root_key,
        initialise,
        reserve_bytes,
        clock,
        disk,
    } = options;
    let may_initialise = MayInitialise {
        empty: match initialise {
            Initialise::WhenEmpty => root_key.is_fresh(),
            Initialise::WithGivenKey => true,
            Initialise::Never => false,
        },
        interrupted: initialise != Initialise::Never,
        copy: false,
    };
    let engine = Embedded::open(Settings {
        directory,
        reserve_bytes,
        disk,
        clock,
        may_initialise,
    })
    .map_err(|error| match error {
        StoreError::NotInitialised { path } if !root_key.is_fresh() => {
            StoreError::KeyWithoutData { path }
        }
        other => other,
    })?;
    let engine = Arc::new(engine);
    let store = block_on(Store::assemble(
        wrap(engine.clone()),
        &root_key,
        engine.is_initialising(),
    ))?;
    if engine.is_initialising() {
        engine.completed()?;
    }
    Ok(store)
}

/// True if there is a store in this directory, or data of one; false if it is empty, not there, or a first start in it was
/// interrupted. Nothing is opened or changed.
///
/// # Errors
/// [`StoreError::Directory`], [`StoreError::NewerFormat`], [`StoreError::Damaged`].
pub fn holds_data(directory: &Path) -> Result<bool, StoreError> {
    crate::engine::embedded::holds_data(directory)
}

/// Waits for a future on this thread. Only the committer's answer is waited for, which needs no runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
