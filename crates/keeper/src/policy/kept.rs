//! The policies that operators write: shown, written over one another only as they mean to, and deleted.

use std::sync::PoisonError;

use gridkeep_store::Guard;
use gridkeep_token::time::UnixSeconds;
use serde_json::Value;

use super::unreadable::Unreadable;
use super::{DEFAULT, DELEGATED, OPERATOR, Policy, ROOT, SSH, TOKENOPS};
use crate::database::{Change, NotCommitted, name};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::records::{POLICIES, POLICY, PolicyRecord};

/// A policy to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyWrite {
    /// Its text, HCL or JSON.
    pub text: String,
    /// Whether identity values with `/` may be put into its paths.
    pub allow_slashes: bool,
    /// Whether identity values with `*` or `+` may be put into its paths.
    pub allow_wildcards: bool,
    /// Write only over this version; -1 = only if there is none.
    pub cas: Option<i64>,
    /// Whether later writers have to name the version they write over; `None` = as before.
    pub cas_required: Option<bool>,
    /// When it ends.
    pub expires_at: Option<UnixSeconds>,
}

impl Keeper {
    /// Names of all policies, sorted.
    ///
    /// # Errors
    /// None at present; a store that has to be asked may fail.
    pub async fn policies(&self) -> Result<Vec<String>, Failure> {
        Ok(self.inner.policies.names(self.now()))
    }

    /// The policy called `name`, in whatever case.
    ///
    /// # Errors
    /// [`Failure::NotFound`]; [`Failure::Later`] when it is there and cannot be read.
    pub async fn policy(&self, name: &str) -> Result<Policy, Failure> {
        let name = name.to_lowercase();
        if name == ROOT {
            let mut policy = Policy::parse(ROOT, "")?;
            policy.builtin = true;
            return Ok(policy);
        }
        let found = self.inner.policies.get(&name, self.now());
        if found.is_none()
            && self
                .inner
                .policies
                .written()
                .unreadable
                .names
                .contains(&name)
        {
            return Err(Unreadable::failure(&name));
        }
        found
            .map(|policy| policy.as_ref().clone())
            .ok_or(Failure::NotFound)
    }

    /// Writes a policy.
    ///
    /// # Errors
    /// [`BadInput::PolicySyntax`], [`BadInput::BuiltinPolicy`], [`BadInput::PolicyFromFiles`], [`BadInput::CannotChangeRootPolicy`]; [`BadInput::CasMismatch`] and
    /// [`BadInput::CasMissing`] when another version stands there than the writer thinks.
    pub async fn put_policy(&self, policy_name: &str, write: &PolicyWrite) -> Result<(), Failure> {
        let policy_name = policy_name.to_lowercase();
        self.refuse_builtin(&policy_name)?;
        Policy::parse(&policy_name, &write.text)?;
        let key = name(POLICY, &[&policy_name]);
        let _alone = self.inner.policies.writing.lock().await;
        loop {
            let stored = self.inner.db.get::<PolicyRecord>(&key).await?;
            let now = self.now();
            let old = stored
                .as_ref()
                .map(|stored| &stored.value)
                .filter(|old| old.expires_at.is_none_or(|end| end > now));
            let version = old.map_or(0, |old| old.version);
            match write.cas {
                Some(wanted) if i64::try_from(version).ok() != Some(wanted.max(0)) => {
                    return Err(BadInput::CasMismatch.into());
                }
                None if old.is_some_and(|old| old.cas_required) => {
                    return Err(BadInput::CasMissing.into());
                }
                _ => {}
            }
            let record = PolicyRecord {
                text: write.text.clone(),
                version: version + 1,
                allow_slashes: write.allow_slashes,
                allow_wildcards: write.allow_wildcards,
                cas_required: write
                    .cas_required
                    .unwrap_or_else(|| old.is_some_and(|old| old.cas_required)),
                expires_at: write.expires_at,
                modified: now,
            };
            let mut change = Change::new();
            change.guard(stored.as_ref().map_or_else(
                || Guard::Absent(key.clone()),
                crate::database::Stored::unchanged,
            ));
            change.put(key.clone(), &record, record.expires_at.map(|end| end.0))?;
            mark_policies(&mut change)?;
            match self.inner.db.commit(change).await {
                Ok(()) => {
                    self.inner.policies.set(
                        &policy_name,
                        Some(Policy::from_record(&policy_name, &record)?),
                    );
                    return Ok(());
                }
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Deletes a policy; one that is not there stays so.
    ///
    /// # Errors
    /// [`BadInput::CannotDeleteDefaultPolicy`], [`BadInput::BuiltinPolicy`], [`BadInput::PolicyFromFiles`],
    /// [`BadInput::CannotChangeRootPolicy`].
    pub async fn delete_policy(&self, policy_name: &str) -> Result<(), Failure> {
        let policy_name = policy_name.to_lowercase();
        if policy_name == DEFAULT {
            return Err(BadInput::CannotDeleteDefaultPolicy.into());
        }
        self.refuse_builtin(&policy_name)?;
        let _alone = self.inner.policies.writing.lock().await;
        let mut change = Change::new();
        change.delete(name(POLICY, &[&policy_name]));
        mark_policies(&mut change)?;
        self.inner.db.commit(change).await?;
        self.inner.policies.set(&policy_name, None);
        if self.inner.policies.written().unreadable.nameless {
            // It may have been this one.
            self.inner.policies.read_anew(&self.inner.db).await?;
        }
        Ok(())
    }

    fn refuse_builtin(&self, policy_name: &str) -> Result<(), BadInput> {
        if policy_name == ROOT {
            return Err(BadInput::CannotChangeRootPolicy);
        }
        if self
            .inner
            .policies
            .builtin
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(policy_name)
        {
            let name = policy_name.to_owned();
            if [DEFAULT, TOKENOPS, OPERATOR, DELEGATED, SSH].contains(&policy_name) {
                return Err(BadInput::BuiltinPolicy { name });
            }
            let node = self.setup().published_by.clone();
            return Err(BadInput::PolicyFromFiles { name, node });
        }
        Ok(())
    }
}

/// Tells the other nodes that policies were written.
fn mark_policies(change: &mut Change) -> Result<(), Failure> {
    change.put(name(POLICIES, &[]), &Value::Bool(true), None)?;
    Ok(())
}
