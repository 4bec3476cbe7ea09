//! Making tokens with tokens, rule by rule (section 5.3 of the Vault API specification).

use std::collections::BTreeMap;
use std::sync::Arc;

use gridkeep_token::time::Seconds;

use super::lifetime::{capped, least, limit};
use super::{Bearer, Issued, TokenRole, is_range, normalised, put_new, sanitised, within};
use crate::database::{Change, NotCommitted};
use crate::failure::{BadInput, Failure};
use crate::keeper::Keeper;
use crate::policy::{DEFAULT, ROOT};
use crate::records::KeeperToken;

const MAX_ANCESTORS: usize = 32;

/// What a caller asks of a new token.
#[derive(Debug, Clone)]
pub struct CreateToken {
    /// A client-chosen id; refused.
    pub id: Option<String>,
    /// Policies; `None` = the parent's.
    pub policies: Option<Vec<String>>,
    /// Free facts.
    pub meta: BTreeMap<String, String>,
    /// Make it an orphan; needs sudo.
    pub no_parent: bool,
    /// The request came by the path whose permission is permission to make orphans.
    pub orphan_path: bool,
    /// Do not add the policy `default`.
    pub no_default_policy: bool,
    /// Whether it may be renewed.
    pub renewable: bool,
    /// Wanted life.
    pub ttl: Option<Seconds>,
    /// Hard end.
    pub explicit_max_ttl: Seconds,
    /// Period; needs sudo.
    pub period: Seconds,
    /// Number of uses; 0 = no limit.
    pub num_uses: i64,
    /// A name for people.
    pub display_name: Option<String>,
    /// `service`, or nothing.
    pub token_type: Option<String>,
    /// Addresses it may be used from, as CIDR; empty = as its parent.
    pub bound_cidrs: Vec<String>,
    /// The token role to make it by.
    pub role: Option<String>,
}

impl Default for CreateToken {
    fn default() -> Self {
        CreateToken {
            id: None,
            policies: None,
            meta: BTreeMap::new(),
            no_parent: false,
            orphan_path: false,
            no_default_policy: false,
            renewable: true,
            ttl: None,
            explicit_max_ttl: Seconds(0),
            period: Seconds(0),
            num_uses: 0,
            display_name: None,
            token_type: None,
            bound_cidrs: Vec::new(),
            role: None,
        }
    }
}

impl Keeper {
    /// Makes a child of `by`, or an orphan. `sudo` tells whether the caller has that capability on the path it used.
    ///
    /// # Errors
    /// [`BadInput`] for each rule of the original that the request breaks.
    pub async fn create_token(
        &self,
        by: &Bearer,
        request: CreateToken,
        sudo: bool,
    ) -> Result<Issued, Failure> {
        let role = match request.role.as_deref() {
            Some(role) => Some(self.token_role(role).await.map_err(|failure| {
                match failure {
                    Failure::NotFound => BadInput::UnknownTokenRole {
                        role: role.to_owned(),
                    }
                    .into(),
                    other => other,
                }
            })?),
            None => None,
        };
        loop {
            if let Some(issued) = self
                .create_once(by, request.clone(), role.as_ref(), sudo)
                .await?
            {
                return Ok(issued);
            }
        }
    }

