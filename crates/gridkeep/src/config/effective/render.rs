//! The tree of a configuration as YAML for people.
//!
//! Owns quoting and what stands behind each value. Refuses to know which keys there are.

use super::super::yaml11::{Reading, resolve};
use super::{MASK, Tree};
use std::fmt::Write;

pub(super) fn render_map(
    entries: &[(String, Tree<'_>)],
    indent: usize,
    first: &str,
    out: &mut String,
) {
    for (at, (key, value)) in entries.iter().enumerate() {
        let lead = if at == 0 && !first.is_empty() {
            first.to_owned()
        } else {
            " ".repeat(indent)
        };
        let comment = if matches!(value, Tree::Unset(_)) {
            "# "
        } else {
            ""
        };
        let _ = write!(out, "{lead}{comment}{}:", quote(key));
        render_value(value, indent, out);
    }
}

fn render_value(value: &Tree<'_>, indent: usize, out: &mut String) {
    match value {
        Tree::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        Tree::List(items) if items.is_empty() => out.push_str(" []\n"),
        Tree::Map(entries) => {
            out.push('\n');
            render_map(entries, indent + 2, "", out);
        }
        Tree::List(items) => {
            out.push('\n');
            let lead = format!("{}- ", " ".repeat(indent + 2));
            for item in items {
                match item {
                    Tree::Map(entries) => render_map(entries, indent + 4, &lead, out),
                    other => {
                        out.push_str(lead.trim_end());
                        render_value(other, indent + 4, out);
                    }
                }
            }
        }
        Tree::Text(text, origin) => {
            let _ = writeln!(out, " {}  # {origin}", quote(text));
        }
        Tree::Secret(_, origin) => {
            let _ = writeln!(out, " \"{MASK}\"  # {origin}");
        }
        Tree::Unset(instead) => {
            let _ = writeln!(out, " {instead}  # built-in default");
        }
    }
}

/// A YAML scalar that reads as this text, in YAML 1.1 and 1.2.
pub(super) fn quote(text: &str) -> String {
    let simple =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '@' | '+');
    let plain = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_')
        && text.chars().all(simple)
        && !text.ends_with(':')
        && matches!(resolve(text), Reading::Text | Reading::Bool(_));
    let number =
        matches!(resolve(text), Reading::Int(_)) && resolve(text).other_text(text).is_none();
    let boolean = matches!(text, "true" | "false");
    if number || boolean || (plain && !matches!(resolve(text), Reading::Bool(_))) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            // Line separators would be folded, control characters are not allowed.
            c if c.is_control() || matches!(c, '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
