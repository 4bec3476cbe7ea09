//! Splits the text of `HTGETTOKENOPTS` and of an option server into words, as a POSIX shell would, without expanding anything.
//!
//! Owns quoting and comments. Refuses to know what an option is.

use std::iter::Peekable;
use std::str::Chars;

use thiserror::Error;

/// The text cannot be split into words.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SplitError {
    /// A quote is never closed.
    #[error("a quotation ({0}) is opened and never closed")]
    OpenQuote(char),
    /// The last character is a backslash.
    #[error("the text ends in a backslash that protects nothing")]
    TrailingBackslash,
}

/// Splits `text` at blanks, tabs and line ends.
///
/// Single quotes protect everything, double quotes everything but `\"` and `\\`, a backslash outside quotes the next
/// character; backslash and line end together are nothing. A `#` starts a comment, to the end of the line, at the beginning of
/// a word only: `--credkey=a#b` is one whole word (the original cut it there without a word).
///
/// # Errors
/// An open quote, or a backslash at the very end.
pub fn split(text: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '#' if word.is_none() => while rest.next_if(|&c| c != '\n').is_some() {},
            '\'' => single_quoted(&mut rest, word.get_or_insert_default())?,
            '"' => double_quoted(&mut rest, word.get_or_insert_default())?,
            '\\' => match rest.next() {
                None => return Err(SplitError::TrailingBackslash),
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn single_quoted(rest: &mut Peekable<Chars<'_>>, word: &mut String) -> Result<(), SplitError> {
    loop {
        match rest.next() {
            None => return Err(SplitError::OpenQuote('\'')),
            Some('\'') => return Ok(()),
            Some(c) => word.push(c),
        }
    }
}

fn double_quoted(rest: &mut Peekable<Chars<'_>>, word: &mut String) -> Result<(), SplitError> {
    loop {
        match rest.next() {
            None => return Err(SplitError::OpenQuote('"')),
            Some('"') => return Ok(()),
            Some('\\') => match rest.next() {
                None => return Err(SplitError::OpenQuote('"')),
                Some(c @ ('"' | '\\')) => word.push(c),
                Some('\n') => {}
                Some(c) => word.extend(['\\', c]),
            },
            Some(c) => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_comments_and_blanks() {
        let cases: [(&str, &[&str]); 12] = [
            ("", &[]),
            (" \t\r\n", &[]),
            ("-a host  -i dune", &["-a", "host", "-i", "dune"]),
            ("--web-open-command='a b'", &["--web-open-command=a b"]),
            (r#"--scopes="a \"b\" \c""#, &[r#"--scopes=a "b" \c"#]),
            (r"a\ b \#c", &["a b", "#c"]),
            ("--credkey=a#b", &["--credkey=a#b"]),
            ("-v # all the rest\n-d #x", &["-v", "-d"]),
            ("#only", &[]),
            ("--role= ''", &["--role=", ""]),
            ("-a \\\nhost", &["-a", "host"]),
            ("a'#'b", &["a#b"]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text).unwrap(), words, "{text:?}");
        }
    }

    #[test]
    fn unbalanced() {
        assert_eq!(split("-a 'x"), Err(SplitError::OpenQuote('\'')));
        assert_eq!(split("-a \"x\\"), Err(SplitError::OpenQuote('"')));
        assert_eq!(split("-a x\\"), Err(SplitError::TrailingBackslash));
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in prop::collection::vec("\\PC{0,12}", 0..6)) {
            let text: Vec<String> = words
                .iter()
                .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
                .collect();
            prop_assert_eq!(split(&text.join(" ")).unwrap(), words);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = split(&text);
        }
    }
}