    /// `None` when the parent was written meanwhile.
    async fn create_once(
        &self,
        by: &Bearer,
        mut request: CreateToken,
        role: Option<&TokenRole>,
        sudo: bool,
    ) -> Result<Option<Issued>, Failure> {
        if by.token.num_uses > 0 {
            return Err(BadInput::RestrictedUse.into());
        }
        let standing = self.live(&by.token.id).await?;
        let parent = &standing.value;
        let root = parent.policies.iter().any(|policy| policy == ROOT);
        let sudo = sudo || root;
        if request.id.as_deref().is_some_and(|id| !id.is_empty()) {
            return Err(if sudo {
                BadInput::IdUnsupported
            } else {
                BadInput::IdNeedsSudo
            }
            .into());
        }
        if let Some(kind) = request
            .token_type
            .as_deref()
            .filter(|kind| !matches!(*kind, "" | "service" | "default"))
        {
            return Err(BadInput::UnsupportedTokenType {
                kind: kind.to_owned(),
            }
            .into());
        }
        let mut num_uses = u64::try_from(request.num_uses).map_err(|_| BadInput::NegativeUses)?;
        if request.no_parent && !sudo && !request.orphan_path {
            return Err(BadInput::OrphanNeedsSudo.into());
        }
        if request.period.0 > 0 && !sudo {
            return Err(BadInput::PeriodNeedsSudo.into());
        }
        let mut orphan = request.no_parent || request.orphan_path;
        if let Some(role) = role {
            orphan |= role.orphan;
            request.renewable &= role.renewable;
            request.period = least(request.period, role.period);
            request.explicit_max_ttl = least(request.explicit_max_ttl, role.explicit_max_ttl);
            num_uses = least(Seconds(num_uses), Seconds(role.num_uses)).0;
        }
        let bound_cidrs = addresses(parent, &request, role)?;
        if !orphan && parent.ancestors.len() >= MAX_ANCESTORS {
            return Err(BadInput::TooDeep {
                limit: MAX_ANCESTORS,
            }
            .into());
        }
        let mut warnings = Vec::new();
        let policies = child_policies(parent, &request, role, sudo, root)?;
        for policy in &policies {
            if policy != ROOT && self.inner.policies.get(policy, self.now()).is_none() {
                warnings.push(format!("Policy \"{policy}\" does not exist"));
            }
        }
        let ttl = self.ttl_for(
            &request,
            policies.iter().any(|policy| policy == ROOT),
            &mut warnings,
        );
        let ancestors = if orphan {
            Vec::new()
        } else {
            std::iter::once(parent.id)
                .chain(parent.ancestors.iter().copied())
                .collect()
        };
        let display_name = match request
            .display_name
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            Some(text) => format!("token-{}", sanitised(text)),
            None => "token".to_owned(),
        };
        let (secret, token) = self.new_token(ttl, |token| {
            token.policies = policies;
            token.meta = request.meta;
            token.display_name = display_name;
            token.path = match (role, request.role.as_deref()) {
                (Some(role), Some(name)) => role.path(name),
                _ if request.orphan_path => "auth/token/create-orphan".to_owned(),
                _ => "auth/token/create".to_owned(),
            };
            token.role = request.role;
            token.parent = (!orphan).then_some(parent.id);
            token.ancestors = ancestors;
            token.orphan = orphan;
            token.explicit_max_ttl = request.explicit_max_ttl;
            token.period = request.period;
            token.num_uses = num_uses;
            token.renewable = request.renewable;
            token.entity.clone_from(&parent.entity);
            token.identity.clone_from(&parent.identity);
            token.bound_cidrs = bound_cidrs;
            token.limits.clone_from(&parent.limits);
        })?;
        let mut change = Change::new();
        // The parent still as it was when it was found alive: a child made beside its revocation would outlive it.
        change.guard(standing.unchanged());
        put_new(&mut change, &token)?;
        match self.inner.db.commit(change).await {
            Ok(()) => Ok(Some(Issued {
                secret,
                token: Arc::new(token),
                warnings,
            })),
            Err(NotCommitted::Conflict) => Ok(None),
            Err(other) => Err(other.into()),
        }
    }

    /// The life a new token gets; `None` for a root token nobody asked an end for.
    fn ttl_for(
        &self,
        request: &CreateToken,
        root: bool,
        warnings: &mut Vec<String>,
    ) -> Option<Seconds> {
        if root && request.ttl.is_none() && request.period.0 == 0 && request.explicit_max_ttl.0 == 0
        {
            return None;
        }
        let lifetimes = self.setup().lifetimes.clone();
        let limit = limit(&lifetimes, request.explicit_max_ttl);
        let wanted = if request.period.0 > 0 {
            request.period
        } else {
            request
                .ttl
                .filter(|ttl| ttl.0 > 0)
                .unwrap_or(lifetimes.default_ttl)
        };
        Some(capped(
            wanted,
            limit,
            request.ttl.is_some() || request.period.0 > 0,
            warnings,
        ))
    }
}

/// Where the new token may be used from: never from where its parent may not.
fn addresses(
    parent: &KeeperToken,
    request: &CreateToken,
    role: Option<&TokenRole>,
) -> Result<Vec<String>, BadInput> {
    let mut bound = parent.bound_cidrs.clone();
    let wanted = [
        role.map_or(&[][..], |role| &role.bound_cidrs),
        &request.bound_cidrs,
    ];
    for cidrs in wanted.into_iter().filter(|cidrs| !cidrs.is_empty()) {
        for cidr in cidrs {
            if !is_range(cidr) {
                return Err(BadInput::AddressRange { cidr: cidr.clone() });
            }
            if !within(cidr, &bound) {
                return Err(BadInput::AddressRangeWider {
                    cidr: cidr.clone(),
                    parent: bound,
                });
            }
        }
        bound = cidrs.to_vec();
    }
    Ok(bound)
}

fn child_policies(
    parent: &KeeperToken,
    request: &CreateToken,
    role: Option<&TokenRole>,
    sudo: bool,
    root: bool,
) -> Result<Vec<String>, BadInput> {
    if let Some(chosen) = role.zip(request.role.as_deref()).and_then(|(role, name)| {
        role.policies(
            name,
            parent,
            request.policies.clone(),
            request.no_default_policy,
        )
    }) {
        let chosen = chosen?;
        return if chosen.iter().any(|policy| policy == ROOT) && !root {
            Err(BadInput::RootNeedsRoot)
        } else {
            Ok(chosen)
        };
    }
    let parent_default = parent.policies.iter().any(|policy| policy == DEFAULT);
    let mut policies = match request
        .policies
        .clone()
        .map(normalised)
        .filter(|policies| !policies.is_empty())
    {
        None => {
            let mut copied = parent.policies.clone();
            if request.no_default_policy {
                copied.retain(|policy| policy != DEFAULT);
            }
            copied
        }
        Some(given) => {
            if given.iter().any(|policy| policy == ROOT) && !root {
                return Err(BadInput::RootNeedsRoot);
            }
            if !sudo && !given.iter().all(|policy| parent.policies.contains(policy)) {
                return Err(BadInput::PoliciesNotSubset);
            }
            let mut given = given;
            let add_default = !request.no_default_policy
                && (sudo || parent_default)
                && !given.iter().any(|policy| policy == ROOT);
            if add_default {
                given.push(DEFAULT.to_owned());
            }
            given
        }
    };
    policies.sort_unstable();
    policies.dedup();
    Ok(policies)
}
