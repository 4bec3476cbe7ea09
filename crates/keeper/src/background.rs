//! What the keeper does unasked: refreshing used grants ahead of need, keeping idle ones alive, revoking at issuers what nobody
//! refers to, sweeping what is long expired, and taking up what an earlier run left unfinished.

use std::sync::PoisonError;
use std::time::Duration;

use gridkeep_issuer::{IssuerError, TokenHint};
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::SecretString;

use crate::database::{Change, NotCommitted, name};
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::keeper::{Keeper, missing_record};
use crate::records::{
    CachedToken, DUE, GRANT, GrantRecord, INTENT, Intent, KEEPER, KeeperRecord, REVOCATION,
    RevocationRecord,
};
use crate::refresh::due_name;

/// Expired records are deleted this long after their end, in seconds.
const SWEEP_GRACE: i64 = 7 * 86_400;
const SWEEP_LIMIT: usize = 5_000;
/// Grants refreshed side by side by the background.
const ABREAST: usize = 8;
/// Grants remembered as used; beyond that they are refreshed when asked for.
const USED_LIMIT: usize = 200_000;
/// Revocation at an issuer is tried this often before it is given up.
const REVOCATION_ATTEMPTS: u32 = 50;
/// A grant without references is left alone this long, in seconds: its handle may still be redeemed.
pub(crate) const UNREFERENCED_GRACE: i64 = 20 * 60;

impl Keeper {
    pub(crate) fn start_background(&self) {
        self.every(Duration::from_secs(15), |keeper| async move {
            keeper.refresh_ahead().await
        });
        self.every(Duration::from_secs(30), |keeper| async move {
            keeper.revoke_unreferenced().await
        });
        self.every(Duration::from_secs(60), |keeper| async move {
            keeper.note_time_and_sweep().await
        });
        self.every(Duration::from_secs(600), |keeper| async move {
            keeper.keep_alive().await
        });
        let keeper = self.clone();
        self.own(async move {
            if let Err(failure) = keeper.take_up_intents().await {
                tracing::warn!(%failure, "refreshes that an earlier run left unfinished are taken up when their credentials are next asked for");
            }
        });
    }

