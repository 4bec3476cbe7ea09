//! Where a value was written and what is wrong with it: `Origin`, `Setting`, `Finding`.
//!
//! Knows nothing of YAML or of the schema. A finding never carries a secret; a caller that reports on one
//! describes it instead of quoting it.

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// The place a value was written: a file, line and column, or nowhere for a built-in default.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Origin {
    file: Option<Arc<Path>>,
    line: u32,
    column: u32,
}

impl Origin {
    /// A value nobody wrote: a default of the program.
    pub fn builtin() -> Self {
        Self::default()
    }

    /// Whether both are places in one file.
    pub fn is_beside(&self, other: &Origin) -> bool {
        self.file.is_some() && self.file == other.file
    }

    /// A place in a file; lines and columns count from 1.
    pub fn new(file: &Arc<Path>, line: u32, column: u32) -> Self {
        Self {
            file: Some(Arc::clone(file)),
            line,
            column,
        }
    }

    /// A whole file rather than a line of it.
    pub fn whole_file(file: &Path) -> Self {
        Self {
            file: Some(Arc::from(file)),
            line: 0,
            column: 0,
        }
    }

    /// The file, or `None` for a built-in default.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The line, counted from 1; 0 when the whole file or no file is meant.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The column in characters, counted from 1; 0 when the whole file or no file is meant.
    pub fn column(&self) -> u32 {
        self.column
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            None => f.write_str("built-in default"),
            Some(file) if self.line() == 0 => write!(f, "{}", Shown(&file.to_string_lossy())),
            Some(file) => write!(f, "{}:{}", Shown(&file.to_string_lossy()), self.line),
        }
    }
}

/// Text from outside with its control characters made visible, so that a file cannot drive the reader's terminal.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?
            } else {
                write!(f, "{c}")?
            }
        }
        Ok(())
    }
}

/// A value together with the place it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// A value read from a file.
    pub fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }

    /// A default of the program.
    pub fn builtin(value: T) -> Self {
        Self {
            value,
            origin: Origin::builtin(),
        }
    }
}

impl<T> Deref for Setting<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; never makes a configuration unacceptable, not even in strict mode.
    Info,
    /// Works, but probably not as meant; unacceptable in strict mode.
    Warning,
    /// The item it names is not activated; the others are.
    Error,
    /// Nothing of the configuration can be used.
    Fatal,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "note",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        })
    }
}

/// A finding that ends the work at hand; boxed, since results pass through many hands.
pub type Refusal = Box<Finding>;

/// One thing to say about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Where.
    pub origin: Origin,
    /// Which key, such as `issuers[default].roles[pilot].scopes`; empty when a file as a whole is meant.
    pub key: String,
    /// What is wrong, a sentence.
    pub what: String,
    /// What follows from it or what to do, sentences; may be empty.
    pub means: String,
    /// The allowed values, where they can be listed.
    pub allowed: Option<String>,
    /// The known name nearest to an unknown one.
    pub nearest: Option<String>,
}

impl Finding {
    /// A finding without a list of allowed values.
    pub fn new(
        severity: Severity,
        origin: &Origin,
        key: impl Into<String>,
        what: impl Into<String>,
        means: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            origin: origin.clone(),
            key: key.into(),
            what: what.into(),
            means: means.into(),
            allowed: None,
            nearest: None,
        }
    }

    /// Adds the allowed values.
    pub fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }

    /// Adds the nearest of the known names, if one is near.
    pub fn nearest_of(mut self, given: &str, known: &[&str]) -> Self {
        self.nearest = nearest(given, known).map(str::to_owned);
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin.file().is_some() {
            write!(f, "{}", self.origin)?;
            if self.origin.column() != 0 {
                write!(f, ":{}", self.origin.column())?;
            }
            f.write_str(": ")?;
        }
        write!(f, "{}: ", self.severity)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", Shown(&self.key))?;
        }
        write!(f, "{}", Shown(&self.what))?;
        if !self.means.is_empty() {
            write!(f, " {}", Shown(&self.means))?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, " Did you mean `{nearest}`?")?;
        }
        if let Some(allowed) = &self.allowed {
            write!(f, " Allowed: {allowed}.")?;
        }
        Ok(())
    }
}

