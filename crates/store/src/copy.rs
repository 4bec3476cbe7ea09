//! Copying a store from one engine to another, sealed as it is.
//!
//! No key is needed: what is copied is what lies on the engine, versions included, so that guards of transactions that are still on their
//! way (in a spool) hold or fail at the copy as they would have at the original. Both are read again and compared before the copy is
//! declared complete; until then it refuses to be opened as a store, and copying again begins anew.

use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;

use crate::engine::embedded::{Embedded, HostDisk, MayInitialise, Settings};
use crate::engine::etcd::Import;
use crate::engine::{CopiedFrom, Engine, RawCommitError, RawEntry, RawPut, RawTransaction};
use crate::name::all_records;
use crate::store::MAX_PAGE;
use crate::{Etcd, EtcdSettings, Outcome, RESERVE_BYTES, StoreError, SystemBootClock, Transaction};

/// What the store itself keeps.
const META: &[u8] = b"m/";
/// How often a write whose outcome is not known is written again, which changes nothing if it was done.
const ATTEMPTS: usize = 10;

/// Where a store lies.
#[derive(Clone)]
pub enum StorePlace {
    /// In a directory of this host.
    Directory(PathBuf),
    /// In etcd.
    Etcd(EtcdSettings),
}

impl std::fmt::Display for StorePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Etcd(settings) => f.write_str(&settings.place()),
        }
    }
}

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Records, those of the store itself included.
    pub records: u64,
    /// Bytes of their keys and sealed values.
    pub bytes: u64,
}

/// What a whole engine holds, in the order of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Contents {
    copied: Copied,
    digest: [u8; 32],
}

/// Copies a store to a place where none is. Nobody may use either meanwhile; if somebody writes the original, that is found out and the
/// copy is not completed.
///
/// # Errors
/// [`StoreError::NotEmpty`] if there is something at the target, [`StoreError::NotInitialised`] if there is no store to copy,
/// [`StoreError::Changed`] if it was written meanwhile, [`StoreError::Damaged`] if the copy is not what was copied; and whatever the
/// engines say. A copy that was not completed can be begun again.
pub async fn copy(from: StorePlace, to: StorePlace) -> Result<Copied, StoreError> {
    let source = open_source(&from).await?;
    let (target, import) = open_target(&to, source.status().sequence).await?;
    let copied = between(&*source, &*target, &from, &to).await;
    if let (Ok(_), Some(import)) = (&copied, &import) {
        import.complete().await?;
    }
    let closed = target.close().await;
    source.close().await?;
    let copied = copied?;
    closed?;
    if let StorePlace::Directory(directory) = &to {
        crate::engine::embedded::complete_copy(directory)?;
    }
    Ok(copied)
}

async fn open_source(from: &StorePlace) -> Result<Arc<dyn Engine>, StoreError> {
    match from {
        StorePlace::Directory(directory) => {
            let refuse = MayInitialise {
                empty: false,
                interrupted: false,
                copy: false,
            };
            open_directory(directory.clone(), refuse).await
        }
        StorePlace::Etcd(settings) => Etcd::new(settings.clone())?.open_source().await,
    }
}

async fn open_target(
    to: &StorePlace,
    sequence: u64,
) -> Result<(Arc<dyn Engine>, Option<Import>), StoreError> {
    match to {
        StorePlace::Directory(directory) => {
            let copy = MayInitialise {
                empty: false,
                interrupted: false,
                copy: true,
            };
            Ok((open_directory(directory.clone(), copy).await?, None))
        }
        StorePlace::Etcd(settings) => {
            let (engine, import) = Etcd::new(settings.clone())?.open_target(sequence).await?;
            Ok((engine, Some(import)))
        }
    }
}

async fn open_directory(
    directory: PathBuf,
    may_initialise: MayInitialise,
) -> Result<Arc<dyn Engine>, StoreError> {
    let opened = tokio::task::spawn_blocking(move || {
        Embedded::open(Settings {
            directory,
            reserve_bytes: RESERVE_BYTES,
            disk: Arc::new(HostDisk),
            clock: Arc::new(SystemBootClock),
            may_initialise,
        })
    });
    let engine = opened.await.map_err(StoreError::unavailable)??;
    Ok(Arc::new(engine))
}

