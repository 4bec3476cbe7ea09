//! htdecodetoken (also installed as httokendecode): shows what a bearer token says and, where asked, whether it is genuine.
//!
//! Owns the options, the choice of the token (first applicable source only, unlike the discovery standard) and the output. Laying
//! out JSON is in `layout`, the text of points in time in `date`; verification is [`crate::verify`]'s. A new way to show a claim goes beside `date`.

mod date;
mod layout;

pub use layout::{Layout, LayoutError, ShowTime, quoted};

use crate::environment::{Environment, Streams};
use crate::explain::printable;
use crate::verify::{self, StandAlone};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const USAGE: &str = "\
Usage: htdecodetoken [-a] [-H] [-s|-f] [-v] [file]

Shows the contents of a JSON Web Token.
  -a   show the header too, before the contents
  -H   show points in time as dates
  -s   do not verify (the default unless standard output is a terminal)
  -f   verify, and fail if that cannot be done
  -v   say on standard error where the token came from
The file name - stands for standard input. Without a file name the token is
$BEARER_TOKEN, else the contents of $BEARER_TOKEN_FILE, else of
${XDG_RUNTIME_DIR:-/tmp}/bt_u<uid>.
";

/// More than any token: what is beyond is not read.
const MAX_LINE: u64 = 1 << 20;

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    header: bool,
    human: bool,
    skip: bool,
    force: bool,
    verbose: bool,
    file: Option<OsString>,
}

#[derive(Debug, PartialEq, Eq)]
struct UsageError(Option<&'static str>);

impl Options {
    /// getopt rules: clusters, options and file name in any order, `--` ends the options, `-` is a file name.
    fn parse(args: &[OsString]) -> Result<Options, UsageError> {
        let mut options = Options::default();
        let mut only_names = false;
        for arg in args {
            let bytes = arg.as_bytes();
            if only_names || bytes == b"-" || !bytes.starts_with(b"-") {
                if options.file.replace(arg.clone()).is_some() {
                    return Err(UsageError(Some("more than one file name")));
                }
            } else if bytes == b"--" {
                only_names = true;
            } else {
                for letter in &bytes[1..] {
                    match letter {
                        b'a' => options.header = true,
                        b'H' => options.human = true,
                        b's' => options.skip = true,
                        b'f' => options.force = true,
                        b'v' => options.verbose = true,
                        _ => return Err(UsageError(None)),
                    }
                }
            }
        }
        if options.skip && options.force {
            return Err(UsageError(Some(
                "Cannot use both -s and -f options together",
            )));
        }
        Ok(options)
    }
}

/// Where the token came from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Variable,
    Stdin,
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Variable => f.write_str("$BEARER_TOKEN"),
            Source::Stdin => f.write_str("stdin"),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why a token could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The chosen file does not exist.
    #[error("{} not found", .0.display())]
    NotFound(PathBuf),
    /// The chosen source could not be read.
    #[error("{from} cannot be read: {reason}")]
    Unreadable {
        /// The source.
        from: String,
        /// What the system said.
        reason: io::Error,
    },
    /// Nothing but blanks.
    #[error("Token is empty")]
    Empty,
    /// Not the form of a signed JWT.
    #[error(
        "the token is not a JSON Web Token: {0}. Only its issuer can say what such a token means"
    )]
    NotJwt(&'static str),
    /// One part does not hold what it should.
    #[error("the {part} of the token cannot be shown: {reason}")]
    Part {
        /// `header` or `payload`.
        part: &'static str,
        /// Why not.
        reason: LayoutError,
    },
}

/// Runs the command; `args` are the words after its name. The answer is its exit code: 0 shown (and verified if asked), else 1.
pub fn run(args: &[OsString], environment: &Environment, streams: &mut Streams<'_>) -> i32 {
    let options = match Options::parse(args) {
        Ok(options) => options,
        Err(UsageError(reason)) => return usage(reason, streams),
    };
    let (token, source) = match find(options.file.as_deref(), environment, streams) {
        Ok(found) => found,
        Err(DecodeError::Empty) => return usage(Some("Token is empty"), streams),
        Err(error) => return fail(&error, streams),
    };
    if options.verbose {
        let _ = writeln!(streams.err, "Token source: {source}");
    }
    let text = match show(&token, &options, environment) {
        Ok(text) => text,
        Err(error) => return fail(&error, streams),
    };
    let written = streams
        .out
        .write_all(text.as_bytes())
        .and_then(|()| streams.out.flush());
    // A reader that went away has seen enough.
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        let _ = writeln!(
            streams.err,
            "htdecodetoken: standard output cannot be written: {error}"
        );
        return 1;
    }
    if options.skip || !(options.force || environment.terminals.stdout) {
        return 0;
    }
    match verify::stand_alone(&token, environment) {
        StandAlone::Genuine => 0,
        StandAlone::Refused(why) => {
            let _ = writeln!(
                streams.err,
                "htdecodetoken: the token is not valid: {}",
                printable(&why)
            );
            1
        }
        StandAlone::Unavailable(why) => {
            let _ = writeln!(
                streams.err,
                "htdecodetoken: the token was not verified: {}",
                printable(&why)
            );
            i32::from(options.force)
        }
    }
}

fn usage(reason: Option<&str>, streams: &mut Streams<'_>) -> i32 {
    if let Some(reason) = reason {
        let _ = writeln!(streams.err, "{reason}");
    }
    let _ = streams.err.write_all(USAGE.as_bytes());
    1
}

fn fail(error: &DecodeError, streams: &mut Streams<'_>) -> i32 {
    let _ = writeln!(streams.err, "{error}");
    1
}

