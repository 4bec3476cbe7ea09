//! httokensh: gets tokens, runs a command, keeps the bearer token fresh while the command runs, and cleans up.
//!
//! Owns the order of these steps and what the user is told. What a session consists of is in `session`, when to renew in
//! `schedule`, doing it in `renew`, running the command in `supervise`. How a token is fetched is given to it ([`Get`]); it refuses to
//! know. A further thing to do while the command runs belongs beside `renew`.

mod log;
mod renew;
mod schedule;
mod session;
mod supervise;

pub use renew::{Fetch, Renewer};
pub use schedule::{Life, Renewal, pause_after};
pub use session::{Session, SessionError, canonical};
pub use supervise::{Program, SuperviseError, supervise};

use crate::decode::claims;
use crate::environment::{Environment, Streams};
use gridkeep_token::time::UnixSeconds;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

const USAGE: &str = "\
Usage: httokensh [-h] [htgettokenoptions] -- [command [argument...]]

Gets a bearer token with the given options of htgettoken, runs the command, and
renews the token as needed until the command ends.

  -h, --help   show this text

The command finds the token through $BEARER_TOKEN_FILE. Without a command,
$SHELL is run. Options may also stand in $HTGETTOKENOPTS.
";

/// How long the end waits for a renewal that is under way, so that it does not write its token after the clean-up.
const LAST_RENEWAL: Duration = Duration::from_secs(10);

/// `htgettoken`: arguments without the program's name, the process as it shall see it, its streams; answers its exit code.
pub type Get = Arc<dyn Fn(&[OsString], &Environment, &mut Streams<'_>) -> i32 + Send + Sync>;

/// Runs httokensh; `args` are the words after the program's name, the answer its exit code as of [`run_with`].
#[must_use]
pub fn run(args: &[OsString], environment: &Environment, streams: &mut Streams<'_>) -> i32 {
    run_with(args, environment, streams, &htgettoken())
}

/// The real htgettoken.
#[must_use]
pub fn htgettoken() -> Get {
    Arc::new(crate::get::run)
}

/// Runs httokensh with `get` to fetch tokens; `args` are the words after the program's name.
///
/// The answer is the command's exit code; 128 + N if signal N ended it, 127 or 126 if it could not be run, 1 for a usage error or
/// when the command succeeded but the token ran out under it, and htgettoken's own code if there was no first token.
pub fn run_with(
    args: &[OsString],
    environment: &Environment,
    streams: &mut Streams<'_>,
    get: &Get,
) -> i32 {
    let session = match Session::plan(args, environment, std::process::id()) {
        Ok(session) => session,
        Err(error) => return refuse(&error, streams),
    };
    let code = get(&session.first, &session.environment, streams);
    if code != 0 {
        let _ = writeln!(streams.err, "htgettoken failed, not running command");
        return code;
    }
    let life = match read_life(&session.bearer_file) {
        Ok(life) => life,
        Err(reason) => return give_up(&session, &reason, streams),
    };
    if life.is_over(UnixSeconds(environment.now())) {
        return give_up(
            &session,
            "the token that htgettoken delivered has expired already (is the clock right?)",
            streams,
        );
    }
    match keep(&session, life, streams, get) {
        Ok(code) => code,
        Err(reason) => give_up(&session, &reason.to_string(), streams),
    }
}

fn refuse(error: &SessionError, streams: &mut Streams<'_>) -> i32 {
    match error {
        SessionError::Help => {}
        SessionError::Options(error) => {
            let _ = error.write(streams.err);
            return 1;
        }
        SessionError::Usage(_) | SessionError::NotAFile(_) => {
            let _ = writeln!(streams.err, "httokensh: {error}");
        }
    }
    let _ = streams.err.write_all(USAGE.as_bytes());
    1
}

fn give_up(session: &Session, reason: &str, streams: &mut Streams<'_>) -> i32 {
    if session.remove_bearer {
        let _ = fs::remove_file(&session.bearer_file);
    }
    let _ = writeln!(streams.err, "httokensh: {reason}; not running command");
    1
}

/// Runs the command with the token kept fresh, then cleans up.
fn keep(session: &Session, life: Life, streams: &mut Streams<'_>, get: &Get) -> io::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let log_file = session.log_file();
    let mut log = log::create(&log_file).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!(
                "the renewal log {} cannot be created: {error}",
                log_file.display()
            ),
        )
    })?;
    let _ = writeln!(streams.out, "Renewal log is at {}", log_file.display());
    let _ = streams.out.flush();
    if session.dropped_bearer_token {
        let _ = writeln!(
            streams.err,
            "httokensh: BEARER_TOKEN is not passed on: it would hide the renewed token from the command"
        );
    }
    let environment = &session.environment;
    let now = || UnixSeconds(environment.now());
    let (args, _) = session.renewal(session.minsecs);
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let _ = writeln!(log, "{} htgettoken args are {}", now(), args.join(" "));
    let err = &mut *streams.err;
    let mut warn = |text: &str| {
        let _ = writeln!(err, "httokensh: {text} (log: {})", log_file.display());
    };
    let mut renewer = Renewer {
        now: &now,
        fetch: InProcess {
            session,
            get: get.clone(),
            running: None,
        },
        log: &mut log,
        warn: &mut warn,
        minsecs: session.minsecs,
        life,
        failures: 0,
        told_short: false,
    };
    let variables = environment
        .vars
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let program = Program {
        words: session.command.clone(),
        variables,
    };
    let ended = runtime.block_on(supervise(&program, renewer.run()));
    renewer.fetch.wait_for_running();
    let failed = renewer.failed_for_good();
    drop(renewer);
    let (code, ran) = match ended {
        Ok(code) => (i32::from(code), true),
        Err(error) => {
            let _ = writeln!(streams.err, "httokensh: {error}");
            (i32::from(error.exit_code()), false)
        }
    };
    if failed && ran {
        let _ = writeln!(
            streams.err,
            "\nhttokensh: the bearer token expired and could not be renewed, see {}",
            log_file.display()
        );
        return Ok(if code == 0 { 1 } else { code });
    }
    if session.remove_bearer {
        let _ = fs::remove_file(&session.bearer_file);
    }
    let _ = fs::remove_file(&log_file);
    Ok(code)
}

