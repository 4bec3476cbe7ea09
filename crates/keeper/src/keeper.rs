//! The keeper itself: what its parts share, opening, reconfiguring, draining.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use gridkeep_issuer::IssuerStatus;
use gridkeep_store::{Guard, Store};
use gridkeep_token::time::UnixSeconds;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::Instrument as _;
use zeroize::Zeroizing;

use crate::census::LastCensus;
use crate::clock::{Clock, Time};
use crate::cluster::{Cluster, ClusterOptions, Intents, LEVEL, Level};
use crate::database::{Change, Database, NotCommitted, Stored, name};
use crate::delegation::{MOUNT, ROBOT_MOUNT};
use crate::exchange::Exchanges;
use crate::failure::{Failure, Later, LaterKind};
use crate::grants::Sealer;
use crate::login::{Logins, Tickets, kerberos_mount};
use crate::policy::{Policies, kerberos_accessor};
use crate::rate_limits::RateLimits;
use crate::records::{Intent, KEEPER, KeeperRecord};
use crate::refresh::Flights;
use crate::rekey::Rekeying;
use crate::secret::{Mint, random_id};
use crate::setup::Setup;
use crate::spool::Spool;
use crate::uses::Uses;

/// What differs between nodes and between tests.
#[derive(Debug, Clone)]
pub struct KeeperOptions {
    /// Name of this node.
    pub node: String,
    /// Private directory for received refresh tokens that the store could not take.
    pub spool: PathBuf,
    /// How long somebody waits for the issuer before being told to come back.
    pub waiter: Duration,
    /// How long a request to the issuer may take in all.
    pub flight: Duration,
    /// How the node takes part in a cluster; `None` when nobody else is on its store.
    pub cluster: Option<ClusterOptions>,
    /// Newest schema level of records that this node reads and writes: [`LEVEL`], but in tests of upgrades.
    pub level: u16,
}

/// The longest time that a request to an issuer takes.
pub const FLIGHT: Duration = Duration::from_secs(60);

impl KeeperOptions {
    /// The stated times: 8 s for a waiter, 60 s for a flight.
    pub fn new(node: impl Into<String>, spool: impl Into<PathBuf>) -> Self {
        KeeperOptions {
            node: node.into(),
            spool: spool.into(),
            waiter: Duration::from_secs(8),
            flight: FLIGHT,
            cluster: None,
            level: LEVEL,
        }
    }
}

/// Name and identifier of the installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// `vault-cluster-` and four digits of the id, as tools of the original show it.
    pub name: String,
    /// A UUID that never changes.
    pub id: String,
}

/// Something that answers below a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// With a final slash: `auth/oidc-dune/`, `secret/oauth/`.
    pub path: String,
    /// `oidc`, `token`, `oauth` …
    pub kind: &'static str,
    /// Accessor, as policies refer to it.
    pub accessor: String,
    /// Stable identifier.
    pub uuid: String,
    /// For people.
    pub description: &'static str,
}

/// The domain. Cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub db: Database,
    pub setup: RwLock<Arc<Setup>>,
    pub clock: Arc<dyn Clock>,
    pub time: Time,
    pub mint: Mint,
    pub sealer: Sealer,
    pub spool: Spool,
    pub options: KeeperOptions,
    /// Distinguishes this run of the node from its earlier ones.
    pub process: String,
    /// The processes that used this node's spool before.
    pub predecessors: Vec<String>,
    pub started_at: UnixSeconds,
    pub identity: ClusterIdentity,
    pub cluster: Cluster,
    /// Refreshes of other nodes.
    pub intents: Intents,
    pub policies: Policies,
    pub rate_limits: RateLimits,
    pub flights: Flights,
    pub logins: Logins,
    pub ssh_files: Arc<crate::ssh::KeyFiles>,
    pub tickets: Tickets,
    pub exchanges: Exchanges,
    /// Grants that were used since they were last refreshed.
    pub uses: Uses,
    /// Held by whoever revokes at issuers.
    pub revoking: tokio::sync::Mutex<()>,
    /// Whether there may be something to revoke that the one at it has not seen.
    pub revoke_again: AtomicBool,
    pub census: LastCensus,
    pub rekeying: Rekeying,
    /// The day (since the epoch) on which the whole keep-alive index was last looked through.
    pub kept_alive: Mutex<Option<i64>>,
    tasks: Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
}

