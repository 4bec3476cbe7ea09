//! Several files into one tree: the merge and delete rules of the original (profile sections 2.3 and 2.4).
//!
//! Lists of named items are merged by name, other lists are added up, a later null never unsets, a later scalar
//! replaces. One rule is ours: a `delete` that finds nothing to delete is reported and leaves nothing behind.
//! Knows no key of the schema but `name` and `delete`.

use super::finding::{Finding, Findings, Refusal, Severity, quoted};
use super::yaml::{Entry, Mapping, Node, Value};
use std::collections::{HashMap, HashSet};

/// Merges one more file into what the earlier ones gave.
///
/// # Errors
/// A fatal finding when a list meets something that is no list, or a mapping something that is no mapping.
pub fn merge(old: Option<Node>, new: Node, findings: &mut Findings) -> Result<Node, Refusal> {
    let mut merger = Merger {
        findings,
        path: Vec::new(),
    };
    match old {
        Some(old) => merger.merge(old, new),
        None => Ok(merger.sweep(new)),
    }
}

struct Merger<'f> {
    findings: &'f mut Findings,
    path: Vec<String>,
}

impl Merger<'_> {
    fn merge(&mut self, old: Node, new: Node) -> Result<Node, Refusal> {
        if new.value == Value::Null {
            return Ok(old);
        }
        match (old.value, new.value) {
            (Value::Null, value) => Ok(self.sweep(Node {
                value,
                origin: new.origin,
            })),
            (Value::Map(old_map), Value::Map(new_map)) => {
                let map = self.mappings(old_map, new_map)?;
                Ok(Node {
                    value: Value::Map(map),
                    origin: old.origin,
                })
            }
            (Value::List(old_items), Value::List(new_items)) => {
                let items = self.lists(old_items, new_items)?;
                Ok(Node {
                    value: Value::List(items),
                    origin: old.origin,
                })
            }
            (old_value, Value::Scalar(scalar)) => {
                if !matches!(old_value, Value::Scalar(_)) {
                    let old = Node {
                        value: old_value,
                        origin: old.origin,
                    };
                    self.findings.push(Finding::new(
                        Severity::Warning,
                        &new.origin,
                        self.path_text(),
                        format!(
                            "A single value replaces {} given at {}.",
                            old.kind(),
                            old.origin
                        ),
                        "Everything given there is lost; remove this line if that is not meant.",
                    ));
                }
                Ok(Node {
                    value: Value::Scalar(scalar),
                    origin: new.origin,
                })
            }
            (old_value, new_value) => {
                let old = Node {
                    value: old_value,
                    origin: old.origin,
                };
                let new = Node {
                    value: new_value,
                    origin: new.origin,
                };
                Err(Box::new(Finding::new(
                    Severity::Fatal,
                    &new.origin,
                    self.path_text(),
                    format!(
                        "Here is {}, but {} was given at {}; the two cannot be merged.",
                        new.kind(),
                        old.kind(),
                        old.origin
                    ),
                    "Nothing of the configuration is used until both are of one kind.",
                )))
            }
        }
    }

    fn mappings(&mut self, old: Mapping, new: Mapping) -> Result<Mapping, Refusal> {
        let index: HashMap<String, usize> = old
            .entries
            .iter()
            .enumerate()
            .map(|(at, e)| (e.key.clone(), at))
            .collect();
        let mut entries: Vec<Option<Entry>> = old.entries.into_iter().map(Some).collect();
        for entry in new.entries {
            self.path.push(entry.key.clone());
            match index
                .get(&entry.key)
                .and_then(|at| Some((*at, entries[*at].take()?)))
            {
                Some((at, was)) => {
                    // A null leaves the old value, so the key stays where that was written.
                    let key_origin = if entry.value.value == Value::Null {
                        was.key_origin
                    } else {
                        entry.key_origin
                    };
                    let value = self.merge(was.value, entry.value)?;
                    entries[at] = Some(Entry {
                        key: entry.key,
                        key_origin,
                        value,
                    });
                }
                None => {
                    let value = self.sweep(entry.value);
                    entries.push(Some(Entry { value, ..entry }));
                }
            }
            self.path.pop();
        }
        Ok(Mapping {
            entries: entries.into_iter().flatten().collect(),
        })
    }

    fn lists(&mut self, old: Vec<Node>, new: Vec<Node>) -> Result<Vec<Node>, Refusal> {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, item) in new.iter().enumerate() {
            if let Some(name) = name_of(item) {
                by_name.entry(name.to_owned()).or_default().push(at);
            }
        }
        let mut new: Vec<Option<Node>> = new.into_iter().map(Some).collect();
        let mut known: HashSet<String> = HashSet::new();
        let mut deleted: HashSet<String> = HashSet::new();
        let mut merged = Vec::with_capacity(old.len() + new.len());
        for item in old {
            let Some(name) = name_of(&item).map(str::to_owned) else {
                merged.push(item);
                continue;
            };
            let partners: Vec<Node> = match by_name.get(&name) {
                // A second old item of the same name finds its partners taken and stays: it is a duplicate, reported later.
                Some(at) if !known.contains(&name) => {
                    at.iter().filter_map(|at| new[*at].take()).collect()
                }
                _ => Vec::new(),
            };
            known.insert(name.clone());
            if partners.is_empty() {
                if !deleted.contains(&name) {
                    merged.push(item);
                }
                continue;
            }
            let (deletes, others): (Vec<Node>, Vec<Node>) =
                partners.into_iter().partition(is_delete);
            self.path.push(format!("[{name}]"));
            for delete in deletes.iter().filter(|_| !others.is_empty()) {
                self.useless_delete(
                    delete,
                    "The same file also defines the item, which keeps it.",
                );
            }
            let mut rest = others.into_iter();
            if let Some(first) = rest.next() {
                merged.push(self.merge(item, first)?);
            } else {
                deleted.insert(name);
            }
            // More items of this name in one file stay apart: the name is then used twice, which is reported later.
            merged.extend(rest.map(|more| self.sweep(more)));
            self.path.pop();
        }
        self.append(new.into_iter().flatten(), &mut merged);
        Ok(merged)
    }

    fn append(&mut self, items: impl Iterator<Item = Node>, to: &mut Vec<Node>) {
        for item in items {
            let label = name_of(&item)
                .map_or_else(|| format!("[{}]", to.len()), |name| format!("[{name}]"));
            self.path.push(label);
            if name_of(&item).is_some() && is_delete(&item) {
                self.useless_delete(&item, "No earlier file defines the item.");
            } else {
                let item = self.sweep(item);
                to.push(item);
            }
            self.path.pop();
        }
    }

    /// What has no older counterpart is taken as it is, but for deletes, which cannot have anything to delete.
    fn sweep(&mut self, node: Node) -> Node {
        let value = match node.value {
            Value::List(items) => {
                let mut kept = Vec::with_capacity(items.len());
                self.append(items.into_iter(), &mut kept);
                Value::List(kept)
            }
            Value::Map(map) => {
                let entries = map.entries.into_iter().map(|entry| {
                    self.path.push(entry.key.clone());
                    let value = self.sweep(entry.value);
                    self.path.pop();
                    Entry { value, ..entry }
                });
                Value::Map(Mapping {
                    entries: entries.collect(),
                })
            }
            other => other,
        };
        Node {
            value,
            origin: node.origin,
        }
    }

    fn useless_delete(&mut self, item: &Node, why: &str) {
        let origin = item
            .as_map()
            .and_then(|map| map.entry("delete"))
            .map_or(&item.origin, |entry| &entry.key_origin);
        let name = name_of(item).unwrap_or_default();
        self.findings.push(Finding::new(
            Severity::Warning,
            origin,
            self.path_text(),
            format!("The deletion of {} has no effect. {why}", quoted(name)),
            "Files are read in the order of their names; a deletion takes away what files before it gave.",
        ));
    }

    fn path_text(&self) -> String {
        let mut text = String::new();
        for part in &self.path {
            if !text.is_empty() && !part.starts_with('[') {
                text.push('.');
            }
            text.push_str(part);
        }
        text
    }
}

fn name_of(node: &Node) -> Option<&str> {
    match &node.as_map()?.get("name")?.value {
        Value::Scalar(scalar) => Some(scalar.text()),
        _ => None,
    }
}

/// Any value of `delete` deletes, `false` and nothing included.
fn is_delete(node: &Node) -> bool {
    node.as_map()
        .is_some_and(|map| map.entry("delete").is_some())
}
