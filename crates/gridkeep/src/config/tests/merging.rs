//! The merge and delete rules, and the laws they obey.

use super::*;
use crate::config::finding::Findings;
use crate::config::merge::merge;
use crate::config::yaml::{Node, Value, parse};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A tree without places, to compare.
#[derive(Clone, Debug, PartialEq)]
enum Plain {
    Null,
    Text(String),
    List(Vec<Plain>),
    Map(BTreeMap<String, Plain>),
}

fn plain(node: &Node) -> Plain {
    match &node.value {
        Value::Null => Plain::Null,
        Value::Scalar(scalar) => Plain::Text(scalar.text().to_owned()),
        Value::List(items) => Plain::List(items.iter().map(plain).collect()),
        Value::Map(map) => Plain::Map(
            map.entries
                .iter()
                .map(|e| (e.key.clone(), plain(&e.value)))
                .collect(),
        ),
    }
}

fn node(text: &str) -> Node {
    parse(
        text,
        &Arc::from(Path::new("f.yaml")),
        &mut Findings::default(),
    )
    .unwrap()
    .unwrap()
}

fn merged(texts: &[&str]) -> (Plain, Vec<Finding>) {
    let mut findings = Findings::default();
    let tree = texts.iter().fold(None, |old, text| {
        Some(merge(old, node(text), &mut findings).unwrap())
    });
    (plain(&tree.unwrap()), findings.into_vec())
}

fn same(texts: &[&str], expected: &str) -> Vec<Finding> {
    let (tree, findings) = merged(texts);
    assert_eq!(tree, plain(&node(expected)), "{texts:?}");
    findings
}

#[test]
fn mappings_merge_scalars_replace_nulls_leave_lists_add_up() {
    same(
        &["a: {b: 1, c: 2}", "a: {c: 3, d: 4}"],
        "a: {b: 1, c: 3, d: 4}",
    );
    same(&["a: 1", "a: ~"], "a: 1");
    same(&["a: ~", "a: [1]"], "a: [1]");
    same(&["a: [x, y]", "a: [y, z]"], "a: [x, y, y, z]");
    same(&["a: [{b: 1}]", "a: [{b: 1}]"], "a: [{b: 1}, {b: 1}]");
    let findings = same(&["a: {b: 1}", "a: text"], "a: text");
    assert!(
        findings[0]
            .what
            .contains("replaces a mapping given at f.yaml:1")
    );
}

#[test]
fn named_items_merge_in_their_old_place() {
    same(
        &[
            "l: [{name: x, v: 1}, {name: y, v: 2, s: [a]}]",
            "l: [{name: z}, {name: y, v: 3, s: [b]}]",
        ],
        "l: [{name: x, v: 1}, {name: y, v: 3, s: [a, b]}, {name: z}]",
    );
    same(
        &["l: [{name: 1}]", "l: [{name: '1', v: 2}]"],
        "l: [{name: 1, v: 2}]",
    );
    // Twice in one file: both stay, to be reported as a duplicate name.
    same(
        &[
            "l: [{name: x, v: 1}]",
            "l: [{name: x, v: 2}, {name: x, v: 3}]",
        ],
        "l: [{name: x, v: 2}, {name: x, v: 3}]",
    );
}

#[test]
fn delete_takes_away_what_earlier_files_gave() {
    let first = "l: [{name: x, v: 1}, {name: y}]";
    for value in ["yes", "false", "~", ""] {
        let findings = same(
            &[first, &format!("l: [{{name: x, delete: {value}}}]")],
            "l: [{name: y}]",
        );
        assert!(findings.is_empty());
    }
    same(
        &[first, "l: [{name: x, delete: yes}]", "l: [{name: x, w: 2}]"],
        "l: [{name: y}, {name: x, w: 2}]",
    );
    same(
        &["l: [{name: x}, {name: x}]", "l: [{name: x, delete: yes}]"],
        "l: []",
    );
    same(
        &[
            "i: [{name: a, r: [{name: x}, {name: y}]}]",
            "i: [{name: a, r: [{name: y, delete: 1}]}]",
        ],
        "i: [{name: a, r: [{name: x}]}]",
    );
}

