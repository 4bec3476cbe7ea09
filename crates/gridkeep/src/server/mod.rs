//! Running the server: opening what it needs in order, serving, reloading on SIGHUP, draining on SIGTERM.
//!
//! Owns the life of the process. Refuses to know what a request means or what is stored.

mod affected;
pub mod assemble;
mod audit;
pub mod cluster;
mod hardening;
pub mod inventory;
mod no_audit;
mod notify;
pub mod operator;
pub mod place;
pub mod replacement;
mod sealed;
mod telemetry;
mod unusable;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use gridkeep_dialect_vault::listener::{
    self, ListenerLimits, ReloadableTls, TlsFiles, TrustedProxies,
};
use gridkeep_dialect_vault::sealed::SealKind;
use gridkeep_dialect_vault::{DialectLimits, DialectOptions, SealSwitch, VaultService};
use gridkeep_keeper::clock::SystemClock;
use gridkeep_keeper::cluster::NodeReport;
use gridkeep_keeper::{AuditEvidence, Keeper, KeeperOptions, Network, UnixSeconds};
use gridkeep_store::RootKey;
use gridkeep_telemetry::Measures;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{self, Config, Loaded, Severity, Surroundings};
use assemble::Issuers;
use audit::Audit;
use cluster::{Occasion, Own};
use sealed::{Closing, Unsealed};

/// How long a stop waits for requests to issuers; they are bounded by 60 s themselves.
const DRAIN: Duration = Duration::from_secs(20);
/// How long a stop waits for the last log lines and spans to be taken.
const LAST_TELEMETRY: Duration = Duration::from_secs(3);
/// How long sealing waits for them: as long as they can take.
const SEALING: Duration = Duration::from_secs(65);
/// Days before its end from which on the certificate is warned about.
const CERTIFICATE_WARNING: i64 = 14;
/// How often certificate files are looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(60);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files and directories of the configuration.
    pub paths: Vec<PathBuf>,
    /// Whether a doubtful configuration is refused.
    pub strict: bool,
    /// Whether a new store may be made for a root key that exists already.
    pub initialise: bool,
    /// The log on standard error.
    pub logs: gridkeep_telemetry::Options,
}

/// A server that is up, as far as reloading and operators need it.
pub(crate) struct Running {
    options: Options,
    config: Mutex<Config>,
    issuers: tokio::sync::Mutex<Issuers>,
    /// This node's own files, whichever configuration is in force.
    own: tokio::sync::Mutex<Own>,
    pub(crate) keeper: Keeper,
    pub(crate) audit: Audit,
    pub(crate) tls: Arc<ReloadableTls>,
    proxies: TrustedProxies,
    /// When it began to serve.
    pub(crate) since: UnixSeconds,
    pub(crate) seal: Arc<SealSwitch>,
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
    outcome
}

/// Starts telemetry around the server. Where logs are sent is in the configuration, so that is read before anything is logged.
async fn observed(options: &Options) -> anyhow::Result<()> {
    let loaded = load(&options.paths).await?;
    let (settings, troubles) = telemetry::settings(options.logs.clone(), loaded.config.as_ref());
    let telemetry = gridkeep_telemetry::start(settings).map_err(anyhow::Error::msg)?;
    for trouble in troubles {
        tracing::error!("{trouble}");
    }
    telemetry::describe();
    let outcome = live(options, loaded, &telemetry.measures).await;
    if let Err(error) = &outcome {
        tracing::error!("{error:#}");
    }
    telemetry.finish(LAST_TELEMETRY).await;
    outcome
}

/// Serves and is sealed by turns, until told to stop.
async fn live(options: &Options, loaded: Loaded, measures: &Measures) -> anyhow::Result<()> {
    hardening::apply();
    let files = raise_file_limit();
    let mut closing: Option<Closing> = None;
    let mut port: Option<Port> = None;
    let mut first = Some(loaded);
    loop {
        let loaded = match first.take() {
            Some(loaded) => loaded,
            None => load(&options.paths).await?,
        };
        let config = accepted(&loaded, options.strict)?.clone();
        let open = match port.take() {
            Some(port) => port,
            None => Port::open(&config, files)?,
        };
        let mut key = None;
        if config.gridkeep.shamir.value || closing.is_some() {
            let waiting = sealed::wait(&config, &open, closing.take());
            match waiting.await? {
                None => return Ok(()),
                Some(Unsealed::Key(found)) => key = Some(found),
                Some(Unsealed::Source) => {}
            }
        }
        match serve(options, config, loaded, measures, &open, key).await? {
            Ended::Stopped => return Ok(()),
            Ended::Sealed(finish) => {
                closing = Some(finish);
                port = Some(open);
            }
        }
    }
}

