//! Runs every row of `vectors/` against the crate. A new file of vectors is a module here.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a broken vector file shall fail the test"
)]

mod claims;
mod discovery;
mod issuer;
mod jose;
mod rights;

use std::path::Path;

use serde_json::Value;

/// One file of vectors.
pub fn load(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs `check` on every row and reports all failures together, each with its id.
pub fn each(file: &Value, mut check: impl FnMut(&Value) -> Result<(), String>) {
    let rows = file["rows"].as_array().expect("rows");
    assert!(!rows.is_empty());
    let failures: Vec<String> = rows
        .iter()
        .filter_map(|row| check(row).err().map(|why| format!("{}: {why}", id(row))))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} rows failed:\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n")
    );
}

/// The name of a row in messages.
pub fn id(row: &Value) -> &str {
    row["id"].as_str().expect("every row has an id")
}

/// `Ok` when equal, else a sentence.
pub fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: T,
    expected: T,
) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what} is {found:?}, expected {expected:?}"))
    }
}
