//! What a node's own files say and the configuration that all nodes share says otherwise, so that it counts for nothing there.
//!
//! Compares trees, as the digest does, and knows no key.

use super::effective::{Part, Tree, tree};
use super::finding::Origin;
use super::model::Config;
use secrecy::ExposeSecret;

/// The keys of `own` that have another value in `in_force`, or none there, each with its place: `ssh (/etc/…/15-logins.yaml:4)`.
pub fn without_effect(own: &Config, in_force: &Config) -> Vec<String> {
    let (own, served) = (tree(own, Part::Shared), tree(in_force, Part::Shared));
    let mut found = Vec::new();
    compare("", &own, Some(&served), &mut found);
    found
}

fn compare(key: &str, own: &Tree<'_>, served: Option<&Tree<'_>>, found: &mut Vec<String>) {
    if served.is_some_and(|served| same(own, served)) {
        return;
    }
    match (own, served) {
        (Tree::Map(own), Some(Tree::Map(served))) => {
            for (name, value) in own {
                let dot = if key.is_empty() { "" } else { "." };
                let served = served.iter().find(|(served, _)| served == name);
                let served = served.map(|(_, value)| value);
                compare(&format!("{key}{dot}{name}"), value, served, found);
            }
        }
        (Tree::List(items), Some(Tree::List(served)))
            if items.iter().all(|item| name(item).is_some()) =>
        {
            for item in items {
                let named = name(item).unwrap_or_default();
                let served = served.iter().find(|served| name(served) == Some(named));
                compare(&format!("{key}[{named}]"), item, served, found);
            }
        }
        (own, served) => {
            let added = match (own, served) {
                (Tree::List(items), Some(Tree::List(served))) => items
                    .iter()
                    .find(|item| !served.iter().any(|served| same(item, served))),
                _ => None,
            };
            // What nobody wrote is no key of the files.
            let place = written(added.unwrap_or(own));
            found.extend(place.map(|place| format!("{key} ({place})")));
        }
    }
}

fn same(one: &Tree<'_>, other: &Tree<'_>) -> bool {
    match (one, other) {
        (Tree::Map(one), Tree::Map(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|((key, one), (other_key, other))| key == other_key && same(one, other))
        }
        (Tree::List(one), Tree::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Tree::Text(one, _), Tree::Text(other, _)) => one == other,
        (Tree::Secret(one, _), Tree::Secret(other, _)) => {
            one.expose_secret() == other.expose_secret()
        }
        _ => false,
    }
}

fn name<'t>(item: &'t Tree<'_>) -> Option<&'t str> {
    let Tree::Map(entries) = item else {
        return None;
    };
    entries.iter().find_map(|(key, value)| match value {
        Tree::Text(text, _) if key == "name" => Some(text.as_str()),
        _ => None,
    })
}

/// The first place in a file.
fn written<'t>(tree: &'t Tree<'_>) -> Option<&'t Origin> {
    match tree {
        Tree::Map(entries) => entries.iter().find_map(|(_, value)| written(value)),
        Tree::List(items) => items.iter().find_map(written),
        Tree::Text(_, origin) | Tree::Secret(_, origin) => {
            origin.file().is_some().then_some(origin)
        }
        Tree::Unset(_) => None,
    }
}
