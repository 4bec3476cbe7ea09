//! The path of a request: decoded once, checked once, then a plain text that policies and endpoints share.
//!
//! Owns what is refused in a path. Refuses to know which paths exist. Because the decoded text is what is authorised *and* what is acted on,
//! no spelling of a path can be allowed as one name and served as another.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use thiserror::Error;

/// Longest decoded path, in bytes.
const LONGEST: usize = 4096;

/// Why a path is refused. Always status 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum PathError {
    #[error("the path contains a % that is not followed by two hexadecimal digits")]
    Escape,
    #[error("the path is not UTF-8 after decoding")]
    NotText,
    #[error("the path must not contain non-printable characters")]
    NonPrintable,
    #[error("relative paths not supported: a path must not contain '.' or '..' as a component")]
    Relative,
    #[error("the path contains an empty component ('//')")]
    EmptyComponent,
    #[error("the path is longer than 4096 bytes")]
    TooLong,
}

/// Decodes and checks what follows `/v1/`. A trailing `/` stays.
pub(crate) fn decode(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw.len() > 3 * LONGEST {
        return Err(PathError::TooLong);
    }
    let text = decode_percent(raw).map_err(|error| match error {
        DecodeError::Escape => PathError::Escape,
        DecodeError::NotText => PathError::NotText,
    })?;
    if text.len() > LONGEST {
        return Err(PathError::TooLong);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) && text.chars().any(is_unprintable) {
        return Err(PathError::NonPrintable);
    }
    let mut components = text.split('/').peekable();
    while let Some(component) = components.next() {
        match component {
            "." | ".." => return Err(PathError::Relative),
            // Nothing after the last '/' is the trailing slash of a list.
            "" if components.peek().is_some() => return Err(PathError::EmptyComponent),
            _ => {}
        }
    }
    Ok(text)
}

/// Why a percent-encoded text cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Escape,
    NotText,
}

/// Percent-decodes once. Unlike the usual decoders it does not let a malformed escape through as it is.
pub(crate) fn decode_percent(raw: &str) -> Result<Cow<'_, str>, DecodeError> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let bytes = raw.as_bytes();
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'%') {
        let digits = bytes.get(at + found + 1..at + found + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(DecodeError::Escape);
        }
        at += found + 3;
    }
    percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| DecodeError::NotText)
}

/// Controls, blanks other than the space, and characters that are invisible or turn the direction of writing.
fn is_unprintable(character: char) -> bool {
    character.is_control()
        || (character.is_whitespace() && character != ' ')
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credential_names_survive() {
        assert_eq!(
            decode("secret/oauth/creds/cms/bob@cern.ch:production").unwrap(),
            "secret/oauth/creds/cms/bob@cern.ch:production"
        );
        assert_eq!(
            decode("secret/oauth/creds/cms/bob%40cern.ch%3aproduction").unwrap(),
            "secret/oauth/creds/cms/bob@cern.ch:production"
        );
        assert_eq!(
            decode("a%2Fb").unwrap(),
            "a/b",
            "decoded before it is split, as the policies see it"
        );
        assert_eq!(
            decode("a%252e%252e").unwrap(),
            "a%2e%2e",
            "decoded once only"
        );
        assert_eq!(
            decode("secret/oauth/creds/dune/").unwrap(),
            "secret/oauth/creds/dune/"
        );
        assert_eq!(decode("a b/Jürgen").unwrap(), "a b/Jürgen");
    }

    #[test]
    fn tricks_are_refused() {
        for (raw, error) in [
            ("a/../b", PathError::Relative),
            ("a/%2e%2e/b", PathError::Relative),
            ("a/%2e%2E", PathError::Relative),
            ("..%2fsys", PathError::Relative),
            ("./a", PathError::Relative),
            ("a//b", PathError::EmptyComponent),
            ("/a", PathError::EmptyComponent),
            ("a/%2fb", PathError::EmptyComponent),
            ("a%00b", PathError::NonPrintable),
            ("a%0d%0aSet-Cookie:x", PathError::NonPrintable),
            ("a%7f", PathError::NonPrintable),
            ("a%e2%80%ae", PathError::NonPrintable),
            ("a%c2%a0b", PathError::NonPrintable),
            ("a%", PathError::Escape),
            ("a%4", PathError::Escape),
            ("a%zz", PathError::Escape),
            ("a%c3%28", PathError::NotText),
            ("a%c0%ae%c0%ae/b", PathError::NotText),
        ] {
            assert_eq!(decode(raw), Err(error), "{raw}");
        }
        assert_eq!(decode(&"a".repeat(LONGEST + 1)), Err(PathError::TooLong));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn what_is_accepted_is_harmless(raw in "(%[0-9a-fA-F]{2}|[a-z./%:@]|\\PC){0,24}") {
            if let Ok(text) = decode(&raw) {
                prop_assert!(!text.chars().any(char::is_control));
                prop_assert!(!text.split('/').any(|component| component == ".." || component == "."));
                prop_assert!(!text.contains("//") && !text.starts_with('/') || text == "/" );
            }
        }
    }
}
