//! One line of a map file: method, pattern, account.

use regex::{Captures, Regex, RegexBuilder};

use super::Style;

/// Bytes that one compiled expression may take.
const EXPRESSION_LIMIT: usize = 1 << 20;
/// Groups of one expression. An account names nine; matching takes memory for each group in each state, which thousands make seconds of.
const GROUP_LIMIT: usize = 32;

#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Whole(String),
    Expression(Regex),
    /// Written for PCRE in a way that cannot be judged here; says why.
    Unknown(String),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) method: String,
    pub(super) pattern: Pattern,
    /// The pattern as written, for messages.
    pub(super) text: String,
    account: String,
}

impl Entry {
    pub(super) fn account_for(&self, name: &str) -> Option<String> {
        match &self.pattern {
            Pattern::Whole(whole) => (whole == name).then(|| self.account.clone()),
            Pattern::Expression(expression) => expression
                .captures(name)
                .map(|found| fill(&self.account, &found)),
            Pattern::Unknown(_) => None,
        }
    }
}

enum Field {
    /// A bare or quoted word.
    Word(String),
    /// Between slashes, with the letters after the last one.
    Slashes(String, String),
}

pub(super) fn parse(line: &str, style: Style) -> Result<Entry, &'static str> {
    let (method, rest) = field(line, false)?;
    let (pattern, tail) = field(rest, style == Style::HashKeys)?;
    let text = rest.trim_start();
    let text = text[..text.len() - tail.len()].trim_end().to_owned();
    let (account, _) = field(tail, false)?;
    let (Field::Word(method), Field::Word(account)) = (method, account) else {
        return Err("the line cannot be read");
    };
    if account.is_empty() {
        return Err("the line has fewer than three fields: method, pattern, account");
    }
    let pattern = match (pattern, style) {
        (Field::Word(word), Style::HashKeys) => Pattern::Whole(word),
        (Field::Word(word), Style::Expressions) => expression(&word, ""),
        (Field::Slashes(body, letters), _) => expression(&body, &letters),
    };
    Ok(Entry {
        method,
        pattern,
        text,
        account,
    })
}

fn expression(body: &str, letters: &str) -> Pattern {
    if let Some(letter) = letters.chars().find(|letter| *letter != 'i') {
        return Pattern::Unknown(format!(
            "the option {letter:?} after the expression is not known here"
        ));
    }
    match RegexBuilder::new(body)
        .case_insensitive(letters.contains('i'))
        .size_limit(EXPRESSION_LIMIT)
        .build()
    {
        // The whole match counts as a group.
        Ok(regex) if regex.captures_len() > GROUP_LIMIT + 1 => Pattern::Unknown(format!(
            "the expression has more than {GROUP_LIMIT} groups, which is not judged here; write (?:…) where no group is meant"
        )),
        Ok(regex) => Pattern::Expression(regex),
        Err(_) => Pattern::Unknown(
            "the expression uses PCRE in a way that cannot be judged here, or is wrong".to_owned(),
        ),
    }
}

/// The first field of `text` and what follows it; an absent field is an empty word.
fn field(text: &str, slashes: bool) -> Result<(Field, &str), &'static str> {
    let text = text.trim_start();
    let closing = match text.chars().next() {
        Some('"') => '"',
        Some('/') if slashes => '/',
        _ => {
            let end = text.find(char::is_whitespace).unwrap_or(text.len());
            return Ok((Field::Word(text[..end].to_owned()), &text[end..]));
        }
    };
    let mut body = String::new();
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            // Only the escape of the closing character is ours; all others belong to the expression.
            '\\' => match letters.next() {
                Some((_, next)) if next == closing => body.push(next),
                Some((_, next)) => body.extend(['\\', next]),
                None => return Err("the line ends in a backslash"),
            },
            _ if letter == closing => {
                let rest = &text[at + 1..];
                if closing == '"' {
                    return Ok((Field::Word(body), rest));
                }
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                return Ok((Field::Slashes(body, rest[..end].to_owned()), &rest[end..]));
            }
            _ => body.push(letter),
        }
    }
    Err("a quoted field or an expression is not closed")
}

/// Replaces `\0` to `\9` with what the expression's groups matched.
fn fill(account: &str, found: &Captures<'_>) -> String {
    let mut result = String::new();
    let mut letters = account.chars().peekable();
    while let Some(letter) = letters.next() {
        let group = match (letter, letters.peek()) {
            ('\\', Some(next)) => next.to_digit(10),
            _ => None,
        };
        match group {
            Some(number) => {
                letters.next();
                result.push_str(
                    found
                        .get(number as usize)
                        .map_or("", |group| group.as_str()),
                );
            }
            None => result.push(letter),
        }
    }
    result
}
