//! How single values are written: shell escapes, numbers, durations.

use super::yaml::Scalar;
use super::yaml11::Reading;

/// Removes one level of backslashes before the four characters that a shell treats specially inside double quotes.
pub fn shell_unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(&next @ ('$' | '`' | '"' | '\\'))) => {
                out.push(next);
                chars.next();
            }
            _ => out.push(c),
        }
    }
    out
}

/// Does a text have a backslash that a shell would have taken away?
pub fn looks_shell_escaped(text: &str) -> bool {
    text.as_bytes()
        .windows(2)
        .any(|pair| pair[0] == b'\\' && matches!(pair[1], b'$' | b'`' | b'"' | b'\\'))
}

/// The number in a scalar: what YAML 1.1 reads, or decimal digits in quotes. Never infinite.
pub fn number(scalar: &Scalar) -> Option<f64> {
    let value = match scalar.reading() {
        Reading::Int(value) => value? as f64,
        Reading::Float(value) => value,
        Reading::Text => scalar.text().trim().parse().ok()?,
        _ => return None,
    };
    value.is_finite().then_some(value)
}

/// Seconds in a day.
const DAY: f64 = 86_400.0;

/// `1h30m`, `1.5m`: seconds. With `d` for days only in keys of ours: in those of the original it would be a value that the original
/// refuses.
pub fn units(text: &str, days: bool) -> Option<f64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1.0,
            b'm' => 60.0,
            b'h' => 3_600.0,
            b'd' if days => DAY,
            _ => return None,
        };
        seconds += amount * unit;
        rest = &rest[digits + 1..];
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_escapes_lose_one_level() {
        assert_eq!(shell_unescape(r#"a\$b\\c\"d\`e\nf\"#), r#"a$b\c"d`e\nf\"#);
        assert!(looks_shell_escaped(r"a\$b"));
        assert!(!looks_shell_escaped(r"a\nb$"));
    }

    #[test]
    fn durations_with_units() {
        for days in [false, true] {
            assert_eq!(units("1h30m", days), Some(5_400.0));
            assert_eq!(units("1.5m", days), Some(90.0));
            assert_eq!(units("0s", days), Some(0.0));
            for wrong in ["", "m", "5 m", "-5m", "5m3", "1..5m", "5é", "5D", "d"] {
                assert_eq!(units(wrong, days), None, "{wrong}");
            }
        }
        assert_eq!(units("7d", true), Some(604_800.0));
        assert_eq!(units("1d12h", true), Some(129_600.0));
        assert_eq!(units("5d", false), None);
    }
}
