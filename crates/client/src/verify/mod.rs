//! `gridkeep verify`: whether a token is good, for whom and what for, with the reason of each refusal.
//!
//! Owns the command line, the choice of keys and the report. The rules are [`gridkeep_token::profile`]'s, fetching keys is [`crate::jwks`]'s.
//! Also the short form of it for the decoder: [`stand_alone`]. A new question to ask of a token is one option, one field of
//! [`Question`] and one line of the report.

mod judge;
mod options;
mod report;

pub use judge::{Judgement, Outcome, Question, Verdict};

use crate::environment::{Environment, Streams};
use crate::http::TrustSources;
use crate::jwks::FetchedKeys;
use gridkeep_token::jws::JwkSet;
use gridkeep_token::profile::{Code, Keys, StaticKeys, Verifier};
use gridkeep_token::time::UnixSeconds;
use options::{Asked, Options};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// Exit code: the token is good and allows what was asked.
pub const ACCEPTED: i32 = 0;
/// Exit code: refused, not allowed, or without an account.
pub const REFUSED: i32 = 1;
/// Exit code: the question was wrong, or there is no token.
pub const USAGE: i32 = 2;
/// Exit code: it cannot be said now, because the issuer's keys are not to be had.
pub const UNAVAILABLE: i32 = 3;

/// Tokens of this size and more are refused anyway.
const MAX_TOKEN: u64 = 1 << 20;

/// What the decoder wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandAlone {
    /// Signature, version, claims and times are good.
    Genuine,
    /// They are not; the sentence says which.
    Refused(String),
    /// The issuer's keys are not to be had; the sentence says why.
    Unavailable(String),
}

/// Verifies `token` without being its relying party: any issuer, no audience, no rights.
pub fn stand_alone(token: &str, environment: &Environment) -> StandAlone {
    let keys = FetchedKeys::new(environment, TrustSources::choose(None, None, environment));
    match Verifier::for_decoding().verify(token, &keys, UnixSeconds(environment.now())) {
        Ok(_) => StandAlone::Genuine,
        Err(refusal) if *refusal.kind() == Code::KeysUnavailable => {
            StandAlone::Unavailable(refusal.sentence().to_owned())
        }
        Err(refusal) => StandAlone::Refused(refusal.to_string()),
    }
}

/// Runs the command; `args` are the words after its name. The answer is one of the exit codes above.
pub fn run(
    args: &[std::ffi::OsString],
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> i32 {
    let options = match Options::parse(args) {
        Ok(Asked::Question(options)) => options,
        Ok(Asked::Help) => {
            let _ = streams.out.write_all(options::usage().as_bytes());
            return ACCEPTED;
        }
        Err(reason) => {
            let _ = write!(
                streams.err,
                "gridkeep verify: {reason}\n{}",
                options::usage()
            );
            return USAGE;
        }
    };
    match answer(&options, environment, streams) {
        Ok(code) => code,
        Err(reason) => {
            let _ = writeln!(streams.err, "gridkeep verify: {reason}");
            USAGE
        }
    }
}

fn answer(
    options: &Options,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<i32, String> {
    let (token, source) = token(options, environment, streams)?;
    let question = options.question(environment)?;
    let mapping = options
        .mapfile
        .as_deref()
        .map(|path| report::Mapping::read(&environment.absolute(path)))
        .transpose()?;
    let keys: Box<dyn Keys> = match &options.jwks {
        Some(path) => Box::new(given_keys(&environment.absolute(path), &token)?),
        None => Box::new(FetchedKeys::new(
            environment,
            TrustSources::choose(
                options.cafile.as_deref(),
                options.capath.as_deref(),
                environment,
            ),
        )),
    };
    let judgement = question.judge(&token, keys.as_ref());
    let report = report::Report {
        source: &source,
        question: &question,
        judgement: &judgement,
        mapping: mapping.as_ref(),
    };
    let text = if options.json {
        report.json()
    } else {
        report.text()
    };
    if !options.quiet {
        let _ = streams
            .out
            .write_all(text.as_bytes())
            .and_then(|()| streams.out.flush());
    }
    Ok(report.exit_code())
}

/// The keys in a file, for whatever issuer the token names: the file is the statement whose they are.
fn given_keys(path: &Path, token: &str) -> Result<StaticKeys, String> {
    let text = std::fs::read(path)
        .map_err(|error| format!("the key set {} cannot be read: {error}", path.display()))?;
    let set = JwkSet::from_json(&text)
        .map_err(|error| format!("{} is no usable key set: {error}", path.display()))?;
    Ok(match judge::unverified(token, "iss") {
        Some(issuer) => StaticKeys::one(&issuer, set),
        None => StaticKeys::default(),
    })
}

/// The token to judge and where it is from: a file, standard input, or what token discovery finds.
fn token(
    options: &Options,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(Zeroizing<String>, String), String> {
    let Some(name) = &options.file else {
        return crate::explain::discovered(environment);
    };
    let mut text = Zeroizing::new(String::new());
    let (read, source) = if name == "-" {
        (
            (&mut *streams.input)
                .take(MAX_TOKEN)
                .read_to_string(&mut text),
            "standard input".to_owned(),
        )
    } else {
        let path = environment.absolute(Path::new(name));
        (
            File::open(&path).and_then(|file| file.take(MAX_TOKEN).read_to_string(&mut text)),
            path.display().to_string(),
        )
    };
    read.map_err(|error| format!("the token in {source} cannot be read: {error}"))?;
    let token = Zeroizing::new(text.trim().to_owned());
    if token.is_empty() {
        Err(format!("there is no token in {source}"))
    } else {
        Ok((token, source))
    }
}

#[cfg(test)]
mod tests;
