//! Whole sessions, each in a process of its own that this test binary starts again: signals and terminals belong to processes.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::fcntl::{FcntlArg, FdFlag};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};

const DIRECTORY: &str = "GRIDKEEP_SH_TEST";
const START: i64 = 1_900_000_000;

fn token(issued: i64, expires: i64) -> String {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(serde_json::json!({"alg": "ES256"}));
    format!(
        "{header}.{}.c2ln\n",
        part(serde_json::json!({"iat": issued, "exp": expires}))
    )
}

/// A stand-in for htgettoken: writes a token of an hour, or fails from the second run on where a file `down` exists.
fn fake_get(directory: &Path) -> Get {
    let directory = directory.to_owned();
    Arc::new(
        move |args: &[OsString], environment: &Environment, streams: &mut Streams<'_>| {
            let calls = directory.join("calls");
            let before = fs::read_to_string(&calls).unwrap_or_default();
            let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
            fs::write(&calls, format!("{before}{}\n", words.join(" "))).unwrap();
            let again = !before.is_empty();
            if directory.join("fail").exists() || (again && directory.join("down").exists()) {
                writeln!(
                    streams.err,
                    "\nhtgettoken: Failure getting token: 503 Service Unavailable"
                )
                .unwrap();
                return 3;
            }
            let issued = if again { environment.now() } else { START };
            let text = if directory.join("opaque").exists() {
                "opaque\n".into()
            } else {
                token(issued, issued + 3600)
            };
            fs::write(environment.var("BEARER_TOKEN_FILE").unwrap(), text).unwrap();
            writeln!(streams.out, "Storing bearer token").unwrap();
            0
        },
    )
}

/// The program that the tests below run: one session with the arguments that lie in the directory.
#[test]
#[ignore = "run by the other tests, in a session of its own"]
fn session_process() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let args: Vec<String> =
        serde_json::from_slice(&fs::read(directory.join("args")).unwrap()).unwrap();
    let args: Vec<OsString> = args.iter().map(OsString::from).collect();
    let mut environment = Environment::current();
    environment.tmp.clone_from(&directory);
    let time = AtomicI64::new(START);
    let jumps = directory.join("jumps");
    // After the session was set up, a clock that jumps makes the first renewal due at once.
    let log = directory.join("token.log");
    environment.now = Arc::new(move || {
        if jumps.exists() && fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
            time.store(START + 10_000, Ordering::SeqCst);
        }
        time.load(Ordering::SeqCst)
    });
    let mut err = fs::File::create(directory.join("err")).unwrap();
    let mut out = fs::File::create(directory.join("out")).unwrap();
    let mut streams = Streams {
        input: &mut io::empty(),
        out: &mut out,
        err: &mut err,
    };
    let get = if directory.join("real").exists() {
        htgettoken()
    } else {
        fake_get(&directory)
    };
    let code = run_with(&args, &environment, &mut streams, &get);
    std::process::exit(code);
}

struct Case {
    directory: tempfile::TempDir,
    inherited: bool,
    options: Vec<String>,
}

/// A running session.
struct Running {
    child: Child,
    lines: Box<dyn BufRead>,
}

impl Running {
    /// Reads until a line ends in `text`.
    fn until(&mut self, text: &str) {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let count = self.lines.read_line(&mut line).unwrap_or(0);
            assert_ne!(count, 0, "{text:?} never came: {seen}");
            if line.trim_end().ends_with(text) {
                return;
            }
            seen.push_str(&line);
        }
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    fn say(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    fn end(mut self) -> ExitStatus {
        let mut rest = String::new();
        drop(self.child.stdin.take());
        let _ = self.lines.read_to_string(&mut rest);
        self.child.wait().unwrap()
    }
}

impl Case {
    fn new() -> Case {
        Case {
            directory: tempfile::tempdir().unwrap(),
            inherited: false,
            options: vec!["-a".into(), "host".into()],
        }
    }

