//! The client against issuers that live in the test: over real connections, each as good or bad as the test wants.
//!
//! Owns: what goes over the wire and what the client makes of what comes back. Rules that need no wire are tested beside
//! the code. A new kind of trouble is a variant of `support::Answer`; a new grant is a test in `flows.rs`.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod background;
mod failures;
mod flows;
mod id_tokens;
mod support;
mod tls;