/// What stays the same whether the server is sealed or not.
struct Port {
    tls_sockets: Vec<std::net::TcpListener>,
    plain_sockets: Vec<std::net::TcpListener>,
    limits: ListenerLimits,
    tls: Arc<ReloadableTls>,
}

impl Port {
    fn open(config: &Config, files: u64) -> anyhow::Result<Port> {
        audit::probe(config)?;
        let tls = ReloadableTls::load(TlsFiles {
            certificate: config.gridkeep.certificate.value.clone(),
            key: config.gridkeep.key.value.clone(),
        })?;
        let kept = |listeners: Vec<TcpListener>| {
            listeners
                .into_iter()
                .map(TcpListener::into_std)
                .collect::<Result<Vec<_>, _>>()
        };
        let tls_sockets = kept(bind(&config.gridkeep.listen)?)?;
        let plain_sockets = kept(bind(&config.gridkeep.plain_listen)?)?;
        let limits = limits_of_port(files, tls_sockets.len() + plain_sockets.len());
        Ok(Port {
            tls_sockets,
            plain_sockets,
            limits,
            tls,
        })
    }
}

/// The same sockets once more, for whoever serves next.
fn again(sockets: &[std::net::TcpListener]) -> anyhow::Result<Vec<TcpListener>> {
    sockets
        .iter()
        .map(|socket| Ok(TcpListener::from_std(socket.try_clone()?)?))
        .collect()
}

/// Why the server no longer serves.
enum Ended {
    Stopped,
    /// It was told to drop its keys; what is left to do until they are gone.
    Sealed(Closing),
}

