//! Keeper tokens: proving and looking up here, making in [`create`], by role in [`roles`], renewing in [`lifetime`], revoking in
//! [`revoke`], by the path they came from in [`leases`], by whom they
//! speak for in [`held`].
//!
//! A token's link to its parent is bound: it dies with it. Revoking a tree is one write, because liveness reads the ancestors
//! whose ids every token carries.

mod address;
mod create;
mod held;
mod kin;
mod leases;
mod lifetime;
mod revoke;
mod roles;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use gridkeep_store::{Guard, Name};
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::TOLERANCE_SECONDS;
use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::network::Network;
use crate::policy::OPERATOR;
use crate::records::{ACCESSOR, AccessorRecord, Identity, KeeperToken, Revoked, TOKEN, TOMBSTONE};
use crate::secret::{Purpose, TokenId, base62};
use crate::terms::LoginTerms;

pub(crate) use address::{allowed_address, is_range, within};
pub use create::CreateToken;
pub use kin::Kin;
pub use roles::TokenRole;

const OPERATOR_TTL: Seconds = Seconds(900);

/// A live token in the hand of its bearer.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// The token.
    pub token: Arc<KeeperToken>,
    /// Where the request came from.
    pub from: Option<IpAddr>,
}

/// A token that was just made, with the only copy of its secret.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The secret, shown once.
    pub secret: SecretString,
    /// The token.
    pub token: Arc<KeeperToken>,
    /// What was not done as asked.
    pub warnings: Vec<String>,
}

/// A renewed token.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// The token.
    pub token: Arc<KeeperToken>,
    /// Seconds it lives from now.
    pub ttl: Seconds,
    /// What was not done as asked.
    pub warnings: Vec<String>,
}

/// What a login gives its token.
pub(crate) struct LoginToken {
    pub terms: LoginTerms,
    pub policies: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub display_name: String,
    pub path: String,
    pub identity: Identity,
    pub entity: String,
    pub renewable: bool,
}

/// A token found alive.
struct Living {
    token: Stored<KeeperToken>,
    /// Guards on the ancestors it depends on.
    above: Vec<Guard>,
}

pub(crate) fn token_name(id: &TokenId) -> Name {
    Name::new(TOKEN, &[id.0.as_slice()])
}

impl Keeper {
    /// Proves that `secret` is a live token of ours, and spends one of its uses when those are counted.
    ///
    /// # Errors
    /// [`Failure::Refused`] only on proof that the token is dead or was never ours; [`Failure::Later`] for everything that may
    /// heal: a missing record, a doubtful clock, a store that does not answer.
    pub async fn authenticate(
        &self,
        secret: &SecretString,
        from: Option<IpAddr>,
    ) -> Result<Bearer, Failure> {
        let id = self.parse_secret(secret).ok_or(Refused::UnknownToken)?;
        if let Some(token) = self
            .known_alive(&id)
            .filter(|token| allowed_address(&token.bound_cidrs, from))
        {
            return Ok(Bearer { token, from });
        }
        self.catch_up().await?;
        let stored = self.live(&id).await?;
        if !allowed_address(&stored.value.bound_cidrs, from) {
            return Err(Refused::WrongAddress.into());
        }
        let token = if stored.value.num_uses > 0 {
            self.spend_use(stored).await?
        } else {
            stored.value
        };
        Ok(Bearer {
            token: Arc::new(token),
            from,
        })
    }

    /// The id of a secret of ours; `None` when its MAC is not.
    pub fn parse_secret(&self, secret: &SecretString) -> Option<TokenId> {
        let text = secret.expose_secret().trim();
        self.inner
            .mint
            .prove(Purpose::Token, text)
            .map(|proven| proven.token_id())
    }

