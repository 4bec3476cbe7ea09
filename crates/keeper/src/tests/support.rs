//! A keeper in a house of its own: store, disk, clock, issuer, and the everyday things done with them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gridkeep_store::testing::{FaultyDisk, FaultyEngine, Hangs};
use gridkeep_store::{OpenOptions, RootKey, Store};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use super::issuer::{FakeIssuer, Rotation, claims};
use crate::clock::{Clock, ManualClock};
use crate::database::{Change, name as record_name};
use crate::records::{CREDENTIAL, CredentialRecord, GRANT, GrantRecord, GrantSecrets};
use crate::tokens::token_name;
use crate::*;

pub const START: i64 = 1_900_000_000;
pub const URL: &str = "https://keep.example:8200";

/// Keeps tokio's paused clock from moving by itself: it does so while the runtime is idle, and a runtime that waits for the
/// store's own thread looks idle.
struct HeldTime(
    #[expect(dead_code, reason = "dropping it ends the task")] std::sync::mpsc::Sender<()>,
);

impl HeldTime {
    fn new() -> Self {
        let (hold, released) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || released.recv());
        HeldTime(hold)
    }
}

pub struct House {
    pub dir: TempDir,
    pub clock: Arc<ManualClock>,
    pub issuer: Arc<FakeIssuer>,
    pub disk: FaultyDisk,
    store: Mutex<Option<Store>>,
    /// Fails one call in three while it is active, before it or after it has been done.
    pub engine: Mutex<Option<Arc<FaultyEngine>>>,
    _time: HeldTime,
}

impl House {
    pub fn new(rotation: Rotation) -> House {
        House {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::at(START)),
            issuer: FakeIssuer::new(rotation),
            disk: FaultyDisk::new(),
            store: Mutex::new(None),
            engine: Mutex::new(None),
            _time: HeldTime::new(),
        }
    }

    /// The store, opened when first asked for.
    pub fn store(&self) -> Store {
        let mut store = self.store.lock().unwrap();
        store
            .get_or_insert_with(|| {
                let data = self.dir.path().join("data");
                let key =
                    RootKey::load_or_generate(&self.dir.path().join("root.key"), &data).unwrap();
                let mut options = OpenOptions::new(&data, key);
                options.reserve_bytes = 512 * 1024;
                options.disk = Arc::new(self.disk.clone());
                gridkeep_store::open_behind(options, |engine| {
                    let faulty = Arc::new(FaultyEngine::new(engine, 3, 7));
                    *self.engine.lock().unwrap() = Some(faulty.clone());
                    faulty
                })
                .unwrap()
            })
            .clone()
    }

    /// What the store does not even refuse from now on.
    pub fn hang(&self, hangs: Hangs) {
        let engine = self.engine.lock().unwrap();
        engine.as_ref().unwrap().set_hangs(hangs);
    }

    pub async fn close_store(&self) {
        let store = self.store.lock().unwrap().take();
        store.unwrap().close().await.unwrap();
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    pub fn spooled(&self) -> usize {
        std::fs::read_dir(self.spool()).map_or(0, |entries| {
            let paths = entries.map(|entry| entry.unwrap().path());
            paths
                .filter(|path| path.extension().is_some_and(|it| it == "sealed"))
                .count()
        })
    }

    pub fn issuer_setup(&self, name: &str, client: &Arc<FakeIssuer>) -> IssuerSetup {
        use gridkeep_issuer::TokenIssuer as _;
        let role = |name: &str, scopes: &[&str]| RoleSetup {
            name: name.to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            credclaim: None,
            terms: LoginTerms::default(),
        };
        IssuerSetup {
            reauth_on_scope_change: false,
            refresh_token_life: None,
            name: name.to_owned(),
            url: client.url().to_owned(),
            client_id: client.client_id().to_owned(),
            client: client.clone(),
            callback_mode: CallbackMode::NoConfirm,
            credclaim: "wlcg.credkey".to_owned(),
            credclaim_pointer: false,
            roles: vec![
                role("default", &["offline_access", "compute.read"]),
                role("production", &["offline_access", "compute.modify"]),
            ],
        }
    }

    pub fn setup(&self) -> Setup {
        Setup {
            issuers: vec![self.issuer_setup("dune", &self.issuer)],
            public_url: URL.to_owned(),
            ..Setup::default()
        }
    }

    pub async fn open(&self) -> Keeper {
        self.open_with(self.setup()).await
    }

    pub async fn open_with(&self, setup: Setup) -> Keeper {
        let clock: Arc<dyn Clock> = self.clock.clone();
        Keeper::open(
            self.store(),
            setup,
            clock,
            KeeperOptions::new("node1", self.spool()),
        )
        .await
        .unwrap()
    }

    /// Lets time pass for everybody: both clocks and all timers.
    pub async fn pass(&self, seconds: u64) {
        self.clock.pass(Duration::from_secs(seconds));
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }
}

