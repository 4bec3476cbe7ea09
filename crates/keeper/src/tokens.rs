//! Keeper tokens: making, proving, looking up, renewing, revoking.
//!
//! A token's link to its parent is bound: it dies with it. Revoking a tree is one write, because liveness reads the ancestors
//! whose ids every token carries.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use gridkeep_store::{Guard, Name};
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::{ExposeSecret, SecretString};

use crate::clock::TOLERANCE;
use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::policy::{DEFAULT, OPERATOR, ROOT};
use crate::records::{ACCESSOR, AccessorRecord, Identity, KeeperToken, Revoked, TOKEN, TOMBSTONE};
use crate::secret::{Purpose, TokenId, base62};

const MAX_ANCESTORS: usize = 32;
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

/// What a caller asks of a new token.
#[derive(Debug, Clone)]
pub struct CreateToken {
    /// A client-chosen id; refused.
    pub id: Option<String>,
    /// Policies; `None` = the parent's.
    pub policies: Option<Vec<String>>,
    /// Free facts.
    pub meta: BTreeMap<String, String>,
    /// Make it an orphan; needs sudo.
    pub no_parent: bool,
    /// The request came by the path whose permission is permission to make orphans.
    pub orphan_path: bool,
    /// Do not add the policy `default`.
    pub no_default_policy: bool,
    /// Whether it may be renewed.
    pub renewable: bool,
    /// Wanted life.
    pub ttl: Option<Seconds>,
    /// Hard end.
    pub explicit_max_ttl: Seconds,
    /// Period; needs sudo.
    pub period: Seconds,
    /// Number of uses; 0 = no limit.
    pub num_uses: i64,
    /// A name for people.
    pub display_name: Option<String>,
    /// `service`, or nothing.
    pub token_type: Option<String>,
}

impl Default for CreateToken {
    fn default() -> Self {
        CreateToken {
            id: None,
            policies: None,
            meta: BTreeMap::new(),
            no_parent: false,
            orphan_path: false,
            no_default_policy: false,
            renewable: true,
            ttl: None,
            explicit_max_ttl: Seconds(0),
            period: Seconds(0),
            num_uses: 0,
            display_name: None,
            token_type: None,
        }
    }
}

/// What a login gives its token.
pub(crate) struct LoginToken {
    pub policies: Vec<String>,
    pub meta: BTreeMap<String, String>,
    pub display_name: String,
    pub path: String,
    pub identity: Identity,
    pub entity: String,
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

    /// The record of a token that is alive, together with all its ancestors.
    pub(crate) async fn live(&self, id: &TokenId) -> Result<Stored<KeeperToken>, Failure> {
        let stored = self
            .inner
            .db
            .get::<KeeperToken>(&token_name(id))
            .await?
            .ok_or_else(record_missing)?;
        self.check_alive(&stored.value)?;
        for ancestor in &stored.value.ancestors {
            let ancestor = self
                .inner
                .db
                .get::<KeeperToken>(&token_name(ancestor))
                .await?
                .ok_or_else(record_missing)?;
            if ancestor
                .value
                .revoked
                .as_ref()
                .is_some_and(|revoked| revoked.children_survive)
            {
                break;
            }
            self.check_alive(&ancestor.value)?;
        }
        Ok(stored)
    }

