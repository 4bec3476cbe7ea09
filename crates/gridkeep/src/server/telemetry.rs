//! From the configuration to what telemetry is set up with, and the numbers that this program adds to those of the crates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::Context as _;
use gridkeep_dialect_vault::MetricsSource;
use gridkeep_dialect_vault::listener::ReloadableTls;
use gridkeep_issuer::ConfigError;
use gridkeep_keeper::Keeper;
use gridkeep_telemetry::{Credentials, Endpoint, Loki, Measures, Options, Settings, Traces};
use metrics::{describe_gauge, gauge};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{CollectorConfig, Config};

/// Whether the last reload left the configuration from before in force.
pub static RELOAD_FAILED: AtomicBool = AtomicBool::new(false);
/// Whether the server has no keys, or drops them.
pub static SEALED: AtomicBool = AtomicBool::new(false);
/// Whether there is a keeper, which sets gauges of its own.
static OPEN: AtomicBool = AtomicBool::new(false);

/// How many errors leave something out of the configuration in force.
static LEFT_OUT: AtomicU32 = AtomicU32::new(0);

/// Notes which configuration is in force.
pub fn in_force(config: &Config) {
    let errors = u32::try_from(config.faults.len()).unwrap_or(u32::MAX);
    LEFT_OUT.store(errors, Ordering::Relaxed);
}

/// Settings for logs as the command line wants them, and for the rest as the files do. A collector that cannot be used is told of in
/// the texts, and left out: nobody is to be without tokens because a log cannot be sent.
pub fn settings(logs: Options, config: Option<&Config>) -> (Settings, Vec<String>) {
    let mut settings = Settings {
        logs,
        ..Settings::default()
    };
    let mut troubles = Vec::new();
    let Some(config) = config else {
        return (settings, troubles);
    };
    let telemetry = &config.gridkeep.telemetry;
    let mut kept = |found: anyhow::Result<Endpoint>, what: &str| {
        found
            .map_err(|error| troubles.push(format!("{what} are not sent: {error:#}")))
            .ok()
    };
    if let Some(traces) = &telemetry.traces
        && let Some(endpoint) = kept(endpoint(&traces.to), "traces")
    {
        settings.traces = Some(Traces {
            endpoint,
            sample: traces.sample.value,
            service: "gridkeep".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: config.own_name().value,
        });
    }
    if let Some(loki) = &telemetry.loki
        && let Some(mut endpoint) = kept(endpoint(&loki.to), "log lines")
    {
        let tenant = loki.tenant.iter();
        endpoint
            .headers
            .extend(tenant.map(|tenant| ("X-Scope-OrgID".to_owned(), tenant.value.clone())));
        let mut labels: std::collections::BTreeMap<String, String> = loki
            .labels
            .iter()
            .map(|(name, value)| (name.clone(), value.value.clone()))
            .collect();
        labels
            .entry("instance".to_owned())
            .or_insert_with(|| config.own_name().value);
        settings.loki = Some(Loki { endpoint, labels });
    }
    (settings, troubles)
}

fn endpoint(to: &CollectorConfig) -> anyhow::Result<Endpoint> {
    let url = &to.url.value;
    let ca = to
        .ca_file
        .as_ref()
        .map(|file| {
            std::fs::read(&file.value).with_context(|| {
                format!("{} ({}) cannot be read", file.value.display(), file.origin)
            })
        })
        .transpose()?;
    let tls = url
        .starts_with("https:")
        .then(|| gridkeep_issuer::trust(url, ca.as_slice(), true))
        .transpose()
        .map_err(|error| match error {
            ConfigError::Ca { why, .. } => {
                anyhow::anyhow!("the ca_file for {url} cannot be used: {why}")
            }
            other => other.into(),
        })?;
    let credentials = match (&to.token_file, &to.password) {
        (Some(file), _) => Credentials::Bearer {
            file: file.value.clone(),
        },
        (None, Some((user, file))) => Credentials::Basic {
            user: user.value.clone(),
            file: file.value.clone(),
        },
        (None, None) => Credentials::None,
    };
    Ok(Endpoint {
        url: url.clone(),
        tls,
        credentials,
        headers: Vec::new(),
    })
}

/// Serves `/metrics`, with whatever there is to be told, as long as the program runs.
pub(super) struct Scraped {
    tasks: JoinSet<()>,
    /// The tasks end when it is gone.
    stop: watch::Sender<bool>,
}

