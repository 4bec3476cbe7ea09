//! The typed view of parameters, converted as leniently as the original does.
//!
//! An endpoint takes the fields it knows out of [`Fields`]; what is left over becomes the warning about unrecognised parameters.
//! Converting is weak on purpose: clients send `"renewable": "false"` and numbers as strings.

use std::collections::BTreeMap;

use gridkeep_keeper::Seconds;
use serde_json::Value;
use thiserror::Error;

use crate::params::Params;

/// A parameter of the wrong type. Always status 400. Names the field, never its value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("Field validation failed: error converting input for field \"{field}\": {what}")]
pub(crate) struct FieldError {
    field: String,
    what: &'static str,
}

/// How the warning about parameters nobody took begins.
pub(crate) const UNRECOGNISED: &str = "Endpoint ignored these unrecognized parameters";

/// Parameters, from which an endpoint takes what it knows.
#[derive(Debug)]
pub(crate) struct Fields {
    params: Params,
    replaced: Vec<&'static str>,
}

impl Fields {
    /// Takes over the parameters of a request.
    pub(crate) fn new(params: Params) -> Self {
        Fields {
            params,
            replaced: Vec::new(),
        }
    }

    /// Says that the path fixes the value of `name`: a parameter of that name is dropped with a warning.
    pub(crate) fn captured(&mut self, name: &'static str) {
        if self.params.remove(name).is_some() {
            self.replaced.push(name);
        }
    }

    /// Takes a parameter that is known and has no effect here.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.params.remove(*name);
        }
    }

    /// Whether a parameter was sent with a value other than nothing.
    pub(crate) fn present(&self, name: &str) -> bool {
        !matches!(self.params.get(name), None | Some(Value::Null))
    }

    /// A text; numbers and truth values become text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, FieldError> {
        match self.params.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => scalar(value)
                .map(Some)
                .ok_or_else(|| error(name, "expected a string")),
        }
    }

    /// A text that the server folds to lower case.
    pub(crate) fn lower_text(&mut self, name: &str) -> Result<Option<String>, FieldError> {
        Ok(self.text(name)?.map(|text| text.to_lowercase()))
    }

    /// A truth value, or its spelling as text or number. Empty text is false.
    pub(crate) fn boolean(&mut self, name: &str) -> Result<Option<bool>, FieldError> {
        match self.params.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(value) => scalar(value)
                .and_then(|text| boolean(&text))
                .map(Some)
                .ok_or_else(|| error(name, "expected a boolean")),
        }
    }

    /// A whole number, or a numeric text.
    pub(crate) fn integer(&mut self, name: &str) -> Result<Option<i64>, FieldError> {
        match self.params.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => number
                .as_i64()
                .or_else(|| whole(number.as_f64()?))
                .map(Some)
                .ok_or_else(|| error(name, "expected a whole number")),
            Some(Value::String(text)) if text.is_empty() => Ok(Some(0)),
            Some(Value::String(text)) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| error(name, "expected a whole number")),
            Some(_) => Err(error(name, "expected a whole number")),
        }
    }

    /// A length of time; see [`duration`].
    pub(crate) fn duration(&mut self, name: &str) -> Result<Option<Seconds>, FieldError> {
        let problem = || {
            error(
                name,
                "expected a number of seconds or a duration such as 90s, 1h30m or 7d, not negative",
            )
        };
        match self.params.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => {
                let seconds = number.as_u64().or_else(|| {
                    number
                        .as_f64()
                        .and_then(whole)
                        .and_then(|value| u64::try_from(value).ok())
                });
                seconds
                    .filter(|value| *value <= LONGEST)
                    .map(|value| Some(Seconds(value)))
                    .ok_or_else(problem)
            }
            Some(Value::String(text)) => duration(&text).map(Some).ok_or_else(problem),
            Some(_) => Err(problem()),
        }
    }

    /// A list: an array, a text holding a JSON array, or a text separated by commas. Blanks around elements go, blanks inside stay.
    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<String>>, FieldError> {
        let value = match self.params.remove(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        list(value)
            .map(Some)
            .ok_or_else(|| error(name, "expected a list of strings"))
    }

    /// Keys and values: an object, or a list or text of `key=value`.
    pub(crate) fn map(
        &mut self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, FieldError> {
        let problem = || error(name, "expected an object of strings or a list of key=value");
        match self.params.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => object
                .into_iter()
                .map(|(key, value)| Some((key, scalar(value)?)))
                .collect::<Option<BTreeMap<_, _>>>()
                .map(Some)
                .ok_or_else(problem),
            Some(Value::String(text)) if text.trim_start().starts_with('{') => {
                serde_json::from_str::<BTreeMap<String, String>>(&text)
                    .map(Some)
                    .map_err(|_| problem())
            }
            Some(value) => list(value)
                .and_then(|pairs| {
                    pairs
                        .iter()
                        .map(|pair| {
                            pair.split_once('=').map(|(key, value)| {
                                (key.trim().to_owned(), value.trim().to_owned())
                            })
                        })
                        .collect()
                })
                .map(Some)
                .ok_or_else(problem),
        }
    }

    /// Adds the warnings about what was replaced and what nobody took.
    pub(crate) fn finish(self, warnings: &mut Vec<String>) {
        if !self.params.is_empty() {
            let names: Vec<&str> = self.params.keys().map(String::as_str).collect();
            warnings.push(format!("{UNRECOGNISED}: [{}]", names.join(" ")));
        }
        if !self.replaced.is_empty() {
            warnings.push(format!("Endpoint replaced the value of these parameters with the values captured from the endpoint's path: [{}]", self.replaced.join(" ")));
        }
    }
}

