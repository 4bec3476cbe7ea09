//! A node of a cluster that does not reach its store while it starts: it passes requests to the other nodes until it does.
//!
//! The other nodes are known from the store, so what is needed to reach them lies in a sealed file of the data directory as well, written
//! whenever it changes. Without that file, as at the first start of all, a start without the store fails.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use gridkeep_dialect_vault::{Acquaintances, AwayService, DialectLimits};
use gridkeep_store::{RootKey, Store, StoreError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::counter::Counter;
use super::operator::{Desk, Order, Socket};
use super::place::{self, KeySource};
use super::port::Port;
use super::refusal::{Reason, Refusal};
use super::running::{Running, trusted_proxies};
use super::{BUILD_DATE, Options, notify};
use crate::config::{Config, Loaded};

/// What the file is sealed for.
const PURPOSE: &str = "peers";
/// A start that has its store within this time needs nobody.
const PROMPT: Duration = Duration::from_secs(1);
/// Between an attempt to reach the store and the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether what is remembered is still true.
const LOOK: Duration = Duration::from_secs(2);

fn file(config: &Config) -> PathBuf {
    config.gridkeep.data.value.join("peers.sealed")
}

/// Opens the store. While it is not reached, requests are passed to the nodes that are remembered; `None` if the server was told to stop
/// in that time.
///
/// # Errors
/// In words for the operator.
pub(super) async fn open(
    options: &Options,
    config: &Config,
    loaded: &Loaded,
    port: &Port,
    key: Option<RootKey>,
) -> anyhow::Result<Option<Store>> {
    // A key of shares opens one attempt.
    let known = match &key {
        None => recall(config, loaded),
        Some(_) => None,
    };
    let Some(known) = known else {
        let opened = place::open(config, loaded, options.initialise, key).await;
        return opened.map(Some);
    };
    let absent = Arc::new(Absent {
        others: known.names().join(", "),
        trouble: Mutex::default(),
    });
    let opening = async {
        loop {
            match place::open(config, loaded, options.initialise, None).await {
                Err(error) if is_passing(&error) => absent.hear(&error),
                done => return done,
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let mut opening = pin!(opening);
    if let Ok(done) = tokio::time::timeout(PROMPT, &mut opening).await {
        return done.map(Some);
    }
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let service = AwayService::new(
        &config.own_name().value,
        &known,
        env!("CARGO_PKG_VERSION"),
        BUILD_DATE,
        DialectLimits::default(),
    );
    let mut counter = Counter::open(&service, service.proxies(), port)?;
    let socket = Socket::bind(&config.gridkeep.run_directory.value)?;
    let served = socket.serve(absent.clone(), counter.stopping());
    counter.tasks.spawn(served);
    let status = format!("standby on {}", counter.addresses);
    tracing::warn!(
        "{status}: etcd is not reached, requests are passed to {} until it is; look at the members of etcd and the way to them",
        absent.others
    );
    notify::tell(&format!("READY=1\nSTATUS={status}"));
    let opened = loop {
        tokio::select! {
            done = &mut opening => break done.map(Some),
            _ = hangup.recv() => port.tls.read_anew().await,
            _ = terminate.recv() => break Ok(None),
            _ = interrupt.recv() => break Ok(None),
        }
    };
    match &opened {
        Ok(Some(_)) => {
            tracing::info!("the store is reached: this node serves by itself from now on")
        }
        _ => notify::tell("STOPPING=1"),
    }
    counter.close().await;
    opened
}

/// Whether it may be otherwise in a moment.
fn is_passing(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<StoreError>(),
        Some(StoreError::Unavailable { .. })
    )
}

/// What was remembered of other nodes.
fn recall(config: &Config, loaded: &Loaded) -> Option<Acquaintances> {
    config.gridkeep.etcd.as_ref()?;
    let path = file(config);
    let sealed = std::fs::read(&path).ok()?;
    // Whatever is wrong with the key is said by whoever opens the store with it.
    let key = KeySource::of(config, loaded).read().ok()?;
    let known = key
        .open_aside(PURPOSE, &sealed)
        .and_then(|plain| Acquaintances::from_bytes(&plain));
    if known.is_none() {
        tracing::warn!(
            file = %path.display(),
            "what this node remembers of the others cannot be opened with its root key and is not used; it is written anew once the store is reached"
        );
    }
    known
}

/// Keeps in a file what this node has to know of the others to start without its store; as it is when told to stop, at last.
pub(super) async fn remember(running: Arc<Running>, store: Store, mut stop: watch::Receiver<bool>) {
    let mut written = None;
    let mut told = false;
    let mut last = false;
    loop {
        let config = running.config();
        let known = Acquaintances::of(&running.keeper, &trusted_proxies(&config));
        let now = (known, store.status().root_key_id);
        if written.as_ref() != Some(&now) && !now.0.names().is_empty() {
            match write(&file(&config), &store, &now.0).await {
                Ok(()) => {
                    written = Some(now);
                    told = false;
                }
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(
                        "what this node knows of the others could not be written: should it start anew while etcd is not reached, it passes requests to those it knew before: {error:#}"
                    );
                }
                Err(_) => {}
            }
        }
        if last {
            return;
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => last = true,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn write(path: &Path, store: &Store, known: &Acquaintances) -> anyhow::Result<()> {
    let sealed = store.seal_aside(PURPOSE, &known.to_bytes()?)?;
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let new = path.with_extension("new");
        let written = (|| {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)
        })();
        written.with_context(|| format!("{}", path.display()))
    })
    .await?
}

/// Why the store is not there. Says so to the log, and to operators on the host.
struct Absent {
    /// The nodes that serve meanwhile.
    others: String,
    /// What the last attempt met; empty before it ended.
    trouble: Mutex<String>,
}

impl Absent {
    /// Notes why an attempt failed; the same is logged once.
    fn hear(&self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *trouble != text {
            tracing::warn!("{text}");
            *trouble = text;
        }
    }
}

#[async_trait]
impl Desk for Absent {
    async fn obey(&self, _: u32, _: &Order, _: Option<&str>) -> anyhow::Result<String> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let separator = if trouble.is_empty() { "" } else { ": " };
        let text = format!(
            "this node has not reached etcd since it started, and passes requests to {} meanwhile; it goes on by itself{separator}{trouble}",
            self.others
        );
        Err(Refusal::new(Reason::Store, text).into())
    }
}
