//! Token issuer, demo and faults for tests; nothing of it is in production.
//!
//! The crate is a library, so that other crates' tests can start an issuer in their own process, and a program with a subcommand
//! for each part, so that tests in other languages can. A new part is a module here and a subcommand in `main.rs`. It knows
//! `gridkeep-token` only; the server under test is run as a process.

pub mod demo;
pub mod issuer;
