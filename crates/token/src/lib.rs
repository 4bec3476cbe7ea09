//! What a token is: JWS, WLCG and SciTokens profiles, bearer token discovery, safe token files.
//!
//! Three things a caller may want:
//!
//! * read, verify or sign a token: [`jws`], and [`profile`] for the WLCG and SciTokens rules on top;
//! * find the token a command should use: [`discovery`];
//! * put a token into a file that others read: [`file`].
//!
//! The crate knows nothing of issuers as services, of servers or of the network: keys and "now" are given to it. A new token
//! profile goes into [`profile`], a new format of the same rank beside [`jws`].

pub mod discovery;
pub mod file;
pub mod group;
mod json;
pub mod jws;
pub mod mapfile;
pub mod profile;
pub mod scope;
pub mod select;
pub mod time;
