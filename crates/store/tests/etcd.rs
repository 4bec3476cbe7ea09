//! The conformance suite on the etcd engine, against a real etcd.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gridkeep_store::conformance::{Subject, conformance};
use gridkeep_store::testing::ManualBootClock;
use gridkeep_store::testing::etcd::EtcdCluster;
use gridkeep_store::{Etcd, EtcdSettings, Initialise, Store};

fn settings(cluster: &EtcdCluster, prefix: &str) -> EtcdSettings {
    EtcdSettings::new(cluster.endpoints(), prefix)
}

async fn open(settings: EtcdSettings, key: &Path) -> Store {
    let etcd = Etcd::new(settings).unwrap();
    let key = etcd.load_or_generate(key).await.unwrap();
    etcd.open(key, Initialise::WhenEmpty).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_etcd_engine_conforms() {
    let scratch = tempfile::tempdir().unwrap();
    let cluster = EtcdCluster::start(1, &[]).unwrap();
    let count = AtomicU64::new(0);
    conformance(|| async {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let clock = Arc::new(ManualBootClock::default());
        let mut settings = settings(&cluster, &format!("test{n}/"));
        settings.clock = clock.clone();
        let pass_time = Box::new(move |by| {
            clock.advance(by);
            Box::pin(std::future::ready(())) as _
        });
        let store = open(settings, &scratch.path().join(format!("{n}.key"))).await;
        Subject { store, pass_time }
    })
    .await;
}
