//! The client asks whether its login is finished; for a device login the issuer is asked in turn, at the issuer's pace.

use gridkeep_issuer::{DevicePoll, IssuerError};
use secrecy::SecretString;

use super::callback::failed;
use super::{Poll, PollOutcome};
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
            keeper.inner.logins.asked(&id, slower, keeper.inner.time.boot());
            let _ = answer.send(());
        });
        let _ = tokio::time::timeout(self.inner.options.waiter, waiting).await;
        self.login_record(&request.issuer, &request.state)
            .await
            .map(|(_, stored)| stored)
    }
}
