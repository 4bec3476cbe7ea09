//! Where tokens come from and go to in a run: files that may hold a vault token, streams, and what waits for standard output.
//!
//! Owns which place is read or written and what its failure means. Which token is worth what is decided in `flow`.

use std::io::{ErrorKind, Read};
use std::path::Path;

use gridkeep_token::file::{self, FileError, ReadPolicy};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::flow::{Run, Stop};
use super::settings::{Place, Settings};
use crate::files;

/// Standard input, or any file, is read up to here for a vault token.
const LARGEST_TOKEN: u64 = 65_536;

/// A vault token and where it is from.
pub(super) struct Candidate {
    pub(super) token: SecretString,
    pub(super) from: String,
}

impl Run<'_, '_> {
    /// What belongs on standard output: vault token, bearer URL, bearer token.
    pub(super) fn data_lines(&mut self) -> Vec<Zeroizing<String>> {
        [
            self.vault_token_line.take(),
            self.bearer_url_line.take(),
            self.bearer_token_line.take(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    pub(super) fn read_device(&mut self, name: &str) -> Result<SecretString, String> {
        let unreadable = |error: &dyn std::fmt::Display| {
            format!("cannot read a vault token from {name}: {error}")
        };
        let empty = || format!("no vault token came from {name}");
        if matches!(name, "/dev/stdin" | "/dev/fd/0") {
            let mut text = Zeroizing::new(String::new());
            let mut input = (&mut *self.report.streams.input).take(LARGEST_TOKEN);
            input
                .read_to_string(&mut text)
                .map_err(|error| unreadable(&error))?;
            let token = text.trim();
            return if token.is_empty() {
                Err(empty())
            } else {
                Ok(SecretString::from(token))
            };
        }
        match file::read_secret(Path::new(name), ReadPolicy::Named) {
            Ok(Some(token)) => Ok(token),
            Ok(None) => Err(empty()),
            Err(error) => Err(unreadable(&error)),
        }
    }

    /// Existing vault tokens that have not been tried, in order.
    pub(super) fn candidates(&mut self) -> Vec<Candidate> {
        let places = self.settings.vault_token_places(
            &self.keep,
            self.credkey.as_deref(),
            self.options,
            self.environment,
        );
        let mut found: Vec<Candidate> = Vec::new();
        for (path, policy, _) in places {
            let report = &mut self.report;
            let read = file::read_secret_noting(&path, policy, &mut |doubt| {
                report.detail(format_args!("note on {}: {doubt}", path.display()));
            });
            match read {
                Ok(None) => {}
                Ok(Some(token)) => {
                    let is = |known: &SecretString| known.expose_secret() == token.expose_secret();
                    if !self.tried.iter().any(is) && !found.iter().any(|other| is(&other.token)) {
                        let from = path.display().to_string();
                        found.push(Candidate { token, from });
                    }
                }
                // A file that cannot be read or trusted is as good as none.
                Err(error) => {
                    let warn = matches!(error, FileError::Ignored { .. });
                    self.passed_over(error.to_string(), warn);
                }
            }
        }
        found
    }

    /// Says once why a file is not used, and keeps it for the case that nothing else helps.
    fn passed_over(&mut self, reason: String, warn: bool) {
        if self.reasons.contains(&reason) {
            return;
        }
        if warn {
            self.report.line(&reason);
        } else {
            self.report.detail(&reason);
        }
        self.reasons.push(reason);
    }

    /// Writes a new vault token where it belongs, and its private copy.
    pub(super) fn write_vault_token(&mut self, token: &SecretString) -> Result<(), Stop> {
        let line = Zeroizing::new(format!("{}\n", token.expose_secret()));
        let path = match self.settings.vault_out.clone() {
            Place::Descriptor(1) => {
                self.vault_token_line = Some(line);
                return Ok(());
            }
            Place::Descriptor(number) => return self.write_to(number, &line),
            Place::File(path) => path,
        };
        let mut private = None;
        if self.settings.private_copies
            && let Some(credkey) = self.credkey.clone()
        {
            match self
                .keep
                .make_private(&credkey, self.settings.ttl, line.as_bytes())
            {
                Ok(path) => private = path,
                Err(error) => self.report.detail(error),
            }
        }
        self.report.line(format_args!(
            "Storing vault token in {}",
            self.settings.vault_out_name
        ));
        match (files::write(&path, line.as_bytes()), private) {
            (Ok(()), _) => Ok(()),
            // Somebody else's file is in the way in the shared directory; ours is safe elsewhere.
            (Err(error), Some(private)) => {
                self.report
                    .line(format_args!("{error}; it is kept in {}", private.display()));
                Ok(())
            }
            (Err(error), None) => Err(Stop::Fatal(error.to_string())),
        }
    }

    pub(super) fn write_bearer(&mut self, bearer: &SecretString) -> Result<(), Stop> {
        let line = Zeroizing::new(format!("{}\n", bearer.expose_secret()));
        match self.settings.bearer_out.clone() {
            Place::Descriptor(1) => {
                self.bearer_token_line = Some(line);
                Ok(())
            }
            Place::Descriptor(number) => self.write_to(number, &line),
            Place::File(path) => {
                self.report.line(format_args!(
                    "Storing bearer token in {}",
                    self.settings.bearer_out_name
                ));
                files::write(&path, line.as_bytes()).map_err(|error| Stop::Fatal(error.to_string()))
            }
        }
    }

    /// To a descriptor other than standard output, at once.
    fn write_to(&mut self, number: i32, line: &str) -> Result<(), Stop> {
        if number == 2 {
            return super::write_all(self.report.streams.err, line.as_bytes()).map_err(|error| {
                match error.kind() {
                    ErrorKind::BrokenPipe => Stop::NobodyReads,
                    _ => Stop::Fatal(format!("cannot write to standard error: {error}")),
                }
            });
        }
        file::write_descriptor(number, line.as_bytes()).map_err(|error| match &error {
            FileError::Descriptor { source, .. } if source.kind() == ErrorKind::BrokenPipe => {
                Stop::NobodyReads
            }
            _ => Stop::Fatal(error.to_string()),
        })
    }

    pub(super) fn queue_url_if_wanted(&mut self) {
        if self.options.showbearerurl {
            self.queue_url();
        }
    }

    pub(super) fn queue_url(&mut self) {
        if let Some(credkey) = &self.credkey {
            let path = Settings::bearer_path(self.options, credkey);
            self.bearer_url_line = Some(Zeroizing::new(format!("{}\n", self.vault.url(&path))));
        }
    }
}
