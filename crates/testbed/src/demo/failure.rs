//! How the demo fails. Owns the words; each says what happened, what that means, and what to do.

use std::io;
use std::path::PathBuf;

use crate::issuer::{BrowserError, StartError};

/// Why the demo ended early. Everything it had started is ended and removed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say what each is
pub enum Failure {
    #[error(
        "there is no program {path}.\nThe demo shows the real gridkeep and cannot do without it.\nBuild it with `make demo`, or say where it is with --gridkeep PATH.",
        path = path.display()
    )]
    NoProgram { path: PathBuf },
    #[error(
        "signals cannot be caught: {source}.\nThe demo could not clean up behind itself, so it does not begin.\nTry again where programs may install signal handlers."
    )]
    Signals { source: io::Error },
    #[error(
        "{what} failed at {path}: {source}.\nThe demo keeps everything in one directory below the temporary directory.\nMake room or permission there, or set TMPDIR to another directory.",
        path = path.display()
    )]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "no free port of loopback is to be had: {source}.\nThe server needs one for clients and one for its metrics.\nTry again; if it stays, look at the limit of open files (ulimit -n)."
    )]
    Ports { source: io::Error },
    #[error(
        "what the demo says cannot be written: {0}.\nNobody would see the steps, so it ended.\nKeep its standard output open."
    )]
    Output(#[source] io::Error),
    #[error(
        "a certificate could not be made: {0}.\nThe server cannot run without one.\nThis is a fault of the demo; please report it."
    )]
    Certificate(#[from] rcgen::Error),
    #[error(
        "no random numbers are to be had.\nSecrets cannot be made without them.\nTry again; if it stays, the system's random device is at fault."
    )]
    Random,
    #[error(transparent)]
    Issuer(#[from] StartError),
    #[error(
        "the person's part of the login did not work: {0}\nThe issuer runs inside the demo, so the network is not at fault.\nThis is a fault of the demo; please report it."
    )]
    Person(#[from] BrowserError),
    #[error(
        "`{command}` could not be run: {source}.\nThe step could not be shown.\nCheck that the program may be executed and that processes can be started (ulimit -u)."
    )]
    Run { command: String, source: io::Error },
    #[error("`{command}` ended with {how}; its words are above.\n{means}\n{remedy}")]
    Step {
        command: String,
        how: String,
        means: &'static str,
        remedy: &'static str,
    },
    #[error(
        "`{command}` was not done after {seconds} s and was ended.\nSomething it waits for does not answer; its words so far are above.\nTry again on a less busy machine; with --config, check that the issuer can be reached from here."
    )]
    TooLong { command: String, seconds: u64 },
    #[error(
        "the server {how}.\nNo token can be had without it. Its last words:\n{log}\nCorrect what they name; they are in the words of `gridkeep server`."
    )]
    Server { how: String, log: String },
    #[error(
        "what `{command}` printed is not understood: {reason}.\nProgram and demo are probably of different versions.\nBuild both with `make demo`."
    )]
    Words { command: String, reason: String },
    #[error(
        "{what}\nThe demo promises otherwise, so this is a fault of gridkeep or of the demo.\nPlease report it with the text above."
    )]
    Promise { what: String },
    #[error("{what}\n{means}\n{remedy}")]
    Configuration {
        what: String,
        means: &'static str,
        remedy: String,
    },
    #[error(
        "ended by {signal} before the last step.\nWhat ran was stopped and the demo's directory removed.\nStart it again to see the rest."
    )]
    Interrupted { signal: &'static str },
}
