//! Running the program under show. Owns processes: their environment, which is explicit, their process group, which ends with
//! them, their deadline, and their words.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::failure::Failure;
use super::tell::{Tell, typed};

/// How long a command that waits for no person may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The program `gridkeep`.
pub(super) struct Program {
    path: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Program {
    /// The one at `given`, else the one beside this program.
    pub(super) fn find(given: Option<&Path>) -> Result<Self, Failure> {
        let path = match given {
            Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            None => std::env::current_exe()
                .unwrap_or_default()
                .with_file_name("gridkeep"),
        };
        if path.is_file() {
            Ok(Self {
                path,
                variables: Vec::new(),
            })
        } else {
            Err(Failure::NoProgram { path })
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it is run as `path`, which leads to it.
    pub(super) fn call_as(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Adds a variable to the environment that the program is given; it inherits nothing.
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value.into()));
    }

    /// The same for variables of the demo's own environment that are set.
    pub(super) fn pass_on(&mut self, names: &[&'static str]) {
        for name in names {
            if let Some(value) = std::env::var_os(name) {
                self.set(name, value);
            }
        }
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.variables
            .iter()
            .map(|(name, value)| (*name, value.as_os_str()))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(words)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts it in the background, its words going to the file `log`.
    pub(super) fn start_in_background(
        &self,
        words: &[&str],
        variable: (&str, &Path),
        log: std::fs::File,
    ) -> Result<Group, Failure> {
        let mut command = self.command(words);
        let failed = |source| run_failed(words, source);
        command.env(variable.0, variable.1);
        command.stderr(log.try_clone().map_err(failed)?).stdout(log);
        Group::start(&mut command).map_err(failed)
    }

    /// Starts it with a pipe for its words; `input` is its standard input.
    pub(super) fn start(&self, words: &[&str], input: Stdio) -> Result<Running, Failure> {
        let failed = |source| run_failed(words, source);
        let (reader, writer) = io::pipe().map_err(failed)?;
        let lines = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(failed)?;
        let mut command = self.command(words);
        command.stdin(input);
        command
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer);
        let group = Group::start(&mut command).map_err(failed)?;
        Ok(Running {
            command: typed(words),
            group,
            lines: BufReader::new(lines),
            text: String::new(),
        })
    }

    /// Shows and runs a command to its end, telling what it says.
    pub(super) async fn show(
        &self,
        words: &[&str],
        tell: &mut Tell<'_>,
    ) -> Result<Finished, Failure> {
        tell.command(typed(words))?;
        let running = self.start(words, Stdio::null())?;
        running.finish(Some(tell)).await
    }

    /// Runs a command to its end, unseen.
    pub(super) async fn ask(&self, words: &[&str]) -> Result<Finished, Failure> {
        self.start(words, Stdio::null())?.finish(None).await
    }

    /// Shows and runs a command that has the demo's own terminal, for as long as it takes.
    pub(super) async fn show_on_terminal(
        &self,
        words: &[&str],
        tell: &mut Tell<'_>,
    ) -> Result<Finished, Failure> {
        tell.command(typed(words))?;
        let mut command = self.command(words);
        command
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        // It stays in the demo's process group, because a terminal may stop others that write to it.
        let failed = |source| run_failed(words, source);
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let status = child.wait().await.map_err(failed)?;
        Ok(Finished {
            command: typed(words),
            text: String::new(),
            status,
        })
    }
}

fn run_failed(words: &[&str], source: io::Error) -> Failure {
    Failure::Run {
        command: typed(words),
        source,
    }
}

/// A process and the group it leads. Dropping it kills both.
pub(super) struct Group {
    child: Child,
    id: Option<Pid>,
}

impl Group {
    fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            id: id.map(Pid::from_raw),
            child,
        })
    }

    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        // From here on the number may belong to somebody else.
        self.id = None;
        Ok(status)
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id {
            // A group that is gone needs no signal.
            let _ = killpg(id, signal);
        }
    }

    /// Asks the group to end, and kills it when it does not within `patience`.
    pub(super) async fn end(mut self, patience: Duration) {
        self.signal(Signal::SIGTERM);
        if timeout(patience, self.wait()).await.is_err() {
            self.signal(Signal::SIGKILL);
            // Nothing survives SIGKILL, so there is no second way to try.
            let _ = self.wait().await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// A command under way.
pub(super) struct Running {
    command: String,
    group: Group,
    lines: BufReader<pipe::Receiver>,
    text: String,
}

impl Running {
    /// Its next line, standard output and standard error together; `None` when it has closed both.
    pub(super) async fn next_line(&mut self) -> Result<Option<String>, Failure> {
        let mut bytes = Vec::new();
        let read = self.lines.read_until(b'\n', &mut bytes).await;
        read.map_err(|source| Failure::Run {
            command: self.command.clone(),
            source,
        })?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&bytes)
            .trim_end_matches('\n')
            .to_owned();
        self.text.push_str(&line);
        self.text.push('\n');
        Ok(Some(line))
    }

    /// Waits for its end, telling what it says meanwhile.
    pub(super) async fn finish(
        mut self,
        mut tell: Option<&mut Tell<'_>>,
    ) -> Result<Finished, Failure> {
        let rest = async {
            while let Some(line) = self.next_line().await? {
                if let Some(tell) = &mut tell {
                    tell.output(line)?;
                }
            }
            let ended = self.group.wait().await;
            ended.map_err(|source| Failure::Run {
                command: self.command.clone(),
                source,
            })
        };
        match timeout(LIMIT, rest).await {
            Ok(status) => Ok(Finished {
                status: status?,
                command: self.command,
                text: self.text,
            }),
            Err(_) => Err(Failure::TooLong {
                command: self.command,
                seconds: LIMIT.as_secs(),
            }),
        }
    }
}

/// A command that has ended.
pub(super) struct Finished {
    pub(super) command: String,
    pub(super) text: String,
    pub(super) status: ExitStatus,
}

impl Finished {
    /// What it said, if it went well; else a failure that says what this means and what to do.
    pub(super) fn well(self, means: &'static str, remedy: &'static str) -> Result<String, Failure> {
        if self.status.success() {
            return Ok(self.text);
        }
        Err(Failure::Step {
            command: self.command,
            how: self.status.to_string(),
            means,
            remedy,
        })
    }
}
