//! Login at a token issuer: beginning it, the browser's return, and the client's question whether it is done.

use std::time::Duration;

use aws_lc_rs::hmac;
use gridkeep_keeper::{
    BadInput, Callback, CallbackOutcome, Failure, Later, LaterKind, LoginStart, Operation, Poll,
    PollOutcome,
};
use gridkeep_web::ConfirmLogin;
use http::{HeaderMap, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Map;

use crate::answer::{Answer, Auth};
use crate::failure::Trouble;
use crate::fields::Fields;
use crate::service::{Call, Inner};

/// How long a client waits for the issuer at most: the stock clients give up after ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);

pub(super) async fn auth_url(
    inner: &Inner,
    issuer: &str,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    require(call.operation == Operation::Update)?;
    let fields = &mut call.fields;
    let request = LoginStart {
        issuer: issuer.to_owned(),
        role: fields.lower_text("role")?.filter(|role| !role.is_empty()),
        redirect_uri: fields.text("redirect_uri")?.filter(|uri| !uri.is_empty()),
        client_nonce: fields
            .text("client_nonce")?
            .filter(|nonce| !nonce.is_empty()),
        from: Some(call.peer.ip()),
    };
    // Giving up costs a device code at most; nothing is stored before the issuer has answered.
    let starting = tokio::time::timeout(PATIENCE, inner.keeper.login_start(request));
    let mut started = starting.await.map_err(|_| {
        let text = format!(
            "issuer \"{issuer}\" did not answer within {} seconds; try again in a minute",
            PATIENCE.as_secs()
        );
        Failure::from(Later::new(LaterKind::IssuerSlow, text).after(Duration::from_secs(30)))
    })??;
    let warnings = std::mem::take(&mut started.warnings);
    let mut data = Map::new();
    data.insert("auth_url".to_owned(), started.auth_url.into());
    if !started.state.is_empty() {
        data.insert("state".to_owned(), started.state.into());
        // A text, as the original has it.
        data.insert(
            "poll_interval".to_owned(),
            started.poll_interval.to_string().into(),
        );
    }
    if let Some(code) = started.user_code {
        data.insert("user_code".to_owned(), code.into());
    }
    Ok(Answer::data(data).with_warnings(warnings))
}

pub(super) async fn poll(
    inner: &Inner,
    issuer: &str,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    require(call.operation == Operation::Update)?;
    let fields = &mut call.fields;
    let request = Poll {
        issuer: issuer.to_owned(),
        state: fields.text("state")?.unwrap_or_default(),
        client_nonce: fields.text("client_nonce")?.unwrap_or_default(),
        from: Some(call.peer.ip()),
    };
    match inner.keeper.login_poll(request).await? {
        PollOutcome::Pending => Err(Trouble::bad("authorization_pending")),
        PollOutcome::LoggedIn(login) => {
            let issued = login.issued;
            let lease_duration = issued.token.creation_ttl.0;
            let auth = Auth {
                secret: Some(issued.secret),
                token: issued.token,
                handle: Some(login.handle),
                lease_duration,
            };
            Ok(Answer::auth(auth).with_warnings(issued.warnings))
        }
    }
}

pub(super) fn jwt(inner: &Inner, issuer: &str, call: &mut Call<'_>) -> Result<Answer, Trouble> {
    require(call.operation == Operation::Update)?;
    if inner.keeper.setup().issuer(issuer).is_none() {
        return Err(BadInput::UnknownIssuer {
            issuer: issuer.to_owned(),
        }
        .into());
    }
    Err(Trouble::bad("role with oidc role_type is not allowed"))
}

pub(super) async fn callback(
    inner: &Inner,
    issuer: &str,
    call: &mut Call<'_>,
) -> Result<Answer, Trouble> {
    require(matches!(
        call.operation,
        Operation::Read | Operation::Update
    ))?;
    let visit = Visit::take(inner, issuer, call)?;
    let html = wants_html(call.headers);
    match visit {
        Visit::Forged => Ok(Answer::page(gridkeep_web::problem(
            400,
            "The confirmation did not come from the page this server showed.",
        ))),
        Visit::Return {
            state,
            code,
            error,
            error_description,
            confirmed,
        } => {
            let request = Callback {
                issuer: issuer.to_owned(),
                state: state.clone(),
                code: code.clone(),
                error: error.clone(),
                error_description,
                confirmed,
                from: Some(call.peer.ip()),
            };
            match inner.keeper.callback(request).await {
                Ok(CallbackOutcome::Confirm {
                    requester,
                    role,
                    issuer,
                }) => {
                    let code = code.as_ref().map_or("", |code| code.expose_secret());
                    let token = form_token(inner, &issuer, &state, code);
                    Ok(Answer::page(gridkeep_web::confirm(&ConfirmLogin {
                        issuer: &issuer,
                        role: &role,
                        requester,
                        state: &state,
                        code,
                        token: &token,
                    })))
                }
                Ok(CallbackOutcome::Done {
                    issuer,
                    role,
                    owner,
                }) => Ok(Answer::page(gridkeep_web::done(&issuer, &role, &owner))),
                Ok(CallbackOutcome::Denied { error }) => {
                    Ok(Answer::page(gridkeep_web::denied(issuer, &error)))
                }
                Err(failure) => page_or_json(failure, html),
            }
        }
    }
}

/// What a browser came with.
enum Visit {
    Return {
        state: String,
        code: Option<SecretString>,
        error: Option<String>,
        error_description: Option<String>,
        confirmed: bool,
    },
    /// A form that this server did not make for this state and code.
    Forged,
}

impl Visit {
    fn take(inner: &Inner, issuer: &str, call: &mut Call<'_>) -> Result<Visit, Trouble> {
        let text = |fields: &mut Fields, name: &str| -> Result<Option<String>, Trouble> {
            Ok(fields.text(name)?.filter(|text| !text.is_empty()))
        };
        let fields = &mut call.fields;
        let state = text(fields, "state")?.unwrap_or_default();
        let code = text(fields, "code")?;
        let error = text(fields, "error")?;
        let error_description = text(fields, "error_description")?;
        // The form is how this server asks. The bare parameter is how the original does; its links stay valid.
        let confirmed = match (text(fields, "form_token")?, text(fields, "confirmation")?) {
            (Some(token), _) => {
                if !is_form_token(inner, issuer, &state, code.as_deref().unwrap_or(""), &token) {
                    return Ok(Visit::Forged);
                }
                true
            }
            (None, confirmation) => {
                call.operation == Operation::Read
                    && confirmation.is_some_and(|value| !matches!(value.as_str(), "0" | "false"))
            }
        };
        Ok(Visit::Return {
            state,
            code: code.map(SecretString::from),
            error,
            error_description,
            confirmed,
        })
    }
}

/// Proves that a form was made here for this issuer, state and code.
fn form_token(inner: &Inner, issuer: &str, state: &str, code: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode(hmac::sign(&inner.form_key, &form_text(issuer, state, code)))
}

fn is_form_token(inner: &Inner, issuer: &str, state: &str, code: &str, token: &str) -> bool {
    use base64::Engine as _;
    let tag = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token);
    tag.is_ok_and(|tag| {
        hmac::verify(&inner.form_key, &form_text(issuer, state, code), &tag).is_ok()
    })
}

fn form_text(issuer: &str, state: &str, code: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(issuer.len() + state.len() + code.len() + 24);
    for part in [issuer, state, code] {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part.as_bytes());
    }
    text
}

/// A person gets a page, a program the same as JSON.
fn page_or_json(failure: Failure, html: bool) -> Result<Answer, Trouble> {
    if !html {
        return Err(failure.into());
    }
    if matches!(failure, Failure::BadInput(BadInput::LoginExpired)) {
        return Ok(Answer::page(gridkeep_web::expired()));
    }
    let answer = Answer::from(Trouble::from(failure));
    let status = if answer.status.is_success() {
        StatusCode::BAD_REQUEST
    } else {
        answer.status
    };
    let text = answer
        .error_text()
        .unwrap_or("Nothing is known about this login.")
        .to_owned();
    Ok(Answer::page(gridkeep_web::problem(status.as_u16(), &text)).retry_after(answer.retry_after))
}

fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.to_ascii_lowercase().contains("text/html"))
    })
}

fn require(supported: bool) -> Result<(), Trouble> {
    if supported {
        Ok(())
    } else {
        Err(Trouble::unsupported())
    }
}
