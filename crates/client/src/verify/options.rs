//! The command line of `gridkeep verify`.

use super::Question;
use crate::environment::Environment;
use crate::options::grammar::{Item, Items, Spec};
use gridkeep_token::profile::Profiles;
use gridkeep_token::scope::{AreaPath, Operation};
use gridkeep_token::time::UnixSeconds;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

#[derive(Clone, Copy)]
enum Key {
    Help,
    Quiet,
    Json,
    Audience,
    Issuer,
    BasePath,
    Profile,
    Operation,
    Path,
    Jwks,
    CaFile,
    CaPath,
    MapFile,
    At,
}

const fn spec(
    key: Key,
    short: Option<char>,
    long: &'static str,
    value: Option<&'static str>,
    help: &'static str,
) -> Spec<Key> {
    Spec {
        key,
        short,
        long,
        value,
        abbreviates: false,
        help,
    }
}

#[rustfmt::skip]
const TABLE: &[Spec<Key>] = &[
    spec(Key::Audience, None, "--audience", Some("NAME"), "a name of the service that would receive the token; may be repeated [default: the audience is not judged]"),
    spec(Key::Issuer, None, "--issuer", Some("URL"), "an issuer that the service trusts; may be repeated [default: the one that the token names]"),
    spec(Key::BasePath, None, "--base-path", Some("PATH"), "the area of the issuers in the service's name space; may be repeated [default: /]"),
    spec(Key::Profile, None, "--profile", Some("NAME"), "wlcg, scitokens, or any: what the service accepts [default: any]"),
    spec(Key::Operation, None, "--operation", Some("WORD"), "say whether the token allows this operation"),
    spec(Key::Path, None, "--path", Some("PATH"), "where the operation takes place [default: /]"),
    spec(Key::Jwks, None, "--jwks", Some("FILE"), "take the issuer's keys from this file and use no network"),
    spec(Key::CaFile, None, "--cafile", Some("FILE"), "trusted certificate authorities for fetching keys"),
    spec(Key::CaPath, None, "--capath", Some("DIR"), "directory of further ones"),
    spec(Key::MapFile, None, "--mapfile", Some("FILE"), "say which line of this HTCondor-CE map file matches, and the account"),
    spec(Key::At, None, "--at", Some("SECONDS"), "judge as of this moment, in seconds since 1970 [default: now]"),
    spec(Key::Json, None, "--json", None, "report as JSON"),
    spec(Key::Quiet, Some('q'), "--quiet", None, "no report, only the exit code"),
    spec(Key::Help, Some('h'), "--help", None, "show this text"),
];

/// The text of `--help`.
pub fn usage() -> String {
    let mut text = String::from(
        "Usage: gridkeep verify [options] [FILE | -]\n\n\
         Verifies a WLCG or SciTokens bearer token step by step and says why it is refused.\n\
         Without a file name the token is the one that bearer token discovery finds.\n\n",
    );
    for spec in TABLE {
        let short = spec
            .short
            .map_or(String::new(), |letter| format!("-{letter}, "));
        let value = spec
            .value
            .map_or(String::new(), |value| format!(" {value}"));
        let _ = writeln!(text, "  {short}{}{value}\n        {}", spec.long, spec.help);
    }
    let _ = writeln!(text, "\nOperations: {}", Operation::words().join(", "));
    text.push_str("Exit code: 0 good, 1 refused, not allowed or no account, 2 wrong usage or no token,\n3 cannot be said now because the issuer's keys are not to be had.\n");
    text
}

/// What the command line wants.
#[derive(Debug)]
pub enum Asked {
    /// The usage text.
    Help,
    /// A token judged.
    Question(Box<Options>),
}

/// The options as given.
#[derive(Debug, Default)]
pub struct Options {
    pub audiences: Vec<String>,
    pub issuers: Vec<String>,
    pub base_paths: Vec<String>,
    pub profile: Option<String>,
    pub operation: Option<String>,
    pub path: Option<String>,
    pub jwks: Option<PathBuf>,
    pub cafile: Option<String>,
    pub capath: Option<String>,
    pub mapfile: Option<PathBuf>,
    pub at: Option<String>,
    pub json: bool,
    pub quiet: bool,
    pub file: Option<OsString>,
}

impl Options {
    /// Reads the words after the command's name; the error is a sentence.
    pub fn parse(args: &[OsString]) -> Result<Asked, String> {
        let words: Vec<String> = args
            .iter()
            .map(|arg| {
                arg.to_str()
                    .map(str::to_owned)
                    .ok_or_else(|| format!("the argument {} is not UTF-8 text", arg.display()))
            })
            .collect::<Result<_, _>>()?;
        let mut options = Options::default();
        for item in Items::new(TABLE, &words) {
            match item? {
                Item::Switch(Key::Help) => return Ok(Asked::Help),
                Item::Switch(Key::Json) => options.json = true,
                Item::Switch(_) => options.quiet = true,
                Item::Value(key, value) => options.take(key, value),
                Item::Positional(name) => {
                    if options.file.replace(name.into()).is_some() {
                        return Err("more than one file name".into());
                    }
                }
            }
        }
        Ok(Asked::Question(Box::new(options)))
    }

    fn take(&mut self, key: Key, value: String) {
        match key {
            Key::Audience => self.audiences.push(value),
            Key::Issuer => self.issuers.push(value),
            Key::BasePath => self.base_paths.push(value),
            Key::Profile => self.profile = Some(value),
            Key::Operation => self.operation = Some(value),
            Key::Path => self.path = Some(value),
            Key::Jwks => self.jwks = Some(value.into()),
            Key::CaFile => self.cafile = Some(value),
            Key::CaPath => self.capath = Some(value),
            Key::MapFile => self.mapfile = Some(value.into()),
            Key::At => self.at = Some(value),
            Key::Help | Key::Json | Key::Quiet => {}
        }
    }

    /// The question that the options ask; the error is a sentence.
    pub fn question(&self, environment: &Environment) -> Result<Question, String> {
        let profiles = match self.profile.as_deref() {
            None | Some("any") => Profiles::ALL,
            Some("wlcg") => Profiles::WLCG,
            Some("scitokens") => Profiles::SCITOKENS,
            Some(other) => {
                return Err(format!(
                    "{other:?} is no profile; say wlcg, scitokens or any"
                ));
            }
        };
        let base_paths = self
            .base_paths
            .iter()
            .map(|text| {
                AreaPath::parse(text).map_err(|problem| {
                    format!("the base path {text:?} is not acceptable: {problem}")
                })
            })
            .collect::<Result<_, _>>()?;
        let operation: Option<Operation> = match (self.operation.as_deref(), &self.path) {
            (Some(word), _) => Some(
                word.parse()
                    .map_err(|error: gridkeep_token::scope::UnknownOperation| error.to_string())?,
            ),
            (None, Some(_)) => return Err("--path needs --operation".into()),
            (None, None) => None,
        };
        let now = match self.at.as_deref() {
            None => environment.now(),
            Some(text) => text
                .parse()
                .map_err(|_| format!("--at wants seconds since 1970 and got {text:?}"))?,
        };
        Ok(Question {
            audiences: self.audiences.clone(),
            issuers: self.issuers.clone(),
            base_paths,
            profiles,
            operation,
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            now: UnixSeconds(now),
        })
    }
}
