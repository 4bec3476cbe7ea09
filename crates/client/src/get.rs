//! `htgettoken`: obtains a bearer token from a Vault-like server and stores it in a file.
//!
//! Owns one run from the command line to the exit code. The order of the ways to a token is in `flow`, the login in a browser in
//! `oidc`, the one with the ssh-agent in `ssh`, every default in [`settings`]. A further way to log in is one more file here and one arm in `flow`.

mod browser;
mod flow;
mod kerberos;
mod oidc;
mod optserver;
mod places;
mod report;
pub mod settings;
mod ssh;

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Instant;

use zeroize::Zeroizing;

use crate::environment::{Environment, Streams};
use crate::http::{Client, Target};
use crate::options::{self, COMPATIBLE_VERSION, Options, Parsed, UsageError};
use crate::vault::Vault;
use flow::{Run, Stop};
use report::Report;
use settings::{Settings, SettingsError};

/// What was asked for has been done.
pub const OK: i32 = 0;
/// Any failure after the command line was understood.
pub const FAILED: i32 = 1;
/// The command line is wrong.
pub const USAGE: i32 = 2;

/// Runs `htgettoken` with `args` (without the program's name) and answers its exit code.
///
/// Blocks, and starts an asynchronous runtime of its own: from asynchronous code, call it on a blocking thread.
#[must_use]
pub fn run(args: &[OsString], environment: &Environment, streams: &mut Streams<'_>) -> i32 {
    let words = match options::words(args, environment) {
        Ok(words) => words,
        Err(error) => return wrong_usage(&error, streams),
    };
    run_words(&words, environment, streams)
}

/// The same for words that are complete: `HTGETTOKENOPTS` is not looked at.
#[must_use]
pub fn run_words(words: &[String], environment: &Environment, streams: &mut Streams<'_>) -> i32 {
    let options = match options::parse(words) {
        Ok(Parsed::Run(options)) => options,
        Ok(other) => return print(&other, streams),
        Err(error) => return wrong_usage(&error, streams),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(streams.err, "htgettoken: cannot start: {error}");
            return FAILED;
        }
    };
    let begun = Instant::now();
    let code = runtime.block_on(async {
        match options
            .optserver
            .as_deref()
            .filter(|server| !server.is_empty())
        {
            None => run_options(&options, environment, streams, begun).await,
            Some(server) => match optserver::words(server, &options, environment).await {
                Err(error) => {
                    // The voice of the first options; the log goes to standard error until all are known.
                    Report::new(streams, &options, true).fatal(error.text);
                    error.code
                }
                Ok(mut all) => {
                    all.extend_from_slice(words);
                    match options::parse(&all) {
                        Ok(Parsed::Run(options)) => {
                            run_options(&options, environment, streams, begun).await
                        }
                        Ok(other) => print(&other, streams),
                        Err(error) => wrong_usage(&error, streams),
                    }
                }
            },
        }
    });
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    code
}

fn print(parsed: &Parsed, streams: &mut Streams<'_>) -> i32 {
    let text = match parsed {
        Parsed::Version => format!("{COMPATIBLE_VERSION}\n"),
        Parsed::Help | Parsed::Run(_) => options::help(),
    };
    match write_all(streams.out, text.as_bytes()) {
        Ok(()) => OK,
        Err(_) => FAILED,
    }
}

fn wrong_usage(error: &UsageError, streams: &mut Streams<'_>) -> i32 {
    let _ = error.write(streams.err);
    let _ = streams.err.flush();
    USAGE
}

async fn run_options(
    options: &Options,
    environment: &Environment,
    streams: &mut Streams<'_>,
    begun: Instant,
) -> i32 {
    let settings = match Settings::new(options, environment) {
        Ok(settings) => settings,
        Err(SettingsError::Usage(error)) => return wrong_usage(&error, streams),
        Err(SettingsError::Fatal(text)) => {
            let to_stderr = options.showbearerurl;
            Report::new(streams, options, to_stderr).fatal(text);
            return FAILED;
        }
    };
    let mut report = Report::new(streams, options, settings.log_to_stderr);
    let target = Target {
        server: settings.server.clone(),
        alias: Some(settings.alias.clone()),
        certificate_name: settings.certificate_name.clone(),
        trust: settings.trust.clone(),
    };
    let client = match Client::new(target, environment) {
        Ok(client) => client,
        Err(error) => {
            report.fatal(error);
            return FAILED;
        }
    };
    let mut run = Run::new(options, environment, settings, Vault::new(client), report);
    let stop = run.go(begun).await;
    let data = match stop {
        Stop::Done => Ok(run.data_lines()),
        Stop::Fatal(text) => Err(text),
        Stop::NobodyReads => return FAILED,
    };
    match data {
        Ok(lines) => match write_lines(run.report.streams.out, &lines) {
            Ok(()) => OK,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => FAILED,
            Err(error) => {
                run.report
                    .fatal(format_args!("cannot write to standard output: {error}"));
                FAILED
            }
        },
        Err(text) => {
            run.report.fatal(text);
            FAILED
        }
    }
}

/// One write for each line, because callers count and pair them.
fn write_lines(out: &mut dyn Write, lines: &[Zeroizing<String>]) -> io::Result<()> {
    lines
        .iter()
        .try_for_each(|line| write_all(out, line.as_bytes()))
}

fn write_all(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

#[cfg(test)]
mod tests;
