//! The names of credentials by person: an index from the first part of an owner key to all that lies below it, so that a list costs
//! what it shows and not what an issuer has.

use std::collections::{BTreeSet, HashSet};

use gridkeep_store::{Kind, Name};
use serde::{Deserialize, Serialize};

use super::CredentialName;
use crate::database::{Change, NotCommitted, Stored, name};
use crate::failure::Failure;
use crate::keeper::Keeper;
use crate::records::{CREDENTIAL, CredentialRecord, KeeperToken, NAMED};

/// Credentials entered into the index per transaction.
const AT_ONCE: usize = 40;

/// That a credential is there; its name says all.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct NamedRecord {}

/// Names shown at once, and whether there are more behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesPage {
    /// Sorted.
    pub names: Vec<CredentialName>,
    /// Whether more follow after the last of these.
    pub more: bool,
}

/// Which part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesWanted<'a> {
    /// Name of the issuer.
    pub issuer: &'a str,
    /// The part of the owner key below which names are wanted; empty = all.
    pub below: &'a str,
    /// Only names behind this one, as `issuer/owner:role`.
    pub after: Option<&'a str>,
    /// At most so many.
    pub most: usize,
}

fn person(owner: &str) -> &str {
    owner.split('/').next().unwrap_or(owner)
}

fn entry(credential: &CredentialName) -> Name {
    name(
        NAMED,
        &[
            &credential.issuer,
            person(&credential.owner),
            &credential.owner,
            &credential.role,
        ],
    )
}

/// The credential that a name of either kind stands for.
fn credential_in(name: &Name) -> Option<CredentialName> {
    let parts: Vec<String> = name
        .parts()
        .iter()
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    match parts.as_slice() {
        [issuer, owner, role] | [issuer, _, owner, role] => Some(CredentialName {
            issuer: issuer.clone(),
            owner: owner.clone(),
            role: role.clone(),
        }),
        _ => None,
    }
}

/// Enters a credential, along with what is being written of it.
pub(super) fn enter(change: &mut Change, credential: &CredentialName) -> Result<(), Failure> {
    change.put(entry(credential), &NamedRecord {}, None)?;
    Ok(())
}

/// Takes a credential out that is being deleted.
pub(super) fn leave(change: &mut Change, credential: &CredentialName) {
    change.delete(entry(credential));
}

