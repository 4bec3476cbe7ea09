//! Fills a store by logging people in, one after the other as a keeper would, many at a time.
//!
//! Uses the public interface of the keeper and nothing else: what is stored is what real logins leave behind, and what clients
//! leave that make tokens with their login's.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use gridkeep_keeper::clock::SystemClock;
use gridkeep_keeper::{
    CallbackMode, CreateToken, IssuerSetup, Keeper, KeeperOptions, Limits, LoginStart, Poll,
    PollOutcome, RoleSetup, Setup,
};
use gridkeep_store::{Etcd, EtcdSettings, Initialise, RootKey, Store, open, open_behind};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::gather::Gathering;
use crate::issuer::{Inside, person};

/// What a server's configuration has by itself (`gridkeep.store.etcd.prefix`).
const PREFIX: &str = "gridkeep/";

/// What to fill, and how far.
#[derive(clap::Args)]
pub struct Options {
    /// The server's data directory
    #[arg(long)]
    data: PathBuf,
    /// Members of etcd that have the store instead, with the prefix that a server takes of itself
    #[arg(long)]
    etcd: Vec<String>,
    /// The server's root key; made when there is no data
    #[arg(long)]
    key: PathBuf,
    /// Name of the issuer in the server's configuration
    #[arg(long, default_value = "bench")]
    issuer: String,
    /// Its URL there
    #[arg(long)]
    url: String,
    /// Our client id there
    #[arg(long)]
    client: String,
    /// The scopes of its role `default`, the server's `openid` in front
    #[arg(long, value_delimiter = ' ')]
    scopes: Vec<String>,
    /// Number of the first person
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// One more than the number of the last
    #[arg(long)]
    to: u64,
    /// Tokens of each person: the login's and its children
    #[arg(long, default_value_t = 1)]
    tokens_each: u64,
    /// MiB of new records that are gathered in memory before they are written, in order. With 0 each is durable before the next
    /// step, as in a server
    #[arg(long, default_value_t = 0)]
    gather: usize,
    /// File that a line `TOKEN OWNER` is added to for each person, with one of its tokens, in turn
    #[arg(long)]
    tokens: PathBuf,
    /// Logins under way at a time. Each waits a second, as the protocol has it, so this bounds the logins per second
    #[arg(long, default_value_t = 8192)]
    concurrency: usize,
}

/// Fills it.
pub fn run(options: &Options) -> anyhow::Result<Value> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(fill(options))
}