/// Reads the times of the token in `path`.
fn read_life(path: &Path) -> Result<Life, String> {
    let text = fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|error| {
            format!(
                "the bearer token in {} cannot be read: {error}",
                path.display()
            )
        })?;
    let claims = claims(text.trim()).map_err(|error| error.to_string())?;
    let moment = |name: &str| {
        claims
            .get(name)
            .and_then(crate::decode::moment)
            .map(UnixSeconds)
    };
    let expires = moment("exp").ok_or("the bearer token does not say when it expires (no numeric exp), so it cannot be kept fresh")?;
    Ok(Life {
        issued: moment("iat"),
        expires,
    })
}

/// Runs htgettoken on a thread of its own: it blocks, and the signals of the command must be served meanwhile.
struct InProcess<'a> {
    session: &'a Session,
    get: Get,
    running: Option<mpsc::Receiver<()>>,
}

impl InProcess<'_> {
    fn wait_for_running(&mut self) {
        if let Some(running) = self.running.take() {
            // The sender goes away with the thread; either answer means that nothing writes any more.
            let _ = running.recv_timeout(LAST_RENEWAL);
        }
    }
}

impl Fetch for InProcess<'_> {
    async fn fetch(&mut self, minimum: u64, log: &mut dyn Write) -> Result<Life, String> {
        let (args, environment) = self.session.renewal(minimum);
        let get = self.get.clone();
        let (alive, running) = mpsc::channel::<()>();
        let (answer, answered) = oneshot::channel();
        std::thread::Builder::new()
            .name("renewal".into())
            .spawn(move || {
                let text = Shared::default();
                let mut streams = Streams {
                    input: &mut io::empty(),
                    out: &mut text.clone(),
                    err: &mut text.clone(),
                };
                let code = get(&args, &environment, &mut streams);
                let _ = answer.send((code, text.take()));
                drop(alive);
            })
            .map_err(|error| format!("no thread for htgettoken: {error}"))?;
        self.running = Some(running);
        let (code, text) = answered
            .await
            .map_err(|_| "htgettoken ended without an answer".to_owned())?;
        let _ = log.write_all(&text);
        if code != 0 {
            let text = String::from_utf8_lossy(&text);
            let last = text
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or("no reason given")
                .trim();
            return Err(format!("htgettoken failed with exit code {code}: {last}"));
        }
        let path: PathBuf = self.session.bearer_file.clone();
        read_life(&path)
    }
}

/// Both output streams of one htgettoken run, in the order of writing.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
