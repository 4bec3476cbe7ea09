//! Runs one command in a process group of its own, hands it the terminal, and stands in for it towards the outside: what stops,
//! continues or ends us does the same to the command. Knows nothing of tokens.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};
use std::cell::Cell;
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

/// How long to wait for the signal that continues us after we asked to be stopped; passes only where nobody could continue us
/// and the kernel therefore did not stop us.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// The command and everything it gets from us.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program, looked up in the `PATH` of `variables`, and its arguments.
    pub words: Vec<OsString>,
    /// Its whole environment.
    pub variables: Vec<(OsString, OsString)>,
}

/// Why the command did not run.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// No such program (shells report 127).
    #[error("{0}: command not found")]
    NotFound(String),
    /// The program exists and cannot be run (shells report 126).
    #[error("{program}: cannot be run: {reason}")]
    NotRunnable {
        /// The program's name as given.
        program: String,
        /// What the system said.
        reason: io::Error,
    },
    /// The signal handlers could not be installed, or the command could not be waited for.
    #[error("cannot supervise the command: {0}")]
    System(#[from] io::Error),
}

impl SuperviseError {
    /// The exit code that a shell would give.
    pub fn exit_code(&self) -> u8 {
        match self {
            SuperviseError::NotFound(_) => 127,
            SuperviseError::NotRunnable { .. } => 126,
            SuperviseError::System(_) => 1,
        }
    }
}

/// Runs `program` to its end with `background` beside it; returns its exit code, 128 + N when signal N ended it.
pub async fn supervise(
    program: &Program,
    background: impl Future<Output = Infallible>,
) -> Result<u8, SuperviseError> {
    let mut signals = Signals::listen()?;
    let mut command = Foreground::start(program)?;
    if command.lent.get()
        && let Some(signal) = signals.typed_too_early().await
    {
        command.pass_on(signal);
    }
    let mut background = pin!(background);
    let code = loop {
        tokio::select! {
            biased;
            _ = signals.child.recv() => if let Some(code) = command.look(&mut signals.proceed).await? { break code },
            _ = next(&mut signals.terminate) => command.pass_on(Signal::SIGTERM),
            _ = next(&mut signals.hangup) => command.pass_on(Signal::SIGHUP),
            _ = signals.proceed.recv() => command.proceed(),
            // Ctrl-C belongs to the command, which owns the terminal.
            _ = next(&mut signals.interrupt) => {}
            _ = next(&mut signals.quit) => {}
            never = &mut background => match never {},
        }
    };
    Ok(code)
}

/// Handlers, not "ignore": a handler is reset for the command when it starts, an ignored signal would stay ignored in it.
///
/// For the same reason a signal that was ignored when we started (`nohup`) gets no handler: the command shall go on ignoring it.
struct Signals {
    child: SignalStream,
    proceed: SignalStream,
    terminate: Option<SignalStream>,
    hangup: Option<SignalStream>,
    interrupt: Option<SignalStream>,
    quit: Option<SignalStream>,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        let ignored = ignored();
        let unless_ignored = |number: Signal| {
            let bit = 1_u64 << (number as i32 - 1);
            (ignored & bit == 0)
                .then(|| signal(SignalKind::from_raw(number as i32)))
                .transpose()
        };
        Ok(Signals {
            child: signal(SignalKind::child())?,
            proceed: signal(SignalKind::from_raw(Signal::SIGCONT as i32))?,
            terminate: unless_ignored(Signal::SIGTERM)?,
            hangup: unless_ignored(Signal::SIGHUP)?,
            interrupt: unless_ignored(Signal::SIGINT)?,
            quit: unless_ignored(Signal::SIGQUIT)?,
        })
    }

    /// Ctrl-C or Ctrl-\ from the moment between the start of the command and the hand-over of the terminal: it was meant for
    /// the command and reached us.
    async fn typed_too_early(&mut self) -> Option<Signal> {
        tokio::select! {
            biased;
            () = next(&mut self.interrupt) => Some(Signal::SIGINT),
            () = next(&mut self.quit) => Some(Signal::SIGQUIT),
            () = tokio::time::sleep(EARLY) => None,
        }
    }
}

