//! What `gridkeep config check`, `show --effective` and `diff` print, and their exit codes.
//!
//! Knows where to write and what to return; parsing of arguments is the command line's.

use super::{Change, Config, Impact, Loaded, Severity, diff, digest, show_effective};
use std::io::{self, Write};

/// Everything is in order, or has only warnings where strictness was not asked for.
pub const OK: u8 = 0;
/// Some items are not activated, or, strictly, there are warnings.
pub const FAULTY: u8 = 1;
/// Nothing of the configuration can be used.
pub const UNUSABLE: u8 = 2;

/// `gridkeep config check [--strict]`: all findings, the gravest first, and a summary.
///
/// # Errors
/// When `out` cannot be written.
pub fn check(loaded: &Loaded, strict: bool, out: &mut dyn Write) -> io::Result<u8> {
    let mut findings: Vec<_> = loaded.findings.iter().collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    let count = |severity| {
        loaded
            .findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    match &loaded.config {
        None => writeln!(out, "The configuration cannot be used.")?,
        Some(config) => {
            let roles: usize = config.issuers.iter().map(|issuer| issuer.roles.len()).sum();
            writeln!(
                out,
                "{}, {} with {}. {}, {}.",
                counted(loaded.sources.files.len(), "file"),
                counted(config.issuers.len(), "issuer"),
                counted(roles, "role"),
                counted(errors, "error"),
                counted(warnings, "warning")
            )?;
            if errors > 0 {
                writeln!(out, "The server starts without what the errors name.")?;
            }
        }
    }
    if strict && loaded.config.is_some() && !loaded.is_acceptable(true) {
        writeln!(out, "With --strict the configuration is refused.")?;
    }
    Ok(exit_code(loaded, strict))
}

/// The exit code that a set of findings calls for.
pub fn exit_code(loaded: &Loaded, strict: bool) -> u8 {
    let limit = if strict {
        Severity::Warning
    } else {
        Severity::Error
    };
    match (&loaded.config, loaded.worst()) {
        (None, _) => UNUSABLE,
        (Some(_), Some(worst)) if worst >= limit => FAULTY,
        _ => OK,
    }
}

/// `gridkeep config show --effective`: the configuration in effect and its digest; findings of faults go to `notes`.
///
/// # Errors
/// When `out` or `notes` cannot be written.
pub fn show(loaded: &Loaded, out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<u8> {
    report_faults(loaded, notes)?;
    if let Some(config) = &loaded.config {
        write!(out, "{}", effective(config))?;
    }
    Ok(exit_code(loaded, false))
}

/// A configuration as it is shown, with its digest.
pub fn effective(config: &Config) -> String {
    format!(
        "{}# Digest of what all nodes share: {}\n",
        show_effective(config),
        digest(config)
    )
}

/// `gridkeep config diff`: what would change if `new` took the place of `old`; findings of faults go to `notes`. `people` tells who is met
/// by a change, where that is known.
///
/// # Errors
/// When `out` or `notes` cannot be written.
pub fn show_diff(
    old: &Config,
    new: &Loaded,
    people: &dyn Fn(&Change) -> Option<String>,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> io::Result<u8> {
    report_faults(new, notes)?;
    let Some(config) = &new.config else {
        return Ok(UNUSABLE);
    };
    let mut changes = diff(old, config);
    changes.sort_by_key(|change| std::cmp::Reverse(change.impact));
    for change in &changes {
        writeln!(out, "{change}")?;
        if let Some(people) = people(change) {
            writeln!(out, "    {people}")?;
        }
    }
    let hard = changes
        .iter()
        .filter(|change| change.impact >= Impact::LoginAgain)
        .count();
    let later = changes
        .iter()
        .filter(|change| matches!(change.impact, Impact::Restart | Impact::NextLogin))
        .count();
    match (changes.len(), hard) {
        (all, 0) if later > 0 => writeln!(
            out,
            "{}; nobody loses access or has to log in again at once, but {} at the next login or after a restart, as said there.",
            counted(all, "change"),
            match (all, later) {
                (1, _) => "it shows".to_owned(),
                (_, 1) => "one of them shows".to_owned(),
                (_, later) => format!("{later} of them show"),
            }
        )?,
        (0, _) => writeln!(out, "Nothing changes.")?,
        (all, 0) => writeln!(
            out,
            "{}; nobody loses access or has to log in again.",
            counted(all, "change")
        )?,
        (all, 1) => writeln!(
            out,
            "{}; one of them costs people access or a login.",
            counted(all, "change")
        )?,
        (all, hard) => writeln!(
            out,
            "{}; {hard} of them cost people access or a login.",
            counted(all, "change")
        )?,
    }
    Ok(exit_code(new, false))
}

fn report_faults(loaded: &Loaded, notes: &mut dyn Write) -> io::Result<()> {
    for finding in loaded
        .findings
        .iter()
        .filter(|finding| finding.severity >= Severity::Error)
    {
        writeln!(notes, "{finding}")?;
    }
    Ok(())
}

/// A number and what is counted, in singular or plural.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
