//! Lays out the text of a JSON object for a reader: two blanks per level, one member per line.
//!
//! The work is lexical: the text is checked against RFC 8259 and copied piece by piece, so members keep their order, a name
//! that occurs twice is shown twice, and numbers keep every digit they were written with. Knows nothing of tokens.

use std::fmt::Write as _;

/// How deep objects and arrays may be nested.
const MAX_DEPTH: usize = 64;

/// Why a text could not be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The bytes are not UTF-8.
    #[error("it is not UTF-8 text")]
    NotUtf8,
    /// The text is JSON of another kind, or not JSON at all.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// The text breaks the grammar of RFC 8259.
    #[error("it is not valid JSON: {expected} expected at byte {at}")]
    Grammar {
        /// What should have stood there.
        expected: &'static str,
        /// Offset in bytes from the start of the text.
        at: usize,
    },
    /// More levels than a token ever has.
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Turns the number of a time claim, as written, into the text to show in its place; `None` keeps the number.
pub type ShowTime<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What to show and how.
#[derive(Clone, Copy, Default)]
pub struct Layout<'a> {
    /// Colour member names and values for a terminal.
    pub colour: bool,
    /// What to show for the numbers of top-level time claims.
    pub times: Option<ShowTime<'a>>,
}

/// Names of the claims whose numbers are points in time.
const TIME_CLAIMS: [&str; 4] = ["\"exp\"", "\"nbf\"", "\"iat\"", "\"auth_time\""];

const NAME: &str = "\x1b[34;1m";
const STRING: &str = "\x1b[0;32m";
const NULL: &str = "\x1b[1;30m";
const PLAIN: &str = "\x1b[0m";

impl Layout<'_> {
    /// The laid out text of the JSON object in `text`, ending in a newline.
    pub fn of(&self, text: &[u8]) -> Result<String, LayoutError> {
        let text = std::str::from_utf8(text).map_err(|_| LayoutError::NotUtf8)?;
        let mut writer = Writer {
            layout: self,
            text,
            at: 0,
            out: String::with_capacity(text.len() * 2),
        };
        writer.blanks();
        if writer.peek() != Some(b'{') {
            return Err(LayoutError::NotAnObject);
        }
        writer.value(0)?;
        writer.blanks();
        if writer.at != text.len() {
            return Err(writer.expected("the end"));
        }
        writer.out.push('\n');
        Ok(writer.out)
    }
}

struct Writer<'a> {
    layout: &'a Layout<'a>,
    text: &'a str,
    at: usize,
    out: String,
}

