//! `gridkeep explain`: which bearer token and which vault token would be used, from where, why not from anywhere before, and
//! what the bearer token says about itself.
//!
//! Owns the report. Which place wins is decided by the same code that the other commands use; this module asks it and tells. It
//! never shows a token and judges none, that is [`crate::verify`]'s. A further kind of token is one more file beside `bearer`.

mod bearer;
mod text;
mod vault;

pub use bearer::discovered;
pub use text::{length, printable};

use crate::environment::{Environment, Streams};
use crate::options::{self, Parsed};
use serde_json::json;
use std::ffi::OsString;

const USAGE: &str = "\
Usage: gridkeep explain [--json] [--ask-server] [htgettoken options]

Says which bearer token the programs of this user find and which vault token
htgettoken would use with the given options and $HTGETTOKENOPTS: from where, why
not from an earlier place, and how long they live. No token is shown.

  --json         report as JSON
  --ask-server   ask the server how long the vault token still lives
  -h, --help     show this text

Exit code: 0 there is a bearer token that has not expired, 1 there is none, 2
wrong usage.
";

/// What became of a place where a token could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The token here is used.
    Used,
    /// Nothing here; the search goes on.
    PassedOver,
    /// Something here that ends the search, or that is refused.
    Refused,
    /// The search ended before.
    NotReached,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Fate::Used => "used",
            Fate::PassedOver => "no",
            Fate::Refused => "ERROR",
            Fate::NotReached => "-",
        }
    }
}

/// One place, in the order of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    name: String,
    fate: Fate,
    why: String,
}

/// Writes places for people.
fn list(places: &[Place], text: &mut String) {
    for place in places {
        let why = if place.why.is_empty() {
            String::new()
        } else {
            format!("  {}", printable(&place.why))
        };
        text.push_str(
            format!("  {:<6} {}{why}", place.fate.word(), printable(&place.name)).trim_end(),
        );
        text.push('\n');
    }
}

fn places_json(places: &[Place]) -> serde_json::Value {
    places
        .iter()
        .map(|place| json!({"place": place.name, "fate": place.fate.word(), "why": place.why}))
        .collect()
}

/// Runs the command; `args` are the words after its name.
pub fn run(args: &[OsString], environment: &Environment, streams: &mut Streams<'_>) -> i32 {
    let is_own = |word: &OsString| word == "--json" || word == "--ask-server";
    let (own, rest): (Vec<_>, Vec<_>) = args.iter().cloned().partition(is_own);
    let has = |name: &str| own.iter().any(|word| word == name);
    let parsed = options::words(&rest, environment).and_then(|words| options::parse(&words));
    let options = match parsed {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Help | Parsed::Version) => {
            let _ = streams.out.write_all(USAGE.as_bytes());
            return 0;
        }
        Err(error) => {
            let _ = writeln!(streams.err, "gridkeep explain: {error}");
            let _ = streams.err.write_all(USAGE.as_bytes());
            return 2;
        }
    };
    let bearer = bearer::look(environment);
    let vault = vault::look(&options, environment, has("--ask-server"));
    let text = if has("--json") {
        format!(
            "{:#}\n",
            json!({"bearer_token": bearer.json(), "vault_token": vault.json()})
        )
    } else {
        let mut text = String::new();
        bearer.text(&mut text);
        text.push('\n');
        vault.text(&mut text);
        text
    };
    let _ = streams
        .out
        .write_all(text.as_bytes())
        .and_then(|()| streams.out.flush());
    i32::from(!bearer.is_usable())
}

#[cfg(test)]
mod tests;
