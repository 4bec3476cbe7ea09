//! All that a running issuer remembers, and the one structure ([`App`]) that handlers get.
//! Everything is in memory and gone with the process. What may be done with it is decided in the endpoint files.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use tokio::sync::watch;

use super::character::Paths;
use super::clock::Clock;
use super::fault::Faults;
use super::keys::KeyRing;
use super::ledger::{Counters, GrantView, Ledger, RefreshView};
use super::options::{Client, Options, Rotation, User};
use super::problem::{Problem, Refusal, refusal};

/// Settings that may change while the issuer runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) access_token_seconds: i64,
    pub(crate) rotation: Rotation,
    pub(crate) grace_seconds: i64,
}

/// A running issuer, shared by all its tasks.
pub(crate) struct App {
    pub(crate) options: Options,
    /// `https://host:port`, no slash at the end.
    pub(crate) base: String,
    /// Issuer identifier, to the character.
    pub(crate) issuer: String,
    pub(crate) paths: Paths,
    pub(crate) ca_pem: String,
    pub(crate) clock: Arc<Clock>,
    keys: Mutex<KeyRing>,
    world: Mutex<World>,
    faults: Mutex<Faults>,
    ledger: Mutex<Ledger>,
    settings: Mutex<Settings>,
    pub(crate) shutdown: watch::Receiver<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl App {
    #[expect(
        clippy::too_many_arguments,
        reason = "called once, by start; each is a different thing the issuer owns"
    )]
    pub(crate) fn new(
        options: Options,
        base: String,
        issuer: String,
        paths: Paths,
        ca_pem: String,
        keys: KeyRing,
        settings: Settings,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        Self {
            options,
            base,
            issuer,
            paths,
            ca_pem,
            clock: Arc::new(Clock::default()),
            keys: Mutex::new(keys),
            world: Mutex::default(),
            faults: Mutex::default(),
            ledger: Mutex::default(),
            settings: Mutex::new(settings),
            shutdown,
        }
    }

    pub(crate) fn keys(&self) -> MutexGuard<'_, KeyRing> {
        lock(&self.keys)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    pub(crate) fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.faults)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }

    pub(crate) fn user(&self, name: &str) -> Option<&User> {
        self.options.users.iter().find(|u| u.name == name)
    }

    pub(crate) fn client(&self, id: &str) -> Option<&Client> {
        self.options.clients.iter().find(|c| c.id == id)
    }

    /// The problem in this issuer's words.
    pub(crate) fn refusal(&self, problem: &Problem) -> Refusal {
        refusal(self.options.character, problem)
    }

    /// Waits until the issuer is stopped.
    pub(crate) async fn stopped(&self) {
        let mut shutdown = self.shutdown.clone();
        // An error means that the sender is gone, which is a stop as well.
        let _ = shutdown.wait_for(|stop| *stop).await;
    }

    /// Everything counted so far.
    pub(crate) fn counters(&self) -> Counters {
        let now_ms = self.clock.now_ms();
        let settings = *self.settings();
        let world = self.world();
        let ledger = self.ledger();
        let mut tokens: BTreeMap<u64, Vec<&Refresh>> = BTreeMap::new();
        for refresh in world.refresh.values() {
            tokens.entry(refresh.grant).or_default().push(refresh);
        }
        let mut refreshes = ledger.refreshes_by_grant();
        let view = |grant: &Grant| {
            let mut tokens = tokens.remove(&grant.id).unwrap_or_default();
            tokens.sort_by_key(|r| r.number);
            let usable = |r: &Refresh| {
                grant.alive && r.standing(now_ms, settings, self.idle_ms()) == Standing::Usable
            };
            let shown = |r: &&Refresh| RefreshView {
                id: r.id.clone(),
                presented: r.presented,
                usable: usable(r),
            };
            GrantView {
                id: grant.id,
                user: grant.user.clone(),
                client: grant.client.clone(),
                alive: grant.alive,
                refreshes: refreshes.remove(&grant.id).unwrap_or_default(),
                refresh_tokens: tokens.iter().map(shown).collect(),
            }
        };
        let grants = world.grants.values().map(view).collect();
        ledger.counters(grants)
    }

    /// Life of an unused refresh token, milliseconds.
    pub(crate) fn idle_ms(&self) -> i64 {
        self.options
            .refresh_idle_seconds
            .map_or(i64::MAX, |s| s.saturating_mul(1000))
    }
}

/// Somebody logged in with a browser.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) user: String,
    pub(crate) auth_time: i64,
}

/// An authorization request that waits for login and consent.
#[derive(Clone, Debug)]
pub(crate) struct AuthRequest {
    pub(crate) client: String,
    pub(crate) redirect_uri: String,
    pub(crate) state: Option<String>,
    pub(crate) nonce: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) challenge: Option<String>,
}

