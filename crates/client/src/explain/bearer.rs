//! The bearer token: where discovery finds it and what it says.

use super::{Fate, Place, length, list, places_json, printable};
use crate::decode::{claims, moment};
use crate::environment::Environment;
use gridkeep_token::discovery::{self, DiscoveryError, Found, Source, discover};
use gridkeep_token::time::UnixSeconds;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::Path;
use zeroize::Zeroizing;

/// What token discovery sees of `environment`.
fn seen(environment: &Environment) -> discovery::Environment {
    let variable = |name: &str| {
        let value = environment.var_os(name)?;
        // Names of files start from where the command runs.
        let is_file = name != "BEARER_TOKEN" && !value.is_empty();
        Some(if is_file {
            environment.absolute(Path::new(value)).into()
        } else {
            value.to_owned()
        })
    };
    let mut seen = discovery::Environment::from_variables(variable, environment.euid);
    seen.tmp.clone_from(&environment.tmp);
    seen
}

/// The token that discovery finds, and its place as text.
///
/// # Errors
/// A sentence that never holds the token.
pub fn discovered(environment: &Environment) -> Result<(Zeroizing<String>, String), String> {
    let found = discover(&seen(environment)).map_err(|error| error.to_string())?;
    Ok((
        Zeroizing::new(found.token.expose_secret().to_owned()),
        found.source.to_string(),
    ))
}

/// What there is to say about the bearer token.
pub struct Bearer {
    places: Vec<Place>,
    /// The claims of the token, where there is one and it is a JWT.
    claims: Option<Map<String, Value>>,
    found: bool,
    now: UnixSeconds,
    notes: Vec<String>,
}

/// Looks for the token.
pub fn look(environment: &Environment) -> Bearer {
    let seen = seen(environment);
    let answer = discover(&seen);
    let mut places = Vec::new();
    for step in 1..=4 {
        places.push(place(step, environment, &seen, &answer));
    }
    let mut bearer = Bearer {
        places,
        claims: None,
        found: false,
        now: UnixSeconds(environment.now()),
        notes: Vec::new(),
    };
    if let Ok(found) = &answer {
        bearer.found = true;
        let token = found.token.expose_secret();
        match claims(token) {
            Ok(claims) => bearer.claims = Some(claims),
            Err(_) => bearer.notes.push(
                "The token is not a JWT, so nothing more can be said about it here.".to_owned(),
            ),
        }
        bearer.note_hidden_files(found, environment);
    }
    bearer.note_percent(environment);
    bearer.note_life();
    bearer
}

/// What became of step `step` of the standard.
fn place(
    step: u8,
    environment: &Environment,
    seen: &discovery::Environment,
    answer: &Result<Found, DiscoveryError>,
) -> Place {
    let uid = environment.euid;
    let (variable, name) = match step {
        1 => (Some("BEARER_TOKEN"), "$BEARER_TOKEN".to_owned()),
        2 => (Some("BEARER_TOKEN_FILE"), "$BEARER_TOKEN_FILE".to_owned()),
        3 => (
            Some("XDG_RUNTIME_DIR"),
            format!("$XDG_RUNTIME_DIR/bt_u{uid}"),
        ),
        _ => (
            None,
            environment
                .tmp
                .join(format!("bt_u{uid}"))
                .display()
                .to_string(),
        ),
    };
    let value = variable.and_then(|variable| environment.var_os(variable));
    let file = match step {
        2 => seen
            .bearer_token_file
            .as_deref()
            .map(|path| path.to_string_lossy().into_owned()),
        3 => seen.xdg_runtime_dir.as_deref().map(|path| {
            Path::new(path)
                .join(format!("bt_u{uid}"))
                .display()
                .to_string()
        }),
        _ => None,
    };
    let file = file.filter(|_| value.is_some_and(|value| !value.is_empty()));
    let name = file.map_or_else(|| name.clone(), |file| format!("{name} = {file}"));
    let ended = ended_at(answer);
    let (fate, why) = match ended {
        Some(end) if step > end => (Fate::NotReached, String::new()),
        Some(end) if step == end => match answer {
            Ok(_) => (Fate::Used, String::new()),
            Err(error) => (Fate::Refused, error.to_string()),
        },
        _ => (Fate::PassedOver, passed_over(step, variable, value, seen)),
    };
    Place { name, fate, why }
}

/// The step at which the search ended with a token or an error.
fn ended_at(answer: &Result<Found, DiscoveryError>) -> Option<u8> {
    match answer {
        Ok(found) => Some(found.source.step()),
        Err(DiscoveryError::NotFound { .. }) => None,
        Err(
            DiscoveryError::Invalid { source_place, .. }
            | DiscoveryError::Unreadable { source_place, .. }
            | DiscoveryError::ForeignOwner { source_place, .. }
            | DiscoveryError::TooLarge { source_place }
            | DiscoveryError::TimedOut { source_place, .. },
        ) => Some(source_place.step()),
    }
}

