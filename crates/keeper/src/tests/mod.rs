//! The keeper as its callers meet it: a store on a failing disk, an issuer that misbehaves on command, clocks that only move when
//! told. One module per subject; what they share is in [`support`] and [`issuer`].

mod background;
mod cluster;
mod crash;
mod create;
mod exchange;
mod faults;
mod floods;
mod handles;
mod held;
mod issuer;
mod kerberos;
mod login;
mod measure;
mod named;
mod powers;
mod proof;
mod put;
mod read;
mod reconfigure;
mod refresh;
mod rekey;
mod removed;
mod removed_logins;
mod revocation;
mod ssh;
mod support;
mod terms;
mod tree;
mod unreadable;
