//! The one connection of a command: names and addresses, TLS, HTTP/1.1, and what to do when any of them fails.

mod resolve;

pub use resolve::{Lookup, Resolver, SystemResolver, interleave};