/// Why discovery went on after `step`.
fn passed_over(
    step: u8,
    variable: Option<&str>,
    value: Option<&OsStr>,
    seen: &discovery::Environment,
) -> String {
    if let Some(variable) = variable {
        match value {
            None => return format!("{variable} is not set"),
            Some(value) if value.is_empty() => return format!("{variable} is set to nothing"),
            Some(_) if step == 1 => return format!("{variable} holds only white space"),
            Some(_) => {}
        }
    }
    let file = match step {
        2 => seen
            .bearer_token_file
            .as_ref()
            .map(|path| Path::new(path).to_owned()),
        3 => seen
            .xdg_runtime_dir
            .as_ref()
            .map(|path| Path::new(path).join(format!("bt_u{}", seen.uid))),
        _ => Some(seen.tmp.join(format!("bt_u{}", seen.uid))),
    };
    match file {
        Some(file) if file.exists() => "the file is empty".to_owned(),
        _ => "the file does not exist".to_owned(),
    }
}

impl Bearer {
    /// Whether programs would find a token that has not expired.
    pub fn is_usable(&self) -> bool {
        self.found && self.left().is_none_or(|left| left > 0)
    }

    /// Seconds until `exp`.
    fn left(&self) -> Option<i64> {
        Some(moment(self.claims.as_ref()?.get("exp")?)?.saturating_sub(self.now.0))
    }

    fn note_hidden_files(&mut self, found: &Found, environment: &Environment) {
        if found.source != Source::Variable {
            return;
        }
        let mut behind = environment.clone();
        behind.vars.remove(&OsString::from("BEARER_TOKEN"));
        if let Ok(hidden) = discover(&seen(&behind)) {
            self.notes.push(format!("$BEARER_TOKEN hides {}: renewing that file has no effect while the variable is set.", hidden.source));
        }
    }

    fn note_percent(&mut self, environment: &Environment) {
        if environment
            .var("BEARER_TOKEN_FILE")
            .is_some_and(|name| name.contains("%uid"))
        {
            self.notes.push("htgettoken replaces %uid in $BEARER_TOKEN_FILE, programs that look for a token do not: write the number itself.".to_owned());
        }
    }

    fn note_life(&mut self) {
        let Some(claims) = &self.claims else { return };
        let at = |name: &str| claims.get(name).and_then(moment);
        match self.left() {
            None => self
                .notes
                .push("The token does not say when it expires.".to_owned()),
            Some(left) if left <= 0 => self.notes.push(
                "The token has expired: get a new one, for example with htgettoken.".to_owned(),
            ),
            Some(_) => {}
        }
        if at("nbf").is_some_and(|from| from > self.now.0) {
            self.notes.push(
                "The token is not valid yet (nbf lies in the future): wait, or check the clock."
                    .to_owned(),
            );
        }
    }

    /// The claims worth telling, in order.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let Some(claims) = &self.claims else {
            return Vec::new();
        };
        let words = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Array(list) => list
                .iter()
                .map(|item| {
                    item.as_str()
                        .map_or_else(|| item.to_string(), str::to_owned)
                })
                .collect::<Vec<_>>()
                .join(" "),
            other => other.to_string(),
        };
        let mut facts: Vec<(&'static str, String)> = [
            ("iss", "issuer"),
            ("sub", "subject"),
            ("aud", "audience"),
            ("scope", "scope"),
            ("wlcg.groups", "groups"),
        ]
        .iter()
        .filter_map(|(claim, name)| Some((*name, words(claims.get(*claim)?))))
        .collect();
        if let (Some(left), Some(expires)) = (self.left(), claims.get("exp").and_then(moment)) {
            let when = if left > 0 {
                format!("in {}", length(left))
            } else {
                format!("{} ago", length(left))
            };
            facts.push(("expires", format!("{} ({when})", UnixSeconds(expires))));
        }
        facts
    }

    /// For people.
    pub fn text(&self, text: &mut String) {
        text.push_str("Bearer token\n");
        list(&self.places, text);
        for (name, value) in self.facts() {
            let _ = writeln!(text, "  {name:<9} {}", printable(&value));
        }
        if !self.found {
            text.push_str("  No token would be used.\n");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {}", printable(note));
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let claim = |name: &str| {
            self.claims
                .as_ref()
                .and_then(|claims| claims.get(name))
                .cloned()
        };
        json!({
            "places": places_json(&self.places),
            "found": self.found,
            "iss": claim("iss"), "sub": claim("sub"), "aud": claim("aud"), "scope": claim("scope"), "wlcg.groups": claim("wlcg.groups"), "exp": claim("exp"),
            "seconds_left": self.left(),
            "notes": self.notes,
        })
    }
}