impl Keeper {
    /// Opens the keeper over `store`, takes up what an earlier run left unfinished, and starts its background tasks.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read or written.
    pub async fn open(
        store: Store,
        setup: Setup,
        clock: Arc<dyn Clock>,
        options: KeeperOptions,
    ) -> Result<Keeper, Failure> {
        let cluster = Cluster::new(options.cluster.clone());
        let db = Database {
            store,
            caches: Some(cluster.caches.clone()),
            level: Arc::new(Level::new(options.level)),
            troubles: Arc::default(),
        };
        let record = open_record(&db, &clock).await?;
        db.level.check(record.level)?;
        db.level.set(record.level);
        let time = Time::new(clock.clone(), Some(UnixSeconds(record.high_water)));
        let mint = Mint::new(&db.store.derive_key("keeper secrets"));
        let sealer = Sealer::new(db.store.derive_key("grant slot server"));
        let spool = Spool::open(&options.spool, db.store.derive_key("spool")).await?;
        let predecessors = spool.processes();
        let policies = Policies::load(&db).await?;
        let rate_limits = RateLimits::load(&db).await?;
        let started_at = time.now();
        let identity = ClusterIdentity {
            name: format!(
                "vault-cluster-{}",
                record.cluster_id.get(..4).unwrap_or("0000")
            ),
            id: record.cluster_id.clone(),
        };
        let keeper = Keeper {
            inner: Arc::new(Inner {
                db,
                setup: RwLock::new(Arc::new(Setup::default())),
                clock,
                time,
                mint,
                sealer,
                spool,
                options,
                process: random_id(),
                predecessors,
                started_at,
                identity,
                cluster,
                intents: Intents::default(),
                policies,
                rate_limits,
                flights: Flights::default(),
                logins: Logins::default(),
                ssh_files: Arc::default(),
                tickets: Tickets::default(),
                exchanges: Exchanges::default(),
                revoking: tokio::sync::Mutex::default(),
                revoke_again: AtomicBool::new(false),
                census: LastCensus::default(),
                rekeying: Rekeying::default(),
                kept_alive: Mutex::default(),
                uses: Uses::default(),
                tasks: Mutex::default(),
                stop: watch::Sender::new(false),
            }),
        };
        keeper.reconfigure(setup).await?;
        keeper.join_cluster().await?;
        let inner = &keeper.inner;
        inner
            .spool
            .note_process(&inner.predecessors, &inner.process);
        keeper.take_up_spool()?;
        keeper.start_background();
        keeper.follow_rate_limits();
        Ok(keeper)
    }

    /// Puts a new configuration into force. Issuers and roles that are gone are remembered.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written; the old configuration then stays in force.
    pub async fn reconfigure(&self, mut setup: Setup) -> Result<(), Failure> {
        let key = name(KEEPER, &[]);
        loop {
            let stored = self
                .inner
                .db
                .get::<KeeperRecord>(&key)
                .await?
                .ok_or_else(missing_record)?;
            let mut record = stored.value.clone();
            let now = self.inner.time.now();
            crate::removed::note(&mut record, &mut setup, now);
            crate::keys::note(&mut record, self.key_status().generation, now);
            let forget_keys = !setup.left_out.ssh && crate::ssh::switch(&mut record, &setup, now);
            if forget_keys && !self.inner.time.doubtful() {
                self.forget_ssh_keys().await?;
            }
            let unchanged = record == stored.value;
            if !unchanged {
                let mut change = Change::new();
                change
                    .guard(stored.unchanged())
                    .put(key.clone(), &record, None)?;
                match self.inner.db.commit(change).await {
                    Ok(()) => {}
                    Err(NotCommitted::Conflict) => continue,
                    Err(other) => return Err(other.into()),
                }
            }
            setup.removed_issuers = record.removed_issuers;
            setup.removed_roles = record.removed_roles;
            setup.removed_kerberos = record.removed_kerberos;
            setup.removed_ssh = record.ssh_off_since;
            break;
        }
        let setup = Arc::new(setup);
        self.inner.policies.rebuild(&setup, &self.inner.mint);
        crate::measure::appear(&setup);
        *self
            .inner
            .setup
            .write()
            .unwrap_or_else(PoisonError::into_inner) = setup.clone();
        self.inner.rate_limits.configure(&setup.rate_limits);
        self.share_budgets();
        Ok(())
    }