impl Keeper {
    /// The names that `token` may list. The names of those persons are looked through whom its policies name, and all of an issuer
    /// only for a token whose policies cover whomever there is.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn list_names(
        &self,
        token: &KeeperToken,
        wanted: &NamesWanted<'_>,
    ) -> Result<NamesPage, Failure> {
        let base = format!("secret/oauth/creds/{}/", wanted.issuer);
        let mut persons = self.persons_listed(token, &base);
        if !wanted.below.is_empty() {
            let asked = person(wanted.below).to_owned();
            let covered = persons
                .as_ref()
                .is_none_or(|persons| persons.contains(&asked));
            persons = Some(covered.then_some(asked).into_iter().collect());
        }
        let below = if wanted.below.is_empty() {
            base.clone()
        } else {
            format!("{base}{}/", wanted.below)
        };
        let mut found = Found {
            after: wanted.after.map(str::to_owned),
            most: wanted.most.max(1),
            names: BTreeSet::new(),
            more: false,
        };
        let visible = |credential: &CredentialName| {
            let path = format!("secret/oauth/creds/{credential}");
            path.starts_with(&below) && {
                let words = self.capabilities(token, &path);
                words
                    .iter()
                    .any(|word| matches!(word.as_str(), "list" | "root"))
            }
        };
        match persons {
            Some(persons) if self.names_are_indexed().await? => {
                for person in persons {
                    let prefix = [wanted.issuer.as_bytes(), person.as_bytes()];
                    self.look_through::<NamedRecord>(NAMED, &prefix, &visible, &mut found)
                        .await?;
                }
            }
            _ => {
                let prefix = [wanted.issuer.as_bytes()];
                self.look_through::<CredentialRecord>(CREDENTIAL, &prefix, &visible, &mut found)
                    .await?;
            }
        }
        Ok(NamesPage {
            names: found
                .names
                .iter()
                .filter_map(|text| CredentialName::parse(text).ok())
                .collect(),
            more: found.more,
        })
    }

    async fn look_through<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        prefix: &[&[u8]],
        visible: &impl Fn(&CredentialName) -> bool,
        found: &mut Found,
    ) -> Result<(), Failure> {
        self.inner
            .db
            .each::<T>(kind, prefix, |stored: Stored<T>| {
                if let Some(credential) = credential_in(&stored.name).filter(visible) {
                    found.add(credential.to_string());
                }
                std::ops::ControlFlow::Continue(())
            })
            .await
    }

    /// Whether every credential is in the index; until then the credentials themselves are looked through.
    async fn names_are_indexed(&self) -> Result<bool, Failure> {
        Ok(self.record().await?.value.names_indexed)
    }

    /// Enters the credentials of a store that was written before there was an index. Several nodes may be at it.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read or written.
    pub(crate) async fn index_names(&self) -> Result<(), Failure> {
        if self.names_are_indexed().await? {
            return Ok(());
        }
        let mut all = Vec::new();
        self.inner
            .db
            .each::<CredentialRecord>(CREDENTIAL, &[], |stored| {
                all.push(stored.name);
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        for names in all.chunks(AT_ONCE) {
            self.index_some(names).await?;
        }
        tracing::info!(
            credentials = all.len(),
            "names of credentials are indexed by person"
        );
        self.amend_record(|record| record.names_indexed = true)
            .await
    }

    async fn index_some(&self, names: &[Name]) -> Result<(), Failure> {
        loop {
            let mut change = Change::new();
            let found = self.inner.db.get_many::<CredentialRecord>(names).await?;
            for stored in found.into_iter().flatten() {
                if let Some(credential) = credential_in(&stored.name) {
                    // Not for one that is deleted meanwhile.
                    change.guard(stored.unchanged());
                    enter(&mut change, &credential)?;
                }
            }
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// The persons whose names below `base` the policies of `token` can let it list; `None` = it may be anybody's.
    fn persons_listed(&self, token: &KeeperToken, base: &str) -> Option<HashSet<String>> {
        let starts = self.path_starts(token, base)?;
        let mut persons = HashSet::new();
        for (start, whole) in starts {
            match start.split_once('/') {
                Some((person, _)) => persons.insert(person.to_owned()),
                None if whole => {
                    let owner = start
                        .rsplit_once(':')
                        .map_or(start.as_str(), |(owner, _)| owner);
                    persons.insert(owner.to_owned())
                }
                // It ends in the middle of a name.
                None => return None,
            };
        }
        Some(persons)
    }
}

/// The first names in order behind a given one; never more in memory than are wanted.
struct Found {
    after: Option<String>,
    most: usize,
    names: BTreeSet<String>,
    more: bool,
}

impl Found {
    fn add(&mut self, name: String) {
        if self.after.as_ref().is_some_and(|after| name <= *after) {
            return;
        }
        self.names.insert(name);
        if self.names.len() > self.most {
            self.names.pop_last();
            self.more = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_the_first_names_in_order() {
        let mut found = Found {
            after: Some("b".into()),
            most: 2,
            names: BTreeSet::new(),
            more: false,
        };
        for name in ["e", "a", "d", "b", "c", "c"] {
            found.add(name.to_owned());
        }
        assert_eq!(Vec::from_iter(&found.names), ["c", "d"]);
        assert!(found.more);
    }

    #[test]
    fn robots_stand_with_their_person() {
        let name = CredentialName::parse("dune/alice/cron/h1:default").expect("a name");
        assert_eq!(person(&name.owner), "alice");
        assert_eq!(credential_in(&entry(&name)), Some(name.clone()));
        assert_eq!(credential_in(&name.key()), Some(name));
    }
}
