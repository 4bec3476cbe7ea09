//! The login in a browser: prompt, polling, and logins that were finished after the program had given up.
//!
//! Owns the conversation with the login endpoints and its timing. What follows a login is in `flow`.

use std::fs;
use std::path::Path;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gridkeep_token::file::{ReadPolicy, read_secret};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::browser;
use super::flow::{Run, Stop};
use crate::files;
use crate::options::lifetime;
use crate::vault::{Auth, Poll, VaultError};

/// How long the server keeps an unfinished login, seconds.
const KEPT: i64 = 600;
/// The environment variable that lengthens the wait for the person.
const LOGIN_TIMEOUT: &str = "GRIDKEEP_LOGIN_TIMEOUT";

/// When to poll next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    interval: u64,
    limit: u64,
}

impl Pace {
    /// `interval` as the server sends it: text, usually.
    fn new(interval: Option<&Value>, limit: u64) -> Self {
        let interval = match interval {
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(Value::Number(number)) => number.as_u64(),
            _ => None,
        };
        Self {
            interval: interval.unwrap_or(5).clamp(1, 60),
            limit,
        }
    }

    /// RFC 8628 section 3.5: five seconds more, from now on.
    fn slow_down(&mut self) {
        self.interval += 5;
    }

    /// Seconds until the next poll after `elapsed`; none when the time is over.
    fn next(self, elapsed: u64) -> Option<u64> {
        let left = self.limit.saturating_sub(elapsed);
        (left > 0).then(|| self.interval.min(left))
    }
}

/// A login that the person may still finish.
#[derive(Serialize, Deserialize)]
struct Unfinished {
    server: String,
    /// What to send when polling.
    fields: Value,
    /// Seconds since 1970.
    started: i64,
}

/// What the server said to a new login.
struct Started {
    url: String,
    user_code: Option<String>,
    fields: Value,
    has_state: bool,
    pace: Pace,
}

impl Run<'_, '_> {
    /// Logs in and goes on to the bearer token; `None` when the login worked and the token cannot be read.
    pub(super) async fn log_in_with_browser(&mut self) -> Result<Option<SecretString>, Stop> {
        let limit = self.login_seconds()?;
        self.report.line(format_args!(
            "Attempting OIDC authentication with {}",
            self.settings.server
        ));
        let auth = match self.finished_late().await {
            Some(auth) => auth,
            None => {
                let started = self.start(limit).await?;
                self.prompt(&started).await;
                // From here a person decides how long it takes.
                self.vault.client().limit(None);
                let auth = self.wait(&started, limit).await?;
                self.vault
                    .client()
                    .limit(Some(self.environment.timing.unattended));
                auth
            }
        };
        self.after_login(&auth).await
    }

    fn login_seconds(&self) -> Result<u64, Stop> {
        let Some(text) = self.environment.var(LOGIN_TIMEOUT) else {
            return Ok(self.environment.timing.login_seconds);
        };
        match text.parse() {
            Ok(seconds) => Ok(seconds),
            Err(_) => lifetime(LOGIN_TIMEOUT, text).map_err(Stop::Fatal),
        }
    }

    /// Asks once after a login that an earlier run did not wait for.
    async fn finished_late(&mut self) -> Option<Auth> {
        let path = self.keep.unfinished_login(&self.settings.oidc_path)?;
        let text = read_secret(&path, ReadPolicy::DefaultLocation)
            .ok()
            .flatten()?;
        let unfinished: Unfinished = serde_json::from_str(text.expose_secret()).ok()?;
        let age = self.environment.now() - unfinished.started;
        let current =
            unfinished.server == self.settings.server.to_string() && (0..KEPT).contains(&age);
        let answer = if current {
            self.report
                .detail("asking after the login that was begun before");
            let oidc_path = self.settings.oidc_path.clone();
            self.vault
                .poll(&oidc_path, &unfinished.fields, &mut self.report)
                .await
                .ok()
        } else {
            None
        };
        let _ = fs::remove_file(&path);
        match answer {
            Some(Poll::Done(auth)) => Some(*auth),
            _ => None,
        }
    }

