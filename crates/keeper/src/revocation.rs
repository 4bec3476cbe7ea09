//! Grants that nobody names any more: revoked at their issuers, then forgotten.
//!
//! In two steps. First the grant is marked dead, so that no refresh and no handle picks it up; then the issuer is told, as often
//! as it takes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gridkeep_issuer::{IssuerError, Sent, TokenHint};
use gridkeep_store::Guard;
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::SecretString;

use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::Failure;
use crate::keeper::Keeper;
use crate::records::{
    GRANT, GrantRecord, GrantState, INTENT, Intent, REVOCATION, RevocationRecord,
};
use crate::tokens::later;

/// Revocation at an issuer is tried this often before it is given up.
const ATTEMPTS: u32 = 50;
/// A grant that never had a name is left alone this long, in seconds: its handle may still be redeemed.
const UNREFERENCED_GRACE: i64 = 20 * 60;

impl Keeper {
    /// The place in the queue of a grant that has no name yet. With `forget` its issuer is not told.
    pub(crate) fn unreferenced(&self, forget: bool) -> RevocationRecord {
        RevocationRecord {
            since: UnixSeconds(self.now().0 + UNREFERENCED_GRACE),
            attempts: 0,
            forget,
        }
    }

    /// Works off the queue, or has the one who is at it look through it once more.
    pub(crate) async fn revoke_unreferenced(&self) -> Result<(), Failure> {
        let again = &self.inner.revoke_again;
        again.store(true, Ordering::SeqCst);
        while again.load(Ordering::SeqCst) {
            let Ok(_alone) = self.inner.revoking.try_lock() else {
                return Ok(());
            };
            again.store(false, Ordering::SeqCst);
            self.work_off_revocations().await?;
        }
        Ok(())
    }