    /// Waits until every request to an issuer has ended and its answer is stored, but at most `within`; stops background work.
    pub async fn drain(&self, within: Duration) {
        // send_replace, because there may be nobody who listens yet.
        self.inner.stop.send_replace(true);
        let finished = tokio::time::timeout(within, async {
            // What ends may have started more: a login's outcome, a revocation.
            loop {
                let mut tasks = self.take_tasks();
                if tasks.is_empty() {
                    return;
                }
                while tasks.join_next().await.is_some() {}
            }
        })
        .await;
        if finished.is_err() {
            tracing::warn!(
                "requests to issuers were still under way when the time to drain was over: of refreshes the intents are stored, logins have to be made again"
            );
        }
    }

    /// Whether nobody else works on this: it is this process's own, or that of one that used its data directory before, which has
    /// ended. Another process of the node's name may be alive on another host.
    pub(crate) fn is_ours(&self, intent: &Intent) -> bool {
        intent.process == self.inner.process || self.inner.predecessors.contains(&intent.process)
    }

    fn take_tasks(&self) -> JoinSet<()> {
        std::mem::take(
            &mut *self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Ends everything at once, as a kill does.
    #[cfg(test)]
    pub(crate) async fn crash(&self) {
        self.take_tasks().shutdown().await;
    }

    /// The keeper's own record.
    pub(crate) async fn record(&self) -> Result<Stored<KeeperRecord>, Failure> {
        let stored = self.inner.db.get(&name(KEEPER, &[])).await?;
        stored.ok_or_else(missing_record)
    }

    /// Changes the keeper's own record, however many others do so at the same time. Nothing is written where nothing changes.
    pub(crate) async fn amend_record(
        &self,
        amend: impl Fn(&mut KeeperRecord),
    ) -> Result<(), Failure> {
        loop {
            let stored = self.record().await?;
            let mut record = stored.value.clone();
            amend(&mut record);
            if record == stored.value {
                return Ok(());
            }
            let mut change = Change::new();
            change
                .guard(stored.unchanged())
                .put(stored.name.clone(), &record, None)?;
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// The configuration in force.
    pub fn setup(&self) -> Arc<Setup> {
        self.inner
            .setup
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The clock the keeper was opened with.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Now, by the wall clock.
    pub fn now(&self) -> UnixSeconds {
        self.inner.time.now()
    }

    /// The moment that lies `by` in the future.
    pub fn after(&self, by: gridkeep_token::time::Seconds) -> UnixSeconds {
        crate::tokens::later(self.now(), by)
    }

    /// Whether the wall clock is in doubt.
    pub fn clock_doubtful(&self) -> bool {
        self.inner.time.doubtful()
    }

    /// An operator says that the wall clock is right.
    pub fn confirm_clock(&self) {
        self.inner.time.confirm();
    }

    /// What the store says of itself.
    pub fn store_status(&self) -> gridkeep_store::Status {
        self.inner.db.store.status()
    }

    /// How each issuer is doing.
    pub fn issuer_status(&self) -> Vec<(String, IssuerStatus)> {
        self.setup()
            .issuers
            .iter()
            .map(|issuer| (issuer.name.clone(), issuer.client.status()))
            .collect()
    }

    /// A key for a purpose outside the keeper, such as the audit log's HMAC.
    pub fn derive_key(&self, label: &str) -> Zeroizing<[u8; 32]> {
        self.inner.db.store.derive_key(&format!("dialect {label}"))
    }

    /// Name and identifier of the installation.
    pub fn cluster(&self) -> ClusterIdentity {
        self.inner.identity.clone()
    }

    /// What answers below which path.
    pub fn mounts(&self) -> Vec<Mount> {
        let mount = |path: String, kind: &'static str, description: &'static str| Mount {
            accessor: self.inner.mint.mount_accessor(kind, &path),
            uuid: self.inner.mint.stable_uuid("mount", &path),
            path,
            kind,
            description,
        };
        let mut mounts = vec![mount(
            "auth/token/".to_owned(),
            "token",
            "token based credentials",
        )];
        mounts.extend(
            self.setup()
                .issuers
                .iter()
                .map(|issuer| mount(format!("auth/oidc-{}/", issuer.name), "oidc", "")),
        );
        mounts.extend(
            self.setup()
                .kerberos_roles()
                .map(|(issuer, role, _)| Mount {
                    // Policies name issuer and role, not the path made of both.
                    accessor: kerberos_accessor(&self.inner.mint, &issuer.name, &role.name),
                    ..mount(kerberos_mount(&issuer.name, &role.name), "kerberos", "")
                }),
        );
        if self.setup().ssh.is_some() {
            mounts.push(mount(crate::ssh::SSH_MOUNT.to_owned(), "ssh", ""));
        }
        mounts.push(mount(
            MOUNT.to_owned(),
            "delegation",
            "use of credentials given to others",
        ));
        mounts.push(mount(
            ROBOT_MOUNT.to_owned(),
            "robot",
            "tokens of robots, renewed without end",
        ));
        mounts.push(mount(
            "secret/oauth/".to_owned(),
            "oauth",
            "credentials of token issuers",
        ));
        mounts.push(mount(
            "sys/".to_owned(),
            "system",
            "system endpoints used for control, policy and debugging",
        ));
        mounts
    }

    /// Runs `work` as a task the keeper owns: no client's going away ends it, and [`Keeper::drain`] waits for it.
    pub fn own(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self
            .inner
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        // What is logged and traced in there belongs to the request that brought it about.
        tasks.spawn(work.in_current_span());
    }

    /// Becomes true when the keeper stops.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.inner.stop.subscribe()
    }
}

async fn open_record(db: &Database, clock: &Arc<dyn Clock>) -> Result<KeeperRecord, Failure> {
    let key = name(KEEPER, &[]);
    loop {
        if let Some(stored) = db.get::<KeeperRecord>(&key).await? {
            return Ok(stored.value);
        }
        let id = crate::secret::random_id();
        let mut record = KeeperRecord {
            cluster_id: format!(
                "{}-{}-{}-{}-{}",
                &id[..8],
                &id[8..12],
                &id[12..16],
                &id[16..20],
                &id[20..]
            ),
            high_water: i64::try_from(clock.wall().as_secs()).unwrap_or(0),
            level: 1,
            names_indexed: true,
            tokens_indexed: true,
            ..KeeperRecord::default()
        };
        let now = UnixSeconds(record.high_water);
        crate::keys::note(&mut record, db.store.status().key_generation, now);
        let mut change = Change::new();
        change
            .guard(Guard::Absent(key.clone()))
            .put(key.clone(), &record, None)?;
        match db.commit(change).await {
            Ok(()) => return Ok(record),
            Err(NotCommitted::Conflict) => {}
            Err(other) => return Err(other.into()),
        }
    }
}

pub(crate) fn missing_record() -> Failure {
    Later::new(LaterKind::Store, "the keeper's own record is missing from the store: the data directory may be incomplete; restore it").into()
}
