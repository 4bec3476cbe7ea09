//! The client asks whether its login is finished; for a device login the issuer is asked in turn, at the issuer's pace.

use gridkeep_issuer::{DevicePoll, IssuerError};
use secrecy::SecretString;

use super::callback::failed;
use super::{Poll, PollOutcome};
use crate::clock::TOLERANCE_SECONDS;
use crate::database::Stored;
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::records::{LoginRecord, LoginStep};

impl Keeper {
    /// A client asks whether its login is finished.
    ///
    /// # Errors
    /// [`BadInput::LoginExpired`], [`BadInput::WrongNonce`], [`BadInput::LoginFailed`]; each ends the login.
    pub async fn login_poll(&self, request: Poll) -> Result<PollOutcome, Failure> {
        let (id, stored) = self.login_record(&request.issuer, &request.state).await?;
        if aws_lc_rs::constant_time::verify_slices_are_equal(
            request.client_nonce.as_bytes(),
            stored.value.client_nonce.as_bytes(),
        )
        .is_err()
        {
            self.end(&id, &stored).await?;
            return Err(BadInput::WrongNonce.into());
        }
        let kind = self.kind_of_login(&stored.value);
        let boot = self.inner.time.boot();
        let ends = stored.value.deadline;
        if self.inner.logins.first_poll(&id, ends, boot) {
            kind.came_to("polled");
        }
        let stored = match stored.value.step {
            LoginStep::Device { .. } => self.ask_device(&request, &id, stored).await?,
            _ => stored,
        };
        match &stored.value.step {
            LoginStep::Device { .. } | LoginStep::Code { .. } | LoginStep::Redeeming => {
                Ok(PollOutcome::Pending)
            }
            LoginStep::Failed { code } => {
                let failure = failed(code);
                self.end(&id, &stored).await?;
                Err(failure)
            }
            LoginStep::Ready { login } => {
                let ready = login.as_ref().clone();
                let login = self.complete(&id, &stored, ready, request.from).await?;
                self.inner.logins.remove(&id);
                kind.came_to("completed");
                Ok(PollOutcome::LoggedIn(Box::new(login)))
            }
        }
    }

    /// Asks the issuer about a device login, at the issuer's pace however fast the client polls, and tells what has become of it.
    async fn ask_device(
        &self,
        request: &Poll,
        id: &[u8],
        stored: Stored<LoginRecord>,
    ) -> Result<Stored<LoginRecord>, Failure> {
        let LoginStep::Device {
            device_code,
            interval,
            ..
        } = &stored.value.step
        else {
            return Ok(stored);
        };
        if !self
            .inner
            .logins
            .may_ask(id, stored.value.deadline, *interval, self.inner.time.boot())
        {
            return Ok(stored);
        }
        let setup = self.setup();
        let issuer = match self.issuer_of_login(&setup, &stored.value) {
            Ok(issuer) => issuer.clone(),
            Err(failure) => {
                self.inner.logins.asked(id, false, self.inner.time.boot());
                return Err(failure);
            }
        };
        let device_code = SecretString::from(device_code.clone());
        let stored = match self.claim_turn(id, stored.clone()).await {
            Ok(Some(claimed)) => claimed,
            Ok(None) => {
                self.inner.logins.asked(id, false, self.inner.time.boot());
                return Ok(stored);
            }
            Err(failure) => {
                self.inner.logins.asked(id, false, self.inner.time.boot());
                return Err(failure);
            }
        };
        let (answer, waiting) = tokio::sync::oneshot::channel();
        let (keeper, id, before) = (self.clone(), id.to_vec(), stored.clone());
        self.own(async move {
            let asked = keeper.now();
            let polled = issuer.client.poll_device(&device_code).await;
            let slower = matches!(polled, Ok(DevicePoll::SlowDown));
            let outcome = match polled {
                Ok(DevicePoll::Pending | DevicePoll::SlowDown) => None,
                Ok(DevicePoll::Done(response)) => Some(keeper.accept(&issuer, &before.value.role, &response, None, asked).await),
                Err(IssuerError::Refused { error, description, .. }) => {
                    tracing::info!(issuer = issuer.name, error, description, "a login was refused at the issuer");
                    Some(Err(BadInput::LoginFailed { code: error }.into()))
                }
                Err(error) => {
                    // Trouble that may pass does not end a login.
                    tracing::info!(issuer = issuer.name, %error, "the issuer could not be asked about a login");
                    None
                }
            };
            if let Some(outcome) = outcome {
                let _ = keeper.finish_step(&id, &before, &issuer.name, outcome).await;
            }
            if slower {
                keeper.slow_down(&id, &before).await;
            }
            keeper.inner.logins.asked(&id, slower, keeper.inner.time.boot());
            let _ = answer.send(());
        });
        let _ = tokio::time::timeout(self.inner.options.waiter, waiting).await;
        self.login_record(&request.issuer, &request.state)
            .await
            .map(|(_, stored)| stored)
    }

    /// Where other nodes may be asked about the same login: takes the turn of asking the issuer, which is one at a time and not
    /// before its time. `None` when it is another's.
    async fn claim_turn(
        &self,
        id: &[u8],
        stored: Stored<LoginRecord>,
    ) -> Result<Option<Stored<LoginRecord>>, Failure> {
        let LoginStep::Device {
            device_code,
            interval,
            next_ms,
        } = &stored.value.step
        else {
            return Ok(None);
        };
        if !self.inner.cluster.is_shared() {
            return Ok(Some(stored));
        }
        let now = milliseconds(self.inner.time.now_exact());
        let pause = i64::try_from(interval.saturating_mul(1000)).unwrap_or(i64::MAX);
        // One that lies much further ahead than the interval was written by a clock that is wrong, or ours is.
        let believable = now
            .saturating_add(pause)
            .saturating_add(TOLERANCE_SECONDS * 1000);
        if now + SLACK_MS < *next_ms && *next_ms <= believable {
            return Ok(None);
        }
        let step = LoginStep::Device {
            device_code: device_code.clone(),
            interval: *interval,
            next_ms: now.saturating_add(pause),
        };
        match self.advance(id, &stored, step).await {
            Ok(claimed) => Ok(Some(claimed)),
            // Another node was quicker, or the login has ended.
            Err(Failure::BadInput(BadInput::LoginExpired)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The issuer wants to be asked less often, by whichever node.
    async fn slow_down(&self, id: &[u8], stored: &Stored<LoginRecord>) {
        if let LoginStep::Device {
            device_code,
            interval,
            next_ms,
        } = &stored.value.step
            && self.inner.cluster.is_shared()
        {
            let step = LoginStep::Device {
                device_code: device_code.clone(),
                interval: interval.saturating_add(5),
                next_ms: next_ms.saturating_add(5000),
            };
            if let Err(failure) = self.advance(id, stored, step).await {
                tracing::debug!(%failure, "an issuer's wish for a slower pace could not be noted");
            }
        }
    }
}

/// A client that polls exactly at the interval is not made to wait a second one for a hair's breadth.
const SLACK_MS: i64 = 200;

fn milliseconds(time: std::time::Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
