//! The store beside bare redb: how many records of 1 kB become durable in a second.
//!
//! Every way writes the same number of records with random keys of the same length and random values, 64 to a durable write, into
//! a new file with a cache of 16 MiB on the same disk. The ways alternate, so that a slow moment of the disk meets all of them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use aws_lc_rs::rand;
use gridkeep_store::engine::{
    Engine, EngineStatus, RawCommitError, RawDue, RawEntry, RawPage, RawPut, RawTransaction,
    RawWatch,
};
use gridkeep_store::{
    Kind, Name, OpenOptions, Record, RootKey, Store, StoreError, Transaction, open, open_behind,
};
use nix::time::{ClockId, clock_gettime};
use redb::{Database, Durability, TableDefinition};
use serde_json::{Map, Value, json};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");
/// What the store gives redb.
const CACHE: usize = 16 << 20;
/// Bytes of a value.
const VALUE: usize = 1000;
/// Bytes of a key: those of the store's hashed names of one component.
const KEY: usize = 19;
/// Records in a durable write, and writers at a time.
const BATCH: usize = 64;
const KIND: Kind = Kind(9);

/// How long to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Directory on the disk to be measured; what is made in it is removed again
    #[arg(long)]
    directory: PathBuf,
    /// Durable writes per way and round
    #[arg(long, default_value_t = 300)]
    batches: usize,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[derive(Clone, Copy)]
enum Way {
    /// redb as it comes: one writer, 64 records per transaction.
    Redb,
    /// The same with `quick_repair`, which the store needs to open at once after a kill.
    RedbQuickRepair,
    /// The store, 64 writers with one record each.
    Writers,
    /// The store, one writer with transactions of 64 records.
    Transactions,
    /// The store's engine below the sealing, 64 writers with one record each.
    Unsealed,
}

const WAYS: [(&str, Way); 5] = [
    ("redb", Way::Redb),
    ("redb_quick_repair", Way::RedbQuickRepair),
    ("store_64_writers", Way::Writers),
    ("store_64_record_transactions", Way::Transactions),
    ("engine_64_writers_unsealed", Way::Unsealed),
];

/// Measures all ways and the sealing alone.
pub fn run(options: &Options) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); WAYS.len()];
    for _ in 0..options.rounds {
        for ((_, way), rates) in WAYS.iter().zip(&mut rates) {
            let scratch = tempfile::tempdir_in(&options.directory)?;
            let took = match way {
                Way::Redb => bare(scratch.path(), options.batches, false)?,
                Way::RedbQuickRepair => bare(scratch.path(), options.batches, true)?,
                Way::Writers => runtime.block_on(writers(scratch.path(), options.batches))?,
                Way::Transactions => {
                    runtime.block_on(transactions(scratch.path(), options.batches))?
                }
                Way::Unsealed => runtime.block_on(unsealed(scratch.path(), options.batches))?,
            };
            rates.push((options.batches * BATCH) as f64 / took.as_secs_f64());
        }
    }
    let mut found = Map::new();
    for ((name, _), rates) in WAYS.iter().zip(rates) {
        found.insert((*name).to_owned(), json!(rates));
    }
    let scratch = tempfile::tempdir_in(&options.directory)?;
    let sealing = runtime.block_on(sealing(scratch.path(), 20_000))?;
    Ok(
        json!({ "records_per_second": found, "sealing_us_per_record": sealing, "batch": BATCH, "value_bytes": VALUE }),
    )
}

fn random(length: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes).ok().context("no randomness")?;
    Ok(bytes)
}

fn bare(directory: &Path, batches: usize, quick_repair: bool) -> anyhow::Result<Duration> {
    let database = Database::builder()
        .set_cache_size(CACHE)
        .create(directory.join("bare.redb"))?;
    let begun = Instant::now();
    for _ in 0..batches {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(quick_repair);
        {
            let mut table = transaction.open_table(TABLE)?;
            for _ in 0..BATCH {
                table.insert(random(KEY)?.as_slice(), random(VALUE)?.as_slice())?;
            }
        }
        transaction.commit()?;
    }
    Ok(begun.elapsed())
}

fn options(directory: &Path) -> anyhow::Result<OpenOptions> {
    let data = directory.join("data");
    Ok(OpenOptions::new(
        &data,
        RootKey::load_or_generate(&directory.join("root.key"), &data)?,
    ))
}

fn put(transaction: Transaction) -> anyhow::Result<Transaction> {
    let record = Record {
        schema: 1,
        body: random(VALUE)?.into(),
        expires_at: None,
    };
    Ok(transaction.put(Name::new(KIND, &[random(16)?]), record))
}

