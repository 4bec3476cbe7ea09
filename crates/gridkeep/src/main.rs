//! The gridkeep program: one binary that answers to many names.
//!
//! Owns the command line and the assembling of the other crates; holds no rules. The name it is called by is looked at before
//! anything else is set up, so that a client starts as fast as it can. Another name is one line in [`client_command`].

mod audit;
mod command_line;
mod config;
mod doctor;
mod keys;
mod report;
mod server;
mod store_command;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use gridkeep_client::{Environment, Streams};

/// A command that runs on a user's machine.
type ClientCommand = fn(&[OsString], &Environment, &mut Streams<'_>) -> i32;

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let called = words
        .first()
        .map(|word| Path::new(word).file_name().unwrap_or_default().to_owned())
        .unwrap_or_default();
    if let Some(command) = client_command(&called) {
        return run_client(command, words.get(1..).unwrap_or_default());
    }
    if let Some(command) = words.get(1).and_then(|word| subcommand(word)) {
        return run_client(command, words.get(2..).unwrap_or_default());
    }
    if words.is_empty() {
        words.push("gridkeep".into());
    }
    command_line::run(words)
}

/// The names of the htgettoken family.
fn client_command(name: &OsStr) -> Option<ClientCommand> {
    Some(match name.to_str()? {
        "htgettoken" => gridkeep_client::get::run,
        "httokensh" => gridkeep_client::sh::run,
        "htdecodetoken" | "httokendecode" => gridkeep_client::decode::run,
        "htdestroytoken" => gridkeep_client::destroy::run,
        _ => return None,
    })
}

/// The same as words behind `gridkeep`, and what only gridkeep has.
fn subcommand(word: &OsStr) -> Option<ClientCommand> {
    Some(match word.to_str()? {
        "get" => gridkeep_client::get::run,
        "sh" => gridkeep_client::sh::run,
        "decode" => gridkeep_client::decode::run,
        "destroy" => gridkeep_client::destroy::run,
        "explain" => gridkeep_client::explain::run,
        "verify" => gridkeep_client::verify::run,
        "mine" => gridkeep_client::mine::run,
        "ssh-keys" => gridkeep_client::ssh_keys::run,
        _ => return None,
    })
}

fn run_client(command: ClientCommand, words: &[OsString]) -> ExitCode {
    let environment = Environment::current();
    let (mut input, mut out, mut err) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let code = command(
        words,
        &environment,
        &mut Streams {
            input: &mut input,
            out: &mut out,
            err: &mut err,
        },
    );
    // A reader that has gone away has all it wanted.
    let _ = out.flush();
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
