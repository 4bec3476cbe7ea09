//! Reading JSON objects without ambiguity: a member name may occur once per object, at every depth.
//! Owns that one rule; refuses to know what the members mean.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Parses `text` as one JSON object and refuses duplicate member names, which lenient parsers resolve differently
/// from each other (first, last, merged) and which therefore let one token mean two things.
///
/// # Errors
/// The parser's message; it holds positions and member names, never values.
pub(crate) fn strict_object(text: &[u8]) -> Result<Map<String, Value>, String> {
    // The check is its own pass over values that are then thrown away, so that the second pass keeps whatever number
    // representation serde_json was built with.
    serde_json::from_slice::<Unambiguous>(text).map_err(|error| error.to_string())?;
    match serde_json::from_slice::<Value>(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("not a JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

struct Unambiguous;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unambiguous)
    }
}

impl<'de> Visitor<'de> for Unambiguous {
    type Value = Unambiguous;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value without duplicate member names")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Unambiguous>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Unambiguous>()?;
            if seen.contains(&name) {
                return Err(A::Error::custom(format_args!(
                    "the member {name:?} occurs twice"
                )));
            }
            seen.insert(name);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_refused_at_every_depth() {
        assert!(strict_object(br#"{"a":1,"b":[{"a":2}],"c":{"a":3}}"#).is_ok());
        assert!(
            strict_object(br#"{"a":1,"a":1}"#)
                .unwrap_err()
                .contains("occurs twice")
        );
        assert!(strict_object(br#"{"x":[{"a":1,"a":2}]}"#).is_err());
        // The same name written with an escape is the same name.
        assert!(strict_object(br#"{"scope":1,"sc\u006fpe":2}"#).is_err());
    }

    #[test]
    fn only_one_object_is_accepted() {
        for text in ["[]", "1", "\"a\"", "{} {}", "", "{\"a\":NaN}", "{\"a\":1,}"] {
            assert!(strict_object(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        assert!(strict_object(deep.as_bytes()).is_err());
    }
}
