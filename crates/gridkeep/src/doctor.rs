//! `gridkeep doctor`: looks at the host as the server and its clients meet it, and says for each finding what helps.
//!
//! Changes nothing, and works whether or not the server runs. A further examination is one more function here and one line in
//! [`examine`].

mod network;
mod places;
mod server;

use std::io::Write;
use std::path::{Path, PathBuf};

use gridkeep_dialect_vault::listener::{ReloadableTls, TlsFiles};
use gridkeep_keeper::UnixSeconds;
use gridkeep_keeper::clock::{Clock as _, SystemClock};
use serde::Serialize;

use crate::config::{self, Config, Loaded, Severity, Surroundings};
use crate::server::inventory::StatusAnswer;

/// Days before the end of a certificate from which on it is doubtful.
const CERTIFICATE_DAYS: i64 = 14;

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Good,
    /// It works, but not for long or not for all.
    Doubtful,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: `dns`, `certificate` …
    pub about: &'static str,
    /// How it is.
    pub state: State,
    /// What was found, a sentence.
    pub what: String,
    /// What helps; empty when nothing has to.
    pub remedy: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn push(
        &mut self,
        about: &'static str,
        state: State,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            about,
            state,
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    fn good(&mut self, about: &'static str, what: impl Into<String>) {
        self.push(about, State::Good, what, "");
    }
}

/// Examines everything, writes the report, and answers with the exit code: 0 when nothing is bad, 1 when something is.
///
/// # Errors
/// The report cannot be written, or the system gives no event loop.
pub fn run(paths: &[PathBuf], json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let loaded = config::load(paths, &Surroundings::of_this_host());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let findings = runtime.block_on(examine(&loaded));
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
    } else {
        for finding in &findings {
            let mark = match finding.state {
                State::Good => "good     ",
                State::Doubtful => "doubtful ",
                State::Bad => "BAD      ",
            };
            writeln!(out, "{mark} {}: {}", finding.about, finding.what)?;
            if !finding.remedy.is_empty() {
                writeln!(out, "          {}", finding.remedy)?;
            }
        }
    }
    let bad = findings.iter().any(|finding| finding.state == State::Bad);
    Ok(u8::from(bad))
}

async fn examine(loaded: &Loaded) -> Vec<Finding> {
    let mut findings = Findings::default();
    configuration(loaded, &mut findings);
    let Some(config) = &loaded.config else {
        return findings.0;
    };
    certificate(config, &mut findings);
    keytabs(loaded, config, &mut findings);
    let server = server::ask(config, &mut findings);
    let status = server.status();
    clock(status, &mut findings);
    places::store(config, loaded, status, &mut findings).await;
    places::audit_log(config, &mut findings);
    network::ports(config, server.runs(), &mut findings).await;
    for (name, port) in config.public_places() {
        network::dns(&name, port, server.runs(), &mut findings).await;
    }
    network::issuers(config, &mut findings).await;
    findings.0
}

/// What `config check` finds, each under the thing it is about.
fn configuration(loaded: &Loaded, findings: &mut Findings) {
    let mut clean = true;
    for found in &loaded.findings {
        let state = match found.severity {
            // A keytab that whoever asks may not read.
            Severity::Info if found.key.starts_with("kerberos") => State::Doubtful,
            Severity::Info => continue,
            Severity::Warning => State::Doubtful,
            Severity::Error | Severity::Fatal => State::Bad,
        };
        let about = if found.key.starts_with("gridkeep.tls") {
            "certificate"
        } else if found.key.starts_with("kerberos") {
            "keytab"
        } else {
            clean = false;
            "configuration"
        };
        let place = match found.origin.file() {
            Some(_) => format!("{}: {}: ", found.origin, found.key),
            None => String::new(),
        };
        let mut remedy = found.means.clone();
        if about == "keytab" {
            remedy += " Have the key of host/<service name> exported by the administrators of the Kerberos realm into that file (mode 0600, owned by the service's user); no restart is needed.";
        }
        findings.push(about, state, format!("{place}{}", found.what), remedy);
    }
    match &loaded.config {
        Some(config) if clean => findings.good(
            "configuration",
            format!("{} issuers, nothing to object to.", config.issuers.len()),
        ),
        Some(_) => {}
        None => findings.push(
            "configuration",
            State::Bad,
            "It cannot be used, so nothing else can be looked at.",
            "Correct what the lines above say; gridkeep config check shows it with lines and columns.",
        ),
    }
}

/// The keytabs to which nothing is to be objected.
fn keytabs(loaded: &Loaded, config: &Config, findings: &mut Findings) {
    for service in &config.kerberos {
        let key = format!("kerberos[{}]", service.name.value);
        if loaded.findings.iter().any(|found| found.key == key) {
            continue;
        }
        let places = config.keytab_places(service, Path::new("/etc"));
        if let Some(place) = places.iter().find(|place| place.exists()) {
            findings.good(
                "keytab",
                format!(
                    "{} holds a key for this service ({}).",
                    place.display(),
                    service.name.value
                ),
            );
        }
    }
}

fn certificate(config: &Config, findings: &mut Findings) {
    let files = TlsFiles {
        certificate: config.gridkeep.certificate.value.clone(),
        key: config.gridkeep.key.value.clone(),
    };
    let shown = files.certificate.display().to_string();
    let remedy = "Get a certificate for the service name, put it and its key where gridkeep.tls says; the server reads replaced files by itself.";
    match ReloadableTls::load(files) {
        Err(error) => findings.push("certificate", State::Bad, format!("{error}"), remedy),
        Ok(tls) => match tls.days_left(now()) {
            Some(days) if days < 0 => findings.push(
                "certificate",
                State::Bad,
                format!("{shown} ended {} days ago.", -days),
                remedy,
            ),
            Some(days) if days < CERTIFICATE_DAYS => findings.push(
                "certificate",
                State::Doubtful,
                format!("{shown} ends in {days} days."),
                remedy,
            ),
            Some(days) => findings.good(
                "certificate",
                format!("{shown} fits its key and ends in {days} days."),
            ),
            None => findings.good("certificate", format!("{shown} fits its key.")),
        },
    }
}

fn clock(status: Option<&StatusAnswer>, findings: &mut Findings) {
    match SystemClock.synchronised() {
        Some(true) => findings.good("clock", "The kernel says that it is synchronised."),
        Some(false) => findings.push(
            "clock",
            State::Doubtful,
            "Nothing keeps the host's clock right, as far as the kernel knows.",
            "Run chrony or systemd-timesyncd; tokens are judged by the clock.",
        ),
        None => findings.push(
            "clock",
            State::Doubtful,
            "The kernel does not say whether it is synchronised.",
            "Compare it with another clock; in a container the host's clock counts.",
        ),
    }
    if status.is_some_and(|status| status.clock_doubtful) {
        findings.push(
            "clock",
            State::Bad,
            "The server saw the clock jump and trusts it no more: nothing is called expired, nothing is deleted.",
            "When date shows the right time: gridkeep operator confirm-clock",
        );
    }
}

fn now() -> UnixSeconds {
    UnixSeconds(i64::try_from(SystemClock.wall().as_secs()).unwrap_or(i64::MAX))
}
