//! Running the server: opening what it needs in order, serving, reloading on SIGHUP, draining on SIGTERM.
//!
//! Owns the life of the process. Refuses to know what a request means or what is stored.

mod affected;
mod anew;
pub mod assemble;
mod audit;
mod away;
pub mod cluster;
mod counter;
mod glances;
pub mod hardening;
pub mod inventory;
mod no_audit;
mod notify;
pub mod operator;
pub mod place;
mod port;
pub mod refusal;
pub mod replacement;
mod running;
mod sealed;
mod serving;
mod sight;
mod strangers;
mod telemetry;
mod unusable;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use gridkeep_keeper::AuditEvidence;
use gridkeep_telemetry::Measures;

use crate::config::{Config, Loaded};
use port::Port;
pub(crate) use running::Running;
use running::{accepted, load};
use sealed::Awaited;
use serving::{Ended, serve};

/// How long a stop waits for the last log lines and spans to be taken.
const LAST_TELEMETRY: Duration = Duration::from_secs(3);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files and directories of the configuration.
    pub paths: Vec<PathBuf>,
    /// Whether a doubtful configuration is refused.
    pub strict: bool,
    /// Whether a new store may be made for a root key that exists already.
    pub initialise: bool,
    /// The sockets of the server that was sealed in this process before ([`anew::OPTION`]).
    pub sealed_ports: Option<String>,
    /// What [`hardening::close_off`] could not do.
    pub not_closed_off: Vec<String>,
    /// The log on standard error.
    pub logs: gridkeep_telemetry::Options,
}

/// Runs the server until it is told to stop.
///
/// # Errors
/// What kept it from starting, in words for the operator.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the system did not give the threads the server needs")?;
    let outcome = runtime.block_on(observed(options));
    // Threads that hang in a system call do not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match outcome? {
        Over::Stopped => Ok(()),
        Over::Sealed(port) => {
            let error = anew::begin(&port);
            tracing::error!("{error:#}");
            Err(error)
        }
    }
}

/// Starts telemetry around the server. Where logs are sent is in the configuration, so that is read before anything is logged.
async fn observed(options: &Options) -> anyhow::Result<Over> {
    let loaded = load(&options.paths).await?;
    let (settings, troubles) = telemetry::settings(options.logs.clone(), loaded.config.as_ref());
    let telemetry = gridkeep_telemetry::start(settings).map_err(anyhow::Error::msg)?;
    for trouble in troubles {
        tracing::error!("{trouble}");
    }
    for trouble in &options.not_closed_off {
        tracing::warn!("{trouble}");
    }
    telemetry::describe();
    let outcome = live(options, loaded, &telemetry.measures).await;
    if let Err(error) = &outcome {
        tracing::error!("{error:#}");
    }
    telemetry.finish(LAST_TELEMETRY).await;
    outcome
}

/// How a server ended.
enum Over {
    Stopped,
    /// It was sealed, or made its keys: it has to begin anew.
    Sealed(Port),
}

/// Waits for the keys where it has to, and serves.
async fn live(options: &Options, loaded: Loaded, measures: &Measures) -> anyhow::Result<Over> {
    hardening::lock();
    let config = accepted(&loaded, options.strict)?.clone();
    let port = Port::open(&config, options.sealed_ports.as_deref())?;
    // From the beginning: a server that is sealed or waits for its store is to be told from one that is down.
    let sealed = config.gridkeep.shamir.value || options.sealed_ports.is_some();
    telemetry::SEALED.store(sealed, Ordering::Relaxed);
    let scraped = telemetry::Scraped::open(&config, measures, &port.tls)?;
    let over = under_way(options, config, loaded, measures, port).await;
    scraped.close().await;
    over
}

async fn under_way(
    options: &Options,
    config: Config,
    loaded: Loaded,
    measures: &Measures,
    port: Port,
) -> anyhow::Result<Over> {
    let mut key = None;
    if telemetry::SEALED.load(Ordering::Relaxed) {
        match sealed::wait(&config, &port).await? {
            Awaited::Stop => return Ok(Over::Stopped),
            Awaited::Initialised => return Ok(Over::Sealed(port)),
            Awaited::Key(found) => key = Some(found),
            Awaited::Source => {}
        }
        telemetry::SEALED.store(false, Ordering::Relaxed);
    }
    let places = config.clone();
    match serve(options, config, loaded, measures, &port, key).await? {
        Ended::Stopped => Ok(Over::Stopped),
        Ended::Sealed(finish) => {
            telemetry::SEALED.store(true, Ordering::Relaxed);
            sealed::close(&places, port, finish).await
        }
    }
}

/// Date of the source this was built from, for tools that show it.
const BUILD_DATE: &str = match option_env!("SOURCE_DATE") {
    Some(date) => date,
    None => "1970-01-01T00:00:00Z",
};

/// What audit logs are verified with, from the data of a server that does not run; `root_key` instead of the configured one.
///
/// # Errors
/// When the data cannot be opened, as when a server runs on it.
pub fn offline_evidence(loaded: &Loaded, root_key: Option<&Path>) -> anyhow::Result<AuditEvidence> {
    let config = loaded
        .config
        .as_ref()
        .context("there is no configuration")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store = place::open_existing(config, loaded, root_key).await?;
        let evidence = AuditEvidence::of_store(&store).await?;
        store.close().await?;
        Ok(evidence)
    })
}