#[test]
fn a_delete_without_effect_is_reported_and_leaves_nothing() {
    for (texts, expected) in [
        (
            vec!["l: [{name: y}]", "l: [{name: x, v: 1, delete: yes}]"],
            "l: [{name: y}]",
        ),
        (vec!["l: [{name: x, delete: yes}]"], "l: []"),
        (
            vec!["l: [{name: x, v: 1}, {name: x, delete: yes}]"],
            "l: [{name: x, v: 1}]",
        ),
        (
            vec!["a: b", "l: [{name: y, r: [{name: x, delete: yes}]}]"],
            "{a: b, l: [{name: y, r: []}]}",
        ),
        (
            vec![
                "l: [{name: x, v: 1}]",
                "l: [{name: x, delete: yes}, {name: x, v: 2}]",
            ],
            "l: [{name: x, v: 2}]",
        ),
    ] {
        let findings = same(&texts, expected);
        assert_eq!(findings.len(), 1, "{texts:?}");
        assert!(
            findings[0].what.contains("`x` has no effect"),
            "{}",
            findings[0]
        );
        assert_eq!(findings[0].severity, Severity::Warning);
    }
    let (_, findings) = merged(&["i: [{name: a, r: [{name: x, delete: yes}]}]"]);
    assert_eq!(findings[0].key, "i[a].r[x]");
}

#[test]
fn kinds_that_do_not_fit_are_fatal_and_both_places_are_named() {
    for (old, new) in [
        ("a: x", "a: [y]"),
        ("a: x", "a: {b: c}"),
        ("a: [x]", "a: {b: c}"),
        ("a: {b: c}", "a: [x]"),
    ] {
        let loaded = loaded(&[old, new]);
        assert!(loaded.config.is_none());
        let finding = at_least(&loaded, Severity::Fatal)[0].to_string();
        assert!(
            finding.starts_with("/etc/htvault-config/config.d/1.yaml:1:4: fatal: a: "),
            "{finding}"
        );
        assert!(
            finding.contains("/etc/htvault-config/config.d/0.yaml:1"),
            "{finding}"
        );
    }
}

/// Trees of one shape for all, as configuration files have: what is a list in one is a list in the others.
fn file() -> impl Strategy<Value = String> {
    let value = || prop_oneof![3 => "[a-c]{1,2}".prop_map(Some), 1 => Just(None)];
    let texts = || proptest::collection::vec("[a-c]", 0..3);
    let item = (value(), texts())
        .prop_map(|(v, s)| format!("v: {}, s: [{}]", v.unwrap_or("~".to_owned()), s.join(", ")));
    let items = proptest::collection::btree_map("[x-z]", item, 0..4);
    (value(), texts(), items).prop_map(|(v, texts, items)| {
        let items: Vec<String> = items
            .iter()
            .map(|(name, rest)| format!("{{name: {name}, {rest}}}"))
            .collect();
        format!(
            "{{v: {}, s: [{}], l: [{}]}}",
            v.unwrap_or("~".to_owned()),
            texts.join(", "),
            items.join(", ")
        )
    })
}

proptest! {
    #[test]
    fn merging_is_associative(a in file(), b in file(), c in file()) {
        let mut findings = Findings::default();
        let left = merged(&[&a, &b, &c]).0;
        let b_and_c = merge(Some(node(&b)), node(&c), &mut findings).unwrap();
        let right = plain(&merge(Some(node(&a)), b_and_c, &mut findings).unwrap());
        prop_assert_eq!(left, right);
    }

    #[test]
    fn an_empty_file_or_null_changes_nothing(a in file()) {
        prop_assert_eq!(merged(&[&a, "{}"]).0, merged(&[&a]).0);
        prop_assert_eq!(merged(&[&a, "{v: ~, s: ~, l: ~}"]).0, merged(&[&a]).0);
    }

    #[test]
    fn lists_of_texts_have_the_sum_of_their_lengths(a in file(), b in file()) {
        let length = |tree: &Plain| match tree { Plain::Map(map) => match &map["s"] { Plain::List(l) => l.len(), _ => 0 }, _ => 0 };
        let (x, y, both) = (merged(&[&a]).0, merged(&[&b]).0, merged(&[&a, &b]).0);
        prop_assert_eq!(length(&both), length(&x) + length(&y));
    }

    #[test]
    fn after_a_delete_only_later_files_define_the_item(a in file(), b in file()) {
        let delete = "l: [{name: x, delete: no}]";
        let find = |tree: &Plain| match tree {
            Plain::Map(map) => match &map["l"] {
                Plain::List(items) => items.iter().find(|item| matches!(item, Plain::Map(m) if m["name"] == Plain::Text("x".to_owned()))).cloned(),
                _ => None,
            },
            _ => None,
        };
        prop_assert_eq!(find(&merged(&[&a, delete]).0), None);
        prop_assert_eq!(find(&merged(&[&a, delete, &b]).0), find(&merged(&[&b]).0));
    }
}
