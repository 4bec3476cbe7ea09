//! The conformance suite on the embedded engine, and under faults: of an engine that fails before or after the call, and of a
//! disk that fails below.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gridkeep_store::conformance::{Subject, conformance, under_faults};
use gridkeep_store::testing::{FaultyDisk, ManualBootClock};
use gridkeep_store::{OpenOptions, RootKey, Store, open};

fn options(directory: &Path) -> OpenOptions {
    let data = directory.join("data");
    let key = RootKey::load_or_generate(&directory.join("root.key"), &data).unwrap();
    let mut options = OpenOptions::new(&data, key);
    options.reserve_bytes = 64 * 1024;
    options
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_engine_conforms() {
    let scratch = tempfile::tempdir().unwrap();
    let count = AtomicU64::new(0);
    conformance(|| async {
        let directory = scratch
            .path()
            .join(count.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&directory).unwrap();
        let clock = Arc::new(ManualBootClock::default());
        let mut options = options(&directory);
        options.clock = clock.clone();
        let pass_time = Box::new(move |by| {
            clock.advance(by);
            Box::pin(std::future::ready(())) as _
        });
        Subject {
            store: open(options).unwrap(),
            pass_time,
        }
    })
    .await;
}

#[tokio::test]
async fn a_failing_disk_makes_no_answer_untrue() {
    // The size of the soak, like that of the kills, is one parameter.
    let seeds: u64 = std::env::var("GRIDKEEP_SOAK")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(4);
    let mut failures = 0;
    for seed in 1..=seeds {
        let scratch = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new();
        let mut options = options(scratch.path());
        options.disk = Arc::new(disk.clone());
        let store = open(options).unwrap();
        let round = AtomicU64::new(seed * 1000);
        let failing = |on: bool| {
            let seed = round.fetch_add(1, Ordering::Relaxed);
            disk.fail_randomly(on.then_some((30, seed)));
        };
        failures += under_faults(&store, &failing, seed, 60).await;
        store.close().await.unwrap();
        // All of it is there for the next start too.
        let store: Store = open(self::options(scratch.path())).unwrap();
        under_faults(&store, &|_| (), seed, 2).await;
    }
    assert!(
        failures > 20,
        "only {failures} commits failed: the test does not test"
    );
}
