//! The demonstration: an issuer, a server and a first token on this machine, told step by step in plain words.
//!
//! Owned here: what is shown, in which order, and that nothing stays behind. It knows the programs by their command lines only: the
//! real `gridkeep` is run as a process for everything, as a person would. The steps with an issuer of the demo's own are in
//! `own`, those with an operator's files in `operator`; a third way would be a file beside them and an arm in [`run`].

mod certificates;
mod child;
mod facts;
mod failure;
mod operator;
mod own;
mod place;
mod ports;
mod server;
mod tell;

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};

use crate::issuer::TestIssuer;
use child::Program;
use place::Place;
use ports::Ports;
use server::Server;
use tell::Tell;

pub use failure::Failure;

/// Arguments of `gridkeep-testbed demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// End after the verified token instead of going on.
    #[arg(long)]
    once: bool,
    /// Use an operator's own configuration (a file, a config.d directory or the directory above it) and its real issuer; a person
    /// logs in.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Which issuer of the configuration; without it, the first that works with a device code.
    #[arg(long, value_name = "NAME", requires = "config")]
    issuer: Option<String>,
    /// Which role of that issuer; without it `default`, else the first.
    #[arg(long, value_name = "NAME", requires = "config")]
    role: Option<String>,
    /// The program to show; without it, the `gridkeep` beside this program.
    #[arg(long, value_name = "PATH")]
    gridkeep: Option<PathBuf>,
}

/// What the demo has started and made, so that it can be ended whatever happened.
struct Stage {
    place: Place,
    program: Program,
    issuer: Option<TestIssuer>,
    server: Option<Server>,
    ports: Ports,
    /// The words that name the server's configuration.
    files: Vec<String>,
}

impl Stage {
    /// Ends everything and removes the directory.
    async fn close(self) -> Result<(), Failure> {
        if let Some(server) = self.server {
            server.stop().await;
        }
        if let Some(issuer) = self.issuer {
            issuer.stop().await;
        }
        self.place.remove().await
    }
}

/// Runs the demonstration: to its end with `--once`, else until SIGINT, SIGTERM or SIGHUP.
///
/// # Errors
/// [`Failure`]: the step that did not work, what that means and what to do. Everything is ended and removed before.
pub fn run(args: &DemoArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let program = Program::find(args.gridkeep.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(perform(args, program, &mut Tell::new(out)))?;
    Ok(())
}

async fn perform(args: &DemoArgs, program: Program, tell: &mut Tell<'_>) -> Result<(), Failure> {
    let ending = ending()?;
    tokio::pin!(ending);
    let mut stage = Stage {
        place: Place::make()?,
        program,
        issuer: None,
        server: None,
        ports: Ports::choose()?,
        files: Vec::new(),
    };
    let steps = async {
        match &args.config {
            None => own::steps(&mut stage, args.once, tell).await,
            Some(path) => {
                let choice = operator::Choice {
                    path,
                    issuer: args.issuer.as_deref(),
                    role: args.role.as_deref(),
                };
                operator::steps(&mut stage, &choice, args.once, tell).await
            }
        }
    };
    let mut outcome = tokio::select! {
        outcome = steps => outcome,
        signal = &mut ending => Err(Failure::Interrupted { signal }),
    };
    if outcome.is_ok() && !args.once {
        outcome = match &mut stage.server {
            Some(server) => tokio::select! {
                failure = server.ended() => Err(failure),
                _ = &mut ending => Ok(()),
            },
            None => Ok(()),
        };
    }
    let directory = stage.place.root().to_owned();
    let closed = stage.close().await;
    if let (Err(_), Err(left)) = (&outcome, &closed) {
        // The first failure is the answer; what it leaves behind must be known all the same.
        tell.note(left)?;
    }
    outcome.and(closed)?;
    tell.step(format_args!(
        "Everything is stopped, and {} is removed.",
        directory.display()
    ))
}

/// Completes with the name of the first signal that asks the demo to end. They are caught from the call on.
fn ending() -> Result<impl Future<Output = &'static str>, Failure> {
    let catch = |kind| signal(kind).map_err(|source| Failure::Signals { source });
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut terminate = catch(SignalKind::terminate())?;
    let mut hangup = catch(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "Ctrl-C",
            _ = terminate.recv() => "SIGTERM",
            _ = hangup.recv() => "SIGHUP",
        }
    })
}
