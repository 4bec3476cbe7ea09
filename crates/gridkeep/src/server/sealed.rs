//! The time in which the server has no keys: it waits for them, and says to everybody else that it is sealed.
//!
//! Owns the shares given so far. They are gone with the attempt; the root key goes on to whoever opens the store with it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use gridkeep_dialect_vault::DialectLimits;
use gridkeep_dialect_vault::listener::TrustedProxies;
use gridkeep_dialect_vault::sealed::{
    Initialised, SealKind, SealStatus, SealTrouble, SealedService, Unsealing, decode_share,
};
use gridkeep_keeper::clock::SystemClock;
use gridkeep_keeper::{Keeper, KeeperOptions, Setup};
use gridkeep_store::shamir::Share;
use gridkeep_store::{Initialise, OpenOptions, RootKey, SealState, Shares, StoreError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::operator::{Desk, Order, Socket};
use super::port::Port;
use super::{BUILD_DATE, notify};
use crate::config::Config;

/// What a server that was sealed still has to finish.
pub type Closing = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// How the keys came back.
pub enum Unsealed {
    /// From shares.
    Key(RootKey),
    /// The root key is to be read again from where it always is.
    Source,
}

/// Serves what a sealed server can until it is unsealed; `None` if it is to stop.
///
/// # Errors
/// What is wrong with its places, or what the store says of itself.
pub async fn wait(
    config: &Config,
    port: &Port,
    closing: Option<Closing>,
) -> anyhow::Result<Option<Unsealed>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, mut unsealed) = mpsc::channel(1);
    let waiting = Arc::new(Waiting {
        shamir: config.gridkeep.shamir.value,
        elsewhere: config.gridkeep.etcd.is_some(),
        data: config.gridkeep.data.value.clone(),
        node: config.own_name().value,
        attempt: Mutex::default(),
        making: tokio::sync::Mutex::default(),
        unsealed: sender,
    });
    waiting.attempt().closing = true;
    let service = SealedService::new(
        waiting.clone(),
        env!("CARGO_PKG_VERSION"),
        BUILD_DATE,
        DialectLimits::default(),
    );
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    port.serve(&service, TrustedProxies::default(), &mut tasks, &stopping)?;
    if let Some(closing) = closing {
        closing.await?;
    }
    // Only now: the data and the socket belonged to the server that was sealed.
    waiting.look().await?;
    let socket = Socket::bind(&config.gridkeep.run_directory.value)?;
    tasks.spawn(socket.serve(waiting.clone(), stopping.clone()));
    waiting.attempt().closing = false;
    let status = format!("sealed on {}", port.addresses()?.join(" "));
    tracing::warn!(
        initialised = waiting.status().initialised,
        "{status}: every request is refused until the server is unsealed (sys/unseal, or gridkeep operator unseal)"
    );
    notify::tell(&format!("READY=1\nSTATUS={status}"));
    let outcome = loop {
        tokio::select! {
            _ = hangup.recv() => {
                let tls = port.tls.clone();
                // A panic in there has been reported by itself, and the old certificate stays.
                let _ = tokio::task::spawn_blocking(move || tls.reload_and_report()).await;
            }
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            key = unsealed.recv() => break key,
        }
    };
    if outcome.is_none() {
        notify::tell("STOPPING=1");
    }
    // The receivers live in the tasks; without one there is nobody to tell.
    let _ = stop.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(5), async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
    Ok(outcome)
}

struct Waiting {
    shamir: bool,
    /// The store is not in the data directory, and was opened with the key that it wants before.
    elsewhere: bool,
    data: PathBuf,
    node: String,
    attempt: Mutex<Attempt>,
    /// Held by whoever initialises.
    making: tokio::sync::Mutex<()>,
    unsealed: mpsc::Sender<Unsealed>,
}

#[derive(Default)]
struct Attempt {
    /// What the store says; `None` if there is none.
    store: Option<SealState>,
    given: Vec<Share>,
    nonce: String,
    /// What was under way when the server was sealed is not finished.
    closing: bool,
    done: bool,
}

