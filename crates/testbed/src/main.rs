//! The program `gridkeep-testbed`: a subcommand for each part of the test bed. Arguments and behaviour of each are in its module.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gridkeep_testbed::demo::{self, DemoArgs};
use gridkeep_testbed::issuer::command::{self as issuer, IssuerArgs};

/// Test bed of gridkeep.
#[derive(Parser)]
#[command(name = "gridkeep-testbed", version)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// An issuer, a server and a first token on this machine, step by step.
    Demo(DemoArgs),
    /// A token issuer for tests.
    Issuer(IssuerArgs),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.part {
        Part::Demo(args) => demo::run(args, &mut std::io::stdout()),
        Part::Issuer(args) => issuer::run(args, &mut std::io::stdout()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "gridkeep-testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
