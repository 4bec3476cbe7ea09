//! What the dialect is given besides the keeper.

use std::sync::Arc;
use std::time::Duration;

use super::SealSwitch;
use crate::audit::{AuditFailure, AuditSink};
use crate::listener::TrustedProxies;

/// Bounds of a single request.
#[derive(Debug, Clone)]
pub struct DialectLimits {
    /// Bytes of the body of a request without a token, or whose token was not proven yet.
    pub open_body: usize,
    /// Bytes of the body of a request with a live token.
    pub body: usize,
    /// Time for a body to arrive.
    pub body_time: Duration,
    /// Time from a request's arrival to its answer, without that in which its body arrives. The stock clients wait ten seconds for it.
    pub answer: Duration,
}

impl Default for DialectLimits {
    fn default() -> Self {
        DialectLimits {
            open_body: 64 << 10,
            body: 1 << 20,
            body_time: Duration::from_secs(8),
            answer: Duration::from_secs(9),
        }
    }
}

/// What the dialect is given besides the keeper.
#[derive(Clone)]
pub struct DialectOptions {
    /// Where audit lines go.
    pub audit: Arc<dyn AuditSink>,
    /// What is done while they cannot be written.
    pub on_audit_failure: AuditFailure,
    /// The version that `sys/health` and others tell.
    pub version: String,
    /// The date of that version, RFC 3339.
    pub build_date: String,
    /// Bounds of a single request.
    pub limits: DialectLimits,
    /// Front servers whose word about a client's address is taken.
    pub proxies: TrustedProxies,
    /// How the server is sealed, and by which it is told to seal itself again.
    pub seal: Arc<SealSwitch>,
    /// What `sys/metrics` answers; without it the endpoint does not exist.
    pub metrics: Option<Arc<dyn MetricsSource>>,
}

/// The numbers of the process.
pub trait MetricsSource: Send + Sync {
    /// In Prometheus' text format.
    fn prometheus(&self) -> String;
    /// As the object that Vault gives.
    fn json(&self) -> serde_json::Value;
}

impl std::fmt::Debug for DialectOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DialectOptions")
            .field("version", &self.version)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
