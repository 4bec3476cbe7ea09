//! The caller's end after an order by which the server loses or gets its keys: it begins anew or opens its store, nobody answers for a
//! moment, and what comes of it is known only then.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Order, ask};
use crate::server::refusal::{Reason, Refusal};

/// Between the first question and the next; doubled each time, since each is a line in the audit log.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What became of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// It serves.
    Serves,
    /// It waits to be unsealed.
    Waits,
    /// It answers, but does not serve by itself or cannot be asked; its words.
    Says(String),
    /// Its process has ended.
    Ended,
    /// Nothing of this until the patience was over.
    Unknown,
}

/// Waits, at most for `patience`, until the server of this run directory has become something again. It was the process `pid`.
pub fn settle(directory: &Path, pid: Option<i32>, patience: Duration) -> Settled {
    let end = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        match ask(directory, &Order::Status) {
            Ok(_) => return Settled::Serves,
            Err(error) => match error.downcast_ref::<Refusal>() {
                Some(refusal) => match refusal.reason {
                    // Sealing goes on although its lines cannot be written.
                    Reason::Turning | Reason::AuditLog => {}
                    Reason::Sealed | Reason::NotInitialised => return Settled::Waits,
                    _ => return Settled::Says(refusal.text.clone()),
                },
                None if pid.is_some_and(has_ended) => return Settled::Ended,
                None => {}
            },
        }
        if Instant::now() >= end {
            return Settled::Unknown;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a process is no more, or was not taken leave of by its parent yet. One that cannot be looked at is not said to have ended.
fn has_ended(pid: i32) -> bool {
    let state = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(state) => state,
        Err(error) => {
            return error.kind() == std::io::ErrorKind::NotFound
                && Path::new("/proc/self/stat").exists();
        }
    };
    // After the name, which may have anything in it.
    let state = state
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    matches!(state, Some('Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::process_of;

    #[test]
    fn a_process_that_ended_is_told_from_one_that_runs() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!has_ended(own));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        child.wait().unwrap();
        assert!(has_ended(pid));
    }

    #[test]
    fn a_server_that_is_not_there_is_waited_for_no_longer_than_said() {
        let nowhere = tempfile::tempdir().unwrap();
        assert_eq!(process_of(nowhere.path()), None);
        let told = settle(nowhere.path(), None, Duration::ZERO);
        assert_eq!(told, Settled::Unknown);
    }
}
