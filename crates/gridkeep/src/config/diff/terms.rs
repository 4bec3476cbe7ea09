//! Changes of the terms of logins: lives of tokens, addresses, claims.

use super::{Differ, Impact};
use crate::config::finding::Origin;
use crate::config::model::{IssuerConfig, RoleConfig};
use crate::config::terms;

impl Differ<'_> {
    /// The terms that a role has, its issuer's included.
    pub(super) fn terms(
        &mut self,
        key: &str,
        (was, old_role): (&IssuerConfig, &RoleConfig),
        (now, new_role): (&IssuerConfig, &RoleConfig),
    ) {
        let (old, new) = (
            terms::of_role(&was.terms, &old_role.terms),
            terms::of_role(&now.terms, &new_role.terms),
        );
        let origin = terms::origin(&new_role.terms)
            .or_else(|| terms::origin(&now.terms))
            .unwrap_or(&new_role.name.origin)
            .clone();
        let mut push = |key: &str, what: &str, affected: &str, origin: &Origin| {
            self.push(Impact::NextLogin, key, what.to_owned(), affected, origin);
        };
        if (old.ttl, old.max_ttl, old.period) != (new.ttl, new.max_ttl, new.period) {
            push(
                &format!("{key}.token_ttl"),
                "The life of the tokens of its logins changes.",
                "People who log in from now on get the new one; tokens made before keep their life.",
                &origin,
            );
        }
        if old.bound_cidrs != new.bound_cidrs {
            push(
                &format!("{key}.token_bound_cidrs"),
                "The addresses its logins may be used from change.",
                "People who log in from now on are bound to the new ones; tokens made before keep their addresses.",
                &origin,
            );
        }
        if old.bound_claims != new.bound_claims {
            push(
                &format!("{key}.bound_claims"),
                "The claims that a login needs change.",
                "People who log in from now on need them; logins made before go on.",
                &origin,
            );
        }
    }
}