impl Waiting {
    fn attempt(&self) -> MutexGuard<'_, Attempt> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the store says of itself.
    async fn look(&self) -> anyhow::Result<()> {
        if self.elsewhere {
            self.attempt().store = Some(SealState {
                root_key_id: String::new(),
                shares: None,
            });
            return Ok(());
        }
        let directory = self.data.join("store");
        let state = tokio::task::spawn_blocking(move || SealState::in_directory(&directory))
            .await
            .context("looking at the store failed")??;
        if self.shamir
            && let Some(state) = &state
        {
            anyhow::ensure!(
                state.shares.is_some(),
                "gridkeep.seal.shamir is set, but the store is sealed under a root key that lies in a file or credential; take the setting away, or start with an empty data directory"
            );
        }
        self.attempt().store = state;
        Ok(())
    }

    /// Takes a share; the key when it was the last one needed.
    fn take(&self, share: Share) -> Result<Option<RootKey>, SealTrouble> {
        let mut attempt = self.attempt();
        if attempt.closing {
            return Err(SealTrouble::Later(
                "what was under way when the server was sealed is being finished; try again in a moment".to_owned(),
            ));
        }
        if attempt.done {
            return Ok(None);
        }
        if !self.shamir {
            return Err(SealTrouble::Bad(
                "this server has no shares: it takes its root key from a file or credential; run gridkeep operator unseal on its host, or restart it".to_owned(),
            ));
        }
        let Some((state, shares)) = attempt
            .store
            .clone()
            .and_then(|state| Some((state.clone(), state.shares?)))
        else {
            return Err(SealTrouble::Bad("server is not yet initialized".to_owned()));
        };
        let length = if shares.threshold == 1 { 32 } else { 33 };
        if share.len() != length {
            return Err(SealTrouble::Bad(format!(
                "invalid key: a share of this server has {length} bytes, this has {}",
                share.len()
            )));
        }
        if attempt.given.contains(&share) {
            return Ok(None);
        }
        if attempt.nonce.is_empty() {
            attempt.nonce = nonce();
        }
        attempt.given.push(share);
        if attempt.given.len() < usize::from(shares.threshold) {
            return Ok(None);
        }
        let given = std::mem::take(&mut attempt.given);
        attempt.nonce.clear();
        match RootKey::from_shares(shares, &given) {
            Ok(key) if key.id() == state.root_key_id => {
                attempt.done = true;
                Ok(Some(key))
            }
            // Which of them is wrong cannot be told.
            _ => Err(SealTrouble::Bad(
                "Unseal failed, invalid key: at least one share is not of this store; begin again"
                    .to_owned(),
            )),
        }
    }

    async fn make(&self, shares: Shares) -> Result<Initialised, StoreTrouble> {
        let (key, parts) = RootKey::generate_shared(shares)?;
        let data = self.data.clone();
        let store = tokio::task::spawn_blocking(move || {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&data)
                .map_err(|error| StoreTrouble(error.to_string()))?;
            let mut options = OpenOptions::new(&data.join("store"), key);
            options.initialise = Initialise::WithGivenKey;
            Ok::<_, StoreTrouble>(gridkeep_store::open(options)?)
        })
        .await
        .map_err(|error| StoreTrouble(error.to_string()))??;
        // A keeper for as long as it takes to make the token.
        let options = KeeperOptions::new(self.node.clone(), self.data.join("spool"));
        let clock = Arc::new(SystemClock);
        let keeper = Keeper::open(store.clone(), Setup::default(), clock, options).await?;
        let token = keeper.operator_token("init").await;
        keeper.drain(Duration::from_secs(5)).await;
        drop(keeper);
        store.close().await?;
        Ok(Initialised {
            shares: parts,
            root_token: token?.secret,
        })
    }
}

/// Why a store could not be made.
struct StoreTrouble(String);