    async fn start(&mut self, limit: u64) -> Result<Started, Stop> {
        let client_nonce = nonce()?;
        let oidc_path = self.settings.oidc_path.clone();
        let redirect_uri = format!("{}/v1/{oidc_path}/callback", self.settings.alias);
        let data = self
            .vault
            .auth_url(
                &oidc_path,
                &self.options.role,
                &client_nonce,
                &redirect_uri,
                &mut self.report,
            )
            .await
            .map_err(|error| match error.error.is_temporary() {
                true => self.temporary(&error),
                false => Stop::Fatal(error.to_string()),
            })?;
        started(data, &client_nonce, &self.options.role, limit).map_err(Stop::Fatal)
    }

    /// Shows the URL, whatever the mode, and tries to open it.
    async fn prompt(&mut self, started: &Started) {
        let mut text = format!("\nComplete the authentication at:\n    {}\n", started.url);
        if let Some(code) = &started.user_code {
            text.push_str(&format!("and enter the code {code}\n"));
        }
        self.report.prompt(&text);
        let command = browser::command(self.options.web_open_command.as_deref(), self.environment);
        match command {
            None => self
                .report
                .line("No web open command defined, please open the above in any web browser"),
            Some(command) => {
                match browser::open(&command, &started.url, self.environment).await {
                    Ok(()) => self.report.detail(format_args!("opened with {command}")),
                    Err(reason) => self.report.prompt(&format!(
                        "Could not open a browser ({reason}), please open the above in any web browser\n"
                    )),
                }
            }
        }
        self.report.line("Waiting for response in web browser");
    }

    async fn wait(&mut self, started: &Started, limit: u64) -> Result<Auth, Stop> {
        let oidc_path = self.settings.oidc_path.clone();
        let second = self.environment.timing.second;
        let units =
            |seconds: u64| second.saturating_mul(u32::try_from(seconds).unwrap_or(u32::MAX));
        if !started.has_state {
            let answer = self
                .vault
                .device_wait(&oidc_path, &started.fields, units(limit), &mut self.report)
                .await;
            return match answer {
                Ok(Poll::Done(auth)) => Ok(*auth),
                Ok(_) => Err(Stop::Fatal(took_too_long(limit))),
                Err(error) => Err(Stop::Fatal(error.to_string())),
            };
        }
        self.remember(started);
        let mut pace = started.pace;
        let begin = Instant::now();
        let mut trouble = None;
        loop {
            let elapsed = begin.elapsed().as_nanos() / second.as_nanos().max(1);
            let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
            let Some(seconds) = pace.next(elapsed) else {
                let last = trouble.map_or_else(String::new, |error: VaultError| {
                    format!("; the server last said: {error}")
                });
                return Err(Stop::Fatal(took_too_long(limit) + &last));
            };
            sleep(units(seconds)).await;
            let answer = self
                .vault
                .poll(&oidc_path, &started.fields, &mut self.report)
                .await;
            match answer {
                Ok(Poll::Done(auth)) => {
                    self.forget();
                    return Ok(*auth);
                }
                Ok(Poll::Pending) => trouble = None,
                Ok(Poll::SlowDown) => {
                    trouble = None;
                    pace.slow_down();
                }
                // The login itself is not touched by trouble on the way to the server.
                Err(error) if error.error.is_temporary() => {
                    self.report.detail(&error);
                    trouble = Some(error);
                }
                Err(error) => {
                    self.forget();
                    return Err(Stop::Fatal(error.to_string()));
                }
            }
        }
    }

    fn remember(&mut self, started: &Started) {
        let Some(path) = self.keep.unfinished_login(&self.settings.oidc_path) else {
            return;
        };
        let unfinished = Unfinished {
            server: self.settings.server.to_string(),
            fields: started.fields.clone(),
            started: self.environment.now(),
        };
        let stored = serde_json::to_string(&unfinished)
            .map(Zeroizing::new)
            .map_err(|error| error.to_string())
            .and_then(|text| write_below(&path, text.as_bytes()));
        if let Err(error) = stored {
            self.report.detail(format_args!(
                "a login that is finished late will be lost: {error}"
            ));
        }
    }

    fn forget(&self) {
        if let Some(path) = self.keep.unfinished_login(&self.settings.oidc_path) {
            let _ = fs::remove_file(path);
        }
    }
}

