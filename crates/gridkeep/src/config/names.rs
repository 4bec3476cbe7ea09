//! Names of issuers and roles that would be one name elsewhere: without regard to case, or once they are joined.

use super::finding::{Origin, Severity, quoted};
use super::issuers::NOT_SERVED;
use super::model::{IssuerConfig, RoleConfig};
use super::read::{Named, Reader};
use std::collections::{HashMap, HashSet};

/// How many items have a name, upper and lower case being the same.
pub fn spellings(named: &[Named<'_>]) -> HashMap<String, usize> {
    let mut spellings: HashMap<String, usize> = HashMap::new();
    for item in named {
        *spellings
            .entry(item.name.value.to_ascii_lowercase())
            .or_default() += 1;
    }
    spellings
}

/// Whether another item's name differs from this one's only by case, which is reported. Names of policies and of roles in the
/// Vault API have no case, so that one item's would take the place of the other's.
pub fn differs_by_case(
    reader: &mut Reader<'_>,
    item: &Named<'_>,
    spellings: &HashMap<String, usize>,
    kind: &str,
) -> bool {
    let differs = spellings
        .get(&item.name.value.to_ascii_lowercase())
        .is_some_and(|count| *count > 1);
    if differs {
        let what = format!(
            "Another {kind} differs from {} only by upper and lower case.",
            quoted(&item.name.value)
        );
        let means = "They cannot be told apart; neither is served. Rename or delete one.";
        reader.find(Severity::Error, &item.name.origin, &item.path, what, means);
    }
    differs
}

/// Issuer and role as in the names of mounts and policies, in lower case.
fn together(issuer: &IssuerConfig, role: &RoleConfig) -> String {
    format!("{}_{}", issuer.name.value, role.name.value).to_ascii_lowercase()
}

/// htgettoken addresses the Kerberos mount as `kerberos-<issuer>_<role>`, which must name one role only; so must the policies called so,
/// whose names have no case.
pub fn drop_collisions(reader: &mut Reader<'_>, issuers: &mut Vec<(IssuerConfig, String, Origin)>) {
    let mut users: HashMap<String, Vec<(usize, usize)>> = HashMap::new();
    for (i, (issuer, ..)) in issuers.iter().enumerate() {
        for (r, role) in issuer.roles.iter().enumerate() {
            users
                .entry(together(issuer, role))
                .or_default()
                .push((i, r));
        }
    }
    let mut dropped: HashSet<(usize, usize)> = HashSet::new();
    for (i, (issuer, path, _)) in issuers.iter().enumerate() {
        for (r, role) in issuer.roles.iter().enumerate() {
            let together = together(issuer, role);
            let other = users
                .get(&together)
                .and_then(|users| users.iter().find(|user| **user != (i, r)));
            let Some((other, other_role)) =
                other.and_then(|(i, r)| issuers.get(*i).map(|(o, ..)| (o, &o.roles[*r])))
            else {
                continue;
            };
            dropped.insert((i, r));
            let what = format!(
                "Issuer and role together read `{together}`, as do issuer `{}` and role `{}` at {}.",
                other.name.value, other_role.name.value, other_role.name.origin
            );
            let means = "Clients cannot tell them apart; neither role is served. Rename one.";
            let key = format!("{path}.roles[{}]", role.name.value);
            reader.find(Severity::Error, &role.name.origin, &key, what, means);
        }
    }
    for (i, (issuer, ..)) in issuers.iter_mut().enumerate() {
        let mut r = 0;
        issuer.roles.retain(|_| {
            r += 1;
            !dropped.contains(&(i, r - 1))
        });
    }
    issuers.retain(|(issuer, path, origin)| {
        if issuer.roles.is_empty() {
            reader.find(
                Severity::Error,
                origin,
                path,
                "No role of this issuer can be used.",
                NOT_SERVED,
            );
        }
        !issuer.roles.is_empty()
    });
}
