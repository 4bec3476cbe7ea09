//! The one connection of a command: names and addresses, TLS, HTTP/1.1, and what to do when any of them fails.
//!
//! Owns transport and its failures. Refuses to know any path of the server (see `vault`) and which step comes next (see `get`).
//! There is no proxy, no pool and no redirect to elsewhere; the command talks to one service and stays on one of its addresses,
//! because login state may live in one node. A further rule of failover goes to [`Client::send`].

mod client;
mod connect;
mod error;
mod redact;
mod resolve;
mod server;
mod trust;

pub use client::{Call, Client, Reply, Target};
pub use error::{HttpError, Refusal};
pub use redact::redacted;
pub use resolve::{Lookup, Resolver, SystemResolver, interleave};
pub use server::{ServerUrl, ServerUrlError};
pub use trust::TrustSources;

/// Where the transport tells what it does. The default tells nothing.
pub trait Log {
    /// Whether requests and answers are to be shown at all; building the lines costs.
    fn shows_requests(&self) -> bool {
        false
    }
    /// Whether secrets in them are to be shown.
    fn shows_secrets(&self) -> bool {
        false
    }
    /// One line about a request, an answer, or a connection.
    fn request_line(&mut self, _line: &str) {}
}

/// A log that keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLog;

impl Log for NoLog {}

#[cfg(test)]
mod tests;