fn write_below(path: &Path, content: &[u8]) -> Result<(), String> {
    if let Some(directory) = path.parent() {
        files::make_dir(directory).map_err(|error| error.to_string())?;
    }
    files::write(path, content).map_err(|error| error.to_string())
}

/// The words that callers look for; two minutes is the default.
fn took_too_long(limit: u64) -> String {
    let length = if limit.is_multiple_of(60) && limit > 60 {
        format!("{} minutes", limit / 60)
    } else {
        format!("{limit} seconds")
    };
    format!("Polling for response took longer than {length}")
}

/// 32 random bytes in base64url, without padding.
fn nonce() -> Result<String, Stop> {
    let mut bytes = [0u8; 32];
    rand::fill(&mut bytes)
        .map_err(|_| Stop::Fatal("the system gives no random numbers".to_owned()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Reads the `data` of a started login. All of it but what is for the person goes back when polling.
fn started(
    mut data: Map<String, Value>,
    client_nonce: &str,
    role: &str,
    limit: u64,
) -> Result<Started, String> {
    let url = match data.remove("auth_url") {
        Some(Value::String(url)) => url,
        _ => return Err("the server's answer to the login has no auth_url".to_owned()),
    };
    if url.is_empty() {
        return Err(
            "the server gave no URL to log in at: it does not accept the redirect address of this server name (see --vaultalias), or it cannot reach the token issuer, or is not accepted there as a client"
                .to_owned(),
        );
    }
    if !(url.starts_with("https://") || url.starts_with("http://"))
        || url.chars().any(|c| c.is_control() || c.is_whitespace())
    {
        return Err("the server gave a login address that is not a web address".to_owned());
    }
    let user_code = data
        .remove("user_code")
        .and_then(|code| code.as_str().map(str::to_owned))
        .filter(|code| !code.is_empty() && !code.chars().any(char::is_control));
    let pace = Pace::new(data.remove("poll_interval").as_ref(), limit);
    let has_state = data.contains_key("state");
    data.insert("client_nonce".to_owned(), Value::from(client_nonce));
    if !has_state {
        data.insert("role".to_owned(), Value::from(role));
    }
    Ok(Started {
        url,
        user_code,
        fields: Value::Object(data),
        has_state,
        pace,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn data(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    #[test]
    fn pace() {
        let mut pace = Pace::new(Some(&json!("3")), 120);
        assert_eq!(pace.next(0), Some(3));
        pace.slow_down();
        assert_eq!(pace.next(100), Some(8));
        assert_eq!(pace.next(118), Some(2));
        assert_eq!(pace.next(120), None);
        assert_eq!(Pace::new(Some(&json!("0")), 120).interval, 1);
        assert_eq!(Pace::new(Some(&json!(7)), 120).interval, 7);
        assert_eq!(Pace::new(None, 120).interval, 5);
        assert_eq!(Pace::new(Some(&json!("x")), 120).interval, 5);
    }

    #[test]
    fn all_but_what_is_for_people_goes_back() {
        let begun = started(
            data(json!({"auth_url": "https://x/?a", "user_code": "AB", "poll_interval": "3", "state": "s", "more": 1})),
            "n",
            "r",
            120,
        )
        .unwrap();
        assert_eq!(
            begun.fields,
            json!({"state": "s", "more": 1, "client_nonce": "n"})
        );
        assert_eq!(begun.user_code.as_deref(), Some("AB"));
        assert!(begun.has_state);
    }

    #[test]
    fn bad_answers() {
        for value in [
            json!({}),
            json!({"auth_url": ""}),
            json!({"auth_url": "javascript:x"}),
            json!({"auth_url": "https://x/\u{1b}[2J"}),
        ] {
            assert!(started(data(value), "n", "r", 120).is_err());
        }
    }

    #[test]
    fn exact_words() {
        assert_eq!(
            took_too_long(120),
            "Polling for response took longer than 2 minutes"
        );
        assert_eq!(
            took_too_long(90),
            "Polling for response took longer than 90 seconds"
        );
        assert_eq!(nonce().unwrap().len(), 43);
    }
}