impl From<StoreError> for StoreTrouble {
    fn from(error: StoreError) -> Self {
        StoreTrouble(error.to_string())
    }
}

impl From<gridkeep_keeper::Failure> for StoreTrouble {
    fn from(failure: gridkeep_keeper::Failure) -> Self {
        StoreTrouble(failure.to_string())
    }
}

/// Identifies an attempt.
fn nonce() -> String {
    let mut bytes = [0; 16];
    // Without randomness it is only not unique, which nothing rests on.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[async_trait]
impl Unsealing for Waiting {
    fn status(&self) -> SealStatus {
        let attempt = self.attempt();
        let kind = if self.shamir {
            let shares = attempt.store.as_ref().and_then(|state| state.shares);
            SealKind::Shamir {
                threshold: shares.map_or(0, |shares| shares.threshold),
                count: shares.map_or(0, |shares| shares.count),
            }
        } else {
            SealKind::Auto
        };
        SealStatus {
            initialised: attempt.store.is_some() || attempt.closing,
            sealed: !attempt.done,
            kind,
            progress: attempt.given.len(),
            nonce: attempt.nonce.clone(),
        }
    }

    async fn initialise(&self, count: u8, threshold: u8) -> Result<Initialised, SealTrouble> {
        let _one = self.making.lock().await;
        {
            let attempt = self.attempt();
            if attempt.store.is_some() || attempt.closing || !self.shamir {
                return Err(SealTrouble::Bad("Vault is already initialized".to_owned()));
            }
        }
        let made = self
            .make(Shares { count, threshold })
            .await
            .map_err(|error| SealTrouble::Later(error.0))?;
        self.look()
            .await
            .map_err(|error| SealTrouble::Later(format!("{error:#}")))?;
        tracing::warn!(
            shares = count,
            threshold,
            "the server was initialised; whoever asked for it has the shares"
        );
        Ok(made)
    }

    async fn unseal(&self, share: Share) -> Result<(), SealTrouble> {
        if let Some(key) = self.take(share)? {
            tracing::info!("the server is unsealed");
            // There is room for one, and no second is made.
            let _ = self.unsealed.send(Unsealed::Key(key)).await;
        }
        Ok(())
    }

    fn reset(&self) {
        let mut attempt = self.attempt();
        attempt.given.clear();
        attempt.nonce.clear();
    }
}

#[async_trait]
impl Desk for Waiting {
    /// There is no audit log without keys: the server's log has to do.
    async fn obey(
        &self,
        caller: u32,
        order: &Order,
        secret: Option<&str>,
    ) -> anyhow::Result<String> {
        anyhow::ensure!(
            *order == Order::Unseal,
            "the server is sealed; unseal it first (gridkeep operator unseal)"
        );
        tracing::info!(caller, "an operator unseals");
        match secret {
            None if self.shamir => {
                let status = self.status();
                let SealKind::Shamir { threshold, .. } = status.kind else {
                    anyhow::bail!("the server's seal is in doubt; look at its log");
                };
                anyhow::ensure!(
                    status.initialised,
                    "the server is not yet initialized: see sys/init"
                );
                Ok(format!("{} of {threshold} shares given", status.progress))
            }
            None => {
                self.attempt().done = true;
                let _ = self.unsealed.send(Unsealed::Source).await;
                Ok("the server reads its root key again".to_owned())
            }
            Some(text) => {
                let share =
                    decode_share(text).context("the share is neither hexadecimal nor base64")?;
                match self.unseal(share).await {
                    Ok(()) => {
                        let status = self.status();
                        Ok(match status.kind {
                            _ if !status.sealed => "the server is unsealed".to_owned(),
                            SealKind::Shamir { threshold, .. } => {
                                format!("{} of {threshold} shares given", status.progress)
                            }
                            SealKind::Auto => "sealed".to_owned(),
                        })
                    }
                    Err(SealTrouble::Bad(text) | SealTrouble::Later(text)) => anyhow::bail!(text),
                }
            }
        }
    }
}
