//! What YAML 1.1 (PyYAML's resolver) would have made of a plain scalar.
//!
//! gridkeep takes plain scalars by their source text. The programs that read the same files before did not: they
//! turned `no` into a boolean and then into the text `False`. This module says when the two readings differ, and
//! gives numbers their YAML 1.1 value where a number is what is wanted.

/// The YAML 1.1 type of a plain scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reading {
    /// Text, the same in both.
    Text,
    /// `~`, `null` or nothing.
    Null,
    /// `yes`, `off`, `True` and their kin.
    Bool(bool),
    /// An integer; `None` when it does not fit 127 bits.
    Int(Option<i128>),
    /// A number with a fraction, an exponent, infinity or not-a-number.
    Float(f64),
    /// A date or a time stamp.
    Timestamp,
    /// `=` or `<<`, which stand for something else than themselves.
    Special,
}

/// Reads a plain scalar as PyYAML's default resolver does.
pub fn resolve(text: &str) -> Reading {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Reading::Null,
        "=" | "<<" => return Reading::Special,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Reading::Bool(true);
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Reading::Bool(false);
        }
        _ => {}
    }
    if let Some(int) = integer(text) {
        return Reading::Int(int);
    }
    if let Some(float) = float(text) {
        return Reading::Float(float);
    }
    if is_timestamp(text) {
        return Reading::Timestamp;
    }
    Reading::Text
}

impl Reading {
    /// The text that the original made of the scalar, when it differs from what is written.
    /// `Some(None)`: it had no text for it and stopped.
    pub fn other_text(&self, written: &str) -> Option<Option<String>> {
        let other = match self {
            Self::Text | Self::Null => return None,
            Self::Bool(true) => "True".to_owned(),
            Self::Bool(false) => "False".to_owned(),
            Self::Int(Some(value)) => value.to_string(),
            // Python integers have no limit: only a plain run of digits is certain to come out as written.
            Self::Int(None)
                if written.bytes().all(|b| b.is_ascii_digit()) && !written.starts_with('0') =>
            {
                return None;
            }
            Self::Int(None) => "a very large number".to_owned(),
            Self::Float(value) => python_float(*value),
            Self::Timestamp | Self::Special => return Some(None),
        };
        (other != written).then_some(Some(other))
    }

    /// The name of the type in a sentence, with its article.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Timestamp => "a date",
            Self::Special => "a special sign",
        }
    }
}

/// Python's `str(float)`.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((mantissa, exponent)) => {
            let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
            match exponent.strip_prefix('-') {
                Some(digits) => format!("{mantissa}e-{digits:0>2}"),
                None => format!("{mantissa}e+{exponent:0>2}"),
            }
        }
    }
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// True when there is at least one byte and all satisfy `accept`.
fn all(text: &str, accept: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(accept)
}

fn digit_or_underscore(b: u8) -> bool {
    b.is_ascii_digit() || b == b'_'
}

/// `Some(None)` is an integer too large to hold.
fn integer(text: &str) -> Option<Option<i128>> {
    let (negative, body) = split_sign(text);
    let (digits, radix) = if let Some(rest) = body.strip_prefix("0b") {
        (rest, 2)
    } else if let Some(rest) = body.strip_prefix("0x") {
        (rest, 16)
    } else if body == "0" {
        (body, 10)
    } else if let Some(rest) = body.strip_prefix('0') {
        (rest, 8)
    } else {
        (body, 10)
    };
    let value = if radix == 10 && body.contains(':') {
        sexagesimal(body, false)?
    } else {
        let accepted = match radix {
            2 => all(digits, |b| matches!(b, b'0' | b'1' | b'_')),
            8 => all(digits, |b| matches!(b, b'0'..=b'7' | b'_')),
            16 => all(digits, |b| b.is_ascii_hexdigit() || b == b'_'),
            _ => all(digits, digit_or_underscore) && digits.as_bytes()[0].is_ascii_digit(),
        };
        if !accepted {
            return None;
        }
        let digits: String = digits.chars().filter(|c| *c != '_').collect();
        if digits.is_empty() {
            Some(0)
        } else {
            i128::from_str_radix(&digits, radix).ok()
        }
    };
    Some(value.map(|value| if negative { -value } else { value }))
}

/// `1:30` counts in sixties. The integer form wants a first part without leading zero, the float form does not.
fn sexagesimal(body: &str, leading_zero: bool) -> Option<Option<i128>> {
    let mut parts = body.split(':');
    let first = parts.next()?;
    if !all(first, digit_or_underscore) || !first.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    if first.starts_with('0') && !leading_zero {
        return None;
    }
    let mut value = first.replace('_', "").parse::<i128>().ok();
    for part in parts {
        let fits = match part.as_bytes() {
            [one] => one.is_ascii_digit(),
            [ten, one] => matches!(ten, b'0'..=b'5') && one.is_ascii_digit(),
            _ => false,
        };
        if !fits {
            return None;
        }
        let part: i128 = part.parse().ok()?;
        value = value
            .and_then(|v| v.checked_mul(60))
            .and_then(|v| v.checked_add(part));
    }
    Some(value)
}

