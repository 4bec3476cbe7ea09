//! The price of etcd: durable writes and reads of the store on the embedded engine, on one etcd member and on three, on the same disk.
//!
//! The same store above, the same records; only the engine differs. The members are on this host, so that no network is in it, and
//! three of them share one disk and the same processors: three hosts do better.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::rand;
use gridkeep_store::testing::etcd::EtcdCluster;
use gridkeep_store::{
    Etcd, EtcdSettings, Initialise, Kind, Name, OpenOptions, Record, RootKey, Store, Transaction,
    open,
};
use serde_json::{Map, Value, json};

const KIND: Kind = Kind(9);
/// Bytes of a record's body.
const VALUE: usize = 1000;
const WRITERS: [usize; 2] = [1, 64];

/// How long to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Directory on the disk to be measured; what is made in it is removed again
    #[arg(long)]
    directory: PathBuf,
    /// Commits of one record, and reads, per measurement
    #[arg(long, default_value_t = 2000)]
    operations: usize,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

const ENGINES: [(&str, usize); 3] = [("embedded", 0), ("etcd_1", 1), ("etcd_3", 3)];

/// Measures all engines, alternating.
pub fn run(options: &Options) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut found: Map<String, Value> = Map::new();
    for round in 0..options.rounds {
        for (engine, members) in ENGINES {
            let scratch = tempfile::tempdir_in(&options.directory)?;
            // Held while it is measured.
            let cluster = (members > 0)
                .then(|| EtcdCluster::start_in(&scratch.path().join("etcd"), members, &[]))
                .transpose()?;
            let measured = runtime.block_on(async {
                let store = opened(scratch.path(), cluster.as_ref()).await?;
                let mut measured = Vec::new();
                for writers in WRITERS {
                    measured.push((
                        format!("writes_{writers}"),
                        writes(&store, options.operations, writers).await?,
                    ));
                    measured.push((
                        format!("reads_{writers}"),
                        reads(&store, options.operations, writers).await?,
                    ));
                }
                store.close().await?;
                anyhow::Ok(measured)
            });
            for (what, (rate, median)) in
                measured.with_context(|| format!("{engine}, round {round}"))?
            {
                let entry = found
                    .entry(format!("{engine}/{what}"))
                    .or_insert_with(|| json!({ "per_second": [], "median_us": [] }));
                for (key, value) in [("per_second", rate), ("median_us", median)] {
                    if let Some(Value::Array(values)) = entry.get_mut(key) {
                        values.push(json!(value));
                    }
                }
            }
        }
    }
    Ok(json!({ "engines": found, "value_bytes": VALUE, "operations": options.operations }))
}

async fn opened(directory: &Path, cluster: Option<&EtcdCluster>) -> anyhow::Result<Store> {
    let key = directory.join("root.key");
    let Some(cluster) = cluster else {
        let data = directory.join("data");
        let key = RootKey::load_or_generate(&key, &data)?;
        return Ok(open(OpenOptions::new(&data, key))?);
    };
    let etcd = Etcd::new(EtcdSettings::new(cluster.endpoints(), "bench/"))?;
    let key = etcd.load_or_generate(&key).await?;
    Ok(etcd.open(key, Initialise::WhenEmpty).await?)
}

fn name(n: usize) -> Name {
    Name::new(KIND, &[n.to_be_bytes()])
}

async fn writes(store: &Store, operations: usize, writers: usize) -> anyhow::Result<(f64, f64)> {
    let mut body = vec![0; VALUE];
    rand::fill(&mut body).ok().context("no randomness")?;
    let body = Arc::new(body);
    let store = store.clone();
    at_once(operations, writers, move |n| {
        let record = Record {
            schema: 1,
            body: body.to_vec().into(),
            expires_at: Some(4_000_000_000),
        };
        let store = store.clone();
        async move {
            let transaction = Transaction::new().put(name(n), record);
            store.commit(transaction).await?;
            Ok(())
        }
    })
    .await
}

async fn reads(store: &Store, operations: usize, readers: usize) -> anyhow::Result<(f64, f64)> {
    let store = store.clone();
    at_once(operations, readers, move |n| {
        let store = store.clone();
        async move {
            store
                .get(&name(n))
                .await?
                .context("a record is missing")
                .map(drop)
        }
    })
    .await
}

/// Does `work` for each number below `operations` with so many tasks; answers the rate per second and the median in microseconds.
async fn at_once<F, W>(operations: usize, tasks: usize, work: W) -> anyhow::Result<(f64, f64)>
where
    W: Fn(usize) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let took: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let begun = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let (next, took, work) = (next.clone(), took.clone(), work.clone());
        running.spawn(async move {
            let mut own = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= operations {
                    break;
                }
                let begun = Instant::now();
                work(n).await?;
                own.push(begun.elapsed());
            }
            took.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .append(&mut own);
            anyhow::Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let rate = operations as f64 / begun.elapsed().as_secs_f64();
    let mut took = took.lock().unwrap_or_else(PoisonError::into_inner);
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    Ok((rate, median.as_secs_f64() * 1e6))
}
