//! Reading policy text: HCL, or JSON of the same shape. A key that is not understood refuses the whole policy, because leaving a
//! restriction out would widen it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::acl::{Capabilities, Capability};

/// Longest text that is parsed, in bytes.
const MAX_TEXT: usize = 1 << 20;

/// One `path` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathRule {
    pub path: String,
    pub capabilities: Capabilities,
    pub parameters: Parameters,
}

/// Limits on the parameters of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    pub allowed: BTreeMap<String, Vec<String>>,
    pub denied: BTreeMap<String, Vec<String>>,
    pub required: Vec<String>,
}

impl Parameters {
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty() && self.denied.is_empty() && self.required.is_empty()
    }

    /// Unites two rules: an empty value list stands for every value and so wins.
    pub fn merge(&mut self, other: &Parameters) {
        for (ours, theirs) in [
            (&mut self.allowed, &other.allowed),
            (&mut self.denied, &other.denied),
        ] {
            for (name, values) in theirs {
                match ours.get_mut(name) {
                    None => {
                        ours.insert(name.clone(), values.clone());
                    }
                    Some(present) if present.is_empty() || values.is_empty() => present.clear(),
                    Some(present) => present.extend(values.iter().cloned()),
                }
            }
        }
        self.required.extend(other.required.iter().cloned());
    }
}

/// The rules of a policy text.
pub(super) fn parse(text: &str) -> Result<Vec<PathRule>, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("the text is longer than {MAX_TEXT} bytes"));
    }
    if nesting(text) > 64 {
        return Err("brackets are nested more than 64 deep".to_owned());
    }
    if text.trim_start().starts_with('{') {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return from_json(&value);
    }
    let body = hcl::parse(text).map_err(|error| error.to_string())?;
    let mut rules = Vec::new();
    for structure in body {
        match structure {
            hcl::Structure::Block(block) if block.identifier() == "path" => {
                let [label] = block.labels() else {
                    return Err("a path block takes exactly one path".to_owned());
                };
                let mut fields = serde_json::Map::new();
                for inner in block.body().iter() {
                    match inner {
                        hcl::Structure::Attribute(attribute) => {
                            let value = hcl::Value::from(attribute.expr().clone());
                            fields.insert(
                                attribute.key().to_owned(),
                                serde_json::to_value(value).map_err(|error| error.to_string())?,
                            );
                        }
                        hcl::Structure::Block(block) => {
                            return Err(format!(
                                "unknown block \"{}\" in path \"{}\"",
                                block.identifier(),
                                label.as_str()
                            ));
                        }
                    }
                }
                rules.push(rule(label.as_str(), &fields)?);
            }
            hcl::Structure::Block(block) => {
                return Err(format!(
                    "unknown block \"{}\"; a policy consists of path blocks",
                    block.identifier()
                ));
            }
            hcl::Structure::Attribute(attribute) if attribute.key() == "name" => {}
            hcl::Structure::Attribute(attribute) => {
                return Err(format!(
                    "unknown key \"{}\"; a policy consists of path blocks",
                    attribute.key()
                ));
            }
        }
    }
    Ok(rules)
}

fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' | b'(' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn from_json(value: &Value) -> Result<Vec<PathRule>, String> {
    let object = value.as_object().ok_or("the text is not an object")?;
    if let Some(key) = object
        .keys()
        .find(|key| !matches!(key.as_str(), "path" | "name"))
    {
        return Err(format!("unknown key \"{key}\""));
    }
    let mut rules = Vec::new();
    for entry in match object.get("path") {
        Some(Value::Array(list)) => list.clone(),
        Some(other) => vec![other.clone()],
        None => Vec::new(),
    } {
        for (path, fields) in entry.as_object().ok_or("\"path\" is not an object")? {
            for fields in fields
                .as_array()
                .map_or_else(|| vec![fields], |list| list.iter().collect())
            {
                rules.push(rule(
                    path,
                    fields
                        .as_object()
                        .ok_or_else(|| format!("path \"{path}\" is not an object"))?,
                )?);
            }
        }
    }
    Ok(rules)
}

fn rule(path: &str, fields: &serde_json::Map<String, Value>) -> Result<PathRule, String> {
    let path = path.strip_prefix('/').unwrap_or(path);
    if let Some(at) = path.find('*').filter(|at| at + 1 != path.len()) {
        return Err(format!(
            "path \"{path}\": a * may stand only at the end, not at position {at}"
        ));
    }
    let mut rule = PathRule {
        path: path.to_owned(),
        capabilities: Capabilities::default(),
        parameters: Parameters::default(),
    };
    for (key, value) in fields {
        match key.as_str() {
            "capabilities" => {
                for word in texts(value).ok_or_else(|| {
                    format!("path \"{path}\": capabilities is not a list of texts")
                })? {
                    let capability = Capability::from_word(&word)
                        .ok_or_else(|| format!("path \"{path}\": invalid capability \"{word}\""))?;
                    rule.capabilities.add(capability);
                }
            }
            "policy" => {
                let word = value.as_str().unwrap_or_default();
                rule.capabilities = Capabilities::of_old_word(word)
                    .ok_or_else(|| format!("path \"{path}\": invalid policy \"{word}\""))?;
            }
            "allowed_parameters" => rule.parameters.allowed = lists(path, key, value)?,
            "denied_parameters" => rule.parameters.denied = lists(path, key, value)?,
            "required_parameters" => {
                rule.parameters.required = texts(value).ok_or_else(|| {
                    format!("path \"{path}\": required_parameters is not a list of texts")
                })?;
            }
            "comment" => {}
            other => {
                return Err(format!(
                    "path \"{path}\": unknown key \"{other}\"; allowed are capabilities, allowed_parameters, denied_parameters, required_parameters"
                ));
            }
        }
    }
    Ok(rule)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn lists(path: &str, key: &str, value: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
    let wrong = || format!("path \"{path}\": {key} is not a map of lists");
    value
        .as_object()
        .ok_or_else(wrong)?
        .iter()
        .map(|(name, values)| {
            let values = values.as_array().ok_or_else(wrong)?;
            Ok((
                name.to_lowercase(),
                values.iter().map(super::acl::text_of).collect(),
            ))
        })
        .collect()
}