async fn serve(
    options: &Options,
    config: Config,
    loaded: Loaded,
    measures: &Measures,
    port: &Port,
    key: Option<RootKey>,
) -> anyhow::Result<Ended> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tls = port.tls.clone();
    let (listeners, plain_listeners) = (again(&port.tls_sockets)?, again(&port.plain_sockets)?);
    let seal = Arc::new(SealSwitch::new(
        key.as_ref().map_or(SealKind::Auto, kind_of),
    ));
    let scraped = telemetry::bind(&config)?;
    let store = place::open(&config, &loaded, options.initialise, key).await?;
    let own = Own::of(&config, &loaded);
    let mut keeper_options = KeeperOptions::new(
        config.own_name().value,
        config.gridkeep.data.value.join("spool"),
    );
    keeper_options.cluster = cluster::options(&config, listeners.first());
    let (config, report) = if keeper_options.cluster.is_some() {
        let settled = cluster::settle(&store, &own, Occasion::Start, None).await?;
        (settled.config, settled.report)
    } else {
        (config, NodeReport::default())
    };
    let mut issuers = Issuers::default();
    let setup = assemble::setup(&config, &mut issuers);
    issuers.compare_with_discovery(&config);
    let proxies = TrustedProxies::default();
    proxies.set(trusted_proxies(&config));
    let keeper = Keeper::open(store.clone(), setup, Arc::new(SystemClock), keeper_options).await?;
    keeper.report(report);
    let audit = audit::open(&config, &keeper).await?;
    let service = VaultService::new(
        keeper.clone(),
        DialectOptions {
            audit: audit.sink.clone(),
            on_audit_failure: audit::on_failure(&config),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build_date: BUILD_DATE.to_owned(),
            limits: DialectLimits::default(),
            proxies: proxies.clone(),
            metrics: Some(Arc::new(telemetry::Source(measures.clone()))),
            seal: seal.clone(),
        },
    );
    telemetry::collect(measures, &keeper, &tls);
    let run_directory = config.gridkeep.run_directory.value.clone();
    let running = Arc::new(Running {
        options: options.clone(),
        config: Mutex::new(config),
        issuers: tokio::sync::Mutex::new(issuers),
        own: tokio::sync::Mutex::new(own),
        keeper: keeper.clone(),
        audit: audit.clone(),
        tls: tls.clone(),
        proxies: proxies.clone(),
        since: keeper.now(),
        seal: seal.clone(),
    });

    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let socket = operator::Socket::bind(&run_directory)?;
    tasks.spawn(socket.serve(running.clone(), stopping.clone()));
    tasks.spawn(tls.clone().watch(CERTIFICATE_CHECK, stopping.clone()));
    if let Some(file) = audit.file.clone() {
        tasks.spawn(gridkeep_dialect_vault::audit::keep_anchored(
            file,
            keeper.clone(),
            stopping.clone(),
        ));
    }
    tasks.spawn(warn_of_the_certificates_end(
        tls.clone(),
        keeper.clone(),
        stopping.clone(),
    ));
    tasks.spawn(measures.clone().upkeep(stopping.clone()));
    for listener in scraped {
        if let Ok(address) = listener.local_addr() {
            tracing::info!("metrics on http://{address}/metrics");
        }
        tasks.spawn(gridkeep_telemetry::serve(
            listener,
            measures.clone(),
            stopping.clone(),
        ));
    }
    let mut addresses = Vec::new();
    let mut limits = port.limits.clone();
    limits.trusted = proxies;
    for listener in listeners {
        addresses.push(
            listener
                .local_addr()
                .map(|address| address.to_string())
                .unwrap_or_default(),
        );
        tasks.spawn(listener::serve(
            listener,
            tls.clone(),
            service.clone(),
            limits.clone(),
            stopping.clone(),
        ));
    }
    for listener in plain_listeners {
        let address = listener.local_addr();
        addresses.extend(address.map(|address| format!("{address} (without TLS)")));
        tasks.spawn(listener::serve_plain(
            listener,
            service.clone(),
            limits.clone(),
            stopping.clone(),
        ));
    }
    tasks.spawn(running.clone().follow_configuration(stopping.clone()));
    let status = format!("serving on {}", addresses.join(" "));
    tracing::info!(
        issuers = running.config().issuers.len(),
        version = env!("CARGO_PKG_VERSION"),
        "{status}"
    );
    notify::tell(&format!("READY=1\nSTATUS={status}"));

    let mut superseded = false;
    loop {
        tokio::select! {
            () = keeper.superseded() => {
                superseded = true;
                break;
            }
            _ = hangup.recv() => running.reload().await,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = seal.wait() => break,
        }
    }
    let sealed = seal.begun();
    if sealed {
        tracing::warn!("sealing: requests under way are finished, answers of issuers are kept");
    } else {
        notify::tell("STOPPING=1");
        tracing::info!("stopping: requests under way are finished, answers of issuers are kept");
    }
    // The receivers live in the tasks; without one there is nobody to tell.
    let _ = stop.send(true);
    // A request to an issuer that outlives a stop is in its intent; one that outlives the keys would keep them.
    let patience = if sealed { SEALING } else { DRAIN };
    let measures = measures.clone();
    let finish = async move {
        let drained =
            tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!("some connections were still open when the time to drain was over");
            tasks.shutdown().await;
        }
        keeper.drain(patience).await;
        measures.collect_no_more();
        running.issuers.lock().await.stop();
        audit.close(&keeper).await;
        drop((running, service, keeper));
        store.close().await?;
        anyhow::Ok(())
    };
    if sealed {
        return Ok(Ended::Sealed(Box::pin(finish)));
    }
    finish.await?;
    anyhow::ensure!(
        !superseded,
        "another server runs under this node's name; give each node a name of its own (cluster.myname)"
    );
    tracing::info!("stopped");
    Ok(Ended::Stopped)
}

/// How a root key of this origin is given.
fn kind_of(key: &RootKey) -> SealKind {
    key.shares()
        .map_or(SealKind::Auto, |shares| SealKind::Shamir {
            threshold: shares.threshold,
            count: shares.count,
        })
}

/// Date of the source this was built from, for tools that show it.
const BUILD_DATE: &str = match option_env!("SOURCE_DATE") {
    Some(date) => date,
    None => "1970-01-01T00:00:00Z",
};

