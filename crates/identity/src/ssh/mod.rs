//! The ssh-agent as a proof: whoever's agent signs a text of ours holds the private key.
//!
//! Owns keys ([`Key`]), what a signature over a text proves ([`verify`]), files of keys that administrators write
//! ([`authorized_keys`]), and the way to an agent ([`Agent`]). Refuses to know whose a key is: that is the keeper's. Another kind of
//! key is one arm in [`key`](Key) and one in [`verify`].

mod agent;
pub mod authorized_keys;
mod key;
mod verify;
mod wire;

pub use agent::{Agent, AgentError, AgentKey, RSA_SHA2_512};
pub use key::{Key, KeyError};
pub use verify::{FORMATS, Form, Signature, SignatureError, parts, verify};

#[cfg(test)]
mod vectors;