/// Waits for something that other tasks and the store's thread bring about.
pub async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(120), "never: {what}");
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
}

/// The same for what has to be asked for.
pub async fn until_async<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let begun = std::time::Instant::now();
    while !done().await {
        assert!(begun.elapsed() < Duration::from_secs(120), "never: {what}");
        tokio::task::yield_now().await;
    }
}

pub fn cred(text: &str) -> CredentialName {
    CredentialName::parse(text).unwrap()
}

pub fn least(seconds: u64) -> Want {
    Want {
        minimum: Seconds(seconds),
        ..Want::default()
    }
}

pub fn start(issuer: &str) -> LoginStart {
    LoginStart {
        issuer: issuer.to_owned(),
        redirect_uri: Some(format!("{URL}/v1/auth/oidc-{issuer}/oidc/callback")),
        client_nonce: Some("nonce".into()),
        ..LoginStart::default()
    }
}

pub fn callback(issuer: &str, state: &str) -> Callback {
    Callback {
        issuer: issuer.to_owned(),
        state: state.to_owned(),
        code: Some(SecretString::from("the code")),
        error: None,
        error_description: None,
        confirmed: false,
        from: None,
    }
}

pub fn poll(issuer: &str, state: &str) -> Poll {
    Poll {
        issuer: issuer.to_owned(),
        state: state.to_owned(),
        client_nonce: "nonce".into(),
        from: None,
    }
}

/// A browser is back with a code, which the issuer has and does not answer while its gate is closed.
pub async fn code_on_its_way(
    house: &House,
    keeper: &Keeper,
) -> (
    String,
    tokio::task::JoinHandle<Result<CallbackOutcome, Failure>>,
) {
    let state = keeper.login_start(start("dune")).await.unwrap().state;
    house.issuer.close_gate();
    let browser = tokio::spawn({
        let (keeper, back) = (keeper.clone(), callback("dune", &state));
        async move { keeper.callback(back).await }
    });
    house.issuer.acted(1).await;
    (state, browser)
}

pub async fn pending(keeper: &Keeper, state: &str) -> bool {
    matches!(
        keeper.login_poll(poll("dune", state)).await,
        Ok(PollOutcome::Pending)
    )
}

/// `owner` logs in with the code flow.
pub async fn login(house: &House, keeper: &Keeper, owner: &str) -> Login {
    house.issuer.books().person = claims(owner);
    login_at(keeper, "dune").await
}

pub async fn login_at(keeper: &Keeper, issuer: &str) -> Login {
    let started = keeper.login_start(start(issuer)).await.unwrap();
    keeper
        .callback(callback(issuer, &started.state))
        .await
        .unwrap();
    match keeper
        .login_poll(poll(issuer, &started.state))
        .await
        .unwrap()
    {
        PollOutcome::LoggedIn(login) => *login,
        PollOutcome::Pending => panic!("pending"),
    }
}

pub async fn bearer(keeper: &Keeper, secret: &SecretString) -> Bearer {
    keeper.authenticate(secret, None).await.unwrap()
}

