//! Typed values out of the merged tree: `Reader` collects findings, `Item` reads the keys of one mapping.
//!
//! Knows how a text, a number, a duration, a path or a list of named items is written and what to say when it is
//! not; knows no key of the schema (`issuers`, `sections` and `own` do).

mod unknown;

use super::finding::{Finding, Findings, Origin, Setting, Severity, quoted};
use super::values::{looks_shell_escaped, number, shell_unescape, units};
use super::yaml::{Mapping, Node, Scalar, Value};
use super::yaml11::Reading;
use secrecy::SecretString;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

/// Collects findings while the sections are read.
pub struct Reader<'f> {
    /// What was found.
    pub findings: &'f mut Findings,
    /// `compat.shell_unescape`
    pub shell_unescape: bool,
    /// The files have no section of ours: they may be those of an original, which ignores what it does not know.
    pub ran_on_original: bool,
}

/// A named member of a list.
pub struct Named<'n> {
    /// Its name, checked.
    pub name: Setting<String>,
    /// Its keys.
    pub map: &'n Mapping,
    /// Its key path, such as `issuers[default]`.
    pub path: String,
    /// Where it begins.
    pub origin: Origin,
}

impl Reader<'_> {
    /// Adds a finding.
    pub fn find(
        &mut self,
        severity: Severity,
        origin: &Origin,
        key: &str,
        what: impl Into<String>,
        means: &str,
    ) {
        self.findings
            .push(Finding::new(severity, origin, key, what, means));
    }

    /// The members of a list of named items whose names are usable. `means` says what becomes of the others.
    pub fn named_items<'n>(
        &mut self,
        node: Option<&'n Node>,
        path: &str,
        means: &str,
    ) -> Vec<Named<'n>> {
        let items = match node.map(|node| (&node.value, node)) {
            None | Some((Value::Null, _)) => return Vec::new(),
            Some((Value::List(items), _)) => items,
            Some((_, node)) => {
                let what = format!(
                    "Here is {}, but a list of items with names is wanted.",
                    node.kind()
                );
                self.findings.push(
                    Finding::new(
                        Severity::Error,
                        &node.origin,
                        path,
                        what,
                        format!("All of `{path}` is left out."),
                    )
                    .allowed("a list whose items begin with `- name: `"),
                );
                return Vec::new();
            }
        };
        let mut named = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            if let Some(item) = self.named_item(item, &format!("{path}[{at}]"), path, means) {
                named.push(item);
            }
        }
        self.without_duplicates(named, path, means)
    }

    fn named_item<'n>(
        &mut self,
        item: &'n Node,
        numbered: &str,
        path: &str,
        means: &str,
    ) -> Option<Named<'n>> {
        let Some(map) = item.as_map() else {
            let what = format!(
                "Here is {}, but an item with a name is wanted.",
                item.kind()
            );
            self.find(Severity::Error, &item.origin, numbered, what, means);
            return None;
        };
        let mut reading = Item::new(self, map, numbered, &item.origin, means);
        let name = reading.required("name")?;
        if !name
            .value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        {
            let what = format!(
                "The name {} has characters that names may not have.",
                quoted(&name.value)
            );
            self.findings.push(
                Finding::new(
                    Severity::Error,
                    &name.origin,
                    format!("{numbered}.name"),
                    what,
                    means,
                )
                .allowed("letters a-z and A-Z, digits, `_` and `-`"),
            );
            return None;
        }
        Some(Named {
            path: format!("{path}[{}]", name.value),
            name,
            map,
            origin: item.origin.clone(),
        })
    }

    /// Where a name is used twice nobody can know which item is meant: none of them is used.
    fn without_duplicates<'n>(
        &mut self,
        named: Vec<Named<'n>>,
        path: &str,
        means: &str,
    ) -> Vec<Named<'n>> {
        let mut first: HashMap<String, (Origin, usize)> = HashMap::new();
        for item in &named {
            let seen = first
                .entry(item.name.value.clone())
                .or_insert_with(|| (item.name.origin.clone(), 0));
            seen.1 += 1;
            if seen.1 > 1 {
                let what = format!(
                    "The name {} is used twice in `{path}`, first at {}.",
                    quoted(&item.name.value),
                    seen.0
                );
                let means = format!(
                    "{means} That holds for all of this name, since nobody can know which one is meant."
                );
                self.findings.push(Finding::new(
                    Severity::Error,
                    &item.name.origin,
                    &item.path,
                    what,
                    means,
                ));
            }
        }
        named
            .into_iter()
            .filter(|item| first.get(&item.name.value).is_some_and(|seen| seen.1 == 1))
            .collect()
    }

    /// Warns of a plain scalar that YAML 1.1 reads as something else than text. A secret is not quoted.
    pub fn note_reading(&mut self, scalar: &Scalar, origin: &Origin, key: &str, secret: bool) {
        let reading = scalar.reading();
        let Some(other) = reading.other_text(scalar.text()) else {
            return;
        };
        let shown = if secret {
            "this value".to_owned()
        } else {
            quoted(scalar.text())
        };
        let what = match other {
            Some(other) if !secret => {
                format!(
                    "YAML 1.1 reads {shown} as {}; the original would have used `{other}`.",
                    reading.name()
                )
            }
            Some(_) => format!(
                "YAML 1.1 reads {shown} as {}; the original would have used another text.",
                reading.name()
            ),
            None => format!(
                "YAML 1.1 reads {shown} as {}; the original would have stopped here.",
                reading.name()
            ),
        };
        self.find(
            Severity::Warning,
            origin,
            key,
            what,
            "It is taken as the text that is written; put it in quotes to say so.",
        );
    }
}

