//! The authorization endpoint and what a browser sees on its way: login, consent, the device page (RFC 6749 4.1.1, OIDC Core 3.1.2,
//! RFC 8628 3.3). It ends with a code, a decision about a device, or an error at the client's redirect URI.

use axum::http::{HeaderMap, HeaderValue, header};
use secrecy::ExposeSecret as _;
use url::Url;

use super::form::{Answer, Form, cookie, page, redirect};
use super::options::Character;
use super::pages;
use super::problem::{Problem, Refusal};
use super::scopes::{allowed_for_client, audiences, resolve};
use super::state::{App, AuthRequest, Code, Decision, Device, Session, random_text, user_code};

/// Cookie of a logged-in browser.
const COOKIE: &str = "test_issuer_session";

fn robot(app: &App) -> Option<Session> {
    let user = app.user(app.options.auto_login.as_deref()?)?;
    Some(Session {
        user: user.name.clone(),
        auth_time: app.clock.now(),
    })
}

fn session(app: &App, headers: &HeaderMap) -> Option<Session> {
    if let Some(robot) = robot(app) {
        return Some(robot);
    }
    app.world().sessions.get(&cookie(headers, COOKIE)?).cloned()
}

/// `GET` or `POST` of the authorization endpoint.
pub(crate) fn authorize(app: &App, headers: &HeaderMap, form: &Form) -> Answer {
    let Some(client) = form.get("client_id").and_then(|id| app.client(id)) else {
        return page(
            400,
            pages::message(
                "Unknown client",
                "This request names no client that the issuer knows. Start again from your program.",
            ),
        );
    };
    let registered = |uri: &&str| {
        client.redirect_uris.is_empty() || client.redirect_uris.iter().any(|r| r == uri)
    };
    let Some(redirect_uri) = form
        .get("redirect_uri")
        .filter(registered)
        .filter(|uri| Url::parse(uri).is_ok())
    else {
        return page(
            400,
            pages::message(
                "Wrong redirect URI",
                "The address to return to is missing or not registered for this client.",
            ),
        );
    };
    let state = form.get("state").map(str::to_owned);
    let back = |refusal: &Refusal| {
        to_client(
            app,
            redirect_uri,
            state.as_deref(),
            &Outcome::Error(refusal),
        )
    };
    let invalid = |text: &str| back(&Refusal::new(400, "invalid_request", text));
    if form.get("response_type") != Some("code") {
        return back(&Refusal::new(
            400,
            "unsupported_response_type",
            "only response_type=code is supported",
        ));
    }
    let challenge = form.get("code_challenge").map(str::to_owned);
    match (&challenge, form.get("code_challenge_method")) {
        (None, _) if client.require_pkce => {
            return invalid("Missing parameter: code_challenge_method");
        }
        (Some(_), Some("S256")) | (None, _) => {}
        (Some(_), _) => return invalid("code_challenge_method must be S256"),
    }
    let scopes = match allowed_for_client(app, client, form.words("scope")) {
        Ok(scopes) => scopes,
        Err(problem) => return back(&app.refusal(&problem)),
    };
    if !scopes.iter().any(|s| s == "openid") {
        return back(&Refusal::new(
            400,
            "invalid_scope",
            "The openid scope is missing from the request.",
        ));
    }
    let audiences = match audiences(app, form, &scopes) {
        Ok(audiences) => audiences,
        Err(problem) => return back(&app.refusal(&problem)),
    };
    let request = AuthRequest {
        client: client.id.clone(),
        redirect_uri: redirect_uri.to_owned(),
        state: state.clone(),
        nonce: form.get("nonce").map(str::to_owned),
        scopes,
        audiences,
        challenge,
    };
    let known = session(app, headers).filter(|_| form.get("prompt") != Some("login"));
    if known.is_none() && form.get("prompt") == Some("none") {
        return back(&Refusal::new(400, "login_required", "nobody is logged in"));
    }
    let id = random_text(18);
    app.world().requests.insert(id.clone(), request);
    redirect(&format!(
        "/{}?request={id}",
        if known.is_some() { "consent" } else { "login" }
    ))
}

/// `GET /login`.
pub(crate) fn login_page(form: &Form) -> Answer {
    page(200, pages::login(&carried(form), None))
}

fn carried(form: &Form) -> Vec<(&'static str, &str)> {
    ["request", "user_code"]
        .into_iter()
        .filter_map(|name| Some((name, form.get(name)?)))
        .collect()
}