impl<'a> Writer<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expected(&self, expected: &'static str) -> LayoutError {
        LayoutError::Grammar {
            expected,
            at: self.at,
        }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8, name: &'static str) -> Result<(), LayoutError> {
        if self.peek() != Some(byte) {
            return Err(self.expected(name));
        }
        self.at += 1;
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        self.out.push('\n');
        for _ in 0..depth {
            self.out.push_str("  ");
        }
    }

    fn coloured(&mut self, colour: &str, text: &str) {
        if self.layout.colour {
            let _ = write!(self.out, "{colour}{text}{PLAIN}");
        } else {
            self.out.push_str(text);
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), LayoutError> {
        if depth > MAX_DEPTH {
            return Err(LayoutError::TooDeep);
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                let text = self.string()?;
                self.coloured(STRING, &text);
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => {
                let number = self.number()?;
                self.out.push_str(number);
                Ok(())
            }
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), LayoutError> {
        self.take(b'{', "'{'")?;
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.out.push_str("{}");
            return Ok(());
        }
        self.out.push('{');
        loop {
            self.blanks();
            self.line(depth + 1);
            let name = self.string()?;
            self.coloured(NAME, &name);
            self.blanks();
            self.take(b':', "':'")?;
            self.out.push_str(": ");
            self.blanks();
            let is_number = matches!(self.peek(), Some(b'-' | b'0'..=b'9'));
            if depth == 0 && is_number && TIME_CLAIMS.contains(&name.as_str()) {
                self.time()?;
            } else {
                self.value(depth + 1)?;
            }
            self.blanks();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.out.push(',');
                }
                Some(b'}') => {
                    self.at += 1;
                    self.line(depth);
                    self.out.push('}');
                    return Ok(());
                }
                _ => return Err(self.expected("',' or '}'")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), LayoutError> {
        self.take(b'[', "'['")?;
        self.blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.out.push_str("[]");
            return Ok(());
        }
        self.out.push('[');
        loop {
            self.blanks();
            self.line(depth + 1);
            self.value(depth + 1)?;
            self.blanks();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.out.push(',');
                }
                Some(b']') => {
                    self.at += 1;
                    self.line(depth);
                    self.out.push(']');
                    return Ok(());
                }
                _ => return Err(self.expected("',' or ']'")),
            }
        }
    }

    fn time(&mut self) -> Result<(), LayoutError> {
        let number = self.number()?;
        match self.layout.times.and_then(|shown| shown(number)) {
            Some(text) => {
                let text = quoted(&text);
                self.coloured(STRING, &text);
            }
            None => self.out.push_str(number),
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), LayoutError> {
        for (word, colour) in [("true", PLAIN), ("false", PLAIN), ("null", NULL)] {
            if self.text[self.at..].starts_with(word) {
                self.at += word.len();
                self.coloured(colour, word);
                return Ok(());
            }
        }
        Err(self.expected("a value"))
    }

    fn digits(&mut self) -> Result<(), LayoutError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.expected("a digit"));
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    /// The number exactly as written.
    fn number(&mut self) -> Result<&'a str, LayoutError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// The string with its quotes, escaped only where JSON or a terminal demands it.
    fn string(&mut self) -> Result<String, LayoutError> {
        self.take(b'"', "'\"'")?;
        let mut out = String::from("\"");
        loop {
            let Some(character) = self.text[self.at..].chars().next() else {
                return Err(self.expected("'\"'"));
            };
            match character {
                '"' => {
                    self.at += 1;
                    out.push('"');
                    return Ok(out);
                }
                '\\' => {
                    self.at += 1;
                    self.escape(&mut out)?;
                }
                '\0'..='\x1f' => return Err(self.expected("an escaped control character")),
                other => {
                    self.at += other.len_utf8();
                    push_escaped(&mut out, other);
                }
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), LayoutError> {
        let Some(kind) = self.peek() else {
            return Err(self.expected("an escape"));
        };
        let character = match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(out),
            _ => return Err(self.expected("an escape")),
        };
        self.at += 1;
        push_escaped(out, character);
        Ok(())
    }

    fn unicode_escape(&mut self, out: &mut String) -> Result<(), LayoutError> {
        let first = self.hex_unit()?;
        if let Some(character) = char::from_u32(first) {
            push_escaped(out, character);
            return Ok(());
        }
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let before = self.at;
            self.at += 1;
            let second = self.hex_unit()?;
            if (0xdc00..0xe000).contains(&second) {
                let scalar = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                if let Some(character) = char::from_u32(scalar) {
                    push_escaped(out, character);
                    return Ok(());
                }
            }
            self.at = before;
        }
        // Half of a surrogate pair has no UTF-8 form: it stays the escape it was.
        let _ = write!(out, "\\u{first:04x}");
        Ok(())
    }

    /// Reads `u` and four hexadecimal digits.
    fn hex_unit(&mut self) -> Result<u32, LayoutError> {
        self.take(b'u', "'u'")?;
        let digits = self
            .text
            .as_bytes()
            .get(self.at..self.at + 4)
            .unwrap_or_default();
        if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(self.expected("four hexadecimal digits"));
        }
        let unit = digits.iter().fold(0, |unit, digit| {
            unit * 16 + char::from(*digit).to_digit(16).unwrap_or(0)
        });
        self.at += 4;
        Ok(unit)
    }
}

/// `text` as a JSON string with its quotes.
pub fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        push_escaped(&mut out, character);
    }
    out.push('"');
    out
}