async fn between(
    source: &dyn Engine,
    target: &dyn Engine,
    from: &StorePlace,
    to: &StorePlace,
) -> Result<Copied, StoreError> {
    let mut sum = Sum::new();
    let mut meta = Vec::new();
    each(source, META, |entry| {
        sum.add(&entry);
        meta.push(entry);
    })
    .await?;
    if meta.is_empty() {
        return Err(StoreError::NotInitialised {
            path: from.to_string().into(),
        });
    }
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = source
            .scan(&all_records(), after.as_deref(), MAX_PAGE)
            .await?;
        after = page.entries.last().map(|entry| entry.key.clone());
        page.entries.iter().for_each(|entry| sum.add(entry));
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for entry in page.entries {
            let size = entry.key.len() + entry.value.len();
            if chunk.len() >= Transaction::MAX_OPERATIONS || bytes + size > Transaction::MAX_BYTES {
                write(target, std::mem::take(&mut chunk), 0).await?;
                bytes = 0;
            }
            bytes += size;
            chunk.push(entry);
        }
        write(target, chunk, 0).await?;
        if !page.more {
            break;
        }
    }
    // Last, and so that later commits have greater numbers than all before.
    let least = source.status().sequence.saturating_add(1);
    write(target, meta, least).await?;
    let copied = sum.contents();
    if contents(source).await? != copied {
        return Err(StoreError::Changed {
            place: from.to_string(),
        });
    }
    if contents(target).await? != copied {
        return Err(StoreError::Damaged {
            what: format!("the copy in {to}"),
        });
    }
    Ok(copied.copied)
}

async fn write(
    target: &dyn Engine,
    entries: Vec<RawEntry>,
    least_number: u64,
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let transaction = RawTransaction {
        copied: Some(Box::new(CopiedFrom {
            versions: entries.iter().map(|entry| entry.version).collect(),
            least_number,
        })),
        puts: entries
            .into_iter()
            .map(|entry| RawPut {
                key: entry.key,
                value: entry.value,
                expires_at: entry.expires_at,
                keep_version: false,
            })
            .collect(),
        ..RawTransaction::default()
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        match target.commit(transaction.clone()).await {
            Ok(_) => return Ok(()),
            Err(RawCommitError::Store(StoreError::Unavailable {
                outcome: Outcome::Unknown,
                ..
            })) if attempt < ATTEMPTS => {}
            Err(RawCommitError::Store(error)) => return Err(error),
            Err(RawCommitError::Conflict(_)) => {
                return Err(StoreError::unavailable("a write without guards conflicts"));
            }
        }
    }
}

async fn contents(engine: &dyn Engine) -> Result<Contents, StoreError> {
    let mut sum = Sum::new();
    for prefix in [META.to_vec(), all_records()] {
        each(engine, &prefix, |entry| sum.add(&entry)).await?;
    }
    Ok(sum.contents())
}

async fn each(
    engine: &dyn Engine,
    prefix: &[u8],
    mut f: impl FnMut(RawEntry) + Send,
) -> Result<(), StoreError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = engine.scan(prefix, after.as_deref(), MAX_PAGE).await?;
        after = page.entries.last().map(|entry| entry.key.clone());
        page.entries.into_iter().for_each(&mut f);
        if !page.more {
            return Ok(());
        }
    }
}

struct Sum {
    copied: Copied,
    digest: digest::Context,
}

impl Sum {
    fn new() -> Self {
        Self {
            copied: Copied {
                records: 0,
                bytes: 0,
            },
            digest: digest::Context::new(&digest::SHA256),
        }
    }

    fn add(&mut self, entry: &RawEntry) {
        self.copied.records += 1;
        self.copied.bytes += (entry.key.len() + entry.value.len()) as u64;
        for part in [&entry.key, &entry.value] {
            self.digest.update(&(part.len() as u64).to_be_bytes());
            self.digest.update(part);
        }
        self.digest.update(&entry.version.to_be_bytes());
        let expires_at = entry.expires_at.unwrap_or(i64::MIN);
        self.digest.update(&expires_at.to_be_bytes());
    }

    fn contents(self) -> Contents {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.digest.finish().as_ref());
        Contents {
            copied: self.copied,
            digest,
        }
    }
}
