//! What a token is: JWS, WLCG and SciTokens profiles, bearer token discovery, safe token files.
//!
//! Three things a caller may want:
//!
//! Read, verify or sign a token: [`jws`], and [`profile`] for the WLCG and SciTokens rules on top.
//!
//! ```
//! use gridkeep_token::jws::{Algorithm, JwkSet, Jws, SigningKey};
//! let key = SigningKey::generate(Algorithm::EdDsa, "2030-01")?;
//! let token = key.sign(Some("JWT"), &serde_json::json!({"sub": "anna"}))?;
//! assert!(Jws::parse(&token)?.verify(&JwkSet::new(vec![key.public_jwk()])).is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Find the token a command should use: [`discovery`].
//!
//! ```
//! use gridkeep_token::discovery::{Environment, Source, discover};
//! let environment = Environment::from_variables(|name| (name == "BEARER_TOKEN").then(|| "abc".into()), 1000);
//! assert_eq!(discover(&environment)?.source, Source::Variable);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Put a token into a file that others read: [`mod@file`].
//!
//! ```
//! use gridkeep_token::file::{ReadPolicy, ReplaceOptions, read_secret, replace};
//! let directory = tempfile::tempdir()?;
//! let path = directory.path().join("bt_u1000");
//! replace(&path, b"abc\n", &ReplaceOptions::default())?;
//! assert!(read_secret(&path, ReadPolicy::DefaultLocation)?.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
