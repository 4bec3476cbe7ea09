//! Token roles: what an operator lets others make tokens of without giving them sudo (section 5.7 of the Vault API specification).
//!
//! A role names the policies its tokens may have, whatever the maker's own are, and bounds their life, uses and addresses.

use gridkeep_store::{Guard, Name};
use gridkeep_token::time::Seconds;
use serde::{Deserialize, Serialize};

use super::{is_range, normalised, sanitised};
use crate::database::{Change, NotCommitted, Stored, name};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::policy::{DEFAULT, OPERATOR, ROBOTS, ROOT};
use crate::records::{KeeperToken, TOKEN_ROLE};

/// A token role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRole {
    /// Policies its tokens may have; those they get when none are asked for. With neither these nor patterns the rules without a
    /// role hold.
    #[serde(default)]
    pub allowed_policies: Vec<String>,
    /// Policies its tokens never have.
    #[serde(default)]
    pub disallowed_policies: Vec<String>,
    /// The first as patterns with `*`; nothing is given by them when nothing is asked for.
    #[serde(default)]
    pub allowed_policies_glob: Vec<String>,
    /// The second as patterns with `*`.
    #[serde(default)]
    pub disallowed_policies_glob: Vec<String>,
    /// Whether its tokens have no parent.
    #[serde(default)]
    pub orphan: bool,
    /// Whether its tokens may be renewed.
    pub renewable: bool,
    /// Added to the path that its tokens remember.
    #[serde(default)]
    pub path_suffix: String,
    /// Its tokens are renewed by this long, without limit; 0 = not periodic.
    #[serde(default)]
    pub period: Seconds,
    /// A hard end for its tokens; 0 = none.
    #[serde(default)]
    pub explicit_max_ttl: Seconds,
    /// Where its tokens may be used from; empty = anywhere.
    #[serde(default)]
    pub bound_cidrs: Vec<String>,
    /// Whether its tokens go without the policy `default`.
    #[serde(default)]
    pub no_default_policy: bool,
    /// How often its tokens may be used; 0 = no limit.
    #[serde(default)]
    pub num_uses: u64,
}

impl Default for TokenRole {
    fn default() -> Self {
        TokenRole {
            allowed_policies: Vec::new(),
            disallowed_policies: Vec::new(),
            allowed_policies_glob: Vec::new(),
            disallowed_policies_glob: Vec::new(),
            orphan: false,
            renewable: true,
            path_suffix: String::new(),
            period: Seconds(0),
            explicit_max_ttl: Seconds(0),
            bound_cidrs: Vec::new(),
            no_default_policy: false,
            num_uses: 0,
        }
    }
}

impl TokenRole {
    fn chooses_policies(&self) -> bool {
        ![
            &self.allowed_policies,
            &self.disallowed_policies,
            &self.allowed_policies_glob,
            &self.disallowed_policies_glob,
        ]
        .iter()
        .all(|list| list.is_empty())
    }

    /// The policies of a new token, when it is this role that decides about them.
    pub(super) fn policies(
        &self,
        role: &str,
        parent: &KeeperToken,
        asked: Option<Vec<String>>,
        no_default_policy: bool,
    ) -> Option<Result<Vec<String>, BadInput>> {
        self.chooses_policies()
            .then(|| self.choose(role, parent, asked, no_default_policy))
    }

    fn choose(
        &self,
        role: &str,
        parent: &KeeperToken,
        asked: Option<Vec<String>>,
        no_default_policy: bool,
    ) -> Result<Vec<String>, BadInput> {
        let refused = |policy: &str| {
            self.disallowed_policies.iter().any(|name| name == policy)
                || self
                    .disallowed_policies_glob
                    .iter()
                    .any(|pattern| glob(pattern, policy))
        };
        let add_default = !no_default_policy && !self.no_default_policy && !refused(DEFAULT);
        let with_default = |mut list: Vec<String>| {
            if add_default {
                list.push(DEFAULT.to_owned());
            }
            normalised(list)
        };
        let asked = asked
            .map(normalised)
            .filter(|policies| !policies.is_empty());
        let limited = !self.allowed_policies.is_empty() || !self.allowed_policies_glob.is_empty();
        let allowed = with_default(self.allowed_policies.clone());
        let policies = match asked {
            Some(asked) => {
                let asked = with_default(asked);
                let covered = |policy: &String| {
                    allowed.contains(policy)
                        || self
                            .allowed_policies_glob
                            .iter()
                            .any(|pattern| glob(pattern, policy))
                };
                if limited && !asked.iter().all(covered) {
                    return Err(BadInput::Other(format!(
                        "token policies {asked:?} must be subset of the role's allowed policies {allowed:?} or glob policies {:?}",
                        self.allowed_policies_glob
                    )));
                }
                asked
            }
            None if limited => allowed,
            None => with_default(parent.policies.clone()),
        };
        if let Some(policy) = policies.iter().find(|policy| refused(policy)) {
            return Err(BadInput::Other(format!(
                "token policy {policy:?} is disallowed by role {role:?}"
            )));
        }
        // In the original no policy is there that nobody wrote, so patterns and lists of exceptions are written without these in mind.
        let root = parent.policies.iter().any(|policy| policy == ROOT);
        let held = |policy: &String| {
            root || parent.policies.contains(policy) || self.allowed_policies.contains(policy)
        };
        let powerful = |policy: &&String| **policy == OPERATOR || policy.starts_with(ROBOTS);
        match policies
            .iter()
            .filter(powerful)
            .find(|policy| !held(policy))
        {
            Some(policy) => Err(BadInput::Other(format!(
                "token policy {policy:?} is this server's own and is not given by role {role:?}: a role gives it to those who have it, or if its allowed_policies name it"
            ))),
            None => Ok(policies),
        }
    }

