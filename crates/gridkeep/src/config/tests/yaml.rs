//! One file's text into a tree: places, anchors, merge keys, duplicates, limits.

use crate::config::finding::{Findings, Severity};
use crate::config::yaml::{Node, Value, parse};
use std::path::Path;
use std::sync::Arc;

fn tree(text: &str) -> Node {
    parse(
        text,
        &Arc::from(Path::new("f.yaml")),
        &mut Findings::default(),
    )
    .unwrap()
    .unwrap()
}

fn refusal(text: &str) -> String {
    let file = Arc::from(Path::new("f.yaml"));
    parse(text, &file, &mut Findings::default())
        .unwrap_err()
        .to_string()
}

fn text<'n>(node: &'n Node, path: &[&str]) -> &'n str {
    let node = path
        .iter()
        .fold(node, |node, key| node.as_map().unwrap().get(key).unwrap());
    match &node.value {
        Value::Scalar(scalar) => scalar.text(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_value_knows_its_place() {
    let tree = tree("a: 1\n\nb:\n  - x\n  - y: é z\n    w: v\n");
    let map = tree.as_map().unwrap();
    let place = |node: &Node| (node.origin.line(), node.origin.column());
    assert_eq!(place(map.get("a").unwrap()), (1, 4));
    let Value::List(items) = &map.get("b").unwrap().value else {
        panic!()
    };
    assert_eq!((place(&items[0]), place(&items[1])), ((4, 5), (5, 5)));
    let w = items[1].as_map().unwrap().entry("w").unwrap();
    assert_eq!(
        (w.key_origin.line(), w.key_origin.column(), place(&w.value)),
        (6, 5, (6, 8))
    );
}

#[test]
fn plain_scalars_keep_their_source_text() {
    let tree = tree(
        "a: 0123\nb: 1e5\nc: Yes\nd: 2026-08-01\ne: wlcg.groups:/lab/production\nf: ~\ng:\nh: '~'\non: x\n",
    );
    for (key, expected) in [
        ("a", "0123"),
        ("b", "1e5"),
        ("c", "Yes"),
        ("d", "2026-08-01"),
        ("e", "wlcg.groups:/lab/production"),
        ("h", "~"),
        ("on", "x"),
    ] {
        assert_eq!(text(&tree, &[key]), expected);
    }
    assert_eq!(tree.as_map().unwrap().get("f").unwrap().value, Value::Null);
    assert_eq!(tree.as_map().unwrap().get("g").unwrap().value, Value::Null);
}

#[test]
fn tags_of_the_core_schema_are_understood_others_refused() {
    let tree = tree("a: !!str no\nb: !!int 5\nc: !!null x\nd: ! yes\n");
    assert_eq!(text(&tree, &["a"]), "no");
    assert_eq!(text(&tree, &["d"]), "yes");
    assert_eq!(tree.as_map().unwrap().get("c").unwrap().value, Value::Null);
    assert!(refusal("a: !!binary aGk=").contains("The tag"));
    assert!(refusal("a: !own [x]").contains("The tag"));
}

#[test]
fn merge_keys_follow_pyyaml() {
    // Checked against PyYAML 6.0.3.
    let tree = tree(
        "x: &x {a: x, b: x}\ny: &y {b: y, c: y}\none: {<<: *x, b: own}\nbefore: {b: own, <<: *x}\nlist: {<<: [*x, *y]}\ntwice: {<<: *x, <<: *y}\nquoted: {'<<': z}\n",
    );
    assert_eq!(
        (text(&tree, &["one", "a"]), text(&tree, &["one", "b"])),
        ("x", "own")
    );
    assert_eq!(text(&tree, &["before", "b"]), "own");
    assert_eq!(
        (text(&tree, &["list", "b"]), text(&tree, &["list", "c"])),
        ("x", "y")
    );
    assert_eq!(text(&tree, &["twice", "b"]), "y");
    assert_eq!(text(&tree, &["quoted", "<<"]), "z");
    assert!(refusal("<<: x").contains("takes a mapping"));
    assert!(refusal("<<: [a]").contains("takes a mapping"));
}

#[test]
fn the_last_of_two_equal_keys_wins_and_is_reported() {
    let mut findings = Findings::default();
    let tree = parse(
        "a: 1\nb: {c: 2,\n c: 3}\na: 4\n",
        &Arc::from(Path::new("f.yaml")),
        &mut findings,
    )
    .unwrap()
    .unwrap();
    assert_eq!((text(&tree, &["a"]), text(&tree, &["b", "c"])), ("4", "3"));
    let findings = findings.into_vec();
    assert_eq!(
        findings
            .iter()
            .map(|f| (f.severity, f.origin.line()))
            .collect::<Vec<_>>(),
        [(Severity::Warning, 3), (Severity::Warning, 4)]
    );
    assert!(findings[1].what.contains("f.yaml:1"));
}

#[test]
fn empty_files_count_as_nothing() {
    for empty in [
        "",
        "\n# comment\n",
        "---\n",
        "---\n...\n",
        "~\n",
        "\u{feff}",
    ] {
        let file = Arc::from(Path::new("f.yaml"));
        assert_eq!(
            parse(empty, &file, &mut Findings::default()).unwrap(),
            None,
            "{empty:?}"
        );
    }
}

#[test]
fn what_is_not_one_plain_document_is_refused_with_its_line() {
    for (text, expected) in [
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: fatal: A second document"),
        ("a: b\n  c: d\n", "f.yaml:2:4: fatal: This is not YAML"),
        (
            "a: &a [*a]\n",
            "f.yaml:1:8: fatal: This alias refers to a value that contains it.",
        ),
        ("a: *b\n", "f.yaml:1:4: fatal: This is not YAML"),
        ("? [a]\n: b\n", "A list or mapping cannot be a key."),
        (
            "a: &x {b: c}\n*x : d\n",
            "A list or mapping cannot be a key.",
        ),
        (
            "policydomain: @lab.example\n",
            "f.yaml:1:15: fatal: This is not YAML",
        ),
    ] {
        let refusal = refusal(text);
        assert!(refusal.contains(expected), "{text:?}: {refusal}");
    }
}

#[test]
fn depth_size_and_expansion_are_bounded() {
    assert!(refusal(&format!("a: {}", "[".repeat(100))).contains("nest deeper"));
    assert!(refusal(&format!("# {}", "x".repeat(5 << 20))).contains("bytes"));
    let wide = format!(
        "a: &a [{}]\nb: [{}]\n",
        "x, ".repeat(1_000),
        "*a, ".repeat(1_000)
    );
    assert!(refusal(&wide).contains("Aliases expanded"));
    let long = format!(
        "a: &a {}\nb: [{}]\n",
        "x".repeat(1 << 20),
        "*a, ".repeat(100)
    );
    assert!(refusal(&long).contains("Aliases expanded"));
    let deep = format!(
        "a: &a {}x{}\nb: {}*a {}\n",
        "[".repeat(30),
        "]".repeat(30),
        "[".repeat(30),
        "]".repeat(30)
    );
    assert!(refusal(&deep).contains("nest deeper"));
}
