//! What stands in the files and is not served, because of an error in it. It counts as configured, so that nothing of it is forgotten.
//!
//! Compares what was written with what was read, so it need not know the rules by which items are left out.

use super::finding::{Origin, nearest};
use super::model::{IssuerConfig, KerberosConfig};
use super::own::TOP;
use super::yaml::{Entry, Mapping, Node, Value};
use gridkeep_keeper::LeftOut;

/// Finds it. `ssh_refused`: the section `ssh` is there and could not be read.
pub fn find(
    root: &Mapping,
    issuers: &[IssuerConfig],
    kerberos: &[KerberosConfig],
    ssh_refused: bool,
) -> LeftOut {
    let mut left_out = LeftOut {
        ssh: ssh_refused || is_misspelt(root, "ssh"),
        kerberos: kerberos_names(root).is_none_or(|names| names.len() != kerberos.len())
            || issuers
                .iter()
                .any(|issuer| names_no_service(issuer, kerberos)),
        any_issuer: is_misspelt(root, "issuers"),
        ..LeftOut::default()
    };
    let Some(listed) = root.get("issuers").filter(|node| node.value != Value::Null) else {
        return left_out;
    };
    let (named, nameless) = items(listed);
    left_out.any_issuer |= nameless;
    for (name, item) in named {
        match issuers.iter().find(|issuer| issuer.name.value == name) {
            Some(issuer) => roles(item, issuer, &mut left_out),
            None => {
                left_out.issuers.insert(name.to_owned());
            }
        }
    }
    left_out
}

/// Whether an issuer asks for a Kerberos service that there is not, so that it is served without.
fn names_no_service(issuer: &IssuerConfig, kerberos: &[KerberosConfig]) -> bool {
    issuer.kerbservice.as_ref().is_some_and(|asked| {
        !kerberos
            .iter()
            .any(|service| service.name.value == asked.value)
    })
}

/// The names of all Kerberos services in the order in which they are written; `None` if there may be more than can be told by name.
pub fn kerberos_names(root: &Mapping) -> Option<Vec<String>> {
    if is_misspelt(root, "kerberos") {
        return None;
    }
    let Some(listed) = root
        .get("kerberos")
        .filter(|node| node.value != Value::Null)
    else {
        return Some(Vec::new());
    };
    let (named, nameless) = items(listed);
    (!nameless).then(|| named.iter().map(|(name, _)| (*name).to_owned()).collect())
}

fn roles(item: &Mapping, issuer: &IssuerConfig, left_out: &mut LeftOut) {
    let Some(listed) = item.get("roles") else {
        return;
    };
    let (named, nameless) = items(listed);
    if nameless {
        left_out.any_role_of.insert(issuer.name.value.clone());
    }
    for (name, _) in named {
        if !issuer.roles.iter().any(|role| role.name.value == name) {
            left_out.insert_role(&issuer.name.value, name);
        }
    }
}

/// The items with a name that can be one, and whether there are others.
fn items(listed: &Node) -> (Vec<(&str, &Mapping)>, bool) {
    let Value::List(items) = &listed.value else {
        return (Vec::new(), true);
    };
    let named: Vec<_> = items.iter().filter_map(named).collect();
    let nameless = named.len() < items.len();
    (named, nameless)
}

fn named(item: &Node) -> Option<(&str, &Mapping)> {
    let map = item.as_map()?;
    let Value::Scalar(name) = &map.get("name")?.value else {
        return None;
    };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (!name.text().is_empty() && name.text().bytes().all(allowed)).then(|| (name.text(), map))
}

/// Whether an unknown key at the top is a slip of the pen for `key`.
fn is_misspelt(root: &Mapping, key: &str) -> bool {
    root.entries
        .iter()
        .any(|entry| stands_for(root, entry) == Some(key))
}

/// The section that an unknown key at the top was meant for, unless its own file has that one too: then it may be there for its anchor,
/// which the original allows.
pub(super) fn stands_for(root: &Mapping, entry: &Entry) -> Option<&'static str> {
    if TOP.contains(&entry.key.as_str()) {
        return None;
    }
    let meant = nearest(&entry.key, &TOP)?;
    let beside = root.get(meant).is_some_and(|section| {
        let parts: Vec<&Origin> = match &section.value {
            Value::List(items) => items.iter().map(|item| &item.origin).collect(),
            Value::Map(map) => map.entries.iter().map(|entry| &entry.key_origin).collect(),
            Value::Null | Value::Scalar(_) => Vec::new(),
        };
        parts
            .into_iter()
            .chain([&section.origin])
            .any(|origin| origin.is_beside(&entry.key_origin))
    });
    (!beside).then_some(meant)
}
