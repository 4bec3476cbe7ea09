//! `gridkeep doctor`: looks at the host as the server and its clients meet it, and says for each finding what helps.
//!
//! Changes nothing, and works whether or not the server runs. A further examination is one more function here and one line in
//! [`examine`].

mod network;
mod places;
mod root_key;
mod server;
mod ssh_keys;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use gridkeep_dialect_vault::listener::{ReloadableTls, TlsError, TlsFiles};
use gridkeep_keeper::UnixSeconds;
use gridkeep_keeper::clock::{Clock as _, SystemClock};
use serde::Serialize;

use crate::config::{self, Closed, Config, Loaded, ROOT_KEY, Severity, Surroundings, counted};
use crate::server::inventory::StatusAnswer;

const ETC: &str = "/etc";

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
    let Some(config) = &loaded.config else {
        configuration(loaded, &[], &mut findings);
        return findings.0;
    };
    let closed = config::closed_files(config, &loaded.sources, Path::new(ETC));
    configuration(loaded, &closed, &mut findings);
    certificate(config, &closed, &mut findings);
    keytabs(loaded, config, &closed, &mut findings);
    let server = server::ask(config, &mut findings);
    let status = server.status();
    clock(status, &mut findings);
    places::store(config, status, &mut findings).await;
    root_key::look(config, loaded, &server, &closed, &mut findings).await;
    ssh_keys::look(config, &mut findings);
    places::audit_log(config, &mut findings);
    network::ports(config, server.runs(), &mut findings).await;
    for (name, port) in config.public_places() {
        network::dns(&name, port, server.runs(), &mut findings).await;
    }
    network::issuers(config, &mut findings).await;
    findings.0
}

/// What `config check` finds, and what the server's user may not read, each under the thing it is about.
fn configuration(loaded: &Loaded, closed: &[Closed], findings: &mut Findings) {
    let about = |closed: &Closed| match &closed.key {
        key if key.starts_with("gridkeep.tls") => ("certificate", State::Bad),
        // Everything else works.
        key if key.starts_with("kerberos") => ("keytab", State::Doubtful),
        key if key == ROOT_KEY => ("root key", State::Bad),
        _ => ("configuration", State::Bad),
    };
    let mut clean = closed.iter().all(|it| about(it).0 != "configuration");
    for (closed, others) in config::told_once(closed) {
        let (about, state) = about(closed);
        let mut what = closed.what.clone();
        if others > 0 {
            what += &format!(" The same of {} more.", counted(others, "file"));
        }
        findings.push(about, state, what, &closed.remedy);
    }
    for found in &loaded.findings {
        // Said above, or below by looking at the certificate itself.
        if closed.iter().any(|closed| closed.what == found.what) || is_of_its_times(found, loaded) {
            continue;
        }
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
        let mut place = String::new();
        if found.origin.file().is_some() {
            place = format!("{}: ", found.origin);
            if !found.key.is_empty() {
                place += &format!("{}: ", found.key);
            }
        }
        let mut remedy = found.means.clone();
        if about == "keytab" {
            remedy += " Have the key of host/<service name> exported by the administrators of the Kerberos realm into that file (mode 0600, owned by the service's user); no restart is needed.";
        }
        findings.push(about, state, format!("{place}{}", found.what), remedy);
    }
    match &loaded.config {
        Some(config) if clean => findings.good(
            "configuration",
            format!(
                "{}, nothing to object to.",
                counted(config.issuers.len(), "issuer")
            ),
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

/// Whether this is that the certificate ends, or is not valid yet.
fn is_of_its_times(found: &config::Finding, loaded: &Loaded) -> bool {
    let times = |config: &Config| {
        let tls = ReloadableTls::load(tls_files(config)).ok()?;
        let path = &config.gridkeep.certificate.value;
        config::times_of_certificate(path, tls.validity(), now())
    };
    found.key == "gridkeep.tls.certificate"
        && (loaded.config.as_ref().and_then(times)).is_some_and(|(what, _)| what == found.what)
}

/// The keytabs to which nothing is to be objected.
fn keytabs(loaded: &Loaded, config: &Config, closed: &[Closed], findings: &mut Findings) {
    for service in &config.kerberos {
        let key = format!("kerberos[{}]", service.name.value);
        if loaded.findings.iter().any(|found| found.key == key)
            || closed.iter().any(|closed| closed.key == key)
        {
            continue;
        }
        let places = config.keytab_places(service, Path::new(ETC));
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

fn tls_files(config: &Config) -> TlsFiles {
    TlsFiles {
        certificate: config.gridkeep.certificate.value.clone(),
        key: config.gridkeep.key.value.clone(),
    }
}

fn certificate(config: &Config, closed: &[Closed], findings: &mut Findings) {
    let path = &config.gridkeep.certificate.value;
    let shown = path.display();
    let files_are_read =
        "put both where gridkeep.tls says; the server reads replaced files by itself.";
    let tls = match ReloadableTls::load(tls_files(config)) {
        Ok(tls) => tls,
        Err(error) => {
            let remedy = match &error {
                TlsError::Read { error, .. } if error.kind() == ErrorKind::PermissionDenied => {
                    "Run this as root (sudo gridkeep doctor).".to_owned()
                }
                TlsError::Read { error, .. } if error.kind() == ErrorKind::NotFound => {
                    format!(
                        "Get a certificate for the service name with its key, and {files_are_read}"
                    )
                }
                TlsError::Mismatch { .. } => format!(
                    "One of the two is probably old: take the certificate and the key that were made for each other, and {files_are_read}"
                ),
                _ => format!("Take a certificate and its key in PEM form, and {files_are_read}"),
            };
            return findings.push("certificate", State::Bad, error.to_string(), remedy);
        }
    };
    if let Some((what, refused)) = config::times_of_certificate(path, tls.validity(), now()) {
        let state = if refused { State::Bad } else { State::Doubtful };
        return findings.push(
            "certificate",
            state,
            what,
            format!("Renew it, and {files_are_read}"),
        );
    }
    // Nothing is good of which something else was said.
    if findings.0.iter().any(|found| found.about == "certificate")
        || closed.iter().any(|it| it.key.starts_with("gridkeep.tls"))
    {
        return;
    }
    let days = tls.days_left(now());
    let end = days.map_or(String::new(), |days| format!(" and {}", config::ends(days)));
    findings.good("certificate", format!("{shown} fits its key{end}."));
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
