//! Making delegations, renewing their tokens, withdrawing them.

use std::collections::BTreeMap;
use std::sync::Arc;

use gridkeep_store::Guard;
use gridkeep_token::time::Seconds;

use super::{Delegation, Holder, MOST, MOUNT, ROBOT_MOUNT, UseLimits};
use crate::credentials::CredentialName;
use crate::database::{Change, NotCommitted, Stored};
use crate::events::{self, Event};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::policy::{DELEGATED, known_issuer};
use crate::records::{CredentialRecord, Identity};
use crate::removed::known_role;
use crate::secret::random_id;
use crate::tokens::{Bearer, Issued, Renewed, is_range, later, put_new, sanitised, within};

/// A delegation that somebody asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delegate {
    /// The principal that gets it, as `<login mount>/<alias>`: `oidc-dune/bob`. `None` = a token is made for it.
    pub to: Option<String>,
    /// How far the credential may be used.
    pub limits: UseLimits,
    /// From where, as CIDR; empty = from anywhere.
    pub bound_cidrs: Vec<String>,
    /// How long it stands; `None` = as long as the asker may give it.
    pub ttl: Option<Seconds>,
    /// How long its token lives without being renewed; 0 = the longest.
    pub period: Seconds,
    /// A name for people.
    pub note: String,
    /// Whether the asker may give it without end.
    pub lasting: bool,
}

/// A delegation that was made.
#[derive(Debug, Clone)]
pub struct Delegated {
    /// What was delegated.
    pub delegation: Delegation,
    /// Its token, when it is for a bearer.
    pub issued: Option<Issued>,
    /// What was not done as asked.
    pub warnings: Vec<String>,
}

impl Keeper {
    /// Delegates the use of `credential`. The caller has been authorised to do so, and to do so without end if `lasting`.
    ///
    /// # Errors
    /// [`BadInput`] for what cannot be delegated that way; [`Failure::NotFound`] when nothing is stored under the name.
    pub async fn delegate(
        &self,
        by: &Bearer,
        credential: &CredentialName,
        request: Delegate,
    ) -> Result<Delegated, Failure> {
        let setup = self.setup();
        let issuer = known_issuer(&setup, &credential.issuer, self.now())?;
        known_role(&setup, issuer, &credential.role, self.now())?;
        if let Some(cidr) = request.bound_cidrs.iter().find(|cidr| !is_range(cidr)) {
            return Err(BadInput::AddressRange { cidr: cidr.clone() }.into());
        }
        let own = &by.token.bound_cidrs;
        let mut bound_cidrs = request.bound_cidrs.clone();
        if bound_cidrs.is_empty() {
            bound_cidrs.clone_from(own);
        }
        if let Some(cidr) = bound_cidrs.iter().find(|cidr| !within(cidr, own)) {
            return Err(BadInput::AddressRangeWider {
                cidr: cidr.clone(),
                parent: own.clone(),
            }
            .into());
        }
        let found: Option<Stored<CredentialRecord>> = self.inner.db.get(&credential.key()).await?;
        if found.is_none() {
            return Err(Failure::NotFound);
        }
        let standing = self.delegations(credential).await?;
        if standing.len() >= MOST {
            return Err(BadInput::Other(format!("a credential can be delegated at most {MOST} times at once; withdraw what is not needed")).into());
        }
        let mut warnings = Vec::new();
        let longest = setup.lifetimes.max_ttl;
        let ttl = match request.ttl.filter(|ttl| ttl.0 > 0) {
            ttl if request.lasting => ttl,
            Some(ttl) if ttl <= longest => Some(ttl),
            Some(_) => {
                warnings.push(format!("the delegation ends after {} days, the longest that may be given here; only those whom gridkeep.robots names give more", longest.0 / 86_400));
                Some(longest)
            }
            None => Some(longest),
        };
        let now = self.now();
        let mut delegation = Delegation {
            id: random_id(),
            holder: Holder::Principal {
                mount: String::new(),
                accessor: String::new(),
                alias: String::new(),
            },
            limits: request.limits.clone(),
            bound_cidrs,
            made_by: self.name_of_user(&by.token).await?,
            made_at: now,
            ends_at: ttl.map(|ttl| later(now, ttl)),
            period: Seconds(0),
            note: sanitised(&request.note),
        };
        let mut change = Change::new();
        let issued = match request.to.as_deref().filter(|to| !to.is_empty()) {
            Some(to) => {
                delegation.holder = self.principal(to)?;
                None
            }
            None => {
                if request.lasting {
                    delegation.period = match request.period {
                        Seconds(0) => longest,
                        period if period > longest => {
                            warnings.push(format!(
                                "the period is {} days, the longest there is",
                                longest.0 / 86_400
                            ));
                            longest
                        }
                        period => period,
                    };
                } else if request.period.0 > 0 {
                    return Err(BadInput::PeriodNeedsRobotRule.into());
                }
                let issued = self.delegated_token(&mut change, credential, &mut delegation, ttl)?;
                Some(issued)
            }
        };
        let key = Delegation::key(credential, &delegation.id);
        change.guard(Guard::Absent(key.clone())).put(
            key,
            &delegation,
            delegation.ends_at.map(|end| end.0),
        )?;
        self.note_delegation(&mut change, by, credential, "delegated", &delegation)
            .await?;
        self.inner.db.commit(change).await?;
        Ok(Delegated {
            delegation,
            issued,
            warnings,
        })
    }

