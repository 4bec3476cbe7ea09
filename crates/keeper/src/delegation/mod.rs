//! Delegations: the use of one credential, given to somebody else with narrower rules, until it ends or is withdrawn.
//!
//! Owns who may use what of somebody else's, as [`UseLimits`] on scopes and audiences, address ranges and an end. The holder is a
//! principal, who uses it with a login of its own, or the bearer of a token made for it: a robot. Refuses to know who may delegate:
//! that is a matter of policies. The limits themselves are in [`limits`], making and withdrawing in [`make`].

mod limits;
mod make;

use gridkeep_store::Name;
use gridkeep_token::time::{Seconds, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::clock::TOLERANCE_SECONDS;
use crate::credentials::CredentialName;
use crate::database::{Stored, name};
use crate::failure::{Failure, Later, LaterKind};
use crate::keeper::Keeper;
use crate::policy::Granted;
use crate::records::DELEGATION;
use crate::secret::TokenId;
use crate::ssh::SSH_MOUNT;
use crate::tokens::{Bearer, allowed_address};

pub use limits::UseLimits;
pub use make::{Delegate, Delegated};

/// The mount of delegations, which end within the system's longest life of a token.
pub(crate) const MOUNT: &str = "delegation/";
/// The mount of delegations without end, for those whom the configuration names.
pub(crate) const ROBOT_MOUNT: &str = "robot/";
/// Delegations of one credential that stand at once.
const MOST: usize = 64;

/// Who holds a delegation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Holder {
    /// A principal, with any of its logins.
    Principal {
        /// Where it logs in, without `auth/` and slash: `oidc-dune`.
        mount: String,
        /// Accessor of that mount.
        accessor: String,
        /// Who it is there, compared without regard to case.
        alias: String,
    },
    /// Whoever shows a token.
    Token {
        /// Its id.
        id: TokenId,
        /// Its accessor.
        accessor: String,
    },
}

/// One delegation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// Names it among those of its credential.
    pub id: String,
    /// Who may use the credential.
    pub holder: Holder,
    /// How far.
    #[serde(default)]
    pub limits: UseLimits,
    /// From where, as CIDR; empty = from anywhere.
    #[serde(default)]
    pub bound_cidrs: Vec<String>,
    /// Display name of the token it was made with.
    pub made_by: String,
    /// When.
    pub made_at: UnixSeconds,
    /// When it ends; `None` = when it is withdrawn, or its token is no longer renewed.
    #[serde(default)]
    pub ends_at: Option<UnixSeconds>,
    /// The period of its token; 0 = not periodic.
    #[serde(default)]
    pub period: Seconds,
    /// What its maker called it.
    #[serde(default)]
    pub note: String,
}

impl Delegation {
    fn key(credential: &CredentialName, id: &str) -> Name {
        name(
            DELEGATION,
            &[&credential.issuer, &credential.owner, &credential.role, id],
        )
    }

    fn has_ended(&self, now: UnixSeconds) -> bool {
        self.ends_at.is_some_and(|end| now >= end)
    }
}

impl Keeper {
    /// The delegations of `credential` that have not ended, oldest first.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read.
    pub async fn delegations(
        &self,
        credential: &CredentialName,
    ) -> Result<Vec<Delegation>, Failure> {
        let now = self.now();
        let (mut found, _) = self.all_delegations(credential).await?;
        found.retain(|delegation| !delegation.has_ended(now));
        Ok(found)
    }

    /// The same with those that have ended and are not swept yet, and how many there are besides that cannot be read.
    async fn all_delegations(
        &self,
        credential: &CredentialName,
    ) -> Result<(Vec<Delegation>, usize), Failure> {
        let mut found = Vec::new();
        let prefix = [
            credential.issuer.as_bytes(),
            credential.owner.as_bytes(),
            credential.role.as_bytes(),
        ];
        let damaged = self
            .inner
            .db
            .each_counting_damaged(DELEGATION, &prefix, |stored: Stored<Delegation>| {
                found.push(stored.value);
                std::ops::ControlFlow::Continue(())
            })
            .await?;
        found.sort_by(|a, b| (a.made_at, &a.id).cmp(&(b.made_at, &b.id)));
        Ok((found, damaged))
    }

    /// What was delegated to `bearer` of `credential`: the permission to read it, with the limits of each delegation that holds
    /// for this address and moment. `None` when there is nothing.
    ///
    /// # Errors
    /// [`Failure::Later`] when the store cannot be read, or while it is not certain that a delegation has ended.
    pub async fn delegated(
        &self,
        bearer: &Bearer,
        credential: &CredentialName,
    ) -> Result<Option<Granted>, Failure> {
        let Some(identity) = &bearer.token.identity else {
            return Ok(None);
        };
        // What a token was limited to does not grow by what is delegated to its principal.
        if bearer.token.limits.is_some() {
            return Ok(None);
        }
        // With ssh keys, owners of one name at two issuers are two people: the one of the credential's issuer is meant.
        let of_ssh = self.inner.mint.mount_accessor("ssh", SSH_MOUNT);
        if identity.mount_accessor == of_ssh
            && identity.metadata.get("issuer") != Some(&credential.issuer)
        {
            return Ok(None);
        }
        let (mut theirs, damaged) = self.all_delegations(credential).await?;
        theirs.retain(|delegation| {
            let to_them = matches!(&delegation.holder, Holder::Principal { accessor, alias, .. }
                if *accessor == identity.mount_accessor && alias.to_lowercase() == identity.alias.to_lowercase());
            to_them && allowed_address(&delegation.bound_cidrs, bearer.from)
        });
        let now = self.now();
        let limits: Vec<UseLimits> = theirs
            .iter()
            .filter(|delegation| !delegation.has_ended(now))
            .map(|delegation| delegation.limits.clone())
            .collect();
        if limits.is_empty() {
            if damaged > 0 {
                return Err(Later::new(
                    LaterKind::Store,
                    "a delegation of this credential cannot be read from the store, so it is not known whether it was given to you; tell the operators of this server: its log says what is damaged",
                )
                .into());
            }
            let uncertain =
                |end: UnixSeconds| now.0 - end.0 <= TOLERANCE_SECONDS || self.clock_doubtful();
            if theirs
                .iter()
                .filter_map(|delegation| delegation.ends_at)
                .any(uncertain)
            {
                return Err(Later::new(
                    LaterKind::ClockDoubtful,
                    "by this server's clock the delegation of this credential ended just now, or the clock is in doubt; ask its owner for a new one",
                )
                .into());
            }
            return Ok(None);
        }
        Ok(Some(Granted {
            policies: vec!["delegation".to_owned()],
            sudo: false,
            root: false,
            limits,
        }))
    }
}