/// The token by the rules of this command: the first applicable source decides, even if it holds nothing.
fn find(
    file: Option<&OsStr>,
    environment: &Environment,
    streams: &mut Streams<'_>,
) -> Result<(Zeroizing<String>, Source), DecodeError> {
    if let Some(name) = file {
        if name == "-" {
            let token =
                first_line(&mut *streams.input).map_err(|reason| DecodeError::Unreadable {
                    from: "standard input".into(),
                    reason,
                })?;
            return filled(token, Source::Stdin);
        }
        return from_file(&environment.absolute(Path::new(name)), Path::new(name));
    }
    if let Some(value) = environment
        .var_os("BEARER_TOKEN")
        .filter(|value| !value.is_empty())
    {
        let token =
            first_line(&mut value.as_bytes()).map_err(|reason| DecodeError::Unreadable {
                from: "$BEARER_TOKEN".into(),
                reason,
            })?;
        return filled(token, Source::Variable);
    }
    if let Some(name) = environment
        .var_os("BEARER_TOKEN_FILE")
        .filter(|name| !name.is_empty())
    {
        return from_file(&environment.absolute(Path::new(name)), Path::new(name));
    }
    let name = format!("bt_u{}", environment.euid);
    let shared = environment.tmp.join(&name);
    let Some(runtime) = environment
        .var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
    else {
        return from_file(&shared, &shared);
    };
    let private = environment.absolute(Path::new(runtime)).join(&name);
    // The default places fall through as in token discovery, but only to a file that nobody else can have put there.
    let own = |path: &Path| {
        path.symlink_metadata()
            .is_ok_and(|meta| meta.is_file() && meta.uid() == environment.euid)
    };
    if !private.exists() && own(&shared) {
        return from_file(&shared, &shared);
    }
    from_file(&private, &private)
}

fn from_file(path: &Path, shown: &Path) -> Result<(Zeroizing<String>, Source), DecodeError> {
    let unreadable = |reason: io::Error| match reason.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => DecodeError::NotFound(shown.to_owned()),
        _ => DecodeError::Unreadable {
            from: shown.display().to_string(),
            reason,
        },
    };
    let token = File::open(path)
        .and_then(|mut file| first_line(&mut file))
        .map_err(unreadable)?;
    filled(token, Source::File(shown.to_owned()))
}

fn filled(
    token: Zeroizing<String>,
    source: Source,
) -> Result<(Zeroizing<String>, Source), DecodeError> {
    if token.is_empty() {
        Err(DecodeError::Empty)
    } else {
        Ok((token, source))
    }
}

/// The first line without the blanks around it; a final newline may be missing.
fn first_line(input: &mut dyn Read) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(16 * 1024));
    let mut chunk = Zeroizing::new([0_u8; 4096]);
    let mut limited = input.take(MAX_LINE);
    loop {
        let count = match limited.read(&mut chunk[..]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let read = &chunk[..count];
        if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&read[..end]);
            break;
        }
        line.extend_from_slice(read);
    }
    Ok(Zeroizing::new(
        String::from_utf8_lossy(line.trim_ascii()).into_owned(),
    ))
}

/// The claims of `token`, unverified, for programs that only need to know its times.
///
/// # Errors
/// [`DecodeError::NotJwt`] for any other kind of token.
pub fn claims(token: &str) -> Result<serde_json::Map<String, serde_json::Value>, DecodeError> {
    let (_, payload) = parts(token)?;
    let bytes =
        Zeroizing::new(decode(payload).ok_or(DecodeError::NotJwt("its parts are not base64url"))?);
    serde_json::from_slice(&bytes)
        .map_err(|_| DecodeError::NotJwt("its payload is not a JSON object"))
}

/// The moment that a numeric claim stands for, in seconds since 1970, fractions cut off.
pub fn moment(claim: &serde_json::Value) -> Option<i64> {
    date::seconds(&claim.as_number()?.to_string())
}

/// Header and payload of a compact JWS, still encoded; the signature may be missing.
fn parts(token: &str) -> Result<(&str, &str), DecodeError> {
    let parts: Vec<&str> = token.split('.').collect();
    match parts.as_slice() {
        [header, payload] | [header, payload, _] => Ok((header, payload)),
        [_, _, _, _, _] => Err(DecodeError::NotJwt("it is encrypted (five parts)")),
        _ => Err(DecodeError::NotJwt(
            "it does not consist of three parts joined by dots",
        )),
    }
}

fn show(token: &str, options: &Options, environment: &Environment) -> Result<String, DecodeError> {
    let (header, payload) = parts(token)?;
    let zone = date::zone(environment);
    let human = |number: &str| date::shown(number, &zone);
    let layout = Layout {
        colour: environment.terminals.stdout && environment.var("NO_COLOR").is_none(),
        times: options.human.then_some(&human as ShowTime<'_>),
    };
    let lay_out = |part: &'static str, text: &str| {
        let bytes =
            Zeroizing::new(decode(text).ok_or(DecodeError::NotJwt("its parts are not base64url"))?);
        layout
            .of(&bytes)
            .map_err(|reason| DecodeError::Part { part, reason })
    };
    let mut text = if options.header {
        lay_out("header", header)?
    } else {
        String::new()
    };
    text.push_str(&lay_out("payload", payload)?);
    Ok(text)
}

/// Base64 in either alphabet, padded or not: this command shows tokens, it does not judge them.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(&base64::alphabet::URL_SAFE, config);
    engine.decode(text.replace('+', "-").replace('/', "_")).ok()
}

#[cfg(test)]
mod tests;
