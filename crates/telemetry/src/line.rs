//! A log line as JSON, and which request it belongs to: the value of `request_id` of the nearest span that has one, the same as in
//! the API's answer and in the audit log.

use std::fmt;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

const REQUEST_ID: &str = "request_id";

/// Remembers with each span the request it belongs to.
pub(crate) struct RequestIds;

struct RequestId(String);

impl<S> Layer<S> for RequestIds
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.fields().field(REQUEST_ID).is_none() {
            return;
        }
        let mut found = Find(None);
        attributes.record(&mut found);
        if let (Some(text), Some(span)) = (found.0, context.span(id)) {
            span.extensions_mut().insert(RequestId(text));
        }
    }
}

struct Find(Option<String>);

impl Visit for Find {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == REQUEST_ID {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == REQUEST_ID {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

/// The request an event belongs to, unless the event itself says so.
pub(crate) fn request_id<S>(event: &Event<'_>, context: &Context<'_, S>) -> Option<String>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    if event.metadata().fields().field(REQUEST_ID).is_some() {
        return None;
    }
    context
        .event_scope(event)?
        .find_map(|span| span.extensions().get::<RequestId>().map(|id| id.0.clone()))
}

/// One object on one line: time, level, target, message, the fields of the event, and the request.
pub(crate) fn json<S>(event: &Event<'_>, context: &Context<'_, S>) -> String
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let mut time = String::new();
    // Writing to a text does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let mut object = Fields(String::with_capacity(256));
    object.put("timestamp", &time);
    object.put("level", event.metadata().level().as_str());
    event.record(&mut object);
    if let Some(id) = request_id(event, context) {
        object.put(REQUEST_ID, &id);
    }
    object.put("target", event.metadata().target());
    object.0.push('}');
    object.0
}

/// An object that is being written, in the order of a reader's interest.
struct Fields(String);

impl Fields {
    fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) {
        // Texts and numbers always have a form.
        let (Ok(name), Ok(value)) = (serde_json::to_string(name), serde_json::to_string(value))
        else {
            return;
        };
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&name);
        self.0.push(':');
        self.0.push_str(&value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), &value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), &value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), &value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), &format!("{value:?}"));
    }
}