    /// The principal that `to` names.
    fn principal(&self, to: &str) -> Result<Holder, BadInput> {
        let unknown = || BadInput::UnknownPrincipal { to: to.to_owned() };
        let (mount, alias) = to.split_once('/').ok_or_else(unknown)?;
        let path = format!("auth/{mount}/");
        let found = self
            .mounts()
            .into_iter()
            .find(|known| known.path == path && known.kind != "token")
            .ok_or_else(unknown)?;
        if alias.is_empty()
            || alias.len() > 255
            || alias.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            return Err(unknown());
        }
        Ok(Holder::Principal {
            mount: mount.to_owned(),
            accessor: found.accessor,
            alias: alias.to_owned(),
        })
    }

    /// The token of a delegation to a bearer, put into `change` but not committed.
    fn delegated_token(
        &self,
        change: &mut Change,
        credential: &CredentialName,
        delegation: &mut Delegation,
        ttl: Option<Seconds>,
    ) -> Result<Issued, Failure> {
        let lasting = delegation.period.0 > 0;
        let mount = if lasting { ROBOT_MOUNT } else { MOUNT };
        let facts = BTreeMap::from([
            ("issuer".to_owned(), credential.issuer.clone()),
            ("role".to_owned(), credential.role.clone()),
        ]);
        let mut meta = facts.clone();
        meta.insert("credkey".to_owned(), credential.owner.clone());
        meta.insert("delegation".to_owned(), delegation.id.clone());
        let life = if lasting {
            ttl.map_or(delegation.period, |ttl| delegation.period.min(ttl))
        } else {
            ttl.unwrap_or(delegation.period)
        };
        let (secret, token) = self.new_token(Some(life), |token| {
            token.policies = vec![DELEGATED.to_owned()];
            token.meta = meta;
            token.display_name = format!(
                "{}-{}-{}",
                mount.trim_end_matches('/'),
                credential.issuer,
                sanitised(&credential.owner)
            );
            token.path = format!("{mount}{credential}");
            token.explicit_max_ttl = ttl.unwrap_or(Seconds(0));
            token.period = delegation.period;
            token.renewable = lasting;
            token.identity = Some(Identity {
                mount_accessor: self.inner.mint.mount_accessor("delegation", MOUNT),
                alias: credential.owner.clone(),
                metadata: facts,
            });
            token.bound_cidrs.clone_from(&delegation.bound_cidrs);
            token.limits = Some(delegation.limits.clone());
        })?;
        delegation.holder = Holder::Token {
            id: token.id,
            accessor: token.accessor.clone(),
        };
        put_new(change, &token)?;
        Ok(Issued {
            secret,
            token: Arc::new(token),
            warnings: Vec::new(),
        })
    }

    /// Renews the token of a delegation for somebody who may delegate the credential.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for an id that is not among those of `credential`; [`BadInput::NotRenewable`] and
    /// [`BadInput::PastMaxTtl`] as for any token; [`BadInput::TokenNotFound`] when it is dead.
    pub async fn renew_delegated(
        &self,
        credential: &CredentialName,
        id: &str,
    ) -> Result<Renewed, Failure> {
        match self.delegation(credential, id).await?.value.holder {
            Holder::Token { id, .. } => self.renew(&id, None).await,
            Holder::Principal { .. } => Err(BadInput::NotRenewable.into()),
        }
    }

    /// Withdraws a delegation; its token dies at once.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for an id that is not among those of `credential`.
    pub async fn withdraw_delegation(
        &self,
        by: &Bearer,
        credential: &CredentialName,
        id: &str,
    ) -> Result<(), Failure> {
        let stored = self.delegation(credential, id).await?;
        // The token first: should the second write fail, the delegation is still there to be withdrawn again.
        if let Holder::Token { id, .. } = &stored.value.holder {
            self.revoke(id).await?;
        }
        let mut change = Change::new();
        change.delete(stored.name.clone());
        self.note_delegation(&mut change, by, credential, "withdrawn", &stored.value)
            .await?;
        match self.inner.db.commit_critical(change).await {
            Ok(()) | Err(NotCommitted::Conflict) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    async fn delegation(
        &self,
        credential: &CredentialName,
        id: &str,
    ) -> Result<Stored<Delegation>, Failure> {
        self.inner
            .db
            .get(&Delegation::key(credential, id))
            .await?
            .ok_or(Failure::NotFound)
    }

    async fn note_delegation(
        &self,
        change: &mut Change,
        by: &Bearer,
        credential: &CredentialName,
        what: &str,
        delegation: &Delegation,
    ) -> Result<(), Failure> {
        let holder = match &delegation.holder {
            Holder::Principal { mount, alias, .. } => format!("principal {mount}/{alias}"),
            Holder::Token { accessor, .. } => format!("token {accessor}"),
        };
        events::record(
            change,
            &Event {
                at: self.now(),
                what: what.into(),
                subject: credential.to_string(),
                by: self.name_of_user(&by.token).await?,
                from: by.from,
                detail: format!("delegation {} to {holder}", delegation.id),
            },
        )
    }
}
