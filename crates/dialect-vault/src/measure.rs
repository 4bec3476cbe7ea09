//! What the dialect counts: requests by route and status, how long they took, audit lines that could not be written, connections.
//!
//! Routes are templates such as `secret/oauth/creds/{name}`: what a client sends never becomes a label.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::{Method, StatusCode};
use metrics::{
    SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

const REQUESTS: &str = "gridkeep_http_requests_total";
const SECONDS: &str = "gridkeep_http_request_duration_seconds";
const AUDIT: &str = "gridkeep_audit_failures_total";
const CONNECTIONS: &str = "gridkeep_connections";
const REFUSED: &str = "gridkeep_connections_refused_total";

/// Says what the metrics of this crate mean, and makes those appear that count what hopefully never happens.
pub fn describe_metrics() {
    describe_counter!(REQUESTS, "Answered requests by route, method and status");
    describe_histogram!(
        SECONDS,
        Unit::Seconds,
        "Time from a request's head until its answer"
    );
    describe_counter!(
        AUDIT,
        "Audit lines that could not be written at once; most such requests are refused, gridkeep.audit.on_failure says which"
    );
    describe_gauge!(CONNECTIONS, "Open connections of clients");
    describe_counter!(
        REFUSED,
        "Connections that were closed at once or got no further than the TLS handshake"
    );
    for line in ["request", "response"] {
        counter!(AUDIT, "line" => line).increment(0);
    }
    for reason in ["address_limit", "handshake"] {
        counter!(REFUSED, "reason" => reason).increment(0);
    }
}

/// A request that is being answered. Its route is set as soon as it is known.
pub(crate) struct Asked {
    since: Instant,
    method: &'static str,
    pub(crate) route: OnceLock<&'static str>,
}

impl Asked {
    pub(crate) fn now(method: &Method) -> Self {
        Asked {
            since: Instant::now(),
            method: match method.as_str() {
                "GET" => "GET",
                "HEAD" => "HEAD",
                "POST" => "POST",
                "PUT" => "PUT",
                "DELETE" => "DELETE",
                "PATCH" => "PATCH",
                "LIST" => "LIST",
                "SCAN" => "SCAN",
                _ => "other",
            },
            route: OnceLock::new(),
        }
    }

    /// The route's template; `other` for what is not the API or was not understood.
    pub(crate) fn route(&self) -> &'static str {
        self.route.get().copied().unwrap_or("other")
    }

    /// Which method, among those there are.
    pub(crate) fn method(&self) -> &'static str {
        self.method
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        let status: SharedString = match status {
            StatusCode::OK => SharedString::const_str("200"),
            StatusCode::NO_CONTENT => SharedString::const_str("204"),
            other => other.as_str().to_owned().into(),
        };
        counter!(REQUESTS, "route" => self.route(), "method" => self.method, "status" => status)
            .increment(1);
        histogram!(SECONDS, "route" => self.route(), "method" => self.method)
            .record(self.since.elapsed());
    }
}

/// The audit log did not take a `request` or `response` line.
pub(crate) fn unaudited(line: &'static str) {
    counter!(AUDIT, "line" => line).increment(1);
}

/// A connection was closed before it could ask anything.
pub(crate) fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// Sets the gauges of this crate.
pub fn measure() {
    #[allow(
        clippy::cast_precision_loss,
        reason = "exact for as many connections as a system can have"
    )]
    gauge!(CONNECTIONS).set(OPEN.load(Ordering::Relaxed) as f64);
}

/// Connections of all ports.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// An open connection, counted for as long as this lives.
pub(crate) struct Open;

impl Open {
    pub(crate) fn counted() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Open
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}
