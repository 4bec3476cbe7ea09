//! What a token is: JWS, WLCG and SciTokens profiles, bearer token discovery, safe token files.
//!
//! Three things a caller may want:
//!
//! * read, verify or sign a token: [`jws`];
//! * find the token a command should use;
//! * put a token into a file that others read: [`file`].
//!
//! The crate knows nothing of issuers as services, of servers or of the network: keys and "now" are given to it. A new token
//! profile goes into `profile`, a new format of the same rank beside [`jws`].

pub mod file;
mod json;
pub mod jws;
pub mod time;