    fn with(self, file: &str) -> Case {
        fs::write(self.path(file), "").unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The command that starts a session of `command`, to be run in a new session of the system.
    fn program(&self, command: &[&str]) -> Vec<OsString> {
        let mut args = self.options.clone();
        if !self.inherited {
            args.push(format!("--outfile={}", self.path("token").display()));
        }
        args.push("--".to_owned());
        args.extend(command.iter().map(|word| (*word).to_owned()));
        fs::write(self.path("args"), serde_json::to_vec(&args).unwrap()).unwrap();
        let own = std::env::current_exe().unwrap();
        [
            own.as_os_str(),
            "--exact".as_ref(),
            "sh::tests::session_process".as_ref(),
            "--ignored".as_ref(),
            "--nocapture".as_ref(),
        ]
        .map(OsString::from)
        .to_vec()
    }

    fn prepared(&self, starter: &[&str], command: &[&str]) -> Command {
        let mut program = Command::new("setsid");
        program
            .args(starter)
            .args(self.program(command))
            .env(DIRECTORY, self.directory.path())
            .env("BEARER_TOKEN", "old")
            .env_remove("HTGETTOKENOPTS");
        if self.inherited {
            program.env("BEARER_TOKEN_FILE", self.path("token"));
        } else {
            program.env_remove("BEARER_TOKEN_FILE");
        }
        program
    }

    /// Starts a session without a terminal.
    fn start(&self, command: &[&str]) -> Running {
        let mut child = self
            .prepared(&[], command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Box::new(BufReader::new(child.stdout.take().unwrap()));
        Running { child, lines }
    }

    /// Starts a session on a terminal of its own, below a shell with job control where `starter` says so.
    fn on_terminal(&self, starter: &[&str], command: &[&str]) -> (Running, fs::File) {
        let pty = nix::pty::openpty(None, None).unwrap();
        for end in [&pty.master, &pty.slave] {
            // Else a process that another test starts meanwhile would hold the terminal open.
            nix::fcntl::fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
        let slave = || Stdio::from(OwnedFd::try_clone(&pty.slave).unwrap());
        let starter: Vec<&str> = ["--ctty"].iter().chain(starter).copied().collect();
        let child = self
            .prepared(&starter, command)
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        let mut keyboard = fs::File::from(pty.master.try_clone().unwrap());
        drop(pty.slave);
        // Every command here begins by reading a line: once it has that, the terminal is its own.
        keyboard.write_all(b"begin\n").unwrap();
        (
            Running {
                child,
                lines: Box::new(BufReader::new(fs::File::from(pty.master))),
            },
            keyboard,
        )
    }

    fn code(&self, command: &[&str]) -> i32 {
        self.start(command).end().code().unwrap()
    }
}

#[test]
fn the_command_finds_the_token_and_its_code_is_ours() {
    let case = Case::new();
    let seen = case.path("seen");
    let script = format!(
        "cat \"$BEARER_TOKEN_FILE\" > {0}; echo \"[${{BEARER_TOKEN-unset}}]\" >> {0}; exit 7",
        seen.display()
    );
    assert_eq!(case.code(&["sh", "-c", &script]), 7);
    assert_eq!(
        case.read("seen"),
        format!("{}[unset]\n", token(START, START + 3600))
    );
    assert!(!case.path("token").exists() && !case.path("token.log").exists());
    assert_eq!(
        case.read("out"),
        format!(
            "Storing bearer token\nRenewal log is at {}\n",
            case.path("token.log").display()
        )
    );
    assert!(case.read("err").contains("BEARER_TOKEN is not passed on"));
    assert_eq!(case.code(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(case.code(&["true"]), 0);
}

#[test]
fn commands_that_cannot_be_run_have_the_codes_of_a_shell() {
    let case = Case::new().with("plain");
    assert_eq!(case.code(&["no-such-command-anywhere"]), 127);
    assert!(
        case.read("err")
            .contains("no-such-command-anywhere: command not found")
    );
    assert_eq!(case.code(&[case.path("plain").to_str().unwrap()]), 126);
    assert!(!case.path("token").exists() && !case.path("token.log").exists());
}

#[test]
fn without_a_first_token_nothing_runs() {
    let case = Case::new().with("fail");
    assert_eq!(case.code(&["touch", case.path("ran").to_str().unwrap()]), 3);
    assert!(
        case.read("err")
            .ends_with("htgettoken failed, not running command\n")
    );
    let case = Case::new().with("opaque");
    assert_eq!(case.code(&["touch", case.path("ran").to_str().unwrap()]), 1);
    assert!(case.read("err").ends_with("not running command\n"));
    assert!(!case.path("ran").exists() && !case.path("token").exists());
}

#[test]
fn an_inherited_token_file_stays_and_its_log_goes() {
    let mut case = Case::new();
    case.inherited = true;
    assert_eq!(case.code(&["true"]), 0);
    assert!(case.path("token").exists());
    assert!(!case.path("token.log").exists());
}

#[test]
fn termination_and_hangup_go_to_the_command() {
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGHUP, "HUP")] {
        let case = Case::new();
        let script = format!("trap 'exit 3' {name}; echo ready; while :; do sleep 0.02; done");
        let mut running = case.start(&["sh", "-c", &script]);
        running.until("ready");
        running.signal(signal);
        assert_eq!(running.end().code(), Some(3), "{name}");
        assert!(!case.path("token").exists() && !case.path("token.log").exists());
    }
}

#[test]
fn an_interrupt_for_the_supervisor_alone_is_not_the_end() {
    let case = Case::new();
    let mut running = case.start(&["sh", "-c", "echo ready; read line; exit 5"]);
    running.until("ready");
    running.signal(Signal::SIGINT);
    running.signal(Signal::SIGQUIT);
    running.say("go\n");
    assert_eq!(running.end().code(), Some(5));
}

#[test]
fn a_killed_supervisor_leaves_the_command_alone() {
    let case = Case::new();
    let script = "echo ready; read line; echo \"went on with $line\"";
    let mut running = case.start(&["sh", "-c", script]);
    running.until("ready");
    running.signal(Signal::SIGKILL);
    running.say("it\n");
    running.until("went on with it");
    assert_eq!(running.end().code(), None);
}

#[test]
fn a_renewed_token_reaches_the_command() {
    let case = Case::new().with("jumps");
    let script = "until [ \"$(wc -l < \"$CALLS\")\" -ge 2 ] && grep -q Renewed \"$BEARER_TOKEN_FILE.log\"; do sleep 0.02; done; \
                  cat \"$BEARER_TOKEN_FILE\" > \"$SEEN\"; cat \"$BEARER_TOKEN_FILE.log\" > \"$LOG\"; stat -c %a \"$BEARER_TOKEN_FILE.log\" >> \"$LOG\"";
    let words = [
        "env".to_owned(),
        format!("CALLS={}", case.path("calls").display()),
        format!("SEEN={}", case.path("seen").display()),
        format!("LOG={}", case.path("log").display()),
        "sh".to_owned(),
        "-c".to_owned(),
        script.to_owned(),
    ];
    assert_eq!(
        case.code(&words.each_ref().map(String::as_str)),
        0,
        "{}",
        case.read("err")
    );
    assert_eq!(case.read("seen"), token(START + 10_000, START + 13_600));
    let log = case.read("log");
    assert!(
        log.contains("htgettoken args are --vaultserver=host")
            && log.contains("Storing bearer token")
            && log.ends_with("600\n"),
        "{log}"
    );
    assert!(
        case.read("calls")
            .lines()
            .nth(1)
            .unwrap()
            .ends_with("-v --nooidc --nokerberos --nossh")
    );
    assert!(!case.path("token").exists());
}

#[test]
fn a_token_that_died_under_the_command_makes_success_a_failure() {
    let case = Case::new().with("jumps").with("down");
    let wait =
        "until grep -q 'Renewal failed' \"$BEARER_TOKEN_FILE.log\"; do sleep 0.02; done; exit $0";
    assert_eq!(case.code(&["sh", "-c", wait, "0"]), 1);
    assert!(case.path("token").exists());
    assert_eq!(
        fs::metadata(case.path("token.log"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    let err = case.read("err");
    assert!(
        err.contains("503 Service Unavailable; still trying")
            && err.contains(&format!("see {}", case.path("token.log").display())),
        "{err}"
    );
    let case = Case::new().with("jumps").with("down");
    assert_eq!(case.code(&["sh", "-c", wait, "4"]), 4);
}

#[test]
fn control_c_reaches_only_the_command() {
    let case = Case::new();
    let script = "read line; trap 'exit 9' INT; echo ready; while :; do sleep 0.02; done";
    let (mut running, mut keyboard) = case.on_terminal(&[], &["sh", "-c", script]);
    running.until("ready");
    keyboard.write_all(b"\x03").unwrap();
    assert_eq!(running.end().code(), Some(9));
    assert!(!case.path("token").exists());
}

#[test]
fn the_command_reads_the_terminal() {
    let case = Case::new();
    let (mut running, mut keyboard) = case.on_terminal(
        &[],
        &[
            "sh",
            "-c",
            "read line; echo ready; read line; echo \"got <$line>\"",
        ],
    );
    running.until("ready");
    keyboard.write_all(b"words\n").unwrap();
    running.until("got <words>");
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn control_z_stops_both_and_the_shell_continues_both() {
    let case = Case::new();
    let shell = [
        "bash",
        "-c",
        "set -m; \"$0\" \"$@\"; echo stopped $?; fg > /dev/null; echo code $?",
    ];
    let (mut running, mut keyboard) = case.on_terminal(
        &shell,
        &["sh", "-c", "read line; echo ready; read line; exit 6"],
    );
    running.until("ready");
    keyboard.write_all(b"\x1a").unwrap();
    running.until("stopped 148");
    keyboard.write_all(b"go\n").unwrap();
    running.until("code 6");
    assert_eq!(running.end().code(), Some(0));
}

#[test]
fn a_stop_that_nobody_could_undo_is_undone() {
    let case = Case::new();
    // The session process leads its session: nobody could continue it, so the system does not stop it.
    let (mut running, mut keyboard) = case.on_terminal(
        &[],
        &["sh", "-c", "read line; echo ready; read line; exit 8"],
    );
    running.until("ready");
    keyboard.write_all(b"\x1a").unwrap();
    keyboard.write_all(b"go\n").unwrap();
    assert_eq!(running.end().code(), Some(8));
}

#[test]
fn the_real_htgettoken_fetches_and_renews() {
    use crate::jwks::testing::{Seen, Server};
    let server = Server::start();
    let path = "/v1/secret/oauth/creds/default/anna:default";
    let data = |token: String| serde_json::json!({"data": {"access_token": token.trim()}});
    let renewed = token(START + 10_000, START + 20_000);
    server.answer(path, 200, data(token(START, START + 3600)));
    server.then(path, 200, data(renewed.clone()));
    server.answer(
        "/v1/auth/token/lookup-self",
        200,
        r#"{"data":{"ttl":604000}}"#,
    );
    let mut case = Case::new().with("real").with("jumps");
    let vault = case.path("vt");
    fs::write(&vault, "hvs.secret\n").unwrap();
    case.options = [
        format!("--vaultserver={}", server.url()),
        "--credkey=anna".into(),
        format!("--vaulttokenfile={}", vault.display()),
        "--cafile".into(),
        server.cafile(case.directory.path()).display().to_string(),
    ]
    .into();
    let mut running = case.start(&["sh", "-c", "until grep -q Renewed \"$BEARER_TOKEN_FILE.log\"; do sleep 0.02; done; cat \"$BEARER_TOKEN_FILE\""]);
    running.until(renewed.trim());
    assert_eq!(running.end().code(), Some(0), "{}", case.read("err"));
    let seen = server.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.token.as_deref() == Some("hvs.secret"))
    );
    assert_eq!(
        seen[0],
        Seen {
            line: "GET /v1/auth/token/lookup-self".into(),
            token: Some("hvs.secret".into())
        }
    );
    let reading = format!("GET {path}?minimum_seconds=60");
    assert!(
        seen[1..].iter().all(|seen| seen.line == reading) && seen.len() == 3,
        "{seen:?}"
    );
}

#[test]
fn what_was_ignored_before_stays_ignored() {
    let case = Case::new();
    let mut program = Command::new("setsid");
    program
        .args(["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .args(case.program(&["sh", "-c", "echo ready; kill -HUP $$; read line; exit 5"]))
        .env(DIRECTORY, case.directory.path())
        .env_remove("BEARER_TOKEN_FILE")
        .env_remove("HTGETTOKENOPTS");
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = Box::new(BufReader::new(child.stdout.take().unwrap()));
    let mut running = Running { child, lines };
    running.until("ready");
    running.signal(Signal::SIGHUP);
    running.say("go\n");
    assert_eq!(running.end().code(), Some(5));
}

#[test]
fn without_a_terminal_a_stopped_command_does_not_stop_us() {
    let case = Case::new();
    // The helper continues the command only after it has seen it stopped; its words would not come if we had stopped for good.
    let script = "( until grep -q 'State:.T' /proc/$$/status; do sleep 0.02; done; kill -CONT $$ ) & kill -STOP $$; wait; exit 6";
    assert_eq!(case.code(&["sh", "-c", script]), 6);
}