/// `POST /login`.
pub(crate) fn login(app: &App, form: &Form) -> Answer {
    let name = form.get("username").unwrap_or("");
    let given = form.get("password").unwrap_or("");
    let Some(user) = app
        .user(name)
        .filter(|u| u.password.expose_secret() == given)
    else {
        return page(
            401,
            pages::login(&carried(form), Some("User name or password is wrong.")),
        );
    };
    let id = random_text(24);
    app.world().sessions.insert(
        id.clone(),
        Session {
            user: user.name.clone(),
            auth_time: app.clock.now(),
        },
    );
    let next = match (form.get("request"), form.get("user_code")) {
        (Some(request), _) => format!("/consent?request={request}"),
        (None, Some(code)) => format!("{}?user_code={code}", app.paths.verification),
        (None, None) => app.paths.verification.clone(),
    };
    let mut answer = redirect(&next);
    if let Ok(value) = HeaderValue::from_str(&format!(
        "{COOKIE}={id}; Path=/; HttpOnly; Secure; SameSite=Lax"
    )) {
        answer.headers_mut().insert(header::SET_COOKIE, value);
    }
    answer
}

/// `GET` and `POST /consent`.
pub(crate) fn consent(app: &App, headers: &HeaderMap, form: &Form, posted: bool) -> Answer {
    let id = form.get("request").unwrap_or("");
    let Some(request) = app.world().requests.get(id).cloned() else {
        return page(
            400,
            pages::message(
                "Nothing to decide",
                "This login was finished before, or never started. Start again from your program.",
            ),
        );
    };
    let Some(session) = session(app, headers) else {
        return redirect(&format!("/login?request={id}"));
    };
    if app.options.ask_consent && app.options.auto_login.is_none() && !posted {
        return page(
            200,
            pages::consent(
                "/consent",
                &[("request", id)],
                &session.user,
                &request.client,
                &request.scopes,
            ),
        );
    }
    app.world().requests.remove(id);
    let state = request.state.clone();
    let back = |refusal: &Refusal| {
        to_client(
            app,
            &request.redirect_uri,
            state.as_deref(),
            &Outcome::Error(refusal),
        )
    };
    if posted && form.get("decision") != Some("approve") {
        return back(&Refusal::new(
            400,
            "access_denied",
            "The user denied the request",
        ));
    }
    let (Some(client), Some(user)) = (app.client(&request.client), app.user(&session.user)) else {
        return back(&Refusal::new(
            400,
            "server_error",
            "the client or the user is gone",
        ));
    };
    // Entitlements are decided again with the code; asking now sends the error where a browser can see it.
    if let Err(problem) = resolve(app, client, Some(user), &request.scopes) {
        return back(&app.refusal(&problem));
    }
    let code = random_text(24);
    let expires_ms = app.clock.now_ms() + app.options.code_seconds * 1000;
    let (uri, sid) = (request.redirect_uri.clone(), random_text(12));
    app.world().codes.insert(
        code.clone(),
        Code {
            request,
            session,
            expires_ms,
            used_by: None,
        },
    );
    to_client(
        app,
        &uri,
        state.as_deref(),
        &Outcome::Code {
            code: &code,
            sid: &sid,
        },
    )
}

enum Outcome<'a> {
    Code { code: &'a str, sid: &'a str },
    Error(&'a Refusal),
}

fn to_client(app: &App, redirect_uri: &str, state: Option<&str>, outcome: &Outcome<'_>) -> Answer {
    let Ok(mut url) = Url::parse(redirect_uri) else {
        return page(
            400,
            pages::message(
                "Wrong redirect URI",
                "The address to return to is not a valid one.",
            ),
        );
    };
    {
        let mut query = url.query_pairs_mut();
        match outcome {
            Outcome::Code { code, sid } => {
                query.append_pair("code", code);
                if app.options.character == Character::Keycloak {
                    query.append_pair("session_state", sid);
                }
            }
            Outcome::Error(refusal) => {
                query
                    .append_pair("error", &refusal.error)
                    .append_pair("error_description", &refusal.description);
            }
        }
        if let Some(state) = state {
            query.append_pair("state", state);
        }
        if matches!(app.options.character, Character::Wlcg | Character::Keycloak) {
            query.append_pair("iss", &app.issuer);
        }
    }
    redirect(url.as_str())
}

