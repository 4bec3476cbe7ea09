//! Proofs of who somebody is, both ends of each: the side that proves, on a user's machine, and the side that checks, in the server.
//!
//! Owns the proof alone: what a ticket or a signature says and whether it holds. Refuses to know what somebody proven may do (the keeper),
//! and how the proof travels (the dialects and the client). A new proof is one module here and one line in this list.

pub mod kerberos;
pub mod ssh;
