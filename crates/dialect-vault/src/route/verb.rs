//! What a request does, by its method and query.

use gridkeep_keeper::Operation;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use crate::fields;
use crate::params::Params;

/// What a request does, as the original derives it from method and query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Does(Operation),
    /// `HEAD`.
    Header,
}

impl Verb {
    /// `None` for methods the API does not have.
    pub(crate) fn of(method: &Method, headers: &HeaderMap, query: &mut Params) -> Option<Verb> {
        Some(Verb::Does(match method.as_str() {
            "GET" => {
                let mut asked = |name: &str| {
                    let value = query.remove(name);
                    matches!(value, Some(Value::String(text)) if fields::boolean(&text) == Some(true))
                };
                let (list, scan) = (asked("list"), asked("scan"));
                if list {
                    Operation::List
                } else if scan {
                    Operation::Scan
                } else {
                    Operation::Read
                }
            }
            "POST" | "PUT" => Operation::Update,
            "DELETE" => Operation::Delete,
            "LIST" => Operation::List,
            "SCAN" => Operation::Scan,
            "PATCH" => {
                let merge = headers.get(header::CONTENT_TYPE).is_some_and(|value| {
                    value
                        .as_bytes()
                        .starts_with(b"application/merge-patch+json")
                });
                if !merge {
                    return None;
                }
                Operation::Patch
            }
            "HEAD" => return Some(Verb::Header),
            _ => return None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    fn verb(method: &str, query: &str) -> Option<Verb> {
        let mut query = crate::params::query(query).unwrap();
        Verb::of(
            &Method::from_bytes(method.as_bytes()).unwrap(),
            &HeaderMap::new(),
            &mut query,
        )
    }

    #[test]
    fn verbs() {
        assert_eq!(verb("GET", ""), Some(Verb::Does(Operation::Read)));
        for list in ["list=true", "list=True", "list=1"] {
            assert_eq!(verb("GET", list), Some(Verb::Does(Operation::List)));
        }
        assert_eq!(verb("GET", "list=false"), Some(Verb::Does(Operation::Read)));
        assert_eq!(verb("GET", "scan=1"), Some(Verb::Does(Operation::Scan)));
        assert_eq!(verb("LIST", ""), Some(Verb::Does(Operation::List)));
        assert_eq!(verb("POST", ""), verb("PUT", ""));
        assert_eq!(verb("HEAD", ""), Some(Verb::Header));
        for none in ["OPTIONS", "TRACE", "CONNECT", "PATCH", "BREW", "get"] {
            assert_eq!(verb(none, ""), None, "{none}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            "content-type",
            HeaderValue::from_static("application/merge-patch+json"),
        );
        assert_eq!(
            Verb::of(&Method::PATCH, &headers, &mut Params::new()),
            Some(Verb::Does(Operation::Patch))
        );
        let mut query = crate::params::query("list=true&a=1").unwrap();
        Verb::of(&Method::GET, &headers, &mut query);
        assert_eq!(
            Value::Object(query),
            json!({"a": "1"}),
            "list itself is not a parameter of the endpoint"
        );
    }
}
