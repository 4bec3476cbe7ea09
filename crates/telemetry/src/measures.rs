//! Metrics: what crates count with the `metrics` macros, as text for Prometheus and as JSON.
//!
//! Gauges are not kept up to date all the time: whoever has one adds a function with [`Measures::collect_with`] that sets it, and that
//! is called before each rendering. A gauge that is not set for [`GAUGES_KEPT`] is no longer shown, so that an issuer that was taken
//! out of the configuration does not stay in alerts. Hence gauges are set by such functions only, never incremented.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

use crate::{process, ship, summary};

/// Upper bounds of the buckets of durations, in seconds. An issuer is waited for 60 s at most.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 8.0, 30.0, 60.0,
];
/// The same for the store, which answers from memory in microseconds.
const STORE_SECONDS: [f64; 12] = [
    0.00001, 0.00005, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0,
];
const GAUGES_KEPT: Duration = Duration::from_secs(300);
/// How often samples of histograms are put into their buckets, which bounds the memory they take until then.
const UPKEEP: Duration = Duration::from_secs(1);

type Collector = Box<dyn Fn() + Send + Sync>;

/// The numbers of this process. Clones are the same.
#[derive(Clone)]
pub struct Measures {
    handle: PrometheusHandle,
    collectors: Arc<RwLock<Vec<Collector>>>,
}

impl Measures {
    /// Makes everything that is counted from now on end here.
    pub(crate) fn install() -> Result<Self, String> {
        let recorder = builder()?.build_recorder();
        let measures = Measures::of(recorder.handle());
        metrics::set_global_recorder(recorder).map_err(|_| {
            "metrics are set up already; this is a mistake in the program".to_owned()
        })?;
        process::describe();
        ship::describe();
        Ok(measures)
    }

    fn of(handle: PrometheusHandle) -> Self {
        Measures {
            handle,
            collectors: Arc::default(),
        }
    }

    /// Calls `collect` before each rendering, to set gauges. It must not wait for anything.
    pub fn collect_with(&self, collect: impl Fn() + Send + Sync + 'static) {
        self.collectors
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Box::new(collect));
    }

    /// Forgets what was given to [`Measures::collect_with`], and all that it holds.
    pub fn collect_no_more(&self) {
        self.collectors
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Everything, in Prometheus' text format (version 0.0.4).
    pub fn render(&self) -> String {
        for collect in &*self
            .collectors
            .read()
            .unwrap_or_else(PoisonError::into_inner)
        {
            collect();
        }
        process::collect();
        self.handle.render()
    }

    /// Everything, as the JSON that `sys/metrics` of Vault gives without `format`.
    pub fn json(&self) -> serde_json::Value {
        summary::of(&self.render())
    }

    /// Keeps memory small until `stop` holds true or its sender is gone.
    pub async fn upkeep(self, mut stop: tokio::sync::watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(UPKEEP) => self.handle.run_upkeep(),
            }
        }
    }
}

fn builder() -> Result<PrometheusBuilder, String> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &SECONDS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(
                Matcher::Full("gridkeep_store_operation_duration_seconds".to_owned()),
                &STORE_SECONDS,
            )
        })
        .map(|builder| builder.idle_timeout(MetricKindMask::GAUGE, Some(GAUGES_KEPT)))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use metrics::{counter, gauge, histogram};

    use super::*;

    /// What `count` counts, seen by measures of its own.
    pub(crate) fn measured(count: impl FnOnce(&Measures)) -> Measures {
        let recorder = builder().unwrap().build_recorder();
        let measures = Measures::of(recorder.handle());
        metrics::with_local_recorder(&recorder, || count(&measures));
        measures
    }

    #[test]
    fn what_is_counted_is_rendered_and_gauges_are_collected() {
        let recorder = builder().unwrap().build_recorder();
        let measures = Measures::of(recorder.handle());
        metrics::with_local_recorder(&recorder, || {
            process::describe();
            counter!("a_total", "issuer" => "du\"ne").increment(2);
            histogram!("b_duration_seconds").record(0.3);
            histogram!("gridkeep_store_operation_duration_seconds").record(0.00002);
            measures.collect_with(|| gauge!("c").set(7.0));
            let text = measures.render();
            for line in [
                "a_total{issuer=\"du\\\"ne\"} 2",
                "b_duration_seconds_bucket{le=\"0.25\"} 0",
                "b_duration_seconds_bucket{le=\"1\"} 1",
                "b_duration_seconds_count 1",
                "gridkeep_store_operation_duration_seconds_bucket{le=\"0.00005\"} 1",
                "c 7",
            ] {
                assert!(text.lines().any(|it| it == line), "{line}\n{text}");
            }
            let resident = text
                .lines()
                .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
                .and_then(|value| value.parse::<f64>().ok())
                .unwrap();
            assert!(resident > 1e6, "{resident}");
            for name in [
                "process_cpu_seconds_total",
                "process_open_fds",
                "process_max_fds",
                "process_start_time_seconds",
            ] {
                assert!(text.contains(&format!("\n{name} ")), "{name}\n{text}");
            }
        });
    }
}
