//! What is stored on a server, for people: credentials with both ends of their life, and vault tokens. Owns the layout; where the facts
//! come from is the caller's business.

use std::fmt::Write as _;

use serde_json::Value;

use crate::explain::printable;

fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value[name].as_str().filter(|text| !text.is_empty())
}

/// Credentials, as the server's lists have them.
#[must_use]
pub fn credentials<'v>(all: impl IntoIterator<Item = &'v Value>) -> String {
    let mut out = String::new();
    for credential in all {
        let name = text(credential, "name").unwrap_or("?");
        let state = match text(credential, "trouble") {
            None => "works".to_owned(),
            Some(trouble) => printable(trouble),
        };
        let _ = writeln!(out, "{}  {state}", printable(name));
        let login = &credential["login"];
        if login.is_null() {
            continue;
        }
        let when = |name: &str| text(login, name).map_or("?".to_owned(), printable);
        let _ = writeln!(
            out,
            "  login of {} by {}, refreshed {}, used {}",
            when("made"),
            text(credential, "bound_by").map_or("?".to_owned(), printable),
            when("refreshed"),
            when("used")
        );
        let ends = text(login, "ends").map_or("not told by the issuer".to_owned(), printable);
        let idle = text(login, "idle_end").map_or("none".to_owned(), printable);
        let access = text(login, "access_token_until").map_or("none".to_owned(), printable);
        let _ = writeln!(
            out,
            "  absolute end: {ends}; idle end: {idle}; access token until: {access}"
        );
        let others: Vec<String> = login["names"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter(|other| *other != name)
            .map(printable)
            .collect();
        if !others.is_empty() {
            let _ = writeln!(out, "  the same login is stored as {}", others.join(", "));
        }
    }
    out
}

/// The name of a token, and whose it is where that does not say it: one made with another is just `token`.
fn called(token: &Value) -> String {
    let name = text(token, "display_name").map_or("?".to_owned(), printable);
    match text(token, "credkey").map(printable) {
        Some(credkey) if !name.ends_with(&format!("-{credkey}")) => format!("{name} of {credkey}"),
        _ => name,
    }
}

/// Vault tokens, as the server's lists have them.
#[must_use]
pub fn tokens<'v>(all: impl IntoIterator<Item = &'v Value>) -> String {
    let mut out = String::new();
    for token in all {
        let end = match text(token, "expires") {
            None => "without end".to_owned(),
            Some(end) => format!("until {}", printable(end)),
        };
        let _ = writeln!(
            out,
            "{}  {}  {end}",
            text(token, "accessor").map_or("?".to_owned(), printable),
            called(token),
        );
        let policies: Vec<String> = token["policies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(printable)
            .collect();
        let mut facts = vec![
            format!(
                "made {} at {}",
                text(token, "created").map_or("?".to_owned(), printable),
                text(token, "path").map_or("?".to_owned(), printable)
            ),
            format!("policies {}", policies.join(", ")),
        ];
        if let Some(period) = token["period"].as_u64().filter(|period| *period > 0) {
            facts.push(format!("renewable without end, {period} s each time"));
        }
        if token["orphan"] == false {
            facts.push("ends with its parent".to_owned());
        }
        let _ = writeln!(out, "  {}", facts.join("; "));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_ends_of_a_life_are_shown_and_nothing_drives_the_terminal() {
        let all = [
            json!({"name": "dune/alice:default", "bound_by": "oidc-dune-alice", "trouble": null, "login": {
                "made": "2026-01-01T00:00:00Z", "refreshed": "2026-01-02T00:00:00Z", "used": "2026-01-03T00:00:00Z",
                "names": ["dune/alice:default", "dune/alice/robot/host:default"], "access_token_until": "2026-01-03T01:00:00Z",
                "ends": null, "idle_end": "2026-07-02T00:00:00Z"}}),
            json!({"name": "dune/bob:default", "bound_by": "x", "trouble": "login needed: \u{1b}[2J", "login": null}),
        ];
        let text = credentials(&all);
        assert!(text.contains("dune/alice:default  works\n"));
        assert!(text.contains(
            "absolute end: not told by the issuer; idle end: 2026-07-02T00:00:00Z; access token until: 2026-01-03T01:00:00Z"
        ));
        assert!(text.contains("stored as dune/alice/robot/host:default"));
        assert!(text.contains("dune/bob:default  login needed") && !text.contains('\u{1b}'));
        let text = tokens(&[
            json!({"accessor": "A", "display_name": "token", "expires": null, "created": "c", "path": "p",
            "policies": ["a", "b"], "period": 60, "orphan": false}),
            json!({"accessor": "B", "display_name": "token", "credkey": "alice", "expires": "e", "created": "c", "path": "p"}),
            json!({"accessor": "C", "display_name": "oidc-dune-alice", "credkey": "alice", "expires": "e", "created": "c", "path": "p"}),
        ]);
        let (first, others) = text.split_at(text.find("B  ").unwrap());
        assert_eq!(
            first,
            "A  token  without end\n  made c at p; policies a, b; renewable without end, 60 s each time; ends with its parent\n"
        );
        assert!(others.starts_with("B  token of alice  until e\n"), "{text}");
        assert!(others.contains("\nC  oidc-dune-alice  until e\n"), "{text}");
    }
}
