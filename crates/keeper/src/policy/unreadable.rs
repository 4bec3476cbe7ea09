//! Policies that stand in the store and cannot be read: damaged, or written by a newer program in words that this one does not know.
//!
//! What such a policy allows and denies is not known. So whoever has it is neither refused nor let in by the other policies alone,
//! but told to come back.

use std::collections::BTreeSet;

use gridkeep_token::time::UnixSeconds;

use super::{Policies, Policy};
use crate::database::Stored;
use crate::failure::{BadInput, Failure, Later, LaterKind};
use crate::records::{KeeperToken, PolicyRecord};

/// The policies that could not be read.
#[derive(Debug, Clone, Default)]
pub(super) struct Unreadable {
    pub names: BTreeSet<String>,
    /// Whether there are more whose names cannot be told either.
    pub nameless: bool,
}

impl Unreadable {
    pub fn could_be(&self, name: &str, known: bool) -> bool {
        self.names.contains(name) || (self.nameless && !known)
    }

    pub fn failure(name: &str) -> Failure {
        Later::new(
            LaterKind::Store,
            format!("the policy \"{name}\" cannot be read at the moment, so it is not known what it allows; ask the operators of this server to delete it and write it again, or to bring all servers to one version"),
        )
        .into()
    }
}

/// The policy in a record that may be of any form.
pub(super) fn read(name: &str, stored: &Stored<serde_json::Value>) -> Result<Policy, BadInput> {
    let record: PolicyRecord =
        serde_json::from_value(stored.value.clone()).map_err(|error| BadInput::PolicySyntax {
            text: error.to_string(),
        })?;
    Policy::from_record(name, &record)
}

impl Policies {
    /// Refuses nobody, but for now, whose rights follow from a policy that cannot be read.
    pub(super) fn certain(&self, token: &KeeperToken, now: UnixSeconds) -> Result<(), Failure> {
        let written = self.written();
        let unreadable = &written.unreadable;
        if unreadable.names.is_empty() && !unreadable.nameless {
            return Ok(());
        }
        let doubtful = |name: &&String| {
            let known = self.get(name, now).is_some() || written.policies.contains_key(*name);
            self.counts(name, token) && unreadable.could_be(name, known)
        };
        match token.policies.iter().find(doubtful) {
            Some(name) => Err(Unreadable::failure(name)),
            None => Ok(()),
        }
    }
}