    fn every<F: Future<Output = Result<(), Failure>> + Send + 'static>(
        &self,
        period: Duration,
        work: impl Fn(Keeper) -> F + Send + 'static,
    ) {
        let (keeper, mut stop) = (self.clone(), self.stopping());
        self.own(async move {
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(period) => {}
                }
                if let Err(failure) = work(keeper.clone()).await {
                    tracing::warn!(%failure, "background work was put off");
                }
            }
        });
    }

    /// Notes that a grant was used, and when it is worth refreshing it ahead.
    pub(crate) fn mark_used(&self, grant: &str, access: &CachedToken) {
        let Some(end) = access.expires_at else {
            return;
        };
        let ahead = end - (end - access.issued_at) / 4;
        let mut used = self
            .inner
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = used.get_mut(grant) {
            *known = ahead;
        } else if used.len() < USED_LIMIT {
            used.insert(grant.to_owned(), ahead);
        }
    }

    /// Whether the grant was used since this was last asked.
    pub(crate) fn take_used(&self, grant: &str) -> bool {
        self.inner
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(grant)
            .is_some()
    }

    /// Refreshes used grants whose access token has less than a quarter of its life left.
    pub(crate) async fn refresh_ahead(&self) -> Result<(), Failure> {
        let now = self.now().0;
        let due: Vec<String> = {
            let used = self
                .inner
                .used
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            used.iter()
                .filter(|(_, ahead)| **ahead <= now)
                .map(|(grant, _)| grant.clone())
                .collect()
        };
        self.fly_all(due).await;
        Ok(())
    }

    async fn fly_all(&self, grants: Vec<String>) {
        for some in grants.chunks(ABREAST) {
            if *self.stopping().borrow() {
                return;
            }
            let flights: Vec<_> = some
                .iter()
                .map(|grant| (grant, self.flight(grant)))
                .collect();
            for (grant, mut flight) in flights {
                let landed = flight.wait_for(Option::is_some).await;
                if let Ok(Some(Err(failure))) = landed.as_deref() {
                    tracing::info!(grant, %failure, "a refresh ahead of need brought nothing");
                    if !matches!(failure, Failure::Later(_)) {
                        self.take_used(grant);
                    }
                }
            }
        }
    }

    /// Refreshes idle grants before the issuer forgets them, up to the limit the operator set.
    pub(crate) async fn keep_alive(&self) -> Result<(), Failure> {
        let today = self.now().0 / 86_400;
        // Two weeks back: what could not be refreshed on its day stands there until it could.
        for day in today - 14..=today {
            let mut grants = Vec::new();
            self.inner
                .db
                .each::<serde_json::Value>(DUE, &[day.to_string().as_bytes()], |stored| {
                    if let Some(grant) = stored
                        .name
                        .parts()
                        .get(1)
                        .and_then(|part| std::str::from_utf8(part).ok())
                    {
                        grants.push(grant.to_owned());
                    }
                    std::ops::ControlFlow::Continue(())
                })
                .await?;
            let mut wanted = Vec::new();
            for grant in grants {
                if self.wants_keep_alive(day, &grant).await? {
                    wanted.push(grant);
                }
            }
            self.fly_all(wanted).await;
        }
        Ok(())
    }

    async fn wants_keep_alive(&self, day: i64, id: &str) -> Result<bool, Failure> {
        let limit = self.setup().keep_alive.limit;
        let grant = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[id]))
            .await?;
        let reason = match &grant {
            Some(grant) if grant.value.due == Some(day) => {
                let idle = self.now().0 - grant.value.used_at.0;
                if grant.value.state == crate::records::GrantState::Live
                    && idle < i64::try_from(limit.0).unwrap_or(i64::MAX)
                {
                    return Ok(true);
                }
                format!(
                    "not kept alive any longer: unused for {} days or refused by the issuer",
                    idle / 86_400
                )
            }
            _ => String::new(),
        };
        let mut change = Change::new();
        change.delete(due_name(day, id));
        if !reason.is_empty() {
            events::record(
                &mut change,
                &Event {
                    at: self.now(),
                    what: "idle".into(),
                    subject: format!("grant {id}"),
                    by: self.inner.options.node.clone(),
                    from: None,
                    detail: reason,
                },
            )?;
        }
        self.inner.db.commit(change).await?;
        Ok(false)
    }

    /// Persists the latest time seen, and deletes what has been expired for a week. Nothing while the clock is in doubt.
    pub(crate) async fn note_time_and_sweep(&self) -> Result<(), Failure> {
        if self.clock_doubtful() {
            return Ok(());
        }
        let now = self.now();
        let key = name(KEEPER, &[]);
        let stored = self
            .inner
            .db
            .get::<KeeperRecord>(&key)
            .await?
            .ok_or_else(missing_record)?;
        if stored.value.high_water < now.0 {
            let mut record = stored.value.clone();
            record.high_water = now.0;
            let mut change = Change::new();
            change.guard(stored.unchanged()).put(key, &record, None)?;
            match self.inner.db.commit(change).await {
                Ok(()) | Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
        let swept = self
            .inner
            .db
            .store
            .sweep(now.0, SWEEP_GRACE, SWEEP_LIMIT)
            .await
            .map_err(|error| crate::database::failure(&error))?;
        tracing::debug!(?swept, "swept");
        Ok(())
    }

    /// Revokes, at their issuers, grants that no credential refers to any more, and forgets them.
    pub(crate) async fn revoke_unreferenced(&self) -> Result<(), Failure> {
        let mut queue = Vec::new();
        self.inner
            .db
            .each::<RevocationRecord>(REVOCATION, &[], |stored| {
                queue.push(stored);
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        for entry in queue {
            if entry.value.since > self.now() || *self.stopping().borrow() {
                continue;
            }
            let Some(id) = entry
                .name
                .parts()
                .first()
                .and_then(|part| std::str::from_utf8(part).ok().map(str::to_owned))
            else {
                continue;
            };
            let grant = self
                .inner
                .db
                .get::<GrantRecord>(&name(GRANT, &[&id]))
                .await?;
            let mut change = Change::new();
            change.guard(entry.unchanged());
            match grant {
                Some(grant) if grant.value.references.is_empty() => {
                    let outcome = self.revoke_at_issuer(&grant.value).await;
                    let again = matches!(
                        &outcome,
                        Err(IssuerError::Temporary { .. } | IssuerError::Throttled { .. })
                    );
                    if again && entry.value.attempts < REVOCATION_ATTEMPTS {
                        let wait = Seconds(30 << entry.value.attempts.min(10));
                        change.put(
                            entry.name.clone(),
                            &RevocationRecord {
                                since: crate::tokens::later(self.now(), wait),
                                attempts: entry.value.attempts + 1,
                            },
                            None,
                        )?;
                    } else {
                        change
                            .guard(grant.unchanged())
                            .delete(entry.name.clone())
                            .delete(grant.name.clone())
                            .delete(name(INTENT, &[&id]));
                        if let Some(day) = grant.value.due {
                            change.delete(due_name(day, &id));
                        }
                        let detail = match outcome {
                            Ok(()) => "revoked at the issuer".to_owned(),
                            Err(error) => format!("not revoked at the issuer: {error}"),
                        };
                        events::record(
                            &mut change,
                            &Event {
                                at: self.now(),
                                what: "revoked_at_issuer".into(),
                                subject: format!("grant {id}"),
                                by: self.inner.options.node.clone(),
                                from: None,
                                detail,
                            },
                        )?;
                    }
                }
                _ => {
                    change.delete(entry.name.clone());
                }
            }
            match self.inner.db.commit(change).await {
                Ok(()) | Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    async fn revoke_at_issuer(&self, grant: &GrantRecord) -> Result<(), IssuerError> {
        let gone = |what: &str| IssuerError::Unsupported {
            what: what.to_owned(),
        };
        let issuer = self
            .issuer_of(grant)
            .map_err(|_| gone("the issuer is not configured any more"))?;
        let (_, secrets) = self
            .inner
            .sealer
            .open(grant)
            .map_err(|_| gone("the login's record is damaged"))?;
        for token in secrets.refresh_token.iter().chain(&secrets.alternates) {
            issuer
                .client
                .revoke(&SecretString::from(token.clone()), TokenHint::RefreshToken)
                .await?;
        }
        Ok(())
    }

    /// Puts answers that an earlier run could not store where they belong.
    pub(crate) async fn take_up_spool(&self) -> Result<(), Failure> {
        for (path, received) in self.inner.spool.left_over()? {
            let grant = received.grant.clone();
            match self.land(received).await {
                Ok(_) => tracing::info!(
                    grant,
                    "a refresh token that an earlier run could only spool is stored now"
                ),
                Err(Failure::NotFound) => tracing::warn!(
                    grant,
                    "a spooled refresh token belongs to a login that was deleted; it is dropped"
                ),
                Err(failure) => return Err(failure),
            }
            self.inner.spool.forget(&path);
        }
        Ok(())
    }

    /// Tries once each grant whose refresh an earlier run of this node began and did not end.
    async fn take_up_intents(&self) -> Result<(), Failure> {
        let mut grants = Vec::new();
        self.inner
            .db
            .each::<Intent>(INTENT, &[], |stored| {
                let ours = stored.value.node == self.inner.options.node
                    && stored.value.process != self.inner.process;
                if let Some(grant) = stored
                    .name
                    .parts()
                    .first()
                    .and_then(|part| std::str::from_utf8(part).ok())
                    .filter(|_| ours)
                {
                    grants.push(grant.to_owned());
                }
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        if !grants.is_empty() {
            tracing::warn!(
                count = grants.len(),
                "refreshes were under way when this server last stopped: each is tried once"
            );
        }
        self.fly_all(grants).await;
        Ok(())
    }
}

/// When a grant without references may be revoked.
pub(crate) fn unreferenced_since(now: UnixSeconds) -> RevocationRecord {
    RevocationRecord {
        since: UnixSeconds(now.0 + UNREFERENCED_GRACE),
        attempts: 0,
    }
}
