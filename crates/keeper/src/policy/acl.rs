//! Deciding: the rules of all of a token's policies, with its identity put into their paths, merged and matched.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Policy;
use super::syntax::{Parameters, PathRule};
use crate::records::Identity;

/// One thing a rule can allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Write what is not there.
    Create,
    /// Read.
    Read,
    /// Write.
    Update,
    /// Delete.
    Delete,
    /// List one level.
    List,
    /// List all levels.
    Scan,
    /// Merge.
    Patch,
    /// Do what needs special rights.
    Sudo,
    /// Nothing, whatever else is said.
    Deny,
}

const ALL: [Capability; 9] = [
    Capability::Create,
    Capability::Read,
    Capability::Update,
    Capability::Delete,
    Capability::List,
    Capability::Scan,
    Capability::Patch,
    Capability::Sudo,
    Capability::Deny,
];

impl Capability {
    /// The word in a policy.
    pub fn word(self) -> &'static str {
        match self {
            Capability::Create => "create",
            Capability::Read => "read",
            Capability::Update => "update",
            Capability::Delete => "delete",
            Capability::List => "list",
            Capability::Scan => "scan",
            Capability::Patch => "patch",
            Capability::Sudo => "sudo",
            Capability::Deny => "deny",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Capability> {
        ALL.into_iter().find(|capability| capability.word() == word)
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Capabilities(u16);

impl Capabilities {
    pub fn add(&mut self, capability: Capability) {
        self.0 |= capability.bit();
    }

    fn has(self, capability: Capability) -> bool {
        self.0 & Capability::Deny.bit() == 0 && self.0 & capability.bit() != 0
    }

    /// The set an old-style `policy = "word"` stands for.
    pub fn of_old_word(word: &str) -> Option<Capabilities> {
        use Capability::{Create, Delete, Deny, List, Read, Sudo, Update};
        let list: &[Capability] = match word {
            "deny" => &[Deny],
            "read" => &[Read, List],
            "write" => &[Create, Read, Update, Delete, List],
            "sudo" => &[Create, Read, Update, Delete, List, Sudo],
            _ => return None,
        };
        Some(Capabilities(
            list.iter()
                .fold(0, |bits, capability| bits | capability.bit()),
        ))
    }
}

/// For whom policies are read.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub identity: Option<&'a Identity>,
    pub entity: Option<&'a str>,
}

impl Subject<'_> {
    /// Puts identity values into `path`; `None` when one is missing or may not stand in a path.
    fn fill<'p>(&self, path: &'p str, policy: &Policy) -> Option<Cow<'p, str>> {
        if !path.contains("{{") {
            return Some(Cow::Borrowed(path));
        }
        let mut filled = String::with_capacity(path.len());
        let mut rest = path;
        while let Some((before, after)) = rest.split_once("{{") {
            let (variable, after) = after.split_once("}}")?;
            let value = self.value(variable.trim())?;
            let slashes = value.contains('/') && !policy.allow_slashes;
            let wildcards = value.contains(['*', '+']) && !policy.allow_wildcards;
            if slashes || wildcards || value.is_empty() {
                return None;
            }
            filled.push_str(before);
            filled.push_str(value);
            rest = after;
        }
        filled.push_str(rest);
        Some(Cow::Owned(filled))
    }

    fn value(&self, variable: &str) -> Option<&str> {
        if variable == "identity.entity.id" {
            return self.entity;
        }
        let identity = self.identity?;
        let (accessor, field) = variable
            .strip_prefix("identity.entity.aliases.")?
            .split_once('.')?;
        if accessor != identity.mount_accessor {
            return None;
        }
        match field.strip_prefix("metadata.") {
            Some(key) => identity.metadata.get(key).map(String::as_str),
            None if field == "name" => Some(&identity.alias),
            None => None,
        }
    }
}

/// What applies to one path.
#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    capabilities: Capabilities,
    parameters: Parameters,
    policies: Vec<String>,
}

impl Rule {
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities.has(capability)
    }

    pub fn policies(&self) -> &[String] {
        &self.policies
    }

    /// The words of what it allows, sorted.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = ALL
            .into_iter()
            .filter(|capability| self.has(*capability))
            .map(|capability| capability.word().to_owned())
            .collect();
        words.sort_unstable();
        words
    }

    /// Whether the parameters of a request keep to the rule.
    pub fn allows(&self, parameters: &Map<String, Value>) -> bool {
        let limits = &self.parameters;
        if limits.is_empty() {
            return true;
        }
        if !limits.required.iter().all(|name| {
            parameters
                .keys()
                .any(|given| given.eq_ignore_ascii_case(name))
        }) {
            return false;
        }
        parameters.iter().all(|(name, value)| {
            let name = name.to_lowercase();
            let refused = limits.denied.contains_key("*")
                || limits
                    .denied
                    .get(&name)
                    .is_some_and(|values| denied(values, value));
            let allowed = limits.allowed.is_empty()
                || match limits.allowed.get(&name) {
                    Some(values) => listed(values, value),
                    None => limits.allowed.contains_key("*"),
                };
            allowed && !refused
        })
    }
}

