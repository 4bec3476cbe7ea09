//! Kerberos: a ticket proves who somebody is.
//!
//! The server's end is [`Acceptor`], the user's end [`initiate`]. Both call MIT's library, which is loaded when it is first needed: a
//! host without it runs everything else. Every call names its own keytab and its own cache; no environment variable is ever set. All
//! calls block, the user's end for as long as a key distribution centre takes: they belong on threads for blocking work.
//!
//! [`prototypes`] is the one file that knows the library's functions, [`library`] makes safe calls of them. The form of the tokens on the
//! wire ([`token`]) and of keytabs ([`keytab`]) is read without the library. Replays are refused by whoever keeps
//! [`Proven::authenticator`]: the library's own cache lies on one host's disk and is switched off.

mod accept;
mod initiate;
pub mod keytab;
mod library;
mod prototypes;
mod token;

pub use accept::{AcceptError, AcceptTickets, Acceptor, Proven};
pub use initiate::{Initiate, InitiateError, Initiated, initiate};
pub use library::NoLibrary;

/// Who somebody is by Kerberos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The components without the realm, joined by `/`: `alice`, `dunepro/managedtokens/node.example.org`.
    pub name: String,
    /// The realm.
    pub realm: String,
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.realm)
    }
}

/// Components and realm of a name as the library writes it, with its escapes undone (krb5_unparse_name(3)).
fn parse_name(text: &str) -> Option<(Vec<String>, String)> {
    let mut parts = vec![String::new()];
    let mut realm = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let plain = match character {
            '\\' => match characters.next()? {
                'n' => '\n',
                't' => '\t',
                'b' => '\u{8}',
                '0' => '\0',
                other => other,
            },
            '/' if realm.is_none() => {
                parts.push(String::new());
                continue;
            }
            '@' if realm.is_none() => {
                realm = Some(String::new());
                continue;
            }
            '@' => return None,
            other => other,
        };
        match (&mut realm, parts.last_mut()) {
            (Some(realm), _) => realm.push(plain),
            (None, Some(part)) => part.push(plain),
            (None, None) => return None,
        }
    }
    Some((parts, realm.filter(|realm| !realm.is_empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_their_escapes() {
        let parsed = |text: &str| {
            parse_name(text).map(|(parts, realm)| format!("{} of {realm}", parts.join("|")))
        };
        assert_eq!(parsed("alice@LAB").unwrap(), "alice of LAB");
        assert_eq!(
            parsed("dunepro/cron/a.example@LAB.EXAMPLE").unwrap(),
            "dunepro|cron|a.example of LAB.EXAMPLE"
        );
        assert_eq!(parsed(r"a\/b/c\@d@R\@S").unwrap(), "a/b|c@d of R@S");
        assert_eq!(parsed(r"a\nb@R").unwrap(), "a\nb of R");
        for bad in ["alice", "alice@", r"alice@R\", "a@b@c"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
