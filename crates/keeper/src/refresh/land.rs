//! After the call: what was received is committed, whatever it takes; what was refused or lost is noted.

use std::path::PathBuf;
use std::time::Duration;

use gridkeep_issuer::{IssuerError, Sent};

use super::translate::rfc3339;
use super::{Landing, issuer_failure};
use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::records::{
    AnswerLost, CachedToken, GRANT, GrantRecord, GrantSecrets, GrantState, INTENT, Intent,
};
use crate::spool::Received;

/// Refresh tokens kept to be tried before a grant is called dead.
const ALTERNATES: usize = 4;

/// What the store has not taken for this long is written into the spool beside.
pub(crate) const SPOOL_AFTER: Duration = Duration::from_millis(500);

/// What a grant looked like when a flight that brought nothing was noted.
enum Noted {
    /// As at departure: the note was made.
    AsLeft,
    /// Refreshed by somebody else.
    Overtaken,
    /// Deleted.
    Gone,
}

impl Keeper {
    /// Commits what was received, whatever it takes, and only then shows it. `spooled` is where it lies already.
    pub(crate) async fn land(&self, received: Received, mut spooled: Option<PathBuf>) -> Landing {
        let mut stop = self.stopping();
        let mut wait = Duration::from_millis(100);
        loop {
            let mut settling = Box::pin(self.settle(&received));
            let settled = match tokio::time::timeout(SPOOL_AFTER, &mut settling).await {
                Ok(settled) => settled,
                // The store may let us wait for long, and this process may be killed meanwhile. The attempt goes on beside: it may be
                // what others wait for.
                Err(_) => {
                    let spooling = self.spool(&received, &mut spooled);
                    let (settled, ()) = tokio::join!(settling, spooling);
                    settled
                }
            };
            match settled {
                Ok(access) => {
                    if let Some(path) = &spooled {
                        self.inner.spool.forget(path);
                    }
                    return access.ok_or(Failure::NotFound);
                }
                Err(NotCommitted::Conflict) => {}
                Err(NotCommitted::Failure(failure)) => {
                    self.spool(&received, &mut spooled).await;
                    if *stop.borrow() && spooled.is_some() {
                        return Err(failure);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = stop.wait_for(|stop| *stop), if spooled.is_some() => {}
                    }
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Writes what was received into the spool, unless it is there.
    async fn spool(&self, received: &Received, spooled: &mut Option<PathBuf>) {
        if spooled.is_some() {
            return;
        }
        let (keeper, copy) = (self.clone(), received.clone());
        let kept = tokio::task::spawn_blocking(move || keeper.inner.spool.keep(&copy)).await;
        match kept {
            Ok(Ok(path)) => *spooled = Some(path),
            Ok(Err(error)) => {
                tracing::error!(grant = received.grant, %error, "a received refresh token is held in memory only: neither the store nor the spool takes it")
            }
            Err(error) => {
                tracing::error!(grant = received.grant, %error, "a received refresh token is held in memory only: writing it into the spool ended half-way")
            }
        }
    }

    /// One attempt to commit an answer. `None` when the grant is gone.
    async fn settle(&self, received: &Received) -> Result<Option<CachedToken>, NotCommitted> {
        let Some(grant) = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[&received.grant]))
            .await
            .map_err(NotCommitted::Failure)?
        else {
            tracing::warn!(
                grant = received.grant,
                "the login was deleted while its refresh was under way"
            );
            return Ok(None);
        };
        let (key, mut secrets) = self
            .inner
            .sealer
            .open(&grant.value)
            .map_err(NotCommitted::Failure)?;
        let mut record = grant.value.clone();
        let mut change = Change::new();
        change.guard(grant.unchanged());
        self.end_intent(&mut change, &received.grant, received.generation)
            .await
            .map_err(NotCommitted::Failure)?;
        if record.generation == received.generation {
            take_in(&mut secrets, received);
            let now = self.inner.time.now();
            record.generation += 1;
            record.refreshed_at = now;
            record.answer_lost = None;
            record.state = GrantState::Live;
            if self.inner.uses.take(&record.id) {
                record.used_at = now;
            }
            self.move_due(&mut change, &mut record)
                .map_err(NotCommitted::Failure)?;
        } else if keep_beside(&mut secrets, received) {
            tracing::warn!(
                grant = received.grant,
                "a second answer for the same refresh token is kept beside the first"
            );
            record.state = GrantState::Live;
        }
        key.close(&mut record, &secrets)
            .map_err(NotCommitted::Failure)?;
        change
            .put(grant.name.clone(), &record, None)
            .map_err(NotCommitted::Failure)?;
        self.inner.db.commit_critical(change).await?;
        Ok(Some(received.access.clone()))
    }

    /// Removes this process's intent for `generation`; one of another, which took over after our deadline, stays.
    async fn end_intent(
        &self,
        change: &mut Change,
        grant: &str,
        generation: u64,
    ) -> Result<(), Failure> {
        let intent: Option<Stored<Intent>> = self.inner.db.get(&name(INTENT, &[grant])).await?;
        if let Some(intent) = intent
            .filter(|intent| self.is_ours(&intent.value) && intent.value.generation <= generation)
        {
            change.guard(intent.unchanged()).delete(intent.name);
        }
        Ok(())
    }

    /// Ends a flight that brought nothing: says why, and notes when the issuer may have acted all the same.
    pub(super) async fn give_up(&self, intent: &Intent, error: &IssuerError) -> Failure {
        let lost = match error {
            IssuerError::Temporary {
                sent: Sent::Maybe,
                what,
                ..
            } => Some(AnswerLost {
                at: self.inner.time.now(),
                node: self.inner.options.node.clone(),
                how: what.clone(),
            }),
            _ => None,
        };
        let noted = self
            .note(intent, |record| {
                if record.answer_lost.is_none() {
                    record.answer_lost.clone_from(&lost);
                }
            })
            .await;
        if let Err(failure) = noted {
            tracing::warn!(grant = intent.grant, %failure, "the end of a refresh could not be noted; its intent stands until its deadline");
        }
        issuer_failure("refresh", error)
    }

    /// Calls a grant dead: every refresh token we have for it was refused.
    pub(crate) async fn bury(
        &self,
        intent: &Intent,
        error: String,
        description: Option<String>,
    ) -> Landing {
        let mut told = String::new();
        let noted = self
            .note(intent, |record| {
                told = cause_of_death(record.answer_lost.as_ref());
                record.state = GrantState::Dead {
                    at: self.inner.time.now(),
                    error: error.clone(),
                    description: description.clone(),
                    cause: told.clone(),
                };
            })
            .await?;
        match noted {
            Noted::AsLeft => {
                tracing::warn!(
                    grant = intent.grant,
                    error,
                    cause = told,
                    "login needed: the issuer refuses this grant for good"
                );
                Err(Refused::GrantDead {
                    error,
                    description,
                    cause: told,
                }
                .into())
            }
            // The refusal was of a token that is not the grant's any more: it proves nothing.
            Noted::Overtaken => Err(Later::new(
                LaterKind::IssuerSlow,
                "another request renewed this login at the same moment; try again",
            )
            .after(Duration::from_secs(1))
            .into()),
            Noted::Gone => Err(Failure::NotFound),
        }
    }

    /// Removes the intent and changes the grant, as long as it still has the generation that was sent.
    async fn note(
        &self,
        intent: &Intent,
        mut edit: impl FnMut(&mut GrantRecord),
    ) -> Result<Noted, Failure> {
        loop {
            let mut change = Change::new();
            self.end_intent(&mut change, &intent.grant, intent.generation)
                .await?;
            let grant = self
                .inner
                .db
                .get::<GrantRecord>(&name(GRANT, &[&intent.grant]))
                .await?;
            let noted = match grant {
                None => Noted::Gone,
                Some(grant) if grant.value.generation != intent.generation => Noted::Overtaken,
                Some(grant) => {
                    let mut record = grant.value.clone();
                    edit(&mut record);
                    change.guard(grant.unchanged());
                    let died = record.state != grant.value.state;
                    if died {
                        self.tell_of_death(&mut change, &record)?;
                    }
                    if died || record.answer_lost != grant.value.answer_lost {
                        change.put(grant.name.clone(), &record, None)?;
                    }
                    Noted::AsLeft
                }
            };
            match self.inner.db.commit_critical(change).await {
                Ok(()) => return Ok(noted),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    fn tell_of_death(&self, change: &mut Change, record: &GrantRecord) -> Result<(), Failure> {
        let detail = match &record.state {
            GrantState::Dead { cause, .. } => cause.clone(),
            GrantState::Live => String::new(),
        };
        events::record(
            change,
            &Event {
                at: self.inner.time.now(),
                what: "login_needed".into(),
                subject: format!("grant {}", record.id),
                by: self.inner.options.node.clone(),
                from: None,
                detail,
            },
        )
    }
}

/// The answer to the grant's own generation: its refresh token becomes the grant's. Where the issuer gave none, that is the one
/// that was sent, which need not be the one that stood first.
fn take_in(secrets: &mut GrantSecrets, received: &Received) {
    secrets.alternates.clear();
    let sent = Some(received.sent.clone())
        .filter(|sent| !sent.is_empty())
        .or_else(|| secrets.refresh_token.take());
    match &received.refresh_token {
        Some(new) if sent.as_ref() != Some(new) => {
            secrets.refresh_token = Some(new.clone());
            // The one before stays until its successor has worked once, in case the issuer lost what it answered.
            secrets.alternates.extend(sent);
        }
        _ => secrets.refresh_token = sent,
    }
    secrets.access = Some(received.access.clone());
}

/// An answer that came after another was taken in: tells whether its refresh token is a further one, now kept beside.
fn keep_beside(secrets: &mut GrantSecrets, received: &Received) -> bool {
    let Some(new) = received.refresh_token.as_ref().filter(|new| {
        secrets.refresh_token.as_ref() != Some(new) && !secrets.alternates.contains(new)
    }) else {
        return false;
    };
    secrets.alternates.insert(0, new.clone());
    secrets.alternates.truncate(ALTERNATES);
    true
}

fn cause_of_death(lost: Option<&AnswerLost>) -> String {
    match lost {
        Some(lost) => format!(
            "the answer to a refresh sent at {} by {} was lost ({}), and the issuer no longer takes the refresh token from before it",
            rfc3339(lost.at),
            lost.node,
            lost.how
        ),
        None => "the refresh token is expired, was revoked, or was used elsewhere".to_owned(),
    }
}