/// Whether `value`, or each of its elements, is one of `values`; an empty list stands for all.
fn listed(values: &[String], value: &Value) -> bool {
    if values.is_empty() {
        return true;
    }
    match value {
        Value::Array(items) => items.iter().all(|item| listed(values, item)),
        other => {
            let text = text_of(other);
            values.iter().any(|pattern| glob(pattern, &text))
        }
    }
}

/// Whether `value`, or any of its elements, is one of `values`; an empty list stands for all.
fn denied(values: &[String], value: &Value) -> bool {
    match value {
        Value::Array(items) if !values.is_empty() => items.iter().any(|item| denied(values, item)),
        other => listed(values, other),
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        _ if pattern == "*" => true,
        (Some(rest), Some(_)) => text.contains(rest.strip_suffix('*').unwrap_or(rest)),
        (Some(end), None) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => pattern == text,
    }
}

/// A parameter as text, the way lenient parsing sees it.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The policies of one token. Nothing is prepared per token, so that as many tokens as there may be cost no memory: of all blocks
/// only those that match the path in question are looked at closely.
#[derive(Debug)]
pub(super) struct Acl<'a> {
    pub policies: Vec<Arc<Policy>>,
    pub subject: Subject<'a>,
}

/// A block that matches, with identity put into its path.
struct Candidate<'a> {
    path: Cow<'a, str>,
    block: &'a PathRule,
    policy: &'a str,
}

impl Acl<'_> {
    /// The rule for `path`: the exact one, else the most specific pattern. For a listing `a/b/` also answers a rule for `a/b`.
    /// Blocks with the same path, in whichever policies, are one rule.
    pub fn find(&self, path: &str, listing: bool) -> Option<Rule> {
        let bare = path.strip_suffix('/').filter(|_| listing);
        let candidates = self.candidates(path, bare);
        let paths = || candidates.iter().map(|candidate| candidate.path.as_ref());
        let exact = |wanted: &str| paths().find(|path| *path == wanted && !is_pattern(path));
        let pattern = |wanted: &str| {
            paths()
                .filter(|path| is_pattern(path) && matches(path, wanted))
                .max_by(|a, b| specificity(a).cmp(&specificity(b)))
        };
        let chosen = exact(path)
            .or_else(|| bare.and_then(exact))
            .or_else(|| pattern(path))
            .or_else(|| bare.and_then(pattern))?;
        let mut rule = Rule::default();
        for candidate in candidates
            .iter()
            .filter(|candidate| candidate.path == chosen)
        {
            rule.capabilities.0 |= candidate.block.capabilities.0;
            rule.parameters.merge(&candidate.block.parameters);
            if !rule.policies.iter().any(|name| name == candidate.policy) {
                rule.policies.push(candidate.policy.to_owned());
            }
        }
        Some(rule)
    }

    /// Whether any block that allows something covers a path below `prefix`.
    pub fn reaches(&self, prefix: &str) -> bool {
        self.policies.iter().any(|policy| {
            policy.rules.iter().any(|block| {
                ALL.into_iter()
                    .any(|capability| block.capabilities.has(capability))
                    && self.subject.fill(&block.path, policy).is_some_and(|path| {
                        let literal = &path[..path.find(['*', '+']).unwrap_or(path.len())];
                        literal.starts_with(prefix)
                            || (is_pattern(&path) && prefix.starts_with(literal))
                    })
            })
        })
    }

    /// The literal beginnings, behind `base`, of the paths that allow listing, and whether each is a whole path; `None` when one
    /// covers all below `base`.
    pub fn listed_below(&self, base: &str) -> Option<Vec<(String, bool)>> {
        let mut starts = Vec::new();
        for policy in &self.policies {
            for block in &policy.rules {
                if !block.capabilities.has(Capability::List) {
                    continue;
                }
                let Some(path) = self.subject.fill(&block.path, policy) else {
                    continue;
                };
                let pattern = is_pattern(&path);
                let literal = if pattern {
                    &path[..path.find(['*', '+']).unwrap_or(path.len())]
                } else {
                    &path
                };
                if let Some(rest) = literal.strip_prefix(base) {
                    starts.push((rest.to_owned(), !pattern));
                } else if pattern && base.starts_with(literal) {
                    return None;
                }
            }
        }
        Some(starts)
    }

    fn candidates(&self, path: &str, bare: Option<&str>) -> Vec<Candidate<'_>> {
        let mut candidates = Vec::new();
        for policy in &self.policies {
            for block in &policy.rules {
                // What stands before anything that can vary decides about most blocks; `bare` begins as `path` does.
                let varies = block.path.find(['{', '*', '+']);
                if !path.starts_with(&block.path[..varies.unwrap_or(block.path.len())]) {
                    continue;
                }
                let Some(filled) = self.subject.fill(&block.path, policy) else {
                    continue;
                };
                let applies = |wanted: &str| {
                    if is_pattern(&filled) {
                        matches(&filled, wanted)
                    } else {
                        filled == wanted
                    }
                };
                if applies(path) || bare.is_some_and(applies) {
                    candidates.push(Candidate {
                        path: filled,
                        block,
                        policy: &policy.name,
                    });
                }
            }
        }
        candidates
    }
}

