//! The parsers that meet what strangers send, open to fuzzers and to nobody else's use.
//!
//! Each takes any input and either gives what an endpoint would see or refuses; none may panic.

use serde_json::{Map, Value};

use crate::{fields, params, path};

/// What follows `/v1/`, decoded and checked.
pub fn decoded_path(raw: &str) -> Option<String> {
    path::decode(raw).ok().map(std::borrow::Cow::into_owned)
}

/// A query as parameters.
pub fn query(raw: &str) -> Option<Map<String, Value>> {
    params::query(raw).ok()
}

/// A body as parameters.
pub fn body(content_type: Option<&str>, bytes: &[u8]) -> Option<Map<String, Value>> {
    params::body(content_type, bytes).ok()
}

/// A length of time in seconds.
pub fn duration(text: &str) -> Option<u64> {
    fields::duration(text).map(|length| length.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn they_are_the_parsers_of_the_service() {
        assert_eq!(super::decoded_path("a%2Fb").as_deref(), Some("a/b"));
        assert_eq!(super::decoded_path("a/../b"), None);
        assert_eq!(super::query("a=1").map(|found| found.len()), Some(1));
        assert_eq!(
            super::body(None, b"{\"a\":1}").map(|found| found.len()),
            Some(1)
        );
        assert_eq!(super::duration("1h"), Some(3600));
    }
}