async fn fill(options: &Options) -> anyhow::Result<Value> {
    if options.tokens_each == 0 {
        bail!("a login leaves a token: --tokens-each is at least 1");
    }
    let begun = Instant::now();
    let (store, gathering) = opened(options).await?;
    let client = Inside {
        url: options.url.clone(),
        client_id: options.client.clone(),
        scope: options.scopes.join(" "),
        next: AtomicU64::new(options.from),
    };
    let everybody = usize::try_from(options.to)?;
    let setup = Setup {
        issuers: vec![IssuerSetup {
            reauth_on_scope_change: false,
            refresh_token_life: None,
            name: options.issuer.clone(),
            url: options.url.clone(),
            client_id: options.client.clone(),
            client: Arc::new(client),
            callback_mode: CallbackMode::Device,
            credclaim: "sub".to_owned(),
            credclaim_pointer: false,
            roles: vec![RoleSetup {
                name: "default".to_owned(),
                scopes: options.scopes.clone(),
                credclaim: None,
                terms: gridkeep_keeper::LoginTerms::default(),
            }],
        }],
        limits: Limits {
            login_sessions_total: everybody + 1,
            login_sessions_per_address: everybody + 1,
        },
        ..Setup::default()
    };
    let keeper = Keeper::open(
        store.clone(),
        setup,
        Arc::new(SystemClock),
        KeeperOptions::new("bench", options.data.join("spool")),
    )
    .await?;
    let mut tokens = std::io::BufWriter::new(
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&options.tokens)
            .context("the file of tokens")?,
    );
    let mut under_way = JoinSet::new();
    let left = Arc::new(AtomicU64::new(options.to.saturating_sub(options.from)));
    let workers = options
        .concurrency
        .min(usize::try_from(left.load(Ordering::Relaxed))?);
    let (done, mut finished) = tokio::sync::mpsc::channel(1024);
    for _ in 0..workers {
        let (keeper, issuer, left, done) = (
            keeper.clone(),
            options.issuer.clone(),
            left.clone(),
            done.clone(),
        );
        let tokens_each = options.tokens_each;
        under_way.spawn(async move {
            while let Ok(left) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            }) {
                let made = async {
                    let (token, owner) = log_in(&keeper, &issuer).await?;
                    let drawn = left % tokens_each;
                    anyhow::Ok((children(&keeper, token, tokens_each, drawn).await?, owner))
                };
                if done.send(made.await).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(done);
    while let Some(login) = finished.recv().await {
        let (token, owner) = login?;
        writeln!(tokens, "{} {owner}", token.expose_secret())?;
    }
    tokens.flush()?;
    while let Some(ended) = under_way.join_next().await {
        ended?;
    }
    keeper.drain(Duration::from_secs(10)).await;
    if let Some(gathering) = gathering {
        gathering.hand_over().await?;
    }
    let status = store.status();
    store.close().await?;
    Ok(json!({
        "people": options.to,
        "last": person(options.to.saturating_sub(1)),
        "records": status.entries,
        "bytes": status.bytes,
        "seconds": begun.elapsed().as_secs_f64(),
    }))
}

/// The store, and what gathers before it.
async fn opened(options: &Options) -> anyhow::Result<(Store, Option<Arc<Gathering>>)> {
    if !options.etcd.is_empty() {
        let etcd = Etcd::new(EtcdSettings::new(options.etcd.clone(), PREFIX))?;
        let key = etcd.load_or_generate(&options.key).await?;
        return Ok((etcd.open(key, Initialise::WhenEmpty).await?, None));
    }
    let directory = options.data.join("store");
    std::fs::create_dir_all(&options.data)?;
    let key = RootKey::load_or_generate(&options.key, &directory)?;
    let to_open = gridkeep_store::OpenOptions::new(&directory, key);
    if options.gather == 0 {
        return Ok((open(to_open)?, None));
    }
    let mut gathering = None;
    let store = open_behind(to_open, |below| {
        gathering
            .insert(Arc::new(Gathering::new(below, options.gather << 20)))
            .clone()
    })?;
    Ok((store, gathering))
}

/// Makes the other tokens of a login; answers the one that was drawn.
async fn children(
    keeper: &Keeper,
    login: SecretString,
    tokens: u64,
    drawn: u64,
) -> anyhow::Result<SecretString> {
    let mut chosen = login.clone();
    if tokens > 1 {
        let by = keeper.authenticate(&login, None).await?;
        for number in 1..tokens {
            let child = keeper
                .create_token(&by, CreateToken::default(), false)
                .await?;
            if number == drawn {
                chosen = child.secret;
            }
        }
    }
    Ok(chosen)
}

/// One login from its start to its token.
async fn log_in(keeper: &Keeper, issuer: &str) -> anyhow::Result<(SecretString, String)> {
    let nonce = "n".repeat(43);
    let started = keeper
        .login_start(LoginStart {
            issuer: issuer.to_owned(),
            client_nonce: Some(nonce.clone()),
            ..LoginStart::default()
        })
        .await?;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(started.poll_interval)).await;
        let poll = Poll {
            issuer: issuer.to_owned(),
            state: started.state.clone(),
            client_nonce: nonce.clone(),
            from: None,
        };
        if let PollOutcome::LoggedIn(login) = keeper.login_poll(poll).await? {
            return Ok((login.issued.secret, login.owner));
        }
    }
    bail!("a login was not finished within a minute")
}