/// The keys of one mapping, and whether they were all right.
pub struct Item<'r, 'f, 'n> {
    /// For findings that do not concern one key.
    pub reader: &'r mut Reader<'f>,
    map: &'n Mapping,
    /// Key path of the mapping.
    pub path: String,
    /// Where the mapping begins.
    pub origin: Origin,
    means: String,
    severity: Severity,
    literal: bool,
    /// False as soon as one value was refused.
    pub sound: bool,
}

impl<'r, 'f, 'n> Item<'r, 'f, 'n> {
    /// An item of the original's schema. `means` says what follows when one of its values is refused.
    pub fn new(
        reader: &'r mut Reader<'f>,
        map: &'n Mapping,
        path: &str,
        origin: &Origin,
        means: &str,
    ) -> Self {
        Self {
            reader,
            map,
            path: path.to_owned(),
            origin: origin.clone(),
            means: means.to_owned(),
            severity: Severity::Error,
            literal: false,
            sound: true,
        }
    }

    /// A mapping of our own schema: never shell-unescaped; a refused value refuses the whole configuration, because a
    /// default in its place could open more than was meant.
    pub fn own(mut self) -> Self {
        self.literal = true;
        self.severity = Severity::Fatal;
        self
    }

    /// A mapping of our own schema that can be left out alone.
    pub fn own_item(mut self) -> Self {
        self.literal = true;
        self
    }

