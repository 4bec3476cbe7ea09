//! Logs, metrics and traces of every gridkeep program: one way to set them up, [`start`]. The commands for users (`gridkeep-client`) have
//! none: they log nothing, and what they say is their output.
//!
//! Owns where lines, numbers and spans go, in which form, and that none of it ever makes a program wait. Refuses to know what is
//! logged or counted: crates use `tracing` and `metrics` directly, and what those say ends here. A further place to send
//! things to is one file like [`loki`](self), built on `ship` and `post`.
//!
//! Secrets do not reach a log, a metric or a span because they are types without a readable `Debug`; nothing is filtered here.

mod line;
mod listener;
mod logs;
mod loki;
mod measures;
mod post;
mod process;
mod ship;
mod summary;
mod traces;

use std::time::Duration;

use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

pub use listener::serve;
pub use logs::{Filter, Format, Options};
pub use loki::Loki;
pub use measures::Measures;
pub use post::{Credentials, Endpoint};
pub use traces::{Traces, traceparent};

use ship::Shipping;

/// What a program says of itself, and where to.
#[derive(Default)]
pub struct Settings {
    /// The log on standard error.
    pub logs: Options,
    /// Where log lines go besides.
    pub loki: Option<Loki>,
    /// Where spans go.
    pub traces: Option<Traces>,
}

/// Telemetry that was started, for the rest of the process.
pub struct Telemetry {
    /// The numbers.
    pub measures: Measures,
    shipping: Vec<Shipping>,
}

/// Starts logs, metrics and traces for the rest of the process. Logs and metrics alone need nothing; what is sent elsewhere is sent
/// by tasks of the tokio runtime this is called in.
///
/// # Errors
/// A sentence for the user: an address or certificate authority that cannot be used, or telemetry that was started before.
pub fn start(settings: Settings) -> Result<Telemetry, String> {
    let measures = Measures::install()?;
    let mut shipping = Vec::new();
    let loki = settings
        .loki
        .map(|loki| loki.start(&settings.logs))
        .transpose()?
        .map(|(layer, sending)| {
            shipping.push(sending);
            layer
        });
    let traces = settings
        .traces
        .map(Traces::start)
        .transpose()?
        .map(|(layer, sending)| {
            shipping.push(sending);
            layer
        });
    tracing_subscriber::registry()
        .with(line::RequestIds)
        .with(traces)
        .with(loki)
        .with(
            logs::layer(&settings.logs, std::io::stderr).with_filter(settings.logs.filter.layer()),
        )
        .try_init()
        .map_err(|_| "logging is set up already; this is a mistake in the program".to_owned())?;
    Ok(Telemetry { measures, shipping })
}

impl Telemetry {
    /// Sends what still waits to be sent, but for no longer than `within`; what is left then is dropped.
    pub async fn finish(self, within: Duration) {
        let ends = tokio::time::Instant::now() + within;
        for one in self.shipping {
            one.finish(ends).await;
        }
    }
}
