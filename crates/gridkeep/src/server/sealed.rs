//! The time in which the server has no keys: it waits for them, and says to everybody else that it is sealed.
//!
//! Owns the shares given so far. They are gone with the attempt; the root key goes on to whoever opens the store with it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use gridkeep_dialect_vault::DialectLimits;
use gridkeep_dialect_vault::listener::TrustedProxies;
use gridkeep_dialect_vault::sealed::{
    Initialised, SealKind, SealStatus, SealTrouble, SealedService, Unsealing, decode_share,
};
use gridkeep_keeper::clock::SystemClock;
use gridkeep_keeper::{Failure, Keeper, KeeperOptions, Setup, random_uuid};
use gridkeep_store::shamir::Share;
use gridkeep_store::{
    Etcd, EtcdSettings, Initialise, OpenOptions, RootKey, SealState, Shares, Store,
};
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::counter::Counter;
use super::glances::Glances;
use super::operator::{self, Desk, Order, SHARES_GIVEN, Socket};
use super::port::Port;
use super::{BUILD_DATE, Over, notify};
use crate::config::{Config, EtcdConfig};

/// Lengths in bytes that shares of any root key can have; nobody has to be asked about others.
const SHARE_LENGTHS: RangeInclusive<usize> = 32..=33;

/// What a server that was sealed still has to finish.
pub type Closing = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// What a server without keys has waited for.
pub(super) enum Awaited {
    /// The root key, from shares.
    Key(RootKey),
    /// The root key is to be read again from where it always is.
    Source,
    /// A store and shares of its root key were made, of which nothing may stay in memory.
    Initialised,
    /// It is to stop.
    Stop,
}

/// Answers on `port` what can be answered without keys.
fn open_counter(waiting: Arc<Waiting>, port: &Port) -> anyhow::Result<Counter> {
    let service = SealedService::new(
        waiting,
        env!("CARGO_PKG_VERSION"),
        BUILD_DATE,
        DialectLimits::default(),
    );
    Counter::open(&service, TrustedProxies::default(), port)
}

/// Says that the server is sealed while what it had begun is finished.
///
/// # Errors
/// What could not be finished.
pub(super) async fn close(
    config: &Config,
    port: Port,
    mut closing: Closing,
) -> anyhow::Result<Over> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (waiting, _awaited) = Waiting::new(config);
    waiting.attempt().closing = true;
    let counter = open_counter(waiting, &port)?;
    let mut over = Over::Sealed(port);
    let outcome = loop {
        tokio::select! {
            outcome = &mut closing => break outcome,
            _ = terminate.recv() => over = Over::Stopped,
            _ = interrupt.recv() => over = Over::Stopped,
        }
    };
    counter.close().await;
    outcome.map(|()| over)
}

/// Serves what a sealed server can until it is unsealed or told to stop.
///
/// # Errors
/// What is wrong with its places, or what the store says of itself.
pub(super) async fn wait(config: &Config, port: &Port) -> anyhow::Result<Awaited> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (waiting, mut awaited) = Waiting::new(config);
    waiting.look().await?;
    let mut counter = open_counter(waiting.clone(), port)?;
    // Set once, here.
    let _ = waiting.end.set(counter.end());
    let socket = Socket::bind(&config.gridkeep.run_directory.value)?;
    let served = socket.serve(waiting.clone(), counter.stopping());
    counter.tasks.spawn(served);
    let status = format!("sealed on {}", counter.addresses);
    if waiting.attempt().store.is_some() {
        tracing::warn!(
            initialised = true,
            "{status}: every request is refused until the server is unsealed (sys/unseal, or gridkeep operator unseal)"
        );
    } else {
        tracing::warn!(
            initialised = false,
            "{status}: every request is refused, because the server is not initialised yet: PUT sys/init makes its store and the shares of its key (docs/operate.md, \"Shares instead of a key\")"
        );
    }
    notify::tell(&format!("READY=1\nSTATUS={status}"));
    let outcome = loop {
        tokio::select! {
            _ = hangup.recv() => port.tls.read_anew().await,
            _ = terminate.recv() => break Awaited::Stop,
            _ = interrupt.recv() => break Awaited::Stop,
            // There is a sender as long as `waiting` is held here.
            awaited = awaited.recv() => break awaited.unwrap_or(Awaited::Stop),
        }
    };
    if matches!(outcome, Awaited::Stop) {
        notify::tell("STOPPING=1");
    }
    counter.close().await;
    Ok(outcome)
}

