//! What this node remembers of logins beside their records: how many are under way, and when to ask the issuer next.
//!
//! In a cluster the watch tells of the logins of other nodes, so that the limits hold for all nodes together but for what is
//! started at the same moment; the pace of a device login is in its record then.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gridkeep_token::time::UnixSeconds;

use crate::crowd::{Crowd, CrowdLimits};
use crate::failure::{Failure, Later, LaterKind};
use crate::setup::Limits;

/// The logins under way on this node.
#[derive(Default, Clone)]
pub(crate) struct Logins(Arc<Mutex<Remembered>>);

#[derive(Default)]
struct Remembered {
    by_login: HashMap<Vec<u8>, Pace>,
    crowd: Crowd,
    /// Logins whose time was over before anybody said that they ended.
    over: Vec<Over>,
}

/// A login whose time is over.
pub(super) struct Over {
    pub id: Vec<u8>,
    pub kind: LoginKind,
}

/// What logins are counted by.
#[derive(Clone)]
pub(super) struct LoginKind {
    pub issuer: String,
    pub method: &'static str,
}

impl LoginKind {
    /// A login came to this step of [`crate::measure`].
    pub(super) fn came_to(&self, step: &'static str) {
        crate::measure::login(&self.issuer, self.method, step);
    }

    /// A login ended without success, for the reason with this code.
    pub(super) fn refused(&self, code: &str) {
        crate::measure::login_refused(&self.issuer, self.method, code);
    }
}

struct Pace {
    /// Of a login that this node started: it counts when the time is over. Others are counted by their node.
    kind: Option<LoginKind>,
    /// Whether the client has asked for the outcome yet.
    polled: bool,
    from: Option<IpAddr>,
    ends: UnixSeconds,
    next: Duration,
    interval: Duration,
    asking: bool,
}

/// A place among the logins under way, given back unless the login is started.
pub(super) struct Place {
    logins: Logins,
    id: Option<Vec<u8>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.logins.remove(id);
        }
    }
}

impl Place {
    /// The login was started: it keeps its place until `ends`, and the issuer is first asked after `interval` seconds.
    pub fn keep(mut self, ends: UnixSeconds, interval: u64, boot: Duration) {
        let mut inner = self.logins.lock();
        let interval = Duration::from_secs(interval.max(1));
        if let Some(pace) = self.id.take().and_then(|id| inner.by_login.get_mut(&id)) {
            pace.ends = ends;
            pace.next = boot + interval;
            pace.interval = interval;
        }
    }
}

