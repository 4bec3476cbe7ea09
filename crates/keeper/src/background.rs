//! What the keeper does unasked: refreshing used grants ahead of need, keeping idle ones alive, sweeping what is long expired, and
//! taking up what an earlier run left unfinished. Revoking at issuers is in [`crate::revocation`].

use std::sync::PoisonError;
use std::time::Duration;

use gridkeep_store::Guard;

use crate::clock::TOLERANCE_SECONDS;
use crate::database::{Change, NotCommitted, name};
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::keeper::{Keeper, missing_record};
use crate::records::{
    CachedToken, DUE, GRANT, GrantRecord, GrantState, INTENT, Intent, KEEPER, KeeperRecord,
};
use crate::recurring::{Recurring, Tell};
use crate::refresh::due_name;

/// After which tokens that could not be indexed are tried again.
const INDEX_AGAIN: Duration = Duration::from_secs(300);
/// Expired records are deleted this long after their end, in seconds.
pub(crate) const SWEEP_GRACE: i64 = 7 * 86_400;
const SWEEP_LIMIT: usize = 5_000;
/// Grants refreshed side by side by the background.
const ABREAST: usize = 8;

impl Keeper {
    pub(crate) fn start_background(&self) {
        self.every(Duration::from_secs(15), |keeper| async move {
            keeper.refresh_ahead().await
        });
        self.every(Duration::from_secs(30), |keeper| async move {
            let work = keeper.revoke_unreferenced();
            keeper.alone("keeper/revocations", work).await.map(|_| ())
        });
        self.every(Duration::from_secs(60), |keeper| async move {
            keeper.note_time_and_sweep().await
        });
        self.every(Duration::from_secs(600), |keeper| async move {
            if keeper.inner.cluster.is_shared() {
                keeper.note_uses().await?;
            }
            let work = keeper.keep_alive();
            keeper.alone("keeper/keep-alive", work).await.map(|_| ())
        });
        self.every(crate::removed::PERIOD, |keeper| async move {
            keeper.forget_removed().await
        });
        self.start_census();
        self.take_up_resealing();
        let keeper = self.clone();
        self.own(async move {
            if let Err(failure) = keeper.index_names().await {
                tracing::warn!(%failure, "the names of credentials are indexed at the next start; until then lists look through all of an issuer's");
            }
        });
        let keeper = self.clone();
        self.own(async move {
            let mut stop = keeper.stopping();
            while let Err(failure) = keeper.index_tokens().await {
                tracing::warn!(%failure, "tokens could not be indexed, which is tried again; until then lists of one's own look through the first of all");
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(INDEX_AGAIN) => {}
                }
            }
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
            let troubles = Recurring::new(Duration::ZERO);
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(period) => {}
                }
                let Err(failure) = work(keeper.clone()).await else {
                    if let Some(over) = troubles.worked() {
                        tracing::info!(times = over.times, "background work that was put off is done again");
                    }
                    continue;
                };
                match troubles.failed(failure.later_kind()) {
                    Tell::Begun => tracing::warn!(%failure, "background work was put off; it is tried again by itself"),
                    Tell::Lasts(times) => {
                        tracing::warn!(times, %failure, "background work is still put off");
                    }
                    Tell::Known => tracing::debug!(%failure, "background work was put off"),
                }
            }
        });
    }

    /// Notes that a grant was used, and when it is worth refreshing it ahead.
    pub(crate) fn mark_used(&self, grant: &str, access: &CachedToken) {
        let uses = &self.inner.uses;
        uses.note(grant, ahead_of_need(access), self.now().0);
    }

    /// Refreshes used grants whose access token has less than a quarter of its life left.
    pub(crate) async fn refresh_ahead(&self) -> Result<(), Failure> {
        let now = self.now().0;
        let mut wanted = Vec::new();
        for grant in self.inner.uses.due(now) {
            if let Some(generation) = self.wants_refresh_ahead(&grant, now).await? {
                wanted.push((grant, Some(generation)));
            }
        }
        self.fly_all(wanted).await;
        Ok(())
    }

    /// The generation of a used grant that is still to be refreshed ahead: another node may have done so meanwhile.
    async fn wants_refresh_ahead(&self, id: &str, now: i64) -> Result<Option<u64>, Failure> {
        let grant = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[id]))
            .await?;
        let Some(grant) = grant else {
            self.inner.uses.take(id);
            return Ok(None);
        };
        let ahead = self
            .inner
            .sealer
            .open(&grant.value)
            .ok()
            .and_then(|(_, secrets)| secrets.access.as_ref().map(ahead_of_need));
        if let Some(ahead) = ahead.filter(|ahead| *ahead > now) {
            self.inner.uses.put_off(id, ahead);
            return Ok(None);
        }
        Ok(Some(grant.value.generation))
    }

    /// Notes the use of grants that other nodes refresh, so that they do not count as idle.
    async fn note_uses(&self) -> Result<(), Failure> {
        let now = self.now();
        let yesterday = now.0 - 86_400;
        for id in self.inner.uses.since(yesterday) {
            let grant = self
                .inner
                .db
                .get::<GrantRecord>(&name(GRANT, &[&id]))
                .await?;
            if let Some(grant) = grant.filter(|grant| grant.value.used_at.0 <= yesterday) {
                let mut record = grant.value.clone();
                record.used_at = now;
                let mut change = Change::new();
                change
                    .guard(grant.unchanged())
                    .put(grant.name.clone(), &record, None)?;
                match self.inner.db.commit(change).await {
                    Ok(()) | Err(NotCommitted::Conflict) => {}
                    Err(other) => return Err(other.into()),
                }
            }
            self.inner.uses.take(&id);
        }
        Ok(())
    }

    async fn fly_all(&self, grants: Vec<(String, Option<u64>)>) {
        for some in grants.chunks(ABREAST) {
            if *self.stopping().borrow() {
                return;
            }
            let flights: Vec<_> = some
                .iter()
                .map(|(grant, seen)| (grant, self.flight(grant, *seen)))
                .collect();
            for (grant, mut flight) in flights {
                let landed = flight.wait_for(Option::is_some).await;
                if let Ok(Some(Err(failure))) = landed.as_deref() {
                    tracing::info!(grant, %failure, "a refresh ahead of need brought nothing");
                    if !matches!(failure, Failure::Later(_)) {
                        self.inner.uses.take(grant);
                    }
                }
            }
        }
    }

    /// Refreshes idle grants before the issuer forgets them, up to the limit the operator set.
    pub(crate) async fn keep_alive(&self) -> Result<(), Failure> {
        let today = self.now().0 / 86_400;
        // What could not be refreshed on its day stands there until it could: so two weeks back, and once a day and after each
        // start as far back as a server can have been away and its grants still be worth a try.
        let mut back = 14;
        {
            let mut last = self
                .inner
                .kept_alive
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if last.replace(today) != Some(today) {
                back = 400;
            }
        }
        for day in today - back..=today {
            if *self.stopping().borrow() {
                return Ok(());
            }
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
                if let Some(generation) = self.wants_keep_alive(day, &grant).await? {
                    wanted.push((grant, Some(generation)));
                }
            }
            self.fly_all(wanted).await;
        }
        Ok(())
    }

    /// The generation of a grant that is to be kept alive today.
    async fn wants_keep_alive(&self, day: i64, id: &str) -> Result<Option<u64>, Failure> {
        let limit = self.setup().keep_alive.limit;
        let grant = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[id]))
            .await?;
        let reason = match &grant {
            Some(grant) if grant.value.due == Some(day) => {
                let idle = self.now().0 - grant.value.used_at.0;
                let live = grant.value.state == GrantState::Live;
                // A clock in doubt is no proof of idleness.
                if live
                    && (idle < i64::try_from(limit.0).unwrap_or(i64::MAX) || self.clock_doubtful())
                {
                    return Ok(Some(grant.value.generation));
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
        if let Some(grant) = grant.filter(|_| !reason.is_empty()) {
            // Whoever counts grants is to see that nobody waits for this one's refresh any more.
            let mut record = grant.value.clone();
            record.due = None;
            change
                .guard(grant.unchanged())
                .put(grant.name.clone(), &record, None)?;
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
        match self.inner.db.commit(change).await {
            // Somebody used or refreshed it meanwhile: it is looked at again.
            Ok(()) | Err(NotCommitted::Conflict) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// Persists the latest time seen, forgets nodes that have been gone for a week, and deletes what has been expired for a week. Nothing while the clock is in doubt.
    pub(crate) async fn note_time_and_sweep(&self) -> Result<(), Failure> {
        // In this order: a jump between the two is seen by the second.
        let now = self.now();
        if self.clock_doubtful() {
            return Ok(());
        }
        self.count_expired_logins().await?;
        let key = name(KEEPER, &[]);
        let stored = self
            .inner
            .db
            .get::<KeeperRecord>(&key)
            .await?
            .ok_or_else(missing_record)?;
        // A mark ahead of a clock that is trusted was set by one that was wrong.
        let ahead = stored.value.high_water > now.0 + TOLERANCE_SECONDS;
        if stored.value.high_water < now.0 || ahead {
            let mut record = stored.value.clone();
            record.high_water = now.0;
            let mut change = Change::new();
            change.guard(stored.unchanged()).put(key, &record, None)?;
            match self.inner.db.commit(change).await {
                Ok(()) | Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
        self.forget_gone_nodes(now).await?;
        let swept = self
            .inner
            .db
            .store
            .sweep(now.0, SWEEP_GRACE, SWEEP_LIMIT)
            .await
            .map_err(|error| self.inner.db.not_written(&error))?;
        tracing::debug!(?swept, "swept");
        Ok(())
    }

    /// Sends answers that an earlier run could not store on their way to where they belong. Each is a flight of its grant: until
    /// it has landed, nobody sends the refresh token from before it, and nobody else waits for it.
    pub(crate) fn take_up_spool(&self) -> Result<(), Failure> {
        for (path, received) in self.inner.spool.left_over()? {
            self.land_spooled(path, received);
        }
        Ok(())
    }

    /// Tries once each grant whose refresh an earlier run of this node began and did not end.
    async fn take_up_intents(&self) -> Result<(), Failure> {
        let mut grants = Vec::new();
        let boot = self.inner.time.boot();
        self.inner
            .db
            .each::<Intent>(INTENT, &[], |stored| {
                let ours =
                    self.is_ours(&stored.value) && stored.value.process != self.inner.process;
                if !ours {
                    // From now on it is known how long it stands.
                    self.inner.intents.seen_for(&stored.value, boot);
                }
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
        self.fly_all(grants.iter().map(|grant| (grant.clone(), None)).collect())
            .await;
        for grant in grants {
            self.forget_intent_of_nothing(&grant).await?;
        }
        Ok(())
    }

    /// Removes an intent whose grant is gone.
    async fn forget_intent_of_nothing(&self, grant: &str) -> Result<(), Failure> {
        let key = name(GRANT, &[grant]);
        if self.inner.db.get::<GrantRecord>(&key).await?.is_none() {
            let mut change = Change::new();
            change
                .guard(Guard::Absent(key))
                .delete(name(INTENT, &[grant]));
            match self.inner.db.commit(change).await {
                Ok(()) | Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }
}

/// When a token is to be replaced ahead of need. One without an end never is, but it counts as use.
fn ahead_of_need(access: &CachedToken) -> i64 {
    access
        .expires_at
        .map_or(i64::MAX, |end| end - (end - access.issued_at) / 4)
}
