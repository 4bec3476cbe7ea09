//! Groups: the `wlcg.groups` claim and the names in it (WLCG profile 1.3, section on group based authorization).
//! Owns the grammar and exact comparison; refuses to know what a group may do.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;

/// A group name such as `/vo/prod`. One group never implies another, neither its parent nor its child.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group(String);

impl Group {
    /// The name as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text breaks the grammar of group names.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{}\" is no group name; write /vo or /vo/name with letters, digits, '_', '.' and '-', each part beginning with a letter or digit", .0.escape_debug())]
pub struct BadGroup(pub String);

impl FromStr for Group {
    type Err = BadGroup;

    fn from_str(text: &str) -> Result<Self, BadGroup> {
        let good = |part: &str| {
            let mut letters = part.bytes();
            letters
                .next()
                .is_some_and(|first| first.is_ascii_alphanumeric())
                && letters.all(|letter| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter))
        };
        match text.strip_prefix('/') {
            Some(parts) if parts.split('/').all(good) => Ok(Self(text.to_owned())),
            _ => Err(BadGroup(text.to_owned())),
        }
    }
}

/// The `wlcg.groups` claim after reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// In the token's order; the first is the primary group.
    pub list: Vec<Group>,
    /// Elements that break the grammar: they count for nothing but do not spoil the token.
    pub ignored: Vec<String>,
}

impl Groups {
    /// Reads the claim.
    ///
    /// # Errors
    /// A sentence, when the value is not an array of strings: the token must then be refused.
    pub fn from_claim(value: &Value) -> Result<Self, String> {
        let elements = value
            .as_array()
            .ok_or("the claim wlcg.groups is not an array")?;
        let mut groups = Self::default();
        for element in elements {
            let text = element
                .as_str()
                .ok_or("an element of the claim wlcg.groups is not a string")?;
            match text.parse() {
                Ok(group) => groups.list.push(group),
                Err(BadGroup(text)) => groups.ignored.push(text),
            }
        }
        Ok(groups)
    }

    /// Exact, case-sensitive membership.
    #[must_use]
    pub fn contains(&self, group: &Group) -> bool {
        self.list.contains(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_the_profiles() {
        for good in ["/vo", "/vo/prod", "/0/a_b.c-d", "/VO"] {
            assert!(good.parse::<Group>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "vo",
            "/vo/",
            "//vo",
            "/vo//x",
            "/-a",
            "/.x",
            "/vo/Role=NULL",
            "/vö",
            "/vo ",
        ] {
            assert!(bad.parse::<Group>().is_err(), "{bad}");
        }
    }
}