fn error(field: &str, what: &'static str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        what,
    }
}

fn scalar(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A truth value as text: the spellings that Go's parser knows, and nothing for false.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" | "" => Some(false),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "checked to be whole and within the exactly representable range"
)]
fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0).then_some(value as i64)
}

fn list(value: Value) -> Option<Vec<String>> {
    match value {
        Value::Array(elements) => elements
            .into_iter()
            .map(|element| scalar(element).map(|text| text.trim().to_owned()))
            .collect(),
        Value::Object(_) => None,
        value => {
            let text = scalar(value)?;
            if text.trim_start().starts_with('[')
                && let Ok(Value::Array(elements)) = serde_json::from_str(&text)
            {
                return list(Value::Array(elements));
            }
            Some(
                text.split(',')
                    .map(str::trim)
                    .filter(|element| !element.is_empty())
                    .map(str::to_owned)
                    .collect(),
            )
        }
    }
}

/// Longest length of time that is believed: a thousand years.
const LONGEST: u64 = 1000 * 366 * 86_400;

/// A length of time as text: seconds, or Go's `1h30m` with `d` for days beside `h m s ms us ns`; fractions are allowed, what is
/// below a second is cut. Empty is 0. `None` when it is none of these, or negative, or absurdly long.
pub(crate) fn duration(text: &str) -> Option<Seconds> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Seconds(0));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .ok()
            .filter(|seconds| *seconds <= LONGEST)
            .map(Seconds);
    }
    let mut nanoseconds: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit: u128 = match unit {
            "d" => 86_400_000_000_000,
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 15 || fraction.contains('.') {
            return None;
        }
        let whole: u128 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        nanoseconds += whole * unit;
        let fraction = &fraction[..fraction.len().min(9)];
        if !fraction.is_empty() {
            nanoseconds += fraction.parse::<u128>().ok()? * unit
                / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        }
        rest = tail;
    }
    u64::try_from(nanoseconds / 1_000_000_000)
        .ok()
        .filter(|seconds| *seconds <= LONGEST)
        .map(Seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(map) => Fields::new(map),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("", 0),
            ("0", 0),
            ("60", 60),
            ("604800s", 604_800),
            ("1h30m", 5400),
            ("500ms", 0),
            ("1500ms", 1),
            ("7d", 604_800),
            ("1.5h", 5400),
            (".5m", 30),
            ("1d12h", 129_600),
            (" 15s ", 15),
            ("28d", 2_419_200),
        ] {
            assert_eq!(duration(text), Some(Seconds(seconds)), "{text}");
        }
        for text in [
            "-1",
            "-1s",
            "1x",
            "s",
            "1h30",
            "1..5h",
            ".",
            "1 h",
            "99999999999999999999",
            "9999999999999d",
            "1e9",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn weak_types() {
        let mut all = fields(json!({
            "a": 5, "b": true, "c": "false", "d": "", "e": "1", "f": 0, "g": "12", "h": 12.0, "i": ["a ", 1], "j": "[\"x\", \"y z\"]",
            "k": "a, b c ,,d", "l": {"k": 1}, "m": ["k=v", "n=o=p"], "n": "x=y,z=", "o": 90, "p": "1m", "q": null, "r": "Default"
        }));
        assert_eq!(all.text("a").unwrap().unwrap(), "5");
        assert_eq!(all.text("b").unwrap().unwrap(), "true");
        assert_eq!(all.boolean("c").unwrap(), Some(false));
        assert_eq!(all.boolean("d").unwrap(), Some(false));
        assert_eq!(all.boolean("e").unwrap(), Some(true));
        assert_eq!(all.boolean("f").unwrap(), Some(false));
        assert_eq!(all.integer("g").unwrap(), Some(12));
        assert_eq!(all.integer("h").unwrap(), Some(12));
        assert_eq!(all.list("i").unwrap().unwrap(), ["a", "1"]);
        assert_eq!(all.list("j").unwrap().unwrap(), ["x", "y z"]);
        assert_eq!(all.list("k").unwrap().unwrap(), ["a", "b c", "d"]);
        assert_eq!(all.map("l").unwrap().unwrap()["k"], "1");
        assert_eq!(all.map("m").unwrap().unwrap()["n"], "o=p");
        assert_eq!(all.map("n").unwrap().unwrap()["z"], "");
        assert_eq!(all.duration("o").unwrap(), Some(Seconds(90)));
        assert_eq!(all.duration("p").unwrap(), Some(Seconds(60)));
        assert_eq!(all.text("q").unwrap(), None);
        assert_eq!(all.lower_text("r").unwrap().unwrap(), "default");
        let mut warnings = Vec::new();
        all.finish(&mut warnings);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn wrong_types_name_the_field_and_not_the_value() {
        let text = fields(json!({"refresh_token": {"canary": 1}}))
            .text("refresh_token")
            .unwrap_err()
            .to_string();
        assert!(text.starts_with("Field validation failed: "));
        assert!(text.contains("refresh_token") && !text.contains("canary"));
        assert!(fields(json!({"a": "maybe"})).boolean("a").is_err());
        assert!(fields(json!({"a": 1.5})).integer("a").is_err());
        assert!(fields(json!({"a": -5})).duration("a").is_err());
        assert!(fields(json!({"a": {"b": 1}})).list("a").is_err());
        assert!(fields(json!({"a": "kv"})).map("a").is_err());
    }

    #[test]
    fn leftovers_are_warned_about() {
        let mut left = fields(json!({"b": 1, "a": 2, "known": 3, "name": "x"}));
        left.captured("name");
        left.text("known").unwrap();
        let mut warnings = Vec::new();
        left.finish(&mut warnings);
        assert_eq!(
            warnings[0],
            "Endpoint ignored these unrecognized parameters: [a b]"
        );
        assert!(warnings[1].ends_with("path: [name]"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,30}", digits in "[0-9.hmsd]{0,40}") {
            let _ = duration(&text);
            let _ = duration(&digits);
            let value = json!({"a": text.clone(), "b": text.clone(), "c": text});
            let mut fields = fields(value);
            let _ = fields.list("a");
            let _ = fields.map("b");
            let _ = fields.boolean("c");
        }
    }
}