impl Scraped {
    /// Begins to serve on the configured addresses.
    ///
    /// # Errors
    /// When an address that somebody wrote down cannot be had.
    pub(super) fn open(
        config: &Config,
        measures: &Measures,
        tls: &Arc<ReloadableTls>,
    ) -> anyhow::Result<Scraped> {
        let listeners = bind(config)?;
        collect_always(measures, tls);
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(measures.clone().upkeep(stopping.clone()));
        for listener in listeners {
            if let Ok(address) = listener.local_addr() {
                tracing::info!("metrics on http://{address}/metrics");
            }
            tasks.spawn(gridkeep_telemetry::serve(
                listener,
                measures.clone(),
                stopping.clone(),
            ));
        }
        Ok(Scraped { tasks, stop })
    }

    /// Ends it; nobody is waited for.
    pub(super) async fn close(mut self) {
        drop(self.stop);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The ports of `/metrics`.
///
/// # Errors
/// When an address that somebody wrote down cannot be had. The default is done without, as another server on the host may have it.
fn bind(config: &Config) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in &config.gridkeep.telemetry.metrics_listen {
        match super::port::listen(address.value) {
            Ok(listener) => listeners.push(listener),
            Err(error) if address.origin.file().is_none() => tracing::warn!(
                "metrics are not served on {}: {error}; set gridkeep.telemetry.metrics.listen to another address, or to [] for none",
                address.value
            ),
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("metrics cannot be served on {} ({}); is another program listening there? change gridkeep.telemetry.metrics.listen", address.value, address.origin)
                });
            }
        }
    }
    Ok(listeners)
}

/// Says what all metrics mean.
pub fn describe() {
    gridkeep_store::describe_metrics();
    gridkeep_issuer::describe_metrics();
    gridkeep_keeper::describe_metrics();
    gridkeep_dialect_vault::describe_metrics();
    describe_gauge!("gridkeep_build_info", "1, with the version of the program");
    describe_gauge!(
        "gridkeep_certificate_expiry_timestamp_seconds",
        "When the server's certificate ends, seconds since 1970"
    );
    describe_gauge!(
        "gridkeep_configuration_reload_failed",
        "1 while the files of the configuration cannot be used and the one from before is in force"
    );
    describe_gauge!(
        "gridkeep_sealed",
        "1 while the server has no keys and refuses every request"
    );
    describe_gauge!(
        "gridkeep_configuration_left_out",
        "Errors in the configuration in force, each of which leaves out what it names"
    );
}

/// Has the gauges of an open server set before each rendering.
pub fn collect(measures: &Measures, keeper: &Keeper) {
    let keeper = keeper.clone();
    OPEN.store(true, Ordering::Relaxed);
    measures.collect_with(move || {
        keeper.measure();
        // While it drops its keys it refuses everybody already.
        if SEALED.load(Ordering::Relaxed) {
            gauge!("gridkeep_serves").set(0.0);
        }
    });
}

/// Has those set that need neither keys nor the store.
pub fn collect_always(measures: &Measures, tls: &Arc<ReloadableTls>) {
    let tls = tls.clone();
    OPEN.store(false, Ordering::Relaxed);
    measures.collect_with(move || {
        gauge!("gridkeep_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        gridkeep_dialect_vault::measure();
        let sealed = SEALED.load(Ordering::Relaxed);
        gauge!("gridkeep_sealed").set(f64::from(u8::from(sealed)));
        // The keeper says it as long as there is one.
        if !OPEN.load(Ordering::Relaxed) {
            gauge!("gridkeep_serves").set(0.0);
        }
        let failed = RELOAD_FAILED.load(Ordering::Relaxed);
        gauge!("gridkeep_configuration_reload_failed").set(f64::from(u8::from(failed)));
        let left_out = LEFT_OUT.load(Ordering::Relaxed);
        gauge!("gridkeep_configuration_left_out").set(f64::from(left_out));
        #[allow(
            clippy::cast_precision_loss,
            reason = "exact for the next hundred million years"
        )]
        if let Some(end) = tls.not_after() {
            gauge!("gridkeep_certificate_expiry_timestamp_seconds").set(end.0 as f64);
        }
    });
}

/// The numbers, as the dialect answers them.
pub struct Source(pub Measures);

impl MetricsSource for Source {
    fn prometheus(&self) -> String {
        self.0.render()
    }

    fn json(&self) -> serde_json::Value {
        self.0.json()
    }
}
