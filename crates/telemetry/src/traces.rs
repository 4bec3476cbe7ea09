//! Spans as OTLP over HTTP, protobuf: `POST /v1/traces` of a collector.
//!
//! What is a span is said with `tracing` where the work is done. Only spans of our own crates are sent. The encoding is that of
//! `opentelemetry-proto`; sending is ours, so that it is bounded and counted as for every other place.

use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor};
use prost::Message as _;
use tracing::{Level, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::post::{Endpoint, Poster};
use crate::ship::{self, Queue, Receiver, Shipping, Untaken};

/// Where spans go.
pub struct Traces {
    /// The address of the collector, such as `https://collector.example:4318/v1/traces`.
    pub endpoint: Endpoint,
    /// The share of traces that is sent, 0 to 1.
    pub sample: f64,
    /// `service.name`
    pub service: String,
    /// `service.version`
    pub version: String,
    /// `service.instance.id`: which of several.
    pub instance: String,
}

struct Push {
    poster: Poster,
    resource: ResourceAttributesWithSchema,
}

/// Hands ended spans to the queue.
#[derive(Debug)]
struct Ended(Queue<SpanData>);

impl Traces {
    pub(crate) fn start<S>(self) -> Result<(impl Layer<S> + use<S>, Shipping), String>
    where
        S: Subscriber + for<'s> LookupSpan<'s>,
    {
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", self.service),
                KeyValue::new("service.version", self.version),
                KeyValue::new("service.instance.id", self.instance),
            ])
            .build();
        let push = Push {
            poster: Poster::new(self.endpoint)?,
            resource: ResourceAttributesWithSchema::from(&resource),
        };
        let (queue, shipping) = ship::start("otlp", push);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Ended(queue))
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
                self.sample,
            ))))
            .with_resource(resource)
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("gridkeep"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(|metadata| {
                metadata.target().starts_with("gridkeep") && *metadata.level() <= Level::INFO
            }));
        Ok((layer, shipping))
    }
}

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            let text = |attributes: &[KeyValue]| {
                attributes
                    .iter()
                    .map(|it| it.key.as_str().len() + 48)
                    .sum::<usize>()
            };
            let events: usize = span
                .events
                .iter()
                .map(|event| 64 + text(&event.attributes))
                .sum();
            let bytes = 256 + text(&span.attributes) + events;
            self.0.offer(span, bytes);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Receiver<SpanData> for Push {
    async fn send(&self, batch: &[SpanData]) -> Result<(), Untaken> {
        let resource_spans = group_spans_by_resource_and_scope(batch.to_vec(), &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        self.poster.post("application/x-protobuf", body).await
    }
}

/// The `traceparent` header (W3C Trace Context) of the current span; `None` when it is not part of a trace.
pub fn traceparent() -> Option<String> {
    let context = tracing::Span::current().context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        format!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            span.trace_flags().to_u8()
        )
    })
}