async fn writers(directory: &Path, batches: usize) -> anyhow::Result<Duration> {
    let store = open(options(directory)?)?;
    let writing = store.clone();
    let took = at_once(batches, move || {
        let store = writing.clone();
        async move {
            store.commit(put(Transaction::new())?).await?;
            Ok(())
        }
    })
    .await?;
    store.close().await?;
    Ok(took)
}

async fn transactions(directory: &Path, batches: usize) -> anyhow::Result<Duration> {
    let store = open(options(directory)?)?;
    let begun = Instant::now();
    for _ in 0..batches {
        let mut transaction = Transaction::new();
        for _ in 0..BATCH {
            transaction = put(transaction)?;
        }
        store.commit(transaction).await?;
    }
    let took = begun.elapsed();
    store.close().await?;
    Ok(took)
}

async fn unsealed(directory: &Path, batches: usize) -> anyhow::Result<Duration> {
    let below: Arc<Mutex<Option<Arc<dyn Engine>>>> = Arc::default();
    let kept = below.clone();
    let store = open_behind(options(directory)?, move |engine| {
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine.clone());
        engine
    })?;
    let engine = below
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
        .context("no engine")?;
    let took = at_once(batches, move || {
        let engine = engine.clone();
        async move {
            let entry = RawPut {
                key: random(KEY)?,
                value: random(VALUE)?,
                expires_at: None,
                keep_version: false,
            };
            let transaction = RawTransaction {
                puts: vec![entry],
                ..RawTransaction::default()
            };
            engine
                .commit(transaction)
                .await
                .map_err(|error| anyhow::anyhow!("{error:?}"))?;
            Ok(())
        }
    })
    .await?;
    store.close().await?;
    Ok(took)
}

/// `work` done `batches` times 64 times in all by 64 tasks, each waiting for one to end before it begins the next.
async fn at_once<F, W>(batches: usize, work: W) -> anyhow::Result<Duration>
where
    W: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let left = Arc::new(AtomicUsize::new(batches * BATCH));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..BATCH {
        let (left, work) = (left.clone(), work.clone());
        tasks.spawn(async move {
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
            {
                work().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(begun.elapsed())
}

/// Microseconds of one processor for naming and sealing one record: commits to an engine that forgets, less the making of the
/// random record itself.
async fn sealing(directory: &Path, records: usize) -> anyhow::Result<f64> {
    let store = open_behind(options(directory)?, |engine| {
        Arc::new(Forgetful {
            engine,
            sequence: AtomicU64::new(1 << 40),
        })
    })?;
    let begun = processor_time()?;
    for _ in 0..records {
        store.commit(put(Transaction::new())?).await?;
    }
    let with = processor_time()? - begun;
    let begun = processor_time()?;
    for _ in 0..records {
        std::hint::black_box(put(Transaction::new())?);
    }
    let without = processor_time()? - begun;
    Store::close(store).await?;
    Ok(with.saturating_sub(without).as_secs_f64() * 1e6 / records as f64)
}

/// Processor time of this process so far.
fn processor_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// An engine that writes nothing after it was made.
struct Forgetful {
    engine: Arc<dyn Engine>,
    sequence: AtomicU64,
}

#[async_trait]
impl Engine for Forgetful {
    async fn commit(&self, transaction: RawTransaction) -> Result<u64, RawCommitError> {
        // What the store itself writes when it is made is bytes under keys that are not of records.
        if transaction
            .puts
            .iter()
            .any(|put| put.key.first() != Some(&b'r'))
        {
            return self.engine.commit(transaction).await;
        }
        Ok(self.sequence.fetch_add(1, Ordering::Relaxed))
    }

    async fn read(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<RawEntry>>, StoreError> {
        self.engine.read(keys).await
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<RawPage, StoreError> {
        self.engine.scan(prefix, after, limit).await
    }

    fn watch(&self, prefix: Vec<u8>) -> RawWatch {
        self.engine.watch(prefix)
    }

    async fn due(&self, before: i64, limit: usize) -> Result<Vec<RawDue>, StoreError> {
        self.engine.due(before, limit).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.engine.lease(name, holder, ttl).await
    }

    async fn renew_lease(&self, name: &str, fence: u64, ttl: Duration) -> Result<bool, StoreError> {
        self.engine.renew_lease(name, fence, ttl).await
    }

    async fn release_lease(&self, name: &str, fence: u64) -> Result<(), StoreError> {
        self.engine.release_lease(name, fence).await
    }

    fn status(&self) -> EngineStatus {
        self.engine.status()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.engine.close().await
    }
}