fn push_escaped(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        // Control characters of either set, and those that turn the direction of text, would let a token write over the
        // reader's screen.
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        }
        other => out.push(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str) -> String {
        Layout::default().of(text.as_bytes()).unwrap()
    }

    #[test]
    fn numbers_and_order_stay_as_written() {
        let text =
            r#"{"z":18446744073709551617,"a":1.0,"m":-0.50e+3,"e":{},"l":[],"n":[1,{"x":null}]}"#;
        assert_eq!(
            plain(text),
            "{\n  \"z\": 18446744073709551617,\n  \"a\": 1.0,\n  \"m\": -0.50e+3,\n  \"e\": {},\n  \"l\": [],\n  \"n\": [\n    1,\n    {\n      \"x\": null\n    }\n  ]\n}\n"
        );
    }

    #[test]
    fn a_name_that_occurs_twice_is_shown_twice() {
        assert_eq!(
            plain(r#"{"scope":"a","scope":"b"}"#),
            "{\n  \"scope\": \"a\",\n  \"scope\": \"b\"\n}\n"
        );
    }

    #[test]
    fn text_is_not_escaped_but_what_drives_a_terminal_is() {
        assert_eq!(
            plain(r#"{"a":"m\u00fcller \/ 😀 \ud83d\ude00"}"#),
            "{\n  \"a\": \"müller / 😀 😀\"\n}\n"
        );
        assert_eq!(
            plain("{\"a\":\"\\u001b[2J \u{9b}2J \\u202e \\ud800x\"}"),
            "{\n  \"a\": \"\\u001b[2J \\u009b2J \\u202e \\ud800x\"\n}\n"
        );
    }

    #[test]
    fn only_top_level_numeric_time_claims_are_turned_into_dates() {
        let shown = |number: &str| Some(format!("<{number}>"));
        let layout = Layout {
            colour: false,
            times: Some(&shown),
        };
        let text = br#"{"exp":1,"iat":"2","nbf":3.5,"auth_time":4,"note":"a 123 b","n":123,"o":{"exp":5},"\u0065xp":6}"#;
        assert_eq!(
            layout.of(text).unwrap(),
            "{\n  \"exp\": \"<1>\",\n  \"iat\": \"2\",\n  \"nbf\": \"<3.5>\",\n  \"auth_time\": \"<4>\",\n  \"note\": \"a 123 b\",\n  \"n\": 123,\n  \"o\": {\n    \"exp\": 5\n  },\n  \"exp\": \"<6>\"\n}\n"
        );
    }

    #[test]
    fn colours_can_be_taken_away_again() {
        let text = br#"{"a":"b","c":[null,true,1]}"#;
        let coloured = Layout {
            colour: true,
            times: None,
        }
        .of(text)
        .unwrap();
        assert!(coloured.contains("\x1b[34;1m\"a\"\x1b[0m"));
        let mut stripped = coloured;
        for code in [NAME, STRING, NULL, PLAIN] {
            stripped = stripped.replace(code, "");
        }
        assert_eq!(stripped, plain(std::str::from_utf8(text).unwrap()));
    }

    #[test]
    fn what_is_not_a_json_object_is_refused() {
        for text in [
            "",
            "[]",
            "1",
            "\"a\"",
            "{",
            "{}x",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":+1}",
            "{\"a\":\"\t\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":nul}",
            "{'a':1}",
            "{\"a\":[1,]}",
            "{\"a\":\"",
            "{\"a\":\"\\",
            "{\"a\":1e}",
            "{\"a\":NaN}",
            "{\"a\":-}",
        ] {
            assert!(Layout::default().of(text.as_bytes()).is_err(), "{text:?}");
        }
        assert_eq!(
            Layout::default().of(b"{\"a\":\"\xff\"}"),
            Err(LayoutError::NotUtf8)
        );
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(
            Layout::default().of(deep.as_bytes()),
            Err(LayoutError::TooDeep)
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_layout_means_the_same_and_lays_out_to_itself(value in json()) {
            let object = serde_json::json!({ "v": value });
            let once = plain(&object.to_string());
            prop_assert_eq!(&serde_json::from_str::<serde_json::Value>(&once).unwrap(), &object);
            prop_assert_eq!(plain(&once), once);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_only_json_passes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(text) = Layout::default().of(&bytes) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
            }
        }
    }
}