/// The device authorization endpoint (RFC 8628 3.1), after client authentication.
pub(crate) fn start_device(
    app: &App,
    client: &super::options::Client,
    form: &Form,
) -> Result<serde_json::Value, Problem> {
    let scopes = allowed_for_client(app, client, form.words("scope"))?;
    let audiences = audiences(app, form, &scopes)?;
    let device = Device {
        device_code: random_text(32),
        user_code: user_code(),
        client: client.id.clone(),
        scopes,
        audiences,
        expires_ms: app.clock.now_ms() + app.options.device_seconds * 1000,
        interval_ms: app.options.device_interval * 1000,
        last_poll_ms: None,
        decision: robot(app).map_or(Decision::Open, Decision::Approved),
    };
    let page = format!("{}{}", app.base, app.paths.verification);
    let mut body = serde_json::json!({
        "device_code": device.device_code,
        "user_code": device.user_code,
        "verification_uri": page,
        "verification_uri_complete": format!("{page}?user_code={}", device.user_code),
        "expires_in": app.options.device_seconds,
    });
    if app.options.character != Character::Iam {
        body["interval"] = serde_json::json!(app.options.device_interval);
    }
    let mut world = app.world();
    let now_ms = app.clock.now_ms();
    world.devices.retain(|d| now_ms < d.expires_ms + 86_400_000);
    world.devices.push(device);
    Ok(body)
}

/// The page where a person types the user code, confirms and is told the outcome.
pub(crate) fn device_page(app: &App, headers: &HeaderMap, form: &Form, posted: bool) -> Answer {
    let path = app.paths.verification.clone();
    let typed = form.get("user_code").map(normal);
    let Some(session) = session(app, headers) else {
        let carry = typed
            .map(|code| format!("?user_code={code}"))
            .unwrap_or_default();
        return redirect(&format!("/login{carry}"));
    };
    let Some(code) = typed else {
        return page(200, pages::device(&path, None));
    };
    let found = app
        .world()
        .devices
        .iter()
        .find(|d| d.user_code == code)
        .cloned();
    let Some(device) =
        found.filter(|d| app.clock.now_ms() < d.expires_ms && matches!(d.decision, Decision::Open))
    else {
        return page(
            404,
            pages::device(
                &path,
                Some(
                    "This code is unknown, expired or already used. Check it, or start again on the device.",
                ),
            ),
        );
    };
    let decided = match form.get("decision").filter(|_| posted) {
        Some("approve") => true,
        Some(_) => {
            decide_device(app, &code, None);
            return page(
                200,
                pages::message(
                    "Access denied",
                    "You have refused the device. You may close this page.",
                ),
            );
        }
        None => !app.options.ask_consent,
    };
    if !decided {
        return page(
            200,
            pages::consent(
                &path,
                &[("user_code", &code)],
                &session.user,
                &device.client,
                &device.scopes,
            ),
        );
    }
    decide_device(app, &code, Some(session));
    page(
        200,
        pages::message(
            "Device connected",
            "The device may now act for you. You may close this page.",
        ),
    )
}

/// Upper case with a dash in the middle, however it was typed.
fn normal(code: &str) -> String {
    let letters: String = code
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_uppercase())
        .collect();
    match letters.split_at_checked(4) {
        Some((left, right)) if !right.is_empty() => format!("{left}-{right}"),
        _ => letters,
    }
}

/// Records a person's decision (`None` = denied). False when no open request has this code.
pub(crate) fn decide_device(app: &App, code: &str, approved_by: Option<Session>) -> bool {
    let code = normal(code);
    let now_ms = app.clock.now_ms();
    let mut world = app.world();
    let open = world.devices.iter_mut().find(|d| {
        d.user_code == code && now_ms < d.expires_ms && matches!(d.decision, Decision::Open)
    });
    let Some(device) = open else { return false };
    let user = approved_by.as_ref().and_then(|s| app.user(&s.user));
    device.decision = match approved_by {
        Some(session) => {
            // Somebody without the right to what was asked is refused here, where a person can be told.
            let entitled = app
                .client(&device.client)
                .is_some_and(|c| resolve(app, c, user, &device.scopes).is_ok());
            if entitled {
                Decision::Approved(session)
            } else {
                Decision::Denied
            }
        }
        None => Decision::Denied,
    };
    true
}