    /// Revokes, at their issuers, grants that no credential refers to any more, and forgets them. Nothing while the clock is in
    /// doubt.
    async fn work_off_revocations(&self) -> Result<(), Failure> {
        let now = self.now();
        if self.clock_doubtful() {
            return Ok(());
        }
        let mut queue = Vec::new();
        self.inner
            .db
            .each::<RevocationRecord>(REVOCATION, &[], |stored| {
                if stored.value.since <= now {
                    queue.push(stored);
                }
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        for entry in queue {
            if *self.stopping().borrow() {
                return Ok(());
            }
            match self.release(entry).await {
                Ok(()) | Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    /// One entry of the queue.
    async fn release(&self, entry: Stored<RevocationRecord>) -> Result<(), NotCommitted> {
        let Some(id) = entry.name.text(0).map(str::to_owned) else {
            return Ok(());
        };
        let grant: Option<Stored<GrantRecord>> = self
            .inner
            .db
            .get(&name(GRANT, &[&id]))
            .await
            .map_err(NotCommitted::Failure)?;
        let mut change = Change::new();
        change.guard(entry.unchanged());
        let Some(grant) = grant.filter(|grant| grant.value.references.is_empty()) else {
            change.delete(entry.name.clone());
            return self.inner.db.commit_critical(change).await;
        };
        if entry.value.forget {
            change.guard(grant.unchanged()).delete(entry.name.clone());
            self.forget_grant(&mut change, &grant.value)
                .await
                .map_err(NotCommitted::Failure)?;
            return self.inner.db.commit_critical(change).await;
        }
        let Some(grant) = self.withdraw(grant).await? else {
            return Ok(());
        };
        let outcome = self.revoke_at_issuer(&grant.value).await;
        let again = matches!(
            &outcome,
            Err(IssuerError::Temporary { .. } | IssuerError::Throttled { .. })
        );
        if again && entry.value.attempts < ATTEMPTS {
            let wait = Seconds(30 << entry.value.attempts.min(10));
            let record = RevocationRecord {
                since: later(self.now(), wait),
                attempts: entry.value.attempts + 1,
                forget: false,
            };
            change
                .put(entry.name.clone(), &record, None)
                .map_err(NotCommitted::Failure)?;
        } else {
            change.guard(grant.unchanged()).delete(entry.name.clone());
            self.forget_grant(&mut change, &grant.value)
                .await
                .map_err(NotCommitted::Failure)?;
            let detail = match outcome {
                Ok(()) => "revoked at the issuer".to_owned(),
                Err(error) => format!("not revoked at the issuer: {error}"),
            };
            self.tell(&mut change, &id, detail)
                .map_err(NotCommitted::Failure)?;
        }
        self.inner.db.commit_critical(change).await
    }

    /// Marks a grant dead, so that nothing refreshes it or binds a name to it while its issuer is told. `None` while a refresh is
    /// under way: what it brings has to be revoked too.
    async fn withdraw(
        &self,
        grant: Stored<GrantRecord>,
    ) -> Result<Option<Stored<GrantRecord>>, NotCommitted> {
        if grant.value.state != GrantState::Live {
            return Ok(Some(grant));
        }
        let intent_name = name(INTENT, &[&grant.value.id]);
        let intent: Option<Stored<Intent>> = self
            .inner
            .db
            .get(&intent_name)
            .await
            .map_err(NotCommitted::Failure)?;
        let mut change = Change::new();
        match intent {
            Some(intent) if !self.has_ended(&intent.value) => return Ok(None),
            Some(intent) => change.guard(intent.unchanged()).delete(intent_name),
            None => change.guard(Guard::Absent(intent_name)),
        };
        let mut record = grant.value.clone();
        record.state = GrantState::Dead {
            at: self.now(),
            error: "revoked".into(),
            description: None,
            cause: "its last credential was deleted or replaced".into(),
        };
        change
            .guard(grant.unchanged())
            .put(grant.name.clone(), &record, None)
            .map_err(NotCommitted::Failure)?;
        self.inner.db.commit_critical(change).await?;
        self.inner
            .db
            .get(&grant.name)
            .await
            .map_err(NotCommitted::Failure)
    }

    /// Whether the request that an intent was written for has certainly ended.
    fn has_ended(&self, intent: &Intent) -> bool {
        let boot = self.inner.time.boot();
        let seen_for = self.inner.intents.seen_for(intent, boot);
        if intent.node == self.inner.options.node {
            // The same clock wrote the deadline.
            return intent.deadline <= self.now();
        }
        seen_for >= intent.span()
    }

    fn tell(&self, change: &mut Change, grant: &str, detail: String) -> Result<(), Failure> {
        events::record(
            change,
            &Event {
                at: self.now(),
                what: "revoked_at_issuer".into(),
                subject: format!("grant {grant}"),
                by: self.inner.options.node.clone(),
                from: None,
                detail,
            },
        )
    }

    async fn revoke_at_issuer(&self, grant: &GrantRecord) -> Result<(), IssuerError> {
        let gone = |what: &str| IssuerError::Unsupported {
            what: what.to_owned(),
        };
        let unsent = |what: String| IssuerError::Temporary {
            what,
            sent: Sent::No,
            retry_after: None,
        };
        let setup = self.setup();
        let issuer = self
            .issuer_of(&setup, grant)
            .map_err(|failure| match failure {
                // Taken out of the configuration a few days ago: it may come back.
                Failure::Later(later) => unsent(later.what),
                _ => gone("the issuer is not configured any more, or has another address now"),
            })?;
        let (_, secrets) = self
            .inner
            .sealer
            .open(grant)
            .map_err(|_| gone("the login's record is damaged"))?;
        for token in secrets.refresh_token.iter().chain(&secrets.alternates) {
            let token = SecretString::from(token.clone());
            let revoked = issuer.client.revoke(&token, TokenHint::RefreshToken);
            let limit: Duration = self.inner.options.flight;
            tokio::time::timeout(limit, revoked)
                .await
                .unwrap_or_else(|_| {
                    Err(unsent(format!(
                        "no answer within {} seconds",
                        limit.as_secs()
                    )))
                })?;
        }
        Ok(())
    }
}
