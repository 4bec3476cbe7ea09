//! YAML of the issuer's own configuration file, read into JSON values. Core schema, one document, no aliases.
//! The server's configuration has its own reader with other rules (YAML 1.1, merges); nothing is shared with it.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

enum Frame {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

/// Reads one YAML document.
///
/// # Errors
/// What is wrong and, where the parser knows it, at which line.
pub(crate) fn to_json(text: &str) -> Result<Value, String> {
    let mut stack: Vec<Frame> = Vec::new();
    let mut document = Value::Null;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| e.to_string())?;
        let line = span.start.line();
        let value = match event {
            Event::Scalar(text, style, _, _) => Some(scalar(&text, style)),
            Event::SequenceStart(..) => {
                stack.push(Frame::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                stack.push(Frame::Map(Map::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                Some(Frame::List(items)) => Some(Value::Array(items)),
                Some(Frame::Map(members, _)) => Some(Value::Object(members)),
                None => None,
            },
            Event::Alias(_) => return Err(format!("line {line}: aliases are not supported here")),
            _ => None,
        };
        let Some(value) = value else { continue };
        match stack.last_mut() {
            None => document = value,
            Some(Frame::List(items)) => items.push(value),
            Some(Frame::Map(members, key)) => match key.take() {
                None => {
                    *key = Some(
                        key_text(&value)
                            .ok_or_else(|| format!("line {line}: a key must be a plain text"))?,
                    )
                }
                Some(name) => {
                    if members.insert(name.clone(), value).is_some() {
                        return Err(format!("line {line}: the key {name} is given twice"));
                    }
                }
            },
        }
    }
    Ok(document)
}

fn key_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::from(text);
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::from(true),
        "false" | "False" | "FALSE" => Value::from(false),
        _ => text
            .parse::<i64>()
            .map(Value::from)
            .unwrap_or_else(|_| Value::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::to_json;

    #[test]
    fn nested_structures_become_json() {
        let text = "character: iam\nask_consent: false\nusers:\n  - name: carol\n    password: 'secret'\n    default_groups: [/vo, /vo/x]\n";
        assert_eq!(
            to_json(text).unwrap(),
            json!({"character": "iam", "ask_consent": false, "users": [
                {"name": "carol", "password": "secret", "default_groups": ["/vo", "/vo/x"]}]})
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(to_json("a: &x 1\nb: *x\n").unwrap_err().contains("aliases"));
        assert!(to_json("a: 1\na: 2\n").unwrap_err().contains("twice"));
        assert!(to_json("a: [1\n").is_err());
    }
}