/// An authorization code.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) request: AuthRequest,
    pub(crate) session: Session,
    pub(crate) expires_ms: i64,
    /// Grant made from it; a second use ends that grant (RFC 6749 4.1.2).
    pub(crate) used_by: Option<u64>,
}

/// What a person decided about a device request.
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    Open,
    Approved(Session),
    Denied,
    Used,
}

/// A device authorization request (RFC 8628).
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) device_code: String,
    pub(crate) user_code: String,
    pub(crate) client: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) expires_ms: i64,
    pub(crate) interval_ms: i64,
    pub(crate) last_poll_ms: Option<i64>,
    pub(crate) decision: Decision,
}

/// One login, or one client acting for itself.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    pub(crate) id: u64,
    pub(crate) user: Option<String>,
    pub(crate) client: String,
    /// Scopes that stand after the first decision; the ceiling of refreshes.
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) nonce: Option<String>,
    pub(crate) auth_time: i64,
    pub(crate) created_ms: i64,
    /// Session id where the character shows one.
    pub(crate) sid: String,
    pub(crate) alive: bool,
}

/// One refresh token.
#[derive(Clone, Debug)]
pub(crate) struct Refresh {
    pub(crate) id: String,
    pub(crate) number: u64,
    pub(crate) grant: u64,
    pub(crate) expires_ms: i64,
    pub(crate) used_ms: i64,
    pub(crate) retired_ms: Option<i64>,
    pub(crate) revoked: bool,
    pub(crate) presented: u64,
}

/// What a refresh token is good for, its grant being alive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    Usable,
    Revoked,
    Expired,
    /// Used before, and not to be used again.
    Replaced,
}

impl Refresh {
    pub(crate) fn standing(&self, now_ms: i64, settings: Settings, idle_ms: i64) -> Standing {
        let grace_ms = settings.grace_seconds.saturating_mul(1000);
        if self.revoked {
            return Standing::Revoked;
        }
        if now_ms >= self.expires_ms || now_ms >= self.used_ms.saturating_add(idle_ms) {
            return Standing::Expired;
        }
        match (self.retired_ms, settings.rotation) {
            (None, _) | (_, Rotation::None) => Standing::Usable,
            (Some(at), Rotation::Grace) if now_ms < at.saturating_add(grace_ms) => Standing::Usable,
            (Some(_), Rotation::Grace | Rotation::Immediate) => Standing::Replaced,
        }
    }
}

/// An access token that was issued, by `jti`.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) grant: u64,
    pub(crate) client: String,
    /// Scopes that stand in it; the ceiling of exchanges.
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) expires: i64,
    pub(crate) revoked: bool,
}

/// Sessions, codes, grants and tokens.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) sessions: HashMap<String, Session>,
    pub(crate) requests: HashMap<String, AuthRequest>,
    pub(crate) codes: HashMap<String, Code>,
    pub(crate) devices: Vec<Device>,
    pub(crate) grants: BTreeMap<u64, Grant>,
    pub(crate) refresh: HashMap<String, Refresh>,
    pub(crate) access: HashMap<String, Access>,
    /// `jti` of client assertions already used.
    pub(crate) assertions: HashSet<String>,
    /// Secrets of clients that were changed since the start, by client id.
    pub(crate) secrets: HashMap<String, SecretString>,
    last_number: u64,
}

impl World {
    /// Next number, unique within this issuer.
    pub(crate) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Ends a grant: none of its refresh tokens works any more.
    pub(crate) fn end_grant(&mut self, id: u64) {
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.alive = false;
        }
    }

    /// Remembers an access token, and forgets long expired ones when there are many.
    pub(crate) fn remember(&mut self, jti: String, access: Access, now: i64) {
        if self.access.len() > 50_000 {
            self.access.retain(|_, a| a.expires > now);
        }
        self.access.insert(jti, access);
    }
}

/// `bytes` random bytes as base64url text.
pub(crate) fn random_text(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    #[expect(
        clippy::expect_used,
        reason = "the operating system's generator does not fail once the process runs; a test issuer may stop if it does"
    )]
    rand::fill(&mut buffer).expect("random bytes");
    URL_SAFE_NO_PAD.encode(buffer)
}

/// A user code: consonants only, so that nobody reads a word or mistakes a digit (RFC 8628 6.1).
pub(crate) fn user_code() -> String {
    const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
    let mut raw = [0_u8; 8];
    #[expect(clippy::expect_used, reason = "as in random_text")]
    rand::fill(&mut raw).expect("random bytes");
    let letter = |byte: &u8| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]);
    let (left, right) = raw.split_at(4);
    format!(
        "{}-{}",
        left.iter().map(letter).collect::<String>(),
        right.iter().map(letter).collect::<String>()
    )
}