    /// A token that is alive by what is in memory, while that counts. `None` means that the store has to be asked: nobody is
    /// refused by what is in memory. One whose uses are counted has to be written anyway.
    fn known_alive(&self, id: &TokenId) -> Option<Arc<KeeperToken>> {
        let tokens = &self.kept()?.tokens;
        let found = tokens.get(&token_name(id))?;
        if found.value.num_uses > 0 || self.check_alive(&found.value).is_err() {
            return None;
        }
        if found.value.ancestors.is_empty() {
            return Some(Arc::new(found.value.clone()));
        }
        let mut token = found.value.clone();
        for (index, ancestor) in found.value.ancestors.iter().enumerate() {
            let ancestor = tokens.get(&token_name(ancestor))?;
            if cut_loose(&mut token, index, &ancestor.value) {
                break;
            }
            self.check_alive(&ancestor.value).ok()?;
        }
        Some(Arc::new(token))
    }

    /// The record of a token that is alive, together with all its ancestors.
    pub(crate) async fn live(&self, id: &TokenId) -> Result<Stored<KeeperToken>, Failure> {
        Ok(self.live_with_ancestors(id).await?.token)
    }

    /// The same, with guards that hold as long as no ancestor is written.
    async fn live_with_ancestors(&self, id: &TokenId) -> Result<Living, Failure> {
        let stored = self
            .inner
            .db
            .get_and_keep(|caches| &caches.tokens, &token_name(id))
            .await?
            .ok_or_else(record_missing)?;
        let mut stored = Arc::unwrap_or_clone(stored);
        self.check_alive(&stored.value)?;
        let mut above = Vec::new();
        if stored.value.ancestors.is_empty() {
            return Ok(Living {
                token: stored,
                above,
            });
        }
        let names: Vec<Name> = stored.value.ancestors.iter().map(token_name).collect();
        let ancestors = self
            .inner
            .db
            .get_many_and_keep(|caches| &caches.tokens, &names)
            .await?;
        for (index, ancestor) in ancestors.into_iter().enumerate() {
            let ancestor = ancestor.ok_or_else(record_missing)?;
            if cut_loose(&mut stored.value, index, &ancestor.value) {
                break;
            }
            self.check_alive(&ancestor.value)?;
            above.push(ancestor.unchanged());
        }
        Ok(Living {
            token: stored,
            above,
        })
    }

    fn check_alive(&self, token: &KeeperToken) -> Result<(), Failure> {
        if token.revoked.is_some() {
            return Err(Refused::TokenRevoked.into());
        }
        let now = self.inner.time.now();
        let Some(end) = token.expires_at.filter(|end| now >= *end) else {
            return Ok(());
        };
        if now.0 - end.0 <= TOLERANCE_SECONDS || self.inner.time.doubtful() {
            return Err(Later::new(
                LaterKind::ClockDoubtful,
                format!("by this server's clock the token expired {} seconds ago, which is within the tolerance for clocks or while the clock is in doubt; get a new token", now.0 - end.0),
            )
            .into());
        }
        Err(Refused::TokenExpired.into())
    }

