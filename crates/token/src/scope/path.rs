//! Paths in an issuer's area, as capabilities and requests write them.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

/// Everything that RFC 3986 section 3.3 wants encoded in a path segment.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// Why a path is not acceptable. What could be read in two ways by two programs is refused, not repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// Empty or relative.
    #[error("it does not begin with a slash")]
    NotAbsolute,
    /// A `..`, plain or encoded.
    #[error("it has a component \"..\"")]
    DotDot,
    /// `%` without two hexadecimal digits.
    #[error("it has an incomplete or invalid percent-encoding")]
    BadEncoding,
    /// `%25`, `%2F`, `%5C`, `%00` and the like.
    #[error("it encodes a slash, a backslash, a percent sign or a control character")]
    ForbiddenEncoding,
    /// `\`, `#`, `?` or a control character as such.
    #[error("it has a backslash, '#', '?' or a control character")]
    ForbiddenCharacter,
    /// Bytes that are not UTF-8.
    #[error("it is not UTF-8 after decoding")]
    NotUtf8,
}

/// A normalised absolute path: components decoded once, without `.`, `..` and empty ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AreaPath {
    components: Vec<String>,
    directory_only: bool,
}

impl AreaPath {
    /// The whole area.
    #[must_use]
    pub const fn root() -> Self {
        Self {
            components: Vec::new(),
            directory_only: false,
        }
    }

    /// Reads a path in URI spelling: percent-encodings are decoded exactly once per component; `//` and `/./` collapse; a
    /// trailing slash is remembered, except on `/` itself.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let inner = text.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        if text.contains(['\\', '#', '?']) || text.contains(char::is_control) {
            return Err(PathError::ForbiddenCharacter);
        }
        let mut components = Vec::new();
        let mut directory_only = false;
        for raw in inner.split('/') {
            let component = decode(raw)?;
            match component.as_str() {
                ".." => return Err(PathError::DotDot),
                "" | "." => directory_only = true,
                _ => {
                    directory_only = false;
                    components.push(component);
                }
            }
        }
        Ok(Self {
            directory_only: directory_only && !components.is_empty(),
            components,
        })
    }

    /// The decoded components.
    #[must_use]
    pub fn components(&self) -> &[String] {
        &self.components
    }

    /// Whether the path ended in a slash and so means a directory and what is below it.
    #[must_use]
    pub fn directory_only(&self) -> bool {
        self.directory_only
    }

    /// Whether `other` is this path or lies below it, component by component.
    #[must_use]
    pub fn is_prefix_of(&self, other: &Self) -> bool {
        other.components.starts_with(&self.components)
    }

    /// `other` as seen from this path, when it is this path or lies below it.
    #[must_use]
    pub fn strip_from(&self, other: &Self) -> Option<Self> {
        let rest = other.components.strip_prefix(self.components.as_slice())?;
        Some(Self {
            directory_only: other.directory_only && !rest.is_empty(),
            components: rest.to_vec(),
        })
    }
}

impl fmt::Display for AreaPath {
    /// URI spelling; reading it again gives the same path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for component in &self.components {
            write!(f, "/{}", utf8_percent_encode(component, ENCODED))?;
        }
        if self.components.is_empty() || self.directory_only {
            f.write_str("/")?;
        }
        Ok(())
    }
}

fn decode(raw: &str) -> Result<String, PathError> {
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        let digits = rest
            .as_bytes()
            .get(at + 1..at + 3)
            .ok_or(PathError::BadEncoding)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(PathError::BadEncoding);
        }
        // The slice ends on a character border: the two digits are ASCII.
        rest = &rest[at + 3..];
    }
    let decoded = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| PathError::NotUtf8)?;
    if decoded.contains(['/', '\\', '%']) || decoded.contains(char::is_control) {
        return Err(PathError::ForbiddenEncoding);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spelling_is_normalised() {
        for (text, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/./", "/"),
            ("/a//b/./c", "/a/b/c"),
            ("/a/.", "/a/"),
            ("/a/%2e", "/a/"),
            ("/a%20b/%41", "/a%20b/A"),
            ("/a%3Fb%23", "/a%3Fb%23"),
            ("/m%C3%BCller", "/m%C3%BCller"),
            ("/müller", "/m%C3%BCller"),
            ("/...", "/..."),
        ] {
            assert_eq!(
                AreaPath::parse(text).map(|p| p.to_string()).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn ambiguity_is_refused() {
        use PathError::*;
        for (text, expected) in [
            ("", NotAbsolute),
            ("a", NotAbsolute),
            ("%2Fa", NotAbsolute),
            ("/a/..", DotDot),
            ("/.%2E/", DotDot),
            ("/%252e%252e", ForbiddenEncoding),
            ("/%5c", ForbiddenEncoding),
            ("/%7f", ForbiddenEncoding),
            ("/%c2%85", ForbiddenEncoding),
            ("/%", BadEncoding),
            ("/%2", BadEncoding),
            ("/%é9", BadEncoding),
            ("/%ff", NotUtf8),
            ("/a\\b", ForbiddenCharacter),
            ("/a#", ForbiddenCharacter),
            ("/a\n", ForbiddenCharacter),
        ] {
            assert_eq!(AreaPath::parse(text), Err(expected), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn normalisation_is_idempotent(text in "/(\\PC|[/.%]|%[0-9a-fA-F]{2}){0,24}") {
            if let Ok(path) = AreaPath::parse(&text) {
                let again = path.to_string();
                prop_assert_eq!(AreaPath::parse(&again), Ok(path.clone()));
                prop_assert!(!path.components().iter().any(|c| c.is_empty() || c == "." || c == ".." || c.contains('/')));
            }
        }

        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = AreaPath::parse(&text);
        }
    }
}
