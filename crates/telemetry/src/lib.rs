//! Logs of every gridkeep program: one way to set them up.
//!
//! Owns where log lines go, in which form and from which level on; they go to standard error, because standard output is data.
//! Refuses to know what is logged. Metrics and traces join here when they come, so that programs keep calling one function.
//!
//! Secrets do not reach a log because they are types without a readable `Debug`; nothing is filtered here.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For a person: time, level, message, fields.
    #[default]
    Human,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "human" => Ok(Format::Human),
            "json" => Ok(Format::Json),
            other => Err(format!(
                "log format \"{other}\" is not known; use human or json"
            )),
        }
    }
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Form of the lines.
    pub format: Format,
    /// Which lines: a level, or `target=level` items separated by commas.
    pub filter: String,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            format: Format::Human,
            filter: "info".to_owned(),
        }
    }
}

/// Starts logging to standard error, for the rest of the process.
///
/// # Errors
/// A sentence for the user when the filter cannot be read, or when logging was set up before.
pub fn start(options: &Options) -> Result<(), String> {
    subscriber(options, std::io::stderr)?
        .try_init()
        .map_err(|_| "logging is set up already; this is a mistake in the program".to_owned())
}

fn subscriber<W>(
    options: &Options,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&options.filter).map_err(|error| {
        format!("the log filter \"{}\" cannot be read ({error}); use a level such as info or debug, or items like gridkeep_keeper=debug", options.filter)
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    Ok(match options.format {
        Format::Human => Box::new(
            registry.with(
                tracing_subscriber::fmt::layer()
                    .with_writer(writer)
                    .with_ansi(false),
            ),
        ),
        Format::Json => Box::new(
            registry.with(
                tracing_subscriber::fmt::layer()
                    .with_writer(writer)
                    .json()
                    .flatten_event(true),
            ),
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(options: &Options) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let subscriber = subscriber(options, move || to.clone()).expect("set up");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(issuer = "dune", "a login was started");
            tracing::debug!("not at this level");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_on_top() {
        let text = logged(&Options {
            format: Format::Json,
            filter: "info".into(),
        });
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("json"))
            .collect();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["issuer"], "dune");
        assert_eq!(lines[0]["message"], "a login was started");
    }

    #[test]
    fn human_lines_carry_message_and_fields() {
        let text = logged(&Options::default());
        assert!(
            text.contains("a login was started") && text.contains("issuer=\"dune\""),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_bad_filter_is_explained() {
        let error = start(&Options {
            format: Format::Human,
            filter: "gridkeep=loudly".into(),
        })
        .expect_err("refused");
        assert!(
            error.contains("loudly") && error.contains("info or debug"),
            "{error}"
        );
        assert!("xml".parse::<Format>().is_err());
    }
}