    /// The path its tokens remember.
    pub(super) fn path(&self, role: &str) -> String {
        let mut path = format!("auth/token/create/{role}");
        if !self.path_suffix.is_empty() {
            path.push('/');
            path.push_str(&self.path_suffix);
        }
        path
    }

    fn check(&self) -> Result<(), BadInput> {
        if let Some(cidr) = self.bound_cidrs.iter().find(|cidr| !is_range(cidr)) {
            return Err(BadInput::AddressRange { cidr: cidr.clone() });
        }
        let suffix = &self.path_suffix;
        if sanitised(suffix) != *suffix {
            return Err(BadInput::Other("given role path suffix contains invalid characters; allowed are letters, digits, '.', '_', '@' and '-'".to_owned()));
        }
        Ok(())
    }
}

/// Whether `text` is `pattern` with each `*` standing for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

fn key(role: &str) -> Name {
    name(TOKEN_ROLE, &[role])
}

impl Keeper {
    /// The token role called `role`.
    ///
    /// # Errors
    /// [`Failure::NotFound`].
    pub async fn token_role(&self, role: &str) -> Result<TokenRole, Failure> {
        let stored: Option<Stored<TokenRole>> = self.inner.db.get(&key(role)).await?;
        Ok(stored.ok_or(Failure::NotFound)?.value)
    }

    /// Names of all token roles, sorted.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn token_roles(&self) -> Result<Vec<String>, Failure> {
        let mut names = Vec::new();
        self.inner
            .db
            .each::<TokenRole>(TOKEN_ROLE, &[], |stored| {
                let part = stored.name.parts().first();
                names.extend(part.map(|part| String::from_utf8_lossy(part).into_owned()));
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        names.sort_unstable();
        Ok(names)
    }

    /// Writes a token role: what it was, or the default role, changed by `edit`.
    ///
    /// # Errors
    /// [`BadInput`] for a name, suffix or address range that cannot be used.
    pub async fn edit_token_role(
        &self,
        role: &str,
        edit: impl Fn(&mut TokenRole),
    ) -> Result<(), Failure> {
        if role.is_empty() || sanitised(role) != role {
            return Err(BadInput::Other("a role's name consists of letters, digits, '.', '_', '@' and '-', and is at most 128 long".to_owned()).into());
        }
        loop {
            let stored: Option<Stored<TokenRole>> = self.inner.db.get(&key(role)).await?;
            let mut record = stored
                .as_ref()
                .map(|stored| stored.value.clone())
                .unwrap_or_default();
            edit(&mut record);
            for list in [
                &mut record.allowed_policies,
                &mut record.disallowed_policies,
                &mut record.allowed_policies_glob,
                &mut record.disallowed_policies_glob,
            ] {
                *list = normalised(std::mem::take(list));
            }
            record.check()?;
            let mut change = Change::new();
            change.guard(
                stored
                    .as_ref()
                    .map_or_else(|| Guard::Absent(key(role)), Stored::unchanged),
            );
            change.put(key(role), &record, None)?;
            match self.inner.db.commit(change).await {
                Ok(()) => return Ok(()),
                Err(NotCommitted::Conflict) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }

    /// Deletes a token role; one that is not there stays so. Its tokens can no longer be renewed.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be written.
    pub async fn delete_token_role(&self, role: &str) -> Result<(), Failure> {
        let mut change = Change::new();
        change.delete(key(role));
        Ok(self.inner.db.commit(change).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, matches) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "a", true),
            ("a*", "b", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*c", "abc", true),
            ("a*c", "abcd", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
    }
}
