//! The terms of a login: for whom a role is, from where it may be used, and how long its tokens live.
//!
//! Owns the judgement of a person's claims and address. Refuses to know where claims come from; that they are proven is the login's
//! concern.

use std::net::IpAddr;

use gridkeep_token::time::Seconds;
use serde_json::{Map, Value};

use crate::network::Network;
use crate::setup::Lifetimes;

/// Under which conditions a role is given, and what its login token gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginTerms {
    /// Life of the login token; `None`: what the installation gives.
    pub ttl: Option<Seconds>,
    /// Its hard end, renewals included.
    pub max_ttl: Option<Seconds>,
    /// Each renewal gives it this long, without another end than `max_ttl`.
    pub period: Option<Seconds>,
    /// Addresses the login may be started and its tokens used from; empty: any.
    pub bound_cidrs: Vec<Network>,
    /// Claims the person has to have, all of them.
    pub bound_claims: Vec<BoundClaim>,
}

/// A claim and the values of which it has to be, or to contain, one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundClaim {
    /// Which claim.
    pub claim: ClaimName,
    /// The values.
    pub values: Vec<String>,
}

/// How a claim is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimName {
    /// The member of that name at the top; a dot is part of the name.
    Top(String),
    /// A JSON pointer (RFC 6901), which begins with a slash.
    Pointer(String),
}

impl ClaimName {
    /// A name as operators write it: one that begins with a slash is a pointer.
    pub fn parse(text: &str) -> Self {
        if text.starts_with('/') {
            Self::Pointer(text.to_owned())
        } else {
            Self::Top(text.to_owned())
        }
    }

    /// The claim's value.
    pub fn find<'c>(&self, claims: &'c Map<String, Value>) -> Option<&'c Value> {
        match self {
            Self::Top(name) => claims.get(name),
            Self::Pointer(pointer) => {
                let path = pointer.strip_prefix('/')?;
                let (first, rest) = match path.find('/') {
                    Some(at) => path.split_at(at),
                    None => (path, ""),
                };
                claims
                    .get(&first.replace("~1", "/").replace("~0", "~"))?
                    .pointer(rest)
            }
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Top(text) | Self::Pointer(text) => text,
        }
    }
}

impl BoundClaim {
    /// Whether the claims hold one of the values.
    pub(crate) fn holds(&self, claims: &Map<String, Value>) -> bool {
        let wanted = |value: &Value| match value {
            Value::String(text) => self.values.contains(text),
            Value::Bool(_) | Value::Number(_) => self.values.contains(&value.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        match self.claim.find(claims) {
            Some(Value::Array(items)) => items.iter().any(wanted),
            Some(value) => wanted(value),
            None => false,
        }
    }
}

impl LoginTerms {
    /// Whether the role may be used from `address`; one that is not known lies in no network.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> bool {
        self.bound_cidrs.is_empty()
            || address.is_some_and(|address| {
                self.bound_cidrs
                    .iter()
                    .any(|network| network.contains(address))
            })
    }

    /// The first claim that does not have a value it should have.
    pub(crate) fn unmet(&self, claims: &Map<String, Value>) -> Option<&BoundClaim> {
        self.bound_claims.iter().find(|bound| !bound.holds(claims))
    }

    /// The life of a login token in an installation with these limits.
    pub(crate) fn life(&self, limits: &Lifetimes) -> Seconds {
        if let Some(period) = self.period {
            return period
                .min(self.max_ttl.unwrap_or(limits.max_ttl))
                .min(limits.max_ttl);
        }
        self.ttl
            .unwrap_or(limits.default_ttl)
            .min(self.max_ttl.unwrap_or(limits.max_ttl))
            .min(limits.max_ttl)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Map<String, Value> {
        let Value::Object(claims) = json!({
            "wlcg.groups": ["/lab", "/lab/production"],
            "sub": "alice",
            "verified": true,
            "level": 3,
            "realm": {"roles": ["submitter"], "a/b": {"~": "deep"}},
            "/odd": "literal",
        }) else {
            panic!()
        };
        claims
    }

    fn holds(claim: &str, values: &[&str]) -> bool {
        BoundClaim {
            claim: ClaimName::parse(claim),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }
        .holds(&claims())
    }

    #[test]
    fn a_claim_is_one_of_the_values_or_contains_one() {
        assert!(holds("wlcg.groups", &["/cms", "/lab/production"]));
        assert!(holds("sub", &["alice", "bob"]));
        assert!(holds("verified", &["true"]));
        assert!(holds("level", &["3"]));
        assert!(holds("/realm/roles", &["submitter"]));
        assert!(holds("/realm/roles/0", &["submitter"]));
        assert!(holds("/realm/a~1b/~0", &["deep"]));
        for (claim, values) in [
            ("wlcg.groups", vec!["/lab/prod"]),
            ("sub", vec!["alic"]),
            ("sub", vec![]),
            ("nosuch", vec!["x"]),
            ("realm", vec!["submitter"]),
            ("/realm", vec!["submitter"]),
            ("/nosuch/roles", vec!["submitter"]),
            ("/odd", vec!["literal"]),
        ] {
            assert!(!holds(claim, &values), "{claim}");
        }
    }

    #[test]
    fn all_claims_have_to_hold() {
        let bound = |claim: &str, value: &str| BoundClaim {
            claim: ClaimName::parse(claim),
            values: vec![value.to_owned()],
        };
        let terms = |bound_claims| LoginTerms {
            bound_claims,
            ..LoginTerms::default()
        };
        let good = bound("sub", "alice");
        assert_eq!(terms(vec![good.clone()]).unmet(&claims()), None);
        let bad = bound("level", "4");
        assert_eq!(terms(vec![good, bad.clone()]).unmet(&claims()), Some(&bad));
        assert_eq!(terms(vec![]).unmet(&Map::new()), None);
    }

    #[test]
    fn an_address_that_is_not_known_is_in_no_network() {
        let terms = LoginTerms {
            bound_cidrs: vec!["0.0.0.0/0".parse().unwrap()],
            ..LoginTerms::default()
        };
        assert!(terms.admit(Some("203.0.113.1".parse().unwrap())));
        assert!(!terms.admit(Some("2001:db8::1".parse().unwrap())));
        assert!(!terms.admit(None));
        assert!(LoginTerms::default().admit(None));
    }

    #[test]
    fn no_role_outdoes_the_installation() {
        let limits = Lifetimes {
            default_ttl: Seconds(100),
            max_ttl: Seconds(1000),
        };
        for (ttl, max_ttl, period, life) in [
            (None, None, None, 100),
            (Some(50), None, None, 50),
            (Some(5000), None, None, 1000),
            (Some(500), Some(300), None, 300),
            (None, Some(30), None, 30),
            (None, None, Some(700), 700),
            (Some(5), None, Some(7000), 1000),
            (None, Some(60), Some(700), 60),
        ] {
            let terms = LoginTerms {
                ttl: ttl.map(Seconds),
                max_ttl: max_ttl.map(Seconds),
                period: period.map(Seconds),
                ..LoginTerms::default()
            };
            assert_eq!(terms.life(&limits), Seconds(life), "{terms:?}");
        }
    }
}
