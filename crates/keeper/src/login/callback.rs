//! The browser comes back from the issuer, and how the outcome of a login reaches the one who polls.

use std::time::Duration;

use secrecy::SecretString;

use super::{Callback, CallbackOutcome};
use crate::database::Stored;
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::records::{LoginRecord, LoginStep, ReadyLogin};
use crate::refresh::issuer_failure;
use crate::setup::CallbackMode;

/// Marks a stored outcome that is a whole text, not the code of an error.
const TEXT: &str = "text:";
/// Between two attempts to store what a login has come to; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Keeper {
    /// The browser comes back from the issuer.
    ///
    /// # Errors
    /// [`BadInput::LoginExpired`] for an unknown, late or used state; [`Failure::Later`] when the store does not answer.
    pub async fn callback(&self, request: Callback) -> Result<CallbackOutcome, Failure> {
        let (id, stored) = self.login_record(&request.issuer, &request.state).await?;
        let LoginStep::Code {
            redirect_uri,
            code_verifier,
            nonce,
        } = &stored.value.step
        else {
            return Err(BadInput::LoginExpired.into());
        };
        let setup = self.setup();
        let issuer = self.issuer_of_login(&setup, &stored.value)?.clone();
        if let Some(error) = request.error {
            tracing::info!(
                issuer = issuer.name,
                error,
                description = request.error_description,
                "a login was refused at the issuer"
            );
            let error = standard_error(&error);
            let kind = self.kind_of_login(&stored.value);
            self.advance(
                &id,
                &stored,
                LoginStep::Failed {
                    code: error.clone(),
                },
            )
            .await?;
            kind.refused(&error);
            return Ok(CallbackOutcome::Denied { error });
        }
        let code = request.code.ok_or_else(|| BadInput::Other("the issuer sent the browser back with neither a code nor an error; start the login again".into()))?;
        if issuer.callback_mode == CallbackMode::Direct && !request.confirmed {
            return Ok(CallbackOutcome::Confirm {
                requester: stored.value.from,
                issuer: issuer.name,
                role: stored.value.role.clone(),
            });
        }
        let (redirect_uri, code_verifier, nonce) = (
            redirect_uri.clone(),
            SecretString::from(code_verifier.clone()),
            nonce.clone(),
        );
        // From here on the code is this callback's alone.
        let stored = self.advance(&id, &stored, LoginStep::Redeeming).await?;
        let role = stored.value.role.clone();
        let (answer, waiting) = tokio::sync::oneshot::channel();
        let keeper = self.clone();
        self.own(async move {
            let asked = keeper.now();
            let outcome = match issuer
                .client
                .redeem_code(&code, &redirect_uri, &code_verifier)
                .await
            {
                Ok(response) => {
                    keeper
                        .accept(&issuer, &stored.value.role, &response, Some(&nonce), asked)
                        .await
                }
                Err(error) => Err(issuer_failure("login", &error)),
            };
            let shown = keeper
                .finish_step(&id, &stored, &issuer.name, outcome)
                .await;
            let _ = answer.send(shown);
        });
        match tokio::time::timeout(self.inner.options.waiter, waiting).await {
            Ok(Ok(Ok(owner))) => Ok(CallbackOutcome::Done { issuer: request.issuer, role, owner }),
            Ok(Ok(Err(code))) => Ok(CallbackOutcome::Denied { error: code }),
            _ => Err(Later::new(LaterKind::IssuerSlow, "the token issuer has not confirmed the login yet; go back to the program that asked you to log in, it may go on by itself; else start again").into()),
        }
    }

    /// Writes what a login has come to; tells the owner key or the error code.
    pub(super) async fn finish_step(
        &self,
        id: &[u8],
        stored: &Stored<LoginRecord>,
        issuer: &str,
        outcome: Result<ReadyLogin, Failure>,
    ) -> Result<String, String> {
        let (step, shown) = match outcome {
            Ok(ready) => {
                let owner = ready.owner.clone();
                (
                    LoginStep::Ready {
                        login: Box::new(ready),
                    },
                    Ok(owner),
                )
            }
            Err(failure) => {
                tracing::warn!(issuer, %failure, "a login failed");
                let code = failure_code(&failure);
                let shown = match &failure {
                    // The person is not one of those the role is for: nothing is wrong with issuer or server.
                    Failure::BadInput(BadInput::ClaimNotBound { .. }) => "access_denied".to_owned(),
                    _ if code.starts_with(TEXT) => "server_error".to_owned(),
                    _ => code.clone(),
                };
                (LoginStep::Failed { code }, Err(shown))
            }
        };
        match self.write_outcome(id, stored, step).await {
            Ok(()) => {
                if let Err(code) = &shown {
                    self.kind_of_login(&stored.value).refused(code);
                }
                shown
            }
            Err(failure) => {
                tracing::error!(issuer, %failure, "the outcome of a login could not be stored; the person has to log in again");
                Err("temporarily_unavailable".to_owned())
            }
        }
    }
}

impl Keeper {
    /// Tries for as long as the login lasts, or once more when the server stops: what an issuer gave for a code cannot be had again.
    async fn write_outcome(
        &self,
        id: &[u8],
        stored: &Stored<LoginRecord>,
        step: LoginStep,
    ) -> Result<(), Failure> {
        let (mut wait, mut tried) = (FIRST_WAIT, false);
        let mut stop = self.stopping();
        loop {
            let last = *stop.borrow();
            match self.advance(id, stored, step.clone()).await {
                Ok(_) => return Ok(()),
                // Written by an attempt whose answer was lost: nobody else moves this login on.
                Err(Failure::BadInput(BadInput::LoginExpired)) if tried => return Ok(()),
                Err(Failure::Later(later)) if !last && self.now() < stored.value.deadline => {
                    tracing::warn!(%later, "the outcome of a login could not be stored yet");
                    tried = true;
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

pub(super) fn failed(code: &str) -> Failure {
    match code.strip_prefix(TEXT) {
        Some(text) => BadInput::Other(text.to_owned()).into(),
        None => BadInput::LoginFailed {
            code: code.to_owned(),
        }
        .into(),
    }
}

/// How the poller is told of a failure that happened elsewhere.
fn failure_code(failure: &Failure) -> String {
    match failure {
        Failure::BadInput(BadInput::LoginFailed { code }) => code.clone(),
        Failure::BadInput(BadInput::IssuerRejected { error, .. }) => error.clone(),
        Failure::BadInput(other) => format!("{TEXT}{other}"),
        _ => "temporarily_unavailable".to_owned(),
    }
}

/// Only the codes of RFC 6749 section 4.1.2.1 and OpenID Connect are shown; anything else could be anybody's text.
fn standard_error(error: &str) -> String {
    const KNOWN: [&str; 11] = [
        "invalid_request",
        "unauthorized_client",
        "access_denied",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "interaction_required",
        "login_required",
        "account_selection_required",
        "consent_required",
    ];
    if KNOWN.contains(&error) {
        error.to_owned()
    } else {
        "server_error".to_owned()
    }
}
