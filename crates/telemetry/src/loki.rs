//! Log lines for Grafana Loki: `POST /loki/api/v1/push` with the JSON body, one stream for each level.
//!
//! Only lines of our own crates go there, by the filter of the log: what an HTTP library has to say about sending lines would cause
//! further lines.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::line;
use crate::logs::Options;
use crate::post::{Endpoint, Poster};
use crate::ship::{self, Queue, Receiver, Shipping, Untaken};

/// Bytes of a line; the rest is cut off.
const LONGEST_LINE: usize = 16 << 10;

/// Where log lines go besides standard error.
pub struct Loki {
    /// The address of the push API, such as `https://loki.example/loki/api/v1/push`.
    pub endpoint: Endpoint,
    /// Labels of the streams; `level` is added. Few values each: Loki keeps an index entry for every combination.
    pub labels: BTreeMap<String, String>,
}

struct Line {
    /// Nanoseconds since 1970.
    at: u128,
    level: Level,
    text: String,
}

struct Push {
    poster: Poster,
    labels: BTreeMap<String, String>,
}

pub(crate) struct Lines(Queue<Line>);

impl Loki {
    pub(crate) fn start<S>(
        self,
        logs: &Options,
    ) -> Result<(impl Layer<S> + use<S>, Shipping), String>
    where
        S: Subscriber + for<'s> LookupSpan<'s>,
    {
        let push = Push {
            poster: Poster::new(self.endpoint)?,
            labels: self.labels,
        };
        let (queue, shipping) = ship::start("loki", push);
        let ours = filter_fn(|metadata| metadata.target().starts_with("gridkeep"));
        let layer = Lines(queue).with_filter(ours.and(logs.filter.layer()));
        Ok((layer, shipping))
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut text = line::json(event, &context);
        if text.len() > LONGEST_LINE {
            text.truncate(text.floor_char_boundary(LONGEST_LINE));
            text.shrink_to_fit();
        }
        let bytes = text.len() + 64;
        self.0.offer(
            Line {
                at: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_nanos()),
                level: *event.metadata().level(),
                text,
            },
            bytes,
        );
    }
}

impl Receiver<Line> for Push {
    async fn send(&self, batch: &[Line]) -> Result<(), Untaken> {
        let body = body(&self.labels, batch);
        self.poster.post("application/json", body).await
    }
}

fn body(labels: &BTreeMap<String, String>, batch: &[Line]) -> Vec<u8> {
    let mut streams: BTreeMap<Level, Vec<&Line>> = BTreeMap::new();
    for line in batch {
        streams.entry(line.level).or_default().push(line);
    }
    let streams: Vec<_> = streams
        .into_iter()
        .map(|(level, mut lines)| {
            // Threads that log at once may hand their lines over the other way round.
            lines.sort_by_key(|line| line.at);
            let values: Vec<_> = lines
                .iter()
                .map(|line| json!([line.at.to_string(), line.text]))
                .collect();
            let mut stream = labels.clone();
            stream.insert("level".to_owned(), level.as_str().to_ascii_lowercase());
            json!({"stream": stream, "values": values})
        })
        .collect();
    json!({ "streams": streams }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_one_stream_for_each_level_in_order_of_time() {
        let line = |at, level, text: &str| Line {
            at,
            level,
            text: text.into(),
        };
        let labels = BTreeMap::from([("job".to_owned(), "gridkeep".to_owned())]);
        let batch = [
            line(3, Level::INFO, "c\n\"d\""),
            line(2, Level::WARN, "b"),
            line(1, Level::INFO, "a"),
        ];
        let body: serde_json::Value = serde_json::from_slice(&body(&labels, &batch)).unwrap();
        assert_eq!(
            body,
            json!({"streams": [
                {"stream": {"job": "gridkeep", "level": "warn"}, "values": [["2", "b"]]},
                {"stream": {"job": "gridkeep", "level": "info"}, "values": [["1", "a"], ["3", "c\n\"d\""]]},
            ]})
        );
    }
}