/// More findings than this are counted instead of kept, so that a hostile file cannot fill memory or a terminal.
const MOST_FINDINGS: usize = 1_000;

/// Findings as they are collected.
#[derive(Debug, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    beyond: usize,
    worst_beyond: Option<Severity>,
}

impl Findings {
    /// Will further findings only be counted? Then there is no use in working out advice for them.
    pub fn is_full(&self) -> bool {
        self.kept.len() >= MOST_FINDINGS
    }

    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        if !self.is_full() {
            self.kept.push(finding);
        } else {
            self.beyond += 1;
            self.worst_beyond = self.worst_beyond.max(Some(finding.severity));
        }
    }

    /// All of them in the order of discovery, with a last one that says how many were left out.
    pub fn into_vec(mut self) -> Vec<Finding> {
        if let Some(worst) = self.worst_beyond {
            self.kept.push(Finding::new(
                worst,
                &Origin::builtin(),
                "",
                format!("{} more findings are not listed.", self.beyond),
                "Correct the ones above first.",
            ));
        }
        self.kept
    }
}

/// Quotes a value for a message: escaped, and cut when long.
pub fn quoted(text: &str) -> String {
    const MOST: usize = 60;
    let mut shown: String = text
        .chars()
        .take(MOST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// The known name with the smallest edit distance, when that is small enough to be a slip of the finger.
pub fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 64;
    const MOST_KNOWN: usize = 200;
    if given.len() > LONGEST {
        return None;
    }
    let given = given.to_ascii_lowercase();
    known
        .iter()
        .take(MOST_KNOWN)
        // Each sign too many or too few is an edit, of which at most three are allowed.
        .filter(|name| name.chars().count().abs_diff(given.chars().count()) <= 3)
        .map(|name| (distance(&given, &name.to_ascii_lowercase()), *name))
        .filter(|(far, name)| {
            *far <= (name.chars().count().max(given.chars().count()) / 3).clamp(1, 3)
        })
        .min_by_key(|(far, _)| *far)
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap of neighbours) that make `a` out of `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_slips_and_refuses_strangers() {
        let known = ["clientid", "callbackmode", "credclaim", "url"];
        assert_eq!(nearest("client_id", &known), Some("clientid"));
        assert_eq!(nearest("ulr", &known), Some("url"));
        assert_eq!(nearest("CallbackMode", &known), Some("callbackmode"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest(&"x".repeat(100_000), &known), None);
    }

    #[test]
    fn a_finding_shows_place_key_and_advice_without_control_characters() {
        let file: Arc<Path> = Arc::from(Path::new("/c/20-\u{1b}[2J.yaml"));
        let finding = Finding::new(
            Severity::Error,
            &Origin::new(&file, 3, 5),
            "issuers[a].url",
            "It is empty.",
            "Write one.",
        )
        .allowed("a URL")
        .nearest_of("ulr", &["url"]);
        assert_eq!(
            finding.to_string(),
            "/c/20-\\u{1b}[2J.yaml:3:5: error: issuers[a].url: It is empty. Write one. Did you mean `url`? Allowed: a URL."
        );
    }

    #[test]
    fn findings_beyond_the_limit_are_counted_and_keep_their_severity() {
        let mut findings = Findings::default();
        for n in 0..MOST_FINDINGS + 5 {
            let severity = if n == MOST_FINDINGS + 2 {
                Severity::Error
            } else {
                Severity::Info
            };
            findings.push(Finding::new(severity, &Origin::builtin(), "", "x", ""));
        }
        let all = findings.into_vec();
        assert_eq!(all.len(), MOST_FINDINGS + 1);
        assert_eq!(all[MOST_FINDINGS].severity, Severity::Error);
        assert!(all[MOST_FINDINGS].what.starts_with("5 more"));
    }
}
