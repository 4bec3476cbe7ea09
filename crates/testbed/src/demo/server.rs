//! The server under show: its start, which is told by sd_notify(3), and its end.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::{Instant, timeout_at};

use super::child::{Group, Program};
use super::failure::Failure;
use super::place::Place;
use super::tell::last_lines;

/// How long the server may take to be ready.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end; it gives requests under way 20 s itself.
const END: Duration = Duration::from_secs(30);
/// Lines of its log that a failure shows.
const LAST_WORDS: usize = 12;
const LOG: &str = "server.log";

/// A server that is up.
pub(super) struct Server {
    group: Group,
    log: PathBuf,
    /// Where it listens, `host:port`.
    pub(super) address: String,
}

impl Server {
    /// Starts it with `words` (`server --config …`) and waits until it serves.
    pub(super) async fn start(
        place: &Place,
        program: &Program,
        words: &[&str],
    ) -> Result<Self, Failure> {
        let socket = place.file("notify.sock");
        let notified = UnixDatagram::bind(&socket).map_err(|source| Failure::File {
            what: "making a socket",
            path: socket.clone(),
            source,
        })?;
        let log = place.write(LOG, "")?;
        let file = std::fs::OpenOptions::new().append(true).open(&log);
        let file = file.map_err(|source| Failure::File {
            what: "writing a file",
            path: log.clone(),
            source,
        })?;
        let group = program.start_in_background(words, ("NOTIFY_SOCKET", &socket), file)?;
        let mut server = Self {
            group,
            log,
            address: String::new(),
        };
        let deadline = Instant::now() + START;
        let mut message = vec![0; 4096];
        loop {
            tokio::select! {
                received = timeout_at(deadline, notified.recv(&mut message)) => {
                    let Ok(Ok(length)) = received else {
                        return Err(server.failed(format!("was not ready after {} s", START.as_secs())));
                    };
                    let text = String::from_utf8_lossy(&message[..length]).into_owned();
                    if let Some(address) = serving_on(&text) {
                        server.address = address.to_owned();
                        return Ok(server);
                    }
                }
                failure = server.ended() => return Err(failure),
            }
        }
    }

    /// The port it listens on.
    pub(super) fn port(&self) -> &str {
        self.address.rsplit_once(':').map_or("", |(_, port)| port)
    }

    pub(super) fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// Completes when it ends of itself, with the failure that this is.
    pub(super) async fn ended(&mut self) -> Failure {
        match self.group.wait().await {
            Ok(status) => self.failed(format!("ended by itself ({status})")),
            Err(error) => self.failed(format!("is lost: {error}")),
        }
    }

    fn failed(&self, how: String) -> Failure {
        let log = std::fs::read(&self.log).unwrap_or_default();
        Failure::Server {
            how,
            log: last_lines(&String::from_utf8_lossy(&log), LAST_WORDS),
        }
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.group.end(END).await;
    }
}

/// The address in the state that the server sends when it is ready.
fn serving_on(state: &str) -> Option<&str> {
    let mut lines = state.lines();
    lines.clone().find(|line| *line == "READY=1")?;
    let status = lines.find_map(|line| line.strip_prefix("STATUS=serving on "))?;
    status.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::serving_on;

    #[test]
    fn ready_and_where() {
        assert_eq!(
            serving_on("READY=1\nSTATUS=serving on 127.0.0.1:5 [::1]:5"),
            Some("127.0.0.1:5")
        );
        assert_eq!(serving_on("STATUS=serving on 127.0.0.1:5"), None);
        assert_eq!(serving_on("STOPPING=1"), None);
    }
}