struct Waiting {
    shamir: bool,
    /// Where the store is, if not in the data directory. Then other nodes may make it, and change its seal, at any moment.
    etcd: Option<EtcdSettings>,
    data: PathBuf,
    node: String,
    attempt: Mutex<Attempt>,
    /// Held by whoever initialises.
    making: tokio::sync::Mutex<()>,
    glances: Glances,
    /// The way to etcd, made when it is first asked and anew after a failure.
    client: tokio::sync::Mutex<Option<Etcd>>,
    sender: mpsc::Sender<Awaited>,
    /// Ends the answering, once there is some.
    end: OnceLock<watch::Sender<bool>>,
}

#[derive(Default)]
struct Attempt {
    /// What the store says; `None` if there is none.
    store: Option<SealState>,
    given: Vec<Share>,
    nonce: String,
    /// Nothing is taken: what was under way is being finished.
    closing: bool,
    done: bool,
}

impl Attempt {
    /// The shares that were given.
    fn forget(&mut self) {
        self.given.clear();
        self.nonce.clear();
    }
}

impl Waiting {
    fn new(config: &Config) -> (Arc<Waiting>, mpsc::Receiver<Awaited>) {
        // Room for all that is ever said: that it is unsealed, and that it is initialised.
        let (sender, awaited) = mpsc::channel(2);
        let waiting = Waiting {
            shamir: config.gridkeep.shamir.value,
            etcd: config.gridkeep.etcd.as_ref().map(EtcdConfig::settings),
            data: config.gridkeep.data.value.clone(),
            node: config.own_name().value,
            attempt: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            glances: Glances::default(),
            client: tokio::sync::Mutex::default(),
            sender,
            end: OnceLock::new(),
        };
        (Arc::new(waiting), awaited)
    }

    /// Says what was waited for. Who hears the answer to what brought it about and asks more is to be heard by whoever comes next, so
    /// nobody is let in any more before that answer goes out.
    fn tell(&self, awaited: Awaited) {
        // There is room for one of each, and no second is made.
        let _ = self.sender.try_send(awaited);
        if let Some(end) = self.end.get() {
            end.send_replace(true);
        }
    }

    fn attempt(&self) -> MutexGuard<'_, Attempt> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what the store says of itself.
    async fn look(&self) -> anyhow::Result<()> {
        let state = match &self.etcd {
            // It was opened with the key that it wants before, and needs not be there for the server to wait.
            Some(_) if !self.shamir => Some(SealState {
                root_key_id: String::new(),
                shares: None,
            }),
            Some(settings) => {
                let mut client = self.client.lock().await;
                let etcd = match client.take() {
                    Some(etcd) => etcd,
                    None => Etcd::new(settings.clone())?,
                };
                let state = SealState::in_etcd(&etcd).await?;
                *client = Some(etcd);
                state
            }
            None => {
                let directory = self.data.join("store");
                tokio::task::spawn_blocking(move || SealState::in_directory(&directory))
                    .await
                    .context("looking at the store failed")??
            }
        };
        if self.shamir
            && let Some(state) = &state
        {
            anyhow::ensure!(
                state.shares.is_some(),
                "gridkeep.seal.shamir is set, but the store is sealed under a root key that lies in a file or credential; take the setting away, or start with an empty data directory or prefix"
            );
        }
        let mut attempt = self.attempt();
        if attempt.store != state {
            // What was given is of another key.
            attempt.forget();
            attempt.store = state;
        }
        Ok(())
    }

    /// Looks again where other nodes may have changed it, after this was called; strangers call it as often as they like. If `now`,
    /// what was seen less than a second ago has to do.
    async fn look_again(&self, now: bool) -> Result<(), SealTrouble> {
        if self.etcd.is_none() || !self.shamir || self.attempt().closing {
            return Ok(());
        }
        let look = || async { self.look().await.map_err(|error| format!("{error:#}")) };
        self.glances
            .share(now, look)
            .await
            .map_err(SealTrouble::Later)
    }

