//! The report of `gridkeep verify`, for people and for programs.

use super::judge::{Judgement, Outcome, Question, Verdict};
use super::{ACCEPTED, REFUSED, UNAVAILABLE};
use crate::explain::printable;
use gridkeep_token::mapfile::{self, MapFile, Style};
use gridkeep_token::profile::Refusal;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// A map file to look the token up in.
pub struct Mapping {
    map: MapFile,
}

impl Mapping {
    /// Reads the file as HTCondor-CE does.
    pub fn read(path: &Path) -> Result<Mapping, String> {
        MapFile::load(path, Style::HashKeys)
            .map(|map| Mapping { map })
            .map_err(|error| error.to_string())
    }

    fn of(&self, judgement: &Judgement) -> Option<mapfile::Mapping> {
        // HTCondor matches `iss,sub`; a token without subject has an empty one.
        let subject = judgement.subject.as_deref().unwrap_or_default();
        judgement
            .issuer
            .as_deref()
            .map(|issuer| self.map.match_token(issuer, subject))
    }
}

/// Everything there is to say about one token.
pub struct Report<'a> {
    pub source: &'a str,
    pub question: &'a Question,
    pub judgement: &'a Judgement,
    pub mapping: Option<&'a Mapping>,
}

impl Report<'_> {
    /// The exit code that goes with it.
    pub fn exit_code(&self) -> i32 {
        match &self.judgement.outcome {
            Outcome::Refused(_) => REFUSED,
            Outcome::Unavailable(_) => UNAVAILABLE,
            Outcome::Accepted if self.mapping.is_some_and(|mapping| !self.is_mapped(mapping)) => {
                REFUSED
            }
            Outcome::Accepted => ACCEPTED,
        }
    }

    fn is_mapped(&self, mapping: &Mapping) -> bool {
        mapping
            .of(self.judgement)
            .is_some_and(|found| found.matched.is_some())
    }

    fn refusal(&self) -> Option<&Refusal> {
        match &self.judgement.outcome {
            Outcome::Accepted => None,
            Outcome::Refused(refusal) | Outcome::Unavailable(refusal) => Some(refusal),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("Token: {}\n", printable(self.source));
        for (step, verdict, sentence) in &self.judgement.steps {
            let line = format!(
                "{:>2} {:<13} {:<8} {}",
                step.number(),
                step.name(),
                word(*verdict),
                printable(sentence)
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        self.grants(&mut text);
        if let Some(mapping) = self.mapping {
            self.account(mapping, &mut text);
        }
        let result = match &self.judgement.outcome {
            Outcome::Accepted if self.question.operation.is_some() => {
                "accepted, and the operation is allowed".to_owned()
            }
            Outcome::Accepted => "accepted".to_owned(),
            Outcome::Refused(refusal) => {
                format!("refused ({}): {}", refusal.code(), refusal.sentence())
            }
            Outcome::Unavailable(refusal) => format!(
                "cannot be said ({}): {}",
                refusal.code(),
                refusal.sentence()
            ),
        };
        let _ = writeln!(text, "Result: {}", printable(&result));
        text
    }

    fn grants(&self, text: &mut String) {
        let Some(verified) = &self.judgement.verified else {
            return;
        };
        let scopes: Vec<&str> = verified
            .scopes()
            .list()
            .iter()
            .map(|scope| scope.text.as_str())
            .collect();
        let groups: Vec<String> = verified
            .groups()
            .list
            .iter()
            .map(ToString::to_string)
            .collect();
        let condor = verified.scopes().condor_levels();
        let left = verified.expires().0.saturating_sub(self.question.now.0);
        let mut line = |name: &str, value: String| {
            if !value.is_empty() {
                let _ = writeln!(text, "{name}: {}", printable(&value));
            }
        };
        line("Subject", verified.subject().unwrap_or_default().to_owned());
        line(
            "Expires",
            format!(
                "{} (in {})",
                verified.expires(),
                crate::explain::length(left)
            ),
        );
        line("Scopes", scopes.join(" "));
        line("Groups", groups.join(" "));
        line("HTCondor levels", condor.join(", "));
    }

    fn account(&self, mapping: &Mapping, text: &mut String) {
        let would = if self.refusal().is_some() {
            "would be "
        } else {
            ""
        };
        match mapping.of(self.judgement) {
            None => text.push_str("Account: none, because the token names no issuer\n"),
            Some(found) => {
                for note in &found.unjudged {
                    let _ = writeln!(
                        text,
                        "Map file: {} may match before: {}",
                        printable(&note.place.to_string()),
                        printable(&note.text)
                    );
                }
                match &found.matched {
                    None => text.push_str("Account: none, because no line of the map file matches issuer and subject\n"),
                    Some(line) => {
                        let account = if line.by_plugin() { format!("{} (a program of the site decides)", line.account) } else { line.account.clone() };
                        let place = format!("{would}by {}, {}", line.place, line.pattern);
                        let _ = writeln!(text, "Account: {} ({})", printable(&account), printable(&place));
                    }
                }
            }
        }
        for note in mapping.map.notes() {
            let _ = writeln!(
                text,
                "Map file: {}: {}",
                printable(&note.place.to_string()),
                printable(&note.text)
            );
        }
    }

    /// For programs.
    pub fn json(&self) -> String {
        let judgement = self.judgement;
        let steps: Vec<Value> = judgement
            .steps
            .iter()
            .map(|(step, verdict, sentence)| json!({"step": step.number(), "name": step.name(), "verdict": word(*verdict), "text": sentence}))
            .collect();
        let mut value = json!({
            "source": self.source,
            "result": match judgement.outcome {
                Outcome::Accepted => "accepted",
                Outcome::Refused(_) => "refused",
                Outcome::Unavailable(_) => "unavailable",
            },
            "steps": steps,
            "issuer": judgement.issuer,
            "subject": judgement.subject,
        });
        if let Some(refusal) = self.refusal() {
            value["code"] = refusal.code().into();
            value["step"] = refusal.step().number().into();
            value["claim"] = refusal.claim().into();
            value["reason"] = refusal.sentence().into();
        }
        if let Some(verified) = &judgement.verified {
            value["profile"] = verified.profile().to_string().into();
            value["expires"] = verified.expires().0.into();
            value["scopes"] = verified
                .scopes()
                .list()
                .iter()
                .map(|scope| scope.text.clone())
                .collect::<Vec<_>>()
                .into();
            value["groups"] = verified
                .groups()
                .list
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .into();
            value["condor_levels"] = verified.scopes().condor_levels().into();
        }
        if let Some(mapping) = self.mapping {
            let place = |place: &mapfile::Place| json!({"file": place.file.display().to_string(), "line": place.line});
            let note =
                |note: &mapfile::Note| json!({"place": place(&note.place), "text": note.text});
            let found = mapping.of(judgement);
            let matched = found.as_ref().and_then(|found| found.matched.as_ref());
            value["mapping"] = json!({
                "account": matched.map(|line| &line.account),
                "by_plugin": matched.is_some_and(mapfile::Match::by_plugin),
                "place": matched.map(|line| place(&line.place)),
                "pattern": matched.map(|line| &line.pattern),
                "unjudged": found.iter().flat_map(|found| &found.unjudged).map(note).collect::<Vec<_>>(),
                "notes": mapping.map.notes().iter().map(note).collect::<Vec<_>>(),
            });
        }
        format!("{value:#}\n")
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::Unavailable => "unknown",
        Verdict::Skipped => "skipped",
        Verdict::NotReached => "-",
    }
}
