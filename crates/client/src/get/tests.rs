//! Whole runs against a Vault-like server in this process.

mod kerberos;
mod login;
mod mock;
mod output;
mod tokens;
