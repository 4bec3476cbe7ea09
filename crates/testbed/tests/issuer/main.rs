//! The test issuer from outside: every flow over HTTPS, every character, every misbehaviour, and the program.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops here, helpers included"
)]

mod bench;
mod characters;
mod faults;
mod flows;
mod program;