/// How long a signal that was sent before the command owned the terminal may take to be noticed.
const EARLY: Duration = Duration::from_millis(1);

/// The signals that this process ignores, one bit each, lowest for signal 1. None where the system does not tell.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// The next signal of a stream; never, where there is none.
async fn next(stream: &mut Option<SignalStream>) {
    if let Some(stream) = stream
        && stream.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The running command. Dropping it takes the terminal back.
struct Foreground {
    group: Pid,
    terminal: Option<File>,
    lent: Cell<bool>,
}

impl Foreground {
    fn start(program: &Program) -> Result<Foreground, SuperviseError> {
        let (name, arguments) = program
            .words
            .split_first()
            .ok_or_else(|| SuperviseError::NotFound(String::new()))?;
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok();
        let child = std::process::Command::new(name)
            .args(arguments)
            .env_clear()
            .envs(program.variables.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .spawn()
            .map_err(|reason| {
                let program = name.to_string_lossy().into_owned();
                if reason.kind() == io::ErrorKind::NotFound {
                    SuperviseError::NotFound(program)
                } else {
                    SuperviseError::NotRunnable { program, reason }
                }
            })?;
        let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let running = Foreground {
            group,
            terminal,
            lent: Cell::new(false),
        };
        running.hand_over_terminal();
        Ok(running)
    }

    /// What happened to the command since the last look: its exit code when it ended.
    async fn look(&mut self, proceed: &mut SignalStream) -> io::Result<Option<u8>> {
        loop {
            match waitpid(
                self.group,
                Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED),
            ) {
                Ok(WaitStatus::Exited(_, code)) => {
                    return Ok(Some(u8::try_from(code & 0xff).unwrap_or(1)));
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    return Ok(Some(
                        128_u8.saturating_add(u8::try_from(signal as i32).unwrap_or(0)),
                    ));
                }
                Ok(WaitStatus::Stopped(_, signal)) => self.stopped(signal, proceed).await,
                Ok(_) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The command stopped: stop with it, and continue it when somebody continues us.
    async fn stopped(&self, by: Signal, proceed: &mut SignalStream) {
        let wants_terminal = matches!(by, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal && self.terminal_is_ours_to_give() {
            // It touched the terminal before it was handed over, or we were brought to the foreground since.
            self.proceed();
            return;
        }
        if self.terminal.is_none() {
            // Without a terminal there is no job control: whoever stopped the command continues it, and would not know of us.
            return;
        }
        self.take_terminal_back();
        // Our whole group, as the terminal would do it: a script that started us stops and continues with us.
        let with = if wants_terminal { by } else { Signal::SIGTSTP };
        let _ = killpg(getpgrp(), with);
        let _ = tokio::time::timeout(STOP_GRACE, proceed.recv()).await;
        self.proceed();
    }

    fn proceed(&self) {
        self.hand_over_terminal();
        let _ = killpg(self.group, Signal::SIGCONT);
    }

    /// Gives `signal` to the command, also when it is stopped.
    fn pass_on(&self, signal: Signal) {
        let _ = killpg(self.group, signal);
        let _ = killpg(self.group, Signal::SIGCONT);
    }

    fn terminal_is_ours_to_give(&self) -> bool {
        self.terminal
            .as_ref()
            .and_then(|terminal| tcgetpgrp(terminal).ok())
            .is_some_and(|owner| owner == getpgrp() || owner == self.group)
    }

    fn hand_over_terminal(&self) {
        if self.terminal_is_ours_to_give() {
            self.set_terminal_owner(self.group);
            self.lent.set(true);
        }
    }

    /// Takes back only what was lent: whatever group of the command's own making holds the terminal by now, and nobody else's.
    fn take_terminal_back(&self) {
        if self.lent.replace(false) {
            self.set_terminal_owner(getpgrp());
        }
    }

    fn set_terminal_owner(&self, owner: Pid) {
        let Some(terminal) = &self.terminal else {
            return;
        };
        // From the background this call would stop us with SIGTTOU unless that is blocked.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        if let Ok(before) = blocked.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK) {
            let _ = tcsetpgrp(terminal, owner);
            let _ = before.thread_set_mask();
        }
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        self.take_terminal_back();
    }
}
