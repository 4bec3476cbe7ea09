//! What the store counts: operations with their outcome and how long they took.

use std::time::Instant;

use metrics::{counter, describe_counter, describe_histogram, histogram};

use crate::{CommitError, StoreError};

const COUNT: &str = "gridkeep_store_operations_total";
const SECONDS: &str = "gridkeep_store_operation_duration_seconds";

/// Says what the metrics of this crate mean, and makes those appear that count what hopefully never happens.
pub fn describe_metrics() {
    describe_counter!(COUNT, "Operations of the store by outcome");
    describe_histogram!(
        SECONDS,
        metrics::Unit::Seconds,
        "Time of a store operation; of a commit until it is durable"
    );
    for operation in ["read", "scan", "commit"] {
        for outcome in ["ok", "unavailable", "full", "damaged", "error"] {
            counter!(COUNT, "operation" => operation, "outcome" => outcome).increment(0);
        }
    }
    counter!(COUNT, "operation" => "commit", "outcome" => "conflict").increment(0);
}

pub(crate) fn read<T>(since: Instant, outcome: &Result<T, StoreError>) {
    histogram!(SECONDS, "operation" => "read").record(since.elapsed());
    match outcome {
        Ok(_) => counter!(COUNT, "operation" => "read", "outcome" => "ok").increment(1),
        Err(error) => counter!(COUNT, "operation" => "read", "outcome" => word(error)).increment(1),
    }
}

pub(crate) fn scan<T>(since: Instant, outcome: &Result<T, StoreError>) {
    histogram!(SECONDS, "operation" => "scan").record(since.elapsed());
    let outcome = outcome.as_ref().map_or_else(word, |_| "ok");
    counter!(COUNT, "operation" => "scan", "outcome" => outcome).increment(1);
}

pub(crate) fn commit<T>(since: Instant, outcome: &Result<T, CommitError>) {
    histogram!(SECONDS, "operation" => "commit").record(since.elapsed());
    let outcome = match outcome {
        Ok(_) => "ok",
        Err(CommitError::Conflict { .. }) => "conflict",
        Err(CommitError::Store(error)) => word(error),
        Err(_) => "error",
    };
    counter!(COUNT, "operation" => "commit", "outcome" => outcome).increment(1);
}

fn word(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable { .. } | StoreError::Vanished { .. } | StoreError::Closed => {
            "unavailable"
        }
        StoreError::Full { .. } | StoreError::QuotaReached { .. } => "full",
        StoreError::Corrupt { .. } | StoreError::Damaged { .. } => "damaged",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alerts tell by the word whether room has to be made or a disk looked at.
    #[test]
    fn whatever_has_no_room_left_is_full() {
        let path = std::path::PathBuf::from("/data");
        let place = "etcd".to_owned();
        for (error, expected) in [
            (StoreError::Full { path: path.clone() }, "full"),
            (StoreError::QuotaReached { place }, "full"),
            (StoreError::Vanished { path }, "unavailable"),
            (StoreError::Sealing, "error"),
        ] {
            assert_eq!(word(&error), expected, "{error}");
        }
    }
}
