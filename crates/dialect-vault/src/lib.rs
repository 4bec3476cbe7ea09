//! The Vault HTTP API over the keeper, and the TLS port it is served on.
//!
//! Owns requests, answers and the audit log, to the letter of the original where clients depend on it. Refuses to know the store, issuers'
//! protocols and configuration files: it asks the keeper and translates. The three things a caller wants first:
//!
//! * [`VaultService::new`] with a keeper and [`DialectOptions`];
//! * [`FileAudit::open`] for the audit log;
//! * [`listener::serve`] with [`listener::ReloadableTls`].
//!
//! A new endpoint: see `endpoints/mod.rs`. A new place for audit lines: see [`audit`].

mod answer;
pub mod audit;
pub mod describe;
mod endpoints;
mod failure;
mod fields;
mod json;
pub mod listener;
mod measure;
mod params;
mod path;
mod peer;
mod quota;
mod route;
pub mod sealed;
mod service;
mod template;
mod time;
#[doc(hidden)]
pub mod untrusted;

pub use audit::{
    AuditChain, AuditError, AuditFailure, AuditSink, AuditVerifier, FileAudit, FileAuditOptions,
};
pub use measure::{describe_metrics, measure};
pub use peer::away::{Acquaintances, AwayService};
pub use service::{DialectLimits, DialectOptions, MetricsSource, SealSwitch, VaultService};
