//! `gridkeep ssh-keys`: one's own ssh keys that the server knows for an issuer: listing, ending, removing.
//!
//! Owns the command line and the report. Registering is htgettoken's (`--registerssh`), because it takes a new login.

use std::ffi::OsString;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::environment::{Environment, Streams};
use crate::explain::printable;
use crate::holder::Holder;
use crate::http::NoLog;
use crate::options::{Options, lifetime};
use crate::own_command::{OwnCommand, with_options};
use crate::vault::VaultError;

const USAGE: &str = "\
Usage: gridkeep ssh-keys list [--json] [htgettoken options]
       gridkeep ssh-keys remove FINGERPRINT [htgettoken options]
       gridkeep ssh-keys expire FINGERPRINT IN [htgettoken options]

Shows which of your ssh keys may log in for an issuer, takes one away, or lets
one end after a time such as 30m, 12h or 7d. The server, the issuer and the
vault token are those of htgettoken with the given options and $HTGETTOKENOPTS.
Keys are registered with: htgettoken --registerssh

  --json       report as JSON
  -h, --help   show this text

Exit code: 0 done, 1 not done, 2 wrong usage.
";

enum Order {
    List { json: bool },
    Remove { fingerprint: String },
    Expire { fingerprint: String, seconds: u64 },
}

const COMMAND: OwnCommand = OwnCommand {
    name: "gridkeep ssh-keys",
    usage: USAGE,
};

/// Runs the command; `args` are the words after its name.
#[must_use]
pub fn run(args: &[OsString], environment: &Environment, streams: &mut Streams<'_>) -> i32 {
    let asked = parse(args, environment);
    COMMAND.run(
        asked,
        environment,
        streams,
        async |holder, options, order| {
            let credkey = holder.credkey.clone().ok_or_else(|| {
                format!(
                    "no credkey is known for issuer {} and role {}; give --credkey",
                    options.issuer, options.role
                )
            })?;
            let path = format!("{}/keys/{}/{credkey}", options.sshpath, options.issuer);
            let of = format!("{credkey} for issuer {}", options.issuer);
            match (perform(holder, &path, order).await, order) {
                // The server tells of a list that is empty as of none.
                (Err(error), Order::List { json }) if error.error.status() == Some(404) => {
                    Ok(if *json {
                        format!("{:#}\n", json!({"keys": {}}))
                    } else {
                        format!("no ssh keys are registered of {of}\n")
                    })
                }
                (Err(error), _) if error.error.status() == Some(404) => {
                    Err(format!("the server knows no such ssh key of {of}"))
                }
                (done, _) => done.map_err(|error| error.to_string()),
            }
        },
    )
}

fn parse(args: &[OsString], environment: &Environment) -> Result<Option<(Order, Options)>, String> {
    let is_help = |word: &OsString| word == "-h" || word == "--help";
    if args.iter().any(is_help) {
        return Ok(None);
    }
    let (own, rest): (Vec<_>, Vec<_>) = args.iter().cloned().partition(|word| word == "--json");
    let word = |index: usize| rest.get(index).and_then(|word| word.to_str());
    let fingerprint = || {
        word(1)
            .filter(|print| print.starts_with("SHA256:"))
            .map(str::to_owned)
            .ok_or_else(|| "a fingerprint is needed, as ssh-add -l shows it (SHA256:…)".to_owned())
    };
    let (order, used) = match word(0) {
        Some("list") => (
            Order::List {
                json: !own.is_empty(),
            },
            1,
        ),
        Some("remove") => (
            Order::Remove {
                fingerprint: fingerprint()?,
            },
            2,
        ),
        Some("expire") => {
            let fingerprint = fingerprint()?;
            let length = word(2).ok_or("a time is needed, such as 12h or 7d")?;
            (
                Order::Expire {
                    fingerprint,
                    seconds: lifetime("the time", length)?,
                },
                3,
            )
        }
        _ => return Err("say list, remove or expire".to_owned()),
    };
    with_options(order, &rest[used..], environment)
}