    /// A mapping inside this one, read with what holds for this one; never shell-unescaped.
    pub fn inner<'s>(
        &'s mut self,
        map: &'n Mapping,
        path: &str,
        origin: &Origin,
    ) -> Item<'s, 'f, 'n> {
        Item {
            map,
            path: path.to_owned(),
            origin: origin.clone(),
            means: self.means.clone(),
            severity: self.severity,
            literal: true,
            sound: true,
            reader: self.reader,
        }
    }

    /// The key path of one of its keys; the mapping of the whole file has an empty path of its own.
    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The node of a key, null counting as absent.
    pub fn node(&self, key: &str) -> Option<&'n Node> {
        self.map.get(key).filter(|node| node.value != Value::Null)
    }

    /// Where a key stands, else where the mapping begins.
    pub fn key_origin(&self, key: &str) -> Origin {
        self.map
            .entry(key)
            .map_or_else(|| self.origin.clone(), |entry| entry.key_origin.clone())
    }

    /// Refuses the value of a key.
    pub fn refuse(
        &mut self,
        origin: &Origin,
        key: &str,
        what: impl Into<String>,
        allowed: Option<&str>,
    ) {
        self.sound = false;
        let mut finding = Finding::new(
            self.severity,
            origin,
            self.key(key),
            what,
            self.means.as_str(),
        );
        finding.allowed = allowed.map(str::to_owned);
        self.reader.findings.push(finding);
    }

    /// Warns about the value of a key.
    pub fn warn(&mut self, origin: &Origin, key: &str, what: impl Into<String>, means: &str) {
        let key = self.key(key);
        self.reader
            .find(Severity::Warning, origin, &key, what, means);
    }

    fn scalar(&mut self, key: &str) -> Option<(&'n Scalar, &'n Origin)> {
        let node = self.node(key)?;
        match &node.value {
            Value::Scalar(scalar) => Some((scalar, &node.origin)),
            _ => {
                let what = format!("Here is {}, but a single value is wanted.", node.kind());
                self.refuse(&node.origin, key, what, None);
                None
            }
        }
    }

    fn plain_text(&self, text: &str) -> String {
        if self.reader.shell_unescape && !self.literal {
            shell_unescape(text)
        } else {
            text.to_owned()
        }
    }

    /// A text; `None` when absent, empty or refused.
    pub fn text(&mut self, key: &str) -> Option<Setting<String>> {
        let (scalar, origin) = self.scalar(key)?;
        let text = self.plain_text(scalar.text());
        let path = self.key(key);
        self.reader.note_reading(scalar, origin, &path, false);
        (!text.is_empty()).then(|| Setting::new(text, origin.clone()))
    }

    /// A text that has to be there.
    pub fn required(&mut self, key: &str) -> Option<Setting<String>> {
        let text = self.text(key);
        if text.is_none() {
            self.missing(key);
        }
        text
    }

    /// Says that a needed key is missing or empty, unless its value was refused already.
    pub fn missing(&mut self, key: &str) {
        self.missing_or(key, None);
    }

    /// As [`missing`](Self::missing), with what may be given, or given instead.
    pub fn missing_or(&mut self, key: &str, allowed: Option<&str>) {
        match self.map.entry(key) {
            None => {
                let origin = self.origin.clone();
                let what = format!("The key `{key}` is missing.");
                self.refuse(&origin, key, what, allowed);
            }
            Some(entry) => {
                let empty = match &entry.value.value {
                    Value::Null => true,
                    Value::Scalar(scalar) => scalar.text().is_empty(),
                    Value::List(items) => items.is_empty(),
                    Value::Map(map) => map.entries.is_empty(),
                };
                if empty {
                    self.refuse(
                        &entry.key_origin.clone(),
                        key,
                        format!("The key `{key}` has no value."),
                        allowed,
                    );
                }
            }
        }
    }

    /// A secret text.
    pub fn secret(&mut self, key: &str) -> Option<Setting<SecretString>> {
        let (scalar, origin) = self.scalar(key)?;
        let path = self.key(key);
        self.reader.note_reading(scalar, origin, &path, true);
        if !self.reader.shell_unescape && looks_shell_escaped(scalar.text()) {
            self.warn(
                origin,
                key,
                "The secret has a backslash before `$`, a backtick, `\"` or `\\`, as was needed to get it through the original's shell.",
                "It is used literally, backslashes included; if they are not part of it set `gridkeep.compat.shell_unescape: true`.",
            );
        }
        let text = self.plain_text(scalar.text());
        (!text.is_empty()).then(|| Setting::new(SecretString::from(text), origin.clone()))
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<Setting<T>> {
        let (scalar, origin) = self.scalar(key)?;
        let text = self.plain_text(scalar.text());
        if text.is_empty() {
            return None;
        }
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(Setting::new(*value, origin.clone()));
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.sound = false;
        let what = format!(
            "The value {} is not one of the allowed ones.",
            quoted(&text)
        );
        let finding = Finding::new(
            self.severity,
            origin,
            self.key(key),
            what,
            self.means.as_str(),
        )
        .nearest_of(&text, &words)
        .allowed(words.join(", "));
        self.reader.findings.push(finding);
        None
    }

    /// A truth value.
    pub fn flag(&mut self, key: &str) -> Option<Setting<bool>> {
        let (scalar, origin) = self.scalar(key)?;
        let value = match (scalar.reading(), scalar.text()) {
            (Reading::Bool(value), _) => value,
            (_, "true") => true,
            (_, "false") => false,
            (_, text) => {
                let what = format!("The value {} is neither true nor false.", quoted(text));
                self.refuse(origin, key, what, Some("true, false"));
                return None;
            }
        };
        Some(Setting::new(value, origin.clone()))
    }

    /// A number, fractions allowed.
    pub fn number(&mut self, key: &str) -> Option<Setting<f64>> {
        let (scalar, origin) = self.scalar(key)?;
        match number(scalar) {
            Some(value) => {
                self.note_number(scalar, origin, key);
                Some(Setting::new(value, origin.clone()))
            }
            None => {
                let what = format!("The value {} is not a number.", quoted(scalar.text()));
                self.refuse(origin, key, what, Some("a number such as 360"));
                None
            }
        }
    }

    /// A duration of a key of ours: seconds, or numbers with `d`, `h`, `m` or `s`.
    pub fn duration(&mut self, key: &str) -> Option<Setting<Duration>> {
        const ALLOWED: &str =
            "seconds such as 90 or 1.5, or numbers with d, h, m or s such as 7d, 5m or 1h30m";
        self.duration_with(key, true, ALLOWED)
    }

    /// A duration of a key of the original, which knows no days.
    pub fn duration_of_original(&mut self, key: &str) -> Option<Setting<Duration>> {
        const ALLOWED: &str =
            "seconds such as 90 or 1.5, or numbers with h, m or s such as 5m or 1h30m";
        self.duration_with(key, false, ALLOWED)
    }

    fn duration_with(
        &mut self,
        key: &str,
        days: bool,
        allowed: &'static str,
    ) -> Option<Setting<Duration>> {
        let (scalar, origin) = self.scalar(key)?;
        let seconds = number(scalar).or_else(|| units(scalar.text(), days));
        match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
            Some(value) => {
                self.note_number(scalar, origin, key);
                Some(Setting::new(value, origin.clone()))
            }
            None => {
                let what = format!("The value {} is not a duration.", quoted(scalar.text()));
                self.refuse(origin, key, what, Some(allowed));
                None
            }
        }
    }

    fn note_number(&mut self, scalar: &Scalar, origin: &Origin, key: &str) {
        let reading = scalar.reading();
        if let Reading::Int(Some(value)) = reading
            && reading.other_text(scalar.text()).is_some()
            && !scalar.text().starts_with('+')
        {
            let what = format!("YAML 1.1 reads {} as {value}.", quoted(scalar.text()));
            self.warn(
                origin,
                key,
                what,
                "That number is used; write it in decimal digits to be clear.",
            );
        }
    }

    /// A path; a relative one begins at the directory of the file that names it.
    pub fn file_path(&mut self, key: &str) -> Option<Setting<PathBuf>> {
        let text = self.text(key)?;
        if text.value.contains('\0') {
            self.refuse(
                &text.origin,
                key,
                "A path cannot hold a NUL character.",
                None,
            );
            return None;
        }
        let directory = text
            .origin
            .file()
            .and_then(|file| file.parent())
            .map(PathBuf::from)
            .unwrap_or_default();
        Some(Setting::new(directory.join(&text.value), text.origin))
    }

    /// A list of texts, or one text.
    pub fn texts(&mut self, key: &str, hint: &str) -> Vec<Setting<String>> {
        let Some(node) = self.node(key) else {
            return Vec::new();
        };
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(node),
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::Scalar(scalar) if !scalar.text().is_empty() => {
                    let path = self.key(key);
                    self.reader.note_reading(scalar, &item.origin, &path, false);
                    texts.push(Setting::new(
                        self.plain_text(scalar.text()),
                        item.origin.clone(),
                    ));
                }
                Value::Scalar(_) | Value::Null => {
                    self.refuse(&item.origin, key, "Here is an empty element.", Some(hint))
                }
                Value::List(_) | Value::Map(_) => {
                    let what = format!("Here is {}, but a single value is wanted.", item.kind());
                    self.refuse(&item.origin, key, what, Some(hint));
                }
            }
        }
        texts
    }

    /// The mapping under a key.
    pub fn mapping(&mut self, key: &str) -> Option<&'n Node> {
        let node = self.node(key)?;
        if node.as_map().is_none() {
            let what = format!("Here is {}, but a mapping is wanted.", node.kind());
            self.refuse(&node.origin, key, what, None);
            return None;
        }
        Some(node)
    }

    /// As [`plain_text`](Self::texts) does: a text of this item with shell escapes removed where that is asked for.
    pub fn unescaped(&self, text: &str) -> String {
        self.plain_text(text)
    }
}
