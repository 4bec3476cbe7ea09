//! Whether the server runs, and what it says.

use super::{Findings, State, places};
use crate::config::Config;
use crate::server::inventory::StatusAnswer;
use crate::server::operator::{self, Order};
use crate::server::refusal::{Reason, reason_of};

/// The server as it was met.
pub(super) enum Server {
    /// Nobody answers.
    Down,
    /// It answers, but not the question how it is.
    Refuses,
    /// It says how it is.
    Answers(Box<StatusAnswer>),
}

impl Server {
    /// Whether it runs: then its ports are its own.
    pub(super) fn runs(&self) -> bool {
        !matches!(self, Server::Down)
    }

    pub(super) fn status(&self) -> Option<&StatusAnswer> {
        match self {
            Server::Answers(status) => Some(status),
            _ => None,
        }
    }
}

/// Asks it.
pub(super) fn ask(config: &Config, findings: &mut Findings) -> Server {
    let directory = &config.gridkeep.run_directory.value;
    let asked = operator::ask(directory, &Order::Status)
        .and_then(|answer| Ok(serde_json::from_str::<StatusAnswer>(&answer)?));
    match asked {
        Ok(status) => {
            told(&status, findings);
            Server::Answers(Box::new(status))
        }
        Err(error) if operator::answers(directory) => {
            let (state, remedy) = remedy(reason_of(&error), config);
            let what = format!("It runs and says: {error:#}.");
            findings.push("server", state, what, remedy);
            Server::Refuses
        }
        Err(error) => {
            findings.push(
                "server",
                State::Bad,
                format!("{error:#}."),
                "Start it (systemctl start gridkeep) and look at its log (journalctl -u gridkeep); run this as root.",
            );
            Server::Down
        }
    }
}

fn told(status: &StatusAnswer, findings: &mut Findings) {
    findings.good(
        "server",
        format!(
            "It runs since {} as version {}.",
            status.since, status.version
        ),
    );
    if status.passes_on {
        findings.push(
            "server",
            State::Bad,
            "It does not serve by itself: it passes requests to other nodes.",
            "See what is said of the store and the clock; gridkeep cluster status says more. It serves again by itself.",
        );
    }
    for issuer in &status.issuers {
        if let Some(refused) = &issuer.client_refused {
            findings.push(
                "server",
                State::Bad,
                format!(
                    "Issuer {} refuses this server as its client: {refused}. People get no tokens that way.",
                    issuer.name
                ),
                format!(
                    "Check clientid and secret of issuers[{}] against what the issuer's operators have registered, and reload (systemctl reload gridkeep).",
                    issuer.name
                ),
            );
        }
        if let Some(trouble) = &issuer.trouble {
            findings.push(
                "server",
                State::Bad,
                format!(
                    "Issuer {} failed when it was last asked: {trouble}",
                    issuer.name
                ),
                "See what is said of the issuer below; users keep what is cached meanwhile.",
            );
        }
    }
    if !status.failing.is_empty() {
        findings.push(
            "server",
            State::Doubtful,
            match status.failing.len() {
                1 => "1 credential does not work.".to_owned(),
                more => format!("{more} credentials do not work."),
            },
            "gridkeep status says which and why; most need a new login of their owners.",
        );
    }
    if status.revocations.1 > 0 {
        findings.push(
            "server",
            State::Doubtful,
            match status.revocations.1 {
                1 => "1 login could not be revoked at its issuer yet.".to_owned(),
                more => format!("{more} logins could not be revoked at their issuers yet."),
            },
            "It is tried again by itself; if it stays, look at the server's log.",
        );
    }
}

/// What helps against a refusal of this sort.
fn remedy(reason: Reason, config: &Config) -> (State, String) {
    let log = "look at its log (journalctl -u gridkeep)";
    match reason {
        Reason::NotAllowed => (
            State::Doubtful,
            "Run this as root (sudo gridkeep doctor): only then is all looked at.".to_owned(),
        ),
        Reason::Sealed => (
            State::Bad,
            "gridkeep operator unseal, with enough shares where the root key is kept in shares."
                .to_owned(),
        ),
        Reason::NotInitialised => (
            State::Bad,
            "PUT sys/init with the number of shares, as docs/operate.md shows under \"Shares instead of a key\"; whoever asks first gets the shares."
                .to_owned(),
        ),
        Reason::Turning => (
            State::Doubtful,
            format!("Ask again in a moment; if it stays, {log}."),
        ),
        Reason::Store => (State::Bad, format!("{}; {log}.", places::mend(config))),
        Reason::AuditLog => (
            State::Bad,
            format!(
                "Make room where {} is, and let the service's user write it; the server goes on by itself.",
                config.audit_log().map_or_else(
                    || "the audit log".to_owned(),
                    |path| path.display().to_string()
                )
            ),
        ),
        Reason::TooLong => (
            State::Bad,
            format!("Is the host out of processors or memory, or the store slow? Else {log}."),
        ),
        Reason::NothingDone | Reason::Other => (
            State::Bad,
            format!("Is this gridkeep of the same version as the server? Else {log}."),
        ),
    }
}
