//! The command line of `gridkeep` itself: the server, its configuration, and its operators. The commands of the htgettoken family
//! have a command line of their own, which is that of the originals.

mod operate;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use operate::{OperatorCommand, operate};

use crate::audit;
use crate::config::{self, Surroundings};
use crate::server::inventory::StatusAnswer;
use crate::server::operator::{self, Order};
use crate::server::{self, hardening};
use crate::store_command::{self, StoreCommand};
use crate::{doctor, report};

const CLIENT_HELP: &str = "Commands for users, with a --help of their own:
  get       Get a bearer token (htgettoken)
  sh        Run a command with a bearer token that is kept fresh (httokensh)
  decode    Show what a token says (htdecodetoken, httokendecode)
  destroy   Remove tokens (htdestroytoken)
  explain   Say which token would be used, from where, and how long it lives
  verify    Verify a token and say why it is refused
  mine      Show and revoke the credentials and vault tokens that the server keeps for you
  ssh-keys  List, end or remove the ssh keys you can log in with";

#[derive(Debug, Parser)]
#[command(name = "gridkeep", version, about = "Keeps the long-lived credentials of grid users and hands out short-lived bearer tokens", after_help = CLIENT_HELP)]
struct CommandLine {
    #[command(flatten)]
    logs: LogArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Args)]
struct LogArguments {
    /// Form of the log on standard error: human or json
    #[arg(long, global = true, value_name = "FORM", default_value = "human")]
    log_format: gridkeep_telemetry::Format,
    /// Which log lines: a level, or items like gridkeep_keeper=debug separated by commas. Default: info for the server, off for
    /// everything else
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<gridkeep_telemetry::Filter>,
}

