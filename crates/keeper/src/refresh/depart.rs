//! Before the call: is a refresh wanted and allowed, and the intent that says who sends which generation.

use std::time::Duration;

use gridkeep_store::Guard;
use gridkeep_token::time::Seconds;
use tokio::time::Instant;

use super::interrupted;
use crate::credentials::LEAST;
use crate::database::{Change, NotCommitted, Stored, name};
use crate::failure::{Failure, Refused};
use crate::keeper::Keeper;
use crate::records::{
    AnswerLost, CachedToken, DUE, GRANT, GrantRecord, GrantSecrets, GrantState, INTENT, Intent,
};
use crate::secret::random_id;
use crate::setup::{IssuerSetup, Setup};
use crate::tokens::later;

/// The parameters of one attempt to send.
pub(super) struct Departure {
    pub intent: Intent,
    pub secrets: GrantSecrets,
    pub issuer: IssuerSetup,
    pub ends: Instant,
}

/// What came of an attempt to depart.
pub(super) enum Departed {
    /// The intent is committed: send.
    Off(Box<Departure>),
    /// Somebody else has refreshed meanwhile.
    Overtaken(CachedToken),
    /// Somebody else wrote or is under way: look again.
    Again,
}

impl Keeper {
    /// Reads the grant and commits the intent to send its refresh token. `seen` is the generation whose access token was not good
    /// enough; it is set at the first look when the caller had none in mind.
    pub(super) async fn depart(
        &self,
        id: &str,
        seen: &mut Option<u64>,
    ) -> Result<Departed, Failure> {
        if *self.stopping().borrow() {
            return Err(interrupted());
        }
        let grant = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[id]))
            .await?
            .ok_or(Failure::NotFound)?;
        let setup = self.setup();
        let (secrets, issuer) = self.fit_to_fly(&setup, &grant)?;
        if grant.value.generation > *seen.get_or_insert(grant.value.generation) {
            // One that ends already is nobody's wish: this flight may have waited long for another node's.
            let now = self.inner.time.now();
            if let Some(access) = secrets.access.as_ref().filter(|it| it.lasts(now, LEAST)) {
                return Ok(Departed::Overtaken(access.clone()));
            }
        }
        let ends = self.flight_ends();
        let now = self.inner.time.now();
        let intent_name = name(INTENT, &[id]);
        let standing = self.inner.db.get::<Intent>(&intent_name).await?;
        let mut change = Change::new();
        change.guard(grant.unchanged());
        let mut record = grant.value.clone();
        match &standing {
            None => {
                change.guard(Guard::Absent(intent_name.clone()));
            }
            Some(standing) => {
                let ours = self.is_ours(&standing.value);
                // By the clock of the one who would take over: clocks on walls may differ by more than a refresh takes.
                let seen_for = self
                    .inner
                    .intents
                    .seen_for(&standing.value, self.inner.time.boot());
                if !ours && seen_for < standing.value.span() {
                    tracing::debug!(
                        node = standing.value.node,
                        "another node refreshes this grant"
                    );
                    tokio::time::sleep(Duration::from_millis(250)).await;
                    return Ok(Departed::Again);
                }
                change.guard(standing.unchanged());
                if standing.value.generation == record.generation && record.answer_lost.is_none() {
                    record.answer_lost = Some(self.lost_with(&standing.value));
                    change.put(grant.name.clone(), &record, None)?;
                }
            }
        }
        let intent = Intent {
            id: random_id(),
            grant: id.to_owned(),
            generation: record.generation,
            node: self.inner.options.node.clone(),
            process: self.inner.process.clone(),
            started_at: now,
            deadline: later(now, Seconds(self.inner.options.flight.as_secs() + 5)),
        };
        change.put(intent_name, &intent, None)?;
        // From the space set aside if need be, as the answer will be: on a full disk tokens go on being refreshed.
        match self.inner.db.commit_critical(change).await {
            Ok(()) => {
                self.inner.intents.ended(id);
                Ok(Departed::Off(Box::new(Departure {
                    intent,
                    secrets,
                    issuer: issuer.clone(),
                    ends,
                })))
            }
            Err(NotCommitted::Conflict) => Ok(Departed::Again),
            Err(other) => Err(other.into()),
        }
    }

    /// The secrets and the issuer of a grant that can be refreshed; else why it cannot.
    fn fit_to_fly<'a>(
        &self,
        setup: &'a Setup,
        grant: &Stored<GrantRecord>,
    ) -> Result<(GrantSecrets, &'a IssuerSetup), Failure> {
        if let GrantState::Dead {
            error,
            description,
            cause,
            ..
        } = &grant.value.state
        {
            return Err(Refused::GrantDead {
                error: error.clone(),
                description: description.clone(),
                cause: cause.clone(),
            }
            .into());
        }
        let (_, secrets) = self.inner.sealer.open(&grant.value)?;
        let issuer = self.issuer_of(setup, &grant.value)?;
        if secrets.refresh_token.is_none() {
            return Err(Refused::GrantDead {
                error: "no_refresh_token".into(),
                description: None,
                cause: "the issuer gave no refresh token at login, so the login ended with its first access token; the role's scopes may lack offline_access".into(),
            }
            .into());
        }
        Ok((secrets, issuer))
    }

    /// What an intent means that nobody ended.
    fn lost_with(&self, intent: &Intent) -> AnswerLost {
        AnswerLost {
            at: intent.started_at,
            node: intent.node.clone(),
            how: if intent.process == self.inner.process {
                "how it ended could not be recorded".into()
            } else {
                "the server stopped before the answer arrived".into()
            },
        }
    }

    /// The configured issuer a grant belongs to, if that is still the same issuer and client.
    pub(crate) fn issuer_of<'a>(
        &self,
        setup: &'a Setup,
        grant: &GrantRecord,
    ) -> Result<&'a IssuerSetup, Failure> {
        let issuer = crate::policy::known_issuer(setup, &grant.issuer, self.inner.time.now())?;
        if issuer.url != grant.issuer_url || issuer.client_id != grant.client_id {
            return Err(Refused::GrantDead {
                error: "issuer_changed".into(),
                description: None,
                cause: format!("issuer \"{}\" now has another address or client id than when this login was made, and a login is never shown to another issuer", grant.issuer),
            }
            .into());
        }
        Ok(issuer)
    }

    /// Moves a grant to its place in the keep-alive index.
    pub(crate) fn move_due(
        &self,
        change: &mut Change,
        record: &mut GrantRecord,
    ) -> Result<(), Failure> {
        let after = self.setup().kept_alive_after(&record.issuer);
        let day = later(record.refreshed_at, after).0 / 86_400;
        if record.due == Some(day) {
            return Ok(());
        }
        if let Some(old) = record.due.replace(day) {
            change.delete(due_name(old, &record.id));
        }
        change.put(due_name(day, &record.id), &serde_json::json!({}), None)?;
        Ok(())
    }
}

pub(crate) fn due_name(day: i64, grant: &str) -> gridkeep_store::Name {
    name(DUE, &[&day.to_string(), grant])
}
