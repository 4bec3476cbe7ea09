//! One run of a program, from outside.
//!
//! A small process of its own does this, because the kernel carries the greatest resident memory of whoever starts a program over
//! into the program's own account: started from a Python interpreter, nothing would ever seem smaller than that interpreter.

use std::ffi::OsString;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::{Value, json};

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Runs it with nothing on standard input and output, and tells what it took.
pub fn run(options: &Options) -> anyhow::Result<Value> {
    let (program, arguments) = options
        .words
        .split_first()
        .context("no program was named")?;
    let begun = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| program.to_string_lossy().into_owned())?;
    let status = child.wait()?;
    let wall = begun.elapsed();
    let used = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let own = std::fs::read_to_string("/proc/self/status")?;
    let floor: u64 = own
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .context("the kernel does not tell this process's memory")?;
    Ok(json!({
        "code": status.code(),
        "wall_us": u64::try_from(wall.as_micros())?,
        "cpu_us": used.user_time().num_microseconds() + used.system_time().num_microseconds(),
        "max_rss_kib": used.max_rss(),
        // Smaller than this nothing can be seen to be.
        "floor_rss_kib": floor,
    }))
}
