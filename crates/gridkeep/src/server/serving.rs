//! The time in which the server has its keys: opening what it needs in order, serving, and ending so that nothing is lost.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridkeep_dialect_vault::listener::TrustedProxies;
use gridkeep_dialect_vault::sealed::SealKind;
use gridkeep_dialect_vault::{DialectLimits, DialectOptions, SealSwitch, VaultService};
use gridkeep_keeper::clock::SystemClock;
use gridkeep_keeper::cluster::NodeReport;
use gridkeep_keeper::{Keeper, KeeperOptions};
use gridkeep_store::RootKey;
use gridkeep_telemetry::Measures;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::assemble::{self, Issuers};
use super::cluster::{self, Occasion, Own, Settled};
use super::port::{Port, warn_of_the_certificates_end};
use super::running::{Running, trusted_proxies};
use super::sealed::Closing;
use super::{BUILD_DATE, Options, audit, away, notify, operator, telemetry};
use crate::config::{Config, Loaded};

/// How long a stop waits for connections.
const DRAIN: Duration = Duration::from_secs(20);

/// How long it waits for answers of issuers: as long as they can take. What is not waited for may be the one refresh token of a login.
const ANSWERS: Duration = Duration::from_secs(65);
const _: () = assert!(ANSWERS.as_secs() >= gridkeep_keeper::FLIGHT.as_secs() + 5);

/// How often certificate files are looked at.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(60);
/// How long a start waits for the first heartbeat of a node.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(2);

/// Why the server no longer serves.
pub(super) enum Ended {
    Stopped,
    /// It was told to drop its keys; what is left to do until they are gone.
    Sealed(Closing),
}

/// Serves until told to stop or to seal.
pub(super) async fn serve(
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
    let seal = Arc::new(SealSwitch::new(
        key.as_ref().map_or(SealKind::Auto, kind_of),
    ));
    let Some(store) = away::open(options, &config, &loaded, port, key).await? else {
        return Ok(Ended::Stopped);
    };
    let own = Own::of(&config, &loaded);
    let mut keeper_options = KeeperOptions::new(
        config.own_name().value,
        config.gridkeep.data.value.join("spool"),
    );
    keeper_options.cluster = cluster::options(&config, port.address());
    let settled = if keeper_options.cluster.is_some() {
        let settled = cluster::settle(&store, &own, Occasion::Start, None).await?;
        settled.tell(&NodeReport::default());
        // Which log it is was not known before.
        audit::probe(&settled.config)?;
        settled
    } else {
        Settled::alone(&own)
    };
    let Settled {
        config, report, by, ..
    } = settled;
    let mut issuers = Issuers::default();
    let mut setup = assemble::setup(&config, &mut issuers);
    setup.published_by = by;
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
            on_audit_failure: audit.on_failure,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build_date: BUILD_DATE.to_owned(),
            limits: DialectLimits::default(),
            proxies: proxies.clone(),
            metrics: Some(Arc::new(telemetry::Source(measures.clone()))),
            seal: seal.clone(),
        },
    );
    telemetry::in_force(&config);
    telemetry::collect(measures, &keeper);
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
        addresses: port.addresses()?,
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
    if keeper.is_shared() {
        tasks.spawn(away::remember(
            running.clone(),
            store.clone(),
            stopping.clone(),
        ));
    }
    port.serve(&service, proxies, &mut tasks, &stopping)?;
    tasks.spawn(running.clone().follow_configuration(stopping.clone()));
    // A node that says that it is ready has its store: its first heartbeat was taken. One that is slow keeps nothing waiting for long.
    let _ = tokio::time::timeout(FIRST_HEARTBEAT, async {
        while !keeper.has_store() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let status = format!("serving on {}", running.addresses.join(" "));
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
    let measures = measures.clone();
    let finish = async move {
        let drained =
            tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!("some connections were still open when the time to drain was over");
            tasks.shutdown().await;
        }
        keeper.drain(ANSWERS).await;
        measures.collect_no_more();
        telemetry::collect_always(&measures, &tls);
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
