//! Beginning anew: a server that was sealed puts the program in its own place (`execve`), and keeps its sockets open on the way.
//!
//! A process that has had keys has copies of them on stacks and in what libraries have freed. The system gives the new program empty
//! memory, so that nothing of them is left whatever had touched them. The process stays the same for the service manager.

use std::ffi::{OsStr, OsString};
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};

use super::port::Port;

/// The option that tells the program which sockets it is handed: numbers of those with TLS, a slash, numbers of those without.
pub const OPTION: &str = "--sealed-ports";

/// Puts the program in the place of this process; it waits to be unsealed. Answers only if that fails.
pub(super) fn begin(port: &Port) -> anyhow::Error {
    let sockets = port.sockets();
    let handed = match sockets.map(hand) {
        [Ok(tls), Ok(plain)] => format!("{tls}/{plain}"),
        [Err(error), _] | [_, Err(error)] => return error,
    };
    ignore_hangup();
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| "gridkeep".into());
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(name)
        .args(without(words))
        .arg(OPTION)
        .arg(handed);
    anyhow::Error::new(command.exec())
        .context("the sealed server could not begin anew with empty memory, and ends instead; start it again")
}

/// Until the program listens to it: else a rotation of logs at this moment would end it.
#[expect(unsafe_code, reason = "the crate warns of handlers, and none is set")]
fn ignore_hangup() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    // SAFETY: a signal that is ignored runs no code.
    let ignored = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
    if let Err(error) = ignored {
        tracing::warn!(%error, "SIGHUP cannot be ignored while the server begins anew");
    }
}

/// The words of the command line but those that an earlier one of these has added.
fn without(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept: Vec<OsString> = words.collect();
    if let Some(at) = kept.iter().position(|word| word == OsStr::new(OPTION)) {
        kept.drain(at..(at + 2).min(kept.len()));
    }
    kept
}

/// Lets the program have these, and answers their numbers.
fn hand(sockets: &[TcpListener]) -> anyhow::Result<String> {
    let mut numbers = Vec::new();
    for socket in sockets {
        fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty())).context("a socket cannot be kept")?;
        numbers.push(socket.as_raw_fd().to_string());
    }
    Ok(numbers.join(","))
}

/// The sockets that the program was handed, with TLS and without.
pub(super) fn taken(handed: &str) -> anyhow::Result<[Vec<TcpListener>; 2]> {
    let about = || {
        format!(
            "{OPTION} {handed} names no sockets of this process; the server sets this option itself when it is sealed, leave it out"
        )
    };
    let (tls, plain) = handed.split_once('/').with_context(about)?;
    let each = |numbers: &str| -> anyhow::Result<Vec<TcpListener>> {
        let numbers = numbers.split(',').filter(|number| !number.is_empty());
        numbers.map(|number| take(number.parse()?)).collect()
    };
    Ok([
        each(tls).with_context(about)?,
        each(plain).with_context(about)?,
    ])
}

#[expect(
    unsafe_code,
    reason = "what a number of the command line stands for has no owner yet"
)]
fn take(number: RawFd) -> anyhow::Result<TcpListener> {
    anyhow::ensure!(number > 2, "{number} is not a socket's");
    // SAFETY: looked at for the time of this call only, while nothing closes it: if it is open, it is since before `main`, and what
    // this program opens itself has other numbers.
    let found = unsafe { BorrowedFd::borrow_raw(number) };
    anyhow::ensure!(
        getsockopt(&found, sockopt::AcceptConn)?,
        "{number} is not a listening socket"
    );
    fcntl(found, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: as above, and each number is named once, by `hand`, for the socket of a `TcpListener`; nobody else owns it.
    Ok(TcpListener::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_added_once() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (given, kept) in [
            ("server --config x", "server --config x"),
            (
                "server --sealed-ports 7,8/9 --config x",
                "server --config x",
            ),
            ("server --sealed-ports 7/", "server"),
            ("server --sealed-ports", "server"),
        ] {
            assert_eq!(without(words(given).into_iter()), words(kept));
        }
    }

    #[test]
    fn only_listening_sockets_are_taken() {
        for handed in ["", "7", "x/", "1/", "/2", "99999/"] {
            let refused = taken(handed).unwrap_err();
            assert!(format!("{refused:#}").contains("leave it out"), "{handed}");
        }
        assert_eq!(taken("/").unwrap().map(|sockets| sockets.len()), [0, 0]);
    }
}
