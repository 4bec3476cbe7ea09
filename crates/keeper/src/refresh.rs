//! The refresh engine: one flight at a time per grant, and a received refresh token is never lost (decision 3).
//!
//! Before the call an intent is committed, so that a crash is found at the next start and no other node sends the same token.
//! The *waiter* gets an answer within its time; the *flight* is a task of the keeper's own that no client ends. Only after
//! the new refresh token is committed does anybody see the access token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gridkeep_issuer::{IssuerError, Sent, TokenResponse};
use gridkeep_store::Guard;
use gridkeep_token::time::{Seconds, UnixSeconds};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;

use crate::database::{Change, NotCommitted, Stored, name};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure, Later, LaterKind, Refused};
use crate::keeper::Keeper;
use crate::records::{
    AnswerLost, CachedToken, DUE, GRANT, GrantRecord, GrantSecrets, GrantState, INTENT, Intent,
};
use crate::secret::random_id;
use crate::setup::IssuerSetup;
use crate::spool::Received;
use crate::tokens::later;

/// What a flight ends in. `Clone`, because all waiters get the same.
pub(crate) type Landing = Result<CachedToken, Failure>;

/// Refused refresh tokens kept to be tried again before a grant is called dead.
const ALTERNATES: usize = 4;

/// The flights of this node.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<String, watch::Receiver<Option<Landing>>>>);

/// The parameters of one attempt to send.
struct Departure {
    grant: Stored<GrantRecord>,
    secrets: GrantSecrets,
    issuer: IssuerSetup,
}

impl Keeper {
    /// A fresh access token for `grant`: joins the flight under way or starts one, and waits at most the waiter's time.
    pub(crate) async fn refreshed(&self, grant: &str) -> Landing {
        let mut flight = self.flight(grant);
        let landed =
            tokio::time::timeout(self.inner.options.waiter, flight.wait_for(Option::is_some)).await;
        match landed {
            Ok(Ok(landing)) => landing.clone().unwrap_or_else(|| Err(interrupted())),
            Ok(Err(_)) => Err(interrupted()),
            Err(_) => Err(Later::new(
                LaterKind::IssuerSlow,
                format!(
                    "the token issuer has not answered within {} seconds; the request goes on and its answer will be kept; try again in a few seconds",
                    self.inner.options.waiter.as_secs()
                ),
            )
            .after(Duration::from_secs(2))
            .into()),
        }
    }

    /// The flight of `grant`, started when there is none.
    pub(crate) fn flight(&self, grant: &str) -> watch::Receiver<Option<Landing>> {
        let mut flights = self
            .inner
            .flights
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(grant) {
            return flight.clone();
        }
        let (land, flight) = watch::channel(None);
        flights.insert(grant.to_owned(), flight.clone());
        let (keeper, id) = (self.clone(), grant.to_owned());
        self.own(async move {
            let landing = keeper.fly(&id).await;
            keeper
                .inner
                .flights
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
            let _ = land.send(Some(landing));
        });
        flight
    }

    async fn fly(&self, id: &str) -> Landing {
        loop {
            let Some(departure) = self.depart(id).await? else {
                continue;
            };
            return self.call(departure).await;
        }
    }

