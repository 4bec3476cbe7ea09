//! Every page that a person sees.
//!
//! Owns the words, the markup and the response headers of those pages. Refuses to know where a request came from, what a
//! state or a code is worth, or any status code's reason: a dialect decides which page it is, this crate says it to a person.
//! Pages are self-contained (no script, no image, no font, nothing fetched) and every value is escaped by the template engine.
//!
//! A new page is one template in `templates/`, one struct naming its values, and one function below that returns a [`Page`].

use std::fmt;
use std::net::IpAddr;

use askama::Template;

/// The style of every page. Inline, allowed by its hash in [`HEADERS`] and by nothing else.
const STYLE: &str = include_str!("../templates/style.css");

/// The response headers that go with every page: no cache keeps it, no frame shows it, nothing is loaded or run.
///
/// The hash is that of `templates/style.css`, to the byte; a test computes it.
pub const HEADERS: [(&str, &str); 6] = [
    ("content-type", "text/html; charset=utf-8"),
    ("cache-control", "no-store"),
    (
        "content-security-policy",
        "default-src 'none'; style-src 'sha256-tLkc7Ysm1wQ1opU8OKG0KTnia9/ojkgErlCwp7GnD1I='; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("x-frame-options", "DENY"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
];

/// A finished page: to be sent with [`HEADERS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The HTTP status that fits the page.
    pub status: u16,
    /// The whole document.
    pub html: String,
}

#[derive(Template)]
#[template(path = "confirm.html")]
struct Confirm<'a> {
    style: &'static str,
    issuer: &'a str,
    role: &'a str,
    requester: &'a str,
    state: &'a str,
    code: &'a str,
    token: &'a str,
}

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    style: &'static str,
    title: &'a str,
    tone: &'static str,
    sentences: &'a [&'a str],
    facts: &'a [(&'a str, &'a str)],
}

/// What the confirmation page asks about.
#[derive(Clone, Copy)]
pub struct ConfirmLogin<'a> {
    /// Name of the issuer the person logged in at.
    pub issuer: &'a str,
    /// Role that was asked for.
    pub role: &'a str,
    /// Address of the program that asked for the login (not the browser's).
    pub requester: Option<IpAddr>,
    /// The `state` of the redirect, sent back by the form.
    pub state: &'a str,
    /// The authorization code of the redirect, sent back by the form.
    pub code: &'a str,
    /// The form token: proves that the form came from this page and belongs to this state and code.
    pub token: &'a str,
}

impl fmt::Debug for ConfirmLogin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfirmLogin")
            .field("issuer", &self.issuer)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Asks the person to confirm that the login is theirs. The form posts to the address the page was shown at.
pub fn confirm(login: &ConfirmLogin<'_>) -> Page {
    let requester = login
        .requester
        .map(|address| address.to_canonical().to_string());
    finish(
        200,
        &Confirm {
            style: STYLE,
            issuer: login.issuer,
            role: login.role,
            requester: requester
                .as_deref()
                .unwrap_or("an address that was not recorded"),
            state: login.state,
            code: login.code,
            token: login.token,
        },
    )
}

/// The login is complete; `owner` is the name the credential is kept under.
pub fn done(issuer: &str, role: &str, owner: &str) -> Page {
    message(
        200,
        "Login complete",
        "good",
        &[
            "You are logged in. The program that asked for this login continues by itself.",
            "You can close this window.",
        ],
        &[("Issuer", issuer), ("Role", role), ("Logged in as", owner)],
    )
}

/// The issuer answered the login with an error; `error` is its code.
///
/// Only the codes of RFC 6749 section 4.1.2.1 and OpenID Connect Core section 3.1.2.6 are repeated; anything else may be somebody's
/// own text and becomes a general sentence.
pub fn denied(issuer: &str, error: &str) -> Page {
    let sentence = match error {
        "access_denied" => {
            "The login was refused: either you declined it, or it is not allowed for your account."
        }
        "invalid_request"
        | "unauthorized_client"
        | "unsupported_response_type"
        | "invalid_scope" => {
            "The issuer does not accept the request of this server. This is a matter of configuration: tell your operator the code below."
        }
        "server_error" | "temporarily_unavailable" => {
            "The issuer has a problem at the moment. Try again in a few minutes."
        }
        "interaction_required"
        | "login_required"
        | "account_selection_required"
        | "consent_required" => {
            "The issuer needs you to log in or to agree first. Start again and follow its pages."
        }
        _ => "The issuer ended the login with an error.",
    };
    let known = is_standard_code(error);
    let facts: &[(&str, &str)] = &[
        ("Issuer", issuer),
        (
            "Code",
            if known {
                error
            } else {
                "not a standard code; the server's log has it"
            },
        ),
    ];
    message(
        400,
        "Login refused",
        "bad",
        &[
            sentence,
            "Nothing was stored. You can close this window; the program that asked is told.",
        ],
        facts,
    )
}

/// Whether `error` is an error code of the authorization response that standards define.
pub fn is_standard_code(error: &str) -> bool {
    matches!(
        error,
        "access_denied"
            | "invalid_request"
            | "unauthorized_client"
            | "unsupported_response_type"
            | "invalid_scope"
            | "server_error"
            | "temporarily_unavailable"
            | "interaction_required"
            | "login_required"
            | "account_selection_required"
            | "consent_required"
    )
}

/// The login is over: too late, already used, or never begun here.
pub fn expired() -> Page {
    message(
        400,
        "This login is over",
        "bad",
        &[
            "The address you opened belongs to a login that has expired, was already completed, or did not begin at this server.",
            "If you just completed it, there is nothing more to do: close this window. Otherwise start again from your command line.",
        ],
        &[],
    )
}

/// Something else went wrong; `what` is a full sentence that may be shown to anybody.
pub fn problem(status: u16, what: &str) -> Page {
    message(
        status,
        "The login could not be completed",
        "bad",
        &[
            what,
            "Start again from your command line. If it happens again, tell your operator the text above.",
        ],
        &[],
    )
}

/// What `/ui/` shows: that this is a server for programs.
pub fn landing(version: &str) -> Page {
    message(
        200,
        "gridkeep",
        "plain",
        &[
            "This server keeps credentials for grid users and hands out short-lived tokens. There is nothing to click here: programs such as htgettoken talk to it.",
            "The API lives below /v1/. Its state is at /v1/sys/health.",
        ],
        &[("Version", version)],
    )
}

fn message(
    status: u16,
    title: &str,
    tone: &'static str,
    sentences: &[&str],
    facts: &[(&str, &str)],
) -> Page {
    finish(
        status,
        &Message {
            style: STYLE,
            title,
            tone,
            sentences,
            facts,
        },
    )
}

fn finish(status: u16, template: &impl Template) -> Page {
    match template.render() {
        Ok(html) => Page { status, html },
        // Rendering into a String fails only if a value's Display does, and all values here are plain text.
        Err(_) => Page {
            status: 500,
            html: "<!doctype html><title>Error</title><p>This page could not be produced.</p>"
                .to_owned(),
        },
    }
}

#[cfg(test)]
mod tests;
