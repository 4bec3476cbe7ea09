//! What the benchmarks need beyond Python: [`measure`] one run of a program, [`fill`] a store through the keeper's public
//! interface, set the [`store`] beside bare redb, and its [`engines`] beside each other.
//!
//! Owns no judgement: each command prints one JSON object, and `tests/bench/run.py` makes tables of them. Another measurement is
//! one module here and one variant of `Command`.

mod engines;
mod fill;
mod gather;
mod issuer;
mod measure;
mod store;

use std::io::Write as _;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures for tests/bench/run.py")]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a program once and prints its wall time, processor time and greatest resident memory
    Measure(measure::Options),
    /// Logs people in at an issuer inside this process, until the store, in files or in etcd, has as many as asked for
    Fill(fill::Options),
    /// Durable writes per second of the store and of bare redb, alternating
    Store(store::Options),
    /// Durable writes and reads of the store on the embedded engine and on etcd, alternating
    Engines(engines::Options),
}

fn main() -> anyhow::Result<()> {
    let found = match CommandLine::parse().command {
        Command::Measure(options) => measure::run(&options)?,
        Command::Fill(options) => fill::run(&options)?,
        Command::Store(options) => store::run(&options)?,
        Command::Engines(options) => engines::run(&options)?,
    };
    writeln!(std::io::stdout(), "{found}")?;
    Ok(())
}
