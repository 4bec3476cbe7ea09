//! The Vault HTTP API over the keeper.