fn is_pattern(path: &str) -> bool {
    path.ends_with('*') || path.split('/').any(|segment| segment == "+")
}

/// Orders patterns: more literal text before the first wildcard, no final `*`, fewer `+`, longer, then by text.
fn specificity(pattern: &str) -> (usize, bool, std::cmp::Reverse<usize>, usize, &str) {
    let first = pattern.find(['+', '*']).unwrap_or(pattern.len());
    let plus = pattern.split('/').filter(|segment| *segment == "+").count();
    (
        first,
        !pattern.ends_with('*'),
        std::cmp::Reverse(plus),
        pattern.len(),
        pattern,
    )
}

fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, prefix) = match pattern.strip_suffix('*') {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    if !pattern.contains('+') {
        return if prefix {
            path.starts_with(pattern)
        } else {
            path == pattern
        };
    }
    let wanted: Vec<&str> = pattern.split('/').collect();
    let given: Vec<&str> = path.split('/').collect();
    if given.len() < wanted.len() || (!prefix && given.len() != wanted.len()) {
        return false;
    }
    let last = wanted.len() - 1;
    wanted
        .iter()
        .zip(&given)
        .enumerate()
        .all(|(index, (wanted, given))| {
            if *wanted == "+" {
                !given.is_empty()
            } else if prefix && index == last {
                given.starts_with(wanted)
            } else {
                wanted == given
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn acl<'a>(text: &str, identity: Option<&'a Identity>) -> Acl<'a> {
        Acl {
            policies: vec![Arc::new(Policy::parse("p", text).expect("parses"))],
            subject: Subject {
                identity,
                entity: None,
            },
        }
    }

    /// Whether the identity could not be put into any path of the policy.
    fn is_empty(acl: &Acl<'_>) -> bool {
        acl.policies.iter().all(|policy| {
            policy
                .rules
                .iter()
                .all(|block| acl.subject.fill(&block.path, policy).is_none())
        })
    }

    fn identity(alias: &str) -> Identity {
        Identity {
            mount_accessor: "auth_oidc_12".into(),
            alias: alias.into(),
            metadata: std::collections::BTreeMap::new(),
        }
    }

    #[test]
    fn the_most_specific_rule_decides() {
        let acl = acl(
            r#"
            path "a/*" { capabilities = ["read"] }
            path "a/b" { capabilities = ["list"] }
            path "a/+/c" { capabilities = ["update"] }
            path "a/x/*" { capabilities = ["delete"] }
            "#,
            None,
        );
        let words = |path: &str| {
            acl.find(path, false)
                .as_ref()
                .map(Rule::words)
                .unwrap_or_default()
        };
        assert_eq!(words("a/b"), ["list"]);
        assert_eq!(words("a/z"), ["read"]);
        assert_eq!(words("a/q/c"), ["update"]);
        assert_eq!(words("a/x/c"), ["delete"]);
        assert!(acl.find("b", false).is_none());
    }

    #[test]
    fn deny_wins_and_blocks_of_one_path_merge() {
        let acl = acl(
            r#"
            path "x" { capabilities = ["read"] }
            path "x" {
              capabilities = ["update"]
              allowed_parameters = { "server" = ["dune"], "*" = [] }
            }
            path "y" { capabilities = ["read", "deny"] }
            "#,
            None,
        );
        let rule = acl.find("x", false).expect("there");
        assert_eq!(rule.words(), ["read", "update"]);
        assert!(
            rule.allows(
                json!({"server": "dune", "z": 1})
                    .as_object()
                    .expect("object")
            )
        );
        assert!(!rule.allows(json!({"server": "other"}).as_object().expect("object")));
        assert!(acl.find("y", false).expect("there").words().is_empty());
    }

    #[test]
    fn blocks_of_one_path_in_several_policies_are_one_rule() {
        let parse = |name, text| Arc::new(Policy::parse(name, text).expect("parses"));
        let own = "{{identity.entity.aliases.auth_oidc_12.name}}";
        let identified = identity("alice");
        let mut acl = acl(
            &format!(r#"path "c/{own}" {{ capabilities = ["read"] }}"#),
            Some(&identified),
        );
        acl.policies.push(parse(
            "q",
            r#"path "c/alice" { capabilities = ["list"] }
               path "c/*" { capabilities = ["sudo"] }"#,
        ));
        let rule = acl.find("c/alice", false).expect("there");
        assert_eq!(rule.words(), ["list", "read"]);
        assert_eq!(rule.policies(), ["p", "q"]);
        let listed = acl.find("c/alice/", true).expect("there");
        assert_eq!(listed.words(), ["list", "read"]);
        assert_eq!(acl.find("c/bob", false).expect("there").words(), ["sudo"]);
        acl.policies
            .push(parse("r", r#"path "c/alice" { capabilities = ["deny"] }"#));
        assert!(
            acl.find("c/alice", false)
                .expect("there")
                .words()
                .is_empty()
        );
    }

    #[test]
    fn identity_is_put_in_only_where_it_cannot_widen() {
        let text = r#"path "c/{{identity.entity.aliases.auth_oidc_12.name}}/*" { capabilities = ["read"] }"#;
        let identified = identity("alice");
        let alice = acl(text, Some(&identified));
        assert!(alice.find("c/alice/x", false).is_some());
        assert!(alice.find("c/alice2/x", false).is_none());
        assert!(alice.find("c/alice", false).is_none());
        for hostile in ["a/b", "a*", "+", ""] {
            assert!(is_empty(&acl(text, Some(&identity(hostile)))), "{hostile}");
        }
        assert!(is_empty(&acl(text, None)));
        let other_mount = text.replace("auth_oidc_12", "auth_oidc_13");
        assert!(is_empty(&acl(&other_mount, Some(&identified))));
    }

    #[test]
    fn one_denied_element_is_enough_and_names_know_no_case() {
        let acl = acl(
            r#"
            path "x" {
              capabilities = ["update"]
              denied_parameters = { "server" = ["evil*"] }
              required_parameters = ["Server"]
            }
            "#,
            None,
        );
        let rule = acl.find("x", false).expect("there");
        for (parameters, fine) in [
            (json!({"server": "dune"}), true),
            (json!({"SERVER": "dune"}), true),
            (json!({"server": ["dune", "evil1"]}), false),
            (json!({"Server": "evil"}), false),
            (json!({"other": 1}), false),
        ] {
            assert_eq!(
                rule.allows(parameters.as_object().expect("object")),
                fine,
                "{parameters}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_refuses_the_policy() {
        for text in [
            r#"path "a" { capabilities = ["fly"] }"#,
            r#"path "a" { min_wrapping_ttl = "1s" }"#,
            r#"path "a*b" { capabilities = ["read"] }"#,
            r#"paths "a" { capabilities = ["read"] }"#,
            r#"path "a" { capabilities = "read" }"#,
            "path",
            "{\"path\": 3}",
        ] {
            assert!(Policy::parse("p", text).is_err(), "{text}");
        }
        assert!(Policy::parse("p", r#"{"path":{"a":{"capabilities":["read"]}}}"#).is_ok());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = Policy::parse("p", &text);
        }

        #[test]
        fn a_name_is_never_more_than_its_own_segment(name in "[a-zA-Z0-9@._-]{1,12}", other in "[a-zA-Z0-9@._-]{1,12}") {
            prop_assume!(name != other);
            let text = r#"path "c/{{identity.entity.aliases.auth_oidc_12.name}}:default" { capabilities = ["read"] }
                          path "c/{{identity.entity.aliases.auth_oidc_12.name}}/*" { capabilities = ["read"] }"#;
            let identified = identity(&name);
            let acl = acl(text, Some(&identified));
            let person = format!("c/{other}:default");
            let robot = format!("c/{other}/cron/host:default");
            prop_assert!(acl.find(&person, false).is_none());
            prop_assert!(acl.find(&robot, false).is_none());
        }
    }
}