impl Running {
    /// A copy of the configuration in force.
    pub(crate) fn config(&self) -> Config {
        self.config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What would change if the files were loaded now, in words.
    pub(crate) async fn diff(&self) -> anyhow::Result<operator::DiffAnswer> {
        let loaded = load(&self.options.paths).await?;
        let old = self.config();
        let people = affected::People::of(&self.keeper, &old, &loaded).await?;
        let (mut text, mut notes) = (Vec::new(), Vec::new());
        let code = config::commands::show_diff(
            &old,
            &loaded,
            &|change| people.met_by(change),
            &mut text,
            &mut notes,
        )?;
        notes.extend(text);
        let text = String::from_utf8_lossy(&notes).into_owned();
        Ok(operator::DiffAnswer { text, code })
    }

    /// Reads files, certificate and audit log anew. Whatever cannot be used leaves the old in force.
    pub(crate) async fn reload(&self) {
        notify::tell("RELOADING=1");
        if let Some(audit) = &self.audit.file {
            audit.reopen();
        }
        let tls = self.tls.clone();
        // A panic in there has been reported by itself, and the old certificate stays.
        let _ = tokio::task::spawn_blocking(move || tls.reload_and_report()).await;
        let reloaded = self.reload_configuration().await;
        telemetry::RELOAD_FAILED.store(reloaded.is_err(), Ordering::Relaxed);
        if let Err(error) = reloaded {
            tracing::error!(
                "the configuration was not reloaded, the one from before stays in force: {error:#}"
            );
        }
        notify::tell("READY=1");
    }

    async fn reload_configuration(&self) -> anyhow::Result<()> {
        let loaded = load(&self.options.paths).await?;
        let new = accepted(&loaded, self.options.strict)?;
        anyhow::ensure!(
            loaded.is_faultless(),
            "the lines above name errors, and leaving out what they name would cost its users their access"
        );
        self.put_in_force(Some(Own::of(new, &loaded)), Occasion::Reload)
            .await
    }

    /// Makes this node's files those of all nodes.
    pub(crate) async fn publish(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.keeper.is_shared(),
            "this server runs alone: a reload puts its files into force"
        );
        let loaded = load(&self.options.paths).await?;
        let new = accepted(&loaded, self.options.strict)?;
        anyhow::ensure!(
            loaded.is_faultless() && !new.issuers.is_empty(),
            "the files have errors or name no issuer, and leaving out issuers would cost their users their access; look at gridkeep config check"
        );
        self.put_in_force(Some(Own::of(new, &loaded)), Occasion::Publish)
            .await
    }

    /// Puts what other nodes publish into force.
    async fn follow_configuration(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut versions = self.keeper.configuration_versions();
        versions.mark_changed();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                changed = versions.changed() => if changed.is_err() { return },
            }
            let version = *versions.borrow_and_update();
            if version == self.keeper.reported().configuration {
                continue;
            }
            if let Err(error) = self.put_in_force(None, Occasion::Seen).await {
                tracing::error!(
                    version,
                    "the configuration that all nodes share could not be put into force here: {error:#}"
                );
                self.keeper.report(NodeReport {
                    trouble: Some(format!("{error:#}")),
                    ..self.keeper.reported()
                });
            }
        }
    }

    /// Puts into force what is due: this node's files, or what the nodes share.
    async fn put_in_force(&self, own: Option<Own>, occasion: Occasion) -> anyhow::Result<()> {
        let mut standing = self.own.lock().await;
        let own = own.unwrap_or_else(|| standing.clone());
        let (new, report) = if self.keeper.is_shared() {
            let settled =
                cluster::settle(self.keeper.store(), &own, occasion, Some(&standing)).await?;
            (settled.config, settled.report)
        } else {
            (own.config.clone(), NodeReport::default())
        };
        let new = &new;
        let old = self.config();
        let changes = config::diff(&old, new);
        let mut issuers = self.issuers.lock().await;
        let setup = assemble::setup(new, &mut issuers);
        self.keeper.reconfigure(setup).await?;
        self.proxies.set(trusted_proxies(new));
        self.keeper.report(report);
        *standing = own;
        issuers.forget_unused(new);
        issuers.compare_with_discovery(new);
        for change in &changes {
            tracing::info!(
                key = change.key,
                affected = change.affected,
                "{}",
                change.what
            );
        }
        warn_of_what_needs_a_restart(&old, new);
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = new.clone();
        tracing::info!(changes = changes.len(), "configuration reloaded");
        Ok(())
    }
}

fn trusted_proxies(config: &Config) -> Vec<Network> {
    let proxies = config.gridkeep.trusted_proxies.iter();
    proxies.map(|network| network.value).collect()
}