fn float(text: &str) -> Option<f64> {
    match text {
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let (negative, body) = split_sign(text);
    let signed = |value: f64| if negative { -value } else { value };
    if matches!(body, ".inf" | ".Inf" | ".INF") {
        return Some(signed(f64::INFINITY));
    }
    let (whole, rest) = body.split_once('.')?;
    if whole.contains(':') {
        let Some(Some(value)) = sexagesimal(whole, true) else {
            return None;
        };
        if !rest.bytes().all(digit_or_underscore) {
            return None;
        }
        let fraction: f64 = format!("0.{}0", rest.replace('_', "")).parse().ok()?;
        return Some(signed(value as f64 + fraction));
    }
    let (fraction, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    if !fraction.bytes().all(digit_or_underscore) {
        return None;
    }
    if let Some(exponent) = exponent {
        // The exponent needs its sign: `1.0e3` is text in YAML 1.1.
        if !exponent.starts_with(['-', '+']) || !all(&exponent[1..], |b| b.is_ascii_digit()) {
            return None;
        }
    }
    let whole_fits = all(whole, digit_or_underscore) && whole.as_bytes()[0].is_ascii_digit();
    let starts_with_point = whole.is_empty()
        && text.starts_with('.')
        && fraction.starts_with(|c: char| c.is_ascii_digit());
    if !whole_fits && !starts_with_point {
        return None;
    }
    let exponent = exponent.map(|e| format!("e{e}")).unwrap_or_default();
    let plain = format!("0{whole}.{fraction}0{exponent}").replace('_', "");
    plain.parse().ok().map(signed)
}

fn is_timestamp(text: &str) -> bool {
    if !text.is_ascii() {
        return false;
    }
    let mut rest = Cursor(text);
    if !rest.digits(4, 4) || !rest.sign('-') {
        return false;
    }
    let month = rest.0;
    if !rest.digits(1, 2) || !rest.sign('-') {
        return false;
    }
    let day = rest.0;
    if !rest.digits(1, 2) {
        return false;
    }
    if rest.0.is_empty() {
        // A date alone needs two digits each.
        return month.find('-') == Some(2) && day.len() == 2;
    }
    if !rest.sign('T') && !rest.sign('t') && !rest.blanks(1) {
        return false;
    }
    if !(rest.digits(1, 2)
        && rest.sign(':')
        && rest.digits(2, 2)
        && rest.sign(':')
        && rest.digits(2, 2))
    {
        return false;
    }
    if rest.sign('.') {
        rest.digits(0, usize::MAX);
    }
    if rest.0.is_empty() {
        return true;
    }
    rest.blanks(0);
    if rest.sign('Z') {
        return rest.0.is_empty();
    }
    if !(rest.sign('-') || rest.sign('+')) || !rest.digits(1, 2) {
        return false;
    }
    rest.0.is_empty() || rest.sign(':') && rest.digits(2, 2) && rest.0.is_empty()
}

struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    fn digits(&mut self, least: usize, most: usize) -> bool {
        let count = self
            .0
            .bytes()
            .take_while(u8::is_ascii_digit)
            .take(most)
            .count();
        self.0 = &self.0[count..];
        count >= least
    }

    fn sign(&mut self, sign: char) -> bool {
        match self.0.strip_prefix(sign) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn blanks(&mut self, least: usize) -> bool {
        let count = self
            .0
            .bytes()
            .take_while(|b| matches!(b, b' ' | b'\t'))
            .count();
        self.0 = &self.0[count..];
        count >= least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_as_pyyaml_does() {
        let table = include_str!("../../testdata/config/yaml11-scalars.tsv");
        let mut seen = 0;
        for line in table.lines().filter(|l| !l.starts_with("# ")) {
            let mut cells = line.split('\t');
            let (scalar, kind, python) = (
                cells.next().unwrap(),
                cells.next().unwrap(),
                cells.next().unwrap(),
            );
            let reading = resolve(scalar);
            let expected = match reading {
                Reading::Text => "str",
                Reading::Null => "null",
                Reading::Bool(_) => "bool",
                Reading::Int(_) => "int",
                Reading::Float(_) => "float",
                Reading::Timestamp => "timestamp",
                Reading::Special => {
                    if scalar == "=" {
                        "value"
                    } else {
                        "merge"
                    }
                }
            };
            assert_eq!(expected, kind, "type of {scalar:?}");
            if !python.is_empty() && !matches!(reading, Reading::Int(None)) {
                let ours = reading
                    .other_text(scalar)
                    .map_or(scalar.to_owned(), Option::unwrap);
                assert_eq!(ours, python, "text of {scalar:?}");
            }
            seen += 1;
        }
        assert!(seen > 130);
    }

    #[test]
    fn very_large_integers_stay_as_written_or_are_reported() {
        let run = "9".repeat(60);
        assert_eq!(resolve(&run).other_text(&run), None);
        let octal = format!("0{}", "7".repeat(60));
        assert!(resolve(&octal).other_text(&octal).is_some());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[-+0-9a-fxob_:.eETZ \\t~é]{0,40}") {
            let reading = resolve(&text);
            let _ = reading.other_text(&text);
        }
    }
}