    /// Reads the grant and commits the intent to send its refresh token. `None` when somebody else wrote meanwhile.
    async fn depart(&self, id: &str) -> Result<Option<Departure>, Failure> {
        let grant = self
            .inner
            .db
            .get::<GrantRecord>(&name(GRANT, &[id]))
            .await?
            .ok_or(Failure::NotFound)?;
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
        let now = self.inner.time.now();
        let issuer = self.issuer_of(&grant.value)?;
        if secrets.refresh_token.is_none() {
            return Err(Refused::GrantDead {
                error: "no_refresh_token".into(),
                description: None,
                cause: "the issuer gave no refresh token at login, so the login ended with its first access token; the role's scopes may lack offline_access".into(),
            }
            .into());
        }
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
                let ours = standing.value.node == self.inner.options.node;
                if !ours && now < standing.value.deadline {
                    self.wait_for_other_node(&standing.value).await?;
                    return Ok(None);
                }
                change.guard(standing.unchanged());
                if standing.value.generation == record.generation && record.answer_lost.is_none() {
                    record.answer_lost = Some(AnswerLost {
                        at: standing.value.started_at,
                        node: standing.value.node.clone(),
                        how: "the server stopped before the answer arrived".into(),
                    });
                    change.put(grant.name.clone(), &record, None)?;
                }
            }
        }
        let intent = Intent {
            id: random_id(),
            generation: record.generation,
            node: self.inner.options.node.clone(),
            process: self.inner.process.clone(),
            started_at: now,
            deadline: later(now, Seconds(self.inner.options.flight.as_secs() + 5)),
        };
        change.put(intent_name, &intent, None)?;
        match self.inner.db.commit(change).await {
            Ok(()) => Ok(Some(Departure {
                grant: Stored {
                    value: record,
                    ..grant
                },
                secrets,
                issuer,
            })),
            Err(NotCommitted::Conflict) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    async fn wait_for_other_node(&self, intent: &Intent) -> Result<(), Failure> {
        if *self.stopping().borrow() {
            return Err(interrupted());
        }
        tracing::debug!(node = intent.node, "another node refreshes this grant");
        tokio::time::sleep(Duration::from_millis(250)).await;
        Ok(())
    }

    /// Sends the refresh token, and those kept beside it when it is refused.
    async fn call(&self, departure: Departure) -> Landing {
        let Departure {
            grant,
            secrets,
            issuer,
        } = departure;
        let (id, generation) = (grant.value.id.clone(), grant.value.generation);
        let candidates = secrets.refresh_token.iter().chain(&secrets.alternates);
        let mut refusal = None;
        for candidate in candidates {
            let token = SecretString::from(candidate.clone());
            let answer =
                tokio::time::timeout(self.inner.options.flight, issuer.client.refresh(&token))
                    .await;
            match answer {
                Ok(Ok(response)) => {
                    return self
                        .land(received(&id, generation, &response, self.inner.time.now()))
                        .await;
                }
                Ok(Err(IssuerError::Refused {
                    error, description, ..
                })) if error == "invalid_grant" => {
                    refusal.get_or_insert((error, description));
                }
                Ok(Err(error)) => return Err(self.give_up(&id, generation, &error).await),
                Err(_) => {
                    let error = IssuerError::Temporary {
                        what: format!(
                            "no answer within {} seconds",
                            self.inner.options.flight.as_secs()
                        ),
                        sent: Sent::Maybe,
                        retry_after: None,
                    };
                    return Err(self.give_up(&id, generation, &error).await);
                }
            }
        }
        let (error, description) = refusal.unwrap_or_else(|| ("invalid_grant".into(), None));
        Err(self.bury(&id, generation, error, description).await)
    }

    /// Commits what was received, whatever it takes, and only then shows it.
    pub(crate) async fn land(&self, received: Received) -> Landing {
        let mut spooled: Option<std::path::PathBuf> = None;
        let mut wait = Duration::from_millis(100);
        loop {
            match self.settle(&received).await {
                Ok(access) => {
                    if let Some(path) = &spooled {
                        self.inner.spool.forget(path);
                    }
                    return access.ok_or(Failure::NotFound);
                }
                Err(NotCommitted::Conflict) => {}
                Err(NotCommitted::Failure(failure)) => {
                    if spooled.is_none() {
                        match self.inner.spool.keep(&received) {
                            Ok(path) => spooled = Some(path),
                            Err(error) => {
                                tracing::error!(grant = received.grant, %error, "a received refresh token is held in memory only: neither the store nor the spool takes it")
                            }
                        }
                    }
                    if *self.stopping().borrow() && spooled.is_some() {
                        return Err(failure);
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
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
        let now = self.inner.time.now();
        let mut change = Change::new();
        change
            .guard(grant.unchanged())
            .delete(name(INTENT, &[&received.grant]));
        if record.generation == received.generation {
            if let Some(new) = &received.refresh_token {
                let old = secrets.refresh_token.replace(new.clone());
                // The one before stays until its successor has worked once, in case the issuer lost what it answered.
                secrets.alternates = old.into_iter().filter(|old| old != new).collect();
            } else {
                secrets.alternates.clear();
            }
            secrets.access = Some(received.access.clone());
            record.generation += 1;
            record.refreshed_at = now;
            record.answer_lost = None;
            if self.take_used(&record.id) {
                record.used_at = now;
            }
            self.move_due(&mut change, &mut record)
                .map_err(NotCommitted::Failure)?;
        } else if let Some(new) = received
            .refresh_token
            .as_ref()
            .filter(|new| secrets.refresh_token.as_ref() != Some(new))
        {
            tracing::warn!(
                grant = received.grant,
                "a second answer for the same refresh token is kept beside the first"
            );
            secrets.alternates.insert(0, new.clone());
            secrets.alternates.truncate(ALTERNATES);
        }
        if matches!(record.state, GrantState::Dead { .. }) && received.refresh_token.is_some() {
            record.state = GrantState::Live;
        }
        record.sealed = key
            .seal(&record.id, &secrets)
            .map_err(NotCommitted::Failure)?;
        change
            .put(grant.name.clone(), &record, None)
            .map_err(NotCommitted::Failure)?;
        self.inner.db.commit_critical(change).await?;
        Ok(Some(received.access.clone()))
    }

    /// Moves a grant to its place in the keep-alive index.
    pub(crate) fn move_due(
        &self,
        change: &mut Change,
        record: &mut GrantRecord,
    ) -> Result<(), Failure> {
        let after = self.setup().keep_alive.after;
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

    /// Ends a flight that brought nothing: says why, and notes when the issuer may have acted all the same.
    async fn give_up(&self, id: &str, generation: u64, error: &IssuerError) -> Failure {
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
        if let Err(failure) = self
            .clear_intent(id, generation, |record| {
                if record.answer_lost.is_none() {
                    record.answer_lost.clone_from(&lost);
                }
            })
            .await
        {
            tracing::warn!(grant = id, %failure, "the end of a refresh could not be noted; its intent stands until its deadline");
        }
        issuer_failure("refresh", error)
    }

    /// Calls a grant dead: every refresh token we have for it was refused.
    async fn bury(
        &self,
        id: &str,
        generation: u64,
        error: String,
        description: Option<String>,
    ) -> Failure {
        let mut told = None;
        let outcome = self
            .clear_intent(id, generation, |record| {
                let cause = match &record.answer_lost {
                    Some(lost) => format!(
                        "the answer to a refresh sent at {} by {} was lost ({}), and the issuer no longer takes the refresh token from before it",
                        rfc3339(lost.at),
                        lost.node,
                        lost.how
                    ),
                    None => "the refresh token is expired, was revoked, or was used elsewhere".to_owned(),
                };
                told = Some(cause.clone());
                record.state = GrantState::Dead { at: self.inner.time.now(), error: error.clone(), description: description.clone(), cause };
            })
            .await;
        if let Err(failure) = outcome {
            return failure;
        }
        let cause = told.unwrap_or_else(|| "the login was replaced meanwhile".to_owned());
        tracing::warn!(
            grant = id,
            error,
            cause,
            "login needed: the issuer refuses this grant for good"
        );
        Refused::GrantDead {
            error,
            description,
            cause,
        }
        .into()
    }

    /// Removes the intent and changes the grant, as long as it still has the generation that was sent.
    async fn clear_intent(
        &self,
        id: &str,
        generation: u64,
        mut edit: impl FnMut(&mut GrantRecord),
    ) -> Result<(), Failure> {
        loop {
            let mut change = Change::new();
            change.delete(name(INTENT, &[id]));
            if let Some(grant) = self
                .inner
                .db
                .get::<GrantRecord>(&name(GRANT, &[id]))
                .await?
                .filter(|grant| grant.value.generation == generation)
            {
                let mut record = grant.value.clone();
                edit(&mut record);
                change.guard(grant.unchanged());
                if record.state != grant.value.state {
                    let detail = match &record.state {
                        GrantState::Dead { cause, .. } => cause.clone(),
                        GrantState::Live => String::new(),
                    };
                    events::record(
                        &mut change,
                        &Event {
                            at: self.inner.time.now(),
                            what: "login_needed".into(),
                            subject: format!("grant {id}"),
                            by: self.inner.options.node.clone(),
                            from: None,
                            detail,
                        },
                    )?;
                }
                if record.state != grant.value.state
                    || record.answer_lost != grant.value.answer_lost
                {
                    change.put(grant.name.clone(), &record, None)?;
                }
            }
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// The configured issuer a grant belongs to, if that is still the same issuer and client.
    pub(crate) fn issuer_of(&self, grant: &GrantRecord) -> Result<IssuerSetup, Failure> {
        let setup = self.setup();
        let issuer = crate::policy::known_issuer(&setup, &grant.issuer, self.inner.time.now())?;
        if issuer.url != grant.issuer_url || issuer.client_id != grant.client_id {
            return Err(Refused::GrantDead {
                error: "issuer_changed".into(),
                description: None,
                cause: format!("issuer \"{}\" now has another address or client id than when this login was made, and a login is never shown to another issuer", grant.issuer),
            }
            .into());
        }
        Ok(issuer.clone())
    }
}

/// What of an issuer's answer must be kept.
pub(crate) fn received(
    grant: &str,
    generation: u64,
    response: &TokenResponse,
    now: UnixSeconds,
) -> Received {
    Received {
        grant: grant.to_owned(),
        generation,
        refresh_token: response
            .refresh_token
            .as_ref()
            .map(|token| token.expose_secret().to_owned())
            .filter(|token| !token.is_empty()),
        access: cached(response, now),
    }
}

/// The access token of an answer, with its life counted from `now`.
pub(crate) fn cached(response: &TokenResponse, now: UnixSeconds) -> CachedToken {
    CachedToken {
        token: response.access_token.expose_secret().to_owned(),
        token_type: response.token_type.clone(),
        issued_at: now.0,
        expires_at: response.expires_in.map(|life| later(now, Seconds(life)).0),
        scope: response.scope.clone(),
    }
}

/// What trouble with an issuer means to whoever asked.
pub(crate) fn issuer_failure(operation: &'static str, error: &IssuerError) -> Failure {
    match error {
        IssuerError::Refused { error: code, description, uri, .. } if error.is_permanent() => {
            BadInput::IssuerRejected { operation, error: code.clone(), description: description.clone(), uri: uri.clone() }.into()
        }
        IssuerError::Throttled { retry_after } => Later::new(
            LaterKind::IssuerThrottled,
            format!("requests to the token issuer are held back for {} seconds, because it fails or its request budget is used up; try again then", retry_after.as_secs().max(1)),
        )
        .after(*retry_after)
        .into(),
        IssuerError::Temporary { what, retry_after, .. } => {
            let later = Later::new(LaterKind::IssuerDown, format!("the token issuer cannot be used at the moment ({what}); nothing is lost; try again later"));
            retry_after.map_or(later.clone(), |wait| later.after(wait)).into()
        }
        IssuerError::Unsupported { .. } | IssuerError::InvalidToken { .. } => BadInput::IssuerCannot { operation, what: error.to_string() }.into(),
        IssuerError::Refused { .. } => Later::new(LaterKind::IssuerDown, format!("the token issuer answered with a passing error ({error}); try again later")).into(),
    }
}

pub(crate) fn due_name(day: i64, grant: &str) -> gridkeep_store::Name {
    name(DUE, &[&day.to_string(), grant])
}

pub(crate) fn rfc3339(at: UnixSeconds) -> String {
    jiff::Timestamp::from_second(at.0)
        .map(|time| time.to_string())
        .unwrap_or_else(|_| at.0.to_string())
}

fn interrupted() -> Failure {
    Later::new(LaterKind::ShuttingDown, "the server is stopping; the request to the issuer is noted and will be taken up; try again in a moment")
        .after(Duration::from_secs(2))
        .into()
}