/// Says each day that the certificate ends soon, from [`CERTIFICATE_WARNING`] days before.
async fn warn_of_the_certificates_end(
    tls: Arc<ReloadableTls>,
    keeper: Keeper,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        if let Some(days) = tls
            .days_left(keeper.now())
            .filter(|days| *days < CERTIFICATE_WARNING)
        {
            tracing::warn!(
                days,
                "the server's certificate ends in {days} days, and no client will connect then; renew it and replace both files, they are read again by themselves"
            );
        }
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(Duration::from_secs(86_400)) => {}
        }
    }
}

fn warn_of_what_needs_a_restart(old: &Config, new: &Config) {
    let places = |config: &Config| {
        let own = &config.gridkeep;
        (
            own.listen
                .iter()
                .chain(&own.plain_listen)
                .map(|listen| listen.value)
                .collect::<Vec<_>>(),
            [
                own.certificate.value.clone(),
                own.key.value.clone(),
                own.data.value.clone(),
                own.run_directory.value.clone(),
            ],
            own.etcd.as_ref().map(config::EtcdConfig::settled),
            config.audit_log().map(Path::to_owned),
            own.on_audit_failure.value,
            own.seal_key_file
                .as_ref()
                .map(|setting| setting.value.clone()),
            own.shamir.value,
        )
    };
    if places(old) != places(new) {
        tracing::warn!(
            "addresses, certificate paths, the data and run directories, the store's place, the root key's file, the audit log's path and what is done when it fails change only with a restart of the server"
        );
    }
}

async fn load(paths: &[PathBuf]) -> anyhow::Result<Loaded> {
    let paths = paths.to_vec();
    tokio::task::spawn_blocking(move || config::load(&paths, &Surroundings::of_this_host()))
        .await
        .context("reading the configuration failed")
}

/// The configuration, if it may be used; its findings go to the log.
fn accepted(loaded: &Loaded, strict: bool) -> anyhow::Result<&Config> {
    for finding in &loaded.findings {
        match finding.severity {
            Severity::Fatal | Severity::Error => tracing::error!("{finding}"),
            Severity::Warning => tracing::warn!("{finding}"),
            Severity::Info => tracing::info!("{finding}"),
        }
    }
    match &loaded.config {
        Some(config) if loaded.is_acceptable(strict) => Ok(config),
        Some(_) => anyhow::bail!(
            "the configuration has errors or warnings and --strict was given; correct what the lines above say, or start without --strict"
        ),
        None => anyhow::bail!(
            "the configuration cannot be used; correct what the lines above say (gridkeep config check shows it again)"
        ),
    }
}

fn bind(addresses: &[config::Setting<SocketAddr>]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(listen(address.value).with_context(|| {
            format!("the server cannot listen on {} ({}); is another server running there? change the address or stop the other", address.value, address.origin)
        })?);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

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

/// One connection is one file descriptor; the usual soft limit of 1024 is less than the server accepts. Answers the limit in force.
fn raise_file_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    let wanted = hard.min(65_536);
    if soft >= wanted {
        return soft;
    }
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err() {
        tracing::warn!(
            soft,
            "the limit of open files could not be raised; with many clients connections will wait"
        );
        return soft;
    }
    wanted
}

/// Strangers' connections must not take the descriptors that the store, the audit log and requests to issuers need: a quarter, at least
/// 64, is kept from them.
fn limits_of_port(files: u64, ports: usize) -> ListenerLimits {
    let usual = ListenerLimits::default();
    let own = (files / 4).max(64);
    let share = files.saturating_sub(own) / u64::try_from(ports.max(1)).unwrap_or(1);
    let share = usize::try_from(share).unwrap_or(usize::MAX).max(8);
    if share < usual.connections {
        tracing::warn!(
            files,
            connections = share,
            "the limit of open files allows fewer connections than usual; raise it (LimitNOFILE=) when clients have to wait"
        );
    }
    ListenerLimits {
        connections: share.min(usual.connections),
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_files_mean_few_connections() {
        let usual = ListenerLimits::default().connections;
        for (files, ports, connections) in [
            (65_536, 1, usual),
            (u64::MAX, 2, usual),
            (1024, 1, 768),
            (1024, 2, 384),
            (128, 1, 64),
            (10, 1, 8),
            (1024, 0, 768),
        ] {
            assert_eq!(limits_of_port(files, ports).connections, connections);
        }
    }
}
