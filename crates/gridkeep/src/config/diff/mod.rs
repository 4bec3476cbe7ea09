//! What would change from one configuration to another, in plain words, and who is affected (profile section 6).
//!
//! Compares types, not texts: moving a value to another file changes nothing. Knows no rule of reading and does
//! nothing about the changes. `issuers` speaks of issuers and roles, `sections` of the other logins and of limits,
//! `service` of names, addresses and our own settings; what is said of a new key goes where its section is.

mod issuers;
mod sections;
mod service;
mod telemetry;
mod terms;

use super::finding::Origin;
use super::model::Config;
use std::fmt;

/// How a change meets people, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Impact {
    /// Nobody notices.
    Unnoticed,
    /// Something becomes possible or behaves differently from now on; no login is lost.
    FromNowOn,
    /// The server has to be restarted before it takes effect.
    Restart,
    /// It shows at the next login of each person.
    NextLogin,
    /// The people named have to log in again.
    LoginAgain,
    /// The people named lose access.
    AccessEnds,
}

impl fmt::Display for Impact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unnoticed => "unnoticed",
            Self::FromNowOn => "from now on",
            Self::Restart => "after restart",
            Self::NextLogin => "at next login",
            Self::LoginAgain => "login again",
            Self::AccessEnds => "access ends",
        })
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// How it meets people.
    pub impact: Impact,
    /// Which key, such as `issuers[default].url`.
    pub key: String,
    /// What changes, a sentence.
    pub what: String,
    /// Who is affected and how, a sentence.
    pub affected: String,
    /// Where the new value stands, or the old one when it is gone.
    pub origin: Origin,
}

impl Change {
    /// The issuer whose users lose access or have to log in by it, and the one role if it is about one.
    pub fn meets(&self) -> Option<(&str, Option<&str>)> {
        if self.impact < Impact::NextLogin {
            return None;
        }
        let (issuer, rest) = self.key.strip_prefix("issuers[")?.split_once(']')?;
        let role = rest
            .strip_prefix(".roles[")
            .and_then(|rest| rest.split_once(']'))
            .map(|(role, _)| role);
        Some((issuer, role))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[{}] {}: {} {} ({})",
            self.impact, self.key, self.what, self.affected, self.origin
        )
    }
}

/// What would change when `new` takes the place of `old`.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let mut differ = Differ {
        old,
        new,
        changes: Vec::new(),
    };
    differ.service();
    differ.issuers();
    differ.kerberos();
    differ.ssh();
    differ.own_ssh();
    differ.ratelimits();
    differ.cluster();
    differ.own();
    differ.telemetry();
    differ.changes
}

/// What is said of something that is in the files and left out because of an error in its entry.
const HAS_AN_ERROR: &str = "Its entry has an error, which gridkeep config check names.";

/// What an error costs the users of what is left out.
const UNTIL_CORRECTED: &str = "A reload is refused and changes nothing. A start leaves it out: until it is corrected its users get 503 with that explanation, and nothing of theirs is deleted.";

struct Differ<'a> {
    old: &'a Config,
    new: &'a Config,
    changes: Vec<Change>,
}

impl Differ<'_> {
    /// Notes what is left out because of an error and would otherwise look as if it had been removed.
    fn has_an_error(&mut self, key: &str, origin: &Origin) {
        let what = HAS_AN_ERROR.to_owned();
        self.push(Impact::AccessEnds, key, what, UNTIL_CORRECTED, origin);
    }

    fn push(&mut self, impact: Impact, key: &str, what: String, affected: &str, origin: &Origin) {
        self.changes.push(Change {
            impact,
            key: key.to_owned(),
            what,
            affected: affected.to_owned(),
            origin: origin.clone(),
        });
    }
}