    fn check_alive(&self, token: &KeeperToken) -> Result<(), Failure> {
        if token.revoked.is_some() {
            return Err(Refused::TokenRevoked.into());
        }
        let now = self.inner.time.now();
        let Some(end) = token.expires_at.filter(|end| now >= *end) else {
            return Ok(());
        };
        let tolerance = i64::try_from(TOLERANCE.as_secs()).unwrap_or(60);
        if now.0 - end.0 <= tolerance || self.inner.time.doubtful() {
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
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(before),
                Err(NotCommitted::Conflict) => stored = self.live(&before.id).await?,
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Makes a child of `by`, or an orphan. `sudo` tells whether the caller has that capability on the path it used.
    ///
    /// # Errors
    /// [`BadInput`] for each rule of the original that the request breaks.
    pub async fn create_token(
        &self,
        by: &Bearer,
        request: CreateToken,
        sudo: bool,
    ) -> Result<Issued, Failure> {
        let parent = &by.token;
        let root = parent.policies.iter().any(|policy| policy == ROOT);
        let sudo = sudo || root;
        if request.id.is_some() {
            return Err(if sudo {
                BadInput::IdUnsupported
            } else {
                BadInput::IdNeedsSudo
            }
            .into());
        }
        if parent.num_uses > 0 {
            return Err(BadInput::RestrictedUse.into());
        }
        if let Some(kind) = request
            .token_type
            .as_deref()
            .filter(|kind| !matches!(*kind, "" | "service" | "default"))
        {
            return Err(BadInput::UnsupportedTokenType {
                kind: kind.to_owned(),
            }
            .into());
        }
        let num_uses = u64::try_from(request.num_uses).map_err(|_| BadInput::NegativeUses)?;
        if request.no_parent && !sudo && !request.orphan_path {
            return Err(BadInput::OrphanNeedsSudo.into());
        }
        if request.period.0 > 0 && !sudo {
            return Err(BadInput::PeriodNeedsSudo.into());
        }
        let orphan = request.no_parent || request.orphan_path;
        if !orphan && parent.ancestors.len() >= MAX_ANCESTORS {
            return Err(BadInput::TooDeep {
                limit: MAX_ANCESTORS,
            }
            .into());
        }
        let mut warnings = Vec::new();
        let policies = child_policies(parent, &request, sudo, root)?;
        for policy in &policies {
            if policy != ROOT && self.inner.policies.get(policy).is_none() {
                warnings.push(format!("Policy \"{policy}\" does not exist"));
            }
        }
        let ttl = self.ttl_for(
            &request,
            policies.iter().any(|policy| policy == ROOT),
            &mut warnings,
        );
        let ancestors = if orphan {
            Vec::new()
        } else {
            std::iter::once(parent.id)
                .chain(parent.ancestors.iter().copied())
                .collect()
        };
        let display_name = match request
            .display_name
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            Some(text) => format!("token-{}", sanitised(text)),
            None => "token".to_owned(),
        };
        let (secret, token) = self.new_token(ttl, |token| {
            token.policies = policies;
            token.meta = request.meta;
            token.display_name = display_name;
            token.path = if request.orphan_path {
                "auth/token/create-orphan"
            } else {
                "auth/token/create"
            }
            .to_owned();
            token.parent = (!orphan).then_some(parent.id);
            token.ancestors = ancestors;
            token.orphan = orphan;
            token.explicit_max_ttl = request.explicit_max_ttl;
            token.period = request.period;
            token.num_uses = num_uses;
            token.renewable = request.renewable;
            token.entity.clone_from(&parent.entity);
            token.identity.clone_from(&parent.identity);
            token.bound_cidrs.clone_from(&parent.bound_cidrs);
        });
        let mut change = Change::new();
        put_new(&mut change, &token)?;
        self.inner.db.commit(change).await?;
        Ok(Issued {
            secret,
            token: Arc::new(token),
            warnings,
        })
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
        });
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
        let ttl = self.setup().lifetimes.default_ttl;
        let (secret, token) = self.new_token(Some(ttl), |token| {
            token.policies = normalised(login.policies);
            token.meta = login.meta;
            token.display_name = login.display_name;
            token.path = login.path;
            token.entity = Some(login.entity);
            token.identity = Some(login.identity);
        });
        put_new(change, &token)?;
        Ok(Issued {
            secret,
            token: Arc::new(token),
            warnings: Vec::new(),
        })
    }

    fn new_token(
        &self,
        ttl: Option<Seconds>,
        fill: impl FnOnce(&mut KeeperToken),
    ) -> (SecretString, KeeperToken) {
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
            revoked: None,
        };
        fill(&mut token);
        (secret, token)
    }

    /// The life a new token gets; `None` for a root token nobody asked an end for.
    fn ttl_for(
        &self,
        request: &CreateToken,
        root: bool,
        warnings: &mut Vec<String>,
    ) -> Option<Seconds> {
        if root && request.ttl.is_none() && request.period.0 == 0 && request.explicit_max_ttl.0 == 0
        {
            return None;
        }
        let lifetimes = self.setup().lifetimes.clone();
        let limit = limit(&lifetimes, request.explicit_max_ttl);
        let wanted = if request.period.0 > 0 {
            request.period
        } else {
            request
                .ttl
                .filter(|ttl| ttl.0 > 0)
                .unwrap_or(lifetimes.default_ttl)
        };
        Some(capped(
            wanted,
            limit,
            request.ttl.is_some() || request.period.0 > 0,
            warnings,
        ))
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

    /// Gives a renewable token more life.
    ///
    /// # Errors
    /// [`BadInput::NotRenewable`], [`BadInput::PastMaxTtl`], [`BadInput::TokenNotFound`].
    pub async fn renew(
        &self,
        id: &TokenId,
        increment: Option<Seconds>,
    ) -> Result<Renewed, Failure> {
        loop {
            let stored = self
                .live(id)
                .await
                .map_err(|failure| dead_to(failure, &BadInput::TokenNotFound.into()))?;
            let mut token = stored.value.clone();
            let mut warnings = Vec::new();
            let now = self.inner.time.now();
            if !token.renewable || token.expires_at.is_none() {
                return Err(BadInput::NotRenewable.into());
            }
            let lifetimes = self.setup().lifetimes.clone();
            let (wanted, end) = if token.period.0 > 0 {
                let hard = (token.explicit_max_ttl.0 > 0)
                    .then(|| later(token.created_at, token.explicit_max_ttl));
                (Seconds(token.period.0.min(lifetimes.max_ttl.0)), hard)
            } else {
                let wanted = increment
                    .filter(|wanted| wanted.0 > 0)
                    .unwrap_or(lifetimes.default_ttl);
                (
                    wanted,
                    Some(later(
                        token.created_at,
                        limit(&lifetimes, token.explicit_max_ttl),
                    )),
                )
            };
            let left = end.map(|end| end.0 - now.0);
            if left.is_some_and(|left| left <= 0) {
                return Err(BadInput::PastMaxTtl.into());
            }
            let ttl = match left {
                Some(left) => capped(
                    wanted,
                    Seconds(left.unsigned_abs()),
                    increment.is_some(),
                    &mut warnings,
                ),
                None => wanted,
            };
            token.expires_at = Some(later(now, ttl));
            token.last_renewal = Some(now);
            let mut change = Change::new();
            change.guard(stored.unchanged()).put(
                stored.name.clone(),
                &token,
                kept_until(&token),
            )?;
            change.put(
                name(ACCESSOR, &[&token.accessor]),
                &AccessorRecord { token: token.id },
                kept_until(&token),
            )?;
            match self.inner.db.commit(change).await {
                Ok(()) => {
                    return Ok(Renewed {
                        token: Arc::new(token),
                        ttl,
                        warnings,
                    });
                }
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Revokes a token and with it all its descendants. One that is dead already stays so.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn revoke(&self, id: &TokenId) -> Result<(), Failure> {
        self.kill(id, false).await.map(|_| ())
    }

    /// Revokes a token alone: its children live on as orphans.
    ///
    /// # Errors
    /// [`BadInput::RevokeTargetNotFound`] when there is no such living token.
    pub async fn revoke_orphan(&self, id: &TokenId) -> Result<(), Failure> {
        if self.kill(id, true).await? {
            Ok(())
        } else {
            Err(BadInput::RevokeTargetNotFound.into())
        }
    }

    async fn kill(&self, id: &TokenId, children_survive: bool) -> Result<bool, Failure> {
        loop {
            let Some(stored) = self.inner.db.get::<KeeperToken>(&token_name(id)).await? else {
                return Ok(false);
            };
            if stored.value.revoked.is_some() {
                return Ok(false);
            }
            let now = self.inner.time.now();
            let mut token = stored.value.clone();
            token.revoked = Some(Revoked {
                at: now,
                children_survive,
            });
            let mut change = Change::new();
            change.guard(stored.unchanged()).put(
                stored.name.clone(),
                &token,
                kept_until(&token),
            )?;
            events::record(
                &mut change,
                &Event {
                    at: now,
                    what: "revoked".into(),
                    subject: format!("token {}", token.accessor),
                    by: token.display_name.clone(),
                    from: None,
                    detail: String::new(),
                },
            )?;
            match self.inner.db.commit_critical(change).await {
                Ok(()) => return Ok(true),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }
}

fn put_new(change: &mut Change, token: &KeeperToken) -> Result<(), Failure> {
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
    Ok(())
}

fn kept_until(token: &KeeperToken) -> Option<i64> {
    let end = match (&token.revoked, token.expires_at) {
        (Some(revoked), Some(end)) => Some(end.0.max(revoked.at.0)),
        (Some(revoked), None) => Some(revoked.at.0),
        (None, end) => end.map(|end| end.0),
    };
    end.map(|end| end.saturating_add(TOMBSTONE))
}

fn child_policies(
    parent: &KeeperToken,
    request: &CreateToken,
    sudo: bool,
    root: bool,
) -> Result<Vec<String>, BadInput> {
    let parent_default = parent.policies.iter().any(|policy| policy == DEFAULT);
    let mut policies = match request
        .policies
        .clone()
        .map(normalised)
        .filter(|policies| !policies.is_empty())
    {
        None => {
            let mut copied = parent.policies.clone();
            if request.no_default_policy {
                copied.retain(|policy| policy != DEFAULT);
            }
            copied
        }
        Some(given) => {
            if given.iter().any(|policy| policy == ROOT) && !root {
                return Err(BadInput::RootNeedsRoot);
            }
            if !sudo && !given.iter().all(|policy| parent.policies.contains(policy)) {
                return Err(BadInput::PoliciesNotSubset);
            }
            let mut given = given;
            let add_default = !request.no_default_policy
                && (sudo || parent_default)
                && !given.iter().any(|policy| policy == ROOT);
            if add_default {
                given.push(DEFAULT.to_owned());
            }
            given
        }
    };
    policies.sort_unstable();
    policies.dedup();
    Ok(policies)
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

fn limit(lifetimes: &crate::setup::Lifetimes, explicit: Seconds) -> Seconds {
    if explicit.0 > 0 {
        Seconds(explicit.0.min(lifetimes.max_ttl.0))
    } else {
        lifetimes.max_ttl
    }
}

fn capped(wanted: Seconds, limit: Seconds, warn: bool, warnings: &mut Vec<String>) -> Seconds {
    if wanted <= limit {
        return wanted;
    }
    if warn {
        warnings.push(format!(
            "TTL of \"{}\" exceeded the effective max_ttl of \"{}\"; TTL value is capped accordingly",
            go_duration(wanted),
            go_duration(limit)
        ));
    }
    limit
}

/// A duration as the original writes it: `672h0m0s`.
fn go_duration(seconds: Seconds) -> String {
    let (hours, minutes, rest) = (seconds.0 / 3600, seconds.0 / 60 % 60, seconds.0 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
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
        "the token was issued by this service, but its record is not in the store: the store may be behind or restored from an older copy; try again, and get a new token if this goes on",
    )
    .into()
}

/// Whether `from` lies in one of `cidrs`; an empty list allows all.
fn allowed_address(cidrs: &[String], from: Option<IpAddr>) -> bool {
    if cidrs.is_empty() {
        return true;
    }
    let Some(from) = from.map(|address| address.to_canonical()) else {
        return false;
    };
    cidrs.iter().any(|cidr| contains(cidr, from))
}

fn contains(cidr: &str, address: IpAddr) -> bool {
    let (net, bits) = match cidr.split_once('/') {
        Some((net, bits)) => (net, bits.parse::<u32>().ok()),
        None => (cidr, None),
    };
    match (net.parse::<IpAddr>(), address) {
        (Ok(IpAddr::V4(net)), IpAddr::V4(address)) => {
            let bits = bits.unwrap_or(32).min(32);
            let mask = if bits == 0 {
                0
            } else {
                u32::MAX << (32 - bits)
            };
            u32::from(net) & mask == u32::from(address) & mask
        }
        (Ok(IpAddr::V6(net)), IpAddr::V6(address)) => {
            let bits = bits.unwrap_or(128).min(128);
            let mask = if bits == 0 {
                0
            } else {
                u128::MAX << (128 - bits)
            };
            u128::from(net) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}
