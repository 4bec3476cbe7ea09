//! The API as clients meet it, over a real keeper: statuses, texts and shapes they depend on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail by panicking"
)]

mod bypass;
mod bypass_names;
#[path = "../common/mod.rs"]
mod common;
mod credentials;
mod deadline;
mod delegation;
mod from_files;
mod kerberos;
mod keys_and_nodes;
mod login;
mod operators;
mod own;
mod policies;
mod proxies;
mod quotas;
mod sealed;
mod ssh;
mod sudo;
mod system;
mod tokens;

use serde_json::Value;

const DENIED: &str = "permission denied";
const DENIED_BY_POLICY: &str = "1 error occurred:\n\t* permission denied\n\n";
const UNSUPPORTED: &str = "1 error occurred:\n\t* unsupported operation\n\n";

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} in {value}"))
}