impl Logins {
    fn lock(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for the login `id`, taken before anything is asked of the issuer, so that a flood of starts at one moment is
    /// held to the limits too.
    pub(super) fn admit(
        &self,
        limits: &Limits,
        id: Vec<u8>,
        kind: LoginKind,
        from: Option<IpAddr>,
        now: UnixSeconds,
        ends: UnixSeconds,
    ) -> Result<Place, Failure> {
        let mut inner = self.lock();
        if inner.is_full(limits, from) {
            inner.purge(now);
        }
        if inner.is_full(limits, from) {
            return Err(Later::new(
                LaterKind::TooManyLogins,
                "too many logins are under way and not finished; finish one of them, or try again in ten minutes, when they are forgotten",
            )
            .after(Duration::from_secs(60))
            .into());
        }
        inner.by_login.insert(
            id.clone(),
            Pace {
                kind: Some(kind),
                polled: false,
                from,
                ends,
                next: Duration::ZERO,
                interval: Duration::ZERO,
                asking: false,
            },
        );
        if let Some(from) = from {
            inner.crowd.enter(from);
        }
        Ok(Place {
            logins: self.clone(),
            id: Some(id),
        })
    }

    /// A login that is under way, perhaps on another node: counted as one of this node's are.
    pub fn elsewhere(&self, id: &[u8], from: Option<IpAddr>, ends: UnixSeconds) {
        let mut inner = self.lock();
        if let Some(known) = inner.by_login.get_mut(id) {
            known.ends = ends;
            return;
        }
        inner.by_login.insert(
            id.to_vec(),
            Pace {
                kind: None,
                polled: false,
                from,
                ends,
                next: Duration::ZERO,
                interval: Duration::ZERO,
                asking: false,
            },
        );
        if let Some(from) = from {
            inner.crowd.enter(from);
        }
    }

    pub fn remove(&self, id: &[u8]) {
        self.lock().remove(id);
    }

    /// Whether it is time to ask the issuer, and nobody does so already. The permission has to be given back with
    /// [`Logins::asked`].
    pub(super) fn may_ask(
        &self,
        id: &[u8],
        ends: UnixSeconds,
        interval: u64,
        boot: Duration,
    ) -> bool {
        let mut inner = self.lock();
        let interval = Duration::from_secs(interval.max(1));
        let pace = inner.of_elsewhere(id, ends, boot, interval);
        // A client that polls exactly at the interval is not made to wait a second one for a hair's breadth.
        if pace.interval.is_zero() {
            // Started on another node.
            pace.interval = interval;
        }
        if pace.asking || boot + Duration::from_millis(200) < pace.next {
            return false;
        }
        pace.asking = true;
        true
    }

    /// Whether the client asks for the outcome for the first time, as far as this node knows.
    pub(super) fn first_poll(&self, id: &[u8], ends: UnixSeconds, boot: Duration) -> bool {
        let mut inner = self.lock();
        let pace = inner.of_elsewhere(id, ends, boot, Duration::ZERO);
        !std::mem::replace(&mut pace.polled, true)
    }

    /// Logins under way.
    pub(crate) fn count(&self) -> usize {
        self.lock().by_login.len()
    }

    /// Those whose time is over, each told once.
    pub(super) fn take_over(&self, now: UnixSeconds) -> Vec<Over> {
        let mut inner = self.lock();
        inner.purge(now);
        std::mem::take(&mut inner.over)
    }

    pub(super) fn asked(&self, id: &[u8], slower: bool, boot: Duration) {
        if let Some(pace) = self.lock().by_login.get_mut(id) {
            if slower {
                pace.interval += Duration::from_secs(5);
            }
            pace.next = boot + pace.interval;
            pace.asking = false;
        }
    }
}

impl Remembered {
    /// The pace of a login, which another node may have started.
    fn of_elsewhere(
        &mut self,
        id: &[u8],
        ends: UnixSeconds,
        next: Duration,
        interval: Duration,
    ) -> &mut Pace {
        self.by_login.entry(id.to_vec()).or_insert_with(|| Pace {
            kind: None,
            polled: false,
            from: None,
            ends,
            next,
            interval,
            asking: false,
        })
    }

    fn is_full(&self, limits: &Limits, from: Option<IpAddr>) -> bool {
        let address = limits.login_sessions_per_address;
        let places = CrowdLimits {
            address,
            // So that it takes many customers of providers, not one, to keep everybody else from logging in.
            wider: address.max(limits.login_sessions_total / 10),
        };
        self.by_login.len() >= limits.login_sessions_total
            || from.is_some_and(|from| !self.crowd.has_room(from, places))
    }

    fn purge(&mut self, now: UnixSeconds) {
        let ended: Vec<Vec<u8>> = self
            .by_login
            .iter()
            .filter(|(_, pace)| pace.ends <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in ended {
            let kind = self.by_login.get_mut(&id).and_then(|pace| pace.kind.take());
            self.remove(&id);
            if let Some(kind) = kind {
                self.over.push(Over { id, kind });
            }
        }
    }

    fn remove(&mut self, id: &[u8]) {
        if let Some(from) = self.by_login.remove(id).and_then(|pace| pace.from) {
            self.crowd.leave(from);
        }
    }
}
