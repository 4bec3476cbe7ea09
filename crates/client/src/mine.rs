//! `gridkeep mine`: what the server keeps for oneself, shown and revoked with the vault token of the last login.
//!
//! Owns the words of the command. What a credential or a token looks like is in [`crate::inventory`].

use std::ffi::OsString;

use serde_json::{Value, json};

use crate::environment::{Environment, Streams};
use crate::holder::Holder;
use crate::http::NoLog;
use crate::inventory;
use crate::options::Options;
use crate::own_command::{OwnCommand, with_options};
use crate::vault::VaultError;

const USAGE: &str = "\
Usage: gridkeep mine list [--json] [htgettoken options]
       gridkeep mine show NAME|ACCESSOR [--json] [htgettoken options]
       gridkeep mine revoke NAME|ACCESSOR [htgettoken options]

Shows the credentials that the server keeps for you at an issuer and your vault
tokens that are alive, and revokes them: a credential (issuer/credkey:role) is
deleted and its login revoked at the issuer as well; a vault token ends with
all that were made of it. The server, the issuer and the vault token to ask with
are those of htgettoken with the given options and $HTGETTOKENOPTS.

  --json       report as JSON
  -h, --help   show this text

Exit code: 0 done, 1 not done, 2 wrong usage.
";

enum Order {
    List,
    Show(String),
    Revoke(String),
}

const COMMAND: OwnCommand = OwnCommand {
    name: "gridkeep mine",
    usage: USAGE,
};

/// Runs the command; `args` are the words after its name.
#[must_use]
pub fn run(args: &[OsString], environment: &Environment, streams: &mut Streams<'_>) -> i32 {
    let is_json = |word: &OsString| word == "--json";
    let (own, rest): (Vec<_>, Vec<_>) = args.iter().cloned().partition(is_json);
    let asked = parse(&rest, environment);
    COMMAND.run(
        asked,
        environment,
        streams,
        async |holder, options, order| {
            perform(holder, options, order, !own.is_empty())
                .await
                .map_err(|error| error.to_string())?
        },
    )
}

fn parse(
    words: &[OsString],
    environment: &Environment,
) -> Result<Option<(Order, Options)>, String> {
    let word = |index: usize| words.get(index).and_then(|word| word.to_str());
    let which = || {
        word(1)
            .filter(|which| !which.starts_with('-'))
            .map(str::to_owned)
            .ok_or("say which: a credential (issuer/credkey:role) or the accessor of a vault token")
    };
    let (order, used) = match word(0) {
        Some("list") => (Order::List, 1),
        Some("show") => (Order::Show(which()?), 2),
        Some("revoke") => (Order::Revoke(which()?), 2),
        Some("-h" | "--help") => return Ok(None),
        _ => return Err("say list, show or revoke".to_owned()),
    };
    with_options(order, &words[used..], environment)
}

/// The text to print, or why what was named is not there.
async fn perform(
    holder: &mut Holder,
    options: &Options,
    order: &Order,
    as_json: bool,
) -> Result<Result<String, String>, VaultError> {
    let show = |credentials: &[Value], tokens: &[Value]| {
        if as_json {
            format!(
                "{:#}\n",
                json!({"credentials": credentials, "tokens": tokens})
            )
        } else {
            inventory::credentials(credentials) + &inventory::tokens(tokens)
        }
    };
    Ok(Ok(match order {
        Order::List => {
            let credentials = credentials(holder, &options.issuer).await?;
            show(&credentials, &tokens(holder).await?)
        }
        Order::Show(which) => {
            let (all, key) = match which.split_once('/') {
                Some((issuer, _)) => (credentials(holder, issuer).await?, "name"),
                None => (tokens(holder).await?, "accessor"),
            };
            let found: Vec<Value> = all
                .into_iter()
                .filter(|one| one[key] == which.as_str())
                .collect();
            if found.is_empty() {
                return Ok(Err(format!("the server keeps no {which} for you")));
            }
            match key {
                "name" => show(&found, &[]),
                _ => show(&[], &found),
            }
        }
        Order::Revoke(which) if which.contains('/') => {
            let path = format!("secret/oauth/creds/{which}");
            holder
                .ask(async |vault, token| vault.delete(&path, token, &mut NoLog).await)
                .await?;
            format!(
                "{which} is deleted; its login is revoked at the issuer as soon as no other name uses it\n"
            )
        }
        Order::Revoke(accessor) => {
            let path = format!("auth/token/mine/{accessor}");
            let gone = holder
                .ask(async |vault, token| vault.delete(&path, token, &mut NoLog).await)
                .await;
            match gone {
                Err(error) if error.error.status() == Some(404) => {
                    return Ok(Err(format!("you have no live vault token {accessor}")));
                }
                other => other?,
            }
            format!("the vault token {accessor} and all made of it are revoked\n")
        }
    }))
}

async fn credentials(holder: &mut Holder, issuer: &str) -> Result<Vec<Value>, VaultError> {
    let path = format!("secret/oauth/creds/{issuer}?list=true");
    members(holder, &path).await
}

async fn tokens(holder: &mut Holder) -> Result<Vec<Value>, VaultError> {
    members(holder, "auth/token/mine?list=true").await
}

/// The facts of a list; nothing found is an empty one.
async fn members(holder: &mut Holder, path: &str) -> Result<Vec<Value>, VaultError> {
    let answer = holder
        .ask(async |vault, token| vault.key_info(path, token, &mut NoLog).await)
        .await;
    match answer {
        Ok(info) => Ok(info.into_iter().map(|(_, value)| value).collect()),
        Err(error) if error.error.status() == Some(404) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
