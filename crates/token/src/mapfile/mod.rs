//! HTCondor-CE map files: which local account a token becomes at a computing element.
//! Owns the syntax of the lines and the choice of the first match; refuses to know the rest of HTCondor's security
//! configuration. Tokens are matched as `<iss>,<sub>`, as HTCondor does.
//!
//! ```
//! use gridkeep_token::mapfile::{MapFile, Style};
//! let text = "SCITOKENS /^https:\\/\\/vo\\.example\\.org,/ pilot\n";
//! let found = MapFile::parse(text, Style::HashKeys).match_token("https://vo.example.org", "anna");
//! assert_eq!(found.matched.unwrap().account, "pilot");
//! ```

mod line;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use line::{Entry, Pattern};

/// Files beyond this size are no map files.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;
/// How deep `@include` may nest, and how many files it may bring in all.
const INCLUDE_DEPTH: usize = 8;
const INCLUDE_FILES: usize = 1000;

/// How the second field is read: HTCondor's `CERTIFICATE_MAPFILE_ASSUME_HASH_KEYS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// True, as HTCondor-CE sets it: an expression only between slashes, anything else is compared whole.
    HashKeys,
    /// False, HTCondor's default: every field is an unanchored expression, and slashes around it are part of it.
    Expressions,
}

/// Where a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file; empty for text that came from none.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.file.as_os_str().is_empty() {
            write!(f, "line {}", self.line)
        } else {
            write!(f, "{}:{}", self.file.display(), self.line)
        }
    }
}

/// Something in a map file that cannot be followed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Where.
    pub place: Place,
    /// What, as a sentence.
    pub text: String,
}

/// The line that maps a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Where.
    pub place: Place,
    /// The pattern as written.
    pub pattern: String,
    /// The resulting account, with `\1` and so on filled in; `PLUGIN:…` hands the decision to a program of the site.
    pub account: String,
}

impl Match {
    /// Whether a plugin of the site decides, so that the account cannot be told from here.
    #[must_use]
    pub fn by_plugin(&self) -> bool {
        self.account.starts_with("PLUGIN:")
    }
}

/// The answer for one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first line that matches.
    pub matched: Option<Match>,
    /// Lines before it whose expression cannot be judged here and might match at the computing element.
    pub unjudged: Vec<Note>,
}

/// A map file cannot be read.
#[derive(Debug, Error)]
pub enum MapFileError {
    /// The operating system refused.
    #[error("cannot read the map file {}: {source}; check the name and its permissions", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// Too large.
    #[error("{} has more than 16 MiB, so it is no map file; name the right file", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// A parsed map file with what it includes.
#[derive(Clone, Debug, Default)]
pub struct MapFile {
    entries: Vec<(Place, Entry)>,
    notes: Vec<Note>,
    files: usize,
}

impl MapFile {
    /// Reads text; `@include` lines become notes, because there is no file to be relative to.
    #[must_use]
    pub fn parse(text: &str, style: Style) -> Self {
        let mut map = Self::default();
        map.add(text, Path::new(""), style, &mut |_, _| {
            Some("@include is followed only in files")
        });
        map
    }

    /// Reads a file and what it includes; a directory stands for its files in the order of their names.
    ///
    /// # Errors
    /// [`MapFileError`] for the file itself; includes that cannot be read become notes.
    pub fn load(path: &Path, style: Style) -> Result<Self, MapFileError> {
        let mut map = Self::default();
        map.load_into(path, style, 0)?;
        Ok(map)
    }

    /// Lines that were not understood.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The account for a token of this issuer and subject.
    #[must_use]
    pub fn match_token(&self, iss: &str, sub: &str) -> Mapping {
        self.lookup("SCITOKENS", &format!("{iss},{sub}"))
    }

    /// The account for a name proved by `method`.
    #[must_use]
    pub fn lookup(&self, method: &str, name: &str) -> Mapping {
        let mut unjudged = Vec::new();
        for (place, entry) in &self.entries {
            if entry.method != "*" && !entry.method.eq_ignore_ascii_case(method) {
                continue;
            }
            if let Pattern::Unknown(why) = &entry.pattern {
                unjudged.push(Note {
                    place: place.clone(),
                    text: why.clone(),
                });
            } else if let Some(account) = entry.account_for(name) {
                let (place, pattern) = (place.clone(), entry.text.clone());
                return Mapping {
                    matched: Some(Match {
                        place,
                        pattern,
                        account,
                    }),
                    unjudged,
                };
            }
        }
        Mapping {
            matched: None,
            unjudged,
        }
    }

    fn load_into(&mut self, path: &Path, style: Style, depth: usize) -> Result<(), MapFileError> {
        let failed = |source| MapFileError::Io {
            path: path.to_owned(),
            source,
        };
        let found = fs::metadata(path).map_err(failed)?;
        if found.is_dir() {
            let entries = fs::read_dir(path).map_err(failed)?;
            let mut files: Vec<PathBuf> = entries
                .filter_map(|entry| entry.ok().map(|e| e.path()))
                .collect();
            files.retain(|file| file.is_file() && !hidden(file));
            files.sort();
            return files
                .iter()
                .try_for_each(|file| self.load_into(file, style, depth));
        }
        self.files += 1;
        if found.len() > FILE_LIMIT {
            return Err(MapFileError::TooLarge {
                path: path.to_owned(),
            });
        }
        let bytes = fs::read(path).map_err(failed)?;
        let text = String::from_utf8_lossy(&bytes);
        self.add(&text, path, style, &mut |map, included| {
            if depth >= INCLUDE_DEPTH || map.files >= INCLUDE_FILES {
                return Some("@include nests too deeply");
            }
            let target = path.parent().unwrap_or(Path::new("")).join(included);
            map.load_into(&target, style, depth + 1)
                .err()
                .map(|_| "the included file cannot be read")
        });
        Ok(())
    }

    fn add(
        &mut self,
        text: &str,
        file: &Path,
        style: Style,
        include: &mut dyn FnMut(&mut Self, &str) -> Option<&'static str>,
    ) {
        for (at, raw) in text.lines().enumerate() {
            let place = Place {
                file: file.to_owned(),
                line: at + 1,
            };
            let line = raw.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix("@include") {
                if let Some(problem) = include(self, name.trim().trim_matches('"')) {
                    self.notes.push(Note {
                        place,
                        text: problem.to_owned(),
                    });
                }
                continue;
            }
            match line::parse(line, style) {
                Ok(entry) => self.entries.push((place, entry)),
                Err(problem) => self.notes.push(Note {
                    place,
                    text: problem.to_owned(),
                }),
            }
        }
    }
}

fn hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

#[cfg(test)]
mod tests;
