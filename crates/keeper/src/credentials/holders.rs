//! Who has credentials of an issuer: what a change of the configuration would meet.

use std::collections::BTreeMap;

use super::CredentialName;
use crate::database::Stored;
use crate::failure::Failure;
use crate::keeper::Keeper;
use crate::records::{CREDENTIAL, CredentialRecord};

/// Credentials that are looked at; with more than that the answer is a lower bound.
const MOST: usize = 200_000;
/// Names that are kept as examples.
const EXAMPLES: usize = 5;

/// Those who have credentials of one role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// How many owner keys. Robots of one person (`alice/cron`) are others than she.
    pub count: usize,
    /// Some of them, in no particular order.
    pub examples: Vec<String>,
    /// Whether there may be more.
    pub more: bool,
}

impl Holders {
    fn add(&mut self, owner: &str) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(owner.to_owned());
        }
    }
}

impl Keeper {
    /// Who has credentials of `issuer`, by role.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn holders(&self, issuer: &str) -> Result<BTreeMap<String, Holders>, Failure> {
        let mut found: BTreeMap<String, Holders> = BTreeMap::new();
        let mut seen = 0;
        self.inner
            .db
            .each(
                CREDENTIAL,
                &[issuer.as_bytes()],
                |stored: Stored<CredentialRecord>| {
                    if let Some(name) = CredentialName::of_record(&stored.name) {
                        found.entry(name.role).or_default().add(&name.owner);
                    }
                    seen += 1;
                    if seen < MOST {
                        std::ops::ControlFlow::Continue(())
                    } else {
                        std::ops::ControlFlow::Break(())
                    }
                },
            )
            .await?;
        for holders in found.values_mut() {
            holders.more = seen >= MOST;
        }
        Ok(found)
    }
}