    /// Takes a share; the key when it was the last one needed.
    fn take(&self, share: Share) -> Result<Option<RootKey>, SealTrouble> {
        let mut attempt = self.attempt();
        if attempt.closing {
            return Err(SealTrouble::Later(
                "the server finishes what was under way; try again in a moment".to_owned(),
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
        let length = shares.share_length();
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
            attempt.nonce = random_uuid();
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

    async fn make(&self, shares: Shares) -> anyhow::Result<Initialised> {
        let (key, parts) = RootKey::generate_shared(shares)?;
        let data = self.data.clone();
        let making = tokio::task::spawn_blocking(move || {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&data)
                .map(|()| data)
        });
        let data = making.await??;
        let store = match &self.etcd {
            Some(settings) => {
                let etcd = Etcd::new(settings.clone())?;
                etcd.open(key, Initialise::WithGivenKey).await?
            }
            None => {
                let mut options = OpenOptions::new(&data.join("store"), key);
                options.initialise = Initialise::WithGivenKey;
                tokio::task::spawn_blocking(move || gridkeep_store::open(options)).await??
            }
        };
        // From here on nothing may keep the shares from whoever asked: without them the store that was made is of no use.
        let token = self.first_token(&store).await;
        if let Err(error) = &token {
            tracing::error!(%error, "the first operator's token could not be made; gridkeep operator token gives one once the server is unsealed");
        }
        if let Err(error) = store.close().await {
            tracing::warn!(%error, "the store that was made could not be closed in order; it is opened anew when the server is unsealed");
        }
        Ok(Initialised {
            shares: parts,
            root_token: token.unwrap_or_else(|_| SecretString::from("")),
        })
    }

    /// An operator's token, by a keeper that lives as long as it takes to make it.
    async fn first_token(&self, store: &Store) -> Result<SecretString, Failure> {
        let options = KeeperOptions::new(self.node.clone(), self.data.join("spool"));
        let clock = Arc::new(SystemClock);
        let keeper = Keeper::open(store.clone(), Setup::default(), clock, options).await?;
        let token = keeper.operator_token("init").await;
        keeper.drain(Duration::from_secs(5)).await;
        Ok(token?.secret)
    }
}

#[async_trait]
impl Unsealing for Waiting {
    async fn status(&self) -> SealStatus {
        if self.attempt().store.is_none() {
            // What another node may have made; without etcd nothing is known of it.
            let _ = self.look_again(true).await;
        }
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
            shared: self.etcd.is_some(),
            kind,
            progress: attempt.given.len(),
            nonce: attempt.nonce.clone(),
        }
    }

    async fn initialise(&self, count: u8, threshold: u8) -> Result<Initialised, SealTrouble> {
        let _one = self.making.lock().await;
        self.look_again(false).await?;
        {
            let attempt = self.attempt();
            if attempt.store.is_some() || attempt.closing || !self.shamir {
                return Err(SealTrouble::Bad("Vault is already initialized".to_owned()));
            }
        }
        let made = self
            .make(Shares { count, threshold })
            .await
            .map_err(|error| SealTrouble::Later(format!("{error:#}")))?;
        if let Err(error) = self.look().await {
            tracing::warn!("the store was made, and does not say so yet: {error:#}");
        }
        tracing::warn!(
            shares = count,
            threshold,
            "the server was initialised; whoever asked for it has the shares"
        );
        self.attempt().closing = true;
        self.tell(Awaited::Initialised);
        Ok(made)
    }

    async fn unseal(&self, share: Share) -> Result<(), SealTrouble> {
        if SHARE_LENGTHS.contains(&share.len()) {
            self.look_again(false).await?;
        }
        if let Some(key) = self.take(share)? {
            tracing::info!("the server is unsealed");
            self.tell(Awaited::Key(key));
        }
        Ok(())
    }

    fn reset(&self) {
        self.attempt().forget();
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
        let turning = {
            let attempt = self.attempt();
            attempt.closing || attempt.done
        };
        if turning {
            return Err(operator::turning(
                "the server begins anew at this moment; try again in a moment",
            ));
        }
        let status = self.status().await;
        if !status.initialised {
            return Err(operator::not_initialised());
        }
        if *order != Order::Unseal {
            return Err(operator::sealed());
        }
        tracing::info!(caller, "an operator unseals");
        match secret {
            None if self.shamir => {
                let SealKind::Shamir { threshold, .. } = status.kind else {
                    anyhow::bail!("the server's seal is in doubt; look at its log");
                };
                Ok(format!("{} of {threshold} {SHARES_GIVEN}", status.progress))
            }
            None => {
                self.attempt().done = true;
                self.tell(Awaited::Source);
                Ok("the server reads its root key again".to_owned())
            }
            Some(text) => {
                anyhow::ensure!(!text.trim().is_empty(), "no share was given");
                let share =
                    decode_share(text).context("the share is neither hexadecimal nor base64")?;
                match self.unseal(share).await {
                    Ok(()) => {
                        let status = self.status().await;
                        Ok(match status.kind {
                            _ if !status.sealed => "the server is unsealed".to_owned(),
                            SealKind::Shamir { threshold, .. } => {
                                format!("{} of {threshold} {SHARES_GIVEN}", status.progress)
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
