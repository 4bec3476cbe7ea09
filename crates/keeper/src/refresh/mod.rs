//! The refresh engine: one flight at a time per grant, and a received refresh token is never lost (decision 3).
//!
//! Before the call an intent is committed ([`depart`]), so that a crash is found at the next start and no other node sends the same
//! token. The *waiter* gets an answer within its time; the *flight* is a task of the keeper's own that no client ends. Only after
//! the new refresh token is committed ([`land`]) does anybody see the access token. What issuers say is put into the keeper's
//! words in [`translate`].

mod depart;
pub(crate) mod land;
mod translate;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gridkeep_issuer::{IssuerError, Sent};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::failure::{Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::measure;
use crate::records::CachedToken;
use crate::spool::Received;
use depart::{Departed, Departure};

pub(crate) use depart::due_name;
pub(crate) use translate::{cached, issuer_failure, received};

/// What a flight ends in. `Clone`, because all waiters get the same.
pub(crate) type Landing = Result<CachedToken, Failure>;

/// Somebody who wants to know how a flight ends.
pub(crate) type Flight = watch::Receiver<Option<Landing>>;

/// The flights of this node.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<String, Flight>>);

impl Flights {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn remove(&self, grant: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(grant);
    }
}

/// Takes the flight off the list however its task ends, so that a later reader starts another.
struct Listed {
    keeper: Keeper,
    grant: String,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.keeper.inner.flights.remove(&self.grant);
    }
}

impl Keeper {
    /// An access token of `grant` newer than that of generation `seen`: joins the flight under way or starts one, and waits at
    /// most the waiter's time.
    pub(crate) async fn refreshed(&self, grant: &str, seen: u64) -> Landing {
        let mut flight = self.flight(grant, Some(seen));
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

    /// The flight of `grant`, started when there is none. It brings the stored token when that is newer than generation `seen`:
    /// whoever read the grant just before an earlier flight landed does not cause a second refresh.
    pub(crate) fn flight(&self, grant: &str, seen: Option<u64>) -> Flight {
        let (keeper, id) = (self.clone(), grant.to_owned());
        self.launch(grant, async move { keeper.fly(&id, seen).await })
    }

    /// Runs `work` as the flight of `grant`, unless one is under way.
    pub(crate) fn launch(
        &self,
        grant: &str,
        work: impl Future<Output = Landing> + Send + 'static,
    ) -> Flight {
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
        let listed = Listed {
            keeper: self.clone(),
            grant: grant.to_owned(),
        };
        self.own(async move {
            let landing = work.await;
            drop(listed);
            let _ = land.send(Some(landing));
        });
        flight
    }

    async fn fly(&self, id: &str, mut seen: Option<u64>) -> Landing {
        loop {
            match self.depart(id, &mut seen).await? {
                Departed::Off(departure) => {
                    let span = tracing::info_span!(
                        "refresh",
                        issuer = departure.issuer.name,
                        grant = id,
                        outcome = tracing::field::Empty
                    );
                    return self.call(*departure).instrument(span).await;
                }
                Departed::Overtaken(access) => return Ok(access),
                Departed::Again => {}
            }
        }
    }

    /// Sends the refresh token, and those kept beside it when it is refused. All of it within the time of one flight, after
    /// which another node may take over.
    async fn call(&self, departure: Departure) -> Landing {
        let since = std::time::Instant::now();
        let (landing, outcome) = self.send(&departure).await;
        measure::refresh(&departure.issuer.name, outcome, since.elapsed());
        tracing::Span::current().record("outcome", outcome);
        landing
    }

    /// What [`Keeper::call`] comes to, and the word for it.
    async fn send(&self, departure: &Departure) -> (Landing, &'static str) {
        let id = &departure.intent.grant;
        let candidates = departure
            .secrets
            .refresh_token
            .iter()
            .chain(&departure.secrets.alternates);
        let mut refusal = None;
        for candidate in candidates {
            let token = SecretString::from(candidate.clone());
            // The life of what comes back is counted from here: an answer that took long is not believed to live longer.
            let asked = self.inner.time.now();
            let answer =
                tokio::time::timeout_at(departure.ends, departure.issuer.client.refresh(&token))
                    .await;
            match answer {
                Ok(Ok(response)) => {
                    let answer =
                        received(id, departure.intent.generation, candidate, &response, asked);
                    let landing = self.land(answer, None).await;
                    let outcome = if landing.is_ok() {
                        "renewed"
                    } else {
                        "not_stored"
                    };
                    return (landing, outcome);
                }
                Ok(Err(IssuerError::Refused {
                    error, description, ..
                })) if error == "invalid_grant" => {
                    refusal.get_or_insert((error, description));
                }
                Ok(Err(error)) => {
                    tracing::warn!(issuer = departure.issuer.name, grant = departure.intent.grant, %error, "a refresh was not answered with a token");
                    let failure = self.give_up(&departure.intent, &error).await;
                    return (Err(failure), measure::fruitless(&error));
                }
                Err(_) => {
                    let error = IssuerError::Temporary {
                        what: format!(
                            "no answer within {} seconds",
                            self.inner.options.flight.as_secs()
                        ),
                        sent: Sent::Maybe,
                        retry_after: None,
                    };
                    let failure = self.give_up(&departure.intent, &error).await;
                    return (Err(failure), measure::fruitless(&error));
                }
            }
        }
        let (error, description) = refusal.unwrap_or_else(|| ("invalid_grant".into(), None));
        let landing = self.bury(&departure.intent, error, description).await;
        let dead = matches!(&landing, Err(Failure::Refused(_)));
        (landing, if dead { "dead" } else { "failed" })
    }

    /// When a flight that starts now has to end.
    fn flight_ends(&self) -> Instant {
        Instant::now() + self.inner.options.flight
    }

    /// Lands what an earlier run could only spool, as the flight of its grant, so that nobody sends the token from before it
    /// meanwhile.
    pub(crate) fn land_spooled(&self, path: std::path::PathBuf, answer: Received) {
        let (keeper, grant) = (self.clone(), answer.grant.clone());
        let id = grant.clone();
        let _ = self.launch(&grant, async move {
            let landing = keeper.land(answer, Some(path)).await;
            match &landing {
                Ok(_) => tracing::info!(
                    grant = id,
                    "a refresh token that an earlier run could only spool is stored now"
                ),
                Err(failure) => {
                    tracing::warn!(grant = id, %failure, "a spooled refresh token was not stored")
                }
            }
            landing
        });
    }
}

fn interrupted() -> Failure {
    Later::new(
        LaterKind::ShuttingDown,
        "the server is stopping; the request to the issuer is noted and will be taken up; try again in a moment",
    )
    .after(Duration::from_secs(2))
    .into()
}
