//! The beginning: where the person has to go, and the record of the login.

use gridkeep_issuer::{AuthorizationRequest, IssuerError};
use gridkeep_store::Guard;
use gridkeep_token::time::Seconds;
use secrecy::{ExposeSecret, SecretString};

use super::pace::LoginKind;
use super::{LOGIN_LIFE, LoginStart, LoginStarted, login_name, swept_from};
use crate::database::Change;
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::measure;
use crate::policy::known_issuer;
use crate::records::{LoginRecord, LoginStep};
use crate::refresh::issuer_failure;
use crate::removed::known_role;
use crate::secret::{Purpose, base62};
use crate::setup::CallbackMode;
use crate::tokens::later;

/// How often the client is asked to poll, in seconds, when the issuer does not say otherwise.
const POLL_INTERVAL: u64 = 3;
const LONGEST_NONCE: usize = 256;

impl Keeper {
    /// Starts a login.
    ///
    /// # Errors
    /// [`BadInput`] for what is missing or unknown, [`Failure::Later`] when the issuer cannot be asked or too many are under way.
    pub async fn login_start(&self, request: LoginStart) -> Result<LoginStarted, Failure> {
        let setup = self.setup();
        let now = self.now();
        let issuer = known_issuer(&setup, &request.issuer, now)?;
        let role_name = request
            .role
            .filter(|role| !role.is_empty())
            .unwrap_or_else(|| "default".to_owned());
        let role = known_role(&setup, issuer, &role_name, now)?;
        if !role.terms.admit(request.from) {
            return Err(BadInput::AddressNotAllowed {
                role: role.name.clone(),
                from: request.from,
            }
            .into());
        }
        let client_nonce = request
            .client_nonce
            .filter(|nonce| !nonce.is_empty() && nonce.len() <= LONGEST_NONCE)
            .ok_or(BadInput::MissingClientNonce)?;
        let (state, proven) = self.inner.mint.issue(Purpose::Login, now);
        let state = state.expose_secret().to_owned();
        let id = proven.id();
        let mut life = LOGIN_LIFE;
        // The issuer is asked at its own pace, however often the client comes by.
        let mut issuer_interval = POLL_INTERVAL;
        let kind = LoginKind {
            issuer: issuer.name.clone(),
            method: measure::method(issuer),
        };
        let place = self.inner.logins.admit(
            &setup.limits,
            id.clone(),
            kind.clone(),
            request.from,
            now,
            later(now, life),
        )?;
        let mut scopes = vec!["openid".to_owned()];
        scopes.extend(
            role.scopes
                .iter()
                .filter(|scope| *scope != "openid")
                .cloned(),
        );
        let (step, started) = if issuer.callback_mode == CallbackMode::Device {
            let device = issuer
                .client
                .start_device(&scopes)
                .await
                .map_err(|error| not_begun(&kind, &error))?;
            life = Seconds(life.0.min(device.expires_in.max(1)));
            let interval = device.interval.max(1);
            issuer_interval = interval;
            let started = LoginStarted {
                user_code: device
                    .verification_uri_complete
                    .is_none()
                    .then(|| device.user_code.clone()),
                auth_url: device
                    .verification_uri_complete
                    .unwrap_or(device.verification_uri),
                state: state.clone(),
                poll_interval: interval.min(POLL_INTERVAL),
                warnings: Vec::new(),
            };
            (
                LoginStep::Device {
                    device_code: device.device_code.expose_secret().to_owned(),
                    interval,
                    next_ms: 0,
                },
                started,
            )
        } else {
            let redirect_uri = request
                .redirect_uri
                .filter(|uri| !uri.is_empty())
                .ok_or(BadInput::MissingRedirectUri)?;
            let known = setup
                .callback_urls(&issuer.name)
                .any(|allowed| same_address(&allowed, &redirect_uri));
            if !known {
                let allowed = setup.callback_url(&issuer.name);
                return Ok(LoginStarted {
                    auth_url: String::new(),
                    state,
                    poll_interval: POLL_INTERVAL,
                    user_code: None,
                    warnings: vec![format!(
                        "the redirect address {redirect_uri} is not allowed; this server is known to its issuers as {allowed}; use that name with htgettoken -a or --vaultalias"
                    )],
                });
            }
            let code_verifier = base62(64);
            let nonce = base62(32);
            let auth_url = issuer
                .client
                .authorization_url(&AuthorizationRequest {
                    redirect_uri: redirect_uri.clone(),
                    scopes,
                    state: state.clone(),
                    nonce: nonce.clone(),
                    code_verifier: SecretString::from(code_verifier.clone()),
                })
                .await
                .map_err(|error| not_begun(&kind, &error))?;
            let started = LoginStarted {
                auth_url,
                state: state.clone(),
                poll_interval: POLL_INTERVAL,
                user_code: None,
                warnings: Vec::new(),
            };
            (
                LoginStep::Code {
                    redirect_uri,
                    code_verifier,
                    nonce,
                },
                started,
            )
        };
        let deadline = later(now, life);
        let record = LoginRecord {
            issuer: issuer.name.clone(),
            issuer_url: issuer.url.clone(),
            client_id: issuer.client_id.clone(),
            role: role.name.clone(),
            client_nonce,
            started_at: now,
            deadline,
            from: request.from,
            step,
        };
        let mut change = Change::new();
        change.guard(Guard::Absent(login_name(&id))).put(
            login_name(&id),
            &record,
            Some(swept_from(deadline)),
        )?;
        self.inner.db.commit(change).await?;
        place.keep(deadline, issuer_interval, self.inner.time.boot());
        kind.came_to("started");
        Ok(started)
    }
}

/// A login that ends before it has begun, because the issuer does not take part. No later step counts it.
fn not_begun(kind: &LoginKind, error: &IssuerError) -> Failure {
    tracing::warn!(issuer = kind.issuer, %error, "a login could not be started");
    kind.came_to("failed");
    issuer_failure("login", error)
}

/// Whether an issuer may send the browser to `given`: the same address, or for a loopback host the same but for the port.
fn same_address(allowed: &str, given: &str) -> bool {
    if allowed == given {
        return true;
    }
    let (Ok(mut allowed), Ok(mut given)) = (url::Url::parse(allowed), url::Url::parse(given))
    else {
        return false;
    };
    let loopback =
        |url: &url::Url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if !loopback(&allowed) || !loopback(&given) {
        return false;
    }
    allowed.set_port(None).is_ok() && given.set_port(None).is_ok() && allowed == given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_may_differ_in_its_port() {
        for (allowed, given, same) in [
            (
                "https://t.lab.example:8200/v1/x",
                "https://t.lab.example:8200/v1/x",
                true,
            ),
            (
                "https://t.lab.example:8200/v1/x",
                "https://t.lab.example:8201/v1/x",
                false,
            ),
            (
                "https://localhost:8200/v1/x",
                "https://localhost:41234/v1/x",
                true,
            ),
            (
                "https://localhost:8200/v1/x",
                "https://localhost:41234/v1/y",
                false,
            ),
            (
                "https://localhost:8200/v1/x",
                "http://localhost:8200/v1/x",
                false,
            ),
            (
                "https://t.lab.example:8200/v1/x",
                "https://localhost:8200/v1/x",
                false,
            ),
            ("https://t.lab.example:8200/v1/x", "nonsense", false),
        ] {
            assert_eq!(same_address(allowed, given), same, "{allowed} {given}");
        }
    }
}