async fn perform(holder: &mut Holder, path: &str, order: &Order) -> Result<String, VaultError> {
    match order {
        Order::List { json } => {
            let keys = holder
                .ask(async |vault, token| vault.key_info(path, token, &mut NoLog).await)
                .await?;
            Ok(if *json {
                format!("{:#}\n", json!({"keys": keys}))
            } else {
                report(&keys)
            })
        }
        Order::Remove { fingerprint } => {
            holder
                .ask(async |vault, token| {
                    vault.ssh_remove(path, fingerprint, token, &mut NoLog).await
                })
                .await?;
            Ok(format!("{fingerprint} may log in no longer\n"))
        }
        Order::Expire {
            fingerprint,
            seconds,
        } => {
            holder
                .ask(async |vault, token| {
                    vault
                        .ssh_expire(path, fingerprint, *seconds, token, &mut NoLog)
                        .await
                })
                .await?;
            // It may have had a nearer end, which stays.
            let keys = holder
                .ask(async |vault, token| vault.key_info(path, token, &mut NoLog).await)
                .await;
            Ok(match keys {
                Ok(keys) => ends(fingerprint, keys.get(fingerprint).unwrap_or(&Value::Null)),
                // The key has ended, and the vault token of its login with it.
                Err(_) => format!("{fingerprint} may log in for at most {seconds} s from now\n"),
            })
        }
    }
}

/// Until when a key may log in, wherever the server knows it from.
fn ends(fingerprint: &str, places: &Value) -> String {
    let mut text = String::new();
    for place in places.as_array().into_iter().flatten() {
        let source = match place["source"].as_str() {
            None | Some("registered") => String::new(),
            Some(other) => format!(" ({})", printable(other)),
        };
        let end = match place["expires"].as_str() {
            Some(end) => format!("until {}; an end that was nearer stays", printable(end)),
            None => "without end".to_owned(),
        };
        let _ = writeln!(text, "{fingerprint}{source} may log in {end}");
    }
    if text.is_empty() {
        let _ = writeln!(text, "{fingerprint} may log in no longer");
    }
    text
}

/// For people: a line for each key, one below it for what is known of it.
fn report(keys: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (print, places) in keys {
        for place in places.as_array().into_iter().flatten() {
            let member = |name: &str| place[name].as_str().filter(|value| !value.is_empty());
            let kind = member("public_key")
                .and_then(|line| line.split(' ').next())
                .unwrap_or("?");
            let comment = member("comment").unwrap_or("");
            let _ = writeln!(
                text,
                "{}",
                format!(
                    "{} {} {}",
                    printable(print),
                    printable(kind),
                    printable(comment)
                )
                .trim_end()
            );
            let mut facts = vec![format!(
                "opens {}",
                member("issuer").map_or("all issuers".to_owned(), |issuer| format!(
                    "issuer {}",
                    printable(issuer)
                ))
            )];
            for (name, words) in [
                ("source", ""),
                ("added", "since "),
                ("added_by", "by "),
                ("expires", "until "),
                ("used", "used about "),
            ] {
                if let Some(value) = member(name) {
                    facts.push(format!("{words}{}", printable(value)));
                }
            }
            let _ = writeln!(text, "  {}", facts.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_where_a_key_is_from_and_how_long_it_counts() {
        let keys = json!({
            "SHA256:one": [{"public_key": "ssh-ed25519 AAAA", "comment": "key1", "issuer": "dune", "source": "registered",
                            "added": "2026-01-02T03:04:05Z", "added_by": "oidc-dune-alice", "expires": null, "used": null}],
            "SHA256:two": [{"public_key": "ssh-rsa AAAA", "comment": "\u{1b}[2J", "issuer": null, "source": "line 3 of a file of the operators",
                            "added": null, "added_by": null, "expires": "2027-01-01T00:00:00Z", "used": null}],
        });
        let text = report(keys.as_object().unwrap());
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "SHA256:one ssh-ed25519 key1",
                "  opens issuer dune, registered, since 2026-01-02T03:04:05Z, by oidc-dune-alice",
                text.lines().nth(2).unwrap(),
                "  opens all issuers, line 3 of a file of the operators, until 2027-01-01T00:00:00Z",
            ]
        );
        assert!(text.contains("SHA256:two ssh-rsa") && !text.contains('\u{1b}'));
        assert_eq!(
            ends("SHA256:two", &keys["SHA256:two"]),
            "SHA256:two (line 3 of a file of the operators) may log in until 2027-01-01T00:00:00Z; an end that was nearer stays\n"
        );
        assert_eq!(
            ends("SHA256:three", &keys["SHA256:three"]),
            "SHA256:three may log in no longer\n"
        );
    }
}