/// A token of root, as only a store of an earlier time can hold one.
pub async fn root(keeper: &Keeper) -> Bearer {
    let issued = keeper.operator_token("test").await.unwrap();
    let mut token = issued.token.as_ref().clone();
    token.policies = vec!["root".into()];
    token.expires_at = None;
    let mut change = Change::new();
    change.put(token_name(&token.id), &token, None).unwrap();
    keeper.inner.db.commit(change).await.unwrap();
    bearer(keeper, &issued.secret).await
}

pub async fn operator(keeper: &Keeper) -> Bearer {
    let issued = keeper.operator_token("test").await.unwrap();
    bearer(keeper, &issued.secret).await
}

pub async fn child(keeper: &Keeper, by: &Bearer) -> Issued {
    keeper
        .create_token(by, CreateToken::default(), false)
        .await
        .unwrap()
}

pub async fn put(
    keeper: &Keeper,
    by: &Bearer,
    name: &str,
    token: &SecretString,
) -> Result<(), Failure> {
    let request = PutCredential {
        server: Some(cred(name).issuer),
        grant_type: None,
        refresh_token: Some(token.clone()),
    };
    keeper.put(by, &cred(name), request).await
}

pub async fn access(keeper: &Keeper, by: &Bearer, name: &str) -> Result<String, Failure> {
    read(keeper, by, name, least(60)).await.map(|read| read.0)
}

pub async fn read(
    keeper: &Keeper,
    by: &Bearer,
    name: &str,
    want: Want,
) -> Result<(String, Vec<String>), Failure> {
    keeper
        .read(by, &cred(name), &want)
        .await
        .map(|read| (read.token.expose_secret().to_owned(), read.warnings))
}

pub async fn credential(keeper: &Keeper, name: &str) -> Option<CredentialRecord> {
    let name = cred(name);
    keeper
        .inner
        .db
        .get(&record_name(
            CREDENTIAL,
            &[&name.issuer, &name.owner, &name.role],
        ))
        .await
        .unwrap()
        .map(|stored| stored.value)
}

pub async fn grant(keeper: &Keeper, id: &str) -> Option<GrantRecord> {
    keeper
        .inner
        .db
        .get(&record_name(GRANT, &[id]))
        .await
        .unwrap()
        .map(|stored| stored.value)
}

pub async fn grant_of(keeper: &Keeper, name: &str) -> GrantRecord {
    let id = credential(keeper, name).await.unwrap().grant;
    grant(keeper, &id).await.unwrap()
}

pub async fn secrets_of(keeper: &Keeper, name: &str) -> GrantSecrets {
    let grant = grant_of(keeper, name).await;
    keeper.inner.sealer.open(&grant).unwrap().1
}

pub fn kind<T: std::fmt::Debug>(result: Result<T, Failure>) -> LaterKind {
    match result {
        Err(Failure::Later(later)) => {
            assert!(!later.what.to_lowercase().contains("permission denied"));
            later.kind
        }
        other => panic!("not a Later: {other:?}"),
    }
}

pub fn bad<T: std::fmt::Debug>(result: Result<T, Failure>) -> BadInput {
    match result {
        Err(Failure::BadInput(bad)) => bad,
        other => panic!("not bad input: {other:?}"),
    }
}

pub fn refused<T: std::fmt::Debug>(result: Result<T, Failure>) -> Refused {
    match result {
        Err(Failure::Refused(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

/// Works off what is to be revoked now, whoever else is at it.
pub async fn revoke_all(keeper: &Keeper) {
    loop {
        drop(keeper.inner.revoking.lock().await);
        keeper.revoke_unreferenced().await.unwrap();
        if keeper.inner.revoking.try_lock().is_ok() {
            return;
        }
    }
}

/// A policy of this text and nothing else said.
pub fn written(text: &str) -> PolicyWrite {
    PolicyWrite {
        text: text.to_owned(),
        ..PolicyWrite::default()
    }
}