    async fn spend_use(&self, mut stored: Stored<KeeperToken>) -> Result<KeeperToken, Failure> {
        loop {
            let before = stored.value.clone();
            let mut token = before.clone();
            token.num_uses -= 1;
            if token.num_uses == 0 {
                token.revoked = Some(Revoked {
                    at: self.inner.time.now(),
                    children_survive: false,
                });
            }
            let mut change = Change::new();
            change.guard(stored.unchanged()).put(
                stored.name.clone(),
                &token,
                kept_until(&token),
            )?;
            if token.revoked.is_some() {
                held::leave(&mut change, &token);
            }
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(before),
                Err(NotCommitted::Conflict) => stored = self.live(&before.id).await?,
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// A token for an operator on the host itself: 15 minutes, policy `operator`.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn operator_token(&self, who: &str) -> Result<Issued, Failure> {
        let (secret, token) = self.new_token(Some(OPERATOR_TTL), |token| {
            token.policies = vec![OPERATOR.to_owned()];
            token.display_name = format!("operator-{}", sanitised(who));
            token.path = "auth/operator/socket".to_owned();
            token.renewable = false;
        })?;
        let mut change = Change::new();
        put_new(&mut change, &token)?;
        events::record(
            &mut change,
            &Event {
                at: token.created_at,
                what: "operator_token".into(),
                subject: who.to_owned(),
                by: who.to_owned(),
                from: None,
                detail: format!("accessor {}", token.accessor),
            },
        )?;
        self.inner.db.commit(change).await?;
        Ok(Issued {
            secret,
            token: Arc::new(token),
            warnings: Vec::new(),
        })
    }

    /// The token of a login, put into `change` but not committed.
    pub(crate) fn login_token(
        &self,
        change: &mut Change,
        login: LoginToken,
    ) -> Result<Issued, Failure> {
        let limits = self.setup().lifetimes.clone();
        let terms = login.terms;
        let ttl = terms.life(&limits);
        let (secret, token) = self.new_token(Some(ttl), |token| {
            if terms.period.is_some() {
                token.period = ttl;
            }
            token.explicit_max_ttl = terms.max_ttl.unwrap_or(Seconds(0));
            token.bound_cidrs = terms.bound_cidrs.iter().map(Network::to_string).collect();
            token.policies = normalised(login.policies);
            token.meta = login.meta;
            token.display_name = login.display_name;
            token.path = login.path;
            token.entity = Some(login.entity);
            token.identity = Some(login.identity);
            token.renewable = login.renewable;
        })?;
        put_new(change, &token)?;
        Ok(Issued {
            secret,
            token: Arc::new(token),
            warnings: Vec::new(),
        })
    }

    /// A token that is not in the store yet.
    ///
    /// # Errors
    /// [`Failure::Later`] while most of the cluster call this node's clock wrong: the others would judge its life by theirs.
    pub(crate) fn new_token(
        &self,
        ttl: Option<Seconds>,
        fill: impl FnOnce(&mut KeeperToken),
    ) -> Result<(SecretString, KeeperToken), Failure> {
        if self.inner.time.outvoted() {
            return Err(Later::new(
                LaterKind::ClockDoubtful,
                "this node's clock is not that of most of the cluster, so no token is issued here; set the clock right, use another node, or say that this one is right with `gridkeep operator confirm-clock`",
            )
            .into());
        }
        let exact = self.inner.time.now_exact();
        let now = UnixSeconds(i64::try_from(exact.as_secs()).unwrap_or(i64::MAX));
        let (secret, proven) = self.inner.mint.issue(Purpose::Token, now);
        let mut token = KeeperToken {
            id: proven.token_id(),
            accessor: base62(24),
            policies: Vec::new(),
            meta: BTreeMap::new(),
            display_name: String::new(),
            path: String::new(),
            parent: None,
            ancestors: Vec::new(),
            orphan: true,
            created_at: now,
            created_nanos: exact.subsec_nanos(),
            creation_ttl: ttl.unwrap_or(Seconds(0)),
            expires_at: ttl.map(|ttl| later(now, ttl)),
            explicit_max_ttl: Seconds(0),
            period: Seconds(0),
            num_uses: 0,
            renewable: true,
            entity: None,
            last_renewal: None,
            identity: None,
            bound_cidrs: Vec::new(),
            limits: None,
            role: None,
            revoked: None,
        };
        fill(&mut token);
        Ok((secret, token))
    }

    /// The token behind `secret`, for somebody who may look it up.
    ///
    /// # Errors
    /// [`Refused::BadTokenForLookup`] when it is dead or not ours.
    pub async fn lookup(&self, secret: &SecretString) -> Result<Arc<KeeperToken>, Failure> {
        let id = self
            .parse_secret(secret)
            .ok_or(Refused::BadTokenForLookup)?;
        self.live(&id)
            .await
            .map(|stored| Arc::new(stored.value))
            .map_err(|failure| dead_to(failure, &Refused::BadTokenForLookup.into()))
    }

    /// The live token called `accessor`.
    ///
    /// # Errors
    /// [`BadInput::InvalidAccessor`] when there is none.
    pub async fn lookup_accessor(&self, accessor: &str) -> Result<Arc<KeeperToken>, Failure> {
        if accessor.is_empty() {
            return Err(BadInput::MissingAccessor.into());
        }
        let found = self
            .inner
            .db
            .get::<AccessorRecord>(&name(ACCESSOR, &[accessor]))
            .await?
            .ok_or(BadInput::InvalidAccessor)?;
        self.live(&found.value.token)
            .await
            .map(|stored| Arc::new(stored.value))
            .map_err(|failure| dead_to(failure, &BadInput::InvalidAccessor.into()))
    }

    /// Accessors of all tokens that live by themselves.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn list_accessors(&self) -> Result<Vec<String>, Failure> {
        let now = self.inner.time.now();
        let mut accessors = Vec::new();
        self.inner
            .db
            .each::<KeeperToken>(TOKEN, &[], |stored| {
                if stored.value.revoked.is_none()
                    && stored.value.expires_at.is_none_or(|end| end > now)
                {
                    accessors.push(stored.value.accessor);
                }
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        accessors.sort_unstable();
        Ok(accessors)
    }
}

/// Whether a token was cut loose from its ancestor of this index, which died alone. It then has none from there on; the next
/// write of the token keeps that, so that it does not hang on the tombstone.
fn cut_loose(token: &mut KeeperToken, index: usize, ancestor: &KeeperToken) -> bool {
    let survives = ancestor
        .revoked
        .as_ref()
        .is_some_and(|revoked| revoked.children_survive);
    if survives {
        token.ancestors.truncate(index);
        if index == 0 {
            token.parent = None;
            token.orphan = true;
        }
    }
    survives
}

pub(crate) fn put_new(change: &mut Change, token: &KeeperToken) -> Result<(), Failure> {
    let accessor = name(ACCESSOR, &[&token.accessor]);
    change
        .guard(Guard::Absent(token_name(&token.id)))
        .guard(Guard::Absent(accessor.clone()));
    change.put(token_name(&token.id), token, kept_until(token))?;
    change.put(
        accessor,
        &AccessorRecord { token: token.id },
        kept_until(token),
    )?;
    held::enter(change, token)
}

fn kept_until(token: &KeeperToken) -> Option<i64> {
    let end = match (&token.revoked, token.expires_at) {
        (Some(revoked), Some(end)) => Some(end.0.max(revoked.at.0)),
        (Some(revoked), None) => Some(revoked.at.0),
        (None, end) => end.map(|end| end.0),
    };
    end.map(|end| end.saturating_add(TOMBSTONE))
}

fn normalised(policies: Vec<String>) -> Vec<String> {
    let mut policies: Vec<String> = policies
        .into_iter()
        .map(|policy| policy.trim().to_lowercase())
        .filter(|policy| !policy.is_empty())
        .collect();
    policies.sort_unstable();
    policies.dedup();
    policies
}

pub(crate) fn later(from: UnixSeconds, by: Seconds) -> UnixSeconds {
    UnixSeconds(
        from.0
            .saturating_add(i64::try_from(by.0).unwrap_or(i64::MAX)),
    )
}

/// A text with everything but letters, digits, `.`, `_`, `@` and `-` replaced, as display names are.
pub(crate) fn sanitised(text: &str) -> String {
    text.chars()
        .take(128)
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-') {
                c
            } else {
                '-'
            }
        })
        .collect()
}

/// Proof of death becomes `instead`; trouble that may pass stays what it is.
fn dead_to(failure: Failure, instead: &Failure) -> Failure {
    match failure {
        Failure::Refused(_) | Failure::NotFound => instead.clone(),
        other => other,
    }
}

fn record_missing() -> Failure {
    Later::new(
        LaterKind::TokenRecordMissing,
        "the token was issued by this service, but its record is not in the store: the store may be behind or restored from an older copy; try again; if this goes on, remove the token (htdestroytoken) and log in again",
    )
    .into()
}
