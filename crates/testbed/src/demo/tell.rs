//! The demo's voice. Owns the layout: a step is a sentence at the margin, a command follows `$`, what a program says is indented.

use std::fmt::Display;
use std::io::Write;

use super::failure::Failure;

/// Writes the demo's words as they come.
pub(super) struct Tell<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Tell<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// A new step.
    pub(super) fn step(&mut self, text: impl Display) -> Result<(), Failure> {
        self.write(format_args!("\n{text}\n"))
    }

    /// More about the step.
    pub(super) fn note(&mut self, text: impl Display) -> Result<(), Failure> {
        self.write(format_args!("{text}\n"))
    }

    /// A command that is run, or that can be typed.
    pub(super) fn command(&mut self, text: impl Display) -> Result<(), Failure> {
        self.write(format_args!("  $ {text}\n"))
    }

    /// A line that a program said, or that is to be pasted.
    pub(super) fn output(&mut self, line: impl Display) -> Result<(), Failure> {
        self.write(format_args!("    {line}\n"))
    }

    fn write(&mut self, text: impl Display) -> Result<(), Failure> {
        let written = write!(self.out, "{text}").and_then(|()| self.out.flush());
        written.map_err(Failure::Output)
    }
}

/// Quotes a word for a POSIX shell where it needs that.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A command as a person would type it.
pub(super) fn typed(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("gridkeep {}", words.join(" "))
}

/// The end of a text, indented.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    let lines: Vec<String> = lines[from..]
        .iter()
        .map(|line| format!("    {line}"))
        .collect();
    if lines.is_empty() {
        "    (none)".to_owned()
    } else {
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("--minsecs=5"), "--minsecs=5");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a b'c"), "'a b'\\''c'");
        assert_eq!(
            typed(&["get", "--credkey", "a b"]),
            "gridkeep get --credkey 'a b'"
        );
    }

    #[test]
    fn the_last_lines_are_kept() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "    b\n    c");
        assert_eq!(last_lines("", 2), "    (none)");
    }

    #[test]
    fn a_closed_output_is_told() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let failure = Tell::new(&mut Closed).step("x").unwrap_err();
        assert!(failure.to_string().contains("standard output"));
    }
}
