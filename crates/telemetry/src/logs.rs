//! The log on standard error, because standard output is data: its form and its filter.

use std::fmt::Write as _;
use std::io::Write as _;
use std::str::FromStr;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{DefaultFields, FormatFields as _, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::line;

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

/// Which lines are logged: a level, or `target=level` items separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl Default for Filter {
    fn default() -> Self {
        Filter("info".to_owned())
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match EnvFilter::try_new(text) {
            Ok(_) => Ok(Filter(text.to_owned())),
            Err(error) => Err(format!(
                "the log filter \"{text}\" cannot be read ({error}); use a level such as info or debug, or items like gridkeep_keeper=debug"
            )),
        }
    }
}

impl Filter {
    /// No lines at all.
    pub fn off() -> Self {
        Filter("off".to_owned())
    }

    pub(crate) fn layer(&self) -> EnvFilter {
        // Read when it was made, so it can be read again.
        EnvFilter::new(&self.0)
    }
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Form of the lines.
    pub format: Format,
    /// Which lines.
    pub filter: Filter,
}

pub(crate) struct Lines<W> {
    format: Format,
    writer: W,
}

pub(crate) fn layer<W>(options: &Options, writer: W) -> Lines<W>
where
    W: for<'w> MakeWriter<'w> + 'static,
{
    Lines {
        format: options.format,
        writer,
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut text = match self.format {
            Format::Json => line::json(event, &context),
            Format::Human => human(event, &context),
        };
        text.push('\n');
        // In one piece, so that lines of threads do not mix. Nobody is left to hear of a log that cannot be written.
        let _ = self
            .writer
            .make_writer_for(event.metadata())
            .write_all(text.as_bytes());
    }
}

fn human<S>(event: &Event<'_>, context: &Context<'_, S>) -> String
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let mut text = String::with_capacity(160);
    // Writing to a text does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    let metadata = event.metadata();
    let _ = write!(text, " {:>5} {}: ", metadata.level(), metadata.target());
    let _ = DefaultFields::new().format_fields(Writer::new(&mut text), event);
    if let Some(id) = line::request_id(event, context) {
        let _ = write!(text, " request_id={id}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format) -> String {
        let written = Written::default();
        let to = written.clone();
        let options = Options {
            format,
            ..Options::default()
        };
        let subscriber = tracing_subscriber::registry()
            .with(line::RequestIds)
            .with(layer(&options, move || to.clone()).with_filter(options.filter.layer()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(issuer = "dune", count = 3, "a login was \"started\"");
            tracing::debug!("not at this level");
            tracing::info_span!("request", request_id = %"1b2c", route = "x").in_scope(|| {
                tracing::info_span!("inner").in_scope(|| tracing::warn!("deep"));
                tracing::warn!(request_id = "own", "named here already");
            });
        });
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_and_the_request_on_top() {
        let lines: Vec<serde_json::Value> = logged(Format::Json)
            .lines()
            .map(|line| serde_json::from_str(line).expect("json"))
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["issuer"], "dune");
        assert_eq!(lines[0]["count"], 3);
        assert_eq!(lines[0]["message"], "a login was \"started\"");
        assert_eq!(lines[0]["level"], "INFO");
        assert!(lines[0].get("request_id").is_none());
        assert!(lines[0]["timestamp"].as_str().unwrap().ends_with('Z'));
        assert_eq!(
            lines[1]["request_id"], "1b2c",
            "also from a span further out"
        );
        assert_eq!(lines[2]["request_id"], "own");
    }

    #[test]
    fn human_lines_carry_message_fields_and_request() {
        let text = logged(Format::Human);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0].contains(" INFO gridkeep_telemetry::logs::tests: a login was \"started\" issuer=\"dune\" count=3"),
            "{text}"
        );
        assert!(lines[1].ends_with(": deep request_id=1b2c"), "{text}");
        assert_eq!(lines[2].matches("request_id").count(), 1, "{text}");
    }

    #[test]
    fn a_bad_filter_is_explained() {
        let error = "gridkeep=loudly".parse::<Filter>().expect_err("refused");
        assert!(
            error.contains("loudly") && error.contains("info or debug"),
            "{error}"
        );
        assert!("xml".parse::<Format>().is_err());
        assert!("warn,gridkeep_keeper=debug".parse::<Filter>().is_ok());
    }
}