impl LogArguments {
    /// How to log, where `unless_told` is the filter.
    fn options(self, unless_told: gridkeep_telemetry::Filter) -> gridkeep_telemetry::Options {
        gridkeep_telemetry::Options {
            format: self.log_format,
            filter: self.log.unwrap_or(unless_told),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Server(ServerArguments),
    /// Look at configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Look at audit logs
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Do something with a store while no server uses it
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Say how the server on this host is, what it keeps for whom and how long, and what is failing and why
    ///
    /// Exit code 0: all is well, 1: the server cannot be asked, 3: something needs attention.
    Status {
        #[command(flatten)]
        files: Files,
        /// Report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at everything a server needs on this host, and say for each finding what helps
    ///
    /// DNS, certificate, keytabs, issuers, clock, store, root key and ports. Changes nothing; works without a running server
    /// too. Exit code 0: nothing is bad, 1: something is.
    Doctor {
        #[command(flatten)]
        files: Files,
        /// Report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Look at the nodes that share a store
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Speak to the server on this host as its operator
    Operator {
        #[command(subcommand)]
        command: OperatorCommand,
    },
}

#[derive(Debug, Args)]
struct Files {
    /// A configuration file or a config.d directory; can be repeated. Default: /etc/gridkeep/config.d, else
    /// /etc/htvault-config/config.d
    #[arg(long = "config", value_name = "PATH")]
    config: Vec<PathBuf>,
}

impl Files {
    fn paths(&self) -> Vec<PathBuf> {
        if self.config.is_empty() {
            config::default_paths(Path::new("/etc"))
        } else {
            self.config.clone()
        }
    }
}

#[derive(Debug, Args)]
struct ServerArguments {
    #[command(flatten)]
    files: Files,
    /// Refuse to start while the configuration has errors or warnings
    #[arg(long)]
    strict: bool,
    /// Make a new, empty store for a root key that exists already, as one from the service manager does; for the first
    /// start only
    #[arg(long)]
    initialise: bool,
    /// Sockets of the server that was sealed in this process; only the server itself says so
    #[arg(long, hide = true)]
    sealed_ports: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say everything that is wrong or doubtful in the files
    Check {
        #[command(flatten)]
        files: Files,
        /// Count warnings as errors
        #[arg(long)]
        strict: bool,
    },
    /// Show the configuration that results from the files, secrets masked, with the origin of each value; on a node of a cluster what
    /// its server has in force
    Show {
        #[command(flatten)]
        files: Files,
        /// What is in effect after merging. There is nothing else to show, so this may be left out
        #[arg(long)]
        effective: bool,
    },
    /// Make the files of this node the configuration of all nodes of the cluster
    Publish {
        #[command(flatten)]
        files: Files,
    },
    /// Say what would change, and for whom, if the files were loaded now
    Diff {
        #[command(flatten)]
        files: Files,
        /// Compare with these files instead of with the running server; can be repeated
        #[arg(long, value_name = "PATH")]
        from: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Say how each node is doing, as the server on this host sees it; exit code 1 when one wants attention
    Status {
        #[command(flatten)]
        files: Files,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Say whether lines were removed, changed, inserted or put in another order, in files of this server or its cluster
    ///
    /// What is needed for it comes from the running server; when none runs, from its data and root key.
    Verify {
        #[command(flatten)]
        files: Files,
        /// The newest files are left out on purpose: do not ask for the last lines
        #[arg(long)]
        older: bool,
        /// Take the root key from this file and not from where the configuration says
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
        /// Audit logs, also rotated and compressed ones, in any order; without any, the configured log and what rotation made of it
        #[arg(value_name = "FILE")]
        logs: Vec<PathBuf>,
    },
}

/// Runs the command line `words`, program name included.
pub fn run(words: Vec<OsString>) -> ExitCode {
    // Before any file is read: most of what is done here has keys or client secrets in its memory.
    let not_closed_off = hardening::close_off();
    let line = match CommandLine::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => {
            // Help and version are asked for; everything else is a usage error. Clap prints each where it belongs.
            let code = if error.use_stderr() { 2 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let code = perform(line.command, line.logs, not_closed_off, &mut out, &mut err);
    let _ = out.flush();
    code
}

/// Runs the server, which starts telemetry itself: where it goes stands in the files.
fn serve(arguments: ServerArguments, logs: LogArguments, not_closed_off: Vec<String>) -> ExitCode {
    match server::run(&server::Options {
        paths: arguments.files.paths(),
        strict: arguments.strict,
        initialise: arguments.initialise,
        sealed_ports: arguments.sealed_ports,
        not_closed_off,
        logs: logs.options(gridkeep_telemetry::Filter::default()),
    }) {
        Ok(()) => ExitCode::SUCCESS,
        // What it was stands in the log.
        Err(_) => ExitCode::FAILURE,
    }
}

fn perform(
    command: Command,
    logs: LogArguments,
    not_closed_off: Vec<String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    if !matches!(command, Command::Server(_)) {
        let settings = gridkeep_telemetry::Settings {
            logs: logs.clone().options(gridkeep_telemetry::Filter::off()),
            ..gridkeep_telemetry::Settings::default()
        };
        if let Err(error) = gridkeep_telemetry::start(settings) {
            return said(err, &error, 1);
        }
        for trouble in &not_closed_off {
            tracing::warn!("{trouble}");
        }
    }
    match command {
        Command::Server(arguments) => serve(arguments, logs, not_closed_off),
        Command::Config { command } => match configuration(command, out, err) {
            Ok(code) => ExitCode::from(code),
            Err(error) => said(err, &format!("{error:#}"), 1),
        },
        Command::Audit { command } => match look_at_audit(command, out) {
            Ok(code) => ExitCode::from(code),
            Err(error) => said(err, &format!("{error:#}"), 2),
        },
        Command::Store { command } => match store_command::perform(command, out) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => said(err, &format!("{error:#}"), 1),
        },
        Command::Status { files, json } => match tell_status(&files, json, out) {
            Ok(code) => ExitCode::from(code),
            Err(error) => said(err, &format!("{error:#}"), 1),
        },
        Command::Doctor { files, json } => match doctor::run(&files.paths(), json, out) {
            Ok(code) => ExitCode::from(code),
            Err(error) => said(err, &format!("{error:#}"), 1),
        },
        Command::Cluster {
            command: ClusterCommand::Status { files, json },
        } => match cluster_status(&files, json, out) {
            Ok(code) => ExitCode::from(code),
            Err(error) => said(err, &format!("{error:#}"), 2),
        },
        Command::Operator { command } => match operate(command, out) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => said(err, &format!("{error:#}"), 1),
        },
    }
}

fn said(err: &mut dyn Write, text: &str, code: u8) -> ExitCode {
    // Nobody is left to hear of a standard error that cannot be written.
    let _ = writeln!(err, "gridkeep: {text}");
    ExitCode::from(code)
}

fn configuration(
    command: ConfigCommand,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> anyhow::Result<u8> {
    let host = Surroundings::of_this_host();
    Ok(match command {
        ConfigCommand::Check { files, strict } => {
            config::commands::check(&config::load(&files.paths(), &host), strict, out)?
        }
        ConfigCommand::Show {
            files,
            effective: _,
        } => show(&config::load(&files.paths(), &host), out, err)?,
        ConfigCommand::Publish { files } => {
            let answer = operator::ask(&run_directory(&files)?, &Order::PublishConfig)?;
            writeln!(out, "{answer}")?;
            0
        }
        ConfigCommand::Diff { files, from } if from.is_empty() => {
            let answer = operator::ask(&run_directory(&files)?, &Order::Diff)?;
            let answer: operator::DiffAnswer = serde_json::from_str(&answer)?;
            out.write_all(answer.text.as_bytes())?;
            answer.code
        }
        ConfigCommand::Diff { files, from } => {
            let old = config::load(&from, &host);
            let Some(old) = old.config else {
                config::commands::check(&old, false, err)?;
                anyhow::bail!(
                    "the files given with --from cannot be used, so there is nothing to compare with; correct them, or leave --from out to compare with the running server"
                );
            };
            config::commands::show_diff(
                &old,
                &config::load(&files.paths(), &host),
                &|_| None,
                out,
                err,
            )?
        }
    })
}

/// What is in effect on a node of a cluster is known to its server; without one, that the files are not all is said.
fn show(loaded: &config::Loaded, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<u8> {
    let own = loaded.config.as_ref().map(|config| &config.gridkeep);
    let Some(own) = own.filter(|own| own.etcd.is_some()) else {
        return Ok(config::commands::show(loaded, out, err)?);
    };
    let why = match operator::ask(&own.run_directory.value, &Order::ShowConfig) {
        Ok(shown) => {
            out.write_all(shown.as_bytes())?;
            return Ok(0);
        }
        Err(error) => error,
    };
    writeln!(
        out,
        "# These are the files of this node alone. What all nodes share is in the store, and is known to the server, which was not asked: {why:#}"
    )?;
    Ok(config::commands::show(loaded, out, err)?)
}

fn look_at_audit(command: AuditCommand, out: &mut dyn Write) -> anyhow::Result<u8> {
    let AuditCommand::Verify {
        files,
        older,
        root_key,
        logs,
    } = command;
    let loaded = config::load(&files.paths(), &Surroundings::of_this_host());
    let Some(config) = &loaded.config else {
        anyhow::bail!(
            "the configuration cannot be read, so it is not known where the server and its data are; look at gridkeep config check, or give the server's files with --config"
        );
    };
    let logs = if logs.is_empty() {
        audit::logs_of(config.audit_log())?
    } else {
        logs
    };
    let directory = &config.gridkeep.run_directory.value;
    let evidence = if root_key.is_none() && operator::answers(directory) {
        let answer = operator::ask(directory, &Order::AuditEvidence)?;
        serde_json::from_str::<audit::EvidenceAnswer>(&answer)?.into_evidence()?
    } else {
        server::offline_evidence(&loaded, root_key.as_deref())?
    };
    audit::verify(&logs, older, &evidence, out)
}

fn cluster_status(files: &Files, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let answer = operator::ask(&run_directory(files)?, &Order::ClusterStatus)?;
    let answer: server::cluster::StatusAnswer = serde_json::from_str(&answer)?;
    if json {
        writeln!(out, "{}", answer.json)?;
    } else {
        out.write_all(answer.text.as_bytes())?;
    }
    Ok(u8::from(answer.attention))
}

/// Tells the state of the server; the answer is the exit code.
fn tell_status(files: &Files, json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    const NEEDS_ATTENTION: u8 = 3;
    let answer = operator::ask(&run_directory(files)?, &Order::Status)?;
    let status: StatusAnswer = serde_json::from_str(&answer)?;
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
    } else {
        out.write_all(report::status(&status).as_bytes())?;
    }
    Ok(if status.needs_attention() {
        NEEDS_ATTENTION
    } else {
        0
    })
}

/// Where the server of these files has its socket.
fn run_directory(files: &Files) -> anyhow::Result<PathBuf> {
    let loaded = config::load(&files.paths(), &Surroundings::of_this_host());
    match loaded.config {
        Some(config) => Ok(config.gridkeep.run_directory.value),
        None => anyhow::bail!(
            "the configuration cannot be read, so it is not known where the server's socket is; look at gridkeep config check, or give the server's files with --config"
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
