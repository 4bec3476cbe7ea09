//! Who is met by a change of the configuration: the people who have credentials of the issuers and roles it is about.

use std::collections::BTreeMap;

use gridkeep_keeper::{Holders, Keeper};

use crate::config::{self, Change, Config, Loaded};

/// Those who have credentials of the issuers that a set of changes is about, by issuer and role.
pub struct People(BTreeMap<String, BTreeMap<String, Holders>>);

impl People {
    /// Looks them up.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn of(keeper: &Keeper, old: &Config, new: &Loaded) -> anyhow::Result<People> {
        let mut people = BTreeMap::new();
        let Some(new) = &new.config else {
            return Ok(People(people));
        };
        for change in config::diff(old, new) {
            if let Some((issuer, _)) = change.meets()
                && !people.contains_key(issuer)
            {
                people.insert(issuer.to_owned(), keeper.holders(issuer).await?);
            }
        }
        Ok(People(people))
    }

    /// In words, who is met by `change`.
    pub fn met_by(&self, change: &Change) -> Option<String> {
        let (issuer, role) = change.meets()?;
        let parts: Vec<String> = self
            .0
            .get(issuer)?
            .iter()
            .filter(|(name, _)| role.is_none_or(|role| role.eq_ignore_ascii_case(name)))
            .map(|(role, holders)| in_words(role, holders))
            .collect();
        Some(if parts.is_empty() {
            "Nobody has a credential of it.".to_owned()
        } else {
            format!("It is about {}.", parts.join("; "))
        })
    }
}

fn in_words(role: &str, holders: &Holders) -> String {
    let (count, names) = (holders.count, holders.examples.join(", "));
    let number = match (holders.more, count) {
        (true, _) => format!("at least {count} users"),
        (false, 1) => "1 user".to_owned(),
        (false, _) => format!("{count} users"),
    };
    let rest = if count > holders.examples.len() {
        " …"
    } else {
        ""
    };
    format!("{number} of role `{role}` ({names}{rest})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_counted_and_some_are_named() {
        let holders = |count, examples: &[&str], more| Holders {
            count,
            examples: examples.iter().map(|name| (*name).to_owned()).collect(),
            more,
        };
        assert_eq!(
            in_words("default", &holders(1, &["alice"], false)),
            "1 user of role `default` (alice)"
        );
        assert_eq!(
            in_words("x", &holders(9, &["alice", "bob"], false)),
            "9 users of role `x` (alice, bob …)"
        );
        assert_eq!(
            in_words("x", &holders(200_000, &["alice"], true)),
            "at least 200000 users of role `x` (alice …)"
        );
    }
}
